"""What deepinv itself brings: it has no registry of its own, so its parts are named here.

A target is `module:name` of deepinv's public interface, imported when it is asked for, or a factory
in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NATIVE: dict[str, dict[str, str]] = {
    "priors": {
        "l1": "deepinv.optim:L1Prior",
        "l12": "deepinv.optim:L12Prior",
        "pnp": "deepinv_gmdm.native:pnp",
        "red": "deepinv_gmdm.native:red",
        "score": "deepinv_gmdm.native:score",
        "tikhonov": "deepinv.optim:Tikhonov",
        "tv": "deepinv.optim:TVPrior",
        "tv-l1": "deepinv.optim:TVL1Prior",
        "wavelet": "deepinv.optim:WaveletPrior",
        "zero": "deepinv.optim:ZeroPrior",
    },
    "denoisers": {
        "bilateral": "deepinv.models:BilateralFilter",
        "bm3d": "deepinv.models:BM3D",
        "dncnn": "deepinv.models:DnCNN",
        "drunet": "deepinv.models:DRUNet",
        "epll": "deepinv.models:EPLLDenoiser",
        "gsdrunet": "deepinv.models:GSDRUNet",
        "median": "deepinv.models:MedianFilter",
        "scunet": "deepinv.models:SCUNet",
        "tgv": "deepinv.models:TGVDenoiser",
        "tv": "deepinv.models:TVDenoiser",
        "wavelet": "deepinv.models:WaveletDenoiser",
    },
    "noise_estimators": {
        "patch_covariance": "deepinv.models:PatchCovarianceNoiseEstimator",
        "wavelet": "deepinv.models:WaveletNoiseEstimator",
    },
}


def pnp(denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's plug-and-play prior around a denoiser, given by name, mapping or as a module."""
    import deepinv

    return deepinv.optim.PnP(_denoiser(denoiser))


def red(denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's regularisation by denoising around any registered denoiser."""
    import deepinv

    return deepinv.optim.RED(_denoiser(denoiser))


def score(denoiser: str | Mapping[str, Any] | Any = "gmdm") -> Any:
    """Deepinv's score prior, by Tweedie's formula, around any registered denoiser."""
    import deepinv

    return deepinv.optim.ScorePrior(_denoiser(denoiser))


def _denoiser(spec: Any) -> Any:
    from deepinv_gmdm.registry import build_denoiser

    return build_denoiser(spec)
