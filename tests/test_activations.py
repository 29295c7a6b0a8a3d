"""Slope ranges, derivatives and resolvents of every activation."""

from __future__ import annotations

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.activations import (
    Activation,
    Bordered,
    Clamp,
    DiagonalLinear,
    LeakyReLU,
    PartlyLinear,
    concave_names,
    monotone_names,
    name_of,
    names,
    of_module,
    torch_forms,
)

GRID = testing.linspace(-8, 8, 4001, dtype=torch.float64)


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
    assert activation.reflection(step)(value).equal(activation.reflect(value, step))
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
    slopes = testing.rand(3, 5, dtype=torch.float64)
    activation = DiagonalLinear(slopes)
    value = testing.randn(3, 5, dtype=torch.float64)
    for step in (0.3, 1.0, 4.0):
        result = activation.resolvent(value, step)
        w = (value - (1 - step) * result) / step
        torch.testing.assert_close(slopes * w, result)
    rows = testing.tensor([2, 0])
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
    x = testing.randn(2, 3)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), layer(x))
        assert repr(again) == repr(layer)


@pytest.mark.parametrize("name", names())
def test_images_of_intervals(name):
    """Never exceeded, and exact where σ increases; elsewhere attained up to what the ends and the slopes leave open."""
    sigma = wp.activation(name)
    generator = testing.generator(0)
    low = 6.0 * testing.rand(300, 1, generator=generator, dtype=torch.float64) - 4.0
    high = low + 3.0 * testing.rand(300, 1, generator=generator, dtype=torch.float64) ** 2
    below, above = sigma.interval(low, high)
    inside = sigma(low + (high - low) * testing.linspace(0.0, 1.0, 400, dtype=torch.float64))
    assert (inside >= below - 1e-12).all() and (inside <= above + 1e-12).all()
    slack = 1e-12 if sigma.slope_range[0] >= 0.0 else 0.5
    assert float((inside.amin(1) - below[:, 0]).max()) <= slack and float((above[:, 0] - inside.amax(1)).max()) <= slack


@pytest.mark.parametrize("name", names())
def test_what_is_said_of_concavity_is_so(name):
    sigma = wp.activation(name)
    value = testing.linspace(0.0, 12.0, 4001, dtype=torch.float64)
    image = sigma(value)
    concave = bool((image >= 0.0).all() and (image.diff().diff() <= 1e-12).all())
    if sigma.concavity is not None:
        assert concave
    else:
        assert not concave or name in ("relu", "leaky_relu", "identity", "elu")  # linear there: no contraction
    assert (name in concave_names()) == (sigma.concavity is not None)


def test_names_of_activations():
    for name in names():
        assert name_of(wp.activation(name)) == name
    assert name_of(Clamp(-2.0, 2.0)) is None and name_of(LeakyReLU(0.5)) is None
    assert Bordered(wp.activation("tanh"), ((1, 3, 3),)).interior == wp.activation("tanh")


def test_what_of_torch_is_an_activation():
    generator = testing.generator(0)
    value = 3.0 * testing.randn(200, generator=generator, dtype=torch.float64)
    for form in torch_forms():
        modules = [kind() for kind in form.modules]
        for compute, sigma in [
            *((module, of_module(module)) for module in modules),
            *((function, form.called()) for function in form.functions if form.options.get("min", 0) is not None),
            *((getattr(torch.Tensor, name), form.called()) for name in form.methods if "min" not in form.options),
        ]:
            torch.testing.assert_close(sigma(value), compute(value), rtol=1e-12, atol=1e-15)
        for write in form.writers:
            own = value.clone()
            write(own)
            torch.testing.assert_close(form.called()(value), own, rtol=1e-12, atol=1e-15)
    assert of_module(torch.nn.LeakyReLU(0.3)) == LeakyReLU(0.3)
    assert of_module(torch.nn.Softmax()) is None
    for module in (torch.nn.ELU(2.0), torch.nn.GELU("tanh"), torch.nn.LeakyReLU(3.0)):
        with pytest.raises(wp.InputError):
            of_module(module)


def test_calls_with_other_arguments_than_torch_has_are_refused():
    form = next(form for form in torch_forms() if torch.clamp in form.functions)
    assert form.called(-1.0) == Clamp(-1.0, float("inf")) and form.called(max=2.0) == Clamp(-float("inf"), 2.0)
    for args, options in (((1.0, 2.0, 3.0), {}), ((1.0,), {"min": 0.0}), ((), {"low": 0.0})):
        with pytest.raises(TypeError):
            form.called(*args, **options)
    for bounds in ((2.0, 1.0), (testing.zeros(1), 1.0), (True, 2.0)):
        with pytest.raises(wp.InputError, match="two numbers in order"):
            form.called(*bounds)


@pytest.mark.parametrize(
    "wrap", [lambda rest: rest, lambda rest: PartlyLinear(0, rest), lambda rest: Bordered(rest, ((1, 1, 3),))]
)
def test_intervals_hold_what_an_activation_says_of_its_error(wrap):
    class Coarse(Activation):
        """A ReLU that errs by as much as it says."""

        relative_error = 1e-3

        def __call__(self, value):
            return torch.relu(value) * (1.0 - 1e-3)

        def derivative(self, value):
            return (value > 0).to(value.dtype) * (1.0 - 1e-3)

    value = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    rough = wrap(Coarse())
    low, high = rough.interval(value, value)
    exact = torch.relu(value) * (rough(value) != 0.0)
    assert (low <= exact).all() and (high >= exact).all()
    assert float(Coarse().derivative_bound(value).max()) >= 1.0


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_borders_are_reflected_as_the_resolvent_says(name):
    bordered = Bordered(wp.activation(name), ((2, 5, 4),))
    value = testing.randn(3, 2, 5, 4, dtype=torch.float64).requires_grad_()
    expected = 2.0 * bordered.resolvent(value, 0.7) - value
    found = bordered.reflect(value, 0.7)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-14)
    (slopes,), (known,) = (torch.autograd.grad(image.sum(), value) for image in (found, expected))
    torch.testing.assert_close(slopes, known, rtol=0.0, atol=1e-12)
