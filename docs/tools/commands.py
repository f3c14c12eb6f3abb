"""What other files say, for the site: `--help` of each command, and `benchmarks/README.md`."""

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
COMMANDS = {
    "gmdm": ("deepinv_gmdm", "--help"),
    "denoise": ("deepinv_gmdm", "denoise", "--help"),
    "restore": ("deepinv_gmdm", "restore", "--help"),
    "list": ("deepinv_gmdm", "restore", "--list"),
    "keys": ("deepinv_gmdm", "restore", "deblur", "--show"),
    "noise": ("deepinv_gmdm", "noise", "--help"),
    "plugins": ("deepinv_gmdm", "plugins"),
    "train": ("gmdm_prior.train", "--help"),
}


LINKS = {  # of benchmarks/README.md, and what the site has instead
    "[results](results)": "`benchmarks/results`",
    "[bsds500.yaml](recipes/bsds500.yaml)": "`bsds500.yaml`",
    "](results/noise_level_skimage.md)": "](noise_level.md)",
    "](results/": "](",
    "](../docs/benchmarks/": "](",
    "](../docs/paper/": "](../paper/",
}


def write() -> None:
    """Write to `_generated` what each command prints, and how benchmarks are run."""
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    for name, words in COMMANDS.items():
        renew(folder / f"{name}.txt", printed(*words))
    text = (DOCS.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for old, new in LINKS.items():
        text = text.replace(old, new)
    renew(folder / "benchmarks.md", text)


def printed(module: str, *words: str) -> str:
    """What a command prints, with paths as they are seen from the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    return done.stdout.replace(str(DOCS.parent) + os.sep, "")


def renew(path: Path, text: str) -> None:
    """Write a file where it has changed, so that pages are built anew only then."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
