"""Images to draw from at random: patches and crops, in random elements of the symmetries.

In an `ImagePool` all pixels lie in one flat tensor, so that thousands of patches of different
images are one gather: pixel (c, i, j) of image m is number  o_m + (c H_m + i) W_m + j.  Every draw
takes a generator; `step_generator` makes one for each step from the seed and the number of the
step, so that a run that goes on from a checkpoint sees the same data as one that was never stopped.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gmdm_prior import symmetry

Images = Mapping[Path, Tensor] | Sequence[Tensor]


def step_generator(seed: int, *place: int) -> torch.Generator:
    """A generator for one place (a stage, a step, …) of a run."""
    word = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def usable(images: Images, least: int, what: str) -> dict[Path | int, Tensor]:
    """The images of at least `least` pixels on each side; the others are named in one warning.

    Returns:
        Images by file, or by their number in a sequence.

    Raises:
        ValueError: where none is left; `what` says what needs the size.
    """
    named = dict(images if isinstance(images, Mapping) else enumerate(images))
    kept = {name: image for name, image in named.items() if min(image.shape[-2:]) >= least}
    if not kept:
        raise ValueError(
            f"none of {len(named)} images has the {least}x{least} pixels that {what} needs: give "
            "larger images or a smaller patch"
        )
    small = [f"image {n}" if isinstance(n, int) else str(n) for n in named if n not in kept]
    if small:
        warnings.warn(
            f"skipped {len(small)} of {len(named)} images, smaller than the {least}x{least} pixels "
            f"that {what} needs: {', '.join(small)}",
            stacklevel=3,
        )
    return kept


def without_mean(patches: Tensor) -> Tensor:
    """Patches less the mean of each channel, which zero-mean filters do not see."""
    return patches - patches.mean((-2, -1), keepdim=True)


def turned(images: Tensor, symmetries: str, generator: torch.Generator) -> Tensor:
    """Images (N, C, h, w), each in a random element of the group, in place; square if several."""
    elements = symmetry.group(symmetries)
    seen = torch.randint(len(elements), (len(images),), generator=generator)
    if len(images) == 1:
        return symmetry.act(images, elements[int(seen)]).contiguous()
    for i, element in enumerate(elements):
        if element:
            images[seen == i] = symmetry.act(images[seen == i], element)
    return images


def part_of(
    image: Tensor, extent: Sequence[int], symmetries: str, generator: torch.Generator
) -> Tensor:
    """A part (C, h, w) of an image, of h, w = `extent`, at a random place and turned at random."""
    top, left = (
        int(torch.randint(n - e + 1, (1,), generator=generator))
        for n, e in zip(image.shape[1:], extent, strict=True)
    )
    part = image[:, top : top + extent[0], left : left + extent[1]]
    return turned(part[None], symmetries, generator)[0]


@dataclass(frozen=True)
class ImagePool:
    """Images (C, H, W), views of one flat tensor.

    Attributes:
        pixels: all numbers of all images, float32.
        starts: o_m, (M,).
        shapes: (C, H, W) of each image, (M, 3).
        sigmas: standard deviation of each image's noise, () or a map (1, H, W); None where there is
            none or one level for all.
    """

    pixels: Tensor
    starts: Tensor
    shapes: Tensor
    sigmas: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, images: Iterable[Tensor], sigmas: Sequence[Tensor] | None = None) -> ImagePool:
        """Copy images into a pool."""
        images = list(images)
        sizes = torch.tensor([image.numel() for image in images])
        shapes = torch.tensor([image.shape for image in images])
        pixels = torch.cat([image.detach().float().cpu().flatten() for image in images])
        noise = None if sigmas is None else tuple(sigmas)
        return cls(pixels, sizes.cumsum(0) - sizes, shapes, noise)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.starts)

    @property
    def images(self) -> list[Tensor]:
        """(C, H, W) each, without copies."""
        shapes = self.shapes.tolist()
        places = zip(self.starts.tolist(), shapes, strict=True)
        return [self.pixels[o : o + c * h * w].view(c, h, w) for o, (c, h, w) in places]

    @property
    def fingerprint(self) -> str:
        """Give what a resumed run compares its images with."""
        content = zlib.crc32(self.pixels.numpy().data)
        for sigma in self.sigmas or ():
            content = zlib.crc32(sigma.numpy().tobytes(), content)
        return f"{len(self)} images of {len(self.pixels)} values, checksum {content:08x}"

    def positions(self, size: int) -> int:
        """Count the different patches that the images hold."""
        return int((self.shapes[:, 1:] - size + 1).clamp(min=0).prod(1).sum())

    def patches(self, count: int, size: int, symmetries: str, generator: torch.Generator) -> Tensor:
        """Patches (count, C, b, b): a random image, a random place, a random symmetry for each."""
        which = torch.randint(len(self), (count,), generator=generator)
        shape = self.shapes[which]
        place = torch.rand(count, 2, dtype=torch.float64, generator=generator)
        corner = (place * (shape[:, 1:] - size + 1)).long()
        height, width = shape[:, 1, None, None, None], shape[:, 2, None, None, None]
        steps = torch.arange(size)
        channel = torch.arange(int(self.shapes[0, 0]))[None, :, None, None]
        row = corner[:, 0, None, None, None] + steps[:, None]
        column = corner[:, 1, None, None, None] + steps
        index = self.starts[which, None, None, None] + (channel * height + row) * width + column
        return turned(self.pixels[index], symmetries, generator)

    def crop(self, size: int, symmetries: str, generator: torch.Generator) -> Tensor:
        """A crop (C, h, w) of a random image, turned; h, w = `size` or all that the image has."""
        image = self.images[int(torch.randint(len(self), (1,), generator=generator))]
        return part_of(image, [min(size, n) for n in image.shape[1:]], symmetries, generator)


def sample_patches(
    images: Images,
    count: int,
    size: int,
    symmetries: str = "d4",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw patches at random positions, equally many from each image as far as that goes.

    Args:
        images: (C, H, W) each, of any sizes, as `read_images` returns them or in a sequence.
        count: number of patches N.
        size: b.
        symmetries: each patch is seen in a random element of this group: `"d4"`, `"flips"`,
            `"none"`.
        generator: source of randomness (CPU); `None` is a generator seeded with 0.

    Returns:
        Patches (N, C, b, b) in random order.

    Raises:
        ValueError: `count` or `size` is below 1, or no image is as large as a patch.
    """
    kept = list(usable(images, size, f"a patch of size={size}").values())
    none = [torch.tensor(0.0)] * len(kept)
    return sample_noisy_patches(kept, none, count, size, symmetries, generator)[0]


