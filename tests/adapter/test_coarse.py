"""Half the size, where few single pixels are known."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.coarse import BothSizes, HalfSize, double, gather, halve
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.half_quadratic import HalfQuadratic
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, build_physics
from deepinv_gmdm.solver_config import SolverConfig
from laws.models import mixture

from gmdm_prior.files.pictures import read_picture

SIGMA = 0.01


@pytest.fixture(scope="module")
def photo():
    return read_picture(shipped("images") / "camera.png")[0][..., :128, :128]


@pytest.fixture(scope="module")
def prior():
    return GMDMPrior("gray-small")


def mask(shape, keep):
    config = PhysicsConfig(name="inpainting", noise=NoiseConfig(sigma=SIGMA), keep=keep)
    return build_physics(config, tuple(shape[1:]))


@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9), (6, 5)])
def test_gather_is_the_adjoint_of_double(height, width):
    g = torch.Generator().manual_seed(0)
    small = ((height + 1) // 2, (width + 1) // 2)
    z = torch.randn(2, 3, *small, generator=g, dtype=torch.float64)
    x = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64)
    assert halve(x).shape == z.shape
    torch.testing.assert_close((double(z, height, width) * x).sum(), (z * gather(x)).sum())


def test_half_size_has_an_adjoint(photo):
    physics = HalfSize(mask(photo.shape, 0.3), 128, 128)
    z, y = (
        torch.randn(s, generator=torch.Generator().manual_seed(0))
        for s in ((1, 1, 64, 64), (1, 1, 128, 128))
    )
    torch.testing.assert_close((physics.A(z) * y).sum(), (z * physics.A_adjoint(y)).sum())


@pytest.mark.parametrize("level", [0.2, 0.05])
def test_a_share_of_the_correction_at_half_the_size(level):
    """Of a denoiser that subtracts its level, half of it is left too much."""
    x = torch.rand(1, 1, 9, 12, generator=torch.Generator().manual_seed(0))
    both = BothSizes(lambda image, sigma: image - sigma, full=0.2)
    share = (level / 0.2) ** 0.5
    torch.testing.assert_close(both(x, level), x - level + share * level / 2)


@pytest.mark.parametrize("side", [128, 125])
def test_a_tenth_of_the_pixels_gain_from_half_the_size(photo, prior, side):
    """Half a decibel beyond the same steps from the smooth estimate."""
    x = photo[..., :side, :side]
    physics = mask(x.shape, 0.1)
    y, solver = physics(x), build_solver("hqs", prior, sigma=SIGMA)
    start = solver.plan(y, physics).start
    errors = [float((solver(y, physics, init=i) - x).square().mean()) for i in (start, None)]
    assert errors[1] < 0.9 * errors[0]


class Holes(deepinv.physics.Inpainting):
    """A tenth is missing, in squares."""

    def __init__(self):
        there = torch.ones(1, 128, 128)
        there[:, 8:48, 8:48] = 0
        super().__init__((1, 128, 128), mask=there)


def test_other_operators_begin_at_full_size(photo, prior):
    """Those that see most pixels, or mixtures of them, and images too small to be halved."""
    config = PhysicsConfig(name="compressed_sensing", keep=0.1)
    small, middle = photo[..., :30, :30], photo[..., :40, :40]
    for physics, x in (
        (mask(photo.shape, 0.5), photo),
        (Holes(), photo),
        (build_physics(config, tuple(middle.shape[1:])), middle),
        (mask(small.shape, 0.1), small),
    ):
        assert build_solver("hqs", prior, sigma=SIGMA).plan(physics(x), physics).few == 0


def test_as_few_steps_as_are_asked_for_at_half_the_size_too(photo):
    sides = []

    def denoise(x, level):
        sides.append(x.shape[-1])
        return x

    physics = mask(photo.shape, 0.1)
    solver = HalfQuadratic(denoise, SolverConfig(max_iter=2), sigma=SIGMA)
    solver(physics(photo), physics)
    assert len(solver.info["levels"]) == 2
    assert [side for side in sides if side != 32][:6] == [64, 64, 128, 64, 128, 64]
    assert sides[:4] == [64, 32, 64, 32]


def test_patches_move_at_every_size(photo):
    seen = []

    def denoise(x, level, step=None):
        seen.append((x.shape[-1], step))
        return x

    physics = mask(photo.shape, 0.1)
    solver = HalfQuadratic(denoise, SolverConfig(max_iter=2), sigma=SIGMA, shifting=True)
    solver(physics(photo), physics)
    assert seen[:4] == [(64, 0), (32, 0), (64, 1), (32, 1)]
    assert seen[4:8] == [(128, 0), (64, 0), (128, 1), (64, 1)]


def test_the_last_step_begins_nearer_to_the_smooth_estimate(photo):
    """Between known pixels, by a share that grows as fewer are known."""
    seen = []

    def denoise(x, level):
        seen.append(x)
        return x

    physics = mask(photo.shape, 0.1)
    solver = HalfQuadratic(denoise, SolverConfig(), sigma=SIGMA)
    y = physics(photo)
    plan = solver.plan(y, physics)
    solver(y, physics)
    full = [x for x in seen if x.shape[-1] == 128][: len(solver.info["levels"])]
    unknown = physics.mask == 0
    expected = torch.lerp(full[-2], plan.start, 0.25 * (1 - 0.1 / 0.3))
    torch.testing.assert_close(full[-1][unknown], expected[unknown], rtol=0, atol=4e-3)


@pytest.mark.parametrize("patch", [8, 20])
@pytest.mark.parametrize("side", [32, 40, 64, 80])
def test_sizes_that_are_halved_hold_a_patch(side, patch):
    sides = []

    def denoise(x, level):
        sides.append(x.shape[-1])
        return x

    physics = mask((1, 1, side, side), 0.1)
    x = torch.full((1, 1, side, side), 0.5)
    HalfQuadratic(denoise, SolverConfig(max_iter=2), sigma=SIGMA, patch=patch)(physics(x), physics)
    assert min(sides) >= patch
    assert (min(sides) < side) == (side >= max(32, 2 * patch))


def test_large_patches_are_told_of():
    assert build_solver("hqs", GMDMPrior(mixture(20)), sigma=SIGMA).patch == 20
