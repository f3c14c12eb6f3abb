"""The compiled kernel of D4 mixtures against the exact torch path, and where torch does it."""

import copy
import logging
import math
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import mixture
from torch.autograd import forward_ad

import gmdm_prior as gm
from gmdm_prior import symmetry
from gmdm_prior.fast import choose as image_levels
from gmdm_prior.fast.kernels import llvm as vector_code
from gmdm_prior.fast.kernels import mixture_code as fused_kernel
from gmdm_prior.fast.kernels import square_coordinates as isotypic
from gmdm_prior.fast.kernels.mixture import FusedLevel, Tables, fused

COUNTS = {1: (7,), 2: (1, 4), 3: (5, 1, 3)}  # classes of each basis, by the number of bases
NOISE = torch.tensor(0.01)
needs_llvmlite = pytest.mark.skipif(not vector_code.installed(), reason="needs llvmlite >= 0.45")


def model_of(size, counts=(5, 1, 3), **options):
    """A float32 model whose bases have so many classes, in no order."""
    model = mixture(size, bases=len(counts), classes=sum(counts), **options)
    basis = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(basis), generator=torch.Generator().manual_seed(1))
    model.basis.copy_(basis[order])
    return model.float()


def noisy_patches(model, count, sigma, seed=2):
    """Float32 patches (N, a) that the model may have made, of mean 1/2."""
    g = torch.Generator().manual_seed(seed)
    return 0.5 + model.sample((count,), sigma, generator=g).flatten(1)


def exact(model, y, noise=NOISE):
    """In torch and float64, from the same numbers."""
    return copy.deepcopy(model).double().at(noise.double()).posterior_mean(y.double())


def largest(error):
    return float(error.abs().max())


def columns(y):
    """The same patches, as columns of a contiguous matrix."""
    return y.T.contiguous().T


# --- coordinates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 6, 8])
def test_coordinates_lose_nothing(size):
    matrix = isotypic.coordinate_matrix(size)
    gram = matrix @ matrix.T
    assert np.array_equal(gram, np.diag(gram.diagonal()))
    assert gram.diagonal().min() >= 4
    back = np.empty_like(matrix)
    isotypic.to_pixels(size, np.eye(size**2).__getitem__, back.__setitem__)
    assert np.array_equal(back, matrix.T)


def partial_products(size, a, y):
    at, matrix = isotypic.spaces(size), isotypic.coordinate_matrix(size)
    c, y = matrix @ a / np.square(matrix).sum(1), matrix @ y
    pairs = [(s, s) for s in at.signs]
    pairs += [(at.first, at.first), (at.first, at.second)]
    pairs += [(at.second, at.first), (at.second, at.second)]
    return [c[p.start : p.stop] @ y[q.start : q.stop] for p, q in pairs]


@pytest.mark.parametrize("size", [4, 6, 8])
def test_turned_products_are_those_with_the_turned_patch(size):
    a, y = np.random.default_rng(0).standard_normal((2, size, size))
    found = isotypic.turned(partial_products(size, a.ravel(), y.ravel()))
    turns = [symmetry.act(torch.from_numpy(y), h).numpy() for h in symmetry.group("d4")]
    np.testing.assert_allclose(sorted(found), sorted((a * t).sum() for t in turns), atol=1e-12)
    np.testing.assert_allclose(sorted(found[:2]), sorted([(a * y).sum(), (a * turns[2]).sum()]))


def test_gathering_is_the_transpose_of_turning():
    turning = np.array(isotypic.turned(np.eye(8)))
    assert np.array_equal(np.array(isotypic.gathered(np.eye(8))), turning.T)


# --- the kernel -----------------------------------------------------------------------------------


@needs_llvmlite
@pytest.mark.parametrize("bases", COUNTS)
@pytest.mark.parametrize("size", [4, 6, 8, 10])
def test_agrees_with_torch_in_float64(size, bases):
    model = model_of(size, COUNTS[bases])
    cases = [(n, s) for n in (1, 5, 16, 17) for s in (1 / 255, 0.1, 1.0)] + [(4097, 0.1)]
    for count, sigma in cases:
        y, noise = noisy_patches(model, count, sigma), torch.tensor(sigma).square()
        found = fused(model.at(noise), y).posterior_mean(y)
        assert found.dtype == torch.float32
        assert largest(found - exact(model, y, noise)) < 5e-6, (count, sigma)  # images in [0, 1]


