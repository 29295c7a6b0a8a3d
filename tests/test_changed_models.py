"""A model that was changed after construction: what is certified of it is true of what runs, or it is refused."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

import wellposed as wp
from harness.changed_models import attempt, chosen, every_change, judge, run
from wellposed import testing
from wellposed.falsification.changes import changes
from wellposed.falsification.claimed_faults import believed
from wellposed.falsification.known_models import known_models
from wellposed.falsification.slopes import sampled_slopes

certificate_of = wp.certify  # before anything is put in its place
KNOWN = {known.name: known for known in known_models()}


def faults_of(name: str, share: int | None) -> dict[str, dict[str, str]]:
    known = KNOWN[name]
    found = list(changes(known.make()))
    verdicts = ((change, judge(known, change)) for change in (found if share is None else chosen(found, share)))
    return {change.name: verdict.faults for change, verdict in verdicts if verdict.faults}


@pytest.mark.parametrize("name", KNOWN)
def test_claims_about_changed_models(name):
    assert faults_of(name, 10) == {}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", KNOWN)
def test_claims_about_every_changed_model(name):
    assert faults_of(name, None) == {}


@pytest.mark.parametrize("name", KNOWN)
def test_unchanged_models_are_certified_and_known_again(name):
    known = KNOWN[name]
    model, points = known.make(), known.points(6, testing.generator(1))
    certificate = wp.certify(model)
    assert certificate.is_about(model)
    assert certificate.is_about(known.make())
    seen = sampled_slopes(lambda rows: model(known.data(rows)), points, random_pairs=32)
    assert seen.steady and seen.largest <= certificate.lipschitz * (1.0 + 1e-6)


def test_the_judge_sees_a_gate_that_believes_isinstance(monkeypatch):
    monkeypatch.setattr(wp, "certify", lambda model, method="product": believed(model))
    seen = Counter()
    for name in ("MonDEQ", "BatchNorm1d"):
        for change in changes(KNOWN[name].make()):
            if change.name.split(": ")[-1] in (
                "forward of the instance",
                "forward of a subclass",
                "register_forward_hook",
            ):
                seen.update([change.kind] * ("a slope above the claim" in judge(KNOWN[name], change).faults))
    assert seen.keys() == {"instance", "subclass", "hook"}, seen


class Ideal:
    """What certificates should be like: about the network of then, and told from every other by its values."""

    def __init__(self, known, model):
        self.known, self.points = known, known.points(20, testing.generator(2))
        self.kept = certificate_of(copy.deepcopy(model), method="product")
        self.values = run(known, model, self.points)
        self.evaluate = self.kept.evaluate

    def is_about(self, model):
        found = attempt(self.known, model, self.points)
        return found is not None and torch.equal(found, self.values)


@pytest.mark.parametrize("name", ["MonDEQ tanh", "BatchNorm2d", "ImplicitGraph lipschitz"])
def test_the_demands_can_be_met(name, monkeypatch):
    known = KNOWN[name]
    for change in chosen(list(changes(known.make())), 28):
        answers = iter((lambda model: Ideal(known, model), refuse))
        monkeypatch.setattr(wp, "certify", lambda model, method=None, answers=answers: next(answers)(model))
        assert judge(known, change).faults == {}, change.name


def refuse(model):
    raise wp.CertificateError("model: it was changed")


def test_changes_are_many_and_always_the_same():
    kinds = Counter(change.kind for _, change in every_change())
    assert kinds.total() > 15_000 and min(kinds.values()) > 100
    assert kinds.keys() == {
        "instance", "class", "subclass", "hook", "global hook", "swap", "mode", "option", "solve", "dtype", "numbers", "tensor",
        "parametrised", "tied", "structure",
    }  # fmt: skip
    for known in (KNOWN["MonDEQ"], KNOWN["ConvLBEN"], KNOWN["Normalize"]):
        first, second = ([change.name for change in changes(known.make())] for _ in range(2))
        assert first == second and len(first) == len(set(first)), known.name


def test_changes_of_classes_are_undone():
    before = {kind: dict(vars(kind)) for kind in (torch.nn.Linear, torch.nn.ReLU, wp.MonDEQ, wp.Equilibrium)}
    for known, change in every_change(20):
        if change.of_the_library and known.name in ("MonDEQ", "Linear"):
            judge(known, change)
    assert before == {kind: dict(vars(kind)) for kind in before}
