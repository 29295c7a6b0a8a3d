"""Published checkpoints of convolutional Lipschitz-bounded networks (Revay, Wang & Manchester 2020).

Their state has a border that is kept zero. With A and B over their Frobenius norms, V is √a times A, and S is b times B; files of
networks without a bound, and of the older of two kinds with one, call these numbers g and h. In the newer kind, the input and the
output map are √u and √g times their directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.convolutional import head_of, number, root, unit
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published, needed


def unbounded(t: Tensors, m: float) -> Published:
    """``W = I − Ψ(VᵀV + mI + Sᵀ − S)``, with the input map U and a head behind averages."""
    v, s = _core(t, ("g", "h"))
    metric, psi = _metric(t)
    layer = {"constraint.V": v, "constraint.S": s, "constraint.psi": psi, "injection.bias": t["U.bias"]}
    layer["injection.free"] = t["U"]
    options = {**_options(v, metric, m), "gamma": 0.0}
    return Published("lben-conv", options, (layer,), head_of(t), windows=_windows(t["Wout"], len(v)))


def bounded(t: Tensors, m: float, gamma: float | None) -> Published:
    """With a bound γ, and U = √u·U₀/‖U₀‖, W_o = √g·W₀/‖W₀‖."""
    ends = root(t["u"], "u") * unit(t["U"]), root(t["g"], "g") * unit(t["Wout"])
    return _bounded(t, ("a", "b"), ends, m, gamma)


def bounded_old(t: Tensors, m: float, gamma: float | None) -> Published:
    """With a bound γ, and U and W_o as they are."""
    return _bounded(t, ("g", "h"), (t["U"], t["Wout"]), m, gamma)


def _bounded(
    t: Tensors, names: tuple[str, str], ends: tuple[Tensor, Tensor], m: float, gamma: float | None
) -> Published:
    bound = math.sqrt(needed(gamma))
    v, s = _core(t, names)
    metric, psi = _metric(t)
    # The layer has √γ in both maps, and Ψ in front of the first where that is no other set of networks.
    by_pixel = metric in ("full", "image")
    free = ends[0] / bound if by_pixel else ends[0] / psi.exp().reshape(-1, 1, 1, 1) / bound
    layer = {
        "constraint.V": v, "constraint.S": s, "constraint.psi": psi, "injection.free": free, "injection.bias": t["U.bias"],
        "output.free": ends[1] / bound, "output.bias": t["Wout.bias"],
    }  # fmt: skip
    options = {**_options(v, metric, m), "gamma": gamma, "input_in_metric": not by_pixel}
    return Published("lben-conv", options, (layer,), {}, windows=_windows(t["Wout"], len(v)))


def _core(t: Tensors, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """V and S."""
    return unit(t["A"]) * root(t[names[0]], names[0]), unit(t["B"]) * number(t[names[1]], names[1])


def _metric(t: Tensors) -> tuple[str, Tensor]:
    """What Ψ depends on, and its logarithm; networks in the ordinary inner product have a number that is not used, or none."""
    if "psi" not in t:
        return "identity", torch.zeros(1, 1, 1, dtype=torch.float64)
    psi = t["psi"]
    if psi.ndim == 4 and len(psi) == 1:
        psi = psi[0]
    if psi.ndim != 3:
        raise CheckpointError(f"psi: has shape {tuple(psi.shape)}, must be (channels, height, width), or ones of these")
    if psi.numel() == 1:
        return "identity", torch.zeros_like(psi)
    by_pixel = psi.shape[1:] != (1, 1)
    return ("full" if by_pixel else "channels") if len(psi) > 1 else "image", psi


def _options(v: Tensor, metric: str, m: float) -> dict[str, object]:
    margin = m / (1.0 + float(v.square().sum()) / len(v))  # relative, as the layer has it
    return {
        "width": len(v), "taps": v.shape[-1], "stride": 1, "border": 1, "metric": metric, "epsilon": margin,
    }  # fmt: skip


def _windows(head: Tensor, channels: int) -> int:
    side = math.isqrt(head.shape[1] // channels)
    if not side or side * side * channels != head.shape[1]:
        raise CheckpointError(f"Wout: has {head.shape[1]} columns, not those of {channels} square images")
    return side


def layouts(m: float, gamma: float | None) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        m: the margin that the networks were trained with, which files do not hold.
        gamma: their Lipschitz bound, likewise.
    """
    return {
        "lben-conv": partial(unbounded, m=m),
        "lben-conv-gamma": partial(bounded, m=m, gamma=gamma),
        "lben-conv-gamma-raw": partial(bounded_old, m=m, gamma=gamma),
    }
