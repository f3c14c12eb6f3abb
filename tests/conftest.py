import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests import models.py and reference.py

RESEARCH_DATA = Path(os.environ.get("GMDM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


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
