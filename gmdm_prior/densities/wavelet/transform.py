"""The periodic, critically sampled, orthonormal wavelet transform of images, and its inverse.

One level along one axis of even length n, for the low-pass filter h and the high-pass filter g
(reconstruction filters, F taps each, of an orthogonal wavelet), with c = F/2 - 1:

    low[k] = sum_m h[m] x[2k - c + m],     high[k] = sum_m g[m] x[2k - c + m]     (places modulo n).

These n rows are orthonormal, also where the filters are longer than the axis and wrap around it, so
the inverse is the transpose. An image takes the axes one after another and goes on with the low-low
band; this is PyWavelets' `wavedec2(..., mode="periodization")`, from whose tables the filters come.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmdm_prior.messages import nearest

Details = tuple[Tensor, Tensor, Tensor]  # horizontal, vertical, diagonal, each (N, h, w)


def filter_bank(wavelet: str | Tensor) -> Tensor:
    """Reconstruction filters (2, F) of an orthogonal wavelet, low-pass first, float64.

    Args:
        wavelet: a name in PyWavelets, or low-pass taps (F,), which are replaced by the nearest ones
            that are orthonormal to their even shifts and sum to sqrt 2.

    Raises:
        ValueError: for a name that PyWavelets does not know, a wavelet that is not orthogonal, or
            taps that are far from it.
    """
    if isinstance(wavelet, Tensor):
        return _high_pass_beside(orthonormal_taps(wavelet))
    import pywt

    names = pywt.wavelist(kind="discrete")
    if wavelet not in names:
        raise ValueError(
            f"wavelet must be an orthogonal wavelet of PyWavelets such as 'db4'; got {wavelet!r}, "
            f"which it does not know{nearest(wavelet, names, 0.0)}"
        )
    found = pywt.Wavelet(wavelet)
    low = torch.tensor(found.rec_lo, dtype=torch.float64)
    if not found.orthogonal or _miss(low)[0].abs().max() > 1e-9:
        raise ValueError(
            f"wavelet must be orthogonal, or the transform is no rotation; got {wavelet!r}, which "
            "is not to 1e-9. The db, sym and coif families are"
        )
    return _high_pass_beside(orthonormal_taps(low))


def orthonormal_taps(low: Tensor) -> Tensor:
    """The low-pass filter (F,) of an orthogonal wavelet next to the given one, float64.

    By steps onto the tangent of the constraints; tables of some wavelets are right to 1e-12 only.

    Raises:
        ValueError: F is odd, or the taps are not nearly those of such a filter.
    """
    if low.ndim != 1 or len(low) < 2 or len(low) % 2 or not low.is_floating_point():
        raise ValueError(
            "wavelet must be a name, or a low-pass filter of an even number of taps; got a tensor "
            f"{tuple(low.shape)} of {low.dtype}"
        )
    taps = low.detach().double().cpu()
    if not bool(_miss(taps)[0].abs().max() < 0.1):
        raise ValueError(
            "wavelet taps must sum to sqrt 2 and be nearly orthonormal to their even shifts; they "
            f"miss by {_miss(taps)[0].abs().max():.2g}"
        )
    for _ in range(20):
        error, slope = _miss(taps)
        taps = taps - torch.linalg.lstsq(slope, error[:, None], driver="gelsd").solution[:, 0]
    return taps


def _miss(taps: Tensor) -> tuple[Tensor, Tensor]:
    """The amounts (F/2 + 1,) by which taps (F,) miss the constraints, and their derivative."""
    half = len(taps) // 2
    around = torch.cat([taps.new_zeros(len(taps)), taps, taps.new_zeros(len(taps))])
    shifted = torch.stack([around[len(taps) + 2 * i :][: len(taps)] for i in range(1 - half, half)])
    later, earlier = shifted[half - 1 :], shifted[:half].flip(0)
    norm = later @ taps
    norm[0] -= 1
    alternating = torch.ones_like(taps)
    alternating[1::2] = -1
    error = torch.cat([norm, (alternating @ taps)[None]])
    return error, torch.cat([later + earlier, alternating[None]])


def _high_pass_beside(low: Tensor) -> Tensor:
    """Both filters (2, F): g[m] = (-1)^m h[F - 1 - m]."""
    high = low.flip(0).clone()
    high[1::2] *= -1
    return torch.stack([low, high])


def _windows(x: Tensor, first: int, step: int, width: int) -> Tensor:
    """x[first + step k + m] for every k, m, places modulo the length: (..., n / step, width)."""
    length = x.shape[-1]
    before, after = max(0, -first), max(0, first + width - step)
    places = torch.arange(-before, length + after, device=x.device) % length
    around, start, run = x.index_select(-1, places), max(0, first), length - step + 1
    return torch.stack([around[..., start + m : start + m + run : step] for m in range(width)], -1)


def _split(x: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high band (..., n / 2) of x (..., n), along the last axis."""
    taps = bank.shape[1]
    bands = _windows(x, 1 - taps // 2, 2, taps) @ bank.T
    return bands[..., 0], bands[..., 1]


def _join(low: Tensor, high: Tensor, bank: Tensor) -> Tensor:
    """The inverse, and transpose, of `_split`."""
    half = bank.shape[1] // 2
    halves = []
    for parity in (0, 1):  # x[2j + parity] = sum_s low[j + e - s] h[2s + q] + high[j + e - s] ...
        e, q = divmod(parity + half - 1, 2)
        windows = [_windows(band, e - half + 1, 1, half) for band in (low, high)]
        taps = bank[:, q::2].flip(1)
        halves.append(windows[0] @ taps[0] + windows[1] @ taps[1])
    return torch.stack(halves, -1).flatten(-2)


def analyse(x: Tensor, bank: Tensor, levels: int) -> tuple[Tensor, list[Details]]:
    """Low-pass band and details, finest first, of images (N, H, W) divisible by 2^levels."""
    details = []
    for _ in range(levels):
        left, right = _split(x, bank)
        (x, horizontal), (vertical, diagonal) = (
            (part.mT for part in _split(half.mT, bank)) for half in (left, right)
        )
        details.append((horizontal, vertical, diagonal))
    return x, details


def synthesise(low: Tensor, details: list[Details], bank: Tensor) -> Tensor:
    """The inverse, and transpose, of `analyse`: images (N, H, W)."""
    for horizontal, vertical, diagonal in reversed(details):
        left = _join(low.mT, horizontal.mT, bank).mT
        right = _join(vertical.mT, diagonal.mT, bank).mT
        low = _join(left, right, bank)
    return low


def to_tiles(x: Tensor, bank: Tensor, levels: int) -> Tensor:
    """The coefficients of images (N, H, W), put together by the Haar wavelet, in tiles.

    Returns:
        (N, H / b, W / b, 1, b, b) with b = 2^levels: the coefficients of a place at all levels
        share a tile, the low-pass one as its mean times b. A rotation of x; for the Haar wavelet x
        itself, cut up.
    """
    if bank.shape[1] > 2:
        x = synthesise(*analyse(x, bank, levels), _haar(x))
    side = 2**levels
    cut = x.unflatten(1, (-1, side)).unflatten(3, (-1, side))
    return cut.transpose(2, 3).unsqueeze(3)


def from_tiles(tiles: Tensor, bank: Tensor, levels: int) -> Tensor:
    """The inverse, and transpose, of `to_tiles`: images (N, H, W)."""
    x = tiles.squeeze(3).transpose(2, 3).flatten(3).flatten(1, 2)
    return synthesise(*analyse(x, _haar(x), levels), bank) if bank.shape[1] > 2 else x


def haar_tile(levels: int) -> tuple[Tensor, Tensor]:
    """The Haar basis of a tile of side b = 2^levels.

    Returns:
        Orthonormal rows (b², b²) float64: the details, finest level first, in each the horizontal,
        vertical and diagonal ones, then the mean; and the number of each detail's sub-band,
        (b² - 1,).
    """
    side = 2**levels
    pixels = torch.eye(side * side, dtype=torch.float64).reshape(-1, side, side)
    low, details = analyse(pixels, _haar(pixels), levels)
    bands = [band.flatten(1).T for level in details for band in level]
    number = torch.cat([torch.full((len(band),), i) for i, band in enumerate(bands)])
    return torch.cat([*bands, low.flatten(1).T]), number


def _haar(like: Tensor) -> Tensor:
    return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).to(like) / 2**0.5
