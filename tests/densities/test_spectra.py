"""Disjoint spectra: the projection onto them, and the bank on images of other sizes."""

import itertools
import math

import pytest
import torch

from gmdm_prior.constraints import (
    disjoint_spectra,
    filters_of_spectra,
    project_disjoint,
    zero_mean_basis,
)
from gmdm_prior.densities.convolutional.spectra import polar_bands, sample_bands

GRID = 4
FREE = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 1)]  # of the plane


def random_filters(count, size, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, size, size, generator=g, dtype=torch.float64)


def dct_filters(size):
    return zero_mean_basis(1, size).reshape(-1, 1, size, size)


def plane(filters):
    return torch.fft.fft2(torch.fft.ifftshift(filters[:, 0], (-2, -1)))


@pytest.mark.parametrize(
    ("filters", "grid"),
    [(random_filters(5, 8), 8), (random_filters(3, 5), 8), (dct_filters(3), 16)],
)
def test_spectra_are_disjoint_constant_and_of_real_zero_mean_filters(filters, grid):
    owner, _, magnitude = disjoint_spectra(filters, grid)
    projected = project_disjoint(filters, grid)
    assert projected.shape == (len(filters), 1, grid, grid)
    spectra = plane(projected).abs()
    own = spectra > 1e-9
    covered = torch.ones(grid, grid, dtype=torch.int64)
    covered[0, 0] = 0
    assert torch.equal(own.sum(0), covered)  # one filter everywhere, none at zero
    assert torch.equal(
        own[:, :, : grid // 2 + 1].long().argmax(0)[covered[:, : grid // 2 + 1] > 0],
        owner[covered[:, : grid // 2 + 1] > 0],
    )
    expected = magnitude[:, None, None] * own
    torch.testing.assert_close(spectra, expected, rtol=0, atol=1e-10)
    assert projected.mean((-2, -1)).abs().max() < 1e-14


def test_keeps_phase_and_takes_the_mean_magnitude():
    filters = random_filters(4, 8)
    raw, kept = plane(filters), plane(project_disjoint(filters))
    own = kept.abs() > 1e-9
    for j in range(4):
        turn = (kept[j] * raw[j].conj())[own[j]]
        assert (turn.angle()).abs().max() < 1e-9
        magnitude = kept[j].abs()[own[j]]
        torch.testing.assert_close(magnitude, raw[j].abs()[own[j]].mean().expand_as(magnitude))


@pytest.mark.parametrize("filters", [random_filters(5, 8), project_disjoint(dct_filters(3), 16)])
def test_is_idempotent(filters):
    once = project_disjoint(filters)
    torch.testing.assert_close(project_disjoint(once), once, rtol=0, atol=1e-12)


def brute_force(filters):
    """Least distance over all owners of the nine free frequencies of a 4 x 4 grid."""
    magnitude = plane(filters).abs()
    values = torch.stack([magnitude[:, a, b] for a, b in FREE], 1)  # (2, 9)
    double = torch.tensor([1.0 if (2 * a) % 4 == (2 * b) % 4 == 0 else 2.0 for a, b in FREE])
    best = math.inf
    for choice in itertools.product((0, 1), repeat=len(FREE)):
        owner = torch.tensor(choice)
        kept = 0.0
        for j in (0, 1):
            held = (owner == j) * double
            if held.sum() == 0:
                break
            kept += ((values[j] * held).sum() ** 2 / held.sum()).item()
        else:
            best = min(best, (magnitude.square().sum() - kept).item())
    return best / GRID**2


def test_is_the_nearest_of_all_supports_on_a_small_grid():
    """Never nearer than all 2^9 supports (feasible), and mostly as near: alternation is local."""
    reached = 0
    for seed in range(25):
        filters = random_filters(2, GRID, seed)
        distance = (filters - project_disjoint(filters)).square().sum().item()
        best = brute_force(filters)
        assert distance > best - 1e-9
        reached += distance < best + 1e-9
        largest = (filters - project_disjoint(filters, steps=1)).square().sum().item()
        assert distance < largest + 1e-12
    assert reached >= 20


def test_alternation_improves_on_the_largest_magnitude():
    """A weak filter that is barely the largest where it is outvoted by its own mean."""
    filters = random_filters(6, 12, 3)
    filters[0] *= 1.8
    distances = [
        (filters - project_disjoint(filters, steps=n)).square().sum().item() for n in (1, 2, 50)
    ]
    assert distances[2] <= distances[1] < distances[0] - 1e-3


def test_ties_go_to_the_first_filter():
    filters = random_filters(2, 6)
    same = torch.cat([filters, filters[:1] * (1 + 1e-13)])
    with pytest.raises(ValueError, match=r"filters \[2\]"):
        disjoint_spectra(same)
    turned = torch.stack([dct_filters(3)[k] for k in (0, 2)])  # mirror images of one another
    owner = disjoint_spectra(turned, 16, steps=1)[0]
    diagonal = torch.arange(1, 9)
    assert (owner[diagonal, diagonal] == 0).all()


@pytest.mark.parametrize(
    ("filters", "grid", "match"),
    [
        (torch.zeros(2, 3, 4, 4), None, "J, 1, b, b"),
        (torch.zeros(2, 1, 5, 5), None, "even"),
        (torch.zeros(2, 1, 6, 6), 4, "at least"),
        (torch.full((2, 1, 4, 4), math.nan), None, "finite"),
    ],
)
def test_refuses_what_has_no_spectra(filters, grid, match):
    with pytest.raises(ValueError, match=match):
        disjoint_spectra(filters, grid)


def bank():
    owner, phase, magnitude = disjoint_spectra(random_filters(4, 8))
    return owner, phase, magnitude


def test_at_the_size_of_the_grid_the_bank_is_the_stored_one():
    owner, phase, magnitude = bank()
    bands = sample_bands(owner, phase, (8, 8))
    assert torch.equal(bands.owner, owner)
    stored = plane(filters_of_spectra(owner, phase, magnitude))[..., :5]
    for j in range(4):
        spectrum = magnitude[j] * bands.mask(j) * bands.phasor
        torch.testing.assert_close(spectrum, stored[j], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (8, 13), (9, 16), (31, 20)])
def test_on_any_size_filters_are_real_disjoint_and_cover_all_but_zero(size):
    """A half plane that is no real filter's would lose its length in `irfft2`."""
    owner, phase, _ = bank()
    bands = sample_bands(owner, phase, size)
    assert bands.owner[0, 0] == -1
    assert (bands.owner.flatten()[1:] >= 0).all()
    total = 0
    for j in range(4):
        half = bands.mask(j) * bands.phasor
        whole = torch.fft.fft2(torch.fft.irfft2(half, size))
        torch.testing.assert_close(whole[:, : size[1] // 2 + 1], half, rtol=0, atol=1e-12)
        share = (whole.abs() > 0.5).sum() / math.prod(size)
        torch.testing.assert_close(bands.share(j), share.to(bands.share(j)))
        total = total + share
    assert total.item() == pytest.approx(1 - 1 / math.prod(size), abs=1e-6)


def test_owners_are_those_of_the_nearest_frequency():
    owner, phase, _ = bank()
    bands = sample_bands(owner, phase, (24, 24))
    for u in range(-12, 12):
        for v in range(13):
            a, b = round(u / 3), round(v / 3)  # three frequencies to a cell, so there are no ties
            if (a, b) != (0, 0):
                assert bands.owner[u, v] == owner[a, b], (u, v)
    assert bands.owner[1, 0] == owner[1, 0]  # in the cell of frequency zero, which is nobody's
    assert bands.owner[0, 1] == owner[0, 1]
    assert bands.owner[-1, 0] == owner[-1, 0]


def test_a_shift_stays_one_shift_at_another_size():
    """The phase of a filter that is off centre by two pixels is linear, and interpolated so."""
    owner = polar_bands(32, 2, 2)
    row = torch.fft.fftfreq(32, dtype=torch.float64)[:, None]
    phase = (-2 * math.pi * 2 * row).expand(owner.shape)
    bands = sample_bands(owner, phase, (48, 48))
    fine = torch.fft.fftfreq(48, dtype=torch.float64)[:, None]
    error = (bands.phasor * torch.polar(torch.ones_like(fine), 4 * math.pi * fine)).angle().abs()
    assert error[:, 1:-1].quantile(0.9) < 0.02  # a chord instead of an arc; band edges are worse
    nearest = sample_bands(owner, (phase * 0), (48, 48)).phasor
    assert (nearest - 1).abs().max() < 1e-12


def test_polar_bands_are_octaves_and_orientations():
    owner = polar_bands(64, 3, 4)
    assert int(owner.max()) == 12
    assert owner[0, 31] == 0  # along the columns, outermost octave
    assert owner[31, 0] == 2
    assert owner[20, 20] == 1
    assert owner[-20, 20] == 3
    assert owner[0, 10] == 4  # from an eighth to a quarter
    assert owner[0, 5] == 8
    assert owner[1, 2] == 12  # what is left below
    sample_bands(owner, torch.zeros(64, 33), (50, 70))
