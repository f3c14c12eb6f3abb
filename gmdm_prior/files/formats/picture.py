"""What a picture file holds, so that a changed picture can be written as the file was.

Values stay as they are stored, (pages, C, H, W); what they mean is

    physical = intercept + slope · stored,        u = (physical - low) / (high - low)

with (low, high) the range, black and white. Denoisers see u. A page that they leave as it is comes
back to the bit: changes of u are added to the stored values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gmdm_prior.files.formats.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

Range = tuple[float, float]
AUTO = (0.1, 99.9)  # percentiles that `auto` takes for black and white


@dataclass
class Picture:
    """Pages of gray or colour pictures, as a file stores them.

    Attributes:
        values: (pages, 1 or 3, H, W), of the stored type, upright.
        kind: the name of its file format, such as `"png"`.
        layout: where pages, rows, columns and channels are in the file's array.
        range: the physical values of black and white; None where nothing says.
        slope: see above.
        intercept: see above.
        alpha: transparency (pages, 1, H, W), which is written back as it was; None without.
        metadata: what its format keeps besides, for the writer.
        notes: sentences on what was assumed or changed in reading.
        blank: the stored value of pixels that hold nothing (FITS).
    """

    values: np.ndarray
    kind: str
    layout: Layout
    range: Range | None = None
    slope: float = 1.0
    intercept: float = 0.0
    alpha: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    blank: int | None = None

    @property
    def pages(self) -> int:
        """The number of pages."""
        return len(self.values)

    @property
    def channels(self) -> int:
        """1 of gray pictures, 3 of colour."""
        return self.values.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The type of the stored values."""
        return self.values.dtype

    @property
    def is_8_bit(self) -> bool:
        """True where black is 0 and white 255."""
        return self.range == (0.0, 255.0)

    @property
    def step(self) -> float:
        """What neighbouring stored values differ by, in units of the range; 0 of floats."""
        if self.dtype.kind not in "iu" or self.range is None:
            return 0.0
        return abs(self.slope) / (self.range[1] - self.range[0])

    def physical(self, values: np.ndarray) -> np.ndarray:
        """Stored values in the file's units, float64."""
        return self.intercept + self.slope * values.astype(np.float64)

    def missing(self, index: int) -> np.ndarray:
        """Where a page (C, H, W) holds nothing: NaN, infinite or blank."""
        stored = self.values[index]
        if stored.dtype.kind == "f":
            return ~np.isfinite(stored)
        if self.blank is not None:
            return stored == self.blank
        return np.zeros(stored.shape, bool)

    def check_page(self, index: int) -> None:
        """Refuse a page whose range is not known, or that has missing values.

        Raises:
            ValueError: with the remedy.
        """
        self._known_range()
        count = int(self.missing(index).sum())
        if count:
            raise ValueError(
                f"{count} of its values are missing (NaN, infinite or blank): `gmdm restore "
                "inpainting measurement=FILE` fills them in"
            )

    def page(self, index: int, fill: float | None = None) -> Tensor:
        """Give one page (1, C, H, W) in units of the range, float32.

        Args:
            index: of the page.
            fill: what missing values become; None refuses them.

        Raises:
            ValueError: the range is not known, or values are missing.
        """
        import torch  # late: what is wrong with a file is said before

        if fill is None:
            self.check_page(index)
        unit = self._unit(index)
        if fill is not None:
            unit = np.where(self.missing(index), np.float32(fill), unit)
        return torch.from_numpy(np.ascontiguousarray(unit))[None]

    def _unit(self, index: int) -> np.ndarray:
        low, high = self._known_range()
        stored = self.values[index]
        plain = (self.slope, self.intercept, low) == (1.0, 0.0, 0.0)
        if plain and stored.dtype.itemsize <= 4:
            return stored.astype(np.float32) / np.float32(high)
        return ((self.physical(stored) - low) / (high - low)).astype(np.float32)

    def with_pages(self, pages: Sequence[Tensor]) -> Picture:
        """Give the same picture with other pages, each (1, C, H, W) in units of the range.

        Where size and number are as they were, values that did not change are kept to the bit.
        """
        low, high = self._known_range()
        new = []
        for index, page in enumerate(pages):
            unit = page[0].detach().cpu().double().numpy()
            value = (low + unit * (high - low) - self.intercept) / self.slope
            if len(pages) == self.pages and unit.shape == self.values.shape[1:]:
                change = unit - self._unit(index).astype(np.float64)
                near = self.values[index] + change * ((high - low) / self.slope)
                value = np.where(self.missing(index), value, near)
            new.append(self._stored(value))
        values = np.stack(new)
        if values.shape == self.values.shape:
            return replace(self, values=values)
        return replace(self, values=values, alpha=None, layout=self.layout.resized(values.shape))

    def _stored(self, values: np.ndarray) -> np.ndarray:
        """Values of the stored type: rounded, and inside of what it and the range can hold."""
        if self.dtype.kind not in "iu":
            return values.astype(self.dtype)
        info = np.iinfo(self.dtype)
        low, high = info.min, info.max
        bits = self.metadata.get("bits")
        if bits is not None:  # of 12 in 16, say
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if low < 0 else (0, 2**bits - 1)
        return np.rint(values).clip(low, high).astype(self.dtype)

    def _known_range(self) -> Range:
        if self.range is None:
            low, high = self._ends()
            raise ValueError(
                f"its values are neither unsigned 8- or 16-bit nor floats in [0, 1], but "
                f"{self.dtype} from {low:.6g} to {high:.6g}: give data_range=low,high, the values "
                "of black and white, or data_range=auto"
            )
        return self.range

    def _seen(self) -> np.ndarray:
        """The stored values that are not missing."""
        missing = np.stack([self.missing(index) for index in range(self.pages)])
        return self.values[~missing] if missing.any() else self.values

    def _ends(self) -> Range:
        """The least and the largest physical value, sorted."""
        seen = self._seen()
        if not seen.size:
            raise ValueError("all of its values are missing (NaN, infinite or blank)")
        low, high = sorted(float(self.physical(value)) for value in (seen.min(), seen.max()))
        return low, high

    def ranged(self, data_range: str | Range | None) -> Picture:
        """The picture with its range settled.

        Args:
            data_range: (low, high), `"auto"` (nearly its least and largest value, with a note), or
                None: what its type says. Values of 16 bits that need 8 or 12 only have the range
                of those, with a note.
        """
        if data_range == "auto":
            self._ends()  # or refuse it
            low, high = (float(v) for v in np.percentile(self.physical(self._seen()), AUTO))
            high = high if high > low else low + 1
            note = f"data_range=auto is {low:.6g},{high:.6g}"
            return replace(self, range=(low, high), notes=(*self.notes, note))
        if data_range is not None:
            return replace(self, range=cast(Range, data_range))
        if self.range is not None:
            return self
        return self._usual()

    def _usual(self) -> Picture:
        stored = self.values
        if stored.dtype == bool or not stored.size:
            return self
        low, high = self._ends()
        if stored.dtype == np.uint8 and self.slope == 1:
            return replace(self, range=(0.0, 255.0))
        sixteen = stored.dtype.itemsize == 2 and stored.dtype.kind in "iu"
        unsigned = stored.dtype == np.uint16 or self.intercept == 32768
        if sixteen and unsigned and self.slope == 1:
            for bits in (8, 12):
                if 0 < high < 2**bits:
                    top = float(2**bits - 1)
                    note = (
                        f"16-bit values up to {high:.0f} only: taken for {bits} bits, white is "
                        f"{top:.0f} (data_range=0,65535 says otherwise)"
                    )
                    return replace(self, range=(0.0, top), notes=(*self.notes, note))
            return replace(self, range=(0.0, 65535.0))
        if stored.dtype.kind == "f" and 0 <= low and high <= 1:
            return replace(self, range=(0.0, 1.0))
        return self


def parse_range(value: object) -> str | Range | None:
    """A data range as it is written: `low,high`, a pair, `auto`, or None.

    Raises:
        ValueError: for anything else, or a range that does not rise.
    """
    if value is None or value == "auto":
        return value  # type: ignore[return-value]
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = (float(part) for part in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"data_range={value} is neither auto nor low,high, the values of black and white, such "
            "as 0,4095"
        )
    return low, high
