"""Published checkpoints of positive concave networks (Gabor, Piotrowski & Cavalcante 2024).

Their W = g·V/‖V‖ by rows or output channels, a weight normalisation whose parts are clamped to be nonnegative. Files do not say
which variant they are of, nor the activation of the first one, whose offset is softplus(5v)/5 without a floor: a floor is added,
of 10⁻⁵, as without one no modulus of contraction is known. Grey images are not standardised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published

FLOOR = 1e-5
ACTIVATIONS = ("tanh", "softsign", "relu6")  # of the first variant
_NORM = ("bias", "running_mean", "running_var")


def flat(t: Tensors, variant: dict[str, object]) -> Published:
    """linear1, bn1, block.deq.f.W.weight_g and .weight_v, bn2, classifier."""
    scale, direction = _checked(t, "block")
    weight = scale.reshape(-1, 1) * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
    layer = {**_injection(t, "linear1", "bn1"), "constraint.V": weight.sqrt()}
    options = {"width": len(weight), "parametrisation": "square", **variant}
    family = "pcdeq2" if variant["activation"] == "sigmoid" else "pcdeq1"
    return Published(family, options, (layer,), _head(t), (_norm(t, "bn2"),), raw_grey=True)


def single(t: Tensors, variant: dict[str, object]) -> Published:
    """conv1, bn1, block, bn2 behind a maximum over 3 × 3 pixels, averages over 8 × 8, classifier."""
    options = {**_options(t), **variant, "pool": 8}
    layers, norms = (_convolution(t, "conv1", "bn1", "block"),), (_norm(t, "bn2"),)
    return Published("pcdeq-conv", options, layers, _head(t), norms, raw_grey=True)


def several(t: Tensors, variant: dict[str, object]) -> Published:
    """Three of these, by conv1, downsample1 and downsample2, with bn1 to bn6 and block1 to block3; averages over 4 × 4 pixels."""
    maps = ("conv1", "downsample1", "downsample2")
    layers = tuple(_convolution(t, name, f"bn{2 * k + 1}", f"block{k + 1}") for k, name in enumerate(maps))
    options = {**_options(t), **variant, "pool": 4, "further": tuple(len(t[name]) for name in maps[1:])}
    norms = tuple(_norm(t, f"bn{2 * k + 2}") for k in range(3))
    return Published("pcdeq-multi", options, layers, _head(t), norms, raw_grey=True)


def _options(t: Tensors) -> dict[str, object]:
    first = t["conv1"]
    return {
        "width": len(first), "parametrisation": "projection", "taps": first.shape[-1], "stride": 1,
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
    variants: dict[str, dict[str, object]] = {"pcdeq2": {"activation": "sigmoid"}}
    variants |= {f"pcdeq1-{name}": {"activation": name, "floor": FLOOR, "sharpness": 5.0} for name in ACTIVATIONS}
    shapes = {"": flat, "-conv": single, "-multi": several}
    return {
        name + ending: partial(read, variant=variant)
        for name, variant in variants.items()
        for ending, read in shapes.items()
    }
