"""What error messages share."""

import pytest

from gmdm_prior.messages import nearest, one_line, unknown


@pytest.mark.parametrize(
    ("name", "cutoff", "expected"),
    [
        ("hsq", 0.5, "; did you mean 'hqs'?"),
        ("average hqs", 0.4, "; did you mean 'average' or 'hqs'?"),
        ("zzz", 0.5, ""),
        (7, 0.5, ""),
    ],
)
def test_the_nearest_names_are_asked_for(name, cutoff, expected):
    assert nearest(name, ["hqs", "average"], cutoff) == expected


def test_without_a_cutoff_the_least_unlike_name_is_found():
    assert nearest("zzz", ["hqs"], 0.0) == "; did you mean 'hqs'?"
    assert nearest("zzz", [], 0.0) == ""


def test_what_is_unknown_is_told_with_all_names():
    assert unknown("solver", "hsq", ["hqs", "gd"]) == (
        "unknown solver 'hsq'; did you mean 'hqs'? Known are gd, hqs"
    )
    assert unknown("solver", "zzz", ["hqs", "gd"]) == "unknown solver 'zzz'; known are gd, hqs"
    assert unknown("solver", "zzz", []) == "unknown solver 'zzz'; known are none"


def test_one_line():
    assert one_line("the roof\n  leaks ") == "the roof leaks"
    assert one_line(ValueError("a\nb")) == "a b"
    assert one_line(MemoryError()) == "MemoryError"
