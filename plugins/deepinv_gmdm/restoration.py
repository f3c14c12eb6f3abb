"""Restoring measurements in one call: prior, solver, start and data term put together.

    x = restore_measurement(y, physics)

Where photons were counted it is done twice, as the first result says how much noise each pixel has;
unless the noise could be stabilised, which needs that nothing else happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deepinv
import torch
from torch import Tensor

from deepinv_gmdm.correlated_noise import CorrelatedL2
from deepinv_gmdm.explicit import ExplicitSolver
from deepinv_gmdm.half_quadratic import HalfQuadratic
from deepinv_gmdm.measured.noise import between_missing, picture_noise
from deepinv_gmdm.noise import WeightedL2
from deepinv_gmdm.open_border import OpenBorder
from deepinv_gmdm.operators import as_picture
from deepinv_gmdm.physics import COUNTED, data_term, physics_noise, physics_sigma
from deepinv_gmdm.registry import accepts, build_prior
from deepinv_gmdm.solver import (
    StabilisedDenoising,
    build_solver,
    first_iterate,
    follows_operator,
    takes_stabilised,
)
from deepinv_gmdm.solver_config import SolverConfig, check_weight, read_config
from gmdm_prior.sigma import parse

BLURS = (
    OpenBorder,
    deepinv.physics.Blur,
    deepinv.physics.BlurFFT,
    deepinv.physics.SpaceVaryingBlur,
)


def restore_measurement(
    y: Tensor,
    physics: Any,
    prior: str | Mapping[str, Any] = "gmdm",
    solver: str | Mapping[str, Any] | SolverConfig = "hqs",
    sigma: Any = None,
    progress: bool = False,
) -> Tensor:
    """Restore what was measured.

    Args:
        y: measurements of a batch of images with values in [0, 1].
        physics: deepinv's, or `build_physics` with `boundary="open"` for a blurred picture whose
            surroundings are not known.
        prior: a name, or a mapping with `name`, its weight `lambda`, its noise level `sigma` and
            its own options.
        solver: a name, a mapping or a `SolverConfig`; by default half-quadratic splitting, whose
            steps follow from operator and noise.
        sigma: the noise level; None is that of `physics.noise_model`, `"auto"` reads it off `y`,
            which must be images.
        progress: show a progress bar.

    Returns:
        Images (B, C, H, W), not clipped; of an open border the part that was measured.

    Raises:
        ValueError: for a bad prior, solver or noise level, or images smaller than a patch.
    """
    config = read_config(solver)
    given = {"name": prior} if isinstance(prior, str) else dict(prior)
    if isinstance(sigma, str) and sigma == "auto":
        sigma = _read_off(physics, y)
    if sigma is not None:
        physics.noise_model = deepinv.physics.GaussianNoise(parse(sigma))
    like = like_of(physics, y)
    with torch.no_grad():
        x, _ = solved(given, config, physics, y, like, progress)
    return measured_part(physics, x)


def _read_off(physics: Any, y: Tensor) -> float:
    """The noise level of measured pictures, the largest of a batch."""
    if isinstance(physics, deepinv.physics.Inpainting):
        return between_missing(y, physics.mask)
    if type(physics) is deepinv.physics.Denoising:
        return picture_noise(y, "auto")[0]
    return picture_noise(y, "white", isinstance(physics, BLURS))[0]


def like_of(physics: Any, y: Tensor) -> Tensor:
    """Something of the shape that restored images have."""
    if isinstance(physics, deepinv.physics.Downsampling):
        return y.new_empty((len(y), *tuple(physics.imsize)[-3:]))
    return as_picture(physics, y, y)


def measured_part(physics: Any, x: Tensor) -> Tensor:
    """Give what was measured of images beyond an open border."""
    return physics.crop(x) if isinstance(physics, OpenBorder) else x


def solved(
    prior: Mapping[str, Any],
    config: SolverConfig,
    physics: Any,
    y: Tensor,
    like: Tensor,
    progress: bool = False,
) -> tuple[Tensor, dict[str, Any]]:
    """Solve once, or twice where photons were counted; `like` only tells shape and device.

    Returns:
        Images, and what the solver tells of its last run (`HalfQuadratic.info`; of others nothing).
    """
    fidelity = data_term(physics, y)
    solver = make_solver(prior, config, physics, like, progress, fidelity)
    start, init = as_picture(physics, y, like), {}
    if start is not y and not isinstance(solver, (HalfQuadratic, ExplicitSolver)):  # derive theirs
        init = {"init": first_iterate(config.name, start)}
    result = solver(y, physics, **init)
    counted = isinstance(physics.noise_model, COUNTED)
    if counted and not isinstance(solver, StabilisedDenoising):
        fidelity = data_term(physics, y, result)
        solver = make_solver(prior, config, physics, like, progress, fidelity)
        result = solver(y, physics, **init)
    return result, getattr(solver, "info", {})


def make_solver(
    prior: Mapping[str, Any],
    config: SolverConfig,
    physics: Any,
    like: Tensor,
    progress: bool,
    fidelity: WeightedL2 | CorrelatedL2 | None = None,
) -> Any:
    """The solver of a config, its prior built, both scaled by the noise.

    That is the physics' own level, or the root mean square of those of the data term `fidelity`;
    of counted photons that are to be denoised only it is their curve, if solver and prior take it.
    """
    options = dict(prior)
    name, weight, sigma = (
        options.pop("name"),
        options.pop("lambda", None),
        options.pop("sigma", None),
    )
    sigma = None if sigma is None else parse(sigma, "prior.sigma")
    if sigma is not None and accepts("priors", name, "sigma"):
        options["sigma"] = sigma
    built = build_prior({"name": name, **options})
    if isinstance(built, torch.nn.Module):
        built = built.to(like.device)
    _check_size(built, like)
    norm = 1.0
    alone = isinstance(physics, deepinv.physics.LinearPhysics) and follows_operator(
        config, built, sigma, fidelity, check_weight(weight)
    )
    if config.name != "hqs" and config.stepsize is None and not alone:
        probe = torch.ones_like(like) + torch.linspace(0, 1, like.shape[-1], device=like.device)
        norm = float(physics.compute_sqnorm(probe, verbose=False))
    noise: Any = physics_sigma(physics) if fidelity is None else fidelity.level
    plain = type(physics) is deepinv.physics.Denoising
    if plain and isinstance(physics.noise_model, COUNTED) and takes_stabilised(config, built):
        noise = physics_noise(physics)
    return build_solver(
        config,
        built,
        sigma=noise,
        data_fidelity=fidelity,
        physics_norm=norm,
        prior_sigma=sigma,
        prior_lambda=weight,
        progress=progress,
    )


def _check_size(prior: Any, image: Tensor) -> None:
    """Refuse an image smaller than a patch of the prior's model before the solver starts."""
    owner = getattr(prior, "denoiser", prior)
    size = getattr(getattr(owner, "model", None), "patch_size", 1)
    if min(image.shape[-2:]) < size:
        raise ValueError(
            f"the image is {image.shape[-2]}x{image.shape[-1]} pixels; "
            f"the prior needs at least one patch, {size}x{size}"
        )
