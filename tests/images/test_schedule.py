"""The schedule of HQS: smooth in sigma, constant beyond its range, for numbers and maps."""

import math

import pytest
import torch

from gmdm_prior.images.schedule import DEFAULT, LEAST, MIDDLE, MOST, Schedule


def steps_at(schedule, sigma):
    pairs = list(schedule.at(torch.tensor(sigma, dtype=torch.float64)))
    return [(float(level), float(weight)) for level, weight in pairs]


def test_the_formula():
    schedule = Schedule(torch.tensor([[-0.2], [0.3], [-1.0], [0.5]], dtype=torch.float64))
    ((level, weight),) = steps_at(schedule, 50 / 255)
    t = math.log(2)
    assert level == pytest.approx(50 / 255 * math.exp(-0.2 + 0.3 * t))
    assert weight == pytest.approx(1 / (1 + math.exp(1.0 - 0.5 * t)))


def test_factors_stay_what_they_are_beyond_the_range():
    for end, beyond in ((LEAST, LEAST / 100), (MOST, 50 * MOST)):
        for (a, v), (b, w) in zip(steps_at(DEFAULT, end), steps_at(DEFAULT, beyond), strict=True):
            assert b / beyond == pytest.approx(a / end)
            assert w == pytest.approx(v)
    assert steps_at(DEFAULT, 0.0)[0][0] == 0


def test_the_default_is_constant_from_150_of_255_on_and_below_1():
    """In numbers: the range within which it was fitted."""
    for inside, end, beyond in ((149, 150, 151), (1.02, 1, 0.98)):
        factors = [
            [(level / sigma, weight) for level, weight in steps_at(DEFAULT, sigma)]
            for sigma in (inside / 255, end / 255, beyond / 255)
        ]
        for before, at, after in zip(*factors, strict=True):
            assert at == pytest.approx(after, abs=1e-12)
            assert at != pytest.approx(before, abs=1e-6)


def test_no_jumps():
    sigmas = torch.logspace(math.log10(LEAST) - 0.1, math.log10(MOST) + 0.1, 2000).double()
    for level, weight in DEFAULT.at(sigmas):
        assert (level / sigmas).log().diff().abs().max() < 2e-3
        assert weight.diff().abs().max() < 2e-3
        assert ((weight > 0) & (weight < 1)).all()


def test_a_map_is_taken_pixel_by_pixel():
    sigmas = torch.tensor([[0.01, MIDDLE], [0.3, 0.9]], dtype=torch.float64)
    steps = list(DEFAULT.at(sigmas))
    for i, row in enumerate(sigmas.tolist()):
        for j, sigma in enumerate(row):
            for (level, weight), (one, other) in zip(steps, steps_at(DEFAULT, sigma), strict=True):
                assert float(level[i, j]) == pytest.approx(one)
                assert float(weight[i, j]) == pytest.approx(other)


def test_a_constant_schedule_is_the_same_for_all_levels():
    schedule = Schedule.constant([0.9, 0.4], [0.5, 0.0])
    for sigma in (0.01, 0.5):
        (first, a), (second, b) = steps_at(schedule, sigma)
        assert (first, second) == pytest.approx((0.9 * sigma, 0.4 * sigma))
        assert (a, b) == pytest.approx((0.5, 0.0))
    assert steps_at(Schedule.constant([1.0], [1.0]), 0.1) == [(pytest.approx(0.1), 1.0)]


@pytest.mark.parametrize(
    ("levels", "shares", "message"),
    [
        ([0.9], [0.5, 0.1], "equally long"),
        ([], [], "not empty"),
        ([-1.0], [0.5], "levels must be positive"),
        ([1.0], [1.5], "between 0 and 1"),
        ([float("nan")], [0.5], "levels must be positive"),
    ],
)
def test_impossible_schedules(levels, shares, message):
    with pytest.raises(ValueError, match=message):
        Schedule.constant(levels, shares)
