"""What a mixture takes an image for: the class of the patch around every pixel, and how it runs.

The posterior P(h, k | y) of a patch y says which class k, seen in which symmetry h, explains it. A
class in a symmetry is a Gaussian of covariance S_kh = A_hᵀ diag(v_k) A_h, so the gradients of its
patches have the expected structure tensor T_kh = E[grad x grad xᵀ]: trace T D S_kh Dᵀ over finite
differences D. With its entries in complex form,

    z_kh = (T_11 - T_22 + 2 i T_12) / (T_11 + T_22) = coherence · exp(2 i angle of the gradient),

a class without a direction has z = 0 and a class of straight edges |z| near 1. The posterior mean
z = sum_kh P(h, k | y) z_kh gives the orientation as half its argument, and as |z| how sure it is:
small where classes have no direction, or several that disagree are as likely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmdm_prior import symmetry
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.images.patches import pad

PATCHES_AT_ONCE = 2**13


@dataclass(frozen=True)
class ClassMaps:
    """What explains each pixel's patch, all (H, W).

    Attributes:
        classes: the most probable class, its symmetry left open; integers.
        angle: the direction along edges, in radians from 0 to pi, anticlockwise from the rows as
            the image is seen (0: edges run from left to right).
        confidence: from 0, no direction, to 1, one direction for certain.
    """

    classes: Tensor
    angle: Tensor
    confidence: Tensor


def class_maps(model: PatchMixture, image: Tensor, sigma: float) -> ClassMaps:
    """The class and the orientation of the patch around every pixel of a noisy image.

    Args:
        model: a mixture of one channel.
        image: (H, W) or (1, H, W), at least a pixel each way, in the units of the model; continued
            by reflection. The patch of a pixel starts (b - 1) // 2 above and left of it.
        sigma: noise level of the image, in the same units.

    Raises:
        TypeError: for a model that is no mixture, which has no classes.
        ValueError: for a model of several channels or an image of another shape.
    """
    if not isinstance(model, PatchMixture):
        raise TypeError(f"model must be a PatchMixture; got {type(model).__name__}")
    if model.channels != 1 or image.ndim not in (2, 3) or image.shape[:-2] not in ((), (1,)):
        raise ValueError(
            "class_maps takes a model of one channel and one gray image (H, W); got "
            f"{model.channels} channel(s) and {tuple(image.shape)}"
        )
    size = model.patch_size
    before = (size - 1) // 2
    plane = pad(image.reshape(image.shape[-2:]), before, size - 1 - before, "reflect")
    patches = plane.unfold(0, size, 1).unfold(1, size, 1)
    directions = class_directions(model).to(plane.device)
    rows = max(1, PATCHES_AT_ONCE // patches.shape[1])
    classes, z = [], []
    for strip in patches.split(rows):
        with torch.no_grad():
            seen = model.responsibilities(strip.unsqueeze(2), sigma)  # (rows, W, |H|, K)
        classes.append(seen.sum(-2).argmax(-1))
        z.append((seen * directions).sum((-2, -1)))
    toward = torch.cat(z)
    along_edges = (toward.angle() / 2 + math.pi / 2) % math.pi
    rounding = torch.finfo(along_edges.dtype).eps ** 0.5
    along_edges[along_edges > math.pi - rounding] = 0.0  # the same direction, whatever rounds
    return ClassMaps(torch.cat(classes), along_edges, toward.abs().clamp(max=1))


def class_directions(model: PatchMixture) -> Tensor:
    """The number z of every class in every symmetry, (|H|, K), complex (see this file's top)."""
    filters = model.filters.detach().double()[:, :, 0]
    variances = model.variances.detach().double()
    turns = [symmetry.inverse(element) for element in symmetry.group(model.symmetries)]
    z = []
    for turn in turns:  # <h^-1 a, x> = <a, h x>: the class's patches turned back
        a = symmetry.act(filters, turn)[model.basis]  # (K, J, b, b)
        fall, rise = a[..., 1:, 1:] - a[..., :-1, :-1], a[..., :-1, 1:] - a[..., 1:, :-1]
        right, up = rise + fall, rise - fall  # means over 2×2 pixels, which turn with them
        xx, yy, xy = (
            (variances * (p * q).sum((-2, -1))).sum(1)
            for p, q in ((right, right), (up, up), (right, up))
        )
        z.append(torch.complex(xx - yy, 2 * xy) / (xx + yy))
    return torch.stack(z)
