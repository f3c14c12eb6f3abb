"""A mixture adapted to a noisy picture: EM by brute force, and what it finds."""

import copy
import itertools
import math
import sys

import pytest
import torch
from models import mixture
from torch.distributions import MultivariateNormal

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.fast.adapted import FLOOR
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.training import adapt

MODULE = sys.modules["gmdm_prior.images.adapt"]
D = zero_mean_basis(1, 3)
NOISE = 0.01


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stripes(side):
    return 0.5 + 0.3 * torch.sin(1.3 * torch.arange(side))[:, None].expand(side, side)


def picture(side=40):
    """Stripes, and noise."""
    clean = stripes(side).double()
    return clean[None] + 0.1 * torch.randn(side, side, generator=seeded(4), dtype=torch.float64)


@pytest.fixture
def plain(monkeypatch):
    """EM without what is left out of it."""
    monkeypatch.setattr(MODULE, "LEAST", 0.0)
    monkeypatch.setattr(MODULE, "RARE", -1.0)
    monkeypatch.setattr(MODULE, "RANK", 64)
    monkeypatch.setattr(MODULE, "CLASSES", 5)
    monkeypatch.setattr(MODULE, "FEW", 1)
    monkeypatch.setattr(MODULE, "STRENGTH", 30.0)
    monkeypatch.setattr(MODULE, "SEEN", 10**6)


def gaussian(covariance):
    return MultivariateNormal(torch.zeros(len(D)).double(), (covariance + covariance.T) / 2)


def covariances(own):
    rows = own.axes @ D.T
    return rows.mT @ (own.variances[:, :, None] * rows)


def by_hand(model, y, iterations):
    """The docstring, one class and patch at a time: covariances and weights."""
    x, eye, groups = y @ D.T, torch.eye(len(D)).double(), symmetry.group(model.symmetries)
    oriented = {}
    for k, (h, element) in itertools.product(range(len(model.weights)), enumerate(groups)):
        turned = symmetry.act(model.filters.detach(), symmetry.inverse(element))
        rows = turned[model.basis[k]].flatten(1) @ D.T
        oriented[h, k] = rows.T @ torch.diag(model.variances[k].detach()) @ rows
    usage = model.responsibilities(y.unflatten(1, (1, 3, 3)), NOISE**0.5).detach().mean(0)
    stand_out = (model.variances / (model.variances + NOISE)).sum(1).detach()
    order = sorted(oriented, key=lambda hk: -float(usage[hk] * stand_out[hk[1]]))[:5]
    first = [oriented[hk] for hk in order]
    start = torch.stack([usage[hk] for hk in order]) / 2
    rest = model.log_prob(y.unflatten(1, (1, 3, 3)), NOISE**0.5).detach()
    now, weights = list(first), start
    for _ in range(iterations):
        logs = [
            gaussian(c + NOISE * eye).log_prob(x) + w.log()
            for c, w in zip(now, weights, strict=True)
        ]
        r = torch.stack([rest + (1 - weights.sum()).log(), *logs]).softmax(0)[1:]
        moved = []
        for k, c in enumerate(first):
            scatter = sum(float(r[k, i]) * torch.outer(x[i], x[i]) for i in range(len(x)))
            t = (scatter + 30 * (c + NOISE * eye)) / (r[k].sum() + 30)
            values, vectors = torch.linalg.eigh(t - NOISE * eye)
            moved.append(vectors @ torch.diag(values.clamp(min=FLOOR)) @ vectors.T)
        now, weights = moved, (r.sum(1) + 30 * start) / (len(x) + 30)
    return torch.stack(now), weights


