"""Cost of one Peaceman–Rachford iteration of a circular convolution against its bare ingredients.

The rival is what no implementation in the Fourier domain can leave out: ``rfft2``, one matrix product per frequency,
``irfft2``, on the same tensors in the same process run, one thread. Accuracy is checked against float64 first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

import wellposed as wp
from wellposed.operators import Circular

REPEATS, ROUNDS = 10, 7


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds of one call: the least of several rounds."""
    function()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(REPEATS):
            function()
        best = min(best, (time.process_time() - start) / REPEATS)
    return best


def bare(matrices: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The transforms and the products, nothing else."""
    spectrum = torch.fft.rfft2(state)
    product = torch.bmm(matrices, spectrum.flatten(2).permute(2, 1, 0))
    return torch.fft.irfft2(product.permute(2, 1, 0).reshape(spectrum.shape), s=state.shape[-2:])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'state':>16} {'batch':>6} {'bare ms':>9} {'iteration ms':>13} {'ratio':>6} {'rel. error':>11}")
    for channels, size, batch in ((16, 14, 128), (24, 14, 128), (32, 16, 64), (32, 30, 32), (54, 28, 16), (64, 34, 16)):
        layer = wp.ConvMonDEQ(1, channels, (size, size))
        with torch.no_grad():
            operator, guarantee = layer.materialise()
            offset = torch.randn(batch, channels, size, size)
            problem = wp.AffineProblem(operator, offset, layer.activation)
            iteration = wp.PeacemanRachford().bind(problem, guarantee, None, offset)
            transform = operator.cayley(guarantee.suggested_step())
            assert isinstance(transform, Circular)
            rival = partial(bare, transform._matrices, offset)
            exact = transform.to(torch.float64).apply(offset.double())
            error = max(
                float((value.double() - exact).norm() / exact.norm()) for value in (rival(), transform.apply(offset))
            )
            assert error < 1e-5, error
            ours, theirs = float("inf"), float("inf")
            for _ in range(3):  # in turns
                theirs, ours = min(theirs, seconds(rival)), min(ours, seconds(iteration.advance))
        shape = f"{channels} × {size}²"
        print(f"{shape:>16} {batch:6d} {1e3 * theirs:9.2f} {1e3 * ours:13.2f} {ours / theirs:6.2f} {error:11.1e}")


if __name__ == "__main__":
    main()
