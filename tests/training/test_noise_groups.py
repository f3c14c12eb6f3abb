"""Training under noise of several levels: tables, estimates, and the M-step that knows them."""

import dataclasses
import itertools
import math

import pytest
import torch
from models import mixture as small_mixture
from torch import Tensor
from training_examples import (
    SMALL,
    known_mixture,
    mismatch,
    natural_patches,
    random_covariances,
    same,
    seeded,
)

from gmdm_prior.noise.prior_free import local_levels
from gmdm_prior.training import FitSettings, fit, fit_em
from gmdm_prior.training.checkpoint import Checkpoints
from gmdm_prior.training.data.noise import image_sigmas, look_up, read_table
from gmdm_prior.training.data.pool import (
    ImagePool,
    sample_noisy_patches,
    sample_patches,
    step_generator,
)
from gmdm_prior.training.likelihood import em, full_mixture, noise_groups, tied_mixture
from gmdm_prior.training.likelihood.coordinates import symmetry_matrices, to_coordinates
from gmdm_prior.training.likelihood.noise_groups import (
    MEMBERS,
    MOST_GROUPS,
    alike,
    group,
    maximise,
    reduced,
    refined,
)
from gmdm_prior.training.likelihood.statistics import Penalty, Statistics
from gmdm_prior.training.measure import draw
from gmdm_prior.training.methods import resolved

PENALTY = Penalty(least=1e-3, patches=2.0, variance=0.3, members=0.5)


