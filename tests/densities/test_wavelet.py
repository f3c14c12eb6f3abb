"""WaveletModel: a normalised density of whole images, against PyWavelets, quadrature and loops."""

import math

import pytest
import pywt
import torch
from models import mixture, subbands, wavelet
from reference import normal
from scipy import stats

import gmdm_prior as gm
from gmdm_prior.densities.wavelet.transform import (
    analyse,
    filter_bank,
    from_tiles,
    haar_tile,
    orthonormal_taps,
    synthesise,
    to_tiles,
)

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:Level value")  # PyWavelets, of short images


def images(*shape, seed=1, scale=0.3):
    return 0.5 + scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


# The transform

SIZES = [(32, 16, 3), (8, 8, 3), (4, 12, 2), (2, 2, 1)]  # db10 has 20 taps: it wraps around


@pytest.mark.parametrize("name", ["haar", "db2", "db4", "coif1", "db10"])
@pytest.mark.parametrize(("height", "width", "levels"), SIZES)
def test_transform_is_pywavelets(name, height, width, levels):
    x = images(2, height, width)
    low, details = analyse(x, filter_bank(name), levels)
    expected = pywt.wavedec2(x.numpy(), name, mode="periodization", level=levels)
    torch.testing.assert_close(low, torch.from_numpy(expected[0]), rtol=0, atol=1e-12)
    for ours, theirs in zip(details, reversed(expected[1:]), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, torch.from_numpy(b), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["haar", "db4", "sym4", "db10"])
@pytest.mark.parametrize(("height", "width", "levels"), SIZES)
def test_parseval_and_inverse(name, height, width, levels):
    """sym4's table is right to 1e-12 only, so its taps are made orthonormal."""
    x, bank = images(3, height, width), filter_bank(name)
    low, details = analyse(x, bank, levels)
    energy = low.square().sum() + sum(band.square().sum() for level in details for band in level)
    assert abs(energy / x.square().sum() - 1) < 1e-12
    torch.testing.assert_close(synthesise(low, details, bank), x, rtol=0, atol=1e-12)
    tiles = to_tiles(x, bank, levels)
    assert tiles.shape[3:] == (1, 2**levels, 2**levels)
    torch.testing.assert_close(from_tiles(tiles, bank, levels), x, rtol=0, atol=1e-12)


def test_change_of_variables_has_determinant_one():
    """The 4x4 image and its tiles: with 1-D densities that integrate to one, so does theirs."""
    turn = torch.func.jacrev(lambda x: to_tiles(x, filter_bank("db4"), 2))(images(1, 4, 4))
    assert abs(torch.linalg.det(turn.reshape(16, 16)).abs() - 1) < 1e-12


def test_tiles_of_the_haar_wavelet_are_the_pixels():
    x = images(1, 8, 4)
    assert torch.equal(to_tiles(x, filter_bank("haar"), 2)[0, 1, 0, 0], x[0, 4:])


def test_low_pass_is_the_mean_of_the_tile():
    x = images(2, 8, 16)
    low, _ = analyse(x, filter_bank("db2"), 2)
    means = to_tiles(x, filter_bank("db2"), 2).mean((3, 4, 5))
    torch.testing.assert_close(means * 4, low, rtol=0, atol=1e-12)


def test_nearest_orthonormal_taps():
    exact = filter_bank("db4")[0]
    off = exact + 1e-3 * torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=D)
    near = orthonormal_taps(off)
    shifts = [(near[2 * i :] * near[: 8 - 2 * i]).sum().item() for i in range(4)]
    assert shifts == pytest.approx([1, 0, 0, 0], abs=1e-14)
    assert near.sum().item() == pytest.approx(math.sqrt(2), abs=1e-14)
    assert (near - off).norm() < (exact - off).norm()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("db4x", "did you mean 'db4'"),
        ("bior2.2", "orthogonal"),
        ("morl", "does not know"),
        (torch.ones(3), "even number"),
        (torch.ones(4, dtype=torch.int64), "even number"),
        (torch.ones(4), "miss by"),
        (torch.full((4,), math.nan), "miss by"),
    ],
)
def test_refuses_other_wavelets(name, match):
    with pytest.raises(ValueError, match=match):
        gm.WaveletModel(mixture(4).with_mean(0.1), name)


# The density


