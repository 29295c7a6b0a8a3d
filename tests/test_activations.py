"""Slope ranges, derivatives and resolvents of every activation."""

from __future__ import annotations

import pytest
import torch

import wellposed as wp
from wellposed.activations import DiagonalLinear, LeakyReLU, monotone_names, names

GRID = torch.linspace(-8, 8, 4001, dtype=torch.float64)


@pytest.mark.parametrize("name", names())
def test_derivative_and_slope_range(name):
    activation = wp.activation(name)
    value = (GRID + 1e-3).requires_grad_()  # off the kinks
    expected = torch.autograd.grad(activation(value).sum(), value)[0]
    torch.testing.assert_close(activation.derivative(value), expected, rtol=1e-10, atol=1e-12)
    low, high = activation.slope_range
    assert low - 1e-12 <= float(expected.min()) <= float(expected.max()) <= high + 1e-12
    at_output = activation.derivative_at_output(activation(value))
    if at_output is not None:
        torch.testing.assert_close(at_output, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", monotone_names())
@pytest.mark.parametrize("step", [0.05, 0.3, 0.62, 1.0, 2.0, 30.0])
def test_resolvent_solves_its_equation(name, step):
    activation = wp.activation(name)
    value = GRID * 3
    result = activation.resolvent(value, step)
    # result = σ(w) with step·w + (1 − step)·σ(w) = value: recover w and compare.
    w = (value - (1 - step) * result) / step
    torch.testing.assert_close(activation(w), result, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(activation.reflect(value, step), 2 * result - value, rtol=1e-12, atol=1e-12)
    # Firmly nonexpansive, as a resolvent must be.
    gap, moved = value[1:] - value[:-1], result[1:] - result[:-1]
    assert (moved >= -1e-12).all()
    assert (moved <= gap + 1e-12).all()


def test_resolvent_is_the_activation_at_step_one_and_not_elsewhere():
    tanh = wp.activation("tanh")
    torch.testing.assert_close(tanh.resolvent(GRID, 1.0), torch.tanh(GRID))
    assert not torch.allclose(tanh.resolvent(GRID, 0.3), torch.tanh(GRID), atol=1e-2)


def test_resolvent_in_float32():
    tanh = wp.activation("tanh")
    torch.testing.assert_close(
        tanh.resolvent(GRID.float(), 0.3).double(), tanh.resolvent(GRID, 0.3), rtol=1e-5, atol=1e-6
    )


def test_diagonal_linear_is_its_own_theorem():
    slopes = torch.rand(3, 5, dtype=torch.float64)
    activation = DiagonalLinear(slopes)
    value = torch.randn(3, 5, dtype=torch.float64)
    for step in (0.3, 1.0, 4.0):
        result = activation.resolvent(value, step)
        w = (value - (1 - step) * result) / step
        torch.testing.assert_close(slopes * w, result)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(activation.select(rows)(value[rows]), activation(value)[rows])


def test_names_and_options():
    with pytest.raises(wp.InputError, match="Did you mean 'sigmoid'"):
        wp.activation("sigmiod")
    with pytest.raises(wp.InputError, match="negative_slope=1.5"):
        LeakyReLU(1.5)
    assert "gelu" not in monotone_names()
    assert "silu" not in monotone_names()
    with pytest.raises(wp.InputError, match="slopes within"):
        wp.activation("silu").resolvent(GRID, 0.5)


@pytest.mark.parametrize("name", monotone_names())
def test_layers_with_any_activation_can_be_copied_and_pickled(name):
    import copy
    import pickle

    layer = wp.MonDEQ(3, 4, activation=name)
    x = torch.randn(2, 3)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), layer(x))
        assert repr(again) == repr(layer)
