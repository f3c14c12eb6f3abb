"""The site's Python runs as it stands, page by page; its links lead somewhere; versions agree."""

import ast
import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from deepinv_gmdm.command import usage
from deepinv_gmdm.command.config import RestoreConfig, shipped
from deepinv_gmdm.physics import PhysicsConfig
from deepinv_gmdm.solver_config import SolverConfig

import gmdm_prior as gm
from gmdm_prior.training.run.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*(ROOT / "docs").glob("[a-z]*/*.md"), ROOT / "docs" / "index.md"})
TITLES = [str(page.relative_to(ROOT / "docs")) for page in PAGES]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
WITH_PYTHON = [page for page in PAGES if PYTHON.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    for block in PYTHON.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    for target in re.findall(r"include\} (\S+)", text):
        assert (page.parent / target).exists() or "_generated" in target, target


def words_of(command):
    """Lines of README and of the site that begin with a command, cut into words."""
    for page in [ROOT / "README.md", *PAGES]:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"    {command} "):
                yield page.name, line.split(" #")[0].split()[len(command.split()) :]


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("gmdm denoise", set(re.findall(r"^  (\w+)", usage.DENOISE, re.MULTILINE))),
        ("gmdm noise", set(re.findall(r"^  (\w+)", usage.NOISE, re.MULTILINE))),
        ("gmdm-train", {f.name for f in fields(TrainConfig)}),
    ],
)
def test_keys_of_commands_that_pages_show_exist(command, known):
    lines = list(words_of(command))
    assert lines
    for page, words in lines:
        for word in words:
            assert "=" not in word or word.split("=")[0] in known, f"{page}: {word}"


def test_configs_and_keys_of_restore_that_pages_show_exist():
    configs = {path.stem for path in shipped("configs").glob("*.yaml")}
    known = {f"physics.{f.name}" for f in fields(PhysicsConfig)}
    known |= {f"solver.{f.name}" for f in fields(SolverConfig)}
    known |= {f.name for f in fields(RestoreConfig)} | {"physics.noise.sigma", "prior.weights"}
    lines = list(words_of("gmdm restore"))
    assert len(lines) > 5
    for page, words in lines:
        config, *rest = words
        assert config in configs or config == "my.yaml", f"{page}: {config}"
        for word in rest:
            assert word.split("=")[0] in known, f"{page}: {word}"


def test_every_page_is_in_a_table_of_contents():
    for folder in (p.parent for p in PAGES if p.name == "index.md" and p.parent.name != "docs"):
        listed = set(
            (folder / "index.md").read_text(encoding="utf-8").split("```{toctree}")[-1].split()
        )
        pages = {page.stem for page in folder.glob("*.md")} - {"index"}
        assert pages <= listed, folder.name


def test_every_test_that_the_theory_names_is_there():
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for page in (ROOT / "docs" / "theory").glob("*.md"):
        for name in re.findall(r"\btest_[a-z0-9_]+\b(?!\.py)", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


def test_bundled_models_and_configs_are_listed():
    models = (ROOT / "docs" / "start" / "choose.md").read_text(encoding="utf-8")
    for name in gm.bundled():
        assert f"`{name}` | {gm.load(name).num_parameters:,} |" in models
    configs = (ROOT / "docs" / "reference" / "configs.md").read_text(encoding="utf-8")
    for path in shipped("configs").glob("*.yaml"):
        assert f"examples/configs/{path.name}" in configs


def test_public_names_are_in_the_reference():
    import deepinv_gmdm

    import gmdm_prior.training

    for module in (gm, gmdm_prior.training, deepinv_gmdm):
        page = {"gmdm_prior.training": "training"}.get(module.__name__, module.__name__)
        text = (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
        for name in module.__all__:
            assert f":: {module.__name__}.{name}\n" in text


def test_versions_agree():
    version = gm.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_dead_links_of_the_built_site_are_found(tmp_path):
    spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "tools" / "links.py")
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    (tmp_path / "a.html").write_text('<a id="x" href="b.html#y"></a><a href="https://else"></a>')
    (tmp_path / "b.html").write_text('<p id="y"><a href="a.html#z"></a><img src="no.png"></p>')
    assert links.dead(tmp_path) == ["b.html: a.html#z", "b.html: no.png"]


def texts(node):
    """The texts that a piece of source can say, `…` for what is filled in."""
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        elif isinstance(child, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "…" for v in child.values)
            yield "".join(map(str, parts))


def test_messages_that_troubleshooting_explains_are_those_of_the_sources():
    said = "\n".join(
        text
        for folder in ("gmdm_prior", "plugins")
        for file in (ROOT / folder).rglob("*.py")
        for text in texts(ast.parse(file.read_text(encoding="utf-8")))
    )
    page = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    quoted = [piece for row in rows for piece in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 20
    missing = [q for q in quoted if q.replace("FILE", "…") not in said and q not in said]
    assert not missing


def test_the_gallery_runs_fourteen_examples_or_more():
    text = (ROOT / "docs" / "tools" / "gallery.py").read_text(encoding="utf-8")
    (slow,) = re.findall(r"^SLOW = (\(.*?\))", text, re.MULTILINE)
    examples = {p.stem.removeprefix("demo_") for p in (ROOT / "examples").glob("demo_*.py")}
    assert len(examples - set(ast.literal_eval(slow))) >= 14
