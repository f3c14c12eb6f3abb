"""Shared by the adapter's tests: a small picture, a command line run in this process."""

from pathlib import Path

import pytest
import torch
from deepinv_gmdm import registry
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.main import main

from gmdm_prior.files.pictures import read_picture, save_picture

THIRDPARTY = Path(__file__).parent / "thirdparty"


@pytest.fixture(scope="session")
def photo():
    """A 40 x 48 crop of a photograph, (1, 1, 40, 48), float32."""
    return read_picture(shipped("images") / "camera.png")[0][..., 60:100, 80:128].clone()


@pytest.fixture
def photo_file(photo, tmp_path):
    path = tmp_path / "photo.png"
    save_picture(photo, path)
    return path


@pytest.fixture
def command(capsys):
    """Run the command line; gives exit status, standard output and standard error."""

    def run(*words):
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def refused(command):
    """Run a command that must fail with status 2 and one sentence; gives the sentence."""

    def run(*words):
        status, _, error = command(*words)
        assert status == 2, error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return run


@pytest.fixture
def fresh_registry():
    """Entry points are read anew in this test, and forgotten after it."""
    registry.refresh()
    yield registry
    registry.refresh()


@pytest.fixture
def noisy(photo):
    return photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
