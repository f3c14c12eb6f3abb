"""MRC and CCP4 maps of electron microscopy, by mrcfile."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.layout import of_axes
from gmdm_prior.files.formats.picture import Picture


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """All sections, along the first axis where none is given."""
    mrcfile = needed("mrcfile", "an MRC file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=False) as file:
            array = np.array(file.data)
            header, extended = file.header.copy(), np.array(file.extended_header)
            stack = bool(file.is_image_stack())
    if array.dtype.kind == "c":
        raise ValueError("it holds complex numbers (a Fourier transform), no picture")
    layout = of_axes(array.shape, axis)
    values = layout.pages(array.astype(array.dtype.newbyteorder("=")))
    metadata = {"header": header, "extended": extended, "stack": stack}
    return Picture(values, "mrc", layout, metadata=metadata)


def write(picture: Picture, path: Path) -> None:
    """The sections, with voxel size, origin and labels of the file that they came from."""
    mrcfile = needed("mrcfile", "an MRC file")
    array = np.ascontiguousarray(picture.layout.array(picture.values))
    if array.dtype not in (np.int8, np.int16, np.uint16, np.float32, np.float16):
        array = picture.physical(array).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(array)
            header = picture.metadata.get("header") if picture.kind == "mrc" else None
            if header is None:
                return
            file.set_extended_header(picture.metadata["extended"])
            for name in ("cella", "cellb", "origin", "nstart", "nxstart", "nystart", "nzstart"):
                if name in header.dtype.names:
                    file.header[name] = header[name]
            for name in (
                "mx",
                "my",
                "mz",
                "ispg",
                "exttyp",
                "label",
                "nlabl",
                "mapc",
                "mapr",
                "maps",
            ):
                file.header[name] = header[name]
