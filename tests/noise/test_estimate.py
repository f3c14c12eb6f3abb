"""Noise levels by likelihood: known truth, brute force, and awkward images."""

import itertools
import math
import warnings

import pytest
import torch
from models import mixture, product
from reference import mixture_density

import gmdm_prior as gm
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.noise.estimate.ladder import STEP, Ladder
from gmdm_prior.noise.estimate.whiteness import half_size, whiteness
from gmdm_prior.noise.evidence import PRIOR, Evidence, evidence_of
from gmdm_prior.noise.level import Reading, level_of_patches
from gmdm_prior.noise.map import _Field
from gmdm_prior.noise.patches import clipped_pixels, informative, spread_patches
from gmdm_prior.noise.prior_free import to_pixels

LIKELIHOOD = "gray-likelihood"


@pytest.fixture(scope="module")
def model():
    return gm.load(LIKELIHOOD)


def noise(*shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def waves(height=64, width=64):
    """A smooth image (1, 1, H, W) in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (0.5 + 0.3 * torch.sin(x / 9) * torch.cos(y / 13))[None, None]


def test_evidence_is_the_density_of_the_classes_and_the_flat_one():
    """Against the mixture by the book, at every fourth patch too."""
    model = mixture(3)
    patches = 0.5 + 0.2 * noise(9, 9, dtype=torch.float64)
    evidence = evidence_of(model, patches, Evaluator())
    weights = evidence.start
    found = evidence.at(0.15).log_prob(weights)
    for i in range(9):
        flat = patches[i] - patches[i].mean()
        flat = math.exp(-0.5 * float(flat.square().sum()) / 0.15**2) / (2 * math.pi * 0.15**2) ** 4
        classes = mixture_density(model, patches[i].reshape(1, 3, 3), 0.15)
        expected = math.log(0.8 * classes + 0.2 * flat)
        assert found[i].item() == pytest.approx(expected, abs=1e-9)
    fewer = evidence.every(4).at(0.15)
    torch.testing.assert_close(fewer.log_prob(weights), found[::4], rtol=0, atol=1e-12)


def test_fitting_the_weights_does_not_lower_the_likelihood():
    """With the prior of its docstring."""
    evidence = evidence_of(
        mixture(3), 0.5 + 0.2 * noise(50, 9, dtype=torch.float64), Evaluator()
    ).at(0.1)
    start = torch.full((4,), 0.25, dtype=torch.float64)

    def objective(weights):
        return (evidence.log_prob(weights).sum() + PRIOR * (start * weights.log()).sum()).item()

    values = [objective(evidence.fitted(start, n)) for n in range(6)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1e-3
    assert evidence.fitted(start).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
def test_reads_pure_noise(model, sigma):
    found = gm.estimate_sigma(model, sigma * noise(1, 1, 128, 128))
    assert found.shape == (1,)
    assert found.item() == pytest.approx(sigma, rel=0.05 if sigma == 0.005 else 0.02)


@pytest.mark.parametrize("sigma", [0.04, 0.2])
def test_recovers_the_noise_level_of_its_own_samples(sigma):
    """Patches drawn from a mixture, whose weights are far from those the search starts from."""
    model = mixture(4, symmetries="none")
    g = torch.Generator().manual_seed(0)
    patches = model.sample((4000,), sigma, generator=g).flatten(1)
    found = level_of_patches(model, patches)
    spread = math.sqrt(found.own_variance)
    assert 0.002 < spread < 0.05
    assert math.log(found.sigma / sigma) == pytest.approx(0, abs=3 * spread)


def height(evidence, t, rows=slice(None)):
    """The mean log-density of some patches at the level exp t, under their own weights."""
    at = evidence.at(math.exp(t))
    part = Evidence(at.densities[rows], at.largest[rows])
    return part.log_prob(part.fitted(evidence.start)).double().mean().item()


def highest(evidence, places, rows=slice(None)):
    """Where the parabola through the highest point and its neighbours is highest."""
    heights = [height(evidence, t, rows) for t in places]
    i = max(range(1, len(places) - 1), key=heights.__getitem__)
    below, here, above = heights[i - 1 : i + 2]
    step = places[1] - places[0]
    return places[i] + step * 0.5 * (above - below) / (2 * here - below - above)


@pytest.mark.parametrize("sigma", [0.008, 0.04, 0.2])
def test_the_search_finds_the_highest_of_all_levels(model, sigma):
    """Against every level, without a coarse grid of few patches that stops early."""
    image = waves(96, 96) + sigma * noise(1, 1, 96, 96)
    patches = informative(image[0], model)[0][::8]
    evidence = evidence_of(model, patches, Evaluator())
    rough = highest(evidence, [math.log(1e-4) + 0.25 * i for i in range(33)])
    most = max(height(evidence, rough + 0.03 * i) for i in range(-4, 5))
    found = height(evidence, math.log(level_of_patches(model, patches).sigma))
    assert found > most - 3e-3  # nats per patch; a level 1 % off loses 6e-3


def test_a_ladder_reads_what_all_its_rungs_do(model):
    """Halves far above and below the level that it starts from."""
    sigma = torch.full((1, 1, 64, 96), 0.01)
    sigma[..., :48] = 0.2
    image = waves(64, 96) + sigma * noise(1, 1, 64, 96)
    patches = spread_patches(image[0], model, torch.zeros(1, 64, 96, dtype=torch.bool), 600)
    evidence = evidence_of(model, patches.values, Evaluator())
    ladder = Ladder(model, patches, 0.05)
    places = [math.log(0.05) + STEP * i for i in range(-12, 13)]
    for rows in (patches.columns < 40, patches.columns >= 48, slice(None)):
        found = ladder.read(rows)
        assert math.log(found.sigma) == pytest.approx(highest(evidence, places, rows), abs=1e-5)


def test_a_ladder_ends_above_nothing(model):
    """A picture without noise reads about the least level, from wherever it is looked for."""
    patches = spread_patches(waves()[0], model, torch.zeros(1, 64, 64, dtype=torch.bool), 400)
    for start in (0.0, 1e-4, 0.01):
        assert 5e-5 < Ladder(model, patches, start).read().sigma < 2e-3


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (64, 96)])
def test_a_picture_from_16_pixels_on(model, shape):
    level = gm.noise_level(model, waves(*shape) + 0.1 * noise(1, 1, *shape))
    assert level.sigma.item() == pytest.approx(0.1, rel=3 / math.sqrt(2 * math.prod(shape)) + 0.02)
    low, high = level.interval()
    assert low < 0.1 < high


def test_standard_error_is_that_of_the_samples(model):
    """On flat images the error is the spread of the estimates, or somewhat more.

    Of so few patches the weights of many classes are not sure, which the curvature counts.
    """
    images = 0.5 + 0.1 * noise(24, 1, 24, 24)
    level = gm.noise_level(model, images)
    spread = (level.sigma / 0.1).log().std().item()
    own = (level.error / level.sigma).mean().item()
    assert 1 / math.sqrt(2 * 24 * 24) < own < 0.1
    assert 0.5 * own < spread < 1.35 * own  # of 24 samples: 15 % is one standard deviation


def test_batches_channels_and_types(model):
    images = torch.cat(
        [waves(40, 40) + s * noise(1, 1, 40, 40, seed=i) for i, s in enumerate((0.05, 0.2))]
    )
    together = gm.estimate_sigma(model, images)
    alone = torch.cat([gm.estimate_sigma(model, image[None]) for image in images])
    assert torch.equal(together, alone)
    # three equal channels tell what one tells
    thrice = gm.estimate_sigma(model, images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(thrice, together, rtol=0.01, atol=0)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        found = gm.noise_level(model, images.to(dtype))
        assert found.sigma.dtype == found.error.dtype == dtype
        torch.testing.assert_close(found.sigma.float(), together, rtol=0.01, atol=0)
    assert gm.estimate_sigma(model, images[:0]).shape == (0,)
    colour = mixture(3, channels=2)
    assert gm.estimate_sigma(colour, 0.3 * noise(2, 2, 20, 20).double()).shape == (2,)


def test_constant_images_have_no_noise(model):
    images = torch.stack([torch.full((1, 32, 32), v) for v in (0.0, 0.4, 1.0)])
    with pytest.warns(UserWarning, match="constant"):
        level = gm.noise_level(model, images)
    assert level.sigma.tolist() == level.error.tolist() == [0, 0, 0]
    assert all(torch.isfinite(end).all() for end in level.interval())
    with pytest.warns(UserWarning, match="constant"):
        assert torch.equal(gm.estimate_sigma_map(model, images), torch.zeros(3, 1, 32, 32))


def test_large_numbers_are_read_or_refused_and_never_nan(model):
    for scale in (1e3, 1e10, 1e15):
        level = gm.noise_level(model, scale * torch.rand(1, 1, 32, 32))
        assert level.sigma.item() == pytest.approx(scale / 12**0.5, rel=0.1)
        assert all(end.isfinite().all() for end in (level.error, *level.interval()))
    with pytest.raises(ValueError, match="images must lie within"):
        gm.noise_level(model, 1e20 * torch.rand(1, 1, 32, 32))


def test_noise_free_images_are_told(model):
    with pytest.warns(UserWarning, match="free of noise"):
        level = gm.noise_level(model, waves(), "white")
    assert 0 <= level.sigma.item() < 1 / 255


def test_saturated_pixels_are_left_out(model):
    """Half the image is clipped white; its flat patches would halve the level."""
    image = waves()
    image[..., 32:] = 1.4
    noisy = (image + 0.1 * noise(1, 1, 64, 64)).clamp(0, 1)
    assert gm.estimate_sigma(model, noisy).item() == pytest.approx(0.1, rel=0.06)
    with pytest.warns(UserWarning, match="clipped"):
        assert gm.estimate_sigma(model, (50 * noise(1, 1, 32, 32)).clamp(0, 1)).isfinite().all()
    found = gm.estimate_sigma_map(model, noisy)
    assert found[..., :28].mean().item() == pytest.approx(0.1, rel=0.1)
    assert found[..., 36:].mean().item() == pytest.approx(0.1, rel=0.1)  # the neighbours' level
    assert found.isfinite().all()


def test_clipped_pixels_are_spikes_at_the_ends():
    values = noise(1, 40, 40)
    assert not clipped_pixels(values).any()
    assert torch.equal(clipped_pixels(values.clamp(max=1)), values >= 1)
    five = torch.randint(5, (1, 40, 40), generator=torch.Generator().manual_seed(0)).float()
    assert not clipped_pixels(five).any()  # few grey levels are no clipping


def test_other_models_say_that_theirs_is_the_plain_likelihood():
    with pytest.warns(UserWarning, match="no classes"):
        found = gm.estimate_sigma(product(3), 0.3 * noise(1, 1, 40, 40).double())
    assert found.isfinite().all()


def test_map_follows_a_step_and_a_slope(model):
    """Two levels side by side; and a level that doubles from left to right."""
    step = torch.full((1, 1, 64, 96), 0.1)
    step[..., 48:] = 0.2
    slope = (0.08 * 2 ** (torch.arange(96) / 95)).expand(1, 1, 64, 96)
    for truth, far in ((step, 0.03), (slope, 0.1)):
        found = gm.estimate_sigma_map(model, waves(64, 96) + truth * noise(1, 1, 64, 96))
        assert found.shape == (1, 1, 64, 96)
        assert (found / truth).log().abs().mean() < far
        assert abs((found / truth).log().mean()) < 0.03


def test_a_map_is_bilinear_between_patches():
    """Levels that are a plane at the centres are that plane at the pixels between them."""
    rows, columns = torch.tensor([3.5, 6.5, 11.5]), torch.tensor([3.5, 8.5])
    values = 0.1 * rows[:, None] + 0.03 * columns
    found = to_pixels(values, rows, columns, torch.Size((16, 13)))
    place = (torch.arange(n).float().clamp(c[0], c[-1]) for n, c in ((16, rows), (13, columns)))
    expected = torch.stack(torch.meshgrid(*place, indexing="ij"))
    torch.testing.assert_close(found, 0.1 * expected[0] + 0.03 * expected[1])


def test_a_pixel_counts_once_in_a_map(model):
    """However many patches it is in: the likelihood is tempered."""
    field = _Field(model, 0.5 + 0.1 * noise(1, 64, 80))
    for every in (1, 2):
        logs = torch.ones(1, len(field.rows), len(field.columns))[:, ::every, ::every]
        assert float(field.once(logs).sum()) * 64 == pytest.approx(64 * 80, rel=0.02 * every**4)


def test_map_of_even_noise_is_the_level(model):
    images = waves(40, 40) + 0.1 * noise(2, 3, 40, 40)
    found = gm.estimate_sigma_map(model, images.double())
    assert found.shape == (2, 1, 40, 40)
    assert found.dtype == torch.float64
    assert (found / 0.1).log().abs().max() < 0.12


def test_map_of_the_smallest_images_and_other_models(model):
    for shape in ((8, 8), (8, 20), (16, 16)):
        found = gm.estimate_sigma_map(model, 0.1 * noise(1, 1, *shape))
        assert found.shape == (1, 1, *shape)
        assert (found / 0.1).log().abs().max() < 0.5
    with pytest.warns(UserWarning, match="no classes"):
        assert (
            gm.estimate_sigma_map(product(3), 0.3 * noise(1, 1, 20, 20).double()).isfinite().all()
        )


def test_images_are_not_modified_and_nothing_is_recorded():
    model = mixture(3).requires_grad_(True)
    images = (0.5 + 0.3 * noise(1, 1, 20, 20).double()).requires_grad_()
    before = images.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not gm.estimate_sigma(model, images).requires_grad
        assert not gm.estimate_sigma_map(model, images).requires_grad
    assert torch.equal(images, before)


def test_bad_input_is_refused(model):
    image = noise(1, 1, 16, 16)
    for call in (gm.estimate_sigma, gm.estimate_sigma_map, gm.noise_level):
        with pytest.raises(ValueError, match="at least one patch"):
            call(model, image[..., :5])
        with pytest.raises(ValueError, match="finite"):
            call(model, image * math.nan)
        with pytest.raises(ValueError, match=r"B, C, H, W"):
            call(model, image[0])
        with pytest.raises(TypeError, match="floating point"):
            call(model, image.int())
        with pytest.raises(TypeError, match="PatchMixture"):
            call(None, image)
    for window in (4, 12.0):
        with pytest.raises(ValueError, match="window"):
            gm.estimate_sigma_map(model, image, window)


def test_a_half_seven_times_as_noisy_is_read_in_full(model):
    """The level of the image is about that of the quiet half: ladders must reach far above it."""
    sigma = torch.full((1, 1, 96, 96), 0.02)
    sigma[..., :48] = 0.15
    image = 0.3 + 0.4 * waves(96, 96) + sigma * noise(1, 1, 96, 96)
    found = gm.estimate_noise(image, model)
    assert any("several levels in one image" in note for note in found.notes)
    levels = gm.estimate_sigma_map(model, image)
    assert levels[..., :44].median().item() == pytest.approx(0.15, rel=0.05)
    assert levels[..., 52:].median().item() == pytest.approx(0.02, rel=0.1)


def test_what_full_size_does_not_tell_is_correlated_where_flat_blocks_are_alike(model):
    """Texture, whose blocks differ, may hide white noise; a level that is none at all may not."""
    g = torch.Generator().manual_seed(0)
    rough = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 162, 162, generator=g), 3, 1)[0]
    even = 0.5 + 0.1 * rough
    uneven = 0.5 + 0.3 * rough * torch.linspace(0.02, 1, 160)
    for plane, error, white in ((even, 0.6, False), (uneven, 0.6, True), (uneven, 4.0, False)):
        half = half_size(model, plane, 0.002)
        full = Reading(0.25 * 2 * half.sigma, error**2, 1.0)
        found = whiteness(model, plane, full)
        assert found.ratio == pytest.approx(0.25, rel=0.2)
        assert found.white == white
