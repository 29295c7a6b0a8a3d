"""Error bounds of ``solve`` and ``sharpened`` against equilibria found otherwise: ``python benchmarks/error_bounds.py``.

The equilibrium of the stored numbers is found in float64 by this script's own Newton iteration on the dense equation, or its own
iteration of the orthogonal map, from zero. A bound is violated where the value is farther away than the bound and what the oracle
itself leaves open. The command prints a Markdown table, and fails where a bound is violated.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import wellposed as wp

# A function and its derivative.
Pointwise = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
SIGMAS: dict[str, Pointwise] = {
    "relu": (torch.relu, lambda v: (v > 0).double()),
    "tanh": (torch.tanh, lambda v: 1.0 - torch.tanh(v).square()),
    "sigmoid": (torch.sigmoid, lambda v: torch.sigmoid(v) * (1.0 - torch.sigmoid(v))),
    "softsign": (lambda v: v / (1.0 + v.abs()), lambda v: (1.0 + v.abs()).square().reciprocal()),
}
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[int, ...], Callable[[str], Any]]] = {
    "MonDEQ": (("relu", "tanh"), (9,), lambda name: wp.MonDEQ(9, 14, m=0.3, activation=name)),
    "LBEN": (("relu", "tanh"), (9,), lambda name: wp.LBEN(9, 14, activation=name)),
    "LBEN with a bound": (
        ("relu", "tanh"), (9,), lambda name: wp.LBEN(9, 14, gamma=2.0, out_features=3, activation=name),
    ),
    "NEMON": (("relu", "tanh"), (9,), lambda name: wp.NEMON(9, 14, mu=0.5, activation=name)),
    "PcDEQ": (("tanh", "softsign", "sigmoid"), (9,), lambda name: wp.PcDEQ(9, 14, activation=name)),
    "ConvMonDEQ": (("relu", "tanh"), (2, 5, 4), lambda name: wp.ConvMonDEQ(2, 3, (5, 4), m=0.3, activation=name)),
    "ConvLBEN": (("relu", "tanh"), (2, 5, 4), lambda name: wp.ConvLBEN(2, 3, (5, 4), activation=name)),
    "ConvNEMON": (("relu", "tanh"), (2, 5, 4), lambda name: wp.ConvNEMON(2, 3, (5, 4), mu=0.5, activation=name)),
    "ConvPcDEQ": (("tanh", "softsign"), (2, 5, 4), lambda name: wp.ConvPcDEQ(2, 3, (5, 4), activation=name)),
    "MultiScaleMonDEQ": (
        ("relu", "tanh"), (2, 6, 4), lambda name: wp.MultiScaleMonDEQ(2, (3, 4), (6, 4), m=0.3, activation=name),
    ),
    "OrthogonalDEQ": (("sorting",), (9,), lambda name: wp.OrthogonalDEQ(9, 14)),
    "ConvOrthogonalDEQ": (
        ("convex", "residual"), (2, 5, 4), lambda name: wp.ConvOrthogonalDEQ(2, 4, (5, 4), coupling=name),
    ),
}  # fmt: skip
_SCALES, _SIZES = (0.3, 1.0, 2.0), (1e-2, 0.1, 1.0, 10.0, 100.0)
_ROUNDING = 1e-13


def layers(family: str, seeds: int) -> Iterator[tuple[str, Any, Tensor]]:
    """The name of σ, a layer in float32, and inputs, for several weights and sizes of inputs."""
    names, shape, make = FAMILIES[family]
    for name in names:
        for seed in range(seeds):
            torch.manual_seed(seed)
            layer = make(name).eval()
            with torch.no_grad():
                for part in layer.parameters():
                    part.mul_(_SCALES[seed % 3] if part.ndim else 1.0)
            yield name, layer, torch.randn(40, *shape) * _SIZES[seed % 5]


def newton(weight: Tensor, offset: Tensor, sigma: Pointwise, start: Tensor) -> Tensor:
    """A solution of z = σ(Wz + q), shape (batch, n), by damped Newton steps."""
    function, slope = sigma
    identity = torch.eye(len(weight), dtype=torch.float64)

    def residual(z: Tensor) -> Tensor:
        return function(z @ weight.T + offset) - z

    z = start
    for _ in range(200):
        left = residual(z)
        if bool((left.norm(dim=1) <= 1e-15 * z.norm(dim=1)).all()):
            break
        step = torch.linalg.solve(identity - slope(z @ weight.T + offset)[:, :, None] * weight, left[:, :, None])[
            :, :, 0
        ]
        damping = torch.ones(len(z), 1, dtype=torch.float64)
        for _ in range(30):  # until the residual falls
            grown = residual(z + damping * step).norm(dim=1) > left.norm(dim=1) * (1.0 + 1e-12)
            if not bool(grown.any()):
                break
            damping[grown] *= 0.5
        z = z + damping * step
    return z


def sorted_halves(z: Tensor) -> Tensor:
    """One half of the features, or channels, against the other: the smaller of each pair, then the larger."""
    halves = z.unflatten(1, (2, -1))
    return torch.cat((halves.amin(1), halves.amax(1)), 1)


def mapped(part: Any, z: Tensor) -> Tensor:
    """An orthogonal map with its numbers as stored, in float64."""
    if z.ndim == 2:
        return z @ part.weight.double().T + part.bias.double()
    return part.apply_transfer(part.transfer().double(), part.bias.double(), part.unshuffled(z))


def orthogonal(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `equilibrium`, of the cell of either coupling, F(z) = κ((1 − ω)·g(z) + ω·d) or κ·S(bz + (1 − b)(ad + (1 − a)·g(z))).

    g is made of the orthogonal maps, with a sorting behind each of them, but for the last one in the
    second cell; d is what the input map gives.
    """
    drive = mapped(layer.injection, x.double())
    *inner, last = layer.maps
    residual = layer.mixing is not None
    if residual:
        first, second = (0.05 + 0.9 * torch.sigmoid(layer.mixing.double())).tolist()

    def cell(z: Tensor) -> Tensor:
        image = z
        for part in inner:
            image = sorted_halves(mapped(part, image))
        image = mapped(last, image)
        if not residual:
            return layer.kappa * ((1.0 - layer.omega) * sorted_halves(image) + layer.omega * drive)
        return layer.kappa * sorted_halves(second * z + (1.0 - second) * (first * drive + (1.0 - first) * image))

    z = torch.zeros_like(drive)
    change = z
    for _ in range(400):
        image = cell(z)
        change, z = image - z, image
    return z.flatten(1), change.flatten(1).norm(dim=1)


