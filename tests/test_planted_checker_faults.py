"""Faults planted in the checker of deployed files: each lets a forged file pass, which the checker as it is refuses.

So every forged file here is a test of one check, and fails if that check is lost.
"""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch

from harness.deployed_files import accepted, changed, claim_of, forge, is_accepted, seal, stored, written
from test_checker import MODELS, rename, swap_errors
from wellposed.checker import (
    affine,
    claim,
    core,
    dense,
    entrywise,
    euclidean,
    explicit,
    from_input,
    graphs,
    metric,
    model,
    positive,
    proofs,
    windows,
    witness,
)
from wellposed.falsification.deployed.campaign import campaign

pytestmark = pytest.mark.float32


def without(module, *checks):
    """The checks of some names are skipped in a module."""

    def plant(monkeypatch):
        own = module.require
        monkeypatch.setattr(module, "require", lambda good, check, reason: check in checks or own(good, check, reason))

    return plant


def believing(module, name):
    """A function says yes to everything."""
    return lambda monkeypatch: monkeypatch.setattr(module, name, lambda *arguments: True)


def both(*plants):
    return lambda monkeypatch: [plant(monkeypatch) for plant in plants]


def claims(**changes):
    return {"claim": lambda content: content.update({key: change(content[key]) for key, change in changes.items()})}


def less(factor):
    return lambda value: (
        [[factor * part for part in row] for row in value] if isinstance(value, list) else factor * value
    )


def number(words, change):
    return {"model": lambda proto: changed(stored(proto, words), change)}


def raw(name, change):
    """A change of the bytes of a file, which is not sealed."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def unbounded(proto):
    function = next(part for part in proto.functions if part.name == "Linear")
    function.node[0].attribute[0].t.double_data[0] = 0.0


def rows_of_a_mean(proto):
    tensor = stored(proto, "mean")
    tensor.raw_data, tensor.dims[0] = np.zeros(3, np.float32).tobytes(), 3


def shadowed(proto):
    tensor, name = stored(proto, "weight"), "error_2"
    for node in proto.graph.node:
        for place, given in enumerate(node.input):
            node.input[place] = name if given == tensor.name else given
    tensor.name = name


def linked(folder):
    (folder / "c.safetensors").rename(folder / "d")
    (folder / "c.safetensors").symlink_to(folder / "d")


def repeated_key(folder):
    (folder / "c.json").write_text('{"lipschitz": 1e-3, ' + json.dumps(claim_of(folder))[1:])


def evidence(name, change):
    return {"evidence": lambda tensors: tensors.update({name: change(tensors[name])})}


def shorter_vectors(folder):
    forge(
        folder,
        lambda content: content.update(lipschitz=0.5 * content["lipschitz"], pairs=None, theorems=["entrywise"]),
        lambda tensors: [
            tensors.update({name: 0.2 * part}) if name.endswith("moved") else tensors.pop(name)
            for name, part in list(tensors.items())
            if not name.endswith("sensitivity")
        ],
    )


FAULTS = {
    "functions are not compared": (without(model, "functions", "model"), "mondeq", {"model": unbounded}),
    "the model's digest is not compared": (
        without(model, "model digest"), "mondeq", lambda folder: forge_without_digest(folder)
    ),
    "the evidence's digest is not compared": (
        without(claim, "evidence digest"), "mondeq", raw("c.safetensors", lambda data: data[:-8] + b"\0" + data[-7:])
    ),
    "the claim's digest is not compared": (
        without(claim, "claim digest"), "mondeq", raw("c.json", lambda data: data.replace(b'"lipschitz": ', b'"lipschitz": 1'))
    ),
    "constants are not compared": (without(core, "lipschitz"), "mondeq", claims(lipschitz=less(0.99))),
    "margins are not compared": (without(core, "pairs"), "mondeq", claims(pairs=less(0.99))),
    "margins in other rows": (without(core, "pairs"), "mondeq", claims(pairs=lambda rows: rows[1:] + rows[:1])),
    "sensitivities are believed": (believing(dense, "metric_proves"), "mondeq", number("sensitivity", lambda a: a * 0.5)),
    "rows of W are believed": (
        both(believing(dense, "metric_proves"), believing(metric, "metric_proves")), "alone", number(".W", lambda a: a[::-1])
    ),
    "metrics are believed": (
        believing(metric, "metric_proves"), "mondeq", evidence("5/values", lambda values: 0.5 * values)
    ),
    "metrics from the input are believed": (
        without(from_input, "metric"), ("mondeq", "inf"), evidence("5/values", lambda values: 0.5 * values)
    ),
    "any activation has an equilibrium": (
        without(dense, "equilibrium"), "alone",
        {"model": lambda proto: rename(proto, "ReflectedEquilibrium_tanh", "ReflectedEquilibrium_silu")},
    ),
    "any step is one of a resolvent": (without(dense, "options"), "alone", number("step", lambda a: a * 2.0)),
    "shapes are not followed": (without(affine, "shapes"), "mondeq", {"model": rows_of_a_mean}),
    "standard deviations may be negative": (without(affine, "options"), "mondeq", number("std", lambda a: -a)),
    "windows may be anywhere": (
        believing(windows, "_regular"), "image",
        number("Convolution_1.index", lambda a: 0 * a) | claims(lipschitz=less(3.0), pairs=less(3.0)),
    ),
    "overlaps are believed": (without(windows, "options"), "image", number("overlap", lambda a: 0.5 * a)),
    "numbers may be none": (without(model, "numbers"), "mondeq", number("bias", lambda a: a * np.nan)),
    "bounds of errors of other values": (without(model, "graph"), "branches", {"model": swap_errors}),
    "names may be taken": (without(model, "names"), "mondeq", {"model": shadowed}),
    "floors are believed": (without(positive, "floor"), "sigmoid", number("lowest", lambda a: a + 0.3)),
    "vectors are believed": (without(entrywise, "entrywise"), ("nemon", "inf"), shorter_vectors),
    "evidence that nothing needs": (without(claim, "evidence"), "mondeq", {"evidence": lambda t: t.update(more=np.zeros(3))}),
    "keys may occur twice": (without(claim, "claim digest"), "mondeq", repeated_key),
    "links are followed": (lambda monkeypatch: monkeypatch.setattr(claim.os, "O_NOFOLLOW", 0), "mondeq", linked),
    "any theorem for any norm": (
        without(euclidean, "claim"), "mondeq", claims(theorems=lambda known: ["metric"])
    ),
    "lower bounds are believed": (
        without(witness, "lower bound"), "with a lower bound", claims(lower_bound=lambda value: value * 1.001)
    ),
    "scales may be negative": (without(explicit, "explicit"), "deep", evidence("1/scale", lambda scale: -scale)),
}  # fmt: skip


def forge_without_digest(folder):
    before = claim_of(folder)["model_sha256"]
    forge(folder, model=lambda proto: changed(stored(proto, "bias"), lambda array: array + 1))
    seal(folder, {**claim_of(folder), "model_sha256": before})


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    known = {}

    def folder_of(name, norm):
        if (name, norm) not in known:
            known[name, norm] = tmp_path_factory.mktemp("original")
            torch.manual_seed(0)
            lower = name == "with a lower bound"
            make, shape = MODELS["mondeq" if lower else name]
            options = {"inputs": torch.randn(6, *shape)} if lower else {}
            written(make(), known[name, norm], shape, norm=norm, **options)
        return known[name, norm]

    return folder_of


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_lets_a_forged_file_pass(fault, originals, tmp_path, monkeypatch):
    plant, subject, forgery = FAULTS[fault]
    name, norm = subject if isinstance(subject, tuple) else (subject, "2")
    shutil.copytree(originals(name, norm), tmp_path, dirs_exist_ok=True)
    assert is_accepted(tmp_path)
    if callable(forgery):
        forgery(tmp_path)
    else:
        forge(tmp_path, **forgery)
    assert not is_accepted(tmp_path)
    plant(monkeypatch)
    accepted(tmp_path)


def indefinite(count):
    """Matrices [[a, b], [b, c]] that are not positive semidefinite, by less than rounding."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        a, b = rng.random(2) + 0.5
        c = b / a * b
        if Fraction(a) * Fraction(c) < Fraction(b) ** 2:
            found.append(np.array([[a, b], [b, c]]))
    return found


