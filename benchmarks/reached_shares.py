"""Which share of inputs is reached by layers whose parameters are scaled up and disturbed by unit noise.

Each family is made anew for every seed; its parameters are multiplied by a scale and get standard normal numbers added, far
from any network that training would give. Solves have default options. The command prints a Markdown table of the shares that
are reached, and the worst reason of what is not.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch

import wellposed as wp

FAMILIES: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "MonDEQ, m = 1": ((12,), lambda: wp.MonDEQ(12, 16, m=1.0)),
    "MonDEQ, m = 0.003": ((12,), lambda: wp.MonDEQ(12, 16, m=0.003)),
    "MonDEQ, tanh, m = 0.003": ((12,), lambda: wp.MonDEQ(12, 16, m=0.003, activation="tanh")),
    "LBEN": ((12,), lambda: wp.LBEN(12, 16)),
    "LBEN, tanh": ((12,), lambda: wp.LBEN(12, 16, activation="tanh")),
    "LBEN with a bound": ((12,), lambda: wp.LBEN(12, 16, gamma=0.5, out_features=4)),
    "NEMON, μ = 0.99": ((12,), lambda: wp.NEMON(12, 16, mu=0.99)),
    "PcDEQ": ((12,), lambda: wp.PcDEQ(12, 16)),
    "OrthogonalDEQ": ((12,), lambda: wp.OrthogonalDEQ(12, 16)),
    "ConvMonDEQ": ((2, 6, 5), lambda: wp.ConvMonDEQ(2, 3, (6, 5))),
    "ConvLBEN": ((2, 6, 5), lambda: wp.ConvLBEN(2, 3, (6, 5))),
    "ConvNEMON": ((2, 6, 5), lambda: wp.ConvNEMON(2, 3, (6, 5))),
    "ConvPcDEQ": ((2, 6, 5), lambda: wp.ConvPcDEQ(2, 3, (6, 5))),
    "MultiScaleMonDEQ": ((2, 6, 4), lambda: wp.MultiScaleMonDEQ(2, (3, 4), (6, 4))),
    "ConvOrthogonalDEQ": ((2, 6, 5), lambda: wp.ConvOrthogonalDEQ(2, 4, (6, 5))),
}


def disturbed(make: Callable[[], Any], seed: int, scale: float, dtype: torch.dtype) -> Any:
    """A layer with its parameters times the scale plus unit noise."""
    torch.manual_seed(seed)
    layer = make()
    with torch.no_grad():
        for part in layer.parameters():
            part.mul_(scale).add_(torch.randn_like(part))
    return layer.to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=50)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = [(scale, dtype) for dtype in (torch.float64, torch.float32) for scale in options.scales]
    print("| family | " + " | ".join(f"{str(dtype)[6:]}, × {scale:g}" for scale, dtype in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in options.families:
        shape, make = FAMILIES[name]
        cells = []
        for scale, dtype in columns:
            reached = total = 0
            reasons = set[str]()
            for seed in range(options.seeds):
                layer = disturbed(make, seed, scale, dtype)
                x = torch.randn(options.inputs, *shape, dtype=dtype)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        found = layer.solve(x)
                    except wp.WellposedError as error:
                        reasons.add(type(error).__name__ + ": " + str(error)[:60])
                        total += options.inputs
                        continue
                reached += int(found.converged.sum())
                total += options.inputs
                reasons |= {status.name for status in set(found.status) if status.name != "CONVERGED"}
            cells.append(f"{100 * reached / total:.2f}" + (f" ({'; '.join(sorted(reasons))})" if reasons else ""))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
