"""A density from outside the package: its own file and one call of `register`, and all else works.

The density is the shortest that there is, one Gaussian on zero-mean patches. It goes through every
law of `test_laws`, and is compared with the `PatchMixture` of one class that it is.
"""

import inspect
import math
from dataclasses import dataclass

import pytest
import test_laws
import torch
from models import mixture, sample
from scipy import stats
from torch import Tensor, nn

import gmdm_prior as gm
from gmdm_prior import files
from gmdm_prior.densities.base import PatchDensity
from gmdm_prior.densities.diffused import Diffused
from gmdm_prior.densities.mean import MeanPart
from gmdm_prior.files.safetensors import KINDS


@dataclass(frozen=True)
class DiffusedGaussian(Diffused):
    rows: Tensor  # (J, a)
    variances: Tensor  # (J,)
    noise: Tensor
    mean_part: MeanPart

    @property
    def of_rows(self):
        """Noise variances of the responses, () or (N, 1 or J)."""
        several = self.noise.ndim and self.noise.shape[1] > 1
        return self.noise @ self.rows.square().T if several else self.noise

    def log_prob(self, y):
        total = self.variances + self.of_rows
        log = -0.5 * ((y @ self.rows.T).square() / total + (2 * math.pi * total).log()).sum(1)
        return log + self.mean_part.log_prob(y, self.noise)

    def score(self, y):
        zero_mean = -(y @ self.rows.T / (self.variances + self.of_rows)) @ self.rows
        return zero_mean + self.mean_part.score(y, self.noise)

    def posterior_mean(self, y):
        gain = self.variances / (self.variances + self.of_rows)
        zero_mean = (gain * (y @ self.rows.T)) @ self.rows
        return zero_mean + self.mean_part.posterior_mean(y, self.noise)

    def posterior(self, y):
        left = self.variances * self.of_rows / (self.variances + self.of_rows)
        variance = left @ self.rows.square() + self.mean_part.posterior_variance(self.noise)
        return self.posterior_mean(y), variance.expand_as(y)

    def covariance(self, y):
        left = self.variances * self.of_rows / (self.variances + self.of_rows)
        zero_mean = (self.rows.T * left[..., None, :]) @ self.rows
        mean = self.mean_part.posterior_covariance(self.noise)
        return (zero_mean + mean).expand(len(y), -1, -1)


class OneGaussian(PatchDensity):
    """N(0, sum_j v_j a_j a_jᵀ) on zero-mean patches: `filters` (J, C, b, b), `variances` (J,)."""

    kind = "OneGaussian"

    def __init__(self, filters, variances):
        super().__init__()
        self.filters, self.variances = nn.Parameter(filters), nn.Parameter(variances)
        self.event_shape = tuple(filters.shape[1:])
        self.mean_part = MeanPart(self.channels, self.patch_size**2)

    def at(self, noise):
        rows = self.filters.to(noise.dtype).flatten(1)
        return DiffusedGaussian(rows, self.variances.to(noise.dtype), noise, self.mean_part)

    def numbers_per_patch(self, noise):
        return 4 * self.filters.numel()

    def draw(self, noise, generator):
        std = (self.variances.to(noise.dtype) + noise).sqrt()
        u = std * torch.randn(std.shape, generator=generator, dtype=noise.dtype)
        mean = self.mean_part.sample(len(noise), noise, generator)
        return u @ self.filters.to(noise.dtype).flatten(1) + mean

    def zero_mean_lipschitz(self, sigma):
        return 1 / (float(self.variances.detach().min()) + sigma * sigma)

    def stored(self):
        return {"filters": self.filters, "variances": self.variances}, {}


@pytest.fixture(autouse=True)
def _registered():
    files.register(OneGaussian)
    yield
    del KINDS["OneGaussian"]


def the_same(proper=False):
    """The density, and the `PatchMixture` that it is."""
    one = mixture(3, bases=1, classes=1, symmetries="none")
    toy = OneGaussian(one.filters[0].clone(), one.variances[0].clone()).requires_grad_(False)
    return (toy.with_mean(0.05), one.with_mean(0.05)) if proper else (toy, one)


@pytest.fixture(params=["flat mean", "proper mean"], scope="module")
def model(request):
    """What the laws are about in this file."""
    return the_same(request.param == "proper mean")[0]