def sample_noisy_patches(
    images: Sequence[Tensor],
    sigmas: Sequence[Tensor],
    count: int,
    size: int,
    symmetries: str = "d4",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of `sample_patches`, with their noise and where they come from.

    Args:
        images: (C, H, W) each, none smaller than a patch.
        sigmas: standard deviation of the noise of each, () or a map (1, H, W).
        count: number of patches N.
        size: b.
        symmetries: as in `sample_patches`.
        generator: as in `sample_patches`; its draws are the same ones.

    Returns:
        Patches (N, C, b, b); the standard deviation of the noise of each, (N,), of a map the root
        mean square over the patch; and the number of its image, (N,).
    """
    if count < 1 or size < 1:
        raise ValueError(f"count and size must be at least 1; got count={count}, size={size}")
    symmetry.group(symmetries)
    if generator is None:
        generator = torch.Generator().manual_seed(0)

    def draw(bound: int, number: int) -> Tensor:
        return torch.randint(bound, (number,), generator=generator)

    each, rest = divmod(count, len(images))
    extra = set(torch.randperm(len(images), generator=generator)[:rest].tolist())
    drawn, levels, source = [], [], []
    for i, (image, sigma) in enumerate(zip(images, sigmas, strict=True)):
        windows = image.unfold(1, size, 1).unfold(2, size, 1)
        number = each + (i in extra)
        top, left = draw(windows.shape[1], number), draw(windows.shape[2], number)
        drawn.append(windows[:, top, left].movedim(1, 0))
        levels.append(_levels(sigma, top, left, size))
        source.append(torch.full((number,), i))
    order = torch.randperm(count, generator=generator)
    patches, sigma, image_of = (torch.cat(parts)[order] for parts in (drawn, levels, source))
    return turned(patches, symmetries, generator).contiguous(), sigma, image_of


def _levels(sigma: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """The noise level of patches at these corners."""
    if sigma.ndim == 0:
        return torch.full((len(top),), float(sigma))
    windows = sigma[0].square().unfold(0, size, 1).unfold(1, size, 1)
    return windows[top, left].mean((-2, -1)).sqrt()
