"""iPALM on problems with known solutions, and its promises: descent, feasibility, resuming."""

import copy
import io
import itertools
import math

import pytest
import torch

import gmdm_prior as gm
from gmdm_prior.constraints import project_orthogonal, project_simplex
from gmdm_prior.training.ipalm.optimiser import IPALM
from gmdm_prior.training.score.product_loss import denoising_score_matching


def onto_simplex(value, step):
    return project_simplex(value)


def onto_orthogonal(value, step):
    return project_orthogonal(value)


def backward_if_asked(function):
    def closure():
        loss = function()
        if torch.is_grad_enabled():
            loss.backward()
        return loss

    return closure


class Quadratic:
    """½‖A (w − a)‖² + ½‖v − B w‖² + c over w in the simplex, v free; A orthogonal times `scale`.

    The minimum is at w = projection of a, v = B w.
    """

    def __init__(self, scale=3.0):
        g = torch.Generator().manual_seed(0)
        self.matrix = scale * torch.linalg.qr(torch.randn(6, 6, generator=g).double()).Q
        self.b = torch.randn(4, 6, generator=g).double()
        self.centre = torch.randn(6, generator=g).double()
        self.w = torch.full((6,), 1 / 6).double().requires_grad_()
        self.v = torch.randn(4, generator=g).double().requires_grad_()
        self.solution = project_simplex(self.centre)

    def loss(self):
        data = (self.matrix @ (self.w - self.centre)).square().sum()
        return 0.5 * (data + (self.v - self.b @ self.w).square().sum())

    def groups(self):
        return [{"params": [self.w], "prox": onto_simplex}, {"params": [self.v]}]


@pytest.mark.parametrize("inertia", [0.0, 0.7])
def test_converges_to_the_known_solution(inertia):
    problem = Quadratic()
    optimizer = IPALM(problem.groups(), inertia=inertia)
    for _ in range(300):
        optimizer.step(backward_if_asked(problem.loss))
    assert (problem.w - problem.solution).abs().max() < 1e-8
    assert (problem.v - problem.b @ problem.solution).abs().max() < 1e-8


def test_objective_never_rises_without_inertia():
    """Pock & Sabach: descent for an exact closure and convex constraints."""
    problem = Quadratic(scale=10.0)
    optimizer = IPALM(problem.groups(), inertia=0.0)
    losses = [problem.loss().item()]
    for _ in range(60):
        losses.append(optimizer.step(backward_if_asked(problem.loss)))
        assert losses[-1] == pytest.approx(problem.loss().item(), rel=1e-12)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(losses))
    assert losses[-1] < losses[0] / 2


def test_step_is_the_formula():
    """y = x + beta (x − x_before); x⁺ = y − ∇f(y) / L, where L needs no back-tracking."""
    diagonal = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = IPALM([x], inertia=0.5, lipschitz=4.0, shrink=1.0)
    before, now = torch.ones(3).double(), torch.ones(3).double()
    for _ in range(5):
        optimizer.step(backward_if_asked(lambda: 0.5 * (diagonal * x * x).sum()))
        y = now + 0.5 * (now - before)
        before, now = now, y - diagonal * y / 4.0
        assert torch.allclose(x, now, rtol=0, atol=1e-15)
    assert optimizer.param_groups[0]["lipschitz"] == 4.0


def test_inertia_is_0_95_if_nothing_is_said():
    """The second step goes on from rest by 0.95 of the first, which was a plain one."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = IPALM([x], lipschitz=4.0, shrink=1.0)
    closure = backward_if_asked(lambda: 0.5 * x.square().sum())
    optimizer.step(closure)
    assert x.item() == pytest.approx(0.75, abs=1e-15)
    optimizer.step(closure)
    assert x.item() == pytest.approx(0.75 * (0.75 - 0.95 * 0.25), abs=1e-15)


def test_steeper_ground_drops_the_inertia():
    """After a step in which L grew fourfold the next one starts from rest."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = IPALM([x], inertia=0.5, lipschitz=1.0, shrink=1.0)
    for steepness, found, rests in ((1.9, 2.0, False), (2.0, 2.0, False), (7.9, 8.0, True)):

        def loss(steepness=steepness):
            return 0.5 * steepness * x.square().sum()

        optimizer.step(backward_if_asked(loss))
        assert optimizer.param_groups[0]["lipschitz"] == found
        assert torch.equal(optimizer.state[x]["before"], x) == rests


