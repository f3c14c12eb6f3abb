"""The pictures: drawn from the numbers, for every kind of model, without touching globals."""

import sys

import pytest
import torch
from matplotlib.figure import Figure
from models import mixture, product

from gmdm_prior import symmetry
from gmdm_prior.pictures import report as plots

CURVE = [
    {"step": float(i), "stage": stage, "loss": -float(i)}
    | {"held_out_loss": float("nan") if i % 2 else 1.0, "psnr": 20.0 + i, "seconds": 0.1}
    for i, stage in enumerate(["full"] * 3 + ["tied"] * 3 + ["score"] * 205)
]


def patches(size=3, channels=1, count=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, channels, size, size, generator=g)


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        (lambda: product(3, components=25), 1),
        (lambda: product(2, filters=1), 1),
        (lambda: mixture(3), 1),
        (lambda: mixture(2, channels=3, symmetries="flips"), 3),
    ],
)
def test_report_of_every_model(model, channels, tmp_path):
    model = model()
    path = tmp_path / "report.png"
    shown = patches(model.event_shape[-1], channels)
    kept = shown.clone()
    plots.report(model, shown, path, CURVE)
    assert path.stat().st_size > 10_000
    assert torch.equal(shown, kept)
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_report_without_a_curve(tmp_path):
    plots.report(mixture(2), patches(2), tmp_path / "report.png")
    assert (tmp_path / "report.png").exists()


def test_other_models_are_refused(tmp_path):
    with pytest.raises(TypeError, match="PatchModel or PatchMixture"):
        plots.report(torch.nn.Linear(1, 1), patches(), tmp_path / "report.png")


def test_tiles_lie_row_by_row_and_fill_the_range():
    images = torch.arange(1.0, 4.0).view(3, 1, 1, 1) * torch.tensor([[1.0, -0.5], [0.0, 0.25]])
    canvas = plots.tile(images, 2)
    assert canvas.shape == (5, 5)
    for top, left in ((0, 0), (0, 3), (3, 0)):
        block = canvas[top : top + 2, left : left + 2]
        assert torch.equal(block, torch.tensor([[1.0, -0.5], [0.0, 0.25]], dtype=torch.float64))
    assert canvas[2].isnan().all()
    assert canvas[3:, 3:].isnan().all()


def test_potentials_meet_the_marginals_of_the_models_own_samples():
    model = product(3, components=25)
    samples = model.sample((40_000,), generator=torch.Generator().manual_seed(0))
    axes = Figure().subplots()
    plots.potential(axes, model, 2, samples, sigmas=(0.3,))
    empirical, learned = axes.lines
    at = dict(zip(*learned.get_data(), strict=True))
    differences = [y - at[x] for x, y in zip(*empirical.get_data(), strict=True) if y < 4]
    # a bin of 1 % of the mass has 400 counts: the logarithm is known to 5 %
    assert len(differences) > 10
    assert abs(sum(differences) / len(differences)) < 0.02
    assert max(map(abs, differences)) < 0.3


def blocks(axes, rows, columns, size):
    """The small images of a picture of tiles, (rows, columns, size, size)."""
    shown = torch.from_numpy(axes.images[0].get_array().filled(float("nan")))
    pitch = size + 1
    return torch.stack(
        [
            torch.stack([shown[pitch * i :, pitch * j :][:size, :size] for j in range(columns)])
            for i in range(rows)
        ]
    )


def test_examples_are_turned_into_the_position_of_the_basis():
    model = mixture(3, bases=1, classes=1)
    with torch.no_grad():  # nearly all variance along the first filter, which has no symmetry
        model.variances.fill_(1e-6)
        model.variances[0, 0] = 1.0
    first = model.filters[0, 0]
    turned = torch.stack([symmetry.act(first, element) for element in range(8)])
    axes = Figure().subplots()
    plots.class_examples(axes, model, turned)
    expected = first[0] / first.abs().max()
    for block in blocks(axes, 1, 8, 3)[0]:  # as it is: float32 patches in a float64 model
        torch.testing.assert_close(block, expected, rtol=0, atol=1e-6)


def test_classes_show_the_patches_that_they_claim():
    model = mixture(3, bases=1, classes=2, symmetries="none")
    with torch.no_grad():
        model.variances[0], model.variances[1] = 1.0, 1e-5
    weak, strong = 1e-3 * patches(count=50), 10 * patches(count=50, seed=1)
    axes = Figure().subplots()
    plots.class_examples(axes, model, torch.cat([strong, weak]))
    for row, mine in zip(blocks(axes, 2, 8, 3), (weak, strong), strict=True):  # smoothest first
        scaled = (mine / mine.abs().amax((1, 2, 3), keepdim=True))[:, 0]
        for block in row:
            assert (scaled - block).abs().amax((1, 2)).min() < 1e-5
