"""Shared fixed-point problems with independent float64 solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedProblem:
    """``z = act(z Wᵀ + q)`` with ‖W‖₂ < 1: a contraction, so that every solver must find it."""

    name: str
    weight: Tensor
    offset: Tensor
    activation: str
    factor: float

    def function(self, z: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        value = z @ weight.T + offset
        return torch.tanh(value) if self.activation == "tanh" else torch.relu(value)

    def args(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.weight.to(dtype), self.offset.to(dtype)

    def solution(self) -> Tensor:
        return picard_numpy(self.weight.numpy(), self.offset.numpy(), self.activation)


def picard_numpy(weight: np.ndarray, offset: np.ndarray, activation: str) -> Tensor:
    """Plain iteration in numpy to machine precision: shares no code with the library."""
    act: Callable[[np.ndarray], np.ndarray] = np.tanh if activation == "tanh" else (lambda v: np.maximum(v, 0.0))
    z = np.zeros_like(offset)
    for _ in range(20_000):
        new = act(z @ weight.T + offset)
        done = np.abs(new - z).max() <= 1e-16 * max(np.abs(new).max(), 1e-300)
        z = new
        if done:
            break
    return torch.from_numpy(z)


def shared_problems(size: int = 24, batch: int = 16) -> list[SharedProblem]:
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
                name = f"{kind}-{activation}-{scale:g}"
                problems.append(
                    SharedProblem(name, torch.from_numpy(weight), torch.from_numpy(offset), activation, factor)
                )
    return problems


def monotone_numpy(weight: np.ndarray, offset: np.ndarray, m: float, activation: str = "relu") -> Tensor:
    """Damped forward–backward in numpy at the provable step: an oracle for strongly monotone layers."""
    smooth = np.linalg.norm(np.eye(len(weight)) - weight, 2)
    alpha = m / smooth**2
    z = np.zeros_like(offset)
    for _ in range(200_000):
        inner = (1 - alpha) * z + alpha * (z @ weight.T + offset)
        new = np.maximum(inner, 0.0) if activation == "relu" else _resolvent(inner, alpha, activation)
        change = np.abs(new - z).max()
        z = new
        if change <= 1e-15 * max(np.abs(z).max(), 1e-300):
            break
    return torch.from_numpy(z)


def _resolvent(value: np.ndarray, step: float, activation: str) -> np.ndarray:
    """Bisection for step·w + (1 − step)·σ(w) = value; returns σ(w)."""
    act = {"tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "identity": lambda v: v}[activation]
    reach = (np.abs(value) + 2.0) / min(step, 1.0)
    low, high = -reach, reach
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = step * middle + (1 - step) * act(middle) > value
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return act(0.5 * (low + high))
