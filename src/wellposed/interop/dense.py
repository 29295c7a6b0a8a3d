"""Published checkpoints of layers on flat inputs, as the matrices that they describe.

The layouts are those of the programs behind Winston & Kolter (2020), Chen, Lasserre, Magron & Pauwels (2021, a ``.mat`` file) and
Revay, Wang & Manchester (2020); the last names U "B" and the output map "G" where it builds in a Lipschitz bound γ, and changed
its parametrisation once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, check
from wellposed.interop.files import Tensors, read_layout
from wellposed.interop.published import Published, bound_of, needed


@dataclass(frozen=True)
class DenseWeights:
    """``y = C z + c``, ``z = relu(W z + U x + b)``; float64.

    Attributes:
        matrix: W, shape (n, n).
        weight: U, shape (n, inputs).
        bias: b, shape (n,).
        output: C, shape (classes, n).
        output_bias: c, shape (classes,).
        free: the free parameters A and B of a monotone layer with this W, where the file has them.
        metric: the diagonal of a Λ in which the file's parametrisation makes W well posed, or None.
    """

    matrix: Tensor
    weight: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor
    free: tuple[Tensor, Tensor] | None = None
    metric: Tensor | None = None


def read_dense(path: Path, layout: str, *, m: float, gamma: float | None = None) -> DenseWeights:
    """Read a checkpoint.

    Args:
        path: a file of `torch.save`; only tensors are loaded.
        layout: one of `LAYOUTS`.
        m: the strong-monotonicity constant or margin that it was trained with, which files do not hold.
        gamma: the Lipschitz bound that it was trained with; None to take it from the file's name (``lip0.5`` or ``_L0.5``).

    Raises:
        CheckpointError: the file is not a plain dictionary of tensors, or has other ones than the layout.
    """
    check(m > 0.0, "m", m, "must be positive")
    found = read_layout(path, layout, _layouts(m, bound_of(path, gamma)), _parts)
    size, classes = len(found.matrix), len(found.output)
    expected = [(size, size), (size, found.weight.shape[-1]), (size,), (classes, size), (classes,)]
    if [tuple(part.shape) for part in _parts(found)] != expected:
        raise CheckpointError(
            f"{path}: the tensors' shapes {[tuple(p.shape) for p in _parts(found)]} do not fit together"
        )
    return found


def _parts(found: DenseWeights) -> list[Tensor]:
    return [found.matrix, found.weight, found.bias, found.output, found.output_bias]


def _layouts(m: float, gamma: float | None) -> dict[str, Callable[[Tensors], DenseWeights]]:
    def bound(reader: Callable[[Tensors, float, float | None], DenseWeights]) -> Callable[[Tensors], DenseWeights]:
        return lambda tensors: reader(tensors, m, gamma)

    return {name: bound(reader) for name, reader in LAYOUTS.items()}


def published(weights: DenseWeights, m: float) -> Published:
    """A monotone network where the file has its free parameters, else one with W as it is."""
    layer = {"injection.weight": weights.weight, "injection.bias": weights.bias}
    head = {"weight": weights.output, "bias": weights.output_bias}
    width = len(weights.matrix)
    if weights.free is not None:
        layer |= {"constraint.A": weights.free[0], "constraint.B": weights.free[1]}
        return Published("mondeq", {"width": width, "m": m}, (layer,), head)
    layer |= {"constraint.W": weights.matrix}
    return Published("deq", {"width": width, "activation": "relu"}, (layer,), head)


def _monotone(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """(1 − m)I − AᵀA + B − Bᵀ."""
    a, b = t["A"], t["B"]
    matrix = (1.0 - m) * torch.eye(len(a), dtype=torch.float64) - a.t() @ a + b - b.t()
    return DenseWeights(matrix, t["U"], t["U.bias"], t["Wout"], t["Wout.bias"], free=(a, b))


def _semialgebraic(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """The same, with matrices as Matlab has them: b is u, the output C and c."""
    named = {"A": t["A"], "B": t["B"], "U": t["U"], "U.bias": t["u"].reshape(-1)}
    return _monotone({**named, "Wout": t["C"], "Wout.bias": t["c"].reshape(-1)}, m, gamma)


def _unconstrained(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    return DenseWeights(t["Wp"], t["U"], t["U.bias"], t["Wout"], t["Wout.bias"])


def _well_posed(scale: Callable[[Tensors], Tensor]) -> Callable[[Tensors, float, float | None], DenseWeights]:
    """I − Ψ(VᵀV + mI + Sᵀ − S)."""

    def read(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
        psi = _positive(scale(t))
        _square(t, "S", len(psi))
        eye = torch.eye(len(psi), dtype=torch.float64)
        core = t["V"].t() @ t["V"] + m * eye + t["S"].t() - t["S"]
        matrix = eye - psi[:, None] * core
        return DenseWeights(matrix, t["U"], t["U.bias"], t["Wout"], t["Wout.bias"], metric=1.0 / psi)

    return read


def _bounded(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """I − Ψ((GᵀG + ΛUUᵀΛ)/(2γ) + VᵀV + mI + Sᵀ − S), Ψ = exp(psi) = Λ⁻¹."""
    psi, bound = _positive(torch.exp(t["psi"].reshape(-1))), needed(gamma)
    _square(t, "S", len(psi))
    eye, driven = torch.eye(len(psi), dtype=torch.float64), t["B"] / psi[:, None]
    core = (
        (t["G"].t() @ t["G"] + driven @ driven.t()) / (2.0 * bound)
        + t["V"].t() @ t["V"]
        + m * eye
        + t["S"].t()
        - t["S"]
    )
    return DenseWeights(eye - psi[:, None] * core, t["B"], t["B.bias"], t["G"], t["G.bias"], metric=1.0 / psi)


def _bounded_old(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """½Λ⁻¹(2Λ − GᵀG/γ − ΛUUᵀΛ/γ − VᵀV − mI + Sᵀ − S)."""
    metric, bound = _positive(t["Lambda"].reshape(-1)), needed(gamma)
    _square(t, "S", len(metric))
    eye, driven = torch.eye(len(metric), dtype=torch.float64), t["B"] * metric[:, None]
    core = (t["G"].t() @ t["G"] + driven @ driven.t()) / bound + t["V"].t() @ t["V"] + m * eye - t["S"].t() + t["S"]
    matrix = eye - 0.5 * core / metric[:, None]
    return DenseWeights(matrix, t["B"], t["B.bias"], t["G"], t["G.bias"], metric=metric)


def _positive(diagonal: Tensor) -> Tensor:
    if not bool((diagonal > 0.0).all()):
        raise CheckpointError("the metric has entries that are not positive; nothing is well posed in it")
    return diagonal


def _square(t: Tensors, name: str, size: int) -> None:
    if t[name].shape != (size, size):
        raise CheckpointError(f"{name}: has shape {tuple(t[name].shape)}, must be {(size, size)}")


LAYOUTS: dict[str, Callable[[Tensors, float, float | None], DenseWeights]] = {
    "locuslab-mondeq": _monotone,
    "lben-gamma": _bounded,
    "lben-gamma-lambda": _bounded_old,
    "lben": _well_posed(lambda t: torch.exp(t["psi"].reshape(-1))),
    "lben-lambda": _well_posed(lambda t: t["Lambda"].reshape(-1)),
    "lben-mondeq": _monotone,
    "lben-unconstrained": _unconstrained,
    "semialgebraic": _semialgebraic,
}
