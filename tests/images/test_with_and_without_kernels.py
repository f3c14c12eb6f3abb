"""Image operators in float32 with the compiled kernels and without: both are the density itself."""

import copy

import pytest
import torch
from models import mixture, opponents, product
from reference import patch_average

import gmdm_prior as gm
from gmdm_prior.fast import choose, product_tables

MODELS = {"product": lambda: product(3), "mixture": lambda: mixture(4)}
ROUNDING = {"rtol": 0, "atol": 1e-5}  # of float32 and of a product's tables


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", MODELS)
def test_patch_averaging_is_the_loop_over_patches(kernels, kind):
    model, y = MODELS[kind](), image(1, 1, 9, 11)
    expected = patch_average(
        y[0, 0], model.patch_size, lambda p: model.denoise(p[None], 0.1)[0], "reflect"
    )
    found = gm.PatchAveraging(copy.deepcopy(model).float())(y.float(), 0.1)[0, 0]
    torch.testing.assert_close(found.double(), expected, **ROUNDING)


@pytest.mark.parametrize("kind", MODELS)
def test_kernels_are_used_where_they_can_be(kernels, kind, monkeypatch):
    used, name = [], {"product": "read_table", "mixture": "fused"}[kind]
    place = product_tables if kind == "product" else choose
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: used.append(real(*args)) or used[-1])
    gm.PatchAveraging(MODELS[kind]().float())(image(1, 1, 20, 20).float(), 0.1)
    assert used
    assert all((result is None) == (kernels == "torch alone") for result in used)


@pytest.mark.parametrize("kind", [*MODELS, "colours"])
@pytest.mark.parametrize("make", [gm.PatchAveraging, gm.HalfQuadraticSplitting, gm.PatchLikelihood])
def test_operators_are_those_of_float64(kernels, kind, make):
    model = opponents() if kind == "colours" else MODELS[kind]()
    operators = [make(copy.deepcopy(model).float()), make(model)]
    y = image(2, 3, 14, 17)
    sigmas = [0.05, torch.tensor([0.1, 0.4])]
    calls = ["forward"] if make is gm.HalfQuadraticSplitting else ["score"]
    calls += ["variance"] if make is gm.PatchAveraging else []
    for sigma in sigmas:
        for call in calls:
            single, double = (
                getattr(o, call)(x, sigma) for o, x in zip(operators, (y.float(), y), strict=True)
            )
            scale = max(1.0, double.abs().max().item())
            slack = 2e-3 if call == "score" else 2e-5  # slopes of tables are coarser
            assert (single - double).abs().max() < slack * scale


@pytest.mark.parametrize("kind", MODELS)
def test_autocast_changes_nothing(kernels, kind):
    denoise, y = gm.HalfQuadraticSplitting(MODELS[kind]().float()), image(1, 1, 14, 15).float()
    expected = denoise(y, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(denoise(y, 0.05), expected)