@needs_llvmlite
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("size", [4, 6])
def test_every_width_agrees(size, lanes):
    """Where registers are narrower LLVM splits the vectors."""
    model, counts = model_of(size), (5, 1, 3)
    layout = fused_kernel.Layout(size, counts, lanes, fused_kernel.BLOCKING[lanes])
    kernel = fused_kernel.Kernel(layout, vector_code.Host(vector_code.host().features, lanes))
    y = noisy_patches(model, 37, 0.1)
    found = FusedLevel(model.at(NOISE), kernel, Tables(model.at(NOISE), layout)).posterior_mean(y)
    assert largest(found - exact(model, y)) < 5e-6


@needs_llvmlite
def test_a_basis_without_classes_is_left_out():
    model = model_of(4, (2, 0, 3))
    y = noisy_patches(model, 20, 0.1)
    assert largest(fused(model.at(NOISE), y).posterior_mean(y) - exact(model, y)) < 5e-6


@needs_llvmlite
def test_the_bundled_model_on_a_picture_is_as_precise_as_torch():
    model = gm.load("gray")
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 40).outer(torch.linspace(0.2, 1, 40))
    picture = torch.where(ramp > 0.4, ramp, 1 - ramp) + 0.1 * torch.randn(40, 40, generator=g)
    y = picture.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)
    level = model.at(NOISE)
    expected = exact(model, y)
    error = largest(fused(level, y).posterior_mean(y) - expected)
    assert error < 3e-6
    assert error < 3 * largest(level.posterior_mean(y) - expected)


@needs_llvmlite
def test_constant_patches_stay():
    model = model_of(8)
    y = torch.linspace(0, 1, 21)[:, None].expand(21, 64)
    assert largest(fused(model.at(NOISE), y).posterior_mean(y) - y) < 2e-6


@needs_llvmlite
def test_patches_of_another_scale_are_as_good_as_in_torch():
    model = model_of(8)
    y, level = 50 * noisy_patches(model, 1000, 0.1), model.at(NOISE)
    expected = exact(model, y)
    error = (fused(level, y).posterior_mean(y) - expected).square().mean().sqrt()
    assert error < 2 * (level.posterior_mean(y) - expected).square().mean().sqrt()


@needs_llvmlite
def test_a_proper_mean_is_shrunk():
    flat = model_of(4)
    model = flat.with_mean(0.02)
    y = noisy_patches(flat, 50, 0.1) + torch.linspace(-0.5, 0.5, 50)[:, None]
    found = fused(model.at(NOISE), y).posterior_mean(y)
    assert largest(found - exact(model, y)) < 5e-6
    assert largest(found - exact(flat, y)) > 1e-3


@needs_llvmlite
@pytest.mark.parametrize(("size", "bases"), [(4, 1), (6, 2), (8, 3)])
@pytest.mark.parametrize("mean", [None, 0.02])
def test_log_densities_come_with_the_means(size, bases, mean):
    model = model_of(size, COUNTS[bases])
    y = noisy_patches(model, 50, 0.1)  # three full tiles and a part of one
    model = model if mean is None else model.with_mean(mean)
    level = fused(model.at(NOISE), y)
    means, logs = level.mean_and_log_prob(y)
    assert torch.equal(means, level.posterior_mean(y))
    truth = copy.deepcopy(model).double().at(NOISE.double()).log_prob(y.double())
    assert largest(logs - truth) < 1e-3  # float32 rounding of exponents of about 100


@needs_llvmlite
def test_no_patches_and_no_noise():
    model = model_of(4)
    y = noisy_patches(model, 20, 0.0)
    level = fused(model.at(torch.tensor(0.0)), y)
    assert level.posterior_mean(y[:0]).shape == (0, 16)
    torch.testing.assert_close(level.posterior_mean(y), y, rtol=0, atol=2e-6)


# --- memory and threads ---------------------------------------------------------------------------


