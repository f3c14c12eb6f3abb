"""One evaluator: tables are made once, kept within a bound, right for every caller, not stale."""

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from models import mixture, opponents, product

import gmdm_prior as gm
from gmdm_prior.fast import cache as table_cache
from gmdm_prior.fast import choose
from gmdm_prior.fast.cache import TableCache
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.fast.kernels import llvm


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def built(monkeypatch):
    """The tables of products that have been built."""
    count, make = [], choose.TabulatedExperts

    def counted(*args, **options):
        count.append(1)
        return make(*args, **options)

    monkeypatch.setattr(choose, "TabulatedExperts", counted)
    return count


def test_hqs_builds_a_table_for_each_level_once_for_all_images(built):
    hqs = gm.HalfQuadraticSplitting(product(3).float())
    images = image(3, 2, 9, 10)
    hqs(images, 0.1)
    assert len(built) == 12  # four steps at three scales
    hqs(images, 0.1)
    assert len(built) == 12
    hqs(images, 0.25)
    assert len(built) == 24


def test_hqs_of_colours_finds_its_tables_again(built):
    """Three planes at twelve levels are thirty-six tables, all of one density."""
    model = gm.OpponentModel(product(3).float(), scales=(1.5, 0.6, 0.4))
    hqs, y = gm.HalfQuadraticSplitting(model), image(1, 3, 9, 10)
    hqs(y, 0.1)
    assert len(built) == 36
    hqs(y, 0.1)
    assert len(built) == 36


def test_hqs_prepares_a_mixture_once_and_its_kernel_for_each_level(monkeypatch):
    prepared, tables, prepare = [], [], gm.PatchMixture.at
    monkeypatch.setattr(gm.PatchMixture, "at", lambda *args: prepared.append(1) or prepare(*args))
    make = choose.fused

    def counted(level, like, keep):
        return make(level, like, lambda new: keep(lambda: tables.append(1) or new()))

    monkeypatch.setattr(choose, "fused", counted)
    hqs = gm.HalfQuadraticSplitting(mixture(4).float())
    for _ in range(2):
        hqs(image(3, 2, 9, 10), 0.1)
        assert len(prepared) == 1
        assert len(tables) == (8 if llvm.installed() else 0)


MAKE = {
    "product": lambda seed=0: product(3, seed=seed).float(),
    "mixture": lambda seed=0: mixture(4, seed=seed).float(),
}


