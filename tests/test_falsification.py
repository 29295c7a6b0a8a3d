"""The falsification campaign on a small scale: it breaks nothing that holds, and notices every planted fault."""

from __future__ import annotations

import json

import pytest
import torch

from wellposed import testing
from wellposed.cli.main import run as command
from wellposed.falsification.campaign import METHODS, Tally, campaign
from wellposed.falsification.graph_subjects import graph_subject
from wellposed.falsification.image_subjects import image_subject
from wellposed.falsification.planted_faults import FAULTS
from wellposed.falsification.subjects import subjects


@pytest.mark.parametrize("trials", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_certificate_breaks(trials):
    found = campaign(trials)
    for name in METHODS:
        tally = found.tallies[name]
        assert tally.trials >= trials and tally.violations == 0, (name, tally)
    assert found.tallies["metric"].closest > 0.9  # the pairs are steep enough to notice something


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore")
def test_planted_faults_are_caught(fault):
    caught, by = FAULTS[fault]()
    assert caught, by


def test_tallies_count_what_exceeds_a_claim():
    tally = Tally()
    tally.judge(testing.tensor([0.5, 1.0, 1.0 + 1e-12, 1.1, torch.nan]).double(), 1.0)
    assert (tally.trials, tally.violations) == (5, 2)
    assert tally.closest == pytest.approx(1.1)
    tally.judge(testing.tensor([0.0, 1.0]).double(), 0.0)
    assert (tally.trials, tally.violations) == (7, 3)


def test_subjects_are_of_all_kinds():
    generator = testing.generator(0)
    drawn = [subject for subject, _ in zip(subjects(generator), range(400), strict=False)]
    kinds = {type(subject.model[0]).__name__ for subject in drawn}
    assert kinds == {"MonDEQ", "LBEN", "NEMON", "PcDEQ", "OrthogonalDEQ", "SLL", "Sandwich", "Residual"}
    layers = {type(layer).__name__ for _ in range(40) for layer in image_subject(generator).model}
    assert layers >= {"ConvMonDEQ", "ConvLBEN"}
    variants = {graph_subject(generator)[0].layers[0].variant for _ in range(10)}
    assert variants == {"lipschitz", "orthogonal"}
    assert {next(subject.model.parameters()).dtype for subject in drawn} == {torch.float32, torch.float64}
    spreads = [subject.spread for subject in drawn]
    assert min(spreads) <= 1e-8 and max(spreads) >= 0.999e8


@pytest.mark.float32
def test_the_command(capsys, monkeypatch):
    some = {name: FAULTS[name] for name in ("a wrong metric Λ", "logits of −∞")}  # all of them have tests of their own
    monkeypatch.setattr("wellposed.falsification.planted_faults.FAULTS", some)
    assert command(["reproduce", "falsification", "--trials", "300", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["tallies"]) == set(METHODS)
    assert all(fault["caught"] for fault in result["faults"]) and len(result["faults"]) == len(some)
    assert command(["reproduce", "falsification", "--trials", "0"]) == 2
