"""Parameters of unfolded solvers, which must stay positive whatever the optimiser does.

deepinv makes step sizes, levels and weights plain parameters: one step of Adam of 1e-3 makes a step
size of 1e-4 negative. Here the logarithms are learned, so that a learning rate is a relative one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

PARAMETERS = ("stepsize", "g_param", "lambda")


class Exponential(nn.Module):
    """x = exp(u)."""

    def forward(self, u: Tensor) -> Tensor:
        """The positive value."""
        return u.exp()

    def right_inverse(self, x: Tensor) -> Tensor:
        """The logarithm of a positive number."""
        return x.log()


def keep_positive(solver: Any, names: Sequence[str]) -> None:
    """Let the named parameters of an unfolded deepinv solver be exponentials of free ones.

    Args:
        solver: made with `unfold=True` and these `trainable_params`, all of them positive.
        names: keys of `solver.params_algo`.

    Raises:
        ValueError: where a parameter is not positive at first.
    """
    for name in names:
        values = solver.params_algo[name]
        for i, value in enumerate(values):
            if not bool((value > 0).all()):
                raise ValueError(f"{name} must be positive to be learned; got {value.tolist()}")
            parametrize.register_parametrization(values, str(i), Exponential())