@pytest.mark.parametrize("sigma", [0.0, 0.2])
@pytest.mark.parametrize("name", ["haar", "db2", "db4"])
def test_log_prob_is_the_product_over_pywavelets_coefficients(name, sigma):
    """prod_s prod_i lambda_s psi_s(lambda_s (W_s x)_i; sigma_0² + lambda_s² sigma²), and low."""
    experts, size = subbands(2, components=5), 16
    model, x = wavelet(experts, name), images(1, size, size)
    low, *details = pywt.wavedec2(x[0].numpy(), name, mode="periodization", level=2)
    weights, means = experts.experts.weights, experts.experts.means
    total = 0.0
    for c in low.flatten():  # grey level c / 4 is N(1/2, 0.2)
        total += math.log(normal(c, 4 * 0.5, 16 * 0.2 + sigma**2))
    bands = [band for level in reversed(details) for band in level]
    for band, row, scale in zip(bands, weights, experts.scales.tolist(), strict=True):
        variance = 0.5**2 + scale**2 * sigma**2
        for c in band.flatten():
            density = sum(
                float(w) * normal(scale * c, float(m), variance)
                for w, m in zip(row, means, strict=True)
            )
            total += math.log(scale * density)
    assert model.log_prob(x, sigma).item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_subband_densities_integrate_to_one(sigma):
    experts = subbands(1)
    z = torch.linspace(-30, 30, 20_001, dtype=D)
    rows, _ = haar_tile(1)
    for i in range(3):
        tiles = (z[:, None] * rows[i]).reshape(-1, 1, 2, 2)
        others = experts.log_prob(torch.zeros(1, 2, 2, dtype=D), sigma)
        level = experts.at(torch.tensor(sigma**2, dtype=D))
        at_zero = (level.norms[i].log() + level.experts.log_prob(torch.zeros(3, dtype=D))[i]).item()
        density = (experts.log_prob(tiles, sigma) - others + at_zero).exp()
        assert torch.trapezoid(density, z).item() == pytest.approx(1, abs=1e-9)


@pytest.fixture(scope="module")
def grid():
    """A broad density of 2x2 images, a grid of all their pixels, and its cell's volume.

    Standard deviations are 0.3 and more: the sum over a grid of step 0.3 errs by exp(-2 pi²) ~
    1e-9.
    """
    trees = mixture(2, classes=2)
    variances = 0.1 + 0.2 * torch.rand(2, 3, generator=torch.Generator().manual_seed(4), dtype=D)
    trees = gm.PatchMixture(trees.filters, variances, trees.weights[:2], trees.basis[:2])
    model = gm.WaveletModel(trees.with_mean(0.1), "db2").requires_grad_(False)
    line = 0.5 + torch.arange(-11, 12, dtype=D) * 0.3
    return model, torch.cartesian_prod(*[line] * 4).reshape(-1, 1, 2, 2), 0.3**4


def test_density_of_2x2_images_integrates_to_one(grid):
    model, x, cell = grid
    assert (model.log_prob(x, 0.0).exp().sum() * cell).item() == pytest.approx(1, abs=1e-6)


def test_convolution_and_posterior_by_quadrature(grid):
    """The clean density times the noise: its integral is f(y, sigma), its moments the posterior."""
    model, x, cell = grid
    clean, y = model.log_prob(x, 0.0), images(1, 2, 2)
    noise = -(x - y).flatten(1).square().sum(1) / 0.72 - 2 * math.log(0.72 * math.pi)
    expected = torch.logsumexp(clean + noise, 0) + math.log(cell)
    assert model.log_prob(y, 0.6).item() == pytest.approx(expected.item(), abs=1e-6)
    weights = torch.softmax(clean + noise, 0)
    mean = torch.einsum("n,n...->...", weights, x)
    variance = torch.einsum("n,n...->...", weights, (x - mean).square())
    got = model.posterior(y, 0.6)
    torch.testing.assert_close(model.denoise(y, 0.6), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(got[0], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(got[1], variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: wavelet(mixture(4), "db4"), lambda: wavelet(subbands(2), "sym4")]
)
def test_variance_across_tiles_is_tweedies(make, monkeypatch):
    """Atoms reach over several tiles; a row of tiles at a time."""
    model, y, sigma = make(), images(2, 1, 12, 8), 0.2
    monkeypatch.setattr("gmdm_prior.densities.wavelet.model.CHUNK", 1)
    variance = model.posterior(y, torch.tensor([sigma, 0.4], dtype=D))[1]
    jacobian = torch.func.jacrev(lambda v: model.score(v, sigma))(y[0]).reshape(96, 96)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-9)
    expected = sigma**2 + sigma**4 * jacobian.diagonal().reshape(1, 12, 8)
    torch.testing.assert_close(variance[0], expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(variance[1], model.posterior(y[1], 0.4)[1], rtol=0, atol=1e-11)


def test_score_of_several_tiles_is_autograd():
    model, x = wavelet(mixture(4), "db4"), images(2, 1, 8, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, 0.1).sum(), x)
    torch.testing.assert_close(model.score(x, 0.1), gradient, rtol=1e-9, atol=1e-9)


