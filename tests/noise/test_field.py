"""Levels that jump and levels that grow slowly: surfaces and fields by brute force, and maps."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gmdm_prior as gm
from gmdm_prior.noise import field
from gmdm_prior.noise.estimate.parts import Apart
from gmdm_prior.noise.field import Grid, potts
from gmdm_prior.noise.surface import Surface, expected, interpolated, shifted
from gmdm_prior.training import read_image

ROWS, COLUMNS = torch.arange(0, 120, 8.0), torch.arange(0, 160, 8.0)


def noise(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def tables(truth, curvature=40.0, reach=12, seed=0):
    """Log-likelihoods (2 reach + 1, R, Q), parabolas around a truth in steps, a little off."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None, None]
    centre = truth + noise(*truth.shape, seed=seed) / math.sqrt(curvature)
    return -0.5 * curvature * (steps - centre).square()


def test_a_surface_of_parabolas_is_the_solution_of_its_linear_equations():
    """Ridge regression on the splines, solved densely."""
    truth = 3 * torch.sin(ROWS / 40)[:, None] * torch.cos(COLUMNS / 50)
    surface = Surface(ROWS, COLUMNS, 5.0)
    shape = surface.flat().shape
    logs = tables(truth.double())
    found = surface.fitted(logs, surface.flat())
    units = torch.eye(shape.numel(), dtype=torch.float64).unflatten(1, shape)
    design = torch.stack([surface.at(unit).flatten() for unit in units], 1)
    intervals = [n - 3 for n in shape]
    bends = [
        torch.cat([n**2 * u.diff(n=2, dim=d).flatten() for d, n in enumerate(intervals)])
        for u in units
    ]
    stiff = torch.stack(bends, 1)
    centre = truth.double() + noise(*truth.shape) / math.sqrt(40.0)
    gram = 40 * design.T @ design + stiff.T @ stiff / 5.0**2
    expected_ = torch.linalg.solve(gram, 40 * design.T @ centre.flatten())
    torch.testing.assert_close(found.flatten(), expected_, rtol=0, atol=1e-5)
    energy = surface.bending(found) - interpolated(logs, surface.at(found), 12)[0].sum()
    assert energy.item() == pytest.approx(surface.energy(logs, found), abs=1e-9)


def test_a_plane_bends_nothing():
    surface = Surface(ROWS, COLUMNS, 1.0)
    down, right = (torch.arange(n, dtype=torch.float64) for n in surface.flat().shape)
    plane = 0.3 * down[:, None] - 0.2 * right
    assert surface.bending(plane) == pytest.approx(0, abs=1e-9)
    heights = surface.at(plane)
    assert heights.diff(dim=0).std() < 1e-12
    assert heights.diff(dim=1).std() < 1e-12
    assert surface.bending(plane + 0.1 * noise(*plane.shape)) > 1


def test_no_step_raises_the_energy(monkeypatch):
    """On log-likelihoods with many maxima, from far away."""
    logs = 5 * noise(25, len(ROWS), len(COLUMNS), seed=2)
    surface = Surface(ROWS, COLUMNS, 10.0)
    start = surface.flat() + 3
    energies = []
    for steps in range(8):
        monkeypatch.setattr("gmdm_prior.noise.surface.STEPS", steps)
        energies.append(surface.energy(logs, surface.fitted(logs, start)))
    assert all(b <= a for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 10


def test_derivatives_of_interpolated_tables():
    """By autograd, and exact for cubics; beyond the ends a table goes on as it ends."""
    steps = torch.arange(-3.0, 4.0, dtype=torch.float64)[:, None, None]
    logs = (0.3 * steps**3 - steps**2 + 2 * steps).expand(7, 2, 2)
    at = torch.tensor([[-2.7, 0.4], [1.0, 2.9]], dtype=torch.float64, requires_grad=True)
    value, first, second = interpolated(logs, at, 3)
    torch.testing.assert_close(value, 0.3 * at**3 - at**2 + 2 * at, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), at, retain_graph=True)
    torch.testing.assert_close(first, slope, rtol=0, atol=1e-12)
    torch.testing.assert_close(second, 1.8 * at - 2, rtol=0, atol=1e-12)
    beyond = interpolated(logs, torch.full((2, 2), 9.0, dtype=torch.float64), 3)
    assert torch.equal(beyond[0], logs[-1])
    assert not beyond[1].any()
    moved = shifted(logs, torch.full((2, 2), 0.5, dtype=torch.float64))
    torch.testing.assert_close(moved[3], interpolated(logs, torch.full((2, 2), 0.5).double(), 3)[0])


