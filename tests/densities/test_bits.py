"""Bits per dimension: known entropies, probabilities of bins by quadrature, and what is refused."""

import math

import pytest
import torch
from models import mixture, product
from scipy import stats

from gmdm_prior.densities.bits import bits_per_dim


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def per_event(normal, x):
    return normal.log_prob(x).flatten(1).sum(1)


def with_mean(make):
    return make(2).with_mean(0.05)


@pytest.mark.parametrize(("levels", "bits"), [(256, 8.0), (16, 4.0), (2, 1.0)])
def test_a_uniform_density_needs_all_bits(levels, bits):
    images = torch.rand(5, 1, 3, 3, dtype=torch.float64, generator=generator())

    def uniform(x):
        inside = ((x >= 0) & (x < 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf).to(x)

    found = bits_per_dim(uniform, images, levels, generator())
    assert torch.equal(found, torch.full((5,), bits, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_grey_level_falls_into_its_own_bin(dtype):
    seen = []

    def keep(x):
        seen.append(x)
        return x.new_zeros(256)

    grey = torch.arange(256, dtype=dtype).div(255)[:, None]
    bits_per_dim(keep, grey, 256, generator())
    assert torch.equal((seen[0][:, 0] * 256).floor(), torch.arange(256, dtype=dtype))
    assert seen[0].mul(256).frac().std() > 0.25  # uniform in it: 1 / sqrt 12


def test_pixels_between_grey_levels_count_as_the_nearest():
    model, levels = with_mean(mixture), 16
    grey = torch.tensor([[[3.0, 7.0], [8.0, 5.0]]], dtype=torch.float64) / 15
    between = grey + torch.tensor([[0.4, -0.4], [0.3, -0.2]], dtype=torch.float64) / 15
    found, expected = (model.bits_per_dim(x, levels, generator()) for x in (between, grey))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_bits_of_gaussian_data_are_the_entropy():
    """h(N) = log2(s sqrt(2 pi e)) + 8 bits; the bins are 1/20 of s."""
    n, std = 200_000, 0.08
    x = 0.5 + std * torch.randn(n, 2, dtype=torch.float64, generator=generator())
    found = bits_per_dim(
        lambda y: per_event(torch.distributions.Normal(0.5, std), y), x, 256, generator(1)
    )
    expected = math.log2(std * math.sqrt(2 * math.pi * math.e)) + 8
    assert abs(found.mean().item() - expected) < 0.01
    wrong = math.log2(2 * std * math.sqrt(2 * math.pi * math.e)) + 8
    assert abs(found.mean().item() - wrong) > 0.9


def test_four_times_the_levels_are_two_bits_more():
    model = with_mean(mixture)
    x = model.sample((4000,), generator=generator())
    coarse, fine = (model.bits_per_dim(x, levels, generator()).mean() for levels in (4096, 16384))
    assert (fine - coarse).item() == pytest.approx(2, abs=0.01)


def test_two_pixels_have_the_probability_of_their_bin():
    """2^(-a bits) is an unbiased estimate of it; here it is known by the normal CDF."""
    levels, draws = 8, 40_000
    image = torch.tensor([[3 / 7, 5 / 7]], dtype=torch.float64)
    normal = torch.distributions.Normal(0.4, 0.15)
    found = bits_per_dim(
        lambda y: per_event(normal, y), image.expand(draws, 2), levels, generator()
    )
    cdf = stats.norm(0.4, 0.15).cdf
    exact = (cdf(4 / 8) - cdf(3 / 8)) * (cdf(6 / 8) - cdf(5 / 8))
    estimates = (-2 * math.log(2) * found).exp()
    error = estimates.std().item() / math.sqrt(draws)
    assert abs(estimates.mean().item() - exact) < 4 * error
    assert error < 0.01 * exact
    assert found.mean() >= -math.log2(exact) / 2  # Jensen: an upper bound


@pytest.mark.parametrize("make", [product, mixture])
def test_a_patch_has_the_probability_of_its_bin_by_quadrature(make):
    model, levels, draws = with_mean(make), 16, 20_000
    k = torch.tensor([[6.0, 7.0], [8.0, 7.0]], dtype=torch.float64)
    line = (torch.arange(9, dtype=torch.float64) + 0.5) / 9
    inside = torch.cartesian_prod(line, line, line, line).reshape(-1, 1, 2, 2)
    exact = model.log_prob((k + inside) / levels, 0.0).exp().mean() / levels**4
    images = (k / (levels - 1)).expand(draws, 1, 2, 2)
    estimates = (-4 * math.log(2) * model.bits_per_dim(images, levels, generator())).exp()
    error = estimates.std().item() / math.sqrt(draws)
    assert abs(estimates.mean().item() - exact) < 4 * error + 0.002 * exact
    assert error < 0.02 * exact


@pytest.mark.parametrize("make", [product, mixture])
def test_expected_bits_of_samples_are_their_entropy(make):
    """Fine levels: minus the mean log-density of the samples themselves, the same randomness."""
    model = with_mean(make)
    x = model.sample((3000,), generator=generator())
    nats = -model.log_prob(x, 0.0).mean().item()
    found = model.bits_per_dim(x, 2**16, generator()).mean().item()
    assert found == pytest.approx(16 + nats / (4 * math.log(2)), abs=1e-3)


def test_other_data_cost_more_bits():
    """Gibbs: data of one model under another."""
    ours, other = with_mean(mixture), mixture(2, seed=7).with_mean(0.05)
    x = ours.sample((4000,), generator=generator())
    right, wrong = (m.bits_per_dim(x, 4096, generator()).mean() for m in (ours, other))
    assert wrong > right + 0.01


def test_shapes_types_and_randomness():
    model = mixture(2, channels=2, symmetries="none").with_mean(0.05)
    x = torch.rand(2, 3, 2, 2, 2, dtype=torch.float64, generator=generator())
    found = model.bits_per_dim(x, generator=generator())
    assert found.shape == (2, 3)
    assert torch.equal(found, model.bits_per_dim(x, generator=generator()))
    assert not torch.equal(found, model.bits_per_dim(x, generator=generator(1)))
    assert model.bits_per_dim(x[0, 0]).shape == ()
    assert model.bits_per_dim(x[:0]).shape == (0, 3)
    for dtype in (torch.float32, torch.bfloat16):
        assert model.bits_per_dim(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize("levels", [1, 0, -256, 2.5, "256", None])
def test_refuses_bad_levels(levels):
    with pytest.raises(ValueError, match="levels must be an integer from 2"):
        with_mean(mixture).bits_per_dim(torch.rand(1, 2, 2), levels)


@pytest.mark.parametrize("make", [product, mixture])
def test_refuses_a_flat_mean_and_names_the_remedy(make):
    with pytest.raises(ValueError, match="with_mean"):
        make(2).bits_per_dim(torch.rand(3, 1, 2, 2))


def test_refuses_other_flat_directions():
    with pytest.raises(ValueError, match="flat in 1 more"):
        product(2, filters=2).with_mean(0.1).bits_per_dim(torch.rand(3, 1, 2, 2))


def test_refuses_what_is_no_patch():
    model = with_mean(mixture)
    with pytest.raises(ValueError, match="shape"):
        model.bits_per_dim(torch.rand(3, 1, 4, 4))
    with pytest.raises(TypeError, match="floating"):
        model.bits_per_dim(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
