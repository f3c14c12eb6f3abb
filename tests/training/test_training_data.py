"""Images from folders, patches from images."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from gmdm_prior import symmetry
from gmdm_prior.training import find_images, read_image, read_images, sample_patches, split_held_out
from gmdm_prior.training.data.noise import look_up, parse_noise
from gmdm_prior.training.run.config import typed

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def write(path: Path, pixels: np.ndarray = RAMP, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture
def bsds(tmp_path):
    for part, names in {"train": ("9", "10"), "test": ("1", "2"), "val": ("3",)}.items():
        for name in names:
            write(tmp_path / "BSDS500-master/BSDS500/data/images" / part / f"{name}.jpg")
    return tmp_path


def test_finds_images_of_every_kind_in_plain_order(tmp_path):
    names = ["B.PNG", "a.jpeg", "c.JPG", "d.tif", "e.TIFF", "f.bmp", "sub/a.png"]
    for name in names:
        write(tmp_path / name)
    (tmp_path / ".cache").mkdir()
    for name in ("notes.txt", ".hidden.png", ".cache/x.png", "weights.pth"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == names
    assert find_images(str(tmp_path)) == find_images(tmp_path)


@pytest.mark.parametrize("inside", ["", "BSDS500-master", "BSDS500-master/BSDS500"])
def test_bsds500_is_train_then_test_each_sorted(bsds, inside):
    found = [f"{p.parent.name}/{p.stem}" for p in find_images(f"bsds500:{bsds / inside}")]
    assert found == ["train/10", "train/9", "test/1", "test/2"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere", FileNotFoundError, r"data=.*nowhere does not exist"),
        ("empty", ValueError, r"data=.*empty holds no image"),
        ("file.png", ValueError, r"data=.*file\.png is not a folder"),
    ],
)
def test_bad_sources_are_refused_in_one_sentence(tmp_path, source, error, message):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file.png")
    with pytest.raises(error, match=message) as caught:
        find_images(tmp_path / source)
    assert "\n" not in str(caught.value)


def test_a_folder_without_bsds500_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no BSDS500: give the folder"):
        find_images(f"bsds500:{tmp_path}")


def test_every_fortieth_file_is_held_out():
    files = [Path(f"{i:03}.png") for i in range(400)]
    training, held_out = split_held_out(files)
    assert held_out == files[::40]
    assert len(training) == 390
    assert sorted(training + held_out) == files
    assert training == sorted(training)


def test_split_refuses_what_leaves_nothing():
    with pytest.raises(ValueError, match=r"every must be at least 2.*got 1"):
        split_held_out([Path("a"), Path("b")], every=1)
    with pytest.raises(ValueError, match=r"files must be at least two.*got 1"):
        split_held_out([Path("a")])


def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_gray_of_8_bits_is_exact(tmp_path):
    image = read_image(write(tmp_path / "x.png"))
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.from_numpy(RAMP)[None].float() / 255)
    rgb = read_image(tmp_path / "x.png", channels=3)
    assert torch.equal(rgb, image.expand(3, -1, -1))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_colour_is_kept_or_turned_to_gray_as_pillow_does(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", colours())
    gray = np.asarray(Image.fromarray(colours()).convert("L"))
    assert torch.equal(read_image(path)[0], torch.from_numpy(gray.copy()).float() / 255)
    expected = torch.from_numpy(colours()).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(path, channels=3), expected)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK"])
def test_other_modes_are_read(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    pixels = np.stack([RAMP] * 3, -1)
    path = write(tmp_path / f"x.{suffix}", pixels, mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)
    expected = np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255
    assert image.shape == (1, 6, 8)
    assert np.abs(image[0].numpy() - expected).max() < 1.5 / 255
    assert image.max() > 0.8


def test_a_transparent_palette_is_read_in_silence(tmp_path):
    image = Image.fromarray(colours()).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_image(tmp_path / "x.png", channels=3)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(read, expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_keep_their_precision(tmp_path, suffix):
    deep = np.array([[0, 1, 300], [40_000, 65_534, 65_535]], dtype=np.uint16)
    path = write(tmp_path / f"x.{suffix}", deep)
    expected = torch.from_numpy(deep.astype(np.float32))[None] / 65535
    assert torch.equal(read_image(path), expected)
    assert torch.equal(read_image(path, channels=3), expected.expand(3, -1, -1))


def test_floats_must_lie_in_the_unit_interval(tmp_path):
    unit = RAMP.astype(np.float32) / 255
    assert torch.equal(read_image(write(tmp_path / "x.tif", unit))[0], torch.from_numpy(unit))
    with pytest.raises(ValueError, match=r"y\.tif' cannot be read.*floats in \[0, 1\]"):
        read_image(write(tmp_path / "y.tif", 255 * unit))


def test_the_orientation_tag_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=exif)
    expected = torch.from_numpy(RAMP).float().rot90(-1) / 255
    assert torch.equal(read_image(tmp_path / "x.png")[0], expected)


def test_channels_are_one_or_three(tmp_path):
    with pytest.raises(ValueError, match=r"channels must be 1 .* or 3 .* got 2"):
        read_image(write(tmp_path / "x.png"), channels=2)


def damage(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_corrupt_images_are_named_skipped_and_counted(tmp_path, suffix):
    good = write(tmp_path / f"good.{suffix}", colours())
    bad = damage(write(tmp_path / f"bad.{suffix}", np.tile(colours(), (20, 20, 1))))
    text = tmp_path / "text.png"
    text.write_text("no image")
    with pytest.warns(UserWarning, match=r"skipped 3 of 4 images") as caught:
        images = read_images([bad, good, text, tmp_path / "gone.png"])
    assert list(images) == [good]
    for name in (f"bad.{suffix}", "text.png", "gone.png"):
        assert name in str(caught[0].message)


def test_reading_nothing_is_an_error(tmp_path):
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no readable image among 1: .*x\.png"):
        read_images([tmp_path / "x.png"])
    with pytest.raises(ValueError, match="no readable image among 0"):
        read_images([])


def places(height: int, width: int) -> torch.Tensor:
    """An image whose pixels tell where they are."""
    return torch.arange(height * width).float().view(1, height, width)


def windows(image: torch.Tensor, size: int) -> set[tuple[float, ...]]:
    found = image[0].unfold(0, size, 1).unfold(1, size, 1).flatten(0, 1)
    return {tuple(w.flatten().tolist()) for w in found}


def test_patches_are_windows_spread_equally_over_images():
    images = [places(9, 7), 1000 + places(5, 20), 2000 + places(4, 4)]
    patches = sample_patches(images, 1000, 4, "none")
    assert patches.shape == (1000, 1, 4, 4)
    index = (patches[:, 0, 0, 0] // 1000).long()
    assert sorted(torch.bincount(index).tolist()) == [333, 333, 334]
    for i, image in enumerate(images):  # every position occurs, and nothing else
        drawn = {tuple(p.flatten().tolist()) for p in patches[index == i]}
        assert drawn == windows(image, 4)
    assert len(index.unique_consecutive()) > 500  # shuffled


@pytest.mark.parametrize("name", ["d4", "flips", "none"])
def test_patches_are_augmented_by_the_models_own_symmetries(name):
    patches = sample_patches([places(3, 3)], 400, 3, name)
    expected = {
        tuple(symmetry.act(places(3, 3), q).flatten().tolist()) for q in symmetry.group(name)
    }
    assert {tuple(p.flatten().tolist()) for p in patches} == expected


def test_patches_of_colour_images_keep_their_channels_together():
    image = torch.stack([places(6, 6)[0], 100 + places(6, 6)[0], 200 + places(6, 6)[0]])
    patches = sample_patches([image], 50, 3)
    assert torch.equal(patches[:, 0] + 100, patches[:, 1])
    assert torch.equal(patches[:, 0] + 200, patches[:, 2])


def test_sampling_is_seeded_and_leaves_the_rest_alone():
    images, state = [places(9, 9)], torch.get_rng_state()
    kept = images[0].clone()
    one, two, other = (
        sample_patches(images, 30, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images[0], kept)


def test_fewer_patches_than_images():
    patches = sample_patches([1000 * i + places(4, 4) for i in range(9)], 4, 3)
    assert (patches[:, 0, 1, 1] // 1000).unique().numel() == 4


def test_images_smaller_than_a_patch_are_named_and_skipped():
    images = {Path("small.png"): places(3, 9), Path("large.png"): places(9, 9)}
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 images.* size=4 needs: small\.png"):
        patches = sample_patches(images, 10, 4)
    assert len(patches) == 10
    with pytest.raises(ValueError, match="none of 1 images has the 4x4 pixels"):
        sample_patches([places(3, 9)], 10, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0, "size": 3}, "count=0"),
        ({"count": 5, "size": 0}, "size=0"),
        ({"count": 5, "size": 3, "symmetries": "all"}, "symmetries must be one of"),
    ],
)
def test_bad_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample_patches([places(9, 9)], **options)


def test_import_needs_no_pillow():
    code = "import sys, gmdm_prior.training; assert 'PIL' not in sys.modules, 'PIL'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_page_of_a_stack_is_an_image(tmp_path):
    stack = np.random.default_rng(0).integers(0, 900, (3, 6, 8)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    np.save(tmp_path / "v.npy", stack[0] - 100.0)
    files = find_images(tmp_path)
    assert [file.name for file in files] == ["s.tif", "v.npy"]
    images = read_images(files, data_range=(-100, 900))
    assert [name.name for name in images] == ["s.tif", "s.tif#page2", "s.tif#page3", "v.npy"]
    expected = torch.from_numpy((stack[2] + 100) / 1000).float()[None]
    torch.testing.assert_close(images[tmp_path / "s.tif#page3"], expected)
    assert look_up({"s.tif": 0.1, "v.npy": 0.2}, images, "t") == [0.1, 0.1, 0.1, 0.2]


def test_masks_are_skipped_with_the_reason(tmp_path):
    mask = (np.arange(100) % 2).astype(np.uint8).reshape(10, 10)
    good, bad = write(tmp_path / "a.png"), write(tmp_path / "mask.png", mask)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 images: .*mask\.png.* it is a mask"):
        assert list(read_images([good, bad])) == [good]


def test_levels_above_one_are_refused():
    with pytest.raises(ValueError, match=r"noise=25 is above 1.*did you mean 25/255\?"):
        parse_noise("noise", "25")
    with pytest.raises(ValueError, match="data_range=x is neither auto nor low,high"):
        typed({"data_range": "x"})
    assert typed({"data_range": [0, 4095]}).data_range == "0,4095"
