"""Every solver through the shared case, and what is particular to each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.operators import Dense
from wellposed.solvers.gmres import gmres
from wellposed.solvers.problem import AffineProblem
from wellposed.testing import MapSolverCase, SolverCase, shared_problems


class TestPicard(MapSolverCase):
    def make_solver(self):
        return wp.Picard()

    def monotone_layer(self, dtype, **options):
        layer = super().monotone_layer(dtype, **options)
        with torch.no_grad():  # Picard needs a contraction: shrink what is left of W besides (1 − m)I = 0
            for parameter in layer.constraint.parameters():
                parameter.mul_(0.3)
        return layer


class TestAveraged(MapSolverCase):
    def make_solver(self):
        return wp.Averaged(damping=0.3)


class TestAnderson(MapSolverCase):
    def make_solver(self):
        return wp.Anderson()

    @pytest.mark.parametrize("problem", shared_problems(), ids=lambda p: p.name)
    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float32, 1e-5), (torch.float64, 1e-9)])
    def test_never_needs_more_evaluations_than_picard(self, problem, dtype, rtol):
        args = problem.args(dtype)
        start = torch.zeros_like(args[1])
        counts = [
            wp.fixed_point(problem.function, start, args, solver=solver, rtol=rtol, atol=0.0).steps
            for solver in (wp.Anderson(), wp.Picard())
        ]
        assert (counts[0] <= counts[1]).all()

    def test_memory_larger_than_the_state(self):
        solution = wp.fixed_point(
            lambda z: 0.9 * torch.cos(z), testing.zeros(3, 2, dtype=torch.float64), solver=wp.Anderson(memory=8)
        )
        assert solution.converged.all()


class TestBroyden(MapSolverCase):
    def make_solver(self):
        return wp.Broyden()

    def test_memory_is_bounded_by_its_option(self):
        start = testing.zeros(2, 50, dtype=torch.float64)
        problem = wp.solvers.problem.MapProblem(lambda z: 0.9 * torch.cos(z))
        iteration = wp.Broyden(memory=3).bind(problem, None, start, start)
        for _ in range(20):
            iteration.advance()
        states = sum(getattr(iteration, name).numel() for name in iteration.rowwise) / start.numel()
        assert states <= 2 * 3 + 8


class TestNewton(MapSolverCase):
    def make_solver(self):
        return wp.Newton()

    def test_finite_for_piecewise_linear_maps(self):
        torch.manual_seed(1)
        layer = wp.MonDEQ(10, 30, m=1.0, dtype=torch.float64, solver=wp.Newton(), rtol=1e-12, atol=1e-12)
        assert int(layer.solve(testing.randn(20, 10, dtype=torch.float64)).steps.max()) <= 12


class TestNewtonKrylov(MapSolverCase):
    def make_solver(self):
        return wp.NewtonKrylov()


class TestForwardBackward(SolverCase):
    def make_solver(self):
        return wp.ForwardBackward()


class TestPeacemanRachford(SolverCase):
    def make_solver(self):
        return wp.PeacemanRachford()

    def test_one_state_size_product_per_iteration(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        class Count(TorchDispatchMode):
            products = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
                return func(*args, **(kwargs or {}))

        layer = wp.MonDEQ(8, 16, m=0.05, dtype=torch.float64, rtol=1e-12, atol=0.0)
        counts = {}
        for limit in (10, 14):
            operator, guarantee = layer.constraint.materialise()
            problem = wp.AffineProblem(operator, testing.randn(4, 16, dtype=torch.float64), layer.activation)
            iteration = wp.PeacemanRachford().bind(problem, guarantee, None, problem.offset)
            with Count() as count, torch.no_grad():
                for _ in range(limit):
                    iteration.advance()
            counts[limit] = count.products
        assert counts[14] - counts[10] == 4

    @pytest.mark.parametrize("step", [0.1, 0.62, 1.0, 3.0])
    @pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "softplus", "leaky_relu", "softsign"])
    def test_any_step_finds_the_same_equilibrium_for_every_activation(self, name, step):
        # Applying σ instead of its resolvent converges to a wrong point unless the step is one.
        layer = wp.MonDEQ(5, 9, m=0.5, activation=name, dtype=torch.float64, solver=wp.PeacemanRachford(step=step))
        x = testing.randn(6, 5, dtype=torch.float64)
        z = layer(x)
        again = layer.activation(z @ layer.operator().dense().T + layer.injection(x))
        torch.testing.assert_close(z, again, rtol=1e-8, atol=1e-9)


class TestDouglasRachford(SolverCase):
    def make_solver(self):
        return wp.DouglasRachford()


def test_picard_is_lean():
    """At most 15 tensor operations per iteration, the map's own three included."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.total += 1
            return func(*args, **(kwargs or {}))

    weight = torch.linalg.qr(testing.randn(32, 32, dtype=torch.float64))[0] * 0.99
    offset = testing.randn(8, 32, dtype=torch.float64)  # in float32 a sample may reach its rounding floor, an event
    totals = {}
    for limit in (20, 40):
        with Count() as count, torch.no_grad(), pytest.warns(wp.NotConvergedWarning):
            wp.fixed_point(
                lambda z, w, q: torch.relu(torch.addmm(q, z, w.T)), torch.zeros_like(offset), (weight, offset),
                solver=wp.Picard(), rtol=0.0, atol=0.0, max_steps=limit,
            )  # fmt: skip
        totals[limit] = count.total
    assert (totals[40] - totals[20]) / 20 <= 15