def test_score_of_a_level_that_is_learnt_is_finite_at_zero():
    model, sigma = wavelet(mixture(4)), torch.zeros((), dtype=D, requires_grad=True)
    (slope,) = torch.autograd.grad(model.log_prob(images(1, 4, 4), sigma), sigma)
    assert slope == 0


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_samples_follow_the_density_per_subband(sigma):
    experts, name = subbands(2, components=5), "db4"
    model = wavelet(experts, name)
    x = model.sample((40,), sigma, torch.Generator().manual_seed(1), size=(16, 32))
    assert x.shape == (40, 1, 16, 32)
    low, *details = pywt.wavedec2(x[:, 0].numpy(), name, mode="periodization", level=2)
    std = math.sqrt(16 * 0.2 + sigma**2)
    assert stats.kstest(low.flatten(), stats.norm(2.0, std).cdf).pvalue > 1e-4
    means = experts.experts.means.numpy()
    bands = [band for level in reversed(details) for band in level]
    for band, row, scale in zip(
        bands, experts.experts.weights, experts.scales.tolist(), strict=True
    ):
        width = math.sqrt(0.25 + scale**2 * sigma**2)

        def cdf(t, row=row, scale=scale, width=width):
            return (row.numpy() * stats.norm.cdf((scale * t[:, None] - means) / width)).sum(1)

        assert stats.kstest(band.flatten(), cdf).pvalue > 1e-4


def test_levels_of_a_batch_of_samples():
    model = wavelet(mixture(4))
    levels = torch.tensor([0.0, 5.0], dtype=D)
    x = model.sample((2,), levels, torch.Generator().manual_seed(0), size=(8, 8))
    assert x[0].std() < 1.5
    assert x[1].std() == pytest.approx(5, rel=0.2)


def test_bits_per_dim():
    """By hand: -log2 f of the dequantised image, plus 8 bits."""
    model, x = wavelet(mixture(4), "db2"), (images(3, 1, 8, 8) * 255).round() / 255
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=D)
    nats = model.log_prob(((x * 255).round() + u) / 256, 0.0)
    got = model.bits_per_dim(x, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, 8 - nats / (64 * math.log(2)), rtol=0, atol=1e-12)


def test_numbers_and_lipschitz():
    model = wavelet(mixture(4))
    assert model.num_parameters == model.experts.num_parameters
    custom = gm.WaveletModel(model.experts, filter_bank("db4")[0])
    assert custom.num_parameters == model.num_parameters + 8
    assert model.lipschitz(0.3) == pytest.approx(model.experts.lipschitz(0.3))
    flat = gm.WaveletModel(mixture(4).with_mean(1e-6))
    assert flat.lipschitz(0.0) == pytest.approx(1 / 16e-6)


# Misuse


@pytest.mark.parametrize("size", [(6, 8), (8, 7), (1, 1), (5, 5), (12, 2)])
def test_refuses_sizes_that_a_level_cannot_divide(size):
    model = wavelet(mixture(4))
    for method in (model.log_prob, model.score, model.denoise, model.posterior):
        with pytest.raises(ValueError, match=r"multiples of 4.*Pad .* rows"):
            method(images(1, *size), 0.1)
    with pytest.raises(ValueError, match="multiples of 4"):
        model.sample((), size=size)
    with pytest.raises(ValueError, match="multiples of 4"):
        model.bits_per_dim(images(1, *size))


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(3, 8, 8), ValueError, "batch"),
        (torch.zeros(2, 3, 8, 8), ValueError, "unsqueeze"),
        (torch.zeros(8, 8), ValueError, r"x\[None\]"),
        (torch.zeros(1, 0, 8), ValueError, "at least one pixel"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), TypeError, "255"),
        (torch.zeros(1, 8, 8, dtype=torch.complex64), TypeError, "real"),
        ([[[0.0]]], TypeError, "tensor"),
    ],
)
def test_refuses_what_is_no_image(x, error, match):
    with pytest.raises(error, match=match):
        wavelet(mixture(4)).log_prob(x, 0.1)


