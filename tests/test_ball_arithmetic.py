"""Every "positive semidefinite" that the library and the checker say, said again by ball arithmetic with 300 bits (Arb)."""

from __future__ import annotations

import importlib
import itertools
import math

import flint
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import checker, testing
from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.bounds.search.primal_dual import PrimalDualSearch
from wellposed.checker import dense, frequencies, pooled, proofs
from wellposed.numerics import convolution_norms, verified

USERS = (
    "numerics.verified", "bounds.frequency_metric", "verification.proof",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _precision():
    before, flint.ctx.prec = flint.ctx.prec, 300
    yield
    flint.ctx.prec = before


def balls(matrix) -> list[list[flint.arb]]:
    """The very float64 numbers."""
    return [[flint.arb(float(entry)) for entry in row] for row in np.asarray(matrix)]


def smallest_pivot_sign(matrix: list[list[flint.arb]]) -> int:
    """1 if all pivots of symmetric elimination are positive, −1 if one is negative: the matrix is (not) positive definite."""
    rows = [list(row) for row in matrix]
    size = len(rows)
    for pivot in range(size):
        head = rows[pivot][pivot]
        if head < 0:
            return -1
        assert head > 0, "too few bits"
        for row in range(pivot + 1, size):
            factor = rows[row][pivot] / head
            for column in range(pivot + 1, row + 1):
                rows[row][column] -= factor * rows[column][pivot]
    return 1


def shifted(matrix, shift) -> list[list[flint.arb]]:
    found = balls(matrix)
    for place, row in enumerate(found):
        row[place] += flint.arb(shift)
    return found


def product(left, right):
    columns = list(zip(*right, strict=True))
    return [
        [sum((a * b for a, b in zip(row, column, strict=True)), flint.arb(0)) for column in columns] for row in left
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 20])
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("judge", [verified.is_positive_semidefinite, proofs.semidefinite])
def test_near_the_boundary(size, scale, judge):
    generator = np.random.default_rng(size)
    basis = np.linalg.qr(generator.standard_normal((size, size)))[0]
    agreed = 0
    for exponent, sign in itertools.product(range(-18, -7), (-1.0, 1.0)):
        values = np.concatenate([[sign * 10.0**exponent], generator.uniform(0.1, 1.0, size - 1)])
        matrix = scale * (basis * values) @ basis.T
        matrix = np.tril(matrix) + np.tril(matrix, -1).T
        for error in (0.0, scale * 3e-13):
            said = judge(matrix, error)
            true = smallest_pivot_sign(shifted(matrix, -error)) > 0
            assert true or not said
            agreed += said
            # What is a little inside is recognised: relative inflations are far below 1e-6.
            assert said or sign < 0 or exponent < -11
    assert agreed > 0


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e150])
@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (12, 5)])
def test_norms_and_symmetric_parts(shape, scale):
    generator = testing.generator(0)
    matrix = scale * testing.randn(*shape, generator=generator, dtype=torch.float64)
    value = verified.spectral_norm_upper_bound(matrix)
    rows = balls(matrix)
    gram = product(rows, list(zip(*rows, strict=True)))

    def above(candidate: flint.arb) -> int:
        return smallest_pivot_sign(
            [[(candidate**2 if i == j else 0) - entry for j, entry in enumerate(row)] for i, row in enumerate(gram)]
        )

    assert above(flint.arb(value)) == 1
    assert above(flint.arb(value) * (1 - flint.arb("1e-9"))) == -1
    square = matrix[: min(shape), : min(shape)]
    bound = verified.symmetric_part_lower_bound(square)
    rows = balls(square)
    for factor, sign in ((1, 1), (1 - flint.arb("1e-9"), -1)):
        edge = flint.arb(bound) + (1 - flint.arb(factor)) * flint.arb(float(square.abs().max()))
        part = [
            [(rows[i][j] + rows[j][i]) / 2 - (edge if i == j else 0) for j in range(len(rows))]
            for i in range(len(rows))
        ]
        assert smallest_pivot_sign(part) == sign


