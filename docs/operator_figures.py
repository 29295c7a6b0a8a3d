"""The pictures of docs/operators.md: kernels, their spectra before and after a constraint, and the shapes of state maps.

``python docs/operator_figures.py`` writes docs/figures/operators-*.png.
"""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from figures import BLUE, FOLDER, GREY, RED
from torch import Tensor

import wellposed as wp
from wellposed.operators.fourier import transfer_function

IMAGE = (16, 16)


def draw_kernel(axes: Any, kernel: Tensor, title: str) -> None:
    """The taps between the first channels."""
    taps = kernel.detach()[0, 0]
    reach = float(taps.abs().max())
    axes.imshow(taps, cmap="RdBu", vmin=-reach, vmax=reach)
    for row in range(taps.shape[0]):
        for column in range(taps.shape[1]):
            colour = "white" if abs(taps[row, column]) > 0.6 * reach else "black"
            axes.text(column, row, f"{taps[row, column]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)


def draw_eigenvalues(axes: Any, values: Tensor, title: str, *, right: float | None = None) -> None:
    """Eigenvalues in the complex plane, with the half-plane that a theorem promises."""
    values = values.detach().flatten()
    axes.scatter(values.real, values.imag, s=3, color=BLUE, alpha=0.5, linewidths=0)
    if right is not None:
        axes.axvline(right, color=RED, linewidth=1.2)
        axes.axvspan(right, max(right, float(values.real.max())) + 1.0, color=RED, alpha=0.08)
    axes.axvline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("real part", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_singular_values(axes: Any, values: Tensor, title: str) -> None:
    """The singular values at every frequency, sorted."""
    ordered = values.detach().flatten().sort(descending=True).values
    axes.plot(torch.linspace(0, 1, len(ordered)), ordered, color=BLUE)
    axes.axhline(1.0, color=RED, linewidth=1.0)
    axes.set_ylim(0, max(1.3, 1.1 * float(ordered[0])))
    axes.set_xlabel("fraction of them", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title(title, fontsize=10)


def spectra() -> None:
    """A free kernel, its spectrum as a plain convolution, and that of the state map made of it, for three constraints."""
    torch.manual_seed(0)
    figure, rows = plt.subplots(3, 3, figsize=(10, 9), constrained_layout=True)
    monotone = wp.ConvMonDEQ(1, 4, IMAGE, m=0.5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in monotone.constraint.parameters():
            parameter.mul_(3.0)
    plain = transfer_function(monotone.constraint.A, *IMAGE)
    draw_kernel(rows[0][0], monotone.constraint.A, "monotone: free kernel A")
    draw_eigenvalues(rows[0][1], torch.linalg.eigvals(plain), "W = A, unconstrained: eigenvalues")
    after = torch.linalg.eigvals(monotone.operator().tensors[0])
    draw_eigenvalues(rows[0][2], after, "W = (1 − m)I − A*A + B − B*, m = 0.5", right=0.5)
    sup = wp.ConvNEMON(1, 4, IMAGE, mu=0.5, dtype=torch.float64)
    with torch.no_grad():
        sup.constraint.T.normal_(std=0.3)
    draw_kernel(rows[1][0], sup.constraint.T, "ℓ∞: free kernel T")
    draw_eigenvalues(
        rows[1][1],
        torch.linalg.eigvals(transfer_function(sup.constraint.T, *IMAGE)),
        "W = T, unconstrained: eigenvalues",
    )
    draw_eigenvalues(rows[1][2], torch.linalg.eigvals(sup.operator().dense()), "every tap counted, μ = 0.5", right=0.5)
    orthogonal = wp.OrthogonalConv2d(4, 4, IMAGE, dtype=torch.float64)
    draw_kernel(rows[2][0], orthogonal.free, "orthogonal: free kernel")
    before = torch.linalg.svdvals(transfer_function(orthogonal.free, *IMAGE))
    draw_singular_values(rows[2][1], before, "unconstrained: singular values")
    after = torch.linalg.svdvals(torch.view_as_complex(orthogonal.transfer()))
    draw_singular_values(rows[2][2], after, "after the Cayley transform")
    figure.savefig(FOLDER / "operators-spectra.png", dpi=110)
    plt.close(figure)


def draw_matrix(axes: Any, matrix: Tensor, title: str, cuts: list[int]) -> None:
    """Logarithms of absolute values of the entries."""
    size = matrix.detach().abs().clamp_min(1e-9).log10()
    axes.imshow(size, cmap="Blues", vmin=-4, vmax=0.5)
    for cut in cuts:
        axes.axhline(cut - 0.5, color=RED, linewidth=0.8)
        axes.axvline(cut - 0.5, color=RED, linewidth=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10)


def shapes() -> None:
    """The multi-scale map is block lower triangular; the scaled map becomes a convolution once divided by its metric."""
    torch.manual_seed(0)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.4), constrained_layout=True)
    tiers = wp.MultiScaleMonDEQ(1, (1, 2, 2), (8, 8), dtype=torch.float64)
    sizes = [channels * rows * columns for channels, rows, columns in tiers.injection.tiers]
    cuts = [sum(sizes[: k + 1]) for k in range(len(sizes) - 1)]
    draw_matrix(left, tiers.operator().dense(), "multi-scale: W, three tiers", cuts)
    scaled = wp.ConvLBEN(1, 1, (8, 8), metric="full", dtype=torch.float64)
    with torch.no_grad():
        scaled.constraint.psi.uniform_(-2, 2)
    operator = scaled.operator()
    displacement = torch.eye(64, dtype=torch.float64) - operator.dense()
    draw_matrix(middle, displacement, "metric per pixel: I − W", [])
    metric = operator.scaling.flatten()[:, None]
    draw_matrix(right, metric * displacement, "Λ(I − W): a circular convolution", [])
    figure.savefig(FOLDER / "operators-shapes.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    spectra()
    shapes()
