"""Training by torchrun in two processes: the loss curve and the model of one."""

import csv
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.training import processes

EM = ["patch_size=4", "bases=2", "classes=5", "components=12", "steps=4", "patches=5000"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six smooth pictures with edges."""
    folder = tmp_path_factory.mktemp("photos")
    g = np.random.default_rng(0)
    for i in range(6):
        walk = g.normal(size=(48, 56)).cumsum(0).cumsum(1)
        picture = 128 + 100 * np.sin(walk / 15) * np.sign(np.sin(walk / 40 + i))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def train(*words, count=1, expect=0):
    """`python -m gmdm_prior.train` in that many processes; what it said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    done = subprocess.run(
        [sys.executable, *(launcher if count > 1 else []), "-m", "gmdm_prior.train", *words],
        capture_output=True,
        text=True,
        timeout=200,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
    )
    assert (done.returncode == 0) == (expect == 0), done.stderr
    return done


def curve(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name):
    return [float(row[name]) for row in curve(folder) if row[name]]


def test_em_of_two_processes_is_that_of_one(photos, tmp_path):
    """Sums of float64 in another order."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = [f"data={photos}", "holdout=3", *EM]
    train(*words, f"out={one}")
    said = train(*words, f"out={two}", count=2)
    for name in ("loss", "held_out_loss", "psnr"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-6)
    first, second = gm.load(one / "model.safetensors"), gm.load(two / "model.safetensors")
    # the same density; filters along which a class varies alike may be turned in their plane
    x = 0.2 * torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        first.log_prob(x, 0.05), second.log_prob(x, 0.05), rtol=1e-3, atol=1e-3
    )
    assert said.stdout.count("training images") == 1  # one process speaks
    assert {f.name for f in two.iterdir()} == {f.name for f in one.iterdir()}


def test_score_matching_of_two_processes_is_that_of_one(photos, tmp_path):
    """Gradients are float32 sums in another order, and Adam divides by their size."""
    start = tmp_path / "start"
    train(f"data={photos}", "holdout=3", *EM, f"out={start}")
    words = [f"data={photos}", "holdout=3", "method=score", "steps=6", "crops=8"]
    words += [f"init={start / 'model.safetensors'}", "measure_every=3"]
    one, two = tmp_path / "one", tmp_path / "two"
    train(*words, f"out={one}")
    train(*words, f"out={two}", count=2)
    assert column(two, "loss") == pytest.approx(column(one, "loss"), rel=1e-4)
    assert column(two, "psnr") == pytest.approx(column(one, "psnr"), abs=2e-3)


def test_two_processes_go_on_from_a_checkpoint_of_one(photos, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [f"data={photos}", "holdout=3", *EM]
    train(*words, f"out={whole}")
    train(*words, f"out={cut}")
    for path in sorted((cut / "checkpoints").iterdir())[1:]:
        path.unlink()  # only an earlier one is left
    said = train(f"out={cut}", "resume=true", count=2)
    assert said.stdout.count("resumed at step") == 1
    assert column(cut, "loss")[-1] == pytest.approx(column(whole, "loss")[-1], rel=1e-6)


def test_an_occupied_folder_is_refused_once(photos, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    said = train(f"data={photos}", *EM, f"out={tmp_path / 'there'}", count=2, expect=2)
    assert said.stderr.count("is occupied") == 1


def test_ipalm_is_refused_with_the_remedy(photos, tmp_path):
    words = [f"data={photos}", "model=patch", "steps=1", f"out={tmp_path / 'out'}"]
    said = train(*words, count=2, expect=2)
    assert "takes one process; there are 2. Start it without torchrun" in said.stderr


def test_one_process_keeps_everything():
    x = torch.arange(5)
    assert processes.share(x) is x
    assert processes.summed([x])[0] is x
    assert processes.summed_numbers(1.5, 2) == (1.5, 2)
    assert processes.from_first(lambda: 3) == 3
    assert processes.is_first()
