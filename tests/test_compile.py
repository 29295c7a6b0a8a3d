"""Layers inside compiled programs compute what they compute elsewhere, with the same gradients, and are compiled seldom."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor
from torch.autograd import forward_ad

import wellposed as wp
from wellposed import testing
from wellposed.layers.graph_classifier import GraphClassifier, NodeSum
from wellposed.operators.graphs import Graphs


class Cell(nn.Module):
    """A map that contracts by one half."""

    def __init__(self):
        super().__init__()
        self.state, self.inject = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), nn.Linear(7, 6)

    def forward(self, z, x):
        return torch.tanh(0.5 * self.state(z) + self.inject(x))


VECTORS = {
    "MonDEQ": lambda: wp.MonDEQ(7, 6), "DEQ": lambda: wp.DEQ(7, 6), "LBEN": lambda: wp.LBEN(7, 6),
    "NEMON": lambda: wp.NEMON(7, 6), "PcDEQ": lambda: wp.PcDEQ(7, 6),
    "LBEN with all": lambda: wp.LBEN(7, 6, gamma=1.0, out_features=4, feedthrough=True, learn_gamma=True),
    "convex": lambda: wp.OrthogonalDEQ(7, 6), "joint": lambda: wp.OrthogonalDEQ(7, 6, coupling="joint"),
    "residual": lambda: wp.OrthogonalDEQ(7, 6, coupling="residual", activation="householder"),
    "additive": lambda: wp.OrthogonalDEQ(7, 6, coupling="additive", parametrisation="exponential"),
    "phantom": lambda: wp.MonDEQ(7, 6, gradient=wp.Phantom()), "unrolled": lambda: wp.NEMON(7, 6, gradient=wp.Unrolled()),
    "linear": lambda: wp.OrthogonalLinear(7, 6, parametrisation="bjorck"), "SLL": lambda: wp.SLL(7),
    "Residual": lambda: wp.Residual(7), "Sandwich": lambda: wp.Sandwich(7, 6),
    "GroupSort": lambda: nn.Sequential(nn.Linear(7, 6), wp.GroupSort()),
    "wrapped": lambda: wp.wrap(Cell(), (7,), state_shape=(6,)),
}  # fmt: skip
IMAGES = {
    "ConvMonDEQ": lambda: wp.ConvMonDEQ(2, 3, (5, 4)), "ConvNEMON": lambda: wp.ConvNEMON(2, 3, (5, 4)),
    "ConvPcDEQ": lambda: wp.ConvPcDEQ(2, 3, (5, 4)),
    "ConvLBEN": lambda: wp.ConvLBEN(2, 3, (5, 4), gamma=1.0, out_features=3),
    "ConvOrthogonalDEQ": lambda: wp.ConvOrthogonalDEQ(2, 4, (5, 4)),
    "MultiScaleMonDEQ": lambda: wp.MultiScaleMonDEQ(2, (3, 4), (5, 4)),
    "OrthogonalConv2d": lambda: wp.OrthogonalConv2d(2, 4, (5, 4), stride=2),
}  # fmt: skip
LAYERS = [(name, (7,), make) for name, make in VECTORS.items()] + [
    (name, (2, 5, 4), make) for name, make in IMAGES.items()
]


class Counting:
    """A backend that counts what it compiles."""

    def __init__(self, name="aot_eager"):
        self.count, self.backend = 0, torch._dynamo.lookup_backend(name)

    def __call__(self, graph, inputs):
        self.count += 1
        return self.backend(graph, inputs)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def behind(make, shape):
    before = nn.Linear(7, 7) if len(shape) == 1 else nn.Conv2d(2, 2, 1)
    return nn.Sequential(before, make()).double()


def derivatives(model, value, x):
    wanted = [x, *(part for part in model.parameters() if part.requires_grad)]
    found = torch.autograd.grad(value.square().sum(), wanted, allow_unused=True)
    return [torch.zeros_like(part) if own is None else own for part, own in zip(wanted, found, strict=True)]


@pytest.mark.parametrize(("name", "shape", "make"), LAYERS, ids=[layer[0] for layer in LAYERS])
def test_values_and_gradients_of_full_graphs(name, shape, make):
    model, backend = behind(make, shape), Counting()
    near = 1e-10 if name == "wrapped" else 1e-12  # there a graph takes one more evaluation of the map
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for size in (1, 3, 9, 17):
        x = testing.rand(size, *shape, dtype=torch.float64).requires_grad_()
        expected, value = model(x), compiled(x)
        torch.testing.assert_close(value, expected, rtol=0.0, atol=near)
        for own, other in zip(derivatives(model, value, x), derivatives(model, expected, x), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)
    assert backend.count <= 2
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), expected, rtol=0.0, atol=near)
    assert backend.count <= 3


@pytest.mark.parametrize("backend", ["eager", "inductor"])
@inductor.patch(compile_threads=1)  # more of them are processes that import torch first
def test_other_backends(backend):
    model = nn.Sequential(nn.Linear(7, 7), wp.MonDEQ(7, 8), wp.OrthogonalDEQ(8, 8), wp.SLL(8)).double()
    x = testing.rand(3, 7, dtype=torch.float64).requires_grad_()
    try:
        value = torch.compile(model, backend=backend, fullgraph=True)(x)
    except torch._inductor.exc.InductorError:
        pytest.skip("no C++ compiler")
    expected = model(x)
    torch.testing.assert_close(value, expected)
    for own, other in zip(derivatives(model, value, x), derivatives(model, expected, x), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)


def test_training_takes_the_same_steps_and_compiles_once():
    model, backend = nn.Sequential(nn.Linear(4, 4), wp.MonDEQ(4, 5), nn.Linear(5, 2)).double(), Counting()
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    x, labels = testing.rand(16, 4, dtype=torch.float64), testing.arange(16) % 2
    for called, module in ((compiled, model), (other, other)):
        optimiser = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(5):
            optimiser.zero_grad()
            nn.functional.cross_entropy(called(x), labels).backward()
            optimiser.step()
    for own, others in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, others, rtol=1e-7, atol=1e-9)
    assert backend.count == 1


@pytest.mark.parametrize("variant", ["ignn", "orthogonal", "lipschitz"])
def test_graph_layers(variant):
    layer, backend = wp.ImplicitGraph(3, 4, variant=variant, dtype=torch.float64), Counting()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for size in (2, 5, 9):
        path = testing.arange(size)
        graphs = Graphs(torch.stack([path[:-1], path[1:]]), size)
        x = testing.rand(size, 3, dtype=torch.float64).requires_grad_()
        value, expected = compiled(x, graphs), layer(x, graphs)
        torch.testing.assert_close(value, expected)
        for own, other in zip(derivatives(layer, value, x), derivatives(layer, expected, x), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9)
    assert backend.count <= 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_graphs_that_the_program_makes_live_until_its_backward_pass(backend):
    from types import SimpleNamespace

    model = GraphClassifier((wp.ImplicitGraph(3, 4), NodeSum()), nn.Linear(4, 2)).double()
    edges, batch = testing.arange(6).reshape(2, 3), testing.arange(6) * 0
    data = SimpleNamespace(
        x=testing.rand(6, 3, dtype=torch.float64), edge_index=edges, num_nodes=6, batch=batch, num_graphs=1
    )
    value = torch.compile(model, backend=backend)(data)
    gc.collect()
    expected = model(data)
    found = torch.autograd.grad(value.sum(), list(model.parameters()))
    for own, other in zip(found, torch.autograd.grad(expected.sum(), list(model.parameters())), strict=True):
        torch.testing.assert_close(own, other)


def test_copies_and_later_layers_are_other_layers():
    def call(layer, x):
        return layer(x)

    x = testing.rand(3, 7, dtype=torch.float64)
    compiled = torch.compile(call, backend="eager", fullgraph=True)
    first = wp.MonDEQ(7, 6).double()
    second = copy.deepcopy(first)
    assert first.compiled_handle != second.compiled_handle
    with torch.no_grad():
        second.injection.weight.mul_(3.0)
    for layer in (first, second):
        torch.testing.assert_close(compiled(layer, x), layer(x))
    del first, second, layer
    for _ in range(3):
        gc.collect()
        later = wp.MonDEQ(7, 6).double()
        torch.testing.assert_close(compiled(later, x), later(x))


def test_other_tensors_for_parameters():
    layer, x = wp.MonDEQ(7, 6).double(), testing.rand(3, 7, dtype=torch.float64)
    given = {name: (0.5 * part).detach().requires_grad_() for name, part in layer.named_parameters()}

    def call(given, x):
        return torch.func.functional_call(layer, given, (x,))

    value, expected = torch.compile(call, backend="aot_eager", fullgraph=True)(given, x), call(given, x)
    torch.testing.assert_close(value, expected)
    wanted = list(given.values())
    for own, other in zip(*(torch.autograd.grad(v.square().sum(), wanted) for v in (value, expected)), strict=True):
        torch.testing.assert_close(own, other)
    assert all(isinstance(part, nn.Parameter) for part in layer.parameters())


TRANSFORMS = {
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x.cos(),))[1],
    "vmap": lambda model, x: torch.func.vmap(model)(x),
    "grad": lambda model, x: torch.func.grad(lambda at: model(at).square().sum())(x),
    "jacrev": lambda model, x: torch.func.jacrev(lambda at: model(at).sum(0))(x),
}


def dual(model, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(model(forward_ad.make_dual(x, x.cos()))).tangent


def second(model, x):
    at = x.clone().requires_grad_()
    first = torch.autograd.grad(model(at).pow(3).sum(), at, create_graph=True)[0]
    return torch.autograd.grad(first.sum() + at.sum(), at)[0]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_other_derivatives_are_refused_in_full_graphs(backend):
    layer, x = wp.MonDEQ(4, 5).double().requires_grad_(False), testing.rand(3, 4, dtype=torch.float64)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for derivative in (dual, second, TRANSFORMS["jvp"]):
        torch._dynamo.reset()
        compiled(x)  # what was compiled before must not be used either
        with pytest.raises((NotImplementedError, RuntimeError)):
            derivative(compiled, x)
    for transform in TRANSFORMS.values():
        torch._dynamo.reset()
        with pytest.raises(RuntimeError):
            torch.compile(transform, backend=backend, fullgraph=True)(layer, x)


def test_forward_mode_where_a_program_may_be_divided():
    layer, x = wp.MonDEQ(4, 5).double().requires_grad_(False), testing.rand(3, 4, dtype=torch.float64)
    for name in ("jvp", "vmap"):
        torch._dynamo.reset()
        found = torch.compile(TRANSFORMS[name], backend="eager")(layer, x)
        torch.testing.assert_close(found, TRANSFORMS[name](layer, x))


def test_solves_divide_a_program():
    layer, before = wp.MonDEQ(4, 5).double(), nn.Linear(4, 4).double()

    def call(x):
        found = layer.solve(before(x))
        again = wp.fixed_point(lambda z, h: 0.5 * torch.cos(z + h), torch.zeros_like(x), (before(x),)).value
        return found.value.sin().sum() + layer.state(x).sum() + again.sin().sum()

    x = testing.rand(3, 4, dtype=torch.float64).requires_grad_()
    value, expected = torch.compile(call, backend="aot_eager")(x), call(x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in (value, expected)))


def test_failures_are_heard_of():
    layer = wp.MonDEQ(4, 5, max_steps=1, rtol=1e-14, atol=1e-14).double()
    compiled, x = torch.compile(layer, backend="aot_eager", fullgraph=True), testing.rand(3, 4, dtype=torch.float64)
    with pytest.warns(wp.NotConvergedWarning, match="MonDEQ: 3 of 3"):
        compiled(x)
    layer.on_failure = "raise"
    with pytest.raises(wp.NotConvergedError):
        compiled(x)
    with pytest.raises(wp.InputError, match="x: has dtype torch.float32"):
        compiled(x.float())
    with pytest.raises(wp.InputError, match="x: has NaN"):
        compiled(x * torch.nan)


def test_convergence_is_judged_once():
    layer = wp.MonDEQ(4, 5, max_steps=2, rtol=1e-14, atol=1e-14, gradient=wp.Exact(rtol=1e-3, max_steps=500)).double()
    x = testing.rand(3, 4, dtype=torch.float64).requires_grad_()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x).sum().backward()
    assert sum(issubclass(one.category, wp.NotConvergedWarning) for one in said) == 1


@pytest.mark.parametrize("strict", [True, False])
def test_exports_are_refused(strict):
    model, x = nn.Sequential(wp.MonDEQ(4, 5)), (testing.rand(3, 4, dtype=torch.float32),)
    with pytest.raises(Exception, match=r"torch.export|exception"):
        torch.export.export(model.float(), x, strict=strict)
