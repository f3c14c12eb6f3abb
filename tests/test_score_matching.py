"""Score matching of the image denoiser: gradients, exactness of every step, and that it learns."""

import math

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.training import FitSettings
from gmdm_prior.training.pool import ImagePool
from gmdm_prior.training.score_matching import (
    LEVELS,
    MovingMixture,
    ScoreTrainer,
    image_error,
)

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


def trainer(steps=30, crops=3, start=None):
    settings = FitSettings(method="score", patch_size=SIZE, steps=steps, crops=crops)
    pool = ImagePool.of(wavy_images())
    return ScoreTrainer(pool, settings, mixture(SIZE).float() if start is None else start)


def noisy_pairs(sigma, count=2):
    g = torch.Generator().manual_seed(3)
    clean = [image.double() for image in wavy_images(count, 9, 8)]
    noise = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in clean]
    return [(x, x + sigma * n) for x, n in zip(clean, noise, strict=True)]


def test_summed_gradient_is_that_of_autograd_through_patch_averaging():
    sigma, moving = 0.1, MovingMixture(mixture(SIZE))
    with torch.no_grad():
        moving.rotation.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    pairs = noisy_pairs(sigma)
    noise = torch.tensor(sigma**2, dtype=torch.float64)
    border = slice(SIZE - 1, 1 - SIZE)

    def level():
        now = moving.parameters_now()
        state = {f"model.{name}": value for name, value in now.items()}
        return torch.func.functional_call(moving._at[0], state, (noise,))

    result = image_error(level(), pairs, SIZE)
    torch.autograd.backward(result.tensors, result.gradients)
    found = [p.grad.clone() for p in moving.parameters()]
    moving.zero_grad()

    # slow and obvious: every patch by itself, the average over the patches that hold a pixel
    at, total = level(), 0.0
    for clean, noisy in pairs:
        total_image = torch.zeros_like(clean)
        for i in range(clean.shape[1] - SIZE + 1):
            for j in range(clean.shape[2] - SIZE + 1):
                patch = noisy[:, i : i + SIZE, j : j + SIZE].reshape(1, -1)
                window = torch.zeros_like(clean)
                window[:, i : i + SIZE, j : j + SIZE] = 1
                mean = at.posterior_mean(patch).reshape(1, SIZE, SIZE)
                place = (j, clean.shape[2] - SIZE - j, i, clean.shape[1] - SIZE - i)
                total_image = total_image + torch.nn.functional.pad(mean, place)
        error = total_image / SIZE**2 - clean
        total = total + error[:, border, border].square().sum()
    total.backward()
    assert result.error == pytest.approx(float(total.detach()), rel=1e-12)
    for one, other in zip(found, [p.grad for p in moving.parameters()], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_every_step_is_an_exact_density():
    run = trainer()
    before = run.model()
    for _ in range(3):
        run.advance()
    model = gm.PatchMixture(  # in float64, as it is kept
        **{k: v.detach() for k, v in run._mixture.parameters_now().items()},
        basis=before.basis,
    )
    rows = model.filters.flatten(2)
    identity = torch.eye(rows.shape[1], dtype=torch.float64)
    assert (rows @ rows.mT - identity).abs().max() < 1e-12
    assert rows.mean(2).abs().max() < 1e-12
    assert model.weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (rows - before.filters.flatten(2)).abs().max() > 1e-3, "the bases have not moved"
    assert (model.variances / before.variances).log().abs().max() > 1e-2


def test_training_lowers_the_error_of_patch_averaging_on_other_images():
    run = trainer(steps=25, crops=6)
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
    assert psnr() > first + 0.3


def test_loss_is_minus_the_psnr_of_its_crops():
    run = trainer()
    model = run.model()
    loss = run.advance()
    assert -45 < loss < -10
    again = trainer(start=model)
    assert again.advance() == pytest.approx(loss, abs=1e-4)  # float32 start


def test_goes_on_to_the_same_bits():
    whole = trainer(steps=4)
    for _ in range(4):
        whole.advance()
    first = trainer(steps=4)
    for _ in range(2):
        first.advance()
    state = first.state()
    first.advance()  # must not change the state that was taken before
    second = ScoreTrainer(
        first._pool, FitSettings(method="score", patch_size=SIZE, steps=4, crops=3), None
    )
    second.restore(state)
    for _ in range(2):
        second.advance()
    for one, other in zip(whole.model().parameters(), second.model().parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_proper_mean_is_kept():
    run = trainer(start=mixture(SIZE).float().with_mean(0.1))
    run.advance()
    state = run.state()
    run.restore(state)
    assert run.model().mean_part.variance == 0.1


def test_only_mixtures():
    with pytest.raises(TypeError, match=r"must be a PatchMixture for method=score.*ipalm"):
        trainer(start=product(SIZE))
