"""TIFF, by tifffile: 8 and 16 bit, integers and floats, colour, pages, stacks of ImageJ and OME."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from gmdm_prior.files.formats import pillow
from gmdm_prior.files.formats.layout import Layout, upright
from gmdm_prior.files.formats.picture import Picture

ORIENTATION = 274
TEXTS = {271, 272, 305, 306, 315, 316, 33432}  # maker, software, date, artist, copyright
OTHERS = {700, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113}  # XMP, GeoTIFF, GDAL
BECOME_COLOUR = {"PALETTE": "palette", "SEPARATED": "inks (CMYK)"}
FOR_PILLOW = ("YCBCR", "CIELAB", "ICCLAB")


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """Every page of a file, upright."""
    import tifffile

    try:
        file = tifffile.TiffFile(path)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None
    with file:
        found = [s for s in file.series if not s.keyframe.is_reduced]
        if len({(s.shape, s.axes) for s in found}) > 1:
            shapes = ", ".join(str(s.shape) for s in found)
            raise ValueError(f"its pictures differ in size ({shapes}): split it into files")
        series = found[0]
        page = series.keyframe
        if cast(Any, page.photometric).name in FOR_PILLOW and page.dtype == np.uint8:
            return _by_pillow(path)
        try:
            arrays = [s.asarray() for s in found]
        except (ValueError, KeyError, RuntimeError):  # of a compression that needs imagecodecs
            return _by_pillow(path)
        axes = series.axes
        array = arrays[0] if len(arrays) == 1 else np.stack(arrays)
        axes = axes if len(arrays) == 1 else f"I{axes}"
        metadata = _metadata(file, page, axes)
        array, metadata["axes"] = _in_colour(array, axes, page)
        axes = metadata["axes"]
    return _picture(array, axes, axis, page, metadata)


def _by_pillow(path: Path) -> Picture:
    """What tifffile does not decode."""
    return replace(pillow.read(path), kind="tiff", metadata={})


def _in_colour(array: np.ndarray, axes: str, page: Any) -> tuple[np.ndarray, str]:
    """Palettes and inks as red, green and blue."""
    if page.photometric.name == "PALETTE":
        return np.moveaxis(page.colormap[:, array] >> 8, 0, -1).astype(np.uint8), f"{axes}S"
    if page.photometric.name != "SEPARATED":
        return array, axes
    if array.dtype != np.uint8 or not axes.endswith("S") or array.shape[-1] != 4:
        raise ValueError("its inks are no cyan, magenta, yellow and black of 8 bits")
    from PIL import Image

    flat = array.reshape(-1, *array.shape[-3:])
    pages = [np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")) for inks in flat]
    return np.stack(pages).reshape(*array.shape[:-1], 3), axes


def _picture(array: np.ndarray, axes: str, axis: int | None, page: Any, kept: dict) -> Picture:
    rows, columns = axes.index("Y"), axes.index("X")
    array = upright(array, int(page.tags.valueof(ORIENTATION, default=1)), rows, columns)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    samples = axes.index("S") if "S" in axes else None
    slices = tuple(i for i in range(array.ndim) if i not in (rows, columns, samples))
    if axis is not None:
        slices, rows, columns = _across(array.ndim, axis, slices, rows, columns, samples)
    layout = Layout(array.shape, slices, rows, columns, samples)
    values, alpha = layout.pages(array), None
    if values.shape[1] in (2, 4):
        values, alpha = values[:, :-1], values[:, -1:]
    if values.shape[1] not in (1, 3):
        raise ValueError(f"it has {values.shape[1]} samples per pixel; gray has 1 and colour 3")
    picture = Picture(values, "tiff", layout, alpha=alpha, metadata=kept)
    if page.photometric.name in BECOME_COLOUR:
        picture.notes = (f"its {BECOME_COLOUR[page.photometric.name]} became red, green and blue",)
    if page.photometric.name == "MINISWHITE" and array.dtype.kind == "u":
        white = float(np.iinfo(array.dtype).max)
        picture.slope, picture.intercept, picture.range = -1.0, white, (0.0, white)
    if 8 < page.bitspersample < 16:
        top = float(2**page.bitspersample - 1)
        picture.range = (0.0, top)
        kept["bits"] = page.bitspersample
        picture.notes = (f"{page.bitspersample} bits, written in 16: white is {top:.0f}",)
    return picture


def _across(count: int, axis: int, slices: tuple, rows: int, columns: int, samples: Any) -> tuple:
    """The slices of a volume along another axis."""
    inner = [i for i in range(count) if i != samples]
    if len(inner) == 2 or not -len(inner) <= axis < len(inner):
        raise ValueError(f"axis={axis} counts the slices of a volume; it has {len(inner)} axes")
    chosen = inner[axis]
    rest = [i for i in inner if i != chosen]
    return (chosen, *rest[:-2]), rest[-2], rest[-1]


def _metadata(file: Any, page: Any, axes: str) -> dict[str, Any]:
    tags = page.tags
    kept: dict[str, Any] = {"axes": axes, "photometric": page.photometric.name}
    if file.is_imagej:
        kept["imagej"] = {
            name: value
            for name, value in (file.imagej_metadata or {}).items()
            if name not in ("ImageJ", "images", "channels", "slices", "frames", "hyperstack")
        }
    elif file.is_ome:
        kept["ome"] = file.ome_metadata
    elif not file.is_shaped and page.description:
        kept["description"] = page.description
    if 282 in tags and 283 in tags:
        kept["resolution"] = (tags[282].value, tags[283].value)
        kept["resolutionunit"] = int(tags.valueof(296, default=2))
    if 34675 in tags:
        kept["iccprofile"] = tags[34675].value
    if page.extrasamples and page.extrasamples[0].name == "ASSOCALPHA":
        kept["alpha"] = "ASSOCALPHA"
    kept["planar"] = bool(page.planarconfig == 2 and page.samplesperpixel > 1)
    kept["compressed"] = int(page.compression) != 1
    kept["tags"] = [
        (tag.code, int(tag.dtype), tag.count, tag.value, True)
        for tag in tags.values()
        if tag.code in TEXTS | OTHERS
    ]
    return kept


def write(picture: Picture, path: Path) -> None:
    """Every page, in the stored type, with what was kept of the file that it came from."""
    import tifffile

    kept = picture.metadata if picture.kind == "tiff" else {}
    values = picture.values
    if picture.alpha is not None:
        values = np.concatenate([values, picture.alpha], 1)
    layout = picture.layout
    if picture.kind in ("tiff", "npy") and "axes" in kept:
        array = layout.array(values)
    else:
        array = np.moveaxis(values, 1, -1) if values.shape[1] > 1 else values[:, 0]
        array = array[0] if len(array) == 1 else array
    if (picture.slope, picture.intercept) != (1.0, 0.0) and picture.kind != "tiff":
        array = picture.physical(array).astype(np.float32)
    colour = picture.channels == 3
    usual = "RGB" if colour else "MINISBLACK"
    options: dict[str, Any] = {
        "photometric": kept.get("photometric")
        if kept.get("photometric") == "MINISWHITE"
        else usual,
        "extrasamples": None if picture.alpha is None else [kept.get("alpha", "UNASSALPHA")],
        "resolution": kept.get("resolution"),
        "resolutionunit": kept.get("resolutionunit"),
        "compression": "zlib" if kept.get("compressed") else None,
        "iccprofile": kept.get("iccprofile") or picture.metadata.get("icc_profile"),
        "planarconfig": "SEPARATE"
        if kept.get("planar")
        else ("CONTIG" if values.shape[1] > 1 else None),
        "extratags": kept.get("tags", []),
        "software": False,
    }
    same_axes = len(kept.get("axes", "")) == array.ndim
    if "imagej" in kept and same_axes:
        options |= {"imagej": True, "metadata": {**kept["imagej"], "axes": kept["axes"]}}
        options["compression"] = options["extrasamples"] = options["planarconfig"] = None
    elif "ome" in kept and same_axes:
        options |= {"description": kept["ome"].encode(), "metadata": None}
    elif "description" in kept:
        options |= {"description": kept["description"].encode(), "metadata": None}
    elif same_axes:
        options["metadata"] = {"axes": kept["axes"]}
    dpi = picture.metadata.get("dpi")
    if dpi and options["resolution"] is None:
        options |= {"resolution": tuple(map(float, dpi)), "resolutionunit": 2}
    tifffile.imwrite(path, np.ascontiguousarray(array), **options)
