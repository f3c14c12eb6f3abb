"""Who imports whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gmdm_prior

CORE = Path(gmdm_prior.__file__).parent
LEAVES = {"_noise_level", "compilation", "constraints", "symmetry"}
ALLOWED = {
    **{leaf: set() for leaf in LEAVES},
    "threads": set(),
    "patches": set(),
    "half_size": {"patches"},
    "bits": {"_noise_level"},
    "density": {"_noise_level", "bits"},
    "experts": {"_noise_level", "fused_tables"},
    "fused_tables": {"_noise_level", "vector_code"},
    "mixture_level": {"density"},
    "mixture": {
        "_noise_level",
        "symmetry",
        "density",
        "mixture_level",
        "table_cache",
    },
    "mixture_gate": {"density", "mixture_level"},
    "isotypic": set(),
    "vector_code": set(),
    "fused_kernel": {"isotypic", "vector_code"},
    "fused_mixture": {"_noise_level", "fused_kernel", "isotypic", "mixture_level"},
    "schedule": set(),
    "table_cache": set(),
    "expert_surfaces": {"experts"},
    "product": {
        "_noise_level",
        "density",
        "experts",
        "expert_surfaces",
        "table_cache",
    },
    "image_levels": {"_noise_level", "fused_mixture", "mixture", "mixture_gate", "product"},
    "denoisers": {
        "_noise_level",
        "compilation",
        "density",
        "half_size",
        "image_levels",
        "mixture",
        "opponent",
        "product",
        "patches",
        "schedule",
        "threads",
    },
    "opponent": {"_noise_level", "bits", "density", "mixture", "product"},
    "image_frame": {"_noise_level", "denoisers", "density"},
    "likelihood": {"compilation", "denoisers", "density", "image_levels", "opponent", "patches"},
    "patch_evidence": {"mixture", "product"},
    "informative_patches": {"density"},
    "noise_level_estimation": {
        "_noise_level",
        "denoisers",
        "density",
        "informative_patches",
        "mixture",
        "opponent",
        "patch_evidence",
    },
    "noise_map_estimation": {
        "_noise_level",
        "density",
        "informative_patches",
        "noise_level_estimation",
        "patch_evidence",
    },
    "spectra": set(),
    "convolutional": {"constraints", "density", "experts", "spectra", "whole_images"},
    "convolutional_plot": {"convolutional", "spectra"},
    "langevin": set(),
    "whole_images": {"_noise_level", "density"},
    "wavelet_transform": set(),
    "wavelet_variance": {"wavelet_transform"},
    "subband_experts": {"_noise_level", "density", "experts", "product", "wavelet_transform"},
    "wavelet": {
        "bits",
        "density",
        "mixture",
        "subband_experts",
        "wavelet_transform",
        "wavelet_variance",
        "whole_images",
    },
    "wavelet_images": {"compilation", "denoisers", "wavelet"},
    "trainable": {"constraints", "density", "experts", "mixture", "product", "table_cache"},
    "storage": {
        "constraints",
        "convolutional",
        "density",
        "mixture",
        "opponent",
        "product",
        "subband_experts",
        "wavelet",
    },
    "pogmdm": {"constraints", "product", "storage", "subband_experts", "wavelet"},
    "plots": {"convolutional", "convolutional_plot", "density", "mixture", "product", "symmetry"},
    "class_maps": {"mixture", "patches", "symmetry"},
    "train": {
        "__version__",
        "convolutional",
        "density",
        "opponent",
        "plots",
        "storage",
        "training",
        "wavelet",
    },
}
SITES = {"torch", "numpy", "safetensors"}
SITES_ON_TOP = {  # imported late
    "plots": {"matplotlib"},
    "convolutional_plot": {"matplotlib"},
    "train": {"tqdm"},
    "wavelet_transform": {"pywt"},
    "vector_code": {"llvmlite"},
}
STDLIB = set(sys.stdlib_module_names)


def imports(path):
    """Own modules a file imports, and the top names of others."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            own.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            own.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            others.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            others.update(alias.name.split(".")[0] for alias in node.names)
    return own, others - STDLIB


@pytest.mark.parametrize(
    "module", sorted(p.stem for p in CORE.glob("*.py") if p.stem != "__init__")
)
def test_arrows_go_one_way(module):
    own, others = imports(CORE / f"{module}.py")
    assert module in ALLOWED, f"say here what {module} may import"
    assert own <= ALLOWED[module]
    assert others <= SITES | SITES_ON_TOP.get(module, set())


def test_nothing_in_the_core_imports_the_trainer_or_the_adapter():
    for path in CORE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.stem not in ("train", "plots"):
            assert "from .training" not in text
            assert "gmdm_prior.training" not in text
        assert "deepinv_gmdm" not in text


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_light():
    """Neither deepinv nor a plotting, imaging or compiling library, and little beside torch."""
    heavy = run(
        "import sys, gmdm_prior;"
        "heavy = ('deepinv', 'matplotlib', 'PIL', 'pywt', 'omegaconf', 'llvmlite', "
        "'torch._dynamo', 'gmdm_prior.train', "
        "'gmdm_prior.pictures.report', 'gmdm_prior.training');"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert heavy == "[]"


def test_training_and_plots_import_what_draws_and_parses_late():
    heavy = run(
        "import sys, gmdm_prior.training, gmdm_prior.pictures.report;"
        "heavy = ('deepinv', 'matplotlib', 'PIL', 'omegaconf', 'gmdm_prior.train');"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert heavy == "[]"


def test_import_adds_little_time_to_torch(tmp_path):
    """Of the processor, whatever else runs; the first time compiles, as after an installation."""
    code = (
        f"import sys, torch, time; sys.pycache_prefix = {str(tmp_path)!r};"
        "sys.dont_write_bytecode = False; t = time.process_time(); import gmdm_prior;"
        "print(time.process_time() - t)"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.1