@needs_llvmlite
@pytest.mark.parametrize("count", [3, 40])
def test_both_layouts_give_the_same_and_keep_theirs(count):
    model = model_of(4)
    y = noisy_patches(model, count, 0.1)
    level, before = fused(model.at(NOISE), y), y.clone()
    by_rows, by_columns = level.posterior_mean(y), level.posterior_mean(columns(y))
    assert torch.equal(by_rows, by_columns)
    assert by_rows.is_contiguous()
    assert by_columns.T.is_contiguous()
    wide = torch.cat([y, y], 1)[:, :16]  # neither the one nor the other
    assert torch.equal(level.posterior_mean(wide), by_rows)
    assert torch.equal(y, before)


@needs_llvmlite
def test_columns_are_read_where_they_are():
    model = model_of(4)
    y = columns(noisy_patches(model, 32, 0.1))
    level, read = fused(model.at(NOISE), y), []
    kernel = level._kernel

    def run(source, *others):
        read.append(source)
        kernel.run(source, *others)

    level._kernel = SimpleNamespace(layout=kernel.layout, workspace=kernel.workspace, run=run)
    level.posterior_mean(y)
    assert read == [y.data_ptr()]


@needs_llvmlite
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])  # whose square is infinite
@pytest.mark.parametrize("pixels", [[0], [5], list(range(16))])
def test_what_is_no_number_spoils_its_patch_only(bad, pixels):
    model = model_of(4)
    y = noisy_patches(model, 40, 0.1)
    level = fused(model.at(NOISE), y)
    expected = level.posterior_mean(y)
    for patch in (3, 38):  # in a full tile and in the last one
        spoilt = y.clone()
        spoilt[patch, pixels] = bad
        found = level.posterior_mean(spoilt)
        assert found[patch].isnan().all()
        others = torch.arange(40) != patch
        assert torch.equal(found[others], expected[others])


# --- CPUs -----------------------------------------------------------------------------------------


class Features(dict):
    def flatten(self):
        return ",".join(f"{'+' if on else '-'}{name}" for name, on in self.items())


ABSENT = {
    "avx512": ("avx512", "evex512"),
    "avx": ("avx", "evex512", "fma", "f16c", "vaes", "vpclmulqdq", "xop", "gfni", "sm", "sha512"),
}


def assembly(lanes, target):
    layout = fused_kernel.Layout(4, (3, 1), lanes, fused_kernel.BLOCKING[lanes])
    machine, parsed = vector_code._parsed(fused_kernel.emit(layout)[0], target)
    return machine.emit_assembly(parsed)


@needs_llvmlite
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 CPUs")
@pytest.mark.parametrize(
    ("absent", "lanes", "registers"),
    [("avx512", 8, ("zmm",)), ("avx", 4, ("zmm", "ymm")), (None, 4, ("zmm", "ymm"))],
)
def test_a_cpu_gets_no_instruction_it_lacks(absent, lanes, registers, monkeypatch):
    from llvmlite import binding

    has = dict(binding.get_host_cpu_features())
    has["avx"] = True
    if absent:
        for name in has:
            has[name] = has[name] and not name.startswith(ABSENT[absent])
        monkeypatch.setattr(binding, "get_host_cpu_features", lambda: Features(has))
    else:

        def fail():
            raise RuntimeError("not known")

        monkeypatch.setattr(binding, "get_host_cpu_features", fail)
    target = vector_code.host()
    assert target.lanes == lanes
    code = assembly(lanes, target)
    assert "addps" in code
    assert not [name for name in registers if name in code]
    assert ("vaddps" in code) == (lanes > 4)


@needs_llvmlite
def test_powers_of_two():
    """A kernel of one function: `vector_code.exp2`."""
    module = vector_code.Module(8)
    code = vector_code.Code(module, "powers", places=2)
    code.memory[1].store(0, vector_code.exp2(code.memory[0].load()))
    compiled = vector_code.Compiled(module, code.finish(), vector_code.host())
    x = np.array([0, -0.5, -0.4999, -1, -59.3, -126, -100.51, math.nan], np.float32)
    out = np.empty_like(x)
    compiled.function(x.ctypes.data, out.ctypes.data)
    np.testing.assert_allclose(out, np.exp2(x.astype(float)), rtol=3e-7)


