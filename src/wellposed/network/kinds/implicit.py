"""Layers whose value is an equilibrium, or an output map of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import InputError
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.options import SolvingModule
from wellposed.network.kinds.block import Block, Shape, kind_of
from wellposed.network.kinds.linear import linear_rounding
from wellposed.network.propagation import Own, Point, Step
from wellposed.numerics.euclidean import euclidean, underflow
from wellposed.numerics.norm import Norm
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.solvers.solution import Solution, Tolerance

EXACT_STEPS = 20000  # of a float64 solve


@kind_of(ImplicitLayer, inherited=True)
class ImplicitBlock(Block):
    """A layer that says its constant and the rounding of its evaluations itself; see `ImplicitLayer`."""

    is_implicit = True

    @override
    def constant(self, norm: Norm) -> tuple[float, str]:
        return self.module.lipschitz() if norm == "2" else super().constant(norm)

    @override
    def through(self, point: Point, *, forward: bool) -> Point:
        factor, _ = self.constant("2")
        solution = self.module.sharpened(point.value)
        own, reach = self.solve_errors(point.value, solution, factor, forward)
        known = self.solve_error(point.value, solution)
        steps = self._steps(point.value, solution.value, Step(own, solution.value, reach, 1.0, known), factor)
        return Point(steps[-1].image, point.errors.through(factor, steps), point.solved & solution.converged)

    def _steps(self, value: Tensor, state: Tensor, solve: Step, factor: float) -> list[Step]:
        """The solve, and the output map where there is one."""
        layer, image = self.module, self.module.readout(state, value)
        if layer.output is None:
            return [Step(solve.own, image, factor, 1.0, solve.known)]
        reach = max(solve.reach, 1e-12)  # any larger constant is one too; the direct map's rounding is told by it
        norm = spectral_norm_upper_bound(layer.output.weight)
        read = linear_rounding(layer.output, state)
        if layer.direct is not None:  # a further product, of the layer's input, and one more addition
            direct, eps = linear_rounding(layer.direct, value), torch.finfo(image.dtype).eps
            lost = underflow(image.dtype, image[0].numel(), 2) if len(image) else 0.0
            read = read.plus(Own(direct.here + eps * euclidean(image).double() + lost, direct.inside / reach, eps))
        return [Step(solve.own, state, reach, norm, solve.known), Step(read, image, factor)]

    def solve_errors(
        self, value: Tensor, solution: Solution[Tensor], factor: float, forward: bool
    ) -> tuple[Own, float]:
        """Errors of solves anywhere, and the Lipschitz constant from the layer's input to its state.

        Args:
            value: inputs, shape (batch, *input_shape).
            solution: the solves there.
            factor: the block's constant.
            forward: whether the errors are to hold for plain forward passes, too.
        """
        state = solution.value
        size = euclidean(state).double()
        rtol, atol = self.module.limits()
        own = Own(atol + rtol * size, 0.0, rtol)
        # Solves are in float64, rounded at the end.
        constant, inside, outside = self.module.evaluation_rounding(state.dtype if forward else torch.float64)
        outside += torch.finfo(state.dtype).eps
        here = constant + inside * euclidean(value).double() + outside * size
        return own.plus(Own(here, inside, outside)), factor

    def solve_error(self, value: Tensor, solution: Solution[Tensor]) -> Tensor:
        """Bound on the Euclidean error of each solve, shape (batch,), float64."""
        if solution.error_bound is None:
            raise self.unknown("no bound of the error of a solve")
        return solution.error_bound.double()

    @override
    def exact(self) -> Any:
        exact = super().exact()
        for part in exact.modules():
            if isinstance(part, SolvingModule):
                part.tolerance = Tolerance(1e-9, 1e-9)
        return exact

    @property
    @override
    def input_shape(self) -> Shape | None:
        return tuple(self.module.input_shape)

    @override
    def output_shape(self, shape: Shape, dtype: torch.dtype) -> Shape:
        if shape != self.input_shape:
            raise InputError(f"{self.name}: takes inputs of shape {self.input_shape}, not {shape}")
        return tuple(self.module.value_shape)
