"""Every format, depth, number of channels, pages and orientation: what is written is what was read.

`denoise` with sigma=0 changes nothing, so that the file which it writes holds the same values, of
the same type, with the same pages, resolution and units.
"""

import numpy as np
import pytest
import tifffile
from deepinv_gmdm.command.main import main
from PIL import Image, ImageOps

from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.layout import plain, upright
from gmdm_prior.files.formats.picture import Picture, parse_range

H, W = 12, 17
TIFF_TYPES = ("uint8", "uint16", "12 in 16", "int16", "uint32", "float32", "float64")


def values(kind, channels=1, pages=1, seed=0):
    """Pages (pages, H, W[, channels]) over the whole range of a type."""
    generator = np.random.default_rng(seed)
    shape = (pages, H, W) if channels == 1 else (pages, H, W, channels)
    if kind == "12 in 16":
        return generator.integers(0, 4096, shape).astype(np.uint16)
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (generator.random(shape) * 3000 - 1000).astype(dtype)
    info = np.iinfo(dtype)
    array = generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    array.flat[:2] = info.min, info.max
    return array


def squeezed(array):
    return array[0] if len(array) == 1 else array


def unchanged(path, out, *words):
    """Denoised with sigma=0: the picture that was written."""
    assert main(["denoise", str(path), "sigma=0", f"out={out}", *words]) == 0
    return choose.read(out)


def check(path, tmp_path, *words):
    before = choose.read(path)
    kept = path.read_bytes()
    out = tmp_path / f"out{choose.suffix_of(path)}"
    after = unchanged(path, out, *words)
    assert path.read_bytes() == kept
    assert after.kind == before.kind
    assert after.dtype == before.dtype
    assert after.layout == before.layout
    assert (after.slope, after.intercept) == (before.slope, before.intercept)
    assert np.array_equal(after.values, before.values)
    if before.alpha is not None:
        assert np.array_equal(after.alpha, before.alpha)
    return before, after, out


def range_of(kind):
    wants = kind in ("int16", "uint32", "float32", "float64", "int32", "float16", "int8")
    return ["data_range=-1000,2000"] if wants else []


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", TIFF_TYPES)
def test_tiff(tmp_path, kind, channels, pages):
    array = squeezed(values(kind, channels, pages))
    options = {"resolution": (300, 200), "resolutionunit": 3}
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    options["photometric"] = "rgb" if channels > 2 else "minisblack"
    if channels > 1:
        options["planarconfig"] = "contig"
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    before, _, out = check(tmp_path / "a.tif", tmp_path, *range_of(kind))
    assert before.values.shape == (pages, 3 if channels > 2 else 1, H, W)
    with tifffile.TiffFile(out) as file:
        page = file.pages[0]
        assert len(file.pages) == pages
        assert page.photometric.name == options["photometric"].upper()
        assert page.tags[282].value[0] / page.tags[282].value[1] == 300
        assert page.tags[296].value == 3
        assert np.array_equal(file.asarray(), array)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_orientation_of_tiff(tmp_path, kind, channels, pages, tag):
    """A turned picture is shown as before, whether a program looks at the tag or not."""
    array = values(kind, channels, pages)
    tifffile.imwrite(
        tmp_path / "a.tif",
        squeezed(array),
        photometric="rgb" if channels == 3 else "minisblack",
        extratags=[(274, 3, 1, tag, False)],
    )
    before, _, out = check(tmp_path / "a.tif", tmp_path, *range_of(kind))
    shown = upright(array, tag, 1, 2)
    expected = np.moveaxis(shown, -1, 1) if channels == 3 else shown[:, None]
    assert np.array_equal(before.values, expected)
    with tifffile.TiffFile(out) as file:
        assert all(page.tags.valueof(274, default=1) == 1 for page in file.pages)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_orientation_of_png(tmp_path, kind, channels, tag):
    array = values(kind, channels)[0]
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = tag
    if kind == "uint16" and channels == 3:
        pytest.importorskip("imagecodecs")
        pages = np.moveaxis(array, -1, 0)[None]
        kept = {"exif": exif.tobytes(), "dpi": (150, 150)}
        choose.write(Picture(pages, "png", plain(pages.shape), metadata=kept), path)
    else:
        Image.fromarray(array).save(path, exif=exif, dpi=(150, 150))
    before, _, out = check(path, tmp_path)
    shown = upright(array, tag, 0, 1)
    assert np.array_equal(
        before.values[0], np.moveaxis(shown, -1, 0) if channels == 3 else shown[None]
    )
    written = Image.open(out)
    assert written.getexif().get(0x0112, 1) == 1
    assert written.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    if kind == "uint8":
        with Image.open(path) as given:
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(given)), shown)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_png(tmp_path, kind, channels):
    array = values(kind, channels)[0]
    if kind == "uint16" and channels > 1:
        imagecodecs = pytest.importorskip("imagecodecs")
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    else:
        Image.fromarray(array).save(tmp_path / "a.png")
    before, _, _ = check(tmp_path / "a.png", tmp_path)
    assert before.values.shape == (1, 3 if channels > 2 else 1, H, W)
    assert before.dtype == kind


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tga", ".pcx"])
def test_others_of_pillow(tmp_path, suffix):
    Image.fromarray(values("uint8", 3)[0]).save(tmp_path / f"a{suffix}")
    check(tmp_path / f"a{suffix}", tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_lossy_formats_become_lossless(tmp_path, capsys, monkeypatch, suffix, tag):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(values("uint8", 3)[0]).save(f"a{suffix}", exif=exif)
    assert main(["denoise", f"a{suffix}", "sigma=0"]) == 0
    assert (
        f"a{suffix} came in a lossy format; a-denoised.png keeps every" in capsys.readouterr().err
    )
    assert np.array_equal(choose.read("a-denoised.png").values, choose.read(f"a{suffix}").values)
    assert choose.read("a-denoised.png").values.shape[2:] == ((H, W) if tag < 5 else (W, H))


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float16", "float32", "float64"])
def test_npy(tmp_path, kind, channels, pages):
    np.save(tmp_path / "a.npy", squeezed(values(kind, channels, pages)))
    before, _, out = check(tmp_path / "a.npy", tmp_path, *range_of(kind))
    assert before.pages == pages
    assert np.array_equal(np.load(out), np.load(tmp_path / "a.npy"))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [">u2", "<u2", ">f8", ">f4"])
