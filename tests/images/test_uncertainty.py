"""Predicted variances of restored pixels: the loop over patches, and their size on average."""

import pytest
import torch
from models import mixture, product
from reference import patch_average

import gmdm_prior as gm

CHECKED = {"product": lambda: product(3), "mixture": lambda: mixture(3)}


@pytest.fixture(params=CHECKED)
def model(request):
    return CHECKED[request.param]()


def image(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)


def variance_of(model, sigma):
    return lambda patch: model.posterior(patch[None], sigma)[1][0]


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_variance_is_the_loop_over_patches(model, boundary):
    y = image(1, 1, 7, 9)
    expected = patch_average(y[0, 0], 3, variance_of(model, 0.1), boundary)
    found = gm.PatchAveraging(model, boundary=boundary).variance(y, 0.1)[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert found.std() > 0.01 * found.mean()  # it says something about the place


def correlated(sigma=0.1):
    """Noise whose neighbours agree, more so along rows."""
    taps = torch.outer(torch.tensor([0.5, 1.0, 0.5]), torch.tensor([1.0, 2.0, 1.0])).double()
    power = torch.fft.fft2(taps, s=(5, 5)).abs().square()
    lags = torch.fft.fftshift(torch.fft.ifft2(power).real)
    return gm.Noise(autocovariance=sigma**2 * lags / lags[2, 2])


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_under_correlated_noise_it_is_the_loop_with_the_covariance(boundary):
    model, y, noise = mixture(3), image(2, 2, 7, 9), correlated()
    patch_noise = noise.covariance(0, 3)
    found = gm.PatchAveraging(model, boundary=boundary).variance(y, noise)
    for b in range(2):
        expected = patch_average(y[b, 1], 3, variance_of(model, patch_noise), boundary)
        torch.testing.assert_close(found[b, 1], expected, rtol=1e-10, atol=0)
    white = gm.PatchAveraging(model).variance(y, gm.Noise(0.1))
    torch.testing.assert_close(white, gm.PatchAveraging(model).variance(y, 0.1), rtol=1e-9, atol=0)
    assert not torch.allclose(found, white, rtol=0.05)


def test_variances_under_correlated_noise_are_the_errors_of_samples():
    """Pixel by pixel, of 20,000 patches that the density draws; their mean may be any."""
    model, noise = mixture(3), correlated(0.3)
    g = torch.Generator().manual_seed(0)
    clean = model.sample((20_000,), 0.0, generator=g)
    noisy = clean + noise.sample((20_000, 1, 3, 3), generator=g)
    mean, variance = model.posterior(noisy, noise.covariance(0, 3))
    # a mean of 20,000 squares is known to 1 %
    torch.testing.assert_close(variance.mean(0), (mean - clean).square().mean(0), rtol=0.05, atol=0)


def test_opponent_planes_under_their_own_noise():
    """Variances of colours are those of the planes, carried back."""
    planes = torch.tensor([0.09, 0.01, 0.02], dtype=torch.float64)[:, None, None]
    lags = correlated(1.0).autocovariance[0, 0] * planes
    noise = gm.Noise(autocovariance=lags, opponent=True)
    model = gm.OpponentModel(mixture(3))
    y = image(1, 3, 6, 7)
    found = gm.PatchAveraging(model).variance(y, noise)
    own = gm.PatchAveraging(model.planes[0])
    entered = model.enter(y)
    each = [
        own.variance(entered[:, i : i + 1], noise_of_plane)
        for i, noise_of_plane in enumerate(model.plane_noise(noise))
    ]
    torch.testing.assert_close(found, model.spread(torch.cat(each, 1)), rtol=1e-9, atol=0)


def test_a_stride_takes_fewer_patches(model):
    """At stride 3 with 3x3 patches every pixel lies in one: rows and columns -2, 1, 4, …"""
    y = image(1, 1, 7, 7)
    found = gm.PatchAveraging(model, stride=3).variance(y, 0.1)[0, 0]
    for top in (1, 4):
        patch = y[0, 0, top : top + 3, 1:4]
        expected = variance_of(model, 0.1)(patch[None])[0]
        torch.testing.assert_close(found[top : top + 3, 1:4], expected, rtol=1e-10, atol=0)


def test_levels_channels_and_batches_do_not_mix(model):
    denoiser, y = gm.PatchAveraging(model), image(2, 3, 6, 7)
    levels = torch.tensor([0.05, 0.3], dtype=torch.float64)
    together = denoiser.variance(y, levels)
    for b in range(2):
        for c in range(3):
            alone = denoiser.variance(y[b : b + 1, c : c + 1], levels[b].item())[0, 0]
            torch.testing.assert_close(together[b, c], alone, rtol=1e-10, atol=0)


def test_a_map_is_the_loop_with_the_noise_of_each_pixel(model):
    """Patch by patch, responses with the diagonal of K diag(noise) Kᵀ, as for means."""
    y, level = image(1, 1, 6, 7), 0.05 + 0.2 * image(1, 1, 6, 7, seed=1)
    found = gm.PatchAveraging(model, boundary="circular").variance(y, level)[0, 0]
    total = torch.zeros(6, 7, dtype=torch.float64)
    for top in range(6):
        for left in range(7):
            rows = [(top + i) % 6 for i in range(3)]
            columns = [(left + i) % 7 for i in range(3)]
            patch, noise = (v[0, 0, rows][:, columns].reshape(1, 9) for v in (y, level.square()))
            part = model.at(noise).posterior(patch)[1].reshape(3, 3)
            for i, r in enumerate(rows):
                total[r, columns] += part[i]
    torch.testing.assert_close(found, total / 9, rtol=1e-10, atol=0)


def test_a_constant_map_is_the_number_and_a_near_one_almost(model):
    denoiser, y = gm.PatchAveraging(model), image(1, 1, 6, 7)
    level = torch.full((1, 1, 6, 7), 0.1, dtype=torch.float64)
    number = denoiser.variance(y, 0.1)
    assert torch.equal(denoiser.variance(y, level), number)
    level[0, 0, 0, 0] += 1e-9
    torch.testing.assert_close(denoiser.variance(y, level), number, rtol=1e-6, atol=0)


def test_without_noise_nothing_is_uncertain_and_with_more_of_it_the_prior_is(model):
    denoiser, y = gm.PatchAveraging(model), image(2, 1, 6, 6)
    levels = torch.tensor([0.0, 0.1])
    found = denoiser.variance(y, levels)
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert (found[1] > 0).all()
    proper = gm.PatchAveraging(model.with_mean(0.05))
    far = proper.variance(y, 1e4)
    samples = model.with_mean(0.05).sample((100_000,), generator=torch.Generator().manual_seed(0))
    expected = samples.var(0).mean()  # each pixel's own, averaged over its place in a patch
    torch.testing.assert_close(far.mean(), expected, rtol=0.02, atol=0)


def test_pieces_and_strips_do_not_show(model, monkeypatch):
    denoiser, y = gm.PatchAveraging(model), image(1, 1, 9, 8)
    level = 0.05 + 0.2 * image(1, 1, 9, 8, seed=1)
    whole = denoiser.variance(y, 0.1), denoiser.variance(y, level)
    monkeypatch.setattr("gmdm_prior.fast.choose.NUMBERS", 1)  # one patch at a time
    monkeypatch.setattr("gmdm_prior.images.patches.NUMBERS_PER_STRIP", 1)
    monkeypatch.setattr("gmdm_prior.images.patches.LEAST_NUMBERS", 1)
    again = denoiser.variance(y, 0.1), denoiser.variance(y, level)
    for once, pieces in zip(whole, again, strict=True):
        torch.testing.assert_close(pieces, once, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_and_empty_batches(model, dtype):
    denoiser, y = gm.PatchAveraging(model), image(1, 2, 6, 7, dtype=dtype)
    before, found = y.clone(), denoiser.variance(y, 0.1)
    assert found.dtype == dtype
    assert found.shape == y.shape
    assert torch.equal(y, before)
    exact = denoiser.variance(y.double(), 0.1)
    torch.testing.assert_close(
        found.double(), exact, rtol=8 * torch.finfo(dtype).eps + 1e-5, atol=0
    )
    assert denoiser.variance(y[:0], 0.1).shape == (0, 2, 6, 7)


def test_refuses_bad_input(model):
    denoiser = gm.PatchAveraging(model)
    with pytest.raises(ValueError, match="not negative"):
        denoiser.variance(image(1, 1, 6, 6), -0.1)
    with pytest.raises(ValueError, match="at least one patch"):
        denoiser.variance(image(1, 1, 2, 6), 0.1)
    with pytest.raises(TypeError, match="floating point"):
        denoiser.variance(torch.zeros(1, 1, 6, 6, dtype=torch.uint8), 0.1)
