"""Other ranges and colours than those of the model: an exact change of coordinates."""

import math

import pytest
import torch
from deepinv_gmdm import (
    GMDMDenoiser,
    GMDMLogLikelihood,
    GMDMNoiseEstimator,
    GMDMPrior,
    GMDMScore,
    GMDMScorePrior,
)
from models import mixture, product, wavelet

import gmdm_prior as gm

RANGES = [(0, 255), (-1.0, 3.0)]
MODELS = {"product": lambda: product(2), "mixture": lambda: mixture(2), "wavelet": wavelet}


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_range(x, low, high):
    return low + (high - low) * x


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("sigma", [0.1, [0.1, 0.05]], ids=["number", "levels"])
def test_everything_scales_with_the_range(name, low, high, sigma):
    """Denoiser and noise level by the width, score by its inverse, curvature by its square."""
    model, x, width = MODELS[name](), images(2, 2, 8, 8), high - low
    y, level = in_range(x, low, high), (width * torch.tensor(sigma)).tolist()
    other = {"data_range": (low, high)}
    torch.testing.assert_close(
        GMDMDenoiser(model, **other)(y, level),
        in_range(GMDMDenoiser(model)(x, sigma), low, high),
        rtol=1e-6,  # levels come as float32
        atol=1e-6 * width,
    )
    prior, scaled = GMDMPrior(model), GMDMPrior(model, **other)
    torch.testing.assert_close(
        scaled.grad(y, level), prior.grad(x, sigma) / width, rtol=1e-5, atol=1e-6
    )
    assert scaled.lipschitz(level) == pytest.approx(prior.lipschitz(sigma) / width**2, rel=1e-6)
    assert scaled.sigma == pytest.approx(0.02 * width)
    start = {"gamma": 0.01, "max_iter_inter": 5}
    there = scaled.prox(y, level, gamma=0.01 * width**2, max_iter_inter=5)
    torch.testing.assert_close(
        there, in_range(prior.prox(x, sigma, **start), low, high), rtol=1e-5, atol=1e-5 * width
    )


