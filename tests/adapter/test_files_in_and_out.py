"""What commands read and write: many files, nothing lost, and what they say on the way."""

import functools
import io
import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import tifffile
import torch
from deepinv_gmdm import build_prior, build_solver
from deepinv_gmdm.command import pictures as commands
from deepinv_gmdm.command import progress
from deepinv_gmdm.command.output_folder import OutputFolder
from deepinv_gmdm.command.words import KINDS
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.__main__ import main as overview
from gmdm_prior.files.formats.labels import refuse_labels
from gmdm_prior.files.formats.layout import plain
from gmdm_prior.files.formats.picture import Picture
from gmdm_prior.noise.estimate import estimate

FAST = ("sigma=0.1", "weights=gray-small")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three noisy pictures, the working directory."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png", "a.jpg"):
        Image.fromarray(generator.integers(0, 256, (20, 24)).astype(np.uint8)).save(name)
    tifffile.imwrite("a.tif", generator.integers(0, 60000, (20, 24)).astype(np.uint16))
    return tmp_path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


GIVEN = ["a.jpg", "a.png", "a.tif", "b.png"]


def test_many_files(command, folder):
    assert command("denoise", "a.png", "b.png", "a.tif", *FAST, "out=clean")[0] == 0
    assert names(folder) == [*GIVEN, "clean/a.png", "clean/a.tif", "clean/b.png"]
    assert command("denoise", "*.png", *FAST)[0] == 0, "a pattern that no shell has opened"
    assert names(folder)[4:6] == ["b-denoised.png", "b.png"] or "b-denoised.png" in names(folder)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["a.png", "out=a.png"], "is an input"),
        (["a.png", "out=a.png", "overwrite=true"], "is an input"),
        (["a.png", "out=./a.png"], "is an input"),
        (["a.png", "out=b.png"], "'b.png' exists: choose another out=, or add overwrite=true"),
        (["a.png", "b.png", "out=."], "is an input"),
        (["a.png", "a.jpg", "out=new"], "a.png and a.jpg would both be written to new"),
        (["a.png", "b.png", "out=a.tif"], "a.tif is a file; of 2 pictures give a folder"),
        (["a.png", "c*.png"], "no file is named so"),
        (["a.png", "none.png"], "'none.png' does not exist"),
        (["a.png", "overwrite=perhaps"], "overwrite=perhaps is neither true nor false"),
        (["a.png", "pages=all"], "pages=all is neither each"),
        (["a.png", "axis=z"], "axis=z is no whole number"),
        (["a.png", "axis=0"], "axis is for volumes"),
        (["a.png", "data_range=5"], "data_range=5 is neither auto nor low,high"),
        (["a.png", "sigma=25"], r"sigma=25 is above 1.*did you mean 25/255\?"),
        (["a.tif", "sigma=25", "data_range=0,1000"], r"did you mean 25/1000\?"),
    ],
)
def test_nothing_is_lost(refused, folder, words, match):
    sentence = refused("denoise", *FAST, *words)
    assert re.search(match, sentence), sentence
    assert names(folder) == GIVEN


def test_names_do_not_meet(command, folder):
    """a.png and a.tif do not write to one name; a link to an input is one."""
    assert command("denoise", "a.png", "a.tif", *FAST)[0] == 0
    assert {"a-denoised.png", "a-denoised.tif"} <= set(names(folder))
    assert command("denoise", "a.png", *FAST)[0] == 2
    assert command("denoise", "a.png", *FAST, "overwrite=true")[0] == 0
    (folder / "link.png").symlink_to("b.png")
    assert "is an input" in command("denoise", "b.png", *FAST, "out=link.png")[2]


def test_a_failure_leaves_what_was_there(command, folder, monkeypatch):
    assert command("denoise", "a.png", *FAST, "out=x.png")[0] == 0
    before = (folder / "x.png").read_bytes()
    for error, status in ((OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)):

        def fail(*arguments, error=error):
            arguments[3].write_bytes(b"half")
            raise error

        monkeypatch.setattr(commands, "save", fail)
        words = ("denoise", "b.png", *FAST, "out=x.png", "overwrite=true")
        assert command(*words)[0] == status
        assert (folder / "x.png").read_bytes() == before
        assert names(folder) == [*GIVEN, "x.png"]


