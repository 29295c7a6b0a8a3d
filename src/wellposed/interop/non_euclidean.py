"""Published checkpoints of NEMON (Jafarpour, Davydov, Proskurnikov & Bullo 2021) and of its robust variant (Davydov et al. 2022).

W = [η]⁻¹A[η] − diag(|A|1) + mI with η = exp(d); the robust one subtracts diag(a²) from it. Both are a `NEMON` with T = A off the
diagonal, log η = −d and what the diagonal of A leaves for the slack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wellposed.interop.files import Tensors, names_of_linear, take
from wellposed.interop.published import Published

_LEAST_SLACK = 1e-30  # rows without slack: their bound is the same to every digit


def plain(t: Tensors, m: float) -> Published:
    """U, A, d and Wout."""
    take(t, "A", "d", *names_of_linear("U", "Wout"))
    return _published(t["A"], t["d"], torch.zeros_like(t["d"]), (t["U"], t["U.bias"]), t, m)


def robust(t: Tensors, m: float) -> Published:
    """U.M, M, eta, a and Wout."""
    take(t, "M", "eta", "a", *names_of_linear("U.M", "Wout"))
    return _published(t["M"], t["eta"], t["a"], (t["U.M"], t["U.M.bias"]), t, m)


def _published(free: Tensor, d: Tensor, a: Tensor, injection: tuple[Tensor, Tensor], t: Tensors, m: float) -> Published:
    diagonal = free.diagonal()
    slack = (diagonal.abs() - diagonal + a.square()).clamp_min(_LEAST_SLACK)
    layer = {
        "injection.weight": injection[0], "injection.bias": injection[1], "constraint.T": free,
        "constraint.slack": torch.where(slack > 30.0, slack, slack.expm1().log()), "constraint.log_weights": -d,
    }  # fmt: skip
    head = {"weight": t["Wout"], "bias": t["Wout.bias"]}
    return Published(family="nemon", options={"width": len(free), "mu": m}, layers=(layer,), linears=(head,))


def layouts(m: float) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        m: the bound of the log norm that the networks were trained with, which files do not hold.
    """
    return {"nemon": partial(plain, m=m), "nemon-robust": partial(robust, m=m)}
