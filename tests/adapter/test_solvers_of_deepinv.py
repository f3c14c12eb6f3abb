"""deepinv's solvers with ours, by name and directly: explicit, plug-and-play, DPIR's schedule."""

from itertools import pairwise

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_prior, build_solver
from deepinv_gmdm.command.restore import psnr
from deepinv_gmdm.operators import OperatorConfig, build_operator
from models import mixture

NOISE, LEVEL = 0.05, 0.3  # of the measurement, of the prior: smooth enough to be convex
DIRECT = ("PGD", "FISTA", "GD", "DRS", "ADMM", "HQS", "PDCP")


@pytest.fixture(scope="module")
def problem():
    """A blurred image of 6x7 pixels in float64, and a prior."""
    physics = build_operator(OperatorConfig(name="gaussian_blur", width=0.5), (1, 6, 7)).double()
    x = torch.rand((1, 1, 6, 7), generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    y = physics.A(x) + NOISE * noise
    prior = GMDMPrior(mixture(3), sigma=LEVEL, max_iter=500, tol=1e-12)
    return physics, y, prior


def test_half_quadratic_splitting_descends_its_own_cost(problem):
    """At a fixed level s: f(u) + ‖u - x‖² / (2 s²) + g(x), one variable after the other."""
    physics, y, prior = problem
    fidelity, s = deepinv.optim.L2(sigma=NOISE), 0.1
    iterates = []

    class Watched(GMDMPrior):
        def prox(self, x, *args, **kwargs):
            z = super().prox(x, *args, **kwargs)
            iterates.append((x.clone(), z.clone()))
            return z

    watched = Watched(prior.model, sigma=LEVEL, max_iter=500, tol=1e-12)
    solver = deepinv.optim.HQS(
        data_fidelity=fidelity, prior=watched, stepsize=s * s, g_param=LEVEL, max_iter=15
    )
    solver(y, physics)
    costs = []
    for (u, x), (after, _) in pairwise(iterates):
        for data in (u, after):
            joint = (data - x).square().sum() / (2 * s * s)
            costs.append(float(fidelity(data, y, physics) + joint + prior(x, LEVEL)))
    assert all(b <= a + 1e-9 for a, b in pairwise(costs))
    assert costs[-1] < costs[0] - 0.1


@pytest.fixture(scope="module")
def blurred():
    from deepinv_gmdm.command.config import shipped

    from gmdm_prior.files.pictures import read_picture

    photo = read_picture(shipped("images") / "camera.png")[0][..., 60:100, 80:128].clone()
    physics = build_operator(OperatorConfig(name="gaussian_blur", width=1.2), (1, 40, 48))
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return photo, physics, physics.A(photo) + 0.01 * noise


@pytest.mark.parametrize("name", ["hqs", "dpir", "pgd", "fista", "drs", "admm", "pdcp"])
def test_plug_and_play_restores(blurred, name):
    photo, physics, y = blurred
    prior = build_prior({"name": "pnp", "denoiser": {"name": "gmdm", "weights": "gray-small"}})
    solver = build_solver(
        {"name": name, "max_iter": 8},
        prior,
        sigma=0.01,
        prior_sigma=None if name in ("hqs", "dpir") else 0.03,
    )
    assert psnr(solver(y, physics), photo) > psnr(y, photo) + 1


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("kind", ["explicit", "pnp"])
def test_directly_with_the_classes_of_deepinv(blurred, name, kind):
    photo, physics, y = blurred
    if kind == "explicit":
        prior, level = GMDMPrior("gray-small", max_iter=20), 0.05
        step = 1 / prior.lipschitz(level)
    else:
        prior, level, step = deepinv.optim.PnP(GMDMDenoiser("gray-small")), 0.03, 1e-4
        if name == "GD":
            prior = deepinv.optim.RED(GMDMDenoiser("gray-small", method="average", stride=4))
            step = 5e-5
    if name in ("PGD", "FISTA"):
        step = 1e-4
    if kind == "explicit" and name == "GD":
        step = 1 / (prior.lipschitz(level) + 1e4)
    options = {"stepsize_dual": 1 / step} if name == "PDCP" else {}
    if name == "PDCP":
        options["custom_init"] = lambda y, physics: {"est": (y, y, torch.zeros_like(y))}
    solver = getattr(deepinv.optim, name)(
        data_fidelity=deepinv.optim.L2(sigma=0.01),
        prior=prior,
        stepsize=step,
        g_param=level,
        max_iter=12,
        **options,
    )
    assert psnr(solver(y, physics), photo) > psnr(y, photo) + 0.5


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.3])
def test_dpir_never_rises(sigma):
    """deepinv's own DPIR: NaN without noise, and rising levels above 49/255."""
    solver = build_solver("dpir", GMDMPrior(mixture(2)), sigma=sigma)
    levels = solver.init_params_algo["g_param"]
    assert len(levels) == 8
    assert all(b <= a for a, b in pairwise(levels))
    assert levels[0] == pytest.approx(max(49 / 255, sigma))
    assert levels[-1] == pytest.approx(max(sigma, 1 / 1024))
    steps = solver.init_params_algo["stepsize"]
    assert steps == pytest.approx([s * s / 0.23 for s in levels])


def test_dpir_agrees_with_that_of_deepinv_where_that_works(blurred):
    _, physics, y = blurred
    denoiser = GMDMDenoiser("gray-small")
    theirs = deepinv.optim.DPIR(sigma=0.02, denoiser=denoiser)(y, physics)
    ours = build_solver("dpir", deepinv.optim.PnP(denoiser), sigma=0.02)(y, physics)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
