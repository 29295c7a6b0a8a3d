"""Greedy SeqLip of networks on images, whose linear maps are too large for matrices (Scaman & Virmaux 2018, Section 5).

Of each linear map the largest singular values are found by ARPACK, from the map and its adjoint; what they leave out counts by
its norm. ‖A·diag(s)·B‖₂ is convex in the slopes s: moving every slope to where the gradient points never makes it smaller. The
climb may end at a local maximum: the estimate certifies nothing.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wellposed.activations import of_module
from wellposed.comparison.baselines import SeqLip
from wellposed.errors import CertificateError, check, require

Factors = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]  # U, Σ and Vᵀ
_ROUNDS = 100  # of a climb
_STARTS = 4


@torch.no_grad()
def image_seqlip(model: nn.Sequential, shape: tuple[int, ...], *, rank: int = 40, seed: int = 0) -> SeqLip:
    """Greedy SeqLip by the largest singular values of each linear map.

    Args:
        model: affine modules with activations of slopes in [0, 1] between them, in eval mode.
        shape: of one input.
        rank: how many singular values of each map.
        seed: of the starts.

    Returns:
        The estimate, per unit of the input, at most the product of the norms; never certified.

    Raises:
        CertificateError: an activation has other slopes, or the model does not begin and end with affine modules.
    """
    check(rank >= 1, "rank", rank, "must be positive")
    factors = [
        _factors(segment, size, rank) for segment, size in _segments(copy.deepcopy(model).cpu().double().eval(), shape)
    ]
    value, generator = 1.0, np.random.default_rng(seed)
    for place in range(len(factors) - 1):
        right, left = factors[place], factors[place + 1]
        after, before = _root(left, place == len(factors) - 2), _root(right, place == 0)
        scaled = after[:-1, None] * left[2][:-1] if _is_cut(left, rank) else after[:, None] * left[2]
        driven = right[0][:, :-1] * before[:-1] if _is_cut(right, rank) else right[0] * before
        starts = [np.ones(len(driven)), *generator.integers(0, 2, (_STARTS - 1, len(driven))).astype(float)]
        best = max(_climbed(scaled, driven, start) for start in starts)
        rest = [float(values[-1]) if _is_cut(part, rank) else 0.0 for values, part in ((after, left), (before, right))]
        blocks = np.array([[best, float(after[0]) * rest[1]], [rest[0] * float(before[0]), rest[0] * rest[1]]])
        value *= min(float(np.linalg.norm(blocks, 2)), float(after[0] * before[0]))
    return SeqLip(value if len(factors) > 1 else float(factors[0][1][0]), False)


def _root(factors: Factors, is_end: bool) -> NDArray[np.float64]:
    """Σ^½, or Σ at the ends of the network."""
    return factors[1] if is_end else np.sqrt(factors[1])


def _is_cut(factors: Factors, rank: int) -> bool:
    """Whether there are singular values besides these, of which the last one stands for the rest."""
    return len(factors[1]) == rank + 1


def _segments(model: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[nn.Sequential, tuple[int, ...]]]:
    """The affine parts between activations, each with the shape of its input."""
    parts: list[tuple[list[nn.Module], tuple[int, ...]]] = [([], shape)]
    value = torch.zeros(1, *shape, dtype=torch.float64, device="cpu")
    for module in model:
        sigma = of_module(module)
        value = module(value)
        if sigma is None:
            parts[-1][0].append(module)
        elif sigma.is_monotone:
            parts.append(([], tuple(value.shape[1:])))
        else:
            raise CertificateError(f"{module}: activations need slopes in [0, 1]")
    if any(not modules for modules, _ in parts):
        raise CertificateError("model: must begin and end with affine modules, and have some between activations")
    return [(nn.Sequential(*modules), size) for modules, size in parts]


def _factors(segment: nn.Sequential, shape: tuple[int, ...], rank: int) -> Factors:
    """The largest singular values of an affine map's linear part, descending: ``rank`` + 1 of them, or all."""
    sparse = require("scipy.sparse.linalg", "train")
    zero = torch.zeros(1, *shape, dtype=torch.float64, device="cpu")
    shift = segment(zero)
    rows, columns = shift.numel(), zero.numel()

    def forward(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        moved: Tensor = segment(torch.from_numpy(vector.copy()).reshape(zero.shape)) - shift
        return moved.flatten().numpy()

    def adjoint(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        given = torch.from_numpy(vector.copy()).reshape(shift.shape)
        return torch.autograd.functional.vjp(segment, zero, given)[1].flatten().numpy()

    if min(rows, columns) <= rank + 2:
        dense = np.stack([forward(unit) for unit in np.eye(columns)], axis=1)
        left, values, right = np.linalg.svd(dense, full_matrices=False)
        return left[:, : rank + 1], values[: rank + 1], right[: rank + 1]
    operator: Any = sparse.LinearOperator((rows, columns), matvec=forward, rmatvec=adjoint, dtype=np.float64)
    found: Factors = sparse.svds(operator, k=rank + 1, v0=np.random.default_rng(0).standard_normal(min(rows, columns)))
    return found[0][:, ::-1], found[1][::-1], found[2][::-1]


def _climbed(after: NDArray[np.float64], before: NDArray[np.float64], slopes: NDArray[np.float64]) -> float:
    """‖after·diag(s)·before‖₂ at the end of a climb in s; each step moves s to where the gradient points."""
    best = 0.0
    for _ in range(_ROUNDS):
        left, values, right = np.linalg.svd((after * slopes) @ before, full_matrices=False)
        if not values[0] > best:
            break
        best = float(values[0])
        slopes = ((left[:, 0] @ after) * (before @ right[0]) > 0.0).astype(float)
    return best
