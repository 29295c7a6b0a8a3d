"""Benchmarks: what is compared is right, rows say what is less exact or missing, and the page is made of the records."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import wellposed as wp
from wellposed.benchmarking import compiled, gpu, training_subject
from wellposed.benchmarking.benchmark import Options
from wellposed.benchmarking.certify import CERTIFY
from wellposed.benchmarking.certify_subject import Certification
from wellposed.benchmarking.collection import BENCHMARKS, run_benchmarks
from wellposed.benchmarking.contest import LADDER, Rules, contest
from wellposed.benchmarking.contestant import OWN, Contestant, elsewhere, source_of
from wellposed.benchmarking.fixed_point_case import Case, cell
from wellposed.benchmarking.fixed_point_jax import JaxLoop
from wellposed.benchmarking.fixed_point_rivals import FixedPoint, PlainLoop
from wellposed.benchmarking.metric import Clarabel, Metric
from wellposed.benchmarking.page import page
from wellposed.benchmarking.pictures import draw
from wellposed.benchmarking.roofline import Roofline
from wellposed.benchmarking.row import Record
from wellposed.benchmarking.training import write_case
from wellposed.benchmarking.training_rival import names_of, original
from wellposed.benchmarking.training_subject import of_layer
from wellposed.cli.main import run as command
from wellposed.errors import DataError, MissingExtraError

pytestmark = pytest.mark.float32
DOCS = Path(__file__).parent.parent / "docs"
QUICK = Rules(seconds=0.0, turns=3)


def contestant(name, *, factor=1.0, seconds=1.0, floor=0.0, calls=None):
    """Errors are the tolerance times a factor, not below a floor; a run takes the given seconds."""

    def run(tolerances):
        (calls if calls is not None else []).append(name)
        return seconds

    return Contestant(name, lambda given: [max(factor * t, floor) for t in given], run)


def test_the_rival_meets_the_target_and_ours_the_rival_at_the_loosest_tolerances():
    rules = Rules(tolerances=1, target=1e-4, seconds=0.0)
    (row,) = contest("c", [contestant("ours", factor=3.0)], [contestant("rival", factor=0.5)], rules)
    own, other = row.errors
    step = LADDER[0] / LADDER[1]
    assert 1e-4 / step < other[0] <= 1e-4
    assert other[0] / step < own[0] <= other[0] and row.as_exact


def test_rows_say_that_ours_is_less_exact_or_that_a_rival_is_missing_or_wrong():
    rules = Rules(tolerances=1, target=1e-4, seconds=0.0)
    rivals = [contestant("exact"), Contestant.absent("away", "not installed"), contestant("wrong", floor=1e-3)]
    rows = {row.rival: row for row in contest("c", [contestant("ours", floor=2e-4)], rivals, rules)}
    assert rows["exact"].is_measured and not rows["exact"].as_exact
    assert rows["away"].remark == "not installed" and not rows["away"].is_measured
    assert rows["wrong"].remark == "errors above 0.0001"


def test_all_take_turns_and_the_ratio_is_that_of_the_times():
    calls: list[str] = []
    sides = [contestant(name, seconds=s, calls=calls) for name, s in (("ours", 1.0), ("a", 4.0), ("b", 0.5))]
    rows = contest("c", sides[:1], sides[1:], QUICK)
    assert [row.ratio for row in rows] == [0.25, 2.0] and all(row.turns == 3 for row in rows)
    turns = len(calls) // 4  # ours runs once against each rival
    assert turns == 4 and all(sorted(calls[4 * t : 4 * t + 4]) == ["a", "b", "ours", "ours"] for t in range(turns))


@pytest.mark.parametrize("way", [FixedPoint, PlainLoop])
@pytest.mark.parametrize("kind", ["normal", "orthogonal", "slow"])
def test_equations_are_solved_and_differentiated(way, kind):
    case = Case.make(kind, 12, 5)
    weight, inner, bias = (part.detach().double() for part in (case.weight, case.inner, case.bias))
    assert (cell(case.value, weight, case.x.double() @ inner.T + bias) - case.value).abs().max() < 1e-14
    for sample in range(5):  # the gradient by dense matrices
        slopes = torch.diag(1 - case.value[sample] ** 2)
        through = torch.linalg.inv(torch.eye(12, dtype=torch.float64) - slopes @ weight)
        expected = slopes @ through.T @ case.cotangent[sample].double()
        assert torch.allclose(case.gradient[sample], expected, rtol=1e-9, atol=1e-12)
    assert max(way(case).errors(1e-6, 1e-6)) < 2e-4


@pytest.mark.parametrize(("family", "width"), [("MonDEQ", 12), ("ConvMonDEQ", 2)])
def test_the_original_algorithm_has_our_values_and_gradients(family, width, tmp_path):
    path, case = write_case(tmp_path, family, width, 3)
    for steps in (of_layer(str(path), tuple(names_of(case))), original(case)):
        before = [part.detach().clone() for part in steps.model.parameters()]
        assert max(steps.errors(1e-6)) < 1e-4
        assert max(steps.errors(1e-1)) > 1e-4
        steps.run(1e-3)
        assert any(not torch.equal(a, b) for a, b in zip(before, steps.model.parameters(), strict=True))


def test_another_checkout_runs_in_its_own_process(tmp_path):
    given = {"path": str(write_case(tmp_path, "MonDEQ", 6, 3)[0])}
    here = of_layer(**given)
    source = source_of(OWN.parent)
    with elsewhere("other", source, Path(training_subject.__file__), "of_layer", given) as other:
        assert other.errors([1e-3]) == pytest.approx(here.errors(1e-3), rel=1e-3)
        assert other.seconds([1e-3]) > 0
    with pytest.raises(wp.InputError, match="no checkout of this library"):
        source_of(tmp_path)


def test_what_is_certified_and_what_the_best_metric_is():
    subject = Certification(6)
    constant, pairs = subject.errors()
    assert constant > 0 and pairs > 0
    assert subject.run().is_about(subject._network(1))
    own, rival = Metric(6).errors()[0], Clarabel(6).run()
    assert rival * (1 - 1e-6) <= own <= rival * (1 + 1e-4)
    assert {row.remark for row in CERTIFY.rows(Options(quick=True))} == {"no checkout given"}


def test_compiled_bodies_are_compared_with_themselves(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda body: lambda *given: 1.5 * body(*given))
    rows = list(compiled.rows(Options(quick=True)))
    assert len(rows) == 3
    for row in rows:
        assert row.errors[0] == pytest.approx((0.5, 0.5), rel=1e-5) and row.errors[1] == (0.0, 0.0) and not row.as_exact


def test_the_command_measures_prints_and_writes(tmp_path, capsys):
    names = ["iteration", "deployed", "certify"]
    assert command(["bench", "--quick", "--only", *names, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for name, shown in zip(names, printed, strict=True):
        record = Record.read(tmp_path / f"{name}.json")
        assert record.benchmark == shown["benchmark"] == name and len(record.rows) == len(shown["rows"]) > 0
        assert record.environment["command"].startswith("wellposed bench --quick --only iteration")
        assert record.environment["threads"] == 1 and record.environment["processor"]
    for row in Record.read(tmp_path / "deployed.json").rows:
        assert row.ratio > 0 and max(row.errors[0]) < 1e-5
    assert "no checkout given" in page(tmp_path) and "Not measured." in page(tmp_path)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("wellposed.benchmarking.fixed_point.is_installed", lambda package: False)
    (record,) = run_benchmarks(["fixed-point"], Options(quick=True), tmp_path, command=["x"], done=lambda count: None)
    assert [row.remark for row in record.rows].count("not installed") == 4
    (row,) = (row for row in record.rows if row.rival == "plain loop")
    assert row.is_measured and row.as_exact


def test_evidence_costs_no_exactness(tmp_path):
    (record,) = run_benchmarks(["evaluation"], Options(quick=True), tmp_path, command=["x"], done=lambda count: None)
    assert all(row.is_measured and max(row.errors[0]) < 1e-3 for row in record.rows)


def test_a_loop_in_jax_needs_jax(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingExtraError, match=re.escape("wellposed[bench]")):
        JaxLoop(Case.make("normal", 4, 3))


def test_bad_requests_are_named(tmp_path, capsys):
    assert command(["bench", "--only", "fixd-point", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'fixed-point'" in capsys.readouterr().err
    (tmp_path / "deployed.json").write_text('{"rows": 3}')
    with pytest.raises(DataError, match=r"deployed\.json: is no record"):
        page(tmp_path)


def speed_script():
    spec = importlib.util.spec_from_file_location("speed", DOCS / "speed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_its_pictures_are_those_of_the_records(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    speed = speed_script()
    text = page(speed.RECORDS)
    assert (DOCS / "speed.md").read_text(encoding="utf-8") == text
    for name, record in speed.records_in(speed.RECORDS).items():
        draw(record, tmp_path)
        kept, drawn = (folder / f"speed-{name}.svg" for folder in (DOCS / "figures", tmp_path))
        assert kept.exists() == drawn.exists()
        if not kept.exists():
            continue
        assert f"(figures/speed-{name}.svg)" in text and kept.with_suffix(".png").exists()
        if f"Matplotlib v{matplotlib.__version__}," in (svg := kept.read_text(encoding="utf-8")):
            assert drawn.read_text(encoding="utf-8") == svg
    assert {path.stem for path in speed.RECORDS.glob("*.json")} <= {*BENCHMARKS, "gpu"}


def test_without_a_gpu_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no CUDA device here: nothing was measured\n" and not list(tmp_path.iterdir())
    assert page(tmp_path).count("not measured") == 5


def test_the_script_for_a_gpu_runs_on_a_small_scale(tmp_path):
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["tests"] == "left out" and record["epoch"]["seen"] == record["epoch"]["images"] == 2
    assert [row["case"] for row in record["rows"]] == ["MonDEQ, 8 wide", "ConvMonDEQ, 2 × 6²"]
    for row in record["rows"]:
        assert max(row["errors"]) < 1e-3 and row["share"] > 0 and row["iteration_ms"] < row["step_ms"]
    assert "MonDEQ, 8 wide | 4 |" in page(tmp_path)


def test_rooflines_are_bounded_by_memory_or_by_products():
    limits = Roofline(bandwidth=8.0, throughput=10.0)
    assert limits.least_seconds(numbers=4, operations=10) == 2.0
    assert limits.least_seconds(numbers=1, operations=30) == 3.0
