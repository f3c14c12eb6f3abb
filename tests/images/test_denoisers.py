"""Image denoisers against loops over patches: shapes, maps, tiles and types."""

import copy
import math

import pytest
import torch
from models import mixture, product
from reference import patch_average

import gmdm_prior as gm
from gmdm_prior.densities.base import PatchDensity
from gmdm_prior.fast import choose
from gmdm_prior.fast.choose import Evaluator
from gmdm_prior.images.patches import grid, interior_average, pad
from gmdm_prior.sigma import largest

CHECKED = {"product": lambda: product(3), "mixture": lambda: mixture(3)}


@pytest.fixture(params=CHECKED)
def model(request):
    return CHECKED[request.param]()


def image(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)


def denoisers(model):
    return {
        "average": gm.PatchAveraging(model),
        "average, stride 2": gm.PatchAveraging(model, stride=2),
        "average, circular": gm.PatchAveraging(model, boundary="circular"),
        "hqs": gm.HalfQuadraticSplitting(model),
        "hqs, stride 1": gm.HalfQuadraticSplitting(model, stride=1),
        "hqs, stride 3, circular": gm.HalfQuadraticSplitting(model, 3, "circular"),
    }


ALL = list(denoisers(product(3)))


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_patch_averaging_is_the_loop_over_patches(model, boundary):
    y = image(1, 1, 7, 9)
    expected = patch_average(y[0, 0], 3, lambda p: model.denoise(p[None], 0.1)[0], boundary)
    result = gm.PatchAveraging(model, boundary=boundary)(y, 0.1)[0, 0]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    single = gm.PatchAveraging(model, boundary=boundary)(y.float(), 0.1)[0, 0]
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)  # a product's table


def test_one_step_of_hqs_without_data_is_patch_averaging(model):
    y = image(1, 1, 10, 11)
    hqs = gm.HalfQuadraticSplitting(model, stride=1, levels=[1.0], data_shares=[0.0])
    torch.testing.assert_close(hqs(y, 0.1), gm.PatchAveraging(model)(y, 0.1), rtol=0, atol=1e-12)


def test_hqs_is_its_recursion(model):
    """At stride 1, on a periodic image, padding does not matter: step by step by hand."""
    y = image(1, 1, 12, 12)
    average = gm.PatchAveraging(model, boundary="circular")
    hqs = gm.HalfQuadraticSplitting(model, 1, "circular", levels=[0.9, 0.4], data_shares=[0.5, 0.1])
    x = 0.5 * average(y, 0.09) + 0.5 * y
    x = 0.9 * average(x, 0.04) + 0.1 * y
    torch.testing.assert_close(hqs(y, 0.1), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5, 80.0])
def test_tables_agree_with_the_exact_path(sigma):
    model = product(3, components=125)
    patches = 0.5 + max(0.3, sigma) * torch.randn(500, 9, dtype=torch.float64)
    noise = torch.tensor(sigma**2, dtype=torch.float64)
    exact, table = model.at(noise), Evaluator().level(model, noise)
    error = (table.posterior_mean(patches) - exact.posterior_mean(patches)).abs().max()
    assert error < 1e-5
    slope = (table.score(patches) - exact.score(patches)).abs().max()
    assert slope * sigma < 2e-3 * max(1.0, exact.score(patches).abs().max() * sigma)
    value = (table.log_prob(patches) - exact.log_prob(patches)).abs().max()
    assert value < 1e-3


