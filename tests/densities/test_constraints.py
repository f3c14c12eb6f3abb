"""Projections: feasible, optimal where that can be enumerated, critical at their fixed points."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmdm_prior.constraints import (
    orthonormalise,
    polar_factor,
    project_orthogonal,
    project_simplex,
    zero_mean,
    zero_mean_basis,
)


def random_filters(count, size=4, channels=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=g, dtype=torch.float64)


def objective(k, projected):
    return (k - projected).square().sum().item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("count", "channels"), [(15, 1), (7, 1), (30, 2)])
def test_rows_are_orthogonal_zero_mean_and_long_enough(count, channels, dtype):
    k = random_filters(count, channels=channels).to(dtype)
    k[0] = 0  # a zero filter has no direction of its own and keeps the smallest norm
    p = project_orthogonal(k, floor=1e-2)
    rows = p.double().flatten(1)
    norms = rows.norm(dim=1)
    cosines = (rows @ rows.T) / norms / norms[:, None] - torch.eye(count)
    assert cosines.abs().max() < 1e-6
    assert p.double().mean((-2, -1)).abs().max() < 1e-7
    assert norms.min() > 1e-2 - 1e-8
    assert p.dtype == dtype
    assert p.shape == k.shape


def test_a_rank_deficient_matrix_leaks_no_mean():
    """Fails where the polar factor is taken of raw patches: null directions carry a mean."""
    k = zero_mean(random_filters(15))
    k[5:] = k[:10].clone()
    assert project_orthogonal(k).mean((-2, -1)).abs().max() < 1e-12


def test_the_objective_falls_at_every_step():
    k = zero_mean(random_filters(15, seed=1))
    values = [objective(k, project_orthogonal(k, steps=b)) for b in range(1, 40)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] < values[0] - 1e-3


def test_is_idempotent():
    once = project_orthogonal(random_filters(15))
    torch.testing.assert_close(project_orthogonal(once), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_is_the_best_of_all_rotations_in_two_dimensions(seed):
    """Two filters in a plane: a fine grid of rotations and reflections O, D in closed form."""
    g = torch.Generator().manual_seed(seed)
    k = torch.randn(2, 2, generator=g, dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)
    best = math.inf
    for sign in (1, -1):
        o = torch.stack([angle.cos(), angle.sin(), -sign * angle.sin(), sign * angle.cos()], 1)
        d = (o.reshape(-1, 2, 2) * k).sum(2).clamp(min=1e-3)
        best = min(
            best,
            (
                k.square().sum()
                - 2 * (d * (o.reshape(-1, 2, 2) * k).sum(2)).sum(1)
                + d.square().sum(1)
            )
            .min()
            .item(),
        )
    reached = objective(k, project_orthogonal(k, steps=50, zero_mean=False))
    assert reached < best + 1e-6


def test_tangent_gradient_vanishes_at_the_fixed_point():
    """Appendix A: f(O) = -sum <o_j, k_j>² is critical along SO(n), so D K Oᵀ is symmetric there."""
    k = zero_mean(random_filters(15, seed=2))
    p = project_orthogonal(k, steps=20_000).flatten(1)
    d = p.norm(dim=1)
    o = p / d[:, None]
    gradient = d[:, None] * (k.flatten(1) @ o.T)
    assert (gradient - gradient.T).abs().max() < 1e-8
    early = project_orthogonal(k, steps=1).flatten(1)
    d = early.norm(dim=1)
    gradient = d[:, None] * (k.flatten(1) @ (early / d[:, None]).T)
    assert (gradient - gradient.T).abs().max() > 1e-3


def test_algorithm_1_as_printed_cannot_hold():
    """U of size J x a with J < a has no orthonormal columns: Uᵀ U = Id_a is impossible."""
    u = polar_factor(random_filters(15).flatten(1))
    torch.testing.assert_close(u @ u.T, torch.eye(15, dtype=torch.float64))
    assert torch.linalg.matrix_rank(u.T @ u) == 15 < u.shape[1]


def test_orthonormalise_gives_the_nearest_zero_mean_basis():
    noisy = zero_mean_basis(1, 4).reshape(1, 15, 1, 4, 4) + 1e-4 * random_filters(15)[None]
    rows = orthonormalise(noisy).flatten(2)[0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(15, dtype=torch.float64))
    assert rows.sum(1).abs().max() < 1e-12
    assert (rows - noisy.flatten(2)[0]).abs().max() < 1e-3


def test_zero_mean_basis_is_one():
    basis = zero_mean_basis(3, 4)
    assert basis.shape == (45, 48)
    torch.testing.assert_close(basis @ basis.T, torch.eye(45, dtype=torch.float64))
    assert basis.reshape(45, 3, 16).sum(2).abs().max() < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_simplex_projection_is_feasible_and_optimal(values):
    """Optimal: <w - p, q - p> <= 0 for every vertex q of the simplex."""
    w = torch.tensor(values, dtype=torch.float64)
    p = project_simplex(w)
    assert p.min() >= 0
    assert abs(p.sum().item() - 1) < 1e-9
    vertices = torch.eye(len(w), dtype=torch.float64)
    assert ((vertices - p) @ (w - p)).max() < 1e-6


def test_simplex_projection_row_by_row():
    w = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for row, p in zip(w, project_simplex(w), strict=True):
        torch.testing.assert_close(project_simplex(row), p)


@pytest.mark.parametrize(
    ("filters", "options", "match"),
    [
        (torch.zeros(4, 1, 2, 2), {}, "3 zero-mean"),
        (torch.zeros(3, 2), {"zero_mean": False}, "2 dimensions"),
        (torch.zeros(3), {}, "filters must be"),
        (torch.full((2, 1, 2, 2), math.nan), {}, "finite"),
        (torch.ones(2, 1, 2, 2), {"steps": 0}, "steps"),
        (torch.ones(2, 1, 2, 2), {"floor": 0.0}, "floor"),
    ],
)
def test_refuses_what_cannot_be_projected(filters, options, match):
    with pytest.raises(ValueError, match=match):
        project_orthogonal(filters, **options)