def test_an_interrupt_waits_for_the_last_file(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(source, target):
        signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    with OutputFolder(tmp_path / "out") as folder:
        for name in "abc":
            (folder.aside / name).write_text(name)
        with pytest.raises(KeyboardInterrupt):
            folder.publish()
    assert names(tmp_path / "out") == ["a", "b", "c"]


def test_pages_share_their_noise_where_asked(command, folder):
    generator = np.random.default_rng(0)
    stack = 30000 + 3000 * np.array([1, 3])[:, None, None] * generator.normal(size=(2, 32, 32))
    tifffile.imwrite("s.tif", stack.astype(np.uint16), photometric="minisblack")
    words = ("denoise", "s.tif", "sigma=auto", "weights=gray-small")
    status, printed, _ = command(*words, "out=each.tif")
    assert status == 0
    assert "page 2: estimated noise level" in printed
    assert command(*words, "pages=shared", "out=shared.tif")[0] == 0
    each, shared = (tifffile.imread(f"{n}.tif").astype(float) for n in ("each", "shared"))
    assert shared[1].std() > 1.2 * each[1].std(), "the level of the first page is lower"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.arange(480).reshape(20, 24) % 2 == 0, "it has 1 bit"),
        ((np.arange(480).reshape(20, 24) % 2).astype(np.uint8), "it is a mask: .* are 0 or 1"),
        ((np.arange(480) // 60).reshape(20, 24).astype(np.uint16), "it is a label image: .* to 7"),
    ],
)
def test_what_is_no_picture_of_brightness(values, match):
    with pytest.raises(ValueError, match=match):
        refuse_labels(Picture(values[None, None], "png", plain((1, 1, 20, 24))))


@pytest.mark.parametrize("rate", [0.05, 0.5, 3])
def test_counted_photons_are_no_labels(rate):
    counts = np.random.default_rng(0).poisson(rate, (1, 1, 64, 64)).astype(np.uint16)
    counts.flat[:3] = 0, 1, 2
    refuse_labels(Picture(counts, "png", plain(counts.shape)))


