"""Torch's ambient modes change no value: of no model, denoiser, likelihood or estimator.

Autocast, inference mode, no gradients, a default dtype, a default device, deterministic algorithms.
"""

import contextlib
import warnings

import pytest
import torch
from models import MODELS, events, mixture, opponents, product, sample, wavelet

import gmdm_prior as gm
from gmdm_prior.images.langevin import langevin
from gmdm_prior.training import adapt


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default dtype": default_dtype,
    "default device": default_device,
    "deterministic": deterministic,
}


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


Y = image(2, 1, 12, 12)
PAIR = torch.tensor([0.1, 0.2])
SMALL = Y[:1, :, :7, :7]
COLOUR = image(1, 3, 10, 10)
LEVELS = 0.05 + 0.2 * image(1, 1, 12, 12, seed=1)
STRIPES = 0.3 * image(1, 1, 64, 64) + torch.arange(64).mul(1.3).sin().mul(0.3)
MAP = LEVELS[..., :7, :7]


def on_images(model):
    """Results of everything of whole images that a density of patches goes into."""
    average, hqs = gm.PatchAveraging(model), gm.HalfQuadraticSplitting(model)
    own = gm.HalfQuadraticSplitting(model, levels=[1.0, 0.5], data_shares=[0.2, 0.1])
    likelihood = gm.PatchLikelihood(model)
    return [
        average(Y, PAIR),
        average(SMALL, MAP),
        average.variance(SMALL, 0.1),
        average.score(Y, 0.1),
        hqs(Y, 0.2),
        hqs(Y, LEVELS),
        own(Y, 0.1),
        likelihood.log_prob(Y, 0.1),
        likelihood.score(Y, 0.1),
        likelihood.score(SMALL, MAP),
    ]


def on_colours(model):
    average, likelihood = gm.PatchAveraging(model), gm.PatchLikelihood(model)
    results = [average(COLOUR, 0.1), average.variance(COLOUR, 0.1), average.score(COLOUR, 0.1)]
    results += [gm.HalfQuadraticSplitting(model)(COLOUR, 0.2), likelihood.log_prob(COLOUR, 0.1)]
    return [*results, likelihood.score(COLOUR, 0.1)]


def on_wavelets(model):
    likelihood = gm.WaveletLikelihood(model)
    results = [gm.WaveletDenoiser(model)(Y[..., :10], 0.1), likelihood.log_prob(Y, 0.1)]
    return [*results, likelihood.score(Y, 0.1)]


def adapted(model):
    own = adapt(model, STRIPES, 0.1)
    return [gm.AdaptiveSplitting(model)(STRIPES, 0.1), own.filters, own.variances, own.weights]


def in_other_ranges(model):
    frame = gm.ImageFrame(model, data_range=(-1, 1))
    u, sigma = frame.enter(Y, 0.1)
    return [u, sigma, frame.leave(u, Y), frame.gradient(u, Y)]


def estimates(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = gm.noise_level(model, Y)
        return [level.sigma, level.error, *level.interval(), gm.estimate_sigma_map(model, Y)]


def chains(model):
    g = torch.Generator().manual_seed(0)
    return [langevin(gm.PatchLikelihood(model), Y, [0.2], steps=1, generator=g)]


SUBJECTS = {
    "images, product": (on_images, lambda: product(3)),
    "images, mixture": (on_images, lambda: mixture(4)),
    "images, mixture without a kernel": (on_images, lambda: mixture(3)),
    "noise, product": (estimates, lambda: product(2, filters=1)),
    "noise, mixture": (estimates, lambda: mixture(4)),
    "colours": (on_colours, opponents),
    "wavelets": (on_wavelets, wavelet),
    "adapted": (adapted, lambda: gm.load("gray-small")),
    "ranges": (in_other_ranges, lambda: mixture(4)),
    "Langevin": (chains, lambda: mixture(3)),
}


def check(mode, subject, model):
    expected = subject(model)
    with MODES[mode]():
        found = subject(model)
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert torch.equal(one.clone(), other)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SUBJECTS)
def test_modes_change_no_value(mode, name):
    subject, make = SUBJECTS[name]
    check(mode, subject, make().float())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_modes_change_no_value_of_a_model(mode, name):
    model = MODELS[name]().float()
    x, levels = events(model, 5, dtype=torch.float32), torch.full((5,), 0.2)

    def subject(model):
        g = torch.Generator().manual_seed(0)
        return [
            model.log_prob(x, 0.1),
            model.score(x, 0.1),
            model.denoise(x, 0.1),
            *model.posterior(x, levels),
            sample(model, (3,), 0.1, g),
        ]

    check(mode, subject, model)
