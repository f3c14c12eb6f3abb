"""Models in safetensors files: reading, writing, bundled ones by name.

A file holds the stored numbers of a model as tensors, and as metadata its kind, its options and its
card (JSON). Files are written aside and renamed, so that a full disk or a Ctrl-C leaves the old
file. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
from importlib import resources
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gmdm_prior.constraints import orthonormalise, project_orthogonal
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.densities.wavelet.subbands import SubbandExperts
from gmdm_prior.messages import nearest

FORMAT = "gmdm-prior/1"
Model = (
    PatchModel | PatchMixture | OpponentModel | SubbandExperts | WaveletModel | ConvolutionalModel
)
UNREADABLE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def bundled() -> list[str]:
    """Names of the models that ship with the package."""
    folder = resources.files("gmdm_prior") / "weights"
    return sorted(
        f.name[: -len(".safetensors")] for f in folder.iterdir() if f.name.endswith(".safetensors")
    )


def save(model: DensityModel, path: str | os.PathLike, **card: object) -> None:
    """Write a model to a safetensors file, all or nothing.

    Args:
        model: a `PatchModel`, `PatchMixture`, `OpponentModel`, `SubbandExperts`, `WaveletModel` or
            `ConvolutionalModel`.
        path: the file; its folder must exist.
        card: JSON-able facts about the model (data, terms, figures), kept in the file's metadata.

    Raises:
        TypeError: for another kind of model, or a card that JSON cannot hold.
        OSError: where the file cannot be written; an older file at `path` is left as it was.
    """
    kind, tensors, options = pack(model)
    metadata = {"format": FORMAT, "model": kind, "options": json.dumps(options)}
    try:
        metadata["card"] = json.dumps(card, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"card must hold numbers, strings, lists and dictionaries only: {error}"
        ) from None
    data = safetensors.torch.save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata
    )
    write_aside(Path(path), data)


def write_aside(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either its old content or all of the new."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(
    name: str | os.PathLike,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Read a model by bundled name or by path; its parameters are frozen.

    Stored bases are orthonormal to about 1e-6 only: they are made orthonormal anew in the requested
    dtype, so in float64 the model's identities hold to 1e-10.

    Args:
        name: one of `bundled()`, or the path of a `.safetensors` file.
        device: where the parameters go.
        dtype: of the parameters: float64 or float32 (inputs may be of any floating type).

    Raises:
        FileNotFoundError: for a name that is neither bundled nor a file; the nearest names are
            offered.
        ValueError: for a file that is truncated, no safetensors file, of another program, or not a
            valid model.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"dtype of the parameters must be torch.float32 or torch.float64; got {dtype}. "
            "Inputs of half precision work with either"
        )
    path = _resolve(name)
    tensors, metadata = _read(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"weights {str(path)!r} were not written by gmdm_prior.save: their format is "
            f"{metadata.get('format')!r}, not {FORMAT!r}"
        )
    try:
        options = json.loads(metadata["options"])
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        model = _made_exact(unpack(metadata.get("model", ""), tensors, options))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"weights {str(path)!r} hold no valid model: {reason}") from None
    return model.to(device).requires_grad_(False)


def card(name: str | os.PathLike) -> dict[str, object]:
    """The card stored with a model: its data and their terms, figures, how it was made."""
    _, metadata = _read(_resolve(name))
    try:
        return json.loads(metadata.get("card", "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"weights {str(name)!r} hold a damaged card: {error}") from None


def pack(model: DensityModel) -> tuple[str, dict[str, Tensor], dict[str, object]]:
    """A model as its kind, its stored numbers and its options.

    Raises:
        TypeError: for another kind of model.
    """
    kind = type(model).__name__
    if isinstance(model, PatchMixture):
        kind = "PatchMixture"  # of a trainable one, too
        tensors = {k: getattr(model, k) for k in ("filters", "variances", "weights", "basis")}
        options = {"symmetries": model.symmetries}
    elif isinstance(model, PatchModel):
        kind = "PatchModel"
        tensors = {"filters": model.filters, "logits": model.experts.logits}
        options = {"bound": model.experts.bound}
    elif isinstance(model, SubbandExperts):
        kind = "SubbandExperts"
        tensors = {"logits": model.experts.logits, "scales": model.scales}
        options = {}
    elif isinstance(model, WaveletModel):
        kind, tensors, options = pack(model.experts)
        if model.wavelet is None:
            tensors = tensors | {"taps": model.bank[0]}
        return "WaveletModel", tensors, options | {"experts": kind, "wavelet": model.wavelet}
    elif isinstance(model, OpponentModel):
        return "OpponentModel", *_pack_planes(model)
    elif isinstance(model, ConvolutionalModel):
        tensors = {k: getattr(model, k) for k in ("owner", "phase", "magnitude")}
        tensors["logits"] = model.experts.logits
        return "ConvolutionalModel", tensors, {"bound": model.experts.bound}
    else:
        raise TypeError(
            "model must be a PatchModel, PatchMixture, OpponentModel, SubbandExperts, WaveletModel "
            f"or ConvolutionalModel; got {type(model).__name__}"
        )
    return kind, tensors, options | {"mean_variance": model.mean_part.variance}


def unpack(kind: str, tensors: dict[str, Tensor], options: dict[str, object]) -> Model:
    """The model that `pack` took apart, to the bit.

    Raises:
        ValueError: for an unknown kind, or numbers that are no such model.
    """
    if kind == "PatchMixture":
        model = PatchMixture(**tensors, symmetries=options["symmetries"])
    elif kind == "PatchModel":
        model = PatchModel(**tensors, bound=options["bound"])
    elif kind == "SubbandExperts":
        model = SubbandExperts(**tensors)
    elif kind == "WaveletModel":
        experts = {k: v for k, v in tensors.items() if k != "taps"}
        wavelet = tensors["taps"] if options["wavelet"] is None else options["wavelet"]
        return WaveletModel(unpack(options["experts"], experts, options), wavelet)
    elif kind == "OpponentModel":
        return _unpack_planes(tensors, options)
    elif kind == "ConvolutionalModel":
        return ConvolutionalModel(**tensors, bound=options["bound"])
    else:
        raise ValueError(f"unknown kind of model {kind!r}")
    variance = options.get("mean_variance")
    return model if variance is None else model.with_mean(variance)


def _pack_planes(model: OpponentModel) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The densities of the planes one after the other: `0.filters`, …, and their options."""
    tensors, options = {}, []
    for j, plane in enumerate(model.planes):
        kind, own, its = pack(plane)
        tensors |= {f"{j}.{key}": value for key, value in own.items()}
        options.append(its | {"model": kind})
    return tensors, {"planes": options, "scales": list(model.scales)}


