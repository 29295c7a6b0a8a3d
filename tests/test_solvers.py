"""Every solver through the shared case, and what is particular to each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.operators import Dense
from wellposed.solvers.anderson import AndersonIteration
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


class TestAdaptive(MapSolverCase):
    def make_solver(self):
        return wp.Adaptive()

    def test_a_slow_sample_neither_passes_early_nor_delays_the_others(self):
        """The slow one may be the first to end, as it is accelerated; the others end no later than by Picard."""
        rates = testing.tensor([0.1, 0.2, 0.3, 0.99], dtype=torch.float64)[:, None]
        found, plain = (
            wp.fixed_point(
                lambda z, rate: 0.99 * rate * z + 1.0, testing.zeros(4, 5, dtype=torch.float64), (rates,), solver=solver,
                batched_args=(0,), guarantee=wp.Contraction(0.9801), rtol=1e-8, atol=0.0, on_failure="raise", max_steps=20_000,
            )
            for solver in (wp.Adaptive(), wp.Picard())
        )  # fmt: skip
        true = (1.0 / (1.0 - 0.99 * rates)).expand(4, 5)
        error = (found.value - true).norm(dim=1)
        assert (error <= found.error_bound).all() and (error <= 1e-8 * true.norm(dim=1)).all()
        assert (found.steps <= plain.steps).all() and found.steps[3] < plain.steps[3]


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


def test_samples_that_cannot_leave_go_on_with_the_others():
    rates = testing.tensor([[0.1], [0.9]], dtype=torch.float64)

    def solved(rows, **options):
        return wp.fixed_point(
            lambda z, rate: rate * z + 1.0, testing.zeros(len(rows), 3, dtype=torch.float64), (rows,),
            solver=wp.Picard(), rtol=1e-4, atol=0.0, **options,
        )  # fmt: skip

    together, apart, alone = solved(rates), solved(rates, batched_args=(0,)), solved(rates[:1])
    assert together.converged.all() and apart.converged.all()
    assert int(alone.steps) <= int(apart.steps[0]) < int(apart.steps[1]) == int(together.steps[1])
    assert int(alone.steps) < int(together.steps[0]) and float(together.residual[0]) < 1e-6 * float(alone.residual)
    torch.testing.assert_close(together.value[:1], 1.0 / (1.0 - rates[:1]).expand(1, 3), rtol=1e-12, atol=0.0)


def test_splittings_refuse_general_maps_and_activations():
    with pytest.raises(wp.InputError, match="operator splitting needs a layer"):
        wp.fixed_point(lambda z: 0.5 * z, testing.zeros(2, 3), solver=wp.PeacemanRachford())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: wp.Averaged(damping=0.0), "damping=0.0"),
        (lambda: wp.Anderson(memory=0), "memory=0"),
        (lambda: wp.Adaptive(memory=0), "memory=0"),
        (lambda: wp.Adaptive(rate=0.0), "rate=0.0"),
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


def test_the_default_is_picard_until_it_is_slow():
    rates = testing.tensor([[0.3], [0.5], [0.98]], dtype=torch.float64)
    frame = torch.linalg.qr(testing.randn(30, 30, dtype=torch.float64))[0]
    weight = frame @ torch.diag(torch.linspace(0.0, 1.0, 30, dtype=torch.float64)) @ frame.T

    def function(z, rate, q):
        return rate * (z @ weight.T) + q

    q = testing.randn(3, 30, dtype=torch.float64)
    start = torch.zeros_like(q)
    options = {"rtol": 1e-8, "atol": 0.0}
    found = wp.fixed_point(function, start, (rates, q), **options)
    plain = wp.fixed_point(function, start, (rates, q), solver=wp.Picard(), max_steps=5000, **options)
    assert found.algorithm == "Picard, then Anderson" and plain.algorithm == "Picard"
    assert int(found.steps[2]) < int(plain.steps[2]) // 2
    for row, rate in enumerate((0.3, 0.5)):  # no worse for the company of a slow one
        exact = torch.linalg.solve(torch.eye(30) - rate * weight, q[row])
        assert (found.value[row] - exact).norm() <= 1e-8 * exact.norm()
    exact = torch.linalg.solve(torch.eye(30) - 0.98 * weight, q[2])
    assert (found.value[2] - exact).norm() <= 1e-5 * exact.norm()
    fast = wp.fixed_point(function, start[:2], (rates[:2], q[:2].requires_grad_()), **options)
    fast.value.sum().backward()
    assert fast.algorithm == "Picard" == fast.adjoint_reports[0].algorithm
    assert wp.fixed_point(function, start, (rates, q), solver=wp.Anderson(), **options).algorithm == "Anderson"


def test_acceleration_that_does_not_help_is_given_up_unless_picard_diverges():
    weight = torch.linalg.qr(testing.randn(60, 60, dtype=torch.float64))[0]
    q = testing.randn(3, 60, dtype=torch.float64)
    options = {"rtol": 1e-6, "atol": 0.0, "max_steps": 5000, "on_failure": "raise"}
    slow = [
        wp.fixed_point(lambda z, q: 0.99 * (z @ weight.T) + q, torch.zeros_like(q), (q,), solver=solver, **options)
        for solver in (None, wp.Picard())
    ]
    assert (slow[0].steps <= 1.2 * slow[1].steps).all()
    expansive = wp.fixed_point(lambda z, q: q - 1.5 * torch.tanh(z) - 0.5 * z, torch.zeros_like(q), (q,), **options)
    assert expansive.algorithm == "Picard, then Anderson"


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("kind", ["even", "few slow", "rotation"])
def test_the_default_costs_little_more_than_the_better_of_its_two_ways(kind, size):
    """Steps of a dense map: those of Anderson count as many as they take time there, and they do not help for rotations."""
    frame = torch.linalg.qr(testing.randn(size, size, dtype=torch.float64))[0]
    values = torch.linspace(0.0, 0.99, size, dtype=torch.float64)
    if kind == "few slow":
        values = torch.full((size,), 0.3, dtype=torch.float64)
        values[:3] = testing.tensor([0.99, 0.98, 0.95], dtype=torch.float64)
    weight = 0.99 * frame if kind == "rotation" else frame @ torch.diag(values) @ frame.T
    q = testing.randn(32, size, dtype=torch.float64) * 1e-2
    dear = min(1.3 + 256 / size, 8.0)
    mixed = 0

    def cost(solver):
        nonlocal mixed
        mixed = 0
        found = wp.fixed_point(
            lambda z, q: torch.tanh(z @ weight.T + q), torch.zeros_like(q), (q,), solver=solver, rtol=1e-8, atol=0.0,
            max_steps=5000, on_failure="raise",
        )  # fmt: skip
        return int(found.steps.max()) + (dear - 1.0) * mixed

    counted = AndersonIteration.advance

    def advance(self):
        nonlocal mixed
        mixed += 1
        counted(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AndersonIteration, "advance", advance)
        default, plain, anderson = (cost(solver) for solver in (wp.Adaptive(), wp.Picard(), wp.Anderson()))
    assert default <= 1.3 * plain and default <= 2.5 * min(plain, anderson), (default, plain, anderson)


@pytest.mark.parametrize("solver", [wp.Picard(), wp.Adaptive(), wp.Anderson()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("batched", [None, (0,)], ids=["all go on", "some leave"])
def test_residuals_are_those_of_the_values(solver, batched):
    """Whoever leaves the batch when: status, residual and value of each sample belong together, and no sample is worse off."""
    rates = torch.linspace(0.2, 0.97, 12, dtype=torch.float64)[:, None]
    weight = torch.linalg.qr(testing.randn(20, 20, dtype=torch.float64))[0]
    start = testing.zeros(12, 20, dtype=torch.float64)
    rows = 0

    def function(z, rate):
        nonlocal rows
        rows += len(z)
        return rate * torch.tanh(z @ weight.T) + 1.0

    options = {"solver": solver, "rtol": 1e-7, "atol": 0.0, "batched_args": batched}
    together = wp.fixed_point(function, start, (rates,), **options)
    assert rows <= 12 * int(together.steps.max()) * (0.8 if batched else 1.0)
    assert together.converged.all()
    exact = wp.fixed_point(function, start, (rates,), solver=wp.Picard(), rtol=1e-13, atol=0.0, max_steps=5000).value
    limit = 1e-7 * together.value.norm(dim=1)
    assert (together.residual <= limit).all()
    # The residual is of the step that led to the value, which is nearer to the fixed point than the residual tells.
    assert ((together.value - exact).norm(dim=1) <= rates[:, 0] / (1.0 - rates[:, 0]) * together.residual + 1e-12).all()
    for row in range(12):
        alone = wp.fixed_point(function, start[:1], (rates[row : row + 1],), **options)
        assert int(alone.steps) <= int(together.steps[row]) + 2  # others may be looked at a little earlier


def test_a_sample_that_fails_does_not_hold_up_the_others_or_spoil_them():
    rates = testing.tensor(
        [[0.5], [2.0], [0.9], [-1.0]], dtype=torch.float64
    )  # the second grows, the last goes in circles
    with pytest.warns(wp.NotConvergedWarning, match="2 of 4"):
        found = wp.fixed_point(
            lambda z: rates * z + 1.0, testing.zeros(4, 3, dtype=torch.float64), solver=wp.Picard(), rtol=1e-6, atol=0.0
        )
    assert found.converged.tolist() == [True, False, True, False]
    assert found.status[1] is wp.Status.DIVERGED is found.status[3]
    assert int(found.steps[1]) < 60  # told when it is seen, not when the others end
    exact = (1.0 / (1.0 - rates)).expand(4, 3)
    torch.testing.assert_close(found.value[[0, 2]], exact[[0, 2]], rtol=1e-5, atol=0.0)
    assert torch.isfinite(found.value).all()


def test_a_converged_sample_stays_so_where_its_iterates_get_worse_afterwards():
    """The first sample jumps away after it was within its tolerance; the value is the best that was seen within it."""
    calls = 0

    def function(z):
        nonlocal calls
        calls += 1
        jump = 5.0 if calls > 25 and calls % 2 else 0.0
        rates = testing.tensor([[0.3], [0.8]], dtype=torch.float64)
        return rates * z + 1.0 + testing.tensor([[jump], [0.0]], dtype=torch.float64)

    found = wp.fixed_point(function, testing.zeros(2, 3, dtype=torch.float64), solver=wp.Picard(), rtol=1e-6, atol=0.0)
    assert found.converged.all() and int(found.steps[0]) < int(found.steps[1])
    torch.testing.assert_close(found.value[0], torch.full((3,), 1.0 / 0.7, dtype=torch.float64), rtol=1e-5, atol=0.0)


def test_norms_out_of_range_in_one_sample_leave_the_others_alone():
    scales = testing.tensor([[1.0], [1e-25], [1e25], [0.0], [1.0]])
    q = scales * testing.randn(5, 6)
    q[4, 0] = torch.nan

    def function(z, q):
        return 0.5 * z.flip(1) + q

    with pytest.warns(wp.NotConvergedWarning, match="1 of 5"):
        found = wp.fixed_point(function, torch.zeros_like(q), (q,), solver=wp.Picard(), rtol=1e-4, atol=0.0)
    alone = wp.fixed_point(function, torch.zeros_like(q[:1]), (q[:1],), solver=wp.Picard(), rtol=1e-4, atol=0.0)
    assert found.converged.tolist() == [True] * 4 + [False] and found.status[4] is wp.Status.NONFINITE
    torch.testing.assert_close(found.value[:1], alone.value)
    exact = (q + 0.5 * q.flip(1)).double() / 0.75
    assert ((found.value.double() - exact).norm(dim=1)[:3] <= 3e-4 * exact.norm(dim=1)[:3]).all()


@pytest.mark.parametrize(("solver", "forward", "backward"), [(wp.Picard(), 8.5, 10), (wp.Anderson(), 70, 70)])
def test_operations_of_a_step(solver, forward, backward):
    """All of a step's: the map's own four and, in the adjoint equation, six."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.total += 1
            return func(*args, **(kwargs or {}))

    frame = torch.linalg.qr(testing.randn(32, 32, dtype=torch.float64))[0]
    weight = frame @ torch.diag(torch.linspace(0.0, 0.99, 32, dtype=torch.float64)) @ frame.T
    offset = testing.randn(8, 32, dtype=torch.float64) * 1e-3

    def counted(rtol):
        q = offset.clone().requires_grad_()
        with Count() as first:
            found = wp.fixed_point(
                lambda z, w, q: torch.tanh(z @ w.T + q), torch.zeros_like(q), (weight, q), solver=solver, rtol=rtol,
                atol=0.0, gradient=wp.Exact(rtol=rtol), max_steps=20_000,
            )  # fmt: skip
        with Count() as second:
            found.value.sum().backward()
        steps = [int(found.steps.max()), int(found.adjoint_reports[0].steps.max())]
        return [first.total, second.total], steps

    few, short = counted(1e-2)
    many, long = counted(1e-5)
    per_step = [(b - a) / (n - m) for a, b, m, n in zip(few, many, short, long, strict=True)]
    assert per_step[0] <= forward and per_step[1] <= backward, per_step