def test_expected_tables_are_means_under_the_shares():
    logs, shares = noise(5, 2, 3), noise(5, 2, 3, seed=1).softmax(0)
    found = expected(logs, shares, 2)
    for k in range(-2, 3):
        moved = torch.stack([logs[min(max(step + k, 0), 4)] for step in range(5)])
        torch.testing.assert_close(found[k + 2], (shares * moved).sum(0))


def test_free_energy_bounds_the_evidence_of_all_assignments():
    """F ≥ -log of the sum over all 3^6 assignments, and near it where data say much."""
    ladder = 0.15 * torch.arange(3, dtype=torch.float64)
    likeness = (-0.5 * ((ladder[:, None] - ladder) / field.LIKENESS).square()).exp()
    places = list(itertools.product(range(2), range(3)))  # each a neighbour of all but two
    steps = torch.tensor(list(itertools.product(range(3), repeat=6)))
    for strength, near in ((0.5, 2.0), (30.0, 0.02)):
        logs = strength * noise(3, 2, 3, seed=4)
        q, energy = potts(logs, ladder, 1)
        at = torch.stack(
            [
                (logs + (q.mean((1, 2)) + field.RAREST).log()[:, None, None])[:, r, c]
                for r, c in places
            ]
        )
        total = at.gather(1, steps.T).sum(0)
        for i, (_, column) in enumerate(places):
            inside = [j for j, (_, other) in enumerate(places) if abs(other - column) <= 1]
            alike = likeness[steps[:, i, None], steps[:, inside]].mean(1)
            total = total + 0.5 * field.COUPLING * (9 * alike - 1) / 8
        evidence = total.logsumexp(0).item()
        assert 0 <= energy + evidence < near


