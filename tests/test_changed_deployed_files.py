"""Honest certificates of deployed files, changed at random and sealed anew: whatever is accepted claims no less than is true."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from wellposed.cli.main import run
from wellposed.falsification.deployed.campaign import CHANGES, as_text, campaign
from wellposed.falsification.deployed.subjects import SUBJECTS

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32
SLOW = (  # to judge
    "scaled", "bounded on images", "channelwise", "positive on images", "cells on images", "several scales", "graphs",
)  # fmt: skip
OTHERS = tuple(name for name in SUBJECTS if name not in SLOW)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_changed_files_that_are_accepted_claim_no_less_than_is_true(rounds):
    """Every kind of change of every file, so many times."""
    trials = rounds * len(CHANGES) * sum(len(SUBJECTS[name].norms) for name in OTHERS)
    found = campaign(trials, subjects=OTHERS)
    counts = Counter((outcome.kind, outcome.what) for outcome in found)
    assert not any(outcome.reasons for outcome in found), as_text(found)
    assert len(found) == trials and all(counts[kind, "refused"] > 0 for kind in CHANGES)
    accepted = [outcome for outcome in found if outcome.what == "sound"]
    assert sum(outcome.own for outcome in accepted) >= trials // 20  # other models, whose proofs were looked for anew


def test_some_of_the_files_that_are_slow_to_judge():
    kinds = ("numbers: options", "numbers: scaled", "evidence: numbers", "claim: constants")
    found = campaign(8 * len(SLOW), subjects=SLOW, kinds=kinds)
    assert not any(outcome.reasons for outcome in found), as_text(found)
    assert {outcome.what for outcome in found} == {"sound", "refused"}


def test_the_same_seed_changes_the_same():
    first, second, other = (campaign(26, seed=seed, subjects=("feedthrough",)) for seed in (3, 3, 4))
    assert first == second and first != other


def test_a_changed_network_on_graphs_is_judged_by_its_equation():
    accepted, refused = campaign(2, subjects=("graphs",), kinds=("claim: constants",))
    assert (accepted.what, refused.what) == ("sound", "refused")


def test_the_command(capsys):
    assert run(["reproduce", "forgeries", "--trials", "26", "--subjects", "feedthrough", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [outcome["kind"] for outcome in told].count("graph: wires") >= 1 and len(told) == 26
    assert run(["reproduce", "forgeries", "--trials", "0"]) == 2
