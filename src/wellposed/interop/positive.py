"""Published checkpoints of positive concave networks (Gabor, Piotrowski & Cavalcante 2024).

Their W = g·V/‖V‖ by rows or output channels, a weight normalisation whose parts are clamped to be nonnegative. Files do not say
which variant they are of, nor the activation of the first one, whose offset is softplus(5v)/5 without a floor: a floor is added,
of 10⁻⁵, as without one no modulus of contraction is known. Grey images are not standardised. Nor do files hold the stride of the
first convolution, one as published, or the sizes of windows, which follow from the head's where they are others than published.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.convolutional import taps_of
from wellposed.interop.files import Tensors, names_of_linear, take
from wellposed.interop.published import Published, windows_of

FLOOR = 1e-5
ACTIVATIONS = ("tanh", "softsign", "relu6")  # of the first variant
_NORM = ("bias", "running_mean", "running_var")


def flat(t: Tensors, variant: dict[str, object]) -> Published:
    """linear1, bn1, block.deq.f.W.weight_g and .weight_v, bn2, classifier."""
    _take(t, ("linear1",), ("block",))
    scale, direction = _checked(t, "block")
    weight = scale.reshape(-1, 1) * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
    layer = {**_injection(t, "linear1", "bn1"), "constraint.V": weight.sqrt()}
    options = {"width": len(weight), "parametrisation": "square", **variant}
    family = "pcdeq2" if variant["activation"] == "sigmoid" else "pcdeq1"
    norms = (_norm(t, "bn2"),)
    return Published(family=family, options=options, layers=(layer,), linears=_head(t), norms=norms, raw_grey=True)


def single(t: Tensors, variant: dict[str, object], stride: int) -> Published:
    """conv1, bn1, block, bn2 behind a maximum over 3 × 3 pixels, averages over 8 × 8, classifier."""
    _take(t, ("conv1",), ("block",))
    options = {**_options(t, ("conv1",), ("block",)), **variant, "pool": 8, "stride": stride}
    layers, norms = (_convolution(t, "conv1", "bn1", "block"),), (_norm(t, "bn2"),)
    return _published("pcdeq-conv", options, layers, norms, t, "conv1")


def several(t: Tensors, variant: dict[str, object], stride: int) -> Published:
    """Three of these, by conv1, downsample1 and downsample2, with bn1 to bn6 and block1 to block3; averages over 4 × 4 pixels."""
    maps, blocks = ("conv1", "downsample1", "downsample2"), ("block1", "block2", "block3")
    _take(t, maps, blocks)
    layers = tuple(_convolution(t, name, f"bn{2 * k + 1}", blocks[k]) for k, name in enumerate(maps))
    further = tuple(len(t[name]) for name in maps[1:])
    options = {**_options(t, maps, blocks), **variant, "pool": 4, "stride": stride, "further": further}
    norms = tuple(_norm(t, f"bn{2 * k + 2}") for k in range(3))
    return _published("pcdeq-multi", options, layers, norms, t, maps[-1])


def _take(t: Tensors, maps: tuple[str, ...], blocks: tuple[str, ...]) -> None:
    """Refuse a file with other tensors than input maps, blocks, two normalisations around each, and the classifier."""
    norms = [f"bn{k + 1}" for k in range(2 * len(maps))]
    parts = [f"{block}.deq.f.W.{part}" for block in blocks for part in ("weight_g", "weight_v")]
    inside = [f"{norm}.{key}" for norm in norms for key in _NORM]
    take(t, *names_of_linear(*maps, "classifier"), *parts, *norms, *inside)


def _options(t: Tensors, maps: tuple[str, ...], blocks: tuple[str, ...]) -> dict[str, object]:
    sizes = [taps_of(t, name, *(f"{block}.deq.f.W.weight_v" for block in blocks)) for name in maps]
    if any(size != sizes[0] for size in sizes):
        raise CheckpointError(f"{', '.join(maps)}: have kernels of different sizes; they must have one")
    return {"width": len(t["conv1"]), "parametrisation": "projection", **sizes[0]}


def _published(
    family: str,
    options: dict[str, object],
    layers: tuple[Tensors, ...],
    norms: tuple[Tensors, ...],
    t: Tensors,
    last: str,
) -> Published:
    """A convolutional network, whose last input map has the name ``last``."""
    windows = windows_of(t["classifier"], len(t[last]))
    return Published(
        family=family, options=options, layers=layers, linears=_head(t), norms=norms, windows=windows, raw_grey=True
    )


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


def _head(t: Tensors) -> tuple[Tensors]:
    return ({"weight": t["classifier"], "bias": t["classifier.bias"]},)


def layouts(stride: int) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        stride: of the first convolution, which files do not hold.
    """
    variants: dict[str, dict[str, object]] = {"pcdeq2": {"activation": "sigmoid"}}
    variants |= {f"pcdeq1-{name}": {"activation": name, "floor": FLOOR, "sharpness": 5.0} for name in ACTIVATIONS}
    shapes: dict[str, Callable[..., Published]] = {
        "": flat,
        "-conv": partial(single, stride=stride),
        "-multi": partial(several, stride=stride),
    }
    return {
        name + ending: partial(read, variant=variant)
        for name, variant in variants.items()
        for ending, read in shapes.items()
    }
