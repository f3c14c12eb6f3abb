"""Noise as it comes: correlated, growing with brightness, behind pixels that lie, in two frames."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gmdm_prior as gm
from gmdm_prior.autocovariance import taper
from gmdm_prior.files.safetensors import load
from gmdm_prior.images.blind import BESIDE, HIDDEN, LIGHT, _strengths
from gmdm_prior.images.stabilise import anscombe, integral, line_of, stabiliser
from gmdm_prior.noise.estimate import READER
from gmdm_prior.noise.estimate.agreement import HIGH, agreed, falling
from gmdm_prior.noise.estimate.autocovariance import (
    Autocovariance,
    cut_blocks,
    lags_of,
    positive,
    read_autocovariance,
    spectrum_of,
)
from gmdm_prior.noise.estimate.lying_pixels import outliers, spikes
from gmdm_prior.noise.estimate.whiteness import Whiteness, is_mild
from gmdm_prior.noise.level import Reading

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 6
ROW = torch.ones(1, 7) / math.sqrt(7)


@pytest.fixture(scope="module")
def model():
    return load(READER)


@pytest.fixture(scope="module")
def denoiser():
    return gm.BlindDenoiser()


def white(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coloured(shape, kernel, seed=0):
    """Noise of level 1 (1, 1, H, W)."""
    a, b = kernel.shape
    return F.conv2d(white(1, 1, shape[0] + a - 1, shape[1] + b - 1, seed=seed), kernel[None, None])


def scene(side=128):
    """A picture with flat and curved areas and edges, (1, 1, side, side)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    smooth = 0.45 + 0.25 * torch.sin(3 * x) * torch.cos(2 * y)
    return (smooth + 0.2 * ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06))[None, None]


def psnr(a, b):
    return -10 * (a.clamp(0, 1) - b).square().mean().log10().item()


@pytest.mark.parametrize("sigma", [0.03, 0.1])
def test_white_noise_is_read_as_before(model, sigma):
    y = scene() + sigma * white(1, 1, 128, 128)
    noise = gm.estimate_noise(y, model)
    assert bool(noise.white[0])
    assert noise.curve is None
    assert noise.autocovariance is None
    assert noise.sigma.item() == pytest.approx(
        gm.estimate_sigma(model, y, "white").item(), rel=1e-5
    )
    low, high = noise.interval()
    assert low.item() <= sigma <= high.item() < 1.5 * sigma


def test_blind_denoising_of_white_noise_is_that_at_its_level(model, denoiser):
    y = scene() + 0.1 * white(1, 1, 128, 128)
    plain = gm.HalfQuadraticSplitting(load("gray"))(y, gm.estimate_sigma(model, y, "white"))
    torch.testing.assert_close(denoiser(y), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "vertical", "horizontal"), [(BINOMIAL, 2 / 3, 2 / 3), (ROW, 0.0, 6 / 7)]
)
def test_correlated_noise_is_seen_and_measured(model, kernel, vertical, horizontal):
    y = scene() + 0.1 * coloured((128, 128), kernel)
    noise = gm.estimate_noise(y, model)
    assert not bool(noise.white[0])
    assert noise.sigma.item() == pytest.approx(0.1, rel=0.15)
    assert noise.lag1[0, 0].tolist() == pytest.approx([vertical, horizontal], abs=0.1)
    assert "correlated" in " ".join(noise.notes)


def test_correlated_noise_is_taken_away(denoiser):
    """At the level that the plain likelihood reads, nothing happens at all."""
    x = scene()
    y = x + 0.1 * coloured((128, 128), BINOMIAL)
    assert psnr(denoiser(y), x) > psnr(y, x) + 5


