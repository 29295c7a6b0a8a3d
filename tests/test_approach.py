"""Solves in float64 that begin in float32: what is said of them, and derivatives through them, are as if they did not."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import wellposed as wp
from wellposed import testing

pytestmark = pytest.mark.float32
LAYERS = {
    "OrthogonalDEQ": lambda **options: wp.OrthogonalDEQ(5, 8, **options),
    "ConvOrthogonalDEQ": lambda **options: wp.ConvOrthogonalDEQ(2, 4, (5, 4), **options),
}


@pytest.fixture(params=LAYERS, ids=str)
def make(request):
    return LAYERS[request.param]


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (3, 1), (0,)], ids=str)
@torch.no_grad()
def test_every_sample_has_its_steps(make, lead):
    layer = make().eval()
    x = testing.randn(*lead, *layer.input_shape)
    for found in (layer.solve(x), layer.sharpened(x)):
        assert found.steps.shape == found.error_bound.shape == lead and bool(found.converged.all())
    if lead == (2, 3):
        flat = layer.solve(x.flatten(0, 1))
        assert torch.equal(flat.steps.reshape(lead), layer.solve(x).steps)


def test_gradients_of_the_steps_are_of_all_steps(make):
    layer, parts = make(), {}
    x = testing.randn(3, *layer.input_shape).requires_grad_()
    for gradient in (wp.Exact(), wp.Unrolled()):
        layer.gradient = gradient
        layer.zero_grad()
        x.grad = None
        layer.solve(x).value.square().sum().backward()
        parts[type(gradient)] = [x.grad.clone(), layer.maps[0].free.grad.clone()]
    for exact, unrolled in zip(parts[wp.Exact], parts[wp.Unrolled], strict=True):
        assert (exact - unrolled).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize(
    "options",
    [
        {"coupling": "additive", "kappa": 0.99995},
        {"coupling": "convex", "omega": 5e-5},
        {"coupling": "joint", "kappa": 0.99995},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::wellposed.NotConvergedWarning")
@torch.no_grad()
def test_what_is_proved_to_contract_is_solved(options):
    found = wp.OrthogonalDEQ(5, 8, max_steps=50, **options).solve(testing.randn(3, 5))
    assert bool(torch.isfinite(found.error_bound).all()) and int(found.steps.max()) <= 50


@pytest.mark.parametrize("most", [1, 2, 3, 12])
@pytest.mark.filterwarnings("ignore::wellposed.NotConvergedWarning")
@torch.no_grad()
def test_no_more_steps_than_allowed(make, most):
    layer = make(coupling="convex", omega=0.1, max_steps=most).eval()
    found = layer.solve(testing.randn(3, *layer.input_shape))
    assert int(found.steps.max()) == most and not bool(found.converged.any())


@pytest.mark.filterwarnings("ignore::wellposed.NotConvergedWarning")
@torch.no_grad()
def test_starts_that_are_not_finite_are_refused(make):
    layer = make().eval()
    x, start = testing.randn(3, *layer.input_shape), testing.zeros(3, *layer.state_shape)
    start[1].fill_(torch.nan)
    with pytest.raises(wp.InputError, match="z0: has NaN or infinite entries"):
        layer.solve(x, start)


@pytest.mark.parametrize("kind", [wp.ConvNEMON, wp.ConvPcDEQ])
def test_forward_derivatives_without_a_graph(kind):
    layer = kind(2, 3, (5, 4)).double().eval()
    x, direction = (testing.rand(2, 2, 5, 4, dtype=torch.float64) for _ in range(2))
    with torch.no_grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
        layer.solve(forward_ad.make_dual(x, direction))
    layer.tolerance = type(layer.tolerance)(1e-12, 1e-12)
    with torch.no_grad():
        steps = (layer(x + 1e-5 * direction) - layer(x - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(found, steps, rtol=1e-4, atol=1e-5)


def test_defects_are_differentiable():
    output, value = testing.rand(4).requires_grad_(), testing.randn(4).requires_grad_()
    wp.activations.ReLU().defect(output, value, value, 1.0).sum().backward()
    assert torch.equal(output.grad, torch.ones(4)) and torch.equal(value.grad, -torch.ones(4))
