"""Score matching of the image denoiser: gradients, exactness of every step, and that it learns."""

import copy
import math
from functools import partial

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.images.schedule import Schedule
from gmdm_prior.training import FitSettings
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.score.image_denoiser import (
    LEVELS,
    ScoreTrainer,
    averaged,
    diffused,
    image_error,
    split,
)
from gmdm_prior.training.score.product_level import ProductLevel

SIZE = 3


def wavy_images(count=3, height=24, width=28, seed=0):
    """Smooth pictures with edges, in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = []
    for _ in range(count):
        a, b, c = torch.rand(3, generator=g)
        wave = 0.5 + 0.25 * torch.sin(a * row + b * column) + 0.2 * (row > c * column)
        images.append(wave[None].float().clamp(0, 1))
    return images


def trainer(steps=30, crops=4, start=None):
    settings = FitSettings(method="score", patch_size=SIZE, steps=steps, crops=crops)
    pool = ImagePool.of(wavy_images())
    return ScoreTrainer(pool, settings, mixture(SIZE).float() if start is None else start)


def noisy_pairs(sigma, count=2):
    g = torch.Generator().manual_seed(3)
    clean = [image.double() for image in wavy_images(count, 9, 8)]
    noise = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in clean]
    return [(x, x + sigma * n) for x, n in zip(clean, noise, strict=True)]


def slow_error(posterior_mean, pairs):
    """Every patch by itself, averaged where patches overlap; the border is left out."""
    border, total = slice(SIZE - 1, 1 - SIZE), 0.0
    for clean, noisy in pairs:
        total_image = torch.zeros_like(clean)
        for i in range(clean.shape[1] - SIZE + 1):
            for j in range(clean.shape[2] - SIZE + 1):
                patch = noisy[:, i : i + SIZE, j : j + SIZE].reshape(1, -1)
                mean = posterior_mean(patch).reshape(1, SIZE, SIZE)
                place = (j, clean.shape[2] - SIZE - j, i, clean.shape[1] - SIZE - i)
                total_image = total_image + torch.nn.functional.pad(mean, place)
        error = total_image / SIZE**2 - clean
        total = total + error[:, border, border].square().sum()
    return total


@pytest.mark.parametrize("make", [mixture, product])
def test_summed_gradient_is_that_of_autograd_through_patch_averaging(make):
    sigma, start = 0.1, make(SIZE)
    pairs = noisy_pairs(sigma)
    noise = torch.tensor(sigma**2, dtype=torch.float64)
    fast = copy.deepcopy(start).requires_grad_(True)
    result = image_error([float64_level(fast, noise)], pairs, partial(averaged, size=SIZE))
    torch.autograd.backward(result.tensors, result.gradients)
    slow = copy.deepcopy(start).requires_grad_(True)
    at = slow.at(noise)
    mean = at.posterior_mean
    if make is product:  # fused in Tweedie's form, which differs where filters are not orthogonal

        def mean(p):
            return p + noise * at.score(p)

    total = slow_error(mean, pairs)
    total.backward()
    assert result.error == pytest.approx(float(total.detach()), rel=1e-10)
    for one, other in zip(fast.parameters(), slow.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert (one.grad - other.grad).abs().max() < 1e-8 * scale


@pytest.mark.parametrize("make", [mixture, product])
@pytest.mark.parametrize("stride", [1, 2])
def test_unrolled_steps_are_those_of_hqs(make, stride):
    """Far from the border, which is reflected at every step there; gradients flow through all."""
    model, sigma = make(SIZE).requires_grad_(True), torch.tensor(0.1, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    noisy = torch.rand(1, 24, 24, generator=g, dtype=torch.float64)
    steps = list(Schedule.constant([0.9, 0.5], [0.4, 0.1]).at(sigma))
    levels = [float64_level(model, level.square()) for level, _ in steps]
    found = split(levels, noisy, SIZE, stride, [weight for _, weight in steps])
    hqs = gm.HalfQuadraticSplitting(model, stride, levels=[0.9, 0.5], data_shares=[0.4, 0.1])
    inner = slice(6, -6)
    there = found[:, 4:-4, 4:-4]  # two of six pixels are lost already
    torch.testing.assert_close(there, hqs(noisy[None], 0.1)[0][:, inner, inner], rtol=0, atol=1e-9)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def float64_level(model, noise):
    if isinstance(model, gm.PatchMixture):
        return model.at(noise)
    weights = torch.log_softmax(model.experts.logits, 1)
    rows = model.filters.flatten(1)
    return ProductLevel(rows, weights, model.experts.bound, noise, model.mean_part)


@pytest.mark.parametrize(("make", "gain"), [(mixture, 0.3), (product, 0.2)])
def test_training_lowers_the_error_of_patch_averaging_on_other_images(make, gain):
    run = trainer(steps=25, crops=8, start=make(SIZE).float())
    test_images = wavy_images(4, seed=9)

    def psnr():
        total = 0.0
        for i, x in enumerate(test_images):
            g = torch.Generator().manual_seed(i)
            y = x + LEVELS[1] * torch.randn(x.shape, generator=g)
            error = gm.PatchAveraging(run.model())(y[None], LEVELS[1])[0] - x
            total += -10 * math.log10(float(error.square().mean()))
        return total / len(test_images)

    first = psnr()
    for _ in range(25):
        run.advance()
    assert psnr() > first + gain


@pytest.mark.parametrize("make", [mixture, product, lambda size: product(size, filters=5)])
def test_a_trainable_model_at_a_level_is_the_model_there(make):
    start = make(SIZE)
    y = torch.rand(20, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    level = diffused(start.trainable())(torch.tensor(0.1**2))
    expected = start.float().denoise(y, 0.1).flatten(1)
    torch.testing.assert_close(level.posterior_mean(y.flatten(1)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("variance", [None, 0.05])
@pytest.mark.parametrize("count", [8, 5])
def test_gradients_of_the_fused_posterior_mean(variance, count):
    model = product(SIZE, filters=count)
    model = model if variance is None else model.with_mean(variance)
    filters = model.filters.flatten(1).clone().requires_grad_(True)
    logits = model.experts.logits.clone().requires_grad_(True)
    y = torch.rand(7, SIZE**2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.requires_grad_(True)
    weights = torch.log_softmax(logits, 1)
    noise = torch.tensor(0.15**2, dtype=torch.float64)
    level = ProductLevel(filters, weights, model.experts.bound, noise, model.mean_part)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = [y, filters, logits]
    mean = level.posterior_mean(y)
    found = torch.autograd.grad(mean, wanted, g, retain_graph=True)

    means = torch.linspace(-1, 1, weights.shape[1], dtype=torch.float64) * level.bound
    s = (means[1] - means[0]) ** 2 + filters.square().sum(1) * 0.15**2
    z = y @ filters.T
    joint = weights - 0.5 * (z[..., None] - means).square() / s[:, None]
    centre = torch.softmax(joint, -1) @ means
    obvious = y + 0.15**2 * ((centre - z) / s) @ filters
    if variance is not None:
        gain = variance / (variance + 0.15**2 / SIZE**2)
        obvious = obvious + ((0.5 - y.mean(1)) * (1 - gain))[:, None]
    torch.testing.assert_close(mean, obvious, rtol=0, atol=1e-7)
    for one, other in zip(found, torch.autograd.grad(obvious, wanted, g), strict=True):
        assert (one - other).abs().max() < 1e-6 * other.abs().max()


def test_levels_scatter_around_four_middles(monkeypatch):
    """Their logarithms are those of the middles plus N(0, 0.3²)."""
    run, seen = trainer(steps=60), []
    draw = run._crops

    def watched(sigma, generator):
        seen.append(sigma)
        return draw(sigma, generator)[:1]

    monkeypatch.setattr(run, "_crops", watched)
    for _ in range(60):
        run.advance()
    away = (torch.tensor(seen).reshape(60, 4) / torch.tensor(LEVELS)).log()
    # 240 draws: the mean is known to 0.02, the deviation to 5 %
    assert away.mean().abs() < 0.06
    assert away.std() == pytest.approx(0.3, rel=0.15)


def test_loss_is_minus_the_psnr_of_its_crops():
    run = trainer()
    model = run.model()
    loss = run.advance()
    assert -45 < loss < -10
    again = trainer(start=model)
    assert again.advance() == pytest.approx(loss, abs=1e-4)  # float32 start


@pytest.mark.parametrize("make", [mixture, product])
def test_goes_on_to_the_same_bits(make):
    whole = trainer(steps=4, start=make(SIZE).float())
    for _ in range(4):
        whole.advance()
    first = trainer(steps=4, start=make(SIZE).float())
    for _ in range(2):
        first.advance()
    state = first.state()
    first.advance()  # must not change the state that was taken before
    second = ScoreTrainer(
        first._pool, FitSettings(method="score", patch_size=SIZE, steps=4, crops=4), None
    )
    second.restore(state)
    for _ in range(2):
        second.advance()
    for one, other in zip(whole.model().parameters(), second.model().parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [mixture, product])
def test_a_proper_mean_is_kept(make):
    run = trainer(start=make(SIZE).float().with_mean(0.1))
    run.advance()
    state = run.state()
    run.restore(state)
    assert run.model().mean_part.variance == 0.1


def test_only_patch_models():
    with pytest.raises(TypeError, match=r"PatchMixture or a PatchModel; got Linear"):
        trainer(start=torch.nn.Linear(1, 1))
