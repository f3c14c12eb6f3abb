"""Weights files: what is written is read; what is damaged, hostile or foreign is refused."""

import errno
import json
import math
import pickle
import struct

import pytest
import safetensors.torch
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.files.safetensors import SUCCESSORS


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "model.safetensors"
    gm.save(mixture(3), path, data="none", psnr={"15": 31.0})
    return path


def rewrite(path, out, change=None, metadata=None):
    """A copy of a file with other tensors or metadata."""
    with safetensors.safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        old = file.metadata()
    if change:
        change(tensors)
    safetensors.torch.save_file(tensors, out, metadata={**old, **(metadata or {})})
    return out


def test_bundled_models_load_by_name():
    assert {"gray", "gray-small"} <= set(gm.bundled())
    for name in gm.bundled():
        model = gm.load(name)
        shape = getattr(model, "event_shape", (1, 16, 16))  # whole images have none
        x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(model.log_prob(x, 0.1)).all()
        assert gm.card(name)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("gray", 25_000), ("gray-small", 5_120)],
)
def test_bundled_models_are_as_small_as_they_say(name, limit):
    assert gm.load(name).num_parameters <= limit


def test_a_density_on_all_opponents_can_be_saved(tmp_path):
    """Its planes share their numbers, which a file holds apart."""
    model = gm.OpponentModel(gm.load("gray-small"))
    gm.save(model, tmp_path / "colour.safetensors")
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loaded = gm.load(tmp_path / "colour.safetensors")
    torch.testing.assert_close(loaded.log_prob(x, 0.1), model.log_prob(x, 0.1))


@pytest.mark.parametrize(("old", "new"), SUCCESSORS.items())
def test_an_old_name_tells_its_successor(old, new):
    assert new in gm.bundled()
    assert old not in gm.bundled()
    with pytest.raises(FileNotFoundError, match=f"'{old}' are no longer bundled; '{new}'"):
        gm.load(old)


def test_laws_hold_for_bundled_weights_in_float64():
    """Stored bases are orthonormal to 1e-6: load makes them so in the requested dtype."""
    model = gm.load("gray", dtype=torch.float64)
    rows = model.filters.flatten(2)
    eye = torch.eye(rows.shape[1], dtype=torch.float64)
    assert (rows @ rows.mT - eye).abs().max() < 1e-12
    y = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tweedie = y + 0.01 * model.score(y, 0.1)
    torch.testing.assert_close(model.denoise(y, 0.1), tweedie, rtol=0, atol=1e-10)
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(y, 0.1).sum(), y)
    torch.testing.assert_close(model.score(y, 0.1), gradient, rtol=1e-9, atol=1e-9)


def test_load_places_and_freezes(written):
    model = gm.load(written, dtype=torch.float64, device="cpu")
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in model.parameters())
    assert gm.load(str(written)).filters.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype"):
        gm.load(written, dtype=torch.float16)


def test_card_is_kept(written):
    assert gm.card(written) == {"data": "none", "psnr": {"15": 31.0}}
    with pytest.raises(TypeError, match="card"):
        gm.save(mixture(2), written, broken={1, 2})
    with pytest.raises(TypeError, match="card"):
        gm.save(mixture(2), written, psnr=math.nan)
    assert gm.card(written) == {"data": "none", "psnr": {"15": 31.0}}


def test_unknown_name_offers_the_nearest():
    with pytest.raises(FileNotFoundError, match="gray-small"):
        gm.load("gray-smal")
    with pytest.raises(FileNotFoundError, match="neither a bundled model nor a file"):
        gm.load("nowhere/x.safetensors")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        gm.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 200, -1])
def test_truncated_file(written, tmp_path, keep):
    short = tmp_path / "short.safetensors"
    data = written.read_bytes()
    short.write_bytes(data[:keep])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        gm.load(short)


