"""Inverse problems on pictures that nothing was tuned on.

Photographs are scikit-image's, slices pydicom's and nibabel's (head CT, abdominal and brain MR), in
gray, reduced by means of 2×2 or 4×4 pixels and cropped to 128×128. The schedule of
`half_quadratic` was fitted on other pictures of scikit-image's; two of those, and the two bundled
slices, are what rivals are tuned on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import deepinv
import torch
import torch.nn.functional as F
from deepinv_gmdm.command.solving import visible
from deepinv_gmdm.half_quadratic import HalfQuadratic
from deepinv_gmdm.operators import with_phase
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, build_physics, physics_sigma
from deepinv_gmdm.solver_config import SolverConfig
from torch import Tensor

from gmdm_prior.files.pictures import read_picture
from lib.data import BUNDLED, read_gray, scikit_images
from lib.words import need

SIDE = 128
PHASE = 1.0  # of simulated MR images, radians
HOUNSFIELD = (-1000.0, 1000.0)  # black and white of CT slices
PHOTOGRAPHS = (
    *("brick.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
    *("moon.png", "motorcycle_left.png", "page.png", "rocket.jpg"),
)
TUNING = ("astronaut.png", "camera.png")


@dataclass(frozen=True)
class Case:
    """An operator with a noise level.

    Attributes:
        name: in tables.
        sigma: the noise level of measurements.
        operator: options of `PhysicsConfig`, or of deepinv's `Tomography`.
        slices: whether it is for slices; else for photographs.
        slow: whether its data steps take so long that fewer settings are tuned.
    """

    name: str
    sigma: float
    operator: Mapping[str, Any] = field(hash=False)
    slices: bool = False
    slow: bool = False

    @property
    def key(self) -> str:
        """Name and noise level."""
        return f"{self.name}; σ {self.sigma:g}"

    def physics(self) -> Any:
        """The operator."""
        options = dict(self.operator)
        if "normalize" in options:
            options = {"img_width": SIDE, "circle": False, **options}
            physics = deepinv.physics.Tomography(**options)
            physics.noise_model = deepinv.physics.GaussianNoise(self.sigma)
            return physics
        channels = 2 if options["name"] == "mri" else 1
        config = PhysicsConfig(noise=NoiseConfig(sigma=self.sigma), **options)
        return build_physics(config, (channels, SIDE, SIDE))


CASES = (
    Case("inpainting, 50 % missing", 0.001, {"name": "inpainting", "keep": 0.5}),
    Case("inpainting, 50 % missing", 0.05, {"name": "inpainting", "keep": 0.5}),
    Case("inpainting, 90 % missing", 0.01, {"name": "inpainting", "keep": 0.1}),
    Case("compressed sensing, 33 %", 0.02, {"name": "compressed_sensing", "keep": 0.33}),
    Case("Gaussian blur", 0.001, {"name": "gaussian_blur", "width": 1.6}),
    Case("Gaussian blur", 0.01, {"name": "gaussian_blur", "width": 1.6}),
    Case("Gaussian blur", 0.1, {"name": "gaussian_blur", "width": 1.6}),
    Case("motion blur", 0.02, {"name": "motion_blur", "size": 21}),
    Case("space-varying blur", 0.01, {"name": "space_varying_blur", "width": 1.0, "growth": 3.0}),
    Case("super-resolution × 2", 0.01, {"name": "super_resolution", "factor": 2}),
    Case("super-resolution × 4", 0.005, {"name": "super_resolution", "factor": 4}),
    Case("denoising", 0.1, {"name": "denoise"}),
    Case("MRI × 4", 0.01, {"name": "mri", "acceleration": 4}, slices=True),
    Case("MRI × 8", 0.01, {"name": "mri", "acceleration": 8}, slices=True),
    Case("CT, 60 views", 0.01, {"angles": 60, "normalize": True}, slices=True, slow=True),
    Case("CT, 60 views", 0.9, {"angles": 60, "normalize": False}, slices=True, slow=True),
    Case("CT, 20 views", 0.01, {"angles": 20, "normalize": True}, slices=True, slow=True),
    Case("CT, 20 views", 0.5, {"angles": 20, "normalize": False}, slices=True, slow=True),
)


@dataclass(frozen=True)
class Task:
    """A picture, and what was measured of it.

    Attributes:
        picture: its name.
        truth: (1, 1, H, W) in [0, 1].
        scene: what the operator sees, (1, C, H, W): of MRI real and imaginary part.
        physics: the operator.
        y: measurements.
    """

    picture: str
    truth: Tensor
    scene: Tensor
    physics: Any
    y: Tensor

    @classmethod
    def of(cls, case: Case, picture: str, truth: Tensor, index: int) -> "Task":
        """Measure a picture; the noise is that of its index."""
        physics = case.physics()
        complex_valued = case.operator.get("name") == "mri"
        scene = with_phase(truth, PHASE) if complex_valued else truth
        generator = torch.Generator().manual_seed(index)
        physics.noise_model = deepinv.physics.GaussianNoise(case.sigma, rng=generator)
        return cls(picture, truth, scene, physics, physics(scene))

    def seen(self, image: Tensor) -> Tensor:
        """A restored scene as a picture."""
        return visible(image, self.truth)

    @cached_property
    def plan(self) -> Any:
        """Where half-quadratic splitting begins, and the noise level in units of images."""
        solver = HalfQuadratic(
            torch.nn.Identity(), SolverConfig(), sigma=physics_sigma(self.physics)
        )
        return solver.plan(self.y, self.physics)

    def floor(self) -> Tensor:
        """The pseudo-inverse, of tomography filtered back-projection."""
        if isinstance(self.physics, deepinv.physics.Tomography):
            return self.physics.fbp(self.y)
        return self.physics.A_dagger(self.y)


def tasks_of(case: Case, pictures: Mapping[str, Tensor], first: int = 0) -> list[Task]:
    """One for each picture; noise is counted from `first`."""
    return [Task.of(case, name, x, first + i) for i, (name, x) in enumerate(pictures.items())]


# --- pictures ---


def photographs(names: tuple[str, ...] = PHOTOGRAPHS) -> dict[str, Tensor]:
    """Scikit-image's, by name."""
    files = scikit_images(names)
    return {
        name.partition(".")[0]: cropped(read_gray(file))
        for name, file in zip(names, files, strict=True)
    }