def test_rounding_of_factorisations_counts():
    matrices = indefinite(200)
    assert not any(proofs.semidefinite(matrix, 0.0) for matrix in matrices)

    def succeeds(matrix):
        try:
            np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            return False
        return True

    assert any(succeeds(matrix) for matrix in matrices)  # so that leaving the shift out is noticed


def test_rounding_of_norms_counts(monkeypatch):
    """Norms of matrices of rank one, whose squares are rational."""
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal(5).astype(np.float32), rng.standard_normal(4).astype(np.float32)) for _ in range(60)]

    def least(vectors):
        first, second = (sum(Fraction(float(value)) ** 2 for value in part) for part in vectors)
        return first * second

    matrices = [np.outer(*(part.astype(np.float64) for part in pair)) for pair in pairs]  # products are exact
    assert all(
        Fraction(proofs.norm_of(matrix)) ** 2 >= least(pair) for matrix, pair in zip(matrices, pairs, strict=True)
    )
    monkeypatch.setattr(proofs, "semidefinite", lambda matrix, error: True)
    monkeypatch.setattr(proofs, "up", float)
    missed = [
        Fraction(float(np.linalg.norm(matrix, 2))) ** 2 < least(pair)
        for matrix, pair in zip(matrices, pairs, strict=True)
    ]
    assert any(missed)  # so that a norm without its rounding is noticed


@pytest.mark.parametrize(
    ("plant", "subject", "kinds", "trials"),
    [
        (
            both(believing(dense, "metric_proves"), believing(metric, "metric_proves")),
            "bounded",
            ("evidence: numbers",),
            40,
        ),
        (believing(windows, "_regular"), "image", ("numbers: windows and shapes",), 40),
        (without(graphs, "contraction", "sorts"), "graphs", ("numbers: scaled",), 12),
    ],
)
def test_the_campaign_notices_faults(plant, subject, kinds, trials, monkeypatch):
    plant(monkeypatch)
    assert any(outcome.what == "fault" for outcome in campaign(trials, subjects=(subject,), kinds=kinds))
