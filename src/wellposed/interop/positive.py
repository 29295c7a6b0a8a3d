"""Published checkpoints of positive concave networks with the sigmoid (Gabor, Piotrowski & Cavalcante 2024).

Their W = g·V/‖V‖ by rows or output channels, a weight normalisation whose parts are clamped to be nonnegative. The other variant
is left out: its offset has no positive floor, without which no modulus of contraction is known. Grey images are not standardised.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published

_NORM = ("bias", "running_mean", "running_var")


def flat(t: Tensors) -> Published:
    """linear1, bn1, block.deq.f.W.weight_g and .weight_v, bn2, classifier."""
    scale, direction = _checked(t, "block")
    weight = scale.reshape(-1, 1) * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
    layer = {**_injection(t, "linear1", "bn1"), "constraint.V": weight.sqrt()}
    options = {"width": len(weight), "parametrisation": "square"}
    return Published("pcdeq2", options, (layer,), _head(t), (_norm(t, "bn2"),), raw_grey=True)


def single(t: Tensors) -> Published:
    """conv1, bn1, block, bn2 behind a maximum over 3 × 3 pixels, averages over 8 × 8, classifier."""
    options = {**_options(t), "pool": 8}
    layers, norms = (_convolution(t, "conv1", "bn1", "block"),), (_norm(t, "bn2"),)
    return Published("pcdeq-conv", options, layers, _head(t), norms, raw_grey=True)


def several(t: Tensors) -> Published:
    """Three of these, by conv1, downsample1 and downsample2, with bn1 to bn6 and block1 to block3; averages over 4 × 4 pixels."""
    maps = ("conv1", "downsample1", "downsample2")
    layers = tuple(_convolution(t, name, f"bn{2 * k + 1}", f"block{k + 1}") for k, name in enumerate(maps))
    options = {**_options(t), "pool": 4, "further": tuple(len(t[name]) for name in maps[1:])}
    norms = tuple(_norm(t, f"bn{2 * k + 2}") for k in range(3))
    return Published("pcdeq-multi", options, layers, _head(t), norms, raw_grey=True)


def _options(t: Tensors) -> dict[str, object]:
    first = t["conv1"]
    return {
        "width": len(first), "activation": "sigmoid", "parametrisation": "projection", "taps": first.shape[-1], "stride": 1,
    }  # fmt: skip


def _convolution(t: Tensors, name: str, norm: str, block: str) -> Tensors:
    scale, direction = _checked(t, block)
    return {**_injection(t, name, norm), "constraint.V": direction, "constraint.gain": scale.reshape(-1)}


def _checked(t: Tensors, block: str) -> tuple[Tensor, Tensor]:
    """G and V."""
    parts = t[f"{block}.deq.f.W.weight_g"], t[f"{block}.deq.f.W.weight_v"]
    if any(bool((part < 0.0).any()) for part in parts):
        raise CheckpointError(f"{block}.deq.f.W: has negative entries; the theorem is about nonnegative weights")
    return parts


def _injection(t: Tensors, name: str, norm: str) -> Tensors:
    inside = {f"injection.norm.{key}": part for key, part in _norm(t, norm).items()}
    return {"injection.weight": t[name], "injection.bias": t[f"{name}.bias"], **inside}


def _norm(t: Tensors, name: str) -> Tensors:
    if bool((t[f"{name}.running_var"] < 0.0).any()):
        raise CheckpointError(f"{name}.running_var: has negative entries")
    return {"weight": t[name], **{key: t[f"{name}.{key}"] for key in _NORM}}


def _head(t: Tensors) -> Tensors:
    return {"weight": t["classifier"], "bias": t["classifier.bias"]}


def layouts() -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout."""
    return {"pcdeq2": flat, "pcdeq2-conv": single, "pcdeq2-multi": several}
