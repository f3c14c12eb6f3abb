"""Splitting with a mixture that is adapted to each picture: as far as that can be trusted."""

import copy
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from models import mixture, product
from torch.nn.functional import conv2d

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture
from gmdm_prior.images.blind import NoiseDenoiser
from gmdm_prior.images.threads import Workers

MODULE = sys.modules["gmdm_prior.images.adaptive"]
PICTURES = Path(__file__).resolve().parents[2] / "examples" / "images"
SIGMA = 25 / 255
NARROW = torch.tensor([0.25, 1.0, 0.25])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def with_noise(clean, sigma=SIGMA, seed=0):
    return clean + sigma * torch.randn(clean.shape, generator=seeded(seed), dtype=clean.dtype)


def woven(side=96):
    """A texture that repeats itself, (1, 1, side, side)."""
    x = torch.arange(side)
    cloth = torch.sin(1.1 * x + 0.7 * x[:, None]) * torch.sin(0.9 * x - 1.3 * x[:, None])
    return (0.5 + 0.3 * cloth)[None, None]


def psnr(image, clean):
    return -10 * float((image - clean).square().mean().log10())


@pytest.fixture(scope="module")
def gray():
    return gm.load("gray")


@pytest.fixture(scope="module")
def both(gray):
    return gm.HalfQuadraticSplitting(gray), gm.AdaptiveSplitting(gray)


# --- what it is worth -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [10 / 255, 25 / 255, 60 / 255])
@pytest.mark.parametrize("name", ["camera", "cat", "coffee", "mr"])
def test_never_loses(both, name, sigma):
    clean = read_picture(PICTURES / f"{name}.png")[0][..., 40:168, 30:158]
    noisy = with_noise(clean, sigma)
    before, after = (psnr(denoise(noisy, sigma), clean) for denoise in both)
    assert after > before - 0.02


@pytest.mark.parametrize("sigma", [10 / 255, 25 / 255, 60 / 255])
def test_gains_on_texture(both, sigma):
    noisy = with_noise(woven(), sigma)
    before, after = (psnr(denoise(noisy, sigma), woven()) for denoise in both)
    assert after > before + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_trust_is_what_the_truth_says(gray, monkeypatch, seed):
    """Read off the picture, within three deviations: here, next to no doubt."""
    monkeypatch.setattr(MODULE, "DOUBT", 0.0)
    monkeypatch.setattr(MODULE, "CAUTION", 0.0)
    monkeypatch.setattr(MODULE, "MOST", 10.0)
    seen, clean = (
        [],
        torch.cat([woven(), read_picture(PICTURES / "camera.png")[0][..., :96, :96]], 3),
    )
    averages = MODULE._averages

    def remember(*arguments):
        seen.append(averages(*arguments))
        return seen[-1]

    monkeypatch.setattr(MODULE, "_averages", remember)
    noisy = with_noise(clean, seed=seed)
    _, trust = MODULE.learnt(gray, noisy[0], SIGMA**2, gm.AdaptiveSplitting(gray).plain._evaluator)
    ((given, d),) = seen
    height, width = given.shape[1:]
    truth = ((clean[0, :, :height, :width] - given) * d).sum() / d.square().sum()
    deviation = 5**0.5 * SIGMA / d.square().sum().sqrt()
    assert abs(trust - truth) < 3 * deviation
    assert deviation < 0.1
    assert truth > 0.5


def test_what_is_learnt_from_has_noise_of_its_own(gray, monkeypatch):
    """More than the picture's, and beside it: σ² a² more, of which the picture knows nothing."""
    seen, own_classes = [], MODULE.own_classes

    def remember(model, images, noise, evaluator):
        seen.append((images, noise))
        return own_classes(model, images, noise, evaluator)

    monkeypatch.setattr(MODULE, "own_classes", remember)
    noisy = with_noise(woven())
    MODULE.learnt(gray, noisy[0], SIGMA**2, gm.AdaptiveSplitting(gray).plain._evaluator)
    ((images, noise),) = seen
    added, held = images - noisy, noisy - woven()
    assert noise == pytest.approx(1.25 * SIGMA**2)
    assert float(added.std()) == pytest.approx(SIGMA / 2, rel=0.03)  # of 9,216 pixels: 0.7 %
    assert abs(float((added * held).mean())) < 0.05 * SIGMA**2 / 2


def test_noise_alone_is_not_learnt(both):
    noisy = with_noise(torch.full((1, 1, 64, 64), 0.5))
    flat, adapted = (psnr(denoise(noisy, SIGMA), torch.tensor(0.5)) for denoise in both)
    assert adapted > flat - 0.02


# --- what it is -----------------------------------------------------------------------------------


def test_fully_trusted_it_is_the_splitting_of_the_joined_mixture(monkeypatch):
    model, noisy = mixture(4), with_noise(woven(40).double())
    learnt, found = MODULE.learnt, []

    def trusting(*arguments):
        found.append(learnt(*arguments)[0])
        return found[-1], 1.0

    monkeypatch.setattr(MODULE, "learnt", trusting)
    adapted = gm.AdaptiveSplitting(model, stride=2, boundary="circular")(noisy, SIGMA)
    joined = found[0].joined(model)
    expected = gm.HalfQuadraticSplitting(joined, stride=2, boundary="circular")(noisy, SIGMA)
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-12)