def test_poisson_noise_is_seen_and_its_gain_measured(model, denoiser):
    x, gain = scene(), 0.02
    y = torch.poisson(x / gain, generator=torch.Generator().manual_seed(0)) * gain
    noise = gm.estimate_noise(y, model)
    curve = noise.curve[0]
    for at in (0.3, 0.7):
        level = curve.at(torch.tensor(at, dtype=torch.float64)).item()
        assert level == pytest.approx(math.sqrt(gain * at), rel=0.15)
    flat = gm.HalfQuadraticSplitting(load("gray"))(y, gm.estimate_sigma(model, y, "white"))
    assert psnr(denoiser(y, noise), x) > psnr(flat, x)


@pytest.mark.parametrize("side", [0.1, 0.2])
def test_neighbours_may_be_correlated_by_little(model, side):
    """Full size sees 0.5 to 0.8 of such noise, and flat blocks all."""
    row = torch.tensor([side, 1, side])
    kernel = torch.outer(row, row) / row.square().sum()
    noise = gm.estimate_noise(scene(160) + 0.1 * coloured((160, 160), kernel), model)
    assert not noise.white.any()
    assert noise.sigma.item() == pytest.approx(0.1, rel=0.1)
    lag = 2 * side / (1 + 2 * side**2)
    assert noise.lag1[0, 0].tolist() == pytest.approx([lag, lag], abs=0.06)


def test_a_texture_that_is_alike_everywhere_is_no_mild_noise():
    """Flat blocks see more of it than half the size does."""
    lags = torch.zeros(37, 37, dtype=torch.float64)
    full, half = Reading(0.06, 9e-6, 0.25), Reading(0.05, 1e-6, 0.5)
    for level, mild in ((0.07, False), (0.1, True), (0.13, False)):
        lags[18, 18] = level**2
        assert is_mild(full, half, Autocovariance(lags, 1.1, 300)) == mild
        assert not is_mild(full, half, Autocovariance(lags, 1.3, 300))
    assert not is_mild(full, half, None)