def noisy_pictures(count: int = 4, side: int = 64, low: float = 0.02, high: float = 0.1) -> tuple:
    """Smooth blobs and an edge with a noise level of their own; the images and the levels."""
    levels = torch.linspace(low, high, count)
    images = []
    for i, sigma in enumerate(levels):
        generator = seeded(i)
        coarse = torch.rand(1, 1, 5, 5, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[0]
        image = 0.2 + 0.5 * image
        image[:, :, side // 2 :] += 0.2 * (i % 2)
        images.append(image + sigma * torch.randn(image.shape, generator=generator))
    return images, levels


# --- The M-step ---


def levels_of_statistics(dimension: int = 5) -> tuple[list[Statistics], list[float]]:
    """Three levels, three components; the second has nothing at the last level."""
    surplus, parts = [-0.2, 0.0, 0.7], []
    for seed, e in enumerate(surplus):
        counts = torch.tensor([40.0, 20.0 if seed < 2 else 0.0, 9.0], dtype=torch.float64)
        spread = random_covariances(3, dimension, seeded(seed)) + (0.5 + e) * torch.eye(dimension)
        parts.append(Statistics(spread * counts[:, None, None], counts))
    return parts, surplus


def objective(covariances: Tensor, parts: list[Statistics], surplus: list[float]) -> Tensor:
    """Q of the docstring, written down once more, (K,)."""
    identity = torch.eye(covariances.shape[-1], dtype=torch.float64)
    total = torch.zeros(len(covariances), dtype=torch.float64)
    for part, e in zip(parts, surplus, strict=True):
        raised = covariances + e * identity
        total = total - 0.5 * part.counts * torch.logdet(raised)
        total = total - 0.5 * (torch.linalg.inv(raised) * part.scatter).sum((1, 2))
    inverse = torch.linalg.inv(covariances)
    trace = torch.diagonal(inverse, dim1=1, dim2=2).sum(1)
    return total - 0.5 * PENALTY.patches * (torch.logdet(covariances) + PENALTY.variance * trace)


def test_full_step_climbs_to_a_stationary_point():
    parts, surplus = levels_of_statistics()
    mixture = full_mixture.FullMixture(
        torch.eye(5, dtype=torch.float64).expand(3, 5, 5).clone(), torch.full((3,), 1 / 3).double()
    )
    values = [objective(mixture.covariances, parts, surplus)]
    for _ in range(60):
        mixture = maximise(mixture, parts, surplus, PENALTY)
        values.append(objective(mixture.covariances, parts, surplus))
    assert all(bool((b >= a - 1e-9).all()) for a, b in itertools.pairwise(values))
    moved = mixture.covariances.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(moved, parts, surplus).sum(), moved)
    # the shrinkage towards the pseudo-patches is applied to the reduced statistics, which differ
    # from the sum over levels by how much each tells: 2 pseudo-patches of 30 to 110
    assert slope.abs().max() < 0.6
    counts = torch.stack([p.counts for p in parts]).sum(0)
    torch.testing.assert_close(mixture.weights, (counts + 0.5) / (counts + 0.5).sum())


def test_tied_step_never_falls_and_its_variances_are_stationary():
    parts, surplus = levels_of_statistics()
    basis = torch.tensor([0, 0, 1])
    bases = torch.stack(
        [torch.linalg.qr(random_covariances(1, 5, seeded(s))[0])[0] for s in (8, 9)]
    )
    mixture = tied_mixture.TiedMixture(
        bases, torch.ones(3, 5, dtype=torch.float64), torch.full((3,), 1 / 3).double(), basis
    )

    def covariances(m: tied_mixture.TiedMixture, variances: Tensor) -> Tensor:
        a = m.bases[basis]
        return a.mT @ (variances[:, :, None] * a)

    values = [objective(covariances(mixture, mixture.variances), parts, surplus).sum()]
    for _ in range(40):
        mixture = maximise(mixture, parts, surplus, PENALTY)
        values.append(objective(covariances(mixture, mixture.variances), parts, surplus).sum())
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1
    assert (mixture.bases - bases).abs().max() > 0.1  # they turn
    variances = mixture.variances.clone().requires_grad_()
    total = objective(covariances(mixture, variances), parts, surplus).sum()
    (slope,) = torch.autograd.grad(total, variances)
    free = mixture.variances > PENALTY.least * 1.001
    assert slope[free].abs().max() < 1e-4  # scoring converges linearly; counts are up to 100


def test_variances_neither_overshoot_nor_leave_their_bounds(monkeypatch):
    """A single patch of little noise says 1.2, a hundred of more noise say 0.1, or less than none.

    From 0.25 up the first is believed at once.
    """
    monkeypatch.setattr(noise_groups, "SWEEPS", 1)
    surplus = torch.tensor([-0.2, 0.7], dtype=torch.float64)
    counts = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    pen, start = dataclasses.replace(PENALTY, least=0.21), torch.full((1, 1), 0.25).double()
    powers = torch.tensor([[[1.0]], [[100 * 0.8]]], dtype=torch.float64)
    terms = powers, counts, surplus, pen
    climbed = noise_groups._climb(start, *terms)
    assert noise_groups._fit(climbed, *terms) > noise_groups._fit(start, *terms)
    powers = torch.tensor([[[0.001]], [[100 * 0.6]]], dtype=torch.float64)
    pen = dataclasses.replace(pen, variance=0.0)
    assert noise_groups._climb(start, powers, counts, surplus, pen) == pen.least


def test_reduced_statistics_of_one_level_are_its_own():
    (part, *_), _ = levels_of_statistics()
    rows = torch.linalg.qr(random_covariances(3, 5, seeded(4)))[0]
    totals = 0.1 + torch.rand(3, 5, dtype=torch.float64, generator=seeded(5))
    got = reduced([part], [0.0], rows, totals)
    torch.testing.assert_close(got.scatter, part.scatter, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.counts, part.counts)


def test_reduced_statistics_are_unbiased():
    """Of exact moments C + (s_0 + e_l) I, whatever is told of each level, C + s_0 I is left."""
    covariance = random_covariances(2, 4, seeded(1)) + torch.eye(4)
    surplus = [-0.3, 0.1, 0.8]
    parts = []
    for e, n in zip(surplus, (30.0, 5.0, 11.0), strict=True):
        counts = torch.tensor([n, 2 * n], dtype=torch.float64)
        scatter = (covariance + e * torch.eye(4)) * counts[:, None, None]
        parts.append(Statistics(scatter, counts))
    rows = torch.linalg.qr(random_covariances(2, 4, seeded(4)))[0]
    totals = 0.5 + torch.rand(2, 4, dtype=torch.float64, generator=seeded(5))
    got = reduced(parts, surplus, rows, totals)
    torch.testing.assert_close(got.scatter / got.counts[:, None, None], covariance)


def test_grouping_keeps_every_patch_and_the_mean_variance():
    variances = (0.01 + 0.2 * torch.rand(500, generator=seeded())).double().square()
    levels = group(variances)
    assert 2 < len(levels) <= 16
    assert torch.cat([level.members for level in levels]).sort().values.tolist() == [*range(500)]
    mean = sum(level.variance * len(level.members) for level in levels) / 500
    assert math.isclose(mean, variances.mean().item(), rel_tol=1e-12)
    for level in levels:
        width = variances[level.members].sqrt()
        assert width.max() / width.min() < (0.21 / 0.01) ** (1 / 16) * 1.001


def test_noise_free_patches_are_a_level_like_others():
    levels = group(torch.tensor([0.0, 0.0, 0.01, 0.01], dtype=torch.float64))
    assert [level.variance for level in levels] == [0.0, pytest.approx(0.01)]


# --- fit_em ---


def test_equal_levels_are_one_level_to_the_bit():
    patches = natural_patches().float()
    one = fit_em(patches, noise=0.05, **SMALL)
    each = fit_em(patches, noise=torch.full((600,), 0.05, dtype=torch.float64), **SMALL)
    assert same(one, each)


def test_recovers_a_mixture_under_levels_of_every_patch():
    truth = known_mixture("none")
    clean = truth.sample((12_000,), generator=seeded(5)).detach()
    sigma = 0.02 + 0.08 * torch.rand(12_000, generator=seeded(3), dtype=torch.float64)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=seeded(7))
    noisy = (clean + sigma[:, None, None, None] * noise).float()
    options = {"bases": 2, "classes": 4, "components": 8, "symmetries": "none"}
    options |= {"full_iterations": 20, "iterations": 20, "truncation": 0.0}
    records = []
    found = fit_em(noisy, noise=sigma.float(), on_iteration=records.append, **options)
    assert mismatch(found, truth) < 0.05
    fresh = truth.sample((4_000,), 0.03, generator=seeded(6)).detach()
    mean_level = fit_em(noisy, noise=sigma.square().mean().sqrt().item(), **options)
    with torch.no_grad():
        exact = truth.log_prob(fresh, 0.03)
        gaps = [
            (exact - m.double().log_prob(fresh, 0.03)).mean().item() for m in (found, mean_level)
        ]
    assert gaps[0] < 0.01  # 100 free numbers cost 100 / (2 · 12,000) nats, noise some more
    assert gaps[1] > 3 * gaps[0]
    for stage in ("full", "tied"):
        objectives = [r.objective for r in records if r.stage == stage]
        # float32 responses of 12,000 patches
        assert all(b >= a - 1e-5 for a, b in itertools.pairwise(objectives))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.zeros(3), r"one level for each of 600 patches.*\(3,\)"),
        (torch.full((600,), -0.1), "finite standard deviations of at least 0"),
        (torch.full((600,), math.nan), "finite standard deviations of at least 0"),
    ],
)
def test_levels_that_do_not_fit_are_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        fit_em(natural_patches().float(), noise=noise, **SMALL)


