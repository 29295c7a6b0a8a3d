"""Dataclasses that hold tensors are shown in one line, by the shapes of these."""

from dataclasses import dataclass

import torch

import wellposed as wp
from wellposed.numerics.brief import Brief


@dataclass(frozen=True, repr=False)
class Pair(Brief):
    first: object
    second: object


def test_tensors_are_shown_by_shape_and_precision():
    x = torch.zeros(2, 3, dtype=torch.float32)
    assert repr(Pair(x, 1.0 / 3.0)) == "Pair(first=(2, 3) float32, second=0.333333)"
    assert repr(Pair([x, None], "words")) == "Pair(first=((2, 3) float32, None), second='words')"


def test_plans_are_one_line():
    shown = repr(wp.MonDEQ(30, 40).guarantee().reflected_plan())
    assert shown.startswith("Plan(step=") and "\n" not in shown and len(shown) < 100
