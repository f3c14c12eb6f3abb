"""Parallel-beam line integrals, in units of the image's side: about as large as pixels."""

from __future__ import annotations

from typing import Any

import deepinv
import numpy as np
import torch.nn.functional as F
from torch import Tensor


class ScaledTomography(deepinv.physics.Tomography):
    """deepinv's parallel-beam transform with an exact adjoint, over the side of the image."""

    def __init__(self, angles: int | Tensor, side: int, device: Any = "cpu") -> None:
        self.side = side
        super().__init__(angles, side, circle=False, normalize=False, device=device)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals (B, C, detectors, angles)."""
        return super().A(x, **kwargs) / self.side

    def fbp(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Filtered back-projection (B, C, H, W)."""
        return super().fbp(y, **kwargs) * self.side**2


class SinogramPhysics(deepinv.physics.LinearPhysics):
    """Line integrals of an image in the middle of the circle that the detectors see.

    Args:
        angles: in degrees, (n,).
        detectors: how many there are, the rotation axis in their middle.
        side: of the image in pixels, at most `detectors`.
        device: where to compute.
    """

    def __init__(self, angles: Tensor, detectors: int, side: int, device: Any = "cpu") -> None:
        super().__init__()
        self.side = side
        before = (detectors - 1) // 2 - side // 2 if detectors % 2 else (detectors - side) // 2
        self.before, self.after = before, detectors - side - before
        self.inner = deepinv.physics.Tomography(
            angles, detectors, circle=True, normalize=False, device=device
        )

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Line integrals (B, C, detectors, angles) of images (B, C, side, side)."""
        return self.inner.A(F.pad(x, (self.before, self.after) * 2)) / self.side

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Back-projection."""
        return self._middle(self.inner.A_adjoint(y)) / self.side

    def fbp(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Filtered back-projection (B, C, side, side)."""
        return self._middle(self.inner.fbp(y)) * self.side

    def _middle(self, x: Tensor) -> Tensor:
        end = self.before + self.side
        return x[..., self.before : end, self.before : end]


def rotation_axis(sinogram: np.ndarray, degrees: np.ndarray) -> float:
    """Which detector, counted from 0, the rotation axis is seen by; the middle where none is found.

    The centre of mass of every projection is c + a cos(angle) + b sin(angle), and c is the axis.

    Args:
        sinogram: (detectors, angles).
        degrees: (angles,).
    """
    middle = (len(sinogram) - 1) / 2
    mass = sinogram.sum(0)
    if np.ptp(degrees) < 90 or len(degrees) < 6 or not (mass > 0.1 * np.abs(mass).max()).all():
        return middle
    centres = (np.arange(len(sinogram))[:, None] * sinogram).sum(0) / mass
    angle = np.deg2rad(degrees)
    design = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], 1)
    found, *_ = np.linalg.lstsq(design, centres, rcond=None)
    error = np.std(centres - design @ found) / np.sqrt(len(degrees))
    axis = round(2 * float(found[0])) / 2
    plausible = error < 0.15 and abs(axis - middle) < len(sinogram) / 8
    return axis if plausible else middle


def centred(sinogram: np.ndarray, axis: float) -> np.ndarray:
    """The sinogram with rows of zeros at one end, so that the rotation axis is in the middle."""
    more = round(2 * axis - (len(sinogram) - 1))
    return np.pad(sinogram, ((max(-more, 0), max(more, 0)), (0, 0)))
