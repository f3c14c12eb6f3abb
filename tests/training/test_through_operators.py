"""Training through HQS with random operators: the operators, the steps, their gradients."""

import dataclasses
import math

import pytest
import torch
from models import mixture, product
from training_examples import pictures, seeded

from gmdm_prior.images.averaging import PatchAveraging
from gmdm_prior.training import FitSettings, fit
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.measure import draw as draw_held_out
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score import through_operators
from gmdm_prior.training.score.operators import (
    Convolution,
    Pixels,
    random_blur,
    random_down_sampling,
    random_mask,
)
from gmdm_prior.training.score.through_operators import (
    Denoising,
    Inverse,
    MixTrainer,
    conjugate_gradients,
    draw,
    mean_error,
    model_at,
    planned,
)

EXTENT = (12, 24)
RANDOM = {"mask": random_mask, "blur": random_blur, "down-sampling": random_down_sampling}


@pytest.fixture(params=[(name, seed) for name in RANDOM for seed in range(4)], ids=str)
def operator(request):
    """One in float64: its own numbers, rounded to single precision, are as good as any."""
    name, seed = request.param
    found = RANDOM[name](EXTENT, seeded(seed))
    if isinstance(found, Pixels):
        return Pixels(found.mask.double())
    kernel = torch.fft.irfft2(found.transfer, s=EXTENT).double()
    return Convolution(kernel, found.factor)


def matrix(operator):
    """A, column by column."""
    units = torch.eye(EXTENT[0] * EXTENT[1], dtype=torch.float64).unflatten(1, (1, *EXTENT))
    return torch.stack([operator(unit).flatten() for unit in units], 1)


def test_operators_are_their_matrices(operator):
    dense = matrix(operator)
    g = seeded(1)
    x = torch.randn(1, *EXTENT, dtype=torch.float64, generator=g)
    y = torch.randn(operator(x).shape, dtype=torch.float64, generator=g)
    torch.testing.assert_close(operator.adjoint(y).flatten(), dense.T @ y.flatten())
    torch.testing.assert_close(torch.linalg.matrix_norm(dense, 2), dense.new_tensor(1.0))
    square = dense.T @ dense
    q, r, diagonal = operator.measured
    count = len(square)
    assert q == pytest.approx(float(square.trace()) / count)
    assert r == pytest.approx(float(square.square().sum() / square.trace()))
    assert diagonal == pytest.approx(float(square.diagonal().square().mean()))


def test_data_step_is_the_minimum(operator):
    """Of ‖A x - y‖² + shift ‖x - z‖², by a dense solve."""
    dense, shift = matrix(operator), 0.03
    g = seeded(1)
    z = torch.randn(1, *EXTENT, dtype=torch.float64, generator=g)
    y = operator(torch.randn(1, *EXTENT, dtype=torch.float64, generator=g))
    right = dense.T @ y.flatten() + shift * z.flatten()
    expected = torch.linalg.solve(dense.T @ dense + shift * torch.eye(len(right)), right)
    torch.testing.assert_close(operator.data_step(z, y, shift).flatten(), expected)


def test_gradients_flow_through_data_steps(operator):
    z = torch.randn(1, *EXTENT, dtype=torch.float64, generator=seeded(1)).requires_grad_(True)
    y = operator(torch.ones_like(z).detach())
    torch.autograd.gradcheck(lambda z: operator.data_step(z, y, 0.1), z, fast_mode=True)


def test_operators_are_of_all_sorts():
    g = seeded(0)
    masks = [random_mask((96, 96), g).mask for _ in range(60)]
    shares = torch.stack([mask.mean() for mask in masks])
    assert 0.25 < shares.min() < 0.4
    assert shares.max() > 0.8
    together = [bool((mask[::4, ::4] == mask[1::4, 1::4]).all()) for mask in masks]
    assert 15 < sum(together) < 45  # squares of 4, 8 or 12 pixels
    factors = {random_down_sampling((96, 96), g).factor for _ in range(30)}
    assert factors == {2, 3, 4}
    assert {random_down_sampling((10, 14), g).factor for _ in range(9)} == {2}
    assert random_down_sampling((11, 13), g).factor == 1
    seen = [random_blur((96, 96), g).measured[0] for _ in range(40)]
    assert min(seen) < 0.04
    assert max(seen) > 0.15


