"""The product of the Lipschitz constants of a network's blocks, and what follows for class margins from a linear head.

An equilibrium layer contributes ‖U‖₂ times the Lipschitz constant that its guarantee gives for the offset; for strong
monotonicity that is Pabbaraju, Winston & Kolter (ICLR 2021), Theorem 1: ‖U‖₂/m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.network.kinds import Block
from wellposed.numerics.outward import next_up
from wellposed.numerics.verified import to_float64


@dataclass(frozen=True)
class Factor:
    """One block of a composition.

    Attributes:
        block: the block's name in the model.
        value: upper bound of its Euclidean Lipschitz constant.
        reason: the theorem or norm that gives it.
    """

    block: str
    value: float
    reason: str


def factor_of(block: Block) -> Factor:
    """Upper bound of one block's Euclidean Lipschitz constant.

    Raises:
        CertificateError: nothing is known about such a block, or its weights fail its theorem.
    """
    return Factor(block.name, *block.constant("2"))


def product(factors: Sequence[Factor]) -> float:
    """The product of the factors, rounded up."""
    value = 1.0
    for factor in factors:
        value = next_up(value * factor.value)
    return value


def pair_constants(head: Tensor, before: float) -> Tensor:
    """Lipschitz constants of the margins y_i − y_j: ``‖(e_i − e_j)ᵀ·head‖₂ · before``, rounded up.

    Args:
        head: weight of the last linear layer, shape (classes, features).
        before: Lipschitz constant of everything before it.

    Returns:
        Shape (classes, classes), float64; zero on the diagonal.
    """
    rows = torch.from_numpy(to_float64(head, "head"))
    largest = float(rows.abs().max()) or 1.0
    _, exponent = math.frexp(largest)
    scaled = torch.from_numpy(np.ldexp(rows.numpy(), -exponent))
    difference = (scaled[:, None, :] - scaled[None, :, :]).norm(dim=2)
    difference = difference * (1.0 + (rows.shape[1] + 8) * 2.0**-52)
    # A pair of equal rows keeps a positive constant only through underflow; add what scaling can have lost.
    difference = torch.where(difference > 0, difference + rows.shape[1] * 2.0**-1000, difference)
    # The power of two comes last: numbers that become subnormal round once, which one step upwards covers.
    mantissa, power = math.frexp(before) if math.isfinite(before) else (before, 0)
    found = torch.from_numpy(np.ldexp((difference * mantissa * (1.0 + 2.0**-50)).numpy(), exponent + power))
    found = torch.where(difference > 0, found, 0.0)
    # The product may underflow, too.
    return torch.where(difference > 0, torch.nextafter(found, torch.full_like(found, math.inf)), found)
