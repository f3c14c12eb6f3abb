"""benchmarks/recipes, and contact_sheet.py: the best is found, cards say all, crops in place."""

import math

import contact_sheet
import numpy as np
import pytest
import torch
from contact_sheet import Crop
from lib import restoration
from lib.data import noisy
from lib.rivals import epll_denoiser, read_mixture
from PIL import Image
from recipes import rivals, weights
from recipes.rivals import Result, climb, climb_all

import gmdm_prior as gm
from gmdm_prior import train


def test_climbing_ends_on_top():
    """Of a hill in log scale: within the last factor of its top, and at the best point asked."""
    asked = {}

    def hill(weight):
        asked[weight] = -(math.log(weight / 7.3) ** 2)
        return asked[weight]

    best, height = climb(hill, 0.3)
    assert abs(math.log(best / 7.3)) <= math.log(2) / 4 + 0.01  # half of a factor of sqrt(2)
    assert height == asked[best] == max(asked.values())


def test_numbers_are_climbed_one_after_the_other():
    def hill(point):
        height = -(math.log(point["a"] / 4) ** 2) - math.log(point["b"] / 0.5) ** 2
        return Result(height, seconds=point["a"])

    best, result = climb_all(hill, {"a": 1.0, "b": 1.0})
    assert best == {"a": 4.0, "b": 0.5}
    assert result == Result(0.0, 4.0)
    assert climb_all(lambda point: Result(1.0, 2.0), {}) == ({}, Result(1.0, 2.0))


@pytest.fixture
def small(tmp_path):
    """A picture of 32 x 32 pixels, as an override of every config."""
    pixels = np.random.default_rng(0).integers(60, 200, (4, 4)).astype(np.uint8)
    Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "small.png")
    return f"image={tmp_path / 'small.png'}"


