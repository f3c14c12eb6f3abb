"""Noise as it comes: real pictures, and correlated noise on clean ones, beside rivals.

    python benchmarks/real_noise.py real=FOLDER test=BSD68 [every=8] [crop=128] [sigmas=25]
                                    [weights=gray] [fm2s=FOLDER] [out=FOLDER]
                                    [kept=runs/real_noise]

`real` holds pairs NAME-noisy.png and NAME-truth.png, in groups by the two words that NAME begins
with (camera-cc15); microscopes of the kind WideField are apart from the others, whose noise is
Poisson-like. Correlated noise is white noise filtered by the kernels of lib/noisy_cases.py and
scaled to sigma/255, on the middle `crop`² pixels of every `every`-th image of `test`.

What `gmdm blind` gives is read off the picture alone, and so is the covariance of `gmdm under the
covariance read`, its splitting under correlated noise. All others are told something: `gmdm
white`, the best of FINE times the true level, BM3D of LEVELS, non-local means, total variation and
wavelets (scikit-image's) of STRENGTHS; `gmdm known` and `BM3D, true spectrum` the autocovariance of
synthetic noise. `stabilised + BM3D` is BM3D at the best of LEVELS after the transform of gmdm's own
noise curve. FM2S, a network that is trained on each micrograph, is told the type of microscope; it
takes part where `fm2s` is a clone of its authors' repository (lib/fm2s.py). Seconds are of one
thread, of one run at the best strength.

Writes real_noise.csv and real_noise.md into benchmarks/results (`out`); what stands there from
"## What is left" on stays. Rivals' pictures and the contact sheet, sheet.png, go to `kept` and not
into the repository, as others hold rights in them; a second run takes the rivals from there.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lib import table
from lib.data import digest, middle, read_pictures
from lib.figures import panel, psnr
from lib.fm2s import CONFIGS, fm2s
from lib.noisy_cases import Case, real_cases, synthetic_cases
from lib.timing import timed
from lib.words import Needed, Options, command, need
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import gmdm_prior as gm
from gmdm_prior.images.stabilise import stabiliser

LEVELS = (1.0, 1.6, 2.5)  # times the true level
FINE = (0.7, 0.9, 1.1, 1.4, 1.8, 2.3, 3.0)
STRENGTHS = (0.5, 0.8, 1.25, 2.0, 3.0)
HEADS = ("group", "picture", "method", "psnr", "ssim", "seconds", "strength")
BLIND, WHITE, KNOWN = "gmdm blind", "gmdm white, best level", "gmdm known"
READ = "gmdm under the covariance read"
SPECTRAL, STABLE = "BM3D, true spectrum", "stabilised + BM3D"
SHOWN = ("noisy", BLIND, READ, WHITE, KNOWN, "BM3D", SPECTRAL, STABLE, "non-local means", "truth")
SHEET = 12  # pictures on the contact sheet, at most
SIDE = 96  # of a crop on it, in pixels
LEFT = "## What is left"

Strong = Callable[[float], Tensor]  # a strength -> a restored image


@dataclass(frozen=True)
class Result:
    """One picture by one method; `strength` is the factor that was best, 0 where there is none."""

    image: Tensor
    psnr: float
    ssim: float
    seconds: float
    strength: float


# --- methods ---


def ours(case: Case, model: gm.PatchMixture, blind: gm.BlindDenoiser) -> dict[str, Result]:
    """What this package gives: blind, told the best white level, told the noise."""
    opponent = case.noisy.shape[1] == 3
    plain = gm.HalfQuadraticSplitting(gm.OpponentModel(model) if opponent else model)
    read = gm.estimate_noise(case.noisy, blind.reader)
    found = {
        BLIND: one(case, lambda: blind(case.noisy)),
        WHITE: best(case, lambda s: plain(case.noisy, s * case.level), FINE),
    }
    if read.curve is None and not bool(read.white.all()):
        found[READ] = one(case, lambda: plain(case.noisy, read))
    if case.noise is not None:
        found[KNOWN] = one(case, lambda: plain(case.noisy, case.noise))
    return found


def rivals(
    case: Case, blind: gm.BlindDenoiser, network: Callable[..., np.ndarray] | None = None
) -> dict[str, Callable[[], Result]]:
    """What is compared, by name, to be run when it is not kept; `network` is FM2S."""
    pixels = case.noisy[0].movedim(0, -1).squeeze(-1).double().numpy()
    ways = {
        "BM3D": lambda: best(case, lambda s: bm3d(pixels, s * case.level), LEVELS),
        "non-local means": lambda: best(
            case, lambda s: non_local_means(pixels, s * case.level), STRENGTHS
        ),
        "total variation": lambda: best(
            case, lambda s: total_variation(pixels, s * case.level), STRENGTHS
        ),
        "wavelets": lambda: best(case, lambda s: wavelets(pixels, s * case.level), STRENGTHS),
    }
    if case.noise is not None:
        ways[SPECTRAL] = lambda: one(case, lambda: bm3d_at(pixels, case.noise))
    if "Poisson" in case.group:
        ways[STABLE] = lambda: stabilised(case, blind)
    microscope = case.name.partition("_")[0]
    if network is not None and microscope in CONFIGS:
        ways["FM2S"] = lambda: one(case, lambda: image_of(network(pixels, microscope)))
    return ways


def image_of(pixels: np.ndarray) -> Tensor:
    """(H, W) or (H, W, 3) -> (1, C, H, W)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    return values[None, None] if values.ndim == 2 else values.movedim(-1, 0)[None]


