"""README's Python runs as it stands, one block after the other, and its links lead somewhere."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["log_density"].shape == (1,)
    for name in ("clean", "restored", "denoised"):
        assert names[name].shape == (1, 1, 64, 64)
        assert torch.isfinite(names[name]).all()
    assert (names["variance"] > 0).all()


def test_links_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert len(targets) >= 4
    for target in targets:
        assert (ROOT / target).exists(), target


def test_bundled_models_are_listed():
    import gmdm_prior as gm

    for name in gm.bundled():
        assert f"`{name}` | {gm.load(name).num_parameters:,} |" in README
