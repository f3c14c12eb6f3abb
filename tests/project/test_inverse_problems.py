"""benchmarks/inverse_problems.py: pictures, the search, regularisers, EPLL, the table, a run."""

import math
import sys

import pytest
import torch

pytest.importorskip("skimage", reason="benchmarks need the extra `bench`")
pytest.importorskip("bm3d", reason="benchmarks need the extra `bench`")
pytest.importorskip("pydicom", reason="slices need the extra `formats`")
pytest.importorskip("nibabel", reason="slices need the extra `formats`")

import inverse_problems
from deepinv.physics import Denoising, GaussianNoise
from lib import deep_variation, inverse_report, problems, restorers, table
from lib.patch_map import PatchMap
from lib.problems import CASES, Case, Task, photographs, slices, tuning_slices
from lib.ridge import FILES, Ridge
from lib.rivals import epll
from lib.split import Method, Settings, by_channel, split, tune

DENOISING = Case("denoising", 0.1, {"name": "denoise"})


@pytest.fixture
def task(monkeypatch):
    """A noisy ramp of 32 x 32 pixels."""
    monkeypatch.setattr(problems, "SIDE", 32)
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 1, 32, 32).contiguous()
    return Task.of(DENOISING, "ramp", ramp, 0)


def test_eight_pictures_that_are_not_those_of_tuning():
    for tested, tuned in (
        (photographs(), photographs(problems.TUNING)),
        (slices(), tuning_slices()),
    ):
        assert (len(tested), len(tuned)) == (8, 2)
        everything = [*tested.values(), *tuned.values()]
        assert all(x.shape == (1, 1, 128, 128) for x in everything)
        assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in everything)
        flat = torch.cat(everything).flatten(1)
        assert len(torch.unique(flat, dim=0)) == 10


def test_problems_differ_and_cover_the_noise_levels():
    assert len({case.key for case in CASES}) == len(CASES) >= 14
    assert min(case.sigma for case in CASES) == 0.001
    assert max(c.sigma for c in CASES if not c.operator.get("angles")) == 0.1


def test_the_search_ends_on_top_of_a_hill(task):
    """Noise grows with the distance to a hill's top, two factors of four and one of two below."""
    noise = torch.randn(task.truth.shape, generator=torch.Generator().manual_seed(1))
    top = Settings(0.01 / 4**2 * 2, 0.0, 1.0, 24)

    def restore(task, settings):
        off = math.log(settings.strength / top.strength) ** 2 + abs(settings.steps - top.steps)
        return task.truth + (0.01 + 0.01 * off) * noise

    climbs = (("strength", 4), ("steps", 3), ("strength", 2))
    method = Method("hill", restore, lambda task: Settings(0.01, 0.0, 1.0, 8), climbs, most=24)
    best, value = tune(method, [task])
    assert (best.strength, best.steps) == (pytest.approx(top.strength, rel=0.01), top.steps)
    assert value == pytest.approx(40, abs=0.5)
    seeded, _ = tune(Method("one", restore, method.start), [task], Settings(0.3, 0.1, 2.0, 100))
    assert seeded == Settings(0.3, 0.1, 2.0, 8)  # but for the steps, which are the method's own


def test_splitting_with_a_gaussian_prior_finds_its_mean(task):
    """E[x | u] of pixels of N(1/2, c²): the fixed point is the mean under that prior, λ = 1."""
    contrast = 0.2

    def denoise(u, level):
        return (contrast**2 * u + level**2 / 2) / (contrast**2 + level**2)

    found = split(task, denoise, Settings(1.0, 0.02, 0.2, 300))
    share = contrast**2 / (contrast**2 + 0.1**2)
    # splitting at level s ends within s² / c² = 0.01 of it, relative to how far data pull
    expected = 0.5 + share * (task.y - 0.5)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    assert (task.plan.start - expected).abs().max() > 0.1


def test_networks_see_complex_parts_as_pictures():
    """In [0, 1], with half the noise, and each part by itself."""
    seen = []

    def denoise(y, sigma):
        seen.append((y, sigma))
        return y

    y = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)
    assert torch.equal(by_channel(denoise)(y, 0.2), y)
    assert [(float(part), sigma) for part, sigma in seen] == [(0.0, 0.1), (1.0, 0.1)]
    by_channel(denoise)(y[:, :1], 0.2)
    assert (float(seen[-1][0]), seen[-1][1]) == (-1.0, 0.2)