# --- where torch does it --------------------------------------------------------------------------


def with_grad(t):
    return t.clone().requires_grad_()


def wanted(model, name):
    getattr(model, name).requires_grad_()
    return model


REASONS = {
    "patches in float64": lambda m, y: fused(m.double().at(NOISE.double()), y.double()),
    "an image in float64": lambda m, y: fused(m.at(NOISE), y.double()),
    "not on the CPU": lambda m, y: fused(m.at(NOISE), y.to("meta")),
    "a gradient of the patches": lambda m, y: fused(m.at(NOISE), with_grad(y)),
    "a gradient of the noise": lambda m, y: fused(m.at(with_grad(NOISE)), y),
    "a gradient of the filters": lambda m, y: fused(wanted(m, "filters").at(NOISE), y),
    "a gradient of the variances": lambda m, y: fused(wanted(m, "variances").at(NOISE), y),
    "a gradient of the weights": lambda m, y: fused(wanted(m, "weights").at(NOISE), y),
    "a level for every patch": lambda m, y: fused(m.at(NOISE.expand(len(y), 1)), y),
    "a level for every pixel": lambda m, y: fused(m.at(NOISE.expand_as(y)), y),
    "two channels": lambda m, y: fused(model_of(4, channels=2).at(NOISE), y),
    "four channels": lambda m, y: fused(model_of(4, channels=4).at(NOISE), y),  # as many as 8x8
    "tiny patches": lambda m, y: fused(model_of(2).at(NOISE), y),
    "odd patches": lambda m, y: fused(model_of(5).at(NOISE), y),
    "flips": lambda m, y: fused(model_of(4, symmetries="flips").at(NOISE), y),
    "no symmetry": lambda m, y: fused(model_of(4, symmetries="none").at(NOISE), y),
}


@pytest.mark.parametrize("reason", REASONS)
def test_torch_does(reason, caplog):
    model = model_of(4)
    assert REASONS[reason](model, noisy_patches(model, 3, 0.1)) is None
    assert not caplog.records  # no failure


@needs_llvmlite
def test_without_a_reason_the_kernel_does():
    model = model_of(4)
    y = noisy_patches(model, 3, 0.1)
    assert fused(model.at(NOISE), y) is not None
    model.requires_grad_()
    with torch.no_grad():
        assert fused(model.at(NOISE), with_grad(y)) is not None
    with torch.inference_mode():
        assert fused(model.at(NOISE), y).posterior_mean(y).shape == y.shape


@pytest.mark.parametrize("mode", ["is_compiling", "is_tracing"])
def test_torch_does_while_compiling(mode, monkeypatch):
    model = model_of(4)
    level, y = model.at(NOISE), noisy_patches(model, 3, 0.1)
    place = torch.compiler if mode == "is_compiling" else torch.jit
    monkeypatch.setattr(place, mode, lambda: True)
    assert fused(level, y) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # inside torch, at the first dual number
def test_torch_does_in_forward_mode():
    model = model_of(4)
    level, y = model.at(NOISE), noisy_patches(model, 3, 0.1)
    with forward_ad.dual_level():
        assert fused(level, forward_ad.make_dual(y, torch.ones_like(y))) is None


@pytest.fixture
def no_kernels():
    fused_kernel.compiled.cache_clear()
    yield
    fused_kernel.compiled.cache_clear()