def _shifted():
    """A nilpotent map, whose residuals stand still until they vanish, and which Anderson acceleration does not help."""
    weight, last = torch.diag(torch.ones(24, dtype=torch.float64), 1), torch.eye(25, dtype=torch.float64)[-1:]
    return lambda z: z @ weight.T + last, torch.zeros_like(last)


def _triangular():
    weight = 0.5 * torch.triu(testing.randn(40, 40, dtype=torch.float64), 1)
    q = testing.randn(3, 40, dtype=torch.float64)
    return lambda z: torch.relu(z @ weight.T + q), torch.zeros_like(q)


ONE_WAY_ALONE = {
    "by Picard: acceleration leads to logarithms of negative numbers": (
        lambda: (lambda z: z - 0.05 * torch.log(z), torch.full((2, 100), 20.0, dtype=torch.float64))
    ),
    "by Picard: a shift": _shifted,
    "by Picard: a triangular matrix": _triangular,
    "by Anderson: images that are zero at every second step": (
        lambda: (lambda z: 2.0 - z, torch.zeros(3, 5, dtype=torch.float64))
    ),
    "by Anderson: a map that grows": lambda: (lambda z: 1.16 * z + 1.0, torch.zeros(1, 1, dtype=torch.float64)),
    "by Anderson: one that grows beside one that does not": (
        lambda: (
            lambda z: testing.tensor([[1.16], [-0.95]], dtype=torch.float64) * z + 1.0,
            torch.zeros(2, 1, dtype=torch.float64),
        )
    ),
}