def equilibrium(name: str, layer: Any, x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """The equilibrium of the stored numbers, shape (batch, n), and the norm of what is left of its residual.

    Where Newton's method from zero has not ended, it is taken up from the value that is to be judged: equilibria are unique.
    """
    if name not in SIGMAS:
        return orthogonal(layer, x)
    weight, sigma = layer.operator().to(torch.float64).dense(), SIGMAS[name]
    injection = copy.deepcopy(layer.injection).double()
    if x.ndim == 2 and hasattr(layer.injection, "free"):  # which is scaled in the working precision
        offset = x.double() @ layer.injection.weight.double().T + layer.injection.bias.double()
    else:
        offset = injection(x.double()).flatten(1)
    found = newton(weight, offset, sigma, torch.zeros_like(offset))
    left = (sigma[0](found @ weight.T + offset) - found).norm(dim=1)
    again = left > _ROUNDING * found.norm(dim=1)
    if bool(again.any()):
        found[again] = newton(weight, offset[again], sigma, near[again])
        left = (sigma[0](found @ weight.T + offset) - found).norm(dim=1)
    return found, left


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60, help="weights of every activation, with 40 inputs each")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", wp.NotConvergedWarning)
    print("| family | bounds | oracle did not end | violated | largest error over its bound | median |")
    print("|---|---|---|---|---|---|", flush=True)
    failed = []
    for family in arguments.families:
        ratios, skipped, violated = [], 0, 0
        for name, layer, x in layers(family, arguments.seeds):
            for solved in (layer.solve(x), layer.sharpened(x)):
                value = solved.value.double().flatten(1)
                true, left = equilibrium(name, layer, x, value)
                usable = left <= _ROUNDING * (true.norm(dim=1) + torch.finfo(torch.float64).tiny)
                away, bound = (value - true).norm(dim=1)[usable], solved.error_bound[usable]
                doubt = 1e3 * _ROUNDING * true.norm(dim=1)[usable]
                skipped += int((~usable).sum())
                violated += int((away > bound + doubt).sum())
                ratios.append(away / (bound + doubt))
        ratio = torch.cat(ratios)
        failed += [family] if violated else []
        print(
            f"| {family} | {len(ratio)} | {skipped} | {violated} | {float(ratio.max()):.4f} | {float(ratio.median()):.3g} |",
            flush=True,
        )
    if failed:
        raise SystemExit(f"a bound is violated: {', '.join(failed)}")


if __name__ == "__main__":
    main()
