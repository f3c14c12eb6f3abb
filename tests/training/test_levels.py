"""Free parameters of a model: any values give an exact density, and its gradients are right."""

import pytest
import torch
from gmdm_prior.training.score.moving import moving
from models import mixture, product

import gmdm_prior as gm

SIZE = 3


def shaken(model, amount=0.3, seed=0):
    """Free parameters far from the start."""
    free = moving(model)
    with torch.no_grad():
        for p in free.parameters():
            p += amount * torch.randn(
                p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype
            )
    return free


def assert_orthonormal(rows, tolerance):
    identity = torch.eye(rows.shape[-2], dtype=rows.dtype)
    assert (rows @ rows.mT - identity).abs().max() < tolerance
    assert rows.sum(-1).abs().max() < tolerance


def test_a_mixture_stays_exact_wherever_its_parameters_go():
    start = mixture(SIZE)
    free = shaken(start)
    now = free.parameters_now()
    assert_orthonormal(now["filters"].flatten(2), 1e-12)
    assert now["weights"].sum().item() == pytest.approx(1, abs=1e-12)
    moved = free.snapshot()
    assert (moved.filters - start.filters).abs().max() > 0.1
    assert (moved.variances / start.variances).log().abs().max() > 0.1


@pytest.mark.parametrize("count", [8, 5])
def test_a_product_stays_exact_wherever_its_parameters_go(count):
    full = product(SIZE)
    start = gm.PatchModel(full.filters[:count], full.experts.logits[:count], full.experts.bound)
    free = shaken(start)
    rows = free.parameters_now()["filters"]
    assert rows.shape == (count, SIZE**2)
    assert_orthonormal(rows / rows.norm(dim=1, keepdim=True), 1e-12)
    moved = free.snapshot()
    assert (moved.filters - start.filters).abs().max() > 0.1 * start.filters.abs().max()
    # the span of fewer filters than dimensions turns too
    both = torch.cat([moved.filters.flatten(1), start.filters.flatten(1)])
    assert torch.linalg.matrix_rank(both, atol=1e-3) == 8


@pytest.mark.parametrize("make", [mixture, product, lambda size: product(size, filters=5)])
def test_at_the_start_it_is_the_start(make):
    start = make(SIZE)
    free = moving(start)
    y = torch.rand(20, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    level = free.level(free.parameters_now(), 0.1)
    expected = start.float().denoise(y, 0.1).flatten(1)
    torch.testing.assert_close(level.posterior_mean(y.flatten(1)), expected, rtol=0, atol=2e-6)
    again = free.snapshot().denoise(y, 0.1).flatten(1)
    torch.testing.assert_close(again, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("variance", [None, 0.05])
@pytest.mark.parametrize("count", [8, 5])
def test_gradients_of_the_fused_posterior_mean(variance, count):
    full = product(SIZE)
    model = gm.PatchModel(full.filters[:count], full.experts.logits[:count], full.experts.bound)
    model = model if variance is None else model.with_mean(variance)
    free = shaken(model, 0.1)
    now = {k: v.detach().requires_grad_(True) for k, v in free.parameters_now().items()}
    y = torch.rand(7, SIZE**2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.requires_grad_(True)
    level = free.level(now, 0.15)
    level = type(level)(
        now["filters"], now["logits"], level.bound, level.noise.double(), level.mean_part
    )
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = [y, now["filters"], now["logits"]]
    mean = level.posterior_mean(y)
    found = torch.autograd.grad(mean, wanted, g)

    filters, weights = now["filters"], torch.log_softmax(now["logits"], 1)
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
