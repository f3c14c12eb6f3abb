"""Operators by name: the right map, seeded, with a noise level that is read back."""

import math

import deepinv
import pytest
import torch
from deepinv_gmdm import build_physics, physics_sigma
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, parse_level

NAMES = ("denoise", "gaussian_blur", "motion_blur", "inpainting")


def config(name, sigma=0.0, **options):
    return PhysicsConfig(name=name, noise=NoiseConfig(sigma=sigma), **options)


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_and_shape(photo, name):
    physics = build_physics(config(name), tuple(photo.shape[1:]))
    other = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        (physics.A(photo) * other).sum(),
        (photo * physics.A_adjoint(other)).sum(),
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_same_config_measures_the_same(photo, name):
    first, second = (build_physics(config(name, 0.1), tuple(photo.shape[1:]))(photo) for _ in "12")
    other = build_physics(config(name, 0.1, seed=1), tuple(photo.shape[1:]))(photo)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_noise_level_is_the_physics_own(photo):
    physics = build_physics(config("denoise", "25/255"), tuple(photo.shape[1:]))
    assert physics_sigma(physics) == pytest.approx(25 / 255)
    assert float((physics(photo) - photo).std()) == pytest.approx(25 / 255, rel=0.05)
    physics.noise_model = deepinv.physics.GaussianNoise(0.3)
    assert physics_sigma(physics) == pytest.approx(0.3)
    physics.noise_model = deepinv.physics.ZeroNoise()
    assert physics_sigma(physics) == 0
    physics.noise_model = deepinv.physics.PoissonNoise(0.1)
    with pytest.raises(ValueError, match="PoissonNoise has no single Gaussian level"):
        physics_sigma(physics)


def test_gaussian_blur_is_a_gaussian_of_its_width():
    """A centred point spreads to variance width² along each axis (kernel cut at three widths)."""
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1
    spread = build_physics(config("gaussian_blur", width=2.0), (1, 31, 31)).A(point)[0, 0]
    place = torch.arange(31.0) - 15
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float((spread.sum(0) * place).sum()) == pytest.approx(0, abs=1e-4)
    assert float((spread.sum(0) * place**2).sum()) == pytest.approx(4, rel=0.03)


def test_motion_blur_keeps_the_mean(photo):
    physics = build_physics(config("motion_blur", size=9), tuple(photo.shape[1:]))
    assert float(physics.A(photo).mean()) == pytest.approx(float(photo.mean()), rel=1e-4)
    assert not torch.allclose(physics.A(photo), photo, atol=1e-2)


def test_inpainting_keeps_its_share(photo):
    colour = photo.expand(1, 3, *photo.shape[2:])
    physics = build_physics(config("inpainting", keep=0.3), tuple(colour.shape[1:]))
    seen = physics.A(torch.ones_like(colour))
    assert float(seen.mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(seen[:, 0], seen[:, 2])  # a missing pixel misses all of its channels


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "gausian_blur"}, "did you mean 'gaussian_blur'"),
        ({"name": "denoise", "sigma": -0.1}, "not negative"),
        ({"name": "denoise", "sigma": math.nan}, "finite"),
        ({"name": "denoise", "sigma": "loud"}, "fraction such as 25/255"),
        ({"name": "denoise", "sigma": [0.1, 0.2]}, "number or a fraction"),
        ({"name": "gaussian_blur", "width": 0.0}, "width must be positive"),
        ({"name": "gaussian_blur", "width": 30.0}, "larger than the image"),
        ({"name": "motion_blur", "size": 99}, "larger than the image"),
        ({"name": "motion_blur", "size": 2}, "at least 3"),
        ({"name": "inpainting", "keep": 0.0}, "above 0"),
        ({"name": "inpainting", "keep": 1.5}, "at most 1"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        build_physics(config(**options), (1, 24, 24))


def test_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="unknown noise 'poison'"):
        build_physics(PhysicsConfig(noise=NoiseConfig(name="poison")), (1, 24, 24))


@pytest.mark.parametrize(
    ("text", "level"),
    [("25/255", 25 / 255), (" 25 / 255 ", 25 / 255), ("0.1", 0.1), (0, 0), ("1e-2", 0.01)],
)
def test_levels(text, level):
    assert parse_level(text, "sigma") == pytest.approx(level)


@pytest.mark.parametrize("text", ["", "1/0", "-1/255", "inf", None, True, "25//255", {}])
def test_what_is_no_level(text):
    with pytest.raises(ValueError, match="sigma must be"):
        parse_level(text, "sigma")
