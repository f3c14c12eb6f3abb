"""What `denoise` and `noise` do about noise that is not white."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.noise import drawing, kind_of
from deepinv_gmdm.command.restore import psnr
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture, save_picture

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 6


@pytest.fixture(scope="module")
def coffee():
    return read_picture(shipped("images") / "coffee.png")[0][..., 60:228, 60:228]


@pytest.fixture
def correlated(coffee, tmp_path, monkeypatch):
    """A picture file with noise whose neighbours agree by 2/3; its path."""
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    white = torch.randn(1, 1, *(n + 2 for n in coffee.shape[2:]), generator=g)
    save_picture(coffee + 0.08 * F.conv2d(white, BINOMIAL[None, None]), "noisy.png", bits=16)
    return "noisy.png"


def test_denoise_alone_takes_correlated_noise_away(command, coffee, correlated):
    """No word is needed; for white noise only it would stay."""
    noisy = read_picture(correlated)[0]
    status, printed, error = command("denoise", correlated)
    assert status == 0
    assert "note: the noise is correlated" in error
    assert float(re.search(r"estimated noise level ([\d.]+)/255", printed)[1]) > 14
    assert command("denoise", correlated, "noise=white", "out=white.png")[0] == 0
    clean, white = (read_picture(p)[0] for p in ("noisy-denoised.png", "white.png"))
    assert psnr(clean, coffee) > psnr(noisy, coffee) + 2
    assert psnr(clean, coffee) > psnr(white, coffee) + 1
    torch.testing.assert_close(
        clean, gm.BlindDenoiser(gm.load("gray"))(noisy).clamp(0, 1), rtol=0, atol=1e-4
    )


def test_denoise_takes_the_gray_weights_for_what_is_not_white_in_colour(command, tmp_path):
    """A density of colour patches takes white noise only."""
    clean = read_picture(shipped("images") / "coffee_color.png")[0][..., :160, :160]
    g = torch.Generator().manual_seed(0)
    white = torch.randn(3, 1, 162, 162, generator=g)
    noisy = clean + 0.08 * F.conv2d(white, BINOMIAL[None, None])[:, 0]
    save_picture(noisy, tmp_path / "noisy.png")
    out = tmp_path / "out.png"
    assert command("denoise", tmp_path / "noisy.png", f"out={out}", "noise=correlated")[0] == 0
    picture = read_picture(tmp_path / "noisy.png")[0]
    expected = gm.BlindDenoiser(gm.load("gray"), kind="correlated")(picture).clamp(0, 1)
    torch.testing.assert_close(read_picture(out)[0], expected, rtol=0, atol=3 / 255)
    assert psnr(expected, clean) > psnr(picture, clean) + 2


def test_noise_says_what_kind_it_is(command, coffee, correlated):
    status, printed, error = command("noise", correlated, "map=true")
    assert status == 0
    level, levels, kind, written = printed.splitlines()
    of_map = [float(n) for n in re.findall(r"[\d.]+(?=/255)", levels)]  # one where it is uniform
    found = float(re.search(r"level ([\d.]+)/255", level)[1])
    assert min(of_map) <= found <= max(of_map) < 3 * found
    assert of_map[-1] == pytest.approx(found, rel=0.2)  # the median
    assert re.fullmatch(r"correlated: neighbours by 0\.\d+ vertically and .* \(lag 1\)", kind)
    assert "note: the noise is correlated" in error
    assert written == "written to noisy-noise.png"
    assert Image.open("noisy-noise.png").size[0] == 990
    g = torch.Generator().manual_seed(0)
    counted = 0.03 * torch.poisson(coffee / 0.03, generator=g)
    save_picture(counted, "counted.png", bits=16)
    for words in ([], ["noise=poisson"]):
        status, printed, _ = command("noise", "counted.png", *words)
        line = re.search(r"it grows with brightness: .* gain ([\d.]+), offset (-?[\d.]+)", printed)
        assert float(line[1]) == pytest.approx(0.03, rel=0.6)
    assert command("noise", "counted.png", "noise=white")[1].splitlines()[1].startswith("white")


def test_kinds_in_words():
    lags = F.pad(torch.ones(1, 1, dtype=torch.float64), (1, 1, 1, 1))
    lags[1, 0] = lags[1, 2] = 0.25
    noise = gm.Noise(autocovariance=lags)
    assert kind_of(noise) == [
        "correlated: neighbours by 0.00 vertically and 0.25 horizontally (lag 1)"
    ]
    planes = gm.Noise(autocovariance=lags.expand(3, 3, 3), opponent=True)
    assert [line.split(":")[0] for line in kind_of(planes)] == [
        "correlated, luminance",
        "correlated, red - blue",
        "correlated, green",
    ]
    x = torch.linspace(0.0, 1, 5, dtype=torch.float64)
    curve = gm.NoiseCurve(x, (0.02 * x + 0.001).sqrt())
    assert "gain 0.02, offset 0.001" in kind_of(gm.Noise(0.1, curve=curve))[0]


def test_the_drawing_has_all_four_panels(coffee):
    """Lags in red right and left of the middle; a curve that rises from left to right."""
    lags = torch.zeros(3, 3, dtype=torch.float64)
    lags[1] = torch.tensor([0.5, 1.0, 0.5])
    x = torch.linspace(0.0, 1, 5)
    noise = gm.Noise(autocovariance=0.01 * lags, curve=gm.NoiseCurve(x, 0.1 * x))
    levels = torch.full_like(coffee, 0.1)
    drawn = drawing(coffee, levels, noise)[0].movedim(0, -1).numpy()
    assert drawn.shape[2] == 3
    lower = drawn[drawn.shape[0] // 2 :]
    red = (lower[..., 0] > lower[..., 1] + 0.2) & (lower[..., 0] > lower[..., 2] + 0.2)
    rows, columns = np.nonzero(red[:, : drawn.shape[1] // 3])
    assert np.ptp(columns) > 2 * np.ptp(rows)  # three pixels wide, one high