def _unpack_planes(tensors: dict[str, Tensor], options: dict[str, object]) -> OpponentModel:
    planes = []
    for j, its in enumerate(options["planes"]):
        own = {k[len(f"{j}.") :]: v for k, v in tensors.items() if k.startswith(f"{j}.")}
        planes.append(unpack(its["model"], own, its))
    return OpponentModel(*planes, scales=options["scales"])


@torch.no_grad()
def _made_exact(model: Model) -> Model:
    """Make bases that were rounded in a file orthonormal again, and weights sum to one."""
    if isinstance(model, PatchModel):
        model.filters.copy_(project_orthogonal(model.filters, steps=50))
    elif isinstance(model, WaveletModel):
        _made_exact(model.experts)
    elif isinstance(model, OpponentModel):
        for plane in model.planes:
            _made_exact(plane)
    elif isinstance(model, PatchMixture):
        model.filters.copy_(orthonormalise(model.filters))
        model.weights.div_(model.weights.sum())
    return model


def _resolve(name: str | os.PathLike) -> Path:
    text = os.fspath(name)
    names = bundled()
    if text in names:
        return Path(str(resources.files("gmdm_prior") / "weights" / f"{text}.safetensors"))
    path = Path(text)
    if path.is_dir():
        raise ValueError(f"weights {text!r} is a folder; give a .safetensors file in it")
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"weights {text!r} are neither a bundled model nor a file"
        f"{nearest(text, names, 0.4) or ';'} bundled: {', '.join(names) or 'none'}"
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}
    except UNREADABLE as error:
        with open(path, "rb") as file:
            head = file.read(4)
        kind = ""
        if head[:2] == b"\x80\x02" or head[:1] == b"\x80" or head == b"PK\x03\x04":
            kind = ": it looks like a pickle, which is never loaded"
        raise ValueError(
            f"weights {str(path)!r} cannot be read as safetensors (truncated, damaged or another "
            f"format){kind}: {error}"
        ) from None
