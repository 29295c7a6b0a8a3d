"""Published checkpoints of convolutional monotone networks (Winston & Kolter 2020; Pabbaraju, Winston & Kolter 2021).

Their kernels are stored without normalisation: each is divided by its Frobenius norm and multiplied by a scalar, g for A (whose
square it scales) and h for B. All have a border that is kept zero; the single convolution is followed by averages over 4 × 4
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors
from wellposed.interop.published import Published


def single(t: Tensors, m: float) -> Published:
    """``W = (1 − m)I − g·A*A + B − B*`` with A = A₀/‖A₀‖ and B = h·B₀/‖B₀‖."""
    layer = {
        "injection.weight": t["U"], "injection.bias": t["U.bias"],
        "constraint.A": unit(t["A"]) * root(t["g"], "g"), "constraint.B": unit(t["B"]) * number(t["h"], "h"),
    }  # fmt: skip
    options = {"width": len(t["U"]), "taps": t["A"].shape[-1], "stride": 1, "pool": 4, "m": m, "border": 1}
    return Published("mondeq-conv", options, (layer,), head_of(t))


def several(t: Tensors, m: float) -> Published:
    """Tiers with A_i = √g_i·A0_i/‖A0_i‖, D_i = √gn_i·A_n0_i/‖A_n0_i‖ between them, and B_i = h_i·B0_i/‖B0_i‖."""
    count = sum(name.startswith("A0.") for name in t)
    widths = [len(t[f"A0.{tier}"]) for tier in range(max(count, 1))]
    layer = {"injection.weight": t["U"], "injection.bias": t["U.bias"]}
    for tier, width in enumerate(widths):
        layer[f"constraint.A.{tier}"] = unit(t[f"A0.{tier}"]) * root(t[f"g.{tier}"], f"g.{tier}")
        layer[f"constraint.B.{tier}"] = unit(t[f"B0.{tier}"]) * number(t[f"h.{tier}"], f"h.{tier}")
        if tier + 1 < count:
            down = unit(t[f"A_n0.{tier}"]) * root(t[f"gn.{tier}"], f"gn.{tier}")
            layer[f"constraint.D.{tier}"] = down
        if tier:  # only the first tier has a bias there
            layer[f"injection.others.{tier - 1}"] = torch.zeros(width, dtype=torch.float64)
    options = {
        "width": widths[0], "further": tuple(widths[1:]), "taps": t["A0.0"].shape[-1], "stride": 1, "pool": 1, "m": m,
        "border": 1,
    }  # fmt: skip
    return Published("mondeq-multi", options, (layer,), head_of(t))


def head_of(t: Tensors) -> Tensors:
    """The linear map Wout."""
    return {"weight": t["Wout"], "bias": t["Wout.bias"]}


def unit(kernel: Tensor) -> Tensor:
    """Over its Frobenius norm."""
    return kernel / kernel.norm()


def number(scale: Tensor, name: str) -> float:
    """The one entry of a tensor."""
    if scale.numel() != 1:
        raise CheckpointError(f"{name}: has shape {tuple(scale.shape)}, must be a number")
    return float(scale)


def root(scale: Tensor, name: str) -> float:
    """The square root of the one entry of a tensor."""
    square = number(scale, name)
    if not square >= 0.0:
        raise CheckpointError(f"{name}: is {square:.3g}; W is monotone for nonnegative scales only")
    return math.sqrt(square)


def layouts(m: float) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        m: strong-monotonicity constant that the networks were trained with, which files do not hold.
    """
    return {"locuslab-mondeq-conv": partial(single, m=m), "locuslab-mondeq-multi": partial(several, m=m)}