def test_header_that_promises_too_much(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        gm.load(path)


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_posing_as_weights_is_not_run(tmp_path, how):
    path, proof = tmp_path / "trap.safetensors", tmp_path / "proof"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(str(proof))))
    else:
        torch.save({"K.weight": Trap(str(proof))}, path)
    with pytest.raises(ValueError, match="never loaded"):
        gm.load(path)
    for name in ("trap.safetensors", "trap.pth"):  # torch.load looks at the ending
        (tmp_path / name).write_bytes(path.read_bytes())
        with pytest.raises(ValueError, match="safely"):
            gm.import_pogmdm(tmp_path / name)
    assert not proof.exists()


def test_safetensors_of_another_program(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"gmdm_prior\.save"):
        gm.load(path)


def poison(key, value):
    def change(tensors):
        tensors[key] = value(tensors[key]).contiguous()

    return change


@pytest.mark.filterwarnings("error")  # torch warns where it drops imaginary parts
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("variances"), "variances"),
        (poison("variances", lambda v: -v), "positive"),
        (poison("variances", lambda v: v * math.nan), "finite"),
        (poison("variances", lambda v: v[:, :-1]), "variances"),
        (poison("weights", lambda w: 2 * w), "sum to one"),
        (poison("basis", lambda b: b + 7), "basis"),
        (poison("filters", lambda f: f + 1), "orthonormal"),
        (poison("filters", lambda f: f * 0), "orthonormal"),
        (poison("filters", lambda f: f[..., :2]), "filters"),
        (poison("filters", lambda f: f.to(torch.complex64)), "filters must be real"),
        (poison("filters", lambda f: f.long()), "filters must be real"),
        (poison("weights", lambda w: w.to(torch.complex64)), "weights must be real"),
    ],
)
def test_damaged_numbers_are_refused(written, tmp_path, change, match):
    bad = rewrite(written, tmp_path / "bad.safetensors", change)
    with pytest.raises(ValueError, match=match):
        gm.load(bad)


@pytest.mark.parametrize(
    "metadata",
    [
        {"model": "Transformer"},
        {"options": "{"},
        {"options": "[]"},
        {"options": "{}"},
        {"options": json.dumps({"symmetries": "cubic", "mean_variance": None})},
        {"options": json.dumps({"mean_variance": None})},
        {"options": json.dumps({"symmetries": "d4"})},
        {"options": json.dumps({"symmetries": "d4", "mean_variance": None, "more": 1})},
        {"model": "PatchModel"},
    ],
)
def test_damaged_metadata_is_refused(written, tmp_path, metadata):
    bad = rewrite(written, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="no valid model"):
        gm.load(bad)


def test_a_full_disk_leaves_the_old_file(written, monkeypatch):
    before = written.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        gm.save(mixture(3, seed=5), written)
    assert written.read_bytes() == before
    assert list(written.parent.glob("*.part")) == []


