"""GMDMDenoiser: deepinv's contract."""

import copy
import pickle

import deepinv
import numpy as np
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser
from deepinv_gmdm.command.config import shipped
from models import mixture
from omegaconf import OmegaConf

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture


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


def test_a_step_has_a_grid_of_its_own(images):
    """Of averages; half-quadratic splitting moves its grids itself."""
    average = GMDMDenoiser(mixture(3), method="average", stride=2)
    expected = gm.PatchAveraging(average.model, stride=2)(images, 0.1, 1)
    assert torch.equal(average(images, 0.1, step=1), expected)
    assert not torch.allclose(expected, average(images, 0.1))
    splitting = GMDMDenoiser(average.model)
    assert torch.equal(splitting(images, 0.1, step=1), splitting(images, 0.1))


def test_channels_are_independent_and_nothing_is_clamped(images):
    denoiser = GMDMDenoiser(mixture(3), channels="independent")
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


def correlated(size, kernel, seed=0):
    """Noise of level 1 (1, 1, size, size): white, filtered."""
    taps = torch.tensor(kernel)
    taps = torch.outer(taps, taps) / taps.square().sum()
    white = torch.randn(1, 1, size + 2, size + 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.conv2d(white, taps[None, None])


@pytest.fixture(scope="module")
def coffee():
    return read_picture(shipped("images") / "coffee.png")[0][..., 100:228, 100:228]


def test_blind_denoises_correlated_noise(coffee):
    """Of which the white level is next to nothing; in other units, beside white noise, the same."""
    noisy = coffee + 0.1 * correlated(128, [1.0, 2.0, 1.0])
    blind = GMDMDenoiser("gray", sigma="estimate")
    assert not blind.estimator.noise(noisy).white.any()
    white = GMDMDenoiser("gray", sigma="estimate", noise="white")
    error, left, plain = ((x - coffee).square().mean() for x in (noisy, blind(noisy), white(noisy)))
    assert left < 0.6 * error
    assert left < 0.7 * plain
    assert torch.equal(blind(noisy), gm.BlindDenoiser(gm.load("gray"))(noisy))
    wide = GMDMDenoiser("gray", sigma="estimate", data_range=(-100, 100))
    back = (wide(200 * noisy - 100) + 100) / 200
    torch.testing.assert_close(back, blind(noisy), rtol=0, atol=2e-3)
    other = coffee.flip(-1) + 0.1 * torch.randn(coffee.shape)
    both = blind(torch.cat([noisy, other]))
    torch.testing.assert_close(both, torch.cat([blind(noisy), blind(other)]), rtol=0, atol=1e-6)


def test_a_noise_is_taken_at_its_word(coffee):
    """Correlated noise under its covariance, a curve by stabilising; in any units."""
    taps = torch.tensor([1.0, 2.0, 1.0])
    kernel = torch.outer(taps, taps) / 6
    lags = torch.nn.functional.conv2d(kernel[None, None], kernel[None, None], padding=2)[0, 0]
    noise = gm.Noise(autocovariance=0.01 * lags / lags[2, 2])
    noisy = coffee + 0.1 * correlated(128, [1.0, 2.0, 1.0])
    model = gm.load("gray")
    denoiser = GMDMDenoiser("gray")
    assert torch.equal(denoiser(noisy, noise), gm.HalfQuadraticSplitting(model)(noisy, noise))
    wide = GMDMDenoiser("gray", data_range=(-100, 100))
    back = (wide(200 * noisy - 100, noise.scaled(200)) + 100) / 200
    torch.testing.assert_close(back, denoiser(noisy, noise), rtol=0, atol=1e-4)
    x = torch.linspace(0, 1, 9)
    curve = gm.NoiseCurve(x, (0.03 * x + 0.001).sqrt())
    grown = gm.Noise(0.1, curve=curve)
    counted = coffee + curve.at(coffee) * torch.randn(coffee.shape)
    clean = denoiser(counted, grown)
    assert torch.equal(clean, gm.BlindDenoiser(model)(counted, grown))
    moved = gm.NoiseCurve(200 * curve.brightness - 100, 200 * curve.level)
    back = (wide(200 * counted - 100, gm.Noise(20.0, curve=moved)) + 100) / 200
    torch.testing.assert_close(back, clean, rtol=0, atol=1e-3)


def test_a_kind_of_noise_is_for_estimates():
    with pytest.raises(ValueError, match="give it with sigma='estimate'"):
        GMDMDenoiser(mixture(3), noise="poisson")
    with pytest.raises(ValueError, match="did you mean 'poisson'"):
        GMDMDenoiser(mixture(3), sigma="estimate", noise="poison")


def test_averaging_says_that_it_takes_the_level_only(coffee):
    noisy = coffee + 0.1 * correlated(128, [1.0, 2.0, 1.0])
    denoiser = GMDMDenoiser("gray-small", method="average", sigma="estimate", stride=4)
    with pytest.warns(UserWarning, match="method='hqs'"):
        clean = denoiser(noisy)
    level = denoiser.estimator(noisy)
    plain = GMDMDenoiser("gray-small", method="average", stride=4)(noisy, level)
    torch.testing.assert_close(clean, plain, rtol=0, atol=1e-5)


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