@pytest.mark.parametrize("symmetries", ["d4", "none"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_iterations_are_those_of_the_docstring(plain, symmetries, iterations, monkeypatch):
    monkeypatch.setattr(MODULE, "ITERATIONS", iterations)
    model, image = mixture(3, classes=4, symmetries=symmetries), picture(24)[None]
    model.variances[0] *= 1e-2  # explains what is flat, where there is nothing to learn
    image[..., 6:] = 0.5 + 0.1 * torch.randn(24, 18, generator=seeded(6), dtype=torch.float64)
    own = MODULE.own_classes(model, image, NOISE, Evaluator())
    expected, weights = by_hand(model, MODULE.patches(image, 3), iterations)
    torch.testing.assert_close(covariances(own), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(own.weights, weights)


def test_the_penalised_likelihood_never_falls(plain, monkeypatch):
    model, image = mixture(3, classes=4), picture()[None]
    y = MODULE.patches(image, 3)
    monkeypatch.setattr(MODULE, "ITERATIONS", 0)
    start = MODULE.own_classes(model, image, NOISE, Evaluator())
    before = covariances(start) + NOISE * torch.eye(8).double()

    def objective(own):
        m = covariances(own) + NOISE * torch.eye(8).double()
        fit = own.joined(model).log_prob(y.unflatten(1, (1, 3, 3)), NOISE**0.5).sum()
        shape = m.logdet() + (torch.linalg.inv(m) @ before).diagonal(dim1=1, dim2=2).sum(1)
        rest = (1 - start.weights.sum()) * (1 - own.weights.sum()).log()
        mixing = (start.weights * own.weights.log()).sum() + rest
        return float(fit - 15 * shape.sum() + 30 * mixing)

    values = []
    for iterations in range(8):
        monkeypatch.setattr(MODULE, "ITERATIONS", iterations)
        values.append(objective(MODULE.own_classes(model, image, NOISE, Evaluator())))
    rises = [after - before for before, after in itertools.pairwise(values)]
    assert min(rises) > -1e-7  # float64 rounding of sums of hundreds
    assert rises[0] > 10
    assert rises[-1] < rises[0] / 10


@pytest.mark.parametrize("rank", [20, 64])
def test_only_what_stands_out_of_the_noise_counts(rank, monkeypatch):
    monkeypatch.setattr(MODULE, "RANK", rank)
    own = MODULE.own_classes(mixture(8).double(), picture(64)[None], NOISE, Evaluator())
    wide = own.variances > FLOOR
    assert int(wide.sum(1).max()) <= rank
    assert float(own.variances[wide].min()) > MODULE.LEAST * NOISE
    assert 0 < int(wide.sum()) < wide.numel()


def test_finds_what_the_picture_is_made_of():
    """More probable are other patches of the same stripes, in other noise."""
    model, image = gm.load("gray-likelihood"), picture(96).float()
    adapted = adapt(model, image, 0.1)
    g = seeded(9)
    other = picture(96).float() + 0.02 * torch.randn(1, 96, 96, generator=g)
    fresh = MODULE.patches(other[None], 8)[:500].unflatten(1, (1, 8, 8))
    with torch.no_grad():
        gain = (adapted.log_prob(fresh, 0.1) - model.log_prob(fresh, 0.1)).mean()
    assert gain > 3  # nats of a patch
    before, after = (gm.HalfQuadraticSplitting(m)(image[None], 0.1) for m in (model, adapted))
    errors = [(image - stripes(96)).square().mean() for image in (before, after)]
    assert errors[1] < 0.7 * errors[0]


def test_channels_and_batches_are_more_of_the_same(monkeypatch):
    monkeypatch.setattr(MODULE, "FEW", 1)
    model = mixture(3)
    stack = torch.stack([picture(), picture().flip(1)])
    batch, channels = adapt(model, stack, 0.1), adapt(model, stack.transpose(0, 1), 0.1)
    torch.testing.assert_close(batch.variances, channels.variances)
    alone = adapt(model, stack[0], 0.1)
    assert not torch.allclose(batch.variances, alone.variances)


def test_the_model_and_the_image_are_left_alone():
    model, noisy = mixture(3).float(), picture().float()
    kept, image = copy.deepcopy(model), noisy.clone()
    got = adapt(model, noisy, 0.1)
    for name, values in model.state_dict().items():
        assert torch.equal(values, kept.state_dict()[name])
    assert torch.equal(noisy, image)
    assert got.variances.dtype == torch.float32
    assert got.symmetries == "none"
    assert not any(p.requires_grad for p in got.parameters())
    assert torch.equal(got.variances, adapt(model, noisy, 0.1).variances)


@pytest.mark.parametrize("side", [3, 9, 40])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [1e-4, 0.1])
def test_flat_and_tiny_images(side, value, sigma):
    got = adapt(mixture(3), torch.full((1, side, side), value), sigma)
    assert bool(torch.isfinite(got.variances).all())
    assert math.isclose(float(got.weights.detach().sum()), 1, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a PatchMixture; got NoneType"),
        ({"model": mixture(3).with_mean(0.1)}, ValueError, "flat mean"),
        ({"noisy": torch.zeros(1, 9, 9, dtype=torch.uint8)}, TypeError, "floating-point"),
        ({"noisy": torch.zeros(9, 9)}, ValueError, r"noisy must be \(C, H, W\).*\(9, 9\)"),
        ({"noisy": torch.zeros(1, 2, 9)}, ValueError, "at least one patch, 3x3"),
        ({"noisy": torch.full((1, 9, 9), math.nan)}, ValueError, "must be finite"),
        ({"sigma": 0.0}, ValueError, "sigma must be a positive, finite number; got 0.0"),
        ({"sigma": math.inf}, ValueError, "sigma must be a positive, finite number; got inf"),
        ({"model": mixture(3, channels=2)}, ValueError, "must have 2 channels; got 1"),
    ],
)
def test_bad_input_is_refused(change, error, message):
    given = {"model": mixture(3), "noisy": picture(), "sigma": 0.1} | change
    with pytest.raises(error, match=message):
        adapt(**given)
