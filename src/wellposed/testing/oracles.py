"""Fixed-point problems and their solutions in numpy, which share no code with this library's solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.testing import tensors

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class SharedProblem:
    """``z = σ(z Wᵀ + q)`` with ‖W‖₂ < 1: a contraction, so that every solver must find its fixed point.

    Attributes:
        name: of the problem.
        weight: W, shape (n, n), float64.
        offset: q of every sample, shape (batch, n), float64.
        activation: σ, ``"tanh"`` or ``"relu"``.
        factor: ‖W‖₂.
    """

    name: str
    weight: np.ndarray
    offset: np.ndarray
    activation: str
    factor: float

    def function(self, z: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """The map for any W and q."""
        value = z @ weight.T + offset
        return torch.tanh(value) if self.activation == "tanh" else torch.relu(value)

    def args(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """W and q in a precision."""
        return tensors.tensor(self.weight, dtype=dtype), tensors.tensor(self.offset, dtype=dtype)

    def solution(self) -> Tensor:
        """The fixed points, shape (batch, n), float64."""
        return picard_numpy(self.weight, self.offset, self.activation)


def shared_problems(size: int = 24, batch: int = 16) -> list[SharedProblem]:
    """Gaussian and orthogonal W, for two activations, at two scales."""
    problems = []
    for kind in ("gauss", "orth"):
        for activation in ("tanh", "relu"):
            for scale in (1.0, 1e-4):
                rng = np.random.default_rng(7)
                matrix = rng.standard_normal((size, size))
                if kind == "gauss":
                    weight, factor = 0.9 * matrix / np.linalg.norm(matrix, 2), 0.9
                else:
                    weight, factor = 0.95 * np.linalg.qr(matrix)[0], 0.95
                offset = scale * rng.standard_normal((batch, size))
                problems.append(SharedProblem(f"{kind}-{activation}-{scale:g}", weight, offset, activation, factor))
    return problems


def picard_numpy(weight: np.ndarray, offset: np.ndarray, activation: str = "relu") -> Tensor:
    """The fixed points of ``z ↦ σ(z Wᵀ + q)``, a contraction, by plain iteration in float64.

    Args:
        weight: W, shape (n, n).
        offset: q, shape (batch, n).
        activation: ``"tanh"`` or ``"relu"``.
    """
    act: Map = np.tanh if activation == "tanh" else (lambda v: np.maximum(v, 0.0))
    return _iterate(lambda z: act(z @ weight.T + offset), np.zeros_like(offset), 20_000, 1e-16)


def monotone_numpy(weight: np.ndarray, offset: np.ndarray, m: float, activation: str = "relu") -> Tensor:
    """The fixed points of ``z ↦ σ(z Wᵀ + q)`` where I − W is strongly monotone, by damped forward–backward steps in float64.

    Args:
        weight: W, shape (n, n).
        offset: q, shape (batch, n).
        m: at most the smallest eigenvalue of the symmetric part of I − W.
        activation: ``"relu"``, ``"tanh"``, ``"sigmoid"`` or ``"identity"``.
    """
    alpha = m / float(np.linalg.norm(np.eye(len(weight)) - weight, 2)) ** 2

    def step(z: np.ndarray) -> np.ndarray:
        inner = (1 - alpha) * z + alpha * (z @ weight.T + offset)
        return np.maximum(inner, 0.0) if activation == "relu" else _resolvent(inner, alpha, activation)

    return _iterate(step, np.zeros_like(offset), 200_000, 1e-15)


def _iterate(step: Map, z: np.ndarray, limit: int, tolerance: float) -> Tensor:
    for _ in range(limit):
        new = step(z)
        change, z = np.abs(new - z).max(), new
        if change <= tolerance * max(np.abs(z).max(), 1e-300):
            break
    return tensors.tensor(z)


_SMOOTH: dict[str, Map] = {"tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "identity": lambda v: v}


def _resolvent(value: np.ndarray, step: float, activation: str) -> np.ndarray:
    """Bisection for step·w + (1 − step)·σ(w) = value; returns σ(w)."""
    act = _SMOOTH[activation]
    reach = (np.abs(value) + 2.0) / min(step, 1.0)
    low, high = -reach, reach
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = step * middle + (1 - step) * act(middle) > value
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return act(0.5 * (low + high))