@pytest.mark.parametrize("seed", range(3))
def test_the_inequality_itself_from_the_stored_numbers(seed):
    """W, U, C, λ and γ into M(λ) − CᵀC − ΛUUᵀΛ/γ², without a rounding; and little is lost to rounding."""
    torch.manual_seed(seed)
    layer = wp.MonDEQ(6, 15, m=0.4)
    head = testing.randn(3, 15, dtype=torch.float64)
    matrix, driven = layer.operator().dense().detach(), layer.injection.weight.detach()
    block = DenseMetricProblem(matrix, driven, testing.ones(15, dtype=torch.float64))
    found = block.bound(head)
    size, multipliers = 15, [flint.arb(float(value)) for value in found.multipliers]
    w, u, c = balls(matrix.double()), balls(driven.double()), balls(head)
    through = product(u, list(zip(*u, strict=True)))
    seen = product(list(zip(*c, strict=True)), c)
    square = flint.arb(found.value) ** 2
    test = [
        [
            multipliers[i] * ((1 if i == j else 0) - w[i][j]) + multipliers[j] * ((1 if i == j else 0) - w[j][i])
            - seen[i][j] - multipliers[i] * through[i][j] * multipliers[j] / square
            for j in range(size)
        ]
        for i in range(size)
    ]  # fmt: skip
    assert smallest_pivot_sign(test) == 1
    gram = driven.double() @ driven.double().t()
    search = PrimalDualSearch(
        testing.eye(size, dtype=torch.float64) - matrix.double(), gram, testing.ones(size, dtype=torch.float64)
    )
    point = search.least_square(head)
    assert found.value <= math.sqrt(point.square) * (1 + 1e-6)


def check_file(model, inputs, folder, seen):
    """Certify the deployed file of a model, and let the checker prove it, which judges matrices of its own."""
    files = [str(folder / name) for name in ("certificate.json", "model.onnx")]
    wp.certify_file(
        wp.certify(wp.export(model, files[1], input_shape=inputs.shape[1:]), inputs=inputs), files[1], files[0]
    )
    before = len(seen)
    assert checker.main(files) == 0
    assert len(seen) > before


@pytest.mark.float32
def test_all_certificates_say_what_ball_arithmetic_says(monkeypatch, tmp_path):
    """Global constants, class pairs, metrics, local certificates, convolutions and the checker: every proof is done again."""
    seen: list[tuple[np.ndarray, float]] = []

    def recording(judge):
        def judged(matrix, error=0.0):
            said = judge(matrix, error)
            if said:
                lower = np.tril(np.asarray(matrix))
                seen.append((lower + np.tril(lower, -1).T, float(error)))
            return said

        return judged

    recorded = recording(verified.is_positive_semidefinite)
    for name in USERS:
        monkeypatch.setattr(importlib.import_module(f"wellposed.{name}"), "is_positive_semidefinite", recorded)
    judged = recording(proofs.semidefinite)
    for module in (proofs, dense, frequencies, pooled):
        monkeypatch.setattr(module, "semidefinite", judged)
    together = convolution_norms._semidefinite

    def batched(matrix, error):
        said = together(matrix, error)
        seen.extend((matrix[at].numpy(), float(error[at])) for at in said.nonzero().flatten().tolist())
        return said

    monkeypatch.setattr(convolution_norms, "_semidefinite", batched)

    torch.manual_seed(0)
    counts = []
    for layer in (
        wp.MonDEQ(5, 7, m=0.3),
        wp.LBEN(5, 7, gamma=2.0, out_features=3),
        wp.NEMON(5, 7),
        wp.DEQ(5, 7, activation="relu"),
    ):
        rest = () if layer.output is not None else (nn.Linear(7, 3),)
        model = nn.Sequential(layer, *rest).eval()
        check_file(model, testing.rand(4, 5), tmp_path, seen)
        if layer.output is None:
            verifier = wp.Verifier(model)
            for x in testing.rand(3, 5, dtype=torch.float64):
                label = int(model(x[None].float()).argmax())
                for norm in (2, "inf"):
                    verifier.verify(x, label, 0.4, norm=norm)
        counts.append(len(seen))
    image = wp.ConvMonDEQ(1, 2, (3, 3), border=1)
    model = nn.Sequential(image, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    check_file(model, testing.rand(4, 1, 3, 3), tmp_path, seen)
    counts.append(len(seen))
    assert all(later > earlier for earlier, later in itertools.pairwise([0, *counts]))
    for matrix, error in seen:
        assert smallest_pivot_sign(shifted(matrix, -error)) == 1
