"""Is the equilibrium of given weights unique for every input? Certified, refuted, or unknown.

For slopes in [0, 1] it is, if ``ΛW`` has a symmetric part below Λ for some diagonal Λ > 0 (Revay, Wang & Manchester 2020,
Theorem 1). For ReLU it is not, if det(I − DW) ≤ 0 for some D of zeros and ones: as det(I) = 1, some D' between has a null vector
v = D'Wv, and along it lie two equilibria of one offset. Both verdicts are proved for the stored numbers, whatever their scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wellposed.activations import ReLU
from wellposed.certificates.refutation import TwoEquilibria as TwoEquilibria
from wellposed.certificates.refutation import refuted
from wellposed.errors import InputError
from wellposed.guarantee.metric_search import find_metric
from wellposed.network import Network
from wellposed.network.single import single_layer

_REACHED = 1e-9  # relative, by which U x + b may miss an offset that it is to reach


@dataclass(frozen=True, eq=False, repr=False)
class WellPosedness:
    """What is known of one W.

    Attributes:
        outcome: ``"certified"``, ``"refuted"`` or ``"unknown"``.
        metric: the diagonal of Λ that certifies it, float64, shape (n,).
        witness: two equilibria that refute it; None where the proof is a determinant alone (see `refutation`).
    """

    outcome: str
    metric: Tensor | None = None
    witness: TwoEquilibria | None = None

    def __repr__(self) -> str:
        known = "" if self.witness is None else f", {self.witness!r}"
        return f"WellPosedness({self.outcome}{', in a diagonal metric' if self.metric is not None else known})"


def well_posedness(layer: nn.Module | Network) -> WellPosedness:
    """Decide, if possible, whether a layer on flat inputs has exactly one equilibrium for every input.

    Args:
        layer: any affine layer, also one without a guarantee, or its network.

    Raises:
        CertificateError: the layer cannot be materialised.
        InputError: its state map is no matrix, or its activation has slopes outside of [0, 1].

    Example:
        >>> wp.well_posedness(wp.MonDEQ(6, 5)).outcome
        'certified'
    """
    given = single_layer("layer", layer)
    with torch.no_grad():
        operator, guarantee = given.materialise()
        stored = operator.matrix()
        if stored is None:
            raise InputError(f"layer={type(given).__name__}: needs a state map that is a matrix")
        given.activation.require_monotone("this theorem")
        matrix = stored.detach().double().cpu()
        metric = find_metric(matrix, None if guarantee is None else guarantee.diagonal_metric())
        if metric is not None:
            return WellPosedness("certified", metric=metric)
        if given.activation != ReLU():
            return WellPosedness("unknown")
        proved, witness = refuted(matrix)
        if witness is None:
            return WellPosedness("refuted" if proved else "unknown")
        driven = given.injection.matrix()
        if driven is None:
            return WellPosedness("refuted", witness=witness)
        driven = driven.cpu()
        wanted = witness.offset - driven.bias
        x = torch.linalg.lstsq(driven.weight, wanted[:, None]).solution[:, 0]
        scale = float(wanted.norm()) + float(driven.bias.norm())
        reached = float((driven.weight @ x - wanted).norm()) <= _REACHED * scale
        return WellPosedness("refuted", witness=replace(witness, input=x if reached else None))
