"""A model that was changed after construction: what is certified of it is true of what runs, or it is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import wellposed as wp
from harness.changed_models import chosen, every_change, judge
from wellposed.experiments.changes import changes
from wellposed.experiments.known_models import known_models
from wellposed.experiments.slopes import sampled_slopes

KNOWN = {known.name: known for known in known_models()}


def faults_of(name: str, share: int | None) -> dict[str, dict[str, str]]:
    known = KNOWN[name]
    found = list(changes(known.make()))
    verdicts = ((change, judge(known, change)) for change in (found if share is None else chosen(found, share)))
    return {change.name: verdict.faults for change, verdict in verdicts if verdict.faults}


@pytest.mark.parametrize("name", KNOWN)
def test_claims_about_changed_models(name):
    assert faults_of(name, 14) == {}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", KNOWN)
def test_claims_about_every_changed_model(name):
    assert faults_of(name, None) == {}


@pytest.mark.parametrize("name", KNOWN)
def test_unchanged_models_are_certified_and_known_again(name):
    known = KNOWN[name]
    model, points = known.make(), known.points(6, torch.Generator().manual_seed(1))
    certificate = wp.certify(model)
    assert certificate.is_about(model)
    assert certificate.is_about(known.make())
    seen = sampled_slopes(lambda rows: model(known.data(rows)), points, random_pairs=32)
    assert seen.steady and seen.largest <= certificate.lipschitz * (1.0 + 1e-6)


def test_changes_are_many_and_always_the_same():
    kinds = Counter(change.kind for _, change in every_change())
    assert kinds.total() > 15_000 and min(kinds.values()) > 100
    assert kinds.keys() == {
        "instance", "class", "subclass", "hook", "global hook", "swap", "mode", "option", "solve", "dtype", "numbers", "tensor",
        "parametrised", "tied",
    }  # fmt: skip
    first, second = ([change.name for _, change in every_change(5)] for _ in range(2))
    assert first == second
    for known in known_models():
        names = [change.name for change in changes(known.make())]
        assert len(names) == len(set(names)), known.name


def test_changes_of_classes_are_undone():
    before = {kind: dict(vars(kind)) for kind in (torch.nn.Linear, torch.nn.ReLU, wp.MonDEQ, wp.Equilibrium)}
    for known, change in every_change(20):
        if change.of_the_library and known.name in ("MonDEQ", "Linear"):
            judge(known, change)
    assert before == {kind: dict(vars(kind)) for kind in before}
