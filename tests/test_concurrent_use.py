"""Modules that several threads use at once, and activations that are formed again: parameters stay, gradients are right."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import wellposed as wp
from wellposed import testing


class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.state, self.drive = torch.nn.Linear(6, 6), torch.nn.Linear(5, 6)

    def forward(self, z, x):
        return torch.tanh(0.4 * self.state(z) + self.drive(x))


def in_threads(*works):
    failed = []

    def guarded(work):
        try:
            work()
        except Exception as error:  # of a thread, which would end in silence
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_threads_leave_a_modules_parameters_in_it_and_get_its_gradients():
    layer, x = wp.wrap(Cell(), (5,), state_shape=(6,)), testing.randn(4, 5)
    own = list(layer.parameters())
    expected = torch.autograd.grad(layer(x).square().sum(), own)

    def serve():
        with torch.no_grad():
            for _ in range(40):
                layer(x)

    def train():
        for _ in range(20):
            found = torch.autograd.grad(layer(x).square().sum(), own)
            for gradient, right in zip(found, expected, strict=True):
                assert torch.allclose(gradient, right, rtol=1e-3, atol=1e-5)

    in_threads(serve, serve, train, train)
    assert [id(part) for part in layer.parameters()] == [id(part) for part in own]
    layer(x).sum().backward()
    assert all(part.grad is not None for part in own)


def test_a_layer_runs_in_a_compiled_program_and_beside_it():
    layer, x = wp.MonDEQ(5, 12, m=0.5), testing.randn(4, 5)
    own, compiled = list(layer.parameters()), torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(x).square().sum().backward()
    expected = torch.autograd.grad(layer(x).square().sum(), own)
    for part, right in zip(own, expected, strict=True):
        assert torch.allclose(part.grad, right, rtol=1e-3, atol=1e-5)

    def by_program():
        for _ in range(60):
            compiled(x).square().sum().backward()

    def as_it_is():
        for _ in range(60):
            found = torch.autograd.grad(layer(x).square().sum(), own)
            for gradient, right in zip(found, expected, strict=True):
                assert torch.allclose(gradient, right, rtol=1e-3, atol=1e-5)

    in_threads(by_program, as_it_is)


@pytest.mark.parametrize(
    "make",
    [
        lambda: wp.MonDEQ(5, 8),
        lambda: wp.OrthogonalDEQ(5, 8),
        lambda: wp.ConvOrthogonalDEQ(2, 4, (5, 4)),
        lambda: wp.ConvMonDEQ(2, 3, (5, 4)),
        lambda: wp.PcDEQ(5, 8),
    ],
)
def test_checkpoints_of_activations_meet_the_same_graph_again(make):
    torch.manual_seed(0)
    layer = make()
    x, own = testing.randn(3, *layer.input_shape), list(layer.parameters())
    for _ in range(2):
        for part in own:
            part.grad = None
        checkpoint(layer, x.clone().requires_grad_(), use_reentrant=False).square().sum().backward()
        right = torch.autograd.grad(layer(x).square().sum(), own, allow_unused=True)
        for part, gradient in zip(own, right, strict=True):
            assert (part.grad is None) == (gradient is None)
            assert gradient is None or torch.allclose(part.grad, gradient, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for part in own:
                part.mul_(1.01)