def cropped(image: Tensor, halvings: int | None = None) -> Tensor:
    """The middle SIDE² pixels of (1, 1, H, W); 2×2 become their mean where enough are left."""
    if halvings is None:
        halvings = min(int(math.log2(min(image.shape[-2:]) / SIDE)), 1)
    image = F.avg_pool2d(image, 2**halvings)
    height, width = image.shape[-2:]
    down, across = max(SIDE - height, 0), max(SIDE - width, 0)
    image = F.pad(image, (across // 2, across - across // 2, down // 2, down - down // 2))
    height, width = image.shape[-2:]
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    return image[..., top : top + SIDE, left : left + SIDE].contiguous()


def slices() -> dict[str, Tensor]:
    """Three of head CT, two of abdominal MR, three of brain MR."""
    head, skull = (
        dicom(name, HOUNSFIELD) for name in ("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
    )
    abdomen = F.avg_pool2d(dicom("examples_overlay.dcm"), 2)
    return {
        "head": cropped(head, 2),
        "skull": cropped(skull, 2),
        "sinuses": cropped(skull[..., :256, :], 1),
        "liver": cropped(abdomen[..., :SIDE]),
        "spleen": cropped(abdomen[..., -SIDE:]),
        **{f"brain {z}": cropped(brain(z)) for z in (3, 8, 19)},
    }


def dicom(name: str, black_and_white: tuple[float, float] | None = None) -> Tensor:
    """A file of pydicom's own, (1, 1, H, W); by default white is the 99.8th percentile."""
    need("pydicom")
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "test_files"
    values = torch.from_numpy(pydicom.dcmread(folder / name).pixel_array.astype("float32"))
    if black_and_white is None:
        return scaled(values)
    header = pydicom.dcmread(folder / name, stop_before_pixels=True)
    values = values * float(header.RescaleSlope) + float(header.RescaleIntercept)
    low, high = black_and_white
    return ((values - low) / (high - low)).clamp(0, 1)[None, None]


def brain(z: int) -> Tensor:
    """A slice of nibabel's example of four dimensions."""
    need("nibabel")
    import nibabel

    file = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    volume = nibabel.Nifti1Image.from_filename(file).dataobj[..., 0]
    return scaled(torch.from_numpy(volume[:, :, z].astype("float32")).rot90())


def scaled(values: Tensor) -> Tensor:
    """(H, W) -> (1, 1, H, W) in [0, 1], white at the 99.8th percentile."""
    return (values / values.flatten().quantile(0.998)).clamp(0, 1)[None, None]


def tuning_slices() -> dict[str, Tensor]:
    """The bundled ones."""
    return {name: cropped(read_picture(BUNDLED / f"{name}.png")[0]) for name in ("ct", "mr")}


def pictures_of(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is restored, and what rivals are tuned on."""
    if case.slices:
        return slices(), tuning_slices()
    return photographs(), photographs(TUNING)
