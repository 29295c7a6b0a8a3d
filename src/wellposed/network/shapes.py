"""Shapes of inputs and outputs of networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import InputError, WellposedError
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.network.branches import Branches

Chain = Iterable[tuple[str, nn.Module]]
_TRIED = (2, 3)  # samples; what mixes them up cannot hide from both
_KEEP = (nn.Identity, nn.Dropout, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardtanh)


def output_shape(chain: Chain, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    """Shape of a chain's output, both without the batch dimension.

    Equilibrium layers say what shapes they take; other blocks are tried on zeros.

    Args:
        chain: the blocks.
        shape: of one input.
        dtype: of inputs.

    Raises:
        InputError: inputs of that shape do not fit a block, or a block does not keep samples apart.
    """
    for name, block in chain:
        shape = _through(name, block, shape, dtype)
    return shape


def _through(name: str, block: Any, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    if isinstance(block, Branches):

        def summed(signs: tuple[float, ...], shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
            if len(set(shapes)) > 1:
                raise InputError(f"{name}: sums up branches of shapes {sorted(set(shapes))}")
            return shapes[0]

        return block.fold(shape, lambda inner, part, given: _through(inner, part, given, dtype), summed)
    if isinstance(block, ImplicitLayer):
        layer: Any = block
        taken = tuple(layer.input_shape)
        if shape != taken:
            raise InputError(f"{name}: takes inputs of shape {taken}, not {shape}")
        return tuple(layer.value_shape)
    device = next((tensor.device for tensor in (*block.parameters(), *block.buffers())), torch.device("cpu"))
    shapes = set()
    for count in _TRIED:
        try:
            value = block(torch.zeros(count, *shape, dtype=dtype, device=device))
        except WellposedError as error:
            raise InputError(f"{name}: {error}") from error
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:  # torch's own words
            raise InputError(f"{name}: does not take inputs of shape {shape} ({str(error)[:120]})") from error
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != count:
            raise InputError(f"{name}: does not keep the samples of a batch apart, for inputs of shape {shape}")
        shapes.add(tuple(value.shape[1:]))
    if len(shapes) > 1:
        raise InputError(f"{name}: gives outputs of another shape for another number of samples")
    return shapes.pop()


def find_shape(chain: Sequence[tuple[str, nn.Module]]) -> tuple[int, ...] | None:
    """The shape of one input, where the first block that is more than elementwise takes no other."""
    first: Any = next((block for _, block in chain if not isinstance(block, _KEEP)), None)
    return _taken(first) if isinstance(first, ImplicitLayer | OrthogonalConv2d) else None


def probe_shapes(
    chain: Sequence[tuple[str, nn.Module]], model: nn.Module, dtype: torch.dtype
) -> Iterator[tuple[int, ...]]:
    """Shapes that inputs may have, likely ones first, if the network's blocks leave it open.

    Args:
        chain: the blocks.
        model: the module that they come from, whose parts show what sizes it is about.
        dtype: of inputs.
    """
    numbers: list[tuple[int, ...]] = []
    channels: list[int] = []
    for part in (*(block for _, block in chain), *model.modules()):
        if isinstance(part, Normalize):
            channels.append(len(part.mean))
        elif isinstance(part, nn.Conv2d):
            channels.append(part.in_channels)
        else:
            taken = _taken(part)
            numbers += [] if taken is None else [taken]
    sides = [math.prod(taken) for taken in numbers]
    images = [
        (count, side, side)
        for count in (*channels, 3, 1)
        for side in (*(math.isqrt(size // count) for size in sides), 8, 28, 32)
    ]
    flat = [(count, 1, math.prod(n) // count) for count in channels for n in numbers]
    for shape in dict.fromkeys([*(numbers if not channels else []), *images, *flat, *numbers, (4,), (6,)]):
        if math.prod(shape) > 0:
            with contextlib.suppress(WellposedError):
                output_shape(chain, shape, dtype)
                yield shape


def _taken(block: Any) -> tuple[int, ...] | None:
    """The shape of inputs that a block takes, if it takes only one."""
    layer = block
    if isinstance(block, ImplicitLayer):
        return tuple(layer.input_shape)
    if isinstance(block, OrthogonalConv2d):
        return (block.in_channels, *block.image)
    if isinstance(block, nn.Linear):
        return (block.weight.shape[1],)
    if isinstance(block, ExplicitBlock | OrthogonalLinear):
        return (block.in_features,)
    return None
