"""Likelihood training of a `PatchMixture` by expectation-maximisation, in minutes on a CPU.

Patches x_i are taken in zero-mean coordinates (`coordinates`), R^J. Three stages:

1. `full`: EM of a mixture of `components` zero-mean Gaussians with full covariances
   (`full_mixture`).
2. Clustering of its covariances into `bases` eigenbases up to the model's symmetries, merging to
   `classes` (`clustering`); the patches are not looked at.
3. `tied`: EM of the model itself, variances and weights in closed form, bases by common
   diagonalisation (`tied_mixture`, `diagonalise`).

The objective. Stages 1 and 3 maximise the log-likelihood of the patches plus a stated regulariser
(`statistics`),

    Σ_i log f(x_i) + Σ_k [-½ ν Σ_j (log m_kj + τ / m_kj) + α log w_k],    m_kj ≥ σ² + floor,

m_kj the eigenvalues of component k's covariance, noise included; ν = 1, α = 1e-3, floor = 2e-6
(quantisation to 8 bits is 1.3e-6), τ = 1e-3 in stage 1 and 1e-4 in stage 3. With `truncation=0` it
cannot fall between the iterations of a stage, beyond rounding. The default truncation drops
responsibilities below 1e-3 from the M-step (not from the reported likelihood).

Noise. Where the training patches contain Gaussian noise of standard deviation σ, every covariance
of the data is that of the clean patches plus σ² I: all stages fit the noisy density, bounded below
by σ² + floor, and the model gets what is left, v_kj = m_kj - σ² ≥ floor. No clean patch is ever
seen. Where the noise differs from patch to patch (`PatchNoise`), patches are grouped by its level
and m_kj are variances at one reference level (`noise_groups`). Levels that were only
estimated are improved under the model, up to one factor for each group of patches, after the
iterations `REFINED_AFTER` of stage 3 (`noise_groups.refined`) and then held: levels and variances
climbing together take a little of the noise for content, 0.5 % of its level each time.

Resuming. An `EMState` holds everything an iteration starts from, as tensors; `advance` is a pure
function of problem and state. Stored after any iteration and read back, it continues to the same
bits (on one machine with one number of threads).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.training import processes
from gmdm_prior.training.likelihood import clustering, full_mixture, noise_groups, tied_mixture
from gmdm_prior.training.likelihood.coordinates import to_filters
from gmdm_prior.training.likelihood.full_mixture import FullMixture
from gmdm_prior.training.likelihood.problem import FLOOR, EMProblem, EMSettings, PatchNoise
from gmdm_prior.training.likelihood.statistics import Statistics
from gmdm_prior.training.likelihood.tied_mixture import TiedMixture

STAGES = {"full": FullMixture, "tied": TiedMixture}
MODULES = {"full": full_mixture, "tied": tied_mixture}
REFINED_AFTER = (2, 4)  # tied iterations


@dataclass(frozen=True)
class EMState:
    """Holds where training stands.

    Attributes:
        stage: `"full"` or `"tied"`.
        iteration: completed iterations of the stage.
        mixture: the stage's parameters.
        random_state: of the generator that clustering will use, (bytes,) uint8.
        sigmas: noise levels of the groups of patches, (M,) float64, where they are estimated.
    """

    stage: str
    iteration: int
    mixture: FullMixture | TiedMixture
    random_state: Tensor
    sigmas: Tensor | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain strings, integers and tensors, for a checkpoint."""
        fields = {f.name: getattr(self.mixture, f.name) for f in dataclasses.fields(self.mixture)}
        state = {"stage": self.stage, "iteration": self.iteration}
        state |= {} if self.sigmas is None else {"sigmas": self.sigmas}
        return {**state, "random_state": self.random_state, "mixture": fields}

    @classmethod
    def from_dict(cls, state: dict) -> EMState:
        """The inverse of `to_dict`."""
        mixture = STAGES[state["stage"]](**state["mixture"])
        place = state["stage"], state["iteration"]
        return cls(*place, mixture, state["random_state"], state.get("sigmas"))


@dataclass(frozen=True)
class EMRecord:
    """What one iteration reports; values are those of the parameters that it started from.

    Attributes:
        stage: `"full"` or `"tied"`.
        iteration: 1, 2, …
        log_likelihood: mean over patches of log f(x_i), in nats, noise included.
        objective: the same plus the regulariser divided by the number of patches: what never falls.
        seconds: duration of the iteration.
    """

    stage: str
    iteration: int
    log_likelihood: float
    objective: float
    seconds: float


def start(problem: EMProblem, generator: torch.Generator | None = None) -> EMState:
    """The state before the first iteration."""
    settings = problem.settings
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    noise = problem.noise
    surplus = None if noise is None else noise.sigma.double().square() - settings.noise**2
    mixture = full_mixture.initial_mixture(
        problem.coordinates, settings.components, settings.penalty("full"), generator, surplus
    )
    sigmas = None if noise is None else noise.first_levels()
    return EMState("full", 0, mixture, generator.get_state(), sigmas)


def _to_tied(problem: EMProblem, state: EMState) -> EMState:
    """Stage 2."""
    generator = torch.Generator()
    generator.set_state(state.random_state)
    settings = problem.settings
    full = cast(FullMixture, state.mixture)
    tied = clustering.cluster(full, settings.bases, problem.turns, generator)
    tied = clustering.merge(tied, settings.classes)
    return EMState("tied", 0, tied, generator.get_state(), state.sigmas)


