"""`fixed_point` against a plain loop and torchdeq at equal accuracy: ``PYTHONPATH=… python benchmarks/fixed_point_speed.py``.

Forward and backward of ``z = tanh(Wz + Ux + b)`` in float32, one thread, process CPU time, all runners in turns in one
process. Accuracy comes first: each rival gets the loosest tolerances with which values and gradients of all samples are
within 1e-4 of a float64 solve, and ours the loosest with which median and worst error are no worse than that rival's.
torchdeq is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import wellposed as wp

TARGET = 1e-4
FINEST = 24  # rungs of the ladder of tolerances
SHAPES = ((128, 64), (128, 256), (512, 64), (1024, 256))
QUICK = ((128, 64), (512, 64))
Runner = Callable[["Case", float, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """One equation, a cotangent of its solution, and the exact solution with its gradient in the offset."""

    name: str
    weight: Tensor
    inner: Tensor
    bias: Tensor
    x: Tensor
    cotangent: Tensor
    value: Tensor
    gradient: Tensor

    @classmethod
    def make(cls, kind: str, width: int, batch: int) -> Case:
        """W with ‖W‖₂ = 0.9 of normal entries ("gauss"), or 0.95 times ("orth"), 0.99 times ("slow") an orthogonal one."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
        factor = {"gauss": 0.9, "orth": 0.95, "slow": 0.99}[kind]
        weight = weight / torch.linalg.matrix_norm(weight, 2) if kind == "gauss" else torch.linalg.qr(weight)[0]
        small = 0.05 if kind == "slow" else 1.0  # where tanh is almost linear
        inner = torch.randn(width, 64, generator=generator, dtype=torch.float64) * (small / 8)
        bias = torch.randn(width, generator=generator, dtype=torch.float64) * (0.1 * small)
        x = torch.randn(batch, 64, generator=generator, dtype=torch.float64)
        cotangent = torch.randn(batch, width, generator=generator, dtype=torch.float64) / width
        stored = [tensor.float() for tensor in (factor * weight, inner, bias, x, cotangent)]
        weight, inner, bias, x, cotangent = (tensor.double() for tensor in stored)
        offset = x @ inner.T + bias
        value = iterated(lambda z: cell(z, weight, offset), torch.zeros_like(cotangent), 1e-13)
        slopes = 1.0 - value.square()
        adjoint = iterated(lambda y: cotangent + (slopes * y) @ weight, cotangent, 1e-13)
        parts = [tensor.requires_grad_() for tensor in stored[:3]]
        return cls(f"{kind} {width}x{batch}", *parts, *stored[3:], value, slopes * adjoint)

    def offset(self) -> Tensor:
        """Ux + b, a node of the graph."""
        return torch.addmm(self.bias, self.x, self.inner.T)

    def errors(self, run: Runner, forward: float, backward: float) -> tuple[float, float, float, float]:
        """Median and worst relative error of values, then of gradients, over the samples."""
        return tuple(
            float(reduce((found.double() - true).norm(dim=1) / true.norm(dim=1)))
            for found, true in zip(run(self, forward, backward), (self.value, self.gradient), strict=True)
            for reduce in (torch.median, torch.max)
        )


