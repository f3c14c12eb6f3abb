"""Files that are rarely met: what they hold survives, or is refused with the reason."""

import numpy as np
import pytest
import tifffile
from deepinv_gmdm.command.main import main
from PIL import Image, ImageCms, PngImagePlugin

from gmdm_prior.files.formats import choose
from gmdm_prior.files.formats.picture import Picture

H, W = 12, 17
GRAY = np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (H, W, 3)).astype(np.uint8)
MISSING = (float("nan"), float("inf"))


def denoised(path, *words, out=None):
    """With sigma=0; what was written."""
    out = path.with_name(out or f"out{choose.suffix_of(path)}")
    assert main(["denoise", str(path), "sigma=0", f"out={out}", *words]) == 0
    return out


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


# --- PNG ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_png_keeps_profile_resolution_and_texts(tmp_path, deep):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "A")
    texts.add_itxt("Title", "Übung", lang="de")
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path, icc_profile=profile, dpi=(300, 150), pnginfo=texts)
    if deep:
        pytest.importorskip("imagecodecs")
        picture = choose.read(path)
        picture.values = picture.values.astype(np.uint16) * 251
        choose.write(picture, path)
    before, out = choose.read(path), denoised(path)
    after = choose.read(out)
    assert before.dtype == after.dtype == (np.uint16 if deep else np.uint8)
    assert np.array_equal(before.values, after.values)
    with Image.open(out) as written:
        assert written.info["icc_profile"] == profile
        assert written.info["dpi"] == pytest.approx((300, 150), abs=0.1)
        assert written.text == {"Author": "A", "Title": "Übung"}
        assert written.text["Title"].lang == "de"
        written.load()  # checksums hold


@pytest.mark.parametrize("colour", [False, True])
def test_a_transparent_colour_becomes_a_channel(tmp_path, capsys, colour):
    array = COLOUR if colour else GRAY
    key = tuple(int(v) for v in COLOUR[2, 3]) if colour else int(GRAY[2, 3])
    Image.fromarray(array).save(tmp_path / "a.png", transparency=key)
    out = denoised(tmp_path / "a.png")
    assert "its transparent colour became a channel" in capsys.readouterr().err
    with Image.open(out) as written:
        assert written.mode == ("RGBA" if colour else "LA")
        pixels = np.asarray(written)
    assert pixels[2, 3, -1] == 0
    assert np.array_equal(pixels[..., :-1].squeeze(), array)


def test_a_gray_palette_is_gray(tmp_path, capsys):
    Image.fromarray(GRAY).convert("P").save(tmp_path / "a.png")
    with Image.open(denoised(tmp_path / "a.png")) as written:
        assert written.mode == "L"
        assert np.array_equal(np.asarray(written), GRAY)
    assert "its palette became gray" in capsys.readouterr().err


def test_an_animation_becomes_a_stack(tmp_path, monkeypatch):
    """Also where its frames mix gray, colour and transparency."""
    monkeypatch.chdir(tmp_path)
    frames = [Image.fromarray(COLOUR).quantize(30), Image.fromarray(GRAY)]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    assert main(["denoise", "a.gif", "sigma=0"]) == 0
    assert choose.read("a-denoised.tif").values.shape == (2, 3, H, W)


# --- TIFF -----------------------------------------------------------------------------------------


def test_tiff_keeps_what_its_transparency_means(tmp_path):
    array = np.concatenate([COLOUR, GRAY[..., None]], -1)
    options = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with tifffile.TiffFile(denoised(tmp_path / "a.tif")) as file:
        assert file.pages[0].extrasamples[0].name == "ASSOCALPHA"
        assert np.array_equal(file.asarray(), array)


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"rowsperstrip": 3},
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_however_tiff_lies_on_the_disk(tmp_path, options, kind):
    array = (COLOUR / 255).astype(kind) if kind in (np.float32, np.float64) else COLOUR.astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", **options)
    written = tifffile.imread(denoised(tmp_path / "a.tif"))
    assert written.dtype == kind
    assert np.array_equal(written, array)


@pytest.mark.parametrize("axes", ["TZCYX", "TCYX", "ZCYX", "CYX"])
def test_hyperstacks_keep_their_axes_and_colours(tmp_path, axes):
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": H, "X": W}
    array = np.random.default_rng(0).integers(0, 60000, [sizes[a] for a in axes]).astype(np.uint16)
    tables = [np.arange(768).reshape(3, 256).astype(np.uint8)] * 2
    meta = {"axes": axes, "LUTs": tables, "Ranges": (0.0, 9.0, 0.0, 8.0)}
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata=meta)
    with tifffile.TiffFile(denoised(tmp_path / "a.tif")) as file:
        assert file.series[0].axes == axes
        assert np.array_equal(file.asarray(), array)
        assert np.array_equal(file.imagej_metadata["LUTs"], tables)
        assert file.imagej_metadata["Ranges"] == (0, 9, 0, 8)


# --- DICOM ----------------------------------------------------------------------------------------


def coloured(pydicom, planar):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.Rows, data.Columns, data.SamplesPerPixel = H, W, 3
    data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", planar
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    stored = np.moveaxis(COLOUR, -1, 0) if planar else COLOUR
    data.PixelData = np.ascontiguousarray(stored).tobytes()
    data["PixelData"].VR = "OB"
    return data


