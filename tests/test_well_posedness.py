"""Well-posedness of any weights: certified with a metric, refuted with two equilibria, or unknown."""

from __future__ import annotations

import itertools

import pytest
import torch

import wellposed as wp
from wellposed.certificates.well_posedness import two_equilibria
from wellposed.guarantee.metric_search import find_metric, proves_well_posed


def plain(matrix, activation="relu", inputs=9):
    torch.manual_seed(0)
    layer = wp.DEQ(inputs, len(matrix), activation=activation, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.W.copy_(matrix)
    return layer


def smallest_determinant(matrix):
    """Over all patterns of slopes: not positive exactly where uniqueness fails for some offset."""
    identity = torch.eye(len(matrix), dtype=torch.float64)
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(matrix))), dtype=torch.float64)
    return float(torch.linalg.det(identity - patterns[:, :, None] * matrix).min())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("scale", [0.3, 0.6, 1.2])
def test_verdicts_agree_with_all_patterns(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(5, 5, generator=generator, dtype=torch.float64)
    verdict = wp.well_posedness(plain(matrix))
    least = smallest_determinant(matrix)
    if verdict.outcome == "certified":
        assert least > 0
        core = verdict.metric[:, None] * (torch.eye(5, dtype=torch.float64) - matrix)
        assert float(torch.linalg.eigvalsh(core + core.T)[0]) > 0
    elif verdict.outcome == "refuted":
        assert least < 1e-9
        found = verdict.witness
        for state in (found.first, found.second):
            torch.testing.assert_close(torch.relu(matrix @ state + found.offset), state, rtol=1e-9, atol=1e-9)
        assert float((found.first - found.second).norm()) > 1e-3
    else:
        assert (
            least > 0
        )  # a metric need not exist for a unique equilibrium, but every failure of uniqueness is found here


def test_an_input_that_has_two_equilibria_is_exhibited():
    torch.manual_seed(1)
    matrix = 1.5 * torch.randn(8, 8, dtype=torch.float64)
    layer = plain(matrix, inputs=12)
    verdict = wp.well_posedness(layer)
    assert verdict.outcome == "refuted"
    found = verdict.witness
    offset = layer.injection(found.input)
    for state in (found.first, found.second):
        torch.testing.assert_close(torch.relu(matrix @ state + offset), state, rtol=1e-8, atol=1e-8)
    assert wp.well_posedness(plain(matrix, inputs=2)).witness.input is None  # two inputs cannot make every offset


def test_a_metric_is_found_where_the_identity_does_not_do():
    """Similar to a contraction by a diagonal matrix with entries from 1e-3 to 1e3."""
    torch.manual_seed(0)
    for size in (6, 20):
        core = torch.randn(size, size, dtype=torch.float64)
        core = 0.9 * core / torch.linalg.matrix_norm(core, 2)
        scale = torch.logspace(-1.5, 1.5, size, dtype=torch.float64)
        matrix = scale[:, None] * core / scale
        assert not proves_well_posed(matrix, torch.ones(size, dtype=torch.float64))
        metric = find_metric(matrix)
        assert metric is not None and proves_well_posed(matrix, metric)
        assert find_metric(matrix, scale**-2) is not None


def test_layers_with_a_theorem_are_certified():
    torch.manual_seed(0)
    for layer in (wp.MonDEQ(4, 6, m=0.1), wp.LBEN(4, 6), wp.NEMON(4, 6, mu=0.9)):
        verdict = wp.well_posedness(layer)
        assert verdict.outcome == "certified"
        assert proves_well_posed(layer.operator().dense(), verdict.metric)


def test_the_identity_has_many_equilibria():
    found = wp.well_posedness(plain(torch.eye(3, dtype=torch.float64)))
    assert found.outcome == "refuted" and found.witness.residual <= 1e-12


def test_what_cannot_be_decided():
    swap = torch.tensor([[0.0, 1.2], [1.2, 0.0]], dtype=torch.float64)  # grows for ReLU, bounded by tanh all the same
    assert wp.well_posedness(plain(swap)).outcome == "refuted"
    assert wp.well_posedness(plain(swap, "tanh")).outcome == "unknown"
    assert two_equilibria(0.5 * swap) is None
    with pytest.raises(wp.InputError, match="slopes within"):
        wp.well_posedness(plain(swap, "gelu"))
    with pytest.raises(wp.InputError, match="a matrix"):
        wp.well_posedness(wp.ConvMonDEQ(1, 2, (3, 3)))
