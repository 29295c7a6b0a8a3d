"""Equilibria are reached whatever the weights are, with error bounds that are never too small."""

from __future__ import annotations

import itertools
import warnings
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import Tensor

import wellposed as wp
from wellposed.operators import Dense
from wellposed.solvers.flat_problem import FlatProblem
from wellposed.solvers.local_bound import local_bound
from wellposed.solvers.piecewise_path import follow_pieces
from wellposed.solvers.problem import AffineProblem
from wellposed.solvers.semismooth import newton
from wellposed.solvers.solution import Tolerance
from wellposed.solvers.tempered_path import follow_temperature

ACTIVATIONS = (
    "relu", "leaky_relu", "hardtanh", "relu6", "identity", "tanh", "sigmoid", "softplus", "softsign", "arctan", "isru", "arcsinh",
    "logarithm", "exponential", "elu", "silu", "gelu",
)  # fmt: skip
MONOTONE = tuple(name for name in ACTIVATIONS if wp.activation(name).is_monotone)
LAYERS = {
    "MonDEQ": ((12,), lambda: wp.MonDEQ(12, 16, m=0.003)),
    "MonDEQ tanh": ((12,), lambda: wp.MonDEQ(12, 16, m=0.003, activation="tanh")),
    "LBEN": ((12,), lambda: wp.LBEN(12, 16)),
    "LBEN with a bound": ((12,), lambda: wp.LBEN(12, 16, gamma=0.5, out_features=4)),
    "NEMON": ((12,), lambda: wp.NEMON(12, 16, mu=0.99)),
    "PcDEQ": ((12,), lambda: wp.PcDEQ(12, 16)),
    "OrthogonalDEQ": ((12,), lambda: wp.OrthogonalDEQ(12, 16)),
    "ConvMonDEQ": ((2, 4, 5), lambda: wp.ConvMonDEQ(2, 3, (4, 5), m=0.01)),
    "ConvNEMON": ((2, 4, 5), lambda: wp.ConvNEMON(2, 3, (4, 5))),
    "ConvPcDEQ": ((2, 4, 5), lambda: wp.ConvPcDEQ(2, 3, (4, 5))),
}


def disturbed(make, scale, seed=0):
    torch.manual_seed(seed)
    layer = make()
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(scale).add_(torch.randn_like(part))
    return layer


def monotone_matrix(size, margin, skew, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, size, size, dtype=torch.float64, generator=generator)
    return (1.0 - margin) * torch.eye(size, dtype=torch.float64) - first.t() @ first - skew * (second - second.t())


@pytest.mark.parametrize("scale", [1, 3, 10])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_disturbed_layers_are_reached(name, scale, dtype):
    shape, make = LAYERS[name]
    layer = disturbed(make, scale).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = layer.solve(torch.randn(30, *shape, dtype=dtype))
        value = layer(torch.randn(30, *shape, dtype=dtype))
        value.square().sum().backward()
    assert found.converged.all()
    limits = found.value.new_tensor(layer.tolerance.resolve(dtype)).double()
    if name != "OrthogonalDEQ":  # whose tolerance is about its hidden state
        size = found.value.detach().double().flatten(1).norm(dim=1)
        assert (found.error_bound <= limits[1] + limits[0] * size * 1.001).all()
    assert all(torch.isfinite(part.grad).all() for part in layer.parameters() if part.grad is not None)


@pytest.mark.parametrize("name", ["MonDEQ", "MonDEQ tanh", "LBEN", "NEMON"])
def test_float32_values_are_those_of_float64_within_their_bounds(name):
    shape, make = LAYERS[name]
    layer = disturbed(make, 1, seed=3)
    x = torch.randn(200, *shape)
    found = layer.solve(x)
    operator = layer.materialise()[0].to(torch.float64)
    exact = AffineProblem(operator, layer.injection.exact(x).value, layer.activation)
    truth = newton(exact, found.value.detach().double(), 100)[0]
    assert (exact.evaluate(truth) - truth).norm(dim=1).max() < 1e-9 * (1.0 + truth.norm(dim=1)).max()
    apart = (found.value.detach().double() - truth).norm(dim=1)
    assert (apart <= found.error_bound).all()
    assert found.error_bound.max() < 1e-3


