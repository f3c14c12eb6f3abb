"""Operators by name: the right map, seeded, with a noise level that is read back."""

import math

import deepinv
import pytest
import torch
from deepinv_gmdm import build_physics, physics_sigma
from deepinv_gmdm.operators import as_picture, with_phase
from deepinv_gmdm.physics import NoiseConfig, PhysicsConfig, data_term

NAMES = ("denoise", "gaussian_blur", "motion_blur", "space_varying_blur", "inpainting")
OTHERS = ("super_resolution", "compressed_sensing", "tomography", "mri")  # not image-shaped


def config(name, sigma=0.0, **options):
    return PhysicsConfig(name=name, noise=NoiseConfig(sigma=sigma), **options)


def scene(photo, name):
    square = photo[..., :40, :40]
    return with_phase(square, 1.0) if name == "mri" else square


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_adjoint_and_shape(photo, name):
    x = scene(photo, name)
    physics = build_physics(config(name), tuple(x.shape[1:]))
    y = physics.A(x)
    other = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        (y * other).sum(), (x * physics.A_adjoint(other)).sum(), rtol=1e-4, atol=1e-3
    )
    assert as_picture(physics, y, x).shape == x.shape
    if name in NAMES:
        assert as_picture(physics, y, x) is y


@pytest.mark.parametrize("name", ["super_resolution", "compressed_sensing", "tomography", "mri"])
def test_data_step_is_solved(photo, name):
    """gamma Aᵀ (A u - y) + u - x = 0, as every solver takes for granted."""
    x = scene(photo, name)
    physics = build_physics(config(name), tuple(x.shape[1:]))
    y, gamma = physics.A(x) + 0.1, 3.0
    u = physics.prox_l2(torch.full_like(x, 0.3), y, gamma)
    gradient = gamma * physics.A_adjoint(physics.A(u) - y) + u - 0.3
    assert gradient.abs().max() < 2e-3


def test_space_varying_blur_is_wider_on_the_right():
    physics = build_physics(config("space_varying_blur", width=0.8, growth=3.0), (1, 40, 60))
    x = torch.zeros(1, 1, 40, 60)
    for column, width in ((12, 0.8 + 1.6 * 12 / 59), (47, 0.8 + 1.6 * 47 / 59)):
        point = x.clone()
        point[..., 20, column] = 1
        spread = physics.A(point)[0, 0]
        rows = torch.arange(40.0) - 20
        share = spread.sum(1) / spread.sum()
        assert float((share * rows**2).sum()) ** 0.5 == pytest.approx(width, rel=0.08)
    torch.testing.assert_close(physics.A(x + 1), x + 1, rtol=0, atol=1e-5)  # no flicker