def test_npy_of_any_byte_order(tmp_path, kind, order):
    array = np.random.default_rng(0).random((H, W))
    array = (array if "f" in kind else 60000 * array).astype(kind, order=order)
    np.save(tmp_path / "a.npy", array)
    _, _, out = check(tmp_path / "a.npy", tmp_path)
    assert np.array_equal(np.load(out), array)


def test_npz_keeps_its_other_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", scan=values("uint16")[0], angles=np.arange(3))
    out = tmp_path / "b.npz"
    assert main(["denoise", str(tmp_path / "a.npz"), "sigma=0", f"out={out}", "key=scan"]) == 0
    with np.load(out) as written, np.load(tmp_path / "a.npz") as given:
        assert sorted(written.files) == ["angles", "scan"]
        assert all(np.array_equal(written[name], given[name]) for name in given.files)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".nii", ".nii.gz", ".mrc"])
def test_volumes_slice_by_slice(tmp_path, suffix, axis):
    array = values("int16", 1, 13)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    elif suffix == ".mrc":
        pytest.importorskip("mrcfile").new(path, array).close()
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1])), path)
    assert choose.read(path, axis=axis).pages == array.shape[axis]
    _, after, _ = check(path, tmp_path, f"axis={axis}", *range_of("int16"))
    assert np.array_equal(after.layout.array(after.values), array)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_dicom(tmp_path, bits, signed, pages):
    pydicom = pytest.importorskip("pydicom")
    path = tmp_path / "a.dcm"
    data = dicom(pydicom, bits, signed, pages)
    data.save_as(path, enforce_file_format=True)
    _, _, out = check(path, tmp_path, *(["data_range=-1024,3071"]))
    written = pydicom.dcmread(out)
    assert np.array_equal(written.pixel_array, data.pixel_array)
    assert written.PatientName == "A"
    assert written.RescaleIntercept == -1024
    assert list(written.PixelSpacing) == [0.5, 0.5]
    assert written.SOPInstanceUID != data.SOPInstanceUID
    assert written.ImageType[0] == "DERIVED"


def dicom(pydicom, bits, signed, pages=1, modality="CT", pixels=None):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.PatientName, data.Modality, data.PixelSpacing = "A", modality, [0.5, 0.5]
    if pixels is None:
        generator = np.random.default_rng(0)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
        dtype = ("int" if signed else "uint") + ("8" if bits == 8 else "16")
        pixels = generator.integers(low, high, (pages, H, W)).astype(dtype)
    data.Rows, data.Columns = pixels.shape[1:]
    if pages > 1:
        data.NumberOfFrames = pages
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsStored, data.HighBit = bits, bits - 1
    data.BitsAllocated = 8 if bits == 8 else 16
    data.PixelRepresentation = int(signed)
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = pixels.tobytes() + (b"\0" if pixels.nbytes % 2 else b"")
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    return data


