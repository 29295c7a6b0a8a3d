"""Does ``torch.compile`` make one iteration of a solve faster? Eager against compiled, in the same process run.

The bodies are those that the solvers run: a Peaceman–Rachford step with a full matrix and with a circular convolution, and one
application of the orthogonal cells. Results are compared first. ``--device cuda`` runs it on a GPU.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

import wellposed as wp

REPEATS, ROUNDS = 20, 7


def seconds(function: Callable[[], object], device: str) -> float:
    """Seconds of one call: the least of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(REPEATS):
            function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / REPEATS)
    return best


def bodies(device: str) -> dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Name: one iteration, and its arguments."""
    found: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {}

    def splitting(layer: Any, state: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
        operator, guarantee = layer.materialise()
        cayley = operator.cayley(guarantee.suggested_step())
        return lambda u, constant: cayley.affine(u.abs(), constant), (state, torch.randn_like(state))

    found["monotone, 200 wide"] = splitting(wp.MonDEQ(784, 200, device=device), torch.randn(128, 200, device=device))
    found["monotone, 24 × 14²"] = splitting(
        wp.ConvMonDEQ(1, 24, (14, 14), device=device), torch.randn(128, 24, 14, 14, device=device)
    )
    flat = wp.OrthogonalDEQ(784, 200, coupling="residual", depth=2, device=device)
    cell, weights, drive = flat._cell(torch.randn(128, 784, device=device), torch.float32)
    found["orthogonal, 200 wide"] = (cell, (torch.randn_like(drive), drive, *weights))
    image = wp.ConvOrthogonalDEQ(3, 16, (16, 16), hidden=20, device=device)
    cell, weights, drive = image._cell(torch.randn(32, 3, 16, 16, device=device), torch.float32)
    found["orthogonal, 16 × 16²"] = (cell, (torch.randn_like(drive), drive, *weights))
    return found


def main() -> None:
    """Print one line per body."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    print(f"{'iteration':>24}  eager ms  compiled ms  ratio  difference")
    with torch.no_grad():
        for name, (body, arguments) in bodies(device).items():
            compiled = torch.compile(body)
            expected = body(*arguments)
            difference = float((compiled(*arguments) - expected).norm() / expected.norm())
            assert difference < 1e-5, (name, difference)
            plain, fused = (seconds(lambda f=f: f(*arguments), device) for f in (body, compiled))  # type: ignore[misc]  # noqa: B023
            print(f"{name:>24}  {1e3 * plain:8.3f}  {1e3 * fused:11.3f}  {plain / fused:5.2f}  {difference:10.1e}")


if __name__ == "__main__":
    main()
