"""Training in several processes, as `torchrun` starts them: each takes its share of the work.

    torchrun --nproc-per-node=2 -m gmdm_prior.train data=photos

Every process reads all images and makes the same draws. EM splits the patches of an E-step and adds
up the sufficient statistics; score matching splits the crops of a step and adds up errors and
gradients. So every process has the same model after every step, that of one process with the same
settings to the rounding of sums in another order. The first one alone speaks and writes.

Where there is one process only, everything here gives back what it was given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # after which a process that waits for a dead one gives up

Thing = TypeVar("Thing")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes that `torchrun` has started, over the processor's own network (gloo)."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world() -> int:
    """Count the processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the one that speaks and writes."""
    return world() == 1 or dist.get_rank() == 0


def share(items: Tensor | Sequence[Any]) -> Any:
    """This process's part of patches (N, …) or of a list, a contiguous one; maybe none."""
    if world() == 1:
        return items
    rank, count = dist.get_rank(), len(items)
    return items[rank * count // world() : (rank + 1) * count // world()]


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of each tensor over all processes, the same in all of them."""
    if world() == 1:
        return list(tensors)
    totals = [tensor.detach().clone().contiguous() for tensor in tensors]
    for total in totals:
        dist.all_reduce(total)
    return totals


def summed_numbers(*numbers: float) -> tuple[float, ...]:
    """Add up numbers of all processes, in float64."""
    (total,) = summed([torch.tensor(numbers, dtype=torch.float64)])
    return numbers if world() == 1 else tuple(total.tolist())


def from_first(make: Callable[[], Thing]) -> Thing:
    """What the first process makes, in all of them; what it raises is raised in all."""
    if world() == 1:
        return make()
    box: list[Any] = [None, None]
    if is_first():
        try:
            box[0] = make()
        except (ValueError, OSError) as error:
            box[1] = error
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def check(several: bool, what: str) -> None:
    """Refuse what cannot be shared.

    Args:
        several: whether `what` can be trained by several processes.
        what: a model and its method.

    Raises:
        ValueError: there are several processes, and it takes one.
    """
    if world() > 1 and not several:
        raise ValueError(
            f"{what} takes one process; there are {world()}. Start it without torchrun, or choose "
            "a method of mixtures: em, em+score, score, hqs"
        )