@pytest.mark.parametrize("planar", [0, 1])
def test_dicom_in_colour_plane_by_plane(tmp_path, planar):
    pydicom = pytest.importorskip("pydicom")
    coloured(pydicom, planar).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    out = denoised(tmp_path / "a.dcm")
    assert np.array_equal(pydicom.dcmread(out).pixel_array, COLOUR)


def test_dicom_without_its_preamble(tmp_path, capsys):
    pydicom = pytest.importorskip("pydicom")
    data = coloured(pydicom, 0)
    del data.file_meta
    data.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    out = denoised(tmp_path / "a.dcm")
    assert np.array_equal(choose.read(out).values[0], np.moveaxis(COLOUR, -1, 0))
    (tmp_path / "b.dcm").write_bytes(b"")
    assert "it holds no pixels" in refused(capsys, "denoise", tmp_path / "b.dcm")


def test_dicom_of_inverted_gray(tmp_path):
    """Darker is more: it stays so."""
    pydicom = pytest.importorskip("pydicom")
    data = coloured(pydicom, 0)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1"
    del data.PlanarConfiguration
    data.PixelData = GRAY.tobytes()
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    written = pydicom.dcmread(denoised(tmp_path / "a.dcm"))
    assert written.PhotometricInterpretation == "MONOCHROME1"
    assert np.array_equal(written.pixel_array, GRAY)


# --- missing values -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", MISSING)
def test_missing_values_are_counted_and_the_remedy_works(tmp_path, monkeypatch, capsys, missing):
    monkeypatch.chdir(tmp_path)
    clean = 0.3 + 0.4 * np.tri(24, 30)
    array = clean.copy()
    array[5:7, 8:10] = missing
    np.save("a.npy", array)
    assert choose.read("a.npy").range == (0, 1), "what is there says the range"
    assert "4 of its values are missing" in refused(capsys, "denoise", "a.npy")
    words = ["restore", "inpainting", "measurement=a.npy", "out=o", "prior.weights=gray-small"]
    assert main([*words, "solver.max_iter=8"]) == 0
    assert "99.4 % is seen (not NaN or blank)" in capsys.readouterr().out
    assert np.abs(np.load("o/restored.npy") - clean).max() < 0.2  # an edge of 0.4 passes the hole
    np.save("mask.npy", np.ones((24, 30)))
    assert main([*words, "solver.max_iter=8", "physics.mask=mask.npy"]) == 0
    assert np.abs(np.load("o/restored.npy") - clean).max() < 0.2  # an edge of 0.4 passes the hole
    np.save("mask.npy", ~np.isfinite(array))
    assert "nothing is seen" in refused(capsys, *words, "physics.mask=mask.npy")
    np.save("a.npy", np.full((24, 30), missing))
    assert "all of its values are missing" in refused(capsys, "denoise", "a.npy", "data_range=auto")


def test_blank_pixels_of_fits_are_missing(tmp_path, capsys):
    fits = pytest.importorskip("astropy.io.fits")
    unit = fits.PrimaryHDU(GRAY.astype(np.int16))
    unit.header["BLANK"] = -999
    unit.data[3, 4] = -999
    unit.writeto(tmp_path / "a.fits")
    picture = choose.read(tmp_path / "a.fits", data_range="auto")
    assert picture.missing(0).sum() == 1
    assert picture.range[0] >= 0
    sentence = refused(capsys, "denoise", tmp_path / "a.fits", "data_range=0,255")
    assert "1 of its values are missing (NaN, infinite or blank)" in sentence


def test_missing_values_that_were_filled_in_are_written():
    values = np.array([[[[0.25, np.nan]]]])
    picture = Picture(values, "npy", None, range=(0.0, 2.0))
    page = picture.page(0, fill=0.0)
    assert page.flatten().tolist() == [0.125, 0]
    assert picture.with_pages([page + 0.5]).values.flatten().tolist() == [1.25, 1.0]


# --- what is no picture ---------------------------------------------------------------------------


def test_what_is_no_picture(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "c.tif", GRAY.astype(np.complex64))
    assert "it holds complex numbers" in refused(capsys, "denoise", tmp_path / "c.tif")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    sentence = refused(capsys, "denoise", tmp_path / "a.h5")
    assert "gmdm restore denoise measurement=FILE key=NAME" in sentence
    np.save(tmp_path / "e.npy", np.zeros((0, 5)))
    assert "it is empty: its shape is (0, 5)" in refused(capsys, "denoise", tmp_path / "e.npy")


def test_three_gray_slices_are_said(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack([GRAY] * 3))
    denoised(tmp_path / "a.npy")
    assert "three gray slices; of colour the last axis" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["a b.png", "σ=5 é.png", "sigma=5.png", "[x].png", "a: b.png", "a #b.png", "'q'.png"]
)
def test_names_are_taken_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GRAY).save(name)
    assert main(["denoise", name, "sigma=0"]) == 0
    assert choose.read(f"{name[:-4]}-denoised.png").values.shape == (1, 1, H, W)
    out = f"out of {name} # {{x}}"
    words = ["solver.max_iter=1", "prior.weights=gray-small"]
    assert main(["restore", "denoise", f"measurement={name}", f"out={out}", *words]) == 0
    assert main(["restore", f"{out}/config.yaml", "out=again"]) == 0
    assert choose.read("again/restored.png").values.shape == (1, 1, H, W)
