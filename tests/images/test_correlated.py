"""Image denoisers under a `Noise`: fast against exact, white against scalar, tiles, colour."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gmdm_prior as gm
from gmdm_prior.fast.covariances import FastCovariance
from gmdm_prior.images import correlated
from gmdm_prior.images.schedule import DEFAULT, Schedule

sys.path.append(str(Path(__file__).parent.parent / "laws"))
from models import mixture, product

ROW = torch.ones(1, 5, dtype=torch.float64)
BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).double()
SIGMA = 30 / 255


def noise(kernel=BINOMIAL, sigma=SIGMA, m=8):
    h, w = kernel.shape
    r = F.conv2d(F.pad(kernel[None, None], (w - 1, w - 1, h - 1, h - 1)), kernel[None, None])[0, 0]
    r = F.pad(r, (m - w + 1, m - w + 1, m - h + 1, m - h + 1))
    return gm.Noise(autocovariance=r / kernel.square().sum() * sigma**2)


def picture(size=(48, 56), channels=1):
    """Discs and a ramp."""
    rows, columns = torch.meshgrid(*(torch.arange(s) / max(size) for s in size), indexing="ij")
    disc = ((rows - 0.4).square() + (columns - 0.5).square() < 0.06).float()
    image = 0.2 + 0.4 * disc + 0.2 * columns
    return torch.stack([image * (1 - 0.2 * c) for c in range(channels)])[None]


def noisy(n, clean, seed=0):
    return clean + n.sample(clean.shape, torch.Generator().manual_seed(seed)).float()


def error(a, b):
    return float((a - b).square().mean().sqrt())


@pytest.fixture(scope="module")
def gray():
    return gm.load("gray")


@pytest.mark.parametrize("kernel", [BINOMIAL, ROW], ids=["binomial", "row"])
@pytest.mark.parametrize("sigma", [5 / 255, 50 / 255])
def test_fast_posterior_means_are_the_exact_ones(gray, kernel, sigma):
    n = noise(kernel, sigma)
    y = F.unfold(noisy(n, picture()), 8, stride=5)[0].T
    s = n.covariance(0, 8)
    fast = FastCovariance(gray.at(torch.zeros((), dtype=torch.float64)), s).posterior_mean(y)
    assert error(fast, gray.at(s).posterior_mean(y)) < 1e-2 * sigma


@pytest.mark.parametrize(
    "model",
    [mixture(3), mixture(3, symmetries="flips"), mixture(2, channels=2), mixture(4)],
    ids=["odd", "flips", "channels", "even"],
)
def test_fast_posterior_means_of_any_mixture(model):
    n = noise(ROW, 0.1)
    channels, size, _ = model.event_shape
    s = gm.Covariance(torch.block_diag(*[n.covariance(0, size).matrix] * channels))
    y = 0.2 * torch.randn(200, len(s.matrix), generator=torch.Generator().manual_seed(0))
    fast = FastCovariance(model.at(torch.zeros((), dtype=torch.float64)), s).posterior_mean(y)
    assert error(fast, model.at(s).posterior_mean(y)) < 1e-3


@pytest.mark.parametrize("denoiser", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
def test_white_noise_takes_the_scalar_path(gray, denoiser):
    restore, delta = denoiser(gray), F.pad(torch.full((1, 1), SIGMA**2), (4,) * 4)
    y = noisy(gm.Noise(SIGMA), picture())
    expected = restore(y, SIGMA)
    assert torch.equal(restore(y, gm.Noise(SIGMA)), expected)
    assert error(restore(y, gm.Noise(autocovariance=delta)), expected) < 1e-6


def test_of_white_noise_the_fourier_path_is_half_quadratic_splitting_step_for_step(gray):
    restore, delta = gm.HalfQuadraticSplitting(gray, 4, "circular"), torch.zeros(9, 9)
    restore.schedule = Schedule(DEFAULT.coefficients)  # at one scale
    delta[4, 4] = SIGMA**2
    y = noisy(gm.Noise(SIGMA), picture())
    forced = restore(y, gm.Noise(autocovariance=delta, white=False))
    assert torch.allclose(forced, restore(y, SIGMA), atol=1e-5)


@pytest.mark.parametrize("kernel", [BINOMIAL, ROW], ids=["binomial", "row"])
@pytest.mark.parametrize("denoiser", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
def test_knowing_the_correlation_helps(gray, denoiser, kernel):
    clean, n, restore = picture(), noise(kernel), denoiser(gray, 2)
    y = noisy(n, clean)
    assert error(restore(y, n), clean) < 0.8 * error(restore(y, SIGMA), clean)


def test_patch_averaging_is_the_mean_of_exact_posteriors(gray):
    y, n = noisy(noise(), picture((12, 12))).double(), noise()
    model = gm.load("gray").double()
    found = gm.PatchAveraging(model, boundary="circular")(y, n)
    wide = F.pad(y, (7, 7, 7, 7), mode="circular")
    patches = F.unfold(wide, 8)[0].T.reshape(-1, 1, 8, 8)
    means = model.denoise(patches, n).flatten(1).T[None]
    expected = F.fold(means, wide.shape[2:], 8)[..., 7:-7, 7:-7] / 64
    assert torch.allclose(found, expected, atol=1e-12)
    averaging = gm.PatchAveraging(model, stride=4)
    assert averaging.variance(y, n).shape == y.shape
    assert bool((averaging.variance(y, n) > 0).all())
    scores = model.score(patches, n).flatten(1).T[None]
    expected = F.fold(scores, wide.shape[2:], 8)[..., 7:-7, 7:-7] / 64
    found = gm.PatchAveraging(model, boundary="circular").score(y, n)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("size", [(33, 40), (16, 17), (8, 8)])
def test_sizes_and_batches(gray, size):
    restore, n = gm.HalfQuadraticSplitting(gray), noise()
    y = torch.cat([noisy(n, picture(size), s) for s in range(2)])
    both = restore(y, n)
    assert both.shape == y.shape
    assert torch.allclose(both[1:], restore(y[1:], n), atol=1e-6)
    mixed = gm.Noise(autocovariance=torch.cat([n.autocovariance, noise(ROW).autocovariance]))
    apart = restore(y, mixed)
    assert torch.allclose(apart[:1], both[:1], atol=1e-6)
    assert torch.allclose(apart[1:], restore(y[1:], noise(ROW)), atol=1e-6)


def test_circular_images_can_be_shifted(gray):
    restore, n = gm.HalfQuadraticSplitting(gray, 4, "circular"), noise()
    y = noisy(n, picture((32, 48)))
    shifted = restore(y.roll((16, 16), (2, 3)), n)
    assert torch.allclose(shifted, restore(y, n).roll((16, 16), (2, 3)), atol=1e-5)


def test_tiles_agree_with_the_whole_image(gray):
    restore, n = gm.HalfQuadraticSplitting(gray), noise()
    y = noisy(n, picture((200, 40)))
    whole, tile = restore(y, n), restore(y[:, :, : 96 + restore.halo], n)
    assert float((whole[:, :, :96] - tile[:, :, :96]).abs().max()) < 3e-3


def test_channels_have_noise_of_their_own(gray):
    clean = picture(channels=3)
    r = torch.cat([noise(k).autocovariance for k in (BINOMIAL, ROW, BINOMIAL)], 1)
    n = gm.Noise(autocovariance=r)
    y = noisy(n, clean)
    restore = gm.HalfQuadraticSplitting(gray)
    found = restore(y, n)
    for c in range(3):
        assert torch.allclose(
            found[:, c : c + 1], restore(y[:, c : c + 1], n.channel(c)), atol=1e-6
        )
    colour = gm.HalfQuadraticSplitting(gm.OpponentModel(gray))
    assert error(colour(y, n), clean) < 0.8 * error(colour(y, SIGMA), clean)


def test_products_are_restored_in_white_noise_and_refuse_the_rest():
    n, clean = noise(), picture((24, 24))
    y, model = noisy(n, clean), product(4).float()
    assert gm.HalfQuadraticSplitting(model)(y, n).shape == y.shape
    with pytest.raises(TypeError, match="no closed form"):
        gm.PatchAveraging(model)(y, n)


def test_what_does_not_fit_is_refused(gray):
    restore, y = gm.HalfQuadraticSplitting(gray), picture()
    with pytest.raises(ValueError, match=r"Noise of 2 image"):
        restore(y, gm.Noise([0.1, 0.2]))
    with pytest.raises(ValueError, match="Stabilise its variance"):
        restore(y, gm.Noise(0.1, curve=gm.NoiseCurve([0.0, 1.0], [0.1, 0.2])))
    r = noise().autocovariance.expand(1, 3, -1, -1)
    with pytest.raises(ValueError, match="an OpponentModel takes"):
        restore(picture(channels=3), gm.Noise(autocovariance=r, opponent=True))


def test_no_noise_changes_nothing(gray):
    y = picture()
    assert torch.equal(gm.HalfQuadraticSplitting(gray)(y, gm.Noise(0.0)), y)


def test_gradients_pass_through(gray):
    n = noise()
    y = noisy(n, picture((16, 16))).requires_grad_(True)
    gm.HalfQuadraticSplitting(gray, 4)(y, n).square().sum().backward()
    assert math.isfinite(float(y.grad.sum()))


def test_coarse_scales_are_not_believed_where_noise_has_no_low_frequencies():
    """Of white noise the level they are believed by is its own, of high-pass noise next to none."""
    delta = torch.zeros(3, 3, dtype=torch.float64)
    delta[1, 1] = 1
    levels = []
    for kernel in (delta, 16 * delta - BINOMIAL, BINOMIAL):
        n = noise(kernel)
        levels.append(float(correlated._coarse_level(n, n.halved())))
    assert levels[0] == pytest.approx(SIGMA, rel=1e-3)
    assert levels[1] < 0.1 * SIGMA
    assert levels[2] > SIGMA