@pytest.mark.parametrize("make", [lambda: wp.MonDEQ(30, 60, m=0.01), lambda: wp.LBEN(30, 60, epsilon=0.001)])
def test_forward_passes_stop_at_typical_errors_long_before_the_bound_is_met(make):
    torch.manual_seed(0)
    layer, x = make(), torch.rand(100, 30)
    with torch.no_grad():
        value, report, _ = layer._run(x, None, certified=False)
    operator = layer.materialise()[0].to(torch.float64)
    exact = AffineProblem(operator, layer.injection(x).detach().double(), layer.activation)
    truth = newton(exact, value.double(), 100)[0]
    limits = layer.tolerance.resolve(torch.float32)
    apart, size = (value.double() - truth).norm(dim=1), truth.norm(dim=1)
    assert (apart <= limits[1] + limits[0] * size).double().mean() >= 0.99
    assert (apart <= 3.0 * (limits[1] + limits[0] * size)).all()
    assert report.steps.max() < 80  # the proved bound needs more than 300, and then Newton's method


def test_inactive_units_of_values_that_newton_finds_are_exactly_zero():
    torch.manual_seed(0)
    matrix = monotone_matrix(30, 0.01, 1.0)
    problem = AffineProblem(Dense(matrix), torch.randn(50, 30, dtype=torch.float64), wp.activation("relu"))
    value = newton(problem, torch.zeros(50, 30, dtype=torch.float64), 100)[0]
    driven = problem.operator.affine(value, problem.offset)
    inactive = driven < -1e-9
    assert inactive.any() and (value[inactive] == 0.0).all()
    slopes = problem.activation.derivative_at_output(value)
    away = driven.abs() > 1e-9
    assert torch.equal(slopes[away], (driven > 0.0).double()[away])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_lie_between_what_is_said_of_them(name):
    activation = wp.activation(name)
    torch.manual_seed(0)
    middle = torch.cat([torch.randn(4000), 30.0 * torch.randn(1000), torch.zeros(100)]).double()
    reach = 10.0 ** torch.empty_like(middle).uniform_(-4.0, 1.5)
    least, largest = activation.slopes_between(middle - reach, middle + reach)
    for _ in range(30):
        u, v = (middle + reach * (2.0 * torch.rand_like(middle) - 1.0) for _ in range(2))
        slope = (activation(u) - activation(v)) / (u - v)
        noise = 1e-14 * (1.0 + activation(u).abs()) / (u - v).abs()
        assert (slope >= least - noise).all()
        assert (slope <= largest + noise).all()
    if activation.kinks is not None or name == "tanh":  # and no wider than they must be
        narrow, wide = activation.slopes_between(middle - 1e-9, middle + 1e-9)
        kinked = torch.zeros_like(middle, dtype=torch.bool)
        for kink in activation.kinks or ():
            kinked |= (middle - kink).abs() < 1e-8
        assert (wide - narrow)[~kinked].max() < 1e-8


def test_kinks_are_where_slopes_change():
    for name in ACTIVATIONS:
        activation = wp.activation(name)
        if activation.kinks is None:
            continue
        for kink in activation.kinks:
            slopes = activation.derivative(torch.tensor([kink - 1e-9, kink + 1e-9], dtype=torch.float64))
            assert slopes[0] != slopes[1]
        places = torch.linspace(-9.0, 9.0, 1801, dtype=torch.float64) + 1e-7
        changes = int((activation.derivative(places).diff() != 0).sum())
        assert changes == len(activation.kinks)


def exact_equilibria(matrix: Tensor, offset: Tensor) -> list[Fraction]:
    """The equilibrium of ReLU(Wz + q) in rational arithmetic, by trying every pattern."""
    size = len(offset)
    weights = [[Fraction(float(entry)) for entry in row] for row in matrix]
    driven = [Fraction(float(entry)) for entry in offset]
    for pattern in itertools.product((0, 1), repeat=size):
        rows = [
            [Fraction(int(i == j)) - pattern[i] * weights[i][j] for j in range(size)] + [pattern[i] * driven[i]]
            for i in range(size)
        ]
        for column in range(size):
            pivot = next((row for row in range(column, size) if rows[row][column] != 0), None)
            assert pivot is not None
            rows[column], rows[pivot] = rows[pivot], rows[column]
            rows[column] = [entry / rows[column][column] for entry in rows[column]]
            for row in range(size):
                if row != column:
                    factor = rows[row][column]
                    rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
        state = [row[-1] for row in rows]
        inner = [
            sum(w * z for w, z in zip(row, state, strict=True)) + q for row, q in zip(weights, driven, strict=True)
        ]
        if all(max(value, Fraction(0)) == z for value, z in zip(inner, state, strict=True)):
            return state
    raise AssertionError("no pattern fits")


