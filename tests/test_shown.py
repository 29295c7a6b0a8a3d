"""Bounds that are shown in few digits are still bounds."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellposed.experiments.tables import bounds
from wellposed.numerics.shown import at_least, at_most


@given(st.floats(), st.integers(1, 15))
def test_rounding_keeps_the_side_and_is_near(value, digits):
    upper, lower = float(at_most(value, digits)), float(at_least(value, digits))
    if math.isnan(value):
        assert math.isnan(upper) and math.isnan(lower)
        return
    assert lower <= value <= upper
    if 1e-300 < abs(value) < 1e300:
        apart = Fraction(at_most(value, digits)) - Fraction(at_least(value, digits))  # as written: reading them rounds
        assert apart <= abs(Fraction(value)) / 10 ** (digits - 1)


@pytest.mark.parametrize(
    ("value", "most", "least"),
    [(8.93241, "8.933", "8.932"), (0.1, "0.1", "0.1"), (-1.23456, "-1.234", "-1.235"), (99999.5, "1e+05", "9.999e+04")],
)
def test_what_is_shown(value, most, least):
    assert (at_most(value), at_least(value)) == (most, least)


def test_tables_show_bounds():
    assert bounds(1.00009, 8.93241)[:2] == ("8.933", "1")
