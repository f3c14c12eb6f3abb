"""Published and measured figures on BSD68; needs the research data, skips without it."""

import sys
from pathlib import Path

import pytest
import torch

import gmdm_prior as gm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import denoising


@pytest.fixture(scope="module")
def images(shared):
    files = sorted((shared / "data" / "BSD68").glob("*.png"))[::8]
    return [denoising.read_gray(f) for f in files]


# All 68 images give 29.75 / 27.30 / 24.53 / 22.08; every eighth gives these.
@pytest.mark.parametrize(("sigma", "expected"), [(15, 29.83), (25, 27.47), (50, 24.80)])
def test_the_authors_7x7_checkpoint_denoises_as_published(shared, images, sigma, expected):
    model = gm.import_pogmdm(shared / "interop" / "pogmdm-patch7.pth")
    with torch.no_grad():
        psnr, _ = denoising.mean_psnr(gm.PatchAveraging(model), images, sigma / 255)
    assert psnr == pytest.approx(expected, abs=0.05)


# One step on all 68 images gives at least 28.42 and 28.25; every eighth is about 0.05 dB easier.
@pytest.mark.parametrize(("name", "floor"), [("bsds-gray", 28.47), ("bsds-gray-small", 28.30)])
def test_bundled_mixtures_denoise_as_their_cards_say(images, name, floor):
    with torch.no_grad():
        average = gm.PatchAveraging(gm.load(name))
        psnr, _ = denoising.mean_psnr(average, images[::2], 25 / 255)
    assert psnr > floor
