"""Published checkpoints of convolutional monotone networks (Winston & Kolter 2020; Pabbaraju, Winston & Kolter 2021).

Their kernels are stored without normalisation: each is divided by its Frobenius norm and multiplied by a scalar, g for A (whose
square it scales) and h for B. All have a border of one pixel that is kept zero; the single convolution is followed by averages,
over 4 × 4 pixels unless the head's size says otherwise. Files do not hold the stride of the input convolution, one as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.interop.files import Tensors, names_of_linear, number, take
from wellposed.interop.published import Published, windows_of


def single(t: Tensors, m: float, stride: int) -> Published:
    """``W = (1 − m)I − g·A*A + B − B*`` with A = A₀/‖A₀‖ and B = h·B₀/‖B₀‖."""
    take(t, "A", "B", "g", "h", *names_of_linear("U", "Wout"))
    layer = {
        "injection.weight": t["U"], "injection.bias": t["U.bias"],
        "constraint.A": unit(t["A"]) * root(t["g"], "g"), "constraint.B": unit(t["B"]) * number(t["h"], "h"),
    }  # fmt: skip
    options = {"width": len(t["U"]), **_taps(t, "A", "B"), "stride": stride, "pool": 4, "m": m, "border": 1}
    return with_head("mondeq-conv", options, layer, t, len(t["U"]))


def several(t: Tensors, m: float, stride: int) -> Published:
    """Tiers with A_i = √g_i·A0_i/‖A0_i‖, D_i = √gn_i·A_n0_i/‖A_n0_i‖ between them, and B_i = h_i·B0_i/‖B0_i‖."""
    count = max(sum(name.startswith("A0.") for name in t), 2)
    kernels = [f"{name}.{tier}" for tier in range(count) for name in ("A0", "B0")]
    down = [f"A_n0.{tier}" for tier in range(count - 1)]
    scales = [f"{name}.{tier}" for tier in range(count) for name in ("g", "h")]
    take(t, *names_of_linear("U", "Wout"), *kernels, *down, *scales, *[f"gn.{tier}" for tier in range(count - 1)])
    widths = [len(t[f"A0.{tier}"]) for tier in range(count)]
    layer = {"injection.weight": t["U"], "injection.bias": t["U.bias"]}
    for tier, width in enumerate(widths):
        layer[f"constraint.A.{tier}"] = unit(t[f"A0.{tier}"]) * root(t[f"g.{tier}"], f"g.{tier}")
        layer[f"constraint.B.{tier}"] = unit(t[f"B0.{tier}"]) * number(t[f"h.{tier}"], f"h.{tier}")
        if tier + 1 < count:
            layer[f"constraint.D.{tier}"] = unit(t[f"A_n0.{tier}"]) * root(t[f"gn.{tier}"], f"gn.{tier}")
        if tier:  # only the first tier has a bias there
            layer[f"injection.others.{tier - 1}"] = torch.zeros(width, dtype=torch.float64, device="cpu")
    options = {
        "width": widths[0], "further": tuple(widths[1:]), **_taps(t, *kernels, *down), "stride": stride, "pool": 1, "m": m,
        "border": 1,
    }  # fmt: skip
    return with_head("mondeq-multi", options, layer, t, widths[-1])


def _taps(t: Tensors, *kernels: str) -> dict[str, int]:
    """The options of a family for the sizes of kernels; the published program wraps large input kernels around the border."""
    found = taps_of(t, "U", *kernels)
    if found["input_taps"] > 5:
        raise CheckpointError(f"U: has {found['input_taps']} taps a side; with more than five, images are cyclic there")
    return found


def taps_of(t: Tensors, driving: str, *kernels: str) -> dict[str, int]:
    """The options of a family for the sizes of its kernels, which are square and odd.

    Args:
        t: tensors of the file.
        driving: name of the input convolution.
        kernels: names of the others, which have one size.
    """
    sides = {name: tuple(t[name].shape[2:]) for name in (driving, *kernels)}
    for name, side in sides.items():
        if len(side) != 2 or side[0] != side[1] or side[0] % 2 == 0 or not t[name].numel():
            raise CheckpointError(
                f"{name}: has shape {tuple(t[name].shape)}, must be a square kernel with odd numbers of taps"
            )
    if len({sides[name] for name in kernels}) > 1:
        raise CheckpointError(f"kernels: of different sizes, {sides}; those of the state must have one")
    return {"taps": sides[kernels[0]][0], "input_taps": sides[driving][0]}


def with_head(family: str, options: dict[str, Any], layer: Tensors, t: Tensors, channels: int) -> Published:
    """A layer and the linear map Wout, behind averages of so many channels."""
    head = {"weight": t["Wout"], "bias": t["Wout.bias"]}
    windows = windows_of(t["Wout"], channels)
    return Published(family=family, options=options, layers=(layer,), linears=(head,), windows=windows)


def unit(kernel: Tensor) -> Tensor:
    """Over its Frobenius norm."""
    return kernel / kernel.norm()


def root(scale: Tensor, name: str) -> float:
    """The square root of the one entry of a tensor."""
    square = number(scale, name)
    if not square >= 0.0:
        raise CheckpointError(f"{name}: is {square:.3g}; W is monotone for nonnegative scales only")
    return math.sqrt(square)


def layouts(m: float, stride: int) -> dict[str, Callable[[Tensors], Published]]:
    """Readers by name of the layout.

    Args:
        m: strong-monotonicity constant that the networks were trained with, which files do not hold.
        stride: of the input convolution, which files do not hold either.
    """
    return {
        "locuslab-mondeq-conv": partial(single, m=m, stride=stride),
        "locuslab-mondeq-multi": partial(several, m=m, stride=stride),
    }
