"""Tables are made once, kept within a bound, and never outlive their parameters."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.densities.experts import Mixture1D
from gmdm_prior.fast import cache as table_cache
from gmdm_prior.fast.cache import TableCache


@pytest.fixture
def built(monkeypatch):
    """The number of tables that have been built."""
    count, build = [], Mixture1D.tabulate

    def counted(self, reach):
        count.append(1)
        return build(self, reach)

    monkeypatch.setattr(Mixture1D, "tabulate", counted)
    return count


def test_hqs_builds_a_table_for_each_level_once_for_all_images(built):
    hqs = gm.HalfQuadraticSplitting(product(3).float())
    images = torch.rand(3, 2, 9, 10)
    hqs(images, 0.1)
    assert len(built) == 8  # four steps at two scales
    hqs(images, 0.1)
    assert len(built) == 8
    hqs(images, 0.25)
    assert len(built) == 16


def test_hqs_prepares_a_mixture_for_each_level_once_for_all_images(monkeypatch):
    count, prepare = [], gm.PatchMixture.at
    monkeypatch.setattr(gm.PatchMixture, "at", lambda *args: count.append(1) or prepare(*args))
    hqs = gm.HalfQuadraticSplitting(mixture(4).float())
    images = torch.rand(3, 2, 9, 10)
    hqs(images, 0.1)
    assert len(count) == 8  # four steps at two scales
    hqs(images, 0.1)
    assert len(count) == 8


@pytest.mark.parametrize("change", ["in place", "behind autograd", "replaced", "loaded"])
def test_a_changed_model_gets_new_tables(change):
    model, other = product(3).float(), product(3, seed=5).float()
    average, y = gm.PatchAveraging(model), torch.rand(1, 1, 9, 9)
    before = average(y, 0.1)
    with torch.no_grad():
        if change == "in place":
            model.experts.logits.copy_(other.experts.logits)
        elif change == "behind autograd":
            model.experts.logits.data[0] += torch.linspace(-3, 3, 9)[
                : model.experts.logits.shape[1]
            ]
        elif change == "replaced":
            model.experts.logits = torch.nn.Parameter(other.experts.logits.clone(), False)
        else:
            model.load_state_dict(other.state_dict())
    after = average(y, 0.1)
    fresh = gm.PatchAveraging(copy.deepcopy(model))(y, 0.1)
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(after, fresh)


def test_types_do_not_share_tables():
    model = product(3)
    average = gm.PatchAveraging(model)
    assert average(torch.rand(1, 1, 9, 9), 0.1).dtype == torch.float32
    y = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    exact = gm.PatchAveraging(copy.deepcopy(model))(y, 0.1)
    assert torch.equal(average(y, 0.1), exact)
    noise, patches = torch.tensor(0.01), y[..., :3, :3].reshape(1, 9)
    for single in (True, False):  # tables, of a level of the same value
        n, p = (noise, patches.float()) if single else (noise.double(), patches)
        fresh = copy.deepcopy(model).tabulated_at(n).posterior_mean(p)
        assert torch.equal(model.tabulated_at(n).posterior_mean(p), fresh)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(table_cache, "LIMIT", 100)
    cache, parameters = TableCache(), [torch.zeros(3)]

    def get(key, size=40):
        return cache.get(parameters, key, lambda: SimpleNamespace(name=key, bytes=size))

    first = get("a")
    get("b")
    assert get("a") is first
    get("c")  # drops b, which was used longest ago
    assert cache.bytes == 80
    assert get("a") is first
    assert get("large", 500).name == "large"  # kept alone, however large
    assert cache.bytes == 500
    assert get("a") is not first


def test_copies_and_pickles_hold_no_tables():
    model = product(3)
    gm.PatchAveraging(model)(torch.rand(1, 1, 9, 9), 0.1)
    assert model._tables.bytes > 0
    assert copy.deepcopy(model)._tables.bytes == 0
    assert pickle.loads(pickle.dumps(model))._tables.bytes == 0


def test_a_table_keeps_the_mean_part_of_its_model():
    model = product(3)
    y = torch.rand(1, 1, 9, 9)
    flat = gm.PatchAveraging(model)(y, 0.5)
    proper = gm.PatchAveraging(model.with_mean(0.01))(y, 0.5)
    assert (flat - proper).abs().max() > 1e-2
    model.mean_part = model.with_mean(0.01).mean_part
    assert torch.equal(gm.PatchAveraging(model)(y, 0.5), proper)
