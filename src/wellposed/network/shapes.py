"""Shapes of inputs and outputs of networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from wellposed.errors import InputError, WellposedError
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.normalize import Normalize
from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.network.branches import Branches

Chain = Iterable[tuple[str, nn.Module]]
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
        if shape[-len(taken) :] != taken or len(shape) != len(taken):
            raise InputError(f"{name}: takes inputs of shape {taken}, not {shape}")
        if block.output is not None:
            return (block.output.out_features,)
        return tuple(getattr(layer, "value_shape", layer.state_shape))
    device = next((tensor.device for tensor in (*block.parameters(), *block.buffers())), torch.device("cpu"))
    try:
        value = block(torch.zeros(2, *shape, dtype=dtype, device=device))
    except WellposedError as error:
        raise InputError(f"{name}: {error}") from error
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:  # torch's own words
        raise InputError(f"{name}: does not take inputs of shape {shape} ({str(error)[:120]})") from error
    if len(value) != 2 or value.ndim < 2:
        raise InputError(f"{name}: does not keep the samples of a batch apart, for inputs of shape {shape}")
    return tuple(value.shape[1:])


def find_shape(chain: Sequence[tuple[str, nn.Module]]) -> tuple[int, ...] | None:
    """The shape of one input, where the first blocks tell it."""
    first = next((block for _, block in chain if not isinstance(block, _KEEP)), None)
    if isinstance(first, Branches):
        return None
    return _taken(first)


def probe_shape(chain: Sequence[tuple[str, nn.Module]], dtype: torch.dtype) -> tuple[int, ...] | None:
    """A shape that inputs may have, if one is easily found: exactly what blocks ask for, or a flat or square one of that size."""
    known = find_shape(chain)
    channels = numbers = None
    for _, block in chain:
        if isinstance(block, Branches):
            block = block.parts[0]
        if isinstance(block, Normalize):
            channels = len(block.mean)
        elif isinstance(block, nn.Conv2d):
            channels = block.in_channels
            break
        else:
            taken = _taken(block)
            if taken is not None:
                numbers = taken
                break
    candidates: list[tuple[int, ...]] = [] if known is None else [known]
    if numbers is not None:
        candidates.append(numbers)
        count = math.prod(numbers)
        if channels is not None and count % channels == 0:
            side = math.isqrt(count // channels)
            candidates += [(channels, side, side), (channels, 1, count // channels)]
    elif channels is not None:
        candidates += [(channels, side, side) for side in (8, 28, 32, 16, 4)]
    for shape in candidates:
        try:
            output_shape(chain, shape, dtype)
        except WellposedError:
            continue
        return shape
    return None


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
