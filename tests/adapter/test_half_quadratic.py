"""What half-quadratic splitting plans, and what it tells of its run."""

import math
import warnings

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior, build_solver, half_quadratic
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.data_steps import DataStep
from deepinv_gmdm.half_quadratic import HalfQuadratic, Plan, SmoothEstimate, measured_of
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, build_physics
from deepinv_gmdm.solver_config import SolverConfig

from gmdm_prior.files.pictures import read_picture

SIGMA = 0.02


@pytest.fixture(scope="module")
def photo():
    return read_picture(shipped("images") / "camera.png")[0][..., 60:108, 80:128]


@pytest.fixture(scope="module")
def prior():
    return GMDMPrior("gray-small")


def operator(name, photo, **options):
    config = PhysicsConfig(name=name, noise=NoiseConfig(sigma=SIGMA), **options)
    return build_physics(config, tuple(photo.shape[1:]))


PROJECTIONS = {"inpainting": {"keep": 0.3}, "compressed_sensing": {"keep": 0.3}, "denoise": {}}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_what_is_measured_of_a_projection(photo, name):
    """Its norm is 1 and its share the rank over the pixels, however it is scaled."""
    physics = operator(name, photo, **PROJECTIONS[name])
    probe = torch.randn(photo.shape, generator=torch.Generator().manual_seed(7))
    share = float(physics.A_adjoint(physics.A(probe)).square().sum() / probe.square().sum())
    found = measured_of(physics, photo)
    assert found.norm == pytest.approx(1, rel=1e-3)
    assert found.share == pytest.approx(
        share, abs=0.05
    )  # three deviations of a probe of 2304 pixels


LOCAL = {"inpainting": 1.0, "compressed_sensing": 0.0, "denoise": 0.0, "gaussian_blur": 0.0}


@pytest.mark.parametrize("name", LOCAL)
def test_single_pixels_are_told_from_mixtures(photo, name):
    """Of a mask Σ M_ii² is tr M²; of a random projection it is the share of it that is seen."""
    physics = operator(name, photo, **PROJECTIONS.get(name, {}))
    # three deviations of two probes of 2304 pixels are 0.06 of tr M², over 1 - q = 0.7
    assert measured_of(physics, photo).local == pytest.approx(LOCAL[name], abs=0.09)


def test_what_is_known_of_single_pixels_is_not_taken_for_noise(photo, prior):
    """Nine of ten are missing: splitting begins at a level that leaves the tenth one standing."""
    first = {}
    for name in ("inpainting", "compressed_sensing"):
        physics = operator(name, photo, keep=0.1)
        plan = build_solver("hqs", prior, sigma=SIGMA).plan(physics(photo), physics)
        first[name] = plan.levels[0]
    # the smooth estimate is off alike; the level is 0.1^¼ = 0.56 of the other
    assert first["inpainting"] == pytest.approx(0.56 * first["compressed_sensing"], rel=0.15)


def test_splitting_begins_at_the_error_of_the_first_iterate(photo, prior):
    """However much of an image mixtures measure: higher levels lose what was known."""
    plans = []
    for keep in (0.1, 0.6):
        physics = operator("compressed_sensing", photo, keep=keep)
        y, fidelity = physics(photo), deepinv.optim.L2(sigma=SIGMA)
        trust = (SIGMA / 0.05) ** 2  # as if of noise of half the contrast
        error = SmoothEstimate(fidelity, physics, y, photo, 0.1, trust).error()
        plans.append(build_solver("hqs", prior, sigma=SIGMA).plan(y, physics).levels[0] / error)
    assert plans == pytest.approx([1.15, 1.15], rel=0.02)