def test_dicom_says_its_range(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for name, bits, signed in (("a", 12, False), ("b", 16, True)):
        path = tmp_path / f"{name}.dcm"
        dicom(pydicom, bits, signed).save_as(path, enforce_file_format=True)
        picture = choose.read(path)
        assert picture.range == (-1024, 3071)
        assert picture.notes == ("black and white are -1024 and 3071 in HU",)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_fits(tmp_path, kind, pages):
    fits = pytest.importorskip("astropy.io.fits")
    array = squeezed(values(kind, 1, pages))
    unit = fits.PrimaryHDU(array)
    unit.header["EXPTIME"] = 30.0
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.arange(3.0))])
    fits.HDUList([unit, table]).writeto(tmp_path / "a.fits")
    _, _, out = check(tmp_path / "a.fits", tmp_path, *range_of(kind))
    with fits.open(out) as written:
        assert np.array_equal(written[0].data, array)
        assert written[0].header["EXPTIME"] == 30
        assert len(written[1].data) == 3


def test_fits_of_other_units(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    unit = fits.PrimaryHDU(values("int16")[0])
    unit.header["BSCALE"], unit.header["BZERO"] = 0.5, 100.0
    unit.writeto(tmp_path / "a.fits")
    before, _, out = check(tmp_path / "a.fits", tmp_path, "data_range=-16384,16384")
    assert (before.slope, before.intercept) == (0.5, 100)
    with fits.open(tmp_path / "a.fits") as given, fits.open(out) as written:
        assert np.array_equal(given[0].data, written[0].data)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("kind", ["int8", "int16", "uint16", "float32", "float16"])
def test_mrc(tmp_path, kind, pages):
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.new(tmp_path / "a.mrc", squeezed(values(kind, 1, pages))) as file:
        file.voxel_size = 1.5
        file.add_label("ours")
    _, _, out = check(tmp_path / "a.mrc", tmp_path, *range_of(kind))
    with mrcfile.open(out) as written:
        assert written.voxel_size.x == pytest.approx(1.5)
        assert any("ours" in label for label in written.get_labels())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
def test_nifti(tmp_path, kind, scaled):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values(kind, 1, 13), np.diag([1, 2, 3, 1]))
    if scaled:
        image.header.set_slope_inter(0.25, -10)
    nibabel.save(image, tmp_path / "a.nii")
    before, _, out = check(tmp_path / "a.nii", tmp_path, "data_range=-1000,9000")
    assert (before.slope, before.intercept) == ((0.25, -10) if scaled else (1, 0))
    assert np.array_equal(nibabel.load(out).affine, image.affine)
    given = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert np.array_equal(nibabel.load(out).get_fdata(), given)


def test_nifti_series(tmp_path):
    """Volumes at several times, two of them."""
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).integers(-900, 900, (W, H, 5, 2)).astype(np.int16)
    image = nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]))
    image.header.set_zooms((1, 2, 3, 0.5))
    nibabel.save(image, tmp_path / "a.nii.gz")
    before, _, out = check(tmp_path / "a.nii.gz", tmp_path, "data_range=-1000,1000")
    assert before.pages == 10
    written = nibabel.load(out)
    assert np.array_equal(written.get_fdata(), array)
    assert written.header.get_zooms() == image.header.get_zooms()


@pytest.mark.parametrize("compressed", [False, True])
def test_fits_in_an_extension(tmp_path, compressed):
    fits = pytest.importorskip("astropy.io.fits")
    array = values("int16")[0]
    unit = fits.CompImageHDU(array) if compressed else fits.ImageHDU(array)
    unit.header["EXPTIME"] = 30.0
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(tmp_path / "a.fits")
    _, _, out = check(tmp_path / "a.fits", tmp_path, *range_of("int16"))
    with fits.open(out) as written:
        assert written[0].data is None
        assert np.array_equal(written[1].data, array)
        assert written[1].header["EXPTIME"] == 30


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_stacks_of_imagej(tmp_path, kind):
    array = values(kind, 1, 6).reshape(3, 2, H, W)
    path = tmp_path / "a.tif"
    meta = {"axes": "ZCYX", "spacing": 0.5, "unit": "um"}
    tifffile.imwrite(path, array, imagej=True, resolution=(2, 2), metadata=meta)
    _, _, out = check(path, tmp_path, *range_of(kind))
    with tifffile.TiffFile(out) as file:
        assert file.is_imagej
        assert file.series[0].axes == "ZCYX"
        assert file.imagej_metadata["spacing"] == 0.5
        assert file.imagej_metadata["unit"] == "um"


