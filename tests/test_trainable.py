"""Models with free parameters: the same density at first, an exact one after every step."""

import copy
import math
import pickle

import pytest
import torch
from models import events, mixture, opponents, product

import gmdm_prior as gm

MAKES = {
    "mixture": lambda: mixture(3),
    "mixture, flips": lambda: mixture(2, symmetries="flips"),
    "product": lambda: product(3),
    "product of two filters": lambda: product(2, filters=2),
    "product, two channels": lambda: product(2, channels=2),
    "opponents": opponents,
}


def stepped(model, steps=10):
    """After Adam's steps towards a lower score-matching loss of random events."""
    free = model.trainable()
    adam = torch.optim.Adam(free.parameters(), lr=0.03)
    x = events(model, 20, scale=0.1)
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    losses = []
    for _ in range(steps):
        adam.zero_grad()
        loss = (free.denoise(y, 0.1) - x).square().mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return free


def plain_parts(model):
    return list(model.planes) if isinstance(model, gm.OpponentModel) else [model]


@pytest.fixture(params=MAKES)
def model(request):
    return MAKES[request.param]()


def test_begins_as_the_same_density(model):
    free, x = model.trainable(), events(model, 4)
    torch.testing.assert_close(free.log_prob(x, 0.1), model.log_prob(x, 0.1))
    assert all(p.requires_grad for p in free.parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_every_parameter_has_a_gradient(model):
    free = model.trainable()
    free.log_prob(events(model, 4), 0.1).sum().backward()
    for name, parameter in free.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_laws_hold_after_ten_steps(model):
    """Orthogonal zero-mean filters, positive variances, weights of sum one, heat equation."""
    before, free = model, stepped(model)
    for old, part in zip(plain_parts(before), plain_parts(free), strict=True):
        rows = part.filters.flatten(-3)
        gram = rows @ rows.mT
        off = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
        assert off.abs().max() < 1e-12
        assert part.filters.mean((-2, -1)).abs().max() < 1e-12
        assert (part.filters - old.filters).abs().max() > 1e-3
        if isinstance(part, gm.PatchMixture):
            torch.testing.assert_close(gram, torch.eye(rows.shape[-2]).to(gram).expand_as(gram))
            assert (part.variances > 0).all()
            assert part.weights.sum().item() == pytest.approx(1, abs=1e-12)
    x, sigma = events(model, 3), 0.2

    def log_prob(y, s):
        return free.log_prob(y.reshape(1, *x.shape[1:]), s)[0]

    for y in x.flatten(1).detach():
        gradient = torch.func.grad(log_prob)(y, sigma)
        torch.testing.assert_close(
            free.score(y.reshape(1, *x.shape[1:]), sigma).flatten(), gradient
        )
        laplacian = torch.func.hessian(log_prob)(y, sigma).diagonal().sum()
        s = torch.tensor(sigma, dtype=torch.float64)
        change = torch.func.grad(log_prob, argnums=1)(y, s)
        torch.testing.assert_close(change, sigma * (laplacian + gradient.square().sum()))


def test_density_still_integrates_to_one():
    free = stepped(product(2, filters=2))
    rows = free.filters.detach().flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True)
    line = torch.linspace(-4, 4, 401, dtype=torch.float64)
    points = torch.cartesian_prod(line, line) @ rows
    density = free.log_prob(points.reshape(-1, 1, 2, 2), 0.1).exp()
    assert (density.sum() * (line[1] - line[0]) ** 2).item() == pytest.approx(1, abs=1e-6)


def test_image_denoisers_never_use_stale_tables():
    """Denoise, step, denoise: the second time with the new density."""
    free, y = product(3).trainable(), events(product(3), 1, scale=0.2).repeat(1, 1, 4, 4)
    with torch.no_grad():
        before = gm.PatchAveraging(free)(y, 0.1)
        for parameter in free.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
        after = gm.PatchAveraging(free)(y, 0.1)
    expected = gm.PatchAveraging(free.frozen())(y, 0.1)
    torch.testing.assert_close(after, expected)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
def test_gradients_reach_bases_through_image_denoisers(kind):
    free = gm.load("bsds-gray-small").trainable()
    noisy = torch.rand((1, 1, 17, 18), generator=torch.Generator().manual_seed(0))
    kind(free)(noisy, 0.1).square().sum().backward()
    for name, parameter in free.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        torch.testing.assert_close(
            kind(free)(noisy, 0.1), kind(gm.load("bsds-gray-small"))(noisy, 0.1), atol=2e-5, rtol=0
        )


def test_frozen_and_saved(model, tmp_path):
    free, x = stepped(model.with_mean(0.2), 2), events(model, 4)
    plain = free.frozen()
    assert type(plain) is type(model)
    assert not any(p.requires_grad for p in plain.parameters())
    torch.testing.assert_close(plain.log_prob(x, 0.1), free.log_prob(x, 0.1).detach())
    gm.save(free, tmp_path / "free.safetensors")
    read = gm.load(tmp_path / "free.safetensors", dtype=torch.float64)
    torch.testing.assert_close(read.log_prob(x, 0.1), plain.log_prob(x, 0.1))


def test_copies_keep_training(model):
    free, x = stepped(model, 2), events(model, 4)
    copied = copy.deepcopy(free)
    torch.testing.assert_close(copied.log_prob(x, 0.1), free.log_prob(x, 0.1))
    other = model.trainable()
    other.load_state_dict(free.state_dict())
    torch.testing.assert_close(other.log_prob(x, 0.1), free.log_prob(x, 0.1))
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(plain_parts(free)[0])


def test_trainable_twice_is_refused(model):
    with pytest.raises(ValueError, match="trainable already"):
        model.trainable().trainable()


def test_mean_is_kept():
    free = mixture(2).with_mean(0.3).trainable()
    assert free.mean_part.variance == 0.3
    assert math.isfinite(free.log_prob(events(free, 1), 0.1).item())
