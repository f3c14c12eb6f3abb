"""Training a WaveletModel: likelihood rises, noise is taken out, runs resume, misuse is refused."""

import dataclasses

import pytest
import torch
from models import mixture, wavelet

import gmdm_prior as gm
from gmdm_prior import train
from gmdm_prior.training import FitSettings, fit
from gmdm_prior.training.checkpoint import Checkpoints
from gmdm_prior.training.fit import image_pool
from gmdm_prior.training.likelihood.wavelet import held_out_tiles, largest_part
from gmdm_prior.training.methods import resolved

SMALL = {
    "model": "wavelet",
    "wavelet": "db2",
    "patch_size": 4,
    "bases": 1,
    "classes": 3,
    "components": 6,
    "steps": 3,
    "symmetries": "none",  # flips of an image are none of db2's
}


def truth():
    """Trees of three classes of very different contrast."""
    trees = mixture(4, bases=1, classes=3, symmetries="none")
    variances = trees.variances * torch.tensor([[0.01], [0.1], [1.0]], dtype=torch.float64)
    trees = gm.PatchMixture(trees.filters, variances, trees.weights, trees.basis, "none")
    return wavelet(trees, "db2")


def images_of(model, count=8, sigma=0.0):
    """Of sides that the model takes, so that tiles are cut where the model has them."""
    g = torch.Generator().manual_seed(3)
    return list(model.sample((count,), sigma, g, size=(40, 64)).float())


def last(records):
    *_, record = records
    return record


def test_learns_the_density_of_its_images():
    """From samples of a model: as likely as the truth, to 0.01 nats per pixel, on new samples."""
    model = truth()
    settings = FitSettings(**SMALL | {"steps": 10})
    record = last(fit(images_of(model), images_of(model, 2), settings))
    assert isinstance(record.model, gm.WaveletModel)
    assert record.model.wavelet == "db2"
    new = model.sample((4,), 0.05, torch.Generator().manual_seed(9), size=(40, 40))
    gap = (model.log_prob(new, 0.05) - record.model.double().log_prob(new, 0.05)) / 1600
    assert gap.abs().mean() < 0.01
    assert record.model.experts.mean_part.variance == pytest.approx(0.2, rel=0.05)


def test_learns_from_noisy_images_of_a_known_level():
    """The learnt density is of clean images: at the noise level it explains the noisy ones."""
    model, sigma = gm.WaveletModel(truth().experts.with_mean(1e-3), "db2"), 0.1
    settings = FitSettings(**SMALL | {"steps": 10, "noise": sigma})
    record = last(fit(images_of(model, 8, sigma), images_of(model, 2, sigma), settings))
    assert record.psnr is None
    new = model.sample((4,), sigma, torch.Generator().manual_seed(9), size=(40, 40))
    gap = (model.log_prob(new, sigma) - record.model.double().log_prob(new, sigma)) / 1600
    assert gap.abs().mean() < 0.01
    naive = record.model.double().log_prob(new, 2**0.5 * sigma) / 1600
    assert (record.model.double().log_prob(new, sigma) / 1600 - naive).mean() > 0.02
    assert record.model.experts.mean_part.variance == pytest.approx(1e-3, rel=0.15)


def test_measures_on_held_out_images():
    model = truth()
    settings = resolved(FitSettings(**SMALL))
    held_out = held_out_tiles(image_pool(images_of(model, 3), settings, False), settings)
    assert [tuple(image.shape) for image in held_out.crops] == [(1, 40, 64)] * 3
    assert held_out.patches.mean((-2, -1)).abs().max() < 1e-6
    figures = held_out.figures(model)
    assert set(figures) == {"bits_per_pixel", "psnr_15", "psnr_25", "psnr_50"}
    denoised = model.denoise(held_out.crops[0] + 0.1 * held_out.noise[0], 0.1)
    expected = -10 * (denoised.clamp(0, 1) - held_out.crops[0]).square().mean().log10()
    alone = dataclasses.replace(held_out, crops=held_out.crops[:1], noise=held_out.noise[:1])
    assert alone.psnr(model, 0.1) == pytest.approx(float(expected), abs=1e-4)


def test_cuts_are_the_largest_that_fit():
    image = torch.arange(7 * 10).reshape(1, 7, 10).float()
    g = torch.Generator().manual_seed(0)
    cuts = [largest_part(image, 4, "none", g) for _ in range(20)]
    assert {tuple(cut.shape) for cut in cuts} == {(1, 4, 8)}
    assert len({float(cut[0, 0, 0]) for cut in cuts}) > 5
    assert (1, 8, 4) in {tuple(largest_part(image, 4, "d4", g).shape) for _ in range(20)}


def test_resumes_to_the_same_bits(tmp_path):
    images, settings = images_of(truth()), FitSettings(**SMALL)
    whole = last(fit(images, images[:2], settings)).model
    checkpoints = Checkpoints(tmp_path)
    for record in fit(images, images[:2], settings, checkpoints=checkpoints):
        if record.step == 13:
            break
    resumed = last(fit(images, images[:2], settings, resume=checkpoints.latest())).model
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.experts.mean_part.variance == resumed.experts.mean_part.variance


def test_command_line(tmp_path, capsys):
    from PIL import Image

    for i, image in enumerate(images_of(truth(), 4)):
        pixels = (image[0].clamp(0, 1) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    out = tmp_path / "run"
    words = [f"{key}={value}" for key, value in SMALL.items()]
    assert train.main([f"data={tmp_path}", "holdout=2", f"out={out}", *words]) == 0
    assert "bits_per_pixel" in capsys.readouterr().out
    files = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "report.png", "config.yaml", "metrics.csv"} <= files
    model = gm.load(out / "model.safetensors")
    assert (model.levels, model.wavelet) == (2, "db2")
    assert gm.card(out / "model.safetensors")["held_out"]["bits_per_pixel"] > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patch_size": 6}, "2\\^levels"),
        ({"channels": 3}, "channels must be 1"),
        ({"noise": "auto"}, "one known level"),
        ({"wavelet": "db99"}, "did you mean"),
        ({"wavelet": "bior2.2"}, "orthogonal"),
        ({"method": "ipalm"}, "does not fit model=wavelet"),
        ({"components": 10**6}, "more images"),
    ],
)
def test_refuses_what_cannot_be_trained(change, match):
    images = images_of(truth(), 2)
    with pytest.raises(ValueError, match=match):
        last(fit(images, images, FitSettings(**SMALL | change)))
