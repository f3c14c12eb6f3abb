"""Noise maps: patches of like level together, and surfaces, against the slow and obvious path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import mixture, product
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.fast.choose import Evaluator, pixel_by_pixel
from gmdm_prior.fast.mixture_maps import LEVEL_STEP, MixtureOfMap

NOISE = torch.tensor(0.01, dtype=torch.float64)


def patches(count, size, channels=1, seed=0, spread=0.3):
    g = torch.Generator().manual_seed(seed)
    return 0.5 + spread * torch.randn(count, channels * size**2, dtype=torch.float64, generator=g)


@pytest.fixture
def bundled_picture():
    path = Path(__file__).parents[2] / "examples" / "images" / "camera.png"
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None, None, 150:270, 200:320]


def test_patches_of_a_map_are_evaluated_at_their_rounded_mean_level():
    model, y = mixture(3), patches(40, 3)
    noise = 0.006 * torch.rand(40, 9, dtype=torch.float64).add(0.1)
    found = MixtureOfMap(model.at(NOISE)).posterior_mean(y, noise)
    for row, one, n in zip(found, y, noise.mean(1), strict=True):
        rounded = torch.exp(torch.round(n.log() / LEVEL_STEP) * LEVEL_STEP)
        expected = model.at(rounded).posterior_mean(one[None])[0]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-10)
        assert abs(rounded.sqrt() / n.sqrt() - 1) < 0.013


def test_a_map_with_a_gradient_has_the_gradient_of_the_exact_path_and_nearly_its_value():
    """Where the noise is constant over patches. Between lattice levels the slope is a secant's."""
    model, y = mixture(3), patches(40, 3)
    level = (0.004 + 0.01 * torch.rand(40, 1, dtype=torch.float64)).requires_grad_()
    noise = level.expand(40, 9)
    probe = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results, gradients = [], []
    for of in (
        MixtureOfMap(model.at(NOISE)).posterior_mean,
        pixel_by_pixel(model, "posterior_mean"),
    ):
        results.append(of(y, noise))
        gradients.append(torch.autograd.grad((results[-1] * probe).sum(), level)[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-3)
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()
    rounded = MixtureOfMap(model.at(NOISE)).posterior_mean(y, noise.detach())
    torch.testing.assert_close(rounded, results[0].detach(), rtol=0, atol=8e-3)  # of 1.3 %


def test_no_noise_in_a_map_leaves_patches_as_they_are():
    model, y = mixture(3), patches(5, 3)
    found = MixtureOfMap(model.at(NOISE)).posterior_mean(y, torch.zeros_like(y))
    torch.testing.assert_close(found, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (0.02, 0.1), (0.2, 3.0)])
@pytest.mark.parametrize("make", [product, lambda size: product(size, components=125)])
def test_surfaces_agree_with_the_exact_path(make, low, high):
    model = make(3)
    g = torch.Generator().manual_seed(0)
    sigma = low + (high - low) * torch.rand(300, 9, dtype=torch.float64, generator=g)
    y = patches(300, 3) + sigma * torch.randn(sigma.shape, dtype=torch.float64, generator=g)
    noise = sigma.square()
    surface = Evaluator().surfaces(model, noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5


def test_surfaces_of_a_bundled_model_agree_with_the_exact_path(bundled_picture):
    model = gm.load("bsds-gray-7x7", dtype=torch.float64)
    size = model.patch_size
    windows = bundled_picture[0].double().unfold(1, size, 11).unfold(2, size, 11)
    x = windows.permute(1, 2, 0, 3, 4).reshape(-1, size**2)[:60]
    g = torch.Generator().manual_seed(0)
    sigma = 0.02 + 0.3 * torch.rand(len(x), 1, dtype=torch.float64, generator=g)
    sigma = sigma * torch.linspace(0.8, 1.25, size**2, dtype=torch.float64)
    y, noise = x + sigma * torch.randn(x.shape, dtype=torch.float64, generator=g), sigma.square()
    surface = Evaluator().surfaces(model, noise.min(), noise.max())
    exact = torch.cat(
        [model.at(n).posterior_mean(p) for p, n in zip(y.split(20), noise.split(20), strict=True)]
    )
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5


def test_surfaces_beyond_their_reach_are_exact():
    model = product(3, components=125)
    y = 50 * patches(20, 3)
    noise = torch.full_like(y, 0.01)
    surface = Evaluator().surfaces(model, noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-9


def test_surfaces_of_fewer_filters_leave_the_rest_alone():
    model, y = product(3, filters=4), patches(20, 3)
    noise = 0.001 + 0.01 * torch.rand(20, 9, dtype=torch.float64)
    surface = Evaluator().surfaces(model, noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5
