"""benchmarks/lib/networks.py: files of MATLAB as their authors' networks read them."""

import numpy as np
import pytest
import torch

pytest.importorskip("h5py", reason="benchmarks need the extra `bench`")
pytest.importorskip("bm3d", reason="benchmarks need the extra `bench`")

import h5py
from lib import networks


def write(path, kernels):
    """A network of convolutions with kernels (row, column, in, out), as MATLAB 7.3 stores it."""
    with h5py.File(path, "w") as file:
        layers = []
        for i, kernel in enumerate(kernels):
            for kind in ("conv", "relu"):
                group = file.create_group(f"#refs#/{kind}{i}")
                group["type"] = np.array([[ord(c)] for c in kind], np.uint16)
                layers.append(group.ref)
                if kind == "relu":
                    group["weights"] = np.zeros(2, np.uint64)  # an empty cell
            weights = file.create_dataset(f"#refs#/k{i}", data=kernel.transpose(3, 2, 1, 0))
            bias = file.create_dataset(f"#refs#/b{i}", data=np.zeros((kernel.shape[3], 1)))
            pair = np.array([[weights.ref], [bias.ref]], dtype=h5py.ref_dtype)
            file[f"#refs#/conv{i}"].create_dataset("weights", data=pair)
        file["net/layers"] = np.array([[ref] for ref in layers], dtype=h5py.ref_dtype)


def test_kernels_are_not_turned(tmp_path):
    """Row 0, column 1 of a kernel is the pixel above; the last layer is not cut off at 0."""
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[0, 1] = -1
    write(tmp_path / "sigma=25.mat", [kernel])
    denoise, count = networks.dncnn(tmp_path)
    y = torch.rand(1, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    above = torch.nn.functional.pad(y, (0, 0, 1, 0))[..., :-1, :]
    torch.testing.assert_close(denoise(y, 25 / 255), y + above)
    assert count == 10
    assert list(networks.of_levels(tmp_path)) == [25]


def test_blocks_of_pixels_are_counted_down_first(tmp_path):
    """The network gives what the second pixel of a 2x2 block holds, plus the level, everywhere."""
    kernel = np.zeros((3, 3, 5, 4), np.float32)
    kernel[1, 1, 1, :] = 1
    kernel[1, 1, 4, :] = 1
    write(tmp_path / networks.FFDNET, [kernel])
    denoise, count = networks.ffdnet(tmp_path)
    y = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))  # an odd side
    lower_left = y[..., 1::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :7]
    torch.testing.assert_close(denoise(y, 0.1), lower_left + 0.1)
    assert count == 9 * 20 + 4
