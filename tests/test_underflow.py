"""Error bounds at the lower end of the dtypes: networks that are positively homogeneous have equilibria that scale exactly."""

from __future__ import annotations

import contextlib

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.solution import Tolerance

SCALES = {
    torch.float64: [2.0**-e for e in (530, 560, 700, 1000, 1022, 1060)],
    torch.float32: [2.0**-e for e in (72, 76, 90, 120, 126, 145)],
}
FAMILIES = {
    "MonDEQ": lambda **o: wp.MonDEQ(4, 5, **o),
    "MonDEQ by forward–backward": lambda **o: wp.MonDEQ(4, 5, m=1.0, solver=wp.ForwardBackward(), **o),
    "MonDEQ, leaky": lambda **o: wp.MonDEQ(4, 5, activation=wp.activations.LeakyReLU(0.1), **o),
    "LBEN": lambda **o: wp.LBEN(4, 5, **o),
    "LBEN, bounded": lambda **o: wp.LBEN(4, 5, gamma=1.0, out_features=2, **o),
    "NEMON": lambda **o: wp.NEMON(4, 5, **o),
    "OrthogonalDEQ": lambda **o: wp.OrthogonalDEQ(4, 4, **o),
    "OrthogonalDEQ, additive": lambda **o: wp.OrthogonalDEQ(4, 4, coupling="additive", depth=2, **o),
    "OrthogonalDEQ, joint": lambda **o: wp.OrthogonalDEQ(4, 4, coupling="joint", **o),
    "OrthogonalDEQ, residual": lambda **o: wp.OrthogonalDEQ(4, 4, coupling="residual", activation="householder", **o),
    "ConvMonDEQ": lambda **o: wp.ConvMonDEQ(1, 2, (4, 4), **o),
    "ConvMonDEQ, border": lambda **o: wp.ConvMonDEQ(1, 2, (4, 4), border=1, **o),
    "MultiScaleMonDEQ": lambda **o: wp.MultiScaleMonDEQ(1, (2, 2), (4, 4), **o),
    "ConvLBEN": lambda **o: wp.ConvLBEN(1, 2, (4, 4), **o),
    "ConvLBEN, bounded": lambda **o: wp.ConvLBEN(1, 2, (4, 4), gamma=1.0, out_features=2, metric="full", **o),
    "ConvNEMON": lambda **o: wp.ConvNEMON(1, 2, (4, 4), **o),
    "ConvOrthogonalDEQ": lambda **o: wp.ConvOrthogonalDEQ(1, 2, (4, 4), **o),
    "ConvOrthogonalDEQ, convex": lambda **o: wp.ConvOrthogonalDEQ(1, 2, (4, 4), coupling="convex", **o),
}


@contextlib.contextmanager
def flushing(on):
    torch.set_flush_denormal(on)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def without_biases(layer):
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name or "others" in name:
                parameter.zero_()
    return layer


def apart_and_bounds(solve, layer, x, scale, flushed, each=None):
    """Per sample, how far a solution at a scale is from the scaled solution, and what is claimed, both over the scale."""
    each = each or (lambda value: value.double().flatten(1).norm(dim=1))
    with flushing(flushed):
        found = solve(x * scale)
    usual, layer.tolerance = layer.tolerance, Tolerance(1e-5 if x.dtype == torch.float32 else 1e-9, 1e-11)
    exact = solve((x * scale) / scale)  # inputs may have lost digits
    layer.tolerance = usual
    lifted, large = found.value.double() * 2.0**52, scale * 2.0**52  # so that a quotient of subnormal numbers is exact
    apart = each(lifted / large - exact.value.double())
    return apart - exact.error_bound, found.error_bound.double() * 2.0**52 / large, found


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("flushed", [False, True])
def test_bounds_of_every_family_hold_at_every_scale(name, dtype, flushed):
    torch.manual_seed(0)
    layer = without_biases(FAMILIES[name](dtype=dtype))
    x = testing.rand(3, *layer.input_shape, dtype=dtype) - 0.3
    with torch.no_grad():
        for scale in SCALES[dtype]:
            apart, bound, found = apart_and_bounds(layer.solve, layer, x, scale, flushed)
            assert (apart <= bound).all(), (scale, apart, bound)
            assert torch.isfinite(found.error_bound).all() and found.converged.all()


