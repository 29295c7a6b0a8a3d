"""Published checkpoints of layers on flat inputs, as the matrices that they describe.

The layouts are those of the programs behind Winston & Kolter (2020) and Revay, Wang & Manchester (2020); the latter names U "B"
and the output map "G" where it builds in a Lipschitz bound γ, and changed its parametrisation once.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, InputError, check

Tensors = dict[str, Tensor]
_PREFIXES = ("mon.linear_module.", "mon.", "model.", "module.")


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
    check(gamma is None or gamma > 0.0, "gamma", gamma, "must be positive")
    tensors = _named(_load(path))
    reader = LAYOUTS.get(layout)
    if reader is None:
        raise InputError(f"as={layout!r}: unknown layout; use one of {', '.join(LAYOUTS)}")
    try:
        found = reader(tensors, m, _bound(path) if gamma is None else gamma)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has no tensor {error} as the layout {layout!r} needs; it has {sorted(tensors)}"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the tensors' shapes do not fit together ({error})") from error
    if not all(bool(torch.isfinite(part).all()) for part in (found.matrix, found.weight, found.bias, found.output)):
        raise CheckpointError(f"{path}: NaN or infinite weights")
    return found


def _load(path: Path) -> Tensors:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a plain dictionary of tensors, and nothing else is loaded, as it could run code ({str(error)[:200]})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: not a plain dictionary of tensors")
    return content


def _named(tensors: Tensors) -> Tensors:
    """Names without the prefixes of modules, and weights of linear maps by the name of the map; float64."""
    found = {}
    for name, tensor in tensors.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        found[name.removesuffix(".weight")] = tensor.detach().double()
    return found


def _bound(path: Path) -> float | None:
    match = re.search(r"(?:lip|_L)(\d+(?:\.\d+)?)", path.name)
    return None if match is None else float(match.group(1))


def _monotone(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """(1 − m)I − AᵀA + B − Bᵀ."""
    a, b = t["A"], t["B"]
    matrix = (1.0 - m) * torch.eye(len(a), dtype=torch.float64) - a.t() @ a + b - b.t()
    return DenseWeights(matrix, t["U"], t["U.bias"], t["Wout"], t["Wout.bias"], free=(a, b))


def _unconstrained(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    return DenseWeights(t["Wp"], t["U"], t["U.bias"], t["Wout"], t["Wout.bias"])


def _well_posed(scale: Callable[[Tensors], Tensor]) -> Callable[[Tensors, float, float | None], DenseWeights]:
    """I − Ψ(VᵀV + mI + Sᵀ − S)."""

    def read(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
        psi = scale(t)
        eye = torch.eye(len(psi), dtype=torch.float64)
        core = t["V"].t() @ t["V"] + m * eye + t["S"].t() - t["S"]
        matrix = eye - psi[:, None] * core
        return DenseWeights(matrix, t["U"], t["U.bias"], t["Wout"], t["Wout.bias"], metric=1.0 / psi)

    return read


def _bounded(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """I − Ψ((GᵀG + ΛUUᵀΛ)/(2γ) + VᵀV + mI + Sᵀ − S), Ψ = exp(psi) = Λ⁻¹."""
    psi, bound = torch.exp(t["psi"].reshape(-1)), _needed(gamma)
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
    metric, bound = t["Lambda"].reshape(-1), _needed(gamma)
    eye, driven = torch.eye(len(metric), dtype=torch.float64), t["B"] * metric[:, None]
    core = (t["G"].t() @ t["G"] + driven @ driven.t()) / bound + t["V"].t() @ t["V"] + m * eye - t["S"].t() + t["S"]
    matrix = eye - 0.5 * core / metric[:, None]
    return DenseWeights(matrix, t["B"], t["B.bias"], t["G"], t["G.bias"], metric=metric)


def _needed(gamma: float | None) -> float:
    if gamma is None:
        raise InputError(
            "gamma=None: this layout needs its Lipschitz bound, which the file's name does not have; give --gamma"
        )
    return gamma


LAYOUTS: dict[str, Callable[[Tensors, float, float | None], DenseWeights]] = {
    "locuslab-mondeq": _monotone,
    "lben-gamma": _bounded,
    "lben-gamma-lambda": _bounded_old,
    "lben": _well_posed(lambda t: torch.exp(t["psi"].reshape(-1))),
    "lben-lambda": _well_posed(lambda t: t["Lambda"].reshape(-1)),
    "lben-mondeq": _monotone,
    "lben-unconstrained": _unconstrained,
}
