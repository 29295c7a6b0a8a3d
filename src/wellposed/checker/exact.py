"""Exact mode: what the proofs rest on, in rational arithmetic; nothing in it relies on how floating point rounds.

The numbers of the file and of the evidence become `Rationals`, and the same proofs run on them. A factor that proves a matrix
semidefinite is found in floating point, and taken as the rational numbers that it consists of.
"""

from typing import Any

import numpy as np

from .claim import Claim
from .complex_rationals import ComplexRationals
from .node import Node
from .proofs import Array, factor_of, nearest, require
from .rationals import Rationals, flint

# Kinds of nodes whose proofs are made of what rational numbers can do.
_PROVED = {
    "Enter", "Leave", "Reshaped", "Affine", "Normalize", "BatchNormalized", "Linear", "Activation", "GroupSort", "Sandwich",
    "SortedGroups", "EnterGraphs", "GraphEquilibrium", "NodeSum", "TierEquilibrium",
    "Residual", "SumOfTwo", "DifferenceOfTwo", "PositivePart", "ReflectedEquilibrium", "PositiveEquilibrium", "Convolution",
    "AveragePooling", "MaximumPooling", "Placed", "Circular", "FeatureCellEquilibrium", "ChannelCellEquilibrium",
    "ConvolvedEquilibrium", "PositiveConvolvedEquilibrium", "CirculatedEquilibrium", "ScaledEquilibrium",
}  # fmt: skip


def convert(nodes: list[Node], claim: Claim) -> None:
    """Make the numbers of nodes and evidence rational ones, and refuse kinds of nodes without exact proofs by name."""
    require(flint is not None, "exact mode", "needs python-flint: pip install 'wellposed[exact]'")
    missing = [node.name for node in nodes if node.kind not in _PROVED]
    require(not missing, "exact mode", f"not proved exactly, though perhaps without it: {', '.join(missing)}")
    for node in nodes:
        node.slope = Rationals.of(node.slope)
        node.numbers = {role: _rational(part) for role, part in node.numbers.items()}
    claim.convert(_rational)


def exact(values: Any) -> Any:
    """Numbers as exactly these, complex or not."""
    return ComplexRationals.of(values) if np.iscomplexobj(values) else Rationals.of(values)


def _rational(part: Array) -> Array:
    return Rationals.of(part) if part.dtype == np.float64 else part


def semidefinite(matrix: Any, error: Any, room: float) -> bool:
    """Whether a symmetric matrix minus ``error`` times the identity is proved positive semidefinite.

    For any L and s with ‖matrix − (error + s)I − LLᵀ‖ ≤ s it is; L is a factor in floating point, s about ``room``.
    """
    shift = Rationals.of(2.0 * room)
    shifted = matrix - (shift + error) * np.eye(len(matrix))
    factor = factor_of(nearest(shifted))
    if factor is None or not np.isfinite(factor).all():
        return False
    lower = Rationals.of(factor)
    return bool((np.abs(shifted - lower @ lower.T).sum(1) <= shift).all())
