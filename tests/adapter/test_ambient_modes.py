"""Modes of torch that are set around a call change no value of it."""

from contextlib import contextmanager
from functools import cache

import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMLogLikelihood, GMDMNoiseEstimator, GMDMPrior
from models import mixture, opponents, product, wavelet

MODELS = {
    "mixture": lambda: mixture(4),
    "product": lambda: product(4),
    "opponents": lambda: opponents(4),
    "wavelets": wavelet,
}
PATCHES = ("mixture", "product")
CALLS = {
    "fn": (MODELS, lambda model: GMDMPrior(model)),
    "levels": (MODELS, lambda model: lambda x, s: GMDMPrior(model)(x, [s, s / 2])),
    "grad": (MODELS, lambda model: GMDMPrior(model).grad),
    "score": (MODELS, lambda model: GMDMPrior(model).score),
    "prox": (MODELS, lambda model: lambda x, s: GMDMPrior(model, max_iter=3).prox(x, s, gamma=0.1)),
    "curvature": (
        MODELS,
        lambda model: lambda x, s: x.new_tensor(GMDMPrior(model).lipschitz(s)),
    ),
    "denoiser": (MODELS, GMDMDenoiser),
    "8 bits": (
        MODELS,
        lambda model: lambda x, s: GMDMDenoiser(model, data_range=(0, 255))(255 * x, 255 * s),
    ),
    "average": ((*PATCHES, "opponents"), lambda model: GMDMDenoiser(model, method="average")),
    "metric": (MODELS, lambda model: lambda x, s: GMDMLogLikelihood(model, s)(x)),
    "estimator": (PATCHES, lambda model: lambda x, s: GMDMNoiseEstimator(model)(x)),
    "map": (
        ("mixture",),
        lambda model: lambda x, s: GMDMNoiseEstimator(model, per_pixel=True)(x[:1]),
    ),
}
CASES = [(call, model) for call, (models, _) in CALLS.items() for model in models]


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def double_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64 by default": double_by_default,
    "deterministic": deterministic,
    "elsewhere by default": lambda: torch.device("meta"),  # as torch.set_default_device
}


@cache
def case(call, model, dtype):
    """The function, images for it, and what it gives where no mode is set."""
    g = torch.Generator().manual_seed(0)
    density = MODELS[model]().to(dtype)
    x = torch.rand((2, density.channels, 16, 16), generator=g, dtype=dtype)
    function = CALLS[call][1](density)
    return function, x, function(x, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("call", "model"), CASES, ids=[" ".join(case) for case in CASES])
def test_no_value_changes(call, model, mode, dtype):
    function, x, expected = case(call, model, dtype)
    with MODES[mode]():
        found = function(x, 0.1)
    assert found.dtype == expected.dtype
    assert found.device == expected.device
    assert torch.equal(found, expected)
