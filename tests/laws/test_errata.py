"""Where the paper's printed formulas are wrong: the right form holds, the printed one does not."""

import math

import pytest
import torch
from models import product
from test_laws import lattice

import gmdm_prior as gm
from gmdm_prior.constraints import dct_matrix

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


def row_of_pixels(owner, magnitude, logits, pixels, count, reach):
    """A ConvolutionalModel, zero-mean images (N, 1, 1, n) on a lattice, and a cell's volume."""
    zero = torch.zeros(4, 3, dtype=torch.float64)
    model = gm.ConvolutionalModel(owner, zero, magnitude, logits).requires_grad_(False)
    axes = dct_matrix(pixels)[1:]
    line = torch.linspace(-reach, reach, count, dtype=torch.float64)
    places = torch.cartesian_prod(*[line] * (pixels - 1))
    cell = (line[1] - line[0]).item() ** (pixels - 1)
    return model, (places @ axes).reshape(-1, 1, 1, pixels), cell


def test_the_convolutional_model_does_not_diffuse():
    """Theorem 3: two components, one band, three pixels. K maps x onto its band, P x; so does it
    the mean of a component, and exp(-‖(Id - P) mu‖² / 2 s) is left over as a weight. Under true
    diffusion that stays with s = sigma_0², in Eq. 11 it changes with s = sigma_0² + xi² sigma².
    """
    owner = torch.zeros(4, 3, dtype=torch.int64)
    owner[0, 0] = -1
    xi = torch.tensor([1.3], dtype=torch.float64)
    logits = torch.full((1, 9), -500.0, dtype=torch.float64)
    logits[0, [0, 8]] = torch.tensor([0.4, 0.0], dtype=torch.float64)  # at -1 and at 1
    model, x, _ = row_of_pixels(owner, xi, logits, 3, 241, 5.0)
    base, sigma = model.experts.base_scale**2, 0.8
    clean = model.log_prob(x, 0.0)
    y = x[::307]
    y = y[y.flatten(1).norm(dim=1) < 2]
    distance = (y.flatten(1)[:, None] - x.flatten(1)).square().sum(2)
    diffused = torch.logsumexp(clean - distance / (2 * sigma**2), 1)

    weight = model.experts.weights[0, [0, 8]]
    choice = torch.cartesian_prod(*[torch.tensor([0, 1])] * 3)
    mu = 2.0 * choice - 1
    projected = mu - mu.mean(1, keepdim=True)
    own = weight[choice].log().sum(1) - (mu - projected).square().sum(1) / (2 * base)
    spread = base / xi**2 + sigma**2
    away = (y.flatten(1)[:, None] - projected / xi).square().sum(2)
    right = torch.logsumexp(own - away / (2 * spread), 1)

    def misses(log_density):
        return (diffused - log_density - (diffused - log_density).mean()).abs().max()

    assert misses(right) < 1e-9
    assert misses(model.log_prob(y, sigma)) > 0.1


def test_the_constant_of_the_convolutional_model_depends_on_the_level():
    """Footnote 3: one component, four pixels, bands of two and of one frequency. Z is prod_j
    (2 pi s_j)^(-(n - r_j) / 2) xi_j^-r_j, which no normaliser that is free of t can undo.
    """
    owner = torch.zeros(4, 3, dtype=torch.int64)
    owner[:, 2] = 1
    owner[0, 0] = -1
    xi = torch.tensor([1.3, 0.8], dtype=torch.float64)
    logits = torch.tensor([[-500.0, 0.0, -500.0]], dtype=torch.float64).expand(2, 3)
    model, x, cell = row_of_pixels(owner, xi, logits, 4, 41, 12.0)
    masses = []
    for sigma in (0.0, 0.7):
        s = model.experts.base_scale**2 + xi.square() * sigma**2
        owned = torch.tensor([2.0, 1.0], dtype=torch.float64)
        right = ((2 * math.pi * s) ** (-(4 - owned) / 2) * xi**-owned).prod().item()
        masses.append(model.log_prob(x, sigma).exp().sum().item() * cell)
        assert masses[-1] == pytest.approx(right, rel=1e-6)
    assert masses[1] < 0.5 * masses[0]