# --- Levels without a prior, and refined ---


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_level_of_pure_noise(sigma):
    image = 0.5 + sigma * torch.randn(1, 256, 256, generator=seeded())
    local = local_levels(image)
    assert local.shape == (1, 256, 256)
    assert float(local.mean()) == pytest.approx(sigma, rel=0.02)
    # windows of 1,024 numbers: about 5 %, less where they are joined
    assert float((local / sigma - 1).square().mean().sqrt()) < 0.08


def test_a_ramp_does_not_read_as_noise():
    ramp = torch.linspace(0, 1, 64).expand(1, 64, 64)
    assert float(local_levels(ramp).max()) < 1e-3


def test_local_levels_follow_the_noise():
    sigma = torch.linspace(0.02, 0.1, 128).expand(1, 96, 128)
    image = 0.5 + sigma * torch.randn(sigma.shape, generator=seeded())
    found = local_levels(image)
    error = (found / sigma - 1)[:, :, 16:-16]
    assert float(error.square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 70), (1, 33, 35), (1, 40, 12)])
def test_local_levels_of_any_shape(shape):
    image = 0.05 * torch.randn(shape, generator=seeded())
    found = local_levels(image)
    assert found.shape == (1, *shape[1:])
    assert bool(((found > 0.01) & (found < 0.2)).all())


