"""All solvers of one problem: the same minimiser, costs that fall, the fixed point sooner.

The problem is a mixture with variances of at least 1e-3 at sigma = 0.3, where the prior is nearly a
Gaussian, so that what the theory of convex problems says can be asked for.
"""

from itertools import pairwise

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_prior, build_solver
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, build_physics
from models import mixture
from reference import minimiser_of

LEVEL, NOISE = 0.3, 0.05
SOLVERS = {"pgd": 500, "gd": 500, "fista": 150, "drs": 60, "admm": 60, "pdcp": 60}


@pytest.fixture(scope="module")
def problem():
    """Physics, two measurements (2, 1, 16, 16), prior; float64."""
    g = torch.Generator().manual_seed(0)
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9
    physics = deepinv.physics.BlurFFT((1, 16, 16), filter=kernel)
    x = physics(torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=g))
    noise = torch.randn(x.shape, dtype=torch.float64, generator=g)
    return physics, physics(x) + NOISE * noise, GMDMPrior(mixture(4), tol=1e-9, max_iter=2000)


def solver(name, prior, steps, **options):
    spec = {"name": name, "max_iter": steps, "early_stop": False, **options}
    return build_solver(spec, prior, sigma=NOISE, prior_sigma=LEVEL)


@pytest.fixture(scope="module")
def minimiser(problem):
    """By L-BFGS, in one image."""
    physics, y, prior = problem
    return minimiser_of(deepinv.optim.L2(sigma=NOISE), prior, LEVEL, y[:1], physics)


def costs(run, y, physics):
    return run(y, physics, compute_metrics=True)[1]["cost"][0]


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_reach_the_same_minimiser(problem, minimiser, name):
    """Relative to the image's range of one; first-order methods are left at 2e-3."""
    physics, y, prior = problem
    x = solver(name, prior, SOLVERS[name])(y[:1], physics)
    tolerance = 2e-3 if name in ("pgd", "gd", "fista") else 1e-5
    torch.testing.assert_close(x, minimiser, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SOLVERS)
def test_batch_is_loop(problem, name):
    physics, y, prior = problem
    run = solver(name, prior, 5)
    looped = torch.cat([run(one[None], physics) for one in y])
    torch.testing.assert_close(run(y, physics), looped, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_names_are_deepinvs_classes(problem, name):
    """The same iterates from deepinv's class with the same numbers."""
    physics, y, prior = problem
    ours = solver(name, prior, 5)
    numbers = {key: list(value) for key, value in ours.init_params_algo.items()}
    options = {"custom_init": ours.custom_init} if name == "pdcp" else {}
    theirs = getattr(deepinv.optim, name.upper())(
        data_fidelity=deepinv.optim.L2(sigma=NOISE),
        prior=prior,
        params_algo=numbers,
        max_iter=5,
        **options,
    )
    assert torch.equal(ours(y, physics), theirs(y, physics))


def test_fista_is_ahead_of_pgd_and_converges(problem):
    """With deepinv's constant `a` it oscillates and is soon behind."""
    physics, y, prior = problem
    for steps in (10, 50, 120):
        fast = costs(solver("fista", prior, steps), y[:1], physics)
        plain = costs(solver("pgd", prior, steps), y[:1], physics)
        assert fast[-1] < plain[-1]


def test_momentum_is_chambolle_and_dossals(problem):
    a = solver("fista", problem[2], 6).init_params_algo["a"]
    momentum = [(k + value - 1) / (k + value) for k, value in enumerate(a)]
    assert momentum == pytest.approx([k / (k + 4) for k in range(6)])


@pytest.mark.parametrize("name", ["pgd", "gd"])
def test_backtracking_descends_from_any_step(problem, name):
    physics, y, prior = problem
    long = 50 * NOISE**2
    with_search = costs(solver(name, prior, 25, stepsize=long, backtracking=True), y[:1], physics)
    assert all(b <= a for a, b in pairwise(with_search))
    assert with_search[-1] < with_search[0]
    short = GMDMPrior(prior.model, max_iter=20)  # iterates that diverge have no accurate prox
    without = costs(solver(name, short, 4, stepsize=long), y[:1], physics)
    assert not all(b <= a for a, b in pairwise(without))


@pytest.mark.parametrize("name", ["pgd", "gd"])
def test_anderson_reaches_the_fixed_point_sooner(problem, minimiser, name):
    physics, y, prior = problem
    fast = solver(name, prior, 40, anderson=True)(y[:1], physics)
    plain = solver(name, prior, 40)(y[:1], physics)
    error = (fast - minimiser).abs().max()
    assert error < 5e-3
    assert error < (plain - minimiser).abs().max() / 5


def test_anderson_with_a_denoiser(problem):
    physics, y, prior = problem
    pnp = deepinv.optim.PnP(GMDMDenoiser(prior.model, method="average", boundary="circular"))
    spec = {"name": "pgd", "early_stop": False}
    run = {
        (steps, fast): build_solver(
            {**spec, "max_iter": steps, "anderson": fast}, pnp, sigma=NOISE, prior_sigma=0.05
        )(y[:1], physics)
        for steps, fast in ((15, True), (15, False), (400, False))
    }
    limit = run[400, False]
    assert (run[15, True] - limit).norm() < (run[15, False] - limit).norm() / 2


def test_early_stop_stops(problem):
    physics, y, prior = problem
    spec = {"early_stop": True, "thres_conv": 1e-3}
    short = costs(solver("pgd", prior, 200, **spec), y[:1], physics)
    assert 2 < len(short) < 200


def test_hqs_at_a_fixed_level_descends_its_own_cost(problem):
    """F(x) = min_u f(u) + ‖u - x‖² / 2 gamma + g(x) falls where x is deepinv's iterate."""
    physics, y, prior = problem
    gamma, fidelity = NOISE**2, deepinv.optim.L2(sigma=NOISE)
    values = []
    for steps in range(1, 8):
        x = deepinv.optim.HQS(
            data_fidelity=fidelity, prior=prior, stepsize=gamma, g_param=LEVEL, max_iter=steps
        )(y[:1], physics)
        u = fidelity.prox(x, y[:1], physics, gamma=gamma)
        value = fidelity(u, y[:1], physics) + (u - x).square().sum() / (2 * gamma)
        values.append(float(value + prior(x, LEVEL)))
    assert all(b <= a for a, b in pairwise(values))
    assert values[-1] < values[0]


def test_dpir_is_a_config_of_hqs(problem):
    """Deepinv's own DPIR, where it has a falling schedule."""
    physics, y, prior = problem
    denoiser = GMDMDenoiser(prior.model, method="average")
    expected = deepinv.optim.DPIR(sigma=NOISE, denoiser=denoiser)(y, physics)
    spec = {"name": "hqs", "max_iter": 8, "start": 49 / 255, "stop": NOISE}
    pnp = deepinv.optim.PnP(denoiser)
    x = build_solver(spec, pnp, sigma=NOISE, prior_lambda=0.23)(y, physics)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)  # their levels are float32
    for sigma in (0.0, 0.5):  # where theirs are NaN, and rise
        spec["stop"] = sigma
        run = build_solver(spec, pnp, sigma=sigma, prior_lambda=0.23)
        levels = run.init_params_algo["g_param"]
        assert all(0 < b <= a for a, b in pairwise(levels))
        assert torch.isfinite(run(y, physics)).all()