def finished(problem: EMProblem, state: EMState) -> bool:
    """Whether no iteration is left."""
    return state.stage == "tied" and state.iteration >= problem.settings.iterations


def advance(problem: EMProblem, state: EMState) -> tuple[EMState, EMRecord]:
    """One iteration of EM, a pure function; the first tied one begins with the clustering."""
    begun = time.perf_counter()
    settings, x = problem.settings, problem.coordinates
    if state.stage == "full" and state.iteration >= settings.full_iterations:
        state = _to_tied(problem, state)
    penalty, module = settings.penalty(state.stage), MODULES[state.stage]
    turns = (problem.turns,) if state.stage == "tied" else ()
    levels = problem.levels(state.sigmas, len(state.mixture.weights))
    surplus = [level.variance - settings.noise**2 for level in levels]
    statistics = [
        of_all_processes(
            module.expect(
                processes.share(x if level.members is None else x[level.members]),
                state.mixture.raised(extra),
                *turns,
                truncation=settings.truncation,
            )
        )
        for level, extra in zip(levels, surplus, strict=True)
    ]
    log_likelihood = sum(part.log_likelihood for part in statistics)
    regulariser = module.log_penalty(state.mixture, penalty)
    mixture = noise_groups.maximise(state.mixture, statistics, surplus, penalty)
    sigmas, iteration = state.sigmas, state.iteration + 1
    if sigmas is not None and state.stage == "tied" and iteration in REFINED_AFTER:
        group, reference = problem.noise.group, settings.noise**2
        tied = cast(TiedMixture, mixture)
        sigmas = noise_groups.refined(x, group, sigmas, tied, reference, *turns)
    record = EMRecord(
        state.stage,
        iteration,
        log_likelihood / len(x),
        (log_likelihood + regulariser) / len(x),
        time.perf_counter() - begun,
    )
    return EMState(state.stage, iteration, mixture, state.random_state, sigmas), record


def of_all_processes(statistics: Statistics) -> Statistics:
    """The sum of what every process has gathered from its share of the patches."""
    scatter, counts = processes.summed([statistics.scatter, statistics.counts])
    (log_likelihood,) = processes.summed_numbers(statistics.log_likelihood)
    return Statistics(scatter, counts, log_likelihood)


def to_model(problem: EMProblem, state: EMState) -> PatchMixture:
    """The model of a state of the tied stage, in float32."""
    if state.stage != "tied":
        raise ValueError(f"state must be of the tied stage to be a model; got {state.stage!r}")
    mixture = cast(TiedMixture, state.mixture)
    variances = (mixture.variances - problem.settings.noise**2).clamp(min=FLOOR)
    return PatchMixture(
        to_filters(mixture.bases, problem.channels, problem.size).float(),
        variances.float(),
        mixture.weights.float(),
        mixture.basis,
        symmetries=problem.settings.symmetries,
    )


def fit_em(
    patches: Tensor,
    *,
    bases: int = 3,
    classes: int = 40,
    symmetries: str = "d4",
    noise: float | Tensor = 0.0,
    components: int = 200,
    full_iterations: int = 12,
    iterations: int = 8,
    truncation: float = 1e-3,
    generator: torch.Generator | None = None,
    on_iteration: Callable[[EMRecord], None] | None = None,
) -> PatchMixture:
    """Fit a `PatchMixture` to patches by maximum (penalised) likelihood.

    Args:
        patches: (N, C, b, b), float32 or float64, values in [0, 1]; means are ignored. The work is
            done in their dtype on the CPU; float32 is right for training. The model is symmetric
            whatever the patches: symmetric copies of them are no news to it.
        bases: number G of orthonormal bases.
        classes: number K of classes, bases ≤ classes ≤ components.
        symmetries: `"d4"`, `"flips"` (left–right only) or `"none"`.
        noise: standard deviation of the Gaussian noise that the patches already contain, in their
            units; a number, or (N,), one for each patch.
        components: of the full-covariance mixture that the bases come from, at most N.
        full_iterations: EM iterations of that mixture.
        iterations: EM iterations of the model, at least 1.
        truncation: responsibilities up to this are left out of the M-step; 0 for exact (and
            slower) EM.
        generator: source of randomness (CPU); `None` is a generator seeded with 0.
        on_iteration: called with an `EMRecord` after every iteration.

    Returns:
        A float32 model; its stored variances are those of noise-free patches.

    Raises:
        TypeError: patches are no floating-point tensor, or a setting is of the wrong type.
        ValueError: patches of the wrong shape, too few or not finite, or settings out of range.
    """
    settings = EMSettings(
        bases=bases,
        classes=classes,
        symmetries=symmetries,
        noise=0.0 if isinstance(noise, Tensor) else noise,
        components=components,
        full_iterations=full_iterations,
        iterations=iterations,
        truncation=truncation,
    )
    each = PatchNoise(noise.detach().cpu()) if isinstance(noise, Tensor) else None
    problem = EMProblem.from_patches(patches, settings, each)
    state = start(problem, generator)
    while not finished(problem, state):
        state, record = advance(problem, state)
        if on_iteration is not None:
            on_iteration(record)
    return to_model(problem, state)
