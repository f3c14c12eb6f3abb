"""Noise whose neighbours are correlated, and its data term: against dense matrices in float64."""

import copy
import json

import deepinv
import pytest
import torch
from deepinv_gmdm import (
    CorrelatedL2,
    CorrelatedNoise,
    GMDMPrior,
    build_physics,
    build_solver,
    physics_noise,
    physics_sigma,
    restoration,
)
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.correlated_noise import LEAST_SHARE
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, data_term
from models import mixture

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture, save_picture

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).double()
SLANTED = torch.tensor([[1.0, 0.5, 0.0], [0.2, 1.0, 0.3]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_of(kernel=SLANTED, sigma=0.3):
    """Correlated, and white besides, so that its inverse is tame."""
    lags = CorrelatedNoise(kernel=kernel, sigma=1.0).autocovariance[0, 0]
    m = len(lags) // 2
    lags = 0.8 * lags
    lags[m, m] += 0.2
    return gm.Noise(autocovariance=sigma**2 * lags)


def circulant(noise, channel, height, width):
    """The covariance of an image's pixels, periodic."""
    r, m = noise.autocovariance[0, min(channel, noise.channels - 1)], noise.reach
    matrix = torch.zeros(height, width, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for a in range(-m, m + 1):
                for b in range(-m, m + 1):
                    matrix[y, x, (y + a) % height, (x + b) % width] += r[m + a, m + b]
    return matrix.reshape(height * width, height * width)


# --- CorrelatedNoise ---


def test_samples_have_the_autocovariance_of_the_kernel():
    noise = CorrelatedNoise(kernel=SLANTED, rng=seeded())
    y = deepinv.physics.Denoising(noise)(torch.zeros(40, 1, 64, 64, dtype=torch.float64))
    lag = {
        (0, 0): SLANTED.square().sum(),
        (0, 1): (SLANTED[:, 1:] * SLANTED[:, :-1]).sum(),
        (1, 0): (SLANTED[1:] * SLANTED[:-1]).sum(),
        (1, 1): (SLANTED[1:, 1:] * SLANTED[:-1, :-1]).sum(),
        (0, 3): 0.0,
    }
    for (a, b), expected in lag.items():
        got = (y[..., a:, b:] * y[..., : 64 - a, : 64 - b]).mean()
        assert float(got) == pytest.approx(float(expected), abs=0.04)
    assert float(noise.sigma) == pytest.approx(float(SLANTED.square().sum().sqrt()))


def test_a_noise_goes_both_ways():
    known = noise_of()
    back = CorrelatedNoise(known).noise
    torch.testing.assert_close(back.autocovariance, known.autocovariance)
    white = CorrelatedNoise(gm.Noise(0.2)).noise
    assert white.white.all()
    assert white.sigma.item() == pytest.approx(0.2)
    same = CorrelatedNoise(autocovariance=known.autocovariance).noise
    assert torch.equal(same.autocovariance, back.autocovariance)
    levels = CorrelatedNoise(kernel=BINOMIAL, sigma=torch.tensor([0.1, 0.4]), rng=seeded())
    got = levels(torch.zeros(2, 1, 200, 200)).std((1, 2, 3))
    torch.testing.assert_close(got, torch.tensor([0.1, 0.4]), rtol=0.05, atol=0)


def test_noise_of_opponent_planes_has_their_variances():
    lags = torch.tensor([0.09, 0.01, 0.04], dtype=torch.float64)[:, None, None]
    noise = gm.Noise(autocovariance=lags, opponent=True)
    model = CorrelatedNoise(noise, rng=seeded())
    y = model(torch.zeros(1, 3, 200, 200, dtype=torch.float64))[0].flatten(1)
    turn = torch.tensor(gm.densities.opponent.OPPONENT, dtype=torch.float64)
    torch.testing.assert_close((turn @ y).var(1), lags.flatten(), rtol=0.03, atol=0)
    assert model.noise.opponent


def test_generators_seeds_and_levels_are_as_deepinvs():
    x, noise = torch.rand(2, 1, 9, 8), CorrelatedNoise(kernel=BINOMIAL, sigma=0.1, rng=seeded())
    first = noise(x)
    assert first.dtype == x.dtype
    assert not torch.equal(noise(x), first)
    noise.reset_rng()
    assert torch.equal(noise(x), first)
    assert torch.equal(noise(x, seed=3), noise(x, seed=3))
    stronger = noise(x, sigma=0.2, seed=3)
    noise.update_parameters(sigma=0.1)
    torch.testing.assert_close(stronger - x, 2 * (noise(x, seed=3) - x))
    physics = deepinv.physics.Denoising(noise)
    physics(x, sigma=torch.tensor(0.3))
    assert physics_sigma(physics) == pytest.approx(0.3)
    assert torch.equal(copy.deepcopy(noise)(x), noise(x))
    product = CorrelatedNoise(kernel=BINOMIAL, sigma=0.3, rng=seeded(0)) * CorrelatedNoise(
        kernel=SLANTED, sigma=0.4, rng=seeded(1)
    )
    assert float(product(torch.zeros(1, 1, 300, 300)).std()) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "one of noise, kernel and autocovariance"),
        ({"noise": gm.Noise(0.1), "kernel": BINOMIAL}, "one of noise"),
        ({"kernel": torch.ones(3)}, r"kernel must be \(k, l\)"),
        ({"kernel": BINOMIAL, "sigma": 0.0}, "must be above 0"),
        ({"noise": gm.Noise(0.1, curve=gm.NoiseCurve([0.0, 1.0], [0.1, 0.2]))}, "not stationary"),
    ],
)
def test_bad_noise_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        CorrelatedNoise(**options)
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\)"):
        CorrelatedNoise(kernel=BINOMIAL)(torch.zeros(4, 4))


