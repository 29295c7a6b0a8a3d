"""What the budget of searches does, and what certificates and tables say of what was left out or not solved."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.bounds import tail_problem
from wellposed.bounds.budget import Budget, OutOfBudget
from wellposed.bounds.search.primal_dual import PrimalDualSearch
from wellposed.experiments.results import Certified
from wellposed.experiments.tables import Summary, as_text, header


def model_of(width: int = 8, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(wp.MonDEQ(5, width, dtype=torch.float64), nn.Linear(width, classes).double()).eval()


def test_without_a_budget_nothing_is_left_out():
    for seconds in (None, 1e6, float("inf")):
        certificate = wp.certify(model_of(), seconds=seconds)
        assert certificate.left_out == () and "left out" not in repr(certificate)
        assert {bound.method for bound in certificate.bounds} == {"product", "metric"}


def test_with_none_the_searches_are_left_out_and_named():
    whole, none = wp.certify(model_of()), wp.certify(model_of(), seconds=0.0)
    (said,) = none.left_out
    assert said.startswith("metric: the best metric for a state of 8 would take") and said.endswith("of 0 s")
    assert said in repr(none) and none.tail is None and none.check()
    assert none.lipschitz >= whole.lipschitz


@pytest.mark.parametrize(("norm", "method"), [("2", "metric"), ("inf", "ellipsoids"), ("1", "columns")])
def test_a_method_that_is_asked_for_by_name_has_no_budget_but_a_given_one(norm, method):
    assert wp.certify(model_of(), norm=norm, method=method).tail is not None
    with pytest.raises(wp.CertificateError, match=f"{method}: the best metric for a state of 8 would take .* of 0 s"):
        wp.certify(model_of(), norm=norm, method=method, seconds=0.0)


def test_margins_for_which_no_time_is_left_follow_from_all_outputs(monkeypatch):
    whole = wp.certify(model_of())
    spent = iter([False, False, False] + [True] * 10)  # after all outputs, and before and after the first margin

    class Spent(Budget):
        @property
        def is_spent(self) -> bool:
            return next(spent)

    monkeypatch.setattr(tail_problem, "Budget", Spent)
    problem = whole.tail and wp.bounds.metric_of_tail.MetricOfTail().problem(whole.network)
    found = problem.bound()
    assert "2 of 3 class margins have no metric of their own" in found.left_out
    assert found.pairs[0, 1] == pytest.approx(float(whole.tail.pairs[0, 1]), rel=1e-9)
    assert found.pairs[0, 2] == found.pairs[1, 2] == pytest.approx(2.0**0.5 * found.value, rel=1e-9)
    problem.prove(found)


def test_a_search_that_is_stopped_is_feasible_and_no_better():
    generator = testing.generator(0)
    a, driven, seen = (torch.randn(12, k, generator=generator, dtype=torch.float64) for k in (12, 7, 4))
    displacement, gram = torch.eye(12, dtype=torch.float64) + a @ a.t(), driven @ driven.t()
    search = PrimalDualSearch(displacement, gram, torch.ones(12, dtype=torch.float64))
    best, stopped = search.least_square(seen.t()), search.least_square(seen.t(), deadline=0.0)
    assert stopped.steps == 0 and stopped.square > best.square
    for point in (best, stopped):
        half = point.multipliers[:, None] * displacement
        through = point.multipliers[:, None] * gram * point.multipliers / (point.square * (1.0 + 1e-9))
        assert torch.linalg.eigvalsh(half + half.t() - seen @ seen.t() - through)[0] > -1e-7


def test_what_would_surely_take_longer_is_not_begun():
    Budget.of(60.0).require(200.0**3, "a search")
    with pytest.raises(OutOfBudget, match=r"a search would take about 1\.2e\+04 s or more, of 60 s"):
        Budget.of(60.0).require(1e12, "a search")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), "long"])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(wp.InputError, match="seconds"):
        wp.certify(model_of(), seconds=seconds)


def test_inputs_that_are_not_solved_are_counted():
    model = model_of()
    model[0].max_steps = 1
    certificate = wp.certify(model, method="product")
    x, y = testing.randn(4, 5).double(), torch.zeros(4, dtype=torch.int64)
    with pytest.warns(wp.NotConvergedWarning) as seen:
        assert certificate.evaluate(x, y, batch_size=3).tolist() == [0.0] * 4
    assert "4 of 4 inputs: the solve did not converge, and their radius is 0" in [str(one.message) for one in seen]
    with pytest.warns(wp.NotConvergedWarning):
        assert certificate.network.bounded(x).unsolved.all()
    assert not wp.materialise(model_of()).bounded(x).unsolved.any()


def test_tables_say_what_was_left_out_and_not_solved():
    found = Certified(2.0, 1.0, 0.1, {"paper": [0.5, 0.0]}, "", unsolved=1, left_out=("metric: too long",))
    assert found.remarks == ["the solve did not converge for 1 inputs, whose radius is 0", "left out: metric: too long"]
    assert Certified(**json.loads(json.dumps(vars(found)))).remarks == found.remarks
    summary = Summary("run", 2, "images", 0.1, 2.0, 1.0, [], found.remarks)
    assert all(remark in header(summary) and remark in as_text(summary) for remark in found.remarks)
