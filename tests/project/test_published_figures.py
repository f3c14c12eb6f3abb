"""Published and measured figures on BSD68; needs the research data, skips without it."""

import pytest
import torch
from lib.data import png_files, read_gray
from lib.figures import mean_psnr

import gmdm_prior as gm


@pytest.fixture(scope="module")
def images(shared):
    return [read_gray(file) for file in png_files(shared / "data" / "BSD68")[::8]]


# All 68 images give 29.75 / 27.30 / 24.53 / 22.08; every eighth gives these.
@pytest.mark.parametrize(("sigma", "expected"), [(15, 29.83), (25, 27.47), (50, 24.80)])
def test_the_authors_7x7_checkpoint_denoises_as_published(shared, images, sigma, expected):
    model = gm.import_pogmdm(shared / "interop" / "pogmdm-patch7.pth")
    with torch.no_grad():
        psnr = mean_psnr(gm.PatchAveraging(model), images, sigma / 255)
    assert psnr == pytest.approx(expected, abs=0.05)


# One step on all 68 images gives at least 28.42 and 28.25; every eighth is about 0.05 dB easier.
@pytest.mark.parametrize(("name", "floor"), [("gray", 28.47), ("gray-small", 28.30)])
def test_bundled_mixtures_denoise_as_their_cards_say(images, name, floor):
    with torch.no_grad():
        average = gm.PatchAveraging(gm.load(name))
        psnr = mean_psnr(average, images[::2], 25 / 255)
    assert psnr > floor
