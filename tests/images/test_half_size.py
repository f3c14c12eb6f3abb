"""The second scale of HQS: images of half the size, their noise, and the way back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import mixture, product
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.images.half_size import (
    HALVINGS,
    MARGIN,
    SEEN,
    WINDOW,
    double,
    halve,
    halve_level,
    local_variance,
)
from gmdm_prior.images.patches import inner, pad
from gmdm_prior.images.schedule import DEFAULT, Schedule

BOUNDARIES = ("reflect", "circular")


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_pixel_is_the_mean_of_four():
    x = image(2, 6, 8)
    half = halve(x)
    assert half.shape == (2, 3, 4)
    for c, i, j in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        four = x[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        assert half[c, i, j] == pytest.approx(float(four.mean()))


def test_levels_are_those_of_the_mean_of_four():
    """Var of a mean of four independent numbers: the sum of their variances / 16."""
    level = 0.01 + image(1, 4, 6)
    variance = level.square()
    half = halve_level(level)
    assert half[0, 1, 2] == pytest.approx(float((variance[0, 2:4, 4:6].sum() / 16).sqrt()))
    assert halve_level(torch.tensor(0.3)) == pytest.approx(0.15)


def test_a_level_of_zero_has_a_slope():
    level = torch.tensor([[[0.0, 0.0, 0.1, 0.2], [0.0, 0.0, 0.3, 0.4]]], requires_grad=True)
    halve_level(level).sum().backward()
    assert level.grad.isfinite().all()
    assert (level.grad[..., 2:] > 0).all()


def test_doubling_keeps_constants_and_slopes():
    flat = torch.full((1, 4, 5), 0.7, dtype=torch.float64)
    assert double(flat).shape == (1, 4, 6)
    torch.testing.assert_close(double(flat), torch.full_like(double(flat), 0.7))
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 8, 16)
    torch.testing.assert_close(double(halve(ramp)), inner(ramp, MARGIN))


def slowly(one, y, level, halvings):
    """Images (1, 1, H, W) at one scale and what coarser ones say; their border is of no use."""
    fine = one(y, level)
    if not halvings:
        return fine
    half = halve_level(level[0])[None] if level.ndim else halve_level(level)
    coarse = slowly(one, halve(y[0])[None], half, halvings - 1)
    change, variance = torch.zeros_like(fine), torch.full_like(fine, math.inf)
    inner(change, MARGIN).copy_(double((coarse - halve(fine[0]))[0]))
    windows = fine[0, 0].unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)
    off = WINDOW // 2
    deviation = (inner(fine[0, 0], off) - windows.mean((2, 3))).square()
    around = deviation.unfold(0, WINDOW, 1).unfold(1, WINDOW, 1)
    inner(variance, SEEN).copy_(around.mean((2, 3)))
    flat = DEFAULT.contrast * level.square()
    return fine + flat / (flat + variance) * change


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(16, 18), (17, 19)])
@pytest.mark.parametrize("make", [product, mixture])
@pytest.mark.parametrize("by_map", [False, True])
def test_hqs_adds_what_coarser_images_say_where_an_image_is_flat(make, boundary, size, by_map):
    """All of it on an image padded far beyond what the steps reach, whose border is cut off."""
    model, y = make(3), 0.5 + 0.1 * image(1, 1, *size)
    y[..., 4:9] += 0.6  # steep, beside the flat
    both = gm.HalfQuadraticSplitting(model, 2, boundary)
    one = gm.HalfQuadraticSplitting(model, 2, boundary)
    one.schedule = Schedule(DEFAULT.coefficients)
    far = 2 * both.halo
    after = far + -size[0] % 4, far + -size[1] % 4  # to sides that can be halved twice

    def wide(values):
        return pad(values, far, max(after), boundary)[
            ..., : far + size[0] + after[0], : far + size[1] + after[1]
        ]

    level = wide_level = torch.tensor(0.3).double()
    if by_map:
        level = 0.3 + 0.2 * image(1, 1, *size, seed=1)
        wide_level = wide(level)
    expected = slowly(one, wide(y), wide_level, HALVINGS)
    expected = expected[..., far : far + size[0], far : far + size[1]]
    torch.testing.assert_close(both(y, level), expected, rtol=0, atol=1e-5)
    assert (both(y, level) - one(y, level)).abs().max() > 1e-3


def test_the_variance_around_a_pixel_is_of_differences_from_local_means():
    x = image(2, 20, 21)
    variance = local_variance(x)
    assert variance.shape == (2, 20 - 2 * SEEN, 21 - 2 * SEEN)
    means = [
        [x[1, i - 4 : i + 5, j - 4 : j + 5].mean() for j in range(4, 17)] for i in range(4, 16)
    ]
    deviation = x[1, 4:16, 4:17] - torch.tensor(means)
    assert variance[1, 2, 3] == pytest.approx(float(deviation[2:11, 3:12].square().mean()))
    far = local_variance(x.float() + 1000.0)
    torch.testing.assert_close(far.double(), variance, rtol=1e-2, atol=0)


def test_share_is_all_of_it_where_an_image_is_flat_and_half_at_the_contrast():
    sigma = torch.tensor(0.1).double()
    variance = torch.tensor([0.0, DEFAULT.contrast * 0.01, 100.0]).double()
    share = DEFAULT.coarse_share(sigma, variance)
    torch.testing.assert_close(share, torch.tensor([1.0, 0.5, 1.2e-5]).double(), rtol=1e-3, atol=0)
    silent = DEFAULT.coarse_share(torch.zeros(()).double(), variance)
    assert silent.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_without_noise_an_image_stays_what_it_is(boundary):
    """Flat parts too, where nothing is divided by nothing."""
    y = torch.full((1, 1, 40, 40), 0.5)
    y[..., 20:] = image(1, 1, 40, 20).float()
    restored = gm.HalfQuadraticSplitting(gm.load("gray-small"), None, boundary)(y, 0.0)
    torch.testing.assert_close(restored, y, rtol=0, atol=2e-4)


def test_where_the_half_size_image_holds_no_patch_there_is_one_scale():
    model = product(5)
    both, one = gm.HalfQuadraticSplitting(model), gm.HalfQuadraticSplitting(model)
    one.schedule = Schedule(DEFAULT.coefficients)
    small = image(1, 1, 8, 40)
    assert torch.equal(both(small, 0.4), one(small, 0.4))
    assert not torch.equal(both(image(1, 1, 9, 40), 0.4), one(image(1, 1, 9, 40), 0.4))


def test_levels_of_ones_own_are_for_one_scale():
    model = product(3)
    own = gm.HalfQuadraticSplitting(model, levels=[1.0, 0.5], data_shares=[0.3, 0.1])
    assert not own.schedule.has_coarse_scale
    assert own.halo == 2 * 2
    assert gm.HalfQuadraticSplitting(model, 2).halo == 2 * (2 * (4 * 2 + 2) + 2) + 4  # of 8


@pytest.mark.parametrize(("sigma", "gain"), [(25, 0.015), (100, 0.15)])
def test_coarser_scales_pay(sigma, gain):
    """At least so many dB on this picture."""
    path = Path(__file__).parents[2] / "examples" / "images" / "camera.png"
    x = torch.from_numpy(np.array(Image.open(path))).float()[None, None] / 255
    model, sigma = gm.load("gray-small"), sigma / 255
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    both, one = gm.HalfQuadraticSplitting(model), gm.HalfQuadraticSplitting(model)
    one.schedule = Schedule(DEFAULT.coefficients)
    errors = [float((d(y, sigma) - x).square().mean()) for d in (both, one)]
    assert errors[0] < 10 ** (-gain / 10) * errors[1]
