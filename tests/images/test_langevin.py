"""Langevin sampling: the law of the chain where it is known, its discretisation included."""

import math

import pytest
import torch
from models import mixture
from test_convolutional import conv, gaussian

import gmdm_prior as gm
from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.images.langevin import geometric_levels, langevin

SIGMA, STEP = 0.3, 0.5


def one_class(size=2):
    """A PatchMixture of a single Gaussian, without symmetries."""
    a = zero_mean_basis(1, size).reshape(1, -1, 1, size, size)
    variances = torch.linspace(0.02, 0.2, size**2 - 1, dtype=torch.float64)[None]
    one, basis = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    return gm.PatchMixture(a, variances, one, basis, "none").requires_grad_(False)


def precision(density, size):
    """Minus the Hessian (n, n) of a Gaussian log-density, and its mode in the zero-mean space."""
    n = size[0] * size[1]
    at = torch.zeros(1, 1, *size, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: density.score(v, SIGMA))(at).reshape(n, n)
    return -jacobian


GAUSSIANS = {
    "convolutional": (lambda: gaussian(3, 8, 0.7), (4, 4), 2000, 8),
    "overlapping patches": (lambda: gm.PatchLikelihood(one_class()), (4, 3), 200, 12),
    "overlapping patches inside": (
        lambda: gm.PatchLikelihood(one_class(), "valid"),
        (4, 3),
        200,
        12,
    ),
}


@pytest.mark.parametrize("name", GAUSSIANS)
def test_chains_of_a_gaussian_have_the_known_law(name):
    """Along an eigenvector of curvature kappa, after m steps from d: mean (1 - h kappa)^m d and
    variance (1 - (1 - h kappa)^2m) / (kappa (1 - h kappa / 2)), which is stationary for large m.
    """
    make, size, count, steps = GAUSSIANS[name]
    density = make()
    kappa, axes = torch.linalg.eigh(precision(density, size))
    assert kappa[0].abs() < 1e-9  # the mean
    assert (axes[:, 0] - axes[0, 0]).abs().max() < 1e-6
    assert kappa[1:].min() > 1e-3
    assert kappa.max().item() <= density.lipschitz(SIGMA) * (1 + 1e-9)
    kappa, axes = kappa[1:], axes[:, 1:]
    factor = 1 - STEP / density.lipschitz(SIGMA) * kappa
    start = 0.7 + (axes.sum(1) * 20).reshape(1, 1, *size).expand(count, -1, -1, -1)
    x = langevin(density, start, [SIGMA], steps, STEP, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean((-2, -1)), start.mean((-2, -1)), rtol=0, atol=1e-9)
    along = (x - 0.7).flatten(1) @ axes
    variance = 2 / (kappa * (1 + factor)) * (1 - factor ** (2 * steps))
    z = (along.mean(0) - 20 * factor**steps) / (variance / count).sqrt()
    assert z.abs().max() < 4.5
    error = (along.var(0) / variance - 1) / math.sqrt(2 / count)
    assert error.abs().max() < 4.5
    assert factor.min() ** (2 * steps) < 0.01  # the stiffest direction has become stationary


def test_the_mean_walks_where_it_is_not_held():
    density = conv()
    start = torch.zeros(400, 1, 3, 3, dtype=torch.float64)
    h = STEP / density.lipschitz(SIGMA)
    g = torch.Generator().manual_seed(0)
    x = langevin(density, start, [SIGMA], 10, STEP, g, keep_mean=False)
    spread = x.mean((-2, -1)).var().item()
    assert spread == pytest.approx(10 * 2 * h / 9, rel=0.3)


def test_a_proper_mean_is_sampled_too():
    """A model of patches is a density of its own events; with_mean makes it proper."""
    model = one_class().with_mean(0.05)
    start = torch.full((2000, 1, 2, 2), 0.5, dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    x = langevin(model, start, [SIGMA], 60, 0.3, g, keep_mean=False)
    total = 0.05 * 4 + SIGMA**2  # of the mean's orthonormal coordinate
    h = 0.3 / model.lipschitz(SIGMA)
    expected = total / (1 - h / total / 2) / 4 * (1 - (1 - h / total) ** 120)
    assert x.mean((-2, -1)).var().item() == pytest.approx(expected, rel=0.12)


def test_one_seed_one_sample_and_the_start_stays():
    density, start = conv(), torch.randn(2, 1, 6, 5, dtype=torch.float64)
    kept = start.clone()

    def draw(seed):
        return langevin(
            density, start, [0.3, 0.1], 5, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(draw(3), draw(3))
    assert (draw(3) - draw(4)).abs().max() > 0.01
    assert torch.equal(start, kept)
    assert draw(3).dtype == torch.float64
    single = langevin(gm.PatchLikelihood(mixture(2)), start.float(), [0.1], 2)
    assert single.dtype == torch.float32


def test_annealing_reaches_the_modes_that_a_cold_chain_misses():
    """Two far modes: started at one, the chain at the last level stays there."""
    filters = zero_mean_basis(1, 2)[:1].reshape(1, 1, 2, 2) * 2
    logits = torch.full((1, 9), -1e3, dtype=torch.float64)
    logits[0, [0, 8]] = 0.0
    model = gm.PatchModel(filters, logits).requires_grad_(False)
    start = filters.expand(600, 1, 2, 2) / 4
    assert (start.flatten(1) @ filters.flatten() > 0.99).all()

    def share(levels):
        g = torch.Generator().manual_seed(0)
        x = langevin(model, start, levels, 150 // len(levels), 0.3, g)
        return (x.flatten(1) @ filters.flatten() > 0).double().mean().item()

    assert share([0.02]) > 0.95
    assert share(geometric_levels(1.0, 0.02, 10)) == pytest.approx(0.5, abs=0.08)


def test_levels_fall_by_one_factor():
    levels = geometric_levels(0.8, 0.1, 4)
    assert levels == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert geometric_levels(0.8, 0.1, 1) == [0.1]
    for bad in [(0.1, 0.8, 4), (0.8, 0.0, 4), (0.8, 0.1, 0), (math.inf, 0.1, 2)]:
        with pytest.raises(ValueError, match="highest"):
            geometric_levels(*bad)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"density": torch.nn.Linear(2, 2)}, TypeError, "score"),
        ({"start": torch.zeros(1, 1, 4, 4, dtype=torch.int64)}, TypeError, "floating"),
        ({"start": [0.0]}, TypeError, "start"),
        ({"sigmas": []}, ValueError, "at least one"),
        ({"sigmas": [0.1, -0.1]}, ValueError, "not negative"),
        ({"sigmas": [0.1, 0.2]}, ValueError, "fall"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 2.5}, ValueError, "steps"),
        ({"step": 0.0}, ValueError, "step"),
        ({"step": 1.5}, ValueError, "step"),
        ({"start": torch.full((1, 1, 4, 4), math.nan)}, FloatingPointError, "not finite"),
    ],
)
def test_refuses_what_cannot_be_sampled(change, error, match):
    arguments = {"density": conv(), "start": torch.zeros(1, 1, 4, 4), "sigmas": [0.1], "steps": 2}
    with pytest.raises(error, match=match):
        langevin(**{**arguments, **change})
