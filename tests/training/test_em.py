"""Likelihood training: its steps maximise what they claim to, and it finds what is there."""

import io
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from training_examples import (
    SMALL,
    known_mixture,
    mismatch,
    natural_patches,
    random_basis,
    random_covariances,
    same,
    seeded,
)

from gmdm_prior import PatchMixture, symmetry
from gmdm_prior.constraints import zero_mean_basis
from gmdm_prior.training import fit_em
from gmdm_prior.training.likelihood import clustering, em, full_mixture, tied_mixture
from gmdm_prior.training.likelihood.coordinates import symmetry_matrices, to_coordinates
from gmdm_prior.training.likelihood.diagonalise import (
    common_diagonalisation,
    diagonal,
    diagonal_loss,
)
from gmdm_prior.training.likelihood.statistics import Penalty

NOISE = 0.05


# --- Common diagonalisation ---


def loss(basis: Tensor, covariances: Tensor, weights: Tensor, least: float = 0.0) -> Tensor:
    return (weights / weights.sum() @ diagonal_loss(diagonal(basis, covariances), least)).sum()


@pytest.mark.parametrize("seed", range(5))
def test_common_diagonalisation_finds_the_joint_basis_of_commuting_matrices(seed):
    generator = seeded(seed)
    truth = random_basis(8, generator)
    logs = 2 * torch.randn(6, 8, dtype=torch.float64, generator=generator)
    covariances = truth.T @ torch.diag_embed(logs.exp()) @ truth
    weights = torch.rand(6, dtype=torch.float64, generator=generator) + 0.1
    found = common_diagonalisation(random_basis(8, generator), covariances, weights, steps=100)
    match = (found @ truth.T).abs()
    # Newton steps, but for damping: the error falls by about 1e-3 a step, to rounding.
    assert torch.allclose(match.amax(1), torch.ones(8, dtype=torch.float64), atol=1e-10)
    assert match.argmax(1).unique().numel() == 8
    assert torch.allclose(found @ found.T, torch.eye(8, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("least", [0.0, 0.8])
def test_common_diagonalisation_falls_to_a_stationary_point(least):
    generator = seeded(4)
    covariances = random_covariances(5, 6, generator)
    weights = torch.rand(5, dtype=torch.float64, generator=generator)
    basis = random_basis(6, generator)
    losses = [loss(basis, covariances, weights, least)]
    for _ in range(300):
        basis = common_diagonalisation(basis, covariances, weights, least, steps=1)
        losses.append(loss(basis, covariances, weights, least))
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert losses[-1] < losses[0] - 0.01
    if least:  # the bound is active, or this would test nothing
        assert (diagonal(basis, covariances) < least).any()
    angle = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    turned = torch.linalg.matrix_exp(angle - angle.T) @ basis
    (slope,) = torch.autograd.grad(loss(turned, covariances, weights, least), angle)
    # the last steps gain less than a float64 can tell: slope ~ sqrt(1e-16)
    assert slope.abs().max() < 1e-6


def test_common_diagonalisation_keeps_a_basis_without_covariances():
    basis = random_basis(4, seeded())
    none = torch.empty(0, 4, 4, dtype=torch.float64)
    assert torch.equal(common_diagonalisation(basis, none, none[:, 0, 0]), basis)


# --- E-steps against slow and obvious ones ---


def test_full_expectation_is_that_of_multivariate_normals():
    x = torch.randn(50, 5, dtype=torch.float64, generator=seeded(1))
    covariances = random_covariances(3, 5, seeded(2))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mixture = full_mixture.FullMixture(covariances, weights)
    normals = torch.distributions.MultivariateNormal(torch.zeros(5).double(), covariances)
    joint = normals.log_prob(x[:, None]) + weights.log()
    r = joint.softmax(1)
    got = full_mixture.expect(x, mixture)
    assert math.isclose(got.log_likelihood, joint.logsumexp(1).sum().item(), rel_tol=1e-12)
    assert torch.allclose(got.counts, r.sum(0), rtol=1e-12)
    assert torch.allclose(got.scatter, torch.einsum("nk,ni,nj->kij", r, x, x), rtol=1e-10)


@pytest.mark.parametrize("symmetries", ["d4", "flips", "none"])
def test_tied_expectation_is_that_of_the_model(symmetries):
    model = known_mixture(symmetries)
    patches = model.sample((40,), generator=seeded(2)).detach()
    x = to_coordinates(patches)
    bases = model.filters.detach().flatten(2) @ zero_mean_basis(1, 3).T
    parameters = (model.variances.detach(), model.weights.detach(), model.basis)
    mixture = tied_mixture.TiedMixture(bases, *parameters)
    turns = symmetry_matrices(symmetries, 1, 3)
    with torch.no_grad():
        got = tied_mixture.expect(x, mixture, turns)
        expected = model.log_prob(patches, 0.0).sum().item()
    turned = torch.stack(
        [to_coordinates(symmetry.act(patches, q)) for q in symmetry.group(symmetries)], 1
    )
    covariances = bases[model.basis].mT @ torch.diag_embed(mixture.variances) @ bases[model.basis]
    normals = torch.distributions.MultivariateNormal(torch.zeros(8).double(), covariances)
    joint = normals.log_prob(turned[:, :, None]) + mixture.weights.log()
    r = joint.flatten(1).softmax(1).view_as(joint)
    scatter = torch.einsum("nhk,nhi,nhj->kij", r, turned, turned)
    assert math.isclose(got.log_likelihood, expected, rel_tol=1e-10)
    assert torch.allclose(got.counts, r.sum((0, 1)), rtol=1e-8)
    assert torch.allclose(got.scatter, scatter, rtol=1e-8, atol=1e-12)


def test_expectations_do_not_depend_on_chunks(monkeypatch):
    x = to_coordinates(natural_patches(300))
    penalty = Penalty(least=1e-5)
    full = full_mixture.initial_mixture(x, 6, penalty, seeded())
    turns = symmetry_matrices("flips", 1, 4)
    tied = clustering.cluster(full, 2, turns, seeded())
    whole = full_mixture.expect(x, full), tied_mixture.expect(x, tied, turns)
    monkeypatch.setattr(full_mixture, "CHUNK", 7)
    monkeypatch.setattr(tied_mixture, "CHUNK", 7)
    parts = full_mixture.expect(x, full), tied_mixture.expect(x, tied, turns)
    for a, b in zip(whole, parts, strict=True):
        assert math.isclose(a.log_likelihood, b.log_likelihood, rel_tol=1e-12)
        assert torch.allclose(a.scatter, b.scatter, rtol=1e-10, atol=1e-14)
        assert torch.allclose(a.counts, b.counts, rtol=1e-10)


def test_truncation_changes_the_statistics_little():
    x = to_coordinates(natural_patches(300))
    full = full_mixture.initial_mixture(x, 6, Penalty(least=1e-5), seeded())
    exact, cut = full_mixture.expect(x, full), full_mixture.expect(x, full, 1e-3)
    assert cut.log_likelihood == exact.log_likelihood
    assert not torch.equal(cut.counts, exact.counts)
    assert ((cut.counts - exact.counts).abs() <= 1e-3 * len(x)).all()


# --- M-step and monotonicity ---


def test_full_maximisation_is_the_maximum():
    """The penalised objective has slope 0 along free and below 0 along bounded eigenvalues."""
    penalty = Penalty(least=0.4, patches=2.0, variance=0.3, members=0.5)
    statistics = full_mixture.Statistics(
        random_covariances(2, 4, seeded(3)) * torch.tensor([[[30.0]], [[4.0]]]),
        torch.tensor([30.0, 5.0], dtype=torch.float64),
    )
    best = full_mixture.maximise(statistics, penalty)
    values, vectors = torch.linalg.eigh(best.covariances)
    values = values.clone().requires_grad_()
    logits = best.weights.log().requires_grad_()
    covariances = (vectors * values[:, None]) @ vectors.mT
    fit = torch.logdet(covariances) * statistics.counts
    fit = fit + (torch.linalg.inv(covariances) * statistics.scatter).sum((1, 2))
    mass = (statistics.counts + penalty.members) @ logits.log_softmax(0)
    spread = (values.log() + penalty.variance / values).sum()
    objective = -0.5 * fit.sum() - 0.5 * penalty.patches * spread + mass
    slope, tilt = torch.autograd.grad(objective, (values, logits))
    bounded = values < penalty.least + 1e-9
    assert bounded.any()
    assert not bounded.all()
    assert slope[~bounded].abs().max() < 1e-10
    assert values.min() >= penalty.least - 1e-12
    assert (slope[bounded] < -0.1).all()
    assert tilt.abs().max() < 1e-10


def test_tied_maximisation_climbs_to_the_maximum():
    """For fixed statistics, to where every free slope of the penalised objective vanishes."""
    penalty = Penalty(least=0.7, patches=2.0, variance=0.3, members=0.5)
    basis = torch.tensor([0, 0, 0, 1, 1])
    counts = torch.tensor([30.0, 9.0, 5.0, 20.0, 12.0], dtype=torch.float64)
    scatter = random_covariances(5, 4, seeded(3)) * counts[:, None, None]
    statistics = tied_mixture.Statistics(scatter, counts)

    def objective(m: tied_mixture.TiedMixture) -> Tensor:
        in_basis = diagonal(m.bases[0], scatter[:3]), diagonal(m.bases[1], scatter[3:])
        fit = counts @ m.variances.log().sum(1) + (torch.cat(in_basis) / m.variances).sum()
        mass = (counts + penalty.members) @ m.weights.log()
        spread = (m.variances.log() + penalty.variance / m.variances).sum()
        return mass - 0.5 * fit - 0.5 * penalty.patches * spread

    generator = seeded(5)
    bases = torch.stack([random_basis(4, generator) for _ in range(2)])
    start = torch.ones(5, 4, dtype=torch.float64), torch.full((5,), 0.2, dtype=torch.float64)
    mixture = tied_mixture.TiedMixture(bases, *start, basis)
    reached = [objective(mixture)]
    for _ in range(60):
        mixture = tied_mixture.maximise(mixture, statistics, penalty)
        reached.append(objective(mixture))
    assert all(b >= a - 1e-10 for a, b in pairwise(reached))
    angles = torch.zeros(2, 4, 4, dtype=torch.float64, requires_grad=True)
    turned = torch.linalg.matrix_exp(angles - angles.mT) @ mixture.bases
    variances = mixture.variances.clone().requires_grad_()
    moved = tied_mixture.TiedMixture(turned, variances, mixture.weights, basis)
    slopes = torch.autograd.grad(objective(moved), (angles, variances))
    bounded = mixture.variances == penalty.least
    assert bounded.any()
    assert slopes[0].abs().max() < 1e-5  # sqrt of float64's rounding, times counts
    assert slopes[1][~bounded].abs().max() < 1e-8
    assert (slopes[1][bounded] < -0.1).all()
    assert torch.allclose(mixture.weights, (counts + 0.5) / (counts + 0.5).sum())


@pytest.mark.parametrize(("noise", "symmetries"), [(0.0, "d4"), (NOISE, "flips")])
def test_penalised_likelihood_never_falls(noise, symmetries):
    """Few patches, so that the regulariser matters, and many iterations: nearly converged."""
    patches = natural_patches(200)
    patches += noise * torch.randn(patches.shape, dtype=torch.float64, generator=seeded(9))
    records = []
    options = SMALL | {"full_iterations": 60, "iterations": 60, "truncation": 0.0}
    fit_em(patches, symmetries=symmetries, noise=noise, on_iteration=records.append, **options)
    for stage in ("full", "tied"):
        objectives = [r.objective for r in records if r.stage == stage]
        assert len(objectives) == 60
        assert objectives[-1] > objectives[0] + 1e-3
        # rounding of a sum of some 1e4 float64 terms of size 1 to 1e4, per patch
        assert all(b >= a - 1e-10 for a, b in pairwise(objectives))


def test_regulariser_of_the_record_is_the_one_of_the_docstring():
    problem = em.EMProblem.from_patches(natural_patches(), em.EMSettings(**SMALL))
    state = em.start(problem, seeded())
    while not em.finished(problem, state):
        before = state
        state, record = em.advance(problem, before)
    m, w = before.mixture.variances, before.mixture.weights
    written = -0.5 * (m.log() + 1e-4 / m).sum() + 1e-3 * w.log().sum()
    difference = record.objective - record.log_likelihood
    assert math.isclose(difference * 600, written.item(), rel_tol=1e-9)


# --- What it finds ---


@pytest.mark.parametrize(("symmetries", "components"), [("none", 8), ("flips", 16), ("d4", 48)])
def test_recovers_a_known_mixture(symmetries, components):
    truth = known_mixture(symmetries)
    patches = truth.sample((12_000,), generator=seeded(5)).detach()
    found = fit_em(
        patches.float(),
        bases=2,
        classes=4,
        symmetries=symmetries,
        components=components,
        full_iterations=20,
        iterations=20,
    )
    assert mismatch(found, truth) < 0.05
    fresh = truth.sample((4_000,), generator=seeded(6)).detach()
    with torch.no_grad():
        gap = (truth.log_prob(fresh, 0.0) - found.double().log_prob(fresh, 0.0)).mean()
    # 100 free numbers, 12,000 patches: about 100 / (2 · 12,000) = 0.004 nats are lost on average
    assert gap < 0.02


def test_noise_is_removed_from_the_variances():
    truth = known_mixture("none")
    clean = truth.sample((12_000,), generator=seeded(5)).detach()
    noisy = clean + NOISE * torch.randn(clean.shape, dtype=torch.float64, generator=seeded(7))
    options = {"bases": 2, "classes": 4, "components": 8, "symmetries": "none"}
    options |= {"full_iterations": 20, "iterations": 20}
    aware, unaware = (fit_em(noisy.float(), noise=s, **options) for s in (NOISE, 0.0))

    def power(model: PatchMixture) -> float:
        return (model.weights @ model.variances).sum().item()

    assert math.isclose(power(unaware) - power(aware), 8 * NOISE**2, rel_tol=0.02)
    # sampling error: a class of 2,400 patches knows a variance to sqrt(2 / 2,400) = 3 %
    assert math.isclose(power(aware), power(truth), rel_tol=0.05)
    ordered = [m.variances.detach().double().flatten().sort().values for m in (aware, truth)]
    large = ordered[1] > NOISE**2
    assert (ordered[0][large] / ordered[1][large] - 1).abs().max() < 0.15
    level = NOISE / 2  # less than it was trained at
    fresh = truth.sample((4_000,), level, generator=seeded(6)).detach()
    with torch.no_grad():
        exact = truth.log_prob(fresh, level)
        gaps = [(exact - m.double().log_prob(fresh, level)).mean() for m in (aware, unaware)]
    assert gaps[0] < 0.1
    assert gaps[1] > 3 * gaps[0]


def test_merging_keeps_power_and_weight():
    full = full_mixture.initial_mixture(
        to_coordinates(natural_patches()), 12, Penalty(least=1e-5), seeded()
    )
    tied = clustering.cluster(full, 2, symmetry_matrices("d4", 1, 4), seeded())
    merged = clustering.merge(tied, 5)
    assert len(merged.weights) == 5
    assert math.isclose(merged.weights.sum().item(), 1.0, rel_tol=1e-12)
    power = [(m.weights @ m.variances).sum().item() for m in (tied, merged)]
    assert math.isclose(*power, rel_tol=1e-12)
    assert sorted(merged.basis.unique().tolist()) == [0, 1]


def test_clustering_gives_every_basis_a_class():
    same = torch.eye(8, dtype=torch.float64).expand(6, 8, 8).clone()
    mixture = full_mixture.FullMixture(same, torch.full((6,), 1 / 6, dtype=torch.float64))
    tied = clustering.cluster(mixture, 4, symmetry_matrices("none", 1, 3), seeded())
    assert tied.basis.unique().tolist() == [0, 1, 2, 3]


# --- State ---


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_resumes_to_the_same_bits(stop):
    problem = em.EMProblem.from_patches(natural_patches().float(), em.EMSettings(**SMALL))
    state = em.start(problem, seeded(8))
    taken = 0
    while not em.finished(problem, state):
        if taken == stop:
            stored = io.BytesIO()
            torch.save(state.to_dict(), stored)
        state, _ = em.advance(problem, state)
        taken += 1
    stored.seek(0)
    resumed = em.EMState.from_dict(torch.load(stored, weights_only=True))
    while not em.finished(problem, resumed):
        resumed, _ = em.advance(problem, resumed)
    assert same(em.to_model(problem, state), em.to_model(problem, resumed))


def test_iterations_are_pure():
    problem = em.EMProblem.from_patches(natural_patches().float(), em.EMSettings(**SMALL))
    state = em.start(problem, seeded(8))
    for _ in range(SMALL["full_iterations"] + 1):
        last, (state, _) = state, em.advance(problem, state)
    assert torch.equal(last.random_state, em.start(problem, seeded(8)).random_state)
    assert not torch.equal(state.random_state, last.random_state)  # clustering drew from it
    for before in (last, state):
        kept = {k: v.clone() for k, v in before.to_dict()["mixture"].items()}
        one, two = em.advance(problem, before)[0], em.advance(problem, before)[0]
        assert all(torch.equal(kept[k], v) for k, v in before.to_dict()["mixture"].items())
        pairs = zip(*(s.to_dict()["mixture"].values() for s in (one, two)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_randomness_comes_from_the_generator_alone():
    patches = natural_patches().float()
    kept, state = patches.clone(), torch.get_rng_state()
    one, two, other = (fit_em(patches, generator=seeded(s), **SMALL) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(patches, kept)
    assert torch.equal(one.variances, two.variances)
    assert not torch.equal(one.variances, other.variances)


def test_records_say_what_was_done():
    records = []
    fit_em(natural_patches().float(), on_iteration=records.append, **SMALL)
    stages = [(r.stage, r.iteration) for r in records]
    assert stages == [(s, i) for s in ("full", "tied") for i in (1, 2, 3, 4)]
    assert all(math.isfinite(r.objective) and r.seconds >= 0 for r in records)


# --- Awkward and bad input ---


AWKWARD = {
    "all flat": lambda p: torch.full_like(p, 0.3),
    "mostly flat": lambda p: torch.cat([p[:12], torch.ones_like(p)]),
    "one patch only": lambda p: p[1:2].expand(len(p), -1, -1, -1).clone(),
    "as few as components": lambda p: p[:12],
    "large values": lambda p: 255 * p,
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_patches_give_a_finite_model(kind):
    model = fit_em(AWKWARD[kind](natural_patches().float()), **SMALL)
    y = natural_patches(20).float()
    with torch.no_grad():
        assert torch.isfinite(model.log_prob(y, 0.1)).all()
        assert torch.isfinite(model.denoise(y, 0.1)).all()


def test_flat_patches_do_not_spoil_the_first_partition():
    x = torch.randn(400, 8, dtype=torch.float64, generator=seeded())
    x[:40] = 0.0
    mixture = full_mixture.initial_mixture(x, 24, Penalty(least=1e-5), seeded())
    assert (mixture.weights > 0.005).sum() > 16  # 3 directions at 8 levels of contrast


def test_no_full_iterations_and_one_class():
    options = {"bases": 1, "classes": 1, "components": 1, "full_iterations": 0, "iterations": 1}
    patches = natural_patches()
    model = fit_em(patches, symmetries="none", **options)
    x = to_coordinates(patches)
    expected = torch.linalg.eigvalsh(x.T @ x + 1e-4 * torch.eye(15)) / (len(x) + 1)
    got = model.variances.detach()[0].sort().values.double()
    assert torch.allclose(got, expected.clamp(min=em.FLOOR), rtol=1e-4)  # float32 model


def test_colour_patches():
    model = fit_em(natural_patches(300, size=3, channels=3).float(), **SMALL)
    assert model.filters.shape == (2, 24, 3, 3, 3)
    assert model.filters.mean((-2, -1)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"symmetries": "d8"}, ValueError, "symmetries must be one of .*d8"),
        ({"bases": 0}, ValueError, "bases must be at least 1; got 0"),
        ({"bases": 2.0}, TypeError, "bases must be an integer; got 2.0"),
        ({"bases": 6}, ValueError, "classes=5, bases=6; raise classes"),
        ({"classes": 13}, ValueError, "classes=13, components=12; raise components"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"noise": -0.1}, ValueError, "noise must be .* got -0.1"),
        ({"noise": math.nan}, ValueError, "noise must be .* got nan"),
        ({"noise": "auto"}, TypeError, "noise must be a number; got 'auto'"),
        ({"truncation": 0.5}, ValueError, "truncation must lie in"),
        ({"components": 601}, ValueError, "components=601; got 600: give more patches"),
    ],
)
def test_bad_settings_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        fit_em(natural_patches().float(), **SMALL | change)


@pytest.mark.parametrize(
    ("patches", "error", "message"),
    [
        (natural_patches()[:, 0], ValueError, r"\(N, C, b, b\); got \(600, 4, 4\).*unsqueeze"),
        (natural_patches()[..., :3], ValueError, r"got \(600, 1, 4, 3\)"),
        (natural_patches()[..., :1, :1], ValueError, "at least 2×2"),
        (natural_patches().to(torch.uint8), TypeError, "floating-point .* torch.uint8"),
        (natural_patches().half(), TypeError, "float32 or float64; got torch.float16"),
        (natural_patches().numpy(), TypeError, "got a ndarray"),
        (natural_patches() / 0, ValueError, "patches must be finite"),
    ],
)
def test_bad_patches_are_refused(patches, error, message):
    with pytest.raises(error, match=message):
        fit_em(patches, **SMALL)


def test_a_state_of_the_full_stage_is_no_model():
    problem = em.EMProblem.from_patches(natural_patches().float(), em.EMSettings(**SMALL))
    with pytest.raises(ValueError, match=r"tied stage .* got 'full'"):
        em.to_model(problem, em.start(problem))