def test_noise_that_grows_may_be_correlated_too(model, denoiser):
    """Full size then reads too little, half the size does not; also in three equal channels."""
    row = torch.tensor([0.1, 1, 0.1])
    kernel = torch.outer(row, row) / row.square().sum()
    clean = scene(160)
    y = clean + (0.02 * clean).sqrt() * coloured((160, 160), kernel)
    noise = gm.estimate_noise(y, model)
    assert noise.curve is not None
    assert not noise.white.any()
    assert noise.lag1[0, 0].mean().item() == pytest.approx(0.2 / 1.02, abs=0.05)
    truth = (y - clean).square().mean().sqrt().item()
    assert noise.sigma.item() == pytest.approx(truth, rel=0.1)
    level = noise.curve[0].at(torch.tensor(0.5, dtype=torch.float64)).item()
    assert level == pytest.approx(0.1, rel=0.15)
    restored = denoiser(y, noise)
    alone = denoiser(y, gm.Noise(noise.sigma, curve=noise.curve))
    assert psnr(restored, clean) > psnr(alone, clean) + 1
    thrice = denoiser(y.expand(-1, 3, -1, -1))
    torch.testing.assert_close(thrice, restored.expand(-1, 3, -1, -1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["white", "correlated", "poisson"])
def test_a_kind_is_forced(model, kind):
    noise = gm.estimate_noise(scene() + 0.1 * white(1, 1, 128, 128), model, kind=kind)
    assert (noise.autocovariance is not None) == (kind == "correlated")
    assert noise.sigma.item() == pytest.approx(0.1, rel=0.2)


def test_a_clipped_dark_image_with_a_dead_pixel(model):
    """The dead pixel hid the spike at 0 from a look at the extremes."""
    y = (0.3 * scene() + 0.1 * white(1, 1, 128, 128)).clamp(min=0)
    y[0, 0, 5, 5] = -0.3
    noise = gm.estimate_noise(y, model)
    low, high = noise.interval()
    assert low.item() <= 0.1 <= high.item()
    assert "left out" in " ".join(noise.notes)


def test_a_signed_image_masked_to_zero(model):
    y = scene() - 0.5 + 0.1 * white(1, 1, 128, 128)
    y[..., :40] = 0
    y[..., 90:, :] = 0
    assert gm.estimate_noise(y, model).sigma.item() == pytest.approx(0.1, rel=0.1)


def test_a_fifth_of_the_pixels_masked_here_and_there(model):
    y = scene() + 0.1 * white(1, 1, 128, 128)
    hidden = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    found = gm.estimate_noise(torch.where(hidden, 0.0, y), model)
    told = gm.estimate_noise(y, model, mask=~hidden)
    for noise in (found, told):
        low, high = noise.interval()
        assert noise.sigma.item() == pytest.approx(0.1, rel=0.15)
        assert low.item() <= 0.1 <= high.item()


def test_zeros_that_most_patches_touch_are_not_called_nearly_all(model):
    """Counts of few electrons, correlated along rows: an eighth of the pixels is 0."""
    y = (0.12 + 0.1 * (scene() - 0.45) + 0.1 * coloured((128, 128), ROW)).clamp(min=0)
    share = float((y == 0).double().mean())
    assert 0.08 < share < 0.2
    noise = gm.estimate_noise(y, model)
    notes = " ".join(noise.notes)
    assert f"{100 * share:.2g} % of the pixels are clipped" in notes
    assert "of the patches are free of them" in notes
    low, high = noise.interval()
    assert low.item() <= 0.1 <= high.item() < 0.3


def test_bright_stars_do_not_hide_the_noise(model):
    """The range is that of the stars; units are counts."""
    y = 1000 + 65.5 * white(1, 1, 128, 128)
    for i in range(12):
        y[0, 0, 9 * i + 4 : 9 * i + 7, (37 * i) % 120 : (37 * i) % 120 + 3] += 30000.0
    assert gm.estimate_noise(y, model).sigma.item() == pytest.approx(65.5, rel=0.1)


@pytest.mark.parametrize("image", ["zeros", "two values", "noise-free", "all masked"])
def test_intervals_are_finite(model, image):
    y = {
        "zeros": torch.zeros(1, 1, 32, 32),
        "two values": (scene(32) > 0.5).float(),
        "noise-free": scene(64),
        "all masked": scene(32),
    }[image]
    mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool) if image == "all masked" else None
    noise = gm.estimate_noise(y, model, mask)
    low, high = noise.interval()
    assert 0 <= low.item() <= noise.sigma.item() <= high.item() < math.inf
    assert noise.notes


def test_several_levels_are_said(model):
    y = scene(160) + torch.where(torch.arange(160) < 80, 0.03, 0.12) * white(1, 1, 160, 160)
    assert "several levels" in " ".join(gm.estimate_noise(y, model).notes)
    (note,) = gm.estimate_noise(1000 * y + 50, model).notes
    one, other = (float(word) for word in note.split() if word[0].isdigit())
    assert (one, other) == pytest.approx((30, 120), rel=0.15)  # in units of the image


@pytest.mark.parametrize("kernel", [None, BINOMIAL])
def test_a_gray_picture_in_three_channels_is_read_and_denoised_as_in_one(denoiser, kernel):
    """Its channels share their noise: it is not a third of it in each of three planes."""
    y = scene() + 0.1 * (white(1, 1, 128, 128) if kernel is None else coloured((128,) * 2, kernel))
    one = gm.estimate_noise(y, denoiser.reader)
    three = gm.estimate_noise(y.expand(-1, 3, -1, -1), denoiser.reader)
    torch.testing.assert_close(three.sigma, one.sigma, rtol=1e-4, atol=0)
    assert torch.equal(three.white, one.white)
    clean = denoiser(y.expand(-1, 3, -1, -1), three)
    torch.testing.assert_close(clean, denoiser(y, one).expand_as(clean), rtol=0, atol=0.02)
    assert psnr(clean, scene()) > psnr(denoiser(y, one), scene()) - 0.1