def test_torch_does_without_llvmlite(no_kernels, monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert not vector_code.installed()
    model = model_of(4)
    y = noisy_patches(model, 40, 0.1)
    assert fused(model.at(NOISE), y) is None
    image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = gm.PatchAveraging(copy.deepcopy(model).double())(image.double(), 0.1)
    assert largest(gm.PatchAveraging(model)(image, 0.1) - expected) < 1e-5


@needs_llvmlite
def test_torch_does_with_an_old_llvmlite(no_kernels, monkeypatch):
    from llvmlite import binding

    monkeypatch.setattr(binding, "llvm_version_info", (15, 0, 7))
    model = model_of(4)
    assert fused(model.at(NOISE), noisy_patches(model, 3, 0.1)) is None


@needs_llvmlite
def test_torch_does_where_compiling_fails_and_it_is_logged(no_kernels, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no such target")

    monkeypatch.setattr(fused_kernel, "Kernel", fail)
    model = model_of(4)
    with caplog.at_level(logging.WARNING):
        assert fused(model.at(NOISE), noisy_patches(model, 3, 0.1)) is None
    assert "no such target" in caplog.text


# --- image denoisers ------------------------------------------------------------------------------


def denoisers(model):
    return [
        gm.PatchAveraging(model),
        gm.PatchAveraging(model, stride=2, boundary="circular"),
        gm.HalfQuadraticSplitting(model, stride=1),
        gm.HalfQuadraticSplitting(model, stride=3),
    ]


@needs_llvmlite
@pytest.mark.parametrize("index", range(4))
def test_images_are_those_of_torch(index, monkeypatch):
    model = model_of(4)
    image = torch.rand(2, 3, 23, 17, generator=torch.Generator().manual_seed(0))
    used = []
    monkeypatch.setattr(image_levels, "fused", lambda *args: used.append(1) or fused(*args))
    found = denoisers(model)[index](image, 0.1)
    assert used
    monkeypatch.setattr(image_levels, "fused", lambda *_: None)
    assert largest(found - denoisers(model)[index](image, 0.1)) < 1e-5


@needs_llvmlite
def test_the_default_of_hqs_becomes_exact():
    model = model_of(4)
    image = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    fast = gm.HalfQuadraticSplitting(model)
    same_grids = gm.HalfQuadraticSplitting(model, fast.stride)
    assert torch.equal(fast(image, 0.1), same_grids(image, 0.1))


def gradients(denoise, image, sigma):
    image, sigma = with_grad(image), with_grad(sigma)
    denoise(image, sigma).square().sum().backward()
    return [image.grad, sigma.grad, *(p.grad for p in denoise.model.parameters())]


def test_gradients_go_through_torch():
    model = model_of(4)
    image = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(0.1)
    denoise = gm.PatchAveraging(model.requires_grad_())
    double = copy.deepcopy(denoise).double()
    found = gradients(denoise, image, sigma)
    expected = gradients(double, image.double(), sigma.double())
    for one, other in zip(found, expected, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms_go_through_torch():
    model = model_of(4)
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    denoise = gm.PatchAveraging(model)

    def one(x, sigma=0.1):
        return denoise(x[None], sigma)[0]

    plain = torch.stack([one(x) for x in image])
    assert largest(torch.func.vmap(one)(image) - plain) < 1e-5
    sigmas = torch.tensor([0.1, 0.1])
    assert largest(torch.func.vmap(one)(image, sigmas) - plain) < 1e-5
    jacobian = torch.func.jacrev(one)(image[0]).flatten(3).flatten(0, 2)
    tangent = torch.func.jvp(one, (image[0],), (image[1],))[1]
    assert largest(jacobian @ image[1].flatten() - tangent.flatten()) < 1e-4
    assert largest(tangent) > 0.1
    assert largest(jacobian) > 0.1

    @torch.no_grad()
    def held(x):
        return one(x)

    assert largest(torch.func.jacrev(held)(image[0])) == 0
    with torch.no_grad():
        forward = torch.func.jacfwd(one)(image[0]).flatten(3).flatten(0, 2)
    assert largest(jacobian - forward) < 1e-4


@needs_llvmlite
@pytest.mark.parametrize("sigma", [0.002, 0.0051, 0.02, 0.3])
def test_scores_follow_from_means_where_single_precision_allows(sigma, monkeypatch):
    """(mean - y) / variance to 1e-4 of the scores' size; below a level the density itself."""
    used = []
    means = FusedLevel.posterior_mean
    monkeypatch.setattr(FusedLevel, "posterior_mean", lambda s, y: used.append(0) or means(s, y))
    model = gm.load("gray-small")
    x = torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(0))
    found = gm.PatchLikelihood(model).score(x, sigma)
    exact = gm.PatchLikelihood(model.double()).score(x.double(), sigma)
    assert bool(used) == (sigma > 0.005)
    assert float((found - exact).abs().max()) < 1e-4 * float(exact.square().mean().sqrt())
