"""One iteration of a solve compiled by torch, against the same iteration as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import wellposed as wp
from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant
from wellposed.benchmarking.fixed_point_case import median_and_worst
from wellposed.benchmarking.row import Row

Body = tuple[Callable[..., Tensor], tuple[Tensor, ...]]
_REPEATS = 10  # calls per run: a single one is shorter than clocks can tell


class Called:
    """A body that is called over and over.

    Args:
        body: the function.
        arguments: of the function.
        expected: its value, eagerly in the same precision.
    """

    def __init__(self, body: Callable[..., Tensor], arguments: tuple[Tensor, ...], expected: Tensor) -> None:
        self._body, self._arguments, self._expected = body, arguments, expected

    @torch.no_grad()
    def run(self, *tolerances: float) -> None:
        """Ten calls."""
        for _ in range(_REPEATS):
            self._body(*self._arguments)

    @torch.no_grad()
    def errors(self, *tolerances: float) -> Sequence[float]:
        """Median and worst relative difference from the eager value, over the samples."""
        return median_and_worst(self._body(*self._arguments), self._expected)


@torch.no_grad()
def bodies(quick: bool) -> dict[str, Body]:
    """Name: one iteration, and its arguments."""
    width, channels, size, batch = (8, 2, 6, 4) if quick else (200, 24, 14, 128)
    flat = wp.OrthogonalDEQ(784, width, coupling="residual", depth=2)
    cell, weights, drive = flat._cell(torch.randn(batch, 784, device="cpu"), torch.float32)
    state = torch.randn(batch, channels, size, size, device="cpu")
    return {
        f"monotone, {width} wide": _splitting(wp.MonDEQ(784, width), torch.randn(batch, width, device="cpu")),
        f"monotone, {channels} × {size}²": _splitting(wp.ConvMonDEQ(1, channels, (size, size)), state),
        f"orthogonal, {width} wide": (cell, (torch.randn_like(drive), drive, *weights)),
    }


def _splitting(layer: Any, state: Tensor) -> Body:
    operator, guarantee = layer.materialise()
    cayley = operator.cayley(guarantee.suggested_step())
    return lambda u, constant: cayley.affine(u.abs(), constant), (state, torch.randn_like(state))


def rows(options: Options) -> Iterator[Row]:
    """One row per body."""
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    for name, (body, arguments) in bodies(options.quick).items():
        with torch.no_grad():
            expected = body(*arguments)
        compiled = Contestant.of("compiled", Called(torch.compile(body), arguments, expected))
        eager = Contestant.of("eager", Called(body, arguments, expected))
        yield from contest(name, [compiled], [eager], Rules(seconds=0.1 if options.quick else 4.0, turns=20))


COMPILED = Benchmark(
    name="compiled",
    title="Compiled iterations",
    explained="Ten calls of one iteration of a solve, compiled by `torch.compile` against as it is. Solvers are not compiled: "
    "what is left of this in a whole solve is lost to guards and recompilation. In place of errors stand the "
    "differences from the eager value.",
    errors=("values, median", "values, worst"),
    rows=rows,
)