def test_stacks_of_ome(tmp_path):
    array = values("uint16", 1, 6).reshape(3, 2, H, W)
    meta = {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", array, ome=True, metadata=meta)
    _, _, out = check(tmp_path / "a.ome.tif", tmp_path)
    with tifffile.TiffFile(out) as file:
        assert file.is_ome
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata
        assert np.array_equal(file.asarray(), array)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "lzma"])
def test_compressed_tiff(tmp_path, compression):
    if compression in ("lzw", "packbits"):
        pytest.importorskip("imagecodecs")
    options = {"compression": compression, "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", values("uint16", 3)[0], **options)
    _, _, out = check(tmp_path / "a.tif", tmp_path)
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].compression != 1


@pytest.mark.parametrize("tag", [1, 3, 5, 6])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_cmyk_tiff_becomes_colour(tmp_path, tag, compression):
    image = Image.fromarray(values("uint8", 3)[0]).convert("CMYK")
    image.save(tmp_path / "a.tif", tiffinfo={274: tag}, compression=compression)
    out = unchanged(tmp_path / "a.tif", tmp_path / "b.tif")
    shown = upright(np.asarray(image.convert("RGB")), tag, 0, 1)
    assert np.array_equal(out.values[0], np.moveaxis(shown, -1, 0))


@pytest.mark.parametrize("tag", [1, 5, 6])
def test_palette_tiff_becomes_colour(tmp_path, tag, capsys):
    """Turned once, by Pillow or by us."""
    image = Image.fromarray(values("uint8", 3)[0]).quantize(16)
    image.save(tmp_path / "a.tif", tiffinfo={274: tag})
    out = unchanged(tmp_path / "a.tif", tmp_path / "b.tif")
    shown = upright(np.asarray(image.convert("RGB")), tag, 0, 1)
    assert np.array_equal(out.values[0], np.moveaxis(shown, -1, 0))
    assert "its palette became red, green and blue" in capsys.readouterr().err


def test_tiff_of_inverted_gray(tmp_path):
    array = values("uint8")[0]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    before, _, _ = check(tmp_path / "a.tif", tmp_path)
    expected = (255 - array.astype(np.float32)) / 255
    assert np.allclose(before.page(0)[0, 0].numpy(), expected, atol=1e-6)


# --- ranges ---------------------------------------------------------------------------------------


def test_twelve_bits_in_sixteen_are_recognised_and_said(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", values("12 in 16")[0], photometric="minisblack")
    picture = choose.read(tmp_path / "a.tif")
    assert picture.range == (0, 4095)
    assert choose.read(tmp_path / "a.tif", data_range=(0, 65535)).range == (0, 65535)
    words = ["denoise", str(tmp_path / "a.tif"), "sigma=0", f"out={tmp_path / 'b.tif'}"]
    assert main(words) == 0
    assert "taken for 12 bits, white is 4095 (data_range=0,65535" in capsys.readouterr().err


def test_an_automatic_range_is_said(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-50, 950, 10_000).reshape(100, 100))
    picture = choose.read(tmp_path / "a.npy", data_range="auto")
    assert picture.range == pytest.approx((-49, 949))
    assert picture.notes == ("data_range=auto is -49,949",)


@pytest.mark.parametrize("text", ["1", "1,0", "0,0", "a,b", "0,nan", "0,1,2", "", "5"])
def test_what_is_no_range(text):
    with pytest.raises(ValueError, match="neither auto nor low,high"):
        parse_range(text)


def test_ranges():
    assert parse_range("0,4095") == parse_range([0, 4095]) == (0, 4095)
    assert parse_range("auto") == "auto"
    assert parse_range(None) is None


def test_changed_values_are_rounded_into_the_type():
    picture = Picture(
        np.array([[[[0, 100], [200, 255]]]], np.uint8), "png", None, range=(0.0, 255.0)
    )
    changed = picture.with_pages([picture.page(0) + 1.6 / 255])
    assert changed.values.flatten().tolist() == [2, 102, 202, 255]


def test_changes_are_in_the_files_units():
    """A tenth of a range of 1000 is 200 steps of 0.5."""
    values = np.array([[[[0, 100], [200, 900]]]], np.int16)
    picture = Picture(values, "fits", None, (0.0, 1000.0), slope=0.5, intercept=100.0)
    changed = picture.with_pages([picture.page(0) + 0.1])
    assert changed.values.flatten().tolist() == [200, 300, 400, 1100]
    assert picture.page(0).flatten().tolist() == pytest.approx([0.1, 0.15, 0.2, 0.55])
