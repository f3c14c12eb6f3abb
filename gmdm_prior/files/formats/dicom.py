"""DICOM, by pydicom: gray slices and stacks of frames, in the units of their rescale (CT: HU)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.layout import of_axes
from gmdm_prior.files.formats.picture import Picture

HOUNSFIELD = (-1024.0, 3071.0)  # what CT scanners store in 12 bits
NARROW = 12  # up to so many bits their range is the scale


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """All frames; the range is that of the stored bits, of CT at most -1024 to 3071 HU."""
    pydicom = needed("pydicom", "a DICOM file")
    try:
        data = pydicom.dcmread(path, force=True)  # also without the preamble
        if "PixelData" not in data:
            raise ValueError("no picture of DICOM: it holds no pixels")
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        array = data.pixel_array
    except (pydicom.errors.InvalidDicomError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"no picture of DICOM: {error}") from None
    shown = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
    if not shown.startswith(("MONOCHROME", "RGB")):
        raise ValueError(f"its colours are {shown}; gray and RGB can be read")
    layout = of_axes(array.shape, axis, shown == "RGB")
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    bits, signed = int(data.BitsStored), bool(data.PixelRepresentation)
    picture = Picture(
        layout.pages(array), "dicom", layout, None, slope, intercept, metadata={"bits": bits}
    )
    picture.metadata["data"] = data
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = (intercept + slope * end for end in ends)
    if data.get("Modality") == "CT" and (bits > NARROW or (low, high) != HOUNSFIELD):
        low, high = HOUNSFIELD
        bits = NARROW
    if 8 < bits <= NARROW or (bits == 8 and slope != 1):
        picture.range = (low, high)
        unit = "HU" if data.get("Modality") == "CT" else "the file's units"
        picture.notes = (f"black and white are {low:g} and {high:g} in {unit}",)
    return picture


def refuse(picture: Picture, path: Path) -> None:
    """Refuse what does not come from DICOM."""
    if "data" not in picture.metadata:
        raise ValueError(".dcm is written of DICOM files only: use .tif or .npy")


def write(picture: Picture, path: Path) -> None:
    """The data set that was read, with other pixels and an identity of its own.

    Raises:
        ValueError: for a picture that does not come from DICOM, or has another shape.
    """
    pydicom = needed("pydicom", "a DICOM file")
    refuse(picture, path)
    data: Any = copy.deepcopy(picture.metadata["data"])
    array = picture.layout.array(picture.values)
    if data.file_meta.TransferSyntaxUID.is_compressed:
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.Rows, data.Columns = picture.values.shape[2:]
    if data.SamplesPerPixel > 1:
        data.PlanarConfiguration = 0  # red, green and blue of a pixel stand side by side
    data.PixelData = np.ascontiguousarray(array).tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    data["PixelData"].is_undefined_length = False
    data.ImageType = ["DERIVED", *list(data.get("ImageType", ["", "SECONDARY"]))[1:]]
    data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path)
