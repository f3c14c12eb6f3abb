"""benchmarks/denoising_table.py: what is measured once, what again, and how it is shown."""

import dataclasses

import pytest
import torch
from PIL import Image

pytest.importorskip("bm3d", reason="benchmarks need the extra `bench`")
pytest.importorskip("skimage", reason="benchmarks need the extra `bench`")

import denoising_table as table
from denoising_table import Method
from lib import rivals
from lib.data import Picture, read_pictures
from lib.denoising_report import PUBLISHED, Row, is_bsd68, markdown, published, report
from lib.figures import mean_psnr

import gmdm_prior as gm


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def folder(tmp_path):
    """Twenty small images."""
    path = tmp_path / "images"
    path.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(20):
        pixels = torch.randint(256, (16, 12), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path / f"{i:02}.png")
    return path


class Counting:
    """Shrinks towards gray, and counts; stops at a call."""

    def __init__(self, stop=None):
        self.calls, self.stop = 0, stop

    def __call__(self, y, sigma):
        if y.shape[-1] > 8 and self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        return 0.5 + (y - 0.5) / (1 + sigma)


def method(name, denoise, version="1", slow=False):
    return Method(name, 7, version, lambda: denoise, slow)


def measured(denoise, pictures, out, levels=(25,), version="1", slow=False):
    """Rows, and how often the denoiser ran without the timing's calls."""
    parts = table.run([method("it", denoise, version, slow)], levels, pictures, out)
    return parts, denoise.calls


TIMING = 1 + table.TURNS  # calls of a method that has no time yet


def test_an_interrupted_run_goes_on_where_it_stopped(folder, tmp_path):
    pictures = read_pictures(str(folder))
    with pytest.raises(KeyboardInterrupt):
        measured(Counting(stop=7), pictures, tmp_path)
    parts, calls = measured(Counting(), pictures, tmp_path)
    assert calls == 13 + TIMING
    whole, _ = measured(Counting(), pictures, tmp_path / "elsewhere")
    assert [row.psnr for row in parts[0]] == pytest.approx([r.psnr for r in whole[0]], abs=1e-4)
    assert measured(Counting(), pictures, tmp_path)[1] == 0


def test_only_what_has_changed_is_measured_again(folder, tmp_path):
    pictures = read_pictures(str(folder))
    measured(Counting(), pictures, tmp_path)
    assert measured(Counting(), pictures, tmp_path, levels=(25, 50))[1] == 20
    assert measured(Counting(), pictures, tmp_path, version="2")[1] == 20 + TIMING
    black = torch.zeros(16, 12, dtype=torch.uint8)
    Image.fromarray(black.numpy()).save(folder / "03.png")
    assert measured(Counting(), read_pictures(str(folder)), tmp_path)[1] == 1
    (folder / "18.png").unlink()  # moves 19.png to another place, with other noise
    assert measured(Counting(), read_pictures(str(folder)), tmp_path)[1] == 1


def test_new_weights_or_another_schedule_are_another_version(monkeypatch, tmp_path):
    def versions():
        return {m.name: m.version for m in table.our_methods(["gray-small"])}

    before = versions()
    assert len(before) == 3

    class Changed(gm.HalfQuadraticSplitting):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            coefficients = self.schedule.coefficients + 1e-6
            self.schedule = dataclasses.replace(self.schedule, coefficients=coefficients)

    monkeypatch.setattr(gm, "HalfQuadraticSplitting", Changed)
    after = versions()
    apart = {name for name in before if before[name] != after[name]}
    assert apart == {"gray-small, HQS at stride 2", "gray-small, HQS"}
    assert table.version_of(b"weights", b"") != table.version_of(b"Weights", b"")


def test_slow_methods_see_a_few_images_and_all_methods_are_shown_on_those(folder, tmp_path):
    pictures = read_pictures(str(folder))
    fast, slow = Counting(), Counting()
    methods = [method("fast", fast), method("slow", slow, slow=True)]
    many, few = table.run(methods, [25], pictures, tmp_path)
    assert (fast.calls, slow.calls) == (20 + TIMING, 7 + TIMING)
    assert [(row.method, row.images) for row in many] == [("fast", 20)]
    assert [(row.method, row.images) for row in few] == [("fast", 7), ("slow", 7)]
    assert few[0].psnr == few[1].psnr != many[0].psnr


def test_means_are_those_of_all_scripts(folder, tmp_path):
    pictures = read_pictures(str(folder))
    parts, _ = measured(Counting(), pictures, tmp_path)
    expected = mean_psnr(Counting(), [p.clean for p in pictures], 25 / 255)
    assert parts[0][0].psnr == pytest.approx(expected, abs=1e-4)  # six digits in the file


def test_psnr_and_ssim_are_of_the_clipped_result():
    picture = Picture("gray", 0, torch.full((1, 1, 16, 12), 0.9), "")
    beyond = method("beyond", lambda y, sigma: torch.full_like(y, 3.0))
    value, ssim = table.measure(beyond, 25, picture)
    assert value == pytest.approx(20, abs=1e-4)
    # of two constants a and b: (2ab + c) / (a² + b² + c), c = 0.01²
    assert ssim == pytest.approx((1.8 + 1e-4) / (1.81 + 1e-4), abs=1e-6)


