"""Training of the convolutional model: its start, its free parameters, its runs."""

import copy

import pytest
import torch
import yaml
from training_examples import pictures, write_images

import gmdm_prior as gm
from gmdm_prior import train
from gmdm_prior.densities.convolutional.spectra import sample_bands
from gmdm_prior.densities.convolutional.trainable import TrainableConvolution
from gmdm_prior.pictures import report as plots
from gmdm_prior.training import Checkpoints, FitSettings, fit
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score.convolutional import (
    ConvolutionalTrainer,
    band_pass_start,
    denoise,
    held_out_crops,
)

SHAPE = (1, 30, 26)


def settings(**changes):
    given = {"model": "conv", "patch_size": 20, "octaves": 2, "steps": 4, "crops": 4}
    return FitSettings(**given | {"measure_every": 2} | changes)


def pool(count=6, seed=0):
    return ImagePool.of(pictures(count, seed, SHAPE))


@pytest.fixture(scope="module")
def start():
    return band_pass_start(pool(), resolved(settings(orientations=2)))


def run(folder=None, resume=None, stop_at=None, **changes):
    data = pictures(6, 0, SHAPE), pictures(2, 1, SHAPE)
    records = fit(*data, settings(**changes), checkpoints=folder, resume=resume)
    seen = []
    for record in records:
        seen.append(record)
        if record.step == stop_at:
            break
    records.close()
    return seen


def test_starts_with_what_the_experts_can_hold(start):
    """Responses times sqrt(n / r) reach to just inside the outermost mean, and potentials fit."""
    assert start.magnitude.shape == (5,)
    assert start.experts.logits.shape == (5, 125)
    bands = sample_bands(start.owner, start.phase, (20, 20))
    g = torch.Generator().manual_seed(5)
    crops = torch.stack([pool().crop(20, "d4", g)[0] for _ in range(100)])
    for j, xi in enumerate(start.magnitude):
        z = torch.fft.irfft2(torch.fft.rfft2(crops) * bands.mask(j) * xi, (20, 20))
        wide = z / bands.share(j).sqrt()
        assert 0.8 < wide.abs().flatten().quantile(0.9999) < 1.1
        expected = (start.experts.weights[j] * start.experts.means.square()).sum()
        assert wide.square().mean().item() == pytest.approx(expected.item(), rel=0.25, abs=2e-4)


@pytest.mark.parametrize("sigma", [0.03, 0.2])
def test_tables_denoise_as_the_model_does(start, sigma):
    y = torch.cat([image[None, 0] for image in pictures(2, 3, (1, 33, 20))])
    y = y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    expected = start.denoise(y[:, None], sigma)[:, 0]
    got = denoise(TrainableConvolution(start), y, sigma)
    assert (got - expected).abs().max() < 1e-3 * sigma  # linear interpolation in 1024 cells
    assert (got - y).abs().max() > 0.3 * sigma


def test_gradients_are_those_of_the_exact_model(start):
    clean = torch.cat(pictures(2, 3, (1, 20, 20)))
    y = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    free = TrainableConvolution(copy.deepcopy(start).double())
    (denoise(free, y, 0.1) - clean).square().sum().backward()
    exact = free.frozen().requires_grad_(True)
    error = exact.denoise(y[:, None].double(), 0.1)[:, 0] - clean
    error.square().sum().backward()
    pairs = {
        "phase": (free.phase.grad, exact.phase.grad),
        "magnitude": (free.log_magnitude.grad, exact.magnitude.grad * exact.magnitude),
        "logits": (free.experts.logits.grad, exact.experts.logits.grad),
    }
    for name, (got, expected) in pairs.items():
        assert (got - expected).norm() < 0.01 * expected.norm(), name
        assert expected.norm() > 0, name