def bm3d(pixels: np.ndarray, sigma: float) -> Tensor:
    """BM3D at a white level."""
    import bm3d as library

    call = library.bm3d_rgb if pixels.ndim == 3 else library.bm3d
    return image_of(call(pixels, sigma))


def bm3d_at(pixels: np.ndarray, noise: gm.Noise) -> Tensor:
    """BM3D told the spectrum of the noise."""
    import bm3d as library

    if not hasattr(np, "trapz"):  # of numpy 1, which the library asks for
        np.trapz = np.trapezoid
    spectrum = noise.spectrum(*pixels.shape)[0, 0].numpy() * pixels.size
    return image_of(library.bm3d(pixels, spectrum))


def stabilised(case: Case, blind: gm.BlindDenoiser) -> Result:
    """BM3D where the noise has the same level at every brightness."""
    noise = gm.estimate_noise(case.noisy, blind.reader, kind="poisson")
    if noise.curve is None:
        return best(case, lambda s: bm3d(case.noisy[0, 0].double().numpy(), s * case.level), LEVELS)
    transform = stabiliser(noise.curve[0], float(case.noisy.min()), float(case.noisy.max()))
    stable = transform(case.noisy)
    low, wide = float(stable.min()), float(stable.max() - stable.min())

    def restore(strength: float) -> Tensor:
        clean = bm3d(((stable - low) / wide)[0, 0].numpy(), strength / wide)
        return transform.back(clean.double() * wide + low).float()

    return best(case, restore, LEVELS)


def non_local_means(pixels: np.ndarray, sigma: float) -> Tensor:
    """Scikit-image's, with patches of 5 pixels within 6."""
    from skimage.restoration import denoise_nl_means

    axis = -1 if pixels.ndim == 3 else None
    options = {"patch_size": 5, "patch_distance": 6, "channel_axis": axis}
    return image_of(denoise_nl_means(pixels, h=0.8 * sigma, sigma=sigma, **options))


def total_variation(pixels: np.ndarray, weight: float) -> Tensor:
    """Scikit-image's, after Chambolle."""
    from skimage.restoration import denoise_tv_chambolle

    axis = -1 if pixels.ndim == 3 else None
    return image_of(denoise_tv_chambolle(pixels, weight=weight, channel_axis=axis))


def wavelets(pixels: np.ndarray, sigma: float) -> Tensor:
    """Scikit-image's soft thresholds, of every band for itself."""
    from skimage.restoration import denoise_wavelet

    options = {"convert2ycbcr": True, "channel_axis": -1} if pixels.ndim == 3 else {}
    return image_of(denoise_wavelet(pixels, sigma=sigma, rescale_sigma=True, **options))


# --- measures ---


def one(case: Case, restore: Callable[[], Tensor], strength: float = 0.0) -> Result:
    """A restored image, measured."""
    from skimage.metrics import structural_similarity

    image, seconds = timed(restore)
    x, y = (t[0].clamp(0, 1).numpy() for t in (image, case.clean))
    ssim = structural_similarity(x, y, data_range=1.0, channel_axis=0)
    return Result(image, psnr(image, case.clean), float(ssim), seconds, strength)


def best(case: Case, restore: Strong, strengths: tuple[float, ...]) -> Result:
    """The best of several strengths, by PSNR."""
    found = [one(case, lambda s=s: restore(s), s) for s in strengths]
    return max(found, key=lambda result: result.psnr)


