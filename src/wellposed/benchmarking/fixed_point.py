"""`fixed_point` against a plain loop, torchdeq and jax: forward and backward of a batched equation."""

from __future__ import annotations

from collections.abc import Iterator

from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant, is_installed
from wellposed.benchmarking.fixed_point_case import Case
from wellposed.benchmarking.fixed_point_jax import JaxLoop
from wellposed.benchmarking.fixed_point_rivals import FixedPoint, PlainLoop, TorchDeq
from wellposed.benchmarking.row import Row
from wellposed.solvers import Anderson, Picard

_SOLVERS = ("fixed_point_iter", "anderson", "broyden")
_SHAPES = ((64, 128), (256, 512))
_LOOPS = ((128, 64), (128, 256), (512, 64), (1024, 256))  # with more of our solvers, without jax


def rows(options: Options) -> Iterator[Row]:
    """One row per equation and rival."""
    kinds, shapes = (("normal",), ((32, 16),)) if options.quick else (("normal", "orthogonal", "slow"), _SHAPES)
    rules = Rules(tolerances=2, seconds=0.2 if options.quick else 6.0)
    for width, batch in () if options.quick else _LOOPS:
        case = Case.make("normal", width, batch)
        ours = [Contestant.of(type(solver).__name__, FixedPoint(case, solver)) for solver in (Picard(), Anderson())]
        yield from contest(case.name, [Contestant.of("default", FixedPoint(case)), *ours], _loops(case), rules)
    for width, batch in shapes:
        for kind in kinds:  # the slowest for the last
            case = Case.make(kind, width, batch)
            yield from contest(case.name, [Contestant.of("default", FixedPoint(case))], _rivals(case), rules)


def _loops(case: Case) -> list[Contestant]:
    """The plain loop, and torchdeq with each solver."""
    found = [Contestant.of("plain loop", PlainLoop(case))]
    for solver in _SOLVERS:
        name = f"torchdeq, {solver}"
        found.append(
            Contestant.of(name, TorchDeq(case, solver))
            if is_installed("torchdeq")
            else Contestant.absent(name, "not installed")
        )
    return found


def _rivals(case: Case) -> list[Contestant]:
    name = "jax, compiled loop"
    jax = Contestant.of(name, JaxLoop(case)) if is_installed("jax") else Contestant.absent(name, "not installed")
    return [*_loops(case), jax]


FIXED_POINT = Benchmark(
    name="fixed-point",
    title="`fixed_point`",
    explained="Forward and backward of `z = tanh(Wz + Ux + b)` with 64 inputs, float32: W has normal entries and the norm 0.9, "
    "or is 0.95 times (orthogonal) or 0.99 times (slow, with small states) an orthogonal matrix. The loops stop by the relative "
    "residual of every sample; each rival has the loosest tolerances with which all errors are below 1e-4, ours the loosest "
    "with which none is above the rival's. Where a rival's errors stay above, the row says so and has no ratio.",
    errors=("values, median", "values, worst", "gradients, median", "gradients, worst"),
    rows=rows,
)
