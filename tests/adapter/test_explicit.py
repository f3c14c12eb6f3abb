"""PGD, FISTA, ADMM and DRS left to themselves: they end at the minimiser that L-BFGS finds."""

import math

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior, build_solver, explicit
from deepinv_gmdm.explicit import NAMES
from deepinv_gmdm.noise import WeightedL2
from models import mixture
from reference import minimiser_of

THREE = ("pgd", "fista", "admm")  # DRS is ADMM
LEVEL, NOISE = 0.3, 0.05  # where the prior is nearly a Gaussian and there is one minimiser


class Blur(deepinv.physics.LinearPhysics):
    """A blur and its adjoint, without a proximal map of its own."""

    def __init__(self, scale=1.0):
        kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9
        inner = deepinv.physics.BlurFFT((1, 16, 16), filter=kernel)
        super().__init__(
            A=lambda x, **_: scale * inner.A(x), A_adjoint=lambda y, **_: scale * inner.A_adjoint(y)
        )
        self.inner = inner


@pytest.fixture(scope="module")
def problem():
    """An operator, two measurements (2, 1, 16, 16), a prior; float64."""
    g = torch.Generator().manual_seed(0)
    physics = Blur()
    x = physics.A(torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=g))
    noise = torch.randn(x.shape, dtype=torch.float64, generator=g)
    return physics, physics.A(x) + NOISE * noise, GMDMPrior(mixture(4))


@pytest.fixture(scope="module")
def minimiser(problem):
    """Of the first image."""
    physics, y, prior = problem
    return minimiser_of(deepinv.optim.L2(sigma=NOISE), prior, LEVEL, y[:1], physics)


@pytest.fixture
def patient(monkeypatch):
    """Stages that end where nothing moves any more."""
    monkeypatch.setattr(explicit, "SETTLED", 1e-5)
    monkeypatch.setattr(explicit, "SETTLED_WITHOUT_MOMENTUM", 1e-5)


def solver(name, prior, **options):
    return build_solver(name, prior, **{"sigma": NOISE, "prior_sigma": LEVEL, **options})


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("known", [True, False], ids=["closed form", "conjugate gradients"])
def test_the_end_is_the_minimiser(problem, minimiser, patient, name, known):
    physics, y, prior = problem
    x = solver(name, prior)(y[:1], physics.inner if known else physics)
    torch.testing.assert_close(x, minimiser, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_stops_near_the_minimiser(problem, minimiser, name):
    """By itself, within a twentieth of the prior's level."""
    physics, y, prior = problem
    error = solver(name, prior)(y[:1], physics) - minimiser
    assert error.square().mean().sqrt() < LEVEL / 20


@pytest.mark.parametrize("name", ["pgd", "admm"])
def test_a_batch_is_a_loop(problem, patient, name):
    physics, y, prior = problem
    run = solver(name, prior)
    looped = torch.cat([run(one[None], physics) for one in y])
    torch.testing.assert_close(run(y, physics), looped, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", THREE)
def test_units_do_not_matter(problem, name):
    """Neither those of images nor those of measurements: the prior's own level follows both."""
    physics, y, prior = problem
    expected = build_solver(name, prior, sigma=NOISE)(y[:1], physics)
    other = GMDMPrior(prior.model, data_range=(0, 255))
    strong = Blur(scale=10.0)
    found = build_solver(name, other, sigma=2550 * NOISE)(2550 * y[:1], strong) / 255
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "stride", "found"), [(8, 4, 4), (8, 2, 2), (6, 4, 2), (3, 4, 1)])
def test_parts_cover_all_pixels_alike(size, stride, found):
    """All patches belong to one of them, and each pixel to as many patches of each."""
    given = explicit.parts(GMDMPrior(mixture(size)), stride)
    assert len(given) == found**2
    covered = torch.zeros(24, 24)
    for row, column, distance in given if found > 1 else ():
        assert distance == found
        own = torch.zeros(24, 24)
        own[row::distance, column::distance] = 1
        covered += own
        shifts = [own.roll((i, j), (0, 1)) for i in range(size) for j in range(size)]
        assert torch.equal(sum(shifts), torch.full((24, 24), size**2 / found**2))
    assert given == (None,) or torch.equal(covered, torch.ones(24, 24))


