import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FOLDERS = ("laws", "densities", "training", "../benchmarks")
sys.path[:0] = [str(HERE), *(str((HERE / d).resolve()) for d in FOLDERS)]

RESEARCH_DATA = Path(os.environ.get("GMDM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tensors here are tiny: two threads would only wait for each other."""
    threads, inherited = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = inherited or "1"  # for the processes that tests start
    yield
    torch.set_num_threads(threads)
    if inherited is None:
        del os.environ["OMP_NUM_THREADS"]


@pytest.fixture(autouse=True)
def _no_gradients_left_off():
    """Every test starts with gradients on, whatever ran before."""
    with torch.enable_grad():
        yield


@pytest.fixture(scope="session")
def shared():
    """The research data beside a checkout; what needs it says so and skips."""
    if not RESEARCH_DATA.is_dir():
        pytest.skip("needs the research data (folder `shared` beside the checkout, or GMDM_SHARED)")
    return RESEARCH_DATA
