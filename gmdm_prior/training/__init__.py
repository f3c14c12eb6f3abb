"""Training: likelihood, iPALM, score matching of the image denoiser, and the data they need.

`fit` drives them all, step by step, with checkpoints; `fit_em` is likelihood alone in one call.
Which kind of model is trained how is a table, `methods.KINDS`. The rooms: `likelihood`, `score` and
`ipalm` are ways to train, `data` is what they draw from, `run` is the command line.
"""

from gmdm_prior.files.pictures import read_image
from gmdm_prior.images.adapt import adapt
from gmdm_prior.training.checkpoint import Checkpoint, Checkpoints
from gmdm_prior.training.data.images import (
    find_images,
    read_images,
    split_held_out,
)
from gmdm_prior.training.data.pool import sample_patches
from gmdm_prior.training.fit import StepRecord, fit
from gmdm_prior.training.ipalm.nmse import nmse
from gmdm_prior.training.ipalm.optimiser import IPALM
from gmdm_prior.training.likelihood.em import EMRecord, fit_em
from gmdm_prior.training.score.product_loss import denoising_score_matching
from gmdm_prior.training.settings import FitSettings

__all__ = [
    "IPALM",
    "Checkpoint",
    "Checkpoints",
    "EMRecord",
    "FitSettings",
    "StepRecord",
    "adapt",
    "denoising_score_matching",
    "find_images",
    "fit",
    "fit_em",
    "nmse",
    "read_image",
    "read_images",
    "sample_patches",
    "split_held_out",
]
