"""Published checkpoints of layers on flat inputs, as the matrices that they describe.

The layouts come from the programs behind Winston & Kolter (2020), Chen, Lasserre, Magron & Pauwels (2021, a ``.mat`` file) and
Revay, Wang & Manchester (2020); the last names U "B" and the output map "G" where it builds in a Lipschitz bound γ, and changed
its parametrisation once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, check, checked_options
from wellposed.interop.files import Tensors, check_layout, names_of_linear, read_layout, take
from wellposed.interop.published import Published, bound_of, needed, relative_margin


@dataclass(frozen=True, eq=False)
class Free:
    """A layer of a file as one of this library's families, by its free parameters.

    Attributes:
        family: name of the family.
        options: its hyper-parameters, but for the width.
        constraint: the parameters of its constraint, by name.
    """

    family: str
    options: dict[str, Any]
    constraint: Tensors = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class DenseWeights:
    """``y = C z + c``, ``z = relu(W z + U x + b)``; float64.

    Attributes:
        matrix: W, shape (n, n).
        weight: U, shape (n, inputs).
        bias: b, shape (n,).
        output: C, shape (classes, n).
        output_bias: c, shape (classes,).
        free: the free parameters that W was made of.
        metric: the diagonal of a Λ in which the file's parametrisation makes W well posed, or None.
    """

    matrix: Tensor
    weight: Tensor
    bias: Tensor
    output: Tensor
    output_bias: Tensor
    free: Free
    metric: Tensor | None = None

    def __repr__(self) -> str:
        units, inputs = self.weight.shape
        return f"DenseWeights({self.free.family}: {inputs} inputs, {units} units, {len(self.output)} outputs)"


@checked_options
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
    check_layout(layout, tuple(LAYOUTS))
    check(m > 0.0, "m", m, "must be positive")
    bound = bound_of(path, gamma)
    found = read_layout(path, layout, lambda tensors: LAYOUTS[layout](tensors, m, bound), _parts)
    size, classes = len(found.matrix), len(found.output)
    expected = [(size, size), (size, found.weight.shape[-1]), (size,), (classes, size), (classes,)]
    if [tuple(part.shape) for part in _parts(found)] != expected:
        raise CheckpointError(
            f"{path}: the tensors' shapes {[tuple(p.shape) for p in _parts(found)]} do not fit together"
        )
    return found


def _parts(found: DenseWeights) -> list[Tensor]:
    return [found.matrix, found.weight, found.bias, found.output, found.output_bias]


def published(weights: DenseWeights) -> Published:
    """The network of the family whose free parameters the file has, so that its run has the guarantee of that family."""
    free = weights.free
    layer = {f"constraint.{name}": part for name, part in free.constraint.items()}
    layer["injection.bias"] = weights.bias
    options = {"width": len(weights.matrix), **free.options}
    if options.get("gamma"):
        root = math.sqrt(options["gamma"])
        layer |= {"injection.free": weights.weight / root, "output.free": weights.output / root}
        return Published(family=free.family, options=options, layers=(layer | {"output.bias": weights.output_bias},))
    layer["injection.weight"] = weights.weight
    head = {"weight": weights.output, "bias": weights.output_bias}
    return Published(family=free.family, options=options, layers=(layer,), linears=(head,))


def _around(
    matrix: Tensor, t: Tensors, injection: str, output: str, free: Free, metric: Tensor | None = None
) -> DenseWeights:
    """W with the input and the output map of these names."""
    return DenseWeights(
        matrix=matrix, weight=t[injection], bias=t[f"{injection}.bias"], output=t[output], output_bias=t[f"{output}.bias"],
        free=free, metric=metric,
    )  # fmt: skip


def _monotone(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """(1 − m)I − AᵀA + B − Bᵀ."""
    take(t, "A", "B", *names_of_linear("U", "Wout"))
    a, b = t["A"], t["B"]
    matrix = (1.0 - m) * torch.eye(len(a), dtype=torch.float64, device="cpu") - a.t() @ a + b - b.t()
    free = Free("mondeq", {"m": m}, {"A": a, "B": b})
    return _around(matrix, t, "U", "Wout", free)


def _semialgebraic(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """(1 − m)I − AᵀA + B − Bᵀ, with matrices as Matlab has them: b is u, the output C and c."""
    take(t, "A", "B", "U", "u", "C", "c")
    named = {"A": t["A"], "B": t["B"], "U": t["U"], "U.bias": t["u"].reshape(-1)}
    return _monotone({**named, "Wout": t["C"], "Wout.bias": t["c"].reshape(-1)}, m, gamma)


def _unconstrained(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    take(t, "Wp", *names_of_linear("U", "Wout"))
    free = Free("deq", {"activation": "relu"}, {"W": t["Wp"]})
    return _around(t["Wp"], t, "U", "Wout", free)


def _well_posed(name: str) -> Callable[[Tensors, float, float | None], DenseWeights]:
    """I − Ψ(VᵀV + mI + Sᵀ − S), with Ψ = exp(psi), or Ψ = Lambda."""

    def read(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
        take(t, name, "V", "S", *names_of_linear("U", "Wout"))
        psi = t[name].reshape(-1) if name == "psi" else _positive(t[name].reshape(-1)).log()
        matrix, free = _in_metric(t["V"], t["S"], psi, m, 0.0)
        return _around(matrix, t, "U", "Wout", free, _positive(torch.exp(-psi)))

    return read


def _bounded(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """I − Ψ((GᵀG + ΛUUᵀΛ)/(2γ) + VᵀV + mI + Sᵀ − S), Ψ = exp(psi) = Λ⁻¹."""
    take(t, "psi", "V", "S", *names_of_linear("B", "G"))
    return _with_bound(t, t["V"], t["S"], t["psi"].reshape(-1), m, needed(gamma))


def _bounded_old(t: Tensors, m: float, gamma: float | None) -> DenseWeights:
    """½Λ⁻¹(2Λ − GᵀG/γ − ΛUUᵀΛ/γ − VᵀV − mI + Sᵀ − S): the newer one with V/√2, −S/2 and m/2."""
    take(t, "Lambda", "V", "S", *names_of_linear("B", "G"))
    psi = -_positive(t["Lambda"].reshape(-1)).log()
    return _with_bound(t, t["V"] * math.sqrt(0.5), -0.5 * t["S"], psi, 0.5 * m, needed(gamma))


def _with_bound(t: Tensors, v: Tensor, s: Tensor, psi: Tensor, m: float, gamma: float) -> DenseWeights:
    metric = _positive(torch.exp(-psi))
    matrix, free = _in_metric(v, s, psi, m, gamma)
    driven = metric[:, None] * t["B"]
    bounded = (t["G"].t() @ t["G"] + driven @ driven.t()) / (2.0 * gamma)
    return _around(matrix - bounded / metric[:, None], t, "B", "G", free, metric)


def _in_metric(v: Tensor, s: Tensor, psi: Tensor, m: float, gamma: float) -> tuple[Tensor, Free]:
    """I − Ψ(VᵀV + mI + Sᵀ − S), and its free parameters for a bound γ, or for zero for none."""
    for name, part in (("V", v), ("S", s)):
        if part.shape != (len(psi), len(psi)):
            raise CheckpointError(f"{name}: has shape {tuple(part.shape)}, must be {(len(psi), len(psi))}")
    eye = torch.eye(len(psi), dtype=torch.float64, device="cpu")
    matrix = eye - torch.exp(psi)[:, None] * (v.t() @ v + m * eye + s.t() - s)
    return matrix, Free("lben", {"gamma": gamma, "epsilon": relative_margin(v, m)}, {"V": v, "S": s, "psi": psi})


def _positive(diagonal: Tensor) -> Tensor:
    if not bool((diagonal > 0.0).all()):
        raise CheckpointError("the metric has entries that are not positive; nothing is well posed in it")
    return diagonal


LAYOUTS: dict[str, Callable[[Tensors, float, float | None], DenseWeights]] = {
    "locuslab-mondeq": _monotone,
    "lben-gamma": _bounded,
    "lben-gamma-lambda": _bounded_old,
    "lben": _well_posed("psi"),
    "lben-lambda": _well_posed("Lambda"),
    "lben-mondeq": _monotone,
    "lben-unconstrained": _unconstrained,
    "semialgebraic": _semialgebraic,
}
