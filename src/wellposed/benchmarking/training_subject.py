"""Training steps of one layer, in the version of the library that the process imports.

Other checkouts load this file by its path: it imports nothing of the library but layers by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import wellposed as wp

_SMALL = 1e-5  # learning rate: weights change at every step, the case does not


def build(family: str, width: int, **options: Any) -> Any:
    """A layer for images or vectors of the size of MNIST's; of 8×8 pixels for orthogonal convolutions."""
    if family == "ConvOrthogonalDEQ":
        return wp.ConvOrthogonalDEQ(width, width, (8, 8), **options)
    if family.startswith("Conv"):
        border = {"border": 1} if family == "ConvMonDEQ" else {}
        return getattr(wp, family)(1, width, (28, 28), **border, **options)
    return getattr(wp, family)(784, width, **options)


class Steps:
    """Steps of Adam on a model, and how far its values and gradients are from those of float64.

    Args:
        model: what is trained.
        names: of the parameters that are compared, by their names in the case.
        case: inputs, cotangent and reference, see `wellposed.benchmarking.training`.
    """

    def __init__(self, model: Any, names: dict[str, str], case: dict[str, Any]) -> None:
        self.model, self._names, self._case = model, names, case
        self._optimizer = torch.optim.Adam(model.parameters(), lr=_SMALL)

    def run(self, *tolerances: float) -> Tensor:
        """One step at a tolerance, or at the model's own."""
        value = self._differentiated(tolerances)
        self._optimizer.step()
        return value

    def errors(self, *tolerances: float) -> Sequence[float]:
        """Relative errors: median and worst over the samples' values, and over the parameters' gradients."""
        value = self._differentiated(tolerances).detach().double()
        true = self._case["value"].flatten(1)
        values = (value.reshape(true.shape) - true).norm(dim=1) / true.norm(dim=1)
        own = dict(self.model.named_parameters())
        gradients = torch.stack([
            (own[self._names[name]].grad.double() - gradient).norm() / gradient.norm()
            for name, gradient in self._case["gradients"].items() if name in self._names
        ])  # fmt: skip
        return [float(part) for found in (values, gradients) for part in (found.median(), found.max())]

    def _differentiated(self, tolerances: Sequence[float]) -> Tensor:
        for tolerance in tolerances:
            self._set(tolerance)
        self._optimizer.zero_grad(set_to_none=True)
        value = self.model(self._case["x"])
        value.backward(self._case["cotangent"].reshape(value.shape))
        return value

    def _set(self, tolerance: float) -> None:
        self.model.tolerance = type(self.model.tolerance)(tolerance, tolerance)


def of_layer(path: str, names: Sequence[str] | None = None) -> Steps:
    """Steps of the layer of a case.

    Args:
        path: of the case.
        names: of the parameters whose gradients are compared; None for all.
    """
    case = torch.load(path, weights_only=True)
    layer = build(case["family"], case["width"], **case["options"])
    layer.load_state_dict(case["state"])
    return Steps(layer, {name: name for name in names or case["gradients"]}, case)