def test_refinement_finds_the_levels_of_a_models_own_samples():
    model = known_mixture("flips")
    truth = torch.tensor([0.05, 0.08, 0.12], dtype=torch.float64)
    image = torch.arange(3).repeat_interleave(800)
    generator = seeded(2)
    clean = model.sample((2400,), generator=generator).detach()
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    x = to_coordinates(clean + truth[image][:, None, None, None] * noise)
    reference = 0.01
    tied = tied_mixture.TiedMixture(
        to_coordinates(model.filters.detach().flatten(0, 1)).unflatten(0, (2, 8)),
        model.variances.detach() + reference,
        model.weights.detach(),
        model.basis,
    )
    start = truth * torch.tensor([1.15, 0.9, 1.2])
    turns = symmetry_matrices("flips", 1, 3)
    found = refined(x, image, start, tied, reference, turns)
    again = refined(x, image, found, tied, reference, turns)
    # 800 patches, about half of 8 numbers of each noise: 1 / sqrt(2 · 3,200) = 1.3 %
    assert (again / truth - 1).abs().max() < 0.04
    assert (found / truth - 1).abs().max() < 0.06
    alone = refined(x, torch.zeros(2400).long(), start[[0, 0]], tied, reference, turns)
    assert alone[1] == start[0]  # no patch is of that image


def test_groups_are_of_one_image_and_alike():
    counts = torch.tensor([3 * MEMBERS + 5, 10, 20 * MEMBERS])
    image = torch.arange(3).repeat_interleave(counts)[torch.randperm(int(counts.sum()))]
    sigma = torch.rand(len(image), generator=seeded())
    number = alike(sigma, image)
    numbers = [number[image == i].unique().tolist() for i in range(3)]
    assert numbers == [[0, 1, 2], [3], list(range(4, 4 + MOST_GROUPS))]
    for n in range(4 + MOST_GROUPS):
        own = sigma[number == n]
        others = sigma[(number != n) & (image == image[number == n][0])]
        assert not bool(((others > own.min()) & (others < own.max())).any())
        assert n == 3 or MEMBERS <= len(own) <= 20 * MEMBERS / MOST_GROUPS + 1


def test_levels_of_a_group_move_together():
    sigma, number = torch.tensor([0.1, 0.3, 0.2, 0.4]), torch.tensor([0, 2, 0, 2])
    noise = em.PatchNoise(sigma, number)
    first = noise.first_levels()
    expected = torch.tensor([0.025, 0.125], dtype=torch.float64).sqrt()
    torch.testing.assert_close(first[[0, 2]], expected)
    torch.testing.assert_close(noise.variances(first), sigma.double().square())
    moved = noise.variances(first * torch.tensor([2.0, 1.0, 0.5]))
    torch.testing.assert_close(moved.sqrt(), torch.tensor([0.2, 0.15, 0.4, 0.2]).double())
    certain = em.PatchNoise(sigma)
    assert certain.first_levels() is None
    torch.testing.assert_close(certain.variances(None), sigma.double().square())


