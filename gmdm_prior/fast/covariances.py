"""Posterior means of a mixture under noise of any covariance S, in float32.

The exact evaluation (`densities.mixture.covariance`) solves one system for each class and patch.
Here all classes are seen from the narrowest one that there could be, T = U (S + m Id) Uᵀ with the
least variance m of all classes and U an orthonormal zero-mean basis. With T = L Lᵀ and y' = L⁻¹ U y
class k has the covariance Id + M_k, of which few eigenvalues μ_i are far from 0,

    log p(k | y) = const + log w_k - 1/2 sum_i log(1 + μ_i) + 1/2 sum_i g_i (v_i · y')²
    E[x | y, k]  = y - S Uᵀ L⁻ᵀ y' + sum_i g_i (v_i · y') S Uᵀ L⁻ᵀ v_i,     g_i = μ_i / (1 + μ_i).

Directions with μ_i below `LEAST` are left out: of the variance that the noise has along them, the
clean patch has less than that share. The second line is evaluated for the classes that explain a
patch, of a responsibility above `RARE`. The root mean square error is below 1e-2 of the noise
level. A half turn of the patch turns the class where S stays, so that even and odd half of a patch,
each of half the length, serve two orientations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gmdm_prior.densities.mixture.diffused import DiffusedMixture
from gmdm_prior.gaussian_noise import Covariance

LEAST = 0.01  # eigenvalue that counts
RARE = 4e-4  # responsibility
ROWS = 512  # patches at a time, and
TOGETHER = 8  # classes: what fits the cache


@dataclass(frozen=True, eq=False)
class _Class:
    """One class in one orientation.

    Attributes:
        analysis: √g_i Uᵀ L⁻ᵀ v_i as columns, (a, r).
        synthesis: √g_i S Uᵀ L⁻ᵀ v_i as rows, (r, a).
        constant: its log-weight with the normaliser.
    """

    analysis: Tensor
    synthesis: Tensor
    constant: float


@dataclass(frozen=True, eq=False)
class _Block:
    """Classes that are evaluated together, their ranks filled up with zeros.

    Attributes:
        rank: r, of each.
        constants: (n, 1).
        even: their analysis as rows, (n r, a); with `odd` that of the even half of a patch.
        odd: that of the odd half; None where classes are not in pairs.
    """

    rank: int
    constants: Tensor
    even: Tensor
    odd: Tensor | None


class FastCovariance:
    """A mixture with a flat mean under noise of one covariance, for patches (N, a) in float32.

    Args:
        clean: the mixture without noise.
        covariance: of the noise of a patch.
    """

    def __init__(self, clean: DiffusedMixture, covariance: Covariance) -> None:
        s = covariance.matrix.to(clean.bases[0].device)
        least = min(float(v.min()) for v in clean.variances)
        dimensions = clean.variances[0].shape[1]
        u = clean.bases[0][:dimensions].double()
        root = torch.linalg.cholesky(u @ s @ u.T + least * u @ u.T)
        whiten = torch.linalg.solve_triangular(root, u, upper=False)
        self._base = (whiten.T @ whiten @ s).float()
        place = torch.arange(len(s), device=s.device)
        self._turn = place.unflatten(0, (clean.mean_part.channels, -1)).flip(1).flatten()
        self._half = place[place <= self._turn]
        stays = (s[self._turn][:, self._turn] - s).abs().max() <= 1e-9 * s.abs().max()
        found: list[tuple[_Class, bool]] = []
        for rows, v, w in zip(clean.bases, clean.variances, clean.log_weights, strict=True):
            oriented = rows.double().unflatten(0, (-1, dimensions))
            for h, partner in enumerate(self._partners(oriented, bool(stays))):
                if partner is None or partner > h:
                    classes = _classes(oriented[h], v.double() - least, w, whiten, s)
                    found += [(c, partner is not None) for c in classes]
        found.sort(key=lambda pair: (pair[1], pair[0].analysis.shape[1]))
        self._classes: list[_Class] = []
        self._blocks: list[_Block] = []
        for paired in (False, True):
            alike = [c for c, p in found if p == paired]
            for i in range(0, len(alike), TOGETHER):
                self._add(alike[i : i + TOGETHER], paired)

    @property
    def bytes(self) -> int:
        """Bytes that the matrices take."""
        tensors = [t for c in self._classes for t in (c.analysis, c.synthesis)]
        tensors += [t for b in self._blocks for t in (b.even, b.odd) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def posterior_mean(self, y: Tensor) -> Tensor:
        """(N, a) posterior means of patches (N, a)."""
        weights = torch.cat([self.responsibilities(p) for p in y.split(ROWS)])
        return self._means(y.contiguous(), weights)

    def responsibilities(self, y: Tensor) -> Tensor:
        """(N, classes in their orientations), in an order of its own."""
        y = y.T
        first, second = y[self._half] / 2, y[self._turn[self._half]] / 2
        even, odd, logs = first + second, first - second, []
        for block in self._blocks:
            if block.odd is None:
                square = (block.even @ y).square_().unflatten(0, (-1, block.rank)).sum(1)
                logs.append(torch.add(block.constants, square, alpha=0.5))
                continue
            a, b = block.even @ even, block.odd @ odd
            product = (a * b).unflatten(0, (-1, block.rank)).sum(1)
            square = a.square_().addcmul_(b, b).unflatten(0, (-1, block.rank)).sum(1)
            square = torch.add(block.constants, square, alpha=0.5)
            logs += [square + product, square - product]
        return torch.cat(logs).T.softmax(1)

    def _means(self, y: Tensor, weights: Tensor) -> Tensor:
        weights = weights * (weights > RARE)
        weights = weights / weights.sum(1, keepdim=True)
        out = y - y @ self._base
        for k, rows in enumerate(weights.T.contiguous()):
            chosen = rows.nonzero()[:, 0]
            if len(chosen):
                one = self._classes[k]
                part = (y[chosen] @ one.analysis * rows[chosen, None]) @ one.synthesis
                out.index_add_(0, chosen, part)
        return out

    def _partners(self, oriented: Tensor, stays: bool) -> list[int | None]:
        """The orientation a half turn away from each, where the noise stays in it."""
        turned = oriented[..., self._turn]
        alike = (oriented[:, None] - turned[None]).abs().amax((2, 3)) < 1e-9
        places = [row.nonzero().flatten().tolist() for row in alike]
        return [p[0] if stays and p and p[0] != h else None for h, p in enumerate(places)]

    def _add(self, classes: list[_Class], paired: bool) -> None:
        """Evaluate some classes together, and with them what they are after a half turn."""
        rank = max(1, *(c.analysis.shape[1] for c in classes))
        rows = torch.cat(
            [F.pad(c.analysis.T, (0, 0, 0, rank - c.analysis.shape[1])) for c in classes]
        )
        constants = rows.new_tensor([c.constant for c in classes])[:, None]
        self._classes += classes
        if not paired:
            self._blocks.append(_Block(rank, constants, rows, None))
            return
        self._classes += [
            _Class(c.analysis[self._turn], c.synthesis[:, self._turn].contiguous(), c.constant)
            for c in classes
        ]
        first, second = rows[:, self._half], rows[:, self._turn[self._half]]
        middle = self._half == self._turn[self._half]  # of patches of odd size
        even = torch.where(middle, first, first + second)
        self._blocks.append(_Block(rank, constants, even, first - second))


def _classes(
    rows: Tensor, variances: Tensor, log_weights: Tensor, whiten: Tensor, s: Tensor
) -> list[_Class]:
    """The classes of one basis in one orientation, with variances less the least of all."""
    seen = whiten @ rows.T
    curvatures, axes = torch.linalg.eigh(torch.einsum("ij,kj,lj->kil", seen, variances, seen))
    out = []
    for mu, v, weight in zip(curvatures, axes, log_weights.double(), strict=True):
        kept = mu > LEAST
        mu, v = mu[kept], v[:, kept]
        analysis = whiten.T @ (v * (mu / (1 + mu)).sqrt())
        constant = float(weight - 0.5 * (1 + mu).log().sum())
        out.append(_Class(analysis.float(), (analysis.T @ s).float(), constant))
    return out
