"""What every solver of affine problems must do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import wellposed as wp
from wellposed.testing import tensors
from wellposed.testing.oracles import monotone_numpy
from wellposed.testing.tensors import array


class SolverCase:
    """Every check of a solver of z = σ(Wz + q); inherit, and give ``make_solver``.

    Example:
        A solver of one's own is checked as this one is.

        >>> import torch, wellposed as wp
        >>> from wellposed.testing import SolverCase
        >>> class TestForwardBackward(SolverCase):
        ...     def make_solver(self):
        ...         return wp.ForwardBackward()
        >>> TestForwardBackward().test_monotone_layer_to_the_requested_tolerance(torch.float64)
    """

    def make_solver(self) -> wp.Solver:
        """The solver, with the options to be checked."""
        raise NotImplementedError

    def monotone_layer(self, dtype: torch.dtype, **options: Any) -> wp.MonDEQ:
        """A layer that the solver can solve, 12 input and 20 state features; options go to its constructor."""
        torch.manual_seed(3)
        return wp.MonDEQ(12, 20, m=1.0, dtype=dtype, solver=self.make_solver(), on_failure="raise", **options)

    def test_is_a_frozen_dataclass_and_refuses_unknown_fields(self) -> None:
        solver = self.make_solver()
        assert dataclasses.is_dataclass(solver)
        with pytest.raises(dataclasses.FrozenInstanceError):
            solver.plan = None
        with pytest.raises(wp.OptionError, match="no option 'nonsense'"):
            type(solver)(nonsense=1)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_monotone_layer_to_the_requested_tolerance(self, dtype: torch.dtype) -> None:
        layer = self.monotone_layer(dtype)
        x = tensors.randn(9, 12, dtype=dtype)
        solution = layer.solve(x)
        offset = x.double() @ layer.injection.weight.double().T + layer.injection.bias.double()
        true = monotone_numpy(array(layer.operator().dense()), array(offset), 1.0)
        error = (solution.value.detach().double() - true).norm(dim=1)
        eps = torch.finfo(dtype).eps ** (2 / 3)
        assert (error <= eps * (1.0 + true.norm(dim=1)) + 1e-13).all()
        assert (error <= solution.error_bound + 1e-14 * true.norm(dim=1)).all()

    def test_solves_the_adjoint_too(self) -> None:
        layer = self.monotone_layer(torch.float64)
        reference = wp.MonDEQ(12, 20, m=1.0, dtype=torch.float64)
        reference.load_state_dict(layer.state_dict())
        x = tensors.randn(5, 12, dtype=torch.float64)
        cotangent = tensors.randn(5, 20, dtype=torch.float64)
        (layer(x) * cotangent).sum().backward()
        (reference(x) * cotangent).sum().backward()
        for found, expected in zip(layer.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-7, atol=1e-9)

    def test_zero_batch(self) -> None:
        layer = self.monotone_layer(torch.float64)
        assert layer(tensors.zeros(0, 12, dtype=torch.float64)).shape == (0, 20)
        assert layer.solve(tensors.zeros(0, 12, dtype=torch.float64)).error_bound.shape == (0,)

    def test_warm_start_at_the_solution_is_quick(self) -> None:
        layer = self.monotone_layer(torch.float64)
        x = tensors.randn(6, 12, dtype=torch.float64)
        cold = layer.solve(x)
        warm = layer.solve(x, z0=cold.value.detach())
        assert int(warm.steps.max()) <= max(4, int(cold.steps.max()) // 2)

    def test_step_limit_is_reported(self) -> None:
        layer = self.monotone_layer(torch.float64, max_steps=1)
        layer.on_failure = "warn"
        with pytest.warns(wp.NotConvergedWarning, match="raise max_steps"):
            solution = layer.solve(tensors.randn(4, 12, dtype=torch.float64))
        assert not solution.converged.any()
        assert set(solution.status) == {wp.Status.MAX_STEPS}
        layer.on_failure = "raise"
        with pytest.raises(wp.NotConvergedError):
            layer(tensors.randn(4, 12, dtype=torch.float64))

    def test_samples_do_not_see_each_other(self) -> None:
        layer = self.monotone_layer(torch.float64)
        x = tensors.randn(8, 12, dtype=torch.float64)
        x[3] *= 1e4
        together = layer.solve(x)
        for row in (0, 3, 7):
            alone = layer.solve(x[row : row + 1])
            gap = (together.value[row] - alone.value[0]).norm()
            assert gap <= together.error_bound[row] + alone.error_bound[0]