def test_divergence_is_named_and_finite():
    with pytest.warns(wp.NotConvergedWarning, match="does not contract here"):
        solution = wp.fixed_point(lambda z: 2 * z + 1, testing.zeros(3, 4), solver=wp.Picard(), max_steps=80)
    assert set(solution.status) == {wp.Status.DIVERGED}
    assert torch.isfinite(solution.value).all()
    with pytest.raises(wp.NotConvergedError, match="3 of 3 samples"):
        wp.fixed_point(lambda z: 2 * z + 1, testing.zeros(3, 4), solver=wp.Picard(), on_failure="raise")


@pytest.mark.float32
def test_rounding_floor_is_named():
    with pytest.warns(wp.NotConvergedWarning, match="rounding floor"):
        solution = wp.fixed_point(
            lambda z: 0.5 * torch.cos(z) + 1, testing.zeros(2, 3), solver=wp.Picard(), rtol=1e-12, atol=0.0,
            guarantee=wp.Contraction(0.5),
        )  # fmt: skip
    assert set(solution.status) == {wp.Status.STALLED}


def test_finished_samples_leave_the_batch():
    rates = testing.tensor([0.01] * 31 + [0.99], dtype=torch.float64)[:, None]
    rows: list[int] = []

    def function(z, rate):
        rows.append(len(z))
        return rate * z + 1.0

    solution = wp.fixed_point(
        function, testing.zeros(32, 3, dtype=torch.float64), (rates,), solver=wp.Picard(), batched_args=(0,), rtol=1e-6,
        guarantee=wp.Contraction(0.99), max_steps=5000,
    )  # fmt: skip
    assert solution.converged.all()
    alone = int(solution.steps[-1])
    assert alone > 1000
    assert sum(rows) < alone + 32 * 40  # not 32 × alone
    true = 1.0 / (1.0 - rates).expand(32, 3)
    assert ((solution.value - true).norm(dim=1) <= solution.error_bound).all()


def test_without_batched_args_values_are_frozen_all_the_same():
    rates = testing.tensor([[0.1], [0.9]], dtype=torch.float64)
    solution = wp.fixed_point(
        lambda z: rates * z + 1.0, testing.zeros(2, 3, dtype=torch.float64), solver=wp.Picard(), rtol=1e-4, atol=0.0
    )
    assert int(solution.steps[0]) < int(solution.steps[1])
    first = testing.zeros(1, 3, dtype=torch.float64)
    for _ in range(int(solution.steps[0])):
        first = rates[:1] * first + 1.0
    torch.testing.assert_close(solution.value[:1], first)


def test_splittings_refuse_general_maps_and_activations():
    with pytest.raises(wp.InputError, match="operator splitting needs a layer"):
        wp.fixed_point(lambda z: 0.5 * z, testing.zeros(2, 3), solver=wp.PeacemanRachford())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: wp.Averaged(damping=0.0), "damping=0.0"),
        (lambda: wp.Anderson(memory=0), "memory=0"),
        (lambda: wp.Broyden(memory=0), "memory=0"),
        (lambda: wp.PeacemanRachford(step=-1.0), "step=-1.0"),
        (lambda: wp.ForwardBackward(step=float("nan")), "step=nan"),
        (lambda: wp.NewtonKrylov(forcing=2.0), "forcing=2.0"),
        (lambda: wp.Contraction(1.0), "factor=1.0"),
        (lambda: wp.fixed_point(torch.cos, testing.zeros(2, 2), rtol=-1.0), "rtol=-1.0"),
        (lambda: wp.fixed_point(torch.cos, testing.zeros(2, 2), max_steps=0), "max_steps=0"),
        (lambda: wp.fixed_point(torch.cos, testing.zeros(())), "first dimension must be the batch"),
        (lambda: wp.fixed_point(torch.cos, testing.zeros(2, dtype=torch.int64)), "floating-point"),
        (lambda: wp.fixed_point(lambda z: z[:, :1], testing.zeros(2, 3)), "they must agree"),
    ],
)
def test_bad_options_name_argument_and_value(make, match):
    with pytest.raises(wp.InputError, match=match):
        make()


def test_misspelt_option_of_fixed_point():
    with pytest.raises(wp.OptionError, match="Did you mean 'rtol'"):
        wp.fixed_point(torch.cos, testing.zeros(2, 2), rtoll=1e-3)


def test_gmres_against_a_dense_solve():
    matrices = testing.eye(9, dtype=torch.float64) + 0.3 * testing.randn(4, 9, 9, dtype=torch.float64)
    right = testing.randn(4, 9, dtype=torch.float64)
    found = gmres(lambda v: (matrices @ v[:, :, None]).squeeze(2), right, 9, 1e-9)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, right), rtol=1e-5, atol=1e-6)


def test_solutions_are_shown_in_one_line():
    q = torch.tensor([[1.0], [100.0], [1.0]], dtype=torch.float64)
    with pytest.warns(wp.NotConvergedWarning):
        found = wp.fixed_point(
            lambda z, q: torch.tanh(q * z) + q, torch.zeros_like(q), (q,), solver=wp.Picard(), max_steps=1
        )
    assert repr(found.status) == "3× max_steps" and found.status == (wp.Status.MAX_STEPS,) * 3
    mixed = dataclasses.replace(found, status_codes=torch.tensor([0, 1, 0], dtype=torch.int8))
    assert repr(mixed.status) == "2× converged, 1× max_steps"
    assert repr(mixed) == (
        f"Solution(2× converged, 1× max_steps; at most 1 steps; residual at most {float(mixed.residual.max()):.3g}; "
        "value (3, 1) float64)"
    )
    assert repr(wp.fixed_point(torch.cos, torch.zeros(0, 2))) == "Solution(no samples; value (0, 2) float32)"
    problem = AffineProblem(Dense(torch.eye(2)), torch.zeros(3, 2), wp.activation("tanh"))
    assert "offset=(3, 2) float32, activation=tanh" in repr(problem) and "\n" not in repr(problem)
