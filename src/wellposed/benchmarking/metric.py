"""The best diagonal metric of a layer and its head, with its proof, against Clarabel through cvxpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant, is_installed
from wellposed.benchmarking.row import Row
from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.errors import require

_INPUTS, _OUTPUTS = 784, 10
_PROVED = 1e-4  # by how much a proved bound may exceed the optimum that the rival's numbers say


class Metric:
    """A random monotone layer with m = 1 and its head, and the least bound of their constant.

    Args:
        width: of the state.
    """

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

        a, b = draw(width, width) / width**0.5, draw(width, width) / width**0.5
        self._matrix = -2.0 * a.T @ a + b - b.T
        self._driven, self._seen = draw(width, _INPUTS) / _INPUTS**0.5, draw(_OUTPUTS, width) / width**0.5

    def run(self, *tolerances: float) -> float:
        """The bound, proved by Cholesky factorisations."""
        problem = DenseMetricProblem(
            self._matrix, self._driven, torch.ones(len(self._matrix), dtype=torch.float64, device="cpu")
        )
        found = problem.bound(self._seen)
        assert found is not None
        return float(found.value)

    def errors(self, *tolerances: float) -> Sequence[float]:
        """The bound."""
        return (self.run(),)


class Clarabel(Metric):
    """The same bound as a semidefinite program, with UUᵀ in place of U, which has fewer columns."""

    def run(self, *tolerances: float) -> float:
        """The optimum as the solver says it, without a proof."""
        cvxpy: Any = require("cvxpy", "dev")
        size = len(self._matrix)
        root = torch.linalg.cholesky(self._driven @ self._driven.T).numpy()
        identity = torch.eye(size, dtype=torch.float64, device="cpu").numpy()
        multipliers, square = cvxpy.Variable(size), cvxpy.Variable()
        half = cvxpy.diag(multipliers) @ (identity - self._matrix.numpy())
        through = cvxpy.diag(multipliers) @ root
        corner = half + half.T - (self._seen.T @ self._seen).numpy()
        whole = cvxpy.bmat([[corner, through], [through.T, square * identity]])
        cvxpy.Problem(cvxpy.Minimize(square), [0.5 * (whole + whole.T) >> 0]).solve(solver=cvxpy.CLARABEL)
        return float(square.value) ** 0.5

    def errors(self, *tolerances: float) -> Sequence[float]:
        """The optimum, and what a proof may add to it."""
        return (self.run() * (1.0 + _PROVED),)


def rows(options: Options) -> Iterator[Row]:
    """One row per width that Clarabel finishes."""
    for width in (6,) if options.quick else (20, 40):
        rival = (
            Contestant.of("Clarabel", Clarabel(width))
            if is_installed("cvxpy")
            else Contestant.absent("Clarabel", "not installed")
        )
        rules = Rules(seconds=0.2 if options.quick else 20.0)
        yield from contest(f"{width} wide", [Contestant.of("proved metric", Metric(width))], [rival], rules)


METRIC = Benchmark(
    name="metric",
    title="Best metrics",
    explained="The best diagonal metric of a random monotone layer with 784 inputs and a head with 10 outputs, proved, against "
    "the optimum of the same semidefinite program by Clarabel through cvxpy, which proves nothing. In place of errors"
    " stand the bounds, the rival's times 1.0001.",
    errors=("bound",),
    rows=rows,
)
