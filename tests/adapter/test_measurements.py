"""`restore` of measurements that were simulated outside of the tool, against the truth."""

import json
import re

import deepinv
import numpy as np
import pytest
import tifffile
import torch
import yaml
from deepinv_gmdm import build_physics, restore_measurement
from deepinv_gmdm.command.config import load_config, shipped
from deepinv_gmdm.command.results import psnr
from deepinv_gmdm.measured.noise import between_missing, sinogram_noise
from deepinv_gmdm.open_border import OpenBorder
from deepinv_gmdm.operator_files import read_angles, read_kernel, read_mask
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig
from deepinv_gmdm.tomography import SinogramPhysics, centred, rotation_axis
from PIL import Image
from scipy.ndimage import convolve, rotate

from gmdm_prior.files.formats import choose

FAST = ("prior.weights=gray-small",)


@pytest.fixture(scope="module")
def photo():
    """Gray levels (96, 96)."""
    whole = np.asarray(Image.open(shipped("images") / "camera.png")).astype(float)
    return whole[40:136, 80:176]


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def save(name, values):
    Image.fromarray(np.asarray(values).clip(0, 255).round().astype(np.uint8)).save(name)


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def kernel():
    """Asymmetric, so that a flipped one is another; 7 x 5 pixels, in 8 bits."""
    k = np.zeros((7, 5))
    k[0, 0] = k[1, 0] = 60
    k[2:6, 1] = 255
    k[3, 2:] = 120
    return k.astype(np.uint8)


@pytest.fixture
def blurred(photo, draw, tmp_path, monkeypatch):
    """The middle of a blurred photograph, with its kernel and truth; the border is no torus."""
    monkeypatch.chdir(tmp_path)
    k = kernel()
    y = convolve(photo, k / k.sum())[16:80, 12:84] + draw.normal(0, 2, (64, 72))
    save("y.png", y)
    save("x.png", photo[16:80, 12:84])
    save("k.png", k)
    return y / 255, photo[16:80, 12:84] / 255


def test_a_blurred_photograph(command, blurred, tmp_path):
    words = ("restore", "deblur", "measurement=y.png", "physics.kernel=k.png", "truth=x.png")
    status, printed, error = command(*words, "out=o", *FAST)
    assert (status, error) == (0, "")
    assert "kernel of 7x5 pixels; divided by its sum 1500" in printed
    assert "the picture is open" in printed
    assert "read off the measurement" in printed
    found = metrics(tmp_path / "o")
    y, x = (torch.from_numpy(a).float()[None, None] for a in blurred)
    assert found["psnr_restored"] > psnr(y, x) + 3
    assert 255 * found["sigma"][0] == pytest.approx(2, rel=0.4)
    assert Image.open("o/restored.png").size == (72, 64)
    assert command(*words, "out=c", "physics.boundary=circular", *FAST)[0] == 0
    assert found["psnr_restored"] > metrics(tmp_path / "c")["psnr_restored"] + 1, "it rings"
    save("k.png", kernel()[::-1, ::-1])
    assert command(*words, "out=f", *FAST)[0] == 0
    assert found["psnr_restored"] > metrics(tmp_path / "f")["psnr_restored"] + 3, "not flipped"


def test_what_is_written_repeats_itself(command, blurred, tmp_path):
    """The config of the results has the operator's own keys only, and paths relative to itself."""
    words = ("measurement=y.png", "physics.kernel=k.png", "solver.max_iter=2", *FAST)
    assert command("restore", "deblur", *words, "out=deep/o")[0] == 0
    written = yaml.safe_load((tmp_path / "deep/o/config.yaml").read_text())
    assert written["measurement"] == "../../y.png"
    assert written["physics"] == {
        "name": "gaussian_blur",
        "width": 1.6,
        "kernel": "../../k.png",
        "seed": 0,
        "noise": {"name": "gaussian", "sigma": "auto"},
    }
    first = (tmp_path / "deep/o/restored.png").read_bytes()
    assert command("restore", "deep/o/config.yaml", "out=again")[0] == 0
    assert (tmp_path / "again/restored.png").read_bytes() == first
    assert metrics(tmp_path / "again").keys() == {"sigma", "seconds"}


