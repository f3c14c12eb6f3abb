"""What densities share: the mean of a patch, options in a state, parameters that are refused."""

import io
import math

import pytest
import torch
from models import mixture, opponents, product, subbands, wavelet

import gmdm_prior as gm
from gmdm_prior.densities.wavelet.transform import haar_tile


def numbers(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The mean of a patch


@pytest.mark.parametrize("make", [mixture, product])
def test_the_mean_of_a_patch_has_the_mean_of_its_noise_variances(make):
    """By the one-dimensional Gaussian of the mean grey level, where pixels differ in noise."""
    flat, prior = make(2), 0.05
    proper = flat.with_mean(prior)
    noise, y = 0.01 + numbers(5, 4, seed=1), numbers(5, 4)
    level, without = proper.at(noise), flat.at(noise)
    of_mean = noise.mean(1) / 4  # the variance of the mean of four pixels
    grey = y.mean(1)
    law = torch.distributions.Normal(0.5, (prior + of_mean).sqrt())
    # d = 2 grey is the orthonormal coordinate
    expected = law.log_prob(grey) - math.log(2)
    torch.testing.assert_close(level.log_prob(y) - without.log_prob(y), expected)
    slope = (0.5 - grey) / (prior + of_mean) / 4
    torch.testing.assert_close(
        level.score(y) - without.score(y), slope[:, None].expand(5, 4), rtol=1e-9, atol=1e-9
    )
    gain = prior / (prior + of_mean)
    mean, variance = level.posterior(y)
    torch.testing.assert_close(mean.mean(1), 0.5 + gain * (grey - 0.5))
    taken = variance - without.posterior(y)[1]
    left = gain * of_mean - of_mean
    torch.testing.assert_close(taken, left[:, None].expand(5, 4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [mixture, product, lambda size: subbands(1)])
def test_lipschitz_counts_a_proper_mean(make):
    """A mean of variance v has the curvature 1 / (v b² + sigma²)."""
    proper = make(2).with_mean(1e-9)
    assert proper.lipschitz(0.0) == pytest.approx(1 / 4e-9)
    assert proper.lipschitz(0.1) == pytest.approx(max(1 / 0.01, make(2).lipschitz(0.1)), rel=1e-6)
    assert make(2).with_mean(1e9).lipschitz(0.1) == make(2).lipschitz(0.1)


def test_the_bundled_model_with_a_sharp_mean():
    """2.3e7, that of the classes, let `prox` diverge."""
    assert gm.load("gray").with_mean(1e-10).lipschitz(0.0) == pytest.approx(1 / 64e-10)


@pytest.mark.parametrize("sharp", [0, 1, 2])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_lipschitz_of_opponents_is_the_largest_curvature_of_gaussians(sharp, sigma):
    """Of one class on each plane, one of them much narrower than the others: it is reached."""
    planes = [mixture(2, bases=1, classes=1, symmetries="none", seed=j) for j in range(3)]
    planes[sharp].variances.div_(1000)
    model = gm.OpponentModel(*planes, scales=(1.5, 0.6, 0.4))
    x = numbers(3, 2, 2)
    hessian = torch.func.hessian(lambda v: -model.log_prob(v, sigma))(x).reshape(12, 12)
    largest = torch.linalg.eigvalsh(hessian).max().item()
    assert model.lipschitz(sigma) == pytest.approx(largest, rel=1e-6)


def test_subband_experts_are_the_product_of_their_filters():
    """At one noise for all, and at one of each."""
    tiles = subbands(2).with_mean(0.1)
    filters, logits = tiles.filters, tiles.experts.logits[haar_tile(2)[1]]
    same = gm.PatchModel(filters, logits).with_mean(0.1)
    y = numbers(5, 16)
    for noise in (numbers(), numbers(5, 1)):
        ours, expected = tiles.at(0.1 * noise), same.at(0.1 * noise)
        for method in ("log_prob", "score", "posterior_mean", "posterior_variance"):
            torch.testing.assert_close(getattr(ours, method)(y), getattr(expected, method)(y))


# A state holds the options of its density

STATES = {
    "mean": (lambda: mixture(2).with_mean(0.1), lambda: mixture(2), "mean_variance"),
    "no mean": (lambda: product(2), lambda: product(2).with_mean(0.1), "mean_variance"),
    "other mean": (lambda: subbands(1), lambda: subbands(1).with_mean(0.2), "mean_variance"),
    "symmetries": (lambda: mixture(2), lambda: mixture(2, symmetries="none"), "symmetries"),
    "trainable": (
        lambda: mixture(2).with_mean(0.1).trainable(),
        lambda: mixture(2).trainable(),
        "mean_variance",
    ),
    "bound": (
        lambda: gm.PatchModel(product(2).filters, product(2).experts.logits, 2.0),
        lambda: product(2),
        "bound",
    ),
    "planes": (lambda: opponents().with_mean(0.1), opponents, "mean_variance"),
    "scales": (
        lambda: gm.OpponentModel(mixture(2)),
        lambda: gm.OpponentModel(mixture(2), scales=(1.0, 1.0, 1.0)),
        "scales",
    ),
    "wavelet": (lambda: wavelet(), lambda: wavelet(name="db2"), "wavelet"),
    "denoiser": (
        lambda: gm.PatchAveraging(mixture(2).with_mean(0.1)),
        lambda: gm.PatchAveraging(mixture(2)),
        "mean_variance",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_another_density_is_refused(name):
    """Shapes fit, and the log-density would be off by nats without a word."""
    make, other, option = STATES[name]
    with pytest.raises(ValueError, match=rf"the state is of a .*{option}.*the same options"):
        other().load_state_dict(make().state_dict())


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_the_same_density_is_taken_from_a_file(name):
    make = STATES[name][0]
    stored = io.BytesIO()
    state = make().state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    torch.save(state, stored)
    stored.seek(0)
    make().load_state_dict(torch.load(stored, weights_only=True))


# Parameters


def arguments(kind):
    if kind is gm.ConvolutionalModel:
        filters = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
        model = gm.ConvolutionalModel.from_filters(filters, torch.zeros(2, 5).double())
    else:
        makes = {gm.PatchMixture: mixture, gm.PatchModel: product}
        model = makes.get(kind, lambda size: subbands(1))(2)
    return {name: value.detach().clone() for name, value in model.pack().tensors.items()}


@pytest.mark.parametrize("change", [torch.Tensor.long, lambda t: t.to(torch.complex128)])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (gm.PatchMixture, "filters"),
        (gm.PatchMixture, "variances"),
        (gm.PatchMixture, "weights"),
        (gm.PatchModel, "filters"),
        (gm.PatchModel, "logits"),
        (gm.SubbandExperts, "logits"),
        (gm.SubbandExperts, "scales"),
        (gm.ConvolutionalModel, "phase"),
        (gm.ConvolutionalModel, "magnitude"),
        (gm.ConvolutionalModel, "logits"),
    ],
)
@pytest.mark.filterwarnings("error")  # torch warns where it drops imaginary parts
def test_refuses_parameters_that_are_not_real(kind, name, change):
    parameters = arguments(kind)
    kind(**parameters)
    parameters[name] = change(parameters[name])
    with pytest.raises(TypeError, match=rf"{name} must be real floating point; got"):
        kind(**parameters)
