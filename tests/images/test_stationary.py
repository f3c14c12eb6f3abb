"""Noise that is stationary is taken away under its autocovariance, any other at a white level."""

import math

import pytest
import torch
import torch.nn.functional as F

import gmdm_prior as gm
from gmdm_prior.images import blind
from gmdm_prior.images.blind import NoiseDenoiser, predicted
from gmdm_prior.images.stationary import TILE, is_believed, is_directed, left_over, parts

SIGMA = 0.1
ROW = torch.ones(1, 5) / math.sqrt(5)
HIGH = torch.tensor([[-1.0, -2, -1], [-2, 12, -2], [-1, -2, -1]]) / math.sqrt(164)


@pytest.fixture(scope="module")
def gray():
    return gm.load("gray")


@pytest.fixture(scope="module")
def denoiser(gray):
    return NoiseDenoiser(gray)


def lags(kernel, sigma=SIGMA):
    """The autocovariance of white noise that was filtered."""
    a, b = kernel.shape
    r = F.conv2d(F.pad(kernel, (b - 1, b - 1, a - 1, a - 1))[None, None], kernel[None, None])[0, 0]
    m = max(a, b) - 1
    return sigma**2 * F.pad(r, ((m + 1 - b,) * 2 + (m + 1 - a,) * 2)).double()


def scene(side=96):
    """A picture with flat and curved areas and edges, (1, 1, side, side)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    disk = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06
    return (0.4 + 0.2 * torch.sin(3 * x) + 0.2 * disk)[None, None]


def noisy(noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scene() + noise.sample((1, 1, 96, 96), generator)).float()


def error(image):
    return float((image - scene()).square().mean().sqrt())


@pytest.mark.parametrize(("kernel", "share"), [(ROW, 0.93), (HIGH, 0.98)])
def test_stationary_noise_goes_under_its_autocovariance(gray, denoiser, kernel, share):
    noise = gm.Noise(autocovariance=lags(kernel))
    y = noisy(noise)
    level = blind._levels(noise, blind.REACH)[0, 0]
    white = gm.HalfQuadraticSplitting(gray)(y, level)
    assert error(denoiser(y, noise)) < share * error(white)


def test_noise_without_low_frequencies_is_taken_at_its_word(gray, denoiser):
    noise = gm.Noise(autocovariance=lags(HIGH))
    y = noisy(noise)
    torch.testing.assert_close(denoiser(y, noise), gm.HalfQuadraticSplitting(gray)(y, noise))


def test_where_there_is_more_noise_than_is_said_it_goes_at_a_white_level(gray, denoiser):
    y, said = noisy(gm.Noise(SIGMA)), gm.Noise(autocovariance=lags(ROW, SIGMA / 2))
    level = blind._levels(said, blind.REACH)[0, 0]
    torch.testing.assert_close(denoiser(y, said), gm.HalfQuadraticSplitting(gray)(y, level))


def test_luminance_of_colour_goes_under_its_autocovariance(gray, denoiser):
    noise = gm.Noise(autocovariance=lags(HIGH).expand(3, -1, -1), opponent=True)
    draws = torch.cat([noisy(noise.channel(0), seed) for seed in range(3)], 1)
    opponent = gm.OpponentModel(gray)
    restored = opponent.enter(denoiser(draws, noise))[:, :1]
    under = noise.channel(0).scaled(1 / opponent.scales[0])
    expected = gm.HalfQuadraticSplitting(gray)(opponent.enter(draws)[:, :1], under)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-5)


def test_a_curve_of_one_brightness_is_only_a_level(denoiser):
    curve = gm.NoiseCurve(torch.tensor([0.5]), torch.tensor([SIGMA]))
    noise = gm.Noise(autocovariance=lags(HIGH), curve=curve)
    y = noisy(noise)
    assert torch.equal(denoiser(y, noise), denoiser(y, gm.Noise(autocovariance=lags(HIGH))))


def test_large_planes_are_judged_by_tiles_and_restored_whole(gray, denoiser, monkeypatch):
    monkeypatch.setattr("gmdm_prior.images.stationary.TILE", 24)
    noise = gm.Noise(autocovariance=lags(HIGH))
    y = noisy(noise)
    assert [p.shape for p in parts(y[0, 0])] == [(24, 24)] * 4
    torch.testing.assert_close(denoiser(y, noise), gm.HalfQuadraticSplitting(gray)(y, noise))


def test_tiles_lie_in_the_plane():
    long = torch.arange(4000.0).expand(TILE, -1).clone()
    assert {p.shape for p in parts(long)} == {(TILE, TILE)}
    assert [float(p[0, 0]) for p in parts(long)] == [960.0, 2880.0]


def test_what_is_left_is_a_share_of_what_is_taken():
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    white = torch.zeros(64, 64)
    assert left_over([noise], [white], [0.3 * noise]) == pytest.approx(0.09)
    ramp = torch.linspace(0, 9, 64).expand(64, 64)
    assert left_over([noise + ramp], [white + ramp], [0.3 * noise]) == pytest.approx(0.09)


def test_noise_that_grows_with_brightness_is_not_believed():
    ramp = torch.linspace(0, 1, 128).expand(128, 128)
    noise = torch.randn(128, 128, generator=torch.Generator().manual_seed(0)) / 10
    assert is_believed([ramp + noise], [ramp], [ramp])
    assert not is_believed([ramp + (0.5 + ramp).sqrt() * noise], [ramp], [ramp])


def test_local_lines_are_those_of_whole_windows():
    g = torch.Generator().manual_seed(0)
    light, plane = torch.rand(9, 40, generator=g), torch.rand(9, 40, generator=g)

    def mean(v):
        return F.avg_pool2d(v[None, None], 9, 1, 4, count_include_pad=False)[0, 0]

    both = mean(light * plane) - mean(light) * mean(plane)
    own = mean(light**2) - mean(light) ** 2
    other = mean(plane**2) - mean(plane) ** 2
    slope = both**3 / (own * other) / (own + 0.01 * blind.STIFF**2)
    expected = mean(slope) * light + mean(mean(plane) - slope * mean(light))
    torch.testing.assert_close(predicted(plane, light, 0.1), expected, rtol=1e-4, atol=1e-5)


def test_noise_that_has_a_direction_is_believed_where_more_is_left():
    assert is_directed(gm.Noise(autocovariance=lags(ROW)))
    assert not is_directed(gm.Noise(autocovariance=lags(HIGH)))
    generator = torch.Generator().manual_seed(0)
    y, left = (torch.randn(96, 96, generator=generator) for _ in range(2))
    white = torch.zeros(96, 96)
    correlated = 0.3 * left
    assert not is_believed([y], [white], [correlated])
    assert is_believed([y], [white], [correlated], directed=True)
