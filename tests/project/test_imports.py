"""Who imports whom, in all three packages, and what importing costs.

An import from a folder counts as one from the file that defines the name.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "gmdm_prior": ROOT / "gmdm_prior",
    "deepinv_gmdm": ROOT / "plugins" / "deepinv_gmdm",
    "benchmarks": ROOT / "benchmarks",
}
# From the bottom up: a file imports from its own room and from the floors below.
LAYERS = (
    (
        "sigma",
        "sigma_text",
        "at_first_use",
        "symmetry",
        "constraints",
        "messages",
        "covariance",
        "autocovariance",
        "gaussian_noise",
        "ambient",
    ),
    ("densities",),
    ("fast", "files"),
    ("images",),
    ("noise", "pictures"),
    ("", "training"),  # "" is gmdm_prior/__init__.py, the public names
    ("train", "__main__"),
    ("deepinv_gmdm",),
    ("benchmarks",),
)
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
GROUND = FLOOR["sigma"]
CORE_SITES = {"torch", "numpy", "safetensors"}  # what the core needs besides the standard library
LATE_SITES = {  # imported where they are needed
    "densities.wavelet.transform": {"pywt"},
    "fast.kernels.llvm": {"llvmlite"},
    "files": {"PIL", "tifffile", "pydicom", "astropy", "nibabel", "mrcfile", "h5py"},
    "pictures": {"matplotlib"},
    "train": {"tqdm"},
    "training": {"omegaconf", "yaml", "PIL", "tqdm"},
}


@cache
def files():
    """Every module by its dotted name; a folder's own is `folder.__init__`."""
    found = {}
    for top, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((top, *parts))] = path
    return found


@cache
def statements(module):
    """(module, name or None) of every import of a file."""
    package = module.split(".")[:-1]
    found = []
    for node in ast.walk(ast.parse(files()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found += [(source, alias.name) for alias in node.names]
    return found


def beside(module, name):
    """How a file names another one: scripts of benchmarks know the folder that they lie in."""
    if module.startswith("benchmarks.") and name.split(".")[0] not in SOURCES:
        for full in (f"benchmarks.{name}", f"benchmarks.{name}.__init__"):
            if full in files():
                return f"benchmarks.{name}"
    return name


def defining(source, name):
    """The file that defines `name` of the module `source`; None where it is not ours."""
    if name is not None and f"{source}.{name}" in files():
        return f"{source}.{name}"
    if name is not None and f"{source}.{name}.__init__" in files():
        return f"{source}.{name}.__init__"
    if source in files():
        return source
    folder = f"{source}.__init__"
    if folder not in files():
        return None
    for origin, exported in statements(folder):
        if exported == name and origin != source:
            return defining(origin, exported)
    return folder


@cache
def arrows(module):
    """Our files that a file imports."""
    found = {defining(beside(module, source), name) for source, name in statements(module)}
    return found - {None, module}


def room(module):
    """The room of a file: its folder in gmdm_prior, or one of the other packages."""
    top, *rest = module.split(".")
    if top != "gmdm_prior":
        return top
    return "" if rest == ["__init__"] else rest[0]


def may_import(importer, imported):
    below = FLOOR[room(imported)] < FLOOR[room(importer)]
    return below or room(imported) == room(importer) or FLOOR[room(importer)] == GROUND


@pytest.mark.parametrize("module", files())
def test_no_arrow_runs_up(module):
    assert room(module) in FLOOR, f"say in LAYERS on which floor {room(module)} lies"
    wrong = [other for other in arrows(module) if not may_import(module, other)]
    assert not wrong, f"{module} must not import {wrong}"


def test_the_rule_can_fail():
    assert not may_import("gmdm_prior.densities.base", "gmdm_prior.fast.choose")
    assert not may_import("gmdm_prior.files.pogmdm", "gmdm_prior.fast.choose")
    assert may_import("gmdm_prior.images.hqs", "gmdm_prior.fast.choose")


def test_a_name_of_a_folder_is_that_of_its_file():
    assert defining("gmdm_prior", "PatchMixture") == "gmdm_prior.densities.mixture.model"
    assert defining("gmdm_prior.training", "fit") == "gmdm_prior.training.fit"
    assert defining("gmdm_prior", "symmetry") == "gmdm_prior.symmetry"
    assert defining("numpy", "array") is None


def circle():
    """Files that import one another in a circle, or None; depth first."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        path.append(module)
        for other in sorted(arrows(module)):
            found = visit(other)
            if found:
                return found
        done.add(path.pop())
        return None

    return next(filter(None, map(visit, files())), None)


def test_no_circle():
    assert circle() is None


@pytest.mark.parametrize("module", [m for m in files() if m.startswith("gmdm_prior.")])
def test_the_core_needs_little(module):
    tops = {source.split(".")[0] for source, _ in statements(module)}
    others = tops - set(sys.stdlib_module_names) - {"gmdm_prior", ""}
    inside = module.removeprefix("gmdm_prior.")
    allowed = CORE_SITES.union(
        *(sites for place, sites in LATE_SITES.items() if f"{inside}.".startswith(f"{place}."))
    )
    assert others <= allowed, f"{module} imports {others - allowed}"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def loaded_by(statement, names):
    return run(f"import sys\n{statement}\nprint([m for m in {names!r} if m in sys.modules])")


def test_import_is_light():
    """Neither deepinv nor a plotting, imaging or compiling library, and little beside torch."""
    heavy = ("deepinv", "matplotlib", "PIL", "pywt", "omegaconf", "llvmlite", "torch._dynamo")
    own = ("gmdm_prior.train", "gmdm_prior.pictures", "gmdm_prior.training")
    assert loaded_by("from gmdm_prior import *", heavy + own) == "[]"
    assert loaded_by("import gmdm_prior", ("torch", "numpy")) == "[]"


def test_every_public_name_has_its_home():
    import gmdm_prior as gm

    homes = [name for names in gm._HOMES.values() for name in names]
    assert sorted(homes) == sorted(gm.__all__)
    assert set(gm.__all__) <= set(dir(gm))
    assert all(getattr(gm, name) is not None for name in gm.__all__)
    assert gm.fast.__name__ == "gmdm_prior.fast"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gm.nothing


def test_rooms_are_attributes_without_an_import_of_their_own():
    assert run("import gmdm_prior as gm; print(gm.fast.__name__)") == "gmdm_prior.fast"
    assert run("import gmdm_prior as gm; print(gm.symmetry.__name__)") == "gmdm_prior.symmetry"


def test_training_and_pictures_import_what_draws_and_parses_late():
    statement = "import gmdm_prior.training, gmdm_prior.pictures.report"
    heavy = ("deepinv", "matplotlib", "PIL", "omegaconf", "gmdm_prior.train")
    assert loaded_by(statement, heavy) == "[]"


def test_import_adds_little_time_to_torch(tmp_path):
    """Of the processor, whatever else runs; the first time compiles, as after an installation."""
    code = (
        f"import sys, torch, time; sys.pycache_prefix = {str(tmp_path)!r};"
        "sys.dont_write_bytecode = False; t = time.process_time(); from gmdm_prior import *;"
        "print(time.process_time() - t)"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.1


def test_a_model_is_trainable_before_anything_else_is_imported():
    """The trainable forms register themselves where they are first asked for."""
    said = run("import gmdm_prior as gm\nprint(type(gm.load('gray-small').trainable()).__name__)")
    assert said == "TrainableMixture"
