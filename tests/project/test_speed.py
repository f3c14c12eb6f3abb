"""benchmarks/speed.py: what it refuses, how it takes turns, what it writes. No speed is tested."""

import csv
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import speed
import speed_rows
from speed_rows import Bench, Measurement, medians, over_images


def bench(*images):
    return Bench(list(images), training=[], repeats=1, threads=1, side=256)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "folder nowhere does not exist"),
        (["{empty}"], "no PNG image in"),
        (["--rows", "hqs-bm4d"], "'hqs-bm4d'"),
        (["--repeats", "0"], "--repeats: must be a whole number of at least 1; got '0'"),
        (["--threads", "two"], "--threads: must be a whole number of at least 1; got 'two'"),
        (["--side", "16"], "--side must be at least 256; got 16"),
        (["--data", "nowhere"], "data=nowhere does not exist"),
        (["--out", "{file}"], "File exists"),
    ],
)
def test_bad_input_leaves_with_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    rows = [] if "--rows" in words else ["--rows", "table"]  # nothing that needs bm3d
    words = [w.format(empty=tmp_path / "empty", file=tmp_path / "file") for w in words]
    with pytest.raises(SystemExit) as left:
        speed.main([*words, *rows])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--rows", "hqs-bm3d", "--out", str(tmp_path)])
    assert "needs the package bm3d" in capsys.readouterr().err


def test_turns_alternate_and_medians_are_of_each_without_the_warm_up():
    now, calls = [0.0], []
    seconds = {"rival": [100, 1, 9, 2], "ours": [500, 30, 40, 90]}  # the first of each warms up

    def timed(name):
        def run(turn):
            calls.append(name)
            now[0] += seconds[name][turn + 1]

        return run

    found = medians(timed("rival"), timed("ours"), turns=3, clock=lambda: now[0])
    assert calls == ["rival", "ours"] * 4
    assert found == [2, 40]


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
    speed.main(["--rows", "fake", "--out", str(tmp_path)])
    first, second = read()
    assert (first["ratio"], first["of"], first["met"]) == ("4.0", "rival / ours", "no")
    assert (second["ratio"], second["of"], second["met"]) == ("2.5", "ours / rival", "yes")
    assert (first["ours_s"], first["rival_s"], first["threads"]) == ("1.0", "4.0", "1")
    assert f"torch {torch.__version__.split('+')[0]}" in first["versions"]
    table = (tmp_path / "speed.md").read_text(encoding="utf-8")
    head, _, line = table.splitlines()[:3]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["ratio"] == "4"
    assert cells["target"] == "≥ 5"
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
    same, new = speed_rows.ROWS["product-7x7"](bench(image))
    assert same.rival_s == new.rival_s > 0
    assert same.ratio == same.ours_s / same.rival_s
    assert (same.target, new.threads) == ("≤ 0.5", "1")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_what_a_call_holds(monkeypatch):
    def denoise(image, sigma):
        if image.shape[-1] > 64:
            torch.ones(2**24)  # 64 MiB, held for a moment only

    monkeypatch.setattr(speed_rows, "denoiser", lambda method, model: denoise)
    torch.ones(2**26)  # an earlier peak, four times as high
    found = speed_rows.peak("hqs", "bsds-gray-small", 256)["bytes"] / 2**20
    assert 60 < found < 80
