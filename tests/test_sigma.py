"""Noise levels as they are written."""

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("many", [torch.full((1, 1, 64, 64), 0.1), np.ones(3)])
def test_a_map_is_not_one_level(many):
    """Said with its shape, not with its values."""
    said = r"^start is one level here; got a \w+ of shape \("
    with pytest.raises(ValueError, match=said) as error:
        parse(many, "start")
    assert len(str(error.value)) < 160