def test_tabulated_value_and_slope_belong_to_one_function():
    """The value is the integral of the interpolated slope: finite differences agree."""
    model = product(2)
    table = Evaluator().level(model, torch.tensor(0.01, dtype=torch.float64))
    y = 0.3 * torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-6
    for i in range(4):
        d = torch.zeros(4, dtype=torch.float64)
        d[i] = step
        slope = (table.log_prob(y + d) - table.log_prob(y - d)) / (2 * step)
        torch.testing.assert_close(slope, table.score(y)[:, i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("by_map", [False, True])
def test_a_product_in_float64_is_exact(by_map):
    """Tables are straight between their nodes, so twice differentiated they would be flat."""
    model, y = product(3), image(1, 1, 4, 5).requires_grad_()
    denoise = gm.PatchAveraging(model)
    sigma = 0.1 + 0.2 * image(1, 1, 4, 5, seed=1) if by_map else torch.tensor(0.1).double()
    assert torch.autograd.gradcheck(lambda x: denoise(x, sigma), y)
    assert torch.autograd.gradgradcheck(lambda x: denoise(x, sigma), y)
    padded, noise = pad(y[0], 2, 2, "reflect"), sigma.square()
    images = (padded, pad(noise[0], 2, 2, "reflect")) if by_map else (padded,)
    expected = interior_average(
        images, 3, lambda p, *n: model.at(n[0] if n else noise).posterior_mean(p)
    )
    torch.testing.assert_close(denoise(y, sigma)[0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_batch_is_loop_and_channels_are_independent(model, name):
    denoise = denoisers(model)[name]
    y = image(2, 3, 11, 9)
    sigma = torch.tensor([0.05, 0.2], dtype=torch.float64)
    together = denoise(y, sigma)
    for b in range(2):
        for c in range(3):
            alone = denoise(y[b : b + 1, c : c + 1], sigma[b].item())[0, 0]
            torch.testing.assert_close(together[b, c], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_keeps_shape_dtype_and_input(model, name, dtype):
    y = image(1, 1, 9, 14, dtype=dtype)
    before = y.clone()
    x = denoisers(model)[name](y, 0.1)
    assert x.shape == y.shape
    assert x.dtype == dtype
    assert torch.equal(y, before)
    exact = denoisers(model)[name](y.double(), 0.1)
    assert (x.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps + 1e-5


@pytest.mark.parametrize("name", ALL)
def test_no_noise_no_change(model, name):
    y = image(2, 1, 9, 9)
    assert torch.equal(denoisers(model)[name](y, 0), y)
    mixed = denoisers(model)[name](y, torch.tensor([0.0, 0.1]))
    assert torch.equal(mixed[0], y[0])
    assert not torch.equal(mixed[1], y[1])


@pytest.mark.parametrize(
    "sigma",
    [
        0.1,
        torch.tensor(0.1),
        torch.tensor([0.1]),
        torch.tensor([0.1, 0.1]),
        torch.full((2, 1, 1, 1), 0.1),
        [0.1, 0.1],
        [0.1],
        torch.tensor([0.1, 0.1]).numpy(),
        torch.tensor(0.1).numpy(),
        torch.full((2, 1, 9, 9), 0.1),
        torch.full((1, 1, 9, 9), 0.1),
        torch.full((1, 3, 9, 9), 0.1),
    ],
    ids=lambda s: f"{type(s).__name__}{tuple(getattr(s, 'shape', ()))}",
)
def test_every_way_to_say_one_level_is_the_same(model, sigma):
    y = image(2, 3, 9, 9, dtype=torch.float32)
    denoise = gm.PatchAveraging(model)
    assert torch.equal(denoise(y, sigma), denoise(y, 0.1))


@pytest.mark.parametrize("name", ALL)
def test_a_map_constant_over_patches_agrees_with_the_number(model, name):
    """Two halves of different level: far from the seam each is what the number gives."""
    denoise = denoisers(model)[name]
    halo, side = denoise.halo, 2 * denoise.halo + 22
    y = image(1, 1, 10, 2 * side)
    level = torch.full((1, 1, 10, 2 * side), 0.05, dtype=torch.float64)
    level[..., side:] = 0.2
    result = denoise(y, level)
    left, right = denoise(y, 0.05), denoise(y, 0.2)
    # tables agree to 1e-5; the fast default rounds the level of a patch, by up to 1.3 %
    bound = 5e-3 if name == "hqs" and model.filters.ndim == 5 else 2e-5
    assert (result - left)[..., halo : side - halo].abs().max() < bound
    assert (result - right)[..., side + halo : -halo].abs().max() < bound
    assert (result - left)[..., side:].abs().max() > 1e-3


def test_a_map_weighs_the_noise_pixel_by_pixel(model):
    """The variance of response j is sum_i k_ji² sigma_i²: by hand on one patch."""
    y, sigma = image(1, 9), image(1, 9, seed=1)
    level = model.at(sigma.square())
    rows = (model.filters[0] if model.filters.ndim == 5 else model.filters).flatten(1)
    expected = sum(rows[2, i] ** 2 * sigma[0, i] ** 2 for i in range(9))
    noise = level._noise_of(0)[0, 0, 0, 2] if model.filters.ndim == 5 else level.experts.noise[0, 2]
    torch.testing.assert_close(noise, expected)
    assert torch.isfinite(level.posterior_mean(y)).all()


@pytest.mark.parametrize("name", ["average", "average, stride 2", "hqs, stride 1", "hqs"])
def test_tiles_with_a_halo_are_the_whole(model, name):
    denoise = denoisers(model)[name]
    y, before = image(1, 1, 9, 160), -(-denoise.halo // 4) * 4  # so that the grids coincide
    whole, start, end = denoise(y, 0.1), 56, 92
    tile = denoise(y[..., start - before : end + denoise.halo], 0.1)
    inside = tile[..., before : before + end - start]
    torch.testing.assert_close(inside, whole[..., start:end], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["average", "hqs"])
def test_halo_is_the_reach(model, name):
    denoise = denoisers(model)[name]
    y = 0.5 + 0.02 * image(1, 1, 12, 141)  # flat: coarse scales count
    changed = y.clone()
    changed[..., 70] += 0.5
    difference = (denoise(y, 0.1) - denoise(changed, 0.1)).abs().amax((0, 1, 2))
    moved = (difference > 1e-12).nonzero()
    assert moved.min() >= 70 - denoise.halo
    assert moved.max() <= 70 + denoise.halo
    assert moved.max() - moved.min() > denoise.halo


def test_circular_averaging_commutes_with_shifts_and_has_a_symmetric_jacobian(model):
    denoise = gm.PatchAveraging(model, boundary="circular")
    y = image(1, 1, 5, 6)
    rolled = denoise(y.roll((2, 3), (2, 3)), 0.1)
    torch.testing.assert_close(rolled, denoise(y, 0.1).roll((2, 3), (2, 3)), rtol=0, atol=1e-12)
    jacobian = torch.func.jacrev(lambda v: denoise(v, 0.1))(y).reshape(30, 30)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-10)


def test_gradients_flow_through_images_and_parameters(model):
    y = image(1, 1, 6, 7).requires_grad_()
    exact = mixture(3) if model.filters.ndim == 5 else model
    for denoise in (gm.PatchAveraging(exact), gm.HalfQuadraticSplitting(exact)):
        denoise(y, 0.1).square().sum().backward()
        assert torch.isfinite(y.grad).all()
    exact.requires_grad_(True)
    gm.PatchAveraging(exact)(y, 0.1).square().sum().backward()
    assert all(p.grad is not None for p in exact.parameters())
    assert torch.autograd.gradcheck(lambda v: gm.PatchAveraging(exact)(v, 0.1), y)


@pytest.mark.parametrize("phase", [(0, 0), (1, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_patches_come_back_to_where_they_were(stride, phase, monkeypatch):
    """The mean of untouched patches is the image, on every grid and in every strip."""
    monkeypatch.setattr("gmdm_prior.images.patches.LEAST_NUMBERS", 10)
    monkeypatch.setattr("gmdm_prior.images.patches.NUMBERS_PER_STRIP", 10)
    x, phase = image(2, 13, 17), (phase[0] % stride, phase[1] % stride)
    inside = interior_average((x,), 3, lambda p: p, stride, phase)
    torch.testing.assert_close(inside, x[:, 2:-2, 2:-2], rtol=0, atol=1e-12)


def test_hqs_scales_a_map_step_by_step_in_its_place():
    model = mixture(3)
    y, level = image(1, 1, 12, 12), 0.05 + 0.2 * image(1, 1, 12, 12, seed=1)
    average = gm.PatchAveraging(model, boundary="circular")
    hqs = gm.HalfQuadraticSplitting(model, 1, "circular", levels=[0.9, 0.4], data_shares=[0.5, 0.1])
    x = 0.5 * average(y, 0.9 * level) + 0.5 * y
    x = 0.9 * average(x, 0.4 * level) + 0.1 * y
    torch.testing.assert_close(hqs(y, level), x, rtol=0, atol=1e-12)


def test_hqs_steps_on_shifting_grids(model):
    """Four steps at stride 3 by hand: each grid starts one further, the fourth column one more."""
    y = image(1, 1, 12, 12)
    levels, shares = [0.9, 0.7, 0.5, 0.4], [0.5, 0.2, 0.1, 0.0]
    hqs = gm.HalfQuadraticSplitting(model, 3, "circular", levels=levels, data_shares=shares)
    x, origin = y[0, 0], -8  # the image was padded by four steps of two pixels
    for step, (level, share) in enumerate(zip(levels, shares, strict=True)):
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for top in range((origin + step) % 3, 12, 3):
            for left in range((origin + step + step // 3) % 3, 12, 3):
                rows = torch.tensor([(top + i) % 12 for i in range(3)])
                columns = torch.tensor([(left + i) % 12 for i in range(3)])
                index = rows[:, None], columns
                total[index] += model.denoise(x[index][None], 0.1 * level)[0]
                count[index] += 1
        x = (1 - share) * total / count + share * y[0, 0]
    torch.testing.assert_close(hqs(y, 0.1)[0, 0], x, rtol=0, atol=1e-5)  # the product reads a table


@pytest.mark.parametrize("step", [1, 3, 5])
def test_averaging_takes_the_grid_of_a_step(model, step):
    """One grid at stride 3 by hand; all nine are gone through in nine steps."""
    y, origin = image(1, 1, 12, 12), -2
    total, count = torch.zeros(12, 12).to(y), torch.zeros(12, 12).to(y)
    for top in range((origin + step) % 3, 12, 3):
        for left in range((origin + step + step // 3) % 3, 12, 3):
            rows = torch.tensor([(top + i) % 12 for i in range(3)])
            columns = torch.tensor([(left + i) % 12 for i in range(3)])
            index = rows[:, None], columns
            total[index] += model.denoise(y[0, 0][index][None], 0.1)[0]
            count[index] += 1
    average = gm.PatchAveraging(model, 3, "circular")
    torch.testing.assert_close(average(y, 0.1, step)[0, 0], total / count, rtol=0, atol=1e-5)
    assert len({grid(i, 3) for i in range(9)}) == 9


def test_padding_reflects_as_often_as_it_takes():
    x = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    row = pad(x, 7, 5, "reflect")[0, 0, 0]
    assert row.tolist() == [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    expected = torch.nn.functional.pad(x, (3, 3, 3, 3), mode="reflect")
    assert torch.equal(pad(x, 3, 3, "reflect"), expected)
    wrapped = torch.nn.functional.pad(x, (3, 3, 3, 3), mode="circular")
    assert torch.equal(pad(x, 3, 3, "circular"), wrapped)


def test_images_smaller_than_the_padding_work(model):
    y = image(1, 1, 3, 4)
    for denoise in denoisers(model).values():
        assert torch.isfinite(denoise(y, 0.1)).all()


def test_strips_do_not_show(model, monkeypatch):
    y = image(1, 1, 20, 21)
    for name, denoise in denoisers(model).items():
        expected = denoise(y, 0.1)
        monkeypatch.setattr("gmdm_prior.images.patches.LEAST_NUMBERS", 1)
        monkeypatch.setattr("gmdm_prior.images.patches.NUMBERS_PER_STRIP", 1)
        torch.testing.assert_close(denoise(y, 0.1), expected, rtol=0, atol=1e-12, msg=name)
        monkeypatch.undo()


def test_views_and_channels_last_are_images_too(model):
    y = image(2, 3, 9, 10)
    denoise = gm.PatchAveraging(model)
    expected = denoise(y, 0.1)
    assert torch.equal(denoise(y.to(memory_format=torch.channels_last), 0.1), expected)
    strided = torch.zeros(2, 3, 18, 20, dtype=torch.float64)
    strided[..., ::2, ::2] = y
    assert torch.equal(denoise(strided[..., ::2, ::2], 0.1), expected)


def test_every_patch_of_a_model_with_channels_sees_all_of_them():
    model = mixture(2, channels=3)
    y = image(2, 3, 8, 8)
    result = gm.PatchAveraging(model)(y, 0.1)
    other = y.clone()
    other[:, 2] = 0
    assert not torch.allclose(gm.PatchAveraging(model)(other, 0.1)[:, 0], result[:, 0])
    with pytest.raises(ValueError, match="3 channels"):
        gm.PatchAveraging(model)(y[:, :1], 0.1)


@pytest.mark.parametrize(
    ("y", "sigma", "error", "match"),
    [
        (torch.zeros(1, 1, 2, 9), 0.1, ValueError, "at least one patch"),
        (torch.zeros(9, 9), 0.1, ValueError, r"\(B, C, H, W\)"),
        (torch.zeros(1, 1, 1, 9, 9), 0.1, ValueError, r"\(B, C, H, W\)"),
        (torch.zeros(1, 1, 9, 9, dtype=torch.uint8), 0.1, TypeError, "floating point"),
        (torch.zeros(1, 1, 9, 9, dtype=torch.complex64), 0.1, TypeError, "complex"),
        (torch.full((1, 1, 9, 9), math.nan), 0.1, ValueError, "finite"),
        (torch.zeros(1, 1, 9, 9).numpy(), 0.1, TypeError, "tensor"),
        (torch.zeros(1, 1, 9, 9), -1, ValueError, "not negative"),
        (torch.zeros(1, 1, 9, 9), 1e20, ValueError, "sigma must be at most .* got 1e.20"),
        (torch.zeros(2, 1, 9, 9), torch.tensor([0.1, 1e20]), ValueError, "to 1e.20"),
        (torch.full((1, 1, 9, 9), 1e20), 0.1, ValueError, "images must lie within"),
        (torch.full((1, 1, 9, 9), -math.inf), 0.1, ValueError, "finite"),
        (torch.zeros(1, 1, 9, 9), math.nan, ValueError, "finite"),
        (torch.zeros(1, 1, 9, 9), torch.zeros(2), ValueError, "map"),
        (torch.zeros(2, 1, 9, 9), torch.zeros(3), ValueError, "map"),
        (torch.zeros(2, 1, 9, 9), torch.zeros(9, 9), ValueError, "map"),
        (torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 9, 8), ValueError, "map"),
        (torch.zeros(2, 1, 9, 9), torch.full((2, 1, 9, 9), -1.0), ValueError, "not negative"),
        (torch.zeros(2, 1, 9, 9), "auto", TypeError, "number"),
        (torch.zeros(2, 1, 9, 9), [0.1, "a"], TypeError, "numeric"),
    ],
)
def test_refuses_bad_input(y, sigma, error, match):
    with pytest.raises(error, match=match):
        gm.PatchAveraging(product(3))(y, sigma)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"stride": 0}, ValueError, "stride"),
        ({"stride": 4}, ValueError, "stride"),
        ({"stride": 1.5}, ValueError, "stride"),
        ({"boundary": "zeros"}, ValueError, "boundary"),
        ({"levels": [1.0], "data_shares": [0.1, 0.1]}, ValueError, "equally long"),
        ({"levels": [-1.0], "data_shares": [0.1]}, ValueError, "positive"),
    ],
)
def test_refuses_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        gm.HalfQuadraticSplitting(product(3), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_largest_numbers_give_numbers(model, dtype):
    """What is not refused is never NaN."""
    most = min(0.9 * largest(dtype), torch.finfo(dtype).max)
    y = (2 * image(1, 1, 12, 13) - 1).mul(most).to(dtype)
    level = torch.full((1, 1, 12, 13), float(most), dtype=torch.float64)
    level[..., 3:] *= 0.5
    for sigma in (float(most), 0.1):
        for name, denoise in denoisers(model).items():
            assert denoise(y, sigma).isfinite().all(), name
            assert denoise(y / most, sigma).isfinite().all(), name
    assert gm.HalfQuadraticSplitting(model)(y, level).isfinite().all()


@pytest.mark.parametrize("make", [lambda: mixture(4), lambda: mixture(3), lambda: product(3)])
def test_gradients_and_types_change_no_value(make):
    """Float64 is the exact one; float32 errs by rounding, maps by their rounded levels."""
    model = make()
    y, flat = 0.5 + 0.1 * image(1, 1, 24, 25), torch.tensor(6 / 255).double()
    level = 0.02 + 0.02 * torch.linspace(0, 1, 25).double().expand(1, 1, 24, 25)
    for sigma in (flat, level):
        for single in (False, True):
            denoise = gm.HalfQuadraticSplitting(copy.deepcopy(model).float() if single else model)
            exact = gm.HalfQuadraticSplitting(model, denoise.stride)(y, sigma)
            x, s = (v.float() if single else v for v in (y, sigma))
            found = [denoise(x, s), denoise(x.clone().requires_grad_(), s)]
            found += [denoise(x, s.clone().requires_grad_())]
            for one in found:
                bound = 1e-3 if sigma.ndim else 2e-5 if single else 1e-12
                assert (one.detach() - exact).abs().max() < bound


@pytest.mark.parametrize("make", [lambda: mixture(3), lambda: product(3)])
@pytest.mark.parametrize("method", [gm.PatchAveraging, gm.HalfQuadraticSplitting])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_with_zeros_has_gradients(make, method, channels):
    model = make() if channels == 1 else gm.OpponentModel(make())
    level = 0.2 * image(1, channels, 10, 10, seed=1)
    level[..., :5] = 0
    level.requires_grad_()
    denoise = method(model)
    denoise(image(1, channels, 10, 10), level).square().sum().backward()
    assert level.grad.isfinite().all()
    assert level.grad[..., 6:].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_map", [False, True])
def test_the_gradient_of_the_noise_level_is_that_of_the_density(model, by_map, dtype):
    """In float32 too, where the levels' tables have none; against central differences."""
    y = image(1, 1, 9, 9)
    level = (0.1 + 0.1 * image(1, 1, 9, 9, seed=1)) if by_map else torch.tensor(0.1).double()
    denoise, probe = gm.PatchAveraging(model), image(1, 1, 9, 9, seed=2)
    moving = level.to(dtype).requires_grad_()
    (denoise(y.to(dtype), moving).double() * probe).sum().backward()
    step = 1e-5
    slope = (probe * (denoise(y, level + step) - denoise(y, level - step))).sum() / (2 * step)
    assert moving.grad.sum().item() == pytest.approx(slope.item(), rel=2e-3)
    assert abs(slope.item()) > 0.01


class Toy(PatchDensity):
    """A density of patches from outside, all its own: a mixture in disguise."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside
        self.event_shape, self.mean_part = inside.event_shape, inside.mean_part

    def at(self, noise):
        return self.inside.at(noise)

    def numbers_per_patch(self, noise):
        return self.inside.numbers_per_patch(noise)

    draw = stored = zero_mean_lipschitz = None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_density_from_outside_is_evaluated_exactly(dtype, monkeypatch):
    """In pieces of a few patches."""
    monkeypatch.setattr(choose, "NUMBERS", 10_000)
    model = mixture(3).to(dtype)
    y = image(1, 2, 10, 11).to(dtype)
    level = (0.05 + 0.1 * image(1, 1, 10, 11, seed=1)).to(dtype)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-5}

    def results(density):
        average, likelihood = gm.PatchAveraging(density), gm.PatchLikelihood(density)
        for sigma in (0.1, level):
            yield average(y, sigma)
            yield average.score(y, sigma)
            yield average.variance(y, sigma)
            yield gm.HalfQuadraticSplitting(density, 2)(y, sigma)
            yield likelihood.log_prob(y, sigma) / 100
            yield likelihood.score(y, sigma) / 100

    for found, expected in zip(results(Toy(model)), results(model), strict=True):
        torch.testing.assert_close(found, expected, **tolerance)
    with pytest.warns(UserWarning, match="no classes"):
        assert gm.estimate_sigma(Toy(model), y).isfinite().all()


def test_refuses_what_is_no_model():
    with pytest.raises(TypeError, match="PatchModel"):
        gm.PatchAveraging("gray")
