"""The composite likelihood of an image: all its overlapping patches, counted once per pixel.

    L(x, sigma) = 1/b² sum_i log f(P_i x, sigma),       ∇L = 1/b² sum_i P_iᵀ score(P_i x, sigma)

Every pixel lies in b² patches, hence the factor: with a Gaussian data term at the true noise level
a weight of one is the Bayesian weight. It is not the density of an image (patches overlap), and
says so: a composite likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .denoisers import check_options, prepare
from .density import DensityModel
from .image_levels import pixel_by_pixel
from .patches import overlap_add, pad, strips

LIKELIHOOD_BOUNDARIES = ("circular", "valid")


class PatchLikelihood(nn.Module):
    """Composite log-likelihood of images under a density of patches, and its gradient.

    Args:
        model: a `PatchModel` or `PatchMixture`.
        boundary: `"circular"` (patches wrap around, every pixel counts the same) or `"valid"` (only
            patches inside the image).
    """

    def __init__(self, model: DensityModel, boundary: str = "circular") -> None:
        super().__init__()
        check_options(model, 1, "circular")
        if boundary not in LIKELIHOOD_BOUNDARIES:
            raise ValueError(
                f"boundary must be one of {', '.join(LIKELIHOOD_BOUNDARIES)}; got {boundary!r}"
            )
        self.model, self.boundary = model, boundary

    def log_prob(self, images: Tensor, sigma: object) -> Tensor:
        """Composite log-likelihood (B,) of images (B, C, H, W); sigma as in `PatchAveraging`."""
        planes, level, _ = prepare(self.model, images, sigma)
        size = self.model.patch_size
        sums = []
        for plane, s in zip(self._wrap(planes), self._wrap_level(level), strict=True):
            total = plane.new_zeros(())
            if s.ndim == 0:
                at_level = self.model.tabulated_at(s.square())
                for part in strips(plane, size)[1]:
                    total = total + at_level.log_prob(part.flatten(0, 1).flatten(1)).sum()
            else:
                noises = strips(s.square(), size)[1]
                log_prob = pixel_by_pixel(self.model, "log_prob")
                for part, noise in zip(strips(plane, size)[1], noises, strict=True):
                    flat = part.flatten(0, 1).flatten(1)
                    total = total + log_prob(flat, noise.flatten(0, 1).flatten(1)).sum()
            sums.append(total)
        if not sums:
            return images.new_zeros(0)
        per_plane = torch.stack(sums) / size**2
        return per_plane.reshape(len(images), -1).sum(1).to(images.dtype)

    def score(self, images: Tensor, sigma: object) -> Tensor:
        """Gradient of `log_prob` with respect to the images, analytic, shaped like them."""
        planes, level, _ = prepare(self.model, images, sigma)
        size = self.model.patch_size
        out = []
        for plane, s in zip(self._wrap(planes), self._wrap_level(level), strict=True):
            if s.ndim == 0:
                at_level = self.model.tabulated_at(s.square())
                total = overlap_add((plane,), size, at_level.score)
            else:
                score = pixel_by_pixel(self.model, "score")
                total = overlap_add((plane, s.square()), size, score)
            out.append(self._unwrap(total, images.shape[2], images.shape[3]))
        if not out:
            return images.clone()
        return (torch.stack(out) / size**2).reshape(images.shape).to(images.dtype)

    def dimensions(self, images: Tensor) -> float:
        """Of the density of one plane, patches counted once per pixel as in `log_prob`.

        Stretching images by s subtracts this times log s from a plane's log-density.
        """
        model, size = self.model, self.model.patch_size
        places = [n if self.boundary == "circular" else n - size + 1 for n in images.shape[2:]]
        means = 0 if model.mean_part.variance is None else model.channels
        return places[0] * places[1] * (model.filters.shape[-4] + means) / size**2

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of `-log_prob`, that of one patch: for the descent lemma."""
        return self.model.lipschitz(sigma)

    def _wrap(self, planes: Tensor) -> Tensor:
        after = self.model.patch_size - 1 if self.boundary == "circular" else 0
        return pad(planes, 0, after, "circular")

    def _wrap_level(self, level: Tensor) -> Tensor:
        return self._wrap(level) if level.ndim == 4 else level

    def _unwrap(self, total: Tensor, height: int, width: int) -> Tensor:
        """The adjoint of `_wrap`: what lies beyond the border belongs to the other side."""
        if self.boundary == "valid":
            return total
        rows = total[:, :height].clone()
        rows[:, : total.shape[1] - height] += total[:, height:]
        out = rows[..., :width].clone()
        out[..., : total.shape[2] - width] += rows[..., width:]
        return out