def test_maps_are_refined_with_the_model(tmp_path):
    """The first map of white texture reads high by a third; the model learns otherwise."""
    level, images = 0.08, []
    for i in range(3):
        stripes = 0.1 * torch.sin(2.4 * torch.arange(96.0))[None] * torch.ones(96, 1)
        stripes[:, 48:] = 0
        noise = level * torch.randn(96, 96, generator=seeded(i))
        images.append((0.5 + stripes * stripes.T.sign() + noise)[None])
    store = Checkpoints(tmp_path)
    list(run(images, "map", store))
    found = store.latest().state["em"]["sigmas"]
    maps = image_sigmas(images, "map")
    _, sigma, image = sample_noisy_patches(images, maps, 1500, 4, "d4", step_generator(0, 0))
    first = em.PatchNoise(sigma, alike(sigma, image)).first_levels()
    assert found.shape == first.shape == (21,)  # 500 patches of an image, at least 64 in each
    gap = [(levels / level).log().abs().mean() for levels in (first, found)]
    assert gap[1] < 0.7 * gap[0]


# --- Images ---


def test_noisy_patches_are_those_of_sample_patches_with_their_levels():
    images, levels = noisy_pictures(3)
    place = (90, 5, "d4")
    plain = sample_patches(images, *place, seeded(4))
    patches, sigma, image = sample_noisy_patches(images, list(levels), *place, seeded(4))
    assert torch.equal(plain, patches)
    assert torch.equal(sigma, levels[image])
    maps = [torch.rand(1, 64, 64, generator=seeded(i)) for i in range(3)]
    together = [torch.cat([image, m]) for image, m in zip(images, maps, strict=True)]
    both = sample_patches(together, *place, seeded(4))
    patches, sigma, _ = sample_noisy_patches(images, maps, *place, seeded(4))
    assert torch.equal(both[:, :1], patches)
    torch.testing.assert_close(sigma, both[:, 1].square().mean((-2, -1)).sqrt())


def run(images, noise: str, store: Checkpoints | None = None, **more):
    options = {"patch_size": 4, "bases": 1, "classes": 3, "components": 8, "patches": 1500}
    settings = FitSettings(noise=noise, steps=5, measure_every=50, **options)
    held_out = images if isinstance(images, dict) else images[:1]
    return fit(images, held_out, settings, checkpoints=store, **more)


