"""The pictures of docs/families.md: where the eigenvalues of each family's state map lie, and how its solves converge.

``python docs/figures.py`` writes docs/figures/*.png.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import wellposed as wp

FOLDER = Path(__file__).parent / "figures"
DRAWS, WIDTH, INPUTS = 12, 40, 20
BLUE, RED, GREY = "#1f5f99", "#b5423c", "#9aa5b1"


def spread(layer: torch.nn.Module, scale: float) -> torch.nn.Module:
    """Parameters of the state map far from where they start."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if parameter.ndim == 2 and not name.startswith("injection"):
                parameter.mul_(scale)
    return layer


def mondeq() -> wp.MonDEQ:
    return spread(wp.MonDEQ(INPUTS, WIDTH, m=0.5, dtype=torch.float64), 2.0)


def lben() -> wp.LBEN:
    layer = wp.LBEN(INPUTS, WIDTH, dtype=torch.float64, epsilon=0.05)
    with torch.no_grad():
        layer.constraint.psi.uniform_(-1, 1)
    return spread(layer, 2.0)


def nemon() -> wp.NEMON:
    return spread(wp.NEMON(INPUTS, WIDTH, mu=0.5, dtype=torch.float64), 3.0)


def pcdeq() -> wp.PcDEQ:
    return spread(wp.PcDEQ(INPUTS, WIDTH, floor=0.1, dtype=torch.float64), 3.0)


def orthogonal() -> wp.OrthogonalDEQ:
    return wp.OrthogonalDEQ(INPUTS, WIDTH, omega=0.2, dtype=torch.float64)


def ignn() -> wp.ImplicitGraph:
    return spread(wp.ImplicitGraph(INPUTS, WIDTH, kappa=0.9, dtype=torch.float64), 3.0)


def affine_eigenvalues(layer: Any) -> Tensor:
    return torch.linalg.eigvals(layer.operator().dense().detach())


def jacobian_eigenvalues(layer: Any) -> Tensor:
    """Of the derivative of one step at an equilibrium."""
    x = torch.randn(1, INPUTS, dtype=torch.float64)
    if isinstance(layer, wp.PcDEQ):
        operator, value = layer.operator(), layer(x)
        slopes = layer.activation.derivative(operator.affine(value, layer.injection(x)))
        return torch.linalg.eigvals((slopes[0][:, None] * operator.dense()).detach())
    cell, weights, drive = layer._cell(x, torch.float64)
    jacobian = torch.func.jacrev(lambda z: cell(z, drive, *weights))(layer(x))[0, :, 0]
    return torch.linalg.eigvals(jacobian.detach())


def graph_eigenvalues(layer: wp.ImplicitGraph) -> Tensor:
    return torch.linalg.eigvals(layer.state_map.weight.detach())


def boundary(axes: Any, *, right: float | None = None, radius: float | None = None) -> None:
    if right is not None:
        axes.axvline(right, color=RED, linewidth=1)
    if radius is not None:
        axes.add_patch(plt.Circle((0, 0), radius, fill=False, color=RED, linewidth=1))
        axes.set_xlim(-1.25, 1.25)
        axes.set_ylim(-1.25, 1.25)
        axes.set_aspect("equal")


def convergence(axes: Any, layer: Any) -> None:
    """Certified and true relative error when the solve stops, for tolerances from 1e-1 to 1e-8."""
    x = torch.randn(100, INPUTS, dtype=torch.float64)
    solve: Callable[[], Any] = lambda: layer.solve(x)  # noqa: E731
    samples = torch.arange(100)
    if isinstance(layer, wp.ImplicitGraph):  # rings of ten nodes
        ring = torch.arange(100)
        edges = torch.stack([ring, ring // 10 * 10 + (ring + 1) % 10])
        graphs = wp.Graphs(torch.cat([edges, edges.flip(0)], 1), 100, ring // 10)
        samples, solve = ring // 10, lambda: layer.solve(x, graphs)
    solutions = []
    for exponent in range(1, 11):
        layer.tolerance = wp.solvers.solution.Tolerance(10.0**-exponent, 0.0)
        with torch.no_grad():
            solutions.append(solve())
    truth = solutions[-1].value

    def size(value: Tensor) -> Tensor:
        count = int(samples.max()) + 1
        return torch.zeros(count, dtype=torch.float64).index_add(0, samples, value.square().sum(1)).sqrt()

    steps = [float(s.steps.double().mean()) for s in solutions[:8]]
    bounds = [float((s.error_bound / size(truth)).max()) for s in solutions[:8]]
    errors = [float((size(s.value - truth) / size(truth)).max()) for s in solutions[:8]]
    axes.semilogy(steps, bounds, "o-", color=BLUE, markersize=4, label="certified bound")
    axes.semilogy(steps, errors, ".-", color=GREY, label="true error")
    axes.set(xlabel="iterations (mean)", ylabel="largest relative error")
    axes.legend(frameon=False, fontsize=8)


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor], dict[str, float], str]] = {
    "mondeq": (mondeq, affine_eigenvalues, {"right": 0.5}, "eigenvalues of W;  Re λ ≤ 1 − m"),
    "lben": (lben, affine_eigenvalues, {"right": 1.0}, "eigenvalues of W;  Re λ < 1"),
    "nemon": (nemon, affine_eigenvalues, {"right": 0.5}, "eigenvalues of W;  Re λ ≤ μ"),
    "pcdeq": (pcdeq, jacobian_eigenvalues, {"radius": 1.0}, "eigenvalues of σ'W at z*;  ρ < 1"),
    "orthogonal": (orthogonal, jacobian_eigenvalues, {"radius": 0.8}, "eigenvalues of the step at z*;  1 − ω"),
    "ignn": (ignn, graph_eigenvalues, {"radius": 0.9}, "eigenvalues of W;  |λ| ≤ κ"),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name, (make, eigenvalues, region, title) in FAMILIES.items():
        torch.manual_seed(0)
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8))
        for _ in range(DRAWS):
            values = eigenvalues(make())
            left.plot(values.real, values.imag, ".", color=BLUE, markersize=2.5, alpha=0.6)
        boundary(left, **region)
        left.set(title=title, xlabel="Re", ylabel="Im")
        left.title.set_fontsize(9)
        convergence(right, make())
        figure.tight_layout()
        figure.savefig(FOLDER / f"{name}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