def stored(seed=0):
    """What a file of the study holds."""
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "filters.0.parametrizations.weight.original": (4, 1, 5, 5),
        "filters.1.weight": (8, 4, 5, 5),
        "filters.2.weight": (64, 8, 5, 5),
    }
    return {
        **{f"regularizer.{k}": torch.randn(v, generator=g) for k, v in shapes.items()},
        "regularizer.scaling": 3 + 0.2 * torch.randn(1, 64, 1, 1, generator=g),
        "regularizer.beta": torch.tensor(2.0),
        "scale": torch.tensor(0.3),
        "alpha": torch.tensor(0.5),
    }


def energy(x, numbers, weak):
    """α, β, a and Huber functions as in the head of lib/ridge.py, around a wide torus."""
    kernels = [v for k, v in numbers.items() if "filters" in k]
    kernels[0] = kernels[0] - kernels[0].mean((1, 2, 3), keepdim=True)
    point = torch.zeros(1, 1, 64, 64)
    point[..., 32, 32] = 1
    answer = point
    for kernel in kernels:
        answer = torch.nn.functional.conv2d(answer, kernel, padding=2)
    gain = torch.fft.fft2(answer).abs().square().sum(1).max().sqrt()
    for kernel in kernels:
        x = torch.nn.functional.conv2d(x, kernel, padding=2)
    a = (numbers["regularizer.scaling"] + numbers["scale"]).exp()
    t, bend = a * x / gain, numbers["regularizer.beta"].exp()

    def huber(t):
        return torch.where(t.abs() < 1, t.square() / 2, t.abs() - 0.5)

    terms = (huber(bend * t) / bend - weak * huber(t)) / a.square()
    return numbers["alpha"].exp() * terms.sum()


@pytest.mark.parametrize("weak", [0.0, 1.0])
def test_ridge_regularisers_are_minimised(task, tmp_path, weak):
    """No gradient of f + λ R is left, of what there was at the measurement."""
    numbers, weight = stored(), 20.0
    path = tmp_path / FILES["CRR", False]
    torch.save(numbers, path)
    found = Ridge.read(path, weak).minimise(task, weight, 1.0, 300)

    def slope(x):
        x = x.clone().requires_grad_()
        total = (x - task.y).square().sum() / (2 * 0.1**2) + weight * energy(x, numbers, weak)
        return torch.autograd.grad(total, x)[0].norm()

    assert float(slope(found)) < 0.01 * float(slope(task.y))
    assert float((found - task.y).square().mean().sqrt()) > 0.02  # it is not the measurement


STUDY = """
from .model import TDV
"""
MODEL = """
import torch


class TDV(torch.nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def energy(self, x):
        return torch.log(torch.cosh(self.weight * x.diff(dim=-1))).sum()

    @torch.enable_grad()
    def grad(self, x):
        assert x.shape[1] == 1
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(x), x)[0]
"""


