"""GMDMLogLikelihood: what it is, and deepinv's own test of metrics without reference."""

import copy

import deepinv
import pytest
import torch
from deepinv_gmdm import GMDMLogLikelihood
from deepinv_gmdm.command.config import shipped
from models import mixture, product
from torch import nn

import gmdm_prior as gm
from gmdm_prior.files.pictures import read_picture


def image(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("make", [product, mixture])
def test_of_a_patch_model_it_is_the_mean_over_patches(make):
    model, x = make(3), image(2, 2, 5, 6)
    patches = x.unfold(2, 3, 1).unfold(3, 3, 1).reshape(2, -1, 1, 3, 3)
    expected = model.log_prob(patches, 0.1).mean(1) / 9
    found = GMDMLogLikelihood(model, sigma=0.1)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the product reads a table


def test_of_two_channels_it_is_the_mean_over_patches():
    model, x = mixture(2, channels=2, symmetries="none"), image(2, 2, 4, 4)
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    expected = model.log_prob(patches, 0.1).mean(1) / 8
    torch.testing.assert_close(GMDMLogLikelihood(model, 0.1)(x), expected, rtol=1e-10, atol=0)


def test_of_a_model_of_images_it_is_exact():
    model, x = gm.WaveletModel(mixture(4).with_mean(0.1), "haar"), image(2, 3, 8, 4)
    expected = torch.stack([model.log_prob(x[:, c : c + 1], 0.1) for c in range(3)], 1).mean(1) / 32
    found = GMDMLogLikelihood(model, sigma=0.1)(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_reductions_losses_and_complex_images():
    model, x = mixture(3), image(4, 2, 6, 6)
    each = GMDMLogLikelihood(model, 0.1)(x)
    assert each.shape == (4,)
    assert GMDMLogLikelihood(model, 0.1, reduction="mean")(x) == each.mean()
    assert GMDMLogLikelihood(model, 0.1, reduction="sum")(x) == each.sum()
    assert torch.equal(GMDMLogLikelihood(model, 0.1, train_loss=True)(x), -each)
    crop = GMDMLogLikelihood(model, 0.1, center_crop=4)(x)
    assert torch.equal(crop, GMDMLogLikelihood(model, 0.1)(x[..., 1:5, 1:5]))
    magnitude = x.square().sum(1, keepdim=True).sqrt()
    absolute = GMDMLogLikelihood(model, 0.1, complex_abs=True)(x)
    torch.testing.assert_close(absolute, GMDMLogLikelihood(model, 0.1)(magnitude))
    assert GMDMLogLikelihood(model)(None).isnan().all()


def test_as_a_loss_it_has_the_score_for_a_gradient():
    model, x = mixture(3), image(1, 1, 6, 6).requires_grad_()
    loss = GMDMLogLikelihood(model, 0.1, train_loss=True, reduction="mean")
    (gradient,) = torch.autograd.grad(loss(x), x)
    expected = -gm.PatchLikelihood(model, "valid").score(x.detach(), 0.1) / 16
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("train_loss", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_no_reference_metrics(train_loss, channels):
    """The assertions of deepinv's test of the same name; but blur is more probable."""
    options = {
        "complex_abs": channels == 2,
        "train_loss": train_loss,
        "norm_inputs": None,
        "reduction": "mean",
    }
    m = GMDMLogLikelihood(**options)
    assert not m.lower_better
    x = read_picture(shipped("images") / "coffee.png")[0][..., 100:164, 100:164]
    x = x.expand(-1, 3, -1, -1)[:, :channels]
    rng = torch.Generator().manual_seed(0)
    noisy = deepinv.physics.GaussianNoise(sigma=0.1, rng=rng)(x)
    sign = -1 if train_loss else 1
    assert sign * m(noisy).item() < sign * m(x).item()
    kernel = deepinv.physics.functional.gaussian_blur(sigma=(3, 3))
    blurred = deepinv.physics.BlurFFT(filter=kernel, img_size=x.shape[1:])(x)
    assert sign * m(blurred).item() > sign * m(x).item()
    assert m(blurred, None, model=None, some_other_kwarg=None) != 0
    assert m(x_net=blurred, some_other_kwarg=None) != 0
    m2 = m + deepinv.metric.Metric(metric=lambda *a, **kw: 1)
    assert m2(blurred) == m(blurred) + 1
    each = GMDMLogLikelihood(**{**options, "reduction": "none"})
    assert len(each(torch.cat([x, x, x]))) == 3


def test_at_the_noise_of_the_images_they_are_most_probable(photo):
    noisy = photo + 0.1 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    values = [GMDMLogLikelihood(sigma=s)(noisy).item() for s in (0.05, 0.1, 0.2)]
    assert values[1] > max(values[0], values[2])


def test_copies_types_and_devices(photo):
    metric = GMDMLogLikelihood(device="cpu")
    assert torch.equal(copy.deepcopy(metric)(photo), metric(photo))
    assert metric(photo).dtype == torch.float32
    assert metric(photo[:0]).shape == (0,)


def test_refuses_what_has_no_density():
    with pytest.raises(ValueError, match="Identity has none"):
        GMDMLogLikelihood(nn.Identity())
    with pytest.raises(FileNotFoundError, match="no-such"):
        GMDMLogLikelihood("no-such")
    with pytest.raises(ValueError, match="not negative"):
        GMDMLogLikelihood(sigma=-0.1)(image(1, 1, 8, 8))
