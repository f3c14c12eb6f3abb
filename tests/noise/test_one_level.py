"""One level of any noise, its map, and what other densities can say."""

import math

import pytest
import torch
import torch.nn.functional as F
from models import mixture, product

import gmdm_prior as gm
from gmdm_prior.noise.level import NoiseLevel
from gmdm_prior.noise.one_level import agreed_map, noise_of, slope_and_offset

BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 6


@pytest.fixture(scope="module")
def model():
    return gm.load("gray-likelihood")


@pytest.fixture(scope="module")
def correlated():
    """A smooth scene with noise of level 0.1 whose neighbours agree by 2/3."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 128), torch.linspace(0, 3, 128), indexing="ij")
    white = torch.randn(1, 1, 130, 130, generator=torch.Generator().manual_seed(0))
    scene = 0.5 + 0.2 * torch.sin(y + x) * torch.cos(y)
    return scene + 0.1 * F.conv2d(white, BINOMIAL[None, None])


def test_levels_are_those_of_any_noise_unless_white_is_asked_for(model, correlated):
    with pytest.warns(UserWarning, match="the noise is correlated"):
        found = gm.noise_level(model, correlated)
    noise = gm.estimate_noise(correlated, model)
    assert found.sigma.item() == pytest.approx(noise.sigma.item())
    assert found.sigma.item() == pytest.approx(0.1, rel=0.12)
    low, high = found.interval()
    (least,), (most,) = noise.interval()
    assert low.item() <= float(least) * 1.001
    assert high.item() >= float(most) * 0.999
    white = gm.noise_level(model, correlated, "white")
    assert white.sigma.item() < 0.04
    assert torch.equal(gm.estimate_sigma(model, correlated, "white"), white.sigma)


@pytest.mark.parametrize("make", [lambda: product(3), lambda: mixture(3, channels=2)])
@pytest.mark.filterwarnings("ignore:a PatchModel has no classes")
def test_densities_that_cannot_tell_read_white_noise(make):
    """With the warning of a plain likelihood among the notes."""
    own = make()
    g = torch.Generator().manual_seed(0)
    y = 0.3 * torch.randn(2, own.channels, 24, 24, generator=g, dtype=torch.float64)
    noise = noise_of(own, y)
    assert noise.white.all()
    white = gm.noise_level(own, y)
    assert torch.equal(noise.sigma, white.sigma)
    assert torch.equal(torch.stack(noise.interval()), torch.stack(white.interval()))
    assert any("no classes" in note for note in noise.notes) == (own.channels == 1)
    with pytest.raises(ValueError, match="kind must be auto or white for a"):
        noise_of(own, y, "poisson")
    with pytest.raises(ValueError, match="kind must be auto or white for a"):
        gm.noise_level(own, y, "correlated")


def test_a_map_agrees_with_the_noise(correlated):
    """Of white noise as it is read; raised where too little is seen; else from the curve."""
    sigma = torch.linspace(0.5, 1.5, 128).expand(1, 1, 128, 128)

    def ramp(x):
        return 0.06 * F.interpolate(sigma, size=x.shape[2:], mode="bilinear")

    white = gm.Noise(0.1)
    assert torch.equal(agreed_map(ramp, correlated, white), ramp(correlated))
    lags = torch.zeros(3, 3, dtype=torch.float64)
    lags[1] = torch.tensor([0.3, 1.0, 0.3])
    wide = gm.Noise(autocovariance=0.01 * lags)
    raised = agreed_map(ramp, correlated, wide)
    assert float(raised.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-3)
    torch.testing.assert_close(
        raised / ramp(correlated), (raised / ramp(correlated)).mean().expand_as(raised)
    )
    nothing = agreed_map(lambda x: 1e-4 * torch.ones_like(x), correlated, wide)
    assert torch.equal(nothing, torch.full_like(nothing, 0.1))
    x = torch.linspace(0.0, 1, 33, dtype=torch.float64)
    grown = gm.Noise(0.1, curve=gm.NoiseCurve(x, (0.02 * x).sqrt()))
    levels = agreed_map(lambda x: 1e-4 * torch.ones_like(x), correlated, grown)
    means = F.avg_pool2d(F.pad(correlated, (4,) * 4, mode="reflect"), 9, 1)
    torch.testing.assert_close(levels, (0.02 * means).sqrt(), rtol=0.02, atol=0)


def test_slope_and_offset_of_a_curve():
    x = torch.linspace(-0.1, 1, 23, dtype=torch.float64)
    curve = gm.NoiseCurve(x, (0.02 * x - 0.001).clamp(min=0).sqrt())
    assert slope_and_offset(gm.Noise(0.1, curve=curve)) == pytest.approx((0.02, -0.001))
    assert slope_and_offset(gm.Noise(0.1)) is None
    assert slope_and_offset(gm.Noise(0.1, curve=gm.NoiseCurve([0.5], [0.1]))) is None


def test_a_level_that_is_not_told_has_a_bounded_interval():
    """Blurred coins with noise of 0.002 had an upper end of 200 000, which `restore` took."""
    found = NoiseLevel(torch.tensor([0.0014, 0.02, 0.0]), torch.tensor([0.0136, 0.002, 0.0]))
    assert found.told.tolist() == [False, True, False]
    low, high = found.interval()
    assert low[0] == 0
    assert 0.002 < high[0] < 0.004
    assert low[1] == pytest.approx(0.02 * math.exp(-0.196))
    assert high[1] == pytest.approx(0.02 * math.exp(0.196))
    assert low[2] == high[2] == 0
