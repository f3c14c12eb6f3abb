"""GMDMDenoiser: deepinv's contract."""

import copy
import pickle

import deepinv
import numpy as np
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser
from models import mixture
from omegaconf import OmegaConf

import gmdm_prior as gm


@pytest.fixture
def images():
    return torch.rand((2, 1, 9, 11), generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("method", ["hqs", "average"])
def test_is_the_cores_denoiser(images, method):
    model = mixture(3)
    core = {"hqs": gm.HalfQuadraticSplitting, "average": gm.PatchAveraging}[method](model)
    denoiser = GMDMDenoiser(model, method=method)
    assert isinstance(denoiser, deepinv.models.Denoiser)
    assert torch.equal(denoiser(images, 0.1), core(images, 0.1))
    assert denoiser.halo == core.halo


@pytest.mark.parametrize(
    "level",
    [
        0.1,
        np.float32(0.1),
        np.array([0.1, 0.1]),
        torch.tensor(0.1),
        torch.tensor([0.1]),
        torch.tensor([0.1, 0.1]),
        torch.full((2, 1, 1, 1), 0.1),
        [0.1, 0.1],
        OmegaConf.create([0.1, 0.1]),
        torch.full((2, 1, 9, 11), 0.1),
        torch.full((1, 1, 9, 11), 0.1),
    ],
    ids=[
        "float",
        "np",
        "np (B,)",
        "0-d",
        "(1,)",
        "(B,)",
        "(B,1,1,1)",
        "list",
        "omega",
        "map",
        "map1",
    ],
)
def test_forms_of_sigma_agree(images, level):
    denoiser = GMDMDenoiser(mixture(3))
    # float32 levels differ from 0.1 by 1.5e-9
    torch.testing.assert_close(denoiser(images, level), denoiser(images, 0.1), atol=1e-7, rtol=0)
    torch.testing.assert_close(
        denoiser(images, sigma=level, unknown=1), denoiser(images, 0.1), atol=1e-7, rtol=0
    )


def test_channels_are_independent_and_nothing_is_clamped(images):
    denoiser = GMDMDenoiser(mixture(3))
    colour = torch.cat([images, 2 * images, -images], 1)
    together = denoiser(colour, 0.05)
    for c in range(3):
        alone = denoiser(colour[:, c : c + 1], 0.05)
        torch.testing.assert_close(together[:, c : c + 1], alone, atol=1e-12, rtol=0)
    assert together.min() < 0
    assert together.max() > 1


def test_denoises_a_photograph(photo, noisy):
    error = (noisy - photo).square().mean()
    restored = GMDMDenoiser("gray-small")(noisy, 0.1)
    assert (restored - photo).square().mean() < error / 3


def test_plug_and_play(noisy, photo):
    prior = deepinv.optim.PnP(GMDMDenoiser("gray-small"))
    assert (prior.prox(noisy, 0.1) - photo).square().mean() < (noisy - photo).square().mean() / 3


def test_estimates_the_level_where_none_is_given(noisy):
    denoiser = GMDMDenoiser("gray-small", sigma="estimate")
    level = gm.estimate_sigma(gm.load("gray-likelihood"), noisy)
    assert torch.equal(denoiser(noisy), GMDMDenoiser("gray-small")(noisy, level))
    assert torch.equal(denoiser(noisy, 0.1), GMDMDenoiser("gray-small")(noisy, 0.1))
    own = mixture(4)
    assert GMDMDenoiser(own, sigma="estimate").estimator.model is own


def test_copies_and_pickles(images):
    denoiser = GMDMDenoiser(mixture(3))
    expected = denoiser(images, 0.1)
    for other in (copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert torch.equal(other(images, 0.1), expected)


def test_bad_input_is_refused(images):
    denoiser = GMDMDenoiser(mixture(3))
    for level in (None, -1.0, float("nan"), [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="sigma"):
            denoiser(images, level)
    with pytest.raises(ValueError, match="B, C, H, W"):
        denoiser(images[None], 0.1)
    with pytest.raises(ValueError, match="patch"):
        denoiser(images[..., :2], 0.1)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="did you mean 'average'"):
        GMDMDenoiser(mixture(3), method="averages")
    with pytest.raises(ValueError, match="'estimate' or None"):
        GMDMDenoiser(mixture(3), sigma=0.1)
    with pytest.raises(ValueError, match="boundary"):
        GMDMDenoiser(mixture(3), boundary="mirror")
    with pytest.raises(FileNotFoundError, match="gray"):
        GMDMDenoiser("bsds-grey")
