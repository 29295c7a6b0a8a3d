"""The perturbation bound against equilibria in rational arithmetic, with cancellation and at every magnitude."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

import wellposed as wp
from wellposed import testing


def layer(a, weight, bias, dtype=torch.float64):
    made = wp.MonDEQ(1, 1, m=1.0, dtype=dtype)
    with torch.no_grad():
        made.constraint.A.fill_(a), made.constraint.B.zero_()
        made.injection.weight.fill_(weight), made.injection.bias.fill_(bias)
    return made


def equilibrium(made, x):
    """Of one unit: z = max(wz + ux + b, 0) for w < 1."""
    stored = (made.operator().dense(), made.injection.weight, made.injection.bias)
    w, u, b = (Fraction(float(tensor.detach())) for tensor in stored)
    return max((u * x + b) / (1 - w), Fraction(0))


EXPONENTS = [(torch.float32, e) for e in (-36, -20, -8, 0, 8, 30)]
EXPONENTS += [(torch.float64, e) for e in (-300, -160, -40, -8, 0, 8, 30, 150, 300)]


@pytest.mark.parametrize(("dtype", "exponent"), EXPONENTS)
@pytest.mark.parametrize("flushed", [False, True])
def test_one_unit(dtype, exponent, flushed):
    generator = testing.generator(exponent)

    def number():
        return float(testing.randn((), generator=generator, dtype=torch.float64))

    tight = 0
    for trial in range(40):
        share = 10.0 ** (exponent * (trial % 4) / 3)
        value = testing.tensor(number() * share, dtype=torch.float64).to(dtype)
        u = number() * 10.0**exponent / share
        shift = 0.0 if trial % 3 == 0 else number() * 2.0**-50
        a, b = number(), number()
        first = layer(a, u, 0.0, dtype)
        with torch.no_grad():  # b is as close to −ux as it can be
            first.injection.bias.copy_((-first.injection.weight.double() * value.double()).reshape(1))
        second = layer(b, u * (1 + shift), 0.0, dtype)
        second.injection.bias.data.copy_(first.injection.bias * (1 + shift * number()))
        if trial % 5 == 0:
            second.constraint.A.data.copy_(first.constraint.A)
        apart = abs(equilibrium(first, Fraction(float(value))) - equilibrium(second, Fraction(float(value))))
        torch.set_flush_denormal(flushed)
        try:
            bound = float(wp.perturbation_bound(first, second, value.reshape(1, 1)))
        finally:
            torch.set_flush_denormal(False)
        assert not math.isnan(bound) and bound >= 0.0
        assert bound == math.inf or Fraction(bound) >= apart
        tight += math.isfinite(bound)
    assert tight > 0


def test_overflow_is_infinite():
    for u, bias, x in ((1e200, 0.0, 1e200), (1e200, -1e308, 1e200), (1e308, 1e308, 1.0)):
        found = wp.perturbation_bound(
            layer(1.0, u, bias), layer(1.0, u, bias), testing.tensor([[x]], dtype=torch.float64)
        )
        assert (found == math.inf).all()
    # The weights overflow when they are subtracted.
    found = wp.perturbation_bound(layer(1e153, 1.0, 0.0), layer(2.0, 1.0, 0.0), testing.ones(1, 1).double())
    assert (found > 0.4).all()


def test_the_same_layer_is_close_to_itself():
    made = layer(0.3, 0.7, 0.2)
    assert float(wp.perturbation_bound(made, made, testing.ones(1, 1).double())) < 1e-290
