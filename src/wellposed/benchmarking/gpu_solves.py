"""Layers on a device: errors against float64, an iteration against the roofline, a solve, a training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import wellposed as wp
from wellposed.benchmarking.fixed_point_case import median_and_worst
from wellposed.benchmarking.roofline import Roofline, seconds_of

BATCHES = (128, 256, 512, 1024, 2048, 4096)
_CHECKED = 64  # inputs whose errors are computed


@dataclass(frozen=True)
class SolveRow:
    """One layer at one batch.

    Attributes:
        case: the layer.
        batch: number of inputs.
        errors: of values, median and worst, relative to float64.
        iteration_ms: one Peaceman–Rachford iteration.
        share: of the roofline: the least time of that iteration over its own.
        solve_ms: a forward pass without gradients.
        step_ms: forward and backward.
    """

    case: str
    batch: int
    errors: tuple[float, float]
    iteration_ms: float
    share: float
    solve_ms: float
    step_ms: float


def solves(device: torch.device, limits: Roofline, *, tiny: bool) -> Iterator[SolveRow]:
    """Dense layers at batches up to 4096, then convolutions at the size of CIFAR's images.

    Args:
        device: to run on.
        limits: of the device.
        tiny: small cases, to see that everything works.
    """
    for width in (8,) if tiny else (200, 512, 2048):
        for batch in (4,) if tiny else BATCHES:
            torch.manual_seed(0)
            layer = wp.MonDEQ(784, width, device=device)
            least = limits.least_seconds(3 * batch * width + width**2, 2 * batch * width**2)
            yield _row(f"MonDEQ, {width} wide", layer, batch, least)
    size = 6 if tiny else 32
    for channels in (2,) if tiny else (81, 200):
        for batch in (2,) if tiny else (128, 512):
            torch.manual_seed(0)
            conv = wp.ConvMonDEQ(3, channels, (size, size), border=1, device=device)
            pixels, frequencies = (size + 2) ** 2, (size + 2) * ((size + 2) // 2 + 1)
            numbers = 3 * batch * channels * pixels + 2 * frequencies * channels**2
            least = limits.least_seconds(numbers, 8 * batch * channels**2 * frequencies)
            yield _row(f"ConvMonDEQ, {channels} × {size}²", conv, batch, least)


def _row(case: str, layer: Any, batch: int, least: float) -> SolveRow:
    device = next(layer.parameters()).device
    x = torch.rand(batch, *layer.input_shape, device=device)
    errors = _errors(layer, x[:_CHECKED])
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        offset = torch.randn(batch, *layer.state_shape, device=device)
        problem = wp.AffineProblem(operator, offset, layer.activation)
        iteration = seconds_of(wp.PeacemanRachford().bind(problem, guarantee, None, offset).advance, device)
        solve = seconds_of(lambda: layer(x), device)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    return SolveRow(
        case, batch, errors, 1e3 * iteration, least / iteration, 1e3 * solve, 1e3 * seconds_of(step, device)
    )


@torch.no_grad()
def _errors(layer: Any, x: torch.Tensor) -> tuple[float, float]:
    found = layer(x)
    tolerance = layer.tolerance
    exact = layer.double()
    exact.tolerance = type(tolerance)(1e-10, 1e-10)
    reference = exact(x.double())
    layer.float().tolerance = tolerance
    return median_and_worst(found, reference)