def test_images_and_planes_have_classes_of_their_own(both, gray):
    adaptive = both[1]
    images = torch.cat([with_noise(woven(64)), with_noise(woven(64).mT, seed=1)])
    together = adaptive(images, SIGMA)
    alone = torch.cat([adaptive(image[None], SIGMA) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    planes = adaptive(images.transpose(0, 1), SIGMA).transpose(0, 1)
    torch.testing.assert_close(planes, alone, rtol=0, atol=1e-6)
    cloth = torch.tensor([1.0, 0.8, 0.5])[:, None, None] * woven(96)
    opponent = gm.OpponentModel(gray)
    noisy = with_noise(cloth)
    before = psnr(gm.HalfQuadraticSplitting(opponent)(noisy, SIGMA), cloth)
    assert psnr(gm.AdaptiveSplitting(opponent)(noisy, SIGMA), cloth) > before + 0.5


def test_copies_threads_and_repetitions_agree(both):
    adaptive, noisy = both[1], with_noise(woven(64))
    expected = adaptive(noisy, SIGMA)
    assert torch.equal(adaptive(noisy, SIGMA), expected)
    assert torch.equal(copy.deepcopy(adaptive)(noisy, SIGMA), expected)
    assert torch.equal(pickle.loads(pickle.dumps(adaptive))(noisy, SIGMA), expected)
    with Workers(wanted=False):
        assert torch.equal(adaptive(noisy, SIGMA), expected)


@pytest.mark.usefixtures("kernels")
def test_with_and_without_kernels():
    gray, noisy = gm.load("gray-small"), with_noise(woven(64))
    before, after = (
        psnr(make(gray)(noisy, SIGMA), woven(64))
        for make in (gm.HalfQuadraticSplitting, gm.AdaptiveSplitting)
    )
    assert after > before + 0.3


def test_gradients_pass(gray):
    noisy = with_noise(woven(48)).requires_grad_()
    adaptive = gm.AdaptiveSplitting(gray)
    (slope,) = torch.autograd.grad(adaptive(noisy, SIGMA).square().sum(), noisy)
    assert bool(torch.isfinite(slope).all())
    assert float(slope.abs().max()) > 0


# --- where there is nothing to adapt --------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 31])
def test_small_pictures_are_split_as_ever(both, side):
    noisy = with_noise(woven(side))
    assert torch.equal(both[1](noisy, SIGMA), both[0](noisy, SIGMA))


def test_no_noise_changes_nothing(both):
    assert torch.equal(both[1](woven(), 0.0), woven())


@pytest.mark.parametrize(
    "noise",
    [
        torch.full((1, 1, 48, 48), SIGMA).index_fill(3, torch.arange(9), 0.05),
        gm.Noise(autocovariance=0.01 * torch.outer(NARROW, NARROW)),
    ],
    ids=["map", "correlated"],
)
def test_other_noise_is_taken_as_ever_with_a_warning(both, noise):
    noisy = with_noise(woven(48))
    with pytest.warns(UserWarning, match="white noise of one known level"):
        found = both[1](noisy, noise)
    assert torch.equal(found, both[0](noisy, noise))


def test_a_product_cannot_be_adapted():
    for model in (product(4), mixture(4).with_mean(0.1)):
        with pytest.raises(TypeError, match="PatchMixture with a flat mean"):
            gm.AdaptiveSplitting(model)


# --- blind ----------------------------------------------------------------------------------------


def test_noise_that_grows_with_brightness_is_stabilised_first(gray):
    clean = woven()
    curve = gm.NoiseCurve(torch.linspace(0, 1, 9), torch.linspace(0.03, 0.12, 9))
    noise = gm.Noise(0.08, curve=[curve])
    noisy = clean + (0.03 + 0.09 * clean) * torch.randn(clean.shape, generator=seeded())
    before, after = (
        psnr(NoiseDenoiser(gray, adapt=adapt)(noisy, noise), clean) for adapt in (False, True)
    )
    assert after > before + 0.3


def test_correlated_noise_is_not_learnt(gray):
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 6
    noisy = woven() + SIGMA * conv2d(
        torch.randn(1, 1, 98, 98, generator=seeded()), kernel[None, None]
    )
    noise = gm.estimate_noise(noisy, kind="correlated")
    with pytest.warns(UserWarning, match="denoised without"):
        found = NoiseDenoiser(gray, adapt=True)(noisy, noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(found, NoiseDenoiser(gray)(noisy, noise))


def test_blind(gray):
    noisy = with_noise(woven())
    before, after = (
        psnr(gm.BlindDenoiser(gray, kind="white", adapt=adapt)(noisy), woven())
        for adapt in (False, True)
    )
    assert after > before + 0.5
