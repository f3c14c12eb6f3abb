"""Models of the authors' PoGMDM code, from its checkpoints (`torch.save`d state dicts).

They are read with `weights_only=True`: nothing is unpickled into objects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.densities.wavelet.subbands import SubbandExperts
from gmdm_prior.files.safetensors import UNREADABLE, is_file

PATCH_KEYS = ("K.weight", "mus", "w.w")
WAVELET_KEYS = ("h", "lambdas", "mus", "w.w")
LOW_PASS_VARIANCE = 1 / 12  # of grey levels uniform in [0, 1]


def import_pogmdm(
    path: str | os.PathLike, dtype: torch.dtype = torch.float32
) -> PatchModel | WaveletModel:
    """Read a patch or wavelet model of the authors' PoGMDM code, frozen.

    A patch model's file holds filters `K.weight` (J, 1, b, b), means `mus` (L,) and weights `w.w`:
    (J, L), or (J, (L + 1) / 2) for symmetric experts, centre first. Weights are normalised, filters
    made exactly orthogonal and zero-mean.

    A wavelet model's file holds a learnt low-pass filter `h` (F,), scales `lambdas` (3 M + 1,), and
    for each sub-band means `mus` (3 M, L) and weights `w.w`. Filter, scales and one-dimensional
    densities, so the log-density of every detail coefficient, are the authors'; three things are
    not. Their filter is orthonormal to its even shifts only on a circle of F taps (it misses by
    9e-4): here it is the nearest that is. Their image is reflected at its borders, which is no
    rotation: here it is periodic. Their low-pass band is flat: here its grey levels are N(1/2,
    1/12).

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is no such checkpoint (scale mixtures and shearlets are not).
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {str(path)!r} cannot be read safely: {reason}") from None
    if _holds(state, WAVELET_KEYS):
        return _wavelet_model(state, dtype, path).requires_grad_(False)
    if _holds(state, PATCH_KEYS):
        return _patch_model(state, dtype, path).requires_grad_(False)
    raise ValueError(
        f"checkpoint {str(path)!r} is no PoGMDM patch or wavelet model: it must hold "
        f"{', '.join(PATCH_KEYS)}, or {', '.join(WAVELET_KEYS)}"
    )


def _holds(state: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(state, dict) and all(isinstance(state.get(key), Tensor) for key in keys)


def _doubles(state: dict[str, Tensor], keys: tuple[str, ...], path: Path) -> list[Tensor]:
    for key in keys:
        if state[key].is_complex():
            raise ValueError(f"checkpoint {str(path)!r} must hold real numbers; {key} are complex")
    return [state[key].double() for key in keys]


def _patch_model(state: dict[str, Tensor], dtype: torch.dtype, path: Path) -> PatchModel:
    filters, means, half = _doubles(state, PATCH_KEYS, path)
    if filters.ndim != 4 or means.ndim != 1 or half.ndim != 2 or len(half) != len(filters):
        raise ValueError(
            f"checkpoint {str(path)!r} is no PoGMDM patch model: its shapes do not fit"
        )
    weights = _whole_weights(half, len(means), path)
    bound = _bound(means, path)
    filters = project_orthogonal(filters, steps=50)
    logits = weights.clamp(min=1e-30).log()
    return PatchModel(filters.to(dtype), logits.to(dtype), bound)


def _wavelet_model(state: dict[str, Tensor], dtype: torch.dtype, path: Path) -> WaveletModel:
    taps, scales, means, half = _doubles(state, WAVELET_KEYS, path)
    shapes = (taps.ndim, scales.ndim, means.ndim, half.ndim)
    if shapes != (1, 1, 2, 2) or not len(half) == len(means) == len(scales) - 1:
        raise ValueError(
            f"checkpoint {str(path)!r} is no PoGMDM wavelet model: its shapes do not fit"
        )
    logits = _whole_weights(half, means.shape[1], path).clamp(min=1e-30).log()
    bounds = torch.tensor([_bound(row, path) for row in means], dtype=torch.float64)
    experts = SubbandExperts(logits.to(dtype), (scales[:-1] / bounds).to(dtype))
    return WaveletModel(cast(SubbandExperts, experts.with_mean(LOW_PASS_VARIANCE)), taps)


def _bound(means: Tensor, path: Path) -> float:
    """The outermost of equidistant means."""
    bound = float(means.abs().max())
    line = torch.linspace(-bound, bound, len(means), dtype=means.dtype)
    if not torch.allclose(means, line, atol=1e-5):
        raise ValueError(f"checkpoint {str(path)!r} has means that are not equidistant around 0")
    return bound


def _whole_weights(weights: Tensor, components: int, path: Path) -> Tensor:
    if weights.shape[1] == (components + 1) // 2:
        weights = torch.cat([weights.flip(1)[:, :-1], weights], 1)
    if weights.shape[1] != components:
        raise ValueError(
            f"checkpoint {str(path)!r} has {weights.shape[1]} weights for {components} means"
        )
    return weights / weights.sum(1, keepdim=True)
