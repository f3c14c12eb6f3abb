"""Posteriors of data that the model made: as uncertain as they say, in every respect."""

import pytest
import torch
from calibration import mean_square, of_patches, response_cdf
from models import mixture, product
from scipy import stats

import gmdm_prior as gm
from gmdm_prior.images.patches import pad

COUNT = 40_000
CHECKED = {
    "product": lambda: product(3),
    "product with mean": lambda: product(3).with_mean(0.05),
    "mixture": lambda: mixture(3),
    "mixture with mean": lambda: mixture(3).with_mean(0.05),
    "mixture, two channels": lambda: mixture(2, channels=2, symmetries="flips"),
}


@pytest.fixture(params=CHECKED, scope="module")
def model(request):
    return CHECKED[request.param]()


def pairs(model, sigma):
    g = torch.Generator().manual_seed(3)
    x = model.sample((COUNT,), generator=g)
    return x, x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_squared_errors_are_the_posterior_variances(model, sigma):
    """Mean of (x - m)² / v is 1 (its own scatter: 0.002), also where v is small or large."""
    x, y = pairs(model, sigma)
    mean, variance = model.posterior(y, sigma)
    ratio = (x - mean).square() / variance
    assert abs(ratio.mean().item() - 1) < 0.01
    middle = variance.median()
    for part in (variance < middle, variance > middle):
        assert abs(ratio[part].mean().item() - 1) < 0.02


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_intervals_of_responses_cover_what_they_should(model, sigma):
    """Between the exact 2.5 % and 97.5 % quantiles lie 94 to 96 % (scatter: 0.1 %), and the rest.

    The whole law is right: its distribution function at the truth is uniform.
    """
    x, y = pairs(model, sigma)
    for j in (0, 3, model.filters.shape[-4] - 1):
        below = response_cdf(model, x, y, sigma, j)
        assert 0.94 < ((below - 0.5).abs() <= 0.475).double().mean() < 0.96
        assert stats.kstest(below.numpy(), "uniform").pvalue > 1e-4


def test_a_wrong_model_is_found_out():
    """Variances four times as large: too cautious, and both figures say so."""
    true = mixture(3)
    wrong = gm.PatchMixture(true.filters, 4 * true.variances, true.weights, true.basis)
    wrong.requires_grad_(False)
    x, y = pairs(true, 0.3)
    mean, variance = wrong.posterior(y, 0.3)
    assert ((x - mean).square() / variance).mean() < 0.9
    below = response_cdf(wrong, x, y, 0.3, 0)
    assert stats.kstest(below.numpy(), "uniform").pvalue < 1e-4


def test_the_benchmark_measures_the_same():
    model = mixture(3)
    x = model.sample((4000,), generator=torch.Generator().manual_seed(3))
    ratio, coverage = of_patches(model, x, 0.1)
    assert ratio == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(0.95, abs=0.01)


def test_mean_square_is_the_loop_over_patches():
    model = mixture(3)
    y = torch.rand(1, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = pad(y[0], 2, 2, "reflect")[0]
    total = torch.zeros_like(padded)
    for top in range(padded.shape[0] - 2):
        for left in range(padded.shape[1] - 2):
            window = slice(top, top + 3), slice(left, left + 3)
            total[window] += model.denoise(padded[window][None], 0.1)[0].square() / 9
    found = mean_square(model.float(), y.float(), 0.1)[0, 0]
    torch.testing.assert_close(found, total[2:-2, 2:-2].float(), rtol=1e-4, atol=1e-6)
