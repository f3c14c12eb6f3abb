"""The command line: files on disk, exit statuses, one sentence for bad input."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser
from deepinv_gmdm.command import restore as restoring
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.main import main
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture, save_picture

FAST = ("solver.max_iter=3", "prior.weights=gray-small")


def test_restore_writes_everything(command, photo_file, tmp_path):
    out = tmp_path / "deep" / "out"
    status, printed, progress = command(
        "restore", "deblur", f"image={photo_file}", *FAST, f"out={out}"
    )
    assert status == 0
    assert sorted(p.name for p in out.iterdir()) == sorted(restoring.FILES)
    metrics = json.loads((out / "metrics.json").read_text())
    assert sorted(metrics) == ["psnr_measurement", "psnr_restored", "seconds"]
    assert metrics["psnr_restored"] > metrics["psnr_measurement"] + 1
    assert f"{metrics['psnr_measurement']:.2f} dB" in printed
    assert f"{metrics['psnr_restored']:.2f} dB" in printed
    assert progress == "", "piped, it is silent"
    truth, restored = read_picture(photo_file)[0], read_picture(out / "restored.png")[0]
    # 8-bit rounding moves each pixel by at most half a gray level
    assert restoring.psnr(restored, truth) == pytest.approx(metrics["psnr_restored"], abs=0.1)
    width, height = Image.open(out / "comparison.png").size
    assert width > 2 * height


def test_results_reproduce_from_the_written_config(command, photo_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    command("restore", "inpainting", f"image={photo_file}", *FAST, f"out={first}")
    status, _, _ = command("restore", first / "config.yaml", f"out={second}")
    assert status == 0
    assert (first / "restored.png").read_bytes() == (second / "restored.png").read_bytes()
    assert "max_iter: 3" in (second / "config.yaml").read_text()


def test_a_density_of_whole_images_restores(command, photo_file, tmp_path):
    words = [f"image={photo_file}", "prior.weights=gray-wavelet", f"out={tmp_path / 'out'}"]
    status, _, error = command("restore", "deblur", *words, "solver.max_iter=6")
    assert status == 0, error
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["psnr_restored"] > found["psnr_measurement"] + 1


@pytest.mark.parametrize("prior", ["gmdm", "tv", "wavelet", "pnp", "red"])
def test_prior_switches_on_the_same_config(command, photo_file, tmp_path, prior):
    words = ["prior.denoiser.weights=gray-small", "prior.denoiser.name=gmdm"]
    words = words if prior in ("pnp", "red") else []
    status, _, error = command(
        "restore",
        "denoise",
        f"image={photo_file}",
        f"prior={prior}",
        *words,
        "solver.max_iter=2",
        f"out={tmp_path / prior}",
    )
    assert status == 0, error
    assert f"name: {prior}" in (tmp_path / prior / "config.yaml").read_text()


def test_colour_and_device(command, photo, tmp_path):
    save_picture(photo.expand(1, 3, -1, -1), tmp_path / "colour.png")
    out = tmp_path / "out"
    words = [f"image={tmp_path / 'colour.png'}", *FAST, "device=cpu", f"out={out}"]
    status, _, _ = command("restore", "motion_deblur", *words)
    assert status == 0
    assert Image.open(out / "restored.png").mode == "RGB"


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["image=none.png"], "image 'none.png' does not exist"),
        (["prior=gmmd"], "unknown prior 'gmmd'; did you mean 'gmdm'"),
        (["solver.name=hsq"], "unknown solver 'hsq'; did you mean 'hqs'"),
        (["prior.weights=gray-smal"], "did you mean 'gray-small'"),
        (["prior.weights=truncated.safetensors"], "cannot be read as safetensors"),
        (["prior.weights=pickle.safetensors"], "looks like a pickle, which is never loaded"),
        (["prior.wieghts=x"], "unknown option 'wieghts'; did you mean 'weights'"),
        (["solvr.name=hqs"], "unknown config key 'solvr"),
        (["solver.max_iter=lots"], "'solver.max_iter'"),
        (["physics.noise.sigma=-0.1"], "not negative"),
        (["physics.noise.sigma=.nan"], "finite"),
        (["physics.noise.sigma=[1, 2]"], "physics.noise.sigma=.* is no noise level"),
        (["prior.sigma=-1"], "prior.sigma=-1 is no noise level, finite and not negative"),
        (["prior.lambda=much"], "prior.lambda must be a number"),
        (["image=tiny.png"], "at least one patch, 8x8"),
        (["image=cut.png"], "image .*cut.png' cannot be read"),
        (["image=text.png"], "no picture"),
        (["device=abacus"], "'abacus' is not usable"),
        (["device=meta"], "'meta' is not usable: its tensors have no values"),
        (["out=~nosuchuser/x"], "out=~nosuchuser/x: there is no home folder ~nosuchuser"),
        (["image=~nosuchuser/x.png"], "there is no home folder ~nosuchuser"),
        (["out=text.png"], "output folder 'text.png' is not writable"),
        (["out=text.png/below"], "output folder 'text.png/below' is not writable"),
        (["nonsense"], "write key=value"),
    ],
)
def test_bad_input(refused, photo, photo_file, tmp_path, monkeypatch, words, match):
    """Exit status 2 and one sentence; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    weights = Path(gm.__file__).parent / "weights" / "gray-small.safetensors"
    whole = weights.read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"filters": [1, 2]}))
    save_picture(photo[..., :5, :5], tmp_path / "tiny.png")
    (tmp_path / "cut.png").write_bytes(photo_file.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(p.name for p in tmp_path.iterdir())
    physics = ["physics.name=denoise"]
    sentence = refused("restore", "denoise", f"image={photo_file}", "out=new", *physics, *words)
    assert re.search(match, sentence), sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_full_disk_and_interrupt_leave_nothing(command, photo_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ["restore", "deblur", f"image={photo_file}", *FAST, f"out={out}"]
    assert command(*words)[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    def stop(*arguments):
        raise KeyboardInterrupt

    for failure, status, text in ((full, 2, "No space left"), (stop, 130, "interrupted")):
        monkeypatch.setattr(restoring, "compare", failure)
        got, _, error = command(*words)
        assert got == status
        assert text in error
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        assert command(*words[:-1], f"out={tmp_path / 'new' / 'deep'}")[0] == status
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate m"
            "emory: you tried to allocate 8 bytes. Error code 12 (Cannot allocate)"
        ),
    ],
    ids=["python", "gpu", "cpu"],
)
def test_too_little_memory_is_one_sentence(refused, photo_file, tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(restoring, "solve", fail)
    words = ["restore", "deblur", f"image={photo_file}", *FAST, f"out={tmp_path / 'out'}"]
    assert "out of memory: take a smaller image" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_what_is_no_lack_of_memory_keeps_its_traceback(command, photo_file, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(restoring, "solve", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        command("restore", "deblur", f"image={photo_file}", *FAST, f"out={tmp_path / 'out'}")


def test_denoise(command, photo, noisy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture(noisy, tmp_path / "noisy.png")
    words = ("denoise", "noisy.png", "sigma=0.1", "weights=gray-small")
    assert command(*words)[0] == 0
    result = read_picture(tmp_path / "noisy-denoised.png")[0]
    assert restoring.psnr(result, photo) > restoring.psnr(noisy, photo) + 5
    assert command(*words, "method=average", "out=sub/clean.tif")[0] == 0
    assert (tmp_path / "sub" / "clean.tif").is_file()
    words = ("denoise", "noisy.png", "sigma=0.1", "weights=gray-wavelet", "out=whole.png")
    assert command(*words)[::2] == (0, "")
    whole = read_picture(tmp_path / "whole.png")[0]
    assert restoring.psnr(whole, photo) > restoring.psnr(noisy, photo) + 4


def test_denoise_estimates_the_level(command, photo, noisy, tmp_path, monkeypatch):
    """The picture is denoised as with the level that is printed."""
    monkeypatch.chdir(tmp_path)
    save_picture(noisy, tmp_path / "noisy.png", bits=16)
    words = ("denoise", "noisy.png", "weights=gray-small")
    status, printed, error = command(*words, "sigma=auto", "out=auto.png")
    assert status == 0
    assert all(line.startswith("note: ") for line in error.splitlines())  # some are clipped
    assert command(*words, "out=default.png")[1].startswith("estimated noise level ")
    level = float(re.search(r"estimated noise level ([\d.]+)/255", printed)[1])
    assert level == pytest.approx(25.5, rel=0.12)
    assert command(*words, f"sigma={level / 255}", "out=given.png")[::2] == (0, "")
    auto, given = (read_picture(tmp_path / f"{name}.png")[0] for name in ("auto", "given"))
    assert torch.equal(read_picture(tmp_path / "default.png")[0], auto)
    assert (auto - given).abs().max() < 1e-3
    status, printed, _ = command(*words, "sigma=map", "out=map.png")
    assert status == 0
    assert re.search(r"estimated noise levels [\d.]+/255 to [\d.]+/255, median", printed)
    result = read_picture(tmp_path / "map.png")[0]
    assert restoring.psnr(result, photo) > restoring.psnr(noisy, photo) + 5


def numbers_of(line):
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_noise_is_the_estimate_with_its_interval(command, noisy, tmp_path):
    """In gray levels and in [0, 1]; nothing is written."""
    save_picture(noisy, tmp_path / "noisy.png", bits=16)
    status, printed, _ = command("noise", tmp_path / "noisy.png")
    assert status == 0
    printed, kind = printed.splitlines()
    assert re.fullmatch(r"noise level .*/255 \(95 %: .* to .*\); in \[0, 1\]: .*\)", printed)
    assert kind.startswith("white: ")
    picture = read_picture(tmp_path / "noisy.png")[0]
    found = gm.estimate_noise(picture, gm.load("gray-likelihood"))
    levels = [value.item() for value in (found.sigma, *found.interval())]
    expected = [255 * value for value in levels] + levels
    # two decimals of gray levels, four of [0, 1]
    assert numbers_of(printed) == pytest.approx(expected, abs=0.006)
    assert numbers_of(printed)[3:] == pytest.approx(levels, abs=6e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["noisy.png"]


def test_noise_draws_its_map(command, photo, tmp_path, monkeypatch):
    """The left half is noisier, in what is printed and in the picture."""
    monkeypatch.chdir(tmp_path)
    sigma = torch.full_like(photo, 0.02)
    sigma[..., :24] = 0.15
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    save_picture(0.3 + 0.4 * photo + sigma * noise, "noisy.png")
    status, printed, _ = command("noise", "noisy.png", "map=true")
    assert status == 0
    level, levels, _, written = printed.splitlines()
    assert level.startswith("noise level ")
    low, high, _ = numbers_of(levels)[:3]
    assert levels.startswith("noise levels ")
    assert (low < 8, 34 < high < 43) == (True, True)
    assert written == "written to noisy-noise.png"
    drawn = np.asarray(Image.open("noisy-noise.png").convert("RGB")).astype(float)
    panel = drawn[drawn.shape[0] // 4 - 20 : drawn.shape[0] // 4 + 20]
    place = [int(share * drawn.shape[1]) for share in (0.58, 0.8)]  # of the map's two halves
    bright, dark = (panel[:, p - 5 : p + 5].mean((0, 1)) for p in place)
    assert bright[0] > dark[0] + 50  # yellow and blue
    save_picture(photo.expand(1, 3, -1, -1), "colour.png")
    words = ("map=true", "out=sub/n.bmp", "weights=gray-small")
    assert command("noise", "colour.png", *words)[0] == 0
    assert (tmp_path / "sub" / "n.bmp").is_file()


def test_noise_says_that_there_is_none(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save("plain.png")
    status, printed, error = command("noise", "plain.png", "map=true")
    assert status == 0
    assert printed.startswith("noise level 0.00/255 (95 %: 0.00 to 0.00); in [0, 1]: 0.0000")
    assert error.startswith("note: the image is constant")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["map=perhaps"], "map=perhaps is neither true nor false"),
        (["mpa=true"], "unknown option 'mpa'; did you mean 'map'"),
        (["out=a.png"], "give map=true with it"),
        (["map=true", "out=a.pgn"], "names no picture format"),
        (["map=true", "out=photo.png/a.png"], "not writable"),
        (["weights=none"], "gray"),
        (["noise=blue"], "unknown noise 'blue'"),
        (["true"], "write key=value, such as map=true"),
    ],
)
def test_noise_refuses(refused, photo_file, tmp_path, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    assert match in refused("noise", photo_file, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_noise_refuses_the_picture(refused, tmp_path):
    Image.fromarray(np.zeros((4, 30), np.uint8)).save(tmp_path / "thin.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "at least one patch" in refused("noise", tmp_path / "thin.png")
    assert "no picture" in refused("noise", tmp_path / "text.png")
    assert "does not exist" in refused("noise", tmp_path / "none.png")


def test_denoise_says_that_there_is_no_noise(command, tmp_path):
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / "plain.png")
    out = tmp_path / "same.png"
    status, printed, error = command("denoise", tmp_path / "plain.png", "sigma=auto", f"out={out}")
    assert status == 0
    assert "level 0.00/255" in printed
    assert error.startswith("note: the image is constant")
    assert (np.asarray(Image.open(out)) == 90).all()


def test_denoise_keeps_sixteen_bits_and_colour(command, photo, tmp_path):
    save_picture(photo, tmp_path / "deep.png", bits=16)
    save_picture(photo.expand(1, 3, -1, -1), tmp_path / "colour.png")
    for name, mode in (("deep.png", "I;16"), ("colour.png", "RGB")):
        out = tmp_path / f"clean-{name}"
        status, _, _ = command("denoise", tmp_path / name, "sigma=5/255", f"out={out}")
        assert status == 0
        assert Image.open(out).mode == mode


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["sigma=0.1", "noise=poisson"], "give it with sigma=auto"),
        (["noise=poison"], "unknown noise 'poison'; did you mean 'poisson'"),
        (["sigma=automatic"], "fraction such as"),
        (["sigma=-1"], "not negative"),
        (["sigma=nan"], "finite"),
        (["sigma=25/0"], "fraction such as"),
        (["sgima=0.1"], "unknown option 'sgima'; did you mean 'sigma'"),
        (["sigma=0.1", "weights=none"], "gray"),
        (["sigma=0.1", "method=best"], "'hqs' or 'average'"),
        (["sigma=0.1", "out=clean.pgn"], "names no picture format"),
        (["sigma=0.1", "out=~nosuchuser/a.png"], "there is no home folder ~nosuchuser"),
        (["sigma=0.1", "out=photo.png/clean.png"], "not writable"),
        (["0.1"], "write key=value"),
    ],
)
def test_denoise_refuses(refused, photo_file, tmp_path, monkeypatch, words, match):
    monkeypatch.chdir(tmp_path)
    assert match in refused("denoise", photo_file, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_denoise_refuses_the_picture(refused, tmp_path):
    Image.fromarray(np.zeros((4, 30), np.uint8)).save(tmp_path / "thin.png")
    assert "at least one patch" in refused(
        "denoise", tmp_path / "thin.png", "sigma=0.1", f"out={tmp_path / 'a.png'}"
    )
    assert "does not exist" in refused("denoise", tmp_path / "none.png", "sigma=0.1")


def test_plugins_lists_all(command):
    status, printed, _ = command("plugins")
    assert status == 0
    for group in ("priors", "denoisers", "noise_estimators"):
        assert f"deepinv_plugins.{group}" in printed
    assert printed.count("gmdm  ") == 3
    assert "broken" not in printed


def test_from_outside():
    """In processes of their own: help without torch, bad input without a traceback."""
    code = "import sys, deepinv_gmdm.command.main as m; m._parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    words = [sys.executable, "-m", "deepinv_gmdm", "restore", "debluf"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config 'debluf' does not exist; did you mean 'deblur'")
    assert done.stderr.count("\n") == 1


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["restor", "deblur"])
    assert exit.value.code == 2
    assert "restor" in capsys.readouterr().err


def test_psnr():
    truth = torch.full((1, 1, 4, 4), 0.5)
    assert restoring.psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-4)
    assert restoring.psnr(torch.full_like(truth, 9.0), torch.ones_like(truth)) == float("inf")


def test_denoise_takes_colours_for_luminance_and_differences(command, tmp_path):
    """Each channel by itself does worse."""
    clean = read_picture(shipped("images") / "coffee_color.png")[0][..., :64, :64]
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    save_picture(noisy, tmp_path / "noisy.png")
    out, noisy = tmp_path / "out.png", read_picture(tmp_path / "noisy.png")[0]
    status, _, error = command("denoise", tmp_path / "noisy.png", "sigma=0.1", f"out={out}")
    assert status == 0, error
    found = read_picture(out)[0]
    by_name = GMDMDenoiser("gray", channels="opponent")(noisy, 0.1).clamp(0, 1)
    assert (found - by_name).abs().max() <= 0.51 / 255
    apart = GMDMDenoiser("gray", channels="independent")(noisy, 0.1)
    assert restoring.psnr(found, clean) > restoring.psnr(apart, clean) + 0.5
