"""The table of denoisers: `python benchmarks/denoising_table.py BSD68|FOLDER|skimage [options]`.

    python benchmarks/denoising_table.py BSD68          # everything; hours, most of them rivals'
    python benchmarks/denoising_table.py BSD68 --images 2 --sigmas 25 --methods gray-small BM3D
    python benchmarks/denoising_table.py BSD68 --weights mine.safetensors --methods hqs --stride 2
    python benchmarks/denoising_table.py skimage        # the images in scikit-image's wheel

Every bundled model (one step, HQS at stride 2, default HQS) beside the rivals of lib/rivals.py and,
for BSD68, published figures; with `--weights`, these models alone (bundled names, safetensors files
or PoGMDM checkpoints), with `--stride` at that stride; with `--networks FOLDER` also FFDNet and
DnCNN, which are larger and were trained for these levels (lib/networks.py). Protocol: that of
lib/figures.py, noise seeded with the image's index in the whole set; EPLL, total variation and
wavelets see about nine images only, and all methods are shown on those as well. Each measured image
is a line in OUT/images.csv, so that an interrupted run goes on where it stopped, and changed
weights are measured again. Writes OUT/denoising.csv, .md and .png; OUT is runs/table/NAME of the
data.
"""

import functools
import hashlib
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from lib import networks, rivals
from lib.data import Picture, load, read_pictures, spaced
from lib.denoising_report import Row, report
from lib.figures import psnr
from lib.table import Cache
from lib.timing import medians
from lib.words import Needed, Options, command
from skimage.metrics import structural_similarity
from tqdm import tqdm

import gmdm_prior as gm

FEW = 9  # images for slow rivals
HEADS = ["method", "version", "sigma", "index", "image", "pixels", "psnr", "ssim"]
TIME_HEADS = ["method", "version", "seconds", "turn"]
TIME_SIGMA, TURNS, LONG = 25 / 255, 3, 20.0  # what takes longer, in seconds, is timed once


@dataclass(frozen=True)
class Method:
    """A denoiser of the table; `version` changes with whatever changes its results.

    `levels` are those that it was made for; None is all.
    """

    name: str
    numbers: int | None
    version: str
    make: Callable[[], rivals.Denoise]
    slow: bool = False
    levels: tuple[float, ...] | None = None

    def fits(self, level: float) -> bool:
        """Whether it can denoise at this level."""
        return self.levels is None or level in self.levels

    @functools.cached_property
    def denoise(self) -> rivals.Denoise:
        """Made when first needed."""
        return self.make()