def test_a_constant_map_is_uniform(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save("plain.png")
    status, printed, _ = command("noise", "plain.png", "map=true")
    assert status == 0
    assert "noise levels uniform, 0.00/255" in printed


def test_progress_is_for_terminals(monkeypatch):
    """After a while only; its end is that of the work, also where parts are counted."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setattr(progress, "AFTER", 0)
    monkeypatch.setattr(progress, "tqdm", functools.partial(progress.tqdm, mininterval=0))
    denoiser = gm.HalfQuadraticSplitting(gm.load("gray-small"))
    pages = [torch.rand(1, 1, 40, 40), torch.rand(1, 1, 40, 40)]
    result = progress.watched(
        "work", lambda x: denoiser(x, 0.1), pages, small=pages[0][..., :20, :20]
    )
    assert all(torch.equal(r, denoiser(p, 0.1)) for r, p in zip(result, pages, strict=True))
    shares = [int(share) for share in re.findall(r"(\d+)%", seen.getvalue())]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress.watched("work", lambda x: x, [1])
    assert sys.stderr.getvalue() == ""


def test_input_errors_come_before_heavy_imports(folder):
    Image.fromarray(255 * (np.arange(480).reshape(20, 24) % 2).astype(np.uint8)).save("mask.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    wrong = [
        ["denoise", "none.png", "sigma=1"],
        ["denoise", "a.png", "sigma=25"],
        ["denoise", "a.png", "out=a.png"],
        ["denoise", "a.png", "noise=pink"],
        ["denoise", "mask.png"],
        ["denoise", "cut.png"],
        ["noise", "x.png", "mpa=1"],
        ["noise", "a.png", "out=b.png"],
        ["restore", "none"],
        ["restore", "a.png"],
        ["restore", "deblur", "measurement=none.png"],
        ["restore", "deblur", "physics.kernle=x"],
        ["restore", "motion_deblur", "measurement=a.png"],
        ["restore", "deblur", "measurement=a.png", "pages=all"],
    ]
    code = (
        "import sys; from deepinv_gmdm.command.main import main\n"
        f"for words in {wrong}:\n"
        "    assert main(words) == 2, words\n"
        "assert main(['restore', '--list']) == main(['restore', 'mri', '--show']) == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_kinds_of_noise_that_are_asked_for_are_those_that_are_read():
    assert KINDS == estimate.KINDS


def test_a_place_without_room_is_refused_before_the_work(refused, folder, monkeypatch):
    monkeypatch.setattr(commands, "_denoised", None)
    np.save("f.npy", np.random.default_rng(0).random((20, 24)))
    tifffile.imwrite("s.tif", np.zeros((2, 20, 24), np.uint8), photometric="minisblack")
    assert ".png has no place for values of float64" in refused("denoise", "f.npy", "out=x.png")
    assert ".png holds one picture, not 2" in refused("denoise", "s.tif", "out=x.png")
    assert ".dcm is written of DICOM files only" in refused("denoise", "a.png", "out=x.dcm")
    assert ".nii is written of NIfTI files only" in refused("denoise", "a.png", "out=x.nii")
    assert "s.tif has 2 pages; a map" in refused("noise", "s.tif", "map=true")


def test_what_a_library_warns_of_is_a_note(command, folder, monkeypatch):
    def work(asked):
        for _ in range(2):
            warnings.warn("first\nsecond", stacklevel=1)

    monkeypatch.setattr(commands, "denoise", work)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert command("denoise", "a.png")[2] == "note: first second\n"


@pytest.mark.parametrize("name", ["denoise", "noise", "restore", "plugins"])
def test_help_ends_with_an_example(name, capsys):
    from deepinv_gmdm.command.main import main

    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert f"  gmdm {name}" in capsys.readouterr().out


def test_versions_and_overview(capsys):
    from deepinv_gmdm.command.main import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("gmdm-prior ")
    assert overview([]) == 0
    printed = capsys.readouterr().out
    assert "gmdm-train data=FOLDER" in printed
    assert all(name in printed for name in gm.bundled())
    assert overview(["--version"]) == 0


# --- units in Python ------------------------------------------------------------------------------


def test_counts_without_a_range_are_warned_of():
    denoiser = gm.PatchAveraging(gm.load("gray-small"))
    x = torch.rand(1, 1, 20, 20)
    with pytest.warns(UserWarning, match=r"far outside .* give data_range=\(black, white\)"):
        denoiser(255 * x, 10 / 255)
    with pytest.warns(UserWarning, match="did you mean sigma / 255"):
        denoiser(x, 25.0)


@pytest.mark.filterwarnings("error")
def test_iterates_and_samples_are_not_warned_of():
    denoiser = gm.PatchAveraging(gm.load("gray-small"))
    x = torch.randn(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    for level in (0.01, 1.0, 80.0):
        denoiser(0.5 + max(level, 0.5) * x, level)


@pytest.mark.parametrize(
    "sigma", [torch.tensor(0.01), torch.tensor([0.01]), np.float32(0.01), np.array([0.01])]
)
def test_numbers_of_any_kind(sigma):
    solver = build_solver("hqs", build_prior("zero"), sigma=sigma, prior_lambda=sigma)
    assert solver is not None


def test_models_say_what_they_are():
    assert repr(gm.load("gray")) == "<PatchMixture 'gray': patches of 1 x 8 x 8, 22,336 numbers>"
    assert repr(gm.load("gray-wavelet")) == "<WaveletModel 'gray-wavelet': 14,656 numbers>"


def test_save_replaces_models_only(tmp_path):
    model = gm.load("gray-small")
    path = tmp_path / "m.safetensors"
    gm.save(model, path)
    gm.save(model, path, note="again")
    assert gm.card(path)["note"] == "again"
    path.write_bytes(b"a photograph")
    with pytest.raises(ValueError, match="is no model of gmdm_prior, so it is not replaced"):
        gm.save(model, path)
    assert path.read_bytes() == b"a photograph"