@pytest.mark.parametrize("case", ONE_WAY_ALONE.values(), ids=ONE_WAY_ALONE)
def test_the_default_converges_wherever_either_way_does(case):
    function, start = case()
    found = wp.fixed_point(function, start, max_steps=3000, on_failure="raise")
    torch.testing.assert_close(function(found.value), found.value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("solver", [None, wp.Anderson()], ids=str)
def test_acceleration_in_half_precision(dtype, solver):
    found = wp.fixed_point(lambda z: 1.5 - z, testing.zeros(2, 300, dtype=dtype), solver=solver, on_failure="raise")
    assert ((found.value.double() - 0.75).abs() <= 4.0 * torch.finfo(dtype).eps).all()


def test_gradients_where_residuals_of_the_adjoint_equation_stand_still():
    weight = 0.5 * torch.triu(testing.randn(40, 40, dtype=torch.float64), 1)
    q = testing.randn(2, 40, dtype=torch.float64).requires_grad_()
    identity = torch.eye(40, dtype=torch.float64)
    exact = torch.linalg.solve(identity - weight, q.detach().T).T
    found = wp.fixed_point(lambda z, q: z @ weight.T + q, exact, (q,), on_failure="raise")
    found.value.square().sum().backward()
    torch.testing.assert_close(q.grad, torch.linalg.solve((identity - weight).T, 2.0 * exact.T).T, rtol=1e-9, atol=1e-9)


def test_values_are_finite_where_what_gives_their_gradient_is_not():
    a, b = testing.tensor([[3.0], [0.97]]).requires_grad_(), testing.tensor([[0.0], [1.0]])
    start = testing.tensor([[1e-7], [0.0]])  # near a fixed point that the unrolled iteration leaves
    for gradient in (wp.Unrolled(), wp.Phantom(200)):
        found = wp.fixed_point(
            lambda z, a, b: a * z + b,
            start,
            (a, b),
            solver=wp.Picard(),
            gradient=gradient,
            batched_args=(0, 1),
            max_steps=3000,
        )
        assert found.converged.all() and torch.isfinite(found.value).all()
    scale = testing.tensor(1.0).requires_grad_()
    found = wp.fixed_point(  # whose next step would be the logarithm of a negative number
        lambda z, a: a * torch.where(z <= 0, z + 1e-6, torch.log(-z)), testing.zeros(1, 1), (scale,), solver=wp.Picard()
    )
    assert found.converged.all() and torch.isfinite(found.value).all()


def test_states_without_entries_have_gradients():
    q = testing.zeros(3, 0).requires_grad_()
    wp.fixed_point(lambda z, q: 0.5 * z + q, testing.zeros(3, 0), (q,)).value.sum().backward()
    assert q.grad.shape == (3, 0)


def test_a_sample_at_a_fixed_point_that_repels_does_not_get_worse_for_the_company():
    factors = testing.tensor([[1.0 + 1e-3], [0.99]], dtype=torch.float64)
    start = testing.tensor([[1e-12], [0.0]], dtype=torch.float64)  # the first is as good as there
    found = wp.fixed_point(
        lambda z: factors * z + testing.tensor([[0.0], [1.0]], dtype=torch.float64),
        start,
        solver=wp.Picard(),
        max_steps=5000,
    )
    assert found.converged.all() and float(found.value[0].abs()) <= 2e-12