@pytest.mark.parametrize("where", ["open", "os.fsync", "os.replace"])
def test_a_file_that_cannot_be_written_is_named(written, monkeypatch, where):
    """A full disk has no file name of its own: the command said "error: None: No space left"."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    name = f"builtins.{where}" if where == "open" else where
    with monkeypatch.context() as patch:
        patch.setattr(name, full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            gm.save(mixture(3), written)
    assert caught.value.filename == str(written)
    missing = written.parent / "missing" / "m.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        gm.save(mixture(3), missing)
    assert caught.value.filename == str(missing)


@pytest.mark.parametrize("ending", ["", ".safetensors", "/x"])
def test_an_over_long_name_is_a_missing_file(ending):
    name = 300 * "a" + ending
    with pytest.raises(FileNotFoundError, match="neither a bundled model nor a file"):
        gm.load(name)
    with pytest.raises(FileNotFoundError, match="neither a bundled model nor a file"):
        gm.card(name)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gm.import_pogmdm(name)


def test_a_card_that_is_nested_too_deeply_is_refused(written, tmp_path):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(TypeError, match="card must hold"):
        gm.save(mixture(2), written, nested=nested)
    deep = 100_000 * "[" + 100_000 * "]"
    bad = rewrite(written, tmp_path / "bad.safetensors", metadata={"card": deep})
    with pytest.raises(ValueError, match="damaged card"):
        gm.card(bad)
    bad = rewrite(written, tmp_path / "bad.safetensors", metadata={"options": deep})
    with pytest.raises(ValueError, match="no valid model"):
        gm.load(bad)


def test_a_card_of_a_number_too_long_to_read_is_refused(written, tmp_path):
    bad = rewrite(written, tmp_path / "bad.safetensors", metadata={"card": 10_000 * "9"})
    with pytest.raises(ValueError, match="damaged card"):
        gm.card(bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_made_to_sum_to_one(written, tmp_path, dtype):
    """In a file they may miss it by rounding, up to 1e-3: log-densities would, too."""
    bad = rewrite(written, tmp_path / "x.safetensors", poison("weights", lambda w: w * 1.0005))
    model = gm.load(bad, dtype=dtype)
    assert model.weights.sum().item() == pytest.approx(1, abs=4 * torch.finfo(dtype).eps)
    x = torch.rand(3, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    expected = gm.load(written, dtype=dtype).log_prob(x, 0.1)
    torch.testing.assert_close(model.log_prob(x, 0.1), expected)


def test_save_refuses_other_models(tmp_path):
    with pytest.raises(TypeError, match="PatchModel"):
        gm.save(torch.nn.Linear(2, 2), tmp_path / "x.safetensors")


def checkpoint(path, symmetric=True):
    """A PoGMDM-like state dict of a product model."""
    model = product(3, components=9)
    weights = model.experts.weights
    if symmetric:
        weights = weights[:, 4:] + weights[:, :5].flip(1)
    torch.save({"K.weight": model.filters, "mus": torch.linspace(-1, 1, 9), "w.w": weights}, path)
    return model, weights


@pytest.mark.parametrize("symmetric", [True, False])
def test_import_of_a_pogmdm_checkpoint(tmp_path, symmetric):
    model, weights = checkpoint(tmp_path / "c.pth", symmetric)
    imported = gm.import_pogmdm(tmp_path / "c.pth", dtype=torch.float64)
    torch.testing.assert_close(imported.filters.data, model.filters.data, rtol=0, atol=1e-9)
    whole = torch.cat([weights.flip(1)[:, :-1], weights], 1) if symmetric else weights
    whole = whole / whole.sum(1, keepdim=True)
    torch.testing.assert_close(imported.experts.weights, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"a": torch.zeros(2)}, "K.weight"),
        ([1, 2], "K.weight"),
        (
            {"K.weight": torch.zeros(3, 1, 2, 2), "mus": torch.zeros(5), "w.w": torch.ones(3, 4)},
            "4",
        ),
        (
            {"K.weight": torch.zeros(3, 1, 2, 2), "mus": torch.zeros(5), "w.w": torch.ones(3)},
            "shapes",
        ),
        (
            {
                "K.weight": torch.zeros(3, 1, 2, 2, dtype=torch.complex64),
                "mus": torch.linspace(-1, 1, 5),
                "w.w": torch.ones(3, 5),
            },
            r"real numbers; K\.weight are complex",
        ),
    ],
)
def test_import_refuses_other_checkpoints(tmp_path, state, match):
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=match):
        gm.import_pogmdm(tmp_path / "c.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        gm.import_pogmdm(tmp_path / "missing.pth")


def test_the_published_checkpoints(shared):
    """The authors' 7x7 model: orthogonal, zero-mean, and its numbers as DESIGN.md states them."""
    model = gm.import_pogmdm(shared / "interop" / "pogmdm-patch7.pth", dtype=torch.float64)
    state = torch.load(
        shared / "interop" / "pogmdm-patch7.pth", weights_only=True, map_location="cpu"
    )
    raw = state["K.weight"].double().flatten(1)
    rows = model.filters.flatten(1)
    assert ((rows - raw).norm() / raw.norm()) < 1e-2
    norms = rows.norm(dim=1)
    cosines = (rows @ rows.T) / norms / norms[:, None]
    assert (cosines - torch.eye(48)).abs().max() < 1e-10
    assert rows.sum(1).abs().max() < 1e-10
    assert model.experts.logits.shape == (48, 125)
    with pytest.raises(ValueError, match="no PoGMDM patch or wavelet model"):
        gm.import_pogmdm(shared / "interop" / "pogmdm-gsm7.pth")
