"""The row `training` of benchmarks/speed.py: what training costs beside naive implementations."""

from collections.abc import Iterator

import torch
from lib.timing import medians, on_threads
from torch import Tensor
from training_cost import LOSSES, loss_and_gradients, make_problem

from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.training import fit_em, sample_patches
from speed_rows.bench import Bench, Measurement

EM_PATCHES, EM_SECONDS = 200_000, 120.0
FIT = {"bases": 3, "classes": 40, "symmetries": "d4", "components": 200}  # of `gray-likelihood`
FIT |= {"full_iterations": 12, "iterations": 12}
SYMMETRIES = 8


def naive_expectation(x: Tensor, precisions: Tensor) -> Tensor:
    """Responsibilities (N, K) of dense Gaussians of these precisions, as they are written down."""
    constants = 0.5 * torch.logdet(precisions)
    energies = [0.5 * ((x @ p) * x).sum(1) for p in precisions]
    return torch.softmax(constants - torch.stack(energies, 1), 1)


def training(bench: Bench) -> Iterator[Measurement]:
    """The product's loss and gradients against autograd; EM against naive E-steps."""
    model, batch = make_problem(7, 3200)
    runs = [lambda turn, k=k: loss_and_gradients(k, model, batch) for k in LOSSES]
    pair = medians(*runs, turns=bench.turns(5))
    label = "denoising score matching, 7×7, fused"
    yield bench.timed("training", label, "autograd over a tensor (N, J, L)", pair, faster=True)

    patches = sample_patches(bench.training, EM_PATCHES, 8)
    x = patches.flatten(1) @ zero_mean_basis(1, 8).T
    root = torch.randn(SYMMETRIES * FIT["classes"], x.shape[1], x.shape[1])
    precisions = root @ root.mT + torch.eye(x.shape[1])
    with on_threads(2):
        naive_expectation(x[:1000], precisions)
        step, whole = medians(
            lambda turn: naive_expectation(x, precisions),
            lambda turn: fit_em(patches, **FIT),
            turns=bench.turns(1),
            warm=0,
        )
    dense = FIT["full_iterations"] * FIT["components"]
    dense += FIT["iterations"] * len(precisions)  # Gaussians evaluated in a whole training
    label, two = f"fit_em, {EM_PATCHES:,} patches", {"threads": "2"}
    rival = "naive E-steps alone, one measured, as many as EM makes"
    pair = step * dense / len(precisions), whole
    note = f"one naive E-step of {len(precisions)} dense Gaussians: {step:.1f} s"
    yield bench.timed("training", label, rival, pair, note=note, **two, faster=True)
    yield bench.timed("training", label, "two minutes", (EM_SECONDS, whole), most=1, **two)
