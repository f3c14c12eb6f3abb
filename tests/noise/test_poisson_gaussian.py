"""Poisson–Gaussian noise read off an image, and the map of levels that it gives."""

import deepinv
import pytest
import torch
from deepinv_gmdm.command.config import shipped

from gmdm_prior.files.pictures import read_picture
from gmdm_prior.noise.poisson_gaussian import (
    _line,
    estimate_poisson_gaussian,
    local_mean,
    poisson_gaussian_map,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("gain", "sigma"), [(0.02, 0.03), (0.05, 0.0), (0.0, 0.08)])
def test_gain_and_sigma_of_a_smooth_image(gain, sigma):
    x = torch.linspace(0.05, 0.95, 200).expand(2, 1, 200, 200)
    noisy = x + (gain * x + sigma**2).sqrt() * torch.randn(x.shape, generator=seeded())
    found, level = estimate_poisson_gaussian(noisy)
    assert found.shape == level.shape == (2,)
    exact = poisson_gaussian_map(x, gain, sigma)
    ratio = poisson_gaussian_map(x, found, level) / exact
    assert float((ratio - 1).abs().mean()) < 0.02
    torch.testing.assert_close(found, torch.full((2,), gain), atol=0.004, rtol=0)


def test_edges_and_texture_are_outliers():
    """Of a photograph the map is right to 1.5 %; read off its steep half it would be 2.1 %."""
    x = read_picture(shipped("images") / "camera.png")[0]
    model = deepinv.physics.PoissonGaussianNoise(0.03, 0.02, rng=seeded())
    gain, sigma = estimate_poisson_gaussian(model(x))
    ratio = poisson_gaussian_map(x, gain, sigma) / poisson_gaussian_map(x, 0.03, 0.02)
    assert float((ratio - 1).abs().mean()) < 0.018


def test_a_few_pairs_off_the_line_count_little():
    mean = torch.linspace(0.1, 0.9, 32, dtype=torch.float64)
    variance, count = 0.02 * mean + 1e-3, torch.full_like(mean, 1000.0)
    clean = _line(mean, variance, count)
    torch.testing.assert_close(clean, torch.tensor([0.02, 1e-3], dtype=torch.float64))
    variance[[5, 20]] *= 3  # two bins of texture
    assert (_line(mean, variance, count) / clean - 1).abs().max() < 0.15


def test_the_map_never_has_a_negative_variance():
    got = poisson_gaussian_map(torch.tensor([[[[-0.5, 0.0, 1.0]]]]), 0.04, 0.1)
    torch.testing.assert_close(got, torch.tensor([[[[0.1, 0.1, 0.05**0.5]]]]))


def test_local_means_keep_a_ramp():
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 40, 64)
    got = local_mean(ramp)
    assert got.shape == ramp.shape
    torch.testing.assert_close(got[..., 4:-4], ramp[..., 4:-4])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_flat_and_noise_free_images_have_no_noise(value):
    gain, sigma = estimate_poisson_gaussian(torch.full((1, 1, 64, 64), value))
    assert float(gain) == pytest.approx(0, abs=1e-6)
    assert float(sigma) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 64, 64), "at least 32x32"),
        (torch.zeros(1, 1, 64, 20), "at least 32x32"),
        (torch.full((1, 1, 64, 64), float("nan")), "must be finite"),
    ],
)
def test_images_that_cannot_be_read_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        estimate_poisson_gaussian(images)