def test_refuses_a_map_of_levels():
    with pytest.raises(ValueError, match="map"):
        wavelet(mixture(4)).denoise(images(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.1))


@pytest.mark.parametrize("size", [8, (8,), (8, 8, 8), (8, -8), (8, 4.0), (True, 8)])
def test_refuses_a_bad_size(size):
    with pytest.raises(ValueError, match="two positive integers"):
        wavelet(mixture(4)).sample((), size=size)


@pytest.mark.parametrize(
    ("experts", "error", "match"),
    [
        (lambda: mixture(4), ValueError, "with_mean"),
        (lambda: mixture(3).with_mean(0.1), ValueError, "side of 2"),
        (lambda: mixture(2, channels=2).with_mean(0.1), ValueError, "one channel"),
        (lambda: torch.nn.Linear(2, 2), TypeError, "Linear"),
    ],
)
def test_refuses_other_experts(experts, error, match):
    with pytest.raises(error, match=match):
        gm.WaveletModel(experts())


@pytest.mark.parametrize(
    ("logits", "scales", "match"),
    [
        (torch.zeros(4, 5), torch.ones(4), "three orientations"),
        (torch.zeros(0, 5), torch.ones(0), "three orientations"),
        (torch.zeros(3, 5), torch.ones(6), "scales must be"),
        (torch.zeros(3, 5), torch.zeros(3), "positive"),
        (torch.full((3, 5), math.nan), torch.ones(3), "finite"),
    ],
)
def test_refuses_bad_subband_experts(logits, scales, match):
    with pytest.raises(ValueError, match=match):
        gm.SubbandExperts(logits, scales)


# Files


def test_taps_are_stored(tmp_path):
    taps = filter_bank("db4")[0] + 1e-3
    model = gm.WaveletModel(subbands(2).with_mean(0.1), taps).requires_grad_(False)
    gm.save(model, tmp_path / "m.safetensors")
    loaded = gm.load(tmp_path / "m.safetensors", dtype=D)
    x = images(2, 1, 8, 8)
    torch.testing.assert_close(loaded.log_prob(x, 0.1), model.log_prob(x, 0.1), rtol=1e-10, atol=0)
    assert loaded.num_parameters == model.num_parameters


def test_a_wavelet_that_is_unknown_in_a_file(tmp_path):
    model = wavelet(mixture(4))
    model.wavelet = "db99"
    gm.save(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"no valid model.*db99"):
        gm.load(tmp_path / "m.safetensors")


def checkpoint(change=lambda state: None):
    """A PoGMDM-like state dict of two levels: symmetric weights, centre first."""
    g = torch.Generator().manual_seed(0)
    half = torch.rand(6, 5, generator=g, dtype=D)
    half = half / (2 * half.sum(1, keepdim=True) - half[:, :1])
    bounds = 0.3 + torch.rand(6, 1, generator=g, dtype=D)
    state = {
        "h": filter_bank("db2")[0],
        "lambdas": 1 + torch.rand(7, generator=g, dtype=D),
        "mus": bounds * torch.linspace(-1, 1, 9, dtype=D),
        "w.w": half,
        "sigma_0": bounds[:, 0] / 4,
    }
    change(state)
    return state


