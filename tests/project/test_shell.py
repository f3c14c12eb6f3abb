"""The commands of README and of the pages run, one page after the other, on small files."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from deepinv_gmdm.command.main import main as gmdm
from PIL import Image

from gmdm_prior import train
from gmdm_prior.pictures import report as plots

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[a-z]*/*.md"))]
SIDE, ANGLES = 32, 12
QUICK = {  # what is said besides, so that a command takes little time
    "denoise": ["overwrite=true"],
    "noise": ["overwrite=true"],
    "restore": ["overwrite=true", "solver.max_iter=2"],
    "train": "patches=1500 classes=2 bases=1 components=4 steps=2 patch_size=4".split(),
}


def commands(page):
    """The words of each indented line of a page that begins with gmdm or gmdm-train."""
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in outside.splitlines():
        words = line.partition(" #")[0].split()
        if line.startswith("    gmdm") and words[0] in ("gmdm", "gmdm-train"):
            yield words


WITH_COMMANDS = [page for page in PAGES if any(commands(page))]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with all files that the pages name."""
    nibabel, h5py = pytest.importorskip("nibabel"), pytest.importorskip("h5py")
    pytest.importorskip("pydicom")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    smooth = np.kron(random.uniform(40, 200, (4, 4)), np.ones((8, 8)))
    noisy = (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
    for name in "noisy.png blurry.png blurry.jpg small.png cloth.png".split():
        Image.fromarray(noisy).save(name)
    Image.fromarray(np.stack([noisy, noisy.T, noisy], 2)).save("night.jpg", quality=95)
    point = np.zeros((5, 5), np.uint8)
    point[1:4, 1:4] = 200
    Image.fromarray(point).save("psf.png")
    tifffile.imwrite("bead.tif", point)
    tifffile.imwrite("scan.tif", noisy)
    tifffile.imwrite("cells.tif", np.stack([noisy, noisy.T]).astype(np.uint16) * 200)
    mask = random.uniform(size=noisy.shape) < 0.5
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save("mask.png")
    np.save("mask.npy", mask)
    np.savetxt("angles.txt", np.linspace(0, 180, ANGLES, endpoint=False))
    np.save("sinogram.npy", random.uniform(0, 5, (SIDE, ANGLES)).astype(np.float32))
    spectrum = np.fft.fftshift(np.fft.fft2(smooth / 255, norm="ortho")).astype(np.complex64)
    np.save("kspace.npy", spectrum)
    np.save("maps.npy", np.ones((2, SIDE, SIDE), np.complex64) / 2**0.5)
    with h5py.File("scan.h5", "w") as scan:
        scan["kspace"] = np.stack([spectrum, spectrum]) / 2**0.5
    volume = np.stack([noisy, noisy.T], 2).astype(np.float32) / 255
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename("brain.nii.gz")
    write_dicom("slice.dcm", noisy)
    Path("FOLDER").mkdir()
    for i in range(4):
        Image.fromarray(np.roll(noisy, 5 * i, 0)).save(f"FOLDER/{i}.png")
    Path("levels.csv").write_text("file,sigma\n" + "".join(f"{i}.png,0.05\n" for i in range(4)))
    Path("my.yaml").write_text(
        "image: noisy.png\nphysics: {name: gaussian_blur, width: 1, noise: {sigma: 0.02}}\n"
    )


def write_dicom(name, pixels):
    """A CT slice of these values, less 100 Hounsfield units."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CT", "MONOCHROME2", 1
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -100
    data.PixelData = pixels.astype(np.uint16).tobytes()
    data.save_as(name, enforce_file_format=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_of_a_page_run(page, files, monkeypatch, capsys):
    monkeypatch.setattr(plots, "report", lambda *_, **__: None)
    for number, (program, *words) in enumerate(commands(page)):
        if program == "gmdm":
            status = gmdm([*words, *(QUICK[words[0]] if "--" not in words[-1] else ())])
        else:
            out = [] if any(w.startswith("out=") for w in words) else [f"out=runs/{number}"]
            status = train.main([*words, *out, *QUICK["train"]])
        assert status == 0, f"{' '.join(words)}: {capsys.readouterr().err}"


def test_scripts_that_pages_name_are_there():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for script in re.findall(r"python ((?:benchmarks|examples)/[\w/]+\.py)", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
        for target in re.findall(r"`make (\w+)`", text):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target