def test_a_gray_picture_with_white_noise_keeps_its_level_beside_a_correlated_one(denoiser):
    noisy = (scene() + 0.1 * coloured((128,) * 2, ROW), scene() + 0.1 * white(1, 1, 128, 128))
    batch = torch.cat(noisy).expand(-1, 3, -1, -1)
    noise = gm.estimate_noise(batch, denoiser.reader)
    assert noise.white.tolist() == [False, True]
    alone = denoiser(batch[1:], gm.Noise(noise.sigma[1]))
    torch.testing.assert_close(denoiser(batch, noise)[1:], alone)


def test_two_frames_need_no_flat_areas(model):
    x = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(3))
    frames = [x + 0.05 * white(1, 1, 128, 128, seed=i) for i in (1, 2)]
    noise = gm.estimate_noise(frames, model)
    assert bool(noise.white[0])
    assert noise.sigma.item() == pytest.approx(0.05, rel=0.05)
    wide = [x + 0.05 * coloured((128, 128), BINOMIAL, seed=i) for i in (1, 2)]
    noise = gm.estimate_noise(wide, model)
    assert not bool(noise.white[0])
    assert noise.lag1[0, 0].tolist() == pytest.approx([2 / 3, 2 / 3], abs=0.06)


def test_spikes_anywhere_but_no_honest_histogram():
    """A mask within the range, both ends; not the steps of an 8-bit picture, nor its rare ends."""
    y = white(200, 200)
    assert not spikes(y).any()
    y[:20, :20] = 0.1
    assert spikes(y).sum() == 400
    picture = (scene()[0, 0] * 255 + 4 * white(128, 128)).round() / 255
    assert not spikes(picture).any()
    assert outliers(torch.where(torch.arange(40000).reshape(200, 200) < 3, 90.0, y)).sum() == 3


def test_blocks_of_pure_noise_have_its_autocovariance():
    y = coloured((256, 256), BINOMIAL)[0, 0].double()
    found = lags_of(cut_blocks(y, side=64).flattest(1.0), reach=3)
    k = torch.tensor([1.0, 4, 6, 4, 1], dtype=torch.float64) / 6
    expected = F.pad(torch.outer(k, k), (1,) * 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.06)  # 256² pixels, 64² planes lost


def test_selection_of_the_flattest_is_corrected():
    """Uncorrected, the flattest twentieth reads a tenth too little."""
    y = coloured((256, 256), BINOMIAL)[0, 0]
    raw = float(lags_of(cut_blocks(y).flattest())[18, 18]) ** 0.5
    assert raw < 0.93
    assert read_autocovariance(y).sigma == pytest.approx(1, abs=0.05)


def test_positive_is_a_projection_onto_autocovariances():
    lags = torch.zeros(7, 7, dtype=torch.float64)
    lags[3, 3], lags[3, 4], lags[3, 2] = 1.0, 0.9, 0.9  # no noise has such
    gm.Noise(autocovariance=positive(lags))
    with pytest.raises(ValueError, match="negative spectrum"):
        gm.Noise(autocovariance=lags)


def test_a_spectrum_is_nowhere_negative_between_frequencies_either():
    """1 + 1.05 cos(4 ω) is positive on a grid of 28 frequencies and dips to -0.05 beside."""
    lags = torch.zeros(13, 13, dtype=torch.float64)
    window = taper(torch.ones_like(lags), 6)
    lags[6, 6], lags[6, 2], lags[6, 10] = 1.0, 0.525, 0.525
    noise = gm.Noise(autocovariance=positive(lags / window.clamp(min=1e-9)))
    assert noise.sigma.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("gain", "offset"), [(0.05, 0.0), (0.02, 0.001), (0.03, -0.001)])
