"""deepinv's samplers with our classes: Gaussian posteriors, known in closed form, and photographs.

Of a Gaussian prior of images (`gaussians.py`) everything that a sampler does is affine. A chain is
compared by its moments, within what so many samples can tell; a probability flow, which draws
nothing, point by point with the flow of the true posterior. What is no posterior by its own
approximation is compared with what that approximation comes to.
"""

import deepinv
import pytest
import torch
from deepinv.sampling import (
    DDRM,
    DPS,
    DiffPIR,
    DPSDataFidelity,
    EDMDiffusionSDE,
    EulerSolver,
    FlowMatching,
    HeunSolver,
    MomentMatchingDataFidelity,
    PiGDMDataFidelity,
    PosteriorDiffusion,
    VarianceExplodingDiffusion,
    VariancePreservingDiffusion,
)
from deepinv_gmdm import AnalyticScore, GMDMDenoiser, GMDMPrior
from deepinv_gmdm.sampling import averaging_denoiser
from gaussians import PIXELS, SIDE, Gaussian, even, gaussian, uneven
from models import mixture, product
from scipy.integrate import solve_ivp

import gmdm_prior as gm

NOISE = 0.2  # of the measurement
CHAINS, STEPS = 250, 80


class Exploding(AnalyticScore, VarianceExplodingDiffusion):
    pass


class Preserving(AnalyticScore, VariancePreservingDiffusion):
    pass


class Flow(AnalyticScore, FlowMatching):
    pass


class EDM(AnalyticScore, EDMDiffusionSDE):
    pass