@pytest.mark.parametrize("change", ["in place", "behind autograd", "replaced", "loaded", "another"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_changed_model_gets_new_tables(kind, change):
    model, other = MAKE[kind](), MAKE[kind](5)
    average, y = gm.PatchAveraging(model), image(1, 1, 9, 9)
    before = average(y, 0.1)
    owner, name = (model.experts, "logits") if kind == "product" else (model, "variances")
    new = other.get_parameter("experts.logits" if kind == "product" else "variances")
    with torch.no_grad():
        if change == "in place":
            getattr(owner, name).copy_(new)
        elif change == "behind autograd":  # no version counter sees it
            getattr(owner, name).data[1:] = new[1:]
        elif change == "replaced":
            setattr(owner, name, torch.nn.Parameter(new.clone(), False))
        elif change == "loaded":
            model.load_state_dict(other.state_dict())
        else:
            average.model = other
    after = average(y, 0.1)
    fresh = gm.PatchAveraging(copy.deepcopy(average.model))(y, 0.1)
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(after, fresh)


def test_types_do_not_share_tables():
    model = product(3)
    average = gm.PatchAveraging(model)
    assert average(image(1, 1, 9, 9), 0.1).dtype == torch.float32
    y = image(1, 1, 9, 9).double()
    exact = gm.PatchAveraging(copy.deepcopy(model))(y, 0.1)
    assert torch.equal(average(y, 0.1), exact)
    evaluator, noise, patches = Evaluator(), torch.tensor(0.01), y[..., :3, :3].reshape(1, 9)
    for single in (True, False):  # tables, of a level of the same value
        n, p = (noise, patches.float()) if single else (noise.double(), patches)
        fresh = Evaluator().level(model, n).posterior_mean(p)
        assert torch.equal(evaluator.level(model, n).posterior_mean(p), fresh)


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(table_cache, "LIMIT", 100)
    cache, model, other = TableCache(), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def get(key, size=40, of=model):
        return cache.get(of, key, lambda: SimpleNamespace(name=key, bytes=size))

    first = get("a")
    get("b", of=other)
    assert get("a") is first
    get("c")  # drops b, which was used longest ago
    assert cache.bytes == 80
    assert get("a") is first
    assert get("large", 500).name == "large"  # kept alone, however large
    assert cache.bytes == 500
    assert get("a") is not first
    cache.clear()
    assert cache.bytes == 0


def test_memory_is_bounded_over_many_levels(monkeypatch):
    monkeypatch.setattr(table_cache, "LIMIT", 2**20)
    average, y = gm.PatchAveraging(product(3).float()), image(1, 1, 9, 9)
    for i in range(30):
        average(y, 0.1 + 0.001 * i)
        assert average._evaluator.bytes <= 2**20 + 8 * 7169 * 4  # with the last level's table


@pytest.mark.parametrize("make", [gm.PatchAveraging, gm.HalfQuadraticSplitting, gm.PatchLikelihood])
def test_copies_and_pickles_hold_no_tables(make):
    operator = make(product(3).float())
    call = "score" if make is gm.PatchLikelihood else "forward"
    expected = getattr(operator, call)(image(1, 1, 9, 9), 0.1)
    assert operator._evaluator.bytes > 0
    for other in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert other._evaluator.bytes == 0
        assert torch.equal(getattr(other, call)(image(1, 1, 9, 9), 0.1), expected)
    operator._evaluator.forget()
    assert operator._evaluator.bytes == 0


@pytest.mark.parametrize("kind", MAKE)
def test_tables_go_with_their_owner_and_keep_no_model_alive(kind):
    model = MAKE[kind]()
    average = gm.PatchAveraging(model)
    average(image(1, 1, 9, 9), 0.1)
    level = average._evaluator.level(model, torch.tensor(0.01))
    table = weakref.ref(level.experts if kind == "product" else level.bases[0])
    del level
    assert table() is not None
    del average
    gc.collect()
    assert table() is None
    average, seen = gm.PatchAveraging(model), weakref.ref(model)
    average(image(1, 1, 9, 9), 0.1)
    average.model = None
    del model
    gc.collect()
    assert seen() is None
    assert average._evaluator.bytes == 0


@pytest.mark.filterwarnings("error")
@torch.no_grad()
def test_tables_of_a_model_that_is_trained_record_no_gradients():
    """Leaving inference mode inside the cache turns gradients on, and a graph would be kept."""
    model = mixture().float().requires_grad_(True)
    made = TableCache().get(
        model, "key", lambda: SimpleNamespace(bytes=1, recorded=torch.is_grad_enabled())
    )
    assert not made.recorded
    restored = gm.HalfQuadraticSplitting(model, stride=2)(image(1, 1, 24, 24), 0.1)
    assert torch.isfinite(restored).all()


def test_a_table_keeps_the_mean_part_of_its_model():
    for make in MAKE.values():
        model = make()
        average, y = gm.PatchAveraging(model), image(1, 1, 9, 9)
        flat = average(y, 0.5)
        proper = gm.PatchAveraging(model.with_mean(0.01))(y, 0.5)
        assert (flat - proper).abs().max() > 1e-2
        model.mean_part = model.with_mean(0.01).mean_part
        assert torch.equal(average(y, 0.5), proper)


OPERATORS = {
    "hqs, product": lambda: gm.HalfQuadraticSplitting(product(2).float()),
    "hqs, mixture": lambda: gm.HalfQuadraticSplitting(mixture(4).float()),
    "hqs, colours": lambda: gm.HalfQuadraticSplitting(opponents().float()),
    "average, product": lambda: gm.PatchAveraging(product(3).float()),
    "likelihood, product": lambda: gm.PatchLikelihood(product(3).float()).score,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_threads_may_share_an_operator(name, monkeypatch):
    """Eight threads, levels and sizes that differ, and a bound that drops tables all the time."""
    monkeypatch.setattr(table_cache, "LIMIT", 2**20)
    call, channels = OPERATORS[name](), 3 if "colours" in name else 1
    jobs = [(image(1, channels, 9 + i % 3, 10, seed=i), 0.05 + 0.01 * (i % 4)) for i in range(9)]
    jobs += [(y, s * torch.linspace(1, 2, 10).expand_as(y)) for y, s in jobs[:2]]
    expected = [OPERATORS[name]()(y, sigma) for y, sigma in jobs]
    begin = threading.Barrier(8)

    def run(first):
        begin.wait()
        order = [(first * 5 + i) % len(jobs) for i in range(10)]
        return all(torch.equal(call(*jobs[i]), expected[i]) for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))