def version_of(*parts: bytes) -> str:
    """Twelve digits."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def settings(schedule: object | None) -> bytes:
    """All numbers of a schedule, tensors with every digit."""
    values = [] if schedule is None else vars(schedule).values()
    return repr([v.tolist() if isinstance(v, torch.Tensor) else v for v in values]).encode()


def our_methods(names: Sequence[str] = (), stride: int | None = None) -> list[Method]:
    """Models of gray images, by default the bundled ones, each in all ways or at one stride."""
    methods = []
    for name in names or gm.bundled():
        model = load(name)
        if model.channels != 1:
            if names:
                raise ValueError(f"weights={name} is a model of colour; this table is of gray ones")
            continue
        for way, denoiser in ways(model, stride).items():
            version = version_of(stored(name), settings(getattr(denoiser, "schedule", None)))
            make = functools.partial(lambda d: d, denoiser)
            label = f"{name if name in gm.bundled() else Path(name).stem}, {way}"
            methods.append(Method(label, model.num_parameters, version, make))
    return methods


def ways(model: gm.DensityModel, stride: int | None) -> dict[str, torch.nn.Module]:
    """The denoisers of a model by name."""
    if isinstance(model, gm.WaveletModel):
        return {"posterior mean": gm.WaveletDenoiser(model)}
    if stride is None:
        return {
            "one step": gm.PatchAveraging(model),
            "HQS at stride 2": gm.HalfQuadraticSplitting(model, stride=2),
            "HQS": gm.HalfQuadraticSplitting(model),
        }
    return {
        f"one step at stride {stride}": gm.PatchAveraging(model, stride),
        f"HQS at stride {stride}": gm.HalfQuadraticSplitting(model, stride),
    }


def stored(name: str) -> bytes:
    """The file of a bundled model or of weights."""
    bundled = resources.files("gmdm_prior") / "weights" / f"{name}.safetensors"
    return bundled.read_bytes() if name in gm.bundled() else Path(name).read_bytes()


def rival_methods(mixture: Path) -> list[Method]:
    """BM3D, EPLL, total variation and wavelets."""
    package = {name: importlib.metadata.version(name) for name in ("bm3d", "deepinv")}
    fitted = version_of(mixture.read_bytes()) if mixture.is_file() else "missing"
    epll = functools.partial(rivals.epll_denoiser, mixture)
    numbers = rivals.COMPONENTS * rivals.SIZE**4
    methods = [
        Method("BM3D", None, f"bm3d {package['bm3d']}", lambda: rivals.bm3d_denoiser(1)),
        Method("EPLL", numbers, f"deepinv {package['deepinv']} {fitted}", epll, slow=True),
    ]
    for name, weights in rivals.WEIGHTS.items():
        version = f"deepinv {package['deepinv']} {' '.join(map(str, weights))}"
        tuned = functools.partial(rivals.tuned_denoiser, name)
        methods.append(Method(name, 1, version, tuned, slow=True))
    return methods


def network_methods(folder: Path) -> list[Method]:
    """FFDNet and DnCNN with the weights that lie in a folder (lib/networks.py)."""
    methods, specific = [], networks.of_levels(folder)
    files = {"FFDNet": [folder / networks.FFDNET], "DnCNN-S": list(specific.values())}
    makers = {"FFDNet": networks.ffdnet, "DnCNN-S": networks.dncnn}
    for name, paths in files.items():
        if not paths or not all(path.is_file() for path in paths):
            raise FileNotFoundError(
                f"networks={folder} holds no weights of {name}: {networks.FFDNET} and sigma=15.mat "
                "and so on are in the repositories cszn/FFDNet and cszn/DnCNN of their authors"
            )
        version = version_of(*(path.read_bytes() for path in paths))
        denoise, numbers = makers[name](folder)
        levels = tuple(map(float, specific)) if name == "DnCNN-S" else None
        methods.append(Method(name, numbers, version, lambda d=denoise: d, levels=levels))
    return methods


def key(method: Method, level: float, picture: Picture) -> tuple[str, ...]:
    """The key of a line of images.csv: all that its values depend on."""
    place = f"{level:g}", str(picture.index), picture.name, picture.digest
    return method.name, method.version, *place


def measure(method: Method, level: float, picture: Picture) -> tuple[float, float]:
    """PSNR in dB and SSIM of the result clipped to [0, 1]."""
    sigma = level / 255
    restored = method.denoise(picture.noisy(sigma), sigma).clamp(0, 1)
    pair = (image[0, 0].numpy() for image in (restored, picture.clean))
    return psnr(restored, picture.clean), float(structural_similarity(*pair, data_range=1.0))


def seconds(methods: Sequence[Method], picture: Picture) -> list[float]:
    """CPU seconds of each for one image, all in turn, median; each knows the level before."""
    y = picture.noisy(TIME_SIGMA)
    for method in methods:
        method.denoise(y[..., :64, :64], TIME_SIGMA)
    runs = [lambda turn, m=method: m.denoise(y, TIME_SIGMA) for method in methods]
    return medians(*runs, turns=TURNS, warm=0, clock=time.process_time, long=LONG)


def rows_of(
    methods: Sequence[Method],
    levels: Sequence[float],
    pictures: Sequence[Picture],
    images: Cache,
    times: Cache,
) -> list[Row]:
    """Means over these images, of the methods and levels that were measured on all of them."""
    rows = []
    for method in methods:
        for level in levels:
            keys = [key(method, level, picture) for picture in pictures]
            if all(k in images for k in keys):
                psnrs, ssims = zip(*(images[k] for k in keys), strict=True)
                means = statistics.fmean(psnrs), statistics.fmean(ssims)
                taken, _ = times[method.name, method.version]
                seen = level, len(keys), *means, taken
                rows.append(Row(method.name, method.numbers, *seen, version=method.version))
    return rows


def run(
    methods: Sequence[Method], levels: Sequence[float], pictures: Sequence[Picture], out: Path
) -> list[list[Row]]:
    """Measure what is not in the cache, a few images first; rows for all, then those for a few."""
    few = spaced(pictures, FEW)
    first = {picture.index for picture in few}
    rest = [picture for picture in pictures if picture.index not in first]
    images = Cache(out / "images.csv", HEADS, values=2)
    wanted = [(m, s, p) for m in methods for s in levels for p in few]
    wanted += [(m, s, p) for m in methods if not m.slow for s in levels for p in rest]
    missing = [(m, s, p) for m, s, p in wanted if m.fits(s) and key(m, s, p) not in images]
    for method, level, picture in (bar := tqdm(missing)):
        bar.set_description(f"{method.name}, sigma {level:g}")
        images.add(key(method, level, picture), measure(method, level, picture))
    times = Cache(out / "times.csv", TIME_HEADS, values=2)
    keys = [(m.name, m.version) for m in methods]
    turns = {times[k][1] if k in times else None for k in keys}
    if None in turns or len(turns) > 1:  # comparable only if taken beside one another
        turn = 1 + max((turn for _, turn in times.lines.values()), default=0)
        for k, taken in zip(keys, seconds(methods, pictures[0]), strict=True):
            times.add(k, [taken, turn])
    parts = [pictures] if len(few) == len(pictures) else [pictures, few]
    return [rows_of(methods, levels, part, images, times) for part in parts]


def chosen(options: Options) -> list[Method]:
    """The methods whose name holds one of the words, in letters of either case."""
    known = our_methods(options.weights, options.stride)
    known += [] if options.weights else rival_methods(options.mixture)
    known += [] if options.networks is None else network_methods(options.networks)
    for word in options.methods:
        if not any(word.lower() in method.name.lower() for method in known):
            names = "; ".join(method.name for method in known)
            raise ValueError(f"methods: {word} is in no name of {names}")
    found = [m for m in known if any(w.lower() in m.name.lower() for w in options.methods)]
    if any(method.name == "EPLL" for method in found):
        rivals.read_mixture(options.mixture)
    return found


@torch.no_grad()
def make(options: Options) -> None:
    """Measure, write, draw."""
    torch.set_num_threads(1)
    pictures, methods = read_pictures(options.data), chosen(options)
    if options.images is not None:
        pictures = spaced(pictures, options.images)
    name = Path(options.data).name
    out = options.out or Path("runs/table") / name
    print(report(run(methods, options.sigmas, pictures, out), name, pictures, out), end="")


main = command(
    make,
    place="data",
    data=Needed("the folder of clean PNG images, or skimage"),
    sigmas=(15.0, 25.0, 50.0, 100.0),
    images=int,
    methods=("",),
    weights=(),
    stride=int,
    mixture=rivals.MIXTURE,
    networks=Path,
    out=Path,
)

if __name__ == "__main__":
    sys.exit(main())
