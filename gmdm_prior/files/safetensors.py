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

from gmdm_prior.densities.base import DensityModel, Packed
from gmdm_prior.densities.convolutional.model import ConvolutionalModel
from gmdm_prior.densities.mixture.model import PatchMixture
from gmdm_prior.densities.opponent import OpponentModel
from gmdm_prior.densities.product import PatchModel
from gmdm_prior.densities.wavelet.model import WaveletModel
from gmdm_prior.densities.wavelet.subbands import SubbandExperts
from gmdm_prior.messages import nearest

FORMAT = "gmdm-prior/1"
SUCCESSORS = {  # of bundled names that are no more
    "bsds-gray": "gray",
    "bsds-gray-best": "gray",
    "bsds-gray-small": "gray-small",
    "bsds-gray-likelihood": "gray-likelihood",
    "bsds-gray-wavelet": "gray-wavelet",
    "bsds-color": "gray",
}
KINDS: dict[str, type[DensityModel]] = {}  # the densities that can be read, by their name in files
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
        model: a density of the package, or one that was given to `register`.
        path: the file; its folder must exist.
        card: JSON-able facts about the model (data, terms, figures), kept in the file's metadata.

    Raises:
        TypeError: for another kind of model, or a card that JSON cannot hold.
        ValueError: `path` is a file that is no model of ours, which is not replaced.
        OSError: where the file cannot be written; an older model at `path` is left as it was.
    """
    _refuse_to_replace(Path(path))
    kind, tensors, options = pack(model)
    metadata = {"format": FORMAT, "model": kind, "options": json.dumps(options)}
    try:
        metadata["card"] = json.dumps(card, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"card must hold numbers, strings, lists and dictionaries only: {error}"
        ) from None
    apart = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}  # not shared
    data = safetensors.torch.save(apart, metadata)
    write_aside(Path(path), data)


def _refuse_to_replace(path: Path) -> None:
    """Older models may be replaced, other files not."""
    if not is_file(path) or not path.stat().st_size:
        return
    try:
        ours = _read(path)[1].get("format") == FORMAT
    except ValueError:
        ours = False
    if not ours:
        raise ValueError(
            f"{str(path)!r} exists and is no model of gmdm_prior, so it is not replaced; name "
            "another file"
        )


def write_aside(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either its old content or all of the new."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
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
) -> DensityModel:
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
        model = unpack(metadata.get("model", ""), tensors, options).made_exact()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"weights {str(path)!r} hold no valid model: {reason}") from None
    model.name = path.name.removesuffix(".safetensors")
    return model.to(device).requires_grad_(False)


def card(name: str | os.PathLike) -> dict[str, object]:
    """The card stored with a model: its data and their terms, figures, how it was made."""
    _, metadata = _read(_resolve(name))
    try:
        return json.loads(metadata.get("card", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"weights {str(name)!r} hold a damaged card: {error}") from None


def register(density: type[DensityModel]) -> type[DensityModel]:
    """Make a density readable from files, by its `kind`; also a class decorator.

    Raises:
        ValueError: another density has this kind.
    """
    if KINDS.setdefault(density.kind, density) is not density:
        raise ValueError(
            f"kind {density.kind!r} is that of {KINDS[density.kind].__name__}: give "
            f"{density.__name__} another one"
        )
    return density


for _density in (
    PatchModel,
    PatchMixture,
    OpponentModel,
    SubbandExperts,
    WaveletModel,
    ConvolutionalModel,
):
    register(_density)


def pack(model: DensityModel) -> Packed:
    """A model as its kind, its stored numbers and its options.

    Raises:
        TypeError: it is no density of a registered kind.
    """
    if not isinstance(model, DensityModel) or model.kind not in KINDS:
        raise TypeError(
            f"model must be one of {', '.join(KINDS)}, or a density given to "
            f"gmdm_prior.files.register; got {type(model).__name__}"
        )
    return model.pack()


def unpack(kind: str, tensors: dict[str, Tensor], options: dict[str, object]) -> DensityModel:
    """The model that `pack` took apart, to the bit.

    Raises:
        ValueError: for an unknown kind, or numbers that are no such model.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of model {kind!r}; known are {', '.join(KINDS)}")
    model = KINDS[kind].unpack(tensors, options, unpack)
    own = model.pack().options
    if own.keys() != options.keys():
        raise ValueError(f"options of a {kind} are {', '.join(own)}; got {', '.join(options)}")
    return model


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that is too long for one is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _resolve(name: str | os.PathLike) -> Path:
    text = os.fspath(name)
    names = bundled()
    if text in names:
        return Path(str(resources.files("gmdm_prior") / "weights" / f"{text}.safetensors"))
    path = Path(text)
    if is_file(path):
        return path
    if text in SUCCESSORS:
        raise FileNotFoundError(
            f"weights {text!r} are no longer bundled; {SUCCESSORS[text]!r}, trained on free "
            "photographs, takes their place"
        )
    if _is_folder(path):
        raise ValueError(f"weights {text!r} is a folder; give a .safetensors file in it")
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
