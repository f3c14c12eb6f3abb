"""Every solver of deepinv on one problem: the same minimiser, costs that fall, all priors."""

from itertools import pairwise

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_prior, build_solver
from deepinv_gmdm.operators import OperatorConfig, build_operator
from deepinv_gmdm.restore import psnr
from models import mixture

NOISE, LEVEL = 0.05, 0.3  # of the measurement, of the prior: smooth enough to be convex
DIRECT = ("PGD", "FISTA", "GD", "DRS", "ADMM", "HQS", "PDCP")


@pytest.fixture(scope="module")
def problem():
    """A blurred image of 6x7 pixels in float64, its minimiser to many digits, and its cost."""
    physics = build_operator(OperatorConfig(name="gaussian_blur", width=0.5), (1, 6, 7)).double()
    x = torch.rand((1, 1, 6, 7), generator=torch.Generator().manual_seed(0)).double()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    y = physics.A(x) + NOISE * noise
    prior = GMDMPrior(mixture(3), sigma=LEVEL, max_iter=500, tol=1e-12)
    fidelity = deepinv.optim.L2(sigma=NOISE)

    def cost(u):
        return (fidelity(u, y, physics) + 4 * prior(u, LEVEL)).sum()

    u = y.clone().requires_grad_(True)
    newton = torch.optim.LBFGS(
        [u], max_iter=2000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        newton.zero_grad()
        value = cost(u)
        value.backward()
        return value

    newton.step(closure)
    return physics, y, prior, u.detach(), cost


@pytest.mark.parametrize(
    ("name", "steps"),
    [("pgd", 400), ("fista", 200), ("gd", 500), ("drs", 400), ("admm", 400), ("pdcp", 400)],
)
def test_all_reach_the_minimiser(problem, name, steps):
    physics, y, prior, expected, cost = problem
    solver = build_solver(
        {"name": name, "max_iter": steps, "early_stop": False},
        prior,
        sigma=NOISE,
        prior_sigma=LEVEL,
        prior_lambda=4,
    )
    found = solver(y, physics)
    assert (found - expected).abs().max() < 1e-6
    assert (y - expected).abs().max() > 1e-2
    assert cost(found) <= cost(expected) + 1e-9


@pytest.mark.parametrize("name", ["pgd", "gd"])
@pytest.mark.parametrize("backtracking", [False, True])
def test_cost_falls_at_every_step(problem, name, backtracking):
    physics, y, prior, _, cost = problem
    spec = {"name": name, "max_iter": 40, "backtracking": backtracking, "early_stop": False}
    solver = build_solver(spec, prior, sigma=NOISE, prior_sigma=LEVEL, prior_lambda=4)
    long = float(solver.init_params_algo["stepsize"][0])
    found, metrics = solver(y, physics, compute_metrics=True)
    costs = metrics["cost"][0]
    assert all(b <= a + 1e-10 * abs(a) for a, b in pairwise(costs))
    assert costs[-1] == pytest.approx(float(cost(found)), rel=1e-9)
    if backtracking:  # it began too long, and was shortened
        assert float(solver.params_algo["stepsize"][0]) < long


def test_anderson_acceleration_pays(problem):
    """The same fixed point, nearer after as many steps."""
    physics, y, prior, expected, _ = problem

    def error(**options):
        spec = {"name": "pgd", "max_iter": 40, "early_stop": False, **options}
        solver = build_solver(spec, prior, sigma=NOISE, prior_sigma=LEVEL, prior_lambda=4)
        return float((solver(y, physics) - expected).norm())

    assert error(anderson=True) < 0.3 * error()


def test_fista_is_below_proximal_gradient(blurred):
    """After as many steps, on a photograph, where the data term is badly conditioned."""
    _, physics, y = blurred
    prior, costs = GMDMPrior("bsds-gray-small"), {}
    for name in ("pgd", "fista"):
        spec = {"name": name, "max_iter": 15, "early_stop": False}
        solver = build_solver(spec, prior, sigma=0.01, prior_sigma=0.1)
        _, metrics = solver(y, physics, compute_metrics=True)
        costs[name] = metrics["cost"][0]
    assert costs["fista"][-1] < costs["pgd"][-1]


def test_early_stop_stops(problem):
    physics, y, prior, _, _ = problem
    seen = {}
    for early in (True, False):
        spec = {"name": "pgd", "max_iter": 300, "early_stop": early, "thres_conv": 1e-4}
        solver = build_solver(spec, prior, sigma=NOISE, prior_sigma=LEVEL, prior_lambda=4)
        _, metrics = solver(y, physics, compute_metrics=True)
        seen[early] = len(metrics["cost"][0])
    assert seen[True] < 0.5 * seen[False]


def test_half_quadratic_splitting_descends_its_own_cost(problem):
    """At a fixed level s: f(u) + ‖u - x‖² / (2 s²) + g(x), one variable after the other."""
    physics, y, prior, _, _ = problem
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
    from deepinv_gmdm.config import shipped
    from deepinv_gmdm.picture import read_picture

    photo = read_picture(shipped("images") / "camera.png")[0][..., 60:100, 80:128].clone()
    physics = build_operator(OperatorConfig(name="gaussian_blur", width=1.2), (1, 40, 48))
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return photo, physics, physics.A(photo) + 0.01 * noise


@pytest.mark.parametrize("name", ["hqs", "dpir", "pgd", "fista", "drs", "admm", "pdcp"])
def test_plug_and_play_restores(blurred, name):
    photo, physics, y = blurred
    prior = build_prior({"name": "pnp", "denoiser": {"name": "gmdm", "weights": "bsds-gray-small"}})
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
        prior, level = GMDMPrior("bsds-gray-small", max_iter=20), 0.05
        step = 1 / prior.lipschitz(level)
    else:
        prior, level, step = deepinv.optim.PnP(GMDMDenoiser("bsds-gray-small")), 0.03, 1e-4
        if name == "GD":
            prior = deepinv.optim.RED(GMDMDenoiser("bsds-gray-small", method="average", stride=4))
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
    denoiser = GMDMDenoiser("bsds-gray-small")
    theirs = deepinv.optim.DPIR(sigma=0.02, denoiser=denoiser)(y, physics)
    ours = build_solver("dpir", deepinv.optim.PnP(denoiser), sigma=0.02)(y, physics)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_betas_are_the_continuation_of_epll(blurred):
    photo, _, _ = blurred
    betas = [1, 4, 8, 16, 32]
    solver = build_solver({"name": "hqs", "betas": betas}, GMDMPrior("bsds-gray-small"), sigma=0.04)
    assert solver.init_params_algo["g_param"] == pytest.approx([0.04 / b**0.5 for b in betas])
    assert solver.init_params_algo["stepsize"] == pytest.approx([0.04**2 / b for b in betas])
    noisy = photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    denoising = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    solver = build_solver({"name": "hqs", "betas": betas}, GMDMPrior("bsds-gray-small"), sigma=0.1)
    assert psnr(solver(noisy, denoising), photo) > psnr(noisy, photo) + 5


@pytest.mark.parametrize(
    ("spec", "prior", "match"),
    [
        ({"name": "hqs", "anderson": True}, "gmdm", "gd and pgd; got hqs"),
        ({"name": "admm", "backtracking": True}, "gmdm", "gd, pgd and fista; got admm"),
        ({"name": "pgd", "backtracking": True}, "pnp", "needs a cost, which PnP has none"),
        ({"name": "pgd", "betas": [1, 4]}, "gmdm", "schedule of hqs; got pgd"),
        ({"name": "hqs", "betas": [1, -4]}, "gmdm", "betas must be positive"),
        ({"name": "fista"}, "red", "gives a gradient"),
    ],
)
def test_what_cannot_work_is_refused(spec, prior, match):
    with pytest.raises(ValueError, match=match):
        build_solver(spec, build_prior(prior), sigma=0.1)
