"""FM2S (Liu et al., 2024), a network of 3,500 numbers that is trained on each noisy micrograph.

From a clone of its authors' repository, Danielement321/FM2S (Apache 2.0), which is not part of this
one; it needs scipy and einops. It is called as its `main.py` calls it: gray, 8 bits, and the
configuration of the microscope's type, whose constants were chosen by its authors for the very data
set.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

CONFIGS = {
    "Confocal": "CONFOCAL_CONFIG",
    "TwoPhoton": "TWOPHOTON_CONFIG",
    "WideField": "WIDEFIELD_CONFIG",
}


def fm2s(folder: Path) -> Callable[[np.ndarray, str], np.ndarray]:
    """The denoiser of gray pixels (H, W) in [0, 1], and a type of `CONFIGS`.

    Raises:
        FileNotFoundError: the folder is no clone.
    """
    if not (folder / "FM2S.py").is_file():
        raise FileNotFoundError(f"fm2s={folder} must be a clone of Danielement321/FM2S: no FM2S.py")
    module, configs = (_module(folder / f"{name}.py") for name in ("FM2S", "configs"))

    def denoise(pixels: np.ndarray, microscope: str) -> np.ndarray:
        eight_bits = np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
        torch.manual_seed(module.SEED)
        with torch.enable_grad():
            restored = module.FM2S(eight_bits, getattr(configs, CONFIGS[microscope]))
        return restored / 255.0

    return denoise


def _module(path: Path) -> ModuleType:
    """A file as a module, by no name that another could have."""
    spec = importlib.util.spec_from_file_location(f"fm2s_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
