"""The symmetries of the square, acting on images, patches and filters.

Element q of the dihedral group D4 is q % 4 quarter turns, followed for q > 3 by an upside-down
flip. A density that is a mean over a subgroup H, f(x) = 1/|H| sum_h f_0(h x), is invariant under H;
since H is a group, turning the patch or turning the filters gives the same sum.
"""

from __future__ import annotations

from torch import Tensor

from gmdm_prior.messages import nearest

GROUPS: dict[str, tuple[int, ...]] = {
    "d4": (0, 1, 2, 3, 4, 5, 6, 7),
    "flips": (0, 6),  # the identity and the left–right mirror
    "none": (0,),
}


def group(name: str) -> tuple[int, ...]:
    """The elements of a symmetry group by name.

    Args:
        name: `"d4"` (all eight), `"flips"` (left–right only) or `"none"`.

    Raises:
        ValueError: for any other name.
    """
    if name in GROUPS:
        return GROUPS[name]
    names = ", ".join(GROUPS)
    raise ValueError(f"symmetries must be one of {names}; got {name!r}{nearest(name, GROUPS)}")


def inverse(element: int) -> int:
    """The element that undoes another: turns go back, flips undo themselves."""
    return -element % 4 if element < 4 else element


def act(images: Tensor, element: int) -> Tensor:
    """Let one element of D4 act on the last two axes of `images` (..., b, b)."""
    turned = images.rot90(element % 4, (-2, -1))
    return turned.flip(-2) if element > 3 else turned
