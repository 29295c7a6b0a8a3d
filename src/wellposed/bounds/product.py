"""The product of the Lipschitz constants of a network's blocks, and what follows for class margins from a linear map at the end.

A block's constant is that of its own theorem, which its factor names: an equilibrium layer contributes ‖U‖₂ times the constant
that its guarantee gives for the offset (for strong monotonicity Pabbaraju, Winston & Kolter, ICLR 2021, Theorem 1: ‖U‖₂/m), a
layer with a prescribed bound γ what its own inequality proves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.bound import Bound, BoundMethod
from wellposed.bounds.budget import Budget
from wellposed.bounds.factor import Factor, factors_of, product
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import NORMS, Norm
from wellposed.numerics.outward import REPRODUCIBLE, enlarged
from wellposed.numerics.verified import to_float64

_DUAL: dict[Norm, float] = {"2": 2.0, "inf": 1.0, "1": math.inf}  # the norm of a row as a map from that norm to numbers
_REASON = "product of verified block constants"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ProductBound(Bound):
    """The product of the constants of all blocks."""

    @override
    def proved_again(self, network: Network) -> ProductBound:
        fresh = product_bound(network, self.norm)
        claimed = {factor.block: factor.value for factor in self.factors}
        names = [factor.block for factor in fresh.factors]
        if [factor.block for factor in self.factors] != names or not all(
            factor.value <= claimed[factor.block] * REPRODUCIBLE for factor in fresh.factors
        ):
            raise CertificateError("factors: they are not those of the model's blocks")
        return fresh

    @classmethod
    def of(cls, factors: tuple[Factor, ...], norm: Norm, pairs: Tensor | None = None) -> ProductBound:
        """The bound that the constants of all blocks give."""
        return cls(
            method=ProductOfConstants.name,
            norm=norm,
            value=product(factors),
            reason=_REASON,
            pairs=pairs,
            factors=factors,
        )


class ProductOfConstants(BoundMethod):
    """The product of the constants of all blocks, in every norm in which all of them have one."""

    name, norms = "product", NORMS

    @override
    def bound(self, network: Network, norm: Norm, *, budget: Budget | None = None) -> ProductBound:
        return product_bound(network, norm)


def product_bound(network: Network, norm: Norm) -> ProductBound:
    """The product of the constants of a network's blocks.

    Raises:
        CertificateError: nothing is known about one of the blocks, or its weights fail its theorem.
    """
    factors, last = factors_of(network.blocks, norm), network.blocks[-1].linear_map
    several = last is not None and len(last[0]) > 1
    pairs = pair_constants(last[0], product(factors[:-1]), norm) if last is not None and several else None
    return ProductBound.of(factors, norm, pairs)


def pair_constants(head: Tensor, before: float, norm: Norm = "2") -> Tensor:
    """Lipschitz constants of the margins y_i − y_j: the norm of the row ``(e_i − e_j)ᵀ·head`` times ``before``, rounded up.

    Args:
        head: weight of the last linear layer, shape (classes, features).
        before: Lipschitz constant of everything before it.
        norm: of inputs; margins are numbers.

    Returns:
        Shape (classes, classes), float64; zero on the diagonal.
    """
    rows = torch.from_numpy(to_float64(head, "head"))
    largest = float(rows.abs().max()) or 1.0
    _, exponent = math.frexp(largest)
    scaled = torch.from_numpy(np.ldexp(rows.numpy(), -exponent))
    apart = torch.linalg.vector_norm(scaled[:, None, :] - scaled[None, :, :], _DUAL[norm], dim=2)
    # A difference, at most a square, a root and a sum of all entries.
    apart = enlarged(apart, rows.shape[1] + 4)
    # A pair of equal rows keeps a positive constant only through underflow; add what scaling can have lost.
    apart = torch.where(apart > 0, apart + rows.shape[1] * 2.0**-1000, apart)
    # The power of two comes last: numbers that become subnormal round once, which one step upwards covers.
    mantissa, power = math.frexp(before) if math.isfinite(before) else (before, 0)
    found = torch.from_numpy(np.ldexp(enlarged(apart * mantissa, 2).numpy(), exponent + power))
    found = torch.where(apart > 0, found, 0.0)
    # The product may underflow, too.
    return torch.where(apart > 0, torch.nextafter(found, torch.full_like(found, math.inf)), found)
