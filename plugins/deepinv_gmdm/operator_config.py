"""What a forward operator can be told, what that means, and which operator looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class OperatorConfig:
    """A forward operator; `MEANINGS` says what a field is, `USES` which operator looks at it."""

    name: str = "denoise"
    width: float = 1.6
    growth: float = 3.0
    size: int = 15
    length: float = 0.3
    spread: float = 0.25
    kernel: Any = None
    boundary: str | None = None
    keep: float = 0.5
    mask: Any = None
    factor: int = 2
    angles: Any = 60
    side: int | None = None
    acceleration: float = 4.0
    coil_maps: Any = None
    phase: float = 1.0
    seed: int = 0


@dataclass
class NoiseConfig:
    """The noise: standard deviation `sigma` of Gaussian, `gain` (one photon's value) of counted.

    The `kernel` of correlated noise is a name of `KERNELS` or a list of rows of numbers.
    """

    name: str = "gaussian"
    sigma: Any = 0.02
    gain: float = 0.02
    kernel: Any = "binomial"


@dataclass
class PhysicsConfig(OperatorConfig):
    """A forward operator and its noise; what an operator does not use is ignored."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)


NOISES = ("gaussian", "poisson", "poisson_gaussian", "correlated")
MEANINGS = {
    "name": "what was done to the picture",
    "width": "standard deviation of the blur in pixels, at the left border",
    "growth": "width at the right border over that at the left one",
    "size": "side of the random kernel in pixels",
    "length": "length scale of the camera's random trajectory",
    "spread": "how far it strays",
    "kernel": "file of the kernel, the picture of a point, in place of a made one",
    "boundary": "open: the surroundings are not known (of measurements); circular: they repeat",
    "keep": "share that is seen, at random",
    "mask": "file that is nonzero where pixels, or k-space, are seen",
    "factor": "how many times smaller the measurement is, on each side",
    "angles": "how many, evenly over half a turn, or a file of degrees",
    "side": "side of the image in pixels; of measurements: as many as the sinogram has detectors",
    "acceleration": "one column of this many is measured, at random",
    "coil_maps": "file of complex sensitivities (coils, H, W)",
    "phase": "the largest angle of the simulated image's smooth phase, radians",
    "seed": "of all that is random",
}
BLUR = ("kernel", "boundary")
USES: dict[str, tuple[str, ...]] = {
    "blur": BLUR,
    "compressed_sensing": ("keep",),
    "denoise": (),
    "gaussian_blur": ("width", *BLUR),
    "inpainting": ("keep", "mask"),
    "motion_blur": ("size", "length", "spread", *BLUR),
    "mri": ("acceleration", "mask", "coil_maps", "phase"),
    "space_varying_blur": ("width", "growth", "boundary"),
    "super_resolution": ("factor",),
    "tomography": ("angles", "side"),
}
