"""EPLL's patch step: each patch becomes the mode under its likeliest class, averaged over overlaps.

Zoran and Weiss (2011), with a mixture of Gaussians N(0, Σ_k) of weights p_k of patches around
`GRAY`: the class of a noisy patch y maximises p_k N(y; 0, Σ_k + s²), its mode is
Σ_k (Σ_k + s²)⁻¹ y. EPLL is half-quadratic splitting around this (`lib/split.py`); deepinv's takes
the same step from inverse covariances, three times slower and of one channel only.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.rivals import GRAY, read_mixture

ROWS = 256  # patches at a time: what fits a cache


@dataclass(frozen=True)
class PatchMap:
    """A denoiser of gray images by a mixture, in the bases of its classes.

    Attributes:
        weights: (K,).
        variances: eigenvalues (K, a).
        bases: eigenvectors (K, a, a), of columns.
    """

    weights: Tensor
    variances: Tensor
    bases: Tensor

    @classmethod
    def of(cls, covariances: Tensor, weights: Tensor) -> "PatchMap":
        """A mixture of zero-mean Gaussians."""
        variances, bases = torch.linalg.eigh(covariances.double())
        return cls(weights, variances.clamp_min(0).float(), bases.float())

    @classmethod
    def read(cls, path: Path) -> "PatchMap":
        """The mixture of a file."""
        return cls.of(*read_mixture(path))

    def __call__(self, y: Tensor, sigma: float) -> Tensor:
        """Denoise an image (1, 1, H, W)."""
        side = round(len(self.bases[0]) ** 0.5)
        patches = F.unfold(y - GRAY, side)[0].T.contiguous()
        classes = self.classes(patches, sigma)
        modes = torch.empty_like(patches)
        shrinkage = self.variances / (self.variances + sigma**2)
        for k in classes.unique():
            basis, mine = self.bases[k], classes == k
            modes[mine] = patches[mine] @ (basis * shrinkage[k]) @ basis.T
        both = torch.stack([modes.T, torch.ones_like(modes.T)])
        total, count = F.fold(both, y.shape[-2:], side)
        return GRAY + (total / count)[None]

    def classes(self, patches: Tensor, sigma: float) -> Tensor:
        """The likeliest class of each patch (N,)."""
        precisions = 1 / (self.variances + sigma**2)
        constants = self.weights.log() + precisions.log().sum(1) / 2
        directions = self.bases.permute(1, 0, 2).flatten(1)
        found = []
        for rows in patches.split(ROWS):
            squares = (rows @ directions).square().unflatten(1, precisions.shape)
            distances = torch.einsum("nka,ka->nk", squares, precisions)
            found.append((constants - distances / 2).argmax(1))
        return torch.cat(found)