@pytest.mark.parametrize("variant", ["ignn", "orthogonal", "lipschitz"])
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("flushed", [False, True])
def test_bounds_of_graph_layers(variant, dtype, flushed):
    torch.manual_seed(0)
    edges = testing.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 6]])
    graphs = wp.Graphs(torch.cat([edges, edges.flip(0)], 1), 7, testing.tensor([0, 0, 0, 1, 1, 1, 1]))
    layer = without_biases(wp.ImplicitGraph(3, 4, variant=variant, dtype=dtype))
    x = testing.rand(7, 3, dtype=dtype)

    def each(value):
        return torch.stack([value[:3].norm(), value[3:].norm()])

    with torch.no_grad():
        for scale in SCALES[dtype]:
            apart, bound, found = apart_and_bounds(lambda v: layer.solve(v, graphs), layer, x, scale, flushed, each)
            assert (apart <= bound).all(), (scale, apart, bound)
            assert found.converged.all()


@pytest.mark.parametrize("flushed", [False, True])
def test_bounds_of_positive_concave_layers(flushed):
    for make in (lambda **o: wp.PcDEQ(3, 4, **o), lambda **o: wp.ConvPcDEQ(1, 1, (2, 2), **o)):
        for exponent in (500, 530, 600, 900):
            torch.manual_seed(0)
            floor = 2.0**-exponent
            layer = make(activation="hardtanh", floor=floor, dtype=torch.float64)
            with torch.no_grad():
                layer.injection.bias.fill_(-2e3)  # its positive part is zero in any arithmetic
                for parameter in layer.constraint.parameters():
                    parameter.mul_(0.3)
                with flushing(flushed):
                    found = layer.solve(testing.rand(2, *layer.input_shape, dtype=torch.float64))
                matrix = layer.operator().dense()
                size = len(matrix)
                exact = torch.linalg.solve(testing.eye(size).double() - matrix, testing.ones(size).double())
                apart = (found.value.flatten(1) / floor - exact).norm(dim=1)
            assert (apart <= found.error_bound / floor + 1e-12).all()


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize(
    "solver",
    [wp.Picard(), wp.Anderson(), wp.Averaged(0.8), wp.Broyden(), wp.NewtonKrylov(), wp.Adaptive(rate=0.2)],
    ids=lambda s: type(s).__name__,
)
def test_bounds_and_residuals_of_maps(dtype, solver):
    weight = torch.diag(testing.tensor([0.5, -0.25, 0.125], dtype=dtype))
    q = testing.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]], dtype=dtype)
    exact = q.double() / (1 - weight.double().diagonal())
    for scale in SCALES[dtype][:4]:
        for guarantee in (wp.Contraction(0.5), None):
            found = wp.fixed_point(
                lambda z, q: z @ weight + q, torch.zeros_like(q), (q * scale,), solver=solver, guarantee=guarantee,
                rtol=1e-5, atol=0.0, on_failure="raise",
            )  # fmt: skip
            apart = (found.value.double() / scale - exact).norm(dim=1)
            if guarantee is not None:
                assert (apart <= found.error_bound / scale + 1e-15).all()
            assert (apart <= 4e-5 * exact.norm(dim=1)).all()  # and no residual is zero by underflow


