"""Really installed third-party distributions, each in a folder of its own, in a new process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

THIRDPARTY = Path(__file__).parent / "thirdparty"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install `edges` in one folder, `broken` and `duplicate` in another, with pip."""
    folders = []
    for names in (["edges"], ["broken", "duplicate"]):
        target = tmp_path_factory.mktemp("site")
        sources = [tmp_path_factory.mktemp("source") / name for name in names]
        for source in sources:
            shutil.copytree(THIRDPARTY / source.name, source)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--target", target, *sources]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        folders.append(target)
    return folders


def run(folders, *words):
    """A new interpreter that finds the distributions in `folders` beside its own."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_prior_theirs_works(site, photo_file, tmp_path):
    out = tmp_path / "out"
    words = ["restore", "deblur", "prior=theirs", "prior.strength=4", f"image={photo_file}"]
    words += ["solver.name=gd", "solver.max_iter=20", f"out={out}"]
    done = run(site[:1], "-m", "deepinv_gmdm", *words)
    assert done.returncode == 0, done.stderr
    assert (out / "restored.png").is_file()
    assert "name: theirs" in (out / "config.yaml").read_text()


def test_broken_ones_are_blamed_only_when_asked_for(site, photo_file, tmp_path):
    """One process: list all, ask for a sound one, then for those that are broken."""
    common = ["restore", "deblur", f"image={photo_file}", "solver.max_iter=1"]
    calls = [
        ["plugins"],
        [*common, "prior=tv", f"out={tmp_path / 'sound'}"],
        [*common, "prior=crumbling", f"out={tmp_path / 'broken'}"],
        [*common, "prior=theirs", f"out={tmp_path / 'broken'}"],
    ]
    code = f"from deepinv_gmdm.command.main import main; print([main(call) for call in {calls!r}])"
    done = run(site, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2]"
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "acme_broken" in lines["crumbling"]
    assert "the roof is leaking and the door is stuck" in lines["crumbling"]
    assert "acme_nowhere" in lines["missing"]
    assert "NoSuchPrior" in lines["nameless"]
    assert "registered twice" in lines["theirs"]
    assert ["median", "acme_edges", "ok"] in [line.split() for line in done.stdout.splitlines()]
    assert lines["gmdm"].endswith("ok")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in errors[0] for word in ("'crumbling'", "'acme_broken'", "roof is leaking"))
    assert all(word in errors[1] for word in ("'theirs'", "'acme_edges'", "'rival_edges'"))
    assert "Traceback" not in done.stderr
    assert (tmp_path / "sound" / "restored.png").is_file()
    assert not (tmp_path / "broken").exists()
