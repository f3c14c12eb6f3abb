"""deepinv.distributed with ours: tiles give what the whole image gives."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from deepinv.distributed import DistributedContext, distribute
from deepinv_gmdm import GMDMDenoiser, GMDMScore, WithNoiseMap
from models import mixture

SMALL = "bsds-gray-small"
MAKES = {
    "average": lambda: GMDMDenoiser(SMALL, method="average"),
    "score": lambda: GMDMScore(SMALL),
}


def image(height=97, width=110):
    return torch.rand((1, 1, height, width), generator=torch.Generator().manual_seed(0))


def tiled(denoiser, x, overlap, *sigma, patch_size=32):
    with DistributedContext(device_mode="cpu") as ctx:
        many = distribute(denoiser, ctx, patch_size=patch_size, overlap=overlap, max_batch_size=4)
        with torch.no_grad():
            return many(x, *sigma)


@pytest.mark.parametrize("name", MAKES)
def test_tiles_are_the_whole(name):
    """To rounding for an overlap of the halo; visibly not for an eighth of it."""
    denoiser, x = MAKES[name](), image()
    whole = denoiser(x, 0.1)
    scale = max(1, float(whole.abs().max()))
    exact = tiled(denoiser, x, denoiser.halo, 0.1)
    assert float((exact - whole).abs().max()) < 1e-6 * scale
    short = tiled(denoiser, x, 1, 0.1)
    assert float((short - whole).abs().max()) > 1e-5 * scale


def test_tiles_of_half_quadratic_splitting():
    """Exact further than the halo from the border; there, of the image reflected by the halo."""
    denoiser, x = GMDMDenoiser(mixture(4).float()), image(96, 128)
    h = denoiser.halo
    assert h % (2 * denoiser.operator.stride) == 0
    out, whole = tiled(denoiser, x, h, 0.1), denoiser(x, 0.1)
    assert float((out - whole)[..., h:-h, h:-h].abs().max()) < 1e-6
    around = torch.nn.functional.pad(x, (h,) * 4, mode="reflect")
    assert float((out - denoiser(around, 0.1)[..., h:-h, h:-h]).abs().max()) < 1e-6
    assert float((tiled(denoiser, x, 4, 0.1) - whole)[..., h:-h, h:-h].abs().max()) > 1e-4


@pytest.mark.parametrize("method", ["average", "hqs"])
def test_maps_travel_as_the_last_channel(method):
    denoiser = GMDMDenoiser(mixture(4).float(), method=method)
    x, sigma = image(96, 128), 0.05 + 0.1 * image(96, 128).flip(3)
    carried = WithNoiseMap(denoiser)
    out = tiled(carried, torch.cat([x, sigma], 1), carried.halo)
    inside = slice(carried.halo, -carried.halo) if method == "hqs" else slice(None)
    error = (out[:, :1] - denoiser(x, sigma))[..., inside, inside]
    assert float(error.abs().max()) < 1e-6
    torch.testing.assert_close(out[:, 1:], sigma)


def test_levels_of_a_batch_cannot_be_tiled():
    """Tiles of both images are one batch, which two levels do not fit."""
    x = image().repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="sigma must be a number"):
        tiled(MAKES["average"](), x, 8, torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize(
    ("x", "sigma", "match"),
    [(image(), None, r"B, C \+ 1, H, W"), (image().repeat(1, 2, 1, 1), 0.1, "left out")],
)
def test_a_map_that_is_missing_is_refused(x, sigma, match):
    with pytest.raises(ValueError, match=match):
        WithNoiseMap(MAKES["average"]())(x, sigma)


SCRIPT = """
import sys
import torch
import deepinv
from deepinv.distributed import DistributedContext, distribute
from deepinv_gmdm import GMDMDenoiser, GMDMScore, WithNoiseMap

x = torch.rand((1, 1, 70, 80), generator=torch.Generator().manual_seed(0))
sigma = 0.05 + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
small = "bsds-gray-small"
worst = 0.0
with DistributedContext(device_mode="cpu", backend="gloo") as ctx, torch.no_grad():
    assert ctx.world_size == 2
    average = GMDMDenoiser(small, method="average")
    cases = [(average, x, (0.1,)), (GMDMScore(small), x, (0.1,))]
    cases += [(WithNoiseMap(average), torch.cat([x, sigma], 1), ())]
    for denoiser, images, level in cases:
        whole = denoiser(images, *level)
        many = distribute(denoiser, ctx, patch_size=24, overlap=denoiser.halo, max_batch_size=2)
        error = float((many(images, *level) - whole).abs().max() / whole.abs().max().clamp(min=1))
        worst = max(worst, error)
    print(f"rank {ctx.rank}: {worst:.1e}", flush=True)
assert worst < 1e-6
"""


def test_two_processes(tmp_path):
    """By torchrun, with gloo."""
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = run_two([str(script)])
    assert done.returncode == 0, done.stderr
    assert "rank 0" in done.stdout
    assert "rank 1" in done.stdout


def run_two(words):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, f"--master-port={port}", *words],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )


def test_demo_of_a_large_image_by_two_processes(tmp_path):
    demo = Path(__file__).resolve().parents[2] / "examples" / "demo_large_image.py"
    if not demo.is_file():
        pytest.skip("needs the checkout")
    out = tmp_path / "large.png"
    done = run_two([str(demo), "size=264", "tile=128", f"out={out}"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("restored") == 1  # one process speaks
    assert out.is_file()
