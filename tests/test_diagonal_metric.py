"""Lipschitz bounds in the best diagonal metric: against a semidefinite solver, sampled slopes, and tampering."""

from __future__ import annotations

import dataclasses

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.tails import with_tail
from wellposed import testing
from wellposed.bounds.diagonal_metric import DenseMetricProblem, dense_metric_problem
from wellposed.bounds.search.primal_dual import PrimalDualSearch
from wellposed.testing import check_refusals


def problem(size, inputs, outputs, seed, scale=1.0):
    generator = testing.generator(seed)

    def draw(*shape):
        return testing.randn(*shape, generator=generator, dtype=torch.float64)

    a, b = draw(size, size) / size**0.5, draw(size, size) / size**0.5
    matrix = 0.5 * testing.eye(size, dtype=torch.float64) - 2.0 * a.T @ a + b - b.T
    return matrix, scale * draw(size, inputs), draw(outputs, size) / scale


def by_clarabel(matrix, driven, seen):
    size, inputs = driven.shape
    scale = [float(torch.linalg.matrix_norm(part, 2)) for part in (driven, seen)]
    driven, seen = driven / scale[0], seen / scale[1]  # its tolerances are absolute
    multipliers, square = cvxpy.Variable(size), cvxpy.Variable()
    half = cvxpy.diag(multipliers) @ (np.eye(size) - matrix.numpy())
    through = cvxpy.diag(multipliers) @ driven.numpy()
    corner = half + half.T - seen.numpy().T @ seen.numpy()
    whole = cvxpy.bmat([[corner, through], [through.T, square * np.eye(inputs)]])
    cvxpy.Problem(cvxpy.Minimize(square), [0.5 * (whole + whole.T) >> 0]).solve(solver=cvxpy.CLARABEL)
    return float(square.value) ** 0.5 * scale[0] * scale[1]


@pytest.mark.parametrize(("size", "inputs", "outputs"), [(1, 1, 1), (4, 9, 3), (12, 3, 1), (20, 7, 10), (40, 5, 2)])
def test_the_optimum_is_that_of_a_semidefinite_solver(size, inputs, outputs):
    matrix, driven, seen = problem(size, inputs, outputs, size)
    found = DenseMetricProblem(matrix, driven, testing.ones(size, dtype=torch.float64)).bound(seen)
    expected = by_clarabel(matrix, driven, seen)
    assert expected * (1 - 1e-7) <= found.value <= expected * (1 + 1e-4)


@pytest.mark.parametrize("scale", [1e-140, 1e-8, 1.0, 1e8, 1e140])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_scale_with_the_weights_and_are_never_exceeded(scale, seed):
    matrix, driven, seen = problem(9, 6, 4, seed, scale)
    block = DenseMetricProblem(matrix, driven, testing.ones(9, dtype=torch.float64))
    found = block.bound(seen)
    reference = DenseMetricProblem(matrix, driven / scale, testing.ones(9, dtype=torch.float64)).bound(seen * scale)
    assert found.value == pytest.approx(reference.value, rel=1e-5)
    generator = testing.generator(seed)
    worst = 0.0
    for _ in range(2000):  # every diagonal of slopes gives a Jacobian that the bound covers
        slopes = testing.randint(0, 2, (9,), generator=generator).double()
        jacobian = seen @ torch.linalg.solve(
            testing.eye(9, dtype=torch.float64) - slopes[:, None] * matrix, slopes[:, None] * driven
        )
        worst = max(worst, float(torch.linalg.matrix_norm(jacobian, 2)))
    assert worst <= found.value * (1 + 1e-9)
    assert worst >= 0.5 * found.value


def test_what_is_proved_and_what_is_not():
    matrix, driven, seen = problem(8, 5, 3, 0)
    block = DenseMetricProblem(matrix, driven, testing.ones(8, dtype=torch.float64))
    check_refusals(block, seen)
    found = block.bound(seen)
    nudged = DenseMetricProblem(matrix + 0.01 * testing.eye(8), driven, testing.ones(8, dtype=torch.float64))
    assert not nudged.proves(seen, found.multipliers, found.value)


@pytest.mark.parametrize("scale", [1e-161, 1e-200, 1e-300])
def test_squares_that_underflow_prove_nothing_too_small(scale):
    """UUᵀ is zero in float64, and what it would take to certify a constant of zero."""
    matrix, driven, seen = problem(6, 5, 2, 0)
    true = DenseMetricProblem(matrix, driven, testing.ones(6, dtype=torch.float64)).bound(seen)
    tiny = DenseMetricProblem(matrix, driven * scale, testing.ones(6, dtype=torch.float64))
    assert tiny.bound(seen).value == pytest.approx(true.value * scale, rel=1e-6, abs=0.0)
    assert tiny.bound(seen * 1e250) is None  # its metric is no number
    for factor in (0.99, 1e-3, 1e-20):
        assert not tiny.proves(seen, true.multipliers, factor * true.value * scale)
        assert not tiny.proves(seen * 1e30, true.multipliers * 1e60, factor * true.value * scale * 1e30)


