"""README's Python runs as it stands, its links lead somewhere, and it is short."""

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
    truth = names["picture"]
    for name in ("clean", "blind", "restored", "denoised"):
        assert names[name].shape == truth.shape == (1, 1, 256, 256)
        assert (names[name] - truth).square().mean() < (names["noisy"] - truth).square().mean() / 4


def test_links_lead_somewhere():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert len(targets) >= 4
    for target in targets:
        assert (ROOT / target).exists(), target


def test_it_is_short_and_lists_the_models_to_choose_from():
    import gmdm_prior as gm

    assert len(README.splitlines()) <= 120
    for name in ("gray", "gray-small"):
        assert f"`{name}` | {gm.load(name).num_parameters:,} |" in README
