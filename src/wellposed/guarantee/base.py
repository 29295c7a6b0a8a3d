"""The contract of a guarantee."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.guarantee.plan import Algorithms, Plan, S
from wellposed.numerics.brief import Brief
from wellposed.operators import Operator


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Brief):
    """An M-matrix A and a scale D with |Δz*| ≤ A⁻¹D|Δq| entry by entry; tensors are float64 on the CPU.

    Attributes:
        weights: v > 0 with Av > 0, shape (n,).
        scale: the diagonal of D, shape (n,).
        matrices: an upper bound of A⁻¹, A, and A with absolute values, each of shape (n, n).
    """

    weights: Tensor
    scale: Tensor
    matrices: tuple[Tensor, Tensor, Tensor]


class Guarantee(ABC):
    """Existence, uniqueness, convergence and an a-posteriori error bound for the equilibrium of one map.

    Attributes:
        theorem: name and source of the statement that the equilibrium exists, is unique and is reached.
        lipschitz_theorem: name and source of the statement behind `offset_lipschitz`.
        is_concave: whether the map is increasing and concave above `start`: then undamped Newton steps converge from one side.
        stops_by_changes: whether a splitting may take the limit of its iterates from their last changes, which proves nothing.
    """

    theorem: str
    lipschitz_theorem: str
    is_concave: bool = False
    stops_by_changes: bool = False

    def preferred(self, among: Algorithms[S]) -> S:
        """The algorithm that this guarantee serves best; Picard's iteration unless a subclass says otherwise."""
        return among.picard

    def picard_plan(self) -> Plan | None:
        """Proven contraction of z ← f(z), or None where nothing is proven."""
        return None

    def averaged_plan(self, damping: float | None = None) -> Plan | None:
        """Damping t and proven contraction of z ← (1 − t)z + t·f(z), or None where nothing is proven.

        Averages of a contraction contract, in every norm.

        Args:
            damping: t; None for the best one.
        """
        plan = self.picard_plan()
        if plan is None:
            return None
        damping = 1.0 if damping is None else damping
        return Plan(damping, 1.0 - damping + damping * plan.factor, plan.distortion)

    def forward_backward_plan(self, step: float | None = None) -> Plan | None:
        """Step α and proven contraction of z ← J_α((1 − α)z + α(Wz + q)), or None where nothing is proven.

        Args:
            step: α; None for the best one.
        """
        return None

    def reflected_plan(self, step: float | None = None, relaxation: float = 1.0) -> Plan | None:
        """Step α and proven contraction of u ← (1 − t)u + t·(2R − I)(2J_α − I)u, or None where nothing is proven.

        J_α is the resolvent of the activation, R the one of I − W: Peaceman–Rachford for t = 1, Douglas–Rachford for t = ½.

        Args:
            step: α; None for the best one.
            relaxation: t, in (0, 1].
        """
        return None

    def suggested_step(self) -> float | None:
        """A step at which the reflected iterations run well in practice, and z ← z − α((I − W)z − q) does not amplify.

        None where the best step that is proved is as good.
        """
        return None

    def comparison(self) -> Comparison | None:
        """An M-matrix that bounds how far single entries of the equilibrium move with the offset; None where none is known."""
        return None

    def estimated(self) -> Guarantee:
        """What a solve without evidence stops by: constants that hold by construction, or estimates, which prove nothing.

        By default this promise itself.
        """
        return self

    @abstractmethod
    def error_bound(self, point: Tensor, image: Tensor) -> Tensor:
        """Bound on the Euclidean distance from ``image`` = f(``point``) to the equilibrium, one value per sample.

        It holds in exact arithmetic, and for `Contraction` up to the evaluation error stated there.

        Args:
            point: shape (batch, *state).
            image: f(point), same shape.
        """

    @abstractmethod
    def defect_bound(self, defect: Tensor, size: Tensor) -> Tensor:
        """Bound on ‖z − z*‖₂, one value per sample, for a z that solves ``z = σ(Wz + q + defect)`` exactly.

        Args:
            defect: shape (batch, *state).
            size: at least the Euclidean norm of each sample's defect, shape (batch,); larger if ``defect`` is inexact.
        """

    def size_bound(self, like: Tensor, size: Tensor) -> Tensor:
        """`defect_bound` where nothing is known of a defect but its size.

        Args:
            like: a tensor of the shape, dtype and device of the defect.
            size: at least the Euclidean norm of each sample's defect, shape (batch,).
        """
        return self.defect_bound(torch.zeros_like(like), size)

    def step_bound(self, step: Tensor, size: Tensor) -> Tensor | None:
        """The error of an image with a defect, by the sizes of these alone; None where too little is known by them.

        Args:
            step: at least the Euclidean norms of image − point, shape (batch,).
            size: at least those of the defects, shape (batch,).
        """
        return None

    def size_factor(self, like: Tensor) -> float:
        """About how many times a size `size_bound` is: for plans, not for proofs.

        Args:
            like: see `size_bound`.
        """
        return float(self.size_bound(like[:1], torch.ones(1, dtype=like.dtype, device=like.device)))

    def rounding(self, operator: Operator, state_norm: Tensor, offset_norm: Tensor) -> Tensor:
        """How much larger the size of a defect is, for `defect_bound`, for the rounding of W z + q; one value per sample.

        By default that rounding in the Euclidean norm.

        Args:
            operator: W, as it is evaluated.
            state_norm: Euclidean norms of z, shape (batch,).
            offset_norm: those of q.
        """
        return operator.rounding(state_norm, offset_norm)

    @abstractmethod
    def on(self, operator: Operator) -> Guarantee:
        """This promise for the transpose, another precision or another copy of the operator that it was made for."""

    def embedded(self, operator: Operator) -> Guarantee | None:
        """What is promised of [[D + P, −N], [−N, D + P]], where W = D + P − N with D its diagonal and P, N ≥ 0.

        None where nothing is.

        Args:
            operator: that map.
        """
        return None

    @abstractmethod
    def offset_lipschitz(self) -> float:
        """Euclidean Lipschitz constant of the equilibrium as a function of the offset q, proved for the stored W."""

    def diagonal_metric(self) -> Tensor | None:
        """A Λ for which Λ(I − W) has a positive definite symmetric part, or None where none is known.

        Returns:
            Its diagonal, float64, shape (n,).
        """
        return None

    def start(self, like: Tensor) -> Tensor | None:
        """Where iterations should begin, shape of ``like``; None for zero."""
        return None

    def project(self, state: Tensor) -> Tensor:
        """The nearest point of the domain in which the equilibrium is unique, for algorithms whose iterates may leave it."""
        return state

    def linearised(self) -> Guarantee:
        """What is promised of the equation linearised at an equilibrium; by default what is promised of the equation."""
        return self

    def transposed(self) -> Guarantee:
        """What is promised of the adjoint of the linearised equation; by default what is promised of the equation."""
        return self
