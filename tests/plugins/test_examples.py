"""The example scripts run, and improve what they restore."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "at_least"),
    # noisy 20.2 dB, blurred about 22, seen about 8 on these crops
    [("denoising", 26), ("deblurring", 25), ("inpainting", 20)],
)
def test_demo(name, at_least, tmp_path):
    path = EXAMPLES / f"demo_{name}.py"
    if not path.is_file():
        pytest.skip("needs the checkout")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "figure.png"
    assert module.main(out=str(out), size=96) > at_least
    assert Image.open(out).size[0] > 300