SDES = {
    "exploding": (Exploding, {"sigma_max": 2.0, "sigma_min": 0.01}),
    "preserving": (Preserving, {}),
    "flow matching": (Flow, {}),
    "edm": (EDM, {"sigma_t": lambda t: 2 * t**3, "variance_exploding": True}),
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture(scope="module")
def posterior():
    """A Gaussian prior of one class, a noisy image, and the Gaussian of the clean one."""
    prior = GMDMPrior(uneven(), sigma=0.0)
    y = 0.5 + 0.3 * draw(1, 1, SIDE, SIDE)
    matrix = torch.eye(PIXELS).double()
    return prior, y, gaussian(prior.model).posterior(matrix, y, NOISE)


def langevin(make, prior, y, **options):
    """The last states of many chains (CHAINS, 1, SIDE, SIDE), which start at the measurement."""
    sampler = make(
        prior=prior,
        data_fidelity=deepinv.optim.L2(sigma=NOISE),
        sigma=0.0,
        clip=None,
        thinning=1,
        save_chain=True,
        **options,
    )
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    sampler(y.expand(CHAINS, -1, -1, -1), physics, seed=0)
    return sampler.get_chain()[-1]["x"]


def check_moments(found, variances, mean=0.0, bias=0.0):
    """Coordinates (N, PIXELS) of that mean and those variances, within 4.5 standard errors."""
    error = (variances / len(found)).sqrt()
    assert ((found.mean(0) - mean).abs() < 4.5 * error).all()
    ratio = found.var(0) / variances
    assert ((ratio - 1).abs() < 4.5 * (2 / len(found)) ** 0.5 + bias).all()
    assert abs(ratio.mean().item() - 1) < 4.5 * (2 / found.numel()) ** 0.5 + bias


def test_ula_reproduces_the_posterior(posterior):
    """With the variance that steps of length h leave, that of the precision Λ (Id - h Λ / 2)."""
    prior, y, truth = posterior
    h = 0.3 * truth.variances.min().item()
    # directions of the prior's own width need 1/h times their variance in steps
    slow = int(3 * truth.variances.max().item() / h)
    found = truth.coordinates(langevin(deepinv.sampling.ULA, prior, y, step_size=h, max_iter=slow))
    check_moments(found, truth.variances / (1 - h / (2 * truth.variances)))
    start = truth.coordinates(y)[0]
    assert (start.abs() > 20 * (truth.variances / CHAINS).sqrt()).any()  # the prior matters


def test_skrock_reproduces_the_posterior(posterior):
    """Steps ten times as long; its variances are biased by less than a tenth (Pereyra et al.)."""
    prior, y, truth = posterior
    h = 3 * truth.variances.min().item()
    sampled = langevin(deepinv.sampling.SKRock, prior, y, step_size=h, inner_iter=8, max_iter=STEPS)
    check_moments(truth.coordinates(sampled), truth.variances, bias=0.1)


def flow_error(sde, steps, truth):
    """Largest distance of a probability flow's end from the true one, in the image's units."""
    times = torch.linspace(0.8, 0.02, steps, dtype=torch.float64)
    sde.solver = HeunSolver(timesteps=times)
    sigmas, scales = sde.sigma_t(times), sde.scale_t(times)
    start = draw(3, 1, SIDE, SIDE, seed=1) * sigmas[0]  # of a state without scale, in [-1, 1]
    end = (2 * sde.sample(start * scales[0]) - 1) / scales[-1]
    expected = truth.flow((start + 1) / 2, sigmas[0] / 2, sigmas[-1] / 2)
    return ((end + 1) / 2 - expected).abs().max().item()


@pytest.mark.parametrize("name", SDES)
def test_probability_flow_is_that_of_the_gaussian(name):
    """Heun's error falls as the square of the step, to what so many steps leave."""
    make, options = SDES[name]
    sde = make(prior=GMDMPrior(uneven()), alpha=0.0, **options)
    truth = gaussian(sde.prior.model)
    errors = [flow_error(sde, steps, truth) for steps in (40, 80)]
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 3.5
    plain = make.__bases__[1](denoiser=GMDMDenoiser(uneven()), alpha=0.0, **options)
    assert flow_error(plain, 80, truth) == pytest.approx(errors[1], rel=0.05)


def test_euler_samples_have_the_law_of_its_steps():
    """Each step is affine, so mean and variance of the last state follow by recursion."""
    model = uneven()
    truth = gaussian(model)
    times = torch.linspace(1, 0, 150, dtype=torch.float64)
    options = {"sigma_max": 1.0, "sigma_min": 0.02}
    sde = Exploding(prior=GMDMPrior(model), alpha=1.0, solver=EulerSolver(times), **options)
    spread = (truth.variances + sde.sigma_t(1) ** 2 / 4).sqrt()
    start = 2 * truth.images(spread * draw(1000, PIXELS)) - 1
    found = truth.coordinates(sde.sample(start, seed=3))
    levels, rates = sde.sigma_t(times) / 2, sde.sigma_prime_t(times) / 2
    variance = truth.variances + levels[0] ** 2
    for sigma, rate, step in zip(levels, rates, -times.diff(), strict=False):
        push = 2 * sigma * rate * step
        variance = (1 - push / (truth.variances + sigma**2)) ** 2 * variance + push
    check_moments(found, variance)
    assert ((variance / (truth.variances + levels[-1] ** 2) - 1).abs() < 0.1).all()


def inpainting():
    mask = (torch.arange(PIXELS) % 3 > 0).double().reshape(1, SIDE, SIDE)
    noise = deepinv.physics.GaussianNoise(NOISE)
    physics = deepinv.physics.Inpainting((1, SIDE, SIDE), mask=mask.float(), noise_model=noise)
    return physics, mask.flatten().diag()


def conditional_flow(model, fidelity, physics, y, start, analytic=True, top=1.0):
    """The end of a sampler's probability flow from level `top` to 1e-3, in the image's units."""
    options = {
        "alpha": 0.0,
        "sigma_t": lambda t: t,
        "variance_exploding": True,
        "minus_one_one": False,
    }
    levels = torch.linspace(top**0.25, 1e-3**0.25, 50, dtype=torch.float64) ** 4
    sde = (
        EDM(prior=GMDMPrior(model), **options)
        if analytic
        else EDMDiffusionSDE(denoiser=GMDMDenoiser(model), **options)
    )
    sampler = PosteriorDiffusion(
        data_fidelity=fidelity,
        denoiser=GMDMDenoiser(model),
        sde=sde,
        solver=HeunSolver(timesteps=levels),
        minus_one_one=False,
    )
    return sampler(y, physics, x_init=start, denoise_output=False)


def test_moment_matching_is_exact_for_gaussians():
    """Its flow ends where that of the diffused posterior does, each image at its own place."""
    physics, matrix = inpainting()
    truth = gaussian(uneven())
    y = (0.5 + 0.3 * draw(1, 1, SIDE, SIDE)) * physics.mask
    after = truth.posterior(matrix, y, NOISE)
    start = 0.5 + draw(4, 1, SIDE, SIDE, seed=1)
    fidelity = MomentMatchingDataFidelity(cg_max_iter=20, cg_tol=1e-7)
    y = y.expand(4, -1, -1, -1)
    end = conditional_flow(uneven(), fidelity, physics, y, start, analytic=False)
    assert (end - after.flow(start, 1.0, 1e-3)).abs().max() < 2e-3
    assert (end - truth.flow(start, 1.0, 1e-3)).abs().max() > 0.1  # the measurement matters


@pytest.mark.parametrize(("variance", "exact"), [(1.0, True), (0.05, False)])
def test_pigdm_is_exact_for_unit_variance_only(variance, exact):
    """Its r² = sigma² / (1 + sigma²) is the posterior variance of N(., Id), and of nothing else."""
    physics, matrix = inpainting()
    y = (0.5 + 0.3 * draw(1, 1, SIDE, SIDE)) * physics.mask
    truth = gaussian(even(variance)).posterior(matrix, y, NOISE)
    start = 0.5 + draw(4, 1, SIDE, SIDE, seed=1)
    fidelity = PiGDMDataFidelity(cg_max_iter=20, cg_tol=1e-7)
    end = conditional_flow(even(variance), fidelity, physics, y.expand(4, -1, -1, -1), start)
    error = (end - truth.flow(start, 1.0, 1e-3)).abs().max()
    assert (error < 2e-3) == exact


def test_dps_is_the_flow_of_its_approximation():
    """For it the posterior at each level is a point: along an axis of the prior, of variance v,

    du/dsigma = sigma (u - m) / (v + sigma²) + sigma r (m + r (u - m) - y) / (noise² + sigma²)

    with r = v / (v + sigma²). That is no posterior: its mean is right, its spread is not.
    """
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    truth = gaussian(uneven())
    y = 0.5 + 0.3 * draw(1, 1, SIDE, SIDE)
    start = 0.5 + draw(2, 1, SIDE, SIDE, seed=1)
    fidelity = DPSDataFidelity(guidance="annealed")
    end = conditional_flow(uneven(), fidelity, physics, y.expand(2, -1, -1, -1), start)
    data, v = truth.coordinates(y).numpy(), truth.variances.numpy()

    def slope(sigma, u):
        u = u.reshape(2, PIXELS)
        r = v / (v + sigma**2)
        pull = r * (r * u - data) / (NOISE**2 + sigma**2)
        return (sigma * (u / (v + sigma**2) + pull)).flatten()

    first = truth.coordinates(start).numpy().flatten()
    solved = solve_ivp(slope, (1.0, 1e-3), first, rtol=1e-9, atol=1e-11)
    expected = truth.images(torch.from_numpy(solved.y[:, -1].reshape(2, PIXELS)))
    assert (end - expected).abs().max() < 2e-3
    after: Gaussian = truth.posterior(torch.eye(PIXELS).double(), y, NOISE)
    assert (end - after.flow(start, 1.0, 1e-3)).abs().max() > 0.02


def test_restores_photographs_where_the_samplers_are_meant_to(photo):
    """Half of the pixels of a photograph, 9.3 dB as measured: at least 7 dB better.

    DPS with its few tuned settings is left out: its default weight is for a thousand steps.
    """
    photo = photo[..., :32, :32]
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand((1, 32, 32), generator=g) > 0.5).float()
    noise = deepinv.physics.GaussianNoise(0.02, rng=g)
    physics = deepinv.physics.Inpainting((1, 32, 32), mask=mask, noise_model=noise)
    y = physics(photo)
    denoiser = GMDMDenoiser("gray-small", method="average", stride=4, boundary="circular")
    sde = VarianceExplodingDiffusion(sigma_max=2.0, sigma_min=0.01, alpha=1.0)
    times = torch.linspace(1, 0.001, 80, dtype=torch.float64)
    samplers = {name: RESTORERS[name](denoiser) for name in ("ddrm", "diffpir")}
    for fidelity in (PiGDMDataFidelity(), MomentMatchingDataFidelity()):
        samplers[type(fidelity).__name__] = PosteriorDiffusion(
            fidelity, denoiser, sde, EulerSolver(times, rng=torch.Generator())
        )
    start = (y - photo).square().mean()
    errors = {n: (s(y, physics, seed=1) - photo).square().mean() for n, s in samplers.items()}
    assert all(error < start / 5 for error in errors.values()), errors


LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)


@pytest.mark.parametrize("weights", ["gray-small", "bsds-gray-7x7", "gray-wavelet"])
@pytest.mark.parametrize("sigma", LEVELS)
def test_analytic_score_keeps_its_digits_in_float32(weights, sigma, photo):
    """Against float64; through the denoiser a rounding of 6e-8 is divided by sigma²."""
    model, precise = gm.load(weights), gm.load(weights, dtype=torch.float64)
    x = photo[..., :32, :32] + sigma * draw(1, 1, 32, 32).float()
    exact = GMDMPrior(precise).score(x.double(), sigma)

    def error(score):
        return ((score - exact).norm() / exact.norm()).item()

    denoiser = averaging_denoiser(GMDMPrior(model))
    assert error((denoiser(x, sigma) - x) / sigma**2) > 1e-9 / sigma**2 / exact.abs().max()
    assert error(GMDMPrior(model).score(x, sigma)) < 1e-4
    sde = EDM(prior=GMDMPrior(model), sigma_t=lambda t: t, variance_exploding=True)
    found = sde.score(2 * x.double() - 1, 2 * sigma)  # a state in [-1, 1]
    assert error(2 * found) < 1e-4


def test_analytic_score_is_tweedies():
    """In float64 the prior's score, the denoiser's difference and deepinv's `ScorePrior` agree."""
    for model in (mixture(2), product(2), uneven()):
        prior = GMDMPrior(model)
        x = draw(2, 1, 6 - 2 * isinstance(model, gm.WaveletModel), 4)
        score_prior = deepinv.optim.ScorePrior(averaging_denoiser(prior))
        # 1e-5: the prior of a product reads tables
        torch.testing.assert_close(prior.grad(x, 0.2), score_prior.grad(x, 0.2), rtol=0, atol=1e-3)