def test_random_transform_is_rows_of_an_orthogonal_matrix(photo):
    whole = build_physics(config("compressed_sensing", keep=1.0), (1, 8, 9)).double()
    x = torch.randn(2, 1, 8, 9, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(whole.A_adjoint(whole.A(x)), x)
    part = build_physics(config("compressed_sensing", keep=0.3), (1, 40, 48))
    seen = (part.A(photo) != 0).float().mean()
    assert float(seen) == pytest.approx(0.3, abs=0.03)
    other = build_physics(config("compressed_sensing", keep=0.3, seed=1), (1, 40, 48))
    assert not torch.equal(part.A(photo), other.A(photo))


def test_line_integrals_of_a_disc(photo):
    """Through the middle of a disc of radius r and value 1: 2 r, at every angle."""
    side, radius = 64, 20.0
    place = torch.arange(side) - (side - 1) / 2
    disc = ((place[:, None] ** 2 + place**2) < radius**2).float()[None, None]
    physics = build_physics(config("tomography", angles=12), (1, side, side))
    y = physics.A(disc)
    assert y.shape[-1] == 12
    torch.testing.assert_close(
        y.amax(2).flatten(), torch.full((12,), 2 * radius / side), rtol=0.03, atol=0
    )
    assert float(y.std(-1).max()) < 0.06
    many = build_physics(config("tomography", angles=90), (1, side, side))
    back = as_picture(many, many.A(disc), disc)
    assert float((back - disc)[..., 16:48, 16:48].abs().mean()) < 0.05


def test_mri_measures_its_share_of_columns():
    shape = (2, 64, 64)
    physics = build_physics(config("mri", acceleration=4.0), shape)
    mask = physics.mask[0]
    assert torch.equal(mask[0], mask[1])
    assert torch.equal(mask[:, :1].expand_as(mask), mask)  # whole columns
    assert float(mask.mean()) == pytest.approx(0.25, abs=0.01)
    assert (mask[0, 0, 31:34] == 1).all()


def test_phase_keeps_the_magnitude(photo):
    x = with_phase(photo, 1.5)
    torch.testing.assert_close(x.square().sum(1, keepdim=True).sqrt(), photo)
    angle = torch.atan2(x[:, 1], x[:, 0])
    assert 1.0 < float(angle.abs().max()) <= 1.5
    assert float((angle[..., 1:] - angle[..., :-1]).abs().max()) < 0.2


@pytest.mark.parametrize("noise", ["poisson", "poisson_gaussian"])
def test_counted_photons_have_their_variance(noise):
    """Mean A x, variance gain A x (+ sigma²); the data term weighs by just that."""
    gain, sigma = 0.02, 0.03 if noise == "poisson_gaussian" else 0.0
    noise_config = NoiseConfig(name=noise, gain=gain, sigma=0.03)
    physics = build_physics(PhysicsConfig(noise=noise_config), (1, 300, 300))
    x = torch.full((1, 1, 300, 300), 0.5)
    y = physics(x)
    expected = gain * 0.5 + sigma**2
    assert float(y.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(y.var()) == pytest.approx(expected, rel=0.03)
    weights = data_term(physics, y, x)
    assert weights.level == pytest.approx(expected**0.5, rel=1e-4)
    assert data_term(physics, y).level == pytest.approx(expected**0.5, rel=0.02)
    dark = data_term(physics, y, torch.zeros_like(x))  # at least one photon's variance
    assert dark.level == pytest.approx((gain**2 + sigma**2) ** 0.5, rel=1e-4)
    assert data_term(build_physics(config("denoise", 0.1), (1, 300, 300)), y) is None


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
        ({"name": "compressed_sensing", "keep": 0.0}, "above 0"),
        ({"name": "space_varying_blur", "growth": 0.0}, "growth must be positive"),
        ({"name": "space_varying_blur", "growth": 9.0}, "larger than the image"),
        ({"name": "super_resolution", "factor": 5}, "divide both sides .* 5 for 24 x 24"),
        ({"name": "super_resolution", "factor": 0}, "at least 1"),
        ({"name": "tomography", "angles": 0}, "angles must be at least 1"),
        ({"name": "mri", "acceleration": 0.5}, "acceleration must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        build_physics(config(**options), (1, 24, 24))


def test_noise_that_does_not_fit_is_refused():
    photons = NoiseConfig(name="poisson", gain=0.01)
    for name in ("mri", "compressed_sensing"):
        with pytest.raises(ValueError, match="counts photons"):
            build_physics(PhysicsConfig(name=name, noise=photons), (1, 24, 24))
    with pytest.raises(ValueError, match=r"noise\.gain must be positive"):
        build_physics(PhysicsConfig(noise=NoiseConfig(name="poisson", gain=0)), (1, 24, 24))
    with pytest.raises(ValueError, match="square image; got 24 x 30"):
        build_physics(config("tomography"), (1, 24, 30))


def test_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="unknown noise 'poison'"):
        build_physics(PhysicsConfig(noise=NoiseConfig(name="poison")), (1, 24, 24))