def test_conjugate_gradients_solve():
    g = seeded(0)
    factor = torch.randn(20, 20, dtype=torch.float64, generator=g)
    a, b = factor @ factor.T + 5 * torch.eye(20), torch.randn(20, generator=g).double()
    found = conjugate_gradients(lambda x: a @ x, b)
    assert (a @ found - b).norm() <= 1e-3 * b.norm()


@pytest.mark.parametrize("name", RANDOM)
def test_the_plan_is_that_of_the_adapter(name):
    """First iterate, levels and weight of the solver with no knob, for the same operator."""
    deepinv = pytest.importorskip("deepinv")
    half_quadratic = pytest.importorskip("deepinv_gmdm.half_quadratic")
    solver_config = pytest.importorskip("deepinv_gmdm.solver_config")
    operator, sigma = RANDOM[name]((48, 48), seeded(2)), 0.02
    clean = pictures(1, shape=(1, 48, 48))[0]
    measured = operator(clean) + sigma * torch.randn(operator(clean).shape, generator=seeded(3))
    if isinstance(operator, Pixels):
        measured = operator(measured)
    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: operator(x[0])[None], A_adjoint=lambda y, **_: operator.adjoint(y[0])[None]
    )
    solver = half_quadratic.HalfQuadratic(
        torch.nn.Identity(), solver_config.SolverConfig(), sigma=sigma
    )
    plan = solver.plan(measured[None], physics)
    start, levels, weight = planned(operator, measured, sigma)
    assert (start - plan.start[0]).abs().max() < 2e-3
    # the adapter reads off the operator with a random probe what is exact here
    assert levels[0] == pytest.approx(plan.levels[0], rel=0.1)
    assert levels[-1] == pytest.approx(plan.levels[-1], rel=0.1)
    assert len(levels) == pytest.approx(len(plan.levels), abs=4)
    assert weight == pytest.approx(plan.weight, rel=0.25)


def problems(kinds=(0, 1, 2, 3), size=3, dtype=torch.float64):
    g, found = seeded(4), []
    for kind, clean in zip(kinds, pictures(len(kinds), shape=(1, 24, 20)), strict=True):
        problem = draw(clean.to(dtype), kind, size, kind, g)
        found.append(problem)
    return found