def test_nothing_of_the_users_is_replaced(command, refused, blurred, tmp_path):
    words = ("restore", "deblur", "measurement=y.png", "physics.kernel=k.png")
    words = (*words, "solver.max_iter=1", *FAST)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "restored.png").write_text("mine")
    assert "restored.png' exists: choose another out=, or" in refused(*words, "out=o")
    assert command(*words, "out=o", "overwrite=true")[0] == 0
    assert command(*words, "out=o")[0] == 0, "its own earlier results"
    words = ("restore", "deblur", "measurement=o/restored.png", "physics.kernel=k.png")
    for more in ("out=o", "overwrite=true"):
        sentence = refused(*words, "solver.max_iter=1", "out=o", more)
        assert "is an input" in sentence
    assert "is an input" in refused("restore", "o/config.yaml", "out=o")


def test_a_masked_photograph(command, photo, draw, tmp_path, monkeypatch):
    """White where nothing is seen."""
    monkeypatch.chdir(tmp_path)
    mask = draw.random(photo.shape) < 0.5
    save("mask.png", 255 * mask)
    save("y.png", np.where(mask, photo + draw.normal(0, 5, photo.shape), 255))
    save("x.png", photo)
    words = ("measurement=y.png", "physics.mask=mask.png", "truth=x.png", "out=o")
    status, printed, _ = command("restore", "inpainting", *words, *FAST)
    assert status == 0
    assert "of neighbouring pixels that are seen" in printed
    assert metrics(tmp_path / "o")["psnr_restored"] > 24
    config = load_config("inpainting", [*words, "prior=tv"])
    assert (config.solver.max_iter, config.prior["lambda"]) == (150, 8), "as the config has them"


def test_a_stack(command, photo, draw, tmp_path, monkeypatch):
    """Pages with noise of their own, in 12 of 16 bits."""
    monkeypatch.chdir(tmp_path)
    stack = np.stack([photo[:64, :64], photo[32:, 32:]]) * 16
    noise = np.array([80, 160])[:, None, None] * draw.normal(size=stack.shape)
    tifffile.imwrite("y.tif", (stack + noise).clip(0, 4095).astype(np.uint16))
    tifffile.imwrite("x.tif", stack.astype(np.uint16))
    words = ("restore", "denoise", "measurement=y.tif", "truth=x.tif", *FAST)
    status, printed, _ = command(*words, "out=o")
    assert status == 0
    assert "taken for 12 bits" in printed
    assert "page 2: noise " in printed
    sigma = metrics(tmp_path / "o")["sigma"]
    assert sigma == pytest.approx([80 / 4095, 160 / 4095], rel=0.25)
    restored = choose.read("o/restored.tif")
    assert (restored.values.shape, restored.dtype) == ((2, 1, 64, 64), np.uint16)
    assert metrics(tmp_path / "o")["psnr_restored"] > 30
    assert command(*words, "out=s", "pages=shared")[0] == 0
    assert len(set(metrics(tmp_path / "s")["sigma"])) == 1


