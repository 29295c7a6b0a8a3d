"""Time of the best diagonal metric of a layer and its head, against Clarabel through cvxpy where that finishes.

Random monotone layers with 784 inputs and 10 outputs; one thread, CPU seconds. Both optima are compared first; every one of ours
is proved by Cholesky, which the time includes.
"""

from __future__ import annotations

import itertools
import time

import cvxpy
import numpy as np
import torch

from wellposed.bounds.diagonal_metric import DenseMetricProblem

CLARABEL_UP_TO = 40


def problem(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, U and C of a monotone layer with m = 1."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a, b = draw(size, size) / size**0.5, draw(size, size) / size**0.5
    return -2.0 * a.T @ a + b - b.T, draw(size, 784) / 28.0, draw(10, size) / size**0.5


def clarabel(matrix: torch.Tensor, driven: torch.Tensor, seen: torch.Tensor) -> float:
    """The optimum of the semidefinite program, with UUᵀ in place of U, which has fewer columns."""
    size = len(matrix)
    root = np.linalg.cholesky((driven @ driven.T).numpy())
    multipliers, square = cvxpy.Variable(size), cvxpy.Variable()
    half = cvxpy.diag(multipliers) @ (np.eye(size) - matrix.numpy())
    through = cvxpy.diag(multipliers) @ root
    corner = half + half.T - (seen.T @ seen).numpy()
    whole = cvxpy.bmat([[corner, through], [through.T, square * np.eye(size)]])
    cvxpy.Problem(cvxpy.Minimize(square), [0.5 * (whole + whole.T) >> 0]).solve(solver=cvxpy.CLARABEL)
    return float(square.value) ** 0.5


def main() -> None:
    """Print one line per size."""
    torch.set_num_threads(1)
    print(f"{'n':>4}  {'‖C‖‖U‖/m':>9}  {'bound':>9}  seconds  {'Clarabel':>9}  seconds  ratio  45 pairs, seconds")
    for size in (40, 87, 200, 600):
        matrix, driven, seen = problem(size)
        norms = float(torch.linalg.matrix_norm(driven, 2) * torch.linalg.matrix_norm(seen, 2))
        start = time.process_time()
        block = DenseMetricProblem(matrix, driven, torch.ones(size, dtype=torch.float64))
        found = block.bound(seen)
        own = time.process_time() - start
        assert found is not None
        line = f"{size:4d}  {norms:9.5f}  {found.value:9.5f}  {own:7.3f}"
        if size <= CLARABEL_UP_TO:
            start = time.process_time()
            expected = clarabel(matrix, driven, seen)
            rival = time.process_time() - start
            assert expected * (1 - 1e-6) <= found.value <= expected * (1 + 1e-4), (expected, found.value)
            line += f"  {expected:9.5f}  {rival:7.2f}  {rival / own:5.0f}"
        else:
            line += f"  {'–':>9}  {'–':>7}  {'–':>5}"
        if size <= 200:
            start = time.process_time()
            for first, second in itertools.combinations(range(10), 2):
                assert block.bound((seen[first] - seen[second])[None], found.multipliers) is not None
            line += f"  {time.process_time() - start:8.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
