"""Gaussian-mixture diffusion models: explicit image priors, exact at every noise level.

    import gmdm_prior as gm
    model = gm.load("gray")
    clean = gm.HalfQuadraticSplitting(model)(noisy, 25 / 255)

The names below are imported at their first use, so that a command can refuse bad input before
torch is there.

After Zach, Pock, Kobler and Chambolle, "Explicit Diffusion of Gaussian Mixture Model Based Image
Priors" (2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmdm_prior.at_first_use import at_first_use

if TYPE_CHECKING:
    from gmdm_prior.densities.base import DensityModel
    from gmdm_prior.densities.convolutional.model import ConvolutionalModel
    from gmdm_prior.densities.mixture.model import PatchMixture
    from gmdm_prior.densities.opponent import OpponentModel
    from gmdm_prior.densities.product import PatchModel
    from gmdm_prior.densities.trainable import TrainableMixture, TrainableProduct
    from gmdm_prior.densities.wavelet.model import WaveletModel
    from gmdm_prior.densities.wavelet.subbands import SubbandExperts
    from gmdm_prior.files.pogmdm import import_pogmdm
    from gmdm_prior.files.safetensors import bundled, card, load, save
    from gmdm_prior.gaussian_noise import Covariance, Noise, NoiseCurve
    from gmdm_prior.images.adaptive import AdaptiveSplitting
    from gmdm_prior.images.averaging import PatchAveraging
    from gmdm_prior.images.data_range import ImageFrame
    from gmdm_prior.images.hqs import HalfQuadraticSplitting
    from gmdm_prior.images.likelihood import PatchLikelihood
    from gmdm_prior.images.wavelet import WaveletDenoiser, WaveletLikelihood
    from gmdm_prior.noise.blind import BlindDenoiser
    from gmdm_prior.noise.estimate import estimate_noise
    from gmdm_prior.noise.level import NoiseLevel
    from gmdm_prior.noise.map import estimate_sigma_map
    from gmdm_prior.noise.one_level import estimate_sigma, noise_level
    from gmdm_prior.sigma import sigma_from_time, time_from_sigma

__version__ = "0.2.0"

__all__ = [
    "AdaptiveSplitting",
    "BlindDenoiser",
    "ConvolutionalModel",
    "Covariance",
    "DensityModel",
    "HalfQuadraticSplitting",
    "ImageFrame",
    "Noise",
    "NoiseCurve",
    "NoiseLevel",
    "OpponentModel",
    "PatchAveraging",
    "PatchLikelihood",
    "PatchMixture",
    "PatchModel",
    "SubbandExperts",
    "TrainableMixture",
    "TrainableProduct",
    "WaveletDenoiser",
    "WaveletLikelihood",
    "WaveletModel",
    "bundled",
    "card",
    "estimate_noise",
    "estimate_sigma",
    "estimate_sigma_map",
    "import_pogmdm",
    "load",
    "noise_level",
    "save",
    "sigma_from_time",
    "time_from_sigma",
]

_HOMES = {
    "gmdm_prior.densities.base": ("DensityModel",),
    "gmdm_prior.densities.convolutional.model": ("ConvolutionalModel",),
    "gmdm_prior.densities.mixture.model": ("PatchMixture",),
    "gmdm_prior.densities.opponent": ("OpponentModel",),
    "gmdm_prior.densities.product": ("PatchModel",),
    "gmdm_prior.densities.trainable": ("TrainableMixture", "TrainableProduct"),
    "gmdm_prior.densities.wavelet.model": ("WaveletModel",),
    "gmdm_prior.densities.wavelet.subbands": ("SubbandExperts",),
    "gmdm_prior.files.pogmdm": ("import_pogmdm",),
    "gmdm_prior.files.safetensors": ("bundled", "card", "load", "save"),
    "gmdm_prior.gaussian_noise": ("Covariance", "Noise", "NoiseCurve"),
    "gmdm_prior.images.adaptive": ("AdaptiveSplitting",),
    "gmdm_prior.images.averaging": ("PatchAveraging",),
    "gmdm_prior.images.data_range": ("ImageFrame",),
    "gmdm_prior.images.hqs": ("HalfQuadraticSplitting",),
    "gmdm_prior.images.likelihood": ("PatchLikelihood",),
    "gmdm_prior.images.wavelet": ("WaveletDenoiser", "WaveletLikelihood"),
    "gmdm_prior.noise.blind": ("BlindDenoiser",),
    "gmdm_prior.noise.estimate": ("estimate_noise",),
    "gmdm_prior.noise.level": ("NoiseLevel",),
    "gmdm_prior.noise.map": ("estimate_sigma_map",),
    "gmdm_prior.noise.one_level": ("estimate_sigma", "noise_level"),
    "gmdm_prior.sigma": ("sigma_from_time", "time_from_sigma"),
}
_ROOMS = {home.split(".")[1] for home in _HOMES} | {"constraints", "fast", "symmetry"}

__getattr__, __dir__ = at_first_use(globals(), _HOMES, sorted(_ROOMS))
