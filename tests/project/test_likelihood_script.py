"""benchmarks/likelihood.py and calibration.py: the rivals' densities, and a small run of each."""

import csv
import math

import calibration
import likelihood
import pytest
import pywt
import safetensors.torch
import torch
from lib import rivals
from PIL import Image

import gmdm_prior as gm


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folders(tmp_path):
    """Training and test images, smooth enough to have small contrast somewhere."""
    for name, count in (("train", 4), ("test", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            coarse = torch.rand(1, 1, 9, 9, generator=seeded(i))
            pixels = torch.nn.functional.interpolate(coarse, (64, 56), mode="bicubic")[0, 0]
            pixels = (255 * pixels + 4 * torch.randn(64, 56, generator=seeded(i))).clamp(0, 255)
            Image.fromarray(pixels.byte().numpy()).save(tmp_path / name / f"{i}.png")
    return tmp_path / "train", tmp_path / "test"


@pytest.fixture
def mixture_file(tmp_path):
    """A mixture of two Gaussians of 64 dimensions, as rivals.py stores it."""
    factor = torch.randn(2, 64, 64, generator=seeded()) / 16
    covariances = factor @ factor.mT + 0.01 * torch.eye(64)
    weights = torch.tensor([0.3, 0.7])
    path = tmp_path / "mixture.safetensors"
    safetensors.torch.save_file({"covariances": covariances, "weights": weights}, path)
    return path


def test_gaussian_is_torchs():
    patches = torch.rand(500, 1, 3, 3, dtype=torch.float64, generator=seeded()) ** 2
    x = patches.flatten(1)
    torchs = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    torch.testing.assert_close(rivals.gaussian(patches)(patches), torchs.log_prob(x))


def test_full_mixture_is_torchs(mixture_file):
    stored = safetensors.torch.load_file(mixture_file)
    parts = torch.distributions.MultivariateNormal(
        torch.full((64,), 0.5, dtype=torch.float64), stored["covariances"].double()
    )
    chosen = torch.distributions.Categorical(stored["weights"].double())
    torchs = torch.distributions.MixtureSameFamily(chosen, parts)
    x = torch.rand(20, 1, 8, 8, dtype=torch.float64, generator=seeded())
    expected = torchs.log_prob(x.flatten(1))
    torch.testing.assert_close(rivals.full_mixture(mixture_file)(x), expected)


@pytest.mark.parametrize("family", rivals.FAMILIES)
def test_laplace_wavelet_knows_the_entropy_of_its_own_images(family):
    """Coefficients of scale s have entropy 1 + log 2 s each, and the transform keeps volume."""
    scale, laplace = 0.3, torch.distributions.Laplace(0.0, 0.3)
    torch.manual_seed(0)
    images = []
    for _ in range(4):
        shape = [(8, 8), (8, 8), (16, 16), (32, 32)]
        bands = [laplace.sample(s).double().numpy() for s in shape[:1]]
        bands += [tuple(laplace.sample(s).double().numpy() for _ in range(3)) for s in shape[1:]]
        images.append(torch.tensor(pywt.waverec2(bands, family, mode="periodization"))[None])
    log_density = rivals.laplace_wavelet(images, family)(torch.stack(images))
    entropy = 1 + math.log(2 * scale)
    assert -log_density.mean().item() / 64**2 == pytest.approx(entropy, abs=0.02)


def test_likelihood_runs_and_ranks(folders, mixture_file, tmp_path, monkeypatch, capsys):
    train, test = folders
    monkeypatch.setattr(gm, "bundled", lambda: ["gray-small", "bsds-gray-7x7"])
    monkeypatch.setattr(likelihood, "PATCHES", 800)
    words = [str(test), f"data={train}", f"mixture={mixture_file}", f"out={tmp_path}", "patches=20"]
    assert likelihood.main(words) == 0
    with open(tmp_path / "likelihood.csv", encoding="utf-8") as file:
        lines = {(row["model"], row["patch"]): row for row in csv.DictReader(file)}
    assert len(lines) == 2 + 1 + 2 + 1 + 2  # models, product, Gaussians, mixture, wavelets
    ours = lines["gray-small", "8×8"]
    reference = lines[likelihood.REFERENCE, "8×8"]
    less = float(ours["bits_per_dim"]) - float(reference["bits_per_dim"])
    assert float(ours["less_reference"]) == pytest.approx(less, abs=2e-4)
    assert reference["less_reference"] == ""
    text = (tmp_path / "likelihood.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "| bsds-gray-7x7 | 8,353 | 7×7 |" in text


def test_all_models_of_a_size_see_the_same_patches(folders):
    _, test = folders
    pictures = likelihood.read_pictures(test)
    once, again = (likelihood.windows(pictures[0], 8, 5) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == (5, 1, 8, 8)
    assert likelihood.windows(pictures[0], 0, 5).shape == (1, 1, 64, 56)


def test_mean_variance_is_what_with_mean_takes():
    patches = 0.5 + 0.2 * torch.randn(20_000, 1, 1, 1, generator=seeded()).expand(-1, 1, 8, 8)
    assert likelihood.mean_variance(patches) == pytest.approx(0.04, rel=0.05)


def test_calibration_runs(folders, tmp_path, capsys):
    words = [str(folders[1]), "weights=gray-small", "patches=10", "every=1", "crop=24"]
    assert calibration.main([*words, f"out={tmp_path}"]) == 0
    text = (tmp_path / "calibration.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert text.count("| gray-small |") == len(calibration.LEVELS)


def test_a_missing_mixture_is_named(folders, capsys):
    train, test = folders
    assert likelihood.main([str(test), f"data={train}", "mixture=none.safetensors"]) == 2
    assert "none.safetensors is missing" in capsys.readouterr().err
