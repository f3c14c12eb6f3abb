"""Classes of a picture's own beside a mixture: densities and posterior means, by brute force."""

import math

import pytest
import torch
from models import mixture
from torch.distributions import MultivariateNormal

from gmdm_prior.constraints import orthonormalise, zero_mean_basis
from gmdm_prior.fast.adapted import FLOOR, ROWS, OwnClasses, OwnLevel
from gmdm_prior.fast.choose import Evaluator

NOISE = 0.01


def classes(size=3, channels=1, count=3, seed=5):
    """Random ones, of which half of the variances are least."""
    g = torch.Generator().manual_seed(seed)
    j = channels * (size**2 - 1)
    shape = (count, j, channels, size, size)
    axes = orthonormalise(torch.randn(shape, generator=g, dtype=torch.float64)).flatten(2)
    variances = 10 ** (-2 + 2 * torch.rand(count, j, generator=g, dtype=torch.float64))
    variances[:, j // 2 :] = FLOOR
    return OwnClasses(axes, variances, torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)[:count])


def noisy(model, count=40):
    g = torch.Generator().manual_seed(2)
    return 0.5 + model.sample((count,), 0.1, generator=g).flatten(1)


def zero_mean(y, channels):
    pixels = y.unflatten(1, (channels, -1))
    return (pixels - pixels.mean(2, keepdim=True)).flatten(1)


@pytest.mark.parametrize("channels", [1, 2])
def test_log_joint_is_that_of_gaussians(channels):
    model, own = mixture(3, channels=channels), classes(channels=channels)
    y = noisy(model)
    d = zero_mean_basis(channels, 3)
    found = OwnLevel(own, NOISE, channels, y).log_joint(y)
    for k in range(3):
        a = own.axes[k] @ d.T
        c = a.T @ torch.diag(own.variances[k] + NOISE) @ a
        law = MultivariateNormal(torch.zeros(len(d)).double(), (c + c.T) / 2)
        torch.testing.assert_close(found[k], law.log_prob(y @ d.T) + own.weights[k].log())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("symmetries", ["d4", "flips", "none"])
def test_is_the_joined_mixture(channels, symmetries):
    """Whose posterior mean is that of any mixture."""
    model, own = mixture(3, channels=channels, symmetries=symmetries), classes(channels=channels)
    y, noise = noisy(model, ROWS + 3), torch.tensor(NOISE, dtype=torch.float64)
    joined = own.joined(model).at(noise)
    means, logs = Evaluator().means_and_log_probs(model, y, noise)(y)
    level = OwnLevel(own, NOISE, channels, y)
    whole = level.posterior_mean(y, means, logs, 1.0)
    torch.testing.assert_close(whole, joined.posterior_mean(y), rtol=0, atol=1e-12)
    rest = logs + math.log(1 - 0.6)
    density = torch.logsumexp(torch.cat([rest[None], level.log_joint(y)]), 0)
    torch.testing.assert_close(density, joined.log_prob(y), rtol=1e-12, atol=1e-10)


def test_trust_is_the_way_from_one_to_the_other():
    model, own = mixture(3), classes()
    y, noise = noisy(model), torch.tensor(NOISE, dtype=torch.float64)
    means, logs = model.at(noise).mean_and_log_prob(y)
    level = OwnLevel(own, NOISE, 1, y)
    ends = [level.posterior_mean(y, means, logs, trust) for trust in (0.0, 1.0)]
    assert torch.equal(ends[0], means)
    assert not torch.allclose(*ends, atol=1e-3)
    middle = level.posterior_mean(y, means, logs, 0.3)
    torch.testing.assert_close(middle, 0.7 * ends[0] + 0.3 * ends[1])


def test_the_mixture_gives_both_at_once():
    model = mixture(4)
    level = model.at(torch.tensor(NOISE, dtype=torch.float64))
    y = noisy(model)
    mean, log_prob = level.mean_and_log_prob(y)
    assert torch.equal(mean, level.posterior_mean(y))
    assert torch.equal(log_prob, level.log_prob(y))


def test_float32_is_near():
    """In which squares of a patch are divided by the noise: at 0.02 their rounding is 1e-4."""
    model, own = mixture(8).float(), classes(8)
    y, noise = noisy(model), torch.tensor(4e-4)
    means, logs = Evaluator().means_and_log_probs(model, y, noise)(y)
    found = OwnLevel(own, 4e-4, 1, y).posterior_mean(y, means, logs, 1.0)
    assert found.dtype == torch.float32
    truth = own.joined(model.double()).at(noise.double()).posterior_mean(y.double())
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=2e-5)