def test_local_bounds_hold_in_rational_arithmetic_and_are_sharp():
    generator = torch.Generator().manual_seed(5)
    ratios = []
    for trial in range(60):
        matrix = monotone_matrix(4, 10.0 ** -(trial % 6), 10.0 ** (trial % 3), seed=trial)
        offset = torch.randn(1, 4, dtype=torch.float64, generator=generator)
        problem = AffineProblem(Dense(matrix), offset, wp.activation("relu"))
        value = newton(problem, torch.zeros_like(offset), 200)[0]
        truth = exact_equilibria(matrix, offset[0])
        for noise in (0.0, 1e-12, 1e-7):
            moved = value + noise * torch.randn(1, 4, dtype=torch.float64, generator=generator)
            bound = local_bound(problem, moved, torch.zeros(1, dtype=torch.float64))
            distance = sum((Fraction(float(z)) - t) ** 2 for z, t in zip(moved[0], truth, strict=True))
            assert distance <= Fraction(float(bound)) ** 2 if torch.isfinite(bound) else True
            if torch.isfinite(bound):
                ratios.append(float(bound) / float(distance) ** 0.5 if noise == 1e-7 else 0.0)
    assert len(ratios) > 140
    assert sum(ratio < 10.0 for ratio in ratios) > 0.8 * len(ratios)


@pytest.mark.parametrize("name", MONOTONE)
def test_local_bounds_of_every_activation_hold(name):
    activation = wp.activation(name)
    matrix = monotone_matrix(12, 0.01, 2.0)
    torch.manual_seed(1)
    problem = AffineProblem(Dense(matrix), 2.0 * torch.randn(200, 12, dtype=torch.float64), activation)
    truth = newton(problem, torch.zeros_like(problem.offset), 2000)[0]
    value = truth + 1e-6 * torch.randn_like(truth)
    error = torch.full((200,), 1e-9, dtype=torch.float64)
    bound = local_bound(problem, value, error)
    finite = torch.isfinite(bound)
    assert finite.double().mean() > 0.95
    assert ((value - truth).norm(dim=1) <= bound)[finite].all()
    # An offset that is off by what was said moves the equilibrium by less than the bound says.
    shift = torch.randn_like(truth)
    shift = 1e-9 * shift / shift.norm(dim=1, keepdim=True)
    other = AffineProblem(Dense(matrix), problem.offset + shift, activation)
    assert ((value - newton(other, truth, 2000)[0]).norm(dim=1) <= bound)[finite].all()


def test_a_tie_gets_no_local_bound_that_is_wrong():
    # z = relu(−z + q) near q = 0: on either side of the kink the map differs.
    matrix = torch.tensor([[-9.0]], dtype=torch.float64)
    offset = torch.linspace(-1e-7, 1e-7, 101, dtype=torch.float64)[:, None]
    problem = AffineProblem(Dense(matrix), offset, wp.activation("relu"))
    truth = offset.clamp_min(0.0) / 10.0
    for shift in (-3e-8, 0.0, 3e-8):
        bound = local_bound(problem, truth + shift, torch.zeros(101, dtype=torch.float64))
        assert (bound >= abs(shift) * 0.999).all()


@pytest.mark.parametrize("name", ["relu", "hardtanh", "leaky_relu", "tanh", "sigmoid", "softplus", "elu", "arctan"])
@pytest.mark.parametrize("skew", [3.0, 30.0, 300.0])
def test_newton_reaches_what_full_steps_circle_around(name, skew):
    activation = wp.activation(name)
    matrix = monotone_matrix(15, 0.1, skew, seed=2)
    torch.manual_seed(0)
    problem = AffineProblem(Dense(matrix), 3.0 * torch.randn(20, 15, dtype=torch.float64), activation)
    value, steps = newton(problem, torch.zeros_like(problem.offset), 3000)
    residual = (problem.evaluate(value) - value).norm(dim=1)
    assert (residual <= 1e-9 * (1.0 + value.norm(dim=1))).all()
    assert (steps <= 3000 + 30).all()


