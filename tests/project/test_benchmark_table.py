"""benchmarks/table.py: what is measured once, what again, on which images, and how it is shown."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("bm3d", reason="benchmarks need the extra `bench`")
pytest.importorskip("skimage", reason="benchmarks need the extra `bench`")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import denoising
import rivals
import safetensors.torch
import table
from csv_cache import Cache
from pictures import PHOTOGRAPHS, Picture, read_pictures, spaced
from PIL import Image
from table import Method
from table_report import PUBLISHED, Row, is_bsd68, markdown, published, report


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


def test_a_cut_off_line_of_the_cache_is_dropped_and_the_rest_kept(tmp_path):
    cache = Cache(tmp_path / "new" / "c.csv", ["a", "b", "x", "y"], values=2)
    cache.add(("with, comma", "1"), [1 / 3, 2])
    cache.add(("other", "1"), [3, 4])
    whole = cache.path.read_text()
    cache.path.write_text(whole[:-3])
    again = Cache(cache.path, ["a", "b", "x", "y"], values=2)
    assert again.lines == {("with, comma", "1"): pytest.approx((1 / 3, 2), abs=1e-6)}
    again.add(("other", "1"), [5, 6])
    assert Cache(cache.path, [], values=2)["other", "1"] == (5, 6)
    assert cache.path.read_text().splitlines()[0] == "a,b,x,y"


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
        return {m.name: m.version for m in table.our_methods() if "bsds-gray-small," in m.name}

    before = versions()
    assert len(before) == 3
    schedule = table.gm.denoisers.DEFAULT
    changed = dataclasses.replace(schedule, coefficients=schedule.coefficients + 1e-6)
    monkeypatch.setattr(table.gm.denoisers, "DEFAULT", changed)
    after = versions()
    apart = {name for name in before if before[name] != after[name]}
    assert apart == {"bsds-gray-small, HQS at stride 2", "bsds-gray-small, HQS"}
    assert table.version_of(b"weights", b"") != table.version_of(b"Weights", b"")


def test_few_are_every_eighth_of_bsd68():
    assert spaced(range(68), 9) == list(range(0, 68, 8))
    assert spaced(range(68), 2) == [0, 34]
    assert spaced(range(9), 9) == list(range(9))
    assert spaced(range(10), 9) == [0, 2, 4, 6, 8]


def test_slow_methods_see_a_few_images_and_all_methods_are_shown_on_those(folder, tmp_path):
    pictures = read_pictures(str(folder))
    fast, slow = Counting(), Counting()
    methods = [method("fast", fast), method("slow", slow, slow=True)]
    many, few = table.run(methods, [25], pictures, tmp_path)
    assert (fast.calls, slow.calls) == (20 + TIMING, 7 + TIMING)
    assert [(row.method, row.images) for row in many] == [("fast", 20)]
    assert [(row.method, row.images) for row in few] == [("fast", 7), ("slow", 7)]
    assert few[0].psnr == few[1].psnr != many[0].psnr


def test_means_are_those_of_the_quick_script(folder, tmp_path):
    pictures = read_pictures(str(folder))
    parts, _ = measured(Counting(), pictures, tmp_path)
    expected, _ = denoising.mean_psnr(Counting(), [p.clean for p in pictures], 25 / 255)
    assert parts[0][0].psnr == pytest.approx(expected, abs=1e-4)  # six digits in the file
    third = pictures[6]
    assert torch.equal(third.noisy(0.1), denoising.noisy(third.clean, 0.1, 6))


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
    here = [Row("bsds-gray, HQS", 14_656, 25, 68, 28.8, 0.8, 0.1)]
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


@pytest.fixture
def mixture(monkeypatch, tmp_path):
    """A mixture of two components, of images of two contrasts."""
    for name, value in {"COMPONENTS": 2, "PATCHES": 4000, "ITERATIONS": 3}.items():
        monkeypatch.setattr(rivals, name, value)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 64, 64, generator=generator)
    rivals.fit_mixture([0.3 + 0.02 * noise[0], 0.8 + 0.1 * noise[1]], tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_the_fitted_mixture_finds_contrasts_and_the_moment_of_the_mean(mixture):
    tensors = safetensors.torch.load_file(mixture)
    covariances = tensors["covariances"].double()
    assert covariances.shape == (2, 64, 64)
    assert tensors["weights"].sum() == pytest.approx(1, abs=1e-6)
    constant = torch.full((64,), 1 / 8, dtype=torch.float64)
    # E (Σ (x - 0.5) / 8)² = 64 E (mean - 0.5)², with means of 0.3 and 0.8 and little around them
    expected = (64 * 0.065 * constant).expand(2, -1)
    torch.testing.assert_close(covariances @ constant, expected, rtol=0.02, atol=0)
    trace = covariances.diagonal(dim1=1, dim2=2).sum(1)
    spread = (trace - covariances @ constant @ constant) / 63
    expected = torch.tensor([0.02**2, 0.1**2], dtype=torch.float64)
    torch.testing.assert_close(spread.sort()[0], expected, rtol=0.1, atol=0)


def test_epll_keeps_what_is_constant_and_removes_noise(mixture):
    sigma = 25 / 255
    clean = torch.full((1, 1, 24, 24), 0.8)
    denoise = rivals.epll_denoiser(mixture)
    restored = denoise(denoising.noisy(clean, sigma, 0), sigma)
    assert restored.std() < 0.35 * sigma
    # of its distance of 0.3 to gray the mean loses the share sigma² / 4.2 at the first level
    assert denoise(clean, sigma).sub(clean).abs().mean() < 1e-3


def test_scikit_images_pictures_are_read_without_a_download(monkeypatch):
    def no_network(*arguments):
        raise AssertionError("asks for the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    pictures = read_pictures("skimage")
    assert [p.name for p in pictures] == list(PHOTOGRAPHS)
    for picture in pictures:
        assert 100 < min(picture.clean.shape[2:]) < 400
        assert 0 <= picture.clean.min() < picture.clean.max() <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no PNG image in nowhere"),
        (["{folder}", "--images", "0"], "--images must be at least 1; got 0"),
        (["{folder}", "--sigmas", "25", "-1"], "--sigmas must be positive"),
        (["{folder}", "--methods", "small", "BM4D"], "--methods BM4D is in no name of bsds-gray"),
        (["{folder}", "--methods", "EPLL"], "fit it with `python benchmarks/rivals.py"),
    ],
)
def test_bad_input_leaves_with_status_2(words, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        table.main([word.format(folder=folder) for word in words])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_measures_and_writes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(folder), "--images", "2", "--sigmas", "25", "--methods", "gray-small"]
    table.main(words)
    first = capsys.readouterr().out
    assert "images, 2 images" in first
    assert first.count("bsds-gray-small") == 3
    assert (tmp_path / "runs/table/images/denoising.md").read_text(encoding="utf-8") == first
    monkeypatch.setattr(table, "measure", None)
    table.main(words)
    assert capsys.readouterr().out == first
