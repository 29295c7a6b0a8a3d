"""A bound for an equilibrium layer together with the linear head after it, and for every class margin.

The product of their norms wastes that the head looks at the state in a few directions only, and that the layer's worst
direction is not one of them; see `wellposed.certificates.diagonal_metric` for the bound, and for circular convolutions
`wellposed.certificates.frequency_metric`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates.diagonal_metric import AffineBlock, affine_block
from wellposed.certificates.frequency_metric import CircularBlock, circular_block
from wellposed.certificates.lipschitz import rounded_up
from wellposed.errors import CertificateError
from wellposed.layers.blocks import is_plain, moves_only
from wellposed.layers.conv_equilibrium import ConvEquilibrium
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.implicit_layer import ImplicitLayer
from wellposed.layers.orthogonal_linear import OrthogonalLinear

Chain = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Joint:
    """What was proved of one layer and its head.

    Attributes:
        block: names of the two.
        place: of the layer among the blocks.
        value: Lipschitz constant from the layer's input to the logits.
        multipliers: the diagonal metrics that prove it, float64: the first row for ``value``, then one row for each class pair
            (i, j), i < j, in lexicographic order; shape (1 + pairs, n), for convolutions with the number of channels for n.
        pairs: constants of the margins y_i − y_j from the layer's input, shape (classes, classes), or None without a head.
    """

    block: str
    place: int
    value: float
    multipliers: Tensor
    pairs: Tensor | None


def find(chain: Chain) -> tuple[int, str, Equilibrium, Any] | None:
    """Place and names of an equilibrium layer at the end of a chain, the layer, and its linear head, or None if it has none.

    The head has the attributes of `torch.nn.Linear`.
    """
    ending = [place for place, (_, block) in enumerate(chain) if isinstance(block, ImplicitLayer)]
    if not ending:
        return None
    place = ending[-1]
    name, layer = chain[place]
    if (
        not isinstance(layer, Equilibrium)
        or type(layer).forward is not ImplicitLayer.forward
        or layer.direct is not None
    ):
        return None
    rest = [(label, block) for label, block in chain[place + 1 :] if not moves_only(block)]
    if layer.output is not None:
        return None if rest else (place, name, layer, layer.output)
    if not rest:
        return place, name, layer, None
    label, head = rest[0]
    if len(rest) > 1 or not (is_plain(head, nn.Linear) or is_plain(head, OrthogonalLinear)):
        return None
    return place, f"{name} + {label}", layer, head


def output_map(layer: Equilibrium, head: Any) -> Tensor:
    """The matrix of the head, or the identity: shape (outputs, n), float64."""
    if head is None:
        return torch.eye(layer.state_features, dtype=torch.float64)
    return head.weight.detach().double().cpu()


def _parts(chain: Chain, largest: int | None = None) -> _Parts | None:
    """What joint bounds are about, or None where none applies.

    Args:
        chain: blocks in order.
        largest: the largest state to do it for: the work grows with its cube.
    """
    found = find(chain)
    if found is not None:
        place, name, layer, head = found
        if largest is None or layer.state_features <= largest:
            block = affine_block(layer)
            if block is not None:
                return _Parts(place, name, block, output_map(layer, head), head is not None)
    pooled = find_pooled(chain)
    if pooled is None:
        return None
    place, name, image_layer, output = pooled
    channels, height, width = image_layer.state_shape
    if largest is not None and channels**3 * height * width > largest**3 // 2:  # as much work
        return None
    circular = circular_block(image_layer)
    return None if circular is None else _Parts(place, name, circular, output, True)


@dataclass(frozen=True)
class _Parts:
    place: int
    name: str
    block: AffineBlock | CircularBlock
    output: Tensor
    has_head: bool


def find_pooled(chain: Chain) -> tuple[int, str, ConvEquilibrium, Tensor] | None:
    """Place and names of a layer on images with averages over windows, if any, and a linear head after it, and their matrix."""
    places = [place for place, (_, block) in enumerate(chain) if isinstance(block, ImplicitLayer)]
    if not places:
        return None
    place = places[-1]
    name, layer = chain[place]
    if not isinstance(layer, ConvEquilibrium) or type(layer).forward is not ImplicitLayer.forward:
        return None
    if layer.value_shape != layer.state_shape:  # only some tiers are seen
        return None
    rest = [(label, block) for label, block in chain[place + 1 :] if not moves_only(block)]
    pooling = rest[0][1] if len(rest) == 2 else None
    label, head = rest[-1] if rest else ("", None)
    if len(rest) not in (1, 2) or head is None or not is_plain(head, nn.Linear):
        return None
    channels, *image = layer.state_shape
    rows = head.weight.detach().double().cpu()
    if pooling is None:
        return None if rows.shape[1] != layer.state_features else (place, f"{name} + {label}", layer, rows)
    if not is_plain(pooling, nn.AvgPool2d) or not _disjoint(pooling):
        return None
    window = int(pooling.kernel_size[0] if isinstance(pooling.kernel_size, tuple) else pooling.kernel_size)
    shape = [extent // window for extent in image]
    if rows.shape[1] != channels * shape[0] * shape[1]:
        return None
    spread = rows.reshape(len(rows), channels, *shape) / window**2
    spread = spread.repeat_interleave(window, 2).repeat_interleave(window, 3)
    spread = nn.functional.pad(spread, (0, image[1] - spread.shape[3], 0, image[0] - spread.shape[2]))
    return place, f"{name} + {rest[0][0]} + {label}", layer, spread.flatten(1)


def _disjoint(pooling: nn.AvgPool2d) -> bool:
    """Whether it averages over disjoint square windows."""
    kernel, stride, padding = (
        (part, part) if isinstance(part, int) else tuple(part)
        for part in (pooling.kernel_size, pooling.stride, pooling.padding)
    )
    plain = not pooling.ceil_mode and pooling.divisor_override is None
    return plain and kernel == stride and kernel[0] == kernel[1] and padding == (0, 0)


def joint_bound(chain: Chain, *, largest: int | None = None) -> Joint | None:
    """The bound in the best diagonal metric; None where it does not apply.

    Args:
        chain: blocks in order.
        largest: the largest state to do it for, or as much work with images: it grows with the cube of the state or channels.
    """
    parts = _parts(chain, largest)
    if parts is None:
        return None
    block, output = parts.block, parts.output
    whole = block.bound(output)
    if whole is None:
        return None
    rows, pairs = [whole.multipliers], None
    if parts.has_head and len(output) > 1:
        pairs = torch.zeros(len(output), len(output), dtype=torch.float64)
        for first, second in itertools.combinations(range(len(output)), 2):
            margin = block.bound(difference(output, first, second), whole.multipliers)
            # Both are proved: |Δ(y_i − y_j)| ≤ √2·|Δy|.
            fallback = rounded_up(whole.value * math.sqrt(2.0)) * (1.0 + 1e-15)
            value, row = (fallback, whole.multipliers) if margin is None else (margin.value, margin.multipliers)
            pairs[first, second] = pairs[second, first] = value
            rows.append(row)
    return Joint(parts.name, parts.place, whole.value, torch.stack(rows), pairs)


def difference(output: Tensor, first: int, second: int) -> Tensor:
    """The row difference e_iᵀC − e_jᵀC, shape (1, n); it rounds once, which the slack of `proves` covers."""
    return (output[first] - output[second])[None]


def check_joint(chain: Chain, joint: Joint) -> None:
    """Prove a joint bound again from its multipliers.

    Raises:
        CertificateError: it is about other blocks, or a value is smaller than what its multipliers prove.
    """
    parts = _parts(chain)
    if parts is None or (parts.place, parts.name) != (joint.place, joint.block):
        raise CertificateError(f"joint: the model has no layer and head {joint.block!r}")
    block, output = parts.block, parts.output
    if not block.proves(output, joint.multipliers[0], joint.value):
        raise CertificateError(f"joint: {joint.value!r} is claimed, and its multipliers do not prove it")
    if joint.pairs is None:
        return
    pairs = list(itertools.combinations(range(len(output)), 2))
    if len(joint.multipliers) != 1 + len(pairs):
        raise CertificateError(f"joint: {len(joint.multipliers)} rows of multipliers for {len(pairs)} class pairs")
    for (first, second), row in zip(pairs, joint.multipliers[1:], strict=True):
        claimed = min(float(joint.pairs[first, second]), float(joint.pairs[second, first]))
        by_whole = claimed >= math.sqrt(2.0) * joint.value
        if not by_whole and not block.proves(difference(output, first, second), row, claimed):
            raise CertificateError(
                f"joint: {claimed!r} is claimed for classes {first} and {second}, and its multipliers do not prove it"
            )
