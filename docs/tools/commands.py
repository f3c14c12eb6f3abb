"""Pages of the reference that programs write: `--help` of each command, keys of each config."""

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


def write() -> None:
    """Write what each command prints to `_generated`."""
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    for name, (module, *words) in COMMANDS.items():
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "100"},
        )
        text = done.stdout.replace(str(DOCS.parent) + os.sep, "")
        if not (folder / f"{name}.txt").is_file() or (folder / f"{name}.txt").read_text() != text:
            (folder / f"{name}.txt").write_text(text)