# --- CorrelatedL2 ---


def images(*seeds, height=6, width=5, channels=1):
    return (
        torch.rand(2, channels, height, width, dtype=torch.float64, generator=seeded(s))
        for s in seeds
    )


@pytest.mark.parametrize(("height", "width"), [(6, 5), (7, 8)])
def test_fidelity_is_the_gaussians_of_the_dense_covariance(height, width):
    noise = noise_of()
    x, y = images(0, 1, height=height, width=width)
    term = CorrelatedL2(noise)
    covariance = circulant(noise, 0, height, width)
    normal = torch.distributions.MultivariateNormal(y.flatten(1), covariance)
    at_mode = normal.log_prob(y.flatten(1))
    got = term(x, y, deepinv.physics.Denoising())
    torch.testing.assert_close(got, at_mode - normal.log_prob(x.flatten(1)))
    expected = torch.linalg.solve(covariance, (x - y).flatten(1).T).T.reshape(x.shape)
    torch.testing.assert_close(term.grad(x, y, deepinv.physics.Denoising()), expected)
    assert term.level == pytest.approx(0.3)
    least = torch.linalg.eigvalsh(circulant(noise, 0, 12, 12)).min()
    assert 0.45 * float(least) < term.lowest**2 <= float(least)


@pytest.mark.parametrize("gamma", [0.05, torch.tensor([0.02, 0.5]).reshape(2, 1, 1, 1)])
def test_proximal_map_of_denoising_is_the_dense_one(gamma):
    noise = noise_of()
    x, y = images(0, 1)
    covariance, eye = circulant(noise, 0, 6, 5), torch.eye(30, dtype=torch.float64)
    got = CorrelatedL2(noise).prox(x, y, deepinv.physics.Denoising(), gamma=gamma)
    for i in range(2):
        g = float(gamma if isinstance(gamma, float) else gamma[i])
        right = x[i].flatten() + g * torch.linalg.solve(covariance, y[i].flatten())
        expected = torch.linalg.solve(eye + g * torch.linalg.inv(covariance), right)
        torch.testing.assert_close(got[i].flatten(), expected, rtol=0, atol=1e-7)


