"""benchmarks/speed.py: what it refuses and what it writes. No speed is tested."""

import csv
from pathlib import Path

import pytest
import speed
import torch
from speed_rows import machine
from speed_rows.bench import Bench, Measurement, large, mosaic, over_images


def bench(*images):
    return Bench(list(images), training=[], repeats=1, threads=1, side=256)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no PNG image in nowhere"),
        (["--rows", "hqs-bm4d"], "'hqs-bm4d'"),
        (["--side", "16"], "side must be at least 256; got 16"),
        (["--data", "nowhere"], "data=nowhere does not exist"),
        (["--out", "{file}"], "File exists"),
    ],
)
def test_bad_input_leaves_with_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    rows = [] if "--rows" in words else ["--rows", "table"]  # nothing that needs bm3d
    assert speed.main([*(w.format(file=tmp_path / "file") for w in words), *rows]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_named_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert speed.main(["--rows", "table", "hqs-bm3d", "--out", str(tmp_path / "new")]) == 2
    assert "needs the package bm3d" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_every_image_has_its_turn_and_results_come_in_order():
    images = [torch.full((1, 1, 4, 4), float(i)) for i in range(3)]
    _, results = over_images({"same": lambda y, sigma: y}, bench(*images), turns=1)
    assert len(results["same"]) == 3
    for clean, result in zip(images, results["same"], strict=True):
        torch.testing.assert_close(result, clean, atol=0.6, rtol=0)  # noise of 0.1


@pytest.mark.parametrize(
    ("ratio", "least", "most", "target", "met"),
    [
        (0.4, None, 0.5, "≤ 0.5", "yes"),
        (0.6, None, 0.5, "≤ 0.5", "no"),
        (9.0, 10, None, "≥ 10", "no"),
        (12.0, 10, None, "≥ 10", "yes"),
        (1.3, 0.8, 1.2, "≥ 0.8 and ≤ 1.2", "no"),
        (0.7, 0.8, 1.2, "≥ 0.8 and ≤ 1.2", "no"),
        (5.0, None, None, "", ""),
    ],
)
def test_targets(ratio, least, most, target, met):
    found = Measurement("row", "a", "b", 1.0, 1.0, ratio, "a / b", "1", least, most)
    assert (found.target, found.met) == (target, met)


def test_each_measurement_is_written_when_it_is_there(tmp_path, monkeypatch, capsys):
    def read():
        with open(tmp_path / "speed.csv", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def fake(b):
        yield b.timed("fake", "hare", "tortoise", (4.0, 1.0), faster=True, least=5, note="asleep")
        assert [row["ours"] for row in read()] == ["hare"]
        yield b.timed("fake", "snail", "tortoise", (4.0, 10.0), most=3)

    monkeypatch.setitem(speed.ROWS, "fake", fake)
    assert speed.main(["--rows", "fake", "--out", str(tmp_path)]) == 0
    first, second = read()
    assert (first["ratio"], first["of"], first["met"]) == ("4.0", "rival / ours", "no")
    assert (second["ratio"], second["of"], second["met"]) == ("2.5", "ours / rival", "yes")
    assert (first["ours_s"], first["rival_s"], first["threads"]) == ("1.0", "4.0", "1")
    assert f"torch {torch.__version__.split('+')[0]}" in first["versions"]
    table = (tmp_path / "speed.md").read_text(encoding="utf-8")
    head, _, line = table.splitlines()[:3]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (cells["ratio"], cells["target"]) == ("4", "≥ 5")
    assert (tmp_path / "speed.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert table in printed
    assert "--rows product-7x7 product-15x15 hqs-bm3d" in printed  # how to run the rest


def test_rows_that_are_not_measured_again_stay(tmp_path):
    kept = Measurement("threads", "a, b", "c", None, 2.5, 1.25, "a / b", "1 and 2", 0.8, 1.2, "n")
    renewed = Measurement("stride", "a", "c", 1.0, 2.0, 2.0, "c / a", "1")
    speed.save(tmp_path, [renewed, kept])
    assert speed.stored(tmp_path / "speed.csv", ["stride"]) == [kept]
    assert speed.in_order([kept, renewed]) == [renewed, kept]
    assert speed.stored(tmp_path / "none.csv", []) == []


def test_a_real_row():
    image = torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    same, new = speed.ROWS["product-7x7"](bench(image))
    assert same.rival_s == new.rival_s > 0
    assert same.ratio == same.ours_s / same.rival_s
    assert (same.target, new.threads) == ("≤ 0.5", "1")


def test_the_large_image_is_the_mosaic_mirrored():
    whole, big = mosaic(), large(600)
    assert big.shape == (1, 1, 600, 600)
    apart = big[..., :512, :512] - whole
    assert apart.std().item() == pytest.approx(25 / 255, rel=0.01)
    apart = big[..., :512, 512:] - whole[..., 423:511].flip(3)
    assert apart.std().item() == pytest.approx(25 / 255, rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_is_measured_in_a_fresh_process(monkeypatch):
    asked = []

    def fresh(function, *arguments):
        asked.append((function, *arguments))
        return 8.0 * 4 * 256**2, 1.5

    monkeypatch.setattr(machine, "in_fresh_process", fresh)
    rows = list(machine.memory(bench()))
    assert asked[0] == (machine.peak_of, "hqs", "gray", 256, 1)
    assert (len(rows), rows[0].ratio, rows[0].ours_s, rows[0].met) == (8, 8.0, 1.5, "yes")
