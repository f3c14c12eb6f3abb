"""A run holds its folder: a second one is refused, dead ones leave nothing in the way."""

import os
import re
import subprocess
import sys

import pytest
from training_examples import write_images

from gmdm_prior import train
from gmdm_prior.training import Checkpoints
from gmdm_prior.training.checkpoint import FORMAT, Checkpoint, remove_parts
from gmdm_prior.training.run.folder import RunFolder

WORDS = ["patch_size=3", "bases=1", "classes=2", "components=4", "patches=300", "steps=1"]
HOLDER = """
import sys
from pathlib import Path
from gmdm_prior.training.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command line in this process: exit status and error output."""
    monkeypatch.setattr("gmdm_prior.pictures.report.report", lambda *_: None)
    data = write_images(tmp_path / "data")

    def run(*words, out="run"):
        status = train.main([f"data={data}", f"out={tmp_path / out}", *WORDS, *words])
        return status, capsys.readouterr().err

    return run


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_changes_nothing(call, holder, tmp_path):
    before = (tmp_path / "run" / "lock").read_text()
    assert before.startswith(f"process {holder.pid} on ")
    for words in ([], ["resume=true"]):
        status, err = call(*words)
        assert status == 2
        sentence = err.splitlines()[-1]
        assert f"run is in use: {before.strip()} is training there; wait" in sentence
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"lock"}
    assert (tmp_path / "run" / "lock").read_text() == before


def test_the_lock_of_a_killed_process_is_taken_over(call, holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / "lock").exists()
    status, err = call()
    assert status == 0, err
    assert not (tmp_path / "run" / "lock").exists()


def test_two_runs_of_one_process_exclude_each_other_too(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(ValueError, match="in use: process"), folder.held():
        pass
    with folder.held():
        assert not folder.occupied()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "full"), ValueError])
def test_the_lock_is_released_on_every_way_out(call, tmp_path, monkeypatch, error):
    seen = []

    def broken(self, record):
        seen.append((tmp_path / "run" / "lock").exists())
        raise error

    monkeypatch.setattr(RunFolder, "add", broken)
    status, err = call()
    assert status == (130 if error is KeyboardInterrupt else 2)
    assert len(err.strip().splitlines()[-1]) < 250
    assert "Traceback" not in err
    assert seen == [True]
    assert not (tmp_path / "run" / "lock").exists()


def test_bad_input_leaves_no_empty_folders(call, tmp_path):
    assert call("method=score", "init=nowhere", out="new/run")[0] == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert call("method=score", "init=nowhere", out="mine")[0] == 2
    assert (tmp_path / "mine").exists()


def test_only_what_dead_processes_have_left_is_removed(holder, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = tmp_path / f"metrics.csv.{holder.pid}.part"
    for path in (living, tmp_path / "some.part", tmp_path / f"step-1.pt.{dead.pid}.part"):
        path.touch()
    remove_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"run", living.name, "some.part"}


def test_a_run_and_a_checkpoint_remove_what_dead_processes_have_left(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.folder.mkdir(parents=True)
    name = f"step-00000007.pt.{dead.pid}.part"
    for place in (folder.path, folder.checkpoints.folder):
        (place / name).touch()
    with folder.held():
        left = {p.name for p in folder.path.rglob("*")}
    assert left == {"checkpoints", "lock"}
    (folder.checkpoints.folder / name).touch()
    folder.checkpoints.save(Checkpoint(1, {}, {}))
    assert [p.name for p in folder.checkpoints.folder.iterdir()] == ["step-00000001.pt"]


def test_a_full_disk_is_named_with_the_file(call, tmp_path, monkeypatch):
    """Writing raises errors that name no file."""

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    status, err = call()
    assert status == 2
    folder = re.escape(str(tmp_path / "run"))
    assert re.search(rf"error: {folder}/\S+: No space left on device; no checkpoint", err)


def test_a_row_that_cannot_be_written_is_named_with_the_file(tmp_path, monkeypatch):
    from gmdm_prior.training.run import folder as module

    with pytest.raises(OSError, match="No space left") as caught, module.named(tmp_path / "x.csv"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.csv")
    with pytest.raises(FileNotFoundError) as caught, module.named(tmp_path / "x.csv"):
        open(tmp_path / "gone.csv")
    assert caught.value.filename == str(tmp_path / "gone.csv")


def test_a_run_of_an_earlier_version_is_refused(call, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr("gmdm_prior.training.checkpoint.FORMAT", "gmdm-prior training/1")
        Checkpoints(tmp_path / "run" / "checkpoints").save(Checkpoint(3, {}, {}))
    status, err = call("resume=true")
    assert status == 2
    assert f"is of another version of gmdm_prior (gmdm-prior training/1, not {FORMAT})" in err


def test_too_little_memory_is_one_sentence(call, monkeypatch):
    def too_large(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr("gmdm_prior.training.run.job.split", too_large)
    status, err = call()
    assert status == 2
    assert err.startswith("error: out of memory")
    monkeypatch.setattr(
        "gmdm_prior.training.run.job.split", lambda *_: (_ for _ in ()).throw(RuntimeError("bug"))
    )
    with pytest.raises(RuntimeError, match="bug"):  # a fault of ours shows where it is
        call()
