"""Images to draw from at random: patches for iPALM, crops for score matching.

All pixels lie in one flat tensor, so that thousands of patches of different images are one gather:
pixel (c, i, j) of image m is number  o_m + (c H_m + i) W_m + j.  Every draw takes a generator;
`step_generator` makes one for each step from the seed and the number of the step, so that a run
that goes on from a checkpoint sees the same data as one that was never stopped.
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
from gmdm_prior.training.data.images import named

Images = Mapping[Path, Tensor] | Sequence[Tensor]


def step_generator(seed: int, *place: int) -> torch.Generator:
    """A generator for one place (a stage, a step, …) of a run."""
    word = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def usable(images: Images, least: int, what: str) -> list[Tensor]:
    """The images of at least `least` pixels on each side; the others are named in one warning.

    Raises:
        ValueError: where none is left; `what` says what needs the size.
    """
    pairs = named(images)
    small = [name for name, image in pairs if min(image.shape[-2:]) < least]
    if len(small) == len(pairs):
        raise ValueError(
            f"none of {len(pairs)} images has the {least}x{least} pixels that {what} needs: give "
            "larger images or a smaller patch_size"
        )
    if small:
        warnings.warn(
            f"skipped {len(small)} of {len(pairs)} images, smaller than the {least}x{least} pixels "
            f"that {what} needs: {', '.join(small)}",
            stacklevel=3,
        )
    return [image for _, image in pairs if min(image.shape[-2:]) >= least]


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
        """What a resumed run compares its images with."""
        content = zlib.crc32(self.pixels.numpy().data)
        for sigma in self.sigmas or ():
            content = zlib.crc32(sigma.numpy().tobytes(), content)
        return f"{len(self)} images of {len(self.pixels)} values, checksum {content:08x}"

    def positions(self, size: int) -> int:
        """How many different patches the images hold."""
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
        return turn_at_random(self.pixels[index], symmetries, generator)

    def crop(self, size: int, symmetries: str, generator: torch.Generator) -> Tensor:
        """A crop (C, h, w) of a random image, turned; h, w = `size` or all that the image has."""
        image = self.images[int(torch.randint(len(self), (1,), generator=generator))]
        extent = [min(size, n) for n in image.shape[1:]]
        top, left = (
            int(torch.randint(n - e + 1, (1,), generator=generator))
            for n, e in zip(image.shape[1:], extent, strict=True)
        )
        part = image[:, top : top + extent[0], left : left + extent[1]]
        elements = symmetry.group(symmetries)
        chosen = int(torch.randint(len(elements), (1,), generator=generator))
        return symmetry.act(part, elements[chosen]).contiguous()


def turn_at_random(patches: Tensor, symmetries: str, generator: torch.Generator) -> Tensor:
    """Each patch (N, C, b, b) in a random element of the group; in place."""
    elements = symmetry.group(symmetries)
    seen = torch.randint(len(elements), (len(patches),), generator=generator)
    for i, element in enumerate(elements):
        if element:
            patches[seen == i] = symmetry.act(patches[seen == i], element)
    return patches


def without_mean(patches: Tensor) -> Tensor:
    """Patches less the mean of each channel, which zero-mean filters do not see."""
    return patches - patches.mean((-2, -1), keepdim=True)