def test_betas_are_the_continuation_of_epll(problem):
    """Against the loop of Zoran and Weiss, for denoising, where the data step is an average."""
    _, y, prior = problem
    betas = [1, 4, 8, 16, 32]
    run = build_solver({"name": "hqs", "betas": betas}, prior, sigma=NOISE, prior_lambda=1)
    denoiser = GMDMDenoiser(prior.model, method="average", stride=2)
    x = y
    for beta in betas:
        x = (y + beta * x) / (1 + beta)
        x = denoiser(x, NOISE / beta**0.5)
    torch.testing.assert_close(run(y, deepinv.physics.Denoising()), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["fista", "pdcp", "drs", "admm", "pgd", "hqs"])
@pytest.mark.parametrize("kind", ["gmdm", "pnp"])
def test_every_solver_restores(photo, name, kind):
    image = photo[..., :32, :32].double()
    physics = build_physics(
        PhysicsConfig(name="gaussian_blur", width=1.2, noise=NoiseConfig(sigma=0.01)),
        tuple(image.shape[1:]),
    ).double()
    y = physics(image)
    options = {
        "gmdm": {"weights": "gray-small", "max_iter": 30},
        "pnp": {"denoiser": {"name": "gmdm", "weights": "gray-small", "method": "average"}},
    }[kind]
    run = build_solver(
        {"name": name, "max_iter": 8},
        build_prior({"name": kind, **options}),
        sigma=0.01,
        prior_sigma=0.03,
    )
    error = (run(y, physics) - image).square().mean()
    assert error < 0.8 * (y - image).square().mean()


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ({"name": "drs", "anderson": True}, r"solver\.anderson works with gd and pgd"),
        ({"name": "fista", "anderson": True}, r"solver\.anderson works with gd and pgd"),
        ({"name": "hqs", "backtracking": True}, r"solver\.backtracking works with gd and pgd"),
        ({"name": "pgd", "anderson": True, "backtracking": True}, "not both"),
        ({"name": "pgd", "betas": [1, 2]}, "are for hqs"),
        ({"name": "hqs", "betas": [4, 1]}, "never fall"),
        ({"name": "hqs", "betas": []}, "never fall"),
        ({"name": "hqs", "betas": [1, 4], "max_iter": 3}, "number of solver.betas, 2"),
    ],
)
def test_options_that_do_not_go_together(problem, spec, match):
    with pytest.raises(ValueError, match=match):
        build_solver(spec, problem[2], sigma=NOISE)


def test_backtracking_needs_a_cost(problem):
    pnp = deepinv.optim.PnP(GMDMDenoiser(problem[2].model))
    with pytest.raises(ValueError, match="backtracking needs a cost, which PnP has not"):
        build_solver({"name": "pgd", "backtracking": True}, pnp, sigma=NOISE)
