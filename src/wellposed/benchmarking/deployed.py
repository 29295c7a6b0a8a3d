"""One input through a deployed file, against a plain torch loop of the same iteration with precomputed factors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import wellposed as wp
from wellposed.benchmarking.benchmark import Benchmark, Options
from wellposed.benchmarking.contest import Rules, contest
from wellposed.benchmarking.contestant import Contestant, is_installed
from wellposed.benchmarking.fixed_point_case import median_and_worst
from wellposed.benchmarking.row import Row
from wellposed.deployment.runtime import DeployedNetwork
from wellposed.network.kinds.equilibrium import cayley

_STOP = 2.0**-22  # of the relative change of iterates, as in the file
_MOST_STEPS = 2000


class Answers:
    """One way to get logits, input after input.

    Args:
        answer: logits of a batch of one.
        inputs: shape (inputs, 1, features).
        exact: the logits in float64.
    """

    def __init__(self, answer: partial[Tensor], inputs: Tensor, exact: Tensor) -> None:
        self._answer, self._inputs, self._exact = answer, inputs, exact
        self._next = 0

    @torch.no_grad()
    def run(self, *tolerances: float) -> Tensor:
        """The logits of the next input."""
        self._next = (self._next + 1) % len(self._inputs)
        return self._answer(self._inputs[self._next])

    @torch.no_grad()
    def errors(self, *tolerances: float) -> Sequence[float]:
        """Median and worst relative error over the inputs."""
        return median_and_worst(torch.cat([self._answer(x) for x in self._inputs]), self._exact)


def rows(options: Options) -> Iterator[Row]:
    """The file against the loop and against the module, for several widths."""
    for width in (12,) if options.quick else (40, 87, 200):
        torch.manual_seed(0)
        model = nn.Sequential(wp.MonDEQ(784, width, m=0.5), nn.Linear(width, 10)).eval()
        case = f"{width} wide, one input"
        if not is_installed("onnxruntime"):
            yield Row(case, "file", "plain loop", remark="onnxruntime is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            network = wp.export(model, path)
            file = DeployedNetwork(path)
        inputs = torch.randn(10 if options.quick else 200, 1, 784, device="cpu")
        exact = network.exact(inputs[:, 0].double())
        own, loop, module = (
            Contestant.of(name, Answers(answer, inputs, exact))
            for name, answer in (
                ("file", partial(_of_file, file)),
                ("plain loop", partial(_looped, *_factors(network), network.blocks[1].module)),
                ("the module", partial(model)),
            )
        )
        yield from contest(case, [own], [loop, module], Rules(seconds=0.1 if options.quick else 6.0, turns=20))


def _of_file(file: DeployedNetwork, x: Tensor) -> Tensor:
    return file(x)[0]


def _factors(network: wp.Network) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Injection, its offset, what drives the iteration, and the Cayley transform, transposed."""
    layer = network.blocks[0].module
    step = layer.guarantee().suggested_step()
    matrix = cayley(layer.operator().matrix().double(), step)
    drive = (step * (torch.eye(len(matrix), device="cpu") + matrix)).float().t().contiguous()
    return layer.injection.weight.t().contiguous(), layer.injection.bias, drive, matrix.float().t().contiguous()


def _looped(weight: Tensor, bias: Tensor, drive: Tensor, turned: Tensor, head: nn.Module, x: Tensor) -> Tensor:
    """The Peaceman–Rachford iteration, until its iterates change by less than the file's stopping rule."""
    start = torch.addmm(bias, x, weight) @ drive
    u = start
    for _ in range(_MOST_STEPS):
        new = torch.addmm(start, u.abs(), turned)
        done = (new - u).norm() <= _STOP * new.norm()
        u = new
        if done:
            break
    return head(torch.relu(u))


DEPLOYED = Benchmark(
    name="deployed",
    title="Deployed files",
    explained="One input of 784 pixels through a monotone layer and a head with 10 logits. The file runs in onnxruntime and "
    "bounds the error of each answer besides; the loop has nothing but the iteration, with precomputed factors, and a"
    " stopping rule on the change of its iterates; the module is the layer in torch, with default options.",
    errors=("logits, median", "logits, worst"),
    rows=rows,
)
