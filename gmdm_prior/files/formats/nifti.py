"""NIfTI, by nibabel: volumes, slice by slice along the third axis where none is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.layout import Layout
from gmdm_prior.files.formats.picture import Picture

SLICES = 2  # the axis that runs from foot to head in most files


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """All slices of a volume, and of all volumes of a series."""
    nibabel = needed("nibabel", "a NIfTI file")
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj.get_unscaled())
    except (nibabel.filebasedimages.ImageFileError, EOFError) as error:
        raise ValueError(str(error)) from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "iuf" or array.ndim < 2:
        raise ValueError(f"it holds {array.dtype} of shape {array.shape}, no picture")
    chosen = SLICES if axis is None else axis
    spatial = min(array.ndim, 3)
    if axis is not None and not 0 <= axis < spatial:
        raise ValueError(f"axis={axis} must be one of 0 to {spatial - 1}, the axes of the volume")
    across = [i for i in range(spatial) if i != chosen or array.ndim == 2]
    counted = tuple(range(array.ndim - 1, 2, -1))  # volumes of a series
    slices = counted if array.ndim == 2 else (*counted, chosen)
    layout = Layout(array.shape, slices, across[0], across[1])
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    return Picture(
        layout.pages(array),
        "nifti",
        layout,
        slope=float(slope),
        intercept=float(intercept),
        metadata={"image": image},
    )


def refuse(picture: Picture, path: Path) -> None:
    """Refuse what does not come from NIfTI."""
    if picture.kind != "nifti":
        raise ValueError(".nii is written of NIfTI files only: use .tif or .npy")


def write(picture: Picture, path: Path) -> None:
    """The volume with the header of the file that it came from.

    Raises:
        ValueError: for a picture that does not come from NIfTI.
    """
    nibabel = needed("nibabel", "a NIfTI file")
    refuse(picture, path)
    image = picture.metadata["image"]
    array = np.ascontiguousarray(picture.layout.array(picture.values))
    written = type(image)(array, image.affine, image.header.copy())
    written.header.set_data_dtype(array.dtype)
    if (picture.slope, picture.intercept) != (1.0, 0.0):
        written.header.set_slope_inter(picture.slope, picture.intercept)
    nibabel.save(written, path)
