"""Torch's ambient modes: settings of a thread that change what an operation does.

Results here depend on arguments alone. Autocast would round matrix products to half precision, and
a default device would put constants elsewhere than the data: `plain_modes` keeps both out. Other
modes need no care: gradients and `torch.inference_mode` change no value, and constants say their
type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # kinds of devices that have it


def plain_modes(function: Callable[P, R]) -> Callable[P, R]:
    """Call `function` without autocast, and with constants on the device of its arguments.

    The device is that of the first tensor among the arguments, or of the first module's parameters.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device((*args, *kwargs.values()))
        if torch.compiler.is_compiling():  # default devices are not traced
            with torch.autocast(device.type, enabled=False):
                return function(*args, **kwargs)
        with ExitStack() as modes:
            if device.type in AUTOCAST:
                modes.enter_context(torch.autocast(device.type, enabled=False))
            if torch.empty(0).device != device:
                modes.enter_context(device)
            return function(*args, **kwargs)

    return call


def _device(arguments: tuple[object, ...]) -> torch.device:
    for argument in arguments:
        if isinstance(argument, Tensor):
            return argument.device
    for argument in arguments:
        if isinstance(argument, nn.Module):
            for parameter in argument.parameters():
                return parameter.device
    return torch.device("cpu")
