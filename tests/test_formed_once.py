"""W is formed once for its numbers in evaluations without a graph, whatever changes them and whoever gets hold of it."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.constraints.monotone import Monotone
from wellposed.solvers.solution import Tolerance

LAYERS = {
    "MonDEQ": lambda: wp.MonDEQ(5, 9, m=0.5),
    "LBEN": lambda: wp.LBEN(5, 9),
    "LBEN, bounded": lambda: wp.LBEN(5, 9, gamma=2.0, out_features=3),
    "LBEN, with feedthrough": lambda: wp.LBEN(5, 9, gamma=2.0, out_features=3, feedthrough=True),
    "NEMON": lambda: wp.NEMON(5, 9),
    "ConvLBEN": lambda: wp.ConvLBEN(2, 3, (5, 4), metric="full"),
    "ConvLBEN, bounded": lambda: wp.ConvLBEN(2, 3, (5, 4), gamma=2.0, out_features=3, pool=2, stride=2),
    "ConvLBEN, as published": lambda: wp.ConvLBEN(
        2, 3, (5, 4), gamma=2.0, out_features=3, metric="full", input_in_metric=False, border=1
    ),
    "ConvNEMON": lambda: wp.ConvNEMON(2, 3, (5, 4)),
    "MultiScaleMonDEQ": lambda: wp.MultiScaleMonDEQ(2, (3, 4), (6, 4)),
}


def inputs(layer, count=4):
    return testing.rand(count, *layer.injection.input_shape)


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    return LAYERS[request.param]().eval()


def formed(layer, monkeypatch):
    """How many times the layer has formed W since, as a list that grows."""
    times = []
    real = type(layer)._form

    def counted(self):
        times.append(self)
        return real(self)

    monkeypatch.setattr(type(layer), "_form", counted)
    return times


def fresh(layer, x):
    """The value of a copy, which has formed nothing yet."""
    with torch.no_grad():
        return copy.deepcopy(layer)(x)


@torch.no_grad()
def test_evaluations_form_it_once(layer, monkeypatch):
    x, times = inputs(layer), formed(layer, monkeypatch)
    first = layer(x)
    for _ in range(3):
        assert torch.equal(layer(x), first)
        layer.solve(x)
    assert len(times) == 1


CHANGES = {
    "in place": lambda part, noise: part.add_(noise),
    "through .data": lambda part, noise: part.data.add_(noise),
    "through numpy": lambda part, noise: part.detach().numpy().__iadd__(noise.numpy()),
    "by a new tensor": lambda part, noise: setattr(part, "data", part.data + noise),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_every_change_of_a_parameter_is_seen(layer, change):
    x = inputs(layer)
    for name, part in layer.named_parameters():
        if name.endswith("log_gamma") and not part.requires_grad:
            continue
        before = layer(x)
        change(part, 0.1 * testing.randn(*part.shape))
        assert torch.equal(layer(x), fresh(layer, x)), name
        assert not torch.equal(layer(x), before), name


@torch.no_grad()
def test_settings_state_dicts_and_dtypes_are_seen():
    layer, x = wp.MonDEQ(5, 9, m=0.5).eval(), testing.rand(4, 5)
    before = layer(x)
    layer.constraint.m = 2.0
    assert torch.equal(layer(x), fresh(layer, x)) and not torch.equal(layer(x), before)
    other = wp.MonDEQ(5, 9, m=0.7).eval()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(layer.double()(x.double()), copy.deepcopy(other).double()(x.double()))
    bounded = wp.LBEN(5, 9, gamma=2.0, out_features=3).eval()
    bounded(x)
    bounded.set_gamma(0.5)
    assert torch.equal(bounded(x), fresh(bounded, x))


@torch.no_grad()
def test_writing_to_what_was_handed_out_changes_nothing(layer):
    x = inputs(layer)
    before = layer(x)
    layer.operator().dense().zero_()
    for tensor in layer.materialise()[0].tensors:
        tensor.zero_()
    assert torch.equal(layer(x), before)


def test_gradients_are_those_of_what_was_formed_before(layer):
    x = inputs(layer)
    with torch.inference_mode():
        layer(x)
    with torch.no_grad():
        layer(x)
    other = copy.deepcopy(layer)
    for either in (layer, other):
        either(x).square().sum().backward()
    for name, part in layer.named_parameters():
        torch.testing.assert_close(part.grad, other.get_parameter(name).grad, msg=name)


def test_a_constraint_of_ones_own_is_formed_at_every_evaluation():
    class Shifted(Monotone):
        shift = 0.0

        def materialise(self):
            operator, guarantee = super().materialise()
            matrix = operator.dense() - self.shift * torch.eye(self.state_features)
            return type(operator)(matrix), guarantee

    constraint, x = Shifted(9, 0.5), testing.rand(4, 5)
    layer = wp.Equilibrium(torch.nn.Linear(5, 9), constraint).eval()
    with torch.no_grad():
        before = layer(x)
        constraint.shift = 3.0
        after = layer(x)
    assert not torch.equal(before, after) and torch.equal(after, fresh(layer, x))


@torch.no_grad()
def test_a_method_that_was_replaced_is_called(monkeypatch):
    layer, x = wp.MonDEQ(5, 9, m=0.5).eval(), testing.rand(4, 5)
    before, other = layer(x), wp.MonDEQ(5, 9, m=0.5)
    for owner, name in ((layer.constraint, "materialise"), (layer, "materialise")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, other.materialise)
            assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x), before)


@torch.no_grad()
def test_a_write_while_it_is_formed_leaves_nothing_wrong_behind(monkeypatch):
    """As from another thread: the numbers are those of before when they are looked up, and others when W is formed."""
    layer, x = wp.MonDEQ(5, 9, m=0.5).eval(), testing.rand(4, 5)
    before, other = layer.constraint.A.clone(), testing.randn(9, 9)
    real = type(layer)._form

    def disturbed(self):
        self.constraint.A.copy_(other)
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(wp.MonDEQ, "_form", disturbed)
        layer(x)
    layer.constraint.A.copy_(before)
    assert torch.equal(layer(x), fresh(layer, x))


class Half(Monotone):
    """Another W of the same numbers."""

    def materialise(self):
        operator, guarantee = super().materialise()
        half = type(operator)(0.5 * operator.dense())
        return half, guarantee.on(half)

    def decided_by(self):
        return super().decided_by()


@torch.no_grad()
def test_another_constraint_with_the_same_numbers_is_seen():
    layer, x = wp.MonDEQ(5, 9, m=0.5).eval(), testing.rand(4, 5)
    before, own, half = layer(x), layer.constraint, Half(9, 0.5)
    half.A, half.B = own.A, own.B
    for change in (lambda: setattr(layer, "constraint", half), lambda: setattr(own, "__class__", Half)):
        change()
        assert torch.equal(layer(x), fresh(layer, x)) and not torch.equal(layer(x), before)
        layer.constraint = own


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (LAYERS["MonDEQ"], "m"),
        (LAYERS["LBEN"], "epsilon"),
        (lambda: wp.NEMON(5, 9, mu=0.5), "mu"),
        (LAYERS["ConvLBEN"], "epsilon"),
        (lambda: wp.ConvNEMON(2, 3, (5, 4), mu=0.5), "mu"),
        (LAYERS["MultiScaleMonDEQ"], "m"),
    ],
)
@torch.no_grad()
def test_settings_that_are_tensors_are_seen(make, name):
    layer = make().eval()
    x, setting = inputs(layer), testing.tensor(getattr(layer.constraint, name))
    setattr(layer.constraint, name, setting)
    before = layer(x)
    setting.mul_(0.5)
    assert torch.equal(layer(x), fresh(layer, x)) and not torch.equal(layer(x), before)


@torch.no_grad()
def test_replaced_methods_of_classes_and_parts_of_the_formula_are_seen(monkeypatch):
    layer, x = wp.LBEN(5, 9).eval(), testing.rand(4, 5)
    before = layer(x)
    for owner, name in (
        (type(layer.constraint), "materialise"), (type(layer).__mro__[2], "materialise"), (layer.constraint, "margin"),
        (layer.constraint, "metric"),
    ):  # fmt: skip
        assert hasattr(owner, name)
        real = getattr(owner, name)
        if name == "materialise":

            def changed(self, real=real):
                operator, guarantee = real(self)
                return type(operator)(0.5 * operator.dense(), metric=operator.metric), guarantee
        else:

            def changed(real=real):
                return 3.0 * real()

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, changed)
            assert not torch.equal(layer(x), before) or name == "metric", (owner, name)
        assert torch.equal(layer(x), before)


@torch.no_grad()
def test_a_layer_that_forms_its_own_w_is_formed_at_every_evaluation():
    class Scaled(wp.LBEN):
        share = 1.0

        def _form(self):
            operator, guarantee = super()._form()
            return operator.rebuild((self.share * operator.tensors[0], *operator.tensors[1:])), guarantee

    layer, x = Scaled(5, 9).eval(), testing.rand(4, 5)
    before = layer(x)
    layer.share = 0.5
    assert not torch.equal(layer(x), before)


@torch.no_grad()
def test_replaced_methods_of_the_maps_are_seen(monkeypatch):
    layer = LAYERS["ConvLBEN, bounded"]().eval()
    x, real = inputs(layer), type(layer.injection).transfer
    before = layer(x)
    for owner in (layer.injection, type(layer.injection)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "transfer", lambda *given: 3.0 * real(layer.injection, given[-1]))
            assert not torch.equal(layer(x), before)
        assert torch.equal(layer(x), before)
    layer.injection.take_metric(layer.constraint)
    assert torch.equal(layer(x), fresh(layer, x))


ORTHOGONAL = {
    "OrthogonalDEQ": (
        lambda: wp.OrthogonalDEQ(5, 8),
        "wellposed.layers.orthogonal_linear.spectral_norm_upper_bound",
        2,
    ),
    "ConvOrthogonalDEQ": (lambda: wp.ConvOrthogonalDEQ(2, 4, (5, 4)), "wellposed.layers.orthogonal_conv._norm", 3),
}


@pytest.mark.parametrize(("make", "name", "maps"), ORTHOGONAL.values(), ids=ORTHOGONAL)
@torch.no_grad()
def test_norms_of_orthogonal_maps_are_proved_once(make, name, maps, monkeypatch):
    module, function = name.rsplit(".", 1)
    real, times = getattr(importlib.import_module(module), function), []

    def counted(weight):
        times.append(weight)
        return real(weight)

    monkeypatch.setattr(name, counted)
    layer = make().eval()
    x = testing.rand(3, *layer.input_shape)
    for _ in range(3):
        layer.solve(x)
    assert len(times) == maps
    for part in layer.maps:
        part.free.data.add_(0.1 * testing.randn(*part.free.shape))
    changed = layer.solve(x)
    assert len(times) == maps + len(layer.maps)
    torch.testing.assert_close(
        changed.value, copy.deepcopy(layer).double().solve(x.double()).value.to(x), rtol=0, atol=1e-3
    )


@pytest.mark.float32
@pytest.mark.parametrize("make", [made for made, *_ in ORTHOGONAL.values()], ids=ORTHOGONAL)
@torch.no_grad()
def test_solves_that_go_on_in_float64_count_all_steps_and_are_within_their_bounds(make):
    layer = make().eval()
    x = testing.rand(3, *layer.input_shape)
    found, own = layer.solve(x), copy.deepcopy(layer).double()
    own.tolerance = Tolerance(1e-13, 1e-13)
    assert bool(found.converged.all()) and int(found.steps.min()) >= 3
    far = (found.value.double() - own.solve(x.double()).value).flatten(1).norm(dim=1)
    # The maps of the copy are formed in float64, and differ from those of the layer by the rounding of float32.
    assert bool((far <= found.error_bound + 1e-5).all())
    started = layer.solve(x, found.value)
    assert int(started.steps.max()) < int(found.steps.min())
