"""Lipschitz constants in the ℓ∞ and ℓ1 norms, for all outputs and for class margins.

Two ways, of which the tighter counts, for every margin: by `components`, and in the best diagonal metric, see `joint_norms`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.bounds.components import components
from wellposed.bounds.joint import Joint
from wellposed.bounds.joint_norms import DESCRIBED, joint_bound_in
from wellposed.errors import CertificateError
from wellposed.network import Network
from wellposed.numerics.norm import Norm


@dataclass(frozen=True, eq=False)
class Gains:
    """Constants in one norm, of inputs and outputs alike.

    Attributes:
        value: of all outputs.
        pairs: of the margins y_i − y_j, shape (classes, classes), or None for a single output.
        reason: how ``value`` was obtained.
        joint: what diagonal metrics prove, where they apply, whether or not that is the tightest.
    """

    value: float
    pairs: Tensor | None
    reason: str
    joint: Joint | None = None


@torch.no_grad()
def gains(network: Network, norm: Norm) -> Gains:
    """The tightest constants that are known in a norm, ``"inf"`` or ``"1"``.

    Raises:
        CertificateError: neither way applies to the model.
    """
    found, reasons = [], []
    try:
        known = components(network.blocks, norm)
        found.append(Gains(known.value, known.pairs, "componentwise sensitivity, block by block"))
    except CertificateError as error:
        reasons.append(str(error))
    try:
        joint = joint_bound_in(network, norm)
        found.append(Gains(joint.value, joint.pairs, DESCRIBED, joint))
    except CertificateError as error:
        reasons.append(str(error))
    if not found:
        raise CertificateError(f"norm={norm!r}: {'; '.join(reasons)}")
    best = min(found, key=lambda gain: gain.value)
    pairs = [gain.pairs for gain in found if gain.pairs is not None]
    return Gains(best.value, torch.stack(pairs).amin(0) if pairs else None, best.reason, found[-1].joint)
