"""Training an OpponentModel: planes one after another, noise in their units, resuming, misuse."""

import pytest
import torch
from models import mixture

import gmdm_prior as gm
from gmdm_prior import train
from gmdm_prior.densities.opponent import OFFSETS, OPPONENT
from gmdm_prior.training import FitSettings, fit
from gmdm_prior.training.checkpoint import Checkpoints
from gmdm_prior.training.opponent import PLANES, SCALES

SMALL = {"model": "opponent", "patch_size": 4, "bases": 1, "classes": 3, "components": 6}
SMALL |= {"steps": 3, "symmetries": "flips"}


def truth():
    """Planes of very different contrast."""
    plane = mixture(4, bases=1, classes=3, symmetries="flips")
    shares = (1.0, 0.1, 0.01)
    planes = [
        gm.PatchMixture(plane.filters, plane.variances * a, plane.weights, plane.basis, "flips")
        for a in shares
    ]
    return gm.OpponentModel(*planes, scales=SCALES)


def images_of(model, count=6, sigma=0.0, seed=3):
    """Mosaics of independent patches."""
    g = torch.Generator().manual_seed(seed)
    tiles = model.sample((count, 8, 8), sigma, g)
    return list(tiles.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, 32, 32).float() + 0.5)


def last(records):
    *_, record = records
    return record


def plane_images(images, j):
    turn = torch.tensor(OPPONENT[j])
    return [torch.einsum("c,chw->hw", turn, x)[None] / SCALES[j] + OFFSETS[j] for x in images]


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_each_plane_is_fitted_by_itself(sigma):
    """To the bits of a gray mixture trained on that plane, with the noise in its units."""
    images = images_of(truth(), sigma=sigma)
    settings = FitSettings(**SMALL, noise=sigma)
    record = last(fit(images, images[:2], settings))
    assert isinstance(record.model, gm.OpponentModel)
    assert record.model.scales == SCALES
    for j in range(3):
        alone = FitSettings(**SMALL | {"model": "mixture"}, noise=sigma / SCALES[j])
        planes = plane_images(images, j)
        expected = last(fit(planes, planes[:2], alone)).model
        for a, b in zip(record.model.planes[j].parameters(), expected.parameters(), strict=True):
            assert torch.equal(a, b)


def test_stages_losses_and_held_out():
    images = images_of(truth())
    records = list(fit(images, images[:2], FitSettings(**SMALL, measure_every=1)))
    assert [r.step for r in records] == list(range(1, 3 * 15 + 1))
    assert [r.stage for r in records[::15]] == [f"{plane} full" for plane in PLANES]
    assert all(r.model is None for r in records[: 2 * 15])  # green is not there yet
    held_out = torch.stack(images[:2]).unfold(2, 4, 1).unfold(3, 4, 1).permute(0, 2, 3, 1, 4, 5)
    expected = -records[-1].model.log_prob(held_out, 0.0).mean() / (3 * 15)
    assert records[-1].held_out_loss == pytest.approx(expected.item(), rel=0.1)
    assert records[-1].psnr > 23  # of 20.2 before


@pytest.mark.parametrize("method", ["em+score", "hqs"])
def test_score_matching_of_planes(method):
    images = images_of(truth())
    start = last(fit(images, images[:2], FitSettings(**SMALL))).model
    settings = FitSettings(**SMALL | {"method": method, "steps": 2, "crops": 4})
    init = start if method == "hqs" else None
    record = last(fit(images, images[:2], settings, init=init))
    for before, after in zip(start.planes, record.model.planes, strict=True):
        assert not torch.equal(before.variances, after.variances)
        rows = after.filters.double().flatten(2)
        torch.testing.assert_close(
            rows @ rows.mT, torch.eye(15).double().expand(1, -1, -1), rtol=0, atol=1e-5
        )


def test_a_gray_model_begins_on_every_plane():
    images, gray = images_of(truth()), mixture(4, symmetries="flips")
    settings = FitSettings(model="opponent", method="hqs", steps=1, crops=4)
    record = last(fit(images, images[:2], settings, init=gray))
    assert record.model.scales == SCALES
    for plane in record.model.planes:
        assert not torch.equal(plane.variances, gray.variances)
        torch.testing.assert_close(plane.variances.double(), gray.variances, rtol=0.2, atol=0)


@pytest.mark.parametrize(("method", "stop"), [("em", 7), ("em", 31), ("hqs", 3)])
def test_resumes_to_the_same_bits(tmp_path, method, stop):
    images = images_of(truth())
    settings = FitSettings(**SMALL | {"method": method, "steps": 2, "crops": 4})
    init = truth() if method == "hqs" else None
    whole = last(fit(images, images[:2], settings, init=init)).model
    checkpoints = Checkpoints(tmp_path)
    for record in fit(images, images[:2], settings, init=init, checkpoints=checkpoints):
        if record.step == stop:
            break
    resumed = last(fit(images, images[:2], settings, init=init, resume=checkpoints.latest())).model
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_command_line(tmp_path, capsys):
    from PIL import Image

    for i, image in enumerate(images_of(truth(), 4)):
        pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(
            tmp_path / f"{i}.png"
        )
    out = tmp_path / "run"
    words = [f"{key}={value}" for key, value in SMALL.items()]
    words = [f"data={tmp_path}", "holdout=2", f"out={out}", "shrink=2", *words]
    assert train.main(words) == 0
    assert "psnr_25" in capsys.readouterr().out
    files = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "report.png", "config.yaml", "metrics.csv"} <= files
    model = gm.load(out / "model.safetensors")
    assert (type(model), model.patch_size) == (gm.OpponentModel, 4)
    again = [f"data={tmp_path}", "method=hqs", f"init={out / 'model.safetensors'}", "steps=1"]
    assert train.main([*again, "crops=4", "holdout=2", f"out={tmp_path / 'hqs'}"]) == 0
    assert gm.load(tmp_path / "hqs" / "model.safetensors").scales == model.scales
    assert train.main([f"data={tmp_path}", "shrink=0"]) == 2
    assert "shrink must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"noise": "auto"}, "one known level"),
        ({"method": "ipalm"}, "does not fit model=opponent"),
        ({"method": "hqs"}, "needs init"),
    ],
)
def test_refuses_what_cannot_be_trained(change, match):
    images = images_of(truth(), 2)
    with pytest.raises(ValueError, match=match):
        last(fit(images, images, FitSettings(**SMALL | change)))


def test_refuses_gray_images():
    images = [x[:1] for x in images_of(truth(), 2)]
    with pytest.raises(ValueError, match="C = channels = 3"):
        last(fit(images, images, FitSettings(**SMALL)))
