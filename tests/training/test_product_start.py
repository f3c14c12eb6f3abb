"""The likelihood start of the product model: a density that fits its own marginals."""

import itertools

import pytest
import torch
from models import product

from gmdm_prior.constraints import orthonormalise
from gmdm_prior.training.ipalm import start as product_start
from gmdm_prior.training.ipalm.product import initial_product
from gmdm_prior.training.ipalm.start import likelihood_start
from gmdm_prior.training.likelihood.marginals import fit_weights


def sparse_patches(count, seed=0):
    """Samples of a product with three peaked experts on 2x2 patches."""
    model = product(2, components=9, seed=3)
    return model.sample((count,), generator=torch.Generator().manual_seed(seed))


def test_filters_are_principal_axes_that_fit_their_experts():
    x = sparse_patches(20_000)
    model = likelihood_start(x, components=33, rotations=0)
    k = model.filters.double().flatten(1)
    z = x.flatten(1) @ k.T
    covariance = z.T @ z / len(z)
    size = covariance.diagonal().sqrt()
    correlation = covariance / size / size[:, None] - torch.eye(3)
    assert correlation.abs().max() < 1e-3
    assert ((z.abs() > 0.95).double().mean(0) < 3e-4).all()
    assert (z.abs().amax(0) > 0.8).all()


def independent_sparse(count, seed=0):
    """Three independent Laplace responses of equal variance: no axis is principal."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(1, 3, 1, 2, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    rows = orthonormalise(a).flatten(2)[0]
    signs = torch.randint(2, (count, 3), generator=g) * 2 - 1
    u = 0.05 * signs * -torch.rand(count, 3, generator=g, dtype=torch.float64).log()
    return (u @ rows).reshape(-1, 1, 2, 2), rows


def test_rotations_find_independent_directions():
    """Up to sign and order; principal axes cannot tell directions of equal variance apart."""
    x, rows = independent_sparse(30_000)

    def worst(model):
        k = model.filters.double().flatten(1)
        cosines = (k / k.norm(dim=1, keepdim=True)) @ rows.T
        return cosines.abs().amax(0).min().item()

    assert worst(likelihood_start(x, rotations=0)) < 0.97
    assert worst(likelihood_start(x, rotations=30)) > 0.999


def test_rotations_never_lower_the_likelihood():
    x, _ = independent_sparse(5000)
    u = (x.flatten(1).float()) @ product_start.zero_mean_basis(1, 2).T.float()
    basis = product_start.principal_axes(u)
    norms, weights = product_start.fit_marginals(u @ basis.T, 33, 1.0)
    table = product_start.tabulated(norms, weights, 1.0)
    values = [product_start.log_likelihood(basis @ u.T, norms, table)]
    for _ in range(10):
        basis = product_start.rotated(basis, u, norms, table)
        values.append(product_start.log_likelihood(basis @ u.T, norms, table))
    assert all(b >= a for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1e-3
    assert (basis @ basis.T - torch.eye(3)).abs().max() < 1e-5


def test_weights_are_a_maximum_of_the_likelihood():
    """At the optimum the gradient in the simplex is the same for every component in use."""
    z = sparse_patches(20_000).flatten(1)[:, :1] * 0.5
    weights = fit_weights(z, 9, 1.0)
    means = torch.linspace(-1, 1, 9, dtype=torch.float64)
    density = (-0.5 * ((z - means) / 0.25).square()).exp()
    gradient = (density / (density @ weights.T)).mean(0)
    used = weights[0] > 1e-3
    # EM is a slow climber: within a few percent of 1 after a hundred iterations
    assert (gradient[used] - 1).abs().max() < 0.03
    assert gradient.max() < 1.1
    assert (weights.sum(1) - 1).abs().max() < 1e-12


def test_fits_held_out_patches_better_than_the_random_start():
    held_out = sparse_patches(5000, seed=1).float()
    start = likelihood_start(sparse_patches(20_000))
    chance = initial_product(2, generator=torch.Generator().manual_seed(0))
    for sigma in (0.0, 0.1):
        gain = start.log_prob(held_out, sigma).mean() - chance.log_prob(held_out, sigma).mean()
        assert gain > 0.5


@pytest.mark.parametrize(
    ("patches", "match"),
    [
        (torch.zeros(9, 2, 2), "patches must be"),
        (torch.rand(2, 1, 2, 2), "at least 3"),
        (torch.full((9, 1, 2, 2), 0.5), "contrast"),
    ],
)
def test_refuses_what_it_cannot_start_from(patches, match):
    with pytest.raises(ValueError, match=match):
        likelihood_start(patches)
