"""How steep a map was seen to be: a lower bound of its Lipschitz constant that no upper bound may be below."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ORDERS: dict[str, float] = {"2": 2, "inf": torch.inf, "1": 1}


def steepest(function: Callable[[Tensor], Tensor], x: Tensor, norm: str = "2") -> float:
    """The largest norm of a Jacobian at the inputs and the largest slope between two of them.

    Args:
        function: from inputs of shape (batch, ...) to outputs of shape (batch, ...), in float64.
        x: inputs, shape (batch, ...).
        norm: ``"2"``, ``"inf"`` or ``"1"``, of flattened inputs and outputs.
    """
    order = _ORDERS[norm]
    jacobians = [torch.autograd.functional.jacobian(lambda v: function(v[None]).flatten(), row) for row in x]
    steep = max(float(torch.linalg.matrix_norm(one.flatten(1), order)) for one in jacobians)
    with torch.no_grad():
        images = function(x).flatten(1)
    rise = torch.linalg.vector_norm(images[:, None] - images[None], order, dim=2)
    run = torch.linalg.vector_norm((x[:, None] - x[None]).flatten(2), order, dim=2)
    apart = run > 0
    return max([steep, *(rise[apart] / run[apart]).tolist()])
