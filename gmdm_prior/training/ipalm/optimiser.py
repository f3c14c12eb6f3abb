"""iPALM: inertial proximal alternating linearised minimisation (Pock & Sabach, 2016).

Minimises F(x_1, …, x_B) = f(x_1, …, x_B) + sum_b g_b(x_b), with f smooth and g_b known through its
proximal map, one block after the other. With inertia beta and the last two iterates,

    y   = x + beta (x − x_before)
    x⁺  = prox_{g / L}(y − ∇_b f(y) / L)

where L is a local Lipschitz constant of the block's gradient, found by back-tracking: it grows
until

    f(x⁺) <= f(y) + <∇_b f(y), x⁺ − y> + L / 2 ‖x⁺ − y‖²

and shrinks a little at each block step that succeeds at once. A block step thus costs one
evaluation of loss and gradient at y and, as a rule, one of the loss alone at x⁺. Where L has to
grow fourfold or more, the inertia has led into steeper ground: the block then starts anew from
rest (x_before = x). Without inertia, with convex g_b and a loss that stays the same, F never rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

GROWTH = 2.0  # of L when back-tracking
RESTART = 2  # growths of L in one block step after which its inertia is dropped
TRIALS = 60  # growths of L before a block step is given up: L by 2^60
ROUNDING = 4.0  # the loss is trusted to this many units in the last place

Prox = Callable[[Tensor, float], Tensor]


class IPALM(Optimizer):
    """iPALM with one parameter group for each block.

    A group may have `"prox"`: a function of (value, step) that returns the proximal map of step · g
    at a parameter, a projection for a constraint; without it the block is free. After `step` all
    parameters lie where their proximal maps put them; extrapolated points, which may lie outside,
    are seen by the closure only.

    Args:
        params: parameters, or groups `{"params": …, "prox": …}` with any of the options below.
        inertia: beta, in [0, 1).
        lipschitz: first guess of L; the step is 1 / L. Kept, and adapted, in the group.
        shrink: factor of L at a block step without back-tracking, in (0, 1].

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        inertia: float = 0.95,
        lipschitz: float = 1.0,
        shrink: float = 0.9,
    ) -> None:
        defaults = {"prox": None, "inertia": inertia, "lipschitz": lipschitz, "shrink": shrink}
        super().__init__(params, defaults)
        for group in self.param_groups:
            _check_group(group)

    def step(self, closure: Callable[[], Tensor]) -> float:
        """Make one step in every block.

        Args:
            closure: returns the loss as a scalar tensor, and the same loss whenever the parameters
                are the same: draw the batch before the step, not in the closure. If
                `torch.is_grad_enabled()` it also sets the `.grad` of the parameters that require
                one, by `loss.backward()` or analytically; `.grad` is None on entry. Only the
                parameters of the block at hand require gradients during a call, so a closure need
                not work out the others'. Parameters that require none before the step are fixed.

        Returns:
            The loss at the new parameters.

        Raises:
            TypeError: no closure, or one that returns no scalar.
            ValueError: a closure that sets no gradient, or a prox that changes the shape.
            FloatingPointError: a loss or gradient that is not finite.

        An error (or an interruption) in between leaves parameters and optimiser as they were.
        """
        if not callable(closure):
            raise TypeError(f"closure must be a function that returns the loss; got {closure!r}")
        everything = [p for group in self.param_groups for p in group["params"]]
        kept = [(p, p.detach().clone(), p.requires_grad) for p in everything]
        free = {p for p, _, required in kept if required}
        found, loss = {}, math.nan
        try:
            for group in self.param_groups:
                for p in everything:
                    p.requires_grad_(False)
                block = [p for p in group["params"] if p in free]
                if block:
                    found[id(group)] = self._step_block(group, block, closure)
                    loss = found[id(group)].loss
        except BaseException:
            _write(everything, [value for _, value, _ in kept])
            raise
        finally:
            for p, _, required in kept:
                p.grad = None
                p.requires_grad_(required)
        before = {p: value for p, value, _ in kept}
        for group in self.param_groups:
            if id(group) not in found:
                continue
            group["lipschitz"] = found[id(group)].lipschitz
            for p in group["params"]:
                at_rest = found[id(group)].restart
                self.state[p]["before"] = p.detach().clone() if at_rest else before[p]
        return loss

    def _step_block(
        self, group: dict, params: list[Tensor], closure: Callable[[], Tensor]
    ) -> _BlockStep:
        now = [p.detach().clone() for p in params]
        extrapolated = [
            x + group["inertia"] * (x - self.state[p].get("before", x))
            for p, x in zip(params, now, strict=True)
        ]
        _write(params, extrapolated)
        value, gradients = _loss_and_gradients(params, closure)
        lipschitz = group["lipschitz"]
        for trial in range(TRIALS):
            moved = [
                _proximal(group["prox"], y - g / lipschitz, 1 / lipschitz)
                for y, g in zip(extrapolated, gradients, strict=True)
            ]
            _write(params, moved)
            with torch.no_grad():
                loss = _scalar(closure())
            bound = value + _model(moved, extrapolated, gradients, lipschitz)
            if loss <= bound + _slack(value, params[0].dtype):
                eased = lipschitz * (group["shrink"] if trial == 0 else 1.0)
                return _BlockStep(loss, eased, trial >= RESTART)
            lipschitz *= GROWTH
        _write(params, now)  # no step descends: the block rests
        with torch.no_grad():
            return _BlockStep(_scalar(closure()), group["lipschitz"], restart=True)

    def state_dict(self) -> dict[str, Any]:
        """State without the proximal maps, which are functions."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group.pop("prox", None)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the proximal maps stay those of this optimiser."""
        maps = [group["prox"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, prox in zip(self.param_groups, maps, strict=True):
            group["prox"] = prox


@dataclass(frozen=True)
class _BlockStep:
    loss: float
    lipschitz: float
    restart: bool


def _loss_and_gradients(params: list[Tensor], closure) -> tuple[float, list[Tensor]]:
    for p in params:
        p.grad = None
        p.requires_grad_(True)
    with torch.enable_grad():
        value = _scalar(closure())
    gradients = [p.grad for p in params]
    for p in params:
        p.grad = None
        p.requires_grad_(False)
    if any(g is None for g in gradients):
        raise ValueError(
            "closure must set the gradient of every parameter of the block: call loss.backward() "
            "in it if torch.is_grad_enabled()"
        )
    if not math.isfinite(value) or not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise FloatingPointError(
            f"closure gave the loss {value} or a gradient that is not finite; the parameters are "
            "those before the step"
        )
    return value, gradients


def _proximal(prox: Prox | None, value: Tensor, step: float) -> Tensor:
    if prox is None:
        return value
    with torch.no_grad():
        moved = prox(value, step)
    if not isinstance(moved, Tensor) or moved.shape != value.shape:
        got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
        raise ValueError(f"prox must return a tensor of shape {tuple(value.shape)}; got {got}")
    return moved.to(value)


def _model(moved, extrapolated, gradients, lipschitz: float) -> float:
    """<∇f(y), x − y> + L / 2 ‖x − y‖², summed in float64."""
    total = 0.0
    for x, y, g in zip(moved, extrapolated, gradients, strict=True):
        d = x.double() - y.double()
        total += float((g.double() * d).sum() + 0.5 * lipschitz * d.square().sum())
    return total


def _slack(value: float, dtype: torch.dtype) -> float:
    return ROUNDING * torch.finfo(dtype).eps * abs(value)


def _write(params: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for p, v in zip(params, values, strict=True):
            p.copy_(v)


def _scalar(loss: object) -> float:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if isinstance(loss, Real) and not isinstance(loss, bool):
        return float(loss)
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise TypeError(f"closure must return the loss as a scalar; got {got}: use loss.mean()")


def _check_group(group: dict) -> None:
    if group["prox"] is not None and not callable(group["prox"]):
        raise TypeError(f"prox must be a function of (value, step); got {group['prox']!r}")
    for name in ("inertia", "lipschitz", "shrink"):
        value = group[name]
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number; got {value!r}")
    if not 0 <= group["inertia"] < 1:
        raise ValueError(f"inertia must lie in [0, 1); got {group['inertia']}")
    if not 0 < group["lipschitz"] < math.inf:
        raise ValueError(f"lipschitz must be positive and finite; got {group['lipschitz']}")
    if not 0 < group["shrink"] <= 1:
        raise ValueError(f"shrink must lie in (0, 1]; got {group['shrink']}")
