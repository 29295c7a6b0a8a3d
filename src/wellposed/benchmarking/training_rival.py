"""Training steps of the original monotone algorithm with the weights of one of our layers."""

from __future__ import annotations

from typing import Any

import torch

from wellposed.benchmarking.original_mondeq import OriginalConvMonDEQ, OriginalMonDEQ
from wellposed.benchmarking.training_subject import Steps

# Our names of the parameters that both parametrise alike; kernels are normalised otherwise in the original.
DENSE = {
    "injection.weight": "U.weight", "injection.bias": "U.bias", "constraint.A": "A.weight", "constraint.B": "B.weight",
}  # fmt: skip
CONVOLUTION = {"injection.weight": "U.weight", "injection.bias": "U.bias"}
_TRIED = 1e-4
_LEAST_STEP = 1e-4


class OriginalSteps(Steps):
    """Steps of the original algorithm, whose tolerance is an attribute of its module."""

    def _set(self, tolerance: float) -> None:
        self.model.tol = tolerance


def original(case: dict[str, Any]) -> OriginalSteps:
    """Steps of the original algorithm at the step size of its authors' tuner.

    The tuner halves the step while the iterations of forward passes do not increase, and goes back once.
    """
    alpha, count = 1.0, _iterations(case, 1.0)
    while alpha > _LEAST_STEP:
        halved = _iterations(case, 0.5 * alpha)
        if halved > count:
            break
        alpha, count = 0.5 * alpha, halved
    return OriginalSteps(_loaded(case, alpha), names_of(case), case)


def _iterations(case: dict[str, Any], alpha: float) -> int:
    """How many iterations a forward pass takes at a step size."""
    model = _loaded(case, alpha)
    with torch.no_grad():
        model(case["x"])
    return int(model.iterations[0])


def names_of(case: dict[str, Any]) -> dict[str, str]:
    """The parameters of a case that can be compared, with their names in the original."""
    return CONVOLUTION if case["family"].startswith("Conv") else DENSE


@torch.no_grad()
def _loaded(case: dict[str, Any], alpha: float) -> Any:
    state, width = case["state"], case["width"]
    if case["family"].startswith("Conv"):
        model: Any = OriginalConvMonDEQ(1, width, (28, 28), 1.0, alpha, _TRIED)
        for own, given in ((model.A0, state["constraint.A"]), (model.B0, state["constraint.B"])):
            own.copy_(given)
        model.g.copy_(state["constraint.A"].norm() ** 2)
        model.h.copy_(state["constraint.B"].norm())
        names = CONVOLUTION
    else:
        model, names = OriginalMonDEQ(case["x"].shape[1], width, 1.0, alpha, _TRIED), DENSE
    own = dict(model.named_parameters())
    for name, theirs in names.items():
        own[theirs].copy_(state[name])
    return model
