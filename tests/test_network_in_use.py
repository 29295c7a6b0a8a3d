"""Networks as programs use them: in threads, without gradients, on inputs of many shapes and sizes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.c(torch.relu(self.a(x)))


def test_other_threads_go_on_while_a_forward_is_followed():
    served, faults, stop = [], [], threading.Event()

    def serve():
        model = Own().eval()
        while not stop.is_set():
            try:
                model(testing.rand(2, 16))
                served.append(float(testing.rand((), dtype=torch.float64)))
            except Exception as error:
                faults.append(error)

    def materialise():
        try:
            for _ in range(5):
                wp.materialise(Own().eval())
                wp.materialise(nn.Sequential(nn.Flatten(), wp.MonDEQ(16, 8), nn.Linear(8, 3)).eval())
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=serve), *(threading.Thread(target=materialise) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    stop.set()
    threads[0].join()
    assert not faults and served
    nn.Linear(2, 2)(testing.rand(1, 2))  # torch is left as it was


def test_the_random_numbers_of_others_are_left_alone():
    model = nn.Sequential(nn.Flatten(), wp.MonDEQ(16, 8), nn.Linear(8, 3)).eval()
    torch.manual_seed(0)
    expected = testing.rand(3)
    torch.manual_seed(0)
    found = []
    for _ in range(3):
        found.append(testing.rand(()))
        wp.materialise(model)
        wp.certify(Own().eval())
    torch.manual_seed(0)
    assert torch.equal(testing.rand(3), expected) and float(found[0]) == float(expected[0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_certifying_in_every_gradient_mode(mode):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), wp.MonDEQ(16, 8), nn.Linear(8, 3)).eval(), testing.rand(4, 1, 4, 4)
    with mode():
        certificate = wp.certify(model, inputs=x.clone())
        network = wp.materialise(model)
    assert 0.0 < certificate.lower_bound <= certificate.lipschitz
    inputs = x.clone().requires_grad_()
    network(inputs).sum().backward()
    expected = torch.autograd.grad(model(other := x.clone().requires_grad_()).sum(), other)[0]
    torch.testing.assert_close(inputs.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e8, 1e16])
def test_lower_bounds_at_large_inputs(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double().eval()
    certificate = wp.certify(model, inputs=size * testing.ones(2, 4, dtype=torch.float64))
    assert certificate.lower_bound > 0.5 * certificate.lipschitz


def test_lower_bounds_of_one_number_and_of_tiny_weights():
    assert wp.certify(nn.Sequential(nn.Linear(1, 2)).eval(), inputs=testing.rand(1, 1)).lower_bound > 0.0
    model = nn.Sequential(nn.Flatten(), wp.MonDEQ(16, 8), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-20)
    assert wp.certify(model, inputs=testing.rand(4, 1, 4, 4)).lower_bound >= 0.0


def test_linear_maps_of_the_last_dimension():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Flatten(), nn.Linear(28, 2)).eval()
    certificate = wp.certify(model, inputs=testing.rand(3, 4, 5))
    assert certificate.is_about(model) and certificate.check(model)
    assert wp.certify(model).lipschitz == certificate.lipschitz


def test_networks_without_numbers():
    model, x = nn.Sequential(nn.AvgPool2d(2), nn.Flatten()).eval(), testing.rand(2, 1, 4, 4)
    network = wp.materialise(model)
    torch.testing.assert_close(network.exact(x.double()), model(x.double()))
    certificate = wp.certify(model, inputs=x)
    assert certificate.lower_bound == pytest.approx(certificate.lipschitz, rel=1e-6) == pytest.approx(0.5)


def test_a_module_that_was_compiled_once_is_what_it_was():
    model = Own().eval()
    torch.jit.script(model)
    assert wp.certify(model).is_about(model)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_functional_pooling_has_the_options_of_the_function(pool):
    class Pooled(nn.Module):
        def forward(self, x):
            if pool == "max":
                return nn.functional.max_pool2d(x, 3, 2, 1, 1, True)
            return nn.functional.avg_pool2d(x, 2, 2, 0, True)

    model = nn.Sequential(nn.Conv2d(1, 2, 3), Pooled(), nn.Flatten(), nn.Linear(18 if pool == "max" else 8, 2)).eval()
    network, x = wp.materialise(model, (1, 6, 6)), testing.rand(3, 1, 6, 6)
    assert torch.equal(network(x), model(x))