def test_any_free_parameters_are_a_model_of_the_paper(start):
    """Its constructor checks spectra and signs; magnitudes stay positive wherever they go."""
    free = TrainableConvolution(copy.deepcopy(start).double())
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in free.parameters():
            p.add_(3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    frozen, y = free.frozen(), pictures(1, 3, (1, 20, 20))[0].double()
    assert type(frozen) is gm.ConvolutionalModel
    assert (frozen.magnitude / start.magnitude).log().abs().max() > 1
    assert torch.equal(frozen.owner, start.owner)
    torch.testing.assert_close(free.denoise(y, 0.1), frozen.denoise(y, 0.1))


def test_training_mends_a_wrong_start(start):
    """Magnitudes three times too large: held-out images are denoised better after some steps."""
    wrong = copy.deepcopy(start)
    with torch.no_grad():
        wrong.magnitude.mul_(3)
    given = resolved(settings(orientations=2, steps=12, crops=4))
    trainer = ConvolutionalTrainer(pool(), given)
    trainer.restore(trainer_state(wrong))
    losses = [trainer.advance() for _ in range(given.steps)]
    held_out = held_out_crops(ImagePool.of(pictures(2, 1, SHAPE)), given)
    before, after = held_out.psnr(wrong), held_out.psnr(trainer.model())
    assert after > before + 0.5
    assert sum(losses[-4:]) < sum(losses[:4])
    levels = [held_out.psnr(trainer.model(), level / 255) for level in (8, 16, 32, 70)]
    assert trainer.held_out_loss(held_out, trainer.model()) == -sum(levels) / 4
    assert torch.equal(trainer.model().owner, wrong.owner)


def trainer_state(model):
    """The state of a trainer that begins with a model."""
    trainer = ConvolutionalTrainer(pool(), resolved(settings()))
    trainer._begin(model)
    return trainer.state()


def test_goes_on_to_the_same_bits(tmp_path):
    whole = run()[-1].model
    assert isinstance(whole, gm.ConvolutionalModel)
    store = Checkpoints(tmp_path)
    run(store, stop_at=2)
    assert store.latest().step == 2
    resumed = run(store, resume=store.latest())
    assert [r.step for r in resumed] == [3, 4]
    for one, other in zip(whole.parameters(), resumed[-1].model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(run(seed=1)[-1].model.phase, whole.phase)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"channels": 3}, "channels must be 1"),
        ({"patch_size": 21}, "even"),
        ({"patch_size": 16}, "at least 20"),
        ({"octaves": 3}, "octaves must be at most 2"),
        ({"octaves": 0}, "octaves must be at least 1"),
        ({"orientations": 0}, "orientations"),
        ({"method": "em"}, "does not fit model=conv"),
        ({"noise": 0.1}, "clean images"),
    ],
)
def test_refuses_what_cannot_be_trained(changes, match):
    with pytest.raises(ValueError, match=match):
        resolved(settings(**changes))


def test_starts_from_no_other_model(start):
    data = pictures(3, 0, SHAPE), pictures(1, 1, SHAPE)
    with pytest.raises(ValueError, match="begin by themselves"):
        next(fit(*data, settings(), init=start))
    with pytest.raises(ValueError, match="begin by themselves"):
        next(fit(*data, FitSettings(model="patch", method="score"), init=start))


def test_small_images_are_named():
    with pytest.raises(ValueError, match="20x20 pixels that the grid"):
        next(fit(pictures(2, 0, (1, 18, 30)), pictures(1, 1, SHAPE), settings()))


def test_the_command_line_writes_a_model_with_its_card(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "report", lambda model, *_: drawn.append(model))
    data = write_images(tmp_path / "data", shape=(30, 26))
    out = tmp_path / "run"
    words = ["model=conv", "patch_size=20", "octaves=1", "crops=4", "steps=2", "holdout=3"]
    assert train.main([f"data={data}", f"out={out}", *words]) == 0
    assert "Tweedie" in capsys.readouterr().out
    model = gm.load(out / "model.safetensors")
    assert isinstance(model, gm.ConvolutionalModel)
    card = gm.card(out / "model.safetensors")
    assert set(card["held_out"]) == {"psnr_15", "psnr_25", "psnr_50"}
    assert "Tweedie" in card["held_out_measure"]
    assert yaml.safe_load((out / "config.yaml").read_text())["octaves"] == 1
    assert type(drawn[0]) is gm.ConvolutionalModel


def test_the_report_shows_spectra_filters_and_potentials(start, tmp_path):
    patches = torch.stack([image[:, :20, :20] for image in pictures(4, 2, SHAPE)])
    plots.report(start, patches, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 20_000
