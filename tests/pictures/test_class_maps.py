"""Class and orientation maps: what must come out of models whose classes are known."""

import math

import pytest
import torch
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.constraints import orthonormalise
from gmdm_prior.pictures.class_maps import class_directions, class_maps


def two_classes(symmetries="d4"):
    """A flat class, and one of edges along the rows: all its strong filters vary down columns."""
    size = 4
    levels = torch.arange(size, dtype=torch.float64)
    across = [torch.cos(math.pi * f * (levels + 0.5) / size) for f in range(size)]
    waves = [(i, j) for i in range(size) for j in range(size) if i + j]
    rows = torch.stack([torch.outer(across[i], across[j]) for i, j in waves])
    filters = orthonormalise((rows / rows.flatten(1).norm(dim=1)[:, None, None])[None, :, None])
    down = torch.tensor([0.1 if j == 0 else 1e-6 for _, j in waves], dtype=torch.float64)
    variances = torch.stack([torch.full_like(down, 1e-6), down])
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return gm.PatchMixture(filters, variances, weights, torch.tensor([0, 0]), symmetries)


def step(angle, size=24):
    """A straight edge through the middle that runs at this angle, flat on either side."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    distance = math.sin(angle) * x[None, :] + math.cos(angle) * x[:, None]  # y points down
    return (distance > 0.25).double()


def test_edges_and_flat_parts_are_told_apart():
    maps = class_maps(two_classes(), step(0.0), 0.05)
    size, half = 4, 12
    assert maps.classes.shape == maps.angle.shape == maps.confidence.shape == (24, 24)
    # the patch of row r covers rows r - 1 to r + 2, the edge lies between rows 11 and 12
    crossed = [r for r in range(24) if r - 1 < half <= r - 1 + size - 1]
    expected = torch.zeros(24, 24, dtype=torch.long)
    expected[crossed] = 1
    assert torch.equal(maps.classes, expected)
    assert maps.confidence[crossed].min() > 0.9
    assert maps.confidence[:8].max() < 0.1


@pytest.mark.parametrize(("angle", "symmetries"), [(0.0, "none"), (0.0, "d4"), (math.pi / 2, "d4")])
def test_angle_runs_along_the_edge(angle, symmetries):
    maps = class_maps(two_classes(symmetries), step(angle), 0.05)
    miss = (maps.angle[12, 12] - angle + math.pi / 2) % math.pi - math.pi / 2
    assert abs(float(miss)) < 1e-6
    assert 0 <= float(maps.angle.min()) <= float(maps.angle.max()) < math.pi


def test_bundled_model_knows_a_slanted_edge():
    """Any angle, seen through noise, to the nearest of the classes' own, 45 degrees apart."""
    model = gm.load("gray")
    for degrees in (0, 25, 70, 90, 115, 155):
        clean = 0.2 + 0.5 * step(math.radians(degrees), 32).float()
        noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(degrees))
        maps = class_maps(model, clean + 0.05 * noise, 0.05)
        seen = math.degrees(float(maps.angle[15, 15]))
        assert abs((seen - degrees + 90) % 180 - 90) < 23
        assert maps.confidence[15, 15] > 0.6


def test_directions_turn_with_the_patch():
    """Quarter turns turn the gradient by 90 degrees (z -> -z), flips mirror it (z -> conj z)."""
    z = class_directions(mixture(4, bases=2, classes=5, symmetries="d4"))
    assert z.shape == (8, 5)
    assert z.abs().max() < 1
    for element in range(8):
        turned = -1 if element % 4 % 2 else 1
        expected = turned * (z[0].conj() if element > 3 else z[0])
        torch.testing.assert_close(z[element], expected, rtol=0, atol=1e-12)


def test_direction_is_that_of_the_samples():
    """Against the structure tensor of many samples of a single class, by finite differences."""
    model = mixture(4, bases=1, classes=1, symmetries="none")
    with torch.no_grad():
        model.variances[0, 1] = 0.5  # nearly all along one filter, so that there is a direction
    x = model.sample((200_000,), generator=torch.Generator().manual_seed(0))[:, 0].double()
    right = (x[:, :-1, 1:] - x[:, :-1, :-1] + x[:, 1:, 1:] - x[:, 1:, :-1]) / 2
    up = (x[:, :-1, :-1] - x[:, 1:, :-1] + x[:, :-1, 1:] - x[:, 1:, 1:]) / 2
    xx, yy, xy = (float((a * b).mean()) for a, b in ((right, right), (up, up), (right, up)))
    expected = complex(xx - yy, 2 * xy) / (xx + yy)
    assert abs(expected) > 0.2
    assert abs(complex(class_directions(model)[0, 0]) - expected) < 0.01  # 200,000 samples


def test_a_flat_model_is_sure_of_nothing():
    """White patches have no direction; a pixel is an image too."""
    model = mixture(3, bases=1, classes=1)
    with torch.no_grad():
        model.variances.fill_(0.3)
    assert class_directions(model).abs().max() < 1e-9
    maps = class_maps(model, torch.rand(1, 5, 7, dtype=torch.float64), 0.1)
    assert maps.confidence.shape == (5, 7)
    assert maps.confidence.max() < 1e-9
    assert class_maps(model, torch.rand(1, 1, dtype=torch.float64), 0.1).classes.shape == (1, 1)


def test_strips_do_not_show(monkeypatch):
    from gmdm_prior.pictures import class_maps as module

    model, image = mixture(3, symmetries="d4"), torch.rand(13, 9, dtype=torch.float64)
    whole = class_maps(model, image, 0.1)
    monkeypatch.setattr(module, "PATCHES_AT_ONCE", 20)
    cut = class_maps(model, image, 0.1)
    assert torch.equal(whole.classes, cut.classes)
    torch.testing.assert_close(whole.angle, cut.angle)
    torch.testing.assert_close(whole.confidence, cut.confidence)


def test_what_has_no_maps_is_refused():
    with pytest.raises(TypeError, match="must be a PatchMixture; got PatchModel"):
        class_maps(product(3), torch.rand(8, 8), 0.1)
    with pytest.raises(ValueError, match=r"one gray image \(H, W\); got 1 channel\(s\) and \(3, 8"):
        class_maps(mixture(3), torch.rand(3, 8, 8), 0.1)
    with pytest.raises(ValueError, match=r"got 3 channel\(s\) and \(8, 8\)"):
        class_maps(mixture(2, channels=3, symmetries="flips"), torch.rand(8, 8), 0.1)


@pytest.mark.parametrize("element", range(1, 8))
def test_maps_turn_with_the_picture(element):
    """Exactly, for odd patches, which have a middle: quarter turns add 90 degrees, flips negate."""
    model = mixture(3, symmetries="d4")
    image = torch.rand(11, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, turned = (class_maps(model, x, 0.1) for x in (image, symmetry.act(image, element)))
    angle = symmetry.act(plain.angle, element % 4) + element % 4 * math.pi / 2
    if element > 3:
        angle = -angle.flip(0)
    z = torch.polar(symmetry.act(plain.confidence, element), 2 * angle)
    assert torch.equal(turned.classes, symmetry.act(plain.classes, element))
    seen = torch.polar(turned.confidence, 2 * turned.angle)
    torch.testing.assert_close(seen, z, rtol=0, atol=1e-12)
