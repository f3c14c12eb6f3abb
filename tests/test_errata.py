"""Where the paper's printed formulas are wrong: the right form holds, the printed one does not."""

import math

import pytest
import torch
from models import product
from test_laws import lattice

NARROW = 5  # components of a small expert


def one_component(model, choice):
    """Unnormalised log-density of Theorem 1's component with mean `choice[j]` in expert j."""
    means = model.experts.means
    width = model.experts.base_scale

    def log_prob(x):
        z = torch.einsum("nchw,jchw->nj", x, model.filters)
        return -0.5 * ((z - means[choice]) / width).square().sum(1)

    return log_prob


def test_component_means_carry_the_inverse_variance():
    """Theorem 1: mean = Σ_a Σ_j k_j μ_j / σ_0²; printed without the 1 / σ_0²."""
    model = product(2, filters=2, components=NARROW)
    k = model.filters.flatten(1)
    variance = model.experts.base_scale**2
    choice = torch.tensor([1, 3])
    covariance = torch.linalg.pinv(k.T @ k / variance)
    printed = covariance @ k.T @ model.experts.means[choice]
    x, _ = lattice(model, 801, 4.0)
    weights = torch.softmax(one_component(model, choice)(x), 0)
    mean = weights @ x.flatten(1)
    torch.testing.assert_close(mean, printed / variance, rtol=0, atol=1e-6)
    assert (mean - printed).norm() > 0.5 * mean.norm()


def test_the_normaliser_is_the_product_of_the_norms():
    """Corollary 2.1 prints Π ‖k_j‖²; with it the density integrates to Π ‖k_j‖."""
    model = product(2, filters=2, components=NARROW)
    x, cell = lattice(model, 801, 5.0)
    mass = model.log_prob(x, 0.1).exp().sum().item() * cell.item()
    norms = model.filters.flatten(1).norm(dim=1).prod().item()
    assert mass == pytest.approx(1, abs=1e-6)
    assert abs(mass * norms - 1) > 0.1


def test_the_loss_needs_its_square():
    """Eq. 4: the printed E‖x - c‖ is least at a median; its square at the posterior mean."""
    model = product(2, filters=1, components=3)
    y = 0.2 * model.filters / model.filters.norm()
    x, _ = lattice(model, 4001, 4.0)
    distance = (x - y).flatten(1).square().sum(1)
    weights = torch.softmax(model.log_prob(x, 0.0) - distance / (2 * 0.8**2), 0)
    unit = (model.filters / model.filters.norm()).flatten()
    along = x.flatten(1) @ unit

    def best(loss):
        candidates = torch.linspace(-1, 1, 2001, dtype=torch.float64)
        values = torch.stack([(weights * loss(along - c)).sum() for c in candidates])
        return candidates[values.argmin()].item()

    mean = (model.denoise(y, 0.8).flatten() @ unit).item()
    assert best(lambda d: d.square()) == pytest.approx(mean, abs=1e-3)
    assert abs(best(lambda d: d.abs()) - mean) > 0.01  # ten steps of the grid
    assert math.isfinite(mean)
