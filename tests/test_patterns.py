"""Lower bounds by activation patterns: against all patterns, as pairs of inputs, and where they do not apply."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.bounds.affine_network import affine_network
from wellposed.lower_bounds.patterns import ascend, steep_points

ORDERS = {"2": 2, "inf": torch.inf, "1": 1}


def norm_at(matrix, weight, output, pattern, norm="2"):
    inner = testing.eye(len(matrix), dtype=torch.float64) - pattern[:, None] * matrix
    jacobian = output @ torch.linalg.solve(inner, pattern[:, None] * weight)
    return jacobian, float(torch.linalg.matrix_norm(jacobian, ORDERS[norm]))


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("seed", range(12))
def test_the_ascent_ends_where_no_flip_helps_and_near_the_best_pattern(seed, norm):
    torch.manual_seed(seed)
    layer = wp.MonDEQ(9, 7, m=0.3, dtype=torch.float64)
    matrix, weight = layer.operator().dense().detach(), layer.injection.weight.detach()
    output = testing.randn(3, 7, dtype=torch.float64)
    best = max(
        norm_at(matrix, weight, output, testing.tensor(bits, dtype=torch.float64), norm)[1]
        for bits in itertools.product([0.0, 1.0], repeat=7)
    )
    starts = testing.randint(0, 2, (4, 7)).double()
    reached = []
    for start in starts:
        pattern, direction = ascend(matrix, weight, output, start, norm)
        jacobian, value = norm_at(matrix, weight, output, pattern, norm)
        assert float(direction.norm(p=float(norm))) == pytest.approx(1.0)
        assert float((jacobian @ direction).norm(p=float(norm))) == pytest.approx(value, rel=1e-9)
        for unit in range(7):
            flipped = pattern.clone()
            flipped[unit] = 1 - flipped[unit]
            assert norm_at(matrix, weight, output, flipped, norm)[1] <= value * (1 + 1e-9)
        reached.append(value)
    assert 0.9 * best <= max(reached) <= best * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 3, 2)])
def test_pairs_of_inputs_attain_the_norm_of_their_pattern(shape):
    torch.manual_seed(0)
    mean, std = (0.2,) * shape[0], tuple(0.3 + 0.2 * k for k in range(shape[0]))
    layer = wp.MonDEQ(12, 8, m=0.3, dtype=torch.float64, rtol=1e-12, atol=1e-12)
    model = nn.Sequential(wp.layers.Normalize(mean, std).double(), nn.Flatten(), layer, nn.Linear(8, 4).double())
    x = testing.randn(5, *shape, dtype=torch.float64)
    points = steep_points(affine_network(model), x)
    assert len(points) == 5
    scale = 1.0 / testing.tensor(std, dtype=torch.float64).repeat_interleave(12 // shape[0])
    matrix, weight = layer.operator().dense().detach(), layer.injection.weight.detach() * scale
    for point, direction in points:
        assert point.shape == direction.shape == shape
        jacobian = torch.func.jacrev(lambda v: model(v[None])[0])(point).reshape(4, 12)
        pattern = (layer.state(model[1](model[0](point[None])))[0].detach() > 0).double()
        _, value = norm_at(matrix, weight, model[3].weight.detach(), pattern)
        assert float((jacobian @ direction.reshape(-1)).norm()) == pytest.approx(value, rel=1e-6)
    found = wp.witness(model, x)
    assert (
        max(norm_at(matrix, weight, model[3].weight.detach(), p)[1] for p in testing.eye(8).double()) <= found.lipschitz
    )
    certificate = wp.certify(model, inputs=x)
    assert certificate.lower_bound == found.lipschitz <= certificate.lipschitz <= 1.3 * found.lipschitz
    assert certificate.check()
    largest = wp.certify(model, norm="inf", inputs=x)
    assert largest.lower_bound <= largest.lipschitz <= 1.6 * largest.lower_bound


def test_where_patterns_do_not_apply():
    torch.manual_seed(0)
    x = testing.randn(3, 5, dtype=torch.float64)
    wide = nn.Sequential(
        wp.MonDEQ(5, 9), nn.Linear(9, 2)
    ).double()  # five inputs cannot make every pattern of nine units
    assert len(steep_points(affine_network(wide), x)) < 3
    for model in (
        wide,
        nn.Sequential(wp.MonDEQ(5, 4, activation="tanh"), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(5, 2)),
    ):
        model.double()
        assert 0 < wp.witness(model, x).lipschitz <= wp.certify(model).lipschitz
    for model in (nn.Sequential(wp.MonDEQ(5, 4, activation="tanh"), nn.Linear(4, 2)), nn.Sequential(nn.Linear(5, 2))):
        with pytest.raises(wp.CertificateError, match="ReLU|equilibrium"):
            affine_network(model)
