"""The fused loss against autograd over every (patch, expert, component)."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gmdm_prior as gm
from gmdm_prior.constraints import project_orthogonal
from gmdm_prior.training.score import product_loss as loss_module
from gmdm_prior.training.score import product_sums
from gmdm_prior.training.score.product_loss import denoising_score_matching, product_loss

EXACT = 1e-8  # relative, in float64; what is met is about 1e-14
SINGLE = 2e-5  # relative, in float32: 7 digits, of which third moments lose two


def make_model(b=3, j=None, components=25, seed=0, spread=1.5, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    j = b * b - 1 if j is None else j
    filters = project_orthogonal(torch.randn(j, 1, b, b, generator=g, dtype=dtype))
    filters = filters * torch.linspace(0.3, 3, j, dtype=dtype)[:, None, None, None]
    logits = spread * torch.randn(j, components, generator=g, dtype=dtype)
    return gm.PatchModel(filters, logits)


def make_data(model, n=90, seed=1, contrast=0.3):
    """Patches at the levels 0, 0.02, 0.4 and between, mixed; some responses beyond the means."""
    g = torch.Generator().manual_seed(seed)
    dtype = model.filters.dtype
    x = contrast * torch.randn(n, *model.event_shape, generator=g, dtype=dtype)
    sigma = 0.4 * torch.rand(n, generator=g, dtype=dtype)
    sigma[::7], sigma[1::7], sigma[2::7] = 0, 0.4, 0.02
    noise = torch.randn(x.shape, generator=g, dtype=dtype)
    return x, x + sigma.reshape(-1, 1, 1, 1) * noise, sigma


def naive_loss(model, x, y, sigma):
    """Eq. 4 by a tensor of all components, for autograd."""
    filters, logits = model.filters.flatten(1), model.experts.logits
    means = model.experts.means.to(filters)
    x, y, variance = x.flatten(1), y.flatten(1), sigma[:, None] ** 2
    z = y @ filters.T
    s = model.experts.base_scale**2 + variance * filters.square().sum(1)
    joint = torch.log_softmax(logits, 1) - (z[..., None] - means) ** 2 / (2 * s[..., None])
    score = (torch.softmax(joint, -1) @ means - z) / s
    return (x - y - variance * (score @ filters)).square().sum(1).mean()


def gradients(loss, model):
    return torch.autograd.grad(loss, [model.filters, model.experts.logits])


def relative(a, b):
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize(
    ("b", "j", "components"), [(3, 8, 25), (3, 5, 25), (4, 15, 125), (2, 1, 2), (3, 8, 300)]
)
def test_fused_equals_autograd(b, j, components):
    model = make_model(b, j, components)
    x, y, sigma = make_data(model)
    loss = denoising_score_matching(model, x, y, sigma)
    expected = naive_loss(model, x, y, sigma)
    assert relative(loss, expected) < EXACT
    for a, e in zip(gradients(loss, model), gradients(expected, model), strict=True):
        assert a.shape == e.shape
        assert relative(a, e) < EXACT


def test_fused_equals_autograd_over_several_parts(monkeypatch):
    monkeypatch.setattr(product_sums, "BUFFER", 7 * 5 * 25)  # 7 patches at a time
    test_fused_equals_autograd(3, 5, 25)


def test_fused_equals_autograd_off_the_constraint():
    """iPALM asks for gradients at extrapolated points, where filters are not orthogonal."""
    model = make_model()
    x, y, sigma = make_data(model)
    with torch.no_grad():
        g = torch.Generator().manual_seed(3)
        model.filters.add_(0.3 * torch.randn(model.filters.shape, generator=g).double())
    loss, expected = denoising_score_matching(model, x, y, sigma), naive_loss(model, x, y, sigma)
    for a, e in zip(gradients(loss, model), gradients(expected, model), strict=True):
        assert relative(a, e) < EXACT


def test_responses_far_outside_the_means_do_not_underflow():
    """At sigma = 0 every exponential of these underflows in either precision."""
    model = make_model()
    x, y, sigma = make_data(model, contrast=5.0)
    assert ((y.flatten(1) @ model.filters.flatten(1).T).abs() > 5).any()
    loss, expected = denoising_score_matching(model, x, y, sigma), naive_loss(model, x, y, sigma)
    for a, e in zip(gradients(loss, model), gradients(expected, model), strict=True):
        assert relative(a, e) < EXACT


@pytest.mark.parametrize("spread", [1.5, 30.0])
def test_float32_is_accurate(spread):
    """At spread 30 weights go down to e^-150, which float32 does not hold."""
    model = make_model(4, components=125, spread=spread)
    x, y, sigma = make_data(model)
    exact = naive_loss(model, x, y, sigma)
    wanted = gradients(exact, model)
    single = gm.PatchModel(model.filters.float(), model.experts.logits.float())
    loss = denoising_score_matching(single, x.float(), y.float(), sigma.float())
    assert loss.dtype == torch.float32
    assert relative(loss, exact) < SINGLE
    for a, e in zip(gradients(loss, single), wanted, strict=True):
        assert a.dtype == torch.float32
        assert relative(a.double(), e) < SINGLE


def test_gradcheck():
    model = make_model(2, components=5)
    x, y, sigma = (t.flatten(1) if t.ndim > 1 else t for t in make_data(model, 6))

    class Loss(torch.nn.Module):
        def forward(self, filters, logits):
            copy = gm.PatchModel(model.filters, logits)
            del copy.filters, copy.experts.logits
            copy.filters, copy.experts.logits = filters, logits
            events = [t.reshape(-1, 1, 2, 2) for t in (x, y)]
            return denoising_score_matching(copy, *events, sigma)

    inputs = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(Loss(), inputs)


@pytest.mark.parametrize("j", [8, 5])
def test_loss_is_the_error_of_the_denoiser(j):
    """Eq. 4 with Tweedie's formula: the mean squared error of the posterior mean."""
    model = make_model(j=j)
    x, y, sigma = make_data(model)
    error = (model.denoise(y, sigma) - x).flatten(1).square().sum(1).mean()
    assert relative(denoising_score_matching(model, x, y, sigma), error) < EXACT


