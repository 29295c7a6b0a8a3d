"""What certificates, training and evaluation need of a layer whose value is an equilibrium."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError
from wellposed.layers.compiled import value_of
from wellposed.layers.inputs import check_samples, in_precision_of
from wellposed.layers.options import SolveOptions, SolvingModule
from wellposed.maps.base import AffineMap
from wellposed.numerics.linear_algebra import full_precision
from wellposed.solvers.solution import Solution


class ImplicitLayer(SolvingModule, ABC):
    """A layer that solves for a state z*(x) and returns it, or an output map of it.

    Attributes:
        output: the map from the state to the layer's value, or None where the state is its value.
        direct: a linear map from the input whose value is added to that of the output map, or None.
    """

    output: AffineMap | None
    direct: AffineMap | None

    def __init__(self, **options: Unpack[SolveOptions]) -> None:
        super().__init__(**options)
        self.output = self.direct = None

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one value of the layer: of the state, or of the output map's value where the layer has one."""
        return self.state_shape if self.output is None else self.output.output_shape

    @abstractmethod
    def solve(self, x: Tensor, z0: Tensor | None = None) -> Solution[Tensor]:
        """The equilibrium with its evidence: status, steps and a rigorous error bound per sample."""

    def sharpened(self, x: Tensor) -> Solution[Tensor]:
        """The equilibrium as `solve` gives it, with error bounds as small as one more step in float64 makes them.

        `solve` leaves that step out where bounds are within the tolerance without it; by default it does not.

        Args:
            x: shape (*, *input_shape).
        """
        return self.solve(x)

    @abstractmethod
    def state(self, x: Tensor) -> Tensor:
        """The equilibrium to the layer's tolerance, by typical errors and without the evidence."""

    def limits(self) -> tuple[float, float]:
        """Relative and absolute tolerance of a solve, with the defaults filled in."""
        return self.tolerance.resolve(next(self.parameters()).dtype)

    @abstractmethod
    def lipschitz(self) -> tuple[float, str]:
        """Proved bound of the Euclidean Lipschitz constant of x ↦ ``forward(x)`` for the stored numbers, and its reason.

        Raises:
            GuaranteeError: none can be proved.
        """

    def evaluation_rounding(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Bound on the error of the state by rounding in a precision: a constant, per ‖x‖ and per ‖z‖, Euclidean.

        Raises:
            CertificateError: the layer does not say.
        """
        raise CertificateError(
            f"{type(self).__name__}: no bound of the errors of its evaluation is known; override evaluation_rounding"
        )

    def forward(self, x: Tensor) -> Tensor:
        """The equilibrium for every input, or the layer's output map of it where it has one.

        The solve stops by what is typical of such maps, or known by construction: nearly every value is within the tolerance,
        and no proof is made. `solve` proves an error bound.

        Args:
            x: shape (*, in_features).

        Returns:
            Shape (*, state_features), or (*, out_features).

        Raises:
            InputError: wrong feature count or dtype, or NaN or infinity in the input or the weights.
            NotConvergedError: a sample did not converge and ``on_failure="raise"``.
        """
        x = in_precision_of(self, x)
        if torch.compiler.is_compiling() or x.is_meta:
            return value_of(self, x)
        return self.evaluate(x)[0]

    def shapes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the value and of the state for an input, which may have no numbers.

        Raises:
            InputError: the input is of a shape that the layer does not take.
        """
        check_samples(x, self.input_shape)
        lead = x.shape[: x.ndim - len(self.input_shape)]
        return (*lead, *self.value_shape), (*lead, *self.state_shape)

    def evaluate(self, x: Tensor, aside: None = None, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The layer's value and its state, in the precision of the weights.

        Args:
            x: inputs in that precision.
            aside: None, as the layer takes nothing else.
            known: the state, where an earlier call with the same numbers has found it.
        """
        with full_precision(x.device):
            state = self.state(x) if known is None else self.state_again(x, known)
            return self.readout(state, x), state

    def state_again(self, x: Tensor, known: Tensor) -> Tensor:
        """The state that an earlier call with the same numbers has found, with its graph.

        Layers that can do so spare themselves another solve.
        """
        return self.state(x)

    def readout(self, state: Tensor, x: Tensor) -> Tensor:
        """The layer's value, from the state and the input."""
        if self.output is None:
            return state
        value = self.output(state)
        return value if self.direct is None else value + self.direct(x)


def implicit_layers(model: nn.Module) -> Iterator[ImplicitLayer]:
    """The layers of a model whose values are equilibria, itself included, in the order in which torch lists modules."""
    return (part for part in model.modules() if isinstance(part, ImplicitLayer))
