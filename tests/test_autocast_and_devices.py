"""Layers under autocast, with other default devices, without numbers, and without samples."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import wellposed as wp
from test_compile import LAYERS
from wellposed import testing
from wellposed.operators.graphs import Graphs

NAMES = [layer[0] for layer in LAYERS]
each_layer = pytest.mark.parametrize(("name", "shape", "make"), LAYERS, ids=NAMES)


def before(shape):
    return nn.Linear(7, 7) if len(shape) == 1 else nn.Conv2d(2, 2, 1)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_layer
def test_behind_other_layers_under_autocast(name, shape, make, dtype):
    first, layer = before(shape).float(), make().float()
    x = testing.rand(5, *shape, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        given = first(x)
        value = layer(given)
    assert given.dtype == dtype
    value.float().square().sum().backward()
    found = [None if part.grad is None else part.grad.clone() for part in layer.parameters()]
    layer.zero_grad()
    expected = layer(given.detach().float())
    expected.square().sum().backward()
    plain = name == "GroupSort"  # whose own linear map is one of torch's
    torch.testing.assert_close(value.float(), expected, rtol=2e-2 if plain else 1e-4, atol=1e-2 if plain else 1e-4)
    for own, part in zip(found, layer.parameters(), strict=True):
        assert (own is None) == (part.grad is None)
        if own is not None and not plain:
            torch.testing.assert_close(own, part.grad, rtol=1e-2, atol=1e-3)
    assert first.weight.grad is not None and bool(torch.isfinite(first.weight.grad).all())


def test_backward_inside_of_autocast_solves_in_the_weights_precision():
    layer, x = wp.MonDEQ(7, 6).float(), testing.rand(3, 7, dtype=torch.float32).requires_grad_()
    layer(x).square().sum().backward()
    expected, x.grad = x.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_under_autocast(dtype):
    weight = (0.2 * testing.rand(3, 3, dtype=torch.float32)).requires_grad_()
    start = testing.zeros(2, 3, dtype=torch.float32)

    def run():
        solution = wp.fixed_point(lambda z, w: torch.tanh(z @ w + 1.0), start, (weight,), rtol=3e-2, atol=3e-2)
        return solution.value, torch.autograd.grad(solution.value.square().sum(), weight)[0]

    expected, gradient = run()
    with torch.autocast("cpu", dtype):
        value, found = run()
        linear = testing.rand(2, 3, dtype=torch.float32) @ weight  # casts of the solve must not hide this gradient
    assert value.dtype == torch.float32
    assert not torch.equal(value, expected)  # the map did run in less precision
    torch.testing.assert_close(value, expected, rtol=5e-2, atol=5e-2)
    torch.testing.assert_close(found, gradient, rtol=0.1, atol=5e-2)
    assert bool(torch.autograd.grad(linear.float().sum(), weight)[0].any())


def test_maps_differentiated_after_autocast_are_those_that_were_solved():
    weight = (0.2 * testing.rand(3, 3, dtype=torch.float32)).requires_grad_()
    seen = []

    def f(z, w):
        seen.append(torch.is_autocast_enabled("cpu"))
        return torch.tanh(z @ w + 1.0)

    with torch.autocast("cpu", torch.bfloat16):
        value = wp.fixed_point(f, testing.zeros(2, 3, dtype=torch.float32), (weight,), rtol=3e-2, atol=3e-2).value
    value.sum().backward()
    assert all(seen)


def test_maps_of_another_dtype_without_autocast_are_refused():
    with pytest.raises(wp.InputError, match="f: returned dtype torch.float64"):
        wp.fixed_point(lambda z: z.double().cos(), testing.zeros(2, 3, dtype=torch.float32))


@each_layer
def test_another_default_device(name, shape, make):
    layer, x = make().double(), testing.rand(3, *shape, dtype=torch.float64).requires_grad_()
    expected = torch.autograd.grad(layer(x).sum(), x)[0]
    with default_device("meta"):
        value = layer(x)
        value.sum().backward()
        if hasattr(layer, "solve"):
            assert bool(layer.solve(x.detach()).converged.all())
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize(
    "make", [lambda: wp.MonDEQ(7, 6), lambda: wp.LBEN(7, 6, gamma=1.0, out_features=6), lambda: wp.NEMON(7, 6)]
)
def test_certificates_with_another_default_device(make):
    model = nn.Sequential(make(), nn.Linear(6, 3)).eval()
    expected = wp.certify(model).lipschitz
    with default_device("meta"):
        certificate = wp.certify(model)
        assert certificate.check(model)
    assert certificate.lipschitz == pytest.approx(expected, rel=1e-6)


@each_layer
def test_tensors_without_numbers_have_shapes(name, shape, make):
    layer = make().double()
    x = testing.rand(3, *shape, dtype=torch.float64)
    expected = layer(x)
    given = x.to("meta").requires_grad_()
    value = layer.to("meta")(given)
    assert value.is_meta and value.shape == expected.shape and value.dtype == expected.dtype
    value.sum().backward()
    assert given.grad.shape == given.shape


@each_layer
def test_no_samples(name, shape, make):
    layer = make().double()
    x = testing.zeros(0, *shape, dtype=torch.float64).requires_grad_()
    value = layer(x)
    assert value.shape == (0, *layer(testing.rand(2, *shape, dtype=torch.float64)).shape[1:])
    value.sum().backward()
    assert x.grad.shape == x.shape
    assert not any(part.grad is not None and bool(part.grad.any()) for part in layer.parameters())
    if hasattr(layer, "solve"):
        solution = layer.solve(x.detach())
        assert solution.value.shape[0] == 0 and solution.steps.shape == (0,)


@pytest.mark.parametrize("gradient", [wp.Exact(), wp.Phantom(), wp.JacobianFree(), wp.Unrolled()], ids=repr)
@pytest.mark.parametrize("solver", [wp.Picard(), wp.Anderson(), wp.Broyden(), wp.Newton(), wp.NewtonKrylov()], ids=repr)
def test_maps_of_no_samples(solver, gradient):
    weight = testing.ones(1, dtype=torch.float64).requires_grad_()
    for parts in ((testing.zeros(0),), (testing.zeros(0, 2, 3),), (testing.zeros(0, 3), testing.zeros(0, 2, 2))):
        start = tuple(part.double() for part in parts)
        found = wp.fixed_point(
            lambda z, w: tuple(torch.cos(part * w) for part in z), start, (weight,), solver=solver, gradient=gradient
        )
        sum(part.sum() for part in found.value).backward()
        assert [part.shape for part in found.value] == [part.shape for part in parts] and float(weight.grad) == 0.0


def test_graph_layers_under_autocast_and_without_numbers():
    layer = wp.ImplicitGraph(3, 4).float()
    path = testing.arange(5)
    graphs = Graphs(torch.stack([path[:-1], path[1:]]), 5)
    x = testing.rand(5, 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = layer(x.bfloat16(), graphs)
    torch.testing.assert_close(value, layer(x.bfloat16().float(), graphs))
    assert layer.to("meta")(x.to("meta"), graphs).shape == (5, 4)


def test_lightning_in_mixed_precision():
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(
                nn.Linear(4, 7), wp.MonDEQ(7, 6), wp.OrthogonalDEQ(6, 6), nn.Linear(6, 2)
            ).float()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(testing.rand(8, 4, dtype=torch.float32), testing.arange(8) % 2)
    task = Task()
    weights = task.model[1].injection.weight.detach().clone()
    lightning.Trainer(
        max_epochs=1, accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(task, torch.utils.data.DataLoader(data, 4))  # fmt: skip
    assert not torch.equal(weights, task.model[1].injection.weight)
