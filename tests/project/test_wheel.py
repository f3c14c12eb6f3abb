"""A really built wheel, installed away from the checkout: weights, configs, entry points."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs the checkout")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter with the wheel installed; everything else it borrows from this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    interpreter = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([interpreter, "-c", show], capture_output=True, text=True, check=True)
    site = Path(own.stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # After the wheel's own files; without the editable install's hook, which a .pth cannot nest.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(python, folder, *words):
    return subprocess.run(
        [python, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_what_it_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "gmdm_prior/py.typed",
        "deepinv_gmdm/py.typed",
        "gmdm_prior/weights/gray.safetensors",
        "gmdm_prior/weights/gray.md",
        "deepinv_gmdm/configs/deblur.yaml",
    ):
        assert name in names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "shared/"))]
    assert max(i.file_size for i in zipfile.ZipFile(wheel).infolist()) < 1_000_000


def test_weights_load_away_from_the_checkout(python, tmp_path):
    code = (
        "import gmdm_prior as gm, torch; print(gm.__file__); m = gm.load('gray');"
        "print(gm.PatchAveraging(m)(torch.rand(1, 1, 16, 16), 0.1).shape)"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert "[1, 1, 16, 16]" in done.stdout


def test_entry_points_are_found_and_used(python, tmp_path):
    code = (
        "import deepinv_gmdm as d; print(d.__file__);"
        "print(type(d.build_prior('gmdm')).__name__, type(d.build_denoiser('gmdm')).__name__)"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert "GMDMPrior GMDMDenoiser" in done.stdout
    listed = run(python, tmp_path, "-m", "deepinv_gmdm", "plugins")
    assert listed.returncode == 0, listed.stderr
    assert "gmdm" in listed.stdout


def test_a_bundled_config_restores_a_bundled_picture(python, tmp_path):
    words = ["-m", "deepinv_gmdm", "restore", "deblur", "out=result"]
    done = run(python, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    for name in ("restored.png", "comparison.png", "config.yaml", "metrics.json"):
        assert (tmp_path / "result" / name).is_file()
