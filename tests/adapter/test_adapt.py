"""GMDMDenoiser(adapt=True) and `gmdm denoise … adapt=true`: the core's, offered."""

import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, build_denoiser
from models import mixture, opponents, product, wavelet

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture, save_picture

SIGMA = 25 / 255


def woven(channels=1):
    x = torch.arange(80)
    cloth = torch.sin(1.1 * x + 0.7 * x[:, None]) * torch.sin(0.9 * x - 1.3 * x[:, None])
    share = torch.tensor([1.0, 0.8, 0.5])[:channels, None, None]
    return (0.5 + 0.3 * share * cloth)[None]


def noisy(channels=1):
    g = torch.Generator().manual_seed(0)
    return woven(channels) + SIGMA * torch.randn(woven(channels).shape, generator=g)


def error(image, channels=1):
    return float((image - woven(channels)).square().mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_is_the_cores(channels):
    denoiser = build_denoiser({"name": "gmdm", "adapt": True})
    gray = gm.load("gray")
    core = gm.AdaptiveSplitting(gray if channels == 1 else gm.OpponentModel(gray))
    found = denoiser(noisy(channels), SIGMA)
    assert torch.equal(found, core(noisy(channels), SIGMA))
    assert error(found, channels) < 0.9 * error(GMDMDenoiser()(noisy(channels), SIGMA), channels)


def test_in_other_units():
    wide = GMDMDenoiser(adapt=True, data_range=(0, 255))
    here = GMDMDenoiser(adapt=True)(noisy(), SIGMA)
    torch.testing.assert_close(wide(255 * noisy(), 25) / 255, here, rtol=0, atol=1e-4)


def test_blind():
    blind = GMDMDenoiser(sigma="estimate", noise="white", adapt=True)
    without = GMDMDenoiser(sigma="estimate", noise="white")
    assert error(blind(noisy())) < 0.9 * error(without(noisy()))


def test_noise_that_grows_is_stabilised_and_correlated_noise_warned_of():
    grown = gm.Noise(SIGMA, curve=[gm.NoiseCurve([0.0, 1.0], [0.09, 0.11])])
    plain, adapted = (GMDMDenoiser(adapt=adapt) for adapt in (False, True))
    assert error(adapted(noisy(), grown)) < 0.9 * error(plain(noisy(), grown))
    taps = torch.tensor([0.25, 1.0, 0.25])
    correlated = gm.Noise(autocovariance=SIGMA**2 * torch.outer(taps, taps))
    with pytest.warns(UserWarning, match="white noise of one known level"):
        found = adapted(noisy(), correlated)
    assert torch.equal(found, plain(noisy(), correlated))


def test_the_whole_picture_has_no_tiles():
    with pytest.raises(ValueError, match="adapt=True learns from the whole image"):
        _ = GMDMDenoiser(adapt=True).halo


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": product(4)}, "adapt=True is for mixtures, .*got a PatchModel"),
        ({"weights": opponents(4)}, "adapt=True is for mixtures, .*got a PatchModel"),
        ({"weights": mixture(4).with_mean(0.1)}, "flat mean"),
        ({"weights": wavelet()}, "adapt=True is for method='hqs'; got method='posterior'"),
        ({"method": "average"}, "adapt=True is for method='hqs'; got method='average'"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GMDMDenoiser(adapt=True, **options)


def test_command(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(noisy(), "noisy.png", bits=16)
    assert command("denoise", "noisy.png", "sigma=25/255", "out=plain.png")[0] == 0
    words = ("sigma=25/255", "adapt=true", "out=adapted.png")
    assert command("denoise", "noisy.png", *words)[0] == 0
    plain, adapted = (read_picture(name)[0] for name in ("plain.png", "adapted.png"))
    assert error(adapted) < 0.9 * error(plain)


def test_command_refuses_what_makes_no_sense(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(noisy(), "noisy.png")
    assert "adapt=yes is neither true nor false" in refused("denoise", "noisy.png", "adapt=yes")
    assert "without sigma=map" in refused("denoise", "noisy.png", "adapt=true", "sigma=map")
    message = refused("denoise", "noisy.png", "adapt=true", "weights=bsds-gray-7x7")
    assert "adapt=True is for mixtures" in message
