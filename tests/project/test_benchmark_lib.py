"""benchmarks/lib: the command line, tables, images, figures and turns that all scripts share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lib import data, figures, table, timing
from lib.fm2s import fm2s
from lib.words import Needed, choice, command, need
from PIL import Image

DEFAULTS = {
    "folder": Needed("the folder"),
    "every": 1,
    "seed": 0,
    "sigmas": (15.0, 25.0),
    "names": ("a",),
    "minutes": 1.5,
    "images": int,
    "out": Path,
    "fast": True,
}


@pytest.fixture
def script():
    """A script that keeps its options."""
    seen = []
    return command(seen.append, place="folder", **DEFAULTS), seen


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("BSD68", {}),
        ("BSD68 every=2 sigmas=15,50 names=b,c", {"every": 2, "sigmas": (15.0, 50.0)}),
        ("--sigmas 15 50 --every 2 BSD68", {"every": 2, "sigmas": (15.0, 50.0)}),
        ("BSD68 --names b c seed=3", {"names": ("b", "c"), "seed": 3}),
        ("BSD68 --images 4 --out x fast=false", {"images": 4, "out": Path("x"), "fast": False}),
        ("folder=BSD68 minutes=0.5", {"minutes": 0.5}),
    ],
)
def test_words_give_typed_options(words, changed, script):
    main, seen = script
    assert main(words.split()) == 0
    usual = {"images": None, "out": None}
    expected = DEFAULTS | usual | {"folder": "BSD68"} | changed
    if "names=b,c" in words:
        expected |= {"names": ("b", "c")}
    assert vars(seen[0]) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "folder=the folder is needed"),
        ("a b", "folder takes one value; got a b"),
        ("a none=1", "unknown key 'none': use folder, every, seed"),
        ("a --none 1", "unknown key 'none'"),
        ("a --sigmas 15 --none 1", "unknown key 'none'"),
        ("a every=0", "every must be a whole number of at least 1; got '0'"),
        ("a --every two", "every must be a whole number of at least 1; got 'two'"),
        ("a images=0", "images must be a whole number of at least 1; got '0'"),
        ("a seed=-1", "seed must be a whole number of at least 0; got '-1'"),
        ("a --sigmas 25 -1", "sigmas must be positive; got '-1'"),
        ("a sigmas=inf", "sigmas must be positive; got 'inf'"),
        ("a sigmas=nan", "sigmas must be positive; got 'nan'"),
        ("a fast=yes", "fast must be true or false; got 'yes'"),
        ("a --every", "every=… is needed"),
        ("a sigmas=", "sigmas=… is needed"),
    ],
)
def test_bad_words_end_with_one_sentence(words, message, script, capsys):
    main, seen = script
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert (error.count("\n"), seen) == (1, [])


def test_errors_of_the_run_are_sentences_and_help_is_the_docstring(script, capsys):
    def run(options):
        raise OSError("the disk is full")

    assert command(run, place="folder", **DEFAULTS)(["a"]) == 2
    assert capsys.readouterr().err == "the disk is full\n"
    assert command(run)(["--help"]) == 0
    assert capsys.readouterr().out.startswith("benchmarks/lib: the command line")
    with pytest.raises(
        ValueError, match=r'needs the package none_such: pip install -e ".\[bench\]"'
    ):
        need("none_such")


def test_unknown_words_go_to_others_and_first_words_choose(capsys):
    seen = []
    main = choice(a=command(seen.append, place="names", others="more", names=(), more=()))
    assert main(["a", "x", "prior.lambda=2", "y"]) == 0
    assert vars(seen[0]) == {"names": ("x", "y"), "more": ("prior.lambda=2",)}
    assert main(["b"]) == 2
    assert capsys.readouterr().err == "give a\n"


def test_a_cut_off_line_of_the_cache_is_dropped_and_the_rest_kept(tmp_path):
    cache = table.Cache(tmp_path / "new" / "c.csv", ["a", "b", "x", "y"], values=2)
    cache.add(("with, comma", "1"), [1 / 3, 2])
    cache.add(("other", "1"), [3, 4])
    whole = cache.path.read_text()
    cache.path.write_text(whole[:-3])
    again = table.Cache(cache.path, ["a", "b", "x", "y"], values=2)
    assert again.lines == {("with, comma", "1"): pytest.approx((1 / 3, 2), abs=1e-6)}
    again.add(("other", "1"), [5, 6])
    assert table.Cache(cache.path, [], values=2)["other", "1"] == (5, 6)
    assert cache.path.read_text().splitlines()[0] == "a,b,x,y"


def test_tables():
    heads = ["", *table.sigma_heads((15.0, 2.5))]
    assert table.markdown(heads, [["a", 1, ""]]) == "|  | σ15 | σ2.5 |\n|---|---|---|\n| a | 1 |  |"


def test_scikit_images_pictures_are_read_without_a_download(monkeypatch):
    pytest.importorskip("skimage", reason="benchmarks need the extra `bench`")

    def no_network(*arguments):
        raise AssertionError("asks for the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    pictures = data.read_pictures("skimage")
    assert [p.name for p in pictures] == list(data.PHOTOGRAPHS)
    for picture in pictures:
        assert 100 < min(picture.clean.shape[2:]) < 400
        assert 0 <= picture.clean.min() < picture.clean.max() <= 1


def test_noise_goes_by_the_place_in_the_whole_set(tmp_path):
    for i in range(3):
        Image.new("L", (9, 7), 50 * i).save(tmp_path / f"{i}.png")
    third = data.spaced(data.read_pictures(tmp_path), 2)[1]
    assert (third.name, third.index) == ("2.png", 2)
    noise = torch.randn(1, 7, 9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(third.noisy(0.1), 100 / 255 + 0.1 * noise[None])
    with pytest.raises(FileNotFoundError, match="no PNG image in"):
        data.read_pictures(tmp_path / "none")


def test_few_are_every_eighth_of_bsd68():
    assert data.spaced(range(68), 9) == list(range(0, 68, 8))
    assert data.spaced(range(68), 2) == [0, 34]
    assert data.spaced(range(9), 9) == list(range(9))
    assert data.spaced(range(10), 9) == [0, 2, 4, 6, 8]


def test_psnr_is_of_the_clipped_result_unless_told_otherwise():
    clean, beyond = torch.full((1, 1, 4, 4), 0.9), torch.full((1, 1, 4, 4), 1.9)
    assert figures.psnr(beyond, clean) == pytest.approx(20, abs=1e-4)
    assert figures.psnr(beyond, clean, clip=False) == pytest.approx(0, abs=1e-4)
    assert figures.mean_psnr(lambda y, sigma: y * 0 + 3, [clean[0], clean], 0.1) == pytest.approx(
        20, abs=1e-4
    )


def test_turns_alternate_and_medians_are_of_each_without_the_warm_up():
    now, calls = [0.0], []
    seconds = {"rival": [100, 1, 9, 2], "ours": [500, 30, 40, 90]}  # the first of each warms up

    def timed(name):
        def run(turn):
            calls.append(name)
            now[0] += seconds[name][turn + 1]

        return run

    found = timing.medians(timed("rival"), timed("ours"), turns=3, clock=lambda: now[0])
    assert calls == ["rival", "ours"] * 4
    assert found == [2, 40]
    calls.clear()
    long = timing.in_turns(timed("rival"), timed("ours"), turns=3, clock=lambda: now[0], long=29)
    assert [len(taken) for taken in long] == [3, 1]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_what_a_call_holds():
    torch.ones(2**26)  # an earlier peak, four times as high
    size, seconds = timing.peak(lambda: torch.ones(2**24))  # 64 MiB, held for a moment only
    assert 60 < size / 2**20 < 80
    assert seconds > 0


def test_a_table_makes_its_folder(tmp_path):
    table.write_csv(tmp_path / "new" / "t.csv", ("a", "b"), [(1, 2)])
    assert (tmp_path / "new" / "t.csv").read_text() == "a,b\n1,2\n"


def test_fm2s_is_called_as_its_readme_says(tmp_path):
    """Gray, 8 bits, the configuration of the microscope, with gradients."""
    (tmp_path / "configs.py").write_text("CONFOCAL_CONFIG, WIDEFIELD_CONFIG = 2, 3\n")
    (tmp_path / "FM2S.py").write_text(
        "import torch\nSEED = 1\n"
        "def FM2S(image, config):\n"
        "    assert str(image.dtype) == 'uint8' and torch.is_grad_enabled()\n"
        "    return image // config\n"
    )
    with torch.no_grad():
        denoise = fm2s(tmp_path)
        found = denoise(np.array([[0.0, 0.5], [1.0, 1.2]]), "WideField")
    assert (255 * found).round().tolist() == [[0, 42], [85, 85]]
    with pytest.raises(FileNotFoundError, match="must be a clone of Danielement321/FM2S"):
        fm2s(tmp_path / "elsewhere")
