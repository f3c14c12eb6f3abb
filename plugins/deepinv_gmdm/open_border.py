"""Blur of a picture whose surroundings are not known.

A real picture is no torus: what lies outside of its border is blurred into it. With C the circular
blur of a grid that is larger by the kernel's reach on every side, and M the crop to the picture,

    y = M C x + noise,

so that x covers the surroundings too, and nothing is assumed of them but the prior.
"""

from __future__ import annotations

from typing import Any

import deepinv
import torch
import torch.nn.functional as F
from torch import Tensor


class OpenBorder(deepinv.physics.LinearPhysics):
    """An operator of larger images, of whose results the middle is measured.

    Args:
        inner: a circular operator of images (C, H + 2 reach, W + 2 reach).
        reach: rows and columns that are not measured on each side, (down, across).
        max_iter: most conjugate-gradient steps of `prox_l2`.
        tol: where they stop: the residual's norm relative to the right-hand side's.
    """

    def __init__(
        self, inner: Any, reach: tuple[int, int], max_iter: int = 50, tol: float = 1e-4
    ) -> None:
        super().__init__(max_iter=max_iter, tol=tol)
        self.inner, self.reach = inner, reach

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Measurements (B, C, H, W) of images (B, C, H + 2 reach, W + 2 reach)."""
        return self.crop(self.inner.A(x))

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Images of measurements."""
        return self.inner.A_adjoint(self.pad(y, "constant"))

    def crop(self, x: Tensor) -> Tensor:
        """The part of larger images that is measured."""
        down, across = self.reach
        height, width = x.shape[-2:]
        return x[..., down : height - down, across : width - across]

    def pad(self, y: Tensor, mode: str = "replicate") -> Tensor:
        """Measurements as larger images."""
        down, across = self.reach
        return F.pad(y, (across, across, down, down), mode=mode)

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, **kwargs: Any) -> Tensor:
        """argmin_u gamma/2 ‖A u - y‖² + ½ ‖u - z‖², by conjugate gradients.

        Of a `BlurFFT` they are preconditioned by the same problem on the torus, which has a closed
        form.
        """
        right = gamma * self.A_adjoint(y)
        if not isinstance(z, Tensor):
            z = torch.full_like(right, 0.0 if z is None else float(z))
        right = right + z
        nothing = torch.zeros_like(right)

        def normal(u: Tensor) -> Tensor:
            return u + gamma * self.A_adjoint(self.A(u))

        def torus(r: Tensor) -> Tensor:
            if isinstance(self.inner, deepinv.physics.DecomposablePhysics):
                return self.inner.prox_l2(r, nothing, gamma)
            return r

        # of a blur, whose norm is 1, `right` is up to 1 + gamma times as large as u
        return preconditioned(normal, right, torus, z, self.max_iter, self.tol / (1 + gamma))


def preconditioned(
    normal: Any, right: Tensor, precondition: Any, start: Tensor, max_iter: int, tol: float
) -> Tensor:
    """Solve normal(u) = right by preconditioned conjugate gradients, each image (B, …) by itself.

    deepinv's and SciPy's own take no preconditioner, or no tensors.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)

    u, residual = start, right - normal(start)
    enough = tol**2 * dot(right, right)
    step = precondition(residual)
    fit = dot(residual, step)
    for _ in range(max_iter):
        if bool((dot(residual, residual) <= enough).all()):
            break
        image = normal(step)
        length = fit / dot(step, image).clamp(min=torch.finfo(step.dtype).tiny)
        u, residual = u + length * step, residual - length * image
        ahead = precondition(residual)
        new = dot(residual, ahead)
        step = ahead + new / fit.clamp(min=torch.finfo(step.dtype).tiny) * step
        fit = new
    return u
