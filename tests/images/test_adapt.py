"""A mixture adapted to a noisy image: the M-step of its docstring, and what it finds."""

import copy
import math
import sys

import pytest
import torch
from models import mixture
from torch import Tensor
from training_examples import known_mixture, same, seeded

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.training import adapt

MODULE = sys.modules["gmdm_prior.training.likelihood.adapt"]


def picture(side: int = 16) -> Tensor:
    return 0.2 * torch.randn(1, side, side, dtype=torch.float64, generator=seeded(4))


@pytest.mark.parametrize("symmetries", ["d4", "none"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_iterations_are_those_of_the_docstring(symmetries, iterations, monkeypatch):
    """The second has new responsibilities, but the given model's weights and variances."""
    monkeypatch.setattr(MODULE, "ITERATIONS", iterations)
    monkeypatch.setattr(MODULE, "TRUNCATION", 0.0)
    model, noisy, sigma, strength = known_mixture(symmetries), picture(), 0.1, 7.0
    got, now = adapt(model, noisy, sigma, strength), model
    for _ in range(iterations):
        n, powers = counts_and_powers(now, noisy, sigma)
        ours = strength * model.weights.detach()
        before = model.variances.detach() + sigma**2
        m = (powers + ours[:, None] * before) / (n + ours)[:, None]
        variances, weights = (m - sigma**2).clamp(min=2e-6), (n + ours) / (25 + strength)
        now = gm.PatchMixture(model.filters, variances, weights, model.basis, symmetries)
    torch.testing.assert_close(got.variances, variances)
    torch.testing.assert_close(got.weights, weights)
    assert torch.equal(got.filters, model.filters)


def counts_and_powers(model, noisy: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Sums over patches, symmetries and classes one by one."""
    n, powers = torch.zeros(4).double(), torch.zeros(4, 8).double()
    filters = model.filters.detach()
    for top in range(0, 14, 3):
        for left in range(0, 14, 3):
            patch = noisy[:, top : top + 3, left : left + 3]
            r = model.responsibilities(patch, sigma).detach()
            for h, element in enumerate(symmetry.group(model.symmetries)):
                turned = symmetry.act(patch, element)
                for k in range(4):
                    u = (filters[model.basis[k]] * turned).sum((1, 2, 3))
                    n[k] += r[h, k]
                    powers[k] += r[h, k] * u.square()
    return n, powers


def test_a_strong_model_stays_as_it_is():
    model = known_mixture()
    got = adapt(model, picture(), 0.1, strength=1e12)
    torch.testing.assert_close(got.variances, model.variances.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got.weights, model.weights.detach(), rtol=1e-6, atol=1e-9)


def test_finds_what_is_frequent_in_the_image():
    """Images of patches of one class only, side by side."""
    truth = known_mixture("none")
    only = torch.tensor([0.97, 0.01, 0.01, 0.01], dtype=torch.float64)
    source = gm.PatchMixture(truth.filters, truth.variances, only, truth.basis, "none")
    tiles = source.sample((40, 40), 0.05, generator=seeded(1)).detach()
    noisy = tiles.squeeze(2).permute(0, 2, 1, 3).reshape(1, 120, 120)  # windows of 3, every 3
    got = adapt(truth, noisy, 0.05, strength=100)
    assert got.weights[0] > 0.85  # 100 of 1,700 patches speak for 0.3
    fresh = source.sample((4000,), 0.05, generator=seeded(2)).detach()
    with torch.no_grad():
        gain = (got.log_prob(fresh, 0.05) - truth.log_prob(fresh, 0.05)).mean()
    assert gain > 0.5  # log(0.97 / 0.3) = 1.2 at most


def test_channels_and_batches_are_more_of_the_same():
    model = mixture(3)
    stack = torch.stack([picture(), picture().flip(1)])
    batch = adapt(model, stack, 0.1)
    channels = adapt(model, stack.transpose(0, 1), 0.1)
    torch.testing.assert_close(batch.variances, channels.variances)


def test_the_model_and_the_image_are_left_alone():
    model, noisy = known_mixture().float(), picture().float()
    kept, image = copy.deepcopy(model), noisy.clone()
    got = adapt(model, noisy, 0.1)
    assert same(model, kept)
    assert torch.equal(noisy, image)
    assert got.variances.dtype == torch.float32
    assert not any(p.requires_grad for p in got.parameters())


@pytest.mark.parametrize("image", [torch.zeros(1, 9, 9), torch.ones(1, 9, 9)])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_flat_and_noise_free_images(image, sigma):
    got = adapt(known_mixture(), image, sigma)
    assert bool(torch.isfinite(got.variances).all())
    assert math.isclose(float(got.weights.detach().sum()), 1, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a PatchMixture; got NoneType"),
        ({"noisy": torch.zeros(1, 9, 9, dtype=torch.uint8)}, TypeError, "floating-point"),
        ({"noisy": torch.zeros(9, 9)}, ValueError, r"noisy must be \(C, H, W\).*\(9, 9\)"),
        ({"noisy": torch.zeros(1, 2, 9)}, ValueError, "at least one patch, 3x3"),
        ({"noisy": torch.full((1, 9, 9), math.nan)}, ValueError, "must be finite"),
        ({"sigma": -0.1}, ValueError, "sigma must be a finite number of at least 0; got -0.1"),
        ({"strength": 0}, ValueError, "strength must be a finite number of at least 1; got 0"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    given = {"model": known_mixture(), "noisy": picture(), "sigma": 0.1, "strength": 10} | change
    with pytest.raises(error, match=message):
        adapt(**given)
