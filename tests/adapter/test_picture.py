"""Pictures in and out."""

import numpy as np
import pytest
import torch
from deepinv_gmdm.command.config import shipped
from deepinv_gmdm.picture import check_suffix, read_picture, save_picture
from PIL import Image

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 1), ("CMYK", 3)],
)
def test_modes(tmp_path, mode, channels):
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.fromarray(RAMP).convert(mode).save(tmp_path / f"a{suffix}")
    picture, bits = read_picture(tmp_path / f"a{suffix}")
    assert picture.shape == (1, channels, 3, 4)
    assert picture.dtype == torch.float32
    assert bits == 8
    if mode in ("L", "LA", "RGB", "RGBA"):
        expected = torch.from_numpy(RAMP).float() / 255
        torch.testing.assert_close(picture, expected.expand_as(picture))


def test_sixteen_bits_survive(tmp_path):
    values = (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture, bits = read_picture(tmp_path / "a.png")
    assert bits == 16
    save_picture(picture, tmp_path / "b.png", bits)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), values)


def test_writing_clips_and_rounds(tmp_path):
    picture = torch.tensor([[[[-1.0, 0.0, 0.5, 2.0]]]]).expand(1, 3, 1, 4)
    save_picture(picture, tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 1].tolist() == [0, 0, 128, 255]


def test_bad_pictures_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = (shipped("images") / "camera.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:3000])
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "int.tif")
    for name, match in (
        ("none.png", "does not exist"),
        ("", "is a folder"),
        ("text.png", "no picture"),
        ("cut.png", "cannot be read"),
        ("float.tif", "unknown range"),
        ("int.tif", "outside 16 bits"),
    ):
        with pytest.raises(ValueError, match=match):
            read_picture(tmp_path / name)


def test_suffixes():
    check_suffix("a.png")
    check_suffix("a.TIF")
    for name in ("a.pgn", "a", "a.txt"):
        with pytest.raises(ValueError, match="names no picture format"):
            check_suffix(name)


def test_shipped_images_are_small_and_named():
    folder = shipped("images")
    text = (folder / "README.md").read_text()
    for file in folder.glob("*.png"):
        assert file.stat().st_size < 150_000
        assert f"`{file.name}`" in text
        channels = 3 if file.stem.endswith("_color") else 1
        side = {"ct": 128, "mr": 96}.get(file.stem, 256)
        assert read_picture(file)[0].shape == (1, channels, side, side)
