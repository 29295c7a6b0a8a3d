"""What every solver of arbitrary maps must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import wellposed as wp
from wellposed.operators import Dense
from wellposed.testing import tensors
from wellposed.testing.oracles import SharedProblem, shared_problems
from wellposed.testing.solver_case import SolverCase


class MapSolverCase(SolverCase):
    """Every check of a solver of z = f(z) for any map f, those of `SolverCase` included; inherit, and give ``make_solver``.

    Example:
        A damped iteration with an option of one's own choice.

        >>> import wellposed as wp
        >>> from wellposed.testing import MapSolverCase
        >>> class TestDamped(MapSolverCase):
        ...     def make_solver(self):
        ...         return wp.Averaged(damping=0.3)
        >>> TestDamped().test_tuple_state_and_vector_state()
    """

    @pytest.mark.parametrize("problem", shared_problems(), ids=lambda p: p.name)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shared_problems(self, problem: SharedProblem, dtype: torch.dtype) -> None:
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

    def test_one_nan_sample_spoils_only_itself(self) -> None:
        weight = torch.linalg.qr(tensors.randn(6, 6, dtype=torch.float64))[0] * 0.9
        offset = tensors.randn(4, 6, dtype=torch.float64)
        bad = tensors.tensor([[False], [True], [False], [False]])
        calls = 0

        def poisoned(z: Tensor) -> Tensor:
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

    def test_a_slow_sample_neither_passes_early_nor_delays_the_others(self) -> None:
        rates = tensors.tensor([0.1, 0.2, 0.3, 0.99], dtype=torch.float64)[:, None]

        def function(z: Tensor, rate: Tensor) -> Tensor:
            return 0.99 * rate * z + 1.0

        start = tensors.zeros(4, 5, dtype=torch.float64)
        solution = wp.fixed_point(
            function, start, (rates,), solver=self.make_solver(), batched_args=(0,), guarantee=wp.Contraction(0.9801),
            rtol=1e-8, atol=0.0, on_failure="raise", max_steps=20_000,
        )  # fmt: skip
        true = (1.0 / (1.0 - 0.99 * rates)).expand(4, 5)
        error = (solution.value - true).norm(dim=1)
        assert (error <= solution.error_bound).all()
        assert (error <= 1e-8 * true.norm(dim=1)).all()
        assert int(solution.steps[:3].max()) <= int(solution.steps[3])

    def test_tuple_state_and_vector_state(self) -> None:
        def function(state: tuple[Tensor, ...], shift: Tensor) -> tuple[Tensor, ...]:
            a, b = state
            return 0.3 * torch.tanh(b.mean((1, 2)))[:, None].expand_as(a) + shift, 0.5 * torch.sin(b) + a[:, :1, None]

        shift = tensors.randn(3, 4, dtype=torch.float64)
        start = (tensors.zeros(3, 4, dtype=torch.float64), tensors.zeros(3, 2, 5, dtype=torch.float64))
        solution = wp.fixed_point(function, start, (shift,), solver=self.make_solver(), on_failure="raise")
        again = function(solution.value, shift)
        for part, image in zip(solution.value, again, strict=True):
            torch.testing.assert_close(part, image, rtol=1e-8, atol=1e-8)
        flat = wp.fixed_point(
            lambda z: 0.5 * torch.cos(z), tensors.zeros(7, dtype=torch.float64), solver=self.make_solver()
        )
        assert flat.value.shape == (7,)
        torch.testing.assert_close(flat.value, 0.5 * torch.cos(flat.value), rtol=1e-9, atol=1e-9)

    def test_scaling_the_problem_changes_nothing(self) -> None:
        weight = torch.linalg.qr(tensors.randn(12, 12, dtype=torch.float64))[0] * 0.9
        offset = tensors.randn(3, 12, dtype=torch.float64)
        steps = []
        for scale in (1.0, 2.0**-10, 2.0**-20):  # powers of two: rounding is the same
            solution = wp.fixed_point(
                lambda z, q: torch.relu(z @ weight.T + q), torch.zeros_like(offset), (scale * offset,),
                solver=self.make_solver(), rtol=1e-8, atol=0.0,
            )  # fmt: skip
            steps.append(solution.steps.tolist())
        assert steps[0] == steps[1] == steps[2]

    def test_affine_problems_need_no_function(self) -> None:
        matrix = tensors.randn(6, 6, dtype=torch.float64) * 0.1
        problem = wp.AffineProblem(Dense(matrix), tensors.randn(4, 6, dtype=torch.float64), wp.activation("tanh"))
        solution = wp.fixed_point(problem, tensors.zeros(4, 6, dtype=torch.float64), solver=self.make_solver())
        torch.testing.assert_close(solution.value, problem.evaluate(solution.value), rtol=1e-8, atol=1e-8)
