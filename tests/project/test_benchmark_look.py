"""benchmarks/tune_rivals.py and contact_sheet.py: searches find the best, crops are in place."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import contact_sheet
import tune_rivals
from contact_sheet import Crop
from tune_rivals import Result


def test_climbing_ends_on_top():
    """Of a hill in log scale: within the last factor of its top, and at the best point asked."""
    asked = {}

    def hill(weight):
        asked[weight] = -(math.log(weight / 7.3) ** 2)
        return asked[weight]

    best, height = tune_rivals.climb(hill, 0.3)
    assert abs(math.log(best / 7.3)) <= math.log(2) / 4 + 0.01  # half of a factor of sqrt(2)
    assert height == asked[best] == max(asked.values())


def test_numbers_are_climbed_one_after_the_other():
    def hill(point):
        height = -(math.log(point["a"] / 4) ** 2) - math.log(point["b"] / 0.5) ** 2
        return Result(height, seconds=point["a"])

    best, result = tune_rivals.climb_all(hill, {"a": 1.0, "b": 1.0})
    assert best == {"a": 4.0, "b": 0.5}
    assert result == Result(0.0, 4.0)
    assert tune_rivals.climb_all(lambda point: Result(1.0, 2.0), {}) == ({}, Result(1.0, 2.0))


@pytest.fixture
def small(tmp_path):
    """A picture of 32 x 32 pixels, as an override of every config."""
    pixels = np.random.default_rng(0).integers(60, 200, (4, 4)).astype(np.uint8)
    Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "small.png")
    return f"image={tmp_path / 'small.png'}"


def test_one_table_with_every_prior(small, capsys, monkeypatch):
    monkeypatch.setattr(tune_rivals, "FACTORS", (2.0,))
    words = ["weights=bsds-gray-small", "priors=gmdm,wavelet", small, "solver.max_iter=2"]
    tune_rivals.main(["deblur", *words])
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    table = printed.split("\n\n")[1].splitlines()
    assert table[0] == (
        "| config, bsds-gray-small | measurement | gmdm, as it is | gmdm | wavelet |"
    )
    as_it_is, tuned, wavelet = (float(cell.split()[0]) for cell in table[2].split("|")[3:6])
    assert tuned >= as_it_is
    rows = [float(line[2]) for line in lines if line[:1] == ["wavelet"]]
    assert len(rows) == 2  # hqs and admm
    assert wavelet == max(rows)


def test_a_diverged_solver_is_never_best(small, monkeypatch):
    def diverges(config, physics, measurement, scene):
        return scene * math.nan

    monkeypatch.setattr(tune_rivals, "solve", diverges)
    assert tune_rivals.restored("deblur", [small]).psnr == -math.inf


def test_unknown_priors_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="priors=tvv: use some of gmdm, tv, wavelet, pnp-bm3d"):
        tune_rivals.main(["deblur", "priors=tvv"])
    monkeypatch.setattr(tune_rivals.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package bm3d: pip install bm3d"):
        tune_rivals.main(["deblur", "priors=pnp-bm3d"])


@pytest.mark.parametrize(("left", "top"), [(0, 0), (60, 10), (134, 154)])
def test_crops_are_the_same_place_of_every_image(left, top, tmp_path):
    """At borders too; the method sees what lies around, and its own part is measured."""
    pixels = np.random.default_rng(0).integers(0, 256, (250, 230)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = []

    def halve(y, sigma):
        seen.append(tuple(y.shape[2:]))
        return y / 2

    crop = Crop("a", "noise", left, top)
    row = contact_sheet.strip(tmp_path / "a.png", 3, crop, 25, {"half": halve})
    truth = torch.from_numpy(pixels[top : top + 96, left : left + 96].copy()) / 255
    generator = torch.Generator().manual_seed(3)
    noisy = torch.from_numpy(pixels).float() / 255
    noisy = noisy + 25 / 255 * torch.randn(250, 230, generator=generator)
    expected = noisy[top : top + 96, left : left + 96]
    torch.testing.assert_close(row.crops["truth"], truth)
    torch.testing.assert_close(row.crops["noisy"], expected.clamp(0, 1))
    half = (expected / 2).clamp(0, 1)
    torch.testing.assert_close(row.crops["half"], half)
    error = (half - truth).square().mean()
    assert row.psnr["half"] == pytest.approx(-10 * math.log10(float(error)), abs=1e-4)
    height, width = min(250, top + 144) - max(0, top - 48), min(230, left + 144) - max(0, left - 48)
    assert seen == [(height, width)]


def test_rivals_are_run_once_for_the_same_input(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "CACHE", tmp_path / "cache")
    calls = []

    def rival(y, sigma):
        calls.append(sigma)
        return y + sigma

    y = torch.rand(1, 1, 8, 8)
    first, second = (contact_sheet.remembered(rival, version) for version in (b"a", b"b"))
    for run, sigma in ((first, 0.1), (first, 0.1), (first, 0.2), (second, 0.1), (second, 0.1)):
        assert torch.equal(run(y, sigma), y + sigma)
    assert torch.equal(first(y + 1, 0.1), y + 1 + 0.1)
    assert calls == [0.1, 0.2, 0.1, 0.1]


def test_a_folder_without_the_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of camera, cat"):
        contact_sheet.make([str(tmp_path)])


def test_the_sheet_shows_every_pixel(tmp_path):
    g = torch.Generator().manual_seed(0)
    crops = {name: torch.rand(96, 96, generator=g) for name in ("noisy", "ours", "truth")}
    row = contact_sheet.Strip("texture\nσ = 25", crops, {"noisy": 20.0, "ours": 30.0})
    contact_sheet.draw([row, row], tmp_path / "new" / "sheet.png")
    shown = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("L"))
    cell, gap = 192, contact_sheet.GAP
    for column, crop in enumerate(crops.values()):
        left = contact_sheet.MARGIN + column * (cell + gap)
        top = contact_sheet.CAPTION
        doubled = shown[top : top + cell : 2, left : left + cell : 2]
        # a colour map of 256 entries, each rounded to a gray level
        assert np.abs(doubled - 255 * crop.numpy()).max() <= 2