@pytest.mark.parametrize("convention", ["corner", "shifted", "centred"])
@pytest.mark.parametrize("channels", [False, True])
def test_k_space(command, draw, tmp_path, monkeypatch, convention, channels):
    monkeypatch.chdir(tmp_path)
    x = np.asarray(Image.open(shipped("images") / "mr.png")).astype(float)
    side = len(x)
    image = x * np.exp(0.5j * np.sin(np.linspace(0, 3, side)))[:, None]
    columns = draw.random(side) < 0.4
    columns[side // 2 - 6 : side // 2 + 6] = True
    mask = np.tile(columns, (side, 1))
    image = np.fft.ifftshift(image) if convention == "centred" else image
    k = np.fft.fftshift(np.fft.fft2(image))
    k = (k + 100 * (draw.normal(size=k.shape) + 1j * draw.normal(size=k.shape))) * mask
    if convention == "corner":
        k, mask = np.fft.ifftshift(k), np.fft.ifftshift(mask)
    np.save("y.npy", np.stack([k.real, k.imag]) if channels else k)
    np.save("m.npy", mask)
    np.save("x.npy", x)
    words = ("measurement=y.npy", "truth=x.npy", "out=o", "solver.max_iter=12", *FAST)
    mask = ["physics.mask=m.npy"] if channels else []
    status, printed, _ = command("restore", "mri", *words, *mask)
    assert status == 0
    assert ("moved to the centre" in printed) == (convention == "corner")
    assert metrics(tmp_path / "o")["psnr_restored"] > 26
    restored = np.load("o/restored.npy")
    assert restored.shape == ((2, side, side) if channels else (side, side))
    assert restored.dtype == (np.float32 if channels else np.complex64)


def test_k_space_of_several_coils(command, draw, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    x = np.asarray(Image.open(shipped("images") / "mr.png")).astype(float)[16:80, 16:80]
    across = np.linspace(-1, 1, 64)
    maps = np.stack([np.tile(np.exp(-((across - c) ** 2)), (64, 1)) for c in (-0.7, 0.7)])
    maps = maps / np.sqrt((maps**2).sum(0)) * np.exp(0.3j)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * x, (-2, -1))), (-2, -1))
    k[..., ::3] = 0
    with h5py.File("y.h5", "w") as file:
        file["scan/kspace"] = k
    np.save("maps.npy", maps)
    np.save("x.npy", x)
    words = ("restore", "mri", "measurement=y.h5", "truth=x.npy", "physics.noise.sigma=50", "out=o")
    words = (*words, "physics.coil_maps=maps.npy", "key=scan/kspace", "solver.max_iter=8", *FAST)
    assert command(*words)[0] == 0
    assert metrics(tmp_path / "o")["psnr_restored"] > 28


def sinogram(image, degrees, detectors, centre):
    """Sums along columns of an image turned about its own middle, as pixels have them."""
    padded = np.zeros((detectors, detectors))
    first = centre - image.shape[0] // 2
    padded[first : first + len(image), first : first + len(image)] = image
    turned = [rotate(padded, -angle, reshape=False, order=1) for angle in degrees]
    return np.stack([t.sum(0) for t in turned], 1)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_sinogram(command, draw, tmp_path, monkeypatch, transposed):
    monkeypatch.chdir(tmp_path)
    x = 0.02 / 255 * np.asarray(Image.open(shipped("images") / "ct.png")).astype(float)[:64, :64]
    degrees = np.linspace(0, 180, 40, endpoint=False)
    y = sinogram(x, degrees, 91, 45) + draw.normal(0, 0.01, (91, 40))
    np.save("y.npy", y.T if transposed else y)
    np.savetxt("angles.txt", degrees)
    np.save("x.npy", x)
    words = ("restore", "tomography", "measurement=y.npy", "physics.angles=angles.txt", *FAST)
    status, printed, _ = command(*words, "truth=x.npy", "out=o", "solver.max_iter=8")
    assert status == 0
    assert "40 angles from 0 to 175.5 degrees" in printed
    assert metrics(tmp_path / "o")["sigma"][0] == pytest.approx(0.01, rel=0.3)
    assert metrics(tmp_path / "o")["psnr_restored"] > 25
    assert np.load("o/restored.npy").shape == (64, 64)


@pytest.mark.parametrize("name", ["deblur", "deblur untold", "poisson_gaussian"])
def test_counted_photons_are_read_off(command, photo, draw, tmp_path, monkeypatch, name):
    """Gain and all; the blur does not hide them."""
    monkeypatch.chdir(tmp_path)
    k = kernel()
    clean = convolve(photo, k / k.sum())[16:80, 12:84]
    tifffile.imwrite("y.tif", (draw.poisson(clean / 255 * 100) * 500).astype(np.uint16))
    tifffile.imwrite("x.tif", (photo[16:80, 12:84] / 255 * 50000).astype(np.uint16))
    save("k.png", k)
    words = ("measurement=y.tif", "physics.kernel=k.png", "truth=x.tif", "out=o", *FAST)
    words = (*words, "solver.max_iter=8", "data_range=0,65535")
    kind = ["physics.noise.name=poisson"] if name == "deblur" else []
    status, printed, _ = command("restore", name.partition(" ")[0], *words, *kind)
    assert status == 0
    assert "noise of counted photons, variance " in printed
    assert metrics(tmp_path / "o")["gain"] == [pytest.approx(500 / 65535, rel=0.2)]
    blurry = psnr(*(torch.from_numpy(tifffile.imread(f) / 65535.0) for f in ("y.tif", "x.tif")))
    assert metrics(tmp_path / "o")["psnr_restored"] > blurry + 2


