"""The example scripts about noise run, and improve what they restore."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEMOS = {  # noisy: 18.6 and 20 dB
    "poisson_gaussian": ({"size": 96}, 26),
    "noisy_training": ({"count": 8, "size": 64, "patches": 2000}, 24),
}


@pytest.mark.parametrize("name", DEMOS)
def test_demo(name, tmp_path):
    path = EXAMPLES / f"demo_{name}.py"
    if not path.is_file():
        pytest.skip("needs the checkout")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, (options, at_least) = tmp_path / "figure.png", DEMOS[name]
    assert module.main(out=str(out), **options) > at_least
    assert Image.open(out).size[0] > 300
