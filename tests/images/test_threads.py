"""Parts side by side on threads: in order, to the bit, and threads as they were afterwards."""

import os
import signal
import threading
import time

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.images.patches import interior_average
from gmdm_prior.images.threads import Workers
from gmdm_prior.training import FitSettings
from gmdm_prior.training.data.pool import ImagePool
from gmdm_prior.training.methods import resolved
from gmdm_prior.training.score.image_denoiser import ScoreTrainer

CHECKED = {
    "product": lambda: product(3),
    "product from tables": lambda: product(3).float(),
    "mixture": lambda: mixture(3),
}


@pytest.fixture(params=[2, 3])
def threads(request):
    """So many threads, and one again at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def small_strips(monkeypatch):
    monkeypatch.setattr("gmdm_prior.images.patches.LEAST_NUMBERS", 1)
    monkeypatch.setattr("gmdm_prior.images.patches.NUMBERS_PER_STRIP", 200)


def image(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def seen(monkeypatch):
    """The threads that parts ran on, whoever asks for `in_order`."""
    found, in_order = set(), Workers.in_order

    def watched(self, function, work):
        def traced(*arguments):
            found.add(threading.get_ident())
            time.sleep(0.001)  # so that one thread cannot take them all
            return function(*arguments)

        return in_order(self, traced, work)

    monkeypatch.setattr(Workers, "in_order", watched)
    return found


def test_results_come_in_order_from_all_threads(threads):
    started = set()

    def slow_at_first(i, j):
        started.add(threading.get_ident())
        time.sleep(0.05 if i == 0 else 0.005)
        return i * j

    with Workers() as workers:
        results = list(workers.in_order(slow_at_first, ((i, 3) for i in range(20))))
    assert results == [3 * i for i in range(20)]
    assert len(started) == threads
    assert threading.get_ident() in started


def test_a_part_has_one_thread_and_the_callers_gradient_mode(threads):
    def look(i):
        time.sleep(0.005)
        return torch.get_num_threads(), torch.is_grad_enabled()

    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), Workers() as workers:
            assert torch.get_num_threads() == 1
            assert set(workers.in_order(look, ((i,) for i in range(8)))) == {(1, recorded)}
    assert torch.get_num_threads() == threads


def test_unwanted_or_single_threads_leave_torch_alone(threads):
    with Workers(wanted=False) as workers:
        assert torch.get_num_threads() == threads
        idents = set(workers.in_order(threading.get_ident, [()] * 4))
    assert idents == {threading.get_ident()}
    with Workers(), Workers() as inner:
        assert set(inner.in_order(threading.get_ident, [()] * 4)) == {threading.get_ident()}
    assert torch.get_num_threads() == threads


def test_an_error_is_raised_in_its_place_and_nothing_more_begins(threads):
    begun = []

    def broken(i):
        begun.append(i)
        time.sleep(0.005)
        if i == 3:
            raise RuntimeError("broken part")
        return i

    results = []
    with pytest.raises(RuntimeError, match="broken part"), Workers() as workers:
        results.extend(workers.in_order(broken, ((i,) for i in range(50))))
    assert results == [0, 1, 2]
    assert torch.get_num_threads() == threads
    time.sleep(0.05)
    assert len(begun) < 20


def test_an_error_in_a_strip_reaches_the_caller(threads, small_strips):
    calls = []

    def broken(patches):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("broken strip")
        return patches

    with pytest.raises(RuntimeError, match="broken strip"), Workers() as workers:
        interior_average((image(1, 20, 20),), 3, broken, run=workers.in_order)
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_threads_survive_a_fork(threads):
    def total():
        with Workers() as workers:
            return sum(workers.in_order(lambda i: i, ((i,) for i in range(100))))

    assert total() == 4950  # the parent's threads are awake
    child = os.fork()
    if child == 0:
        os._exit(0 if total() == 4950 else 1)
    end = time.monotonic() + 20
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status == (child, 0)


@pytest.mark.parametrize("kind", sorted(CHECKED))
@pytest.mark.parametrize("method", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
def test_denoisers_give_the_same_bits(kind, method, threads, small_strips, seen):
    model = CHECKED[kind]()
    denoise, y = method(model), image(1, 1, 24, 30).to(model.filters.dtype)
    together = denoise(y, 0.1)
    by_map = denoise(y, 0.1 * torch.ones_like(y))
    assert len(seen) > 1
    assert torch.get_num_threads() == threads
    moving = y.clone().requires_grad_()
    seen.clear()
    denoise(moving, 0.1).sum().backward()
    assert seen == {threading.get_ident()}, "gradients are recorded by one thread"
    torch.set_num_threads(1)
    assert torch.equal(denoise(y, 0.1), together)
    assert torch.equal(denoise(y, 0.1 * torch.ones_like(y)), by_map)


@pytest.mark.parametrize("kind", sorted(CHECKED))
def test_what_inference_mode_leaves_behind_serves_gradients(kind, threads, small_strips):
    """Tables are made once; a tensor made in inference mode cannot be part of a graph."""
    model = CHECKED[kind]()
    denoise, y = gm.PatchAveraging(model), image(1, 1, 24, 30).to(model.filters.dtype)
    with torch.inference_mode():
        expected = denoise(y, 0.1)
    moving = y.clone().requires_grad_()
    result = denoise(moving, 0.1)
    result.sum().backward()
    rounding = 1e-12 if y.dtype == torch.float64 else 1e-6  # gradients take torch's path
    torch.testing.assert_close(result.detach(), expected.clone(), rtol=0, atol=rounding)
    assert torch.isfinite(moving.grad).all()


@pytest.mark.parametrize("method", ["score", "hqs"])
def test_score_matching_gives_the_same_bits(method, threads, seen):
    pool, model = ImagePool.of([image(1, 64, 64).float()]), CHECKED["mixture"]().float()
    settings = resolved(FitSettings(method=method, patch_size=3, crops=12, steps=2))

    def run():
        trainer = ScoreTrainer(pool, settings, model, method)
        losses = [trainer.advance(), trainer.advance()]
        return losses, trainer.model().filters

    losses, filters = run()
    assert len(seen) > 1
    torch.set_num_threads(1)
    alone, filters_alone = run()
    assert losses == alone
    assert torch.equal(filters, filters_alone)