@pytest.mark.parametrize("counted", [1, 2])
def test_pages_share_the_noise_that_most_have(command, photo, draw, tmp_path, monkeypatch, counted):
    """Three pages, of which one or two hold photons."""
    monkeypatch.chdir(tmp_path)
    clean = photo / 255
    pages = [draw.poisson(clean * 100) / 100 for _ in range(counted)]
    pages += [clean + draw.normal(0, 0.03, clean.shape) for _ in range(3 - counted)]
    np.save("y.npy", np.stack(pages))
    words = ("measurement=y.npy", "pages=shared", "data_range=0,1", "out=o", *FAST)
    status, _, said = command("restore", "denoise", *words)
    assert status == 0
    found = metrics(tmp_path / "o")
    if counted == 1:
        assert "gain" not in found
        assert found["sigma"] == [pytest.approx(0.03, rel=0.15)] * 3
    else:
        assert found["gain"] == [pytest.approx(0.01, rel=0.15)] * 3
        assert ", gain 0.0" in said


def test_the_levels_of_a_simulation_are_not_those_of_a_measurement(command, photo, draw, tmp_path):
    """The config of denoise ends where the noise of its simulation asks for: 25/255."""
    y = tmp_path / "y.png"
    save(y, photo + draw.normal(0, 3, photo.shape))
    for words in ([f"measurement={y}"], ["image=camera", "physics.noise.sigma=3/255"]):
        config = load_config("denoise", words)
        assert (config.solver.start, config.solver.stop) == (None, None)
        assert config.solver.max_iter == 4
    assert load_config("denoise").solver.stop == 0.0382
    kept = load_config("denoise", ["image=camera", "physics.noise.sigma=0.1", "solver.stop=0.01"])
    assert kept.solver.stop == 0.01
    save(tmp_path / "x.png", photo)
    words = (f"measurement={tmp_path}/y.png", f"truth={tmp_path}/x.png", f"out={tmp_path}/o")
    assert command("restore", "denoise", *words)[0] == 0
    x, y = (np.asarray(Image.open(tmp_path / n)) / 255 for n in ("x.png", "y.png"))
    noisy = psnr(torch.from_numpy(y), torch.from_numpy(x))
    assert metrics(tmp_path / "o")["psnr_restored"] > noisy + 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_blurred_picture_whose_noise_cannot_be_told(command, blurred, photo, tmp_path, suffix):
    """Compression hides it, or there is none: too low a level would ring."""
    k = kernel()
    clean = convolve(photo, k / k.sum())[16:80, 12:84]
    Image.fromarray(clean.round().astype(np.uint8)).save(f"z.{suffix}", quality=85)
    words = ("restore", "deblur", f"measurement=z.{suffix}", "physics.kernel=k.png", "truth=x.png")
    status, printed, said = command(*words, "out=o", *FAST)
    assert status == 0
    assert "differs from the measurements" not in said  # by less: more noise was allowed for
    why = "the file's compression hides it" if suffix == "jpg" else "less is not told from texture"
    assert f"/255, as {why} (physics.noise.sigma says otherwise)" in printed
    least, most = (2.5, 4) if suffix == "jpg" else (1, 2)
    assert least <= 255 * metrics(tmp_path / "o")["sigma"][0] < most
    x, y = (torch.from_numpy(a) for a in (photo[16:80, 12:84] / 255, clean / 255))
    assert metrics(tmp_path / "o")["psnr_restored"] > psnr(y, x) + 3


def test_what_a_blur_is_taken_for_is_said(command, blurred):
    words = ("measurement=y.png", "out=o", "solver.max_iter=1", "physics.noise.sigma=0.01", *FAST)
    printed = command("restore", "deblur", *words)[1]
    assert "no physics.kernel: taken for a Gaussian blur of 1.6 pixels (physics.width)" in printed
    printed = command("restore", "space_varying_deblur", *words)[1]
    assert "a Gaussian blur of 1 pixels (physics.width) at the left, 3 times that at" in printed
    printed = command("restore", "super_resolution", *words)[1]
    assert "2 times smaller on each side (physics.factor)" in printed


