"""The composite likelihood of an image: the sum over its patches, and the gradient of just that."""

import itertools
import math

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm

CHECKED = {"product": lambda: product(3), "mixture": lambda: mixture(3)}


@pytest.fixture(params=CHECKED)
def model(request):
    return CHECKED[request.param]()


def image(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_log_prob_is_the_sum_over_patches(model, boundary):
    x = image(2, 1, 5, 6)
    expected = torch.zeros(2, dtype=torch.float64)
    for top in range(5 if boundary == "circular" else 3):
        for left in range(6 if boundary == "circular" else 4):
            rows = [(top + i) % 5 for i in range(3)]
            columns = [(left + i) % 6 for i in range(3)]
            expected += model.log_prob(x[:, :, rows][..., columns], 0.1) / 9
    value = gm.PatchLikelihood(model, boundary).log_prob(x, 0.1)
    torch.testing.assert_close(value, expected, rtol=0, atol=2e-4)  # the product reads a table


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_score_is_the_gradient_of_the_same_interpolant(model, boundary):
    """Exact for the mixture; for the product value and slope come from one table."""
    likelihood = gm.PatchLikelihood(model, boundary)
    x = image(1, 1, 5, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(likelihood.log_prob(x, 0.1).sum(), x)
    torch.testing.assert_close(likelihood.score(x, 0.1), gradient, rtol=1e-8, atol=1e-8)
    assert gradient.abs().max() > 0.1


def test_images_channels_and_levels_do_not_mix(model):
    likelihood = gm.PatchLikelihood(model)
    x, sigma = image(2, 3, 6, 7), torch.tensor([0.1, 0.4])
    value, score = likelihood.log_prob(x, sigma), likelihood.score(x, sigma)
    for b in range(2):
        parts = [likelihood.log_prob(x[b : b + 1, c : c + 1], sigma[b].item()) for c in range(3)]
        torch.testing.assert_close(value[b], sum(parts)[0], rtol=0, atol=1e-9)
        alone = likelihood.score(x[b : b + 1, 1:2], sigma[b].item())
        torch.testing.assert_close(score[b, 1], alone[0, 0], rtol=0, atol=1e-9)


def test_a_map_that_says_one_number_is_the_number(model):
    likelihood = gm.PatchLikelihood(model)
    x = image(1, 1, 6, 7)
    level = torch.full((1, 1, 6, 7), 0.1, dtype=torch.float64)
    assert torch.equal(likelihood.log_prob(x, level), likelihood.log_prob(x, 0.1))
    level[0, 0, 0, 0] = 0.1 + 1e-9  # no longer constant: the exact path
    assert abs(likelihood.log_prob(x, level) - likelihood.log_prob(x, 0.1)) < 1e-3
    torch.testing.assert_close(
        likelihood.score(x, level), likelihood.score(x, 0.1), atol=0.05, rtol=0
    )


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_descent_lemma_holds_with_lipschitz(model, sigma):
    """-L(x + d) <= -L(x) - <score, d> + lipschitz / 2 ‖d‖², and the bound is not idle."""
    likelihood = gm.PatchLikelihood(model)
    bound, tight = likelihood.lipschitz(sigma), 0
    for seed in range(20):
        x = 0.5 + 10.0 ** (-seed / 5) * (image(1, 1, 6, 6, seed=seed) - 0.5)
        d = 10.0 ** (-seed / 5) * (image(1, 1, 6, 6, seed=seed + 100) - 0.5)
        rise = likelihood.log_prob(x, sigma) - likelihood.log_prob(x + d, sigma)
        rise = rise + (likelihood.score(x, sigma) * d).sum()
        square = d.square().sum() / 2
        assert rise <= bound * square * (1 + 1e-6) + 1e-9
        tight = max(tight, (rise / square).item())
    assert tight > bound / 50


def test_types_and_small_cases(model):
    likelihood = gm.PatchLikelihood(model)
    for dtype in (torch.float32, torch.bfloat16):
        x = image(2, 1, 6, 6, dtype=dtype)
        assert likelihood.log_prob(x, 0.1).dtype == dtype
        assert likelihood.score(x, 0.1).dtype == dtype
    assert likelihood.log_prob(image(0, 1, 6, 6), 0.1).shape == (0,)
    assert likelihood.score(image(0, 1, 6, 6), 0.1).shape == (0, 1, 6, 6)


def test_refuses_bad_input(model):
    with pytest.raises(ValueError, match="boundary"):
        gm.PatchLikelihood(model, "reflect")
    with pytest.raises(TypeError, match="PatchModel"):
        gm.PatchLikelihood(None)
    with pytest.raises(ValueError, match="not negative"):
        gm.PatchLikelihood(model).log_prob(image(1, 1, 6, 6), -0.1)
    with pytest.raises(ValueError, match="finite"):
        gm.PatchLikelihood(model).score(image(1, 1, 6, 6) * math.nan, 0.1)
    with pytest.raises(ValueError, match="at least one patch"):
        gm.PatchLikelihood(model).score(image(1, 1, 2, 6), 0.1)
    for part in ((0, 1), (2, 0, 2), (0, -1, 2)):
        with pytest.raises(ValueError, match="part must be"):
            gm.PatchLikelihood(model).score(image(1, 1, 6, 6), 0.1, part=part)


@pytest.mark.parametrize("method", ["log_prob", "score"])
def test_a_noise_is_no_level(model, method):
    likelihood = gm.PatchLikelihood(model)
    with pytest.raises(TypeError, match=r"takes white noise.*got a Noise.*noise.sigma"):
        getattr(likelihood, method)(image(1, 1, 6, 6), gm.Noise(sigma=torch.tensor([0.1])))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_the_mean_of_all_parts_is_the_score(model, boundary, n):
    """Of a side of odd length, whose parts have unequal shares or none, and of a map of levels."""
    likelihood = gm.PatchLikelihood(model, boundary)
    x = image(1, 1, 5, 6)
    for level in (0.1, 0.05 + image(1, 1, 5, 6, seed=1) / 10):
        places = itertools.product(range(n), range(n))
        parts = [likelihood.score(x, level, part=(i, j, n)) for i, j in places]
        torch.testing.assert_close(sum(parts) / n**2, likelihood.score(x, level))
        assert not torch.allclose(parts[0], parts[1])
