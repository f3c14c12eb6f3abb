"""torch.func, higher derivatives, half types, copies and compilation of what deepinv is given."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from deepinv_gmdm import GMDMDenoiser, GMDMNoiseEstimator, GMDMPrior
from models import mixture, product, wavelet

import gmdm_prior as gm

SIGMA = 0.1
DENOISERS = {  # a stride that is given is exact: no tables, no gate
    "average of a mixture": lambda: GMDMDenoiser(mixture(2), method="average"),
    "average of a product": lambda: GMDMDenoiser(product(2), method="average"),
    "hqs of a mixture": lambda: GMDMDenoiser(mixture(2), stride=1),
    "hqs of a product": lambda: GMDMDenoiser(product(2), stride=1),
    "posterior of a wavelet model": lambda: GMDMDenoiser(wavelet(mixture(2), "haar")),
}
PRIORS = {
    "mixture": lambda: GMDMPrior(mixture(2), sigma=SIGMA, tol=0, max_iter=3),
    "product": lambda: GMDMPrior(product(2), sigma=SIGMA, tol=0, max_iter=3),
    "wavelet": lambda: GMDMPrior(wavelet(mixture(2), "haar"), sigma=SIGMA, tol=0, max_iter=3),
}


def maps():
    """Functions of images: name -> maker."""

    def denoise(make):
        denoiser = make()
        return lambda x: denoiser(x, SIGMA)

    def prox(make):
        prior = make()
        return lambda x: prior.prox(x, gamma=0.01)

    found = {name: partial(denoise, make) for name, make in DENOISERS.items()}
    for name, make in PRIORS.items():
        found[f"value of a {name}"] = lambda make=make: make().fn
        found[f"gradient of a {name}"] = lambda make=make: make().grad
        found[f"prox of a {name}"] = partial(prox, make)
    return found


MAPS = maps()


@pytest.fixture
def images():
    return torch.rand((2, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(params=MAPS)
def function(request):
    return MAPS[request.param]()


@pytest.mark.parametrize("name", MAPS)
def test_first_and_second_derivatives(name, images):
    x, function = images[:1].requires_grad_(), MAPS[name]()
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_vjp_jacrev_and_vmap_are_autograd_and_a_loop(function, images):
    jacobian = torch.autograd.functional.jacobian(function, images)
    torch.testing.assert_close(torch.func.jacrev(function)(images), jacobian)
    value, vjp = torch.func.vjp(function, images)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.tensordot(weights, jacobian, weights.ndim)
    torch.testing.assert_close(vjp(weights)[0], expected)
    stacked = torch.stack([images, images.flip(-1), 1 - images])
    loop = torch.stack([function(x) for x in stacked])
    torch.testing.assert_close(torch.func.vmap(function)(stacked), loop)


@pytest.mark.parametrize("name", DENOISERS)
def test_vmap_over_levels(name, images):
    denoiser = DENOISERS[name]()
    levels = torch.tensor([0.05, 0.1, 0.3]).double()
    loop = torch.stack([denoiser(images, level) for level in levels])
    found = torch.func.vmap(denoiser, in_dims=(None, 0))(images, levels)
    torch.testing.assert_close(found, loop)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DENOISERS)
def test_images_of_half_types_are_worked_on_in_float32(name, dtype, images):
    """Same weights, so that only the result is rounded: half a unit in its last place."""
    denoiser = DENOISERS[name]().float()
    x = images.to(dtype)
    found, expected = denoiser(x, SIGMA), denoiser(x.float(), SIGMA)
    assert found.dtype == dtype
    assert ((found.float() - expected).abs() <= torch.finfo(dtype).eps * expected.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DENOISERS)
def test_weights_of_half_types(name, dtype, images):
    """Rounded bases and variances move what is denoised by some units of the half type."""
    denoiser = DENOISERS[name]().float()
    expected = denoiser(images.float(), SIGMA)
    found = denoiser.to(dtype)(images.to(dtype), SIGMA)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 4 * torch.finfo(dtype).eps


def test_modules_of_half_types_take_images_of_any(images):
    prior = GMDMPrior("gray-small", sigma=SIGMA)
    x = torch.nn.functional.interpolate(images, 16).float()
    value, slope = prior(x), prior.grad(x)
    prior.bfloat16()
    assert prior(x).dtype == torch.float32
    torch.testing.assert_close(prior(x), value, rtol=0.02, atol=0)
    assert (prior.grad(x) - slope).norm() < 0.05 * slope.norm()
    prior.to(torch.float64)
    assert prior.model.filters.dtype == torch.float64
    assert prior.grad(x.double()).dtype == torch.float64


USED = {
    "denoiser": (lambda: GMDMDenoiser("gray-small"), lambda m, x: m(x, SIGMA)),
    "denoiser that estimates": (
        lambda: GMDMDenoiser("gray-small", sigma="estimate"),
        lambda m, x: m(x),
    ),
    "prior": (lambda: GMDMPrior("gray-small"), lambda m, x: m.prox(x, gamma=0.01)),
    "prior of a product": (lambda: GMDMPrior("bsds-gray-7x7"), lambda m, x: m.grad(x)),
    "noise estimator": (GMDMNoiseEstimator, lambda m, x: m(x)),
    "averaging": (
        lambda: gm.PatchAveraging(gm.load("bsds-gray-7x7")),
        lambda m, x: m(x, SIGMA),
    ),
    "splitting": (
        lambda: gm.HalfQuadraticSplitting(gm.load("gray-small")),
        lambda m, x: m(x, SIGMA),
    ),
    "wavelets": (lambda: gm.WaveletDenoiser(gm.load("gray-wavelet")), lambda m, x: m(x, 0.1)),
}


@pytest.mark.parametrize("name", USED)
def test_used_modules_are_copied_pickled_and_saved(name):
    """After a call, which fills the caches of kernels and tables."""
    make, use = USED[name]
    module = make()
    x = 0.5 + 0.1 * torch.randn((2, 1, 24, 24), generator=torch.Generator().manual_seed(0))
    expected = use(module, x)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(file, weights_only=False),
    ]
    for other in copies:
        assert torch.equal(use(other, x), expected)
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.mul_(0.7)
    assert not torch.equal(use(copies[0], x), expected)  # no cache of the old numbers
    assert torch.equal(use(module, x), expected)


COMPILED = {
    "denoiser": lambda: partial(GMDMDenoiser("gray-small"), sigma=SIGMA),
    "denoiser in exact steps": lambda: partial(GMDMDenoiser("gray", stride=2), sigma=SIGMA),
    "average of a product": lambda: partial(
        GMDMDenoiser("bsds-gray-7x7", method="average"), sigma=SIGMA
    ),
    "wavelets": lambda: partial(GMDMDenoiser("gray-wavelet"), sigma=SIGMA),
    "gradient": lambda: GMDMPrior("gray-small", sigma=SIGMA).grad,
    "value": lambda: GMDMPrior("gray-small", sigma=SIGMA).fn,
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_functions_are_the_functions(name):
    """With the default backend, at two sizes; part of a network, to its gradients."""
    torch._dynamo.reset()
    function = COMPILED[name]()
    g = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def network(x):
        return function(layer(x))

    compiled = torch.compile(network)
    for size in ((64, 64), (80, 128)):
        x = torch.rand((1, 1, *size), generator=g)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), network(x), atol=1e-5, rtol=1e-5)
        gradients = [
            torch.autograd.grad(f(x).square().sum(), layer.weight)[0] for f in (compiled, network)
        ]
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    torch._dynamo.reset()
