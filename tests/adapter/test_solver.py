"""Solvers by name: steps that follow the noise, costs that fall, errors that help."""

import math
from itertools import pairwise

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior, build_prior, build_solver, schedule
from deepinv_gmdm.command.restore import psnr
from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, build_physics
from models import mixture


@pytest.fixture
def blurred(photo):
    config = PhysicsConfig(name="gaussian_blur", width=1.2, noise=NoiseConfig(sigma=0.01))
    physics = build_physics(config, tuple(photo.shape[1:]))
    return physics, physics(photo)


@pytest.mark.parametrize("sigma", [0, 0.003, 0.05, 0.19, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_schedule_never_rises(sigma, steps):
    levels = schedule(sigma, steps)
    assert len(levels) == steps
    assert all(0 < b <= a for a, b in pairwise(levels))
    if steps > 1:
        assert levels[0] == pytest.approx(max(0.2, sigma / 2))
        assert levels[-1] == pytest.approx(max(sigma / 2, 1 / 1024))


def test_schedule_refuses_what_is_no_level():
    for arguments in ((-0.1, 4), (math.nan, 4), (0.1, 0)):
        with pytest.raises(ValueError, match=r"sigma|step"):
            schedule(*arguments)


@pytest.mark.parametrize("name", ["tv", "wavelet", "gmdm", "pnp"])
def test_hqs_restores(blurred, photo, name):
    physics, y = blurred
    options = {
        "pnp": {"denoiser": {"name": "gmdm", "weights": "gray-small"}},
        "tv": {"n_it_max": 100},
    }
    prior = build_prior({"name": name, **options.get(name, {})})
    weight = {"tv": 2.0, "wavelet": 10.0}.get(name)
    solver = build_solver({"name": "hqs", "max_iter": 8}, prior, sigma=0.01, prior_lambda=weight)
    assert psnr(solver(y, physics), photo) > psnr(y, photo) + 2


@pytest.mark.parametrize("name", ["pgd", "gd", "drs", "admm"])
def test_explicit_prior_with_true_costs(blurred, photo, name):
    """PGD and GD lower the true cost f + lambda g at every step; all end below their start."""
    physics, y = blurred
    prior = GMDMPrior("gray-small", sigma=0.05)
    solver = build_solver({"name": name, "max_iter": 12}, prior, sigma=0.01, prior_sigma=0.05)
    x, metrics = solver(y, physics, compute_metrics=True)
    costs = metrics["cost"][0]
    fidelity = deepinv.optim.L2(sigma=0.01)
    expected = fidelity(x, y, physics) + prior(x, 0.05)
    assert costs[-1] == pytest.approx(float(expected), rel=1e-5)
    assert costs[-1] < float(fidelity(y, y, physics) + prior(y, 0.05))
    if name in ("pgd", "gd"):
        assert all(b <= a + 1e-4 * abs(a) for a, b in pairwise(costs))
    assert psnr(x, photo) > psnr(y, photo) + 1


def test_hqs_takes_posterior_means_unless_told_otherwise():
    prior = GMDMPrior(mixture(3))
    assert build_solver("hqs", prior, sigma=0.02).denoiser.model is prior.model
    mean = build_solver("hqs", prior, sigma=0.02, trainable=[])
    assert isinstance(mean.prior[0], deepinv.optim.PnP)
    assert mean.prior[0].denoiser.model is prior.model
    levels = mean.init_params_algo["g_param"]
    assert [float(s) for s in levels] == pytest.approx(schedule(0.02, 12))
    steps = mean.init_params_algo["stepsize"]
    assert [float(s) for s in steps] == pytest.approx([float(s) ** 2 / 0.25 for s in levels])
    prox = build_solver({"name": "hqs", "step": "prox"}, prior, sigma=0.02)
    assert prox.prior[0] is prior
    assert prox.has_cost


def test_data_term_has_the_noise_level_it_is_given():
    solver = build_solver("pgd", build_prior("zero"), sigma=0.1, physics_norm=4.0)
    assert solver.data_fidelity[0].norm == pytest.approx(100)
    assert solver.init_params_algo["stepsize"] == pytest.approx([0.01 / 4])
    other = build_solver({"name": "pgd", "noise_sigma": "1/2"}, build_prior("zero"), sigma=0.1)
    assert other.data_fidelity[0].norm == pytest.approx(4)
    free = build_solver("pgd", build_prior("zero"), sigma=0.0)
    assert math.isfinite(free.data_fidelity[0].norm)


def test_steps_follow_the_curvatures_of_both_terms():
    """Of the data 4 / sigma², with weights at their least level; of the prior lambda L."""
    prior, options = GMDMPrior(mixture(3)), {"sigma": 0.1, "prior_sigma": 0.2, "physics_norm": 4.0}

    def step(name, **others):
        spec = {"name": name, "max_iter": 100}
        return build_solver(spec, prior, **options, **others).init_params_algo["stepsize"]

    data, bend = 4 / 0.1**2, 3 * prior.lipschitz(0.2)
    assert step("gd", prior_lambda=3.0) == pytest.approx([1 / (data + bend)])
    assert step("pgd", prior_lambda=3.0) == pytest.approx([1 / data])
    assert step("drs", prior_lambda=3.0) == pytest.approx([1 / bend])
    assert step("drs", prior_lambda=0.0) == pytest.approx([25 / data])
    weighted = WeightedL2(torch.tensor([0.05, 0.2]).reshape(1, 1, 1, 2))
    assert step("pgd", data_fidelity=weighted) == pytest.approx([0.05**2 / 4])


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("hqss", "did you mean 'hqs'"),
        ({"name": "pgd", "stepsise": 1.0}, "did you mean 'stepsize'"),
        ({"name": "pgd", "stepsize": -1.0}, "stepsize"),
        ({"name": "hqs", "step": "meen"}, "did you mean 'mean'"),
        ({"name": "hqs", "step": "mean"}, "no|none"),
        ({"name": "pgd", "max_iter": 0}, "max_iter"),
        ({"name": "pgd", "noise_sigma": -1}, "noise level"),
        (3, "name or a mapping"),
    ],
)
def test_bad_solvers_are_refused(spec, match):
    with pytest.raises(ValueError, match=match):
        build_solver(spec, build_prior("zero"), sigma=0.1)


def test_pairs_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"RED gives a gradient.*solver\.name=gd"):
        build_solver("hqs", build_prior("red"), sigma=0.1)
    with pytest.raises(ValueError, match="no gradient; use another solver"):
        build_solver("gd", build_prior("pnp"), sigma=0.1)


@pytest.mark.parametrize("weight", [-1, math.nan, "heavy", True])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match=r"prior\.lambda"):
        build_solver("pgd", build_prior("zero"), sigma=0.1, prior_lambda=weight)


def test_one_solver_serves_twice(blurred):
    physics, y = blurred
    solver = build_solver({"name": "hqs", "max_iter": 3}, GMDMPrior("gray-small"), sigma=0.01)
    assert torch.equal(solver(y, physics), solver(y, physics))


@pytest.mark.parametrize("name", ["hqs", "dpir"])
def test_strict_channels_stay_strict_in_posterior_means(name):
    """The denoiser that replaces the prior refuses what the prior would."""
    solver = build_solver(name, GMDMPrior(mixture(3), channels="strict"), sigma=0.1)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    with pytest.raises(ValueError, match="channels='strict'; got 3"):
        solver(torch.zeros(1, 3, 8, 8, dtype=torch.float64), physics)
    assert solver(torch.zeros(1, 1, 8, 8, dtype=torch.float64), physics).isfinite().all()
