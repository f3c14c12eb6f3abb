"""FITS, by astropy: the first picture of a file, in the units of BSCALE and BZERO."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.layout import of_axes
from gmdm_prior.files.formats.picture import Picture


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """The first header unit that holds a picture."""
    fits = needed("astropy.io.fits", "a FITS file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            units = fits.open(
                path, memmap=False, lazy_load_hdus=False, do_not_scale_image_data=True
            )
            found = [i for i, u in enumerate(units) if u.is_image and u.data is not None]
        except (OSError, TypeError) as error:
            raise ValueError(str(error)) from None
    if not found:
        raise ValueError("none of its header units holds a picture")
    index = found[0]
    header, raw = units[index].header, units[index].data
    layout = of_axes(raw.shape, axis)
    values = layout.pages(raw.astype(raw.dtype.newbyteorder("=")))
    picture = Picture(
        values,
        "fits",
        layout,
        slope=float(header.get("BSCALE", 1)),
        intercept=float(header.get("BZERO", 0)),
        metadata={"units": units, "index": index},
        blank=header.get("BLANK") if raw.dtype.kind in "iu" else None,
    )
    if len(found) > 1:
        picture.notes = (f"of its {len(found)} pictures the first; the others are kept",)
    return picture


def write(picture: Picture, path: Path) -> None:
    """The file that was read with other values, or a new one."""
    fits = needed("astropy.io.fits", "a FITS file")
    units = picture.metadata.get("units") if picture.kind == "fits" else None
    array = picture.layout.array(picture.values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if units is None:
            if array.dtype.kind == "u" and array.dtype.itemsize > 1:
                array = picture.physical(array).astype(np.float32)
            fits.PrimaryHDU(np.ascontiguousarray(array)).writeto(path, overwrite=True)
            return
        unit = units[picture.metadata["index"]]
        if unit.data.shape == array.shape:
            before = unit.data.copy()
            unit.data[...] = array
            try:
                units.writeto(path, overwrite=True, output_verify="silentfix")
            finally:
                unit.data[...] = before
            return
        header = unit.header.copy()
        for name in ("BSCALE", "BZERO", "BLANK"):
            header.remove(name, ignore_missing=True)
        values = picture.physical(array).astype(np.float32)
        fits.PrimaryHDU(values, header).writeto(path, overwrite=True, output_verify="silentfix")