@pytest.mark.parametrize("name", ["relu", "hardtanh", "leaky_relu", "identity"])
def test_piecewise_paths_end_at_the_equilibrium(name):
    matrix = monotone_matrix(10, 0.5, 5.0)
    torch.manual_seed(0)
    offset = 3.0 * torch.randn(50, 10, dtype=torch.float64)
    problem = FlatProblem(matrix, offset, wp.activation(name), torch.Size([10]))
    value, crossed = follow_pieces(problem, torch.randn_like(offset), 2000)
    assert (problem.image(problem.driven(value)) - value).norm(dim=1).max() < 1e-9
    assert crossed.max() < 2000
    stopped, taken = follow_pieces(problem, torch.full_like(offset, 5.0), 2)
    assert (taken <= 2).all()
    assert stopped.shape == value.shape


def test_a_step_limit_is_kept():
    layer = disturbed(LAYERS["LBEN"][1], 1)
    layer.max_steps = 7
    with pytest.warns(wp.NotConvergedWarning, match="step limit"):
        found = layer.solve(torch.randn(20, 12))
    assert found.steps.max() <= 14  # seven in each precision
    assert not found.converged.all()


def test_what_rounding_puts_out_of_reach_is_said_with_its_size():
    layer = disturbed(LAYERS["MonDEQ"][1], 10).double()
    layer.tolerance = Tolerance(rtol=1e-16, atol=1e-16)
    with pytest.warns(wp.NotConvergedWarning, match=r"rounding.*error bounds up to \d"):
        found = layer.solve(torch.randn(20, 12, dtype=torch.float64))
    assert wp.Status.ROUNDING in found.status
    assert torch.isfinite(found.error_bound).all()
    assert "guarantee" not in " ".join(status.value for status in found.status)


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-40), (torch.float64, 1e-310)])
@pytest.mark.parametrize("name", ["MonDEQ", "LBEN", "NEMON", "PcDEQ", "OrthogonalDEQ", "ConvMonDEQ"])
def test_denormal_cotangents_are_no_failure(name, dtype, tiny):
    shape, make = LAYERS[name]
    torch.manual_seed(1)
    layer = make().to(dtype)
    x = torch.rand(8, *shape, dtype=dtype)
    gradients = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for factor in (1.0, tiny):
            layer.zero_grad()
            (layer(x) * torch.tensor(factor, dtype=dtype)).sum().backward()
            gradients.append([part.grad / factor for part in layer.parameters() if part.grad is not None])
    for ordinary, scaled in zip(*gradients, strict=True):
        assert (ordinary - scaled).abs().max() <= 1e-3 * ordinary.abs().max() + 1e-5


def test_denormal_cotangents_of_general_maps():
    weight = (0.3 * torch.randn(3, 3)).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = wp.fixed_point(lambda z, w: torch.tanh(z @ w + 1), torch.zeros(2, 3), args=(weight,))
        small = torch.autograd.grad((found.value * torch.tensor(1e-40)).sum(), weight, retain_graph=True)[0]
        large = torch.autograd.grad(found.value.sum(), weight)[0]
    torch.testing.assert_close(small / 1e-40, large, rtol=1e-3, atol=1e-4)


def test_states_too_large_for_matrices_go_on_in_double_precision():
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(2, 8, (12, 12), m=0.003)
    with torch.no_grad():
        for part in layer.parameters():
            part.add_(torch.randn_like(part))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = layer.solve(torch.randn(4, 2, 12, 12))
    assert found.converged.all()
    assert found.error_bound.max() < 1e-3


def test_units_that_do_not_move_come_to_no_kink():
    """They were taken to be at one already, from either side: the last unit's offset is the same at both ends."""
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    offset = torch.tensor([[1.0, -2.0, 3.0], [1.0, -2.0, -3.0]], dtype=torch.float64)
    for name in ("relu", "hardtanh", "leaky_relu"):
        problem = FlatProblem(matrix, offset, wp.activation(name), torch.Size([3]))
        value, crossed = follow_pieces(problem, problem.image(offset + torch.tensor([4.0, 4.0, 0.0])), 100)
        assert torch.equal(value, problem.image(offset))
        assert crossed.max() <= 4


@pytest.mark.parametrize("make", [wp.MonDEQ, wp.LBEN, wp.NEMON, wp.OrthogonalDEQ])
@pytest.mark.parametrize("size", [1e154, 1e200])
def test_nothing_has_converged_whose_error_is_not_bounded(make, size):
    torch.manual_seed(0)
    layer, x = make(5, 8, dtype=torch.float64).eval(), torch.randn(3, 5, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wp.NotConvergedWarning)
        found = layer.solve(size * x)
    assert not bool((found.converged & ~torch.isfinite(found.error_bound)).any())


