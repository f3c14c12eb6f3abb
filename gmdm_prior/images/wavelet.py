"""A `WaveletModel` on batches of images (B, C, H, W): posterior mean and exact log-density.

Channels are taken one by one: a log-density is the sum over the channels of an image.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.images.patches import untraced
from gmdm_prior.images.planes import prepare


class WaveletDenoiser(nn.Module):
    """The posterior mean of whole images under a `WaveletModel`.

    Exact where both sides are multiples of `model.patch_size`; other images are reflected at the
    lower and right border up to the next multiple, and cropped afterwards.

    Args:
        model: a `WaveletModel`.
    """

    def __init__(self, model: WaveletModel) -> None:
        super().__init__()
        self.model = _wavelet(model)

    @untraced
    def forward(self, noisy: Tensor, sigma: object) -> Tensor:
        """Denoise images.

        Args:
            noisy: (B, C, H, W), floating point, at least `model.patch_size` pixels on each side.
            sigma: number, (B,) or (B, 1, 1, 1), in units of the image.

        Returns:
            Shaped like `noisy`, same dtype and device, not clamped.

        Raises:
            ValueError: for shapes that do not fit, NaN pixels, a bad sigma or a noise map.
            TypeError: for integer or complex images.
        """
        planes, level = _planes(self.model, noisy, sigma)
        height, width = noisy.shape[2:]
        more = [-n % self.model.patch_size for n in (width, height)]
        padded = F.pad(planes, (0, more[0], 0, more[1]), mode="reflect") if any(more) else planes
        out = self.model.denoise(padded, level)[..., :height, :width]
        return out.reshape(noisy.shape).to(noisy.dtype)


class WaveletLikelihood(nn.Module):
    """The normalised log-density of images under a `WaveletModel`, and its gradient.

    Args:
        model: a `WaveletModel`; both sides of the images must be multiples of its `patch_size`.
    """

    def __init__(self, model: WaveletModel) -> None:
        super().__init__()
        self.model = _wavelet(model)

    @untraced
    def log_prob(self, images: Tensor, sigma: object) -> Tensor:
        """Log-density (B,) in nats of images (B, C, H, W); sigma as in `WaveletDenoiser`."""
        planes, level = _planes(self.model, images, sigma)
        each = self.model.log_prob(planes, level).reshape(images.shape[:2])
        return each.sum(1).to(images.dtype)

    @untraced
    def score(self, images: Tensor, sigma: object) -> Tensor:
        """Gradient of `log_prob` with respect to the images, analytic, shaped like them."""
        planes, level = _planes(self.model, images, sigma)
        return self.model.score(planes, level).reshape(images.shape).to(images.dtype)

    def dimensions(self, images: Tensor) -> float:
        """Dimensions of the density of an image. Stretching by s subtracts them times log s."""
        return images[:1].numel()

    def lipschitz(self, sigma: float) -> float:
        """Largest curvature of `-log_prob`: for the descent lemma."""
        return self.model.lipschitz(sigma)


def _wavelet(model: object) -> WaveletModel:
    if not isinstance(model, WaveletModel):
        raise TypeError(
            f"model must be a WaveletModel; got {type(model).__name__}. PatchAveraging, "
            "HalfQuadraticSplitting and PatchLikelihood take densities of patches"
        )
    return model


def _planes(model: WaveletModel, images: Tensor, sigma: object) -> tuple[Tensor, Tensor]:
    """Channels as a batch (M, 1, H, W), and their levels (M,)."""
    planes, level, is_map = prepare(model, images, sigma)
    if is_map:
        raise ValueError(
            "sigma must be a number or one level for each image: noise that varies inside an image "
            "is correlated between wavelet coefficients. For a map take a model of patches, "
            "gray say"
        )
    return planes, level
