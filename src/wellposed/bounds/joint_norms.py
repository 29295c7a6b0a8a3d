"""The joint bound of a layer and its head in the ℓ∞ and ℓ1 norms, of inputs and outputs alike, and of every class margin.

From the norm of the inputs to the Euclidean one by `ellipsoids` for ℓ∞, and by `column_metric` for ℓ1; single outputs and margins
are numbers, on which all norms agree.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from wellposed.bounds.affine_network import affine_network
from wellposed.bounds.from_l1 import ColumnMetricProblem
from wellposed.bounds.from_linf import EllipsoidBound, EllipsoidMetricProblem
from wellposed.bounds.joint import Joint, difference
from wellposed.bounds.tail import tail_of
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import Norm

_UP = 1.0 + 1e-12  # covers a few roundings
DESCRIBED = "best diagonal metric; for ℓ∞ by ellipsoids around the unit ball, for ℓ1 by single inputs"


@torch.no_grad()
def joint_bound_in(model: Network, norm: Norm) -> Joint:
    """Constants of the outputs and of class margins, with the metrics that prove them.

    The first rows of multipliers are those of single outputs for ``"inf"``, whose largest constant is that of all, and one row
    for all outputs for ``"1"``; then come class pairs.

    Args:
        model: see `affine_network`; with any activation of slopes in [0, 1].
        norm: ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: the model is of another kind, or no metric was found.
    """
    network, tail = affine_network(model, relu_only=False), tail_of(model.blocks)
    assert tail is not None
    output = network.output
    kind = EllipsoidMetricProblem if norm == "inf" else ColumnMetricProblem
    block = kind(network.matrix, network.weight, network.metric)
    wholes = output.split(1) if norm == "inf" else (output,)
    singles = [block.bound(rows) for rows in wholes]
    largest = max((found for found in singles if found is not None), key=lambda found: found.value, default=None)
    failed = any(found is None and bool(rows.any()) for found, rows in zip(singles, wholes, strict=True))
    if largest is None or failed:
        raise CertificateError("model: no diagonal metric was found")
    # What proves a constant for some rows proves it for zeros.
    proved = [largest if found is None else found for found in singles]
    # Of two outputs together: |Δ(y_i − y_j)| ≤ |Δy_i| + |Δy_j| ≤ √2‖Δy‖₂.
    fallback = replace(largest, value=largest.value * (2.0 if norm == "inf" else math.sqrt(2.0)) * _UP)
    places = list(itertools.combinations(range(len(output) if tail.has_head else 1), 2))
    margins = [block.bound(difference(output, i, j)) or fallback for i, j in places]
    pairs: Tensor | None = None
    if places:
        pairs = torch.zeros(len(output), len(output), dtype=torch.float64)
        for (i, j), found in zip(places, margins, strict=True):
            pairs[i, j] = pairs[j, i] = found.value * _UP
    proved += margins
    shares = [found.shares for found in proved if isinstance(found, EllipsoidBound)]
    # ‖Δy‖₁ ≤ √k‖Δy‖₂.
    value = largest.value * (math.sqrt(len(output)) if norm == "1" else 1.0) * _UP
    multipliers = torch.stack([found.multipliers for found in proved])
    return Joint(tail.name, tail.place, value, multipliers, pairs, torch.stack(shares) if shares else None)
