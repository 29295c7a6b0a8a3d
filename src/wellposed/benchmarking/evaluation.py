"""What the evidence of ``solve`` costs: a layer in evaluation mode, against its own value without evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant
from wellposed.benchmarking.fixed_point_case import median_and_worst
from wellposed.benchmarking.row import Row
from wellposed.benchmarking.training_subject import build

# Family, width, batch.
_FAMILIES = (
    ("MonDEQ", 87, 128), ("MonDEQ", 200, 128), ("LBEN", 200, 128), ("NEMON", 200, 128), ("PcDEQ", 200, 128),
    ("OrthogonalDEQ", 200, 128), ("ConvMonDEQ", 16, 16), ("ConvLBEN", 16, 16), ("ConvNEMON", 16, 16), ("ConvPcDEQ", 16, 16),
    ("ConvOrthogonalDEQ", 16, 128),
)  # fmt: skip
_QUICK = (("MonDEQ", 12, 128),)


class Evaluated:
    """One way to evaluate a layer, and how far its values are from those of float64.

    Args:
        way: takes the inputs.
        x: the inputs.
        true: the values.
    """

    def __init__(self, way: Callable[[Tensor], Tensor], x: Tensor, true: Tensor) -> None:
        self._way, self._x, self._true = way, x, true

    @torch.no_grad()
    def run(self, *tolerances: float) -> Tensor:
        """One evaluation."""
        return self._way(self._x)

    def errors(self, *tolerances: float) -> Sequence[float]:
        """Median and worst relative error."""
        return median_and_worst(self.run(), self._true)


def _solving(layer: Any) -> Callable[[Tensor], Tensor]:
    def value(x: Tensor) -> Tensor:
        found: Tensor = layer.solve(x).value
        return found

    return value


def rows(options: Options) -> Iterator[Row]:
    """One row per layer."""
    rules = Rules(tolerances=0, seconds=0.2 if options.quick else 6.0)
    for family, width, batch in _QUICK if options.quick else _FAMILIES:
        torch.manual_seed(0)
        layer = build(family, width).eval()
        x = torch.rand(batch, *layer.input_shape, device="cpu")
        exact = build(family, width, dtype=torch.float64, rtol=1e-10, atol=1e-10)
        exact.load_state_dict(layer.state_dict())
        with torch.no_grad():
            true = exact(x.double())
        own = Contestant.of("solve", Evaluated(_solving(layer), x, true))
        rival = Contestant.of("layer(x)", Evaluated(layer, x, true))
        yield from contest(f"{family}, {width} wide, batch {batch}", [own], [rival], rules)


EVALUATION = Benchmark(
    name="evaluation",
    title="Evidence",
    explained="`layer.solve(x)`, with a proved error bound for every value, against `layer(x)`, both with default options, in "
    "evaluation mode and with weights that do not change.",
    errors=("values, median", "values, worst"),
    rows=rows,
)
