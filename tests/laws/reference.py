"""Slow and obvious densities by the book, never optimised: what the fast code is tested against."""

import math

import torch
from scipy import optimize

from gmdm_prior import symmetry


def normal(x, mean, variance):
    """Density of a one-dimensional Gaussian."""
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def product_density(model, patch, sigma):
    """Eqs. 5 and 6 with the normaliser prod ‖k_j‖, one component at a time."""
    weights = torch.softmax(model.experts.logits, 1)
    count = weights.shape[1]
    density = 1.0
    for filter_, row in zip(model.filters, weights, strict=True):
        norm2 = float((filter_**2).sum())
        z = float((filter_ * patch).sum())
        variance = (2 / (count - 1)) ** 2 + norm2 * sigma**2
        means = [-1 + 2 * i / (count - 1) for i in range(count)]
        expert = sum(float(w) * normal(z, m, variance) for w, m in zip(row, means, strict=True))
        density *= math.sqrt(norm2) * expert
    return density


def mixture_density(model, patch, sigma):
    """DESIGN's mixture: turn the patch, not the basis."""
    elements = symmetry.group(model.symmetries)
    density = 0.0
    for q in elements:
        turned = symmetry.act(patch, q)
        for weight, variances, g in zip(model.weights, model.variances, model.basis, strict=True):
            product = float(weight) / len(elements)
            for row, v in zip(model.filters[g], variances, strict=True):
                product *= normal(float((row * turned).sum()), 0.0, float(v) + sigma**2)
            density += product
    return density


def patch_average(image, size, denoise, boundary):
    """EB-PA patch by patch: (H, W) numpy-style loops, every pixel the mean of its b² estimates."""
    height, width = image.shape
    total = torch.zeros_like(image)

    def place(i, length):
        if boundary == "circular":
            return i % length
        i = i % (2 * length - 2)
        return min(i, 2 * length - 2 - i)

    for top in range(-(size - 1), height):
        for left in range(-(size - 1), width):
            rows = [place(top + i, height) for i in range(size)]
            columns = [place(left + i, width) for i in range(size)]
            clean = denoise(image[rows][:, columns])
            for i in range(size):
                for j in range(size):
                    if 0 <= top + i < height and 0 <= left + j < width:
                        total[top + i, left + j] += clean[i, j]
    return total / size**2


def minimiser_of(fidelity, prior, level, y, physics):
    """argmin of a data term and a prior, over images like the measurements, by L-BFGS."""

    def value_and_slope(flat):
        x = torch.from_numpy(flat).reshape(y.shape)
        value = fidelity(x, y, physics) + prior(x, level)
        slope = fidelity.grad(x, y, physics) + prior.grad(x, level)
        return float(value), slope.flatten().numpy()

    options = {"gtol": 1e-5, "ftol": 0, "maxiter": 400, "maxcor": 30}
    start = y.flatten().numpy()
    found = optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    assert abs(found.jac).max() < 1e-4
    return torch.from_numpy(found.x).reshape(y.shape)
