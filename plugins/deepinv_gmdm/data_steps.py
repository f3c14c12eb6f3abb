"""Data steps of half-quadratic splitting: argmin of f(u) + λ ‖u - z‖² / (2 s²).

In closed form where the operator has one. Else by conjugate gradients, which begin at z or at the
last step's result, whichever has less left to do, and end once the root mean square of what is left
of the gradient is a small share of the level s: the Hessian, relative to that of the second term,
is at least the identity, so that u errs by no more.
"""

from __future__ import annotations

from typing import Any

import deepinv
import torch
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor

EXACT = 0.03  # of a level: how far a data step may be off
CG_STEPS = 60
RIGHT = 0.05  # of an image: what a closed form may leave of the gradient


class DataStep:
    """Data steps for one set of measurements.

    Args:
        fidelity: the data term f.
        physics: the operator.
        y: measurements.
    """

    def __init__(self, fidelity: Any, physics: Any, y: Any) -> None:
        self.fidelity, self.physics, self.y = fidelity, physics, y
        self.closed: bool | None = None
        self.last: Tensor | None = None
        self.seen: Tensor | None = None

    def __call__(self, z: Tensor, level: float, weight: float) -> Tensor:
        """The minimiser.

        Args:
            z: images (B, C, H, W).
            level: s.
            weight: λ.
        """
        gamma = level * level / weight
        if self.closed is None:
            self.closed = has_closed_form(self.fidelity, self.y, self.physics, z)
        if self.closed:
            return self.fidelity.prox(z, self.y, self.physics, gamma=gamma)
        self.last = self._solved(z, gamma * self.fidelity.norm, EXACT * level)
        return self.last

    def _solved(self, z: Tensor, gamma: float, error: float) -> Tensor:
        """Argmin of γ ‖A u - y‖² / 2 + ‖u - z‖² / 2, to a root mean square error."""
        normal = self.physics.A_adjoint_A
        if self.seen is None:
            self.seen = self.physics.A_adjoint(self.y)
        starts = [u for u in (z, self.last) if u is not None and u.shape == z.shape]
        slopes = [gamma * (normal(u) - self.seen) + (u - z) for u in starts]
        sizes = [float(slope.flatten(1).square().mean(1).max().sqrt()) for slope in slopes]
        size = min(sizes)
        best = sizes.index(size)
        if size <= error:
            return starts[best]
        return starts[best] - conjugate_gradient(
            lambda d: d + gamma * normal(d), slopes[best], max_iter=CG_STEPS, tol=error / size
        )


def has_closed_form(fidelity: Any, y: Any, physics: Any, like: Tensor) -> bool:
    """Whether the proximal map of a data term is there, and right for a random image.

    That of `Upsampling` is its adjoint's; that of `Decolorize` forgets what it does not see. Looked
    at is the step size for which both terms pull alike.
    """
    if type(fidelity) is not deepinv.optim.L2 or not isinstance(
        physics, deepinv.physics.LinearPhysics
    ):
        return True  # it solves for it
    known = type(physics).prox_l2 is not deepinv.physics.LinearPhysics.prox_l2
    if not known or isinstance(physics, deepinv.physics.Upsampling):
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.rand(like.shape, generator=generator, device="cpu").to(like)
    pull = fidelity.grad(x, y, physics).norm()
    gamma = float(x.norm() / pull) if pull > 0 else 1.0
    u = fidelity.prox(x, y, physics, gamma=gamma)
    off = u - x + gamma * fidelity.grad(u, y, physics)
    return bool(off.norm() <= RIGHT * x.norm())