def test_anscombe_is_undone_without_bias_and_has_level_one(gain, offset):
    transform = anscombe(gain, offset)
    g = torch.Generator().manual_seed(0)
    for counts in (0.5, 3.0, 20.0):
        black, read = max(0.0, -offset / gain), max(0.0, offset)
        mean = torch.full((200_000,), counts, dtype=torch.float64)
        y = black + gain * torch.poisson(mean, generator=g)
        y = y + math.sqrt(read) * torch.randn(200_000, generator=g, dtype=torch.float64)
        d = transform(y)
        clean = black + gain * counts
        assert transform.back(d.mean()).item() == pytest.approx(clean, abs=0.02 * gain * counts)
        if counts > 2:
            assert d.std().item() == pytest.approx(1, abs=0.06)


def test_any_curve_is_stabilised_and_undone():
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    curve = gm.NoiseCurve(x, 0.02 + 0.1 * x * (1 - x))
    assert line_of(curve) is None
    transform = integral(curve, 0.0, 1.0)
    noise = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for at in (0.1, 0.5, 0.9):
        d = transform(at + curve.at(torch.tensor(at, dtype=torch.float64)) * noise)
        assert d.std().item() == pytest.approx(1, abs=0.05)
        assert transform.back(d.mean()).item() == pytest.approx(at, abs=2e-3)
    rising = gm.NoiseCurve(x, (0.02 * x + 1e-4).sqrt())
    assert line_of(rising) == pytest.approx((0.02, 1e-4))
    torch.testing.assert_close(stabiliser(rising)(x), anscombe(0.02, 1e-4)(x), rtol=0, atol=1e-9)


def test_arguments_that_do_not_fit(model):
    y = scene(32)
    with pytest.raises(ValueError, match="kind must be one of"):
        gm.estimate_noise(y, model, kind="pink")
    with pytest.raises(ValueError, match="mask must broadcast"):
        gm.estimate_noise(y, model, mask=torch.ones(5, 5))
    with pytest.raises(ValueError, match="same shape"):
        gm.estimate_noise([y, y[..., 1:]], model)
    with pytest.raises(TypeError, match="noise must be a Noise"):
        gm.BlindDenoiser().denoiser(y, 0.1)


def test_real_pictures(shared, denoiser):
    """None below the noisy picture; the rest is measured by the benchmark."""
    imageio = pytest.importorskip("imageio.v3")
    names = ["camera-cc15-d800_iso6400_1", "microscope-fmd-Confocal_MICE"]
    for name in [*names, "microscope-fmd-WideField_BPAE_R"]:
        y, x = (
            torch.from_numpy(
                imageio.imread(shared / f"data/real/{name}-{part}.png") / np.float32(255)
            )
            for part in ("noisy", "truth")
        )
        y, x = (v[None] if v.ndim == 2 else v[..., :3].permute(2, 0, 1) for v in (y, x))
        assert psnr(denoiser(y[None])[0], x) > psnr(y, x) + 4


@pytest.mark.parametrize("name", ["tem_lowdose_crop", "ct_small_hu", "emmi_256_bscale_applied"])
def test_instruments(shared, model, name):
    """In their own units: finite, and what is known about them is in the interval."""
    y = torch.from_numpy(np.load(shared / f"data/real/{name}.npy").astype(np.float32))[None, None]
    low, high = gm.estimate_noise(y, model).interval()
    known = {"ct_small_hu": 13.0, "emmi_256_bscale_applied": 65.5}.get(name)
    assert 0 < low.item() < high.item() < math.inf
    assert known is None or (low.item() < 1.05 * known and known < 1.05 * high.item())


def fur():
    """A photograph that is textured everywhere, (1, 3, 128, 128)."""
    photograph = pytest.importorskip("skimage.data").chelsea()[80:208, 100:228]
    return torch.from_numpy(photograph / np.float32(255)).permute(2, 0, 1)[None]


def test_weak_camera_noise_in_textured_colour_is_not_made_worse(denoiser):
    """Flat blocks say several times too much of all planes; other evidence holds against it."""
    x = fur()
    noise = torch.cat([coloured(x.shape[2:], BINOMIAL, seed=i) for i in range(3)], 1)
    y = x + (0.3 + 1.4 * x).sqrt() * noise * 3 / 255  # 39 dB
    assert psnr(denoiser(y), x) > psnr(y, x) - 0.1


