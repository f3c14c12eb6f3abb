"""The command line `python -m gmdm_prior.train`: files, resuming, and every way to go wrong."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from models import mixture, product
from PIL import Image
from training_examples import same, write_images

import gmdm_prior as gm
from gmdm_prior import train
from gmdm_prior.pictures import report as plots
from gmdm_prior.sigma import parse
from gmdm_prior.training.checkpoint import Checkpoints
from gmdm_prior.training.data.noise import parse_noise, read_table
from gmdm_prior.training.ipalm import product as product_trainer
from gmdm_prior.training.run.config import TrainConfig
from gmdm_prior.training.run.folder import RunFolder

EM = ["patch_size=3", "bases=1", "classes=2", "components=4", "patches=300", "measure_every=50"]
METHODS = {
    "em": [*EM, "steps=6"],
    "em of noisy images": [*EM, "noise=auto", "steps=6"],
    "em+score": [*EM, "steps=4", "crops=4", "checkpoint_every=1"],
    "score": ["init=START", "steps=8", "crops=4", "checkpoint_every=2", "measure_every=50"],
    "ipalm": ["model=patch", "patch_size=3", "steps=14", "batch_size=40", "checkpoint_every=3"],
}
METHODS["score of a product"] = METHODS["score"]
START = {"score": mixture, "score of a product": product}


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "pictures" not in request.keywords and "report" not in request.node.name:
        monkeypatch.setattr(plots, "report", lambda model, patches, path, curve: None)


@pytest.fixture
def data(tmp_path):
    return write_images(tmp_path / "data")


@pytest.fixture
def call(tmp_path, data, capsys):
    """Run the command line in this process: exit status, standard output, error output."""

    def run(*words, out="run", folder=data):
        given = [f"data={folder}"] if folder else []
        place = [f"out={tmp_path / out}"] if out else []
        status = train.main([*given, *place, *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def words_for(method, tmp_path):
    start = tmp_path / "start.safetensors"
    if method in START and not start.exists():
        gm.save(START[method](3).float(), start)
    words = [word.replace("START", str(start)) for word in METHODS[method]]
    return [f"method={method.split()[0]}", *words]


def sentence(err):
    """The error line, which must be the only one and no traceback."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def equal_weights(one, other):
    return same(gm.load(one), gm.load(other))


# --- what a run writes ----------------------------------------------------------------------------