@pytest.mark.parametrize("first", [1e-4, 1e6])
def test_lipschitz_constant_is_found(first):
    """For f = 50 ‖x‖² the descent lemma holds exactly from L = 100 on."""
    x = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer = IPALM([x], inertia=0.0, lipschitz=first)
    found = []
    for _ in range(150):
        with torch.no_grad():
            x.add_(1)  # never at the minimum
        optimizer.step(backward_if_asked(lambda: 50 * x.square().sum()))
        found.append(optimizer.param_groups[0]["lipschitz"])
    assert all(90 * 0.999 <= v <= 200 for v in found[-20:])


def test_evaluations_are_few():
    """About one gradient and one value for each block."""
    problem = Quadratic()
    optimizer = IPALM(problem.groups())
    calls = {True: 0, False: 0}

    def closure():
        calls[torch.is_grad_enabled()] += 1
        return backward_if_asked(problem.loss)()

    for _ in range(20):
        optimizer.step(closure)
    calls.update({True: 0, False: 0})
    for _ in range(100):
        optimizer.step(closure)
    assert calls[True] == 200
    assert calls[False] <= 1.2 * 200


def test_only_the_block_at_hand_requires_gradients():
    problem = Quadratic()
    optimizer = IPALM(problem.groups())
    seen = []

    def closure():
        if torch.is_grad_enabled():
            seen.append((problem.w.requires_grad, problem.v.requires_grad))
            assert problem.w.grad is None
            assert problem.v.grad is None
        return backward_if_asked(problem.loss)()

    optimizer.step(closure)
    assert seen == [(True, False), (False, True)]
    assert problem.w.requires_grad
    assert problem.v.requires_grad


def test_fixed_parameters_stay():
    problem = Quadratic()
    problem.w.requires_grad_(False)
    before = problem.w.clone()
    optimizer = IPALM(problem.groups(), inertia=0.5)
    for _ in range(100):
        loss = optimizer.step(backward_if_asked(problem.loss))
    assert torch.equal(problem.w, before)
    assert not problem.w.requires_grad
    assert loss == problem.loss().item()
    assert (problem.v - problem.b @ problem.w).abs().max() < 1e-8


def test_gradients_may_be_filled_in():
    """A closure that sets .grad itself does as well as one that calls backward."""
    problem, other = Quadratic(), Quadratic()

    def analytic():
        loss = other.loss().detach()
        if torch.is_grad_enabled():
            residual = other.v.detach() - other.b @ other.w.detach()
            if other.v.requires_grad:
                other.v.grad = residual
            if other.w.requires_grad:
                data = other.matrix.T @ other.matrix @ (other.w.detach() - other.centre)
                other.w.grad = data - other.b.T @ residual
        return loss

    first, second = IPALM(problem.groups()), IPALM(other.groups())
    for _ in range(20):
        first.step(backward_if_asked(problem.loss))
        second.step(analytic)
    assert torch.allclose(problem.w, other.w, atol=1e-12)
    assert torch.allclose(problem.v, other.v, atol=1e-12)