class Kept:
    """Rivals' pictures and measures in a folder; what is there is not computed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = table.Cache(folder / "rivals.csv", ("key", "psnr", "ssim", "sec", "s"), 4)

    def get(self, case: Case, method: str, run: Callable[[], Result]) -> Result:
        """The result of a method, which runs if it has to."""
        key = f"{digest(case.noisy)}-{digest(case.clean)}-{method}".replace(" ", "_")
        path = self.folder / f"{key.replace(',', '')}.npy"
        if (key,) in self.cache and path.is_file():
            image = torch.from_numpy(np.load(path).astype(np.float32))
            return Result(image, *self.cache[(key,)])
        result = run()
        np.save(path, result.image.numpy().astype(np.float16))
        self.cache.add((key,), (result.psnr, result.ssim, result.seconds, result.strength))
        return result


# --- results ---


def report(rows: list[tuple[str, str, str, Result]]) -> str:
    """A table with a row for each group and method."""
    lines = []
    for group in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == group]
        for method in dict.fromkeys(row[2] for row in own):
            results = [row[3] for row in own if row[2] == method]
            means = [np.mean([getattr(r, k) for r in results]) for k in ("psnr", "ssim", "seconds")]
            cells = (f"{means[0]:.2f}", f"{means[1]:.3f}", f"{means[2]:.1f}")
            lines.append((group, len(results), method, *cells))
    heads = ("noise", "pictures", "method", "PSNR, dB", "SSIM", "seconds")
    return table.markdown(heads, lines)


def save(out: Path, rows: list[tuple[str, str, str, Result]], note: str) -> None:
    """Both tables, as far as they are known."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = (
        (*row[:3], f"{r.psnr:.3f}", f"{r.ssim:.4f}", f"{r.seconds:.2f}", f"{r.strength:g}")
        for row in rows
        for r in row[3:]
    )
    table.write_csv(out / "real_noise.csv", HEADS, numbers)
    path = out / "real_noise.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    seen = before[before.index(LEFT) :] if LEFT in before else ""
    table.write_text(path, f"# Real noise\n\n{note}\n\n{report(rows)}\n\n{seen}")


def sheet(path: Path, shown: list[tuple[Case, dict[str, Result]]]) -> None:
    """Crops of some pictures by some methods, with PSNR of the whole pictures."""
    panels = []
    for case, results in shown:
        images = {"noisy": case.noisy, "truth": case.clean}
        images |= {name: result.image for name, result in results.items()}
        panels.append({name: images[name] for name in SHOWN if name in images})
    width = max(map(len, panels))
    figure = Figure(figsize=(2 * width, 2.25 * len(shown)), dpi=110, layout="constrained")
    axes = figure.subplots(len(shown), width, squeeze=False)
    for row, (case, _), images in zip(axes, shown, panels, strict=True):
        for place in row:
            place.set_axis_off()
        for place, (name, image) in zip(row, images.items(), strict=False):
            value = "" if name == "truth" else f" {psnr(image, case.clean):.2f}"
            panel(place, middle(image, SIDE), f"{name}{value}", 7)
        row[0].set_title(f"{case.name[:22]}\n{row[0].get_title()}", fontsize=7)
    figure.savefig(path)


@torch.no_grad()
def run(options: Options) -> None:
    """All cases by all methods."""
    for package in ("bm3d", "skimage"):
        need(package)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    pictures = read_pictures(options.test)[:: options.every]
    cases = real_cases(Path(options.real))
    cases += synthetic_cases(pictures, options.sigmas, options.crop)
    model = gm.load(options.weights)
    blind, kept = gm.BlindDenoiser(model), Kept(options.kept)
    network = None if options.fm2s is None else fm2s(options.fm2s)
    rows: list[tuple[str, str, str, Result]] = []
    shown: list[tuple[Case, dict[str, Result]]] = []
    note = (
        f"`{options.weights}`; `python benchmarks/real_noise.py`, whose head says what each method "
        f"is told. Synthetic noise on {options.crop}² pixels; seconds of one thread."
    )
    for case in tqdm(cases, disable=None):
        results = {"noisy": one(case, lambda c=case: c.noisy)} | ours(case, model, blind)
        with contextlib.redirect_stdout(sys.stderr):
            for method, way in rivals(case, blind, network).items():
                results[method] = kept.get(case, method, way)
        rows += [(case.group, case.name, method, result) for method, result in results.items()]
        groups = [c.group for c, _ in shown]
        if len(shown) < SHEET and groups.count(case.group) < (2 if case.noise is None else 1):
            shown.append((case, results))
        save(options.out, rows, note)
    sheet(options.kept / "sheet.png", shown)
    print((options.out / "real_noise.md").read_text(encoding="utf-8"), end="")


main = command(
    run,
    real=Needed("a folder of NAME-noisy.png and NAME-truth.png"),
    test=Needed("a folder of the 68 gray test images"),
    every=8,
    crop=128,
    sigmas=(25.0,),
    weights="gray",
    fm2s=Path,
    out=table.RESULTS,
    kept=Path("runs/real_noise"),
)

if __name__ == "__main__":
    sys.exit(main())
