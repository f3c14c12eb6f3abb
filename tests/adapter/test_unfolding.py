"""Unfolded solvers learn steps and bases, and what they learn is an exact density."""

import copy
import io

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_solver
from models import events, mixture

import gmdm_prior as gm

NOISE = 0.03


@pytest.fixture(scope="module")
def problem():
    """Physics, clean images and measurements (2, 1, 12, 12), float64."""
    g = torch.Generator().manual_seed(0)
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9
    physics = deepinv.physics.BlurFFT((1, 12, 12), filter=kernel)
    x = physics(torch.rand(2, 1, 12, 12, dtype=torch.float64, generator=g))
    return physics, x, physics(x) + NOISE * torch.randn(x.shape, generator=g, dtype=x.dtype)


def built(name, model):
    prior = GMDMPrior(model, sigma=0.1, max_iter=3, tol=0)
    return build_solver(
        {"name": name, "max_iter": 2}, prior, sigma=NOISE, trainable=["stepsize", "g_param"]
    )


def direct(name, model):
    options = {
        "unfold": True,
        "max_iter": 3,
        "trainable_params": ["stepsize"],
        "stepsize": NOISE**2,
    }
    fidelity = deepinv.optim.L2(sigma=NOISE)
    if name == "hqs":
        prior = deepinv.optim.PnP(GMDMDenoiser(model, method="average"))
        return deepinv.optim.HQS(fidelity, prior, g_param=0.05, **options)
    prior = GMDMPrior(model, max_iter=3, tol=0)
    return deepinv.optim.PGD(fidelity, prior, g_param=0.1, **options)


def train(solver, problem, steps=10, rate=1e-2):
    physics, x, y = problem
    model = (getattr(solver.prior[0], "denoiser", None) or solver.prior[0]).model
    scalars = [p for n, p in solver.named_parameters() if n.startswith("params_algo")]
    groups = [
        {"params": list(model.parameters()), "lr": rate},
        {"params": scalars, "lr": rate if solver_is_ours(solver) else 1e-5},
    ]
    optimiser = torch.optim.Adam(groups)
    losses = []
    for _ in range(steps + 1):
        optimiser.zero_grad()
        loss = (solver(y, physics) - x).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    return model, losses


def solver_is_ours(solver):
    return any("parametrizations" in name for name, _ in solver.named_parameters())


@pytest.mark.parametrize("make", [built, direct])
@pytest.mark.parametrize("name", ["hqs", "pgd"])
def test_steps_and_bases_are_learned_and_the_density_stays_exact(problem, make, name):
    physics, _, y = problem
    start = mixture(4)
    solver = make(name, start.trainable())
    first = [p.detach().clone() for p in solver.parameters()]
    fresh = copy.deepcopy(solver)
    model, losses = train(solver, problem)
    assert losses[-1] < 0.995 * losses[0]
    moved = [(a - b).abs().max() for a, b in zip(first, solver.parameters(), strict=True)]
    assert min(moved) > 0
    assert (model.filters - start.filters).abs().max() > 1e-3
    check_laws(model)
    file = io.BytesIO()
    torch.save(solver.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh(y, physics), solver(y, physics))


def check_laws(model):
    """Identities of a diffused density, in float64; all of them: tests/test_laws.py."""
    rows = model.filters.detach().flatten(2)
    gram = rows @ rows.mT
    torch.testing.assert_close(
        gram, torch.eye(gram.shape[-1]).to(gram).expand_as(gram), rtol=0, atol=1e-10
    )
    assert rows.mean(-1).abs().max() < 1e-10
    assert (model.variances > 0).all()
    assert model.weights.sum().item() == pytest.approx(1, abs=1e-12)
    x = events(model, 4).requires_grad_()
    s = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.log_prob(x, 0.1).sum(), x)
    torch.testing.assert_close(model.score(x, 0.1), gradient, rtol=1e-9, atol=1e-9)
    event = x[0].detach()
    (rate,) = torch.autograd.grad(model.log_prob(event, s), s)
    hessian = torch.func.hessian(lambda v: model.log_prob(v, 0.1))(event)
    laplacian = hessian.reshape(event.numel(), -1).trace()
    expected = 0.1 * (laplacian + model.score(event, 0.1).square().sum())
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-9)


def test_the_trained_density_is_saved_and_used_elsewhere(problem, tmp_path):
    physics, _, y = problem
    solver = built("pgd", mixture(4).trainable())
    model, _ = train(solver, problem, steps=3)
    gm.save(model, tmp_path / "learned.safetensors")
    loaded = gm.load(tmp_path / "learned.safetensors", dtype=torch.float64)
    level, step = (float(solver.params_algo[k][0]) for k in ("g_param", "stepsize"))
    again = build_solver(
        {"name": "pgd", "max_iter": 2, "stepsize": step, "early_stop": False},
        GMDMPrior(loaded, max_iter=3, tol=0),
        sigma=NOISE,
        prior_sigma=level,
    )
    with torch.no_grad():
        expected = solver(y, physics)
    torch.testing.assert_close(again(y, physics), expected, rtol=0, atol=1e-6)


def test_unfolding_alone_changes_nothing(problem):
    physics, _, y = problem
    prior = GMDMPrior(mixture(4), sigma=0.1)
    spec = {"name": "pgd", "max_iter": 3, "early_stop": False}
    plain = build_solver(spec, prior, sigma=NOISE)(y, physics)
    learned = build_solver(spec, prior, sigma=NOISE, trainable=["stepsize", "lambda", "g_param"])
    torch.testing.assert_close(learned(y, physics), plain, rtol=0, atol=1e-6)  # float32 numbers
    assert not list(build_solver(spec, prior, sigma=NOISE, trainable=[]).params_algo.parameters())


def test_steps_stay_positive():
    solver = build_solver("hqs", GMDMPrior(mixture(4)), sigma=NOISE, trainable=["stepsize"])
    with torch.no_grad():
        for p in solver.params_algo.parameters():
            p.sub_(50)
    assert all(0 < float(step) < 1e-15 for step in solver.params_algo["stepsize"])


@pytest.mark.parametrize(
    ("options", "trainable", "match"),
    [
        ({}, ["stepsise"], "did you mean 'stepsize'"),
        ({"backtracking": True}, ["stepsize"], "leave solver.backtracking out"),
    ],
)
def test_unfolding_is_refused(options, trainable, match):
    with pytest.raises(ValueError, match=match):
        build_solver(
            {"name": "pgd", **options}, GMDMPrior(mixture(4)), sigma=0.1, trainable=trainable
        )


def test_a_parameter_of_zero_cannot_be_learned():
    with pytest.raises(ValueError, match="lambda must be positive to be learned"):
        build_solver("pgd", GMDMPrior(mixture(4)), sigma=0.1, prior_lambda=0, trainable=["lambda"])