def test_times_are_measured_together_for_all_methods(folder, tmp_path):
    pictures = read_pictures(str(folder))[:2]
    old, new = Counting(), Counting()

    def timed(*methods):
        table.run(methods, [25], pictures, tmp_path)
        return old.calls, new.calls

    assert timed(method("old", old)) == (2 + TIMING, 0)
    assert timed(method("new", new)) == (2 + TIMING, 2 + TIMING)
    both = method("old", old), method("new", new)
    assert timed(*both) == (2 + 2 * TIMING, 2 + 2 * TIMING)
    assert timed(*both) == (2 + 2 * TIMING, 2 + 2 * TIMING)
    assert timed(both[0]) == (2 + 2 * TIMING, 2 + 2 * TIMING)


def test_markdown_has_the_best_first_and_leaves_gaps():
    rows = [
        Row("worse", None, 25, 3, 28.0, 0.8, 1.25),
        Row("better", 14_656, 25, 3, 28.5, 0.81, 0.2),
        Row("better", 14_656, 50, 3, 25.0, 0.7, 0.2),
        Row("paper", 648, 50, 3, 23.0, None, None, "as published: elsewhere"),
    ]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| method | numbers | σ25 | σ50 | s/image | source |"
    assert lines[2] == "| better | 14,656 | 28.50 / 0.810 | 25.00 / 0.700 | 0.2 | measured |"
    assert lines[3] == "| worse | – | 28.00 / 0.800 |  | 1.2 | measured |"
    assert lines[4] == "| paper | 648 |  | 23.00 |  | as published: elsewhere |"


def test_published_rows_stand_beside_bsd68_only(folder, tmp_path):
    pictures = [Picture(str(i), i, torch.zeros(1, 1, 321, 481), "") for i in range(68)]
    assert is_bsd68(pictures)
    assert not is_bsd68(pictures[:67])
    assert len(published([25], 68)) == len(PUBLISHED)
    row = next(r for r in published([15, 100], 68) if r.method == "GMM-EPLL" and r.sigma == 100)
    assert (row.psnr, row.numbers, row.ssim) == (23.19, 819_200, None)
    assert "as published" in row.source
    here = [Row("gray, HQS", 14_656, 25, 68, 28.8, 0.8, 0.1)]
    assert "as published" in report([here], "BSD68", pictures, tmp_path)
    assert "as published" not in report([here], "other", read_pictures(str(folder)), tmp_path)
    for suffix in ("csv", "md", "png"):
        assert (tmp_path / f"denoising.{suffix}").stat().st_size > 0


def test_slow_methods_alone_have_a_report_too(folder, tmp_path):
    pictures = read_pictures(str(folder))
    parts = table.run([method("slow", Counting(), slow=True)], [25], pictures, tmp_path)
    text = report(parts, "some", pictures, tmp_path)
    assert text.startswith("some, 7 images: PSNR")
    assert text.count("| slow |") == 1


def test_tuned_weights_are_multiples_of_sigma_interpolated(monkeypatch):
    monkeypatch.setitem(rivals.TUNED, "TV", lambda y, weight: weight)
    monkeypatch.setitem(rivals.WEIGHTS, "TV", (0.5, 0.7, 0.9, 1.1))
    monkeypatch.setattr(rivals, "LEVELS", (15, 25, 50, 100))
    weight = rivals.tuned_denoiser("TV")
    assert weight(None, 15 / 255) == pytest.approx(0.5 * 15 / 255)
    assert weight(None, 20 / 255) == pytest.approx(0.6 * 20 / 255)
    assert weight(None, 5 / 255) == pytest.approx(0.5 * 5 / 255)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no PNG image in nowhere"),
        (
            ["{folder}", "weights=gray-small", "methods=hqs,BM4D"],
            "BM4D is in no name of gray",
        ),
        (["{folder}", "--methods", "EPLL"], "fit it with `python benchmarks/recipes/rivals.py"),
        (["{folder}", "weights=colour.safetensors"], "is a model of colour"),
    ],
)
def test_bad_input_leaves_with_status_2(words, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gm.save(gm.OpponentModel(gm.load("gray-small")), "colour.safetensors")
    assert table.main([word.format(folder=folder) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_measures_and_writes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(folder), "--images", "2", "--sigmas", "25", "--weights", "gray-small"]
    assert table.main(words) == 0
    first = capsys.readouterr().out
    assert "images, 2 images" in first
    assert first.count("gray-small") == 3
    assert (tmp_path / "runs/table/images/denoising.md").read_text(encoding="utf-8") == first
    monkeypatch.setattr(table, "measure", None)
    assert table.main(words) == 0
    assert capsys.readouterr().out == first


def test_weights_of_ones_own_stand_alone_at_one_stride(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gm.save(gm.load("gray-small"), tmp_path / "mine.safetensors")
    words = [str(folder), "--images", "1", "--sigmas", "25", "--weights", "mine.safetensors"]
    assert table.main([*words, "--stride", "3", "--methods", "hqs"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "5,056" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| mine, HQS at stride 3"]
    hqs = gm.HalfQuadraticSplitting(gm.load("gray-small"), 3)
    expected = mean_psnr(hqs, [read_pictures(str(folder))[0].clean], 25 / 255)
    assert f"| {expected:.2f} / " in rows[0]
