"""deepinv's fixtures, with bundled pictures for those it downloads, and no network."""

import pytest
import requests
import torch
from peer import ours

deepinv_fixtures = ours.upstream("conftest")
dummy_dataset = deepinv_fixtures.dummy_dataset
imsize_1_channel = deepinv_fixtures.imsize_1_channel
rng = deepinv_fixtures.rng


@pytest.fixture
def device():
    return torch.device("cpu")


@pytest.fixture
def imsize():
    """Smaller than deepinv's 37 x 31: its solvers run up to 1000 steps."""
    return 3, 17, 15


@pytest.fixture
def load_example_image():
    return ours.picture


@pytest.fixture
def test_image():
    return ours.picture("celeba_example.jpg", 64)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Seeded, without a network, and with torch's settings as they were when it ends."""

    def refused(*args, **_):
        raise AssertionError(f"no test may use the network; asked for {args}")

    monkeypatch.setattr(requests, "get", refused)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setattr("deepinv.utils.load_example", ours.picture)
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.use_deterministic_algorithms(deterministic)
