"""What a training step of the paper's patch model costs, beside naive autograd in the same run.

    python benchmarks/training_cost.py [patch_size=7] [threads=1] [batch_size=3200] [repeats=5]

Prints, for a batch with per-patch noise levels from 0 to 0.4 and 125 means in float32: the time of
loss and both gradients fused (`denoising_score_matching`) and by autograd over a tensor (N, J, L),
their ratio and what each adds to the peak memory of a process of its own; then the time of iPALM
steps with back-tracking and projection, and what 100,000 of them take (on a busy machine, wall time
is more than the processor time of one thread).
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lib import table
from lib.timing import in_fresh_process, in_turns, peak
from lib.words import Options, command
from torch import Tensor

import gmdm_prior as gm
from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.training import IPALM, denoising_score_matching

COMPONENTS, SIGMA_MAX, PAPER_STEPS = 125, 0.4, 100_000
STEPS = 20  # iPALM steps in one timing

Batch = tuple[Tensor, Tensor, Tensor]


def make_problem(patch_size: int, batch_size: int) -> tuple[gm.PatchModel, Batch]:
    """A model whose filters have norms as after training, and patches of a random walk."""
    g = torch.Generator().manual_seed(0)
    j = patch_size**2 - 1
    filters = project_orthogonal(torch.randn(j, 1, patch_size, patch_size, generator=g))
    norms = filters.flatten(1).norm(dim=1) / torch.linspace(0.5, 6, j)
    means = torch.linspace(-1, 1, COMPONENTS)
    model = gm.PatchModel(filters / norms.reshape(-1, 1, 1, 1), -5 * means.abs().repeat(j, 1))
    x = 0.04 * torch.randn(batch_size, 1, patch_size, patch_size, generator=g).cumsum(2).cumsum(3)
    sigma = SIGMA_MAX * torch.rand(batch_size, generator=g)
    y = x + sigma.reshape(-1, 1, 1, 1) * torch.randn(x.shape, generator=g)
    return model, (x, y, sigma)


def naive_loss(model: gm.PatchModel, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """Eq. 4 as it is written down: a tensor of all (patch, expert, component), for autograd."""
    filters, means = model.filters.flatten(1), model.experts.means.float()
    x, y, variance = x.flatten(1), y.flatten(1), sigma[:, None] ** 2
    z = y @ filters.T
    s = model.experts.base_scale**2 + variance * filters.square().sum(1)
    joint = torch.log_softmax(model.experts.logits, 1)
    joint = joint - (z[..., None] - means).square() / (2 * s[..., None])
    score = (torch.softmax(joint, -1) @ means - z) / s
    return (x - y - variance * (score @ filters)).square().sum(1).mean()


LOSSES = {"naive": naive_loss, "fused": denoising_score_matching}


def loss_and_gradients(kind: str, model: gm.PatchModel, batch: Batch) -> list[Tensor]:
    """Loss and both gradients."""
    loss = LOSSES[kind](model, *batch)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def ipalm_step(model: gm.PatchModel, batch: Batch) -> Callable[[], float]:
    """A function that makes one step as in the paper."""
    optimizer = IPALM(
        [
            {"params": [model.filters], "prox": lambda v, step: project_orthogonal(v, steps=3)},
            {"params": [model.experts.logits]},
        ]
    )

    def closure() -> Tensor:
        loss = denoising_score_matching(model, *batch)
        if torch.is_grad_enabled():
            loss.backward()
        return loss

    for _ in range(20):  # until the Lipschitz constants are found
        optimizer.step(closure)
    return lambda: optimizer.step(closure)


def peak_memory(kind: str, patch_size: int, batch_size: int, threads: int) -> float:
    """Bytes that loss and gradients add at their peak, in this (fresh) process."""
    torch.set_num_threads(threads)
    model, batch = make_problem(patch_size, batch_size)
    small = tuple(t[:16].clone() for t in batch)
    loss_and_gradients(kind, model, small)  # loads what is loaded at first use
    return peak(lambda: loss_and_gradients(kind, model, batch))[0]


def run(options: Options) -> None:
    """Print the table."""
    torch.set_num_threads(options.threads)
    model, batch = make_problem(options.patch_size, options.batch_size)
    results = [loss_and_gradients(k, model, batch) for k in LOSSES]
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))
    runs = [lambda turn, k=k: loss_and_gradients(k, model, batch) for k in LOSSES]
    times = [min(taken) for taken in in_turns(*runs, turns=options.repeats)]
    print("  ".join(f"{k}={v}" for k, v in vars(options).items()))
    rows = []
    for kind, seconds in zip(LOSSES, times, strict=True):
        case = kind, options.patch_size, options.batch_size, options.threads
        on_linux = Path("/proc/self/status").exists()
        size = in_fresh_process(peak_memory, *case) if on_linux else math.nan
        cells = f"{1e3 * seconds:.1f}", f"{times[0] / seconds:.1f}", f"{size / 2**20:.0f}"
        rows.append([kind, *cells])
    heads = ["loss + both gradients", "ms", "naive / this", "peak memory, MiB"]
    print(table.markdown(heads, rows))
    print(f"largest relative difference of the two, float32: {error:.1e}")
    step = ipalm_step(model, batch)
    for name, clock in (("wall", time.perf_counter), ("processor", time.process_time)):
        many = [lambda turn: [step() for _ in range(STEPS)]]
        (taken,) = in_turns(*many, turns=options.repeats, clock=clock)
        seconds = min(taken) / STEPS
        print(
            f"iPALM step, {name} time: {1e3 * seconds:.1f} ms; "
            f"{PAPER_STEPS:,} steps: {seconds * PAPER_STEPS / 3600:.2f} h"
        )


main = command(run, patch_size=7, threads=1, batch_size=3200, repeats=5)

if __name__ == "__main__":
    sys.exit(main())
