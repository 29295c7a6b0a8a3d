"""Every activation at the ends of float32 and float64, against 60 digits of mpmath."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.activations import monotone_names, names

mp = mpmath.mp.clone()
mp.dps = 60


def odd(function):
    return lambda v: mp.sign(v) * function(abs(v))


def normal(v):
    """The distribution function of a standard Gaussian; mpmath's own cannot take the largest arguments."""
    return mp.erfc(-v / mp.sqrt(2)) / 2 if abs(v) < 1e4 else mp.mpf(v > 0)


REFERENCES = {
    "relu": (lambda v: max(v, mp.mpf(0)), lambda v: mp.mpf(v > 0)),
    "leaky_relu": (lambda v: v if v > 0 else v * mp.mpf(0.01), lambda v: mp.mpf(1) if v > 0 else mp.mpf(0.01)),
    "hardtanh": (lambda v: max(min(v, mp.mpf(1)), mp.mpf(-1)), lambda v: mp.mpf(abs(v) < 1)),
    "relu6": (lambda v: max(min(v, mp.mpf(6)), mp.mpf(0)), lambda v: mp.mpf(0 < v < 6)),
    "identity": (lambda v: v, lambda v: mp.mpf(1)),
    "tanh": (mp.tanh, lambda v: mp.sech(v) ** 2),
    "sigmoid": (lambda v: 1 / (1 + mp.exp(-v)), lambda v: mp.sech(v / 2) ** 2 / 4),
    "softplus": (lambda v: max(v, mp.mpf(0)) + mp.log1p(mp.exp(-abs(v))), lambda v: 1 / (1 + mp.exp(-v))),
    "softsign": (lambda v: v / (1 + abs(v)), lambda v: 1 / (1 + abs(v)) ** 2),
    "arctan": (mp.atan, lambda v: 1 / (1 + v * v)),
    "isru": (lambda v: v / mp.sqrt(1 + v * v), lambda v: (1 + v * v) ** mp.mpf(-1.5)),
    "arcsinh": (odd(mp.asinh), lambda v: 1 / mp.sqrt(1 + v * v)),
    "logarithm": (odd(mp.log1p), lambda v: 1 / (1 + abs(v))),
    "exponential": (odd(lambda v: -mp.expm1(-v)), lambda v: mp.exp(-abs(v))),
    "elu": (lambda v: v if v > 0 else mp.expm1(v), lambda v: mp.mpf(1) if v > 0 else mp.exp(v)),
    "silu": (
        lambda v: v / (1 + mp.exp(-v)),
        lambda v: 1 / (1 + mp.exp(-v)) + v * mp.sech(v / 2) ** 2 / 4,
    ),
    "gelu": (
        lambda v: v * normal(v),
        lambda v: normal(v) + v * mp.exp(-v * v / 2) / mp.sqrt(2 * mp.pi),
    ),
}
AT_INFINITY = {  # value at ±∞, slope at ±∞
    "relu": (0, math.inf, 0, 1), "leaky_relu": (-math.inf, math.inf, 0.01, 1), "hardtanh": (-1, 1, 0, 0),
    "relu6": (0, 6, 0, 0), "identity": (-math.inf, math.inf, 1, 1), "tanh": (-1, 1, 0, 0), "sigmoid": (0, 1, 0, 0),
    "softplus": (0, math.inf, 0, 1), "softsign": (-1, 1, 0, 0), "arctan": (-math.pi / 2, math.pi / 2, 0, 0),
    "isru": (-1, 1, 0, 0), "arcsinh": (-math.inf, math.inf, 0, 0), "logarithm": (-math.inf, math.inf, 0, 0),
    "exponential": (-1, 1, 0, 0), "elu": (-1, math.inf, 0, 1), "silu": (0, None, 0, 1), "gelu": (0, None, 0, 1),
}  # fmt: skip


