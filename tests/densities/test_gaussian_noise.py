"""`Noise` and `Covariance`: what they accept, the half-size rule, samples."""

import math

import pytest
import torch
import torch.nn.functional as F

import gmdm_prior as gm
from gmdm_prior.autocovariance import taper

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).double() / 16
ROW = torch.ones(1, 7, dtype=torch.float64) / 7
CHIRAL = torch.tensor([[1.0, 0.5], [0.0, 0.3]], dtype=torch.float64)


def autocovariance(kernel: torch.Tensor, m: int = 8) -> torch.Tensor:
    """That of white noise filtered by a kernel, at sigma = 1."""
    h, w = kernel.shape
    wide = F.pad(kernel[None, None], (w - 1, w - 1, h - 1, h - 1))
    r = F.conv2d(wide, kernel[None, None])[0, 0]
    r = r / kernel.square().sum()
    return F.pad(r, (m - w + 1, m - w + 1, m - h + 1, m - h + 1))


def empirical(noise: torch.Tensor, lag: tuple[int, int]) -> float:
    """Mean product of pixels `lag` apart, not around the border, (B, C, H, W) -> number."""
    down, right = lag
    h, w = noise.shape[2:]
    first = noise[..., max(0, -down) : h - max(0, down), max(0, -right) : w - max(0, right)]
    second = noise[..., max(0, down) : h - max(0, -down), max(0, right) : w - max(0, -right)]
    return float((first * second).mean())


def test_numbers_are_accepted():
    white = gm.Noise(0.1)
    assert white.sigma.tolist() == [0.1]
    assert white.white.tolist() == [True]
    assert white.lag1.tolist() == [[[0.0, 0.0]]]
    several = gm.Noise(torch.tensor([0.1, 0.2]), autocovariance=None, notes="one sentence")
    assert len(several) == 2
    assert several.notes == ("one sentence",)
    assert several[1].sigma.tolist() == pytest.approx([0.2])
    low, high = several.interval()
    assert torch.equal(low, several.sigma)
    assert torch.equal(high, several.sigma)