def ramp(kind, ratio, height=15, width=20):
    """Levels in steps of 0.15 of log sigma, from 0, on a grid."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    share = {"linear": x, "radial": 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2), "jump": (x > 0.5) * 1.0}
    return (1 + (ratio - 1) * share[kind]).log().double() / 0.15


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("kind", ["linear", "radial"])
def test_a_ramp_is_a_ramp_and_a_jump_a_jump(kind, ratio):
    """Of log-likelihoods that are parabolas: no stairs, and no surface across a jump."""
    grid = Grid(ROWS, COLUMNS, 0.15 * torch.arange(-16, 17, dtype=torch.float64), 16, 1)
    middle = math.log(ratio) / 0.3
    slow = ramp(kind, ratio) - middle
    logs = tables(slow, 3.0, 16)
    tau = grid.chosen(logs)
    assert tau is not None
    found = grid.levels(logs, tau) / 0.15
    assert (found - slow).abs().max() < 1.3  # steps of 0.15, where it is steepest
    assert (found - slow).abs().mean() < 0.35
    if kind == "linear":
        assert (found.diff(dim=1) > 0).all()
    sharp = ramp("jump", ratio) - middle
    logs = tables(sharp, 3.0, 16)
    assert grid.chosen(logs) is None
    assert (grid.levels(logs, None) / 0.15 - sharp).abs().mean() < 0.1


def test_levels_that_are_alike_have_no_surface():
    grid = Grid(ROWS, COLUMNS, 0.15 * torch.arange(-16, 17, dtype=torch.float64), 16, 1)
    logs = tables(torch.zeros(len(ROWS), len(COLUMNS)), 10.0, 16)
    assert grid.chosen(logs) is None
    assert grid.levels(logs, None).std() < 1e-3


def picture(name):
    """A smooth picture, or the bundled photograph of a cat, (1, 1, 128, 176) in [0, 1]."""
    if name == "cat":
        file = Path(__file__).parents[2] / "examples" / "images" / "cat.png"
        return read_image(file)[None, :, :128, :176]
    y, x = torch.meshgrid(torch.arange(128), torch.arange(176), indexing="ij")
    return (0.5 + 0.3 * torch.sin(x / 9) * torch.cos(y / 13))[None, None]


@pytest.mark.parametrize("name", ["waves", "cat"])
def test_maps_of_pictures_are_ramps_and_jumps(name):
    """What is slow has no stairs, what jumps is even on both sides, and the notes say which."""
    model, clean = gm.load("gray-likelihood"), picture(name)
    white = noise(*clean.shape).float()
    slow = 0.04 * 2 ** (2 * torch.arange(176) / 175).expand(clean.shape)
    found = gm.estimate_sigma_map(model, clean + slow * white)
    assert (found / slow).log().abs().max() < 0.2
    assert (found[..., 4:-4].diff(dim=-1) > 0).all()
    assert found[0, 0, 60, 8:-8].unique().numel() > 150
    sharp = torch.where(torch.arange(176) < 88, 0.05, 0.1).expand(clean.shape)
    steps = gm.estimate_sigma_map(model, clean + sharp * white)
    assert (steps / sharp).log().abs()[..., [*range(78), *range(98, 176)]].max() < 0.15
    assert steps[..., :78].std() < 0.001 > steps[..., 98:].std()
    notes = [" ".join(gm.estimate_noise(clean + s * white).notes) for s in (slow, sharp, 0.08)]
    assert "grows slowly across the image, from 0.0" in notes[0]
    assert "several levels" in notes[1]
    assert "levels" not in notes[2]
    assert "slowly" not in notes[2]


def psnr(x, clean):
    return -10 * math.log10(float((x - clean).square().mean()))


def test_blind_denoising_follows_the_levels_of_the_pixels():
    """In a batch with an even image, and in other units."""
    clean = picture("cat")
    slow = 0.04 * 2 ** (2 * torch.arange(176) / 175).expand(clean.shape)
    noisy = torch.cat([clean + level * noise(*clean.shape).float() for level in (0.08, slow)])
    denoiser = gm.BlindDenoiser(gm.load("gray-small"))
    found = gm.estimate_noise(noisy)
    assert found.levels[0] is None
    assert bool(found.white.all())
    own = denoiser(noisy, found)
    truth = gm.HalfQuadraticSplitting(gm.load("gray-small"))(noisy[1:], slow)
    one = denoiser(noisy, replace(found, levels=None))
    assert psnr(own[1:], clean) > max(psnr(truth, clean) - 0.15, psnr(one[1:], clean) + 0.5)
    assert torch.equal(own[0], one[0])
    wide = denoiser.reader, 200 * noisy[1:] + 30
    scaled = gm.estimate_noise(wide[1], wide[0])
    torch.testing.assert_close(scaled.map, 200 * found[1].map.to(scaled.map), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["place", "brightness"])
def test_what_follows_the_place_is_told_from_what_follows_brightness(kind):
    """Pictures that are brighter where they are noisier, but for details in one of the two."""
    right = torch.arange(176) / 175
    detail = torch.sin(torch.arange(128)[:, None] / 6) * torch.cos(torch.arange(176) / 8)
    clean = (0.2 + 0.6 * right + 0.15 * detail)[None, None]
    levels = 0.03 * (1 + 3 * right) if kind == "place" else (0.02 * clean).sqrt()
    found = gm.estimate_noise(clean + levels * noise(*clean.shape).float())
    assert (found.levels is not None) == (kind == "place")
    assert (found.curve is not None) == (kind == "brightness")


def test_levels_far_apart_are_not_taken_for_correlated_noise(monkeypatch):
    """Full size reads more than half the size does then; the louder half alone does not."""
    monkeypatch.setattr("gmdm_prior.noise.estimate.whiteness.BLUE", 1.13)
    file = Path(__file__).parents[2] / "examples" / "images" / "camera.png"
    clean = read_image(file)[None, :, :200, :200]
    levels = torch.where(torch.arange(200) < 100, 0.03, 0.2).expand(clean.shape)
    found = gm.estimate_noise(clean + levels * noise(*clean.shape).float())
    assert bool(found.white)
    assert (found.map / levels).log().abs().mean() < 0.05
    down = Apart("upper half", 0.1, 0.2)
    assert down.louder_half(9, 5) == (slice(4, 9), slice(0, 5))
    assert Apart("left half", 0.2, 0.1).louder_half(9, 5) == (slice(0, 9), slice(0, 2))
    assert Apart("middle", 0.2, 0.1).louder_half(9, 5) is None