def test_other_densities_go_through_autograd():
    model = make_model().with_mean(0.05)
    x, y, sigma = make_data(model)
    loss = denoising_score_matching(model, x, y, sigma)
    error = (model.denoise(y, sigma) - x).flatten(1).square().sum(1).mean()
    assert relative(loss, error) < EXACT
    assert all(bool(g.abs().sum() > 0) for g in gradients(loss, model))


def test_batch_shapes_and_a_single_level():
    model = make_model()
    x, y, _ = make_data(model)
    whole = denoising_score_matching(model, x, y, 0.2)
    split = (9, 10, *model.event_shape)
    assert torch.equal(
        whole, denoising_score_matching(model, x.reshape(split), y.reshape(split), 0.2)
    )
    levels = torch.full((9, 1), 0.2)
    assert (
        relative(
            denoising_score_matching(model, x.reshape(split), y.reshape(split), levels.double()),
            whole,
        )
        < EXACT
    )


def test_truth_is_a_stationary_point():
    """Score matching on the model's own samples: the gradient at the truth is sampling error."""
    g = torch.Generator().manual_seed(5)
    model = make_model(spread=1.0)
    n = 20_000
    x = model.sample((n,), generator=g)
    sigma = 0.4 * torch.rand(n, generator=g, dtype=torch.float64)
    y = x + sigma.reshape(-1, 1, 1, 1) * torch.randn(x.shape, generator=g, dtype=torch.float64)
    at_truth = gradients(denoising_score_matching(model, x, y, sigma), model)[1].norm()
    with torch.no_grad():
        model.experts.logits.add_(0.5 * torch.randn(8, 25, generator=g, dtype=torch.float64))
    elsewhere = gradients(denoising_score_matching(model, x, y, sigma), model)[1].norm()
    assert at_truth < elsewhere / 5