def test_parts_are_left_out_where_pixels_would_not_count_alike():
    """Where the image has borders, and where the density is one of whole images."""
    assert explicit.parts(GMDMPrior(mixture(4), boundary="valid"), 4) == (None,)
    assert explicit.parts(GMDMPrior("gray-wavelet"), 4) == (None,)


@pytest.mark.parametrize("odd", [GMDMPrior(mixture(3)), GMDMPrior("gray-wavelet")])
def test_a_prior_without_parts(problem, patient, odd):
    physics, y, _ = problem
    x = solver("fista", odd, prior_sigma=0.1)(y[:1], physics)
    slope = deepinv.optim.L2(sigma=NOISE).grad(x, y[:1], physics) + odd.grad(x, 0.1)
    assert slope.abs().max() * NOISE < 1e-3


def test_gradients_are_few_and_no_cost_is_evaluated(problem):
    """deepinv's class with the proximal map takes hundreds."""
    physics, y, prior = problem
    calls = []

    class Counted(GMDMPrior):
        def fn(self, *args, **kwargs):
            calls.append("fn")
            return super().fn(*args, **kwargs)

        def grad(self, *args, **kwargs):
            calls.append("grad")
            return super().grad(*args, **kwargs)

    counted = Counted(prior.model)
    solver("admm", counted)(y[:1], physics)
    assert calls.count("fn") == 0
    few, calls[:] = calls.count("grad"), []
    run = solver({"name": "admm", "max_iter": 20}, counted)
    run(y[:1], physics.inner)
    assert calls.count("fn") == 0
    assert calls.count("grad") > few
    run(y[:1], physics.inner, compute_metrics=True)
    assert calls.count("fn") > 0


def test_what_it_cannot_do_is_left_to_the_class_of_deepinv(problem):
    """Metrics, and operators that are not linear."""
    physics, y, prior = problem
    short = GMDMPrior(prior.model, max_iter=3)
    x, metrics = solver("pgd", short)(y[:1], physics.inner, compute_metrics=True)
    assert len(metrics["cost"][0]) > 2
    given = solver({"name": "pgd", "max_iter": 100}, short)
    assert isinstance(given, deepinv.optim.PGD)
    assert torch.equal(x, given(y[:1], physics.inner))
    squares = deepinv.physics.Physics(A=lambda x, **_: x.square())
    started = solver("pgd", short)(y[:1], squares, init=(y[:1], y[:1]))
    assert torch.equal(started, given(y[:1], squares, init=(y[:1], y[:1])))


@pytest.mark.parametrize(
    "options", [{"stepsize": 1e-3}, {"early_stop": False}, {"thres_conv": 1e-3}]
)
def test_a_setting_is_kept(problem, options):
    """A solver that is told something is deepinv's, with that."""
    run = solver({"name": "pgd", **options}, problem[2])
    assert isinstance(run, deepinv.optim.PGD)


@pytest.mark.parametrize("name", ["fista", "admm"])
def test_levels_that_differ_from_pixel_to_pixel(problem, patient, name):
    """The gradient of f + g vanishes where the least level sets the step."""
    physics, y, prior = problem
    levels = torch.full((1, 1, 16, 16), 20 * NOISE, dtype=torch.float64)
    levels[..., :8] = NOISE
    fidelity = WeightedL2(levels)
    run = solver(name, prior, sigma=14 * NOISE, data_fidelity=fidelity)
    x = run(y[:1], physics.inner)
    slope = fidelity.grad(x, y[:1], physics.inner) + prior.grad(x, LEVEL)
    assert slope.abs().max() * NOISE < 1e-3


@pytest.mark.parametrize("name", ["hqs", *THREE])
def test_measurements_that_are_not_finite_are_refused(problem, name):
    physics, y, prior = problem
    for bad in (math.nan, math.inf):
        spoilt = y[:1].clone()
        spoilt[..., 3, 5] = bad
        with pytest.raises(ValueError, match="finite"):
            solver(name, prior)(spoilt, physics)
