"""Proofs that I − M(W) is an M-matrix, where M(W) keeps W's diagonal and takes absolute values off it.

With slopes in [0, 1], a change δ of the offset of z = σ(Wz + q) moves the equilibrium by at most G|δ| in every component,
``G = (I − M(W))⁻¹ ≥ 0``: coordinate i of ``dz = E(W dz + δ)`` gives (1 − e_i W_ii)|dz_i| ≤ e_i(Σ_j≠i |W_ij||dz_j| + |δ_i|), and
e/(1 − e·W_ii) increases in e.

With slopes in [a, b], of any sign, the argument needs 1 − eW_ii > 0 for both ends e, and has ``G = (diag(g) − |W_off|)⁻¹`` with
g_i = min over both ends of (1 − eW_ii)/|e|.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import GuaranteeError
from wellposed.numerics.brief import Brief
from wellposed.numerics.euclidean import underflow
from wellposed.numerics.outward import error_of, next_up, rounding_constant
from wellposed.numerics.verified import to_float64


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Majorant(Brief):
    """What was proved about one W; tensors are float64, on the CPU.

    Attributes:
        sensitivity: an upper bound of G in every entry, shape (n, n).
        weights: v > 0 with (I − M(W))v > 0: the weights of the norms max |z_i|/v_i below; close to the Perron vector.
        log_norm: upper bound of μ, the log norm of W in that norm.
        sloped_log_norm: upper bound, below one, of the log norm of EW in that norm, for every diagonal E of slopes.
        jacobi: upper bound, in that norm, of the contraction when every coordinate's own equation is solved exactly; for
            slopes in [0, 1] that is a forward–backward step 1/(1 − W_ii).
        diagonal: of W, shape (n,).
    """

    sensitivity: Tensor
    weights: Tensor
    log_norm: float
    sloped_log_norm: float
    jacobi: float
    diagonal: Tensor


def majorant(matrix: Tensor, slopes: tuple[float, float] = (0.0, 1.0)) -> Majorant:
    """Prove that diag(g) − |W_off|, which is I − M(W) for slopes in [0, 1], is an M-matrix for the stored numbers of W.

    A positive vector v that it maps to a positive one is the whole proof, so v may come from anywhere.

    Raises:
        GuaranteeError: no such vector was found.
        InputError: NaN or infinite entries.
    """
    # By torch, not numpy: see `verified.eigenvalues`.
    stored = torch.from_numpy(to_float64(matrix, "W"))
    size = len(stored)
    diagonal = stored.diagonal().clone()
    below_one = gaps(diagonal, slopes)
    if float(below_one.amin()) <= 0.0:
        raise GuaranteeError(
            "W: a diagonal entry is too large, for slopes of this activation; the condition μ∞(W) < 1 fails or is lost to "
            "rounding"
        )
    positive = stored.abs().fill_diagonal_(0.0)
    away = torch.diag(below_one) - positive
    inverse = torch.linalg.inv_ex(away)[0]
    weights = inverse.abs().sum(1)
    for _ in range(30):  # towards the Perron vector of the Jacobi matrix, where the factor below is smallest
        weights = weights + torch.mv(positive, weights) / below_one
        weights = weights / weights.amax()
    weights = weights.nan_to_num(nan=1.0).clamp_min(1e-12)
    rounding, lost = rounding_constant(size + 4), underflow(torch.float64, 1, size)
    through = torch.mv(positive, weights)
    proved = below_one * weights - through - rounding * (below_one * weights + through) - lost
    if not bool((proved > 0.0).all()):
        raise GuaranteeError("W: I − M(W) is not an M-matrix in these numbers; use float64 or a smaller mu")
    # G = X + G·R with R = I − (I − M)X; column j of G|R| is at most v·max_i |R_ij|/proved_i.
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    remainder = (identity - away @ inverse).abs() + rounding * (away.abs() @ inverse.abs() + identity) + lost
    sensitivity = inverse.abs() + torch.outer(weights, (remainder / proved[:, None]).amax(0))
    outward = 1.0 + 2.0 * rounding
    off = through / weights * outward
    blurred = off + 2.0 * rounding * diagonal.abs()
    sloped = max(float((end * diagonal + abs(end) * blurred).amax()) for end in slopes)  # convex in the slope
    return Majorant(
        sensitivity=sensitivity * outward + lost, weights=weights, log_norm=float((diagonal + blurred).amax()),
        sloped_log_norm=next_up(sloped), jacobi=float((off / below_one).amax()) * outward, diagonal=diagonal,
    )  # fmt: skip


def gaps(diagonal: Tensor, slopes: tuple[float, float]) -> Tensor:
    """g_i of every entry W_ii of W's diagonal, for slopes between two numbers; rounded down."""
    if slopes == (0.0, 1.0):
        return 1.0 - diagonal  # rounds once
    least = torch.full_like(diagonal, torch.inf)
    for end in slopes:
        if end != 0.0:
            gap, size = (1.0 - end * diagonal) / abs(end), (1.0 + (end * diagonal).abs()) / abs(end)
            least = torch.minimum(least, gap - error_of(size, 3))
    return least