def cell(z: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """The map."""
    return torch.tanh(z @ weight.T + offset)


def finished(case: Case, value: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The backward pass that all runners share; gradients of the parameters are formed too."""
    wanted = (offset, case.weight, case.inner, case.bias)
    return value.detach(), torch.autograd.grad(value, wanted, case.cotangent)[0]


def iterated(step: Callable[[Tensor], Tensor], state: Tensor, rtol: float) -> Tensor:
    """A plain loop that ends once every sample's relative residual is within the tolerance."""
    for _ in range(5000):
        image = step(state)
        residual = (image - state).norm(dim=1)
        state = image
        if (residual <= rtol * image.norm(dim=1)).all():
            break
    return state


def plain(case: Case, forward: float, backward: float) -> tuple[Tensor, Tensor]:
    """A loop without a graph, one step with its graph, and a loop of products with its transposed Jacobian."""
    offset = case.offset()
    with torch.no_grad():
        state = iterated(lambda z: cell(z, case.weight, offset), torch.zeros_like(case.cotangent), forward)
    point = state.requires_grad_()
    image = cell(point, case.weight, offset)

    def step(y: Tensor) -> Tensor:
        return case.cotangent + torch.autograd.grad(image, point, y, retain_graph=True)[0]

    adjoint = iterated(step, case.cotangent, backward)
    found = torch.autograd.grad(image, (offset, case.weight), adjoint, retain_graph=True)
    torch.autograd.grad(offset, (case.inner, case.bias), found[0])
    return image.detach(), found[0]


def ours(solver: wp.Solver | None) -> Runner:
    """`fixed_point` with a solver."""

    def run(case: Case, forward: float, backward: float) -> tuple[Tensor, Tensor]:
        offset = case.offset()
        found = wp.fixed_point(
            cell, torch.zeros_like(case.cotangent), (case.weight, offset), solver=solver, rtol=forward, atol=0.0, max_steps=5000,
            gradient=wp.Exact(rtol=backward), on_failure="raise",
        )  # fmt: skip
        return finished(case, found.value, offset)

    return run


def torchdeq(solver: str) -> Runner:
    """torchdeq with its exact gradient and relative residuals."""
    from torchdeq import get_deq

    def run(case: Case, forward: float, backward: float) -> tuple[Tensor, Tensor]:
        deq = get_deq(
            ift=True, f_solver=solver, b_solver=solver, f_tol=forward, b_tol=backward, f_stop_mode="rel",
            b_stop_mode="rel", f_max_iter=400, b_max_iter=400,
        )  # fmt: skip
        offset = case.offset()
        value = deq(lambda z: cell(z, case.weight, offset), torch.zeros_like(case.cotangent))[0][-1]
        return finished(case, value, offset)

    return run


def tolerances(case: Case, run: Runner, goal: tuple[float, float, float, float]) -> tuple[float, float] | None:
    """The loosest tolerances with which no error is above its goal; None where there are none on the ladder."""
    ladder = [TARGET * 1.3 ** (3 - rung) for rung in range(FINEST)]
    forward = next((t for t in ladder if within(case.errors(run, t, TARGET)[:2], goal[:2])), None)
    if forward is None:
        return None
    backward = next((t for t in ladder if within(case.errors(run, forward, t), goal)), None)
    return None if backward is None else (forward, backward)


def within(errors: tuple[float, ...], goal: tuple[float, ...]) -> bool:
    """Whether no error is above its goal."""
    return all(error <= limit for error, limit in zip(errors, goal, strict=True))


def times(case: Case, runs: dict[str, tuple[Runner, float, float]], seconds: float) -> dict[str, list[float]]:
    """Process CPU times in milliseconds, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    until = time.process_time() + seconds
    while len(next(iter(found.values()))) < 5 or time.process_time() < until:
        for name, (run, forward, backward) in runs.items():
            start = time.process_time()
            run(case, forward, backward)
            found[name].append(1e3 * (time.process_time() - start))
    return found


def measured(case: Case, rivals: dict[str, Runner], mine: dict[str, Runner], seconds: float) -> list[dict[str, object]]:
    """One row for each of ours against each rival: medians, quartiles, their ratio, and the errors of both."""
    rows: list[dict[str, object]] = []
    everyone: dict[str, tuple[Runner, float, float]] = {}
    pairs: list[tuple[str, str]] = []
    for rival, run in rivals.items():
        chosen = tolerances(case, run, (TARGET,) * 4)
        if chosen is None:
            rows.append({"case": case.name, "rival": rival, "failed": True})
            continue
        everyone[rival] = (run, *chosen)
        goal = case.errors(run, *chosen)
        for name, own in mine.items():
            fitting = tolerances(case, own, goal)
            if fitting is None:
                rows.append({"case": case.name, "rival": rival, "ours": name, "failed": True})
                continue
            everyone[f"{name} as exact as {rival}"] = (own, *fitting)
            pairs.append((name, rival))
    taken = times(case, everyone, seconds * len(everyone))
    for name, rival in pairs:
        key = f"{name} as exact as {rival}"
        rows.append({
            "case": case.name, "rival": rival, "ours": name, "ratio": middle(taken[key]) / middle(taken[rival]),
            "milliseconds": [middle(taken[key]), middle(taken[rival])],
            "quartiles": [statistics.quantiles(taken[k], n=4)[::2] for k in (key, rival)], "repeats": len(taken[key]),
            "errors": [case.errors(*everyone[k]) for k in (key, rival)], "tolerances": [everyone[k][1:] for k in (key, rival)],
        })  # fmt: skip
    return rows


def middle(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def shown(row: dict[str, object]) -> str:
    """A row for people."""
    if "failed" in row:
        return f"{row['case']:16s} {row.get('ours', row['rival'])}: not that exact"
    (mine, theirs), (own, other) = row["milliseconds"], row["errors"]  # type: ignore[misc]
    errors = " ".join(f"{a:.1e}/{b:.1e}" for a, b in zip(own, other, strict=True))  # type: ignore[has-type]
    return (
        f"{row['case']:16s} {row['ours']:9s} / {row['rival']:26s} {row['ratio']:5.2f}   {mine:8.2f} / {theirs:8.2f} ms"  # type: ignore[has-type]
        f"   errors {errors}"
    )


def main() -> None:
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, and little time for each")
    parser.add_argument("--kinds", nargs="+", default=["gauss", "orth", "slow"])
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU time for each runner")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rivals: dict[str, Runner] = {"plain": plain}
    if importlib.util.find_spec("torchdeq") is not None:
        rivals |= {f"torchdeq {name}": torchdeq(name) for name in ("fixed_point_iter", "anderson", "broyden")}
    mine = {"Picard": ours(wp.Picard()), "default": ours(None), "Anderson": ours(wp.Anderson())}
    rows = []
    for kind in arguments.kinds:
        for width, batch in QUICK if arguments.quick else SHAPES:
            case = Case.make(kind, width, batch)
            found = measured(case, rivals, mine, 0.3 if arguments.quick else arguments.seconds)
            rows += found
            print("\n".join(map(shown, found)), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