def test_import_of_a_wavelet_checkpoint(tmp_path):
    """The density of each sub-band is the file's, written out."""
    state = checkpoint()
    torch.save(state, tmp_path / "c.pth")
    model = gm.import_pogmdm(tmp_path / "c.pth", dtype=D)
    torch.testing.assert_close(model.bank[0], state["h"], rtol=0, atol=1e-14)
    band, sigma = 3, 0.1
    z = torch.linspace(-1, 1, 7, dtype=D)
    whole = torch.cat([state["w.w"][band].flip(0)[:-1], state["w.w"][band]])
    scale = state["lambdas"][band]
    variance = float(state["sigma_0"][band] ** 2 + scale**2 * sigma**2)
    rows, number = haar_tile(2)
    i = int((number == band).nonzero()[0])
    tiles = (z[:, None] * rows[i]).reshape(-1, 1, 4, 4)
    got = model.experts.log_prob(tiles, sigma)
    expected = torch.tensor(
        [
            math.log(
                sum(
                    w * normal(scale * t, m, variance)
                    for w, m in zip(whole, state["mus"][band], strict=True)
                )
            )
            for t in z
        ],
        dtype=D,
    )
    torch.testing.assert_close(got - got[3], expected - expected[3], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("h"), "must hold"),
        (lambda s: s.update(lambdas=torch.ones(6)), "shapes"),
        (lambda s: s.update(mus=s["mus"].square()), "equidistant"),
        (lambda s: s.update(h=torch.ones(4)), "miss by"),
    ],
)
def test_import_refuses_damaged_wavelet_checkpoints(tmp_path, change, match):
    torch.save(checkpoint(change), tmp_path / "c.pth")
    with pytest.raises(ValueError, match=match):
        gm.import_pogmdm(tmp_path / "c.pth")


def test_the_published_wavelet_checkpoint(shared):
    """Two levels, 125 means a sub-band, a filter near db4's; its density against the file's."""
    path = shared / "interop" / "pogmdm-wavelet-db4.pth"
    model = gm.import_pogmdm(path, dtype=D)
    state = torch.load(path, weights_only=True, map_location="cpu")
    assert (model.levels, model.experts.experts.logits.shape) == (2, (6, 125))
    assert (model.bank[0] - state["h"]).abs().max() < 2e-3  # it is orthonormal to 9e-4 only
    torch.testing.assert_close(
        model.experts.experts.base_scale / model.experts.scales,
        state["sigma_0"] / state["lambdas"][:-1],
        rtol=1e-7,
        atol=0,
    )
    x = images(1, 16, 16, scale=0.05)
    torch.testing.assert_close(
        model.denoise(x, 0.1), x + 0.01 * model.score(x, 0.1), rtol=0, atol=1e-10
    )


# Batches of images


def test_image_denoiser_is_the_posterior_mean():
    model, x = wavelet(mixture(4)), images(2, 3, 8, 12)
    level = torch.tensor([0.1, 0.3], dtype=D)
    got = gm.WaveletDenoiser(model)(x, level)
    for i in range(2):
        for c in range(3):
            expected = model.denoise(x[i, c, None], level[i].item())
            torch.testing.assert_close(got[i, c, None], expected, rtol=0, atol=1e-12)


def test_image_denoiser_reflects_other_sizes_and_crops():
    model, x = wavelet(mixture(4)), images(1, 1, 9, 11)
    padded = torch.cat([x, x[..., [7, 6, 5], :]], 2)
    padded = torch.cat([padded, padded[..., [9]]], 3)
    got = gm.WaveletDenoiser(model)(x, 0.1)
    torch.testing.assert_close(got, model.denoise(padded, 0.1)[..., :9, :11], rtol=0, atol=1e-12)


def test_image_denoiser_refuses_maps():
    denoiser, x = gm.WaveletDenoiser(wavelet(mixture(4))), images(2, 1, 8, 8)
    level = torch.full((2, 1, 8, 8), 0.1, dtype=D)
    torch.testing.assert_close(denoiser(x, level), denoiser(x, 0.1))  # constant: no map
    level[0, 0, 0, 0] = 0.2
    with pytest.raises(ValueError, match="each image"):
        denoiser(x, level)
    with pytest.raises(ValueError, match="at least one patch"):
        denoiser(images(1, 1, 3, 8), 0.1)
    with pytest.raises(TypeError, match="WaveletModel"):
        gm.WaveletDenoiser(mixture(4))


def test_image_likelihood_sums_channels():
    model, x = wavelet(mixture(4)), images(2, 3, 8, 8)
    likelihood = gm.WaveletLikelihood(model)
    expected = model.log_prob(x.unsqueeze(2), 0.1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x, 0.1), expected)
    moved = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood.log_prob(moved, 0.1).sum(), moved)
    torch.testing.assert_close(likelihood.score(x, 0.1), gradient, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="multiples of 4"):
        likelihood.log_prob(images(1, 1, 9, 8), 0.1)
