"""What models say about themselves, and how they refuse parameters that define no density."""

import math

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior import symmetry


def test_counts_of_numbers():
    model = mixture(8, bases=3, classes=40)
    assert model.num_parameters == 3 * 63 * 64 + 40 * 64 == 14_656
    assert model.degrees_of_freedom == 3 * 63 * 62 // 2 + 40 * 63 + 39
    paper = product(7, components=125)
    assert paper.num_parameters == 8_352
    assert paper.degrees_of_freedom == 48 * 47 // 2 + 48 + 48 * 124


def test_shapes_are_told():
    model = mixture(3, channels=2)
    assert (model.channels, model.patch_size, model.event_shape) == (2, 3, (2, 3, 3))
    assert model.normalised
    assert model.filters.shape == (2, 16, 2, 3, 3)
    assert product(3).filters.shape == (8, 1, 3, 3)


def test_times_and_levels():
    assert gm.sigma_from_time(gm.time_from_sigma(0.3)) == pytest.approx(0.3)
    assert gm.sigma_from_time(0.02) == pytest.approx(0.2)
    assert gm.time_from_sigma(torch.tensor(2.0)).item() == 2.0


def test_the_group_acts():
    x = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    seen = {tuple(symmetry.act(x, q).flatten().tolist()) for q in range(8)}
    assert len(seen) == 8
    for p in range(8):
        for q in range(8):
            product_ = symmetry.act(symmetry.act(x, p), q)
            assert tuple(product_.flatten().tolist()) in seen
        assert torch.equal(symmetry.act(symmetry.act(x, p), symmetry.inverse(p)), x)
    mirror = symmetry.act(x, symmetry.group("flips")[1])
    assert torch.equal(mirror, x.flip(-1))
    with pytest.raises(ValueError, match="flips"):
        symmetry.group("flip")


def test_a_model_with_a_mean_denoises_the_mean():
    model = mixture(2).with_mean(0.01)
    y = torch.full((1, 2, 2), 1.5, dtype=torch.float64)
    denoised = model.denoise(y, 0.2)
    # N(1/2, 0.01) and a mean of four pixels with noise variance 0.04 / 4
    assert denoised.mean().item() == pytest.approx(0.5 + 0.01 / (0.01 + 0.01) * 1.0)
    samples = model.sample((20_000,), generator=torch.Generator().manual_seed(0)).mean((1, 2, 3))
    assert samples.mean().item() == pytest.approx(0.5, abs=0.005)
    assert samples.var().item() == pytest.approx(0.01, rel=0.05)
    assert mixture(2).denoise(y, 0.2).mean().item() == pytest.approx(1.5)
    with pytest.raises(ValueError, match="variance"):
        mixture(2).with_mean(0.0)


def test_a_model_with_a_mean_integrates_to_one_over_patches():
    model = product(2, filters=1).with_mean(0.05)
    rows = torch.cat([model.filters.flatten(1), torch.full((1, 4), 0.5, dtype=torch.float64)])
    rows = rows / rows.norm(dim=1, keepdim=True)
    z = torch.linspace(-6, 6, 601, dtype=torch.float64)
    x = (torch.cartesian_prod(z, z + 1.0) @ rows).reshape(-1, 1, 2, 2)
    mass = model.log_prob(x, 0.1).exp().sum() * (z[1] - z[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-6)


def test_samples_are_reproducible_and_placed():
    model = mixture(3)
    draw = [model.sample((4,), 0.1, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draw)
    assert model.float().sample((4,)).dtype == torch.float32
    levels = torch.tensor([0.0, 10.0])
    spread = product(3).sample((500, 2), levels).std((0, 2, 3, 4))
    assert spread[1] > 5 * spread[0]
    assert product(3).sample().shape == (1, 3, 3)


def tensors():
    model = mixture(2, bases=2, classes=3)
    return {
        "filters": model.filters.data,
        "variances": model.variances.data,
        "weights": model.weights.data,
        "basis": model.basis,
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"filters": torch.zeros(3, 1, 2, 2)}, "filters"),
        ({"filters": torch.zeros(2, 2, 1, 2, 2)}, "3 rows"),
        ({"variances": torch.zeros(3, 2)}, "variances"),
        ({"variances": torch.zeros(3, 3)}, "positive"),
        ({"variances": torch.full((3, 3), math.inf)}, "finite"),
        ({"weights": torch.tensor([0.5, 0.5, 0.5])}, "sum to one"),
        ({"weights": torch.tensor([1.5, -0.5, 0.0])}, "positive"),
        ({"basis": torch.tensor([0, 1, 2])}, "basis"),
        ({"basis": torch.tensor([0, 1])}, "basis"),
        ({"filters": torch.ones(2, 3, 1, 2, 2)}, "orthonormal"),
        ({"symmetries": "c4"}, "symmetries"),
    ],
)
def test_mixture_refuses_what_is_no_density(change, match):
    with pytest.raises(ValueError, match=match):
        gm.PatchMixture(**{**tensors(), **change})


@pytest.mark.parametrize(
    ("filters", "logits", "bound", "match"),
    [
        (torch.zeros(3, 2, 2), torch.zeros(3, 5), 1.0, "filters"),
        (torch.zeros(4, 1, 2, 2), torch.zeros(4, 5), 1.0, "1 to 3"),
        (product(2).filters.data, torch.zeros(2, 5), 1.0, "logits"),
        (product(2).filters.data, torch.zeros(3, 1), 1.0, "L >= 2"),
        (product(2).filters.data, torch.zeros(3, 5), -1.0, "bound"),
        (product(2).filters.data, torch.full((3, 5), math.nan), 1.0, "finite"),
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, 5), 1.0, "positive norms"),
        (torch.ones(3, 1, 2, 2), torch.zeros(3, 5), 1.0, "orthogonal"),
    ],
)
def test_product_refuses_what_is_no_density(filters, logits, bound, match):
    with pytest.raises(ValueError, match=match):
        gm.PatchModel(filters, logits, bound)