def test_one_table_with_every_prior(small, capsys, monkeypatch):
    monkeypatch.setattr(rivals, "FACTORS", (2.0,))
    words = ["weights=gray-small", "priors=gmdm,wavelet", small, "solver.max_iter=2"]
    assert rivals.main(["configs", "deblur", *words]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    table = printed.split("\n\n")[1].splitlines()
    assert table[0] == ("| config, gray-small | measurement | gmdm, as it is | gmdm | wavelet |")
    as_it_is, tuned, wavelet = (float(cell.split()[0]) for cell in table[2].split("|")[3:6])
    assert tuned >= as_it_is
    rows = [float(line[2]) for line in lines if line[:1] == ["wavelet"]]
    assert len(rows) == 2  # hqs and admm
    assert wavelet == max(rows)


def test_a_diverged_solver_is_never_best(small, monkeypatch):
    def diverges(config, physics, measurement, scene):
        return scene * math.nan, None

    monkeypatch.setattr(restoration, "solve", diverges)
    problem = restoration.Problem.of("deblur", [small])
    assert rivals.restored(problem, [small]).psnr == -math.inf


def test_unknown_priors_and_a_missing_package_are_named(monkeypatch, capsys):
    assert rivals.main(["configs", "deblur", "priors=tvv"]) == 2
    assert "priors=tvv: use some of gmdm, tv, wavelet, pnp-bm3d" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert rivals.main(["configs", "deblur", "priors=pnp-bm3d"]) == 2
    assert "needs the package bm3d" in capsys.readouterr().err


@pytest.fixture
def mixture(monkeypatch, tmp_path):
    """A mixture of two components, of images of two contrasts."""
    for name, value in {"COMPONENTS": 2, "PATCHES": 4000, "ITERATIONS": 3}.items():
        monkeypatch.setattr(rivals, name, value)
    noise = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "m.safetensors"
    rivals.fit_mixture([0.3 + 0.02 * noise[0], 0.8 + 0.1 * noise[1]], path)
    return path


def test_the_fitted_mixture_finds_contrasts_and_the_moment_of_the_mean(mixture):
    covariances, weights = read_mixture(mixture)
    covariances = covariances.double()
    assert covariances.shape == (2, 64, 64)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    constant = torch.full((64,), 1 / 8, dtype=torch.float64)
    # E (Σ (x - 0.5) / 8)² = 64 E (mean - 0.5)², with means of 0.3 and 0.8 and little around them
    expected = (64 * 0.065 * constant).expand(2, -1)
    torch.testing.assert_close(covariances @ constant, expected, rtol=0.02, atol=0)
    trace = covariances.diagonal(dim1=1, dim2=2).sum(1)
    spread = (trace - covariances @ constant @ constant) / 63
    expected = torch.tensor([0.02**2, 0.1**2], dtype=torch.float64)
    torch.testing.assert_close(spread.sort()[0], expected, rtol=0.1, atol=0)


def test_epll_keeps_what_is_constant_and_removes_noise(mixture):
    sigma = 25 / 255
    clean = torch.full((1, 1, 24, 24), 0.8)
    denoise = epll_denoiser(mixture)
    restored = denoise(noisy(clean, sigma, 0), sigma)
    assert restored.std() < 0.35 * sigma
    # of its distance of 0.3 to gray the mean loses the share sigma² / 4.2 at the first level
    assert denoise(clean, sigma).sub(clean).abs().mean() < 1e-3


@pytest.fixture
def photographs(tmp_path):
    """A folder of pictures, and a run that was trained on it."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(6):
        coarse = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(i))
        pixels = torch.nn.functional.interpolate(coarse, (40, 48), mode="bicubic")[0, 0]
        Image.fromarray((255 * pixels).clamp(0, 255).byte().numpy()).save(folder / f"{i}.png")
    return folder


def test_weights_of_a_run_on_any_folder_get_their_card(photographs, tmp_path, capsys):
    """With what the `about` says, the run's own command, and figures on what it held out."""
    run, about, out = tmp_path / "first", tmp_path / "about.yaml", tmp_path / "mine.safetensors"
    settings = "method=em bases=1 classes=2 patches=500 steps=2 components=2 holdout=3"
    words = [f"data={photographs}", *settings.split(), f"out={run}"]
    assert train.main(words) == 0
    words = [f"data={photographs}", "name=mine", f"runs={run}", f"out={out}"]
    assert weights.main(words) == 2
    assert "about=FILE.yaml is needed" in capsys.readouterr().err
    about.write_text("source: FOLDER\ndata: Six made-up pictures {seen}\nlicence: CC0\n")
    assert weights.main([*words, f"about={about}"]) == 0
    card = out.with_suffix(".md").read_text(encoding="utf-8")
    assert card + "\n" == capsys.readouterr().out
    lines = card.splitlines()
    assert lines[0] == "# mine"
    assert "- **Data**: Six made-up pictures as gray images." in lines
    assert "- **Licence**: CC0." in lines
    assert "**Terms**" not in card
    command = "python -m gmdm_prior.train data=FOLDER model=mixture method=em holdout=3"
    assert any(line.startswith(f"  - `{command}") and "out=runs/first" in line for line in lines)
    own = "data=FOLDER name=mine runs=runs/first about=about.yaml"
    assert f"  - `python benchmarks/recipes/weights.py {own}`" in lines
    assert "PSNR in dB on the 2 held-out images, noise of σ/255:" in lines
    facts = gm.card(out)
    assert (facts["licence"], facts["numbers"]) == ("CC0", gm.load(out).num_parameters)
    assert f"| {facts['held_out']['one_step'][1]:.2f} |" in card


def test_only_finished_runs_make_weights(photographs, tmp_path, capsys):
    words = [f"data={photographs}", f"out={tmp_path / 'new.safetensors'}"]
    assert weights.main([*words, "name=other"]) == 2
    assert "runs=RUN[,RUN…] is needed" in capsys.readouterr().err
    assert weights.main([*words, "name=other", f"runs={tmp_path}"]) == 2
    assert "holds no model.safetensors; is the run finished?" in capsys.readouterr().err
    assert weights.main(words) == 2
    assert "name=NAME is needed" in capsys.readouterr().err


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


def test_a_folder_without_the_images_is_refused(tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "other.png")
    assert contact_sheet.main([str(tmp_path)]) == 2
    assert "holds none of camera, cat" in capsys.readouterr().err


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
