"""The convolutional ℓ∞ layer against the dense layer of its matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing


def make(image=(5, 6), dtype=torch.float64, **options):
    torch.manual_seed(0)
    tolerance = {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {}
    layer = wp.ConvNEMON(2, 3, image, **{"mu": 0.4, "dtype": dtype, **tolerance, **options})
    with torch.no_grad():
        layer.constraint.T.normal_(std=0.3)
        layer.constraint.slack.uniform_(-4, 0)
        layer.constraint.log_weights.uniform_(-0.7, 0.7)
    return layer


def inputs(layer, count=5, dtype=torch.float64):
    return testing.randn(count, *layer.input_shape, generator=testing.generator(1)).to(dtype)


def matrix_of(layer):
    return layer.operator().to(torch.float64).dense().detach().numpy()


def log_norm(layer):
    """μ_∞,η(W) of the matrix, in float64."""
    weight = matrix_of(layer)
    pixels = layer.state_shape[1] * layer.state_shape[2]
    eta = np.repeat(np.exp(layer.constraint.log_weights.detach().double().numpy()), pixels)
    scaled = np.abs(weight) * eta / eta[:, None]
    return float(np.max(np.diag(weight) + scaled.sum(1) - np.diag(scaled)))


def true_state(layer, x):
    weight = matrix_of(layer)
    convolution = layer.injection
    bias = convolution.bias.detach().double()
    offset = torch.nn.functional.conv2d(
        x.double(), convolution.weight.detach().double(), bias, convolution.stride, convolution.padding
    )
    offset = offset.flatten(1).numpy()
    diagonal, z = np.diag(weight), np.zeros_like(offset)
    off = weight - np.diag(diagonal)
    for _ in range(4000):
        z = np.maximum(z @ off.T + offset, 0.0) / (1.0 - diagonal)
    return testing.tensor(z)


@pytest.mark.parametrize("image", [(5, 6), (4, 4), (1, 7), (6, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_error_bound(image, stride, dtype):
    layer = make(image, dtype, stride=stride)
    x = inputs(layer, dtype=dtype)
    solution = layer.solve(x)
    assert solution.converged.all()
    error = (solution.value.detach().double().flatten(1) - true_state(layer, x)).norm(dim=1)
    assert (error <= solution.error_bound + 1e-12).all()
    averaged = make(image, dtype, stride=stride, solver=wp.Averaged(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(averaged(x), solution.value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_the_log_norm_counts_every_tap(taps, scale):
    """The published formula misses a factor of the number of taps: the log norm of its W is several times one."""
    layer = make((6, 7), taps=taps)
    with torch.no_grad():
        layer.constraint.T.mul_(scale)
    assert log_norm(layer) <= 0.4 + 1e-12 * scale * 100
    channels, kernel = 3, layer.constraint.T.detach()
    published = kernel / kernel.norm()
    middle = taps // 2
    for channel in range(channels):
        published[channel, channel, middle, middle] += 0.4 - channels * float(published.abs().max())
    as_published = wp.operators.ZeroPadded(published, (6, 7)).dense()
    diagonal = as_published.diagonal()
    worst = float((diagonal + as_published.abs().sum(1) - diagonal.abs()).max())
    if taps > 1:
        assert worst > 0.5  # what is certified there does not hold


def test_sensitivity_is_sound_per_channel_and_attained_for_positive_kernels():
    layer = make((6, 6))
    sensitivity = layer.guarantee().sensitivity
    offsets = testing.randn(2, 60, *layer.state_shape, dtype=torch.float64)
    operator, guarantee = layer.materialise()
    states = [
        wp.fixed_point(
            wp.AffineProblem(operator.rebuild((operator.tensors[0].detach(),)), q, layer.activation),
            torch.zeros_like(q), solver=wp.ForwardBackward(), guarantee=guarantee, rtol=1e-11, atol=1e-11,
        ).value
        for q in offsets
    ]  # fmt: skip
    for order in (1, 2, torch.inf):
        change, pushed = (torch.linalg.vector_norm((a - b).flatten(2), order, dim=2) for a, b in (states, offsets))
        assert (change <= pushed @ sensitivity.T * (1 + 1e-9) + 1e-9).all()
    positive = make((40, 40), mu=0.3)
    with torch.no_grad():
        positive.constraint.T.abs_()
        positive.constraint.slack.fill_(-30.0)
    weight = positive.operator().kernel.detach()
    ones = testing.ones(1, *positive.state_shape, dtype=torch.float64)
    state = torch.zeros_like(ones)
    for _ in range(6000):  # all units on: dz = (I − W)⁻¹dq, in the middle of a large image
        state = state + 0.03 * (torch.nn.functional.conv2d(state, weight, padding=1) + ones - state)
    reach = positive.guarantee().sensitivity.sum(1)
    assert (state[0, :, 20, 20] <= reach * (1 + 1e-9)).all()
    assert float((state[0, :, 20, 20] / reach).max()) >= 0.98


def test_gradients_agree_with_those_of_the_dense_layer():
    layer = make((4, 5), activation="tanh")
    x = inputs(layer, 3).requires_grad_()
    cotangent = testing.randn(3, *layer.state_shape, dtype=torch.float64)
    found = torch.autograd.grad((layer(x) * cotangent).sum(), [x, *layer.parameters()])
    matrix, offset = layer.operator().dense(), layer.injection(x).flatten(1)
    state = torch.zeros_like(offset)
    for _ in range(900):
        state = state + 0.1 * (torch.tanh(state @ matrix.T + offset) - state)
    expected = torch.autograd.grad((state * cotangent.flatten(1)).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_constants_of_the_trained_layer():
    layer = make((6, 5), torch.float32, stride=2)
    x, target = inputs(layer, 16, torch.float32), testing.randn(16, *layer.state_shape)
    step = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(60):
        loss = (layer(x) - target).square().mean()
        step.zero_grad()
        loss.backward()
        step.step()
    assert log_norm(layer) <= 0.4 + 1e-5
    exact = layer.double()
    exact.tolerance = wp.solvers.solution.Tolerance(1e-11, 1e-11)
    constant, _ = exact.lipschitz()
    jacobians = torch.func.vmap(torch.func.jacrev(exact))(x.double()).reshape(16, -1, 60)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= constant * (1 + 1e-9)
    plan = exact.guarantee().forward_backward_plan()
    solution = exact.solve(x.double())
    first = float(solution.value.detach().flatten(1).norm(dim=1).max()) * 2
    assert solution.converged.all()
    assert int(solution.steps.max()) <= plan.iterations(first, 1e-15)


def test_what_needs_a_resolvent_is_refused():
    layer = make(solver=wp.PeacemanRachford())
    with pytest.raises(wp.InputError, match=r"no cheap resolvent|proves no step"):
        layer(inputs(layer))
    with pytest.raises(wp.InputError, match="mu=1"):
        wp.ConvNEMON(1, 2, (5, 5), mu=1.0)
    with pytest.raises(wp.InputError, match="taps=2"):
        wp.ConvNEMON(1, 2, (5, 5), taps=2)