LAWS = {
    name: law
    for name, law in vars(test_laws).items()
    if name.startswith("test_") and "model" in inspect.signature(law).parameters
}
del LAWS["test_samples_follow_the_density"]  # which knows its models; below
globals().update(LAWS)


def test_there_are_laws():
    assert len(LAWS) >= 19


def test_samples_follow_this_density(model):
    x = sample(model, (20_000,), 0.2, torch.Generator().manual_seed(3)).flatten(1)
    for row, v in zip(model.filters.flatten(1), model.variances, strict=True):
        law = stats.norm(0, math.sqrt(float(v) + 0.04)).cdf
        assert stats.kstest((x @ row).numpy(), law).pvalue > 1e-4


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("proper", [False, True])
@pytest.mark.parametrize("by_map", [False, True])
def test_image_denoisers_take_it(proper, by_map):
    toy, one = the_same(proper)
    y = images(1, 2, 10, 11)
    sigma = 0.05 + 0.1 * images(1, 1, 10, 11, seed=1) if by_map else 0.1
    for make in (gm.PatchAveraging, lambda m: gm.HalfQuadraticSplitting(m, stride=2)):
        torch.testing.assert_close(make(toy)(y, sigma), make(one)(y, sigma))
    variances = [gm.PatchAveraging(m).variance(y, sigma) for m in (toy, one)]
    torch.testing.assert_close(*variances)


def test_colour_takes_it():
    toy, one = the_same()
    x = images(4, 3, 3, 3)
    colour = gm.OpponentModel(toy, scales=(1.5, 0.6, 0.4))
    expected = gm.OpponentModel(one, scales=(1.5, 0.6, 0.4))
    torch.testing.assert_close(colour.log_prob(x, 0.1), expected.log_prob(x, 0.1))
    torch.testing.assert_close(
        gm.PatchAveraging(colour)(images(1, 3, 8, 8), 0.1),
        gm.PatchAveraging(expected)(images(1, 3, 8, 8), 0.1),
    )


def test_files_keep_it_inside_others(tmp_path):
    colour = gm.OpponentModel(the_same()[0]).with_mean(0.1)
    gm.save(colour, tmp_path / "m.safetensors")
    loaded = gm.load(tmp_path / "m.safetensors", dtype=torch.float64)
    assert isinstance(loaded.planes[2], OneGaussian)
    x = images(4, 3, 3, 3)
    assert torch.equal(loaded.log_prob(x, 0.1), colour.log_prob(x, 0.1))


@pytest.mark.parametrize("proper", [False, True])
def test_the_prior_takes_it(proper):
    deepinv_gmdm = pytest.importorskip("deepinv_gmdm")
    toy, one = the_same(proper)
    ours, theirs = (deepinv_gmdm.GMDMPrior(m, sigma=0.1) for m in (toy, one))
    x = images(2, 1, 8, 8)
    for method in ("fn", "grad"):
        torch.testing.assert_close(getattr(ours, method)(x), getattr(theirs, method)(x))
    torch.testing.assert_close(ours.prox(x, gamma=0.01), theirs.prox(x, gamma=0.01))
    denoiser = deepinv_gmdm.GMDMDenoiser(toy)
    assert (denoiser(x, 0.1) - x).abs().max() > 0.01


def test_a_file_of_a_kind_that_is_not_registered_is_refused(tmp_path):
    toy, path = the_same()[0], tmp_path / "m.safetensors"
    gm.save(toy, path)
    kept = KINDS.pop("OneGaussian")
    with pytest.raises(ValueError, match="unknown kind of model 'OneGaussian'"):
        gm.load(path)
    with pytest.raises(TypeError, match=r"gmdm_prior\.files\.register.*got OneGaussian"):
        gm.save(toy, path)
    KINDS["OneGaussian"] = kept


def test_a_kind_belongs_to_one_class():
    class Other(OneGaussian):
        pass

    with pytest.raises(ValueError, match="that of OneGaussian: give Other another one"):
        files.register(Other)
    with pytest.raises(ValueError, match="'OneGaussian'"):  # nor is the first one replaced
        files.register(Other)
    assert files.register(OneGaussian) is KINDS["OneGaussian"] is OneGaussian
