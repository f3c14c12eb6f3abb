"""The gallery: every `examples/demo_*.py`, run while the site is built.

Sphinx-Gallery wants a title in each script; so it is given copies, in which the first sentence is
one. With GMDM_DOCS_FAST the copies call `main` with small sizes.
"""

import ast
import os
import shutil
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
EXAMPLES = DOCS.parent / "examples"
SLOW = ("large_image",)  # shown, not run: minutes
FAST = {  # arguments of `main`; of all others size=96
    "noise_level": {"size": 96, "steps": 4},
    "blind_heteroscedastic": {"size": 96, "cell": 48},
    "uncertainty": {"size": 64},
    "sampling": {"count": 4000},
    "noisy_training": {"count": 8, "size": 64, "patches": 2000},
    "what_it_sees": {},
}
CALL = "\n    main()\n"
HEADER = """Examples
========

Each runs in seconds on a processor, from a checkout: `python examples/NAME.py`.
"""


def copied() -> Path:
    """The folder of the copies, written anew where a script has changed."""
    folder = DOCS / "_build" / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "GALLERY_HEADER.rst").write_text(HEADER)
    for path in sorted(EXAMPLES.glob("demo_*.py")):
        name, text = path.stem.removeprefix("demo_"), titled(path.read_text(encoding="utf-8"))
        if os.environ.get("GMDM_DOCS_FAST"):
            words = ", ".join(f"{k}={v}" for k, v in FAST.get(name, {"size": 96}).items())
            text = text.replace(CALL, f"\n    main({words})\n")
        copy = folder / path.name
        if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")
    return folder


def titled(script: str) -> str:
    """The script with the first line of its docstring as a title."""
    first = ast.get_docstring(ast.parse(script), clean=False).split("\n", 1)[0]
    title = first.rstrip(".")
    return script.replace(first, f"{title}\n{'=' * len(title)}\n", 1)


def figures(block, block_vars, gallery_conf) -> str:
    """Sphinx-Gallery's scraper: the figure that an example has written beside itself."""
    from sphinx_gallery.scrapers import figure_rst

    images = []
    for path in sorted(Path.cwd().glob("demo_*.png")):
        image = next(block_vars["image_path_iterator"])
        shutil.move(path, image)
        images.append(image)
    return figure_rst(images, gallery_conf["src_dir"])


def settings() -> dict:
    """Settings of Sphinx-Gallery."""
    slow = "|".join(SLOW)
    return {
        "examples_dirs": [str(copied())],
        "gallery_dirs": ["gallery"],
        "filename_pattern": rf"demo_(?!{slow})",
        "image_scrapers": (figures,),
        "reset_modules": (),
        "download_all_examples": False,
        "show_memory": False,
        "show_signature": False,
        "write_computation_times": False,
        "within_subsection_order": "FileNameSortKey",
        "abort_on_example_error": True,
    }
