"""Half-quadratic splitting whose settings follow from the operator and the noise.

With f the data term, M = AᵀA, σ the noise level and p = 1 - r² (1 - q) of two numbers that
`measured_of` reads off the operator with random probes, q = tr M / (N ‖M‖), how much of an image is
measured, and r = tr M² / (‖M‖ tr M), how evenly, and l = (Σ M_ii² / tr M² - q) / (1 - q), 1 where
single pixels are measured and 0 where every measurement is of all of them, it takes

    first iterate   x₀ = argmin f(x) + ‖∇x‖² / (2 c²): a picture whose neighbouring pixels differ
                    by c, which fills holes smoothly and amplifies no noise
                    (f is that of noise of at least c ‖A‖ / 2: what is sharper rings at borders)
    first level     1.15 p^(l / 4) e with e the root mean square error that this Gaussian leaves,
                    (tr H⁻¹ / N)^½ with H the Hessian of what x₀ minimises; what is known of single
                    pixels among unknown ones looks like noise at a high level, and at any higher
                    level than need be something is lost that the last steps do not find again
    last level      p^¼ ((0.55 σ / ‖A‖)² + (p^¼ e / 8)²)^½, at most σ / ‖A‖: what noise remains of
                    the measured directions, and a share of the error e above, as below it what is
                    wrong in the others passes for structure
    weight          λ = 0.3 a / (a + b), a = p^(1 + l) and b = (1 - p)^(1 + l). The data step passes
                    noise of s / (2 λ^½) at most, in any direction, which 0.3 keeps below s; where
                    data see some directions evenly and others not at all, none is amplified, and
                    the less λ the better
    steps           each level is exp(-f) of the one before, in 8 / p^½ steps or more, where
                    f = p^((2 - l) / 4) min(p / 0.3, 1)^(4 (1 - l)) / 10, slower where more is to be
                    filled and no single pixels are measured, and in `MOST_STEPS` at most

and, as holes fill slowly, every step begins at an extrapolated iterate,

    z = x + 0.75 (x - x before),   u = argmin f(u) + λ ‖u - z‖² / (2 s²),   x = E[clean | u, s].

The patches that the last line averages lie on a grid that moves from step to step: every third
pixel is then enough, and better than every second one where it stays.

Where few single pixels are measured (l above ½, p below 0.3) the first iterate is what the same
splitting makes of images of half the size, doubled: details of less than 0.6 c count as noise
there. The first level is then 0.7 of the one above, and every step at either size, of 32 pixels
or more, has a share of the denoiser's at half of it (`coarse`). What such steps draw between known
pixels is likely, yet surer than it should be: one more step, where their number is not given,
begins at x + 0.25 (1 - p / 0.3) (x₀ - x), with x₀ smooth as above, and ends nearer to the mean.

All of this is the same for A and σ in other units.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import deepinv
import torch
from deepinv.optim.linear import conjugate_gradient
from torch import Tensor, nn
from tqdm import tqdm

from deepinv_gmdm.coarse import BothSizes, HalfSize, double
from deepinv_gmdm.data_steps import DataStep
from deepinv_gmdm.solver_config import SMALLEST_LEVEL, SolverConfig, schedule
from gmdm_prior.images.roughness import roughness
from gmdm_prior.sigma import parse

CONTRAST = 0.1  # c, as a share of the data range
SHARPEST = 0.5  # of c: the least noise level that the first iterate is told of
FIRST, LAST, LEFT, WEIGHT = 1.15, 0.55, 1 / 8, 0.3
STIFFEST = 1e4  # the largest curvature of data beside 1 of the prior in a data step
FALL, LEAST_STEPS, MOST_STEPS = 0.1, 8, 64
MOMENTUM = 0.75
FEW, LEAST_SIDE = 0.3, 32  # p, below which holes fill slowly; pixels, for half the size
DETAIL, NEARER = 0.6, 0.7  # of c: what is lost there; of the first level afterwards
UNSURE = 0.25  # of the smooth estimate, in the end, where hardly anything is known
GUESSED_FIRST = 0.2  # of the data range, where the operator is not linear
LEAST_SHARE = 0.62  # of the expected residual, or its inverse, that is not remarked on
POWER_STEPS, CG_STEPS, CG_TOLERANCE = 12, 60, 1e-3
ROUGH = 0.02  # tolerance of a trace, which one probe gives to a few hundredths


@dataclass(frozen=True)
class Measured:
    """What a linear operator sees: its norm ‖A‖, p = 1 - r² (1 - q), and l."""

    norm: float
    share: float
    local: float = 0.0


def measured_of(physics: Any, like: Tensor) -> Measured:
    """Of a linear operator for images like `like` (B, C, H, W), from probes."""

    def normal(x: Tensor) -> Tensor:
        return physics.A_adjoint(physics.A(x))

    probe = _probe(like)
    once = normal(probe)
    trace, squared = float((probe * once).sum()), float(once.square().sum())
    x, largest = probe + 1, 0.0  # constant images are often what A keeps best
    for _ in range(POWER_STEPS):
        x = x / x.norm()
        x = normal(x)
        largest = float(x.norm())
        if largest == 0:
            return Measured(0.0, 1.0)
    other = _probe(like, seed=1)
    diagonal = float((probe * once * other * normal(other)).sum())  # Σ M_ii²
    seen = min(trace / (largest * probe.numel()), 1.0)
    even = min(squared / (largest * trace), 1.0) if trace > 0 else 0.0
    local = diagonal / squared if squared > 0 else 0.0
    local = min(max((local - seen) / (1 - seen), 0.0), 1.0) if seen < 1 else 0.0
    return Measured(math.sqrt(largest), 1 - even**2 * (1 - seen), local)


class SmoothEstimate:
    """The posterior of pictures that are smooth: its mean, and how far it is off.

    Args:
        fidelity: the data term f, quadratic.
        physics: linear.
        y: measurements.
        like: images (B, C, H, W), of which only shape, dtype and device count.
        contrast: c, in the units of images.
        trust: by which the data term is multiplied, at most 1.
    """

    def __init__(
        self,
        fidelity: Any,
        physics: Any,
        y: Any,
        like: Tensor,
        contrast: float,
        trust: float = 1.0,
    ) -> None:
        self.fidelity, self.physics = fidelity, physics
        self.contrast, self.trust = contrast, trust
        self.nothing, self.y = y * 0, y
        self.probe = _probe(like)
        bend = float((self.probe * self._data(self.probe)).sum()) / self.probe.numel()
        self.unit = max(bend, 1 / contrast**2)  # keeps numbers near 1 whatever the units are

    def mean(self) -> Tensor:
        """The first iterate, (B, C, H, W)."""
        zero = torch.zeros_like(self.probe)
        slope = self.trust * self.fidelity.grad(zero, self.y, self.physics)
        return self._solve(-slope / self.unit, CG_TOLERANCE)

    def error(self) -> float:
        """Root mean square error of a pixel, if pictures were so."""
        variance = (self.probe * self._solve(self.probe, ROUGH)).mean() / self.unit
        return math.sqrt(max(float(variance), 0.0))

    def _data(self, x: Tensor) -> Tensor:
        if type(self.fidelity) is deepinv.optim.L2:  # its gradient maps `nothing` each time
            return self.trust * self.fidelity.norm * self.physics.A_adjoint_A(x)
        return self.trust * self.fidelity.grad(x, self.nothing, self.physics)

    def _hessian(self, x: Tensor) -> Tensor:
        return (self._data(x) + roughness(x) / self.contrast**2) / self.unit

    def _solve(self, right: Tensor, tolerance: float) -> Tensor:
        return conjugate_gradient(self._hessian, right, max_iter=CG_STEPS, tol=tolerance)


def _probe(like: Tensor, seed: int = 0) -> Tensor:
    """Random signs, the same for every image of a batch."""
    generator = torch.Generator("cpu").manual_seed(seed)
    signs = torch.randint(0, 2, (1, *like.shape[1:]), generator=generator, device="cpu")
    return (2 * signs - 1).to(like).expand_as(like).contiguous()


@dataclass(frozen=True)
class Plan:
    """Says where half-quadratic splitting begins and what its steps are.

    Attributes:
        start: the first iterate, (B, C, H, W).
        levels: noise levels handed to the denoiser, falling.
        weight: λ.
        sigma: σ / ‖A‖.
        fidelity: the data term.
        norm: ‖A‖.
        few: 1 - p / 0.3 where few single pixels are measured, and it is worth while to begin at
            half the size; else 0.
        smooth: images of which the last step takes a share, or None.
    """

    start: Tensor
    levels: list[float]
    weight: float
    sigma: float
    fidelity: Any
    norm: float = 1.0
    few: float = 0.0
    smooth: Tensor | None = None

    def weight_at(self, level: float) -> float:
        """λ, or what single precision needs: a data step that trusts data still more loses x."""
        return max(self.weight, (level / self.sigma) ** 2 / STIFFEST)


class HalfQuadratic(nn.Module):
    """A solver, `solver(y, physics) -> x`, that plans its steps for each operator.

    Args:
        denoiser: called as `denoiser(images, level)`.
        config: `start`, `stop`, `max_iter` where they are not to be derived.
        sigma: noise level of the measurements, 0 or more.
        width: of the data range.
        weight: λ; None is derived.
        stop: last level, in place of the config's.
        fidelity: the data term; None is ‖A x - y‖² / (2 sigma²).
        shifting: whether the denoiser takes the number of a step, too, as `step`, and moves its
            patches with it.
        patch: side of its patches, of which every size that is denoised must hold one.
        progress: show a progress bar.

    Attributes:
        info: of the last call, what it did: `levels` handed to the prior; `residual`, the root mean
            square of A x - y after each step in units of the noise, and `expected`, about where it
            should end; `change`, the root mean square by which each step moved the image;
            `remark`, a sentence where those two differ by about half or twice, or None; `seconds`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        config: SolverConfig,
        *,
        sigma: float,
        width: float = 1.0,
        weight: float | None = None,
        stop: Any = None,
        fidelity: Any = None,
        shifting: bool = False,
        patch: int = 1,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser, self.config, self.sigma, self.width = denoiser, config, sigma, width
        self.weight, self.fidelity = weight, fidelity
        self.shifting, self.patch, self.progress = shifting, patch, progress
        self.stop = config.stop if stop is None else stop
        self.info: dict[str, Any] = {}

    @torch.no_grad()
    def forward(self, y: Any, physics: Any, init: Any = None) -> Tensor:
        """Restore measurements.

        Args:
            y: measurements.
            physics: the operator.
            init: the first iterate (B, C, H, W), alone or first in a tuple; None is derived.

        Raises:
            ValueError: for measurements that hold NaN or infinity.
        """
        begun = time.perf_counter()
        plan, denoiser = self.plan(y, physics, init), self.denoiser
        if init is None and plan.few and self.config.start is None:
            plan = self._from_half_size(plan, y, physics)
            denoiser = BothSizes(denoiser, plan.levels[0])
        x, u, info = self._descend(plan, denoiser, y, physics)
        level = info["levels"][-1]
        residual = Residual(plan.fidelity, y, physics, x)
        info["expected"] = residual.expected(denoiser, u, level, plan.weight_at(level))
        info["seconds"] = time.perf_counter() - begun
        # at the smallest level data are taken for noisier than they are
        told = level > 1.01 * SMALLEST_LEVEL * self.width
        info["remark"] = _remark(info["residual"][-1], info["expected"]) if told else None
        self.info = info
        if info["remark"]:
            warnings.warn(info["remark"], stacklevel=2)
        return x

    def _descend(
        self, plan: Plan, denoiser: nn.Module, y: Any, physics: Any
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The last iterate, the result of its data step, and what each step did."""
        x = before = u = plan.start
        residual = Residual(plan.fidelity, y, physics, x)
        data_step = DataStep(plan.fidelity, physics, y)
        info: dict[str, Any] = {"levels": [], "residual": [], "change": []}

        def step(z: Tensor, level: float) -> None:
            nonlocal x, before, u
            u = data_step(z, level, plan.weight_at(level))
            moved = {"step": len(info["levels"])} if self.shifting else {}
            before, x = x, denoiser(u, level, **moved)
            info["levels"].append(level)
            info["residual"].append(residual.of(x))
            info["change"].append(float((x - before).square().mean().sqrt()))

        for level in tqdm(plan.levels, disable=not self.progress):
            step(x + MOMENTUM * (x - before), level)
        if plan.smooth is not None:
            step(torch.lerp(x, plan.smooth, UNSURE * plan.few), plan.levels[-1])
        return x, u, info

    def _from_half_size(self, plan: Plan, y: Any, physics: Any) -> Plan:
        """The same plan from another first iterate, which is nearer, and lower levels."""
        size = plan.start.shape[-2:]
        detail = DETAIL * CONTRAST * self.width
        coarse = HalfQuadratic(
            self.denoiser,
            SolverConfig(max_iter=self.config.max_iter),
            sigma=plan.norm * max(plan.sigma, detail),
            width=self.width,
            shifting=self.shifting,
            patch=self.patch,
        )
        half = HalfSize(physics, *size)
        small, denoiser = coarse.plan(y, half), self.denoiser
        if min(size) >= 2 * self._least_side:
            denoiser = BothSizes(denoiser, small.levels[0])
        z, *_ = coarse._descend(small, denoiser, y, half)
        first, last = plan.levels[0], plan.levels[-1]
        levels = schedule(last, len(plan.levels), NEARER * first, last)
        smooth = None if self.config.max_iter else plan.start
        return replace(plan, start=double(z, *size), levels=levels, smooth=smooth)

    @property
    def _least_side(self) -> int:
        """Of images that may be halved."""
        return max(LEAST_SIDE, 2 * self.patch)

    def plan(self, y: Any, physics: Any, init: Any = None) -> Plan:
        """What follows from an operator, the noise and the settings; arguments as `forward`'s.

        Raises:
            ValueError: for measurements that hold NaN or infinity.
        """
        _check_finite(y)
        start = init[0] if isinstance(init, (tuple, list)) else init
        linear = isinstance(physics, deepinv.physics.LinearPhysics)
        like = physics.A_adjoint(y) if start is None and linear else start
        if like is None:
            like = physics.A_dagger(y)
        found = measured_of(physics, like) if linear else Measured(1.0, 1.0)
        norm = found.norm if found.norm > 0 else 1.0
        sigma = max(self.sigma, SMALLEST_LEVEL * self.width * norm)
        fidelity = deepinv.optim.L2(sigma=sigma) if self.fidelity is None else self.fidelity
        first, error = GUESSED_FIRST * self.width, None
        if linear and (start is None or self.config.start is None):
            contrast = CONTRAST * self.width
            trust = min(1.0, (sigma / norm / (SHARPEST * contrast)) ** 2)
            smooth = SmoothEstimate(fidelity, physics, y, like, contrast, trust)
            start = smooth.mean() if start is None else start
            error = smooth.error()
            first = FIRST * found.share ** (found.local / 4) * error
        if self.config.start is not None:
            first = parse(self.config.start, "solver.start") * self.width
        if self.stop is not None:
            last = parse(self.stop, "solver.stop")
        else:
            slow = found.share**0.25
            if error is None:
                error = first / FIRST
            least = slow * math.hypot(LAST * sigma / norm, LEFT * slow * error)
            last = min(least, sigma / norm)
        last = max(last, SMALLEST_LEVEL * self.width)
        steps = self._steps(first, last, found)
        return Plan(
            start=like if start is None else start,
            levels=schedule(last, steps, first, last),
            weight=_weight(found) if self.weight is None else self.weight,
            sigma=sigma / norm,
            fidelity=fidelity,
            norm=norm,
            few=_few(found) if min(like.shape[-2:]) >= self._least_side else 0.0,
        )

    def _steps(self, first: float, last: float, found: Measured) -> int:
        """How many there are."""
        if self.config.max_iter is not None:
            return self.config.max_iter
        fall = FALL * found.share ** ((2 - found.local) / 4)
        fall *= min(found.share / FEW, 1.0) ** (4 * (1 - found.local))
        down = math.ceil(math.log(max(first / last, 1)) / fall)
        return min(max(down, math.ceil(LEAST_STEPS / found.share**0.5)), MOST_STEPS)


def _few(found: Measured) -> float:
    return max(1 - found.share / FEW, 0.0) if found.local > 0.5 else 0.0


def _weight(found: Measured) -> float:
    power = 1 + found.local
    seen, rest = found.share**power, (1 - found.share) ** power
    return WEIGHT * seen / (seen + rest)


@dataclass(frozen=True)
class Residual:
    """Root mean square of A x - y in units of the noise, over measurements that see the image.

    Args:
        fidelity: the data term.
        y: measurements.
        physics: the operator.
        like: images (B, C, H, W).
    """

    fidelity: Any
    y: Any
    physics: Any
    like: Tensor

    @cached_property
    def seen(self) -> Any:
        """1 where measurements depend on the image, else 0, shaped like y."""
        generator = torch.Generator("cpu").manual_seed(0)
        noise = torch.randn((1, *self.like.shape[1:]), generator=generator, device="cpu")
        values = self.physics.A(noise.to(self.like).expand_as(self.like).contiguous())
        if isinstance(values, Tensor):
            return (values != 0).to(self.like)
        return deepinv.utils.TensorList([(part != 0).to(self.like) for part in values])

    @cached_property
    def count(self) -> int:
        """How many real measurements depend on the image."""
        parts = [(self.seen, self.y)]
        if not isinstance(self.y, Tensor):
            parts = list(zip(self.seen, self.y, strict=True))
        real = (float(seen.sum()) * (2 if y.is_complex() else 1) for seen, y in parts)
        return max(int(sum(real)), 1)

    def of(self, x: Tensor) -> float:
        """The residual of images (B, C, H, W)."""
        found, seen = self.physics.A(x), self.seen
        parts = [(found, seen, self.y)]
        if not isinstance(self.y, Tensor):
            parts = list(zip(found, seen, self.y, strict=True))
        value = sum(float(self.fidelity.d(a, s * b).sum()) for a, s, b in parts)
        return math.sqrt(2 * value / self.count)

    def expected(self, denoiser: nn.Module, u: Tensor, level: float, weight: float) -> float:
        """What a right noise level and operator leave after a last step from u, about.

        The data step takes a share h of the measurements and the denoiser lets a share d of the
        noise pass, which leaves (1 - d) / (1 - d (1 - h)) of it. Both are measured with probes.
        """
        probe = _probe(u)
        kept = DataStep(self.fidelity, self.physics, self.y * 0)(probe, level, weight)
        taken = float((probe * (probe - kept)).sum()) / self.count
        small = 0.1 * level
        moved = denoiser(u + small * probe, level) - denoiser(u, level)
        passed = float((probe * moved).mean()) / small
        taken, passed = min(max(taken, 0.0), 1.0), min(max(passed, 0.0), 0.99)
        return (1 - passed) / (1 - passed * (1 - taken))


def _check_finite(y: Any) -> None:
    """Refuse measurements without values before anything is derived from them."""
    parts = [y] if isinstance(y, Tensor) else y
    if not all(bool(torch.isfinite(part).all()) for part in parts if isinstance(part, Tensor)):
        raise ValueError(
            "measurements must be finite; they hold NaN or infinity. Replace those values "
            "(torch.nan_to_num) or leave them out of the physics"
        )


def _remark(found: float, expected: float) -> str | None:
    """What to say where the residual is not what the noise would leave, or far more than noise."""
    if LEAST_SHARE * expected <= found <= max(expected, 1) / LEAST_SHARE:
        return None
    return (
        f"the restored image differs from the measurements by {found:.2g} of the noise level, "
        f"where {expected:.2g} is to be expected: sigma or the operator seems wrong, by a factor "
        "of about two or more"
    )
