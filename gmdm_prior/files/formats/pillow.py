"""What Pillow reads and writes: PNG, JPEG, WebP, BMP and others; colour PNG of 16 bits too.

Pillow has no 16-bit colour and would halve it without a word: those PNG go through imagecodecs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gmdm_prior.files.formats.extra import needed
from gmdm_prior.files.formats.layout import plain, upright
from gmdm_prior.files.formats.picture import Picture

ORIENTATION = 0x0112
START = 8  # bytes of a PNG before its chunks
STRUCTURE = (b"IHDR", b"IDAT", b"IEND")
PLAIN = ("1", "L", "LA", "RGB", "RGBA", "F")  # modes whose values are taken as they are
AS = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "PA": "RGBA"}


def read(path: Path, axis: int | None = None, key: str | None = None) -> Picture:
    """Every frame of a picture, upright."""
    from PIL import Image, ImageSequence

    with warnings.catch_warnings():
        # Pillow warns from half of the size on that it refuses
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            kind = (picture.format or "").lower()
            notes: list[str] = []
            deep = _is_deep_colour(picture)  # before anything loads it
            if deep:
                frames = [_deep(path, kind)]
            elif kind == "mpo":  # a photograph with a preview behind it
                frames = [_values(picture, notes)]
            else:
                frames = [_values(frame, notes) for frame in ImageSequence.Iterator(picture)]
            # read now: some TIFF files Pillow turns itself when it loads them
            tag = picture.getexif().get(ORIENTATION, 1)
            metadata = _metadata(picture)
    frames = _alike(frames)
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError("its pages differ in size or colour: split it into files")
    array = upright(np.stack(frames), tag, 1, 2)  # (pages, H, W, channels)
    colours = array.shape[-1]
    values = np.moveaxis(array, -1, 1)
    alpha = values[:, -1:] if colours in (2, 4) else None
    values = values[:, : 1 if colours < 3 else 3]
    return Picture(
        values,
        kind,
        plain(values.shape),
        None,
        1.0,
        0.0,
        alpha,
        metadata,
        tuple(dict.fromkeys(notes)),
    )


def _alike(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames (H, W, channels) with the channels of the richest: animations mix them."""
    most = max(frame.shape[-1] for frame in frames)
    colour = any(frame.shape[-1] > 2 for frame in frames)
    alike = []
    for frame in frames:
        own = frame.shape[-1]
        if own < most and colour and own < 3:
            frame = np.concatenate([frame[..., :1]] * 3 + [frame[..., 1:]], -1)
        if frame.shape[-1] < most:
            opaque = np.full_like(frame[..., :1], np.iinfo(frame.dtype).max)
            frame = np.concatenate([frame, opaque], -1)
        alike.append(frame)
    return alike


def _metadata(picture: Any) -> dict[str, Any]:
    exif = picture.getexif()
    if ORIENTATION in exif:
        exif[ORIENTATION] = 1  # pixels are turned upright
    kept = {"icc_profile": picture.info.get("icc_profile"), "dpi": picture.info.get("dpi")}
    kept["exif"] = exif.tobytes() if len(exif) else None
    kept["text"] = getattr(picture, "text", None)  # of PNG
    return {name: value for name, value in kept.items() if value}


def _is_deep_colour(picture: Any) -> bool:
    """Whether Pillow would cut 16 bits of colour down to 8."""
    tiles = [tile[3] for tile in getattr(picture, "tile", [])]
    return any(
        ";16" in str(arguments) and picture.mode in ("RGB", "RGBA", "LA") for arguments in tiles
    )


def _deep(path: Path, kind: str) -> np.ndarray:
    if kind != "png":
        raise ValueError("16-bit colour of this compression cannot be read; write it anew as PNG")
    codecs = needed("imagecodecs", "a PNG of 16 bits in colour")
    array = codecs.png_decode(path.read_bytes())
    return array if array.ndim == 3 else array[..., None]