def test_noise_of_a_batch_is_read_off_as_its_operator_asks(photo):
    """In Python: between missing pixels, at the upper end under a blur, as it is otherwise."""
    x = torch.from_numpy(photo / 255).float()[None, None]
    draw = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, 96, 96, generator=draw) < 0.6).float()
    physics = deepinv.physics.Inpainting((1, 96, 96), mask=mask)
    y = physics.A(x + 0.02 * torch.randn(x.shape, generator=draw))
    restored = restore_measurement(y, physics, solver={"name": "hqs", "max_iter": 8}, sigma="auto")
    assert float(physics.noise_model.sigma) == pytest.approx(0.02, rel=0.3)
    assert psnr(restored, x) > 22
    k = kernel()
    y = convolve(photo, k / k.sum())[16:80, 12:84].round() / 255
    y = torch.from_numpy(y).float()[None, None]
    physics = build_physics(PhysicsConfig(name="blur", kernel=k, boundary="open"), y.shape[1:])
    restored = restore_measurement(y, physics, sigma="auto")
    assert psnr(restored, x[..., 16:80, 12:84]) > psnr(y, x[..., 16:80, 12:84]) + 3


def test_noise_of_sinograms():
    """Of the outer rows, or of the finest detail where the object fills the width."""
    draw = np.random.default_rng(0)
    smooth = np.sin(np.linspace(0, 3, 120))[:, None] * np.cos(np.linspace(0, 3, 90))
    noise = 0.05 * draw.normal(size=smooth.shape)
    level, where = sinogram_noise(smooth + noise)
    assert level == pytest.approx(0.05, rel=0.1)
    assert where == "the finest detail of the sinogram"
    edges = np.zeros((120, 90))
    edges[10:-10] = draw.normal(size=(100, 90))
    level, where = sinogram_noise(edges + noise)
    assert level == pytest.approx(0.05, rel=0.2)
    assert where == "the outer 2 rows of detectors on both sides"


def test_super_resolution(command, photo, draw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = Image.fromarray(photo.astype(np.float32)).resize((48, 48), Image.Resampling.BICUBIC)
    save("y.png", np.asarray(small) + draw.normal(0, 1, (48, 48)))
    save("x.png", photo)
    words = ("measurement=y.png", "truth=x.png", "out=o", "solver.max_iter=8", *FAST)
    assert command("restore", "super_resolution", *words)[0] == 0
    assert Image.open("o/restored.png").size == (96, 96)
    bicubic = np.asarray(Image.open("y.png").resize((96, 96), Image.Resampling.BICUBIC)) / 255
    x = torch.from_numpy(photo / 255)
    assert metrics(tmp_path / "o")["psnr_restored"] > psnr(torch.from_numpy(bicubic), x) + 0.3


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["deblur", "measurement=none.png"], "measurement=none.png: the file does not exist"),
        (["deblur", "measurement=y.png", "physics.kernel=none.npy"], "physics.kernel=none.npy"),
        (["deblur", "measurement=y.png", "physics.kernel=zero.npy"], "sums to 0"),
        (["motion_deblur", "measurement=y.png"], "needs physics.kernel=FILE, the picture of"),
        (["inpainting", "measurement=y.png"], "needs physics.mask=FILE, which pixels are seen"),
        (["inpainting", "measurement=y.png", "physics.mask=k.npy"], "8 x 8 and the measurement 2"),
        (["compressed_sensing", "measurement=y.png"], "only simulates"),
        (["deblur", "measurement=y.png", "truth=k.npy"], "truth=.*k.npy.* cannot|they must agree"),
        (["mri", "measurement=y.png"], "k-space is complex"),
        (["mri", "measurement=coils.npy"], "give physics.coil_maps=FILE of several coils"),
        (["tomography", "measurement=k.npy"], "is 8 x 8 and physics.angles are 60"),
        (["denoise", "measurement=mask.png"], "it is a mask"),
        (["deblur", "measurement=y.png", "physics.noise.sigma=25"], "did you mean 25/255"),
        (["denoise", "measurement=y.png", "pages=all"], "pages=all is neither each"),
        (["poisson", "measurement=y.png"], "are read off 32x32 pixels or more"),
        (["poisson", "measurement=flat.npy"], "does not grow with brightness; use .*=gaussian"),
        (["poisson", "measurement=y.png", "physics.noise.sigma=1"], "needs physics.noise.gain too"),
        (
            ["deblur", "image=y.png", "physics.noise.sigma=auto"],
            "reads the noise off a measurement",
        ),
        (["deblur", "image=y.png", "physics.boundary=open"], "is for measurement="),
        (["deblur", "measurement=y.png", "physics.boundary=x"], "unknown physics.boundary 'x'"),
        (["y.png"], "a config is YAML, such as deblur.*measurement=y.png physics.kernel=KERNEL"),
        (
            ["denoise", "measurement=y.png", "physics.kernel=k.npy"],
            "=denoise does not look at physics.kernel: it is for blur, gaussian_blur",
        ),
        (["deblur", "lambda=1"], "did you mean 'prior.lambda'"),
        (["deblur", "image=y.png", "prior=gmmd"], "unknown prior"),
    ],
)
def test_refusals(refused, tmp_path, monkeypatch, capsys, words, match):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    save("y.png", generator.integers(0, 256, (20, 24)))
    save("mask.png", 255 * generator.integers(0, 2, (20, 24)))
    np.save("k.npy", np.ones((8, 8)) / 64)
    np.save("zero.npy", np.zeros((3, 3)))
    np.save("flat.npy", 0.5 + 0.01 * generator.normal(size=(40, 40)))
    np.save("coils.npy", np.ones((3, 16, 16), complex))
    before = sorted(p.name for p in tmp_path.iterdir())
    sentence = refused("restore", *words, "out=o")
    assert re.search(match, sentence), sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_bad_prior_is_refused_before_anything_is_printed(command, blurred):
    status, printed, _ = command("restore", "deblur", "image=x.png", "prior.weights=nothing")
    assert (status, printed) == (2, "")


