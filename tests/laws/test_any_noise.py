"""A mixture under Gaussian noise of any covariance: the laws of DESIGN.md 2.7, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from models import events, mixture, opponents, product, span

import gmdm_prior as gm

MODELS = {
    "flat mean": lambda: mixture(2),
    "3x3": lambda: mixture(3),
    "3x3, flips": lambda: mixture(3, symmetries="flips"),
    "two channels, no symmetry": lambda: mixture(2, channels=2, symmetries="none"),
    "proper mean": lambda: mixture(2).with_mean(0.2),
    "proper means of two channels": lambda: mixture(2, channels=2).with_mean(0.2),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def covariance(model, seed=0, scale=0.01):
    """Any positive-definite matrix, with correlations of either sign."""
    a = math.prod(model.event_shape)
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(a, a, generator=g, dtype=torch.float64)
    return gm.Covariance(scale * (root @ root.T / a + 0.05 * torch.eye(a, dtype=torch.float64)))


def projector(model):
    """Onto the directions in which the density is not flat, (a, a)."""
    rows = span(model)
    if model.mean_part.variance is not None:
        return torch.eye(rows.shape[1], dtype=torch.float64)
    return rows.T @ rows


def flat(x):
    return x.flatten(x.ndim - 3)


def derivatives(model, x, s):
    """Score (N, a) and Hessian (N, a, a) of the log-density by autograd."""
    value = lambda p: model.log_prob(p.reshape(model.event_shape), s)  # noqa: E731
    rows = flat(x)
    score = torch.stack([torch.func.jacrev(value)(p) for p in rows])
    return score, torch.stack([torch.autograd.functional.hessian(value, p) for p in rows])


def test_score_is_gradient_of_log_prob(model):
    x, s = events(model, 3), covariance(model)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.log_prob(x, s).sum(), x)
    assert torch.allclose(model.score(x, s), gradient, rtol=1e-9, atol=1e-9)


def test_anisotropic_heat_equation(model):
    x, s, h = events(model, 3, scale=0.1), covariance(model), 1e-4
    score, hessian = derivatives(model, x, s)
    quadratic = torch.einsum("na,ab,nb->n", score, s.matrix, score)
    trace = torch.einsum("nab,ab->n", hessian, s.matrix)

    def at(factor):
        return model.log_prob(x, gm.Covariance(s.matrix * factor))

    slope = (at(1 + h) - at(1 - h)) / (2 * h)
    assert torch.allclose(slope, (trace + quadratic) / 2, rtol=1e-6, atol=1e-6)


def test_posterior_mean_is_tweedies(model):
    y, s = events(model, 3), covariance(model)
    tweedie = flat(y) + flat(model.score(y, s)) @ s.matrix
    assert torch.allclose(flat(model.denoise(y, s)), tweedie, atol=1e-10)


def test_posterior_covariance_is_second_order_tweedies(model):
    y, s = events(model, 3), covariance(model)
    _, hessian = derivatives(model, y, s)
    tweedie = s.matrix + s.matrix @ hessian @ s.matrix
    found = model.covariance(y, s)
    assert torch.allclose(found, tweedie, atol=1e-9)
    mean, variance = model.posterior(y, s)
    assert torch.allclose(flat(variance), found.diagonal(dim1=1, dim2=2), atol=1e-12)
    assert torch.allclose(mean, model.denoise(y, s), atol=1e-12)


def test_white_covariance_agrees_with_the_scalar_path(model):
    y, sigma = events(model, 5), 0.07
    s = gm.Covariance.white(sigma, math.prod(model.event_shape))
    for method in ("log_prob", "score", "denoise", "responsibilities", "covariance"):
        exact = getattr(model, method)(y, sigma)
        assert torch.allclose(getattr(model, method)(y, s), exact, rtol=1e-10, atol=1e-10), method
    for found, exact in zip(model.posterior(y, s), model.posterior(y, sigma), strict=True):
        assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10)
    white = gm.Noise(sigma)
    assert torch.allclose(model.denoise(y, white), model.denoise(y, sigma), atol=1e-10)


def test_noises_add_up(model):
    """Convolving f(.; S1) with N(0, S2) by quadrature gives f(.; S1 + S2)."""
    y, first, second = events(model, 2, scale=0.1), covariance(model), covariance(model, 1, 0.002)
    curvatures, axes = torch.linalg.eigh(projector(model) @ second.matrix @ projector(model))
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, len(axes), generator=generator, dtype=torch.float64)
    shifts = (normal @ (axes * curvatures.clamp(min=0).sqrt()).T).reshape(-1, *model.event_shape)
    shifts = torch.cat([shifts, -shifts])  # odd moments cancel
    for event in y:
        ratio = (
            model.log_prob(event + shifts, first) - model.log_prob(event, first + second)
        ).exp()
        assert float(ratio.mean()) == pytest.approx(1, abs=5 * float(ratio.std()) / 400)


def nodes(model, count=31, reach=6.0):
    """A grid of 2x2 patches of one channel around zero mean, (count³, 1, 2, 2), and its cell."""
    deviation = float(model.variances.max()) ** 0.5
    line = torch.linspace(-reach, reach, count, dtype=torch.float64) * deviation
    grid = torch.cartesian_prod(line, line, line)
    return (grid @ span(model)).reshape(-1, 1, 2, 2), float(line[1] - line[0]) ** 3


def wide_mixture():
    """Of variances that a grid of 31 nodes resolves."""
    model = mixture(2)
    model.variances.data = 0.01 + model.variances.data / 10
    return model


def test_posterior_mean_by_quadrature():
    model = wide_mixture()
    s = covariance(model, scale=0.02)
    x, cell = nodes(model)
    prior = model.log_prob(x, 0.0).exp() * cell
    assert float(prior.sum()) == pytest.approx(1, abs=1e-4)
    y = events(model, 2, scale=0.15)
    rows = span(model)
    for event in y:
        # the mean is flat: maximise it out of the Gaussian, whose shape it does not change
        difference = flat((event - x)[:, 0][:, None]).reshape(len(x), -1) @ rows.T
        inside = torch.linalg.inv(rows @ s.matrix @ rows.T)
        likelihood = torch.exp(-0.5 * torch.einsum("na,ab,nb->n", difference, inside, difference))
        weight = prior * likelihood
        expected = (weight[:, None] * flat(x)).sum(0) / weight.sum() @ rows.T
        assert torch.allclose(flat(model.denoise(event, s)) @ rows.T, expected, atol=2e-5)
        scale = torch.logdet(2 * math.pi * rows @ s.matrix @ rows.T) / 2
        assert float(model.log_prob(event, s)) == pytest.approx(
            float(weight.sum().log() - scale), abs=1e-3
        )


def test_flat_mean_is_the_limit_of_broad_ones():
    y, s = events(mixture(3), 3), covariance(mixture(3))
    flat_mean, broad = mixture(3), mixture(3).with_mean(1e6)
    assert torch.allclose(flat_mean.denoise(y, s), broad.denoise(y, s), atol=1e-7)
    assert torch.allclose(flat_mean.covariance(y, s), broad.covariance(y, s), atol=1e-7)
    moved = (flat_mean.denoise(y, s) - y).mean((1, 2, 3)).abs()
    assert float(moved.min()) > 1e-4  # correlated noise moves the mean


def test_samples_follow_the_density(model):
    s = covariance(model, scale=0.05)
    x = model.sample((20_000,), s, torch.Generator().manual_seed(3))
    score = flat(model.score(x, s))
    stein = (flat(x) * score).sum(1)  # E <y, score> = -d
    dimensions = round(float(projector(model).trace()))
    assert float(stein.mean()) == pytest.approx(
        -dimensions, abs=5 * float(stein.std()) / math.sqrt(len(x))
    )
    mean = score.mean(0)
    assert bool((mean.abs() < 5 * score.std(0) / math.sqrt(len(x)) + 1e-12).all())


@pytest.mark.parametrize("symmetries", ["d4", "flips", "none"])
def test_orientations_in_which_noise_looks_the_same_share_inverses(symmetries):
    model = mixture(3, symmetries=symmetries)
    stationary = torch.tensor([[1.0, 0.5], [0.0, 0.3]], dtype=torch.float64)
    pad = F.pad(stationary[None, None], (1,) * 4)
    r = F.conv2d(pad, stationary[None, None])[0, 0]
    s = gm.Noise(autocovariance=r * 0.01).covariance(0, 3)
    level = model.at(s)
    orientations = len(level.parts[0])
    distinct = {id(part.precisions) for part in level.parts[0]}
    assert len(distinct) == (4 if symmetries == "d4" else orientations)
    white = model.at(gm.Covariance.white(0.1, 9))
    assert len({id(part.precisions) for part in white.parts[0]}) == 1
    y = events(model, 4)
    turned = gm.Covariance(s.matrix + 1e-9 * covariance(model).matrix)  # none is shared
    assert torch.allclose(model.score(y, s), model.score(y, turned), rtol=1e-5)


def test_noise_of_several_images_is_each_ones_own():
    model, size = mixture(2), 2
    r = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    r[:, 0, 1, 1], r[1, 0, 1, 0], r[1, 0, 1, 2] = 0.01, 0.004, 0.004
    noise, y = gm.Noise(autocovariance=r), events(model, 6).reshape(2, 3, 1, 2, 2)
    both = model.denoise(y, noise)
    assert torch.equal(both[1], model.denoise(y[1], noise[1]))
    assert torch.allclose(both[0], model.denoise(y[0], 0.1), atol=1e-10)
    assert torch.equal(both[1], model.denoise(y[1], noise.covariance(0, size, 1)))
    with pytest.raises(ValueError, match="first axis of the batch"):
        model.denoise(y[0], noise)


def test_a_bare_matrix_is_never_a_covariance():
    with pytest.raises(ValueError, match="broadcast to the batch shape"):
        mixture(2).log_prob(events(mixture(2), 3), 0.01 * torch.eye(4))


def test_what_does_not_fit_is_refused():
    model = mixture(2)
    y = events(model, 2)
    with pytest.raises(ValueError, match=r"covariance must be \(4, 4\)"):
        model.denoise(y, gm.Covariance.white(0.1, 9))
    curve = gm.NoiseCurve([0.0, 1.0], [0.1, 0.2])
    with pytest.raises(ValueError, match="has a curve"):
        model.denoise(y, gm.Noise(0.1, curve=curve))
    with pytest.raises(TypeError, match="no closed form"):
        product(2).denoise(y, gm.Covariance.white(0.1, 4))


def test_the_diagonal_of_a_product_is_exact_for_white_noise():
    model = product(2)
    y = events(model, 3)
    level = model.at_diagonal(gm.Covariance.white(0.1, 4))
    assert torch.allclose(level.log_prob(flat(y)), model.log_prob(y, 0.1), atol=1e-12)


def test_opponents_have_noise_of_their_own():
    planes = [mixture(2, seed=s) for s in range(3)]
    model = gm.OpponentModel(*planes, scales=(1.5, 0.6, 0.4))
    y, r = events(model, 3), torch.zeros(3, 3, dtype=torch.float64)
    r[1, 1] = 0.01
    assert torch.allclose(
        model.denoise(y, gm.Noise(autocovariance=r)), model.denoise(y, 0.1), atol=1e-10
    )
    r[1, 0] = r[1, 2] = 0.004
    colours = gm.Noise(autocovariance=r)
    apart = gm.Noise(autocovariance=r.expand(1, 3, 3, 3), opponent=True)
    for method in ("log_prob", "score", "denoise"):
        found = getattr(model, method)(y, apart)
        assert torch.allclose(getattr(model, method)(y, colours), found, atol=1e-10)
    y.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.log_prob(y, colours).sum(), y)
    assert torch.allclose(model.score(y, colours), gradient, atol=1e-9)
    with pytest.raises(TypeError, match="takes a Noise"):
        model.denoise(y, gm.Covariance.white(0.1, 12))
    with pytest.raises(TypeError, match="no closed form"):
        opponents().denoise(y, colours)


def test_float32_patches_are_worked_on_in_float64():
    model = mixture(3)
    y, s = events(model, 3), covariance(model)
    found = model.denoise(y.float(), s)
    assert found.dtype == torch.float32
    assert torch.allclose(found, model.denoise(y, s).float(), atol=1e-6)
