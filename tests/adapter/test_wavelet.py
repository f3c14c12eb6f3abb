"""A WaveletModel behind deepinv's prior and denoiser: the exact density of whole images."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior
from models import mixture, wavelet

SIGMA = 0.1


@pytest.fixture
def model():
    return wavelet(mixture(4))


@pytest.fixture
def images():
    return torch.rand((2, 1, 8, 12), generator=torch.Generator().manual_seed(0)).double()


def test_prior_is_the_log_density_of_images(model, images):
    """Not divided by b²: it is normalised, so that lambda = 1 is the Bayesian weight."""
    prior = GMDMPrior(model, sigma=SIGMA)
    torch.testing.assert_close(prior(images), -model.log_prob(images, SIGMA))
    torch.testing.assert_close(prior.grad(images), -model.score(images, SIGMA))
    torch.testing.assert_close(prior.score(images, 0.3), model.score(images, 0.3))
    levels = torch.tensor([0.1, 0.3], dtype=torch.float64)
    torch.testing.assert_close(prior(images, levels), -model.log_prob(images, levels))
    assert prior.lipschitz() == model.lipschitz(SIGMA)


def test_prox_solves_its_problem(model, images):
    prior = GMDMPrior(model, sigma=0.3, tol=1e-12, max_iter=2000)
    z = prior.prox(images, gamma=0.01)
    residual = 0.01 * prior.grad(z) + z - images
    assert residual.abs().max() < 1e-9


def test_prior_works_in_a_solver(model, images):
    """Proximal gradient descent of ½ ‖x - y‖² / s² + prior lowers its objective."""
    prior = GMDMPrior(model, sigma=0.2)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    fidelity = deepinv.optim.L2(sigma=0.1)
    solver = deepinv.optim.PGD(
        data_fidelity=fidelity, prior=prior, stepsize=0.005, lambda_reg=1.0, max_iter=5
    )
    x = solver(images, physics)
    before, after = (float((fidelity(v, images, physics) + prior(v)).sum()) for v in (images, x))
    assert after < before


def test_denoiser_is_the_posterior_mean(model, images):
    denoiser = GMDMDenoiser(model)
    assert denoiser.method == "posterior"
    torch.testing.assert_close(denoiser(images, SIGMA), model.denoise(images, SIGMA))
    odd = images[..., :7, :9]
    assert denoiser(odd, [0.1, 0.2]).shape == odd.shape
    with pytest.raises(ValueError, match="tiled"):
        _ = denoiser.halo


def test_denoiser_estimates_the_level_with_a_model_of_patches(model, images):
    smooth = 0.5 + 0 * images
    noisy = smooth + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    denoised = GMDMDenoiser(model, sigma="estimate")(noisy)
    assert (denoised - smooth).square().mean() < 0.5 * (noisy - smooth).square().mean()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "hqs"}, "'posterior' for a WaveletModel"),
        ({"stride": 2}, "whole image"),
        ({"boundary": "reflect"}, "periodic"),
    ],
)
def test_refuses_what_is_for_patches(model, options, match):
    with pytest.raises(ValueError, match=match):
        GMDMDenoiser(model, **options)


def test_refuses_other_sizes_and_maps(model, images):
    with pytest.raises(ValueError, match="multiples of 4"):
        GMDMPrior(model)(images[..., :7])
    level = torch.full_like(images, 0.1)
    level[..., 0] = 0.2
    for operator in (GMDMDenoiser(model), GMDMPrior(model)):
        with pytest.raises(ValueError, match="gray"):
            operator(images, level)
    with pytest.raises(ValueError, match="boundary"):
        GMDMPrior(model, boundary="valid")
    with pytest.raises(ValueError, match="'hqs' or 'average' for a PatchMixture"):
        GMDMDenoiser(mixture(4), method="posterior")


def test_the_bundled_model_restores():
    """By name; noise falls by more than 6 dB on a smooth picture."""
    line = torch.linspace(0.2, 0.8, 64)
    clean = (0.5 * (line[:, None] + line)).expand(1, 1, 64, 64)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoised = GMDMDenoiser("gray-wavelet")(noisy, 0.1)
    assert (denoised - clean).square().mean() < 0.25 * (noisy - clean).square().mean()
    prior = GMDMPrior("gray-wavelet")
    assert prior(clean) < prior(noisy)