def test_an_autocovariance_gives_level_and_lags():
    noise = gm.Noise(autocovariance=autocovariance(ROW) * 0.04)
    assert noise.sigma.item() == pytest.approx(0.2)
    assert noise.white.tolist() == [False]
    assert noise.lag1[0, 0].tolist() == pytest.approx([0, 6 / 7])
    delta = F.pad(torch.ones(1, 1), (3,) * 4)
    assert gm.Noise(autocovariance=delta).white.tolist() == [True]
    assert gm.Noise(0.2, autocovariance=autocovariance(ROW) * 0.04).channels == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "wants a sigma or an autocovariance"),
        ({"sigma": -1.0}, "sigma of a Noise must be finite and not negative"),
        ({"sigma": torch.ones(1, 1, 4, 4)}, "A map"),
        ({"autocovariance": torch.ones(4, 4)}, "lag 0 in the middle"),
        ({"autocovariance": torch.zeros(3, 3)}, "must be positive; got 0"),
        ({"autocovariance": torch.full((3, 3), math.nan)}, "must be finite"),
        ({"autocovariance": torch.tensor([[0.0, 0, 0], [0.2, 1, 0.1], [0, 0, 0]])}, "symmetric"),
        ({"autocovariance": torch.ones(3, 3)}, "negative spectrum"),
        ({"sigma": 2.0, "autocovariance": autocovariance(ROW)}, "must be the autocovariance at"),
        ({"sigma": 1.0, "opponent": True}, "three planes"),
        ({"sigma": 1.0, "curve": ()}, "curve must be one for each of 1 images"),
        ({"sigma": 1.0, "levels": ()}, "levels must be one map"),
        ({"sigma": [1.0, 2.0], "white": torch.ones(3)}, "white must be one"),
    ],
)
def test_what_is_no_noise_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gm.Noise(**arguments)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"must be \(a, a\)"),
        (torch.tensor([[1.0, 0.5], [0, 1]]), "symmetric"),
        (torch.tensor([[1.0, 2], [2, 1]]), "positive semi-definite"),
        (torch.full((2, 2), math.inf), "finite"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        gm.Covariance(matrix)


def test_taper_keeps_the_spectrum_positive_where_cutting_does_not():
    wide = torch.arange(-15, 16).abs()
    r = torch.outer(0.94**wide, 0.94**wide).double()
    with pytest.raises(ValueError, match="negative spectrum"):
        gm.Noise(autocovariance=r[8:-8, 8:-8])
    noise = gm.Noise(autocovariance=taper(r, 7))
    assert noise.reach == 7
    assert noise.sigma.item() == pytest.approx(1)
    assert noise.lag1[0, 0, 0] == pytest.approx(0.94, abs=0.08)


def test_covariance_is_that_of_samples_and_stays_under_point_reflection():
    noise = gm.Noise(autocovariance=autocovariance(CHIRAL) * 0.01)
    s = noise.covariance(0, 4).matrix
    assert torch.allclose(s, s.flip(0, 1), atol=1e-15)
    assert not torch.allclose(s, s.reshape((4,) * 4).flip(0, 2).reshape(16, 16), atol=1e-4)
    drawn = noise.sample((50_000, 1, 4, 4), torch.Generator().manual_seed(0)).flatten(1)
    assert (drawn.T @ drawn / len(drawn) - s).abs().max() < 5 * 0.01 * math.sqrt(2 / 50_000)


def test_samples_do_not_meet_around_the_border():
    noise = gm.Noise(autocovariance=autocovariance(ROW))
    drawn = noise.sample((20_000, 1, 1, 9), torch.Generator().manual_seed(0))[:, 0, 0]
    assert abs(float((drawn[:, 0] * drawn[:, 8]).mean())) < 0.03
    assert float((drawn[:, 0] * drawn[:, 1]).mean()) == pytest.approx(6 / 7, abs=0.03)


@pytest.mark.parametrize("kernel", [BINOMIAL, ROW, CHIRAL])
@pytest.mark.parametrize("m", [7, 8])
def test_half_size_is_what_means_of_four_pixels_have(kernel, m):
    noise = gm.Noise(autocovariance=autocovariance(kernel, m))
    drawn = noise.sample((60, 1, 256, 256), torch.Generator().manual_seed(1))
    means = F.avg_pool2d(drawn, 2)
    half = noise.halved()
    for lag in [(0, 0), (1, 0), (0, 1), (1, 1), (-1, 1), (0, 3)]:
        r = half.autocovariance[0, 0, half.reach + lag[0], half.reach + lag[1]]
        assert empirical(means, lag) == pytest.approx(float(r), abs=0.012)
    assert half.sigma.item() == pytest.approx(float(means.std()), abs=0.01)


def test_half_size_of_white_noise_is_white():
    assert gm.Noise(0.2).halved().sigma.tolist() == pytest.approx([0.1])
    delta = F.pad(torch.full((1, 1), 0.04), (3,) * 4)
    half = gm.Noise(autocovariance=delta).halved()
    assert half.sigma.item() == pytest.approx(0.1)
    assert half.autocovariance.abs().sum().item() == pytest.approx(0.01)


def test_low_frequencies_are_means_over_squares():
    noise = gm.Noise(autocovariance=autocovariance(ROW))
    assert noise.low_frequency_sigma(1).item() == pytest.approx(1)
    assert noise.low_frequency_sigma(10**6).item() == pytest.approx(math.sqrt(7), rel=1e-4)
    assert gm.Noise(0.3).low_frequency_sigma(5).item() == pytest.approx(0.3)
    drawn = noise.sample((100, 1, 120, 120), torch.Generator().manual_seed(2))
    level = F.avg_pool2d(drawn, 6).std() * 6
    assert noise.low_frequency_sigma(6).item() == pytest.approx(float(level), rel=0.02)


def test_a_factor_scales_everything():
    curve = gm.NoiseCurve([0.0, 1.0], [0.1, 0.3])
    noise = gm.Noise(autocovariance=autocovariance(ROW), curve=curve, bounds=(0.9, 1.2))
    twice = noise.scaled(2.0)
    assert twice.sigma.item() == pytest.approx(2)
    assert torch.allclose(twice.lag1, noise.lag1)
    assert [b.item() for b in twice.interval()] == pytest.approx([1.8, 2.4])
    assert twice.curve[0].at(torch.tensor([-1.0, 1.0, 9.0])).tolist() == pytest.approx(
        [0.2, 0.4, 0.6]
    )


def test_a_curve_is_checked():
    with pytest.raises(ValueError, match="must rise"):
        gm.NoiseCurve([1.0, 0.0], [0.1, 0.1])
    with pytest.raises(ValueError, match="not negative"):
        gm.NoiseCurve([0.0, 1.0], [0.1, -0.1])
    with pytest.raises(ValueError, match="both be"):
        gm.NoiseCurve([0.0, 1.0], [0.1])


def test_spectrum_has_the_mean_of_lag_zero_on_any_grid():
    noise = gm.Noise(autocovariance=autocovariance(CHIRAL))
    for side in (5, 17, 32):
        assert noise.spectrum(side, side).mean().item() == pytest.approx(1, abs=0.05)


def test_levels_of_pixels_scale_with_the_image_and_go_with_it():
    levels = torch.rand(5, 6)
    noise = gm.Noise(torch.tensor([0.1, 0.2]), levels=[None, levels])
    assert noise[0].map is None
    assert torch.equal(noise[1].map, levels[None, None])
    scaled = noise.scaled(torch.tensor([2.0, -3.0]))
    assert scaled.levels[0] is None
    torch.testing.assert_close(scaled[1].map[0, 0], 3 * levels)
    assert noise.halved().levels is None  # of another size
    assert gm.Noise(0.1).map is None


@pytest.mark.parametrize("levels", [torch.ones(1, 5, 6), -torch.ones(5, 6), torch.tensor(0.1)])
def test_levels_of_pixels_are_maps_of_one_image_each(levels):
    with pytest.raises(ValueError, match="levels"):
        gm.Noise(0.1, levels=[levels])
