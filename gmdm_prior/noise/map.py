"""The noise level of every pixel, by local maximum likelihood.

Patches `SPACING` pixels apart get a level each, out of a ladder of levels t_l = log sigma_l, and a
smooth surface moves them (`field`, `surface`): levels may jump, or grow slowly. Levels and the
class weights w of the image (`evidence`) are found in turns. log f(y_i; sigma, w) counts as one
over the number of patches that a pixel is in. Levels are interpolated linearly to pixels. The
neighbourhood of `window` pixels is the scale below which levels are smoothed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmdm_prior.ambient import plain_modes
from gmdm_prior.densities.base import DensityModel
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.images.threads import tick
from gmdm_prior.noise.evidence import Evidence, evidence_of
from gmdm_prior.noise.field import Grid
from gmdm_prior.noise.level import LEAST, check, level_of_image
from gmdm_prior.noise.patches import clipped_pixels, cut
from gmdm_prior.noise.prior_free import to_pixels
from gmdm_prior.sigma import compute_dtype

SPACING = 4  # of the patches, in pixels
STEP, BELOW, ABOVE = 0.15, 14, 17  # the ladder: of log sigma, steps below and above the image's
TURNS = 2
PLACES = (2_000, 5_000)  # of grids that tell whether levels change slowly, and where they jump
PATCHES = 8_192  # evaluated at a time, and looked at for the class weights


@torch.no_grad()
@plain_modes
def estimate_sigma_map(model: DensityModel, images: Tensor, window: int = 12) -> Tensor:
    """Noise levels of images pixel by pixel.

    Levels that jump come out even on both sides of a sharp border, levels that grow slowly as a
    ramp; the image decides between the two.

    Patches that are constant or hold clipped pixels take the level of their neighbours.

    Args:
        model: as for `noise_level`.
        images: (B, C, H, W), as for `noise_level`. All channels together get one map.
        window: the scale in pixels on which levels are smoothed; at least 8. Wider is steadier
            where the noise changes slowly.

    Returns:
        (B, 1, H, W), dtype and device of the images.

    Raises:
        ValueError: for a window below 8, images that do not fit the model or are not finite.
        TypeError: for integer or complex images, or another kind of model.
    """
    if not isinstance(window, int) or window < 2 * SPACING:
        raise ValueError(f"window must be an integer from {2 * SPACING} pixels; got {window!r}")
    check(model, images)
    radius = window // (2 * SPACING)
    maps = [_Field(model, image).levels(radius) for image in images.to(compute_dtype(images.dtype))]
    if not maps:
        return images.new_zeros(0, 1, *images.shape[2:])
    return torch.stack(maps)[:, None].to(images.dtype)


def uneven_levels(
    model: DensityModel, image: Tensor, lying: Tensor, sigma: float, rival: Tensor | None = None
) -> tuple[Tensor, bool] | None:
    """Levels of the pixels of an image (C, H, W) whose parts have different ones.

    Args:
        model: as for `estimate_sigma_map`.
        image: the image.
        lying: bool, like the image, pixels that are left out.
        sigma: about the level of the image.
        rival: (H, W), levels of pixels for which there is another explanation.

    Returns:
        (H, W), and whether they change slowly; None where the rival is about as likely.
    """
    few, more = (math.ceil(math.sqrt(image[0].numel() / most)) for most in PLACES)
    field = _Field(model, image, sigma, lying, max(model.patch_size, few))
    logs = field.once(field.log_likelihoods(field.class_weights(field.middle(), None)))
    grid = field.grid(1, 1)
    tau = grid.chosen(logs)
    if rival is not None:
        middle = model.patch_size // 2
        other = rival[field.rows + middle][:, field.columns + middle].clamp(min=LEAST).log()
        better = grid.foretold(logs, tau) - grid.likelihood(logs, other.to(logs))
        if better < grid.margin(logs):
            return None
    if tau is not None:
        return field.of_pixels(grid.levels(logs, tau)), True
    return _Field(model, image, sigma, lying, max(SPACING, more)).levels(1), False


class _Field:
    """The grid of patches of one image (C, H, W), and the ladder of levels.

    Args:
        model: the density.
        image: in units of the density.
        sigma: about the level of the image; None to read it.
        lying: pixels that are left out; None for those that are clipped.
        spacing: of the patches, in pixels.
    """

    def __init__(
        self,
        model: DensityModel,
        image: Tensor,
        sigma: float | None = None,
        lying: Tensor | None = None,
        spacing: int = SPACING,
    ) -> None:
        self.model, self.shape, size = model, image.shape[1:], model.patch_size
        self.evaluator = Evaluator()
        self.overall = level_of_image(model, image).sigma if sigma is None else sigma
        self.planes = image.reshape(-1, model.channels, *self.shape)
        lying = clipped_pixels(image) if lying is None else lying
        self.lying = lying.reshape(self.planes.shape)
        self.rows, self.columns = (_places(n - size + 1, spacing, image) for n in self.shape)
        steps = STEP * torch.arange(-BELOW, ABOVE + 1).to(image)
        self.ladder = (math.log(max(self.overall, LEAST)) + steps).clamp(min=math.log(LEAST))

    def levels(self, radius: int) -> Tensor:
        """(H, W) noise levels."""
        if self.overall == 0:
            return self.planes.new_zeros(self.shape)
        found, weights = self.middle(), None
        for turn in range(TURNS):
            weights = self.class_weights(found, weights)
            logs = self.log_likelihoods(weights)
            if turn == 0:
                tau = self.grid(2, 1).chosen(self.once(logs[:, ::2, ::2]))
            found = self.grid(1, radius).levels(self.once(logs), tau)
        return self.of_pixels(found)

    def of_pixels(self, found: Tensor) -> Tensor:
        """(H, W) levels of log levels (R, Q) of the middles of patches."""
        middle = (self.model.patch_size - 1) / 2
        height, width = self.shape
        return to_pixels(found, self.rows + middle, self.columns + middle, (height, width)).exp()

    def middle(self) -> Tensor:
        """The level of the image at all places, (R, Q)."""
        return self.ladder[BELOW].expand(len(self.rows), len(self.columns))

    def grid(self, every: int, radius: int) -> Grid:
        """All places, or every second row and column of them, which share next to no pixel."""
        return Grid(self.rows[::every], self.columns[::every], self.ladder, BELOW, radius)

    def once(self, logs: Tensor) -> Tensor:
        """Log-likelihoods (L, R, Q) over the number of patches that a pixel is in."""
        covered = logs[0].numel() * self.model.patch_size**2
        return min(1.0, self.shape.numel() / covered) * logs

    def class_weights(self, found: Tensor, weights: Tensor | None) -> Tensor:
        """Class weights of the image, each patch at its own level."""
        count = len(self.planes) * found.numel()
        share = max(1, math.ceil(math.sqrt(count / PATCHES)))
        patches, useful = self._cut(self.rows[::share], self.columns[::share])
        own = found[::share, ::share].flatten().repeat(len(self.planes))[useful]
        nearest = (own - self.ladder[:, None]).abs().argmin(0)
        densities, start = [], evidence_of(self.model, patches[:1], self.evaluator).start
        for i in nearest.unique().tolist():
            evidence = evidence_of(self.model, patches[useful][nearest == i], self.evaluator)
            densities.append(evidence.at(self.ladder[i].exp().item()).densities)
        weights = start if weights is None else weights
        if not densities:
            return weights
        joined = torch.cat(densities)
        return Evidence(joined, joined[:, 0]).fitted(weights)

    def log_likelihoods(self, weights: Tensor) -> Tensor:
        """(L, R, Q) of each patch at each level, all planes together; 0 where it tells nothing."""
        step = max(1, PATCHES // (len(self.columns) * len(self.planes)))
        strips = []
        for rows in self.rows.split(step):
            patches, useful = self._cut(rows, self.columns)
            evidence = evidence_of(self.model, patches, self.evaluator)
            logs = [evidence.at(t.exp().item()).log_prob(weights) for t in self.ladder]
            told = torch.stack(logs) * useful
            strips.append(told.unflatten(1, (len(self.planes), len(rows), -1)).sum(1))
            tick(len(rows) / len(self.rows))
        return torch.cat(strips, 1)

    def _cut(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Patches, and whether they are neither constant nor touched by pixels that lie."""
        patches, varied, touched = cut(
            self.planes, self.lying, rows, columns, self.model.patch_size
        )
        return patches, varied & ~touched


def _places(count: int, spacing: int, like: Tensor) -> Tensor:
    """Starts of patches at most `spacing` apart, from the first place to the last."""
    number = 1 if count == 1 else math.ceil((count - 1) / spacing) + 1
    places = torch.linspace(0, count - 1, number, dtype=torch.float32, device=like.device)
    return places.round().long()
