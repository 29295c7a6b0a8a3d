"""One iteration of circular convolutions against its bare ingredients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

import wellposed as wp
from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant
from wellposed.benchmarking.fixed_point_case import median_and_worst
from wellposed.benchmarking.row import Row
from wellposed.operators import Circular

# Channels, pixels a side, batch.
_SIZES = ((16, 14, 128), (24, 14, 128), (32, 16, 64), (32, 30, 32), (54, 28, 16), (64, 34, 16))


class Iterated:
    """Something that is done over and over.

    Args:
        run: once.
        found: applies the operator, to be compared.
        exact: the same in float64.
    """

    def __init__(self, run: Callable[[], object], found: Callable[[], Tensor], exact: Tensor) -> None:
        self._run, self._found, self._exact = run, found, exact

    @torch.no_grad()
    def run(self, *tolerances: float) -> object:
        """Once."""
        return self._run()

    @torch.no_grad()
    def errors(self, *tolerances: float) -> Sequence[float]:
        """Median and worst relative error of the operator over the samples."""
        return median_and_worst(self._found(), self._exact)


def rows(options: Options) -> Iterator[Row]:
    """One row per size."""
    for channels, size, batch in ((2, 6, 4),) if options.quick else _SIZES:
        torch.manual_seed(0)
        own, rival = _sides(
            wp.ConvMonDEQ(1, channels, (size, size)), torch.randn(batch, channels, size, size, device="cpu")
        )
        rules = Rules(seconds=0.05 if options.quick else 4.0, turns=20)
        yield from contest(f"{channels} × {size}², batch {batch}", [own], [rival], rules)


@torch.no_grad()
def _sides(layer: wp.ConvMonDEQ, offset: Tensor) -> tuple[Contestant, Contestant]:
    operator, guarantee = layer.materialise()
    step = layer.guarantee().suggested_step()
    assert step is not None  # monotone layers have one
    iteration = wp.PeacemanRachford().bind(
        wp.AffineProblem(operator, offset, layer.activation), guarantee, None, offset
    )
    transform = operator.cayley(step)
    assert isinstance(transform, Circular)
    exact = transform.to(torch.float64).apply(offset.double())
    plain = partial(bare, transform._matrices, offset)
    own = Iterated(iteration.advance, partial(transform.apply, offset), exact)
    return Contestant.of("iteration", own), Contestant.of("bare ingredients", Iterated(plain, plain, exact))


def bare(matrices: Tensor, state: Tensor) -> Tensor:
    """The transforms and the products, nothing else."""
    spectrum = torch.fft.rfft2(state)
    product = torch.bmm(matrices, spectrum.flatten(2).permute(2, 1, 0))
    return torch.fft.irfft2(product.permute(2, 1, 0).reshape(spectrum.shape), s=state.shape[-2:])


ITERATION = Benchmark(
    name="iteration",
    title="Iterations of convolutions",
    explained="One Peaceman–Rachford iteration of a circular convolution. The rival is what no implementation in the Fourier "
    "domain can leave out: `rfft2`, one matrix product per frequency, `irfft2`, on the same tensors.",
    errors=("values, median", "values, worst"),
    rows=rows,
)
