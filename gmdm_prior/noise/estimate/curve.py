"""How the noise level grows with brightness, and whether it does.

*Whether*: patches are sorted by brightness into groups, and the likelihood reads each group's level
(`ladder`), texture and all. A line sigma² = gain x + offset is fitted to the groups, weighed by
their errors; signal-dependent noise has a gain that is many of its standard errors above 0 and ends
that differ. Flat blocks alone cannot tell: where bright parts are textured, they are rough there.

*How*: a line with a free offset through the variances of the flattest blocks of each tenth of
brightness, where the selection of the flattest is simulated away (`autocovariance`). A negative
offset is a black level above 0.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.gaussian_noise import NoiseCurve
from gmdm_prior.noise.estimate.autocovariance import cut_blocks
from gmdm_prior.noise.estimate.ladder import Ladder

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of the patches, darkest first: ends of the groups
# Standard errors of the gain above 0, and the level at the bright end over that at the dark one:
PLAIN = ((4.0, 1.5), (7.0, 1.12))  # either pair is enough
SIDE, BINS, SHARE = 12, 10, 0.2  # blocks, tenths of brightness, flattest of each
POINTS = 65  # of the table
ENDS = (0.15, 0.95)  # quantiles of brightness between which two lines are joined
LESS, MORE = 2.0, 3.0  # the variance of blocks is at most this much less and more than of groups
LEAST = 1e-12


@dataclass(frozen=True)
class Line:
    """sigma² = gain x + offset.

    Attributes:
        gain: of the line.
        offset: of the line; negative is a black level above 0.
        sure: by how many standard errors the gain is above 0.
        ratio: level of the brightest group over that of the darkest, on the line.
    """

    gain: float
    offset: float
    sure: float = math.inf
    ratio: float = math.inf

    def curve(self, lowest: float, highest: float) -> NoiseCurve:
        """The curve as a table for brightnesses between two ends."""
        x = torch.linspace(lowest, max(highest, lowest + 1e-6), POINTS, dtype=torch.float64)
        return NoiseCurve(x, (self.gain * x + self.offset).clamp(min=0).sqrt())


def grows(line: Line | None) -> bool:
    """Whether noise depends on brightness, for the line through the groups."""
    if line is None or line.gain <= 0:
        return False
    return any(line.sure > sure and line.ratio > ratio for sure, ratio in PLAIN)


def line_of_groups(ladder: Ladder, brightness: Tensor) -> Line | None:
    """The line through the levels of groups of patches; None where brightness does not vary."""
    order = brightness.argsort()
    ends = [round(s * len(order)) for s in SHARES]
    means, levels, errors = [], [], []
    for first, last in itertools.pairwise(ends):
        if last - first < 8:
            continue
        rows = order[first:last]
        found = ladder.read(rows)
        means.append(float(brightness[rows].mean()))
        levels.append(found.sigma)
        errors.append(min(found.error, 2.0))
    if len(means) < 3 or means[-1] - means[0] < 1e-6:
        return None
    x = torch.tensor(means, dtype=torch.float64)
    v = torch.tensor([s * s for s in levels], dtype=torch.float64)
    error = torch.tensor(errors, dtype=torch.float64)
    expected = v.clone()
    for _ in range(5):
        gain, offset, spread = weighted_line(x, v, (2 * expected * error).clamp(min=1e-12))
        expected = (gain * x + offset).clamp(min=0.05 * float(v.mean()))
    extremes = (gain * x[[0, -1]] + offset).clamp(min=1e-12)
    misfit = ((v - gain * x - offset) / (2 * expected * error)).square().sum() / (len(x) - 2)
    sure = gain / (spread * max(1.0, float(misfit) ** 0.5))
    return Line(gain, offset, sure, float((extremes[1] / extremes[0]).sqrt()))


def line_of_blocks(plane: Tensor, lying: Tensor | None = None) -> Line | None:
    """The line through the variances of the flattest blocks of each tenth of brightness."""
    blocks = cut_blocks(plane, lying, SIDE)
    if len(blocks.means) < 3 * BINS:
        return None
    freedom = SIDE * SIDE - 3
    x, v = [], []
    for rows in blocks.means.argsort().tensor_split(BINS):
        count = max(3, int(SHARE * len(rows)))
        flat = rows[blocks.variances[rows].argsort()[:count]]
        g = torch.Generator().manual_seed(1)
        trials = max(20, min(len(rows), 400))
        pure = torch.randn(trials, freedom, dtype=torch.float64, generator=g).square().mean(1)
        kept = pure.sort()[0][: max(3, int(SHARE * trials))].mean()
        x.append(blocks.means[flat].mean())
        v.append(blocks.variances[flat].mean() / kept.to(plane.device))
    means, variances = torch.stack(x), torch.stack(v)
    if float(means.max() - means.min()) < 1e-6:
        return None
    gain, offset, _ = weighted_line(means, variances, variances.clamp(min=1e-9))
    return Line(gain, offset)


def line_of_image(plane: Tensor, lying: Tensor, groups: Line | None) -> Line | None:
    """The line between that of groups and that of blocks: the geometric mean of their variances.

    Groups read too little where noise is somewhat correlated or has heavy tails (microscopes: 0.6
    of the gain), blocks too much where all is textured.
    """
    blocks = line_of_blocks(plane, lying)
    lines = [q for q in (groups, blocks) if q is not None and q.gain > 0]
    if len(lines) < 2:
        return lines[0] if lines else None
    side = max(1, min(8, *(n // 4 for n in plane.shape)))
    means = F.avg_pool2d(plane[None, None].double(), side).flatten()
    ends = means.quantile(means.new_tensor(ENDS)).tolist()
    variances = []
    for x in ends:
        one, other = (max(q.gain * x + q.offset, LEAST) for q in lines)
        variances.append(math.sqrt(one * min(max(other, one / LESS), one * MORE)))
    gain = (variances[1] - variances[0]) / max(ends[1] - ends[0], LEAST)
    return Line(gain, variances[0] - gain * ends[0]) if gain > 0 else lines[0]


def weighted_line(x: Tensor, y: Tensor, error: Tensor) -> tuple[float, float, float]:
    """Gain and offset of the weighted line, and the gain's standard error."""
    w = error.square().reciprocal()
    total = w.sum()
    mx, my = (w * x).sum() / total, (w * y).sum() / total
    bend = (w * (x - mx).square()).sum()
    gain = float((w * (x - mx) * (y - my)).sum() / bend)
    return gain, float(my - gain * mx), float(bend) ** -0.5