def test_map_scales_with_the_range(photo):
    sigma = torch.linspace(0.05, 0.2, photo.shape[-1]).expand(1, 1, *photo.shape[-2:])
    own = GMDMDenoiser("gray-small")(photo, sigma)
    other = GMDMDenoiser("gray-small", data_range=(0, 255))(255 * photo, 255 * sigma)
    torch.testing.assert_close(other, 255 * own, rtol=0, atol=255 * 2e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_density_of_scaled_images_integrates_to_one(sigma):
    """A product of one filter on one patch: fn is -log f / b², on a line of zero-mean patches."""
    model = product(2, filters=1)
    prior = GMDMPrior(model, boundary="valid", data_range=(2.0, 9.0))
    direction = model.filters[0] / model.filters[0].norm()
    at = torch.linspace(-7 * 8.0, 7 * 8.0, 20_001, dtype=torch.float64)
    values = [prior(3.0 + t[:, None, None, None] * direction, 7 * sigma) for t in at.split(4000)]
    density = (-4 * torch.cat(values)).exp()
    assert torch.trapezoid(density, at).item() == pytest.approx(1, abs=1e-6)


def test_density_of_a_whole_image_is_normalised():
    """A wavelet density of one class is a Gaussian: its curvature gives the covariance."""
    one_class = mixture(2, bases=1, classes=1, symmetries="none")
    model = gm.WaveletModel(one_class.with_mean(0.2), "haar")
    prior = GMDMPrior(model, data_range=(0.0, 5.0))
    x = in_range(images(3, 1, 2, 4), 0, 5)
    middle = torch.full((1, 1, 2, 4), 2.5, dtype=x.dtype)
    hessian = torch.func.hessian(lambda x: prior(x, 0.5).sum())(middle).reshape(8, 8)
    gaussian = torch.distributions.MultivariateNormal(
        middle.flatten(), precision_matrix=(hessian + hessian.T) / 2
    )
    torch.testing.assert_close(prior(x, 0.5), -gaussian.log_prob(x.flatten(1)))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        *((name, way) for name in MODELS for way in ("auto", "independent")),
        *((name, "opponent") for name in ("product", "mixture")),
    ],
)
def test_gradient_is_that_of_the_value(name, channels):
    x = in_range(images(2, 3, 8, 8), -1, 2).requires_grad_(True)
    prior = GMDMPrior(MODELS[name](), channels=channels, data_range=(-1, 2))
    (expected,) = torch.autograd.grad(prior(x, 0.2).sum(), x)
    torch.testing.assert_close(prior.grad(x.detach(), 0.2), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_channels_are_red_green_and_blue_by_default(count):
    """Other numbers of channels are taken one by one; steps fit either density."""
    model, x = mixture(2), images(2, count, 8, 8)
    way = "opponent" if count == 3 else "independent"
    auto, named = GMDMPrior(model), GMDMPrior(model, channels=way)
    for method in ("hqs", "average"):
        expected = GMDMDenoiser(model, method=method, channels=way)(x, 0.1)
        assert torch.equal(GMDMDenoiser(model, method=method)(x, 0.1), expected)
        assert torch.equal(auto.posterior_mean(method=method)(x, 0.1), expected)
    expected = GMDMDenoiser(model, method="average", channels=way).score(x, 0.1)
    assert torch.equal(GMDMDenoiser(model, method="average").score(x, 0.1), expected)
    for quantity in ("fn", "grad", "prox"):
        assert torch.equal(getattr(auto, quantity)(x, 0.1), getattr(named, quantity)(x, 0.1))
    assert auto.lipschitz(0.01) >= named.lipschitz(0.01)


def test_opponents_are_an_opponent_model():
    """With the gray density on all planes; the range scales besides."""
    model, x = mixture(2), images(2, 3, 8, 8)
    expected = gm.HalfQuadraticSplitting(gm.OpponentModel(model))(x, 0.1)
    torch.testing.assert_close(GMDMDenoiser(model, channels="opponent")(x, 0.1), expected)
    other = GMDMDenoiser(model, channels="opponent", data_range=(-1, 3))
    torch.testing.assert_close(other(in_range(x, -1, 3), 0.4), in_range(expected, -1, 3))
    prior = GMDMPrior(model, channels="opponent")
    log_prob = gm.PatchLikelihood(gm.OpponentModel(model)).log_prob(x, 0.1)
    torch.testing.assert_close(prior(x, 0.1), -log_prob)
    scaled = GMDMPrior(model, channels="opponent", data_range=(-1, 3))
    dimensions = 3 * 64 * 3 / 4
    expected = dimensions * math.log(4) - log_prob
    torch.testing.assert_close(scaled(in_range(x, -1, 3), 0.4), expected)


def test_estimator_in_other_units(photo):
    noisy = photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    own = GMDMNoiseEstimator()
    other = GMDMNoiseEstimator(data_range=(-1000, 2000))
    y = in_range(noisy, -1000, 2000)
    torch.testing.assert_close(other(y), 3000 * own(noisy), rtol=1e-3, atol=0)
    found, expected = other.with_error(y), own.with_error(noisy)
    torch.testing.assert_close(found.error, 3000 * expected.error, rtol=1e-3, atol=0)
    blind = GMDMDenoiser("gray-small", sigma="estimate", data_range=(-1000, 2000))
    given = GMDMDenoiser("gray-small", data_range=(-1000, 2000))
    # of a range of 3000, in single precision
    torch.testing.assert_close(blind(y), given(y, other(y)), rtol=0, atol=3e-3)


@pytest.mark.parametrize("name", ["mixture", "wavelet"])
def test_log_likelihood_in_other_units(name):
    """Per pixel it falls by the logarithm of the width, times the share of dimensions."""
    model, x = MODELS[name](), images(2, 2, 8, 8)
    own = GMDMLogLikelihood(model, sigma=0.1)(x)
    other = GMDMLogLikelihood(model, sigma=25.5, data_range=(0, 255))(255 * x)
    share = 1 if name == "wavelet" else 3 / 4  # a flat mean is no dimension
    torch.testing.assert_close(other, own - share * math.log(255), rtol=1e-9, atol=1e-9)


def test_half_types_work_in_float32(photo):
    y = (255 * photo).to(torch.bfloat16)
    denoiser = GMDMDenoiser("gray-small", data_range=(0, 255))
    assert denoiser(y, 10).dtype == torch.bfloat16
    expected = denoiser(y.float(), 10).to(torch.bfloat16)
    assert torch.equal(denoiser(y, 10), expected)


@pytest.mark.parametrize("cls", [GMDMDenoiser, GMDMPrior])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"channels": "oponent"}, "did you mean 'opponent'"),
        ({"data_range": (1, 1)}, r"data_range must be \(low, high\)"),
        ({"data_range": (0, math.inf)}, "data_range"),
        ({"data_range": 255}, "data_range"),
    ],
)
def test_bad_frames_are_refused(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls(mixture(2), **options)


@pytest.mark.parametrize("cls", [GMDMDenoiser, GMDMPrior])
def test_channels_that_do_not_fit_are_refused(cls):
    strict = cls(mixture(2), channels="strict")
    with pytest.raises(ValueError, match=r"1 channel\(s\) with channels='strict'; got 3"):
        strict(images(1, 3, 8, 8), 0.1)
    assert torch.isfinite(strict(images(1, 1, 8, 8), 0.1)).all()
    with pytest.raises(ValueError, match="must have 3 channels for this model; got 1"):
        cls(mixture(2), channels="opponent")(images(1, 1, 8, 8), 0.1)
    with pytest.raises(ValueError, match=r"densities of gray patches; this is a WaveletModel"):
        cls(wavelet(), channels="opponent")
    with pytest.raises(ValueError, match="leave channels out"):
        cls(mixture(2, channels=3, symmetries="none"), channels="opponent")
    with pytest.raises(ValueError, match=r"images must be \(B, C, H, W\)"):
        strict(images(3, 8, 8), 0.1)
    with pytest.raises(TypeError, match="must be real"):
        strict(images(1, 1, 8, 8) + 1j, 0.1)


MAKERS = {
    "denoiser": GMDMDenoiser,
    "estimating denoiser": lambda model, **options: GMDMDenoiser(
        model, sigma="estimate", **options
    ),
    "prior": GMDMPrior,
    "estimator": GMDMNoiseEstimator,
    "metric": GMDMLogLikelihood,
    "score": GMDMScore,
    "score prior": GMDMScorePrior,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_state_names_its_range(name, tmp_path):
    """Loaded for other images it would be wrong by any factor, without a word."""
    make, model = MAKERS[name], mixture(2)
    eight_bits = make(model, data_range=(0, 255))
    torch.save(eight_bits.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with pytest.raises(
        ValueError, match=r"data_range=\(0.0, 255.0\); this one has \(0.0, 1.0\): make"
    ):
        make(mixture(2)).load_state_dict(state)
    other = make(mixture(2, seed=5), data_range=(0, 255))
    other.load_state_dict(state)
    for own, loaded in zip(eight_bits.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, loaded)


def test_a_state_of_opponents_is_none_of_planes():
    for make in (GMDMDenoiser, GMDMPrior):
        state = make(mixture(2), channels="opponent").state_dict()
        with pytest.raises(ValueError, match="the state is of a PatchMixture"):
            make(mixture(2)).load_state_dict(state)
