"""How probable an image is, as a metric of deepinv's without reference."""

from __future__ import annotations

import math
from typing import Any

import deepinv
import torch
from torch import Tensor, nn

import gmdm_prior as gm
from deepinv_gmdm.noise_estimator import DEFAULT_WEIGHTS, loaded
from gmdm_prior.images.data_range import Framed


class GMDMLogLikelihood(Framed, deepinv.metric.Metric):
    """Log-likelihood of images under a Gaussian-mixture diffusion model, in nats per pixel.

    Higher is more probable, which is not better in every way: noise lowers the value, but blur
    *raises* it, for smooth images are the most probable. It compares images of the same scene and
    sharpness, or says whether data look like what the model was trained on.

    Of a model of whole images (`gmdm_prior.WaveletModel`) it is the exact log-density over the
    number of pixels. A model of patches has no density of images: there it is a composite one, the
    mean log-density of all patches inside the image over their number of pixels. Channels count as
    images of their own, the value is their mean.

    Args:
        weights: name of bundled weights, path of a `.safetensors` file, or a model of `gmdm_prior`.
            The default was trained by likelihood alone.
        sigma: standard deviation of the noise that the images hold, in their units; 0 is the
            density of clean ones.
        device: where the weights live; None leaves them where they are.
        data_range: the values of black and white, (low, high); the density is one of such images.
        **kwargs: of `deepinv.metric.Metric`: reduction, complex_abs, norm_inputs, center_crop, and
            train_loss, which turns the sign (the value is differentiable).

    Raises:
        FileNotFoundError: for unknown weights.
        ValueError: for corrupt weights, or a model without a normalised density.
    """

    def __init__(
        self,
        weights: str | nn.Module = DEFAULT_WEIGHTS,
        sigma: float = 0.0,
        device: torch.device | str | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = loaded(weights)
        if not getattr(self.model, "normalised", False):
            raise ValueError(
                f"weights must be a model with a normalised density; {type(self.model).__name__} "
                "has none. 'gray-likelihood' has one of patches"
            )
        self.sigma, self.lower_better = sigma, False
        whole = isinstance(self.model, gm.WaveletModel)
        self.likelihood = (
            gm.WaveletLikelihood(self.model) if whole else gm.PatchLikelihood(self.model, "valid")
        )
        self.frame = gm.ImageFrame(self.model, data_range=data_range)
        if device is not None:
            self.to(device)

    def metric(self, x_net: Tensor, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Log-likelihood per pixel.

        Args:
            x_net: images (B, C, H, W), clean values in [0, 1].
            x: not used, nor is anything else that deepinv passes.
            *args: not used.
            **kwargs: not used.

        Returns:
            (B,), in nats.

        Raises:
            ValueError: where x_net or sigma does not fit the model.
        """
        planes, level = self.frame.enter(x_net, self.sigma)
        total = self.likelihood.log_prob(planes, level)
        total = total - self.likelihood.dimensions(planes) * math.log(self.frame.width)
        border = 0 if isinstance(self.model, gm.WaveletModel) else self.model.patch_size - 1
        height, width = (side - border for side in x_net.shape[2:])
        return (total / (x_net.shape[1] * height * width)).to(x_net.dtype)
