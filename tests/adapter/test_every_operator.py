"""`build_solver("hqs", prior, sigma=…)` as it comes, on every linear operator of deepinv.

Never worse than the operator's own pseudo-inverse by more than 0.1 dB. Each class of
`deepinv.physics` that is linear has a line in `MAKES`, or in `LEFT_OUT` with the reason.
"""

import math

import deepinv
import pytest
import torch
from deepinv.physics import functional as filters
from deepinv_gmdm import GMDMPrior, build_solver
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.half_quadratic import measured_of

from gmdm_prior.files.pictures import read_picture

SIDE, SIGMA = 32, 0.02
GRAY, RED_GREEN_BLUE = (1, SIDE, SIDE), (3, SIDE, SIDE)
BELOW = 0.1  # dB


def gaussian(width=1.0, side=7):
    return filters.gaussian_blur(psf_size=(side, side), sigma=(width, width))


def columns():
    """A third of the columns, and the middle ones."""
    mask = torch.zeros(1, 2, SIDE, SIDE)
    mask[..., ::3] = mask[..., 13:19] = 1
    return mask


def coils():
    across = torch.linspace(0, math.pi, SIDE).expand(SIDE, SIDE)
    maps = torch.stack([across.cos(), across.sin(), 0.5 * across.T.cos()])
    return maps.to(torch.complex64)[None]


def space_varying():
    place = torch.linspace(0, 1, SIDE).expand(SIDE, SIDE)
    kernels = torch.stack([gaussian(0.7), gaussian(1.5)], 2)
    return deepinv.physics.SpaceVaryingBlur(
        filters=kernels, multipliers=torch.stack([1 - place, place])[None, None], padding="circular"
    )


