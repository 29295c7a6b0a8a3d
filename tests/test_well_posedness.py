"""Well-posedness of any weights: certified with a metric, refuted with two equilibria, or unknown."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.certificates.refutation import _is_negative, refuted
from wellposed.guarantee.metric_search import find_metric, proves_well_posed


def plain(matrix, activation="relu", inputs=9):
    torch.manual_seed(0)
    layer = wp.DEQ(inputs, len(matrix), activation=activation, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.W.copy_(matrix)
    return layer


def smallest_determinant(matrix):
    """Over all patterns of slopes: not positive exactly where uniqueness fails for some offset."""
    identity = testing.eye(len(matrix), dtype=torch.float64)
    patterns = testing.tensor(list(itertools.product([0.0, 1.0], repeat=len(matrix))), dtype=torch.float64)
    return float(torch.linalg.det(identity - patterns[:, :, None] * matrix).min())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("scale", [0.3, 0.6, 1.2])
def test_verdicts_agree_with_all_patterns(seed, scale):
    generator = testing.generator(seed)
    matrix = scale * testing.randn(5, 5, generator=generator, dtype=torch.float64)
    verdict = wp.well_posedness(plain(matrix))
    least = smallest_determinant(matrix)
    if verdict.outcome == "certified":
        assert least > 0
        core = verdict.metric[:, None] * (testing.eye(5, dtype=torch.float64) - matrix)
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
    matrix = 1.5 * testing.randn(8, 8, dtype=torch.float64)
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
        core = testing.randn(size, size, dtype=torch.float64)
        core = 0.9 * core / torch.linalg.matrix_norm(core, 2)
        scale = testing.logspace(-1.5, 1.5, size, dtype=torch.float64)
        matrix = scale[:, None] * core / scale
        assert not proves_well_posed(matrix, testing.ones(size, dtype=torch.float64))
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
    found = wp.well_posedness(plain(testing.eye(3, dtype=torch.float64)))
    assert found.outcome == "refuted" and found.witness.residual <= 1e-12


def test_what_cannot_be_decided():
    swap = testing.tensor([[0.0, 1.2], [1.2, 0.0]], dtype=torch.float64)  # grows for ReLU, bounded by tanh all the same
    assert wp.well_posedness(plain(swap)).outcome == "refuted"
    assert wp.well_posedness(plain(swap, "tanh")).outcome == "unknown"
    assert refuted(0.5 * swap) == (False, None)
    with pytest.raises(wp.InputError, match="slopes within"):
        wp.well_posedness(plain(swap, "gelu"))
    with pytest.raises(wp.InputError, match="a matrix"):
        wp.well_posedness(wp.ConvMonDEQ(1, 2, (3, 3)))


def minors(matrix):
    """All principal minors of I − W, exactly, smallest first."""
    rows = [[Fraction(int(i == j)) - Fraction(x) for j, x in enumerate(row)] for i, row in enumerate(matrix.tolist())]

    def determinant(kept):
        if not kept:
            return Fraction(1)
        first, rest = kept[0], kept[1:]
        if not rest:
            return rows[first][first]
        total = Fraction(0)
        for order in itertools.permutations(range(len(kept))):
            sign = (-1) ** sum(order[i] > order[j] for i in range(len(kept)) for j in range(i + 1, len(kept)))
            product = Fraction(sign)
            for i, j in enumerate(order):
                product *= rows[kept[i]][kept[j]]
            total += product
        return total

    places = range(len(rows))
    return [determinant(kept) for count in places for kept in itertools.combinations(places, count + 1)]


def well_posed_matrices(generator):
    """I − W diagonal, triangular, an M-matrix or diagonally dominant, in scales from 1e-12 to 1e12."""

    def uniform(*shape):
        return testing.rand(*shape, generator=generator, dtype=torch.float64)

    size = int(testing.randint(2, 5, (), generator=generator))
    scale, other = 10.0 ** (12 * uniform(2, size) - 6)
    dominant = 2.0 * uniform(size, size) - 1.0
    dominant.diagonal().copy_(1.2 + dominant.abs().sum(1))
    if uniform(()) < 0.5:
        dominant = -dominant.abs() + 2.0 * torch.diag(dominant.diagonal())  # an M-matrix
    identity = testing.eye(size, dtype=torch.float64)
    for core in (torch.diag(scale**3), torch.triu(1e6 * uniform(size, size)) + torch.diag(scale), dominant):
        yield identity - core
        yield identity - scale[:, None] * core
        yield identity - scale[:, None] * core * other
        yield identity - scale[:, None] * core / scale


@pytest.mark.parametrize("seed", range(25))
def test_verdicts_of_badly_scaled_weights_are_those_of_rational_minors(seed):
    generator = testing.generator(seed)
    for matrix in well_posed_matrices(generator):
        spoiled = matrix.clone()
        spoiled[0, -1], spoiled[-1, 0] = -1e3 * spoiled[-1, 0], 1e3 * spoiled[0, -1]
        for weight in (matrix, spoiled, matrix.t(), -matrix):
            outcome = wp.well_posedness(plain(weight, inputs=2)).outcome
            least = min(minors(weight))
            assert outcome == "unknown" or (outcome == "certified") == (least > 0), (weight, least)


def test_weights_that_only_rounding_refutes():
    for rows in ([[0.99999998, 1e4], [-3e6, -99.0]], [[-1e17, 0.0], [0.0, 0.5]], [[1.0 - 2.0**-53, 0.0], [0.0, 0.0]]):
        matrix = testing.tensor(rows, dtype=torch.float64)
        assert min(minors(matrix)) > 0
        assert wp.well_posedness(plain(matrix)).outcome != "refuted"
    for rows in ([[1.0 + 2.0**-52, 0.0], [0.0, 0.0]], [[1e17, 0.0], [0.0, 0.5]], [[0.5, 2.0**-511], [2.0**511, 0.5]]):
        matrix = testing.tensor(rows, dtype=torch.float64)
        assert min(minors(matrix)) <= 0
        assert wp.well_posedness(plain(matrix)).outcome == "refuted"


@pytest.mark.parametrize("seed", range(20))
def test_the_two_equilibria_are_two(seed):
    generator = testing.generator(seed)
    size = 2 + seed % 9
    matrix = 2.0 * testing.randn(size, size, generator=generator, dtype=torch.float64)
    scale = 10.0 ** (4 * testing.rand(size, generator=generator, dtype=torch.float64) - 2)
    matrix = scale[:, None] * matrix / scale
    proved, found = refuted(matrix)
    if not proved:
        assert seed % 9 == 0  # small ones may be well posed
        return
    assert found is not None and not torch.equal(found.first, found.second)
    rows = [[Fraction(x) for x in row] for row in matrix.tolist()]
    for state in (found.first.tolist(), found.second.tolist()):
        image = [
            max(sum(a * Fraction(b) for a, b in zip(row, state, strict=True)) + Fraction(q), Fraction(0))
            for row, q in zip(rows, found.offset.tolist(), strict=True)
        ]
        missed = sum(float(y - Fraction(z)) ** 2 for y, z in zip(image, state, strict=True)) ** 0.5
        assert missed <= found.residual * (1 + 1e-12) <= 1e-6


def test_large_minors_are_refuted_by_a_factorisation():
    generator = testing.generator(0)
    for size, sign in itertools.product((80, 200), (1.0, -1.0)):
        core = testing.randn(size, size, generator=generator, dtype=torch.float64)
        if float(torch.linalg.det(core / size**0.5)) * sign < 0:
            core[0] = -core[0]
        scale = 10.0 ** (8 * testing.rand(size, generator=generator, dtype=torch.float64) - 4)
        matrix = testing.eye(size, dtype=torch.float64) - scale[:, None] * core
        assert _is_negative(matrix) == (sign < 0)
    near = testing.eye(80, dtype=torch.float64) - testing.ones(80, 80, dtype=torch.float64) * (1.0 + 1e-17)
    assert not _is_negative(near)
    assert refuted(3.0 * testing.randn(150, 150, generator=generator, dtype=torch.float64))[0]
