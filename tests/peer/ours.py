"""What takes the place of deepinv's own objects in its tests, and proof that it was used."""

from __future__ import annotations

import contextlib
import importlib
import sys

import deepinv
import pytest
import torch
from deepinv.sampling import DDRM
from deepinv_gmdm import (
    GMDMDenoiser,
    GMDMLogLikelihood,
    GMDMNoiseEstimator,
    GMDMPrior,
    HeteroscedasticNoise,
    WeightedL2,
)
from deepinv_gmdm.command.config import shipped

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture

SMALL = "gray-small"
METHODS = {  # of each class, those that deepinv's tests call
    GMDMDenoiser: ["forward"],
    GMDMPrior: ["fn", "grad", "prox"],
    GMDMNoiseEstimator: ["forward"],
    GMDMLogLikelihood: ["metric"],
    HeteroscedasticNoise: ["forward"],
    type(WeightedL2(1.0).d): ["fn", "grad", "prox"],
}


def upstream(name):
    """A module of `deepinv/tests`, which the wheel brings and which imports its `dummy` so."""
    sys.modules.setdefault("dummy", importlib.import_module("deepinv.tests.dummy"))
    return importlib.import_module(f"deepinv.tests.{name}")


@contextlib.contextmanager
def watched():
    """Yields a list that grows by one name at every call of a method of ours."""
    calls = []

    def counting(cls, name):
        original = getattr(cls, name)

        def method(self, *args, **kwargs):
            calls.append(f"{cls.__name__}.{name}")
            return original(self, *args, **kwargs)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for cls, names in METHODS.items():
            for name in names:
                patch.setattr(cls, name, counting(cls, name))
        yield calls


def picture(name, img_size=None, **_):
    """deepinv's `load_example` without the network: bundled photographs, gray, as colour images.

    Its butterfly is our cup of coffee, its face our cat; a given size is a resized one.
    """
    file = {"butterfly.png": "coffee.png", "celeba_example.jpg": "cat.png"}[name]
    image = read_picture(shipped("images") / file)[0].expand(-1, 3, -1, -1)
    if img_size is None:
        return image.clone()
    return torch.nn.functional.interpolate(image, img_size, mode="area")


# Each takes and ignores what deepinv's own are made with. Small, coarse ones where a test counts
# shapes and steps; `denoiser` is the default method.


def denoiser(*_, **__):
    return GMDMDenoiser(SMALL)


def averaging(*_, **__):
    return GMDMDenoiser(SMALL, method="average")


def best_denoiser(*_, **__):
    return GMDMDenoiser("gray")


def quick(*_, **__):
    return GMDMDenoiser(SMALL, method="average", stride=2)


def periodic(*_, **__):
    """Symmetric Jacobian, which MomentMatching's conjugate gradients need."""
    return GMDMDenoiser(SMALL, method="average", stride=4, boundary="circular")


class OneLevel(deepinv.models.Denoiser):
    """Ours for tests of networks whose only parameters must be their steps and levels.

    Its own weights are therefore none of its parameters; the (1, levels, 3) thresholds of deepinv's
    wavelet denoiser are read as their mean.
    """

    def __init__(self, *_, **__):
        super().__init__()
        self.hidden = [GMDMDenoiser(SMALL, method="average", stride=4)]

    def forward(self, x, sigma=None, **kwargs):
        return self.hidden[0](x, sigma.mean(), **kwargs)


def trainable(*_, **__):
    return averaging().requires_grad_(True)


def prior(*_, **__):
    return GMDMPrior(SMALL)


def prior_at(sigma):
    """Ours at that level, where deepinv's own would take no level or a weight in its place."""

    class Fixed(GMDMPrior):
        def __init__(self, *_, **__):
            super().__init__(SMALL, sigma=sigma)

        def fn(self, x, *_, **__):
            return super().fn(x)

        def grad(self, x, *_, **__):
            return super().grad(x)

    return Fixed


def estimator(*_, **__):
    return GMDMNoiseEstimator(SMALL)


def likelihood(*_, device=None, **kwargs):
    return GMDMLogLikelihood(SMALL, device=device, **kwargs)


class Nothing:
    """Stands where deepinv would download a model that the row does not use."""

    def __init__(self, *_, **__):
        self.negative_log_likelihood = None


class Oracle(torch.nn.Module):
    """A denoiser that knows the clean images of `test_denoiser_perf`."""

    def __init__(self, *_, **__):
        super().__init__()

    def forward(self, y, *_, **__):
        names = ("butterfly.png", "celeba_example.jpg", "butterfly.png")
        return torch.cat([picture(name, 64) for name in names]).to(y.dtype)


class StrongerNoise:
    """In place of a blur."""

    def __init__(self, **_):
        pass

    def __call__(self, x):
        return x + 0.3 * torch.randn_like(x)


def noise(*_, rng=None, sigma=None):
    """A map of levels, or the level that is given."""
    ramp = torch.linspace(0.05, 0.2, 16).expand(1, 1, 7, 16)
    return HeteroscedasticNoise(ramp if sigma is None else sigma, rng=rng)


def weighted(sigma=1.0):
    return WeightedL2(sigma)


# A mixture of one class is a Gaussian, here N(1/2, s²) in each pixel; shifted by 1/2 it is the
# N(0, s²) for which deepinv's tests of samplers know the posterior.


def _gaussian(variance, size=2):
    waves = torch.tensor(
        [[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0]] * 2, [[1.0, -1.0], [-1.0, 1.0]]]
    )
    model = gm.PatchMixture(
        0.5 * waves[None, :, None],
        torch.full((1, 3), float(variance)),
        torch.ones(1),
        torch.zeros(1, dtype=torch.long),
        "none",
    )
    return model.with_mean(float(variance) / size**2).requires_grad_(False)


class GaussianPrior(GMDMPrior):
    """N(0, s²); the samplers' `sigma` is not its noise level."""

    def __init__(self, deviation):
        super().__init__(_gaussian(deviation**2), sigma=0.0)

    def grad(self, x, *_, **__):
        return super().grad(x + 0.5)


class GaussianDenoiser(GMDMDenoiser):
    """Posterior mean under N(0, s²)."""

    def __init__(self, deviation):
        super().__init__(_gaussian(deviation**2), method="average", boundary="circular")

    def forward(self, x, sigma=None, **_):
        return super().forward(x + 0.5, sigma) - 0.5


def short_ddrm(denoiser, sigmas, **options):
    """`DDRM` of 4 steps for 100; of each, 500 samples are drawn."""
    return DDRM(denoiser, sigmas=[*sigmas[::25], 0.0], **options)


# `test_distributed` runs a worker of its module in one process or, spawned, in two

RUN_DISTRIBUTED = upstream("test_distributed").run_distributed_test
SWAPS = {
    "create_denoiser": averaging,
    "SimpleDenoiser": averaging,
    "TrainableDenoiser": trainable,
    "create_drunet_denoiser": trainable,
    "L2": weighted,
}


def run_distributed(worker, device_config, test_args=None, called=True, **_):
    """deepinv's `run_distributed_test` with our objects, in whatever process."""
    args = {**(test_args or {}), "worker": worker.__name__, "called": called}
    return RUN_DISTRIBUTED(_worker, device_config, args, timeout_per_rank=60)


def _worker(rank, world_size, args):
    module = upstream("test_distributed")
    with pytest.MonkeyPatch.context() as patch, watched() as calls:
        for name, replacement in SWAPS.items():
            patch.setattr(module, name, replacement)
        result = getattr(module, args["worker"])(rank, world_size, args)
    assert calls or not args["called"], "nothing of ours was called"
    return result
