"""Fast paths of the image denoisers against the slow, obvious ones: few bases, maps, surfaces."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import mixture, product
from PIL import Image

import gmdm_prior as gm
from gmdm_prior.fast import choose as image_levels
from gmdm_prior.fast import few_bases as mixture_gate
from gmdm_prior.fast.few_bases import GatedLevel, GatedMap

NOISE = torch.tensor(0.01, dtype=torch.float64)


def patches(count, size, channels=1, seed=0, spread=0.3):
    g = torch.Generator().manual_seed(seed)
    return 0.5 + spread * torch.randn(count, channels * size**2, dtype=torch.float64, generator=g)


# --- few bases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetries", ["d4", "flips", "none"])
@pytest.mark.parametrize(("size", "channels"), [(2, 1), (3, 1), (2, 3)])
def test_with_all_bases_it_is_exact(size, channels, symmetries):
    model = mixture(size, channels=channels, symmetries=symmetries)
    y, level = patches(200, size, channels), model.at(NOISE)
    every = GatedLevel(level, math.inf).posterior_mean(y)
    torch.testing.assert_close(every, level.posterior_mean(y), rtol=0, atol=1e-12)


def by_hand(model, y, tolerance):
    """One patch: coarse evidence of every oriented basis, the best of them exactly."""
    level, s = model.at(NOISE), float(NOISE)
    centred = y - y.mean()
    coarse, means, evidence = [], [], []
    for g, bases in enumerate(level.bases):
        variances, count = level.variances[g], level.variances[g].shape[1]
        first = math.ceil(count / mixture_gate.COARSE)
        order = variances.amax(0).argsort(descending=True)
        for rows in bases.unflatten(0, (-1, count)):
            u, best, logs, shrunk = rows @ y, -math.inf, [], []
            for v, w in zip(variances, level.log_weights[g], strict=True):
                top, others = order[:first], order[first:]
                left = centred.square().sum() - u[top].square().sum()
                log = w - 0.5 * (v + s).log().sum()
                energy = (u[top].square() / (v[top] + s)).sum() + left / (v[others] + s).mean()
                best = max(best, float(log - 0.5 * energy))
                logs.append(log - 0.5 * (u.square() / (v + s)).sum())
                shrunk.append((v / (v + s) * u) @ rows)
            logs = torch.stack(logs)
            coarse.append(best)
            evidence.append(logs.logsumexp(0))
            means.append(sum(p * x for p, x in zip(logs.softmax(0), shrunk, strict=True)))
    coarse = torch.tensor(coarse)
    kept = coarse >= coarse.max() - tolerance
    few = kept.sum() <= mixture_gate.MOST * len(kept)
    chosen = (kept if few else kept | True).nonzero().flatten()
    share = torch.stack(evidence)[chosen].softmax(0)
    return y.mean() + sum(p * means[i] for p, i in zip(share, chosen.tolist(), strict=True))


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 2.0])
def test_the_likeliest_bases_by_hand(tolerance):
    model = mixture(3, classes=5)
    y = patches(40, 3)
    found = GatedLevel(model.at(NOISE), tolerance).posterior_mean(y)
    for row, expected in zip(found, (by_hand(model, one, tolerance) for one in y), strict=True):
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


def test_another_level_of_the_same_gate():
    model, y = mixture(3), patches(50, 3)
    gate, other = GatedLevel(model.at(NOISE), 1.0), NOISE * 4
    fresh = GatedLevel(model.at(other), 1.0).posterior_mean(y)
    torch.testing.assert_close(gate.at(other).posterior_mean(y), fresh, rtol=0, atol=1e-14)
    assert gate._level.noise == NOISE


def test_a_proper_mean_is_shrunk_as_in_the_exact_path():
    model, y = mixture(3).with_mean(0.02), patches(50, 3)
    level = model.at(NOISE)
    found = GatedLevel(level, math.inf).posterior_mean(y)
    torch.testing.assert_close(found, level.posterior_mean(y), rtol=0, atol=1e-12)


def test_few_bases_cost_less_than_a_twentieth_of_a_decibel(bundled_picture, monkeypatch):
    monkeypatch.setattr(image_levels, "fused", lambda *_: None)  # which needs no gate
    model = gm.load("bsds-gray")
    for sigma in (5 / 255, 10 / 255, 25 / 255, 50 / 255):
        g = torch.Generator().manual_seed(0)
        noisy = bundled_picture + sigma * torch.randn(bundled_picture.shape, generator=g)
        fast = gm.HalfQuadraticSplitting(model)
        same_grids = gm.HalfQuadraticSplitting(model, fast.stride)
        assert not fast.exact
        assert same_grids.exact

        def psnr(denoise, noisy=noisy, sigma=sigma):
            error = (denoise(noisy, sigma) - bundled_picture)[..., 8:-8, 8:-8]
            return -10 * math.log10(float(error.square().mean()))

        assert abs(psnr(fast) - psnr(same_grids)) < 0.05


@pytest.fixture
def bundled_picture():
    path = Path(__file__).parents[2] / "examples" / "images" / "camera.png"
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None, None, 150:270, 200:320]


# --- maps -----------------------------------------------------------------------------------------


def test_patches_of_a_map_are_evaluated_at_their_rounded_mean_level():
    model, y = mixture(3), patches(40, 3)
    noise = 0.006 * torch.rand(40, 9, dtype=torch.float64).add(0.1)
    gate = GatedLevel(model.at(NOISE), 1.0)
    found = GatedMap(gate).posterior_mean(y, noise)
    for row, one, n in zip(found, y, noise.mean(1), strict=True):
        step = mixture_gate.LEVEL_STEP
        rounded = torch.exp(torch.round(n.log() / step) * step)
        gated = rounded < mixture_gate.WORTH_BELOW
        level = gate.at(rounded) if gated else model.at(rounded)
        expected = level.posterior_mean(one[None])[0]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-10)
        assert abs(rounded.sqrt() / n.sqrt() - 1) < 0.013


def test_no_noise_in_a_map_leaves_patches_as_they_are():
    model, y = mixture(3), patches(5, 3)
    found = GatedMap(GatedLevel(model.at(NOISE))).posterior_mean(y, torch.zeros_like(y))
    torch.testing.assert_close(found, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.3), (0.02, 0.1), (0.2, 3.0)])
@pytest.mark.parametrize("make", [product, lambda size: product(size, components=125)])
def test_surfaces_agree_with_the_exact_path(make, low, high):
    model = make(3)
    g = torch.Generator().manual_seed(0)
    sigma = low + (high - low) * torch.rand(300, 9, dtype=torch.float64, generator=g)
    y = patches(300, 3) + sigma * torch.randn(sigma.shape, dtype=torch.float64, generator=g)
    noise = sigma.square()
    surface = model.tabulated_map(noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5


def test_surfaces_of_a_bundled_model_agree_with_the_exact_path(bundled_picture):
    model = gm.load("bsds-gray-7x7", dtype=torch.float64)
    size = model.patch_size
    windows = bundled_picture[0].double().unfold(1, size, 11).unfold(2, size, 11)
    x = windows.permute(1, 2, 0, 3, 4).reshape(-1, size**2)[:60]
    g = torch.Generator().manual_seed(0)
    sigma = 0.02 + 0.3 * torch.rand(len(x), 1, dtype=torch.float64, generator=g)
    sigma = sigma * torch.linspace(0.8, 1.25, size**2, dtype=torch.float64)
    y, noise = x + sigma * torch.randn(x.shape, dtype=torch.float64, generator=g), sigma.square()
    surface = model.tabulated_map(noise.min(), noise.max())
    exact = torch.cat(
        [model.at(n).posterior_mean(p) for p, n in zip(y.split(20), noise.split(20), strict=True)]
    )
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5


def test_surfaces_beyond_their_reach_are_exact():
    model = product(3, components=125)
    y = 50 * patches(20, 3)
    noise = torch.full_like(y, 0.01)
    surface = model.tabulated_map(noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-9


def test_surfaces_of_fewer_filters_leave_the_rest_alone():
    model, y = product(3, filters=4), patches(20, 3)
    noise = 0.001 + 0.01 * torch.rand(20, 9, dtype=torch.float64)
    surface = model.tabulated_map(noise.min(), noise.max())
    exact = model.at(noise).posterior_mean(y)
    assert (surface.posterior_mean(y, noise) - exact).abs().max() < 1e-5
