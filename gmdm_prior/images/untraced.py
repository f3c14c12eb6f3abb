"""What `torch.compile` leaves alone: loops over strips of images, which it would unroll.

Compiled or not, an image takes the same path, with tables and the compiled kernel where they apply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P, R = ParamSpec("P"), TypeVar("R")


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """Call `function` as it is from a compiled one.

    `torch.compiler.disable` as a decorator would do, but for the two seconds that it adds to the
    import of this package.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