def test_a_poor_first_iterate_is_refused_or_made_up_for():
    x = torch.randn(3, 5)
    for layer in (wp.MonDEQ(5, 4), wp.OrthogonalDEQ(5, 4), wp.PcDEQ(5, 4)):
        for value in (float("nan"), float("inf")):
            with pytest.raises(wp.InputError, match="z0: has NaN or infinite entries"):
                layer.solve(x.to(next(layer.parameters())), torch.full((3, 4), value).to(next(layer.parameters())))
    layer = wp.ConvMonDEQ(2, 3, (5, 4), dtype=torch.float64)
    start = torch.full((3, *layer.state_shape), 1e307, dtype=torch.float64)
    assert bool(layer.solve(torch.randn(3, 2, 5, 4, dtype=torch.float64), start).converged.all())


@pytest.mark.parametrize("training", [True, False])
def test_entries_that_no_kernel_reads_are_looked_at(training):
    layer = wp.ConvMonDEQ(2, 3, (6, 6), input_taps=1, stride=2).train(training)
    x = torch.rand(2, 2, 6, 6).to(next(layer.parameters()))
    x[0, 0, 1, 1] = float("nan")
    with pytest.raises(wp.InputError, match="x: has NaN or infinite entries"):
        layer(x)
    bounded = wp.PcDEQ(5, 4).train(training)
    with torch.no_grad():
        bounded.injection.weight.abs_().neg_()
    x = torch.rand(3, 5).to(next(bounded.parameters()))
    x[1, 2] = float("inf")
    with pytest.raises(wp.InputError, match="x: has NaN or infinite entries"):
        bounded(x)


def test_options_and_inputs_of_other_kinds_are_refused_by_name():
    with pytest.raises(wp.InputError, match="rtol=.*must be a number, not a tensor"):
        wp.DEQ(5, 4, rtol=torch.tensor(1e-4))
    with pytest.raises(wp.InputError, match="max_steps=.*must be a whole number"):
        wp.MonDEQ(5, 4, max_steps=torch.tensor(100))
    for make in (wp.MonDEQ, wp.NEMON, wp.OrthogonalDEQ, wp.DEQ):
        layer = make(5, 8)
        for called in (layer.train(), layer.eval(), layer.solve):
            with pytest.raises(wp.InputError, match="x: has layout"):
                called(torch.eye(5).to(next(layer.parameters())).to_sparse())
        with pytest.raises(wp.InputError, match="x: is on meta"):
            layer.solve(torch.ones(3, 5, device="meta").to(next(layer.parameters()).dtype))


@pytest.mark.float32
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "leaky_relu"])
@pytest.mark.parametrize("scale", [1e10, 1e15])
def test_weights_whose_squares_overflow_have_a_step(activation, scale):
    """A step of zero, one over an infinite estimate, ended in a ZeroDivisionError."""
    for layer in (wp.MonDEQ(7, 11, activation=activation), wp.LBEN(7, 11, activation=activation)):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", wp.NotConvergedWarning)
            for part in layer.parameters():
                part.mul_(scale)
            assert layer.materialise()[1].suggested_step() > 0.0
            found = layer.eval().solve(torch.zeros(2, 7))
        assert found.value.isfinite().all()
        assert (found.converged | ~(found.error_bound <= 2.4e-5 * (1.0 + found.value.norm(dim=1)))).all()


@pytest.mark.float32
def test_rounding_is_the_reason_where_more_steps_change_nothing():
    """The residual of a value that is as near as its rounding allows is large, where W is."""
    torch.manual_seed(0)
    layer = wp.ConvLBEN(2, 3, (4, 5))
    with torch.no_grad():
        for part in layer.parameters():
            part.add_(10.0 * torch.randn_like(part))
    x, found = torch.randn(4, *layer.input_shape), []
    for layer.max_steps in (1000, 100_000):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found.append(layer.eval().solve(x))
    assert torch.equal(found[0].value, found[1].value) and torch.equal(found[0].steps, found[1].steps)
    assert not found[0].converged.any() and "rounding" in str(found[0].status) and "step" not in str(found[0].status)


