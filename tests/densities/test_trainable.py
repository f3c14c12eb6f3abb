"""Trainable models: the same density at first, an exact one after any steps, a plain one again."""

import copy
import io
import pickle

import pytest
import torch
from models import events, mixture, product, subbands, trained, wavelet

import gmdm_prior as gm

PLAIN = {
    "product of two filters": lambda: product(2, filters=2),
    "product 3x3": lambda: product(3),
    "product 2x2, two channels": lambda: product(2, channels=2),
    "mixture 3x3": lambda: mixture(3),
    "mixture with mean": lambda: mixture(2).with_mean(0.2),
}


@pytest.fixture(params=PLAIN)
def plain(request):
    return PLAIN[request.param]()


def test_trainable_is_the_same_density_of_the_same_class(plain):
    free, x = plain.trainable(), events(plain, 5)
    torch.testing.assert_close(free.log_prob(x, 0.1), plain.log_prob(x, 0.1), rtol=1e-10, atol=0)
    assert isinstance(free, type(plain))
    assert all(p.requires_grad for p in free.parameters())
    assert not any(p.requires_grad for p in plain.parameters())
    assert free.degrees_of_freedom == plain.degrees_of_freedom
    assert free.num_parameters == plain.num_parameters


def test_parameters_stay_in_their_sets(plain):
    """Large random parameters, as no optimiser would leave them."""
    free = plain.trainable()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in free.parameters():
            p.add_(3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        filters = free.filters
        rows = filters.flatten(-3) / filters.flatten(-3).norm(dim=-1, keepdim=True)
        gram = rows @ rows.mT
        torch.testing.assert_close(
            gram, torch.eye(gram.shape[-1]).to(gram).expand_as(gram), rtol=0, atol=1e-10
        )
        assert (filters.mean((-2, -1)) / filters.abs().max()).abs().max() < 1e-10
        assert (filters - plain.filters).abs().max() > 0.1
        if isinstance(free, gm.PatchMixture):
            assert (free.variances > 0).all()
            assert free.weights.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_whose_weight_rounds_to_zero_stays_a_class(dtype):
    """The softmax of -2000 is zero in both types; its logarithm, and the gradients, must not be."""
    free = mixture(2).to(dtype).trainable()
    with torch.no_grad():
        free.log_weights[0] = -2000.0
    assert torch.softmax(free.log_weights, 0)[0] == 0
    x = events(free, 5, dtype=dtype)
    log_prob = free.log_prob(x, 0.1)
    gradients = torch.autograd.grad(log_prob.sum(), list(free.parameters()))
    assert all(torch.isfinite(values).all() for values in (log_prob, *gradients))
    assert free.frozen().weights[0] > 0
    torch.testing.assert_close(free.frozen().log_prob(x, 0.1), log_prob)


def test_frozen_and_saved_are_what_was_trained(plain, tmp_path):
    free, x = trained(plain), events(plain, 5)
    expected = free.log_prob(x, 0.1)
    assert (expected - plain.log_prob(x, 0.1)).abs().max() > 0.1
    frozen = free.frozen()
    assert type(frozen) is type(plain)
    assert not any(p.requires_grad for p in frozen.parameters())
    torch.testing.assert_close(frozen.log_prob(x, 0.1), expected, rtol=1e-10, atol=0)
    gm.save(free, tmp_path / "free.safetensors")
    loaded = gm.load(tmp_path / "free.safetensors", dtype=torch.float64)
    assert type(loaded) is type(plain)
    torch.testing.assert_close(loaded.log_prob(x, 0.1), expected, rtol=1e-10, atol=0)
    again = free.trainable()
    torch.testing.assert_close(again.log_prob(x, 0.1), expected, rtol=1e-10, atol=0)


def test_pickles_copies_and_state_dicts_are_the_same_model(plain):
    free, x = trained(plain), events(plain, 5)
    expected = free.log_prob(x, 0.1)
    assert torch.equal(pickle.loads(pickle.dumps(free)).log_prob(x, 0.1), expected)
    assert torch.equal(copy.deepcopy(free).log_prob(x, 0.1), expected)
    file = io.BytesIO()
    torch.save(free.state_dict(), file)
    file.seek(0)
    other = plain.trainable()
    other.load_state_dict(torch.load(file))
    assert torch.equal(other.log_prob(x, 0.1), expected)


@pytest.mark.parametrize("make", [gm.PatchAveraging, gm.PatchLikelihood])
@pytest.mark.parametrize("start", [mixture(3), product(3)], ids=["mixture", "product"])
def test_tables_follow_the_parameters(make, start):
    """Without gradients image operators keep tables: they must be those of the present numbers."""
    free = start.trainable()
    operator = make(free)
    call = operator if make is gm.PatchAveraging else operator.score
    x = torch.rand(1, 1, 8, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        before = call(x, 0.1)
        free.rotation.add_(torch.randn(free.rotation.shape, dtype=torch.float64))
        after = call(x, 0.1)
        other = make(free.frozen())
        expected = other(x, 0.1) if make is gm.PatchAveraging else other.score(x, 0.1)
        assert (after - before).abs().max() > 1e-4
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-9)
        free.start.copy_(-free.start.flip(-1))  # a buffer, as load_state_dict changes it
        changed = call(x, 0.1)
    with_gradients = call(x, 0.1)
    assert with_gradients.requires_grad
    scale = with_gradients.abs().max().item()
    torch.testing.assert_close(changed, with_gradients.detach(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("start", [mixture(4), product(3)], ids=["mixture", "product"])
@pytest.mark.parametrize("name", ["average", "hqs", "log_prob", "score"])
def test_gradients_of_parameters_through_images(start, name):
    """Against central differences along one random direction of all parameters."""
    free = start.trainable()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 9, 8, generator=generator, dtype=torch.float64)
    likelihood = gm.PatchLikelihood(free)
    call = {
        "average": gm.PatchAveraging(free),
        "hqs": gm.HalfQuadraticSplitting(free, stride=2),
        "log_prob": likelihood.log_prob,
        "score": likelihood.score,
    }[name]
    with torch.no_grad():  # tables are kept now; they must not serve below
        call(x, 0.1)
    seen = call(x, 0.1)
    probe = torch.randn(seen.shape, generator=generator, dtype=torch.float64)
    parameters = list(free.parameters())
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    gradients = torch.autograd.grad((seen * probe).sum(), parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def at(t):
        moved = copy.deepcopy(free)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), directions, strict=True):
                p.add_(t * d)
        operator = copy.deepcopy(call) if isinstance(call, torch.nn.Module) else None
        if operator is None:
            operator = getattr(gm.PatchLikelihood(moved), name)
        else:
            operator.model = moved
        return (operator(x, 0.1) * probe).sum().item()  # recorded: without tables

    numeric = (at(1e-5) - at(-1e-5)) / 2e-5
    assert slope.item() == pytest.approx(numeric, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("model", [subbands(), wavelet()], ids=["sub-bands", "wavelet"])
def test_others_have_no_trainable_form(model):
    with pytest.raises(TypeError, match="no trainable form; take a PatchModel or a PatchMixture"):
        model.trainable()