class Scaled(deepinv.physics.LinearPhysics):
    """Another operator in other units."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def A(self, x, **kwargs):
        return self.factor * self.inner.A(x)

    def A_adjoint(self, y, **kwargs):
        return self.factor * self.inner.A_adjoint(y)


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_units_of_the_operator_do_not_matter(photo, prior, factor):
    """A, y and sigma times a factor: the same plan and the same image."""
    physics = Scaled(operator("gaussian_blur", photo, width=1.2), 1.0)
    y = physics.A(photo)
    one, other = (build_solver("hqs", prior, sigma=k * SIGMA) for k in (1, factor))
    plans = one.plan(y, physics), other.plan(factor * y, Scaled(physics, factor))
    assert plans[1].weight == pytest.approx(plans[0].weight, rel=1e-4)
    assert plans[1].levels == pytest.approx(plans[0].levels, rel=1e-3)
    images = one(y, physics), other(factor * y, Scaled(physics, factor))
    assert float((images[0] - images[1]).abs().max()) < 1e-3


@pytest.mark.parametrize("keep", [0.1, 0.5])
@pytest.mark.parametrize("sigma", [1e-4, 0.1])
def test_the_first_iterate_fills_holes(photo, prior, keep, sigma):
    """Also of data without noise, which conjugate gradients alone would leave empty."""
    physics = operator("inpainting", photo, keep=keep)
    y = physics.A(photo) + sigma * torch.randn(photo.shape) * physics.mask
    start = build_solver("hqs", prior, sigma=sigma).plan(y, physics).start
    holes = (physics.mask == 0).expand_as(photo)
    assert float((start - photo)[holes].square().mean().sqrt()) < 0.7 * float(photo[holes].std())


def test_data_steps_without_a_closed_form_are_those_with_one(photo):
    """To a thirtieth of the level."""
    physics = operator("gaussian_blur", photo, width=1.2)
    y, fidelity = physics(photo), deepinv.optim.L2(sigma=SIGMA)
    z = photo + 0.05 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    exact = DataStep(fidelity, physics, y)(z, 0.05, 0.3)
    found = DataStep(fidelity, Scaled(physics, 1.0), y)(z, 0.05, 0.3)
    assert 0 < float((found - exact).square().mean().sqrt()) < 0.03 * 0.05


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_a_wrong_closed_form_is_not_trusted(photo, level):
    """That of deepinv's `Decolorize` forgets what it does not see."""
    physics, fidelity = deepinv.physics.Decolorize(), deepinv.optim.L2(sigma=SIGMA)
    z = torch.rand((1, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    y = physics.A(0.5 * z)
    u = DataStep(fidelity, physics, y)(z, level, 0.3)
    left = u - z + level**2 / 0.3 * fidelity.grad(u, y, physics)
    assert float(left.square().mean().sqrt()) < 0.03 * level


def test_a_data_step_begins_at_the_last_one(photo):
    """Where hardly anything has changed, the operator is asked once for each candidate."""
    physics = Scaled(operator("gaussian_blur", photo, width=1.2), 1.0)
    calls, blur = [], physics.inner.A
    physics.inner.A = lambda x, **options: calls.append(0) or blur(x, **options)
    step = DataStep(deepinv.optim.L2(sigma=SIGMA), physics, physics(photo))
    z = photo + 0.05 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    counts = []
    for moved in (0.0, 1e-4):
        calls.clear()
        step(z + moved, 0.05, 0.3)
        counts.append(len(calls))
    assert counts[0] > 4
    assert counts[1] == 2


def test_noise_free_mri_does_not_diverge(prior):
    """In single precision data must not be trusted without bound."""
    slice_ = read_picture(shipped("images") / "mr.png")[0][..., 64:128, 64:128]
    x = torch.cat([0.8 * slice_, 0.6 * slice_], 1)
    physics = operator("mri", x, acceleration=8)
    y = physics.A(x)
    found = build_solver("hqs", prior, sigma=1e-3)(y, physics)
    assert (found - x).square().mean() < (physics.A_adjoint(y) - x).square().mean()


def test_info_tells_what_was_done(photo, prior):
    physics = operator("gaussian_blur", photo, width=1.2)
    solver = build_solver("hqs", prior, sigma=SIGMA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver(physics(photo), physics)
    info = solver.info
    steps = len(info["levels"])
    assert len(info["residual"]) == len(info["change"]) == steps
    assert sorted(info["levels"], reverse=True) == info["levels"]
    assert info["residual"][-1] == pytest.approx(info["expected"], rel=0.1)
    assert info["remark"] is None
    assert info["seconds"] > 0


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_wrong_noise_level_is_remarked_on(photo, prior, factor):
    """Of a blur, whose data say less than an image could take."""
    physics = operator("gaussian_blur", photo, width=1.6)
    solver = build_solver("hqs", prior, sigma=factor * SIGMA)
    with pytest.warns(UserWarning, match="sigma or the operator seems wrong"):
        solver(physics(photo), physics)
    assert "factor of about two" in solver.info["remark"]


def test_a_wrong_operator_is_remarked_on(photo, prior):
    y = operator("motion_blur", photo, size=15)(photo)
    solver = build_solver("hqs", prior, sigma=SIGMA)
    with pytest.warns(UserWarning, match="the operator seems wrong"):
        solver(y, operator("gaussian_blur", photo, width=3.0))


def test_steps_begin_ahead_of_the_last_iterate(photo):
    """A step at level s starts 0.75 of the last move further on."""
    seen, moves = [], [torch.full_like(photo, v) for v in (0.2, 0.6, 0.6)]

    def move(u, level, step=0):
        seen.append(u)
        return moves[min(len(seen), 3) - 1]

    settings = {"name": "hqs", "start": 0.2, "max_iter": 3}
    # data that hold next to nothing
    solver = build_solver(settings, GMDMPrior("gray-small"), sigma=1e3, prior_sigma=0.1)
    solver.denoiser = torch.nn.Module()
    solver.denoiser.forward = move
    solver(photo, deepinv.physics.Denoising(), init=torch.full_like(photo, 0.4))
    torch.testing.assert_close(seen[1], torch.full_like(photo, 0.2 - 0.75 * 0.2), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[2], torch.full_like(photo, 0.6 + 0.75 * 0.4), atol=1e-3, rtol=0)


def test_patches_move_from_step_to_step(photo, prior):
    """Those of a Gaussian-mixture prior; other denoisers are not told the number of the step."""
    steps = []

    def moving(u, level, step=None):
        steps.append(step)
        return u

    for shifting in (True, False):
        solver = HalfQuadratic(moving, SolverConfig(max_iter=3), sigma=SIGMA, shifting=shifting)
        solver(photo, deepinv.physics.Denoising())
    assert steps == [0, 1, 2, None, None] + 5 * [None]  # two to say what is to be expected
    ours = build_solver("hqs", prior, sigma=SIGMA)
    assert ours.shifting
    assert ours.denoiser.operator.stride == 3
    plugged = deepinv.optim.PnP(deepinv.models.MedianFilter())
    assert not build_solver("hqs", plugged, sigma=SIGMA).shifting


def test_data_are_trusted_no_further_than_single_precision_carries(photo):
    plan = Plan(photo, [0.1], weight=0.3, sigma=1e-4, fidelity=None)
    assert plan.weight_at(1e-3) == 0.3
    assert (0.1 / plan.sigma) ** 2 / plan.weight_at(0.1) == pytest.approx(1e4)


@pytest.mark.parametrize(("keep", "slower"), [(0.25, 0.5), (0.4, 1.0)])
def test_levels_fall_slowly_where_little_is_known_and_no_single_pixels(photo, prior, keep, slower):
    """Below 0.3 of all directions more slowly than the root of what is known says."""
    physics = operator("compressed_sensing", photo, keep=keep)
    solver = build_solver("hqs", prior, sigma=SIGMA)
    levels = solver.plan(physics(photo), physics).levels
    fall = math.log(levels[0] / levels[1]) / (half_quadratic.FALL * keep**0.5)
    assert fall == pytest.approx(slower, abs=0.25)


@pytest.mark.parametrize(("name", "power"), [("compressed_sensing", 1), ("inpainting", 2)])
def test_the_weight_falls_with_the_square_only_where_single_pixels_are_known(
    photo, prior, name, power
):
    physics = operator(name, photo, keep=0.3)
    weight = build_solver("hqs", prior, sigma=SIGMA).plan(physics(photo), physics).weight
    seen, rest = 0.3**power, 0.7**power
    assert weight == pytest.approx(half_quadratic.WEIGHT * seen / (seen + rest), rel=0.25)
