"""The network that runs, as plain stored numbers: no parametrisation left, float64, on the CPU."""

from __future__ import annotations

import torch
from typing_extensions import override

from wellposed.constraints.base import Constraint
from wellposed.errors import CertificateError
from wellposed.guarantee import Guarantee
from wellposed.layers.equilibrium import Equilibrium
from wellposed.maps.linear import LinearMap
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
    @override
    def state_features(self) -> int:
        return self._features

    @override
    def materialise(self) -> tuple[Operator, Guarantee | None]:
        return self._operator, self._guarantee


@torch.no_grad()
def frozen(layer: Equilibrium, guarantee: Guarantee | None = None) -> Equilibrium:
    """A layer whose state map is the matrix that ``layer`` runs with, number for number.

    Forming W again in float64 from the free parameters would give another matrix, off by the rounding of float32.

    Args:
        layer: a layer on flat inputs, with a linear input map.
        guarantee: to be used in place of the layer's own.

    Raises:
        CertificateError: its state map or its input map is no matrix.
    """
    operator, known = layer.materialise()
    matrix, driven = operator.matrix(), layer.injection.matrix()
    if matrix is None or driven is None:
        raise CertificateError(f"layer={type(layer).__name__}: needs a state map and an input map that are matrices")
    metric = operator.metric if guarantee is None else guarantee.diagonal_metric()
    metric = None if metric is None else metric.detach().double().cpu()
    stored = Dense(matrix.detach().double().cpu().contiguous(), metric=metric)
    promise = known if guarantee is None else guarantee
    copied = Equilibrium(
        LinearMap.of(driven.weight, driven.bias),
        Stored(stored, None if promise is None else promise.on(stored), layer.state_features),
        activation=layer.activation, rtol=1e-9, atol=1e-9, max_steps=20000,
    )  # fmt: skip
    if layer.output is not None:
        copied.output = LinearMap.of(layer.output.weight, layer.output.bias)
        if layer.direct is not None:
            copied.direct = LinearMap.of(layer.direct.weight, None)
    return copied
