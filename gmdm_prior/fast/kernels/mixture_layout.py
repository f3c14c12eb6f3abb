"""What the kernel of a mixture is made for: sizes, registers and the memory of a tile."""

from __future__ import annotations

from dataclasses import dataclass

from gmdm_prior.fast.kernels.square_coordinates import TURNS


@dataclass(frozen=True)
class Blocking:
    """How many results the registers hold at a time.

    Attributes:
        rows: rows of a basis, with eight responses or gains each.
        classes: classes, with eight logarithms each.
        sums: coordinates.
    """

    rows: int
    classes: int
    sums: int


BLOCKING = {  # by lanes; the fastest of a few on one CPU
    16: Blocking(rows=3, classes=2, sums=20),  # AVX-512: 32 registers
    8: Blocking(rows=1, classes=1, sums=10),  # AVX: 16
    4: Blocking(rows=1, classes=1, sums=10),  # SSE2: 16, NEON: 32
}


@dataclass(frozen=True)
class Layout:
    """What a kernel is made for.

    Attributes:
        size: side b of a patch.
        counts: classes of each basis.
        width: lanes W.
        blocking: what the registers hold.
    """

    size: int
    counts: tuple[int, ...]
    width: int
    blocking: Blocking

    @property
    def pixels(self) -> int:
        """Pixels b² of a patch."""
        return self.size**2

    @property
    def rows(self) -> int:
        """Rows J = b² - 1 of a basis."""
        return self.pixels - 1

    @property
    def padded_rows(self) -> int:
        """Rows of a basis with the rows of zeros that fill the last block."""
        return self.rows + -self.rows % self.blocking.rows

    @property
    def eight(self) -> int:
        """Numbers of eight vectors, one for each element of D4."""
        return TURNS * self.width

    @property
    def pieces(self) -> dict[str, int]:
        """Numbers of memory for a tile, by what they are."""
        rows = self.padded_rows * self.eight
        return {
            "tile": self.pixels * self.width,
            "result": self.pixels * self.width,
            "largest": self.width,
            "total": self.width,
            "squares": rows,
            "shrunken": rows,
            "logs": sum(self.counts) * self.eight,
            "responses": len(self.counts) * rows,
        }
