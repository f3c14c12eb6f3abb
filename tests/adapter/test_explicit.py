"""PGD, FISTA, ADMM and DRS left to themselves: they end at the minimiser that L-BFGS finds."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior, build_solver, explicit
from deepinv_gmdm.explicit import NAMES
from models import mixture
from scipy import optimize

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
    fidelity = deepinv.optim.L2(sigma=NOISE)

    def value_and_slope(flat):
        x = torch.from_numpy(flat).reshape(y[:1].shape)
        value = fidelity(x, y[:1], physics) + prior(x, LEVEL)
        slope = fidelity.grad(x, y[:1], physics) + prior.grad(x, LEVEL)
        return float(value), slope.flatten().numpy()

    options = {"gtol": 1e-5, "ftol": 0, "maxiter": 400, "maxcor": 30}
    start = y[:1].flatten().numpy()
    found = optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).reshape(y[:1].shape)


@pytest.fixture
def patient(monkeypatch):
    """Stages that end where nothing moves any more."""
    monkeypatch.setattr(explicit, "SETTLED", 1e-7)
    monkeypatch.setattr(explicit, "SETTLED_WITHOUT_MOMENTUM", 1e-7)
    monkeypatch.setattr(explicit, "MOST_STEPS", 600)


def solver(name, prior, **options):
    return build_solver(name, prior, **{"sigma": NOISE, "prior_sigma": LEVEL, **options})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("known", [True, False], ids=["closed form", "conjugate gradients"])
def test_the_end_is_the_minimiser(problem, minimiser, patient, name, known):
    physics, y, prior = problem
    x = solver(name, prior)(y[:1], physics.inner if known else physics)
    torch.testing.assert_close(x, minimiser, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_stops_near_the_minimiser(problem, minimiser, name):
    """By itself, within a twentieth of the prior's level."""
    physics, y, prior = problem
    error = solver(name, prior)(y[:1], physics) - minimiser
    assert error.square().mean().sqrt() < LEVEL / 20