@pytest.mark.parametrize("kind", range(4))
def test_summed_gradient_is_that_of_finite_differences(kind, monkeypatch):
    """In float64, with gradients through every step: along a random direction of parameters."""

    def at(plain):
        return lambda sigma: plain.at(torch.tensor(sigma * sigma, dtype=torch.float64))

    monkeypatch.setattr(through_operators, "RECORDED", 1000)
    monkeypatch.setattr(through_operators, "model_at", at)
    model, (problem,), g = mixture(3).trainable(), problems([kind]), seeded(5)
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in parameters]
    result = mean_error(model, [[problem]])
    torch.autograd.backward(result.tensors, result.gradients)
    slope = sum(float((d * p.grad).sum()) for d, p in zip(directions, parameters, strict=True))

    def loss_at(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        return mean_error(model, [[problem]]).loss

    step = 1e-5
    difference = loss_at(step) - loss_at(-2 * step)
    assert abs(slope) > 1e-4
    assert slope == pytest.approx(difference / (2 * step), rel=1e-5)


def test_groups_are_a_mean_in_decibels_of_squared_errors_that_add_up():
    model, given = mixture(3).trainable(), problems(dtype=torch.float32)
    each = [mean_error(model, [[problem]]) for problem in given]
    both = mean_error(model, [given[:3], given[3:]])
    squares = [10 ** (one.loss / 10) for one in each]
    sizes = [p.clean[:, 2:-2, 2:-2].numel() for p in given]
    pooled = sum(s * n for s, n in zip(squares[:3], sizes[:3], strict=True)) / sum(sizes[:3])
    assert both.loss == pytest.approx((10 * math.log10(pooled) + each[3].loss) / 2)
    shares = [s * n / (pooled * sum(sizes[:3])) for s, n in zip(squares, sizes, strict=True)]
    shares[3] = 1.0
    for i, gradient in enumerate(both.gradients):
        expected = sum(f * one.gradients[i] / 2 for f, one in zip(shares, each, strict=True))
        torch.testing.assert_close(gradient, expected)


def test_crops_of_one_seed_have_the_operator_in_common():
    first, second = pictures(2, shape=(1, 24, 24))
    one, other, apart = (
        draw(x, 1, 3, n, seeded(n)) for x, n in ((first, 1), (second, 1), (first, 2))
    )
    assert torch.equal(one.operator.transfer, other.operator.transfer)
    assert (one.sigma, one.stride, one.place) == (other.sigma, other.stride, other.place)
    assert not torch.equal(one.operator.transfer, apart.operator.transfer)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_where_gradients_begin_does_not_change_the_steps(place):
    """A prefix runs by the compiled kernel; a level is that of the model either way."""
    model, (problem,) = mixture(4).float(), problems([2], 4, torch.float32)
    problem = dataclasses.replace(problem, place=place, stride=2)  # whose grid moves
    _, levels, weight = planned(problem.operator, problem.measured, problem.sigma)
    start = planned(problem.operator, problem.measured, problem.sigma)[0]
    end = round(place * (len(levels) - 4)) + 4
    average, numbers = PatchAveraging(model, stride=2), []

    def mean(u, level, step):
        numbers.append(step)
        return average(u[None], level, step)[0]

    x, _ = problem.steps((start, start), levels[:end], weight, mean)
    assert numbers == list(range(end))
    found = problem.restored(model_at(model), average)
    torch.testing.assert_close(found, x[:, 3:-3, 3:-3], rtol=0, atol=1e-5)
    assert len(levels) > 8


def test_a_quarter_of_the_crops_is_denoised():
    found = problems(range(4))
    assert [type(problem) for problem in found] == [Denoising, Inverse, Inverse, Inverse]
    kinds = [type(problem.operator) for problem in found[1:]]
    assert kinds == [Convolution, Pixels, Convolution]


def settings(**changes):
    given = {"method": "hqs", "physics": "mix", "patch_size": 3, "steps": 6, "crops": 4}
    return FitSettings(**(given | changes))


def test_training_lowers_the_error_on_other_pictures():
    run = MixTrainer(
        ImagePool.of(pictures(6, shape=(1, 36, 36))), settings(), mixture(3).float(), "hqs"
    )
    held_out = draw_held_out(ImagePool.of(pictures(4, seed=7, shape=(1, 30, 30))), settings())
    held_out = dataclasses.replace(held_out, crops=held_out.crops[:4])
    first = run.held_out_loss(held_out, run.model())
    losses = [run.advance() for _ in range(6)]
    assert all(math.isfinite(loss) for loss in losses)
    assert run.held_out_loss(held_out, run.model()) < first - 0.02


def test_refuses_other_methods_and_models():
    with pytest.raises(ValueError, match=r"physics must be one of none, mix; got 'blur'"):
        resolved(settings(physics="blur"))
    for change in ({"method": "score"}, {"method": "em"}, {"model": "patch"}):
        wanted = r"physics=mix needs method=hqs and model=mixture; got method="
        with pytest.raises(ValueError, match=wanted):
            resolved(settings(**change))
    with pytest.raises(ValueError, match=r"physics=mix needs .* model=patch: leave physics out"):
        list(fit(pictures(), pictures(1), settings(), init=product(3).float()))
