"""What every solver must do. Inherit, and give ``make_solver``."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import wellposed as wp
from harness.problems import SharedProblem, monotone_numpy, shared_problems
from wellposed.operators import Dense


class SolverCase:
    """Checks for solvers of affine problems (all of them)."""

    def make_solver(self) -> wp.Solver:
        raise NotImplementedError

    def monotone_layer(self, dtype: torch.dtype, **options) -> wp.MonDEQ:
        torch.manual_seed(3)
        return wp.MonDEQ(12, 20, m=1.0, dtype=dtype, solver=self.make_solver(), on_failure="raise", **options)

    def test_is_a_frozen_dataclass_and_refuses_unknown_fields(self):
        solver = self.make_solver()
        assert dataclasses.is_dataclass(solver)
        with pytest.raises(dataclasses.FrozenInstanceError):
            solver.plan = None
        with pytest.raises(wp.OptionError, match="no option 'nonsense'"):
            type(solver)(nonsense=1)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_monotone_layer_to_the_requested_tolerance(self, dtype):
        layer = self.monotone_layer(dtype)
        x = torch.randn(9, 12, dtype=dtype)
        solution = layer.solve(x)
        weight = layer.operator().dense().detach().double().numpy()
        offset = (x.double() @ layer.injection.weight.double().T + layer.injection.bias.double()).detach().numpy()
        true = monotone_numpy(weight, offset, 1.0)
        error = (solution.value.detach().double() - true).norm(dim=1)
        eps = torch.finfo(dtype).eps ** (2 / 3)
        assert (error <= eps * (1.0 + true.norm(dim=1)) + 1e-13).all()
        assert (error <= solution.error_bound + 1e-14 * true.norm(dim=1)).all()

    def test_solves_the_adjoint_too(self):
        layer = self.monotone_layer(torch.float64)
        reference = wp.MonDEQ(12, 20, m=1.0, dtype=torch.float64)
        reference.load_state_dict(layer.state_dict())
        x = torch.randn(5, 12, dtype=torch.float64)
        cotangent = torch.randn(5, 20, dtype=torch.float64)
        (layer(x) * cotangent).sum().backward()
        (reference(x) * cotangent).sum().backward()
        for found, expected in zip(layer.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-7, atol=1e-9)

    def test_zero_batch(self):
        layer = self.monotone_layer(torch.float64)
        assert layer(torch.zeros(0, 12, dtype=torch.float64)).shape == (0, 20)
        assert layer.solve(torch.zeros(0, 12, dtype=torch.float64)).error_bound.shape == (0,)

    def test_warm_start_at_the_solution_is_quick(self):
        layer = self.monotone_layer(torch.float64)
        x = torch.randn(6, 12, dtype=torch.float64)
        cold = layer.solve(x)
        warm = layer.solve(x, z0=cold.value.detach())
        assert int(warm.steps.max()) <= max(4, int(cold.steps.max()) // 2)

    def test_step_limit_is_reported(self):
        layer = self.monotone_layer(torch.float64, max_steps=1)
        layer.on_failure = "warn"
        with pytest.warns(wp.NotConvergedWarning, match="raise max_steps"):
            solution = layer.solve(torch.randn(4, 12, dtype=torch.float64))
        assert not solution.converged.any()
        assert set(solution.status) == {wp.Status.MAX_STEPS}
        layer.on_failure = "raise"
        with pytest.raises(wp.NotConvergedError):
            layer(torch.randn(4, 12, dtype=torch.float64))

    def test_samples_do_not_see_each_other(self):
        layer = self.monotone_layer(torch.float64)
        x = torch.randn(8, 12, dtype=torch.float64)
        x[3] *= 1e4
        together = layer.solve(x)
        for row in (0, 3, 7):
            alone = layer.solve(x[row : row + 1])
            gap = (together.value[row] - alone.value[0]).norm()
            assert gap <= together.error_bound[row] + alone.error_bound[0]


class MapSolverCase(SolverCase):
    """Further checks for solvers of arbitrary maps."""

    @pytest.mark.parametrize("problem", shared_problems(), ids=lambda p: p.name)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shared_problems(self, problem: SharedProblem, dtype):
        rtol = 1e-4 if dtype == torch.float32 else 1e-10
        weight, offset = problem.args(dtype)
        solution = wp.fixed_point(
            problem.function, torch.zeros_like(offset), (weight, offset), solver=self.make_solver(), rtol=rtol, atol=0.0,
            guarantee=wp.Contraction(problem.factor), batched_args=(1,), on_failure="raise", max_steps=5000,
        )  # fmt: skip
        true = problem.solution()
        error = (solution.value.double() - true).norm(dim=1)
        assert (error <= 2 * rtol * true.norm(dim=1)).all()
        assert (error <= solution.error_bound.double() * (1 + 1e-6) + 1e-5 * torch.finfo(dtype).eps).all()

    def test_one_nan_sample_spoils_only_itself(self):
        weight = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] * 0.9
        offset = torch.randn(4, 6, dtype=torch.float64)
        bad = torch.tensor([[False], [True], [False], [False]])
        calls = 0

        def poisoned(z):
            nonlocal calls
            calls += 1
            image = torch.tanh(z @ weight.T + offset)
            return torch.where(bad, torch.nan, image) if calls > 4 else image

        start = torch.zeros_like(offset)
        with pytest.warns(wp.NotConvergedWarning, match="1 of 4 samples"):
            solution = wp.fixed_point(poisoned, start, solver=self.make_solver())
        clean = wp.fixed_point(lambda z: torch.tanh(z @ weight.T + offset), start, solver=self.make_solver()).value
        assert solution.status[1] is wp.Status.NONFINITE
        others = [0, 2, 3]
        assert solution.converged[others].all()
        torch.testing.assert_close(solution.value[others], clean[others], rtol=1e-8, atol=1e-8)
        best = solution.value[1]
        assert torch.isfinite(best).all()
        gap = (torch.tanh(best @ weight.T + offset[1]) - best).norm()
        assert gap < (torch.tanh(offset[1])).norm()  # better than the start, whose residual this is

    def test_a_slow_sample_neither_passes_early_nor_delays_the_others(self):
        rates = torch.tensor([0.1, 0.2, 0.3, 0.99], dtype=torch.float64)[:, None]

        def function(z, rate):
            return 0.99 * rate * z + 1.0

        start = torch.zeros(4, 5, dtype=torch.float64)
        solution = wp.fixed_point(
            function, start, (rates,), solver=self.make_solver(), batched_args=(0,), guarantee=wp.Contraction(0.9801),
            rtol=1e-8, atol=0.0, on_failure="raise", max_steps=20_000,
        )  # fmt: skip
        true = (1.0 / (1.0 - 0.99 * rates)).expand(4, 5)
        error = (solution.value - true).norm(dim=1)
        assert (error <= solution.error_bound).all()
        assert (error <= 1e-8 * true.norm(dim=1)).all()
        assert int(solution.steps[:3].max()) <= int(solution.steps[3])

    def test_tuple_state_and_vector_state(self):
        def function(state, shift):
            a, b = state
            return 0.3 * torch.tanh(b.mean((1, 2)))[:, None].expand_as(a) + shift, 0.5 * torch.sin(b) + a[:, :1, None]

        shift = torch.randn(3, 4, dtype=torch.float64)
        start = (torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 2, 5, dtype=torch.float64))
        solution = wp.fixed_point(function, start, (shift,), solver=self.make_solver(), on_failure="raise")
        again = function(solution.value, shift)
        for part, image in zip(solution.value, again, strict=True):
            torch.testing.assert_close(part, image, rtol=1e-8, atol=1e-8)
        flat = wp.fixed_point(
            lambda z: 0.5 * torch.cos(z), torch.zeros(7, dtype=torch.float64), solver=self.make_solver()
        )
        assert flat.value.shape == (7,)
        torch.testing.assert_close(flat.value, 0.5 * torch.cos(flat.value), rtol=1e-9, atol=1e-9)

    def test_scaling_the_problem_changes_nothing(self):
        weight = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0] * 0.9
        offset = torch.randn(3, 12, dtype=torch.float64)
        steps = []
        for scale in (1.0, 2.0**-10, 2.0**-20):  # powers of two: rounding is the same
            solution = wp.fixed_point(
                lambda z, q: torch.relu(z @ weight.T + q), torch.zeros_like(offset), (scale * offset,),
                solver=self.make_solver(), rtol=1e-8, atol=0.0,
            )  # fmt: skip
            steps.append(solution.steps.tolist())
        assert steps[0] == steps[1] == steps[2]

    def test_affine_problems_need_no_function(self):
        matrix = torch.randn(6, 6, dtype=torch.float64) * 0.1
        problem = wp.AffineProblem(Dense(matrix), torch.randn(4, 6, dtype=torch.float64), wp.activation("tanh"))
        solution = wp.fixed_point(problem, torch.zeros(4, 6, dtype=torch.float64), solver=self.make_solver())
        torch.testing.assert_close(solution.value, problem.evaluate(solution.value), rtol=1e-8, atol=1e-8)
