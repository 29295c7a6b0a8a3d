"""The notebooks of examples/ run as they stand, but for a few numbers that make them small, and what they show holds."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import pytest

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("lightning")
pytest.importorskip("sklearn")
pytestmark = [pytest.mark.float32, pytest.mark.filterwarnings("ignore")]
FOLDER = Path(__file__).parent.parent / "examples"

# Constants at the top of each notebook, as a small run has them.
SMALL = {
    "certified_digits": {"EPOCHS": 3, "IMAGES": 10},
    "deploy": {"EPOCHS": 3},
    "from_torchdeq": {"STEPS": 8},
    "graphs": {"HALLS": 60, "EPOCHS": 2},
    "lightning_two_processes": {"EPOCHS": 2, "DEVICES": 1, "STRATEGY": "auto"},
    "own_family": {"EPOCHS": 2},
    "state_estimator": {"PENDULUMS": 100, "EPOCHS": 2},
    "table_of_measurements": {"EPOCHS": 3},
}
FIGURES = {"certified_digits": 2}  # one, of others


def small(name: str) -> str:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for constant, value in SMALL[name].items():
        text, count = re.subn(rf"^{constant} = [^\s]+", f"{constant} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1, constant
    return text


def names_after(name: str, monkeypatch) -> dict[str, object]:
    """What a notebook defines when it has run; figures are counted where they are shown."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []

    def show():
        shown.extend(bool(plt.figure(number).axes) for number in plt.get_fignums())
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(small(name), str(FOLDER / f"{name}.py"), "exec"), names)
    assert all(shown) and len(shown) == FIGURES.get(name, 1)
    return names


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_a_notebook_with_a_title_and_prose(name):
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    first, *others = notebook.cells
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "pip install 'wellposed[" in first.source
    kinds = [cell.cell_type for cell in others]
    assert kinds.count("markdown") >= 3 and kinds.count("code") >= 4 and others[-1].cell_type == "code"
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    titles = [line for line in prose.splitlines() if line.startswith("# ")]
    assert len(titles) == 1


def test_certified_digits(monkeypatch, capsys):
    found = names_after("certified_digits", monkeypatch)
    assert (found["distances"] >= found["radii"]).all() and found["certificate"].check()
    assert "points unknown" in capsys.readouterr().out


def test_table_of_measurements(monkeypatch, capsys):
    found = names_after("table_of_measurements", monkeypatch)
    assert [len(radii) for radii in found["results"].values()] == [36, 114]
    assert all((radii > 0).double().mean() > 0.5 for radii in found["results"].values())
    assert capsys.readouterr().out.count("median radius") == 2


def test_lightning(monkeypatch):
    found = names_after("lightning_two_processes", monkeypatch)
    assert found["trainer"].precision == "bf16-mixed" and found["certificate"].is_about(found["model"])
    assert found["in_bfloat16"].ne(found["in_float32"]).any()


def test_deploy(monkeypatch):
    pytest.importorskip("onnxruntime")
    found = names_after("deploy", monkeypatch)
    assert found["checked"].returncode == 0 and "the certificate holds" in found["checked"].stdout
    assert found["refused"].returncode == 1 and (found["true_errors"] <= found["error_bound"] + 1e-9).all()


def test_state_estimator(monkeypatch):
    rows = names_after("state_estimator", monkeypatch)["rows"]
    for gamma, (name, _, proved, attacked) in zip(("0.5", "1", "2", "4"), rows[:-1], strict=True):
        assert name == f"γ = {gamma}" and attacked <= proved * (1 + 1e-4) and proved <= float(gamma) * 1.0001


def test_graphs(monkeypatch):
    pytest.importorskip("torch_geometric")
    found = names_after("graphs", monkeypatch)
    assert 0.0 < found["slope"] <= found["certificate"].lipschitz
    assert ((found["margins"] > 0) | (found["radii"] == 0)).all()


def test_own_family(monkeypatch):
    found = names_after("own_family", monkeypatch)
    assert found["eigenvalues"].min() >= 0.5 - 1e-5 and found["certificate"].check()
    text = (FOLDER / "own_family.py").read_text(encoding="utf-8")
    family = text[text.index("@wp.register\n") : text.index("layer = ")]
    assert len([line for line in family.splitlines() if line.strip()]) <= 30


def test_from_torchdeq(monkeypatch):
    found = names_after("from_torchdeq", monkeypatch)
    assert found["solution"].error_bound.max() < 1e-2 and "contracts by" in repr(found["kept"][0])
