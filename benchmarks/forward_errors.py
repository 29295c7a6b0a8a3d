"""True errors of ``layer(x)``, which stops by what is typical and proves nothing: ``python benchmarks/forward_errors.py``.

Every family is run at its initial weights, at larger ones, with noise of one on every number, and with a small margin; values are
compared with solves in float64 whose errors are bounded. At most one sample in a thousand may exceed its tolerance, and none may
exceed three times of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

import wellposed as wp

MOST_BEYOND, LARGEST = 1e-3, 3.0
SCALES = (1.0, 2.0, 4.0)  # of the initial weights
_NODES, _EDGES = 8, 20  # of a graph, where samples are graphs


class OnGraphs(torch.nn.Module):
    """A layer on graphs whose samples are the node features of random directed graphs; of a batch, each has its own edges.

    Args:
        layer: for the nodes of all graphs at once.
    """

    def __init__(self, layer: wp.ImplicitGraph) -> None:
        super().__init__()
        self.layer = layer
        self.input_shape = (_NODES, layer.in_features)

    def _graphs(self, count: int) -> wp.Graphs:
        generator = torch.Generator().manual_seed(count)
        ends = torch.randint(_NODES, (2, count, _EDGES), generator=generator) + _NODES * torch.arange(count)[:, None]
        return wp.Graphs(ends.flatten(1), count * _NODES, torch.arange(count).repeat_interleave(_NODES))

    def state(self, x: Tensor) -> Tensor:
        """Shape (graphs, nodes · features of the state)."""
        return self.layer(x.flatten(0, 1), self._graphs(len(x))).reshape(len(x), -1)

    def solve(self, x: Tensor) -> wp.Solution[Tensor]:
        """The same with its evidence."""
        found = self.layer.solve(x.flatten(0, 1), self._graphs(len(x)))
        return replace(found, value=found.value.reshape(len(x), -1))

    def limits(self) -> tuple[float, float]:
        """Tolerances."""
        return self.layer.limits()


FAMILIES: dict[str, Callable[..., torch.nn.Module]] = {
    "MonDEQ": lambda margin, **o: wp.MonDEQ(20, 48, m=margin, **o),
    "LBEN": lambda margin, **o: wp.LBEN(20, 32, **o),
    "NEMON": lambda margin, **o: wp.NEMON(20, 48, mu=1.0 - margin, **o),
    "NEMON gelu": lambda margin, **o: wp.NEMON(20, 48, mu=0.8 * (1.0 - margin), activation="gelu", **o),
    "PcDEQ": lambda margin, **o: wp.PcDEQ(20, 48, floor=0.1 * margin, **o),
    "PcDEQ sigmoid": lambda margin, **o: wp.PcDEQ(20, 48, activation="sigmoid", **o),
    "ConvMonDEQ": lambda margin, **o: wp.ConvMonDEQ(1, 4, (6, 6), m=margin, **o),
    "ConvLBEN": lambda margin, **o: wp.ConvLBEN(1, 4, (6, 6), **o),
    "ConvNEMON": lambda margin, **o: wp.ConvNEMON(1, 4, (6, 6), mu=1.0 - margin, **o),
    "ConvPcDEQ": lambda margin, **o: wp.ConvPcDEQ(1, 4, (6, 6), floor=0.1 * margin, **o),
    "MultiScaleMonDEQ": lambda margin, **o: wp.MultiScaleMonDEQ(1, (3, 4), (6, 4), m=margin, **o),
    "OrthogonalDEQ": lambda margin, **o: wp.OrthogonalDEQ(20, 48, **o),
    "ConvOrthogonalDEQ": lambda margin, **o: wp.ConvOrthogonalDEQ(2, 4, (6, 6), **o),
    "ImplicitGraph ignn": lambda margin, **o: OnGraphs(wp.ImplicitGraph(4, 12, kappa=1.0 - 0.1 * margin**0.5, **o)),
    "ImplicitGraph orthogonal": lambda margin, **o: OnGraphs(
        wp.ImplicitGraph(4, 12, variant="orthogonal", kappa=1.0 - 0.1 * margin**0.5, activation="group_sort", **o)
    ),
    "ImplicitGraph lipschitz": lambda margin, **o: OnGraphs(
        wp.ImplicitGraph(4, 12, variant="lipschitz", kappa=1.0 - 0.1 * margin**0.5, activation="group_sort", **o)
    ),
}


def layers(family: str) -> Iterator[tuple[torch.nn.Module, torch.nn.Module]]:
    """A layer in float32 and the same one in float64, for several weights."""
    for seed, (scale, margin) in enumerate((s, m) for m in (1.0, 0.1) for s in (*SCALES, None)):
        torch.manual_seed(seed)
        layer = FAMILIES[family](margin, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if scale is None:
                    parameter.add_(torch.randn_like(parameter))
                elif not name.endswith("bias"):
                    parameter.mul_(scale)
        exact = FAMILIES[family](margin, dtype=torch.float64, rtol=1e-9, atol=1e-9)
        exact.load_state_dict(layer.state_dict())
        yield layer.eval(), exact.eval()


@torch.no_grad()
def ratios(layer: torch.nn.Module, exact: torch.nn.Module, x: Tensor) -> Tensor:
    """True error over tolerance of every sample."""
    value, true = layer.state(x).double().flatten(1), exact.solve(x.double()).value.flatten(1)
    rtol, atol = layer.limits()
    return (value - true).norm(dim=1) / (atol + rtol * true.norm(dim=1))


def main() -> None:
    """Print a Markdown table, a line per family; exit with an error where one errs more often than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000, help="of every family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| family | samples | beyond the tolerance, per cent | largest error over tolerance | median |")
    print("|---|---|---|---|---|")
    failed = []
    for family in arguments.families:
        found = []
        for layer, exact in layers(family):
            left = arguments.samples // (2 * len(SCALES) + 2) + 1
            while left > 0:
                count = min(left, 1000)
                size = 10.0 ** torch.empty(count, *[1] * len(layer.input_shape)).uniform_(-1.0, 1.0)
                found.append(ratios(layer, exact, size * torch.randn(count, *layer.input_shape)))
                left -= count
        every = torch.cat(found)
        beyond, worst = float((every > 1.0).double().mean()), float(every.max())
        kept = beyond <= MOST_BEYOND and worst <= LARGEST
        failed += [] if kept else [family]
        fault = "" if kept else " TOO MANY"
        numbers = f"{len(every)} | {100 * beyond:.3f}{fault} | {worst:.2f} | {float(every.median()):.2f}"
        print(f"| {family} | {numbers} |", flush=True)
    if failed:
        raise SystemExit(f"too inexact: {', '.join(failed)}")


if __name__ == "__main__":
    main()
