"""Gaussian priors of whole images, whose posteriors are known in closed form."""

from dataclasses import dataclass

import torch
from models import mixture

import gmdm_prior as gm

SIDE = 4
PIXELS = SIDE * SIDE


@dataclass
class Gaussian:
    """N(mean, axes diag(variances) axesᵀ) of SIDE x SIDE images, in float64."""

    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor

    def coordinates(self, images):
        """Of (B, 1, SIDE, SIDE) images, less the mean, along the axes: (B, PIXELS)."""
        return (images.flatten(1).double() - self.mean) @ self.axes

    def images(self, coordinates):
        return (coordinates @ self.axes.T + self.mean).reshape(-1, 1, SIDE, SIDE)

    def posterior(self, matrix, y, noise):
        """Given y = matrix x + noise."""
        covariance = self.axes @ self.variances.diag() @ self.axes.T
        precision = torch.linalg.inv(covariance) + matrix.T @ matrix / noise**2
        data = torch.linalg.solve(covariance, self.mean) + matrix.T @ y.flatten() / noise**2
        curvatures, axes = torch.linalg.eigh(precision)
        return Gaussian(torch.linalg.solve(precision, data), axes, 1 / curvatures)

    def flow(self, start, sigma, end=0.0):
        """Where the probability flow of its diffusion carries images from level sigma to `end`.

        (x - mean) along an axis of variance v grows as the root of v + sigma².
        """
        ratio = (self.variances + end**2) / (self.variances + sigma**2)
        return self.images(self.coordinates(start) * ratio.sqrt())


def gaussian(model):
    """The Gaussian of a `WaveletModel` of one class without symmetries, from its score."""
    basis = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, 1, SIDE, SIDE)
    at_zero = model.score(torch.zeros_like(basis[:1]), 0.0).flatten()
    precision = at_zero - model.score(basis, 0.0).flatten(1)
    curvatures, axes = torch.linalg.eigh((precision + precision.T) / 2)
    return Gaussian(torch.linalg.solve(precision, at_zero), axes, 1 / curvatures)


def uneven():
    """A Gaussian prior of images with variances from 1e-3 to 1e-1."""
    patches = mixture(SIDE, bases=1, classes=1, symmetries="none").with_mean(0.02)
    return gm.WaveletModel(patches, "db2").requires_grad_(False)


def even(variance):
    """N(1/2, variance) in each pixel."""
    patches = mixture(SIDE, bases=1, classes=1, symmetries="none")
    patches.variances.fill_(variance)
    return gm.WaveletModel(patches.with_mean(variance / PIXELS), "db2").requires_grad_(False)
