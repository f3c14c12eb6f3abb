"""Gaussian-mixture diffusion models: explicit image priors, exact at every noise level.

    import gmdm_prior as gm
    model = gm.load("bsds-gray")
    clean = gm.HalfQuadraticSplitting(model)(noisy, 25 / 255)

After Zach, Pock, Kobler and Chambolle, "Explicit Diffusion of Gaussian Mixture Model Based Image
Priors" (2023).
"""

from ._noise_level import sigma_from_time, time_from_sigma
from .convolutional import ConvolutionalModel
from .denoisers import HalfQuadraticSplitting, PatchAveraging
from .density import DensityModel
from .image_frame import ImageFrame
from .likelihood import PatchLikelihood
from .mixture import PatchMixture
from .noise_level_estimation import NoiseLevel, estimate_sigma, noise_level
from .noise_map_estimation import estimate_sigma_map
from .opponent import OpponentModel
from .pogmdm import import_pogmdm
from .product import PatchModel
from .storage import bundled, card, load, save
from .subband_experts import SubbandExperts
from .trainable import TrainableMixture, TrainableProduct
from .wavelet import WaveletModel
from .wavelet_images import WaveletDenoiser, WaveletLikelihood

__version__ = "0.1.0"

__all__ = [
    "ConvolutionalModel",
    "DensityModel",
    "HalfQuadraticSplitting",
    "ImageFrame",
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
    "estimate_sigma",
    "estimate_sigma_map",
    "import_pogmdm",
    "load",
    "noise_level",
    "save",
    "sigma_from_time",
    "time_from_sigma",
]