def test_bare_names_of_solver_and_physics(blurred):
    config = load_config("deblur", ["solver=admm", "physics=tomography", "prior=tv"])
    assert (config.solver.name, config.physics.name, config.prior.name) == (
        "admm",
        "tomography",
        "tv",
    )
    assert config.physics.noise.sigma == 0.01
    with open("mine.yaml", "w") as file:
        file.write("image: camera\nsolver: admm\nphysics: inpainting\n")
    config = load_config("mine.yaml")
    assert (config.solver.name, config.physics.name) == ("admm", "inpainting")


def test_list_and_show(command):
    status, printed, _ = command("restore", "--list")
    assert status == 0
    assert "  tomography            A CT slice from 60" in printed
    status, printed, _ = command("restore", "tomography", "--show", "physics.angles=30")
    assert status == 0
    assert "physics.angles=30 " in printed
    assert "physics.kernel" not in printed
    assert "solver.stop=null                     # hqs: last noise level" in printed


# --- the parts ------------------------------------------------------------------------------------


def test_the_open_border_is_a_plain_convolution():
    """Of the whole picture, of which the middle is measured; its adjoint is the transposed."""
    k, x = kernel().astype(float), np.random.default_rng(0).random((30, 34))
    config = PhysicsConfig(name="blur", kernel=k, boundary="open")
    config.noise.sigma = 0
    physics = build_physics(config, (1, 24, 30))
    assert isinstance(physics, OpenBorder)
    measured = physics.A(torch.from_numpy(x).float()[None, None])[0, 0].numpy()
    assert np.allclose(measured, convolve(x, k / k.sum())[3:27, 2:32], atol=1e-5)
    u = torch.randn(1, 1, 30, 34, generator=torch.Generator().manual_seed(1))
    assert float(physics.adjointness_test(u).abs()) < 1e-3


@pytest.mark.parametrize(("gamma", "left"), [(0.5, 1e-3), (1000.0, 5e-3), (10000.0, 0.06)])
def test_the_proximal_map_of_the_open_border_solves_its_equation(photo, gamma, left):
    """What is left of it is small beside the image, also where data hold hard."""
    config = PhysicsConfig(name="gaussian_blur", boundary="open")
    physics = build_physics(config, (1, 20, 24))
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(photo[:30, :34] / 255).float().expand(2, 1, -1, -1)
    y = physics.A(x)
    z = x + 0.1 * torch.randn(x.shape, generator=generator)
    u = physics.prox_l2(z, y, gamma)
    residual = u + gamma * physics.A_adjoint(physics.A(u)) - z - gamma * physics.A_adjoint(y)
    assert float(residual.norm() / u.norm()) < left