def test_writes_model_report_config_and_metrics(call, tmp_path):
    status, out, err = call(*EM, "steps=2", "seed=3", "measure_every=1")
    assert status == 0, err
    run = tmp_path / "run"
    model = gm.load(run / "model.safetensors")
    assert model.filters.shape == (1, 8, 1, 3, 3)
    card = gm.card(run / "model.safetensors")
    assert card["data"] == str(tmp_path / "data")
    assert (card["method"], card["seed"], card["steps"]) == ("em", 3, 14)
    assert card["numbers"] == model.num_parameters
    assert (card["training_images"], card["held_out_images"]) == (3, 1)
    assert card["held_out"].keys() >= {"log_likelihood_per_dimension", "psnr_25"}
    assert card["versions"]["torch"] == torch.__version__
    assert "seed=3" in card["command"]
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == list(range(1, 15))
    assert [r["stage"] for r in rows] == ["full"] * 12 + ["tied"] * 2
    assert float(rows[-1]["psnr"]) > 5
    assert (run / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert len(Checkpoints(run / "checkpoints").files()) == 2
    assert "3 training images, 1 held out" in out
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["components"] == 4
    assert written["steps"] == 2


def test_the_written_config_repeats_the_run(call, tmp_path):
    assert call(*EM, "steps=1", out="one")[0] == 0
    config = tmp_path / "one" / "config.yaml"
    assert call(f"config={config}", out="two", folder=None)[0] == 0
    assert call(f"config={config}", "seed=1", out="three", folder=None)[0] == 0
    one, two, three = (tmp_path / n / "model.safetensors" for n in ("one", "two", "three"))
    assert equal_weights(one, two)
    assert not equal_weights(one, three)


def test_noisy_images(call, tmp_path):
    status, out, err = call(*EM, "steps=1", "noise=25/255")
    assert status == 0, err
    figures = gm.card(tmp_path / "run" / "model.safetensors")["held_out"]
    assert figures["log_likelihood_sigma"] == pytest.approx(25 / 255, abs=1e-6)
    assert "psnr_25" not in figures
    assert "PSNR" not in out
    card = gm.card(tmp_path / "run" / "model.safetensors")
    assert card["training_noise"].startswith("Gaussian, standard deviation 0.0980392; no clean")


def test_unknown_noise_is_written_down(call, tmp_path):
    status, out, err = call(*EM, "steps=2", "noise=auto")
    assert status == 0, err
    levels = read_table(tmp_path / "run" / "noise_levels.csv")
    assert [path.rsplit("/", 1)[1] for path in levels] == ["01.png", "02.png", "03.png"]
    card = gm.card(tmp_path / "run" / "model.safetensors")
    assert f"{min(levels.values()):.4f} to {max(levels.values()):.4f}" in card["training_noise"]
    assert "psnr_25" not in card["held_out"]
    assert "PSNR" not in out
    table = tmp_path / "run" / "noise_levels.csv"
    status, _, err = call(*EM, "steps=2", f"noise={table}", out="again")
    assert status == 2
    assert "says nothing of 1 images" in sentence(err)  # the held-out one
    table.write_text(table.read_text() + "00.png,6/255\n")
    assert call(*EM, "steps=2", f"noise={table}", out="again")[0] == 0
    card = gm.card(tmp_path / "again" / "model.safetensors")
    assert f"read from {table}" in card["training_noise"]


def test_an_image_without_patches_has_no_level(call, tmp_path):
    few = ("bases=1", "classes=1", "components=1", "patches=2")
    status, _, err = call(*EM, *few, "steps=1", "noise=auto")
    assert status == 0, err
    assert len(read_table(tmp_path / "run" / "noise_levels.csv")) == 2


def test_a_level_for_each_pixel(call, tmp_path):
    assert call(*EM, "steps=2", "noise=map")[0] == 0
    card = gm.card(tmp_path / "run" / "model.safetensors")
    assert "estimated at each pixel" in card["training_noise"]


def test_clean_images_have_no_noise_on_the_card(call, tmp_path):
    assert call(*EM, "steps=1")[0] == 0
    assert "training_noise" not in gm.card(tmp_path / "run" / "model.safetensors")


def test_report_of_the_papers_model(call, tmp_path):
    assert call(*words_for("ipalm", tmp_path), "steps=2")[0] == 0
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000


def test_help_lists_every_key_with_default_and_meaning(capsys):
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    for key in TrainConfig.__dataclass_fields__:
        assert re.search(rf"^  {key} +\S", text, re.MULTILINE), key
    assert text.count("[default:") == len(TrainConfig.__dataclass_fields__)


# --- going on -------------------------------------------------------------------------------------

SLOWED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
from gmdm_prior import train
from gmdm_prior.training.run.folder import RunFolder
add = RunFolder.add
RunFolder.add = lambda self, record: (add(self, record), time.sleep(0.1))
sys.exit(train.main(sys.argv[1:]))
"""


def start_and_signal(words, metrics, at_row, number):
    """Run in another process, and send it a signal once it has written some rows."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWED, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and process.poll() is None:
            if metrics.exists() and len(metrics.read_text().splitlines()) > at_row:
                process.send_signal(number)
                break
            time.sleep(0.01)
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_gives_the_same_bits(method, call, tmp_path, data):
    words = words_for(method, tmp_path)
    assert call(*words, out="whole")[0] == 0
    run = tmp_path / "run"
    row = random.Random(os.getpid()).randint(4, 7)
    status, err = start_and_signal(
        [f"data={data}", f"out={run}", *words], run / "metrics.csv", row, signal.SIGKILL
    )
    assert status == -signal.SIGKILL, err
    assert not (run / "model.safetensors").exists()
    found = Checkpoints(run / "checkpoints").latest().step
    assert found >= row - 3
    status, out, err = call("resume=true", folder=None)  # the rest is in config.yaml
    assert status == 0, err
    assert f"resumed at step {found}" in out
    assert equal_weights(run / "model.safetensors", tmp_path / "whole" / "model.safetensors")
    steps = [row[0] for row in RunFolder(run).rows()]
    assert steps == [row[0] for row in RunFolder(tmp_path / "whole").rows()]


def test_ctrl_c_stops_with_a_checkpoint_and_says_how_to_go_on(call, tmp_path, data):
    run = tmp_path / "run"
    words = [f"data={data}", f"out={run}", *words_for("ipalm", tmp_path), "checkpoint_every=1000"]
    status, err = start_and_signal(words, run / "metrics.csv", 4, signal.SIGINT)
    assert status == 130, err
    step = Checkpoints(run / "checkpoints").latest().step
    assert 4 <= step < 14
    assert f"interrupted; the checkpoint of step {step} is kept: go on with out={run}" in err
    assert "Traceback" not in err
    assert call(*words_for("ipalm", tmp_path), "checkpoint_every=1000", "resume=true")[0] == 0
    assert call(*words_for("ipalm", tmp_path), out="whole")[0] == 0
    assert equal_weights(run / "model.safetensors", tmp_path / "whole" / "model.safetensors")


def test_a_truncated_checkpoint_falls_back_and_says_so(call, tmp_path):
    assert call(*EM, "steps=2")[0] == 0
    run = tmp_path / "run"
    (run / "model.safetensors").rename(tmp_path / "whole.safetensors")
    newest = Checkpoints(run / "checkpoints").files()[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    status, out, err = call("resume=true")
    assert status == 0, err
    assert "step-00000014.pt cannot be read" in err
    assert "resumed at step 13" in out
    assert equal_weights(run / "model.safetensors", tmp_path / "whole.safetensors")


def test_an_occupied_folder_is_refused(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "holiday.jpg").write_text("mine")
    status, _, err = call(*EM)
    assert status == 2
    assert "is occupied; add resume=true" in sentence(err)
    status, out, err = call(*EM, "steps=1", "resume=true")
    assert status == 0, err
    assert "starting anew" in out
    (tmp_path / "file").write_text("")
    assert "is a file" in sentence(call(*EM, out="file")[2])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=4", "seed is 0 there and 4 now"),
        ("classes=3", "classes is 2 there and 3 now"),
        ("holdout=2", "holdout is 40 there and 2 now"),
        ("steps=5", "steps is 1 there and 5 now"),
    ],
)
def test_a_resume_that_disagrees_names_both_values(call, word, message):
    assert call(*EM, "steps=1")[0] == 0
    status, _, err = call(*EM, "steps=1", "resume=true", word)
    assert status == 2
    assert message in sentence(err)


