"""GMDMPrior: deepinv's contracts, and that value, gradient and proximal map belong together."""

import copy
import pickle

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMPrior
from models import mixture, product

MODELS = {"mixture": lambda: mixture(3), "product": lambda: product(3)}


@pytest.fixture(params=MODELS)
def prior(request):
    return GMDMPrior(MODELS[request.param](), sigma=0.1, tol=1e-12, max_iter=2000)


@pytest.fixture
def images():
    return torch.rand((2, 1, 7, 9), generator=torch.Generator().manual_seed(0)).double()


def test_value_is_one_number_per_image_and_follows_the_likelihood(prior, images):
    value = prior(images)
    assert value.shape == (2,)
    torch.testing.assert_close(value, -prior.likelihood.log_prob(images, 0.1))


def test_gradient_is_the_gradient_of_the_value(images):
    """Against automatic differentiation; the mixture is computed exactly in float64."""
    prior = GMDMPrior(mixture(3), sigma=0.1)
    x = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(prior(x).sum(), x)
    torch.testing.assert_close(prior.grad(images), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.score(images), -expected, rtol=1e-9, atol=1e-9)


def test_gradient_asks_nothing_of_the_callers_tensor(prior, images):
    before = images.clone()
    prior.grad(images)
    prior.prox(images, gamma=1e-3)
    assert not images.requires_grad
    assert torch.equal(images, before)


def test_descent_lemma(prior, images):
    """A step of 1/L lowers the value by at least ‖grad‖² / 2L; a step too long need not."""
    length = 1 / prior.lipschitz()
    slope = prior.grad(images)
    fall = prior(images) - prior(images - length * slope)
    assert (fall >= 0.5 * length * slope.square().sum((1, 2, 3)) - 1e-12).all()


@pytest.mark.parametrize("gamma", [1e-4, 1e-3, 3e-2])
def test_prox_is_a_critical_point_below_the_start(prior, images, gamma):
    z = prior.prox(images, gamma=gamma)
    slope = gamma * prior.grad(z) + z - images
    assert slope.abs().max() < 1e-10  # tol=1e-12 bounds the mean square over 63 pixels
    assert (
        gamma * prior(z) + 0.5 * (z - images).square().sum((1, 2, 3)) < gamma * prior(images)
    ).all()