@pytest.fixture
def checkout(tmp_path):
    """A network of known energy where the study has TDV, with weights."""
    folder = tmp_path / deep_variation.NETWORK
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(STUDY, encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    numbers = {"regularizer.weight": 50.0, "alpha": 0.5, "scale": 0.3}
    for file in deep_variation.FILES.values():
        torch.save({k: torch.tensor(v) for k, v in numbers.items()}, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_deep_variation_is_minimised(task, checkout, scale):
    """No gradient of f + λ R is left, R(x) = e^(α - 2 β) N(e^β x) with e^β times the scale."""
    names = set(sys.modules)
    (method,) = deep_variation.deep_variation(checkout)
    assert not {name for name in set(sys.modules) - names if "tdv" in name or name == "model"}
    weight, zoom = 0.05, scale * math.exp(0.3)  # so that log cosh is bent
    with torch.no_grad():
        found = method.restore(task, Settings(weight, scale, 0.0, 200))

    def slope(x):
        x = x.clone().requires_grad_()
        energy = torch.log(torch.cosh(50.0 * zoom * x.diff(dim=-1))).sum()
        regulariser = math.exp(0.5) / zoom**2 * energy
        total = (x - task.y).square().sum() / (2 * 0.1**2) + weight * regulariser
        return torch.autograd.grad(total, x)[0].norm()

    assert float(slope(found)) < 0.01 * float(slope(task.y))
    assert float((found - task.y).square().mean().sqrt()) > 0.02  # it is not the measurement


def test_deep_variation_takes_channels_apart(checkout):
    (method,) = deep_variation.deep_variation(checkout)
    study = deep_variation.package(checkout / deep_variation.NETWORK)
    file = checkout / deep_variation.FILES[False]
    regulariser = deep_variation.DeepVariation.read(study.TDV(in_channels=1), file)
    x = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    both = torch.cat([regulariser.slope(part, 1.0) for part in x.split(1, 1)], 1)
    torch.testing.assert_close(regulariser.slope(x, 1.0), both)
    assert method.name == "TDV"


def test_what_is_missing_is_left_out(monkeypatch, tmp_path):
    """TDV without a checkout, EPLL without a mixture."""
    assert deep_variation.deep_variation(tmp_path) == []
    found = restorers.methods("gray-small", None, tmp_path / "mixture.safetensors")
    assert "EPLL" not in found
    assert "BM3D" in found


def test_a_patch_map_is_the_step_of_deepinv():
    """EPLL around one image: its weight is a million times that of the measurement."""
    g = torch.Generator().manual_seed(0)
    factors = torch.randn(5, 16, 16, generator=g) * torch.logspace(-1, 0, 5)[:, None, None] / 10
    covariances = factors @ factors.mT + 1e-3 * torch.eye(16)
    weights = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3])
    y = 0.5 + 0.2 * torch.randn(1, 1, 20, 24, generator=g)
    sigma = 0.1
    options = {"sigma": 1e3 * sigma, "x_init": y - 0.5, "betas": [1 / sigma**2]}
    step = epll(covariances, weights)(y - 0.5, Denoising(GaussianNoise(sigma)), **options)
    found = PatchMap.of(covariances, weights)(y, sigma)
    # float32, inverses of condition 1e2, and a millionth of the measurement
    torch.testing.assert_close(found, 0.5 + step, atol=1e-4, rtol=0)
    assert len(PatchMap.of(covariances, weights).classes(torch.randn(99, 16), sigma).unique()) > 1
    assert float((found - y).std()) > 0.02


def test_the_table_says_who_is_first_and_how_far_tuning_goes(tmp_path):
    cache = table.Cache(tmp_path / "r.csv", inverse_problems.HEADS, 3)
    values = {"gmdm": (30.0, 32.0), "gmdm tuned": (31.0, 31.5), "FFDNet": (31.0, 31.4)}
    for method, pair in values.items():
        for picture, value in zip(("a", "b"), pair, strict=True):
            cache.add((CASES[0].key, picture, method), (value, 0.9, 1.0))
    cache.add((CASES[0].key, "a", "BM3D"), (40.0, 0.9, 1.0))  # one picture only: not yet
    text = inverse_report.text(cache)
    assert f"| {CASES[0].key} | 31.00 / 0.900 / 1.0 | 31.25 / 0.900 / 1.0 | **31.20** /" in text
    assert "- FFDNet: `gmdm` is -0.20 dB on average over 1 problems" in text
    assert f"behind in 1: {CASES[0].key} (-0.20)" in text
    assert f"| {CASES[0].key} | 31.00 | 31.25 | -0.25 | -1.00 (a) |" in text
    assert "BM3D" not in text


def test_a_run_is_not_repeated(monkeypatch, tmp_path):
    """Also what was tuned; unknown methods are named."""
    monkeypatch.setattr(problems, "SIDE", 24)
    monkeypatch.setattr(inverse_problems, "CASES", (DENOISING,))
    ramp = {"ramp": torch.linspace(0, 1, 24).expand(1, 1, 24, 24).contiguous()}
    monkeypatch.setattr(inverse_problems, "pictures_of", lambda case: (ramp, ramp))
    words = ["weights=gray-small", "methods=gmdm,total variation", f"out={tmp_path}"]
    words += [f"kept={tmp_path / 'kept'}"]
    assert inverse_problems.main(words) == 0
    files = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.csv")}
    assert files["inverse_problems.csv"].count("\n") == 3
    assert files["inverse_problems-settings.csv"].count("total variation") == 1
    assert (tmp_path / "inverse_problems.png").is_file()
    bench = inverse_problems.Bench(tmp_path)
    task = problems.tasks_of(DENOISING, ramp)[0]
    bench.measure(DENOISING, Method("gmdm", None), task, Settings())  # not run
    monkeypatch.setattr(restorers, "split", None)
    assert inverse_problems.main(words) == 0
    assert files == {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.csv")}
    assert inverse_problems.main([*words, "methods=tv"]) == 2