def test_only_wanted_gradients_and_the_chain_rule():
    model = make_model()
    data = make_data(model)
    both = gradients(denoising_score_matching(model, *data), model)
    model.experts.logits.requires_grad_(False)
    (-2 * denoising_score_matching(model, *data)).backward()
    assert relative(model.filters.grad, -2 * both[0]) < EXACT
    assert model.experts.logits.grad is None
    model.experts.logits.requires_grad_(True)
    model.filters.requires_grad_(False)
    denoising_score_matching(model, *data).backward()
    assert relative(model.experts.logits.grad, both[1]) < EXACT
    with torch.no_grad():
        assert not denoising_score_matching(model, *data).requires_grad


def test_inputs_are_left_alone():
    model = make_model()
    data = make_data(model)
    before = [t.clone() for t in data]
    denoising_score_matching(model, *data).backward()
    assert all(torch.equal(a, b) for a, b in zip(data, before, strict=True))


def test_no_tensor_of_all_components(monkeypatch):
    """The largest tensor it makes does not grow with the number of patches."""
    model = make_model(4, components=125, dtype=torch.float32)
    model.filters.requires_grad_(True)

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numbers = max(self.numbers, result.untyped_storage().nbytes() // 4)
            return result

    n = 3000
    x, y, sigma = make_data(model, n)
    monkeypatch.setattr(product_sums, "BUFFER", 2**18)
    with Largest() as seen:
        denoising_score_matching(model, x, y, sigma)
    assert 2**17 < seen.numbers <= 2**18 < n * 15 * 125 / 20


def test_zero_weights_are_no_nan():
    """Responses where every component near by has the weight zero: those far away explain them."""
    model = make_model()
    with torch.no_grad():
        model.experts.logits[:, 3:] = -5000
    loss = denoising_score_matching(model, *make_data(model))
    assert all(bool(torch.isfinite(g).all()) for g in (loss, *gradients(loss, model)))


def test_only_what_requires_gradients_is_worked_out(monkeypatch):
    model, seen = make_model(), []

    def spy(*arguments):
        seen.append(arguments[-1])
        return product_loss(*arguments)

    monkeypatch.setattr(loss_module, "product_loss", spy)
    data = make_data(model)
    denoising_score_matching(model, *data)
    model.filters.requires_grad_(False)
    denoising_score_matching(model, *data)
    with torch.no_grad():
        denoising_score_matching(model, *data)
    assert seen == [(True, True), (False, True), (False, False)]


def test_bad_input():
    model = make_model()
    x, y, sigma = make_data(model)
    with pytest.raises(TypeError, match=r"model must be a DensityModel.*got Linear"):
        denoising_score_matching(torch.nn.Linear(1, 1), x, y, sigma)
    with pytest.raises(ValueError, match=r"y must be x with noise.*\(90, .*\(89, "):
        denoising_score_matching(model, x, y[1:], sigma)
    with pytest.raises(ValueError, match=r"y must have the type.*float64.*float32.*y.to\(x\)"):
        denoising_score_matching(model, x, y.float(), sigma)
    with pytest.raises(ValueError, match="at least one event"):
        denoising_score_matching(model, x[:0], y[:0], sigma[:0])
    with pytest.raises(ValueError, match="sigma must be"):
        denoising_score_matching(model, x, y, -0.1)
    with pytest.raises(ValueError, match="sigma must be a number or broadcast"):
        denoising_score_matching(model, x, y, sigma[:-1])
    with pytest.raises(ValueError, match="x must have shape"):
        denoising_score_matching(model, x[..., :-1], y, sigma)
    with pytest.raises(TypeError, match="x must be real floating point"):
        denoising_score_matching(model, x.long(), y, sigma)


def test_product_loss_without_gradients():
    model = make_model()
    x, y, sigma = make_data(model)
    rows = model.filters.detach().flatten(1)
    loss = product_loss(
        rows, model.experts.logits, x.flatten(1), y.flatten(1), sigma**2, wanted=(False, False)
    )
    assert (loss.filters, loss.logits) == (None, None)
    assert relative(loss.loss, naive_loss(model, x, y, sigma)) < EXACT