def distance_in_high_precision(matrix, offset, value):
    """From a value to the root of z = tanh(Wz + q) near it, of which a hundred digits are found, and its least entry."""
    context = mpmath.mp.clone()
    context.dps = 400  # of offsets of 1e300 that cancel, too
    matrix, start = context.matrix(matrix.tolist()), context.matrix(value.tolist())
    root, driving = start.copy(), offset(context)
    for _ in range(60):
        driven = matrix * root + driving
        residual = context.matrix([context.tanh(entry) for entry in driven]) - root
        slopes = context.diag([context.sech(entry) ** 2 for entry in driven])
        step = context.lu_solve(context.eye(len(root)) - slopes * matrix, residual)
        root = root + step
        if context.norm(step) < context.mpf(10) ** -100:
            return context.norm(root - start), min(root)
    raise AssertionError("no root near the value")


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e16, 1e100, 1e155, 1e300])
@pytest.mark.parametrize("make", [wp.MonDEQ, wp.LBEN, wp.NEMON], ids=lambda make: make.__name__)
@pytest.mark.parametrize("weights", [1.0, 30.0])
def test_saturated_units_are_reached_within_bounds_that_hold(make, scale, weights):
    """Some units are saturated by the input, others never see it."""
    layer = make(3, 5, activation="tanh", dtype=torch.float64)
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(weights)
        layer.injection.weight[3:] = 0.0
        layer.injection.bias.mul_(0.1)
    x = torch.randn(3, 3, dtype=torch.float64) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wp.NotConvergedWarning)
        solution = layer.solve(x)
    assert solution.converged.all() or scale > 1e12
    with torch.no_grad():
        matrix, weight, bias = layer.operator().dense(), layer.injection.weight, layer.injection.bias
    for row, value, bound in zip(x, solution.value.detach(), solution.error_bound, strict=True):

        def offset(context, row=row):
            return context.matrix(weight.tolist()) * context.matrix(row.tolist()) + context.matrix(bias.tolist())

        error, _ = distance_in_high_precision(matrix, offset, value)
        assert error <= bound.item()
        assert error <= 1e-6  # proved or not
    torch.testing.assert_close(layer(x), solution.value, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("make", [lambda: wp.PcDEQ(4, 6), lambda: wp.ConvPcDEQ(1, 2, (2, 3))], ids=["dense", "images"])
def test_positive_layers_of_large_weights_are_reached(make, scale):
    layer = make().double()
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(scale)
    x = torch.randn(4, *layer.input_shape, dtype=torch.float64)
    solution = layer.solve(x)
    assert bool(solution.converged.all())
    matrix, offsets = layer.operator().dense().detach(), layer.injection(x).detach().flatten(1)
    for offset, value, bound in zip(offsets, solution.value.detach().flatten(1), solution.error_bound, strict=True):
        error, least = distance_in_high_precision(
            matrix, lambda context, given=offset: context.matrix(given.tolist()), value
        )
        # The offset is one of float64 here, and of the exact numbers there.
        assert least >= 0 and error <= bound.item() + 1e-12


def test_the_better_value_is_given_where_no_bound_is_any_good():
    """Of several scales the input drives the first, whose size says what rounding may be."""
    layer = wp.MultiScaleMonDEQ(2, (3, 2), (4, 6), activation="tanh", dtype=torch.float64)
    x = 1e200 * torch.randn(3, *layer.input_shape, dtype=torch.float64)
    with pytest.warns(wp.NotConvergedWarning, match="rounding"):
        solution = layer.solve(x)
    image = layer.activation(layer.operator().affine(solution.value, layer.injection(x)))
    torch.testing.assert_close(image, solution.value, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(layer.state(x), solution.value, rtol=0.0, atol=1e-12)


def test_states_that_are_exactly_zero_have_a_small_bound():
    layer = wp.NEMON(4, 6, activation="relu")
    x = 1e15 * torch.randn(40, 4)
    solution = layer.solve(x)
    assert bool(solution.converged.all())
    with torch.no_grad():
        layer.injection.weight.fill_(-1.0)
    solution = layer.solve(x.abs())
    assert bool(solution.converged.all()) and float(solution.error_bound.max()) <= 1e-6
    assert not solution.value.any()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("make", [wp.MonDEQ, wp.LBEN], ids=lambda make: make.__name__)
def test_forward_passes_keep_their_tolerance_where_large_offsets_would_blur_small_states(
    make, activation, scale, training
):
    """Half of the units are off, or saturated, by an input that the others do not see."""
    layer = make(6, 20, activation=activation).train(training)
    with torch.no_grad():
        layer.injection.weight[10:] = 0.0
        layer.injection.weight[:10] = -layer.injection.weight[:10].abs()
        layer.injection.bias.normal_()
    x = scale * torch.rand(50, 6)
    exact = make(
        6, 20, activation=activation, dtype=torch.float64, rtol=0.0, atol=1e-5
    )  # a bound, far above its errors
    exact.load_state_dict(layer.state_dict())
    expected = exact.solve(x.double()).value.detach()
    errors, limits = (layer(x).double() - expected).norm(dim=1), layer.limits()
    assert (errors <= 2.0 * (limits[1] + limits[0] * expected.norm(dim=1))).all()  # changes tell distances typically


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("margin", [1e-2, 1e-3, 1e-4, 1e-5])
def test_forward_passes_keep_their_tolerance_where_every_direction_is_as_sensitive_as_the_margin_says(margin, training):
    layer = wp.MonDEQ(10, 20, m=margin).train(training)
    with torch.no_grad():
        layer.constraint.A.zero_()
        layer.constraint.B.zero_()
    x = torch.randn(50, 10)
    with torch.no_grad():  # W is diagonal
        inner = 1.0 - layer.operator().dense().double().diagonal()
        expected = (layer.injection.double()(x.double()) / inner).clamp_min(0.0)
    layer.injection.float()
    errors, limits = (layer(x).double() - expected).norm(dim=1), layer.limits()
    assert (errors <= limits[1] + limits[0] * expected.norm(dim=1)).all()


@pytest.mark.parametrize("scale", [10, 100, 1000])
@pytest.mark.parametrize("activation", [name for name in MONOTONE if wp.activation(name).kinks is None])
def test_smooth_activations_are_reached_for_weights_of_any_size(activation, scale):
    for make in (
        lambda: wp.MonDEQ(7, 20, m=0.5, activation=activation),
        lambda: wp.LBEN(7, 20, activation=activation),
        lambda: wp.LBEN(7, 20, gamma=0.3, out_features=2, activation=activation),
    ):
        layer, x = disturbed(make, scale).double(), torch.randn(6, 7, dtype=torch.float64)
        layer.tolerance = Tolerance(1e-7, 1e-7)
        solution = layer.solve(x)
        image = layer.activation(layer.operator().affine(solution.value, layer.injection(x)))
        assert bool(solution.converged.all()) and int(solution.steps.max()) <= 800
        limit = 1e-9 * layer.operator().norm_upper_bound()  # which amplifies rounding
        torch.testing.assert_close(image, solution.value, rtol=0.0, atol=limit)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "isru"])
