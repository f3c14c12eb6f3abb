"""Blind denoising: the noise is read off the image (`estimate`), then taken away."""

from __future__ import annotations

from torch import Tensor, nn

from gmdm_prior.densities.base import DensityModel
from gmdm_prior.gaussian_noise import Noise
from gmdm_prior.images.blind import NoiseDenoiser
from gmdm_prior.noise.estimate import READER, estimate_noise

WEIGHTS = "gray"  # the density that denoises


class BlindDenoiser(nn.Module):
    """Denoises images of unknown noise: white, correlated or growing with brightness.

    Args:
        model: the density that denoises; None loads `WEIGHTS`.
        reader: the density that reads the noise; None loads `READER`.
        stride: as for `HalfQuadraticSplitting`; None is its default.
        kind: as for `estimate_noise`.
        adapt: as for `NoiseDenoiser`: whether the model is adapted to each picture.
    """

    def __init__(
        self,
        model: DensityModel | None = None,
        reader: DensityModel | None = None,
        stride: int | None = None,
        kind: str = "auto",
        adapt: bool = False,
    ) -> None:
        super().__init__()
        from gmdm_prior.files.safetensors import load

        model = load(WEIGHTS) if model is None else model
        self.denoiser = NoiseDenoiser(model, stride, adapt)
        self.reader = load(READER) if reader is None else reader
        self.kind = kind

    def forward(
        self, noisy: Tensor, noise: Noise | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Denoise images (B, C, H, W) under a noise; None reads it off them (`estimate_noise`)."""
        if noise is None:
            noise = estimate_noise(noisy, self.reader, mask, self.kind)
        return self.denoiser(noisy, noise)
