"""Published bounds of explicit networks and of unrolled ones: against a semidefinite program, enumeration, and samples."""

from __future__ import annotations

import itertools
import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.comparison.baselines import interval_margins, linear_maps, lipsdp, seqlip
from wellposed.comparison.unrolled import unrolled


def network_of(*sizes, seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).double()


def true_constant(model):
    """Largest norm of a Jacobian over all patterns, realisable or not: no certified bound here may be below it for two layers."""
    first, second = linear_maps(model)
    patterns = testing.tensor(list(itertools.product([0.0, 1.0], repeat=len(first))), dtype=torch.float64)
    return float(torch.linalg.matrix_norm(second @ (patterns[:, :, None] * first), 2).max())


@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_ordered_for_two_layers(seed):
    model = network_of(4, 6, 3, seed=seed)
    exact = true_constant(model)
    autolip = wp.certify(model, method="product").lipschitz
    found = seqlip(model)
    assert found.certified and found.value == pytest.approx(exact, rel=1e-6) and found.value >= exact
    assert exact <= lipsdp(model) * (1 + 1e-9) <= autolip * (1 + 1e-6)
    greedy = seqlip(model, greedy=True)
    assert not greedy.certified and greedy.value <= found.value * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_lipsdp_is_the_published_program(seed):
    model = network_of(3, 5, 4, 2, seed=seed)
    weights = [w.numpy() for w in linear_maps(model)]
    n = [5, 4]
    multipliers, square = cp.Variable(9, nonneg=True), cp.Variable()
    # Variables (x, h1, h2): pre-activations A·, post-activations B·.
    a = np.zeros((9, 12))
    a[:5, :3], a[5:, 3:8] = weights[0], weights[1]
    b = np.zeros((9, 12))
    b[:, 3:] = np.eye(9)
    middle = a.T @ cp.diag(multipliers) @ b
    out = np.zeros((2, 12))
    out[:, 8:] = weights[2]
    inputs = np.zeros((12, 12))
    inputs[:3, :3] = np.eye(3)
    test = square * inputs - (middle + middle.T - 2 * b.T @ cp.diag(multipliers) @ b) - out.T @ out
    problem = cp.Problem(cp.Minimize(square), [test >> 0])
    problem.solve(solver="CLARABEL")
    assert sum(n) == 9
    assert lipsdp(model) == pytest.approx(math.sqrt(problem.value), rel=1e-4)


def test_deeper_networks_and_refusals():
    model = network_of(4, 5, 6, 5, 3)
    found = seqlip(model)
    x = testing.randn(2000, 4, dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
    slopes = (y[1:] - y[:-1]).norm(dim=1) / (x[1:] - x[:-1]).norm(dim=1)
    product = wp.certify(model, method="product").lipschitz
    assert float(slopes.max()) <= lipsdp(model) <= product and float(slopes.max()) <= found.value <= product
    with pytest.raises(wp.CertificateError, match="greedy"):
        seqlip(network_of(3, 20, 2))
    assert seqlip(network_of(3, 20, 2), greedy=True).value > 0
    assert seqlip(network_of(3, 2)).certified
    for bad in (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 3), nn.ReLU())):
        with pytest.raises(wp.CertificateError):
            seqlip(bad)


def test_multipliers_of_many_layers_span_decades_and_are_proved_all_the_same():
    model = network_of(6, *[12] * 13, 3)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(4.0)  # signals and multipliers grow by decades
    found = lipsdp(model)
    shrunk = network_of(
        6, *[12] * 13, 3
    )  # where rounding is far: constants of positively homogeneous maps scale exactly
    assert found == pytest.approx(4.0**14 * lipsdp(shrunk), rel=1e-6)
    assert found <= wp.certify(model, method="product").lipschitz


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_intervals_contain_every_margin(activation):
    model = network_of(4, 8, 6, 3, activation=activation)
    lower = testing.rand(20, 4, dtype=torch.float64)
    upper = lower + 0.1 * testing.rand(20, 4, dtype=torch.float64)
    labels = testing.randint(3, (20,))
    bound = interval_margins(model, lower, upper, labels)
    for _ in range(200):
        x = lower + testing.rand(20, 4, dtype=torch.float64) * (upper - lower)
        with torch.no_grad():
            logits = model(x)
        own = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
        assert bool((own - others >= bound).all())
    with torch.no_grad():
        logits = model(lower)
    exact = logits.gather(1, labels[:, None])[:, 0] - logits.scatter(1, labels[:, None], -math.inf).amax(1)
    torch.testing.assert_close(interval_margins(model, lower, lower, labels), exact, rtol=1e-9, atol=1e-12)
    with pytest.raises(wp.InputError, match="exceeds"):
        interval_margins(model, upper, lower, labels)


def test_one_linear_layer_has_exact_intervals():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    lower, upper = testing.zeros(1, 3, dtype=torch.float64), testing.ones(1, 3, dtype=torch.float64)
    row = (model[0].weight[0] - model[0].weight[1]).detach()
    exact = float(row.clamp_max(0.0).sum() + (model[0].bias[0] - model[0].bias[1]).detach())
    assert float(interval_margins(model, lower, upper, testing.tensor([0]))) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("algorithm", ["forward_backward", "peaceman_rachford"])
def test_unrolled_networks_converge_and_their_bounds_are_true_and_hopeless(algorithm):
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 6, m=0.5, dtype=torch.float64, rtol=1e-12, atol=1e-12)
    guarantee = layer.guarantee()
    plan = guarantee.reflected_plan() if algorithm == "peaceman_rachford" else guarantee.forward_backward_plan()
    step = plan.step
    network = unrolled(layer, algorithm, step)
    x = testing.randn(400, 5, dtype=torch.float64)
    with torch.no_grad():
        exact = layer(x)
        torch.testing.assert_close(network.evaluate(x, 300), exact, rtol=1e-8, atol=1e-9)
        for depth in (1, 2, 5, 20):
            z = network.evaluate(x, depth)
            slopes = (z[1:] - z[:-1]).norm(dim=1) / (x[1:] - x[:-1]).norm(dim=1)
            assert math.log10(float(slopes.max())) <= network.log10_bound(depth)
    assert (
        network.log10_bound(300) > math.log10(layer.lipschitz()[0]) + 1.0
    )  # the equilibrium's own constant does not grow
    for options in (("picard", 0.1), (algorithm, -1.0)):
        with pytest.raises(wp.InputError):
            unrolled(layer, *options)
