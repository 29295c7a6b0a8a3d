"""Published checkpoints of convolutional Lipschitz-bounded networks (Revay, Wang & Manchester 2020).

Their state has a border that is kept zero. With A and B over their Frobenius norms, V is √a times A, and S is b times B; files of
networks without a bound, and of the older of two kinds with one, call these numbers g and h. In the newer kind, the input and the
output map are √u and √g times their directions. The older kind has these maps as they are, and at first had A and B as they are
too: then its g and h, which nothing used, kept the value one that they started from, which no training leaves them at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.convolutional import root, taps_of, unit, with_head
from wellposed.interop.files import Tensors, names_of_linear, number, take
from wellposed.interop.published import Published, needed, relative_margin, windows_of


def unbounded(t: Tensors, m: float, stride: int) -> Published:
    """``W = I − Ψ(VᵀV + mI + Sᵀ − S)``, with the input map U and a head behind averages."""
    _take(t, "g", "h")
    v, s = _core(t, ("g", "h"))
    metric, psi = _metric(t)
    layer = {"constraint.V": v, "constraint.S": s, "constraint.psi": psi, "injection.bias": t["U.bias"]}
    layer["injection.free"] = t["U"]
    options = {**_options(t, v, metric, m), "stride": stride, "gamma": 0.0}
    return with_head("lben-conv", options, layer, t, len(v))


def bounded(t: Tensors, m: float, gamma: float | None, stride: int) -> Published:
    """With a bound γ, and U = √u·U₀/‖U₀‖, W_o = √g·W₀/‖W₀‖."""
    _take(t, "a", "b", "u", "g")
    ends = root(t["u"], "u") * unit(t["U"]), root(t["g"], "g") * unit(t["Wout"])
    return _bounded(t, _core(t, ("a", "b")), ends, m, gamma, stride)


def bounded_old(t: Tensors, m: float, gamma: float | None, stride: int) -> Published:
    """With a bound γ, and U and W_o as they are; A and B as well, where g and h were never trained."""
    _take(t, "g", "h")
    untrained = number(t["g"], "g") == number(t["h"], "h") == 1.0
    core = (t["A"], t["B"]) if untrained else _core(t, ("g", "h"))
    return _bounded(t, core, (t["U"], t["Wout"]), m, gamma, stride)


def _take(t: Tensors, *scales: str) -> None:
    take(t, "A", "B", *scales, *names_of_linear("U", "Wout"), optional=("psi",))


def _bounded(
    t: Tensors, core: tuple[Tensor, Tensor], ends: tuple[Tensor, Tensor], m: float, gamma: float | None, stride: int
) -> Published:
    bound = math.sqrt(needed(gamma))
    v, s = core
    metric, psi = _metric(t)
    # The layer has √γ in both maps, and Ψ in front of the first where that is no other set of networks.
    by_pixel = metric in ("full", "image")
    free = ends[0] / bound if by_pixel else ends[0] / psi.exp().reshape(-1, 1, 1, 1) / bound
    layer = {
        "constraint.V": v, "constraint.S": s, "constraint.psi": psi, "injection.free": free, "injection.bias": t["U.bias"],
        "output.free": ends[1] / bound, "output.bias": t["Wout.bias"],
    }  # fmt: skip
    options = {**_options(t, v, metric, m), "stride": stride, "gamma": gamma, "input_in_metric": not by_pixel}
    return Published(family="lben-conv", options=options, layers=(layer,), windows=windows_of(t["Wout"], len(v)))


def _core(t: Tensors, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """V and S."""
    return unit(t["A"]) * root(t[names[0]], names[0]), unit(t["B"]) * number(t[names[1]], names[1])


def _metric(t: Tensors) -> tuple[str, Tensor]:
    """What Ψ depends on, and its logarithm; networks in the ordinary inner product have a number that is not used, or none."""
    if "psi" not in t:
        return "identity", torch.zeros(1, 1, 1, dtype=torch.float64, device="cpu")
    psi = t["psi"]
    if psi.ndim == 4 and len(psi) == 1:
        psi = psi[0]
    if psi.ndim != 3:
        raise CheckpointError(f"psi: has shape {tuple(psi.shape)}, must be (channels, height, width), or ones of these")
    if psi.numel() == 1:
        return "identity", torch.zeros_like(psi)
    by_pixel = psi.shape[1:] != (1, 1)
    return ("full" if by_pixel else "channels") if len(psi) > 1 else "image", psi


def _options(t: Tensors, v: Tensor, metric: str, m: float) -> dict[str, object]:
    return {
        "width": len(v), **taps_of(t, "U", "A", "B"), "border": 1, "metric": metric, "epsilon": relative_margin(v, m),
    }  # fmt: skip


def layouts(m: float, gamma: float | None, stride: int) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        m: the margin that the networks were trained with, which files do not hold.
        gamma: their Lipschitz bound, which files do not hold.
        stride: of the input convolution, which files do not hold.
    """
    return {
        "lben-conv": partial(unbounded, m=m, stride=stride),
        "lben-conv-gamma": partial(bounded, m=m, gamma=gamma, stride=stride),
        "lben-conv-gamma-raw": partial(bounded_old, m=m, gamma=gamma, stride=stride),
    }
