"""The autocovariance of stationary noise, read off the flattest blocks of an image.

Blocks of side n overlap by half. Each loses its plane, a + b row + c column, fitted to the pixels
that do not lie (`lying_pixels`); the flattest `SHARE` of blocks have residuals e of noise, and

    r(d) = sum_blocks sum_i m_i m_{i+d} e_i e_{i+d}  /  sum_blocks sum_i m_i m_{i+d},

with m_i = 0 where a pixel lies. What is read is too small: a plane takes some of the noise with it,
and the blocks were chosen because they had little. The same choice in simulated noise of the
autocovariance r says by how much; r is corrected until the simulation reads what the image does.

Where white paper and black ink are clipped, blocks that hold pixels between them are letters. What
flat areas hold, clipped pixels and all, tells how much noise there may be (`most_noise`), compared
with simulated noise around the end of the range, clipped there.

How much flatter the flattest blocks of the image are than the others, compared with the same in the
simulation, tells noise (1) from texture (more): the *plateau*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.autocovariance import taper

SIDE, REACH = 20, 18  # of a block, and the widest lag
SHARE = 0.05  # of the blocks
FEWEST = 8  # blocks
BLOCKS = 3_000  # looked at in one image
ROUNDS = 5  # of correction
CLEAN, WHOLE = 0.98, 0.5  # share of the pixels of a block that do not lie: best, and at least
LEFT = 0.1  # share of the blocks that must be clean, for only those to be looked at
TINY = 8  # side of the blocks of areas that may be clipped: of paper between letters
FINER, MARGIN = 4, 0.05  # grid on which the spectrum's dips are looked for, and what it may miss
QUANTILES = (0.02, 0.2)  # of the blocks' variances, for the plateau


@dataclass(frozen=True)
class Autocovariance:
    """What flat blocks say of one plane.

    Attributes:
        lags: (2m+1, 2m+1), lag 0 in the middle, its spectrum nowhere negative.
        plateau: about 1 where the flattest blocks are all noise, more where they are texture.
        blocks: how many were looked at.
    """

    lags: Tensor
    plateau: float
    blocks: int

    @property
    def sigma(self) -> float:
        """The noise level."""
        m = len(self.lags) // 2
        return float(self.lags[m, m]) ** 0.5

    @property
    def lag1(self) -> tuple[float, float]:
        """Correlation of neighbours, vertical and horizontal."""
        m = len(self.lags) // 2
        r = self.lags / self.lags[m, m]
        return float(r[m + 1, m]), float(r[m, m + 1])

    @property
    def anisotropy(self) -> float:
        """Noise of every second row beside that of every second column, as a factor above 1."""
        sign = 1 - 2 * (torch.arange(len(self.lags)) % 2).to(self.lags)
        sign = sign * sign[len(sign) // 2]
        window = taper(torch.ones_like(self.lags), 6)
        near = self.lags[REACH - 6 : REACH + 7, REACH - 6 : REACH + 7] * window
        sign = sign[REACH - 6 : REACH + 7]
        rows, columns = (near * sign[:, None]).sum(), (near * sign).sum()
        least = 1e-3 * float(self.lags[REACH, REACH])
        ratio = (rows.clamp(min=least) / columns.clamp(min=least)).sqrt()
        return float(torch.maximum(ratio, 1 / ratio))


@dataclass(frozen=True)
class Blocks:
    """Blocks of a plane without their own planes.

    Attributes:
        residuals: (N, n, n), 0 where a pixel lies.
        valid: (N, n, n), 1 where none does.
        means: (N,), of the valid pixels.
        variances: (N,).
    """

    residuals: Tensor
    valid: Tensor
    means: Tensor
    variances: Tensor

    def flattest(self, share: float = SHARE) -> Blocks:
        """The blocks of least variance."""
        count = min(len(self.variances), max(FEWEST, int(share * len(self.variances))))
        pick = self.variances.argsort()[:count]
        return Blocks(*(v[pick] for v in (self.residuals, self.valid, self.means, self.variances)))


def cut_blocks(plane: Tensor, lying: Tensor | None = None, side: int = SIDE) -> Blocks:
    """Blocks of a plane (H, W) that overlap by half and do not lie by more than half."""
    step = max(side // 2, int((plane.numel() / BLOCKS) ** 0.5))
    side = min(side, *plane.shape)

    def windows(values: Tensor) -> Tensor:
        return values.double().unfold(0, side, step).unfold(1, side, step).reshape(-1, side**2)

    p = windows(plane)
    x = torch.linspace(-1, 1, side, dtype=torch.float64, device=plane.device)
    one = torch.ones(side, side, dtype=torch.float64, device=plane.device)
    q = torch.linalg.qr(torch.stack([one, one * x, one * x[:, None]]).reshape(3, -1).T)[0]
    if lying is None or not bool(lying.any()):
        r = p - (p @ q) @ q.T
        valid, means = torch.ones_like(p), p.mean(1)
    else:
        valid = windows(~lying)
        enough = valid.mean(1) >= CLEAN  # beside pixels that lie, noise is cut off
        if int(enough.sum()) < max(2 * FEWEST, LEFT * len(valid)):
            enough = valid.mean(1) >= WHOLE
        if not bool(enough.any()):
            enough = valid.mean(1) >= valid.mean(1).max()
        p, valid = p[enough], valid[enough]
        count = valid.sum(1)
        means = (p * valid).sum(1) / count.clamp(min=1)
        p = (p - means[:, None]) * valid
        gram = torch.einsum("np,pi,pj->nij", valid, q, q)
        gram = gram + 1e-9 * torch.eye(3, dtype=p.dtype, device=p.device)
        r = (p - torch.linalg.solve(gram, p @ q) @ q.T) * valid
    variances = r.square().sum(1) / (valid.sum(1) - 3).clamp(min=1)
    keep = variances > 0  # a constant block holds no noise at all
    if bool(keep.any()):
        r, valid, means, variances = r[keep], valid[keep], means[keep], variances[keep]
    return Blocks(r.reshape(-1, side, side), valid.reshape(-1, side, side), means, variances)


def lags_of(blocks: Blocks, reach: int = REACH) -> Tensor:
    """The plain autocovariance (2m+1, 2m+1) of blocks; 0 at lags that they do not have."""
    side = blocks.residuals.shape[-1]
    pad, most = (2 * side, 2 * side), min(reach, side - 1)

    def products(values: Tensor) -> Tensor:
        power = torch.fft.rfft2(values, s=pad).abs().square().sum(0)
        wide = torch.fft.irfft2(power, s=pad).roll((most, most), (0, 1))
        return wide[: 2 * most + 1, : 2 * most + 1]

    r = products(blocks.residuals) / products(blocks.valid).clamp(min=1)
    return F.pad(r, (reach - most,) * 4)


def positive(lags: Tensor) -> Tensor:
    """The nearest autocovariance of its reach that is one: symmetric, no negative spectrum.

    A spectrum that is positive on a grid may dip below 0 between its points, by little. White noise
    as strong as the dip is added.
    """
    m = len(lags) // 2
    lags = taper((lags + lags.flip(0, 1)) / 2, m)
    side = 4 * m + 4
    spectrum = spectrum_of(lags, side)
    if float(spectrum.min()) >= 0:
        dip = float(spectrum_of(lags, FINER * side).min())
        lags[m, m] -= (1 + MARGIN) * min(dip, 0.0)
        return lags
    spectrum = spectrum.clamp(min=1e-6 * float(spectrum.max()))
    wide = torch.fft.ifft2(spectrum).real.roll((m, m), (0, 1))[: 2 * m + 1, : 2 * m + 1]
    return taper((wide + wide.flip(0, 1)) / 2, m)


def spectrum_of(lags: Tensor, side: int) -> Tensor:
    """The spectrum (side, side) of lags (2m+1, 2m+1)."""
    m = len(lags) // 2
    grid = F.pad(lags, (0, side - 2 * m - 1) * 2).roll((-m, -m), (0, 1))
    return torch.fft.fft2(grid).real


def simulated(lags: Tensor, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Periodic stationary noise (H, W) of an autocovariance."""
    m = len(lags) // 2
    place = torch.arange(-m, m + 1, device=lags.device)
    grid = lags.new_zeros(len(lags), shape[1]).index_add(1, place % shape[1], lags)
    grid = lags.new_zeros(shape).index_add(0, place % shape[0], grid)
    g = torch.Generator().manual_seed(seed)
    white = torch.randn(shape, generator=g, dtype=torch.float64).to(lags.device)
    root = torch.fft.rfft2(grid).real.clamp(min=0).sqrt()
    return torch.fft.irfft2(root * torch.fft.rfft2(white), s=shape)