def test_colours_that_a_camera_smoothed_have_more_noise_than_flat_areas_say():
    """At the same levels, wide noise of differences raises all that are restored at."""
    lags = torch.zeros(3, 37, 37, dtype=torch.float64)
    lags[:, 18, 18] = (3 / 255) ** 2
    narrow = _strengths(gm.Noise(autocovariance=lags, opponent=True))
    place = torch.arange(-18.0, 19, dtype=torch.float64)
    lags[1:] = (3 / 255) ** 2 * taper((-(place**2 + place[:, None] ** 2) / 18).exp(), 18)
    wide = _strengths(gm.Noise(autocovariance=lags, opponent=True))
    assert narrow[0] == pytest.approx(LIGHT[0] * 3 / 255)
    assert wide[0] == pytest.approx(math.hypot(sum(LIGHT) * 3 / 255, HIDDEN))
    assert min(wide[1]) > 1.5 * max(narrow[1])


def test_no_noise_hides_where_next_to_none_is_seen():
    """Clean photographs lost details of 1.7 / 255 to noise that nothing spoke for."""
    lags = torch.zeros(3, 37, 37, dtype=torch.float64)
    place = torch.arange(-18.0, 19, dtype=torch.float64)
    sigma = 0.2 / 255
    lags[:] = sigma**2 * taper((-(place**2 + place[:, None] ** 2) / 18).exp(), 18)
    level, _ = _strengths(gm.Noise(autocovariance=lags, opponent=True))
    assert level == pytest.approx(math.hypot(sum(LIGHT), BESIDE) * sigma)
    assert level < 0.25 * HIDDEN


def test_white_noise_in_colours_that_are_clipped_here_and_there_is_white(model):
    """No patch is free of it in all three; each colour has many that are."""
    g = torch.Generator().manual_seed(1)
    x = scene().expand(1, 3, 128, 128)
    y = (x + 0.1 * white(1, 3, 128, 128)).clamp(0, 1)
    for channel, part in enumerate(y[0].split(1)):
        rows = slice(43 * channel, 43 * (channel + 1))
        hit = torch.rand(part[:, rows].shape, generator=g) < 0.1
        part[:, rows][hit] = 0
    noise = gm.estimate_noise(y, model)
    assert bool(noise.white[0])
    assert noise.sigma.item() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("kernel", [ROW, torch.ones(5, 1) / math.sqrt(5)])
def test_rows_of_noise_in_colour_have_the_level_of_flat_blocks(model, kernel):
    """Half the size takes them for texture: a level of 3.4 / 255 was read."""
    noise = [coloured((128, 128), kernel, seed)[0, 0] for seed in range(3)]
    y = scene() + 10 / 255 * torch.stack(noise)[None]
    found = gm.estimate_noise(y, model)
    assert not bool(found.white[0])
    assert found.sigma.item() == pytest.approx(10 / 255, rel=0.2)


def test_noise_of_the_brightness_alone_is_seen(model):
    """Differences of colours that hold no noise said that there was none."""
    tint = torch.tensor([1.0, 0.9, 0.8])[None, :, None, None]
    y = scene() * tint + 10 / 255 * coloured((128, 128), BINOMIAL)
    found = gm.estimate_noise(y, model)
    assert found.opponent
    assert found.sigma.item() == pytest.approx(10 / 255, rel=0.3)


def test_a_meadow_is_not_all_noise():
    """Blocks of a texture may be as alike as those of noise; half the size sees less of it."""
    lags = torch.zeros(37, 37, dtype=torch.float64)
    lags[18, 18] = 0.12**2
    test = Whiteness(white=False, ratio=0.3, half=0.05, error=0.1)
    meadow, noise = (Autocovariance(lags, plateau, 300) for plateau in (1.3, 1.05))
    assert agreed(meadow, test, 1.0)[18, 18].sqrt().item() == pytest.approx(HIGH * 0.05)
    assert agreed(noise, test, 1.0)[18, 18].sqrt().item() == pytest.approx(0.12)


