"""How many iterations the solves of a network take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.layers.options import solving_modules
from wellposed.operators.graphs import Graphs, frobenius_norms
from wellposed.solvers.solution import Solution, Tolerance


@torch.no_grad()
def iterations(model: nn.Module, inputs: Any) -> float | None:
    """Iterations of the solves of all layers together, a mean over samples; None where no layer solves anything.

    Args:
        model: in eval mode.
        inputs: a batch of what it takes.
    """
    found: list[float] = []

    def count(layer: Any, given: Any, output: Any) -> None:
        found.append(_mean(layer.solve(*given).steps))

    _with_hooks(model, count, inputs)
    return sum(found) if found else None


@torch.no_grad()
def certified_errors(model: nn.Module, inputs: Any, tolerances: Sequence[float]) -> list[tuple[float, float]]:
    """How the first solve of a model goes at relative tolerances: mean iterations, and the largest certified error.

    Args:
        model: in eval mode.
        inputs: a batch of what it takes.
        tolerances: relative ones.

    Returns:
        One pair per tolerance, whose error is relative to the value's norm; none where nothing is solved with a guarantee.
    """
    found: list[tuple[float, float]] = []

    def solve(layer: Any, given: Any, output: Any) -> None:
        if found:
            return
        kept = layer.tolerance
        for tolerance in tolerances:
            layer.tolerance = Tolerance(tolerance, 0.0)
            solution = layer.solve(*given)
            if solution.error_bound is None:
                break
            sizes = _sizes(solution.value, *given[1:])
            found.append((_mean(solution.steps), float((solution.error_bound / sizes.clamp_min(1e-30)).max())))
        layer.tolerance = kept

    _with_hooks(model, solve, inputs)
    return found


def iterations_of_training(model: nn.Module, inputs: Any, labels: Tensor) -> tuple[float, float]:
    """Iterations of a solve, and of the adjoint solve for the gradient of the cross-entropy: means over layers and samples.

    Args:
        model: in eval mode, whose solving layers are all `ImplicitLayer`.
        inputs: a batch of what it takes.
        labels: their classes, shape (batch,).
    """
    found: list[Solution[Any]] = []

    def solve(layer: Any, given: Any, output: Any) -> Tensor:
        found.append(layer.solve(*given))
        value: Tensor = layer.readout(found[-1].value, *given)
        return value

    with torch.enable_grad():
        loss = nn.functional.cross_entropy(_with_hooks(model, solve, inputs), labels)
        torch.autograd.grad(loss, [part for part in model.parameters() if part.requires_grad], allow_unused=True)
    forward = [_mean(solution.steps) for solution in found]
    backward = [_mean(report.steps) for solution in found for report in solution.adjoint_reports]
    return statistics.fmean(forward), statistics.fmean(backward)


def _with_hooks(model: nn.Module, hook: Any, inputs: Any) -> Tensor:
    """The model's value, with a forward hook on every solving layer."""
    hooks = [layer.register_forward_hook(hook) for layer in solving_modules(model)]
    try:
        value: Tensor = model(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return value


def _sizes(value: Tensor, graphs: Graphs | None = None) -> Tensor:
    """Euclidean norms of the samples of a layer's value, shape (batch,)."""
    if graphs is None:
        return value.flatten(1).norm(dim=1)
    return frobenius_norms(value, graphs.batch, graphs.count)


def _mean(steps: Tensor) -> float:
    return float(steps.double().mean())
