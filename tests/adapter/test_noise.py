"""Noise with a map of levels, and its data term."""

import deepinv
import pytest
import torch
from deepinv_gmdm.noise import HeteroscedasticNoise, WeightedL2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blur():
    kernel = deepinv.physics.functional.gaussian_blur(psf_size=(5, 5), sigma=(1.2, 1.2))
    return deepinv.physics.BlurFFT(img_size=(1, 16, 16), filter=kernel)


PHYSICS = {
    "identity": deepinv.physics.Denoising,
    "blur": blur,
    "inpainting": lambda: deepinv.physics.Inpainting(
        img_size=(1, 16, 16), mask=(torch.rand(1, 1, 16, 16, generator=seeded(5)) < 0.6).float()
    ),
}


# --- HeteroscedasticNoise ---


def test_every_pixel_has_its_own_level():
    sigma = torch.tensor([0.05, 0.1, 0.4]).reshape(1, 1, 1, 3)
    physics = deepinv.physics.Denoising(HeteroscedasticNoise(sigma, rng=seeded()))
    noise = physics(torch.zeros(4, 1, 4000, 3))
    # 16,000 numbers know their level to 0.6 %
    torch.testing.assert_close(noise.std((0, 1, 2)), sigma.flatten(), rtol=0.03, atol=0)


def test_levels_of_images_are_not_levels_of_columns():
    noise = HeteroscedasticNoise(torch.tensor([0.01, 1.0]), rng=seeded())
    got = noise(torch.zeros(2, 1, 2, 2000)).std((1, 2, 3))
    torch.testing.assert_close(got, torch.tensor([0.01, 1.0]), rtol=0.1, atol=0)


def test_a_seed_repeats_and_a_new_map_stays():
    x, noise = torch.rand(1, 1, 8, 8), HeteroscedasticNoise(0.1, rng=seeded())
    assert torch.equal(noise(x, seed=3), noise(x, seed=3))
    sigma = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    changed = noise(x, sigma=sigma, seed=3)
    assert torch.equal(noise.sigma, sigma)
    assert torch.equal(changed, noise(x, seed=3))
    assert changed[0, 0, 0, 0] == x[0, 0, 0, 0]


@pytest.mark.parametrize(
    "shape", [(3,), (8, 8), (1, 8, 8), (2, 1, 8, 8), (1, 1, 8, 7), (1, 3, 8, 8)]
)
def test_maps_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"sigma must be a number, .* or a map that fits"):
        HeteroscedasticNoise(torch.ones(shape))(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_levels_are_finite_and_not_negative(value):
    with pytest.raises(ValueError, match="finite and not negative"):
        HeteroscedasticNoise(torch.full((1, 1, 4, 4), value))
    with pytest.raises(ValueError, match="finite and not negative"):
        WeightedL2(value)


def test_a_product_adds_the_noise_of_both():
    product = HeteroscedasticNoise(0.3, seeded(0)) * HeteroscedasticNoise(0.4, seeded(1))
    spread = product(torch.zeros(1, 1, 100, 100)).std()
    torch.testing.assert_close(spread, torch.tensor(0.5), rtol=0.03, atol=0)  # its error: 0.7 %


# --- WeightedL2 ---


def sigma_map():
    return 0.05 + 0.3 * torch.rand(1, 1, 16, 16, generator=seeded(9), dtype=torch.float64)


def test_fidelity_is_the_negative_log_likelihood():
    sigma, x = sigma_map(), torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=seeded())
    y = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=seeded(1))
    got = WeightedL2(sigma)(x, y, deepinv.physics.Denoising())
    normal = torch.distributions.Normal(x, sigma)
    at_y, at_mode = normal.log_prob(y), torch.distributions.Normal(y, sigma).log_prob(y)
    torch.testing.assert_close(got, (at_mode - at_y).flatten(1).sum(1))


@pytest.mark.parametrize("name", PHYSICS)
def test_gradient_is_that_of_the_value(name):
    physics = PHYSICS[name]().double()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=seeded()).requires_grad_()
    y = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=seeded(1))
    fidelity = WeightedL2(sigma_map())
    (slope,) = torch.autograd.grad(fidelity(x, y, physics).sum(), x)
    torch.testing.assert_close(fidelity.grad(x.detach(), y, physics), slope)


@pytest.mark.parametrize("name", PHYSICS)
def test_prox_is_the_minimiser(name):
    physics = PHYSICS[name]().double()
    x, y = (torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=seeded(s)) for s in (0, 1))
    fidelity = WeightedL2(sigma_map(), max_iter=500, tol=1e-12)
    u = fidelity.prox(x, y, physics, gamma=0.3)
    optimality = u - x + 0.3 * fidelity.grad(u, y, physics)
    # weights reach 400, and deepinv's conjugate gradients add 1e-8 to what they divide by
    assert optimality.abs().max() < 1e-5


def test_a_constant_map_is_deepinvs_l2():
    x, y = (torch.rand(2, 1, 16, 16, generator=seeded(s)) for s in (0, 1))
    ours, theirs, physics = WeightedL2(0.2), deepinv.optim.L2(sigma=0.2), blur()
    torch.testing.assert_close(ours(x, y, physics), theirs(x, y, physics))
    torch.testing.assert_close(
        ours.grad(x, y, physics), theirs.grad(x, y, physics), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        ours.prox(x, y, physics, gamma=0.1),
        theirs.prox(x, y, physics, gamma=0.1),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_pixel_without_noise_has_no_weight():
    with pytest.raises(ValueError, match=r"above 0 at every pixel.*raise it to a small level"):
        WeightedL2(torch.tensor([[[[0.0, 0.1]]]]))


def test_weights_matter_in_one_of_deepinvs_solvers(photo):
    """MAP under a quadratic prior: the noisy half is smoothed, the other half kept."""
    sigma = torch.full_like(photo, 0.01)
    sigma[..., 24:] = 0.5
    physics = deepinv.physics.Denoising(HeteroscedasticNoise(sigma, rng=seeded()))
    y = physics(photo)
    solver = deepinv.optim.PGD(
        data_fidelity=WeightedL2(sigma),
        prior=deepinv.optim.Tikhonov(),
        lambda_reg=20.0,
        stepsize=1e-4,
        max_iter=2000,
    )
    x = solver(y, physics)
    expected = y / (1 + 20 * sigma.square())
    torch.testing.assert_close(x, expected, atol=2e-2, rtol=0)