def test_an_input_map_that_is_not_what_its_name_says_is_left_out():
    class Linear(nn.Linear):
        def forward(self, x):
            return 100 * super().forward(x)

    layer = wp.MonDEQ(4, 3)
    with pytest.raises(wp.InputError, match=r"injection: is a Linear; must be a torch.nn.Linear or inherit from"):
        layer.injection = Linear(4, 3)


def test_an_ill_posed_map_gets_no_bound():
    matrix = 2.0 * testing.eye(3, dtype=torch.float64)
    block = DenseMetricProblem(matrix, testing.eye(3, dtype=torch.float64), testing.ones(3, dtype=torch.float64))
    assert block.bound(testing.eye(3, dtype=torch.float64)) is None
    zero = testing.zeros(2, 3, dtype=torch.float64)
    assert DenseMetricProblem(0 * matrix, testing.eye(3), testing.ones(3)).bound(zero) is None
    search = PrimalDualSearch(testing.eye(3).double(), 0 * matrix, testing.ones(3).double())
    assert search.least_square(zero + 1) is None


def layers():
    torch.manual_seed(0)
    yield wp.MonDEQ(7, 6, m=0.5, dtype=torch.float64)
    yield wp.MonDEQ(7, 6, m=0.5, activation="tanh", dtype=torch.float64)
    lben = wp.LBEN(7, 6, dtype=torch.float64)
    with torch.no_grad():
        lben.constraint.psi.uniform_(-1, 1)
    yield lben
    nemon = wp.NEMON(7, 6, mu=0.5, dtype=torch.float64)
    with torch.no_grad():
        for parameter in nemon.constraint.parameters():
            parameter.mul_(2.0)
    yield nemon


@pytest.mark.parametrize("index", range(4))
def test_certificates_of_models(index, tmp_path):
    layer = list(layers())[index]
    layer.tolerance = wp.solvers.solution.Tolerance(1e-11, 1e-11)
    torch.manual_seed(1)
    model = nn.Sequential(wp.layers.Normalize((0.2,), (0.4,)).double(), nn.Flatten(), layer, nn.Linear(6, 4).double())
    x = testing.randn(30, 1, 1, 7, dtype=torch.float64)
    product = wp.certify(model, method="product")
    certificate = wp.certify(model, inputs=x)
    assert certificate.lower_bound <= certificate.lipschitz < product.lipschitz
    assert "metric" in certificate.method and certificate.tail is not None
    assert (certificate.pairs <= product.pairs).all() and float(certificate.pairs.diagonal().abs().max()) == 0.0
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x).reshape(30, 4, 7)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= certificate.lipschitz * (1 + 1e-9)
    for i in range(4):
        for j in range(4):
            slope = (jacobians[:, i] - jacobians[:, j]).norm(dim=1).max()
            assert float(slope) <= float(certificate.pairs[i, j]) * (1 + 1e-9)
    assert certificate.check()
    tail = certificate.tail
    for forged in (
        dataclasses.replace(tail, value=0.99 * tail.value),
        dataclasses.replace(tail, multipliers=tail.multipliers.flip(0)),
        dataclasses.replace(tail, multipliers=tail.multipliers * testing.linspace(0.5, 2, 6).double()),
        dataclasses.replace(tail, multipliers=tail.multipliers[:-1]),
        dataclasses.replace(tail, pairs=0.99 * tail.pairs),
        dataclasses.replace(tail, place=0),
        dataclasses.replace(tail, multipliers=tail.multipliers * torch.nan),
    ):
        with pytest.raises(wp.CertificateError, match="metric"):
            with_tail(certificate, forged).check()
    for claim in ({"lipschitz": 0.99 * certificate.lipschitz}, {"pairs": 0.99 * certificate.pairs}):
        with pytest.raises(wp.CertificateError, match="is claimed|class-pair|contradiction"):
            dataclasses.replace(certificate, **claim).check()


def test_where_the_metric_applies():
    torch.manual_seed(0)
    for model in (
        nn.Sequential(wp.MonDEQ(5, 4), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(5, 4), nn.ReLU()),
        wp.ConvMonDEQ(1, 2, (4, 4)),
        wp.PcDEQ(5, 4),
    ):
        assert wp.certify(model).tail is None
        with pytest.raises(wp.CertificateError, match="method='metric'"):
            wp.certify(model, method="metric")
    assert wp.certify(wp.MonDEQ(5, 4)).tail.pairs is None
    with pytest.raises(wp.InputError, match="method='sdp'"):
        wp.certify(wp.MonDEQ(5, 4), method="sdp")
    large = wp.MonDEQ(3, 300)
    assert wp.certify(large, seconds=0.0).tail is None and wp.certify(large).tail is not None
    assert dense_metric_problem(wp.ConvNEMON(1, 2, (3, 3))) is None


def test_the_published_rule_keeps_the_published_constant():
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(5, 8), nn.Linear(8, 3))
    logits, labels = model(testing.randn(20, 5)).detach(), testing.zeros(20, dtype=torch.int64)
    tight, product = wp.certify(model), wp.certify(model, method="product")
    assert torch.equal(tight.radius(logits, labels, rule="paper"), product.radius(logits, labels, rule="paper"))
    assert (tight.radius(logits, labels) >= product.radius(logits, labels)).all()