def _values(frame: Any, notes: list[str]) -> np.ndarray:
    """The pixels (H, W, channels) in the stored type."""
    mode = frame.mode
    if mode.startswith("I"):
        array = np.asarray(frame)
        if array.size and array.min() >= 0 and array.max() <= 65535:  # 16 bits come as I or I;16
            array = array.astype(np.uint16)
    else:
        if mode == "P" and "transparency" not in frame.info and _is_gray(frame):
            mode = "L"
            notes.append("its palette became gray")
        elif mode == "P":
            mode = "RGBA" if "transparency" in frame.info else "RGB"
            notes.append("its palette became red, green and blue")
        elif "transparency" in frame.info and mode in ("L", "RGB"):
            mode = {"L": "LA", "RGB": "RGBA"}[mode]
            notes.append("its transparent colour became a channel of transparency")
        elif mode not in PLAIN:
            notes.append(f"its colours ({mode}) became {AS.get(mode, 'RGB')}")
            mode = AS.get(mode, "RGB")
        array = np.asarray(frame.convert(mode) if mode != frame.mode else frame)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.ndim == 3 else array[..., None]


def _is_gray(frame: Any) -> bool:
    """Whether red, green and blue of every colour of a palette are the same."""
    palette = np.array(frame.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def refuse(picture: Picture, path: Path) -> None:
    """Refuse pages, and values that the format has no place for.

    Raises:
        ValueError: with the remedy.
    """
    from PIL import Image

    suffix, dtype = path.suffix.lower(), picture.dtype
    if picture.pages > 1:
        raise ValueError(f"{suffix} holds one picture, not {picture.pages}: use .tif")
    if dtype not in (np.uint8, np.uint16) or (dtype == np.uint16 and suffix != ".png"):
        raise ValueError(f"{suffix} has no place for values of {dtype}: use .tif or .npy")
    kind = Image.registered_extensions().get(suffix, "")
    if picture.alpha is not None and kind in ("JPEG", "BMP", "PPM"):
        raise ValueError(f"{suffix} has no place for transparency: use .png")


def write(picture: Picture, path: Path) -> None:
    """Write one picture; the suffix chooses the format.

    Raises:
        ValueError: for pages, or values that the format has no place for.
    """
    from PIL import Image

    refuse(picture, path)
    values = picture.values[0]
    if picture.alpha is not None:
        values = np.concatenate([values, picture.alpha[0]])
    array = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    options: dict[str, Any] = {
        k: picture.metadata[k] for k in ("icc_profile", "dpi", "exif") if k in picture.metadata
    }
    if kind == "PNG" and "text" in picture.metadata:
        options["pnginfo"] = _texts(picture.metadata["text"])
    if array.dtype == np.uint16 and array.shape[-1] > 1:
        codecs = needed("imagecodecs", "a PNG of 16 bits in colour")
        path.write_bytes(_with_metadata(codecs.png_encode(array), options))
        return
    if kind == "JPEG":
        options["quality"] = 95
    Image.fromarray(array if array.shape[-1] > 1 else array[..., 0]).save(path, **options)


def _texts(texts: dict[str, str]) -> Any:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        if isinstance(text, PngImagePlugin.iTXt):
            info.add_itxt(name, text, text.lang or "", text.tkey or "")
        else:
            info.add_text(name, text)
    return info


def _with_metadata(png: bytes, options: dict[str, Any]) -> bytes:
    """A PNG with the metadata that Pillow would write; its own has the header and the pixels."""
    from PIL import Image

    made = io.BytesIO()
    Image.new("RGB", (1, 1)).save(made, "PNG", **options)
    own = [chunk for name, chunk in _chunks(made.getvalue()) if name not in STRUCTURE]
    first = START + 25  # behind the header
    return png[:first] + b"".join(own) + png[first:]


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of each chunk: length, name, content, checksum."""
    at = START
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at:end]
        at = end