def patch_problem(n=600, b=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    j = b * b - 1
    filters = project_orthogonal(torch.randn(j, 1, b, b, generator=g) / b)
    model = gm.PatchModel(filters, torch.randn(j, 15, generator=g))

    def batch(step):
        draw = torch.Generator().manual_seed(step)
        x = 0.2 * torch.randn(n, 1, b, b, generator=draw)
        sigma = 0.4 * torch.rand(n, generator=draw)
        noise = torch.randn(x.shape, generator=draw)
        return x, x + sigma.reshape(-1, 1, 1, 1) * noise, sigma

    def step(optimizer, count):
        data = batch(count)
        return optimizer.step(backward_if_asked(lambda: denoising_score_matching(model, *data)))

    blocks = [
        {"params": [model.filters], "prox": onto_orthogonal},
        {"params": [model.experts.logits]},
    ]
    return model, blocks, step


def test_filters_are_always_feasible():
    """On a new batch each step: orthogonal and zero-mean to float32's rounding."""
    model, blocks, step = patch_problem()
    optimizer = IPALM(blocks)
    start = model.filters.detach().clone()
    for count in range(30):
        step(optimizer, count)
        rows = model.filters.detach().double().flatten(1)
        norms = rows.norm(dim=1)
        cosines = rows @ rows.T / norms / norms[:, None]
        assert (cosines - torch.eye(8)).abs().max() < 1e-6
        assert (rows.sum(1) / norms).abs().max() < 1e-6
        assert norms.min() > 0
    assert (model.filters - start).abs().max() > 0.01


def test_weights_stay_in_the_simplex():
    """The simplex variant: mixture weights themselves, with `project_simplex` as prox."""
    g = torch.Generator().manual_seed(0)
    target = torch.softmax(3 * torch.randn(4, 20, generator=g), 1)
    weights = torch.full((4, 20), 1 / 20, requires_grad=True)
    optimizer = IPALM([{"params": [weights], "prox": onto_simplex}])
    for _ in range(60):
        noise = 0.05 * torch.randn(4, 20, generator=g)

        def loss(noise=noise):
            return (weights - target - noise).square().sum()

        optimizer.step(backward_if_asked(loss))
        assert weights.min() >= 0
        assert (weights.sum(1) - 1).abs().max() < 1e-6
    assert (weights == 0).any()  # the constraint is at work


def test_resumes_to_the_same_bits():
    model, blocks, step = patch_problem()
    optimizer = IPALM(blocks)
    for count in range(4):
        step(optimizer, count)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    for count in range(4, 9):
        step(optimizer, count)
    expected = [p.detach().clone() for p in model.parameters()]

    again, blocks, step = patch_problem()
    resumed = IPALM(blocks)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for count in range(4, 9):
        step(resumed, count)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), expected, strict=True))


def test_state_leaves_prox_out_and_loading_keeps_it():
    problem = Quadratic()
    optimizer = IPALM(problem.groups())
    optimizer.step(backward_if_asked(problem.loss))
    state = optimizer.state_dict()
    assert all("prox" not in group for group in state["param_groups"])
    optimizer.load_state_dict(copy.deepcopy(state))
    assert [g["prox"] for g in optimizer.param_groups] == [onto_simplex, None]
    assert optimizer.param_groups[0]["lipschitz"] == state["param_groups"][0]["lipschitz"]


@pytest.mark.parametrize("fatal", [1, 2, 3, 4])
def test_an_error_leaves_everything_as_it_was(fatal):
    """Interrupted at any evaluation, parameters and state are those before the step."""
    problem, other = Quadratic(), Quadratic()
    optimizer, reference = (
        IPALM(problem.groups(), lipschitz=200.0),
        IPALM(other.groups(), lipschitz=200.0),
    )
    for _ in range(3):
        optimizer.step(backward_if_asked(problem.loss))
        reference.step(backward_if_asked(other.loss))
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise KeyboardInterrupt
        return backward_if_asked(problem.loss)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert calls == fatal
    assert problem.w.requires_grad
    for _ in range(3):
        optimizer.step(backward_if_asked(problem.loss))
        reference.step(backward_if_asked(other.loss))
    assert torch.equal(problem.w, other.w)
    assert torch.equal(problem.v, other.v)


def test_a_trial_that_overflows_counts_as_a_failure():
    """exp(x²) at the first trial of L is infinite: back-tracking goes on from there."""
    x = torch.full((1,), 3.0, dtype=torch.float64, requires_grad=True)
    optimizer = IPALM([x], inertia=0.0, lipschitz=1e-3)
    for _ in range(200):
        loss = optimizer.step(backward_if_asked(lambda: x.square().exp().sum()))
    assert loss < 8  # from e^9 = 8103; the minimum is 1


