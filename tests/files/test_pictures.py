"""Pictures in and out."""

import warnings

import numpy as np
import pytest
import torch
from deepinv_gmdm.command.config import shipped
from PIL import Image

from gmdm_prior.files.pictures import check_suffix, read_image, read_picture, save_picture

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 1), ("CMYK", 3)],
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
    Image.fromarray(np.full((2, 2), 1.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "int.tif")
    for name, match in (
        ("", "is a folder"),
        ("text.png", "no picture"),
        ("cut.png", "cannot be read"),
        ("float.tif", r"neither unsigned 8- or 16-bit nor floats in \[0, 1\].*data_range=auto"),
        ("int.tif", "neither unsigned 8- or 16-bit"),
    ):
        with pytest.raises(ValueError, match=match):
            read_picture(tmp_path / name)
        with pytest.raises(ValueError, match=match):
            read_image(tmp_path / name)
    for read in (read_picture, read_image):
        with pytest.raises(FileNotFoundError, match=r"none\.png' does not exist"):
            read(tmp_path / "none.png")


def test_floats_keep_their_precision(tmp_path):
    values = RAMP.astype(np.float32) / 257
    Image.fromarray(values).save(tmp_path / "a.tif")
    picture, bits = read_picture(tmp_path / "a.tif")
    assert bits == 16
    assert torch.equal(picture[0, 0], torch.from_numpy(values))
    assert torch.equal(read_image(tmp_path / "a.tif"), picture[0])


@pytest.mark.parametrize("values", [RAMP, 5000 * RAMP.astype(np.uint16)], ids=["8", "16"])
def test_both_readers_obey_the_orientation_tag(tmp_path, values):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    upright = torch.from_numpy(np.rot90(values, -1).astype(np.float32)) / np.iinfo(values.dtype).max
    assert torch.equal(read_picture(tmp_path / "a.png")[0][0, 0], upright)
    assert torch.equal(read_image(tmp_path / "a.png")[0], upright)


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch):
    """Pillow warns from half of the size on that it refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as said:
        assert read_picture(tmp_path / "a.png")[0].shape == (1, 1, 3, 4)
    assert not said
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ValueError, match=r"cannot be read: .*12 pixels"):
        read_picture(tmp_path / "a.png")


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