def test_a_resume_on_other_images_is_refused(call, tmp_path):
    assert call(*EM, "steps=1")[0] == 0
    other = write_images(tmp_path / "other", 6)
    status, _, err = call("resume=true", folder=other)
    assert status == 2
    assert re.search(r"images is 3 images .* there and 5 images .* now", sentence(err))


# --- what can go wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["basis=3"], "unknown key 'basis'; did you mean 'bases'"),
        (["chekpoint_every=3"], "did you mean 'checkpoint_every'"),
        (["steps=many"], "steps: Value 'many' of type 'str' could not be converted to Integer"),
        (["steps=1.5"], "steps: Value '1.5'"),
        (["resume=perhaps"], "resume: Value 'perhaps'"),
        (["noise=loud"], "noise=loud is no noise level"),
        (["noise=1/0"], "noise=1/0 is no noise level"),
        (["noise=loud"], "write a number or a fraction such as 25/255, auto, map, or a table"),
        (["noise=nowhere.csv"], "noise=nowhere.csv cannot be read: No such file"),
        (["noise=auto", "method=em+score"], "needs clean images, so noise must be 0; got auto"),
        (["verbose"], "'verbose' is no setting; write key=value"),
        (["model=patch", "method=em"], "method=em does not fit model=patch"),
        (["holdout=1"], "holdout must be at least 2"),
        (["config=nowhere.yaml"], "config 'nowhere.yaml' cannot be read"),
        (["data="], "data is needed"),
        (["data=nowhere"], "data=nowhere does not exist"),
        (["patch_size=40"], "none of 4 images has the 40x40 pixels"),
        (["method=score", "init=grey-small"], "did you mean 'gray"),
        (["components=50000", "classes=2", "bases=1"], "components=50000 need at least as many"),
        (["steps=???"], "steps=??? says that a value is missing"),
        (["steps=${no}"], "steps: "),
        (["bases=" + 5000 * "["], "bases=[[[["),
        (["config=NESTED"], "nested too deeply"),
        (["config=MISSING"], "bases=??? says"),
        (["data=~nosuchuser/x"], "data=~nosuchuser/x names a home folder that does not exist"),
        (["out=~nosuchuser/x"], "out=~nosuchuser/x names a home"),
        (["out=~nosuchuser/x", "resume=true"], "out=~nosuchuser/x names a home"),
        (["config=~nosuchuser/x"], "config=~nosuchuser/x names a home"),
        (["noise=~nosuchuser/x.csv"], "noise=~nosuchuser/x.csv names a home"),
        (["init=~nosuchuser/x", "method=score"], "~nosuchuser/x"),
        (["device=meta"], "unknown key 'device'"),
    ],
)
def test_bad_input_exits_2_with_one_sentence(call, words, message, tmp_path):
    (tmp_path / "NESTED").write_text("bases: " + 5000 * "[")
    (tmp_path / "MISSING").write_text("bases: ???")
    words = [re.sub("(?<==)(NESTED|MISSING)", rf"{tmp_path}/\1", word) for word in words]
    status, _, err = call(*words)
    assert status == 2
    assert message in sentence(err)
    assert not RunFolder(tmp_path / "run").occupied(), "the next try would find it occupied"


