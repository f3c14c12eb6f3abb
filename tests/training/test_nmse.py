"""NMSE_kappa of Appendix B: against a slow version, and on models that do and do not fit."""

import math

import pytest
import torch

import gmdm_prior as gm
from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.training.ipalm.nmse import KAPPAS, nmse


@pytest.fixture(scope="module")
def model():
    g = torch.Generator().manual_seed(0)
    filters = project_orthogonal(torch.randn(8, 1, 3, 3, generator=g))
    means = torch.linspace(-1, 1, 41)
    logits = -means.abs() / torch.linspace(0.1, 0.4, 8)[:, None]
    return gm.PatchModel(filters, logits)


@pytest.fixture(scope="module")
def patches(model):
    return model.sample((40_000,), generator=torch.Generator().manual_seed(1))


def flattened(model):
    """A model with the same filters and equal weights: the wrong potentials."""
    return gm.PatchModel(model.filters, torch.zeros_like(model.experts.logits))


def slow_nmse(model, patches, sigma, kappa, bins, generator):
    """Filter by filter, bin by bin."""
    noise = torch.randn(patches.shape, generator=generator, dtype=patches.dtype)
    y = (patches + sigma * noise).flatten(1).double()
    total = 0.0
    for j, k in enumerate(model.filters.detach().flatten(1).double()):
        z = sorted((y @ k).tolist())
        n, cut = len(z), int(kappa * len(z))
        low, high = z[cut], z[n - 1 - cut]
        width = (high - low) / bins
        s = model.experts.base_scale**2 + float(k @ k) * sigma**2
        w = model.experts.weights.detach().double()[j]
        integral, largest = 0.0, 0.0
        for i in range(bins):
            end = low + (i + 1) * width if i + 1 < bins else high
            count = sum(low + i * width <= v < end for v in z[cut : n - cut])
            middle = low + (i + 0.5) * width
            gauss = (-((middle - model.experts.means) ** 2) / (2 * s)).exp()
            potential = -math.log(float((w * gauss).sum()) / math.sqrt(2 * math.pi * s))
            h = -math.log(count / (n * width))
            integral += (potential - h) ** 2 * width
            largest = max(largest, h * h)
        total += integral / largest
    return total


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_fast_equals_slow(model, patches, sigma):
    some = patches[:2000]
    kappas = (0.02, 0.05)
    fast = nmse(model, some, [sigma], kappas, bins=10, generator=torch.Generator().manual_seed(2))
    assert fast.shape == (1, 2)
    for value, kappa in zip(fast[0], kappas, strict=True):
        g = torch.Generator().manual_seed(2)
        assert float(value) == pytest.approx(slow_nmse(model, some, sigma, kappa, 10, g), rel=1e-6)


def test_vanishes_for_the_models_own_samples(model, patches):
    """Corollary 2.1: potentials are the marginals; what is left is sampling error."""
    sigmas = [0.0, 0.02, 0.1, 0.4]
    own = nmse(model, patches, sigmas)
    assert own.shape == (4, len(KAPPAS))
    assert own.dtype == torch.float64
    assert own.max() < 0.05
    # ... which falls with the number of samples
    assert (nmse(model, patches[:4000], sigmas) > own).all()


def test_is_large_for_wrong_potentials(model, patches):
    sigmas = [0.0, 0.1]
    assert (nmse(flattened(model), patches, sigmas) > 20 * nmse(model, patches, sigmas)).all()


def test_noise_makes_the_potentials_fit(model, patches):
    """Any model is Gaussian in the end: the misfit falls as the level rises."""
    wrong = nmse(flattened(model), patches, [0.0, 0.5, 2.0])[:, 1]
    assert wrong[0] > wrong[1] > wrong[2]


def test_is_repeatable_and_leaves_inputs_alone(model, patches):
    before = patches.clone()
    assert torch.equal(nmse(model, patches, [0.1]), nmse(model, patches, [0.1]))
    assert torch.equal(patches, before)


def test_constant_patches_are_no_nan(model):
    """At sigma = 0 flat patches answer with zero: the interval is a point, its integral nothing."""
    assert torch.equal(nmse(model, torch.zeros(1000, 1, 3, 3), [0.0]), torch.zeros(1, 3).double())


def test_bad_input(model, patches):
    mixture = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"model must be a PatchModel.*got Linear"):
        nmse(mixture, patches, [0.1])
    with pytest.raises(ValueError, match=r"kappas must lie in \(0, 0.5\); got 0.5"):
        nmse(model, patches, [0.1], [0.5])
    with pytest.raises(TypeError, match=r"bins must be an integer; got 2.5"):
        nmse(model, patches, [0.1], bins=2.5)
    with pytest.raises(ValueError, match="bins must be at least 2; got 1"):
        nmse(model, patches, [0.1], bins=1)
    with pytest.raises(ValueError, match=r"N at least 1000, ten for each bin; got \(999, "):
        nmse(model, patches[:999], [0.1])
    with pytest.raises(ValueError, match="x must have shape"):
        nmse(model, patches[..., :2], [0.1])
    with pytest.raises(ValueError, match="sigma must be finite and not negative; got -1"):
        nmse(model, patches, [-1])
