"""The composite likelihood of an image: all its overlapping patches, counted once per pixel.

    L(x, sigma) = 1/b² sum_i log f(P_i x, sigma),       ∇L = 1/b² sum_i P_iᵀ score(P_i x, sigma)

Every pixel lies in b² patches, hence the factor: with a Gaussian data term at the true noise level
a weight of one is the Bayesian weight. It is not the density of an image (patches overlap), and
says so: a composite likelihood.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.images.patches import overlap_add, pad, strips, untraced
from gmdm_prior.images.planes import check_options, planes_of, prepare

LIKELIHOOD_BOUNDARIES = ("circular", "valid")


class PatchLikelihood(nn.Module):
    """Composite log-likelihood of images under a density of patches, and its gradient.

    Args:
        model: a density of patches, as for `PatchAveraging`.
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
        self.model, self.boundary, self._evaluator = model, boundary, Evaluator()

    @untraced
    @plain_modes
    def log_prob(self, images: Tensor, sigma: object) -> Tensor:
        """Composite log-likelihood (B,) of images (B, C, H, W) under white noise.

        Args:
            images: (B, C, H, W).
            sigma: number, (B,), (B, 1, 1, 1) or a map, as in `PatchAveraging`.

        Raises:
            TypeError: sigma is a `Noise`.
        """
        sums = [
            self._sum(model, plane, level) for model, plane, level in self._planes(images, sigma)
        ]
        if not sums:
            return images.new_zeros(0)
        total = torch.stack(sums).reshape(len(images), -1).sum(1) / self.model.patch_size**2
        if isinstance(self.model, OpponentModel):
            places = self._places(images) / self.model.patch_size**2
            total = total - places * self.model.log_volume
        return total.to(images.dtype)

    @untraced
    @plain_modes
    def score(
        self, images: Tensor, sigma: object, part: tuple[int, int, int] | None = None
    ) -> Tensor:
        """Gradient of `log_prob` with respect to the images, analytic, shaped like them.

        Args:
            images: (B, C, H, W).
            sigma: as in `log_prob`.
            part: a row and a column below a distance n, and n: of the patches those that begin at
                every n-th row and column from there, counted n² times. The mean over the n² parts
                is the gradient, and each takes so much less time.

        Raises:
            ValueError: `part` is not of that kind.
        """
        size, out = self.model.patch_size, []
        row, column, stride = (0, 0, 1) if part is None else _checked(part)
        for model, plane, level in self._planes(images, sigma):
            noise = level.square()
            score = self._evaluator.scores(model, plane, noise)
            both = (plane, noise) if noise.ndim else (plane,)
            total = torch.zeros_like(plane)
            if row <= plane.shape[1] - size and column <= plane.shape[2] - size:  # a patch is there
                total = overlap_add(both, size, score, stride, (row, column))
            out.append(self._unwrap(total, images.shape[2], images.shape[3]))
        if not out:
            return images.clone()
        total = (stride**2 * torch.stack(out) / size**2).reshape(images.shape)
        if isinstance(self.model, OpponentModel):
            total = self.model.gradient(total)
        return total.to(images.dtype)

    def dimensions(self, images: Tensor) -> float:
        """Dimensions of the composite density of an image (C, H, W) of a batch.

        Stretching images by s subtracts this times log s from their log-likelihood.
        """
        model = self.model
        copies = images.shape[1] / model.channels
        return copies * self._places(images) * model.dimensions / model.patch_size**2

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of `-log_prob`, that of one patch: for the descent lemma."""
        return self.model.lipschitz(sigma)

    def _planes(
        self, images: Tensor, sigma: object
    ) -> Iterator[tuple[DensityModel, Tensor, Tensor]]:
        """Each plane's density, the plane as `boundary` has it, and its level () or map."""
        if isinstance(sigma, Noise):
            raise TypeError(
                "the likelihood of an image takes white noise: sigma must be a level or a map of "
                f"levels; got a {type(sigma).__name__}. Give its level, noise.sigma"
            )
        planes, level, _ = prepare(self.model, images, sigma)
        return zip(
            itertools.cycle(planes_of(self.model)),
            self._wrap(planes),
            self._wrap_level(level),
            strict=False,
        )

    def _sum(self, model: DensityModel, plane: Tensor, level: Tensor) -> Tensor:
        """The log-density () of all patches of a plane (c, H, W)."""
        total, noise = plane.new_zeros(()), level.square()
        log_prob = self._evaluator.log_probs(model, plane, noise)
        images = (plane, noise) if noise.ndim else (plane,)
        for parts in zip(*(strips(image, model.patch_size)[1] for image in images), strict=True):
            total = total + log_prob(*(part.flatten(0, 1).flatten(1) for part in parts)).sum()
        return total

    def _places(self, images: Tensor) -> int:
        """How many patches an image has."""
        border = 0 if self.boundary == "circular" else self.model.patch_size - 1
        return (images.shape[2] - border) * (images.shape[3] - border)

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


def _checked(part: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(part) != 3 or not all(0 <= place < part[2] for place in part[:2]):
        raise ValueError(
            "part must be a row and a column, each from 0 to n - 1, and the distance n, such as "
            f"(0, 1, 2); got {part}"
        )
    return part
