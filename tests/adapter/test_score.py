"""The score in closed form, where deepinv would divide a difference by sigma²."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, GMDMScore, GMDMScorePrior
from models import mixture, opponents, product, wavelet

import gmdm_prior as gm

MODELS = {
    "product": lambda: product(3),
    "mixture": lambda: mixture(2),
    "mean": lambda: mixture(2).with_mean(0.2),
    "opponents": opponents,
    "wavelet": wavelet,
}


def images(model, side=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand((2, model.channels, side, side), generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("data_range", [(0, 1), (-1, 3)])
def test_it_is_what_tweedie_says(name, data_range):
    model = MODELS[name]()
    x = images(model) * (data_range[1] - data_range[0]) + data_range[0]
    score = GMDMScore(model, data_range=data_range)
    expected = (score.denoiser(x, 0.3) - x) / 0.3**2
    torch.testing.assert_close(score(x, 0.3), expected, rtol=1e-5, atol=1e-5)
    levels = torch.tensor([0.3, 0.1], dtype=torch.float64)
    both = score(x, levels)
    torch.testing.assert_close(both[:1], score(x[:1], 0.3))
    torch.testing.assert_close(both[1:], score(x[1:], 0.1))


@pytest.mark.parametrize("name", ["product", "mixture", "opponents"])
def test_with_a_circular_boundary_it_is_the_gradient_of_the_prior(name):
    model = MODELS[name]()
    x, sigma = images(model), 0.2
    score = GMDMScore(model, boundary="circular")
    torch.testing.assert_close(score(x, sigma), -GMDMPrior(model).grad(x, sigma))
    ramp = torch.linspace(0.1, 0.3, 8, dtype=torch.float64).expand(1, 1, 8, 8)
    torch.testing.assert_close(score(x, ramp), -GMDMPrior(model).grad(x, ramp))


@pytest.mark.parametrize("sigma", [1e-1, 1e-2, 1e-3, 3e-4, 1e-4, 0.0])
def test_float32_keeps_its_digits(photo, sigma):
    """Against float64, where a difference that is divided plainly errs more and more."""
    exact = exact_score(photo, sigma)
    ours = GMDMScorePrior("gray-small").score(photo, sigma)
    assert error(ours, exact) < 2e-5
    lost = {1e-2: 1e-5, 1e-3: 4e-4, 3e-4: 5e-3, 1e-4: 0.07}
    if sigma in lost:
        difference = GMDMDenoiser("gray-small", method="average")(photo, sigma) - photo
        assert lost[sigma] < error(difference / sigma**2, exact) < 3 * lost[sigma]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("sigma", "share"), [(3e-4, 0.1), (1e-4, 0.9)])
def test_deepinv_divides_by_no_less_than_1e_7(photo, sigma, share, dtype):
    """Its score is too small by this share in float64 too: no digits are lost there."""
    denoiser = GMDMDenoiser(gm.load("gray-small", dtype=dtype), method="average")
    theirs = deepinv.optim.ScorePrior(denoiser).score(photo.to(dtype), sigma)
    assert error(theirs, exact_score(photo, sigma)) == pytest.approx(share, abs=0.01)


def exact_score(x, sigma):
    return GMDMScore(gm.load("gray-small", dtype=torch.float64))(x.double(), sigma)


def error(found, exact):
    return float((found - exact).norm() / exact.norm())


def test_prior_is_its_negative(noisy):
    prior = GMDMScorePrior("gray-small")
    assert torch.equal(prior.grad(noisy, 0.1), -prior.score(noisy, 0.1))
    assert isinstance(prior, deepinv.optim.ScorePrior)


def test_half_quadratic_splitting_has_none(noisy):
    with pytest.raises(ValueError, match="no posterior mean and has no score"):
        GMDMDenoiser("gray-small").score(noisy, 0.1)


def test_bad_levels_are_refused(noisy):
    with pytest.raises(ValueError, match="not negative"):
        GMDMScore("gray-small")(noisy, -0.1)
