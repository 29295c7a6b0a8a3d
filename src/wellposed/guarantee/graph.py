"""Maps ``X ↦ σ(A X Wᵀ + B)`` on graphs, with |σ(a) − σ(b)| ≤ |a − b|: contraction in one of three norms.

With the difference e of two states and the difference d of two offsets, all norms per graph:

- Frobenius: ‖e‖ ≤ ‖W‖₂‖A‖₂‖e‖ + ‖d‖, for every 1-Lipschitz σ, GroupSort included;
- rows: with e_v = max over features at node v, e ≤ ‖W‖_∞|A|e + d when σ acts coordinate by coordinate; with ‖W‖_∞‖A‖₂ < 1
  this bounds ‖e‖₂;
- Perron–Frobenius (Gu et al. 2020): where ‖W‖_∞·λ_pf(|A|) < 1, some v > 0 has g = v − ‖W‖_∞|A|v > 0, and the same
  inequality gives e ≤ v·max(d/g).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.errors import GuaranteeError
from wellposed.guarantee.base import Guarantee
from wellposed.guarantee.plan import Plan
from wellposed.guarantee.typical import TypicalContraction
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import enlarged, enlarged_norm, reduced
from wellposed.operators import Operator
from wellposed.operators.graph_group import GraphGroup


class GraphContraction(Guarantee):
    """Existence, uniqueness and error bounds for the graphs of one group.

    Args:
        group: graphs of like size, with their A.
        spectral_norm: upper bound of ‖W‖₂.
        row_norm: upper bound of ‖W‖_∞, the largest absolute row sum; None where σ mixes features.
        adjoint: whether this is about the adjoint equation, which has the transposes of both.

    Raises:
        GuaranteeError: no norm makes every graph's map a contraction.
    """

    theorem = "contraction per graph: ‖W‖₂‖A‖₂ < 1, or ‖W‖_∞·λ_pf(|A|) < 1 (Gu et al. 2020)"
    lipschitz_theorem = "Banach fixed-point theorem per graph"

    def __init__(
        self, group: GraphGroup, spectral_norm: float, row_norm: float | None, *, adjoint: bool = False
    ) -> None:
        self.group, self.spectral_norm, self.row_norm, self._adjoint = group, spectral_norm, row_norm, adjoint
        if not bool((self._factors < 1.0).all()):
            worst = int(self.group.members[int(self._factors.argmax())])
            raise GuaranteeError(
                f"graph {worst}: its adjacency is too large for these weights (factor {float(self._factors.max()):.6g}); use "
                "normalisation='symmetric' or 'spectral', or a smaller kappa"
            )

    @cached_property
    def _dominating(self) -> tuple[Tensor, Tensor]:
        assert self.row_norm is not None
        return self.group.dominating(self.row_norm, transposed=self._adjoint)

    @cached_property
    def _factors(self) -> Tensor:
        """The least contraction factor of each graph, shape (graphs,)."""
        factor = enlarged(self.spectral_norm * self.group.norm, 1)
        if self.row_norm is None or bool((factor < 1.0).all()):
            return factor
        factor = torch.minimum(factor, enlarged(self.row_norm * self.group.norm, 1))
        if not bool((factor < 1.0).all()):
            vector, gap = self._dominating
            factor = torch.minimum(factor, 1.0 - reduced((gap / vector).amin(1), 2))
        return factor

    @override
    def picard_plan(self) -> Plan:
        """The factor of the slowest graph in its own norm."""
        return Plan(1.0, float(self._factors.max()) if self._factors.numel() else 0.0)

    def _resolved(self, defect: Tensor, extra: Tensor) -> Tensor:
        """Bound on ‖e‖_F for every e with |e| ≤ |A||e||W|ᵀ + |defect| + something of Frobenius norm ``extra``."""
        entries = defect[0].numel()
        size = enlarged_norm(euclidean(defect) + extra, entries + 1)
        copies = len(defect) // len(self.group.norm)  # under vmap, several states for each graph
        norm = self.group.norm.repeat(copies)
        factor = enlarged(self.spectral_norm * norm, 1)
        bound = torch.where(factor < 1.0, size / (1.0 - factor), torch.inf)
        if self.row_norm is None:
            return enlarged(bound, 2)
        width = defect.shape[-1] ** 0.5
        # Per node the largest entry; for the adjoint, whose norm is dual to that, their sum.
        nodes = defect.abs().double().sum(-1) if self._adjoint else defect.abs().double().amax(-1)
        back = 1.0 if self._adjoint else width  # from per-node numbers to the Frobenius norm
        spread = width if self._adjoint else 1.0  # and the other way, for what is known by its Frobenius norm only
        factor = enlarged(self.row_norm * norm, 1)
        rows = back * (euclidean(nodes) + spread * extra) / (1.0 - factor)
        bound = torch.minimum(bound, torch.where(factor < 1.0, rows, torch.inf))
        if not torch._C._functorch.is_functorch_wrapped_tensor(bound) and bool(torch.isfinite(bound).all()):
            return enlarged(bound, entries + 8)  # sums over features, norms over nodes, and a few more
        vector, gap = (part.repeat(copies, 1) for part in self._dominating)
        largest = ((nodes + spread * extra[:, None]) / gap).amax(1)
        weighted = torch.where((gap > 0.0).all(1), back * euclidean(vector) * largest, torch.inf)
        return enlarged(torch.minimum(bound, weighted), entries + 8)

    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """A bound of the error of ``point``: the error of its image is below it, up to the rounding of one evaluation."""
        eps = torch.finfo(image.dtype).eps
        terms = 16.0 + image[0].numel() ** 0.5  # of one evaluation, and of these norms
        rounding = terms * eps * torch.maximum(euclidean(image), euclidean(point))
        bound = self._resolved(image - point, rounding)
        factor = enlarged(self.spectral_norm * self.group.norm, 1).repeat(len(bound) // len(self.group.norm))
        # In the Frobenius norm the image is closer than the point by the factor.
        return torch.where(factor < 1.0, torch.minimum(bound, factor * bound + rounding), bound)

    @override
    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        return self._resolved(torch.zeros_like(defect), size)

    def offset_lipschitz(self) -> float:
        """Frobenius norm to Frobenius norm, for the slowest graph."""
        factor = enlarged(float((self.spectral_norm * self.group.norm).max()), 1)
        if factor < 1.0:
            return enlarged(1.0 / (1.0 - factor), 2)
        raise GuaranteeError(
            "the map contracts in a weighted maximum norm only: no Frobenius constant free of graph sizes"
        )

    @override
    def estimated(self) -> Guarantee:
        factors = self._factors
        if self.row_norm is not None:  # the least in any norm, which changes shrink by in the end
            factors = torch.minimum(factors, self.row_norm * self.group.norm)
        return TypicalContraction(self, factors)

    @override
    def on(self, operator: Operator) -> Guarantee:
        return self

    @override
    def transposed(self) -> Guarantee:
        return GraphContraction(self.group, self.spectral_norm, self.row_norm, adjoint=not self._adjoint)