@pytest.mark.parametrize("shape", [(5, 5), (4, 4), (4, 5), (1, 6)])
def test_kernels_are_centred_as_scipy_has_them(shape):
    k, x = np.random.default_rng(0).random(shape), np.random.default_rng(1).random((16, 18))
    physics = build_physics(PhysicsConfig(name="blur", kernel=k), (1, 16, 18))
    y = physics.A(torch.from_numpy(x).float()[None, None])[0, 0].numpy()
    assert np.allclose(y, convolve(x, k / k.sum(), mode="wrap"), atol=1e-5)
    given, note = read_kernel(k)
    assert all(side % 2 for side in given.shape[2:])
    assert ("its centre is at pixel" in note) == any(side % 2 == 0 for side in shape)


def test_a_kernel_off_its_middle_is_said():
    k = np.zeros((9, 9))
    k[6, 4] = 1
    assert "its mass lies +2.0, +0.0 pixels (down, right) off its middle" in read_kernel(k)[1]


def test_masks_and_angles(tmp_path):
    mask, note = read_mask(np.array([0, 3, 0, 1]), (2, 4))
    assert mask[0, 0].tolist() == [[0, 1, 0, 1]] * 2
    assert note == "mask: 50.0 % is seen (nonzero)"
    (tmp_path / "a.csv").write_text("0,45,90,135")
    assert read_angles(tmp_path / "a.csv")[0].tolist() == [0, 45, 90, 135]
    assert read_angles("4")[0].tolist() == [0, 45, 90, 135]
    assert "look like radians" in read_angles(np.linspace(0, 3, 10))[1]


@pytest.mark.parametrize("away", [-2, -0.5, 0, 0.5, 1])
def test_the_rotation_axis_is_found(away):
    degrees = np.linspace(0, 180, 20, endpoint=False)
    angle, place = np.deg2rad(degrees), np.arange(40)[:, None]
    centre = 19.5 + away + 5 * np.cos(angle) - 3 * np.sin(angle)
    y = np.exp(-((place - centre) ** 2) / 8)
    assert rotation_axis(y, degrees) == 19.5 + away
    wide = centred(y, 19.5 + away)
    assert rotation_axis(wide, degrees) == (len(wide) - 1) / 2


def test_sinograms_have_an_adjoint():
    physics = SinogramPhysics(torch.linspace(0, 170, 18), 31, 20)
    x = torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert physics.A(x).shape == (1, 1, 31, 18)
    assert float(physics.adjointness_test(x).abs()) < 1e-3


def test_noise_between_missing_pixels():
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, 96, 96, generator=generator) < 0.5).float()
    y = mask * (0.5 + 0.05 * torch.randn(1, 1, 96, 96, generator=generator))
    assert between_missing(y, mask) == pytest.approx(0.05, rel=0.15)


def test_one_call_restores(photo):
    """Better than it was, of the size that it was, with the noise read off it."""
    k = kernel()
    y = convolve(photo, k / k.sum())[16:80, 12:84] / 255
    y = torch.from_numpy(y).float()[None, None]
    y = y + 0.01 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(photo[16:80, 12:84] / 255).float()[None, None]
    physics = build_physics(PhysicsConfig(name="blur", kernel=k, boundary="open"), y.shape[1:])
    restored = restore_measurement(y, physics, sigma="auto")
    assert restored.shape == y.shape
    assert psnr(restored, x) > psnr(y, x) + 3
    admm = {"name": "admm", "max_iter": 20}
    given = restore_measurement(y, physics, {"name": "tv", "lambda": 3}, admm, torch.tensor(0.01))
    assert psnr(given, x) > psnr(y, x) + 2


def test_the_norm_is_not_computed_where_steps_follow_from_the_operator(photo, monkeypatch):
    physics = build_physics(PhysicsConfig(noise=NoiseConfig(sigma=0.02)), (1, 24, 24))
    monkeypatch.setattr(type(physics), "compute_sqnorm", None)
    x = torch.from_numpy(photo[:24, :24] / 255).float()[None, None]
    restored = restore_measurement(
        physics(x), physics, {"name": "gmdm", "weights": "gray-small"}, "admm"
    )
    assert (restored - x).square().mean() < 0.02**2