def test_a_path_of_temperatures_ends_at_the_equilibrium(activation):
    matrix = monotone_matrix(12, 0.3, 500.0)
    offset = 30.0 * torch.randn(9, 12, dtype=torch.float64)
    problem = FlatProblem(matrix, offset, wp.activation(activation), torch.Size((12,)))
    value, taken = follow_temperature(problem, 500)
    torch.testing.assert_close(problem.image(problem.driven(value)), value, rtol=1e-6, atol=1e-5)
    assert int(taken.max()) <= 200
    _, few = follow_temperature(problem, 3)
    assert int(few.max()) <= 3 + 12  # the point that it was at is finished
    broken = FlatProblem(matrix, torch.full_like(offset, torch.nan), problem.activation, problem.shape)
    assert int(follow_temperature(broken, 500)[1].max()) <= 500 + 12


@pytest.mark.parametrize(("make", "seed"), [(wp.LBEN, 92), (wp.MonDEQ, 266)], ids=["LBEN", "MonDEQ"])
def test_what_rounding_blurs_and_nothing_mends_is_said(make, seed):
    """Inputs of 1e40 saturate some units of large weights, and others do not see them."""
    torch.manual_seed(seed)
    layer = make(3, 10, activation="exponential", dtype=torch.float64)
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(30.0)
        layer.injection.weight[:3] = 0.0
        layer.injection.weight[3:6, :2] = 0.0
        x = torch.randn(20, 3, dtype=torch.float64)
        x[:, :2] *= 1e40
    for given in x.split(1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", wp.NotConvergedWarning)
            value = layer(given).detach()
        image = layer.activation(layer.operator().affine(value, layer.injection(given)))
        assert caught or float((image - value).detach().abs().max()) <= 1e-6