def test_noise_without_low_frequencies_keeps_none_of_what_texture_adds_there():
    """Its own spectrum stays: at high frequencies to the last digit, at low ones nearly."""
    lags = torch.zeros(37, 37, dtype=torch.float64)
    lags[18, 18] = 1
    lags[17:20, 17:20] -= BINOMIAL.double() * 6 / 16 * 1.5  # rises from near 0 at frequency 0
    own = positive(lags)
    places = torch.arange(-18, 19, dtype=torch.float64)
    texture = torch.exp(-torch.hypot(places[:, None], places).square() / 18)
    both = positive(own + 0.02 * texture)
    found = falling(both)
    low = [float(spectrum_of(r, 76)[:3, :3].mean()) for r in (own, both, found)]
    assert low[1] > low[0] + 0.5
    assert low[2] < low[0] + 0.02
    torch.testing.assert_close(
        spectrum_of(found, 76)[20:56, 20:56], spectrum_of(both, 76)[20:56, 20:56], rtol=0, atol=0.02
    )
    test = Whiteness(white=False, ratio=1.5, half=10.0, error=0.02)
    assert torch.equal(agreed(Autocovariance(both, 1.0, 300), test, 1.0), found)


def page(side=192):
    """Black letters on white paper, gray only at their edges."""
    paper = torch.ones(1, 1, side, side)
    g = torch.Generator().manual_seed(4)
    for top in range(16, side - 16, 20):
        for left in range(16, side - 16, 12):
            letter = torch.rand(4, 4, generator=g) < 0.6
            paper[0, 0, top : top + 8, left : left + 8] -= letter.float().kron(torch.ones(2, 2))
    return F.avg_pool2d(F.pad(paper, (1, 1, 1, 1), value=1.0), 3, 1)


@pytest.mark.parametrize("sigma", [0, 5, 15])
@pytest.mark.parametrize("channels", [1, 3])
def test_letters_are_not_noise_where_paper_and_ink_are_clipped(denoiser, sigma, channels):
    """No patch of paper is free of clipped pixels; those that are free are letters."""
    x = page().expand(1, channels, -1, -1)
    y = (x + sigma / 255 * white(*x.shape)).clamp(0, 1).mul(255).round() / 255
    assert psnr(denoiser(y), x) > min(45, psnr(y, x) + 0.1 * sigma)


def test_the_few_patches_between_clipped_pixels_may_be_drawings(denoiser):
    """All that is not paper is in stamps of 14 pixels, whose hatching was read as the noise."""
    paper = torch.ones(1, 1, 192, 192)
    g = torch.Generator().manual_seed(4)
    for top in range(16, 176, 48):
        for left in range(16, 176, 48):
            stamp = 0.3 + 0.4 * (torch.rand(14, 14, generator=g) < 0.5).float()
            paper[0, 0, top : top + 14, left : left + 14] = stamp
    noisy = (paper + 5 / 255 * white(1, 1, 192, 192)).clamp(0, 1).mul(255).round() / 255
    assert psnr(denoiser(noisy), paper) > psnr(noisy, paper) + 1


def test_a_tiny_picture_is_not_all_noise(denoiser):
    """Its only block is not flatter than others: 69 / 255 was read off a face."""
    x = fur()[..., :16, :16]
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    assert psnr(denoiser(x + 0.5 / 255 * white(*x.shape)), x) > 35


def test_weak_white_noise_in_textured_colour_is_white(model):
    """The differences of colours show it, and the level, better than the brightness."""
    noise = gm.estimate_noise(fur() + 2 / 255 * white(1, 3, 128, 128), model)
    assert bool(noise.white[0])
    assert noise.sigma.item() == pytest.approx(2 / 255, rel=0.15)
