"""deepinv's samplers with our prior: a Gaussian posterior, known in closed form."""

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior
from models import mixture

SIGMA, NOISE = 0.1, 0.2  # of the prior, of the measurement
CHAINS, STEPS = 250, 80


@pytest.fixture(scope="module")
def gaussian():
    """A prior of one class without symmetries, a measurement, posterior precision and mean."""
    prior = GMDMPrior(mixture(2, bases=1, classes=1, symmetries="none"), sigma=SIGMA)
    y = torch.rand((1, 1, 4, 5), generator=torch.Generator().manual_seed(0)).double()
    curvature = torch.func.hessian(lambda x: prior(x).sum())(torch.zeros_like(y))
    precision = curvature.reshape(20, 20) + torch.eye(20) / NOISE**2
    mean = torch.linalg.solve(precision, y.flatten() / NOISE**2).reshape(y.shape)
    return prior, y, precision, mean


def samples(make, gaussian, **options):
    """The last states of many chains (CHAINS, 1, 4, 5), which start at the measurement."""
    prior, y, _, _ = gaussian
    sampler = make(
        prior=prior,
        data_fidelity=deepinv.optim.L2(sigma=NOISE),
        sigma=SIGMA,
        clip=None,
        max_iter=STEPS,
        thinning=1,
        save_chain=True,
        **options,
    )
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(NOISE))
    sampler(y.expand(CHAINS, -1, -1, -1), physics, seed=0)
    return sampler.get_chain()[-1]["x"]


def test_ula_reproduces_the_posterior(gaussian):
    """With the variance that steps of length h leave, that of the precision Λ (Id - h Λ / 2)."""
    _, y, precision, mean = gaussian
    h = 0.3 / torch.linalg.eigvalsh(precision)[-1].item()
    spread = torch.linalg.inv(precision @ (torch.eye(20) - h * precision / 2))
    found = samples(deepinv.sampling.ULA, gaussian, step_size=h).flatten(1)
    error = (spread.diagonal() / CHAINS).sqrt()
    assert ((found.mean(0) - mean.flatten()).abs() < 4.5 * error).all()
    assert ((mean - y).abs().flatten() > 20 * error).any()  # the prior matters
    assert (found.T.cov() - spread).norm() < 0.35 * spread.norm()  # its own error: 0.25
    assert found.var(0).mean().item() == pytest.approx(spread.diagonal().mean().item(), rel=0.06)
