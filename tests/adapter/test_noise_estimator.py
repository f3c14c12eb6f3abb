"""GMDMNoiseEstimator: deepinv's contract, and deepinv's own test of its estimators."""

import copy

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMNoiseEstimator, available, build_noise_estimator
from deepinv_gmdm.command.config import shipped
from models import mixture

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture


@pytest.fixture(scope="module")
def estimator():
    return GMDMNoiseEstimator()


@pytest.mark.parametrize("mode", ["image", "synthetic"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.01])
def test_gaussian_noise_estimators(estimator, mode, channels, sigma):
    """The assertions of deepinv's test of the same name, and an image's error within 5 % too."""
    rng = torch.Generator().manual_seed(0)
    if mode == "image":
        x = read_picture(shipped("images") / "coffee.png")[0][..., 100:228, 100:228]
        x = x.expand(-1, 3, -1, -1)[:, :channels]
    else:
        x = torch.zeros(1, channels, 128, 128)
    y = x + sigma * torch.empty_like(x).normal_(generator=rng)
    found = estimator(y)
    assert found.shape == (1,)
    assert (found - sigma).abs() / sigma < 5e-2
    x = torch.cat([x, x, x])
    levels = sigma * torch.tensor([1.0, 2.0, 3.0])
    y = x + levels.view(-1, 1, 1, 1) * torch.empty_like(x).normal_(generator=rng)
    together, alone = estimator(y), torch.cat([estimator(image[None]) for image in y])
    torch.testing.assert_close(together, alone, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(together, levels, rtol=5e-2, atol=0)


def test_reads_the_noise_of_deepinvs_physics(estimator, photo):
    noise = deepinv.physics.GaussianNoise(0.1, rng=torch.Generator().manual_seed(0))
    physics = deepinv.physics.Denoising(noise)
    level = estimator.with_error(physics(photo))
    low, high = level.interval()
    assert low < 0.1 < high


def test_per_pixel_gives_a_map_that_denoisers_take(noisy):
    estimator = GMDMNoiseEstimator(per_pixel=True, window=16)
    found = estimator(noisy.expand(2, 3, -1, -1))
    assert found.shape == (2, 1, *noisy.shape[-2:])
    core = gm.estimate_sigma_map(estimator.model, noisy.expand(1, 3, -1, -1), 16)
    assert torch.equal(found[:1], core)
    assert GMDMDenoiser("gray-small")(noisy.expand(2, 3, -1, -1), found).isfinite().all()


def test_is_a_module_and_registered(estimator, fresh_registry, noisy):
    assert isinstance(estimator, torch.nn.Module)
    assert not any(p.requires_grad for p in estimator.parameters())
    assert torch.equal(copy.deepcopy(estimator)(noisy), estimator(noisy))
    own = GMDMNoiseEstimator(mixture(4))
    assert own.model.patch_size == 4
    if "gmdm" not in available("noise_estimators"):
        pytest.skip("installed before the entry point was added: install the checkout again")
    assert isinstance(build_noise_estimator("gmdm"), GMDMNoiseEstimator)
    mapped = build_noise_estimator({"name": "gmdm", "per_pixel": True})
    assert mapped.per_pixel


def test_bad_input_is_refused(estimator, noisy):
    with pytest.raises(FileNotFoundError, match="gray"):
        GMDMNoiseEstimator("bsds-grey")
    with pytest.raises(ValueError, match="window"):
        GMDMNoiseEstimator(per_pixel=True, window=2)(noisy)
    with pytest.raises(ValueError, match="patch"):
        estimator(noisy[..., :5])


def test_denoisers_take_levels_of_pixels_that_were_read_in_their_units():
    """Of one image of a batch, and but one level where the method takes no more."""
    x = 0.5 + 0.1 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0.05, 0.2, 32).expand(32, 32)
    noise = gm.Noise(torch.tensor([0.1, 0.1]), levels=[None, levels])
    model, wide = mixture(4), (0.0, 255.0)
    hqs = GMDMDenoiser(model, "hqs", data_range=wide)
    got = hqs.without(255 * x, noise.scaled(255.0))
    torch.testing.assert_close(got[:1], hqs(255 * x[:1], 25.5), rtol=1e-4, atol=0.01)
    torch.testing.assert_close(
        got[1:], hqs(255 * x[1:], 255 * levels[None, None]), rtol=1e-4, atol=0.01
    )
    average = GMDMDenoiser(model, "average")
    torch.testing.assert_close(average.without(x, noise), average(x, 0.1))
    torch.testing.assert_close(hqs(255 * x, noise.scaled(255.0)), got)
    torch.testing.assert_close(average(x, noise)[1:], average(x[1:], levels[None, None]))


def test_noise_of_one_image_is_that_of_a_whole_batch():
    x = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    lags = torch.tensor([[0.002, 0.004, 0.002], [0.004, 0.01, 0.004], [0.002, 0.004, 0.002]])
    denoiser = GMDMDenoiser("gray-small")
    for noise in (gm.Noise(0.1), gm.Noise(autocovariance=lags.double())):
        both = denoiser.without(x, noise)
        torch.testing.assert_close(both[1:], denoiser.without(x[1:], noise))