def test_analytic_score_refuses_what_has_none():
    with pytest.raises(TypeError, match="prior must be a GMDMPrior; got TVPrior"):
        Exploding(prior=deepinv.optim.TVPrior())
    with pytest.raises(TypeError, match="denoiser must be left out"):
        Exploding(prior=GMDMPrior(mixture(2)), denoiser=GMDMDenoiser(mixture(2)))
    with pytest.raises(ValueError, match="boundary='circular'; got 'valid'"):
        Exploding(prior=GMDMPrior(mixture(2), boundary="valid"))


class ClosedForm(deepinv.models.Denoiser):
    """The posterior mean under N(1/2, variance) in each pixel."""

    def __init__(self, variance):
        super().__init__()
        self.variance = variance

    def forward(self, x, sigma, **_):
        return 0.5 + self.variance / (self.variance + sigma**2) * (x - 0.5)


RESTORERS = {
    "ddrm": lambda denoiser: DDRM(denoiser, sigmas=torch.linspace(1, 0, 40).numpy()),
    "diffpir": lambda denoiser: DiffPIR(denoiser, deepinv.optim.L2(), sigma=NOISE, max_iter=40),
    "dps": lambda denoiser: DPS(denoiser, num_steps=60, rng=torch.Generator()),
}


@pytest.mark.parametrize("name", RESTORERS)
def test_samples_are_those_of_the_closed_form(name):
    """The same seed, so the same samples, with the denoiser written down and with the model."""
    physics, _ = inpainting()
    y = ((0.5 + 0.2 * draw(8, 1, SIDE, SIDE)) * physics.mask).float()
    found, expected = (
        RESTORERS[name](denoiser)(y, physics, seed=1)
        for denoiser in (GMDMDenoiser(even(0.04)), ClosedForm(0.04))
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_strict_channels_stay_strict_in_the_denoiser_of_a_score():
    denoiser = averaging_denoiser(GMDMPrior(mixture(2), channels="strict"))
    with pytest.raises(ValueError, match="channels='strict'; got 3"):
        denoiser(torch.zeros(1, 3, 8, 8), 0.1)
