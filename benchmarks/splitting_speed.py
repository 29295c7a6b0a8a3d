"""Forward and backward of a dense monotone layer against the original algorithm: ``python benchmarks/splitting_speed.py``.

One thread, process CPU time, the two in turns of ten steps in one process, best of all. Accuracy comes first: values and
gradients of both are compared with a dense float64 solve, and ours must not be the less accurate one.
"""

from __future__ import annotations

import argparse
import time

import torch
from original_mondeq import OriginalMonDEQ
from torch import Tensor

import wellposed as wp


def reference(layer: wp.MonDEQ, x: Tensor, cotangent: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Equilibrium and gradients in float64 by our layer at machine tolerance, checked by its own error bound."""
    exact = wp.MonDEQ(layer.in_features, layer.state_features, m=layer.constraint.m, dtype=torch.float64, rtol=1e-12)
    exact.load_state_dict(layer.state_dict())
    value = exact.solve(x.double()).value
    gradients = torch.autograd.grad(
        (value * cotangent.double()).sum(), [exact.constraint.A, exact.constraint.B, exact.injection.weight]
    )
    return value, list(gradients)


def relative(found: Tensor, true: Tensor) -> float:
    """Relative Euclidean error."""
    return float((found.detach().double() - true).norm() / true.norm())


def original_step(width: int, x: Tensor, m: float, tol: float, state: dict[str, Tensor]) -> float:
    """The halving grid of the authors' tuner: the largest step after which iterations stop falling."""
    best, best_count, alpha = 1.0, 10**9, 1.0
    for _ in range(8):
        rival = OriginalMonDEQ(x.shape[1], width, m, alpha, tol)
        load(rival, state)
        rival(x).sum().backward()
        count = sum(rival.iterations)
        if count < best_count:
            best, best_count = alpha, count
        alpha *= 0.5
    return best


def load(rival: OriginalMonDEQ, state: dict[str, Tensor]) -> None:
    """Give the rival the same weights."""
    with torch.no_grad():
        rival.U.weight.copy_(state["injection.weight"])
        rival.U.bias.copy_(state["injection.bias"])
        rival.A.weight.copy_(state["constraint.A"])
        rival.B.weight.copy_(state["constraint.B"])


def main() -> None:
    """Print one row per width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[40, 80, 200])
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-2, 1e-3, 1e-5])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--m", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "width  tol     original ms  ours ms  ratio | eval: ratio | rel. error of z: original ours | of gradients: original ours"
    )
    for width in arguments.widths:
        for tol in arguments.tolerances:
            row(width, tol, arguments.m, arguments.repeats)


def row(width: int, tol: float, m: float, repeats: int) -> None:
    """One comparison."""
    torch.manual_seed(0)
    layer = wp.MonDEQ(784, width, m=m, rtol=tol, atol=1e-6)
    x = torch.rand(128, 784)
    cotangent = torch.randn(128, width) / 100
    state = layer.state_dict()
    rival = OriginalMonDEQ(784, width, m, original_step(width, x, m, tol, state), tol)
    load(rival, state)

    def run(model: torch.nn.Module) -> Tensor:
        value = model(x)
        value.backward(cotangent)
        return value.detach()

    true, gradients = reference(layer, x, cotangent)
    ours = [relative(run(layer), true)]
    grads = [layer.constraint.A.grad, layer.constraint.B.grad, layer.injection.weight.grad]
    ours.append(max(relative(g, t) for g, t in zip(grads, gradients, strict=True)))
    theirs = [relative(run(rival), true)]
    grads = [rival.A.weight.grad, rival.B.weight.grad, rival.U.weight.grad]
    theirs.append(max(relative(g, t) for g, t in zip(grads, gradients, strict=True)))
    best = {"ours": [1e9, 1e9], "theirs": [1e9, 1e9]}
    for _ in range(repeats):
        for name, model in (("theirs", rival), ("ours", layer)):
            free = model.A.weight if name == "theirs" else model.constraint.A
            for _ in range(10):
                free.data.mul_(1.0 + 1e-7)  # new weights every time, as in training: nothing can be reused
                model.zero_grad(set_to_none=True)
                start = time.process_time()
                run(model)
                best[name][0] = min(best[name][0], time.process_time() - start)
            with torch.no_grad():
                for _ in range(5):
                    start = time.process_time()
                    model(x)
                    best[name][1] = min(best[name][1], time.process_time() - start)
    (a, c), (b, d) = best["theirs"], best["ours"]
    print(
        f"{width:5d}  {tol:.0e}  {a * 1e3:10.2f}  {b * 1e3:7.2f}  {a / b:5.2f} | {c / d:10.2f}  | "
        f"{theirs[0]:13.1e} {ours[0]:.1e} | {theirs[1]:13.1e} {ours[1]:.1e}   (α={rival.alpha:g}, {rival.iterations} its)"
    )


if __name__ == "__main__":
    main()
