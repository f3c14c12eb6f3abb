"""Colour: three densities of opponent planes, on patches and on images."""

import math

import pytest
import torch
from models import mixture, opponents, product, wavelet

import gmdm_prior as gm
from gmdm_prior.densities.opponent import OFFSETS, OPPONENT, SCALES

TURN = torch.tensor(OPPONENT, dtype=torch.float64)


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model():
    return opponents(2)


def by_hand(model, make, x, sigma):
    """Each plane with an operator of its own, then turned back."""
    planes = torch.einsum("jc,bchw->bjhw", TURN, x)
    parts = []
    for j, (plane, s, o) in enumerate(zip(model.planes, model.scales, OFFSETS, strict=True)):
        u = planes[:, j : j + 1] / s + o
        parts.append(s * (make(plane)(u, sigma / s) - o))
    return torch.einsum("jc,bjhw->bchw", TURN, torch.cat(parts, 1))


def test_turn_is_orthonormal():
    torch.testing.assert_close(TURN @ TURN.T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: gm.PatchAveraging(m),
        lambda m: gm.PatchAveraging(m, stride=2, boundary="circular"),
        lambda m: gm.HalfQuadraticSplitting(m),
    ],
    ids=["average", "circular", "hqs"],
)
def test_denoisers_look_at_planes(model, make):
    x = images(2, 3, 9, 12)
    torch.testing.assert_close(make(model)(x, 0.1), by_hand(model, make, x, 0.1))
    levels = torch.tensor([0.1, 0.3], dtype=torch.float64)
    each = torch.cat([by_hand(model, make, x[i : i + 1], levels[i]) for i in range(2)])
    torch.testing.assert_close(make(model)(x, levels), each)


def test_no_noise_leaves_an_image_as_it_is(model):
    x = images(2, 3, 9, 12)
    for make in (gm.PatchAveraging, gm.HalfQuadraticSplitting):
        out = make(model)(x, torch.tensor([0.0, 0.1], dtype=torch.float64))
        assert torch.equal(out[0], x[0])
        assert not torch.equal(out[1], x[1])
    variance = gm.PatchAveraging(model).variance(x, torch.tensor([0.0, 0.1]))
    assert torch.equal(variance[0], torch.zeros_like(x[0]))
    assert (variance[1] > 0).all()


def test_variances_of_planes_add_up(model):
    x = images(1, 3, 6, 7)
    planes = torch.einsum("jc,bchw->bjhw", TURN, x)
    parts = [
        s**2 * gm.PatchAveraging(plane).variance(planes[:, j : j + 1] / s + o, 0.2 / s)
        for j, (plane, s, o) in enumerate(zip(model.planes, model.scales, OFFSETS, strict=True))
    ]
    expected = torch.einsum("jc,bjhw->bchw", TURN.square(), torch.cat(parts, 1))
    torch.testing.assert_close(gm.PatchAveraging(model).variance(x, 0.2), expected)


def test_gray_images_are_what_they_are_in_gray():
    """Their luminance keeps its values; three equal channels have a third of the noise variance."""
    gray_model, gray = mixture(2), images(1, 1, 8, 8)
    color = gm.PatchAveraging(gm.OpponentModel(gray_model))
    expected = gm.PatchAveraging(gray_model)(gray, 0.1 / math.sqrt(3)).expand(-1, 3, -1, -1)
    torch.testing.assert_close(color(gray.expand(-1, 3, -1, -1), 0.1), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_maps_mix_by_their_diagonal(model, channels):
    x = images(2, 3, 8, 8)
    sigma = 0.1 + 0.2 * images(2, channels, 8, 8, seed=1)
    variance = torch.einsum("jc,bchw->bjhw", TURN.square(), sigma.expand_as(x).square())
    planes = torch.einsum("jc,bchw->bjhw", TURN, x)
    parts = []
    for j, (plane, s, o) in enumerate(zip(model.planes, model.scales, OFFSETS, strict=True)):
        level = variance[:, j : j + 1].sqrt() / s
        u = planes[:, j : j + 1] / s + o
        parts.append(s * (gm.PatchAveraging(plane)(u, level) - o))
    expected = torch.einsum("jc,bjhw->bchw", TURN, torch.cat(parts, 1))
    torch.testing.assert_close(gm.PatchAveraging(model)(x, sigma), expected)


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_likelihood_is_the_sum_over_patches(model, boundary):
    x, sigma = images(2, 3, 5, 6), 0.1
    y = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="circular") if boundary == "circular" else x
    patches = y.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5)
    expected = model.log_prob(patches, sigma).sum((1, 2)) / 4
    likelihood = gm.PatchLikelihood(model, boundary)
    # tables of products are read to 1e-5 of a response
    torch.testing.assert_close(likelihood.log_prob(x, sigma), expected, rtol=1e-6, atol=1e-6)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(likelihood.score(x.detach(), sigma), gradient)


