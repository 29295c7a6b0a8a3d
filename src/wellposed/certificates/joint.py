"""A bound for an equilibrium layer together with the linear head after it, and for every class margin.

The product of their norms wastes that the head looks at the state in a few directions only, and that the layer's worst
direction is not one of them; see `wellposed.certificates.diagonal_metric` for the bound.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates.diagonal_metric import AffineBlock, affine_block
from wellposed.certificates.lipschitz import rounded_up
from wellposed.errors import CertificateError
from wellposed.layers.blocks import is_plain, moves_only
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
            (i, j), i < j, in lexicographic order; shape (1 + pairs, n).
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


def joint_bound(chain: Chain, *, largest: int | None = None) -> Joint | None:
    """The bound in the best diagonal metric; None where it does not apply.

    Args:
        chain: blocks in order.
        largest: the largest state to do it for: the work grows with its cube.
    """
    found = find(chain)
    if found is None:
        return None
    place, name, layer, head = found
    if largest is not None and layer.state_features > largest:
        return None
    block = affine_block(layer)
    if block is None:
        return None
    output = output_map(layer, head)
    whole = block.bound(output)
    if whole is None:
        return None
    rows, pairs = [whole.multipliers], None
    if head is not None and len(output) > 1:
        pairs = torch.zeros(len(output), len(output), dtype=torch.float64)
        for first, second in itertools.combinations(range(len(output)), 2):
            margin = block.bound(difference(output, first, second), whole.multipliers)
            # Both are proved: |Δ(y_i − y_j)| ≤ √2·|Δy|.
            fallback = rounded_up(whole.value * math.sqrt(2.0)) * (1.0 + 1e-15)
            value, row = (fallback, whole.multipliers) if margin is None else (margin.value, margin.multipliers)
            pairs[first, second] = pairs[second, first] = value
            rows.append(row)
    return Joint(name, place, whole.value, torch.stack(rows), pairs)


def difference(output: Tensor, first: int, second: int) -> Tensor:
    """The row difference e_iᵀC − e_jᵀC, shape (1, n); it rounds once, which the slack of `proves` covers."""
    return (output[first] - output[second])[None]


def check_joint(chain: Chain, joint: Joint) -> None:
    """Prove a joint bound again from its multipliers.

    Raises:
        CertificateError: it is about other blocks, or a value is smaller than what its multipliers prove.
    """
    found = find(chain)
    block = None if found is None else affine_block(found[2])
    if found is None or block is None or found[:2] != (joint.place, joint.block):
        raise CertificateError(f"joint: the model has no layer and head {joint.block!r}")
    _, _, layer, head = found
    output = output_map(layer, head)
    if not _proves(block, output, joint.multipliers[0], joint.value):
        raise CertificateError(f"joint: {joint.value!r} is claimed, and its multipliers do not prove it")
    if joint.pairs is None:
        return
    pairs = list(itertools.combinations(range(len(output)), 2))
    if len(joint.multipliers) != 1 + len(pairs):
        raise CertificateError(f"joint: {len(joint.multipliers)} rows of multipliers for {len(pairs)} class pairs")
    for (first, second), row in zip(pairs, joint.multipliers[1:], strict=True):
        claimed = min(float(joint.pairs[first, second]), float(joint.pairs[second, first]))
        by_whole = claimed >= math.sqrt(2.0) * joint.value
        if not by_whole and not _proves(block, difference(output, first, second), row, claimed):
            raise CertificateError(
                f"joint: {claimed!r} is claimed for classes {first} and {second}, and its multipliers do not prove it"
            )


def _proves(block: AffineBlock, output: Tensor, multipliers: Tensor, value: float) -> bool:
    fits = multipliers.shape == (output.shape[1],)
    return fits and block.proves(output, multipliers, value)
