"""The convolutional model: its own identities hold to rounding, the heat equation does not."""

import copy
import math

import pytest
import torch

import gmdm_prior as gm
from gmdm_prior.constraints import zero_mean_basis

SIZES = [(8, 8), (7, 5), (9, 12), (3, 2), (1, 1)]
ONE = -1e3  # logit of a component that has no weight


def conv(filters=3, components=9, grid=8, scale=1.0, seed=0):
    """Random filters of magnitudes about `scale`, uneven weights, float64."""
    g = torch.Generator().manual_seed(seed)
    k = torch.randn(filters, 1, grid, grid, generator=g, dtype=torch.float64) * scale / grid
    logits = torch.randn(filters, components, generator=g, dtype=torch.float64)
    return gm.ConvolutionalModel.from_filters(k, logits).requires_grad_(False)


def gaussian(filters=3, grid=8, scale=1.0):
    """One component, mean zero: the middle one of three."""
    model = conv(filters, 3, grid, scale)
    model.experts.logits.copy_(torch.tensor([ONE, 0.0, ONE]).expand(filters, 3))
    return model


def images(size, count=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    return 0.5 + 0.3 * torch.randn(count, 1, *size, generator=g, dtype=torch.float64)


def cyclic(kernel, image):
    """k ⊛ x by the double sum of its definition, kernel centred at (N // 2, N // 2)."""
    out, n = torch.zeros_like(image), len(kernel)
    for a in range(n):
        for b in range(n):
            out += kernel[a, b] * image.roll((a - n // 2, b - n // 2), (0, 1))
    return out


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_log_prob_is_the_product_over_pixels_and_filters(sigma):
    """Eq. 11 with convolutions and mixtures written out."""
    model = conv(components=5)
    (x,) = images((8, 8), 1)
    total = 0.0
    for j, kernel in enumerate(model.filters[:, 0]):
        z = cyclic(kernel, x[0])
        s = model.experts.base_scale**2 + model.magnitude[j] ** 2 * sigma**2
        normal = torch.exp(-((z[..., None] - model.experts.means) ** 2) / (2 * s))
        density = (model.experts.weights[j] * normal).sum(-1) / (2 * math.pi * s).sqrt()
        total += density.log().sum()
    torch.testing.assert_close(model.log_prob(x, sigma), total, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_score_is_gradient_of_log_prob(size, sigma):
    x = images(size).requires_grad_()
    model = conv()
    (gradient,) = torch.autograd.grad(model.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(model.score(x, sigma), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_denoise_and_posterior_are_tweedies_formulas(size):
    model, y, sigma = conv(), images(size), 0.2
    mean, variance = model.posterior(y, sigma)
    expected = y + sigma**2 * model.score(y, sigma)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
    assert torch.equal(model.denoise(y, sigma), mean)
    hessian = torch.func.hessian(lambda v: model.log_prob(v, sigma))(y[0])
    curvature = hessian.reshape(y[0].numel(), -1).diagonal().reshape(y[0].shape)
    expected = sigma**2 + sigma**4 * curvature
    torch.testing.assert_close(variance[0], expected, rtol=0, atol=1e-12)
    assert (variance >= 0).all()


def test_denoising_by_nothing_changes_nothing():
    y = images((7, 6))
    assert torch.equal(conv().denoise(y, 0.0), y)
    mixed = conv().denoise(y, torch.tensor([0.0, 0.1, 0.0]))
    assert torch.equal(mixed[[0, 2]], y[[0, 2]])
    assert not torch.equal(mixed[1], y[1])
    assert conv().posterior(y, 0.0)[1].abs().max() < 1e-15


def test_denoiser_keeps_its_digits_in_float32_at_sigma_80():
    """Without the mean of the image, which is flat and of size 80 / sqrt(n)."""
    model = conv()
    y = 80 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def zero_mean(x):
        return x.double() - x.double().mean((-2, -1), keepdim=True)

    expected = zero_mean(model.denoise(y.double(), 80.0))
    error = (zero_mean(model.denoise(y, 80.0)) - expected).abs().max()
    naive = (zero_mean(y + 6400 * model.score(y, 80.0)) - expected).abs().max()
    assert expected.abs().max() > 0.01
    assert error < 1e-5 < naive


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_residual_is_what_the_heat_equation_misses(size, sigma):
    """∂_sigma score - sigma ∇(Δ log f + ‖∇ log f‖²), by automatic differentiation."""
    model, x = conv(2, 5, 4), images(size, 1)[0]
    n = x.numel()

    def right(v):
        laplacian = torch.func.hessian(lambda u: model.log_prob(u, sigma))(v).reshape(n, n).trace()
        return sigma * (laplacian + model.score(v, sigma).square().sum())

    level = torch.tensor(sigma, dtype=torch.float64)
    rate = torch.func.jacfwd(lambda s: model.score(x, s))(level)
    missing = rate - torch.func.grad(right)(x)
    got_rate, got_missing = model.residual(x, sigma)
    torch.testing.assert_close(got_rate, rate, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got_missing, missing, rtol=1e-8, atol=1e-10)
    assert missing.norm() > 1e-3 * rate.norm()


def relative_residual(model, sigma, size=(16, 16)):
    rate, missing = model.residual(images(size), sigma)
    return (missing.norm() / rate.norm()).item()


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
def test_heat_equation_holds_for_one_component(sigma):
    assert relative_residual(gaussian(), sigma) < 1e-10


@pytest.mark.parametrize(
    ("filters", "components", "sigma", "expected"),
    [
        (1, 9, 0.02, 0.081),
        (3, 9, 0.02, 0.68),
        (3, 9, 0.5, 0.118),
        (3, 33, 0.1, 0.68),
        (6, 9, 0.1, 0.83),
    ],
)
def test_heat_equation_fails_for_more(filters, components, sigma, expected):
    """Theorem 3 is not exact: pinned, so that a change of the model shows."""
    model = conv(filters, components, 16)
    assert relative_residual(model, sigma) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", ["log_prob", "score", "denoise"])
def test_batches_are_loops_and_take_a_level_each(name):
    model, x = conv(), images((7, 6), 4).reshape(2, 2, 1, 7, 6)
    sigma = torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64)
    together = getattr(model, name)(x, sigma)
    for i in (0, 1):
        for j in (0, 1):
            alone = getattr(model, name)(x[i, j], sigma[i, j].item())
            torch.testing.assert_close(together[i, j], alone, rtol=1e-12, atol=1e-12)


def test_chunks_do_not_show(monkeypatch):
    model, x, sigma = conv(), images((7, 6), 4), torch.linspace(0, 1, 4, dtype=torch.float64)
    expected = model.posterior(x, sigma)
    monkeypatch.setattr("gmdm_prior.densities.batches.CHUNK", 1)
    monkeypatch.setattr(
        "gmdm_prior.densities.convolutional.model.CHUNK", 36 * 5
    )  # five responses of L = 9
    for got, want in zip(model.posterior(x, sigma), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types_are_kept(dtype):
    model, x = conv(), images((7, 6))
    kept = x.clone()
    for name in ("log_prob", "score", "denoise"):
        exact = getattr(model, name)(x.to(dtype).double(), 0.1)
        got = getattr(model, name)(x.to(dtype), 0.1)
        assert got.dtype == dtype
        error = (got.double() - exact).abs().max()
        assert error < 2 * torch.finfo(dtype).eps * exact.abs().max() + 1e-5
    assert torch.equal(x, kept)


def test_is_differentiable_twice_and_maps():
    model, x = conv(2, 3, 4), images((4, 3), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: model.denoise(v, 0.3), x)
    assert torch.autograd.gradgradcheck(lambda v: model.denoise(v, 0.3), x)
    y, sigma = images((4, 3)), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    mapped = torch.func.vmap(model.denoise)(y, sigma)
    torch.testing.assert_close(mapped, model.denoise(y, sigma), rtol=1e-10, atol=1e-12)


def test_jacobian_of_the_denoiser_is_symmetric():
    model, y = conv(), images((5, 4), 1)[0]
    jacobian = torch.func.jacrev(lambda v: model.denoise(v, 0.2))(y).reshape(20, 20)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
    assert jacobian.abs().max() > 0.05


def test_parameters_have_gradients():
    model = copy.deepcopy(conv()).requires_grad_(True)
    model.log_prob(images((9, 7)), 0.1).sum().backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_lipschitz_is_the_largest_curvature_of_a_gaussian():
    """For one component it is attained; for more it bounds what bends up."""
    x, one = images((8, 8), 1)[0], gaussian()
    numbers = {k: getattr(one, k) for k in ("owner", "phase", "magnitude")}
    model = gm.ConvolutionalModel(**numbers, logits=one.experts.logits, bound=0.4)
    assert model.experts.base_scale == 0.4  # not its own square
    model.requires_grad_(False)
    hessian = torch.func.hessian(lambda v: -model.log_prob(v, 0.1))(x).reshape(64, 64)
    assert torch.linalg.eigvalsh(hessian).max().item() == pytest.approx(model.lipschitz(0.1))
    model = conv()
    hessian = torch.func.hessian(lambda v: -model.log_prob(v, 0.1))(x).reshape(64, 64)
    assert torch.linalg.eigvalsh(hessian).max() < model.lipschitz(0.1)


def test_filters_are_those_it_was_made_of():
    model = conv()
    again = gm.ConvolutionalModel.from_filters(model.filters, model.experts.logits)
    x = images((8, 8))
    torch.testing.assert_close(again.log_prob(x, 0.1), model.log_prob(x, 0.1), rtol=1e-10, atol=0)
    small = zero_mean_basis(1, 3).reshape(8, 1, 3, 3)
    model = gm.ConvolutionalModel.from_filters(small, torch.zeros(8, 5), grid=16)
    assert model.filters.shape == (8, 1, 16, 16)
    assert not model.normalised


def test_save_and_load_keep_the_model(tmp_path):
    model = conv()
    gm.save(model, tmp_path / "m.safetensors", note="test")
    loaded = gm.load(tmp_path / "m.safetensors", dtype=torch.float64)
    x = images((9, 7))
    assert isinstance(loaded, gm.ConvolutionalModel)
    assert torch.equal(loaded.log_prob(x, 0.1), model.log_prob(x, 0.1))
    assert loaded.num_parameters == model.num_parameters == 8 * 5 + 3 + 3 * 9
    assert not any(p.requires_grad for p in loaded.parameters())
    copied = copy.deepcopy(model)
    copied.load_state_dict(loaded.state_dict())
    assert torch.equal(copied.score(x, 0.1), model.score(x, 0.1))


def test_has_no_samples_and_says_what_has():
    with pytest.raises(NotImplementedError, match="langevin"):
        conv().sample((2,))


@pytest.mark.parametrize(
    ("x", "sigma", "error", "match"),
    [
        (torch.zeros(1, 3, 4, 4), 0.1, ValueError, "one channel"),
        (torch.zeros(4, 4), 0.1, ValueError, "channel axis"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), 0.1, TypeError, "floating"),
        (torch.zeros(2, 1, 4, 4), -0.1, ValueError, "not negative"),
        (torch.zeros(2, 1, 4, 4), torch.rand(2, 1, 4, 4), ValueError, "batch shape"),
    ],
)
def test_refuses_what_is_no_image_or_level(x, sigma, error, match):
    with pytest.raises(error, match=match):
        conv().denoise(x, sigma)


def parts():
    model = conv()
    return {k: getattr(model, k).clone() for k in ("owner", "phase", "magnitude")} | {
        "logits": model.experts.logits.clone()
    }


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("owner", lambda t: t[:, :-1], "N // 2"),
        ("owner", lambda t: t.float(), "int64"),
        ("owner", lambda t: t + 1, "frequency zero"),
        ("owner", lambda t: t * 7, "0 to 2"),
        ("owner", lambda t: t.roll(1, 0).index_fill(0, torch.tensor([0]), 0), "frequency zero"),
        ("phase", lambda t: t[1:], "phase"),
        ("phase", lambda t: t * math.nan, "finite"),
        ("magnitude", lambda t: -t, "positive"),
        ("magnitude", lambda t: t[:, None], "magnitude"),
        ("logits", lambda t: t[1:], "logits"),
    ],
)
def test_refuses_numbers_that_are_no_model(name, change, match):
    numbers = parts()
    numbers[name] = change(numbers[name])
    with pytest.raises(ValueError, match=match):
        gm.ConvolutionalModel(**numbers)


def test_refuses_owners_of_complex_filters():
    numbers = parts()
    column = numbers["owner"][:, 0]
    column[1] = (column[-1] + 1) % 3
    with pytest.raises(ValueError, match="mirror image"):
        gm.ConvolutionalModel(**numbers)