def points(dtype):
    """Both signs of numbers over the whole range, subnormal ones too, and around the places where formulas switch."""
    top = 38 if dtype == torch.float32 else 308
    sizes = [10.0**e for e in range(-top - 6, top, max(top // 20, 1))] + [10.0**top, float(torch.finfo(dtype).max)]
    sizes += [
        0.1,
        0.5,
        0.9,
        1.0,
        1.1,
        3.0,
        6.0,
        8.0,
        9.1,
        17.0,
        20.0,
        37.0,
        44.5,
        88.0,
        89.0,
        104.0,
        350.0,
        709.0,
        746.0,
    ]
    sizes += [float(torch.finfo(dtype).smallest_normal), 1.8e19, 1.9e19, 1e20]
    values = testing.tensor([0.0, *sizes, *(-size for size in sizes)], dtype=torch.float64).to(dtype)
    return values[torch.isfinite(values)]


def reference(function, values):
    return [function(mp.mpf(float(value))) for value in values]


def misses(found, exact, relative, absolute):
    """By how many times the allowance the worst entry is off, and which one it is."""
    off = [
        float(abs(mp.mpf(float(x)) - y) / (relative * abs(y) + absolute)) if math.isfinite(float(x)) else math.inf
        for x, y in zip(found, exact, strict=True)
    ]
    worst = max(range(len(off)), key=off.__getitem__)
    return off[worst], worst


def test_every_activation_has_a_reference():
    assert set(REFERENCES) == set(names()) == set(AT_INFINITY)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_derivatives(name, dtype):
    sigma, values, limits = wp.activation(name), points(dtype), torch.finfo(dtype)
    value, slope = REFERENCES[name]
    lone = limits.eps if name in ("gelu", "silu") else 0.0  # in their negative tails, where terms cancel
    worst, place = misses(sigma(values), reference(value, values), 8 * limits.eps, 8 * (lone + limits.tiny))
    assert worst <= 1.0, (float(values[place]), float(sigma(values)[place]))
    found = sigma.derivative(values)
    # exp(v) has the relative error that v has times v, wherever it is not below the dtype.
    worst, place = misses(found, reference(slope, values), 400 * limits.eps, 8 * (lone + limits.tiny))
    assert worst <= 1.0, (float(values[place]), float(found[place]))
    low, high = sigma.slope_range
    assert low - 4 * limits.eps <= float(found.min()) <= float(found.max()) <= high + 4 * limits.eps
    at_output = sigma.derivative_at_output(sigma(values))
    if at_output is not None:
        assert torch.isfinite(at_output).all()
        torch.testing.assert_close(at_output, found, rtol=1e-4, atol=64 * limits.eps)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits_at_infinity(name, dtype):
    sigma = wp.activation(name)
    ends = testing.tensor([-math.inf, math.inf], dtype=dtype)
    low, high, first, second = AT_INFINITY[name]
    expected = testing.tensor([low, math.inf if high is None else high], dtype=dtype)
    found = sigma(ends)
    if high is None:  # unbounded, and as large as the dtype can say
        assert found[1] >= torch.finfo(dtype).max
        found, expected = found[:1], expected[:1]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        sigma.derivative(ends), testing.tensor([first, second], dtype=dtype), rtol=1e-6, atol=1e-37
    )


@pytest.mark.parametrize("name", REFERENCES)
def test_derivatives_by_autograd_are_finite_and_right(name):
    for dtype in (torch.float32, torch.float64):
        sigma, values = wp.activation(name), points(dtype)
        kinks = {"relu": [0.0], "leaky_relu": [0.0], "hardtanh": [1.0, -1.0], "relu6": [0.0, 6.0]}.get(name, [])
        for kink in kinks:
            values = values[values != kink]
        value = values.clone().requires_grad_()
        found = torch.autograd.grad(sigma(value).sum(), value)[0]
        torch.testing.assert_close(found, sigma.derivative(values), rtol=1e-3, atol=64 * torch.finfo(dtype).eps)
        slopes = sigma.derivative(value)
        if slopes.requires_grad:
            assert torch.isfinite(torch.autograd.grad(slopes.sum(), value)[0]).all()


@pytest.mark.parametrize("name", monotone_names())
@pytest.mark.parametrize("step", [1e-3, 0.3, 1.0, 2.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resolvents_over_the_whole_range(name, step, dtype):
    sigma, values, limits = wp.activation(name), points(dtype).sort().values, torch.finfo(dtype)
    found = sigma.resolvent(values, step)
    assert (
        torch.isfinite(found).all()
        and torch.isfinite(sigma.reflect(values, step)[values.abs() < 0.3 * limits.max]).all()
    )
    # found = σ(w) at the root of step·w + (1 − step)·σ(w) = value: σ(w) lies between its images beside the root.
    value, rounding = REFERENCES[name][0], 64 * limits.eps * max(step, 1.0)  # terms of that size cancel
    for v, z in zip(values, found, strict=True):
        if abs(float(v)) > 0.5 * step * limits.max:
            continue  # the root may be beyond the dtype
        exact_v, allowed = mp.mpf(float(v)), rounding * (1 + abs(mp.mpf(float(z))))
        for side in (-1, 1):
            moved = mp.mpf(float(z)) + side * allowed
            w = (exact_v - (1 - mp.mpf(step)) * moved) / mp.mpf(step)
            assert side * (value(w) - moved) <= 0, (float(v), float(z))
    assert (found[1:] >= found[:-1] - rounding * (1 + found[1:].abs())).all()


@pytest.mark.parametrize("name", monotone_names())
def test_defects_of_resolvents_are_finite(name):
    sigma, values = wp.activation(name), points(torch.float64)
    values = values[values.abs() < 1e300]
    for step in (0.01, 1.0, 30.0):
        output = sigma.resolvent(values, step)
        defect = sigma.defect(output, values, values, step)
        assert torch.isfinite(defect).all()
