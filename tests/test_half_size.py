"""The second scale of HQS: images of half the size, their noise, and the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import mixture, product
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.half_size import double, halve, halve_level
from gmdm_prior.schedule import DEFAULT, Schedule

BOUNDARIES = ("reflect", "circular")


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_pixel_is_the_mean_of_four():
    x = image(2, 6, 8)
    half = halve(x, "reflect")
    assert half.shape == (2, 3, 4)
    for c, i, j in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        four = x[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        assert half[c, i, j] == pytest.approx(float(four.mean()))


def test_odd_sides_are_padded_by_the_boundary():
    x = image(1, 5, 4)
    assert halve(x, "reflect").shape == halve(x, "circular").shape == (1, 3, 2)
    for boundary, row in (("reflect", 3), ("circular", 0)):
        expected = (x[0, 4, :2].sum() + x[0, row, :2].sum()) / 4
        assert halve(x, boundary)[0, 2, 0] == pytest.approx(float(expected))


def test_levels_are_those_of_the_mean_of_four():
    """Var of a mean of four independent numbers: the sum of their variances / 16."""
    level = 0.01 + image(1, 4, 6)
    variance = level.square()
    half = halve_level(level, "reflect")
    assert half[0, 1, 2] == pytest.approx(float((variance[0, 2:4, 4:6].sum() / 16).sqrt()))
    assert halve_level(torch.tensor(0.3), "reflect") == pytest.approx(0.15)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_doubling_keeps_constants_and_slopes(boundary):
    flat = torch.full((1, 4, 5), 0.7, dtype=torch.float64)
    like = torch.zeros(1, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(double(flat, like, boundary), torch.full_like(like, 0.7))
    ramp = torch.arange(16.0, dtype=torch.float64).expand(1, 8, 16)
    back = double(halve(ramp, boundary), ramp, boundary)
    torch.testing.assert_close(back[..., 2:-2], ramp[..., 2:-2])


def test_doubling_wraps_around_where_the_image_does():
    half = torch.zeros(1, 3, 4, dtype=torch.float64)
    half[0, 1, 0] = 1.0
    wide = double(half, torch.zeros(1, 6, 8, dtype=torch.float64), "circular")
    assert wide[0, 2, 7] == pytest.approx(0.25 * 0.75)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("make", [product, mixture])
@pytest.mark.parametrize("by_map", [False, True])
def test_hqs_adds_its_share_of_what_the_half_size_image_says(make, boundary, by_map):
    model, y, sigma = make(3), image(1, 1, 16, 18), 0.3
    both = gm.HalfQuadraticSplitting(model, 2, boundary)
    one = gm.HalfQuadraticSplitting(model, 2, boundary)
    one.schedule = Schedule(DEFAULT.coefficients)
    level = sigma + 0.2 * image(1, 1, 16, 18, seed=1) if by_map else torch.tensor(sigma).double()
    fine = one(y, level)
    half = halve(y[0], boundary)[None]
    half_level = halve_level(level[0] if by_map else level, boundary)
    coarse = one(half, half_level[None] if by_map else half_level)
    share = DEFAULT.coarse_share(level)
    expected = fine + share * double((coarse - halve(fine[0], boundary))[0], fine[0], boundary)
    torch.testing.assert_close(both(y, level), expected, rtol=0, atol=1e-5)
    assert (both(y, level) - fine).abs().max() > 1e-3


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
    assert gm.HalfQuadraticSplitting(model).halo == 2 * 4 * 2 + 3 + 1  # to twice the stride


def test_the_second_scale_pays_under_strong_noise():
    """By 0.25 dB on this picture; at least 0.15 dB."""
    path = Path(__file__).parents[1] / "examples" / "images" / "camera.png"
    x = torch.from_numpy(np.array(Image.open(path))).float()[None, None] / 255
    model, sigma = gm.load("bsds-gray-small"), 100 / 255
    y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    both, one = gm.HalfQuadraticSplitting(model), gm.HalfQuadraticSplitting(model)
    one.schedule = Schedule(DEFAULT.coefficients)
    errors = [float((d(y, sigma) - x).square().mean()) for d in (both, one)]
    assert errors[0] < 10**-0.015 * errors[1]
