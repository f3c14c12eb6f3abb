"""One law suite for every model: the identities of a diffused density, by brute force."""

import copy
import math

import pytest
import torch
from models import MODELS, event_shape, events, mean_of, mixture, product, sample, span, trained
from reference import mixture_density, product_density
from scipy import stats

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.densities.opponent import OPPONENT
from gmdm_prior.densities.wavelet.transform import haar_tile, to_tiles

SIGMAS = (0.05, 0.3)


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    return MODELS[request.param]()


def has_mean(model):
    return mean_of(model).variance is not None


def lattice(model, count, reach):
    """Events on a regular grid of the model's span, and the volume of a cell."""
    rows = span(model)
    line = torch.linspace(-reach, reach, count, dtype=torch.float64)
    coordinates = torch.cartesian_prod(*[line] * len(rows)).reshape(-1, len(rows))
    return (coordinates @ rows).reshape(-1, *model.event_shape), (line[1] - line[0]) ** len(rows)


LOW = {
    "one filter": (lambda: product(2, filters=1), 4001, 4.0),
    "two filters": (lambda: product(2, filters=2), 401, 4.0),
    "mixture": (lambda: mixture(2), 81, 1.6),
    "opponents": (
        lambda: gm.OpponentModel(product(2, filters=1), scales=(1.5, 1.2, 1.0)),
        121,
        5.0,
    ),
    "one filter, trained": (lambda: trained(product(2, filters=1)), 4001, 4.0),
    "mixture, trained": (lambda: trained(mixture(2)), 101, 1.6),
}


@pytest.fixture(params=LOW, scope="module")
def low(request):
    make, count, reach = LOW[request.param]
    return make(), count, reach


@pytest.mark.parametrize("sigma", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("make", "density"), [(product, product_density), (mixture, mixture_density)]
)
def test_log_prob_is_the_reference(make, density, sigma):
    model = make(3)
    for x in events(model, 5, scale=0.1):
        expected = math.log(density(model, x, sigma))
        assert model.log_prob(x, sigma).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_gradient_of_log_prob(model, sigma):
    x = events(model, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(model.score(x, sigma), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 1.0])
def test_experts_integrate_to_one(sigma):
    model = product(2)
    z = torch.linspace(-40, 40, 200_001, dtype=torch.float64)
    noise = model.filters.flatten(1).square().sum(1) * sigma**2
    density = model.experts.diffuse(noise).log_prob(z[:, None].expand(-1, 3)).exp()
    mass = torch.trapezoid(density, z, dim=0)
    torch.testing.assert_close(mass, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_heat_equation(model, sigma):
    """∂_sigma log f = sigma (Δ log f + ‖∇ log f‖²); the terms cancel: relative to them."""
    for x in events(model, 3):
        s = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
        (rate,) = torch.autograd.grad(model.log_prob(x, s), s)
        curvature = torch.func.hessian(lambda v: model.log_prob(v, sigma))(x)
        laplacian = curvature.reshape(x.numel(), x.numel()).trace()
        square = model.score(x, sigma).square().sum()
        scale = sigma * (laplacian.abs() + square) + 1
        assert ((rate - sigma * (laplacian + square)) / scale).abs() < 1e-10


@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_density_integrates_to_one(low, sigma):
    """Fails with the paper's normaliser prod ‖k_j‖² (Corollary 2.1)."""
    model, count, reach = low
    x, cell = lattice(model, count, reach + 4 * sigma)
    assert (model.log_prob(x, sigma).exp().sum() * cell).item() == pytest.approx(1, abs=1e-5)


def test_convolution_of_noise_levels(low):
    """Diffusing by 0.15, then by 0.2, is diffusing by 0.25."""
    model, count, reach = low
    x, cell = lattice(model, count, reach)
    density = model.log_prob(x, 0.15).exp()
    for y in x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:400]][:3] * 0.3:
        distance = (x - y).flatten(1).square().sum(1)
        j = len(span(model))
        kernel = torch.exp(-distance / (2 * 0.04)) / (2 * math.pi * 0.04) ** (j / 2)
        expected = (density * kernel).sum() * cell
        assert model.log_prob(y, 0.25).exp().item() == pytest.approx(expected.item(), rel=1e-5)


