"""Training steps of layers with a matrix: the values and derivatives of the general solve, and back to it where more is asked."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

import wellposed as wp
from wellposed import testing
from wellposed.activations import monotone_names

# With a solver for the adjoint equation of its own a layer takes the general way.
GENERAL = wp.Exact(solver=wp.PeacemanRachford())


def made(states=13, inputs=7, family=wp.MonDEQ, **options):
    torch.manual_seed(1)
    return family(inputs, states, dtype=torch.float64, **options)


def by_columns(value):
    return type(value.grad_fn).__name__ == "_DifferentiatedBackward"


def derivatives(layer, x, cotangent):
    """The value, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    value = layer(x)
    found = torch.autograd.grad(value, [x, *layer.parameters()], cotangent)
    return [value.detach(), *found]


def both_ways(layer, x):
    """What `derivatives` finds by columns, and what it finds by the general solve."""
    cotangent = testing.randn(len(x), layer.state_features, dtype=torch.float64)
    assert by_columns(layer(x))
    found = derivatives(layer, x, cotangent)
    layer.gradient = GENERAL
    assert not by_columns(layer(x))
    return found, derivatives(layer, x, cotangent)


def assert_same(found, expected, *, rtol=1e-8, atol=1e-9):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", sorted(set(monotone_names()) - {"identity"}))
def test_every_activation(name):
    layer = made(activation=name)
    x = testing.randn(5, 7, dtype=torch.float64)
    cotangent = testing.randn(5, 13, dtype=torch.float64)
    found = derivatives(layer, x, cotangent)
    layer.gradient = GENERAL
    assert_same(found, derivatives(layer, x, cotangent))


@pytest.mark.parametrize(("batch", "states"), [(1, 1), (1, 40), (17, 2), (128, 63), (3, 130)])
@pytest.mark.parametrize("bias", [True, False])
def test_every_shape(batch, states, bias):
    assert_same(*both_ways(made(states, bias=bias), testing.randn(batch, 7, dtype=torch.float64)))


@pytest.mark.parametrize(
    "options", [{"m": 0.5}, {"m": 20.0}, {"rtol": 1e-12, "atol": 1e-12}, {"solver": wp.PeacemanRachford(0.3)}]
)
def test_options(options):
    assert_same(*both_ways(made(**options), testing.randn(5, 7, dtype=torch.float64)))


def test_a_layer_with_a_metric():
    layer = made(family=wp.LBEN, epsilon=0.5, rtol=1e-7, atol=1e-7)
    assert_same(*both_ways(layer, testing.randn(5, 7, dtype=torch.float64)), rtol=1e-5, atol=1e-5)


def test_only_some_parameters_are_trained():
    layer = made()
    layer.injection.weight.requires_grad_(False)
    value = layer(testing.randn(5, 7, dtype=torch.float64))
    assert by_columns(value)
    value.sum().backward()
    assert layer.injection.weight.grad is None and layer.injection.bias.grad is not None
    layer.constraint.requires_grad_(False)  # weights that do not change keep their factorisation
    assert not by_columns(layer(testing.randn(5, 7, dtype=torch.float64)))


def test_second_derivatives():
    layer = made(5, 3, activation="tanh", rtol=1e-13, atol=1e-13)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def value(x, *tensors):
        found = torch.nn.utils.stateless._reparametrize_module(layer, dict(zip(names, tensors, strict=True)))
        with found:
            return layer(x)

    x = testing.randn(2, 3, dtype=torch.float64).requires_grad_()
    assert by_columns(value(x, *parameters))
    torch.autograd.gradcheck(value, (x, *parameters))
    torch.autograd.gradgradcheck(value, (x, *parameters))


def test_many_cotangents_at_once():
    layer = made()
    value = layer(testing.randn(2, 7, dtype=torch.float64))
    cotangents = testing.randn(4, 2, 13, dtype=torch.float64)
    weights = list(layer.parameters())
    each = [torch.autograd.grad(value, weights, one, retain_graph=True) for one in cotangents]
    together = torch.func.vmap(lambda one: torch.autograd.grad(value, weights, one, retain_graph=True))(cotangents)
    assert_same(together, [torch.stack(parts) for parts in zip(*each, strict=True)])


def test_forward_mode_and_transforms():
    layer = made()
    x, direction = testing.randn(2, 4, 7, dtype=torch.float64)
    step = 1e-5
    slope = (layer(x + step * direction) - layer(x - step * direction)).detach() / (2 * step)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent, slope, rtol=1e-4, atol=1e-5)
    parameters = {name: part.detach() for name, part in layer.named_parameters()}

    def loss(given, row):
        return torch.func.functional_call(layer, given, (row[None],)).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).sum().backward()
    for name, part in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), part.grad, rtol=1e-8, atol=1e-9)


def test_hooks_of_the_input_map_are_called():
    x = testing.randn(3, 7, dtype=torch.float64)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        layer, called = made(), []
        getattr(layer.injection, register)(lambda *_, called=called: called.append(1))
        layer(x.clone().requires_grad_()).sum().backward()
        assert called


def test_an_input_map_that_computes_something_else():
    class Doubled(wp.maps.LinearMap):
        def forward(self, x):
            return super().forward(2.0 * x)

    layer, x = made(), testing.randn(3, 7, dtype=torch.float64)
    expected = layer(2.0 * x)
    own = Doubled(7, 13, dtype=torch.float64)
    own.load_state_dict(layer.injection.state_dict())
    layer.injection = own
    torch.testing.assert_close(layer(x), expected)


