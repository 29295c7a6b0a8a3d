"""The network that runs, as plain stored numbers: no parametrisation left, float64, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError
from wellposed.guarantee import Guarantee
from wellposed.layers.equilibrium import Equilibrium
from wellposed.operators.base import Operator
from wellposed.operators.dense import Dense


class Stored(Constraint):
    """A state map that is given, with what is promised of it.

    Args:
        operator: W.
        guarantee: what was proved of it, or None.
        features: size of the state.
    """

    needs_monotone = False  # the layer that it is copied from was checked

    def __init__(self, operator: Operator, guarantee: Guarantee | None, features: int) -> None:
        super().__init__()
        self._operator, self._guarantee, self._features = operator, guarantee, features

    @property
    def state_features(self) -> int:  # noqa: D102
        return self._features

    def materialise(self) -> tuple[Operator, Guarantee | None]:  # noqa: D102
        return self._operator, self._guarantee


@torch.no_grad()
def frozen(layer: Equilibrium, guarantee: Guarantee | None = None) -> Equilibrium:
    """A layer whose state map is the matrix that ``layer`` runs with, number for number.

    Forming W again in float64 from the free parameters would give another matrix, off by the rounding of float32.

    Args:
        layer: a layer on flat inputs, with a linear input map.
        guarantee: to be used in place of the layer's own.

    Raises:
        CertificateError: its state map is no matrix.
    """
    operator, known = layer.materialise()
    matrix = operator.matrix()
    if matrix is None:
        raise CertificateError(f"layer={type(layer).__name__}: needs a state map that is a matrix")
    metric = operator.metric if guarantee is None else guarantee.diagonal_metric()
    metric = None if metric is None else metric.detach().double().cpu()
    stored = Dense(matrix.detach().double().cpu().contiguous(), metric=metric)
    promise = known if guarantee is None else guarantee
    copied = Equilibrium(
        linear_map(layer.injection.weight, layer.injection.bias),
        Stored(stored, None if promise is None else promise.on(stored), layer.state_features),
        activation=layer.activation, rtol=1e-9, atol=1e-9, max_steps=20000,
    )  # fmt: skip
    if layer.output is not None:
        copied.output = linear_map(layer.output.weight, layer.output.bias)
        if layer.direct is not None:
            copied.direct = linear_map(layer.direct.weight, None)
    return copied


def linear_map(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A `torch.nn.Linear` with these numbers, float64 on the CPU."""
    found = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    found.weight = nn.Parameter(weight.detach().double().cpu().contiguous(), requires_grad=False)
    if bias is not None:
        found.bias = nn.Parameter(bias.detach().double().cpu().contiguous(), requires_grad=False)
    return found
