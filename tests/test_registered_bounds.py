"""A bound that is defined here: collected, used where it is the least, named, proved again, and caught when it lies."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.bounds import NotApplicable, bound_methods
from wellposed.checker import main as check_file


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class OneMatrixBound(wp.Bound):
    """The norm of the product of matrices, with that product for evidence."""

    matrix: torch.Tensor

    def proved_again(self, network):
        matrix = product_of_matrices(network)
        if matrix.shape != self.matrix.shape or not bool((matrix == self.matrix).all()):
            raise wp.CertificateError(f"{self.method}: the maps of the network have another product")
        return bound_of(matrix, self.method)


def product_of_matrices(network):
    maps = [block.linear_map for block in network.blocks if not block.moves]
    if None in maps:
        raise NotApplicable("something else than linear maps")
    return functools.reduce(lambda before, after: after @ before, [weight for weight, _ in maps])


def bound_of(matrix, name):
    """Constants of one matrix; its entries are off by less than the last factor says, for the small ones of this test."""
    rows = (matrix[:, None] - matrix[None]).norm(dim=2)
    return OneMatrixBound(
        method=name, norm="2", value=float(torch.linalg.matrix_norm(matrix, 2)) * (1 + 1e-9), pairs=rows * (1 + 1e-9),
        reason="the norm of one matrix", matrix=matrix,
    )  # fmt: skip


class OneMatrix(wp.BoundMethod):
    """For networks of nothing but linear maps."""

    name, norms = "one matrix", ("2",)

    def bound(self, network, norm, *, budget=None):
        return bound_of(product_of_matrices(network), self.name)


class Liar(OneMatrix):
    """Claims half of it."""

    name = "liar"

    def bound(self, network, norm, *, budget=None):
        found = super().bound(network, norm)
        return dataclasses.replace(found, value=0.5 * found.value, pairs=0.5 * found.pairs)


class FirstMargin(OneMatrix):
    """Knows the margin of the first two classes, and of everything else hardly anything."""

    name = "first margin"

    def bound(self, network, norm, *, budget=None):
        found = super().bound(network, norm)
        pairs = torch.full_like(found.pairs, 1e6).fill_diagonal_(0.0)
        pairs[0, 1] = pairs[1, 0] = found.pairs[0, 1]
        return dataclasses.replace(found, value=1e6, pairs=pairs)


@pytest.fixture
def registered():
    """Registers methods, and forgets them after the test."""
    known = []

    def register(method):
        known.append(wp.register_bound(method))
        return method

    yield register
    for method in known:
        wp.unregister_bound(method)


def linear_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double().eval()


def points():
    return testing.randn(8, 6, seed=1, dtype=torch.float64)


def test_it_is_used_where_it_is_the_least_and_proved_again(registered):
    model = linear_model()
    without = wp.certify(model)
    registered(OneMatrix())
    found = wp.certify(model, inputs=points())
    matrix = (model[1].weight @ model[0].weight).detach()
    assert found.lipschitz == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-8)
    assert found.lipschitz < 0.95 * without.lipschitz and found.method == "the norm of one matrix"
    assert found.lower_bound == pytest.approx(found.lipschitz, rel=1e-6)
    assert [bound.method for bound in found.bounds] == ["product", "one matrix"]
    assert bool((found.pairs <= without.pairs).all()) and found.check() and found.is_about(model)
    x = points()
    assert bool((found.evaluate(x, model(x).argmax(1)) >= without.evaluate(x, model(x).argmax(1))).all())
    # The published rule keeps the published constant, and the factors are those of the blocks.
    assert found.factors == without.factors and math.prod(f.value for f in found.factors) > found.lipschitz
    labels = model(x).argmax(1)
    assert torch.equal(found.evaluate(x, labels, rule="paper"), without.evaluate(x, labels, rule="paper"))


def test_it_is_asked_for_by_its_name(registered):
    registered(OneMatrix())
    assert wp.certify(linear_model(), method="one matrix").method == "the norm of one matrix"
    assert (
        wp.certify(linear_model(), method="product").method
        == wp.certify(linear_model(), method="product").bounds[0].reason
    )
    other = nn.Sequential(wp.MonDEQ(6, 5), nn.Linear(5, 4)).double()
    assert [bound.method for bound in wp.certify(other).bounds] == ["product", "metric"]
    with pytest.raises(wp.CertificateError, match="method='one matrix'.*something else than linear maps"):
        wp.certify(other, method="one matrix")
    with pytest.raises(wp.InputError, match="method='one matrix': is about the norm 2"):
        wp.certify(linear_model(), norm="inf", method="one matrix")


def test_margins_are_the_least_entry_by_entry(registered):
    model = linear_model()
    without = wp.certify(model)
    registered(FirstMargin())
    found = wp.certify(model)
    assert found.lipschitz == without.lipschitz and found.method == without.method
    assert float(found.pairs[0, 1]) < 0.95 * float(without.pairs[0, 1])
    off = testing.ones(4, 4, dtype=torch.bool)
    off[0, 1] = off[1, 0] = False
    assert torch.equal(found.pairs[off], without.pairs[off])


def test_its_lie_is_caught_by_a_witness(registered):
    registered(Liar())
    model = linear_model()
    with pytest.raises(wp.CertificateError, match="contradiction: lipschitz is at least"):
        wp.certify(model, inputs=points())
    with pytest.raises(wp.CertificateError, match="liar: .* is claimed"):
        wp.certify(model).check()


def test_evidence_of_another_network_is_refused(registered):
    registered(OneMatrix())
    found = wp.certify(linear_model())
    best = found.bounds[-1]
    forged = dataclasses.replace(best, matrix=0.9 * best.matrix, value=0.9 * best.value)
    with pytest.raises(wp.CertificateError, match="another product"):
        dataclasses.replace(found, bounds=(found.bounds[0], forged)).check()


def test_files_claim_what_the_checker_can_follow(registered, tmp_path):
    network = wp.export(linear_model(), tmp_path / "m.onnx", input_shape=(6,))
    without = wp.certify(network)
    registered(OneMatrix())
    found = wp.certify(network, inputs=points().float())
    wp.certify_file(found, tmp_path / "m.onnx", tmp_path / "c.json")
    assert check_file([str(tmp_path / "c.json"), str(tmp_path / "m.onnx")]) == 0
    claimed = json.loads((tmp_path / "c.json").read_text())["lipschitz"]
    assert claimed == pytest.approx(without.lipschitz, rel=1e-6) and claimed > found.lipschitz


def test_what_is_no_method_is_refused(registered):
    names = [method.name for method in bound_methods()]
    with pytest.raises(wp.InputError, match="name='product'"):
        wp.register_bound(type("Again", (OneMatrix,), {"name": "product"})())
    with pytest.raises(wp.InputError, match="norms"):
        wp.register_bound(type("Elsewhere", (OneMatrix,), {"name": "elsewhere", "norms": ("3",)})())
    with pytest.raises(wp.InputError, match="must be an instance"):
        wp.register_bound(OneMatrix)
    with pytest.raises(wp.InputError, match="not registered"):
        wp.unregister_bound(OneMatrix())
    assert [method.name for method in bound_methods()] == names

    class Careless(OneMatrix):
        name = "careless"

        def bound(self, network, norm, *, budget=None):
            return dataclasses.replace(super().bound(network, norm), value=math.nan)

    registered(Careless())
    with pytest.raises(wp.CertificateError, match="no bound of the method 'careless'"):
        wp.certify(linear_model())


def test_bounds_in_every_norm_multiply_where_all_blocks_have_a_constant():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).double().eval()
    for norm, order in (("inf", math.inf), ("1", 1)):
        found = wp.certify(model, norm=norm, inputs=testing.randn(4, 1, 6, 6, seed=2, dtype=torch.float64))
        assert [bound.method for bound in found.bounds] == ["product"] and found.check()
        assert 0.0 < found.lower_bound <= found.lipschitz and len(found.factors) == 5
        for sample in testing.randn(20, 1, 6, 6, seed=3, dtype=torch.float64):
            jacobian = torch.autograd.functional.jacobian(lambda at: model(at[None])[0], sample).reshape(3, 36)
            assert float(torch.linalg.matrix_norm(jacobian, order)) <= found.lipschitz
            rows = jacobian[:, None] - jacobian[None]
            slopes = rows.abs().sum(2) if norm == "inf" else rows.abs().amax(2)
            assert bool((slopes <= found.pairs + 1e-12).all())


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
def test_certificates_are_compared_by_what_they_claim_of_which_network(norm):
    torch.manual_seed(0)
    model = nn.Sequential(wp.MonDEQ(5, 4), nn.Linear(4, 3)).double().eval()
    found, again = wp.certify(model, norm=norm), wp.certify(model, norm=norm)
    assert found == again and hash(found) == hash(again) and found != "certificate"
    assert dataclasses.replace(found, pairs=1.1 * found.pairs) != found
    assert dataclasses.replace(found, lipschitz=2.0 * found.lipschitz) != found
    with torch.no_grad():
        model[1].weight.mul_(2.0)
    assert wp.certify(model, norm=norm) != found
    for thing in (
        found,
        *found.bounds,
        found.tail,
        wp.witness(model, testing.randn(3, 5, dtype=torch.float64)),
    ):
        assert "\n" not in repr(thing) and len(repr(thing)) < 250