def test_recovers_a_model_from_its_samples():
    """Filters up to sign and order, and potentials as densities along unit filters."""
    g = torch.Generator().manual_seed(1)
    truth = _sparse_model(g)
    n = 4000
    x = truth.sample((n,), generator=g)
    sigma = 0.2 * torch.rand(n, generator=g)
    data = (x, x + sigma.reshape(-1, 1, 1, 1) * torch.randn(x.shape, generator=g), sigma)
    start = project_orthogonal(torch.randn(truth.filters.shape, generator=g))
    model = gm.PatchModel(start, torch.zeros_like(truth.experts.logits))
    optimizer = IPALM(
        [
            {"params": [model.filters], "prox": onto_orthogonal},
            {"params": [model.experts.logits]},
        ]
    )
    for _ in range(150):
        optimizer.step(backward_if_asked(lambda: denoising_score_matching(model, *data)))
    cosines = _unit(model.filters) @ _unit(truth.filters).T
    best = cosines.abs().argmax(1)
    assert sorted(best.tolist()) == list(range(8))
    assert cosines.abs().amax(1).min() > 0.98
    for j in range(8):
        assert _total_variation(model, truth, j, int(best[j]), cosines) < 0.1


def _sparse_model(g):
    """Eight different potentials: peaks with heavy tails, of growing width."""
    filters = project_orthogonal(torch.randn(8, 1, 3, 3, generator=g))
    filters = filters / filters.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    means = torch.linspace(-1, 1, 31)
    width = torch.linspace(0.05, 0.3, 8)[:, None]
    return gm.PatchModel(filters, -means.abs() / width)


def _unit(filters):
    rows = filters.detach().flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)


def _total_variation(model, truth, j, other, cosines):
    """½ ∫ |p − q| of the densities of the response along unit filter j, diffused by 0.1."""
    u = torch.linspace(-2, 2, 801)
    densities = []
    for m, k, sign in ((model, j, cosines[j, other].sign()), (truth, other, 1.0)):
        norms = m.filters.detach().flatten(1).norm(dim=1)
        z = torch.zeros(801, 8)
        z[:, k] = sign * u * norms[k]
        log_prob = m.experts.diffuse(0.01 * norms**2).log_prob(z)[:, k]
        densities.append(log_prob.exp() * norms[k])
    return 0.5 * torch.trapezoid((densities[0] - densities[1]).abs(), u).item()


def test_bad_input():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"inertia must lie in \[0, 1\); got 1"):
        IPALM([x], inertia=1.0)
    with pytest.raises(ValueError, match=r"lipschitz must be positive and finite; got 0"):
        IPALM([{"params": [x], "lipschitz": 0.0}])
    with pytest.raises(ValueError, match=r"shrink must lie in \(0, 1\]; got 1.5"):
        IPALM([x], shrink=1.5)
    with pytest.raises(TypeError, match=r"inertia must be a number; got 'much'"):
        IPALM([x], inertia="much")
    with pytest.raises(TypeError, match=r"prox must be a function of \(value, step\); got 3"):
        IPALM([{"params": [x], "prox": 3}])
    optimizer = IPALM([x])
    with pytest.raises(TypeError, match="closure must be a function"):
        optimizer.step(None)
    with pytest.raises(ValueError, match=r"closure must set the gradient.*loss.backward"):
        optimizer.step(lambda: x.sum().detach())
    with pytest.raises(TypeError, match=r"closure must return the loss as a scalar; got shape \(3"):
        optimizer.step(lambda: x)
    with pytest.raises(FloatingPointError, match="closure gave the loss nan"):
        optimizer.step(backward_if_asked(lambda: x.sum() * math.nan))
    with pytest.raises(FloatingPointError, match="closure gave the loss nan"):
        optimizer.step(backward_if_asked(lambda: x.sum() + math.nan))
    flat = IPALM([{"params": [x], "prox": lambda value, step: value.sum()}])
    with pytest.raises(ValueError, match=r"prox must return a tensor of shape \(3,\); got \(\)"):
        flat.step(backward_if_asked(lambda: x.square().sum()))
    assert torch.equal(x, torch.ones(3))
