"""Files of measurements: pictures, arrays of k-space and sinograms, HDF5."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepinv_gmdm.operator_files import sides
from gmdm_prior.files.formats import choose, npy
from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.labels import refuse_labels
from gmdm_prior.files.formats.layout import plain
from gmdm_prior.files.formats.picture import Picture, Range

HDF5 = (".h5", ".hdf5", ".he5")


@dataclass
class Measurement:
    """A file of measurements, page by page.

    Attributes:
        kind: `"image"`, `"kspace"` or `"sinogram"`.
        pages: of images none (see `picture`), else arrays.
        picture: of images.
        two_channels: k-space came as real and imaginary part.
        notes: sentences on what was found.
    """

    path: Path
    kind: str
    pages: list[np.ndarray] = field(default_factory=list)
    picture: Picture | None = None
    two_channels: bool = False
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of pages."""
        return self.picture.pages if self.picture else len(self.pages)


def kind_for(physics: str) -> str:
    """Give what an operator measures.

    Raises:
        ValueError: for compressed_sensing, whose measurements come out of a simulation only.
    """
    if physics == "compressed_sensing":
        raise ValueError(
            "physics.name=compressed_sensing only simulates: its signs and coefficients are drawn "
            "anew. Give image= in place of measurement="
        )
    return {"mri": "kspace", "tomography": "sinogram"}.get(physics, "image")


def read_measurement(
    path: Path,
    kind: str,
    *,
    data_range: str | Range | None = None,
    axis: int | None = None,
    key: str | None = None,
    missing: bool = False,
) -> Measurement:
    """Read a file of measurements; `missing` values of a picture are allowed where asked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for what it cannot be, with its shape.
    """
    if kind == "image":
        if path.suffix.lower() in HDF5:
            array = _hdf5(path, key)
            values = array[None, None] if array.ndim == 2 else array[:, None]
            if values.ndim != 4 or array.dtype.kind not in "uif":
                raise ValueError(f"measurement={path} holds {array.dtype} {sides(array.shape)}")
            picture = Picture(values, "npy", plain(values.shape)).ranged(data_range)
        else:
            picture = choose.read(path, data_range=data_range, axis=axis, key=key)
        try:
            refuse_labels(picture)
            if not missing:
                for index in range(picture.pages):
                    picture.check_page(index)
        except ValueError as error:
            raise ValueError(f"measurement={path}: {error}") from None
        return Measurement(path, kind, picture=picture, notes=list(picture.notes))
    array = _array(path, key)
    if kind == "sinogram":
        if array.dtype.kind not in "uif":
            raise ValueError(f"measurement={path} holds {array.dtype}; a sinogram is real")
        pages = _slices(array, 2, axis, path, "a sinogram is detectors x angles")
        return Measurement(path, kind, [page.astype(np.float64) for page in pages])
    two = array.dtype.kind != "c"
    if two:
        array = _complex(array, path)
    if axis is not None:
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(f"axis={axis}: measurement={path} is {sides(array.shape)}")
        pages = list(np.moveaxis(array, axis, 0))
    else:
        pages = [array]
    return Measurement(path, kind, pages, two_channels=two)


def _array(path: Path, key: str | None) -> np.ndarray:
    if path.suffix.lower() in HDF5:
        return _hdf5(path, key)
    try:
        if choose.kind_of(path) == "npy":
            return npy.load(path, key)
        picture = choose.read(path)
        array = picture.physical(picture.values)[:, 0]
        return array[0] if len(array) == 1 else array
    except FileNotFoundError:
        raise FileNotFoundError(f"measurement={path} does not exist") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"measurement={path} cannot be read: {error}") from None


def _hdf5(path: Path, key: str | None) -> np.ndarray:
    h5py = needed("h5py", "an HDF5 file")
    try:
        with h5py.File(path) as file:
            names: list[str] = []
            file.visititems(
                lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None
            )
            if key is None and len(names) == 1:
                key = names[0]
            if key not in names:
                asked = "give one of them as key=NAME" if key is None else f"not {key!r}"
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}: {asked}")
            array = np.asarray(file[key])
    except OSError as error:
        raise ValueError(f"measurement={path} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"measurement={path}: {error}") from None
    if array.dtype.names == ("r", "i"):
        array = array["r"] + 1j * array["i"]
    if array.dtype.kind not in "uifc":
        raise ValueError(f"measurement={path}: {key!r} holds {array.dtype}, no numbers")
    return array


def _complex(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim in (3, 4) and array.shape[-1] == 2:
        return array[..., 0] + 1j * array[..., 1]
    if array.ndim in (3, 4) and array.shape[0] == 2:
        return array[0] + 1j * array[1]
    raise ValueError(
        f"measurement={path} is real, {sides(array.shape)}; k-space is complex (H, W), or has real "
        "and imaginary part as two channels (2, H, W)"
    )


def _slices(
    array: np.ndarray, inner: int, axis: int | None, path: Path, meaning: str
) -> list[np.ndarray]:
    if array.ndim == inner and axis is None:
        return [array]
    if array.ndim == inner + 1 and axis is not None and -array.ndim <= axis < array.ndim:
        return list(np.moveaxis(array, axis, 0))
    raise ValueError(
        f"measurement={path} is {sides(array.shape)}; {meaning}, of several slices give axis="
    )
