"""Shapes of inputs and outputs of networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from wellposed.errors import WellposedError
from wellposed.network.kinds.block import Block, Shape, block_of


def output_shape(blocks: Iterable[Block], shape: Shape, dtype: torch.dtype) -> Shape:
    """Shape of a chain's output, both without the batch dimension.

    Args:
        blocks: in order.
        shape: of one input.
        dtype: of inputs.

    Raises:
        InputError: inputs of that shape do not fit a block, or a block does not keep samples apart.
    """
    for block in blocks:
        shape = block.output_shape(shape, dtype)
    return shape


def find_shape(blocks: Sequence[Block]) -> Shape | None:
    """The shape of one input, where the first block that is more than elementwise takes no other."""
    first = next((block for block in blocks if not block.elementwise), None)
    return None if first is None else first.input_shape


def probe_shapes(blocks: Sequence[Block], model: nn.Module, dtype: torch.dtype) -> Iterator[Shape]:
    """Shapes that inputs may have, likely ones first, if the network's blocks leave it open.

    Args:
        blocks: in order.
        model: the module that they come from, whose parts show what sizes it is about.
        dtype: of inputs.
    """
    parts = [*blocks, *(block_of("", module) for module in model.modules())]
    channels = [part.channels for part in parts if part.channels is not None]
    numbers = [part.likely_shape for part in parts if part.channels is None and part.likely_shape is not None]
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
                output_shape(blocks, shape, dtype)
                yield shape
