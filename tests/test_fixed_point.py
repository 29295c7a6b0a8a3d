"""`fixed_point`: gradients of every kind and order for arbitrary maps."""

from __future__ import annotations

import pytest
import torch

import wellposed as wp
from wellposed import testing

DOUBLE = {"rtol": 1e-13, "atol": 1e-13}


def cell(z, weight, q):
    return torch.tanh(z @ weight.T + q)


def problem(batch=3, size=5):
    torch.manual_seed(4)
    weight = (torch.linalg.qr(testing.randn(size, size, dtype=torch.float64))[0] * 0.7).requires_grad_()
    q = testing.randn(batch, size, dtype=torch.float64, requires_grad=True)
    return weight, q


def unrolled(weight, q, steps=400):
    z = torch.zeros_like(q)
    for _ in range(steps):
        z = cell(z, weight, q)
    return z


SOLVERS = [wp.Picard(), wp.Averaged(0.5), wp.Anderson(), wp.Adaptive(), wp.Broyden(), wp.Newton(), wp.NewtonKrylov()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_gradcheck_and_gradgradcheck(solver):
    weight, q = problem(batch=2, size=4)

    def solve(weight, q):
        return wp.fixed_point(cell, torch.zeros_like(q), (weight, q), solver=solver, **DOUBLE).value

    assert torch.autograd.gradcheck(solve, (weight, q))
    assert torch.autograd.gradgradcheck(solve, (weight, q), fast_mode=True)  # along random directions
    assert torch.autograd.gradcheck(solve, (weight, q), check_forward_ad=True, check_backward_ad=False)


def test_functional_transforms():
    weight, q = problem()
    weight, q = weight.detach(), q.detach()

    def solve(q, weight=weight):
        return wp.fixed_point(cell, torch.zeros_like(q), (weight, q), solver=wp.Picard(), **DOUBLE).value

    expected = torch.autograd.functional.jacobian(lambda v: unrolled(weight, v), q)
    torch.testing.assert_close(torch.func.jacrev(solve)(q), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(torch.func.jacfwd(solve)(q), expected, rtol=1e-9, atol=1e-10)
    hessian = torch.func.hessian(lambda v: solve(v).square().sum())(q)
    true = torch.autograd.functional.hessian(lambda v: unrolled(weight, v).square().sum(), q)
    torch.testing.assert_close(hessian, true, rtol=1e-7, atol=1e-8)
    stacked = torch.stack([q, 2 * q])
    both = torch.func.vmap(solve)(stacked)
    for found, value in zip(both, stacked, strict=True):
        torch.testing.assert_close(found, solve(value), rtol=1e-10, atol=1e-11)
    weights = torch.stack([weight, 0.5 * weight])
    over = torch.func.vmap(lambda w: solve(q, w))(weights)
    for found, value in zip(over, weights, strict=True):
        torch.testing.assert_close(found, solve(q, value), rtol=1e-10, atol=1e-11)


def test_module_parameters_are_found():
    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, z, x):
            return torch.tanh(0.3 * self.linear(z) + x)

    module = Cell()
    x = testing.randn(2, 4, dtype=torch.float64, requires_grad=True)
    value = wp.fixed_point(module, torch.zeros_like(x), (x,), **DOUBLE).value
    found = torch.autograd.grad(value.sum(), [*module.parameters(), x])
    z = torch.zeros_like(x)
    for _ in range(300):
        z = module(z, x)
    for one, other in zip(found, torch.autograd.grad(z.sum(), [*module.parameters(), x]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_captured_tensors_that_need_a_gradient_are_refused():
    weight, q = problem()
    with pytest.raises(wp.InputError, match="captures a tensor that requires a gradient"):
        wp.fixed_point(lambda z, q: cell(z, weight, q), torch.zeros_like(q), (q,))
    with torch.no_grad():
        wp.fixed_point(lambda z, q: cell(z, weight, q), torch.zeros_like(q), (q,))


@pytest.mark.parametrize(
    ("gradient", "tolerance"),
    [(wp.Unrolled(), 1e-8), (wp.Phantom(steps=60, damping=0.9), 1e-8), (wp.Exact(rtol=1e-12), 1e-9)],
)
def test_named_gradients_approach_the_exact_one(gradient, tolerance):
    weight, q = problem()
    exact = torch.autograd.grad(unrolled(weight, q).sum(), (weight, q))
    value = wp.fixed_point(
        cell, torch.zeros_like(q), (weight, q), solver=wp.Picard(), gradient=gradient, **DOUBLE
    ).value
    for found, true in zip(torch.autograd.grad(value.sum(), (weight, q)), exact, strict=True):
        torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", [wp.Anderson(), wp.Adaptive(rate=0.1)], ids=lambda s: type(s).__name__)
def test_accelerated_iterations_can_be_unrolled(solver):
    weight, q = problem()
    value = wp.fixed_point(
        cell, torch.zeros_like(q), (weight, q), solver=solver, gradient=wp.Unrolled(), rtol=1e-10, atol=1e-10
    ).value
    for found, true in zip(
        torch.autograd.grad(value.sum(), (weight, q)), torch.autograd.grad(unrolled(weight, q).sum(), (weight, q)),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-6)


def test_cheap_gradients_are_what_they_say():
    weight, q = problem()
    value = wp.fixed_point(cell, torch.zeros_like(q), (weight, q), gradient=wp.JacobianFree(), **DOUBLE).value
    found = torch.autograd.grad(value.sum(), (weight, q))
    fixed = unrolled(weight, q).detach()
    for one, other in zip(found, torch.autograd.grad(cell(fixed, weight, q).sum(), (weight, q)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
    value = wp.fixed_point(cell, torch.zeros_like(q), (weight, q), gradient=wp.Phantom(2, 0.5), **DOUBLE).value
    found = torch.autograd.grad(value.sum(), (weight, q))
    z = fixed
    for _ in range(2):
        z = 0.5 * z + 0.5 * cell(z, weight, q)
    for one, other in zip(found, torch.autograd.grad(z.sum(), (weight, q)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("gradient", [wp.Unrolled(), wp.Phantom(), wp.JacobianFree(), wp.Exact(solver=wp.Anderson())])
def test_named_gradients_on_a_layer(gradient):
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 8, m=1.0, dtype=torch.float64, gradient=gradient, **DOUBLE)
    exact = wp.MonDEQ(5, 8, m=1.0, dtype=torch.float64, **DOUBLE)
    exact.load_state_dict(layer.state_dict())
    x = testing.randn(4, 5, dtype=torch.float64)
    layer(x).sum().backward()
    exact(x).sum().backward()
    close = isinstance(gradient, wp.Unrolled | wp.Exact)
    for found, true in zip(layer.parameters(), exact.parameters(), strict=True):
        assert torch.isfinite(found.grad).all()
        if close:
            torch.testing.assert_close(found.grad, true.grad, rtol=1e-7, atol=1e-8)


def test_the_adjoint_reports():
    weight, q = problem()
    solution = wp.fixed_point(
        cell, torch.zeros_like(q), (weight, q), solver=wp.Picard(), guarantee=wp.Contraction(0.7), **DOUBLE
    )
    solution.value.sum().backward()
    (report,) = solution.adjoint_reports
    assert report.converged.all()
    assert (report.error_bound < 1e-10).all()


def test_an_adjoint_that_fails_is_heard():
    weight, q = problem()
    solution = wp.fixed_point(
        cell, torch.zeros_like(q), (weight, q), solver=wp.Picard(), gradient=wp.Exact(max_steps=2), on_failure="raise"
    )
    with pytest.raises(wp.NotConvergedError, match="adjoint of the fixed-point solve"):
        solution.value.sum().backward()


def test_no_guarantee_no_bound():
    weight, q = problem()
    solution = wp.fixed_point(cell, torch.zeros_like(q), (weight, q))
    assert solution.error_bound is None
    assert (solution.residual < 1e-8).all()
    assert all(status is wp.Status.CONVERGED for status in solution.status)


def test_the_start_gets_no_gradient_and_does_not_matter():
    weight, q = problem()
    starts = [torch.zeros_like(q), torch.randn_like(q).requires_grad_()]
    values = [wp.fixed_point(cell, start, (weight, q), **DOUBLE).value for start in starts]
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-11)
    assert torch.autograd.grad(values[1].sum(), starts[1], allow_unused=True)[0] is None


def test_non_tensor_arguments_pass_through():
    solution = wp.fixed_point(
        lambda z, scale, q: scale * torch.cos(z) + q, testing.zeros(2, 3), (0.5, testing.ones(2, 3))
    )
    assert solution.converged.all()


def test_memory_of_backward_does_not_grow_with_the_iterations():
    sizes = []
    for factor in (0.3, 0.99):
        weight = (torch.linalg.qr(testing.randn(6, 6, dtype=torch.float64))[0] * factor).requires_grad_()
        q = testing.randn(2, 6, dtype=torch.float64) * 1e-2
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            solution = wp.fixed_point(cell, torch.zeros_like(q), (weight, q), solver=wp.Picard(), max_steps=10_000)
            solution.value.sum().backward()
        sizes.append((int(solution.steps.max()), saved))
    assert sizes[1][0] > 10 * sizes[0][0]
    assert sizes[0][1] == sizes[1][1]


def test_overflowing_norms_never_pass_for_convergence():
    with pytest.warns(wp.NotConvergedWarning):
        solution = wp.fixed_point(lambda z: z * z + 1, testing.zeros(2, 3), solver=wp.Picard())
    assert not solution.converged.any()
    for solver in (wp.Anderson(), wp.Picard(), None):
        double = testing.full((2, 3), 8e307, dtype=torch.float64)  # the norm of the solution is no number
        with pytest.warns(wp.NotConvergedWarning):
            solution = wp.fixed_point(
                lambda z, double=double: 0.5 * z + double, torch.zeros_like(double), solver=solver
            )
        assert not solution.converged.any()
        double = 1e-148 * double  # the norm is one, and only the squares of the numbers are none
        solution = wp.fixed_point(lambda z, double=double: 0.5 * z + double, torch.zeros_like(double), solver=solver)
        torch.testing.assert_close(solution.value, 2.0 * double, rtol=1e-9, atol=0.0)
        assert solution.converged.all()


@pytest.mark.parametrize("solver", [wp.Anderson(), wp.Picard(), wp.Newton(), wp.PeacemanRachford()])
@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e20, 1e30])
def test_gradients_of_any_size_are_right(solver, scale):
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 12, activation="tanh", solver=None)
    if not isinstance(solver, wp.Picard):
        layer.solver = solver
    x = testing.randn(4, 5, requires_grad=True)
    cotangent = testing.randn(4, 12)
    expected = torch.autograd.grad(layer(x), x, cotangent)[0]
    found = torch.autograd.grad(layer(x), x, cotangent * scale)[0] / scale
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_solver_must_be_an_instance():
    for wrong in ("anderson", wp.Anderson):
        with pytest.raises(wp.InputError, match="instance"):
            wp.fixed_point(torch.cos, testing.zeros(1, 1), solver=wrong)
        with pytest.raises(wp.InputError, match="instance"):
            wp.MonDEQ(3, 4, solver=wrong)
    with pytest.raises(wp.InputError, match="must return the like of its state"):
        wp.fixed_point(lambda z: z.double(), testing.zeros(1, 1, dtype=torch.float32))
    with pytest.raises(wp.InputError, match="must return the like of its state"):
        wp.fixed_point(lambda z: None, testing.zeros(1, 1))
    with pytest.raises(wp.InputError, match="f=3: must be a function"):
        wp.fixed_point(3, testing.zeros(2, 3))
    with pytest.raises(wp.InputError, match="z0: has shape"):
        wp.MonDEQ(3, 4).solve(testing.zeros(2, 3), z0=testing.zeros(2, 5))
    with pytest.raises(wp.InputError, match="float32 or float64"):
        wp.MonDEQ(3, 4, dtype=torch.bfloat16)(testing.zeros(2, 3, dtype=torch.bfloat16))


def test_vmapped_derivatives_along_a_constant_direction():
    def solve(b):
        return wp.fixed_point(
            lambda z, b: 0.3 * torch.tanh(z) + b, testing.zeros(3, 4, dtype=torch.float64), (b,), rtol=1e-11, atol=1e-11
        ).value

    points, direction = testing.randn(5, 3, 4, dtype=torch.float64), testing.randn(3, 4, dtype=torch.float64)
    forward = torch.func.vmap(lambda b: torch.func.jvp(solve, (b,), (direction,))[1])(points)
    backward = torch.func.vmap(lambda b: torch.func.vjp(solve, b)[1](direction)[0])(points)
    for index, point in enumerate(points):
        torch.testing.assert_close(
            forward[index], torch.func.jvp(solve, (point,), (direction,))[1], rtol=1e-8, atol=1e-9
        )
        torch.testing.assert_close(backward[index], torch.func.vjp(solve, point)[1](direction)[0], rtol=1e-8, atol=1e-9)
