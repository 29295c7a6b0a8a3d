"""Time of the best metric of the channels of a circular convolution and its head, against Clarabel where that finishes.

Random monotone convolutions on single-channel images, averages over windows and ten classes; one thread, CPU seconds. Clarabel
gets the semidefinite program of the whole image with one multiplier for every channel; both optima are compared first. Ours are
proved by Cholesky, which the time includes.
"""

from __future__ import annotations

import time

import cvxpy
import numpy as np
import torch
from torch import nn

import wellposed as wp
from wellposed.bounds.frequency_metric import circular_metric_problem
from wellposed.bounds.metric_of_tail import MetricOfTail
from wellposed.network import materialise


def network(image: int, channels: int) -> nn.Sequential:
    """A classifier whose state has ``channels`` images of that size, with a border that is kept zero."""
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(1, channels, (image - 2, image - 2), border=1)
    with torch.no_grad():
        layer.constraint.A.mul_(3.0)
        layer.constraint.B.mul_(3.0)
    head = nn.Linear(channels * (image // 4) ** 2, 10)
    return nn.Sequential(layer, nn.AvgPool2d(4), nn.Flatten(), head).eval()


def clarabel(layer: wp.ConvMonDEQ, seen: torch.Tensor) -> float:
    """The optimum, U wrapping around as in the frequencies."""
    channels, height, width = layer.state_shape
    size = channels * height * width
    unit = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    padded = nn.functional.pad(unit, (1, 1, 1, 1), mode="circular")
    driven = nn.functional.conv2d(padded, layer.injection.weight.detach().double()).flatten(1).t().numpy()
    matrix = layer.operator().dense().detach().double().numpy()
    multipliers, square = cvxpy.Variable(channels), cvxpy.Variable()
    spread = np.kron(np.eye(channels), np.ones((height * width, 1))) @ multipliers
    half = cvxpy.diag(spread) @ (np.eye(size) - matrix)
    through = cvxpy.diag(spread) @ driven
    corner = half + half.T - seen.numpy().T @ seen.numpy()
    whole = cvxpy.bmat([[corner, through], [through.T, square * np.eye(driven.shape[1])]])
    cvxpy.Problem(cvxpy.Minimize(square), [0.5 * (whole + whole.T) >> 0]).solve(solver=cvxpy.CLARABEL)
    return float(square.value) ** 0.5


def main() -> None:
    """Print a comparison, then one line per size."""
    torch.set_num_threads(1)
    layer = network(4, 2)[0]
    seen = torch.randn(3, layer.state_features, dtype=torch.float64)
    start = time.process_time()
    found = circular_metric_problem(layer).bound(seen)
    own = time.process_time() - start
    start = time.process_time()
    expected = clarabel(layer, seen)
    other = time.process_time() - start
    ratio = found.value / expected
    assert 1 - 1e-6 <= ratio <= 1 + 1e-4, ratio
    print(f"4 × 4 × 2: {own:.3f} s; Clarabel {other:.3f} s, optima in ratio {ratio:.7f}, times {other / own:.0f}")
    print("state        product  bound  2·product/pair, mean  all bounds and 45 pairs, s")
    for image, channels in ((14, 16), (28, 16), (28, 32)):
        model = network(image, channels)
        product = wp.certify(model, method="product").lipschitz
        start = time.process_time()
        tail = MetricOfTail().bound(materialise(model), "2").tail
        spent = time.process_time() - start
        off = ~torch.eye(10, dtype=torch.bool)
        gain = float((2.0 * product / tail.pairs[off]).mean())
        print(f"{image}×{image}×{channels:<6d} {product:8.4f} {tail.value:7.4f}  {gain:12.2f}  {spent:12.1f}")


if __name__ == "__main__":
    main()