def test_gradient_and_proximal_map_of_a_blur_are_the_dense_ones():
    noise = noise_of()
    x, y = images(0, 1, height=8, width=7)
    kernel = deepinv.physics.functional.gaussian_blur(psf_size=(3, 3), sigma=(1.0, 1.0)).double()
    physics = deepinv.physics.BlurFFT(img_size=(1, 8, 7), filter=kernel).double()
    units = torch.eye(56, dtype=torch.float64).reshape(56, 1, 8, 7)
    matrix = physics.A(units).flatten(1).T
    inverse = torch.linalg.inv(circulant(noise, 0, 8, 7))
    term = CorrelatedL2(noise, tol=1e-12)
    residual = matrix @ x.flatten(1).T - y.flatten(1).T
    expected = (matrix.T @ inverse @ residual).T.reshape(x.shape)
    torch.testing.assert_close(term.grad(x, y, physics), expected)
    normal = torch.eye(56, dtype=torch.float64) + 0.05 * matrix.T @ inverse @ matrix
    right = x.flatten(1).T + 0.05 * matrix.T @ inverse @ y.flatten(1).T
    expected = torch.linalg.solve(normal, right).T.reshape(x.shape)
    got = term.prox(x, y, physics, gamma=0.05)
    # deepinv adds 1e-8 to the denominators of conjugate gradients
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_opponent_planes_have_their_own_weights():
    """The dense covariance of colours is T' diag T."""
    lags = torch.stack([noise_of(BINOMIAL, s).autocovariance[0, 0] for s in (0.3, 0.1, 0.2)])
    noise = gm.Noise(autocovariance=lags, opponent=True)
    x, y = images(0, 1, channels=3)
    blocks = torch.block_diag(*(circulant(noise, c, 6, 5) for c in range(3)))
    turn = torch.tensor(gm.densities.opponent.OPPONENT, dtype=torch.float64)
    turn = torch.kron(turn, torch.eye(30, dtype=torch.float64))
    covariance = turn.T @ blocks @ turn
    expected = torch.linalg.solve(covariance, (x - y).flatten(1).T).T.reshape(x.shape)
    got = CorrelatedL2(noise).grad(x, y, deepinv.physics.Denoising())
    torch.testing.assert_close(got, expected)


def test_white_noise_has_the_plain_term():
    x, y = images(0, 1)
    got = CorrelatedL2(gm.Noise(0.2))(x, y, deepinv.physics.Denoising())
    torch.testing.assert_close(got, deepinv.optim.L2(0.2)(x, y, deepinv.physics.Denoising()))


def test_weights_are_bounded_where_the_noise_has_no_power():
    """A row of 7 has none at all at some frequencies."""
    noise = CorrelatedNoise(kernel=torch.ones(1, 7), sigma=0.1)
    x, y = images(0, 1, height=14, width=14)
    slope = CorrelatedL2(noise).grad(x, y, deepinv.physics.Denoising())
    assert slope.norm() <= (x - y).norm() / (LEAST_SHARE * 0.01) * 1.001
    assert CorrelatedL2(noise).lowest == pytest.approx((LEAST_SHARE * 0.01) ** 0.5, rel=0.01)
    with pytest.raises(ValueError, match="stationary and of a level above 0"):
        CorrelatedL2(gm.Noise(0.0))


# --- in physics and solvers ---


@pytest.mark.parametrize("kernel", ["binomial", "row", "high", [[1, 2, 1]]])
def test_physics_of_correlated_noise_by_name(photo, kernel):
    noise = NoiseConfig(name="correlated", sigma="25/255", kernel=kernel)
    physics = build_physics(PhysicsConfig(noise=noise), tuple(photo.shape[1:]))
    assert physics_sigma(physics) == pytest.approx(25 / 255)
    assert not physics_noise(physics).white.any()
    assert float((physics(photo) - photo).std()) == pytest.approx(25 / 255, rel=0.15)
    assert isinstance(data_term(physics, photo), CorrelatedL2)


@pytest.mark.parametrize("kernel", ["bimonial", [], [[0, 0]], [[1], [1, 2]], 3])
def test_bad_kernels_are_refused(kernel):
    noise = NoiseConfig(name="correlated", kernel=kernel)
    with pytest.raises(ValueError, match=r"physics\.noise\.kernel"):
        build_physics(PhysicsConfig(noise=noise), (1, 16, 16))


