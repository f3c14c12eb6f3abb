"""Exact samples: second moments, dependence, levels that differ in a batch, and seeds."""

import pytest
import torch
from models import mixture, product, span
from scipy import stats

from gmdm_prior import symmetry

CHECKED = {
    "product": lambda: product(3),
    "product with mean": lambda: product(3).with_mean(0.05),
    "mixture": lambda: mixture(3),
    "mixture with mean": lambda: mixture(3).with_mean(0.05),
}


@pytest.fixture(params=CHECKED, scope="module")
def model(request):
    return CHECKED[request.param]()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def covariance(model, sigma):
    """(a, a), by the model's definition."""
    pixels = model.patch_size**2
    total = torch.zeros(pixels, pixels, dtype=torch.float64)
    if model.filters.ndim == 4:
        experts = model.experts
        for k, w in zip(model.filters.flatten(1), experts.weights, strict=True):
            mean = (w * experts.means).sum()
            spread = (w * (experts.means - mean).square()).sum() + experts.base_scale**2
            norm = k.square().sum()
            total += torch.outer(k, k) * (spread + norm * sigma**2) / norm**2
    else:
        elements = symmetry.group(model.symmetries)
        for w, v, g in zip(model.weights, model.variances, model.basis, strict=True):
            for h in elements:
                rows = symmetry.act(model.filters[g], h).flatten(1)
                total += w / len(elements) * rows.T @ torch.diag(v + sigma**2) @ rows
    if model.mean_part.variance is not None:
        total += model.mean_part.variance + sigma**2 / pixels
    return total


@pytest.mark.parametrize("sigma", [0.0, 0.1, 1.0])
def test_samples_have_the_covariance_of_the_model(model, sigma):
    expected = covariance(model, sigma)
    found = torch.cov(model.sample((60_000,), sigma, seeded()).flatten(1).T)
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()  # scatter: 0.01


def test_samples_of_a_level_are_clean_samples_with_noise(model):
    """In one direction, in law; noise of 0.85 for 1 would show."""
    row, n = span(model)[0], 40_000
    clean = (model.sample((n,), 0.0, seeded(1)).flatten(1) @ row).numpy()
    noise = torch.randn(n, dtype=torch.float64, generator=seeded(2)).numpy()
    direct = (model.sample((n,), 1.0, seeded(3)).flatten(1) @ row).numpy()
    assert stats.ks_2samp(clean + noise, direct).pvalue > 1e-4
    assert stats.ks_2samp(clean + 0.85 * noise, direct).pvalue < 1e-4


def test_each_sample_has_its_own_level(model):
    sigma = torch.tensor([[0.0], [0.5], [3.0]], dtype=torch.float64)
    x = model.sample((3, 20_000), sigma, seeded()).flatten(2)
    for level, some in zip(sigma.flatten().tolist(), x, strict=True):
        expected = covariance(model, level).diagonal()
        torch.testing.assert_close(some.var(0), expected, rtol=0.06, atol=0)


def test_a_mixture_knows_that_responses_are_large_together_and_a_product_does_not():
    for make, together in ((product, False), (mixture, True)):
        model = make(3)
        x = model.sample((60_000,), 0.0, seeded()).flatten(1)
        squares = (x @ span(model).T).square()
        correlation = torch.corrcoef(squares.T) - torch.eye(8, dtype=torch.float64)
        assert bool(correlation.abs().max() > 0.05) is together


def test_seeds_and_batch_shapes(model):
    x = model.sample((2, 3), 0.1, seeded())
    assert x.shape == (2, 3, *model.event_shape)
    assert torch.equal(x, model.sample((2, 3), 0.1, seeded()))
    assert not torch.equal(x, model.sample((2, 3), 0.1, seeded(1)))
    assert model.sample(generator=seeded()).shape == model.event_shape