def test_curvature_is_bounded(model):
    likelihood, x = gm.PatchLikelihood(model), images(1, 3, 2, 3)
    hessian = torch.func.hessian(lambda x: -likelihood.log_prob(x, 0.1).sum())(x).reshape(18, 18)
    largest = torch.linalg.eigvalsh(hessian)[-1].item()
    assert 0.05 * likelihood.lipschitz(0.1) < largest < likelihood.lipschitz(0.1)


def test_bits_of_a_density_with_a_mean(model):
    """Without quantisation to speak of they are the log-density; a flat mean has none."""
    x = images(5, 3, 2, 2)
    proper, levels = model.with_mean(0.1), 2**20
    bits = proper.bits_per_dim(x, levels, torch.Generator().manual_seed(0))
    expected = 20 - proper.log_prob(x, 0.0) / (12 * math.log(2))
    torch.testing.assert_close(bits, expected, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match=r"flat in 3 directions.*with_mean"):
        model.bits_per_dim(x)


def test_density_is_normalised():
    """Of one class on each plane it is a Gaussian: its curvature gives the covariance."""
    planes = [mixture(2, bases=1, classes=1, symmetries="none", seed=j) for j in range(3)]
    model = gm.OpponentModel(*planes, scales=(1.5, 0.6, 0.4)).with_mean(0.2)
    x = images(3, 3, 2, 2)
    at = torch.zeros(1, 3, 2, 2, dtype=x.dtype)
    hessian = torch.func.hessian(lambda x: -model.log_prob(x, 0.1).sum())(at).reshape(12, 12)
    slope = -model.score(at, 0.1).flatten()
    gaussian = torch.distributions.MultivariateNormal(
        -torch.linalg.solve(hessian, slope), precision_matrix=(hessian + hessian.T) / 2
    )
    torch.testing.assert_close(model.log_prob(x, 0.1), gaussian.log_prob(x.flatten(1)))


def test_numbers_count_once():
    one = mixture(2)
    assert gm.OpponentModel(one).num_parameters == one.num_parameters
    assert gm.OpponentModel(one).degrees_of_freedom == one.degrees_of_freedom
    assert gm.OpponentModel(one).scales == SCALES
    assert opponents(2).num_parameters > one.num_parameters


def test_file_keeps_planes_and_scales(model, tmp_path):
    gm.save(model.with_mean(0.3), tmp_path / "color.safetensors", data="none")
    read = gm.load(tmp_path / "color.safetensors", dtype=torch.float64)
    x = images(4, 3, 2, 2)
    torch.testing.assert_close(read.log_prob(x, 0.1), model.with_mean(0.3).log_prob(x, 0.1))
    assert read.scales == model.scales
    assert read.planes[2].mean_part.variance == 0.3


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (lambda: (wavelet(),), TypeError, "such as a PatchMixture; got WaveletModel"),
        (lambda: (mixture(2, channels=2, symmetries="none"),), ValueError, r"\(1, b, b\)"),
        (lambda: (mixture(2), mixture(3)), ValueError, "of one size"),
        (lambda: (mixture(2), None, None, (1, 0, 1)), ValueError, "three positive numbers"),
        (lambda: (mixture(2), None, None, (1, 1)), ValueError, "three positive numbers"),
    ],
)
def test_what_is_no_opponent_model_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        gm.OpponentModel(*arguments())


def test_images_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="must have 3 channels for this model; got 1"):
        gm.PatchAveraging(model)(images(1, 1, 8, 8), 0.1)
    with pytest.raises(TypeError, match="gray-likelihood"):
        gm.estimate_sigma(model, images(1, 3, 16, 16))


def test_product_planes_are_read_from_tables():
    """Float32 and the tables of products, against float64 by hand."""
    model, x = gm.OpponentModel(product(3)), images(1, 3, 12, 12)
    expected = by_hand(model, gm.PatchAveraging, x, 0.1)
    found = gm.PatchAveraging(gm.OpponentModel(product(3).float()))(x.float(), 0.1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