def test_posterior_is_the_mean_and_variance_by_quadrature(low):
    model, count, reach = low
    sigma = 0.2
    x, _ = lattice(model, count, reach)
    prior = model.log_prob(x, 0.0)
    rows = span(model)
    inside = events(model, 3, scale=0.2)
    projected = ((inside.flatten(1) @ rows.T) @ rows).reshape(inside.shape)
    mean, variance = model.posterior(projected, sigma)
    flat_variance = sigma**2 * (1 - rows.square().sum(0)).reshape(model.event_shape)
    for y, m, v in zip(projected, mean, variance, strict=True):
        weights = torch.softmax(prior - (x - y).flatten(1).square().sum(1) / (2 * sigma**2), 0)
        expected = torch.einsum("n,n...->...", weights, x)
        spread = torch.einsum("n,n...->...", weights, (x - expected).square())
        torch.testing.assert_close(m, expected, rtol=0, atol=1e-6)  # the lattice's own error
        torch.testing.assert_close(v, spread + flat_variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_denoise_is_first_order_tweedie(model, sigma):
    y = events(model, 6)
    expected = y + sigma**2 * model.score(y, sigma)
    torch.testing.assert_close(model.denoise(y, sigma), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(model.posterior(y, sigma)[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_posterior_is_second_order_tweedie(model, sigma):
    for y in events(model, 3):
        hessian = torch.func.hessian(lambda v: model.log_prob(v, sigma))(y)
        curvature = hessian.reshape(y.numel(), y.numel()).diagonal().reshape(y.shape)
        variance = model.posterior(y, sigma)[1]
        torch.testing.assert_close(variance, sigma**2 + sigma**4 * curvature, rtol=0, atol=1e-11)


def test_jacobian_of_the_denoiser_is_symmetric(model):
    y = events(model, 1)[0]
    jacobian = torch.func.jacrev(lambda v: model.denoise(v, 0.2))(y).reshape(y.numel(), y.numel())
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
    assert jacobian.abs().max() > 0.1


@pytest.mark.parametrize("name", [n for n in MODELS if hasattr(MODELS[n](), "covariance")])
def test_covariance_is_sigma_squared_times_that_jacobian(name):
    model = MODELS[name]()
    y = events(model, 1)[0]
    jacobian = torch.func.jacrev(lambda v: model.denoise(v, 0.2))(y).reshape(y.numel(), y.numel())
    torch.testing.assert_close(model.covariance(y, 0.2), 0.04 * jacobian, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_curvature_is_at_most_lipschitz(model, sigma):
    """Also with a mean that is sharper than everything else, where the bound is reached."""
    proper = [model.with_mean(1e-7)] if hasattr(model, "with_mean") else []
    for density in (model, *proper):
        for x in events(density, 2, scale=0.1):
            hessian = torch.func.hessian(lambda v, f=density: -f.log_prob(v, sigma))(x)
            curvature = torch.linalg.eigvalsh(hessian.reshape(x.numel(), x.numel())).max()
            assert curvature <= density.lipschitz(sigma) * (1 + 1e-9)
    if proper:
        assert curvature >= 0.9 * density.lipschitz(sigma)


def test_denoising_by_nothing_changes_nothing(model):
    y = events(model, 4)
    assert torch.equal(model.denoise(y, 0.0), y)
    assert torch.equal(model.denoise(y, torch.zeros(4, dtype=torch.float64)), y)
    mean, variance = model.posterior(y, 0.0)
    assert torch.equal(mean, y)
    torch.testing.assert_close(variance, torch.zeros_like(y), rtol=0, atol=1e-12)
    assert torch.isfinite(model.score(y, 0)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_finite_and_right_at_sigma_80(model, dtype):
    """The posterior of noise is nearly the prior mean: y + sigma² score loses it in rounding."""
    noise = torch.randn(5, *event_shape(model), generator=torch.Generator().manual_seed(0))
    y = (80 * noise).to(dtype)
    exact = y.double()
    resolution = torch.finfo(dtype).eps
    expected = model.denoise(exact, 80.0)
    scale = expected.abs().max()
    assert model.denoise(y, 80.0).dtype == dtype
    assert torch.isfinite(model.denoise(y, 80.0)).all()
    # one rounding of the output, and float32's rounding of a mean over noise of size 80
    assert ((model.denoise(y, 80.0).double() - expected).abs() < resolution * scale + 1e-5).all()
    for name in ("log_prob", "score"):
        exactly = getattr(model, name)(exact, 80.0)
        error = (getattr(model, name)(y, 80.0).double() - exactly).abs().max()
        assert error < 2 * resolution * exactly.abs().max() + 1e-6
    variance = model.posterior(y, 80.0)[1].double()
    assert torch.allclose(variance, model.posterior(exact, 80.0)[1], rtol=4 * resolution, atol=1e-4)


def test_posterior_keeps_its_digits_in_float32_at_sigma_80():
    """Away from the flat mean the posterior mean is 1e-3, what it is computed from is 80."""
    model = mixture(3)
    y = 80 * torch.randn(64, 1, 3, 3, generator=torch.Generator().manual_seed(0))

    def zero_mean(x):
        return x.double() - x.double().mean((-2, -1), keepdim=True)

    expected = zero_mean(model.denoise(y.double(), 80.0))
    error = (zero_mean(model.denoise(y, 80.0)) - expected).abs().max()
    naive = (zero_mean(y + 6400 * model.score(y, 80.0)) - expected).abs().max()
    assert error < 1e-5 + 2e-6 * expected.abs().max()  # the mean of 80 rounds to 4e-6 in the output
    assert naive > 3 * error


@pytest.mark.parametrize("sigma", [0.0, 0.2, 3.0])
def test_samples_follow_the_density(model, sigma):
    """Kolmogorov–Smirnov along every filter and along one oblique direction."""
    n = 20_000
    x = sample(model, (n,), sigma, torch.Generator().manual_seed(3)).flatten(1)
    rows = span(model)
    oblique = torch.full((1, len(rows)), len(rows) ** -0.5, dtype=torch.float64) @ rows
    for direction in [*rows, *oblique]:
        cdf = response_cdf(model, direction, sigma)
        if cdf is None:
            continue
        result = stats.kstest((x @ direction).numpy(), cdf)
        assert result.pvalue > 1e-4, f"D = {result.statistic}"


def response_cdf(model, direction, sigma):
    """The law of <direction, x>: a mixture in one dimension, by the components' covariances."""
    if isinstance(model, gm.WaveletModel):
        tiles = to_tiles(direction.reshape(1, 4, 4), model.bank, model.levels)
        inside = tiles.reshape(-1, model.patch_size**2)
        largest = inside[inside.norm(dim=1).argmax()]
        if largest.norm() < 1 - 1e-9:
            return None  # several tiles
        return response_cdf(model.experts, largest, sigma)
    if isinstance(model, gm.OpponentModel):
        turned = torch.tensor(OPPONENT, dtype=torch.float64) @ direction.reshape(3, -1)
        j = int(turned.norm(dim=1).argmax())
        if turned[j].norm() < 1 - 1e-9:
            return None  # several planes
        plane, scale = model.planes[j], model.scales[j]
        cdf = response_cdf(plane, turned[j], sigma / scale)
        return None if cdf is None else lambda t: cdf(t / scale)
    if isinstance(model, (gm.PatchModel, gm.SubbandExperts)):
        match = (span(model) @ direction).abs() > 1 - 1e-9
        if not match.any():
            return None  # along an oblique direction a product has L^J components
        j = int(match.nonzero()[0])
        sign = torch.sign(span(model)[j] @ direction).item()
        norm = sign * model.filters[j].norm().item()
        row = j if isinstance(model, gm.PatchModel) else haar_tile(len(model.scales) // 3)[1][j]
        weights = model.experts.weights[row].numpy()
        means = model.experts.means.numpy() / norm
        std = math.sqrt(model.experts.base_scale**2 / norm**2 + sigma**2)
        return lambda t: (weights * stats.norm.cdf(t[:, None], means, std)).sum(1)
    weights, stds = [], []
    elements = symmetry.group(model.symmetries)
    for q in elements:
        for w, v, g in zip(model.weights, model.variances, model.basis, strict=True):
            rows = symmetry.act(model.filters[g], q).flatten(1)
            along = (rows @ direction).square()
            weights.append(float(w) / len(elements))
            stds.append(math.sqrt(float((along * (v + sigma**2)).sum())))
    return lambda t: (torch.tensor(weights).numpy() * stats.norm.cdf(t[:, None], 0, stds)).sum(1)


def test_stein_identity(model):
    """E<y, score> = -J over samples; a proper mean (centred at 1/2) adds one for each channel."""
    n, sigma = 40_000, 0.2
    y = sample(model, (n,), sigma, torch.Generator().manual_seed(5))
    centre = 0.5 if has_mean(model) else 0.0
    products = ((y - centre) * model.score(y, sigma)).flatten(1).sum(1)
    dimensions = y[0].numel() if has_mean(model) else len(span(model))
    error = products.std() / math.sqrt(n)
    assert abs(products.mean() + dimensions) < 5 * error
    assert error < 0.1 * dimensions


def test_recovers_the_noise_level_of_its_own_samples(model):
    y = sample(model, (4000,), 0.25, torch.Generator().manual_seed(6))
    levels = torch.linspace(0.15, 0.35, 21)
    likelihood = torch.stack([model.log_prob(y, s.item()).mean() for s in levels])
    assert abs(levels[likelihood.argmax()].item() - 0.25) <= 0.021


@pytest.mark.parametrize("name", ["product 3x3", "mixture 3x3"])
def test_tends_to_the_gaussian_of_the_noise(name):
    """sigma → ∞: on the J dimensions the density is that of white noise."""
    model, sigma = MODELS[name](), 1e4
    x = events(model, 4, scale=sigma)
    square = (x.flatten(1) @ span(model).T).square().sum(1) / sigma**2
    expected = -0.5 * (square + 8 * math.log(2 * math.pi * sigma**2))
    torch.testing.assert_close(model.log_prob(x, sigma), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("symmetries", ["d4", "flips", "none"])
def test_density_is_invariant_under_its_symmetries(symmetries):
    model = mixture(3, symmetries=symmetries)
    x = events(model, 4, scale=0.1)
    elements = symmetry.group(symmetries)
    for q in range(8):
        change = (model.log_prob(symmetry.act(x, q), 0.05) - model.log_prob(x, 0.05)).abs().max()
        assert (change < 1e-10) if q in elements else (change > 1e-3)


def test_responsibilities_name_the_class_that_made_the_patch():
    model = mixture(3, bases=2, classes=4)
    y = events(model, 7)
    r = model.responsibilities(y, 0.1)
    assert r.shape == (7, 8, 4)
    torch.testing.assert_close(r.sum((1, 2)), torch.ones(7, dtype=torch.float64))
    # by hand: the joint density of class k seen in symmetry h
    joint = torch.empty(8, 4, dtype=torch.float64)
    for h in range(8):
        for k in range(4):
            u = (model.filters[model.basis[k]] * symmetry.act(y[0], h)).sum((1, 2, 3))
            total = model.variances[k] + 0.01
            joint[h, k] = model.weights[k].log() - 0.5 * (u.square() / total + total.log()).sum()
    torch.testing.assert_close(r[0], torch.softmax(joint.flatten(), 0).reshape(8, 4))


# Habits every model shares


@pytest.mark.parametrize("method", ["log_prob", "score", "denoise", "posterior"])
def test_batch_is_loop(model, method):
    x = events(model, 6).reshape(2, 3, *event_shape(model))
    sigma = torch.tensor([0.0, 0.1, 80.0], dtype=torch.float64)
    together = getattr(model, method)(x, sigma)
    for i in range(2):
        for j in range(3):
            one = getattr(model, method)(x[i, j], sigma[j].item())
            for a, b in zip(_tuple(together), _tuple(one), strict=True):
                torch.testing.assert_close(a[i, j], b, rtol=1e-10, atol=1e-10)


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_keeps_dtype_and_leaves_the_input_alone(model, dtype):
    x = events(model, 4, dtype=dtype)
    before = x.clone()
    for method in ("log_prob", "score", "denoise", "posterior"):
        for out in _tuple(getattr(model, method)(x, 0.1)):
            assert out.dtype == dtype
            reference = _tuple(getattr(model, method)(x.double(), 0.1))
            assert torch.isfinite(out).all()
        size = max(r.abs().max().item() for r in reference)
        error = (_tuple(getattr(model, method)(x, 0.1))[0].double() - reference[0]).abs().max()
        assert error < 20 * torch.finfo(dtype).eps * max(1.0, size)
    assert torch.equal(x, before)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_and_single_batches(model, count):
    x = events(model, count)
    assert model.log_prob(x, 0.1).shape == (count,)
    assert model.denoise(x, 0.1).shape == x.shape
    assert sample(model, (count, 2)).shape == (count, 2, *event_shape(model))


def test_chunks_do_not_show(model, monkeypatch):
    x, sigma = events(model, 9), torch.linspace(0, 1, 9, dtype=torch.float64)
    expected = model.score(x, sigma)
    monkeypatch.setattr("gmdm_prior.densities.batches.CHUNK", 1)
    torch.testing.assert_close(model.score(x, sigma), expected, rtol=1e-12, atol=1e-12)


def test_copies_and_state_dicts_are_the_same_model(model):
    x = events(model, 3)
    expected = model.log_prob(x, 0.1)
    assert torch.equal(copy.deepcopy(model).log_prob(x, 0.1), expected)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_prob(x, 0.1), expected)


def test_save_and_load_keep_the_model(model, tmp_path):
    gm.save(model, tmp_path / "m.safetensors", note="test")
    loaded = gm.load(tmp_path / "m.safetensors", dtype=torch.float64)
    x = events(model, 3)
    torch.testing.assert_close(loaded.log_prob(x, 0.1), model.log_prob(x, 0.1), rtol=1e-10, atol=0)
    assert loaded.num_parameters == model.num_parameters
    assert not any(p.requires_grad for p in loaded.parameters())
    assert gm.card(tmp_path / "m.safetensors") == {"note": "test"}


def test_gradcheck_and_double_backward(model):
    x = events(model, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: model.log_prob(v, 0.2), x)
    assert torch.autograd.gradcheck(lambda v: model.denoise(v, 0.2), x)
    assert torch.autograd.gradgradcheck(lambda v: model.denoise(v, 0.2), x)


def test_vmap_is_batch(model):
    x = events(model, 3)
    sigma = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(
        torch.func.vmap(model.denoise)(x, sigma), model.denoise(x, sigma), rtol=1e-10, atol=1e-12
    )


def test_parameters_have_gradients(model):
    free = copy.deepcopy(model).requires_grad_(True)
    free.log_prob(events(model, 3), 0.1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in free.parameters())


@pytest.mark.parametrize(
    ("sigma", "error", "match"),
    [
        (-0.1, ValueError, "not negative"),
        (math.nan, ValueError, "finite"),
        (math.inf, ValueError, "finite"),
        (torch.tensor(-0.1), ValueError, "not negative"),
        ("25/255", TypeError, "number"),
        (None, TypeError, "number"),
        (1j, TypeError, "number"),
        (torch.rand(3, 1, 2, 2), ValueError, "PatchAveraging"),
        (torch.rand(5), ValueError, "batch shape"),
        (torch.rand(2, 1), ValueError, "batch shape"),  # would enlarge the batch to (2, 3)
    ],
)
def test_refuses_a_bad_sigma(sigma, error, match):
    model = product(2)
    with pytest.raises(error, match=match):
        model.log_prob(events(model, 3), sigma)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(3, 1, 4, 4), ValueError, "shape"),
        (torch.zeros(2), ValueError, "shape"),
        (torch.zeros(1, 2, 2, dtype=torch.uint8), TypeError, "floating"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), TypeError, "floating"),
        ([[[0.0]]], TypeError, "tensor"),
    ],
)
def test_refuses_what_is_no_patch(x, error, match):
    with pytest.raises(error, match=match):
        product(2).denoise(x, 0.1)
