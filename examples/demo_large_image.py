"""A 16-megapixel image in tiles: bounded memory, one process or many, on one machine or more.

    python examples/demo_large_image.py [size=4096] [tile=1024] [out=demo_large_image.png]
    torchrun --nproc-per-node=2 examples/demo_large_image.py
    torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT ...

deepinv's `distribute` cuts the image into tiles, gives each process its share and puts the results
together. With an overlap of the denoiser's `halo`, and tiles of a multiple of 16 pixels, they are
what the whole image would give, to rounding. The noise map travels as the last channel.
"""

import resource
import sys
import time

import torch
from deepinv.distributed import DistributedContext, distribute
from deepinv_gmdm import GMDMDenoiser, WithNoiseMap
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.command.restore import psnr

from gmdm_prior.files.pictures import read_picture, save_picture


def scene(size: int) -> torch.Tensor:
    """Mirrored copies of a photograph, (1, 1, size, size)."""
    photo = read_picture(shipped("images") / "camera.png")[0]
    pair = torch.cat([photo, photo.flip(3)], 3)
    block = torch.cat([pair, pair.flip(2)], 2)
    count = -(-size // block.shape[2])
    return block.repeat(1, 1, count, count)[..., :size, :size].contiguous()


@torch.no_grad()
def main(out: str = "demo_large_image.png", size: int = 4096, tile: int = 1024) -> float:
    """Add noise that grows from left to right, denoise in tiles; returns the PSNR in dB."""
    truth = scene(size)
    sigma = torch.linspace(0.04, 0.16, size).expand(1, 1, size, size)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    images = torch.cat([truth + sigma * noise, sigma], 1)

    denoiser = WithNoiseMap(GMDMDenoiser("gray"))
    with DistributedContext() as ctx:
        tiled = distribute(denoiser, ctx, patch_size=tile, overlap=denoiser.halo, max_batch_size=1)
        begun = time.perf_counter()
        restored = tiled(images.to(ctx.device))[:, :1].cpu()
        seconds = time.perf_counter() - begun
        if ctx.rank == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{size}x{size} pixels, {ctx.world_size} process(es): noisy "
                f"{psnr(images[:, :1], truth):.2f} dB, restored {psnr(restored, truth):.2f} dB in "
                f"{seconds:.0f} s, at most {peak:.1f} GiB: {out}"
            )
            save_picture(restored, out)
    return psnr(restored, truth)


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    main(**{key: value if key == "out" else int(value) for key, value in options.items()})
