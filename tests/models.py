"""Small models with random parameters, shared by the tests: a new model is one line in MODELS."""

import torch

import gmdm_prior as gm
from gmdm_prior.constraints import orthonormalise, project_orthogonal


def product(size=2, filters=None, channels=1, components=9, seed=0):
    """A PatchModel with random orthogonal filters of different norms and uneven weights."""
    g = torch.Generator().manual_seed(seed)
    count = channels * (size**2 - 1) if filters is None else filters
    shape = (count, channels, size, size)
    k = project_orthogonal(torch.randn(shape, generator=g, dtype=torch.float64), steps=50)
    logits = torch.randn(count, components, generator=g, dtype=torch.float64)
    return gm.PatchModel(k, logits).requires_grad_(False)


def mixture(size=2, bases=2, classes=3, channels=1, symmetries="d4", seed=0):
    """A PatchMixture with random bases and variances between 1e-3 and 1e-1."""
    g = torch.Generator().manual_seed(seed)
    j = channels * (size**2 - 1)
    a = torch.randn(bases, j, channels, size, size, generator=g, dtype=torch.float64)
    variances = 10 ** (-3 + 2 * torch.rand(classes, j, generator=g, dtype=torch.float64))
    weights = torch.softmax(torch.randn(classes, generator=g, dtype=torch.float64), 0)
    basis = torch.arange(classes) % bases
    model = gm.PatchMixture(orthonormalise(a), variances, weights, basis, symmetries)
    return model.requires_grad_(False)


MODELS = {
    "product 2x2": lambda: product(2),
    "product of one filter": lambda: product(2, filters=1),
    "product of two filters": lambda: product(2, filters=2),
    "product 3x3": lambda: product(3),
    "product 2x2, two channels": lambda: product(2, channels=2),
    "product with mean": lambda: product(2).with_mean(0.2),
    "mixture 2x2": lambda: mixture(2),
    "mixture 3x3": lambda: mixture(3),
    "mixture 3x3, flips": lambda: mixture(3, symmetries="flips"),
    "mixture 2x2, two channels, no symmetry": lambda: mixture(2, channels=2, symmetries="none"),
    "mixture with mean": lambda: mixture(2).with_mean(0.2),
}


def events(model, count, scale=0.3, seed=1, dtype=torch.float64):
    """Random events around grey, not samples of the model."""
    g = torch.Generator().manual_seed(seed)
    return (
        0.5 + scale * torch.randn(count, *model.event_shape, generator=g, dtype=torch.float64)
    ).to(dtype)


def span(model):
    """Orthonormal rows (J, a) of the subspace on which the density lives (without the mean)."""
    filters = model.filters[0] if model.filters.ndim == 5 else model.filters
    rows = filters.detach().double().flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)