def test_parametrised_weights():
    class Halved(nn.Module):
        def forward(self, weight):
            return 0.5 * weight

    layer, x = made(bias=False), testing.randn(3, 7, dtype=torch.float64)
    expected = layer(0.5 * x)
    parametrize.register_parametrization(layer.injection, "weight", Halved())
    value = layer(x)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert layer.injection.parametrizations.weight.original.grad is not None


def test_weights_that_are_written_to_in_any_way():
    layer, x = made(), testing.randn(3, 7, dtype=torch.float64)
    first = layer(x).detach()
    layer.constraint.A.data.mul_(3.0)
    second = layer(x)
    assert not torch.allclose(first, second)
    layer.gradient = GENERAL
    torch.testing.assert_close(second, layer(x), rtol=1e-8, atol=1e-9)


def test_values_that_are_overwritten_are_found_out():
    value = made()(testing.randn(3, 7, dtype=torch.float64))
    value.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("size", [0.0, 1e-300])
def test_samples_without_a_cotangent(size):
    layer, x = made(), testing.randn(3, 7, dtype=torch.float64)
    cotangent = testing.randn(3, 13, dtype=torch.float64)
    cotangent[1] *= size
    found = derivatives(layer, x, cotangent)
    layer.gradient = GENERAL
    assert_same(found, derivatives(layer, x, cotangent))


def test_what_is_not_found_soon_is_left_to_the_general_solve():
    layer, x, cotangent = (
        made(m=0.02),
        testing.randn(9, 7, dtype=torch.float64),
        testing.randn(9, 13, dtype=torch.float64),
    )
    assert not by_columns(layer(x))
    found = derivatives(layer, x, cotangent)
    layer.gradient = GENERAL
    assert_same(found, derivatives(layer, x, cotangent), rtol=1e-6, atol=1e-6)
    with pytest.warns(wp.NotConvergedWarning):
        made(max_steps=2, solver=wp.PeacemanRachford())(x)


def test_nothing_that_was_given_is_written_to():
    for shape in ((1, 7), (5, 7)):
        layer, x = made(), testing.randn(*shape, dtype=torch.float64)
        cotangent = testing.randn(len(x), 13, dtype=torch.float64)
        before = [part.clone() for part in (x, cotangent, *layer.parameters())]
        value = layer(x)
        kept = value.detach().clone()
        value.backward(cotangent)
        for was, part in zip(before, (x, cotangent, *layer.parameters()), strict=True):
            assert torch.equal(was, part)
        assert torch.equal(value, kept) and value.is_contiguous()


def test_input_without_meaning_is_named():
    x = testing.randn(3, 7, dtype=torch.float64)
    for wrong in (torch.nan, torch.inf):
        x[1, 2] = wrong
        with pytest.raises(wp.errors.InputError, match="x: has NaN or infinite entries"):
            made()(x)
    layer = made()
    with torch.no_grad():
        layer.constraint.B[0, 0] = torch.nan
        layer.constraint.B[1, 0] = torch.nan
    with pytest.raises(wp.errors.InputError, match=r"constraint\.B: the weights have NaN"):
        layer(testing.randn(3, 7, dtype=torch.float64))


@pytest.mark.float32
def test_values_are_within_the_tolerance():
    layer = wp.MonDEQ(20, 30, dtype=torch.float32)
    x = testing.randn(1000, 20, dtype=torch.float32)
    value = layer(x)
    assert by_columns(value)
    exact = wp.MonDEQ(20, 30, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    exact.load_state_dict(layer.state_dict())
    error = (value.double() - exact(x.double())).norm(dim=1)
    rtol, atol = layer.limits()
    ratio = error / (rtol * value.norm(dim=1) + atol)
    assert (ratio <= 1.0).double().mean() >= 0.999 and ratio.max() <= 3.0


def test_operations_of_a_step():
    """Of forward and backward passes together, beside three or four for every iteration."""

    class Count(TorchDispatchMode):
        total = products = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.total += 1
            self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
            return func(*args, **(kwargs or {}))

    totals = []
    for tolerance in (1e-2, 1e-6):
        layer = wp.MonDEQ(7, 40, rtol=tolerance, atol=tolerance, dtype=torch.float32)
        with warnings.catch_warnings(), Count() as count:
            layer(testing.randn(16, 7, dtype=torch.float32)).backward(testing.randn(16, 40, dtype=torch.float32))
        totals.append((count.total, count.products))
    (few, short), (many, long) = totals
    assert (many - few) / (long - short) <= 5.0  # looks included
    assert few - 3 * short <= 120


def test_evaluation_mode_has_the_same_value_with_and_without_gradients():
    layer, x = made().eval(), testing.randn(5, 7, dtype=torch.float64)
    value = layer(x)
    assert value.requires_grad and not by_columns(value)
    with torch.no_grad():
        assert torch.equal(layer(x), value)


def test_what_was_formed_in_inference_mode_can_be_trained_with():
    layer, x = made(), testing.randn(5, 7, dtype=torch.float64)
    expected = derivatives(layer, x, torch.ones(5, 13, dtype=torch.float64, device="cpu"))
    with torch.inference_mode():
        layer(x.clone())
    assert_same(derivatives(layer, x, torch.ones(5, 13, dtype=torch.float64, device="cpu")), expected)