def test_prox_of_a_gaussian_is_linear_shrinkage():
    """One class of equal variances v: (I + gamma/(v + sigma²) P) z = x, P the local averages."""
    model = mixture(2, bases=1, classes=1)
    model.variances.fill_(0.3)
    prior = GMDMPrior(model, sigma=0.2, tol=1e-13, max_iter=3000)
    x = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(1)).double()
    basis = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    hessian = torch.cat([prior.grad(e[None]).reshape(1, 16) for e in basis]) - prior.grad(
        torch.zeros(1, 1, 4, 4).double()
    ).reshape(1, 16)
    gamma = 0.7
    expected = torch.linalg.solve(torch.eye(16) + gamma * hessian, x.reshape(16))
    torch.testing.assert_close(prior.prox(x, gamma=gamma).reshape(16), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_prox_of_a_batch_is_the_prox_of_its_images(images, tol):
    """Each image stops on its own, so even a rough tolerance gives the same iterate."""
    prior = GMDMPrior(mixture(3), sigma=0.1, tol=tol, max_iter=2000)
    images[1] *= 3
    gamma = torch.tensor([1e-3, 2e-2]).double()
    together = prior.prox(images, gamma=gamma)
    for i in range(2):
        alone = prior.prox(images[i : i + 1], gamma=float(gamma[i]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=0)


def test_momentum_restarts_image_by_image(images):
    """A fixed number of steps, far from converged for one image: still batch = loop."""
    prior = GMDMPrior(mixture(3), sigma=0.05, tol=0, max_iter=40)
    gamma = torch.tensor([1e-4, 1.0]).double()
    together = prior.prox(images, gamma=gamma)
    for i in range(2):
        alone = prior.prox(images[i : i + 1], gamma=float(gamma[i]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=0)


def test_momentum_and_its_restarts_save_steps(caplog):
    """49 steps: without restarts it takes 306, without momentum (or restarted downhill) 193."""
    prior = GMDMPrior(mixture(3), sigma=0.02, tol=1e-6, max_iter=70)
    x = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(1)).double()
    with caplog.at_level("INFO", logger="deepinv_gmdm.optim"):
        z = prior.prox(x, gamma=30.0)
    assert not caplog.text
    slope = 30 * prior.grad(z) + z - x
    assert slope.square().mean().sqrt() < 1e-5


def test_deepinvs_names_replace_steps_and_tolerance(images):
    prior = GMDMPrior(mixture(3), sigma=0.1)
    few = GMDMPrior(mixture(3), sigma=0.1, max_iter=3).prox(images, gamma=1.0)
    assert torch.equal(prior.prox(images, gamma=1.0, max_iter_inter=3), few)
    rough = GMDMPrior(mixture(3), sigma=0.1, tol=1e-2).prox(images, gamma=1.0)
    assert torch.equal(prior.prox(images, gamma=1.0, tol_inter=1e-2), rough)
    full = prior.prox(images, gamma=1.0)
    assert not torch.allclose(full, few)
    assert not torch.allclose(full, rough)


def test_the_tolerance_is_in_units_of_the_range(images):
    """A rough one stops images in [0, 255] after as many steps as those in [0, 1]."""
    options = {"sigma": 0.1, "tol": 1e-2}
    own = GMDMPrior(mixture(3), **options).prox(images, gamma=1.0)
    options["sigma"] *= 255
    other = GMDMPrior(mixture(3), **options, data_range=(0, 255)).prox(255 * images, gamma=255**2)
    torch.testing.assert_close(other / 255, own, atol=1e-6, rtol=0)


def test_prox_with_no_step_is_the_identity(prior, images):
    torch.testing.assert_close(prior.prox(images, gamma=0.0), images)


@pytest.mark.parametrize(
    "level",
    [
        0.05,
        torch.tensor(0.05),
        torch.tensor([0.05]),
        [0.05],
        [0.05, 0.05],
        torch.tensor([0.05, 0.05]),
    ],
    ids=["float", "0-d", "(1,)", "list of one", "list", "(B,)"],
)
def test_forms_of_g_param_agree(images, level):
    prior = GMDMPrior(mixture(3), sigma=0.3)
    level = level.double() if isinstance(level, torch.Tensor) else level
    torch.testing.assert_close(prior(images, level), prior(images, 0.05))
    torch.testing.assert_close(prior.grad(images, level), prior.grad(images, 0.05))
    assert prior.lipschitz(level) == pytest.approx(prior.lipschitz(0.05))


def test_g_param_of_none_is_the_constructors(images):
    prior = GMDMPrior(mixture(3), sigma=0.3)
    torch.testing.assert_close(prior(images, None), prior(images, 0.3))
    assert not torch.allclose(prior(images, None), prior(images, 0.1))


def test_a_map_arrives_without_its_first_axis(images):
    """deepinv hands a (1, 1, H, W) schedule over as (1, H, W)."""
    prior = GMDMPrior(mixture(3))
    flat = torch.full((1, 7, 9), 0.05).double()
    torch.testing.assert_close(prior.grad(images, flat), prior.grad(images, 0.05))
    uneven = flat.clone()
    uneven[..., 5:] = 0.2
    assert torch.isfinite(prior.grad(images, uneven)).all()
    assert prior.lipschitz(uneven) == pytest.approx(prior.lipschitz(0.05))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept(images, dtype):
    prior = GMDMPrior("gray-small", sigma=0.05, max_iter=5)
    x = torch.nn.functional.pad(images, (0, 3, 0, 3), mode="reflect").to(dtype)
    for result in (prior(x), prior.grad(x), prior.prox(x, gamma=0.01)):
        assert result.dtype == dtype
        assert torch.isfinite(result).all()


def test_explicit_prior_drives_deepinvs_cost(images):
    prior = GMDMPrior(mixture(3), sigma=0.1)
    assert prior.explicit_prior
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    solver = deepinv.optim.PGD(
        prior=prior, data_fidelity=deepinv.optim.L2(0.1), stepsize=0.01, max_iter=5
    )
    _, metrics = solver(images, physics, compute_metrics=True)
    costs = torch.tensor(metrics["cost"])
    assert (costs.diff(dim=1) <= 1e-6).all()


def test_copies_and_pickles(images):
    prior = GMDMPrior(mixture(3), sigma=0.1)
    expected = prior(images)
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        torch.testing.assert_close(other(images), expected)


@pytest.mark.parametrize("level", [-0.1, float("nan"), [0.1, 0.2, 0.3]])
def test_bad_levels_are_refused(images, level):
    with pytest.raises(ValueError, match="sigma"):
        GMDMPrior(mixture(3))(images, level)


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), torch.ones(3)])
def test_bad_gamma_is_refused(images, gamma):
    with pytest.raises(ValueError, match="gamma"):
        GMDMPrior(mixture(3)).prox(images, gamma=gamma)


def test_bad_options_are_refused():
    model = mixture(3)
    for options, match in (
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"boundary": "mirror"}, "boundary"),
    ):
        with pytest.raises(ValueError, match=match):
            GMDMPrior(model, **options)


def test_prox_says_when_it_did_not_converge(images, caplog):
    with caplog.at_level("INFO", logger="deepinv_gmdm.optim"):
        GMDMPrior(mixture(3), sigma=0.1, tol=1e-12, max_iter=1).prox(images, gamma=1.0)
    assert "above its tolerance" in caplog.text
