"""The scripts of the paper's figures run in a tiny setting, and what they print holds."""

import re

import pytest
import torch
from lib import paper as shared
from paper import figure_1, figure_2, figure_3, figure_4, figure_5, figure_6, figure_7, table_1

import gmdm_prior as gm

WORDS = {
    figure_1: ["count=2000"],
    figure_2: ["count=2000"],
    figure_3: ["size=64", "cell=32", "weights=gray-small"],
    figure_4: ["count=60", "steps=8"],
    figure_5: ["steps=1", "batch_size=50", "count=1000"],
    figure_6: ["steps=1", "batch_size=50", "patches=1000"],
    figure_7: ["count=300"],
}


@pytest.fixture
def printed(monkeypatch, tmp_path, capsys):
    """What a script prints; it trains on one bundled photograph and draws no potentials."""
    monkeypatch.setattr(shared, "training_pictures", lambda data: shared.pictures(data)[:1])
    monkeypatch.setattr(shared, "draw", lambda model, patches, out: out.write_text("drawn"))
    monkeypatch.setattr(figure_6, "SIGMAS", (0.02, 0.1))

    def run(script):
        out = tmp_path / "figure.png"
        assert script.main([*WORDS[script], f"out={out}"]) == 0
        assert out.is_file()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("script", [figure_1, figure_2, figure_5, figure_6, figure_7])
def test_a_figure_is_drawn(script, printed):
    assert "sigma 0.1" in printed(script)


def test_the_checkerboard_is_denoised_blind(printed):
    noisy, blind, informed, _ = map(float, re.findall(r"([\d.]+) dB", printed(figure_3)))
    assert noisy + 6 < blind < informed + 0.3


def test_the_valley_lies_on_the_diagonal_where_noise_is_strong(printed):
    last = printed(figure_4).splitlines()[-1]
    noise, found = re.findall(r"\d\.\d+", last)
    assert float(found) == pytest.approx(float(noise), rel=0.1)


def test_the_table_compares_with_the_published_one(capsys):
    words = ["side=32", "sigmas=25", "large=bsds-gray-7x7"]
    assert table_1.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 25 | ")
    assert "(27.47)" in lines[2]
    assert lines[3] == "15×15 over 7×7, one step: +0.00 (+0.34)"  # one model twice


def test_the_mismatch_is_small_for_samples_of_the_model_and_not_for_narrower_ones():
    model = gm.load("bsds-gray-7x7")
    samples = model.sample((20_000,), 0.0, torch.Generator().manual_seed(0))
    right = shared.mismatch(model, samples, 0.1)
    wrong = shared.mismatch(model, 0.5 * samples, 0.02)
    assert right.max() < 0.01  # a histogram of 20,000 in 100 bins: 100 / 40,000 in the mean
    assert wrong.max() > 0.1
