"""One input through a deployed file, against a plain torch loop of the same iteration with precomputed factors.

Both answer for a monotone layer of width 40 between 784 inputs and 10 logits. The loop has nothing but the iteration and a
stopping rule on the change of its iterates; the file besides bounds the error of its answer. Accuracy is checked first,
against float64.
"""

import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime
import torch
from torch import nn

import wellposed as wp
from wellposed.network.kinds.equilibrium import cayley


def plain_loop(model: nn.Sequential, network: wp.Network):
    """The Peaceman–Rachford iteration in torch, until its iterates change by less than the file's stopping rule."""
    layer, head = network.blocks[0].module, network.blocks[1].module
    step = layer.guarantee().suggested_step()
    matrix = cayley(layer.operator().matrix().double(), step)
    drive = (step * (torch.eye(len(matrix)) + matrix)).float().t().contiguous()
    turned = matrix.float().t().contiguous()
    weight, bias = layer.injection.weight.t().contiguous(), layer.injection.bias

    def run(x):
        start = torch.addmm(bias, x, weight) @ drive
        u = start
        for _ in range(2000):
            new = torch.addmm(start, u.abs(), turned)
            done = (new - u).norm() <= 2.0**-22 * new.norm()
            u = new
            if done:
                break
        return head(torch.relu(u))

    return torch.no_grad()(run)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(wp.MonDEQ(784, 40, m=0.5), nn.Linear(40, 10)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        network = wp.export(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
    loop = plain_loop(model, network)
    inputs = torch.randn(200, 1, 784)
    ways = {
        "file": lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]),
        "loop": loop,
        "module": torch.no_grad()(model),
    }
    exact = network.exact
    for name, run in ways.items():
        errors = [float((run(x).double() - exact(x.double())).norm()) for x in inputs[:50]]
        print(f"{name}: largest error {max(errors):.2e}")
    seconds = {name: [] for name in ways}
    for x in inputs:
        for name, run in ways.items():
            started = time.perf_counter()
            run(x)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.3f} ms, {value / medians['loop']:.2f} of the plain loop")


if __name__ == "__main__":
    main()