def test_an_empty_folder(call, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = call(folder=tmp_path / "empty")
    assert status == 2
    assert "holds no image" in sentence(err)


def test_a_corrupt_image_and_a_small_one_are_named_and_skipped(call, data, tmp_path):
    (data / "07.png").write_bytes((data / "01.png").read_bytes()[:100])
    Image.new("L", (2, 30)).save(data / "08.png")
    status, out, err = call(*EM, "steps=1")
    assert status == 0
    assert re.search(r"warning: skipped 1 of 6 images: .*07\.png", err)
    assert re.search(r"warning: skipped 1 of 5 images, smaller than .*08\.png", err)
    assert "3 training images, 1 held out" in out


def test_a_single_image_holds_out_its_lowest_quarter(call, tmp_path):
    one = write_images(tmp_path / "one", 1, (32, 20))
    status, out, err = call(*EM, "steps=1", folder=one)
    assert status == 0, err
    assert "one image only: its lowest quarter is held out" in err
    assert "1 training images, 1 held out" in out
    tiny = write_images(tmp_path / "tiny", 1, (8, 20))
    status, _, err = call(*EM, folder=tiny, out="other")
    assert status == 2
    assert "too small to hold a quarter of it out" in sentence(err)


def test_score_matching_adopts_its_start_or_refuses(call, tmp_path):
    gm.save(product(3).float(), tmp_path / "product.safetensors")
    words = ["method=score", f"init={tmp_path / 'product.safetensors'}", "steps=1", "crops=4"]
    assert call(*words)[0] == 0
    assert isinstance(gm.load(tmp_path / "run" / "model.safetensors"), gm.PatchModel)
    status, _, err = call(*words, "model=mixture", out="other")
    assert status == 2
    assert sentence(err).endswith("has model=patch; model=mixture was asked for")


def test_keys_without_effect_are_named(call):
    status, _, err = call(*EM, "steps=1", "batch_size=10", "wavelet=haar")
    assert status == 0
    assert "warning: batch_size has no effect with method=em" in err
    assert "warning: wavelet has no effect with method=em, model=mixture" in err


def test_a_full_disk_keeps_the_last_checkpoint(call, tmp_path, monkeypatch):
    save, attempts = Checkpoints.save, []

    def full(self, checkpoint):
        attempts.append(checkpoint.step)
        if checkpoint.step > 5:
            raise OSError(28, "No space left on device", "checkpoints/step")
        save(self, checkpoint)

    monkeypatch.setattr(Checkpoints, "save", full)
    status, _, err = call(*EM, "steps=2")
    assert status == 2
    assert "No space left on device; the checkpoint of step 5 is kept" in sentence(err)
    assert attempts == [1, 2, 3, 4, 5, 6]
    monkeypatch.undo()
    monkeypatch.setattr(plots, "report", lambda *_: None)
    status, out, _ = call("resume=true")
    assert status == 0
    assert "resumed at step 5" in out


def test_a_loss_that_is_no_number(call, tmp_path, monkeypatch):
    initial = product_trainer.noisy_patches

    def broken(pool, settings, generator):
        x, y, sigma = initial(pool, settings, generator)
        broken.calls += 1
        return x, y if broken.calls < 5 else y * float("nan"), sigma

    broken.calls = 0
    monkeypatch.setattr(product_trainer, "noisy_patches", broken)
    status, _, err = call(*words_for("ipalm", tmp_path))
    assert status == 1
    assert "training broke down, step 5" in sentence(err)
    assert "the checkpoint of step 4 is kept" in err
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(("text", "value"), [("25/255", 25 / 255), ("0.1", 0.1), (0, 0.0)])
def test_noise_levels(text, value):
    assert parse(text) == value
    assert parse_noise("noise", text) == value


@pytest.mark.parametrize("text", ["auto", "map", "data/levels.csv"])
def test_what_noise_may_be_besides(text):
    assert parse_noise("noise", text) == text
    with pytest.raises(ValueError, match=f"sigma_max={text} is no noise level"):
        parse(text, "sigma_max")
