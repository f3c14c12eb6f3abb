"""The compiled loop that reads tables of experts, against torch, and where torch does it."""

import logging
import math

import pytest
import torch
from models import product

import gmdm_prior as gm
from gmdm_prior.fast import product_tables
from gmdm_prior.fast.kernels import llvm as vector_code
from gmdm_prior.fast.kernels import tables as fused_tables
from gmdm_prior.fast.kernels.tables import read_table

CELLS = 3, 20  # cells of a table of 24 that may be read
needs_llvmlite = pytest.mark.skipif(not vector_code.installed(), reason="needs llvmlite >= 0.45")


def case(count=100, rows=3, seed=0):
    """A table, responses at places 3 to 20, scales and offsets."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, 25, generator=g)
    scale = 10 * torch.rand(rows, 1, generator=g) + 1
    offset = 4 * torch.rand(rows, 1, generator=g) + 9
    places = 3 + 16.99 * torch.rand(rows, count, generator=g)
    return table, (places - offset) / scale, scale, offset


def slowly(table, z, scale, offset):
    """Number by number, in Python's floats."""
    out = torch.empty(z.shape, dtype=torch.float64)
    for j, row in enumerate(z.tolist()):
        for i, value in enumerate(row):
            place = value * scale[j].item() + offset[j].item()
            cell = math.floor(place)
            left, right = table[j, cell].item(), table[j, cell + 1].item()
            out[j, i] = left + (place - cell) * (right - left)
    return out


@needs_llvmlite
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("count", [16, 17, 31, 100])
def test_agrees_with_numbers_one_by_one(lanes, count, monkeypatch):
    if lanes > vector_code.host().lanes:
        pytest.skip("this CPU has no such registers")
    target = vector_code.Host(vector_code.host().features, lanes)
    kernel = fused_tables.Kernel(*CELLS, target)
    monkeypatch.setattr(fused_tables, "compiled", lambda *_: kernel)
    given = case(count)
    before = [t.clone() for t in given]
    found = read_table(*given, CELLS)
    torch.testing.assert_close(found.double(), slowly(*given), rtol=0, atol=3e-5)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@needs_llvmlite
def test_nodes_give_their_values():
    table, _, scale, offset = case()
    z = (torch.arange(3, 19).expand(3, -1) + 0.001 - offset) / scale
    assert (read_table(table, z, scale, offset, CELLS) - table[:, 3:19]).abs().max() < 0.01


@needs_llvmlite
@pytest.mark.parametrize("where", [0, 15, 16, 99])
@pytest.mark.parametrize("place", [2.99, 20.0, -1e9, 1e9, math.inf, -math.inf, math.nan])
def test_torch_does_where_one_response_lies_outside(place, where):
    table, z, scale, offset = case()
    assert read_table(table, z, scale, offset, CELLS) is not None
    z[1, where] = (place - offset[1]) / scale[1]
    assert read_table(table, z, scale, offset, CELLS) is None


REASONS = {
    "float64": lambda t, z, s, o: (t.double(), z.double(), s.double(), o.double()),
    "a gradient": lambda t, z, s, o: (t, z.requires_grad_(), s, o),
    "not on the CPU": lambda t, z, s, o: (t, z.to("meta"), s, o),
    "strided responses": lambda t, z, s, o: (t, z.repeat_interleave(2, 1)[:, ::2], s, o),
    "few responses": lambda t, z, s, o: (t, z[:, :3].contiguous(), s, o),
    "no experts": lambda t, z, s, o: (t[:0], z[:0], s[:0], o[:0]),
}


@pytest.mark.parametrize("reason", REASONS)
def test_torch_does(reason):
    assert read_table(*REASONS[reason](*case()), CELLS) is None


@pytest.fixture
def no_kernels():
    fused_tables.compiled.cache_clear()
    yield
    fused_tables.compiled.cache_clear()


@needs_llvmlite
def test_torch_does_where_compiling_fails_and_it_is_logged(no_kernels, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no such target")

    monkeypatch.setattr(fused_tables, "Kernel", fail)
    with caplog.at_level(logging.WARNING):
        assert read_table(*case(), CELLS) is None
    assert "no such target" in caplog.text


@needs_llvmlite
@pytest.mark.parametrize("make", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
def test_images_are_those_of_torch(make, monkeypatch):
    """With `bright` a response lies in the tails, and torch reads that strip."""
    model = product(3).float()
    image = torch.rand(1, 1, 24, 25, generator=torch.Generator().manual_seed(0))
    bright = image.clone()
    bright[..., 3, 4] = 40
    used = []

    def counted(*args):
        used.append(read_table(*args) is not None)
        return read_table(*args)

    monkeypatch.setattr(product_tables, "read_table", counted)
    fast = [make(model)(x, 0.1) for x in (image, bright)]
    assert True in used
    assert False in used
    monkeypatch.setattr(product_tables, "read_table", lambda *_: None)
    for x, found in zip((image, bright), fast, strict=True):
        torch.testing.assert_close(found, make(model)(x, 0.1), rtol=0, atol=2e-6)
