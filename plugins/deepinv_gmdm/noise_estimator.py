"""What deepinv calls a noise estimator: images -> their noise levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import gmdm_prior as gm
from gmdm_prior.images.data_range import Framed
from gmdm_prior.messages import unknown
from gmdm_prior.noise.estimate.estimate import KINDS
from gmdm_prior.noise.one_level import noise_of

DEFAULT_WEIGHTS = "gray-likelihood"


def loaded(weights: str | nn.Module) -> Any:
    """A model as it is, or the one of a name or path."""
    return weights if isinstance(weights, nn.Module) else gm.load(weights)


class GMDMNoiseEstimator(Framed):
    """Noise of images: one level each, one per pixel, or all that is read of it.

    The level is that of `gmdm_prior.estimate_noise`, whether the noise is white, correlated or
    growing with brightness; `noise` gives the rest.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
            The default was trained by likelihood alone, which reads levels best.
        per_pixel: estimate a map instead of one level for each image.
        window: for maps, the scale in pixels on which levels are smoothed; at least 8.
        device: where the weights live; None leaves them where they are.
        data_range: the values of black and white, (low, high); levels are in the images' units.
        kind: of the noise, `"auto"` to find out, `"white"`, `"correlated"` or `"poisson"`, which
            grows with brightness; not of maps.

    Raises:
        FileNotFoundError: for unknown weights.
        ValueError: for corrupt weights, a bad data_range or an unknown kind.
    """

    def __init__(
        self,
        weights: str | nn.Module = DEFAULT_WEIGHTS,
        per_pixel: bool = False,
        window: int = 12,
        device: torch.device | str | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        kind: str = "auto",
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(unknown("noise", kind, KINDS))
        self.model, self.kind = loaded(weights), kind
        self.frame = gm.ImageFrame(self.model, data_range=data_range)
        self.per_pixel, self.window = per_pixel, window
        if device is not None:
            self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate noise levels.

        Args:
            x: noisy images (B, C, H, W), real, clean values in `data_range`.

        Returns:
            Standard deviations in the units of `x`: (B,), or with `per_pixel` (B, 1, H, W), which
            `GMDMDenoiser` takes as sigma.

        Raises:
            ValueError: where x does not fit the model, is not finite, or the window is too narrow.
        """
        planes, _ = self.frame.enter(x, 0.0)
        if self.per_pixel:
            return self.frame.width * gm.estimate_sigma_map(self.model, planes, self.window)
        return self.frame.width * gm.estimate_sigma(self.model, planes, self.kind)

    def noise(self, x: Tensor) -> gm.Noise:
        """All that is read of the noise, in the units of `x`: see `gmdm_prior.estimate_noise`.

        Weights that cannot tell kinds of noise apart (not a mixture of gray patches) read the level
        of white noise.

        Raises:
            ValueError: as `forward`.
        """
        planes, _ = self.frame.enter(x, 0.0)
        return self.frame.outside(noise_of(self.model, planes, self.kind))

    def with_error(self, x: Tensor) -> gm.NoiseLevel:
        """Levels (B,) with standard errors and intervals (`gmdm_prior.noise_level`)."""
        planes, _ = self.frame.enter(x, 0.0)
        found = gm.noise_level(self.model, planes, self.kind)
        return gm.NoiseLevel(self.frame.width * found.sigma, self.frame.width * found.error)


def noise_estimator_for(
    weights: str | nn.Module,
    model: nn.Module,
    per_pixel: bool = False,
    data_range: tuple[float, float] = (0.0, 1.0),
    kind: str = "auto",
) -> GMDMNoiseEstimator:
    """What reads the noise level for a denoiser of these weights, loaded as `model`."""
    bundled = isinstance(weights, str) and weights in gm.bundled()
    reads = isinstance(model, (gm.PatchMixture, gm.PatchModel))
    own = model if reads and not bundled else DEFAULT_WEIGHTS
    return GMDMNoiseEstimator(own, per_pixel, data_range=data_range, kind=kind)