@pytest.mark.parametrize("noise", ["auto", "map"])
def test_unknown_levels_go_on_to_the_same_bits(noise, tmp_path):
    images, _ = noisy_pictures()
    whole = list(run(images, noise))[-1]
    assert whole.psnr is None
    assert math.isfinite(whole.held_out_loss)
    store = Checkpoints(tmp_path)
    records = run(images, noise, store)
    for record in records:
        if record.step == 15:  # levels have been refined once, and will be again
            break
    records.close()
    resumed = list(run(images, noise, store, resume=store.latest()))
    assert [r.step for r in resumed] == [16, 17]
    for a, b in zip(whole.model.parameters(), resumed[-1].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_estimated_levels_are_kept_with_the_state(tmp_path):
    images, levels = noisy_pictures(5, side=96)
    store = Checkpoints(tmp_path)
    list(run(images, "auto", store))
    found = store.latest().state["em"]["sigmas"]
    first = torch.stack(image_sigmas(images, "auto"))
    assert not torch.equal(found, first.double())
    assert (found / levels - 1).abs().max() < 0.12


def binomial_noise(side, seed=0):
    """Of level 1, whose neighbours agree by 2/3: (1, side, side)."""
    taps = torch.tensor([1.0, 2, 1])
    kernel = torch.outer(taps, taps)[None, None] / 6
    white = torch.randn(1, 1, side + 2, side + 2, generator=seeded(seed))
    return torch.nn.functional.conv2d(white, kernel)[0]


@pytest.mark.parametrize("noise", ["auto", "map"])
def test_correlated_noise_has_its_own_level_and_a_warning(noise):
    """Its finest detail reads a third of it."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 128), torch.linspace(0, 3, 128), indexing="ij")
    scene = (0.5 + 0.2 * torch.sin(y + x) * torch.cos(y))[None]
    white = scene + 0.1 * torch.randn(1, 128, 128, generator=seeded(1))
    images = {"a.png": scene + 0.1 * binomial_noise(128), "b.png": white}
    with pytest.warns(UserWarning, match=r"of 1 of 2 images is correlated.* a\.png: the noise"):
        found = image_sigmas(images, noise)
    for level in found:
        assert float(level.square().mean().sqrt()) == pytest.approx(0.1, rel=0.12)
        assert level.shape == (() if noise == "auto" else (1, 128, 128))
    assert float(local_levels(images["a.png"]).max()) < 0.06  # the finest detail alone


def test_a_table_gives_the_levels(tmp_path):
    images, levels = noisy_pictures(2)
    named = {tmp_path / f"{i}.png": image for i, image in enumerate(images)}
    table = tmp_path / "levels.csv"
    table.write_text("sigma, file\n5.1/255,0.png\n0.1,1.png\n")
    sigmas = image_sigmas(named, str(table))
    torch.testing.assert_close(torch.stack(sigmas), levels)
    record = list(run(named, str(table)))[-1]
    assert math.isfinite(record.held_out_loss)
    with pytest.raises(ValueError, match="needs images by file"):
        next(run(images, str(table)))


def test_held_out_likelihood_is_that_at_the_levels():
    images, levels = noisy_pictures(3)
    model = small_mixture(3).float()
    pool = ImagePool.of(images, list(levels))
    measure = draw(pool, resolved(FitSettings(patch_size=3, noise="auto")))
    assert set(measure.sigma.tolist()) == set(levels.tolist())
    with torch.no_grad():
        each = [
            model.log_prob(measure.patches[measure.sigma == s], float(s)).double().sum()
            for s in levels
        ]
    assert measure.log_likelihood(model) == pytest.approx(float(sum(each)) / 4096 / 8, rel=1e-5)


def test_fingerprints_tell_levels_apart():
    images, levels = noisy_pictures(2)
    pools = [ImagePool.of(images, s) for s in (None, list(levels), list(2 * levels))]
    assert len({pool.fingerprint for pool in pools}) == 3


def test_small_images_have_no_level():
    with pytest.raises(ValueError, match="noise=auto needs images of at least 8x8"):
        image_sigmas([torch.rand(1, 5, 30)], "auto")


# --- Tables ---


def write(tmp_path, text: str):
    path = tmp_path / "levels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_numbers_and_fractions_in_any_columns(tmp_path):
    path = write(tmp_path, "\ufeffnote,file,sigma\nx, a.png ,25/255\ny,b/c.png,0.1\n")
    assert read_table(path) == {"a.png": 25 / 255, "b/c.png": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,level\na.png,1\n", "no column sigma.*'file,level'"),
        ("", "no column file nor sigma"),
        ("file,sigma\n", "no rows"),
        ("file,sigma\na.png,loud\n", "line 2: sigma=loud is no noise level"),
        ("file,sigma\na.png,0.1\nb.png,\n", "line 3: sigma= is no noise level"),
        ("file,sigma\na.png\n", "line 2: sigma=None is no noise level"),
        ("file,sigma\na.png,-0.1\n", "line 2: sigma=-0.1 is no noise level"),
        ("file,sigma\na.png,nan\n", "line 2: sigma=nan is no noise level"),
        ("file,sigma\n,0.1\n", "line 2: no file"),
        ("file,sigma\na.png,0.1\na.png,0.2\n", "line 3: a.png twice"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, text))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.csv cannot be read: No such file"):
        read_table(tmp_path / "nowhere.csv")


def test_the_longest_name_counts():
    table = {"a.png": 0.1, "b/a.png": 0.2}
    assert look_up(table, ["x/a.png", "x/b/a.png", "a.png"], "t.csv") == [0.1, 0.2, 0.1]
    missing = "t.csv says nothing of 4 images: c.png, d.png, e.png, …"
    with pytest.raises(ValueError, match=missing):
        look_up(table, ["c.png", "a.png", "d.png", "e.png", "f.png"], "t.csv")


def test_unequal_levels_have_a_reference():
    sigma = torch.linspace(0.01, 0.1, 600)
    settings = em.EMSettings(**SMALL)
    problem = em.EMProblem.from_patches(natural_patches(), settings, em.PatchNoise(sigma))
    rms = sigma.double().square().mean().sqrt().item()
    assert problem.settings.noise == pytest.approx(rms)
