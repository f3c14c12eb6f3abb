"""Noise levels as they are written."""

import pytest

from gmdm_prior.sigma import parse


@pytest.mark.parametrize(
    ("text", "level"),
    [("25/255", 25 / 255), (" 25 / 255 ", 25 / 255), ("0.1", 0.1), (0, 0), ("1e-2", 0.01)],
)
def test_numbers_and_fractions_are_levels(text, level):
    assert parse(text) == level


@pytest.mark.parametrize(
    "text", ["", "1/0", "1/2/3", "-1/255", "-0.1", "inf", "nan", None, True, "25//255", {}, "loud"]
)
def test_what_is_no_level_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"^prior.sigma=.* is no noise level.*such as 25/255$"):
        parse(text, "prior.sigma")
