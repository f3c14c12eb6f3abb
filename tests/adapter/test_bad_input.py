"""What users hand over by mistake: one sentence with the remedy, or it works."""

import deepinv
import numpy as np
import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMPrior, build_solver
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mixture, wavelet

NAN = float("nan")


def image(*shape):
    return torch.rand(shape or (2, 1, 8, 12), generator=torch.Generator().manual_seed(0)).double()


def calls(model):
    denoiser, prior = GMDMDenoiser(model), GMDMPrior(model, max_iter=5)
    return {
        "denoiser": denoiser,
        "fn": prior,
        "grad": prior.grad,
        "score": prior.score,
        "prox": lambda x, sigma: prior.prox(x, sigma, gamma=0.01),
    }


MODELS = {"mixture": lambda: mixture(4), "wavelets": wavelet}
CALLS = [(model, call) for model in MODELS for call in calls(MODELS[model]())]


@pytest.fixture(params=CALLS, ids=" ".join)
def call(request):
    model, name = request.param
    return calls(MODELS[model]())[name]


def spoilt(value):
    x = image()
    x[0, 0, 3, 3] = value
    return x


IMAGES = {
    "complex": (lambda: image() + 0j, TypeError, "must be real.*two channels"),
    "uint8": (lambda: (255 * image()).to(torch.uint8), TypeError, r"images.float\(\) / 255"),
    "int64": (lambda: image().long(), TypeError, "floating point.*int64"),
    "numpy": (lambda: image().numpy(), TypeError, "got ndarray. torch.as_tensor"),
    "list": (lambda: image().tolist(), TypeError, "got list. torch.as_tensor"),
    "None": (lambda: None, TypeError, "must be a tensor.*NoneType"),
    "volume": (lambda: image(1, 1, 3, 8, 12), ValueError, r"\(1, 1, 3, 8, 12\). Fold time"),
    "one image": (lambda: image(1, 8, 12), ValueError, r"\(1, 8, 12\). Add leading axes"),
    "one plane": (lambda: image(8, 12), ValueError, r"\(8, 12\). Add leading axes"),
    "NaN": (lambda: spoilt(NAN), ValueError, "finite.*nan_to_num"),
    "infinity": (lambda: spoilt(float("inf")), ValueError, "finite.*nan_to_num"),
    "too small": (lambda: image(1, 1, 3, 8), ValueError, "at least one patch, 4x4.*got 3x8"),
    "elsewhere": (lambda: image().to("meta"), ValueError, "model, cpu; got meta. Move one"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_refused(call, name):
    make, error, match = IMAGES[name]
    with pytest.raises(error, match=match):
        call(make(), 0.1)


LEVELS = {
    "negative": (-0.1, ValueError, "sigma must be finite and not negative"),
    "NaN": (NAN, ValueError, "sigma must be finite and not negative"),
    "infinite": (float("inf"), ValueError, "sigma must be finite and not negative"),
    "one negative": (
        torch.tensor([0.1, -0.1]),
        ValueError,
        "sigma must be finite and not negative",
    ),
    "text": ("0.1", TypeError, "sigma must be.*'0.1'"),
    "complex": (0.1j, TypeError, "sigma must be.*0.1j"),
    "complex tensor": (torch.tensor(0.1j), TypeError, "sigma must be"),
    "mapping": ({}, TypeError, "sigma must be"),
    "too many": (torch.tensor([0.1] * 3), ValueError, r"sigma must be a number, \(2,\)"),
    "map of another size": (torch.full((1, 1, 5, 5), 0.1), ValueError, r"8, 12\).*\(1, 1, 5, 5\)"),
    "none": ([], (TypeError, ValueError), "sigma must be"),
    "without values": (torch.tensor(0.1, device="meta"), (TypeError, ValueError), "sigma .*meta"),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_refused(call, name):
    level, error, match = LEVELS[name]
    with pytest.raises(error, match=match):
        call(image(), level)


@pytest.mark.parametrize(
    "level",
    [
        np.array([0.1, 0.1]),
        np.float32(0.1),
        (0.1, 0.1),
        [torch.tensor(0.1), torch.tensor(0.1)],
        torch.tensor([0.1, 0.1], dtype=torch.float16),
        torch.full((2, 1, 1, 1), 0.1),
        torch.full((1, 1, 8, 12), 0.1),
    ],
    ids=["numpy", "numpy number", "tuple", "tensors", "half", "(B,1,1,1)", "map"],
)
def test_levels_of_any_make_work(call, level):
    found, expected = call(image(), level), call(image(), 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-3)  # 0.1 in half precision


def test_no_images_are_no_images(call):
    result = call(image()[:0], 0.1)
    assert len(result) == 0
    assert result.dtype == torch.float64


PHYSICS = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))


@pytest.mark.parametrize("name", ["hqs", "pgd", "gd", "drs", "admm"])
@pytest.mark.parametrize("kind", ["NaN", "complex", "volume", "one image"])
def test_measurements_are_refused_through_solvers(name, kind):
    """A NaN must not come out as an image of NaN."""
    make, error, match = IMAGES[kind]
    solver = build_solver(name, GMDMPrior(mixture(4)), sigma=0.1)
    with pytest.raises(error, match=match):
        solver(make(), PHYSICS)


@pytest.mark.parametrize("name", ["pgd", "gd", "drs", "admm"])
@pytest.mark.parametrize(
    "level",
    [torch.tensor([0.1, 0.3]), [0.1, 0.3], np.array([0.1, 0.3])],
    ids=["tensor", "list", "numpy"],
)
def test_levels_per_image_through_build_solver(name, level):
    """deepinv alone would read them as a schedule over its iterations."""
    options = {"name": name, "max_iter": 2}
    prior = GMDMPrior(mixture(4), tol=1e-9, max_iter=1000)
    options["stepsize"] = 1 / (1 / 0.1**2 + prior.lipschitz(0.1))
    together = build_solver(options, prior, sigma=0.1, prior_sigma=level)
    found = together(image(), PHYSICS)
    for i, sigma in enumerate((0.1, 0.3)):
        alone = build_solver(options, prior, sigma=0.1, prior_sigma=sigma)
        expected = alone(image()[i : i + 1], PHYSICS)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=0, atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.integers(3, 13), st.integers(3, 13), st.integers(1, 3), st.integers(1, 3))
def test_any_size_and_any_layout(height, width, batch, channels):
    """From one patch upward, odd, transposed, with gaps, channels last: as the contiguous image."""
    x = image(batch, channels, height, width)
    wide = image(batch, channels, height, 2 * width)
    layouts = {
        "transposed": (x.mT.contiguous().mT, x),
        "channels last": (x.contiguous(memory_format=torch.channels_last), x),
        "gaps": (wide[..., ::2], wide[..., ::2].contiguous()),
        "expanded": (x[:1].expand(2, -1, -1, -1), x[:1].repeat(2, 1, 1, 1)),
    }
    for function in calls(mixture(3)).values():
        for view, plain in layouts.values():
            found = function(view, 0.1)
            assert found.shape[0] == view.shape[0]
            torch.testing.assert_close(found, function(plain, 0.1), rtol=1e-12, atol=1e-12)