def test_gradients_of_any_size_in_float64():
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 12, activation="tanh", dtype=torch.float64)
    x = testing.randn(4, 5, dtype=torch.float64, requires_grad=True)
    cotangent = testing.randn(4, 12, dtype=torch.float64)
    cotangent[1] = 0.0
    for solver in (None, wp.Anderson(), wp.Broyden(), wp.Newton(), wp.NewtonKrylov(), wp.ForwardBackward(0.3)):
        layer.solver = solver
        expected = torch.autograd.grad(layer(x), x, cotangent)[0]
        for scale in (2.0**-400, 2.0**-540, 2.0**-600, 2.0**-900):
            value = layer.solve(x).value if solver is None else layer(x)
            found = torch.autograd.grad(value, x, cotangent * scale)[0] / scale
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_norms():
    generator = testing.generator(0)
    rows = testing.randn(5, 700, generator=generator, dtype=torch.float64)
    for exponent in (0, 300, 500, 512, 537, 560, 1000, -300, -505, -512, -600, -1000):
        small = rows * 2.0**-exponent
        expected = rows.norm(dim=1)
        torch.testing.assert_close(euclidean(small) * 2.0**exponent, expected, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(
            torch.func.vmap(lambda v: euclidean(v[None])[0])(small) * 2.0**exponent, expected, rtol=1e-12, atol=0.0
        )
    assert euclidean(testing.full((1, 4), 5e-324, dtype=torch.float64)) == 2 * 5e-324
    mixed = [
        [0.0, 0.0],
        [3e-200, 4e-200],
        [3e5, 4e5],
        [3e200, 4e200],
        [torch.inf, 0.0],
        [torch.nan, 0.0],
        [1e308, 1.7e308],
    ]
    found = euclidean(testing.tensor(mixed, dtype=torch.float64))
    expected = testing.tensor([0.0, 5e-200, 5e5, 5e200], dtype=torch.float64)
    torch.testing.assert_close(found[:4], expected, rtol=1e-14, atol=0.0)
    assert found[4] == torch.inf and torch.isnan(found[5]) and found[6] == torch.inf
    single = testing.tensor([[1e200, 0.0], [1e-200, 0.0], [3.0, 0.0], [1e-310, 0.0]], dtype=torch.float64)
    for one in (single[:, ::2], single[:, :1].contiguous(), single):  # of which torch takes no squares in some layouts
        torch.testing.assert_close(euclidean(one), single[:, 0], rtol=1e-14, atol=0.0)
    assert euclidean(testing.zeros(0, 3, dtype=torch.float64)).shape == (0,)
    assert underflow(torch.float64, 1, 1) > 0.0


def test_norms_of_subnormal_matrices_are_bounds():
    for entry in (5e-324, 3e-320, 1e-310, 1e-200):
        matrix = testing.full((2, 3), entry, dtype=torch.float64)
        assert spectral_norm_upper_bound(matrix) >= entry * 6**0.5
        assert spectral_norm_upper_bound(matrix[:1, :1]) >= entry


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("family", [wp.MonDEQ, wp.NEMON])
def test_cotangents_that_are_not_finite_have_no_gradient_and_those_of_others_stay(family, activation, train):
    torch.manual_seed(0)
    layer = family(5, 9, activation=activation, dtype=torch.float64).train(train)
    x = testing.randn(4, 5, dtype=torch.float64).requires_grad_()
    cotangent = testing.randn(4, 9, dtype=torch.float64)
    expected = torch.autograd.grad(layer(x), x, cotangent)[0]
    for bad in (float("inf"), float("nan")):
        damaged = cotangent.clone()
        damaged[1, 2] = bad
        with pytest.warns(wp.NotConvergedWarning):
            found, *weights = torch.autograd.grad(layer(x), [x, *layer.parameters()], damaged)
        assert found[1].isnan().all() and not any(weight.isfinite().all() for weight in weights)
        torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("dtype", "power"), [(torch.float64, 980), (torch.float64, 600), (torch.float32, 110)])
def test_cotangents_at_the_upper_end_have_their_gradient(activation, train, dtype, power):
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 9, activation=activation, dtype=dtype).train(train)
    x, cotangent = testing.randn(4, 5, dtype=dtype).requires_grad_(), testing.randn(4, 9, dtype=dtype)
    expected = torch.autograd.grad(layer(x), [x, *layer.parameters()], cotangent)
    found = torch.autograd.grad(layer(x), [x, *layer.parameters()], cotangent * 2.0**power)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours * 2.0**-power, theirs, rtol=1e-3, atol=1e-4)
