"""The second scale of HQS: images of half the size, their noise, and the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import mixture, product
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.images.half_size import MARGIN, double, halve, halve_level
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


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [(16, 18), (17, 19)])
@pytest.mark.parametrize("make", [product, mixture])
@pytest.mark.parametrize("by_map", [False, True])
def test_hqs_adds_its_share_of_what_the_half_size_image_says(make, boundary, size, by_map):
    """All of it on an image padded far beyond what the steps reach, whose border is cut off."""
    model, y = make(3), image(1, 1, *size)
    both = gm.HalfQuadraticSplitting(model, 2, boundary)
    one = gm.HalfQuadraticSplitting(model, 2, boundary)
    one.schedule = Schedule(DEFAULT.coefficients)
    far = 2 * both.halo
    after = far + size[0] % 2  # to even sides
    level = wide_level = torch.tensor(0.3).double()
    if by_map:
        level = 0.3 + 0.2 * image(1, 1, *size, seed=1)
        wide_level = pad(level, far, after, boundary)
    wide = pad(y, far, after, boundary)
    fine = one(wide, wide_level)
    half_level = halve_level(wide_level[0])[None] if by_map else halve_level(level)
    coarse = one(halve(wide[0])[None], half_level)
    change = torch.zeros_like(fine)
    inner(change, MARGIN).copy_(double((coarse - halve(fine[0]))[0]))
    expected = fine + DEFAULT.coarse_share(wide_level) * change
    expected = expected[..., far : far + size[0], far : far + size[1]]
    torch.testing.assert_close(both(y, level), expected, rtol=0, atol=1e-5)
    assert (both(y, level) - one(y, level)).abs().max() > 1e-3


def test_share_is_smooth_and_nothing_for_weak_noise():
    sigmas = torch.logspace(-3, 0, 4000, dtype=torch.float64)
    share = DEFAULT.coarse_share(sigmas)
    assert ((share >= 0) & (share <= 1)).all()
    assert share.diff().abs().max() < 2e-3
    assert share.diff().min() >= 0
    assert (share[sigmas < 12 / 255] == 0).all()
    assert share[-1] > 0.8
    assert DEFAULT.coarse_share(torch.tensor(50 / 255)) == pytest.approx(
        0.3 + 0.42 * 0.6931, rel=1e-3
    )


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
    assert gm.HalfQuadraticSplitting(model).halo == 2 * (4 * 2 + 1)


def test_the_second_scale_pays_under_strong_noise():
    """By 0.25 dB on this picture; at least 0.15 dB."""
    path = Path(__file__).parents[2] / "examples" / "images" / "camera.png"
    x = torch.from_numpy(np.array(Image.open(path))).float()[None, None] / 255
    model, sigma = gm.load("gray-small"), 100 / 255
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    both, one = gm.HalfQuadraticSplitting(model), gm.HalfQuadraticSplitting(model)
    one.schedule = Schedule(DEFAULT.coefficients)
    errors = [float((d(y, sigma) - x).square().mean()) for d in (both, one)]
    assert errors[0] < 10**-0.015 * errors[1]
