"""benchmarks/recipes/vary.py: variants of photographs, none of those held out."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from recipes import vary


@pytest.fixture
def photographs(tmp_path):
    """Four pictures with a ramp of their own, in two folders."""
    ramp = np.add.outer(np.arange(60), np.arange(80))
    for i in range(4):
        folder = tmp_path / "photographs" / "ab"[i // 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ramp + 20 * i).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photographs"


def test_variants_are_smaller_and_of_another_contrast(photographs, tmp_path):
    out = tmp_path / "varied"
    words = [f"data={photographs}", f"out={out}", "holdout=3", "variants=2"]
    assert vary.main(words) == 0
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*.png"))
    folders = ("original", "variant-0", "variant-1")
    assert found == [f"{folder}/{name}" for folder in folders for name in ("01.png", "02.png")]
    ramp = np.add.outer(np.arange(60), np.arange(80))
    for i in (1, 2):
        kept = np.asarray(Image.open(out / "original" / f"0{i}.png"))
        assert (kept == ramp + 20 * i).all()
        sizes = set()
        for folder in folders[1:]:
            image = Image.open(out / folder / f"0{i}.png")
            assert 27 <= image.height < 60
            assert 36 <= image.width < 80
            assert image.mode == "L"
            brightest = (ramp + 20 * i).max()
            assert abs(int(np.asarray(image).max()) - brightest) > 1  # gamma
            sizes.add(image.size)
        assert len(sizes) == 2
    again = tmp_path / "again"
    assert vary.main([*words[:1], f"out={again}", *words[2:]]) == 0
    for path in out.rglob("*.png"):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()


def test_nothing_is_overwritten_and_no_picture_is_an_error(photographs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    assert vary.main([f"data={photographs}", f"out={tmp_path / 'full'}"]) == 2
    assert "is not empty: name a new folder" in capsys.readouterr().err
    assert vary.main([f"data={tmp_path / 'full'}", f"out={tmp_path / 'new'}"]) == 2
    assert "holds no image" in capsys.readouterr().err