def test_splitting_gains_from_knowing_that_noise_is_correlated(photo):
    noise = CorrelatedNoise(kernel=BINOMIAL, sigma=0.1, rng=seeded())
    physics = deepinv.physics.Denoising(noise)
    y = physics(photo)
    prior = GMDMPrior("gray-small")
    with torch.no_grad():
        aware = build_solver("hqs", prior, sigma=physics_noise(physics))(y, physics)
        blind = build_solver("hqs", prior, sigma=physics_sigma(physics))(y, physics)
    errors = [(x - photo).square().mean() for x in (aware, blind, y)]
    assert errors[0] < errors[1]
    assert errors[0] < 0.7 * errors[2]


@pytest.mark.parametrize("name", ["pgd", "fista"])
def test_steps_are_short_enough_for_the_largest_weight(photo, name):
    """The cost falls from start to end; a step of white noise's size diverges."""
    noise = CorrelatedNoise(kernel=BINOMIAL, sigma=0.1, rng=seeded())
    physics = deepinv.physics.Denoising(noise)
    y, prior = physics(photo), GMDMPrior("gray-small", sigma=0.03)
    term = CorrelatedL2(noise)
    solver = build_solver({"name": name, "max_iter": 8}, prior, sigma=physics_noise(physics))
    start = y + 0.02 * torch.randn(y.shape, generator=seeded(3))
    with torch.no_grad():
        end = solver(y, physics, init=(start, start))
        cost = [float(term(x, y, physics) + prior(x)) for x in (start, end)]
    assert cost[1] < cost[0]


# --- counted photons ---


def counted(x, gain, sigma=0.0, seed=0):
    noise = (
        deepinv.physics.PoissonGaussianNoise(gain, sigma, rng=seeded(seed))
        if sigma
        else deepinv.physics.PoissonNoise(gain, rng=seeded(seed))
    )
    physics = deepinv.physics.Denoising(noise)
    return physics, physics(x)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_counted_photons_are_a_curve(sigma):
    physics, _ = counted(torch.rand(1, 1, 8, 8), 0.04, sigma)
    curve = physics_noise(physics).curve[0]
    x = torch.tensor([0.1, 0.8], dtype=torch.float64)
    expected = (0.04 * x + sigma**2).sqrt()
    torch.testing.assert_close(curve.at(x), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize(("gain", "sigma"), [(0.02, 0.0), (0.1, 0.0), (0.02, 0.05)])
def test_stabilising_beats_a_level_for_each_pixel(command, gain, sigma, tmp_path, monkeypatch):
    """`restore poisson` with and without it."""
    words = [f"physics.noise.gain={gain}", f"physics.noise.sigma={sigma}", "prior.weights=gray"]
    words += ["physics.noise.name=poisson_gaussian"] if sigma else []
    picture = read_picture(shipped("images") / "camera.png")[0][..., :128, 64:192]
    save_picture(picture, tmp_path / "camera.png")
    words += [f"image={tmp_path / 'camera.png'}"]

    def restored(out):
        assert command("restore", "poisson", *words, f"out={tmp_path / out}")[0] == 0
        return json.loads((tmp_path / out / "metrics.json").read_text())["psnr_restored"]

    stable = restored("stable")
    monkeypatch.setattr(restoration, "takes_stabilised", lambda *_: False)
    assert stable > restored("weighted") + 0.1


def test_stabilised_solvers_are_for_denoising_and_hqs():
    noise = physics_noise(counted(torch.rand(1, 1, 8, 8), 0.04)[0])
    with pytest.raises(ValueError, match=r"solver\.name=hqs with a GMDMPrior"):
        build_solver("pgd", GMDMPrior(mixture(4)), sigma=noise)
    solver = build_solver("hqs", GMDMPrior(mixture(4)), sigma=noise)
    mask = deepinv.physics.Inpainting(img_size=(1, 16, 16), mask=0.5)
    with pytest.raises(ValueError, match="stabilised for the physics Denoising; got Inpainting"):
        solver(torch.rand(1, 1, 16, 16), mask)
