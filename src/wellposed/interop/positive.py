"""Published checkpoints of positive concave networks with the sigmoid on flat inputs (Gabor, Piotrowski & Cavalcante 2024).

Their W = g·V/‖V‖ by rows, a weight normalisation whose parts are clamped to be nonnegative. The other variant is left out: its
offset has no positive floor, without which no modulus of contraction is known.
"""

from __future__ import annotations

from collections.abc import Callable

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published

_NORM = ("bias", "running_mean", "running_var")


def sigmoid(t: Tensors) -> Published:
    """linear1, bn1, block.deq.f.W.weight_g and .weight_v, bn2, classifier."""
    scale, direction = t["block.deq.f.W.weight_g"], t["block.deq.f.W.weight_v"]
    weight = scale.reshape(-1, 1) * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
    if bool((weight < 0.0).any()):
        raise CheckpointError("block.deq.f.W: has negative entries; the theorem is about nonnegative weights")
    layer = {
        "injection.weight": t["linear1"], "injection.bias": t["linear1.bias"], "constraint.V": weight.sqrt(),
        "injection.norm.weight": t["bn1"], **{f"injection.norm.{name}": t[f"bn1.{name}"] for name in _NORM},
    }  # fmt: skip
    if any(bool((t[f"{name}.running_var"] < 0.0).any()) for name in ("bn1", "bn2")):
        raise CheckpointError("running_var: has negative entries")
    norm = {"weight": t["bn2"], **{name: t[f"bn2.{name}"] for name in _NORM}}
    head = {"weight": t["classifier"], "bias": t["classifier.bias"]}
    return Published("pcdeq2", {"width": len(weight), "parametrisation": "square"}, layer, head, norm)


def layouts() -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout."""
    return {"pcdeq2": sigmoid}
