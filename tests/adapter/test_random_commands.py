"""Random command lines: no traceback, no status but 0 and 2, no existing file changed.

`GMDM_RANDOM_COMMANDS=500 pytest tests/adapter/test_random_commands.py` runs as many, with
`GMDM_RANDOM_SEED=1` others.
"""

import fnmatch
import os
import random
import warnings

import numpy as np
import pytest
import tifffile
from deepinv_gmdm.command.main import main
from PIL import Image

import gmdm_prior as gm
from gmdm_prior import train
from gmdm_prior.pictures import report as plots

COUNT = int(os.environ.get("GMDM_RANDOM_COMMANDS", "60"))
SEED = int(os.environ.get("GMDM_RANDOM_SEED", "0"))
GROUPS = 10  # tests, each with its share of the command lines
FILES = (
    "a.png c.png bw.png mask.png label.png t.tif f.tif s.tif a.jpg a.npy v.npy k.npy m.npy s.npy "
    "cut.png text.png empty.tif none.png folder my.yaml angles.txt psf.npy photos *.tif n*.x "
    "w.safetensors nan.npy x.h5 move.gif link.png"
).split()
COMMANDS = {
    "denoise": ["", "FILE", "FILE", "FILE FILE"],
    "noise": ["", "FILE", "FILE"],
    "restore": ["CONFIG", "CONFIG", "FILE", ""],
    "train": [""],
}
CONFIGS = (
    "denoise deblur inpainting mri tomography super_resolution compressed_sensing motion_deblur"
)
CONFIGS = [*CONFIGS.split(), "poisson", "poisson_gaussian", "space_varying_deblur", "debluf"]
OPTIONS = {
    "sigma": "25/255 0.1 auto map 25 -1 nan x 0 1e-9",
    "out": "FILE new.png new/x.png folder new.xyz a/b/c.tif ~nobody/x.png new.npy new.jpg .",
    "weights": "gray-small gray-likelihood FILE nothing gray-wavelet",
    "method": "hqs average best posterior",
    "data_range": "auto 0,255 0,1 1,0 x -1000,3000",
    "pages": "each shared all",
    "axis": "0 1 2 7 x -1",
    "key": "a x",
    "overwrite": "true false maybe",
    "map": "true false 1",
}
RESTORE = {
    "measurement": "FILE FILE a.png k.npy s.npy",
    "truth": "FILE a.png",
    "image": "FILE a.png c.png",
    "physics": "blur inpainting mri tomography denoise x super_resolution",
    "physics.kernel": "FILE psf.npy",
    "physics.mask": "FILE mask.png m.npy",
    "physics.angles": "FILE 20 0 x angles.txt",
    "physics.coil_maps": "FILE",
    "physics.boundary": "open circular x",
    "physics.factor": "1 2 3 0 100",
    "physics.side": "10 20 1000",
    "physics.width": "1 0 100 x",
    "physics.noise.sigma": "auto 0.1 25 -1 5/255 x 0",
    "physics.noise.name": "gaussian poisson poisson_gaussian x",
    "prior": "tv wavelet gmdm x pnp red",
    "prior.weights": "gray-small nothing FILE",
    "prior.lambda": "1 0 x -1",
    "solver": "admm hqs pgd gd x dpir",
    "solver.stepsize": "0.1 x -1",
    "data_range": "auto 0,255 1,0 [0,1]",
    "pages": "each shared x",
    "axis": "0 5 x",
    "key": "a",
    "out": "folder new FILE deep/er ~nobody",
    "overwrite": "true false maybe",
    "device": "cpu x meta",
    "lambda": "1",
    "nonsense": "1 [ {",
}
TRAIN = {
    "data": "photos folder FILE bsds500:photos",
    "noise": "0 25 25/255 auto map x FILE",
    "method": "em x",
    "model": "mixture patch x",
    "patch_size": "3 0 x 100",
    "channels": "1 3 2",
    "scales": "1 2 0",
    "holdout": "2 1 40",
    "data_range": "auto 0,255 x",
    "out": "new folder FILE run",
    "resume": "true false x",
    "init": "FILE gray-small",
    "config": "FILE my.yaml",
    "seed": "1 x",
    "basis": "1",
}
SMALL = ["solver.max_iter=1", "prior.n_it_max=2"]
TINY = ["bases=1", "classes=2", "components=4", "patches=200", "steps=1", "measure_every=50"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "report", lambda model, patches, path, curve: None)
    generator = np.random.default_rng(0)
    gray = generator.integers(0, 256, (20, 24)).astype(np.uint8)
    Image.fromarray(gray).save("a.png")
    Image.fromarray(gray).save("a.jpg")
    Image.fromarray(np.stack([gray] * 3, -1)).save("c.png")
    Image.fromarray(gray > 99).save("bw.png")
    Image.fromarray(np.where(gray > 99, 255, 0).astype(np.uint8)).save("mask.png")
    Image.fromarray((np.arange(480) // 120).astype(np.uint8).reshape(20, 24)).save("label.png")
    tifffile.imwrite("t.tif", gray.astype(np.uint16) * 9)
    tifffile.imwrite("f.tif", gray.astype(np.float32))
    tifffile.imwrite("s.tif", np.stack([gray, gray[::-1]]), photometric="minisblack")
    np.save("a.npy", gray / 300)
    np.save("v.npy", generator.random((4, 20, 24)))
    np.save("k.npy", np.fft.fft2(gray))
    np.save("m.npy", gray > 99)
    np.save("s.npy", generator.random((24, 20)))
    np.save("psf.npy", np.ones((3, 5)))
    np.save("nan.npy", np.where(gray > 250, np.nan, gray / 255))
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    frames = [Image.fromarray(np.roll(gray, i)) for i in range(3)]
    frames[0].save("move.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "link.png").symlink_to("a.png")
    np.savetxt("angles.txt", np.linspace(0, 180, 20))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "my.yaml").write_text("image: a.png\nphysics: denoise\nsolver: {name: hqs}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "restored.png").write_text("mine")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(np.roll(gray, i)).save(f"photos/{i}.png")
    gm.save(gm.load("gray-small"), "w.safetensors")
    return tmp_path


def line(random):
    """A command line."""
    name = random.choice([*COMMANDS, "denoise", "restore", "restore"])
    words = random.choice(COMMANDS[name]).split()
    words = [
        random.choice(FILES) if w == "FILE" else random.choice(CONFIGS) if w == "CONFIG" else w
        for w in words
    ]
    options = {"restore": RESTORE, "train": TRAIN}.get(name, OPTIONS)
    for key in random.sample(list(options), random.randint(0, 5)):
        value = random.choice(options[key].split())
        words.append(f"{key}={random.choice(FILES) if value == 'FILE' else value}")
    if name == "restore" and words and "=" not in words[0]:
        words += SMALL[:1] + (["image=a.png"] if random.random() < 0.5 else [])
        words += ["prior.denoiser=median"] if "prior=pnp" in words or "prior=red" in words else []
    if name == "train":
        words += TINY
    return name, words


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_read(path, words, folder):
    """Whether a command line names a file as an input: by itself, by a pattern, link or folder."""
    values = [w.partition("=")[2] or w for w in words if not w.startswith("out=")]
    names = [path.name, *(link.name for link in folder.iterdir() if link.resolve() == path)]
    if str(path.parent.name) in values:  # of training
        return True
    return any(fnmatch.fnmatch(name, value) for name in names for value in values)


def test_the_check_knows_what_is_read(folder):
    a, words = folder / "a.png", ["noise=x", "weights=w.safetensors", "out=c.png"]
    assert is_read(a, ["a.png"], folder)
    assert is_read(a, ["measurement=link.png"], folder)
    assert is_read(folder / "t.tif", ["*.tif"], folder)
    assert is_read(folder / "photos" / "0.png", ["data=photos"], folder)
    assert is_read(folder / "w.safetensors", words, folder)
    assert not is_read(folder / "c.png", words, folder)


@pytest.mark.parametrize("group", range(GROUPS))
def test_random_command_lines(folder, group, capsys):
    random_ = random.Random(group + GROUPS * SEED)
    before = contents(folder)
    worked, own = 0, set()
    for _ in range(max(1, COUNT // GROUPS)):
        name, words = line(random_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = train.main(words) if name == "train" else main([name, *words])
            except SystemExit as exit:  # argparse
                status = exit.code
            except BaseException as error:
                raise AssertionError(f"{name} {' '.join(words)}") from error
        said = capsys.readouterr()
        shown = f"{name} {' '.join(words)}: {said.err}"
        assert status in (0, 2), shown
        assert "Traceback" not in said.err, shown
        assert status == 0 or said.err.strip(), shown
        after = contents(folder)
        assert not [p.name for p in folder.rglob(".partial-*")], shown
        overwrites = "overwrite=true" in words and status == 0
        for path, content in before.items():
            free = overwrites and not is_read(path, words, folder)
            free |= name == "restore" and path in own  # its own earlier results
            assert free or after.get(path) == content, f"{path.name} changed: {shown}"
        if name == "restore":
            own |= after.keys() - before.keys()
        before = after
        worked += status == 0
    assert worked or COUNT < 300, "of so many some are right"