def random_matrix():
    g = torch.Generator().manual_seed(0)
    return deepinv.physics.CompressedSensing(m=SIDE * SIDE // 2, img_size=GRAY, rng=g)


def tiled():
    kernels = torch.stack([gaussian(0.6 + 0.1 * i) for i in range(9)], 2)
    return deepinv.physics.TiledSpaceVaryingBlur(kernels, patch_size=16, stride=8)


physics = deepinv.physics
MAKES = {
    "Blur": lambda: physics.Blur(gaussian(), padding="circular"),
    "Blur, valid": lambda: physics.Blur(gaussian(), padding="valid"),
    "BlurFFT": lambda: physics.BlurFFT(GRAY, gaussian()),
    "ComposedLinearPhysics": lambda: physics.compose(
        physics.BlurFFT(GRAY, gaussian()),
        physics.Inpainting(GRAY, 0.7, rng=torch.Generator().manual_seed(0)),
    ),
    "CompressedSensing": random_matrix,
    "Decolorize": physics.Decolorize,
    "DecomposablePhysics": lambda: physics.DecomposablePhysics(
        V_adjoint=lambda x: x, V=lambda x: x, U=lambda x: x, U_adjoint=lambda x: x, mask=0.5
    ),
    "Demosaicing": lambda: physics.Demosaicing(RED_GREEN_BLUE),
    "Denoising": physics.Denoising,
    "Downsampling": lambda: physics.Downsampling(GRAY, "gaussian", 2),
    "DownsamplingMatlab": physics.DownsamplingMatlab,
    "Inpainting": lambda: physics.Inpainting(GRAY, 0.5, rng=torch.Generator().manual_seed(0)),
    "LinearPhysics": lambda: physics.LinearPhysics(
        A=lambda x, **_: x.cumsum(-1) / SIDE, img_size=GRAY
    ),
    "MRI": lambda: physics.MRI(columns(), (2, SIDE, SIDE)),
    "MultiCoilMRI": lambda: physics.MultiCoilMRI(columns(), coils(), (2, SIDE, SIDE)),
    "Pansharpen": lambda: physics.Pansharpen(RED_GREEN_BLUE, factor=2),
    "PhysicsCropper": lambda: physics.PhysicsCropper(
        physics.BlurFFT((1, SIDE - 3, SIDE - 3), gaussian()), (3, 3)
    ),
    "SinglePixelCamera": lambda: physics.SinglePixelCamera(m=SIDE * SIDE // 2, img_size=GRAY),
    "SpaceVaryingBlur": space_varying,
    "StackedLinearPhysics": lambda: physics.StackedLinearPhysics(
        [physics.BlurFFT(GRAY, gaussian()), physics.Downsampling(GRAY, "bicubic", 2)]
    ),
    "StructuredRandom": lambda: physics.StructuredRandom(GRAY, GRAY),
    "TiledSpaceVaryingBlur": tiled,
    "Tomography": lambda: physics.Tomography(20, SIDE, normalize=True),
    "Tomography, pixels": lambda: physics.Tomography(20, SIDE, normalize=False),
    "Upsampling": lambda: physics.Upsampling((1, 2 * SIDE, 2 * SIDE), "bicubic", 2),
}

SEVERAL = "its domain is a sequence of images"
SCALED = "a wrapper whose scale is given at every call"
LEFT_OUT = {
    "CompressiveSpectralImaging": "its A_adjoint is not the adjoint of its A",
    "BlurFFTMultiScaler": SCALED,
    "BlurMultiScaler": SCALED,
    "BornOperator": "its domain is a complex contrast",
    "DynamicMRI": SEVERAL,
    "HyperSpectralUnmixing": "its domain is the abundances of materials",
    "InpaintingMultiScaler": SCALED,
    "LinearPhysicsMultiScaler": SCALED,
    "NonCartesianMRI": "needs mri-nufft",
    "PET": "needs parallelproj",
    "PtychographyLinearOperator": "its domain is a complex transmission",
    "RadioInterferometry": "needs torchkbnufft",
    "SequentialMRI": SEVERAL,
    "TomographyWithAstra": "needs astra",
    "UltrasoundPlaneWave": "its domain is a reflectivity of both signs",
    "VirtualLinearPhysics": "another operator of a turned image, whose turn is given at a call",
}


def picture(channels):
    """An image of that many channels; of two a complex one."""
    name = "coffee_color.png" if channels == 3 else "camera.png"
    x = read_picture(shipped("images") / name)[0][..., 60 : 60 + SIDE, 90 : 90 + SIDE]
    return torch.cat([0.8 * x, 0.6 * x], 1) if channels == 2 else x


CHANNELS = {"Decolorize": 3, "Demosaicing": 3, "Pansharpen": 3, "MRI": 2, "MultiCoilMRI": 2}


def linear_classes(parent):
    for child in parent.__subclasses__():
        if child.__module__.startswith("deepinv.physics."):  # not those of its distributed ones
            yield child.__name__
            yield from linear_classes(child)


def test_no_linear_operator_is_missing():
    known = {name.partition(",")[0] for name in MAKES} | set(LEFT_OUT)
    assert set(linear_classes(deepinv.physics.LinearPhysics)) | {"LinearPhysics"} == known


@pytest.fixture(scope="module")
def prior():
    return GMDMPrior("gray-small")


@pytest.mark.parametrize("name", MAKES)
def test_defaults_are_no_worse_than_the_pseudo_inverse(name, prior):
    torch.manual_seed(0)  # some operators draw from the global generator
    operator = MAKES[name]()
    g = torch.Generator().manual_seed(0)
    operator.set_noise_model(deepinv.physics.GaussianNoise(SIGMA, rng=g))
    x = picture(CHANNELS.get(name, 1))
    y = operator(x)
    solver = build_solver("hqs", prior, sigma=SIGMA)
    found, plain = solver(y, operator), operator.A_dagger(y)
    errors = [float((image - x).square().mean()) for image in (found, plain)]
    assert 10 * math.log10(errors[1] / errors[0]) > -BELOW


@pytest.mark.parametrize("name", ["Blur, valid", "Decolorize", "MRI", "Tomography", "Upsampling"])
def test_explicit_solvers_end_at_the_same_cost(name, prior):
    """Within a thousandth, and below that of half-quadratic splitting."""
    operator = MAKES[name]()
    generator = torch.Generator().manual_seed(0)
    operator.set_noise_model(deepinv.physics.GaussianNoise(SIGMA, rng=generator))
    y = operator(picture(CHANNELS.get(name, 1)))
    images = {s: build_solver(s, prior, sigma=SIGMA)(y, operator) for s in ("hqs", "fista", "admm")}
    fidelity = deepinv.optim.L2(sigma=SIGMA)
    level = SIGMA / measured_of(operator, images["hqs"]).norm
    cost = {s: float(fidelity(x, y, operator) + prior(x, level)) for s, x in images.items()}
    assert cost["admm"] < cost["hqs"]
    assert cost["admm"] == pytest.approx(cost["fista"], rel=1e-3)