def read_autocovariance(
    plane: Tensor, lying: Tensor | None = None, side: int = SIDE, share: float = SHARE
) -> Autocovariance | None:
    """The autocovariance of the noise of a plane (H, W); None where there is no noise at all."""
    blocks = cut_blocks(plane, lying, side)
    flat = blocks.flattest(share)
    if not len(blocks.variances) or float(flat.variances.mean()) <= 0:
        return None
    raw = lags_of(flat)
    m, shape = len(raw) // 2, _like(plane, len(blocks.variances), side)
    found, own = raw, blocks
    for _ in range(ROUNDS):
        own = cut_blocks(simulated(positive(found), shape), None, side)
        found = found + raw - lags_of(own.flattest(share))
        found[m, m] = found[m, m].clamp(min=float(raw[m, m]))
    return Autocovariance(positive(found), _spread(blocks) / _spread(own), len(blocks.variances))


def most_noise(plane: Tensor, hidden: Tensor) -> float:
    """The level of noise around an end of the range that flat areas (H, W) would be left with.

    Blocks with hidden pixels are left out; infinite where there are no others.
    """
    sides = [min(TINY, length) for length in plane.shape]
    step = max(1, TINY // 2, int((plane.numel() / BLOCKS) ** 0.5))

    def windows(values: Tensor) -> Tensor:
        return values.double().unfold(0, sides[0], step).unfold(1, sides[1], step).flatten(2)

    found = windows(plane).var(2)[windows(hidden).amax(2) == 0]
    if not len(found):
        return math.inf
    g = torch.Generator().manual_seed(1)
    trials = (min(len(found), BLOCKS), math.prod(sides))
    pure = torch.randn(trials, dtype=torch.float64, generator=g).clamp(min=0).var(1)
    left, whole = (v.sort()[0][: max(1, int(SHARE * len(v)))].mean() for v in (found, pure))
    return math.sqrt(float(left) / float(whole))


def _spread(blocks: Blocks) -> float:
    """How many times the variance of less flat blocks is that of the flattest."""
    order = blocks.variances.sort()[0]
    low, high = (order[int(q * (len(order) - 1))] for q in QUANTILES)
    return float(high / low.clamp(min=1e-30))


def _like(plane: Tensor, blocks: int, side: int) -> tuple[int, int]:
    """The shape of simulated noise that has as many blocks, and is no smaller than a block."""
    share = max(1, blocks) ** 0.5
    length = max(2 * side, int((share + 1) * (side // 2)))
    return min(length, max(2 * side, plane.shape[0])), min(length, max(2 * side, plane.shape[1]))
