"""The command that exports runs, and what is certified of the files' own answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.cli.main import run
from wellposed.deployment.runtime import DeployedNetwork
from wellposed.errors import InputError

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.float32, pytest.mark.usefixtures("short_search")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "mondeq", "--preset", "digits", "--epochs", "2", "--out", str(folder)]) == 0
    return folder


def test_export_and_certified_accuracy_of_the_file(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["export", str(trained), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["file"]) == trained / "model.onnx" and told["tolerance"] == pytest.approx(1e-3)
    file = DeployedNetwork(trained / "model.onnx")
    assert file.sha256 == told["sha256"] and file.input_shape == tuple(told["input_shape"])
    assert run(["certify", str(trained), "--limit", "150", "--eps", "0.1", "0.3", "--deployed", "--json"]) == 0
    deployed = json.loads(capsys.readouterr().out)
    assert run(["certify", str(trained), "--limit", "150", "--eps", "0.1", "0.3", "--json"]) == 0
    own = json.loads((trained / "certified.json").read_text())
    found = json.loads((trained / "certified-deployed.json").read_text())
    assert deployed["refused"] == 0 and deployed["samples"] == 150
    ours, theirs = (np.array(list(part["radii"].values())[-1]) for part in (found, own))
    exact = np.array(found["radii"]["float64"])
    assert (ours <= exact).all() and (theirs <= exact + 1e-9).all()
    for radius in ("0.1", "0.3"):  # of which the file's answers lose at most 0.3 points
        assert deployed["float64"][radius] == pytest.approx((exact >= float(radius)).mean())
        assert 0.0 <= deployed["float64"][radius] - deployed["certified"][radius] <= 0.003
    assert (ours <= theirs + 1e-4).all() and np.abs(ours - theirs).max() < 5e-3


def test_a_tight_tolerance_refuses(trained: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["certify", str(trained), "--limit", "20", "--deployed", "--tolerance", "1e-9", "--json"]
    assert run(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] == 20 and told["test_error"] == 1.0 and set(told["certified"].values()) == {0.0}


@pytest.mark.parametrize(
    "option", [["--data", "digits"], ["--method", "product"], ["--tolerance", "-1"], ["--limit", "0"]]
)
def test_options_that_do_not_go_together(option: list[str], trained: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["certify", str(trained), "--deployed", *option]) == 2
    assert option[0].removeprefix("--") in capsys.readouterr().err


def test_a_tolerance_is_about_a_file(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["certify", str(trained), "--tolerance", "0.1"]) == 2
    assert "--deployed" in capsys.readouterr().err


def test_export_into_a_folder_that_is_not_there(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["export", str(trained), "--out", str(trained / "none" / "m.onnx")]) == 2
    assert "m.onnx" in capsys.readouterr().err


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(wp.MonDEQ(6, 12, m=0.5), nn.Linear(12, 3)).eval()


def test_radii_hold_for_the_answers_of_the_file(tmp_path: Path):
    network = wp.export(small(), tmp_path / "m.onnx", tolerance=1e-2)
    file, certificate = DeployedNetwork(tmp_path / "m.onnx"), wp.certify(network)
    x = torch.randn(200, 6)
    logits, _ = file(x)
    labels = logits.argmax(1)
    radii = file.radii(x, labels, certificate)
    plain = certificate.radius(network.exact(x.double()), labels)
    assert bool((radii <= plain).all()) and bool((radii > 0.5 * plain)[plain > 0.1].all())
    for _ in range(20):
        step = nn.functional.normalize(torch.randn_like(x), dim=1) * 0.999 * radii.float()[:, None]
        moved, bound = file(x + step)
        assert bool(((moved.argmax(1) == labels) | torch.isinf(bound) | (radii == 0)).all())


def test_files_and_certificates_of_other_networks(tmp_path: Path):
    network = wp.export(small(), tmp_path / "m.onnx")
    file = DeployedNetwork(tmp_path / "m.onnx")
    assert file.is_of(wp.certify(network))
    other = small()
    with torch.no_grad():
        other[1].weight[0, 0] += 1e-3
    with pytest.raises(InputError, match="another network"):
        file.radii(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long), wp.certify(other))
    with pytest.raises(InputError, match="float32"):
        file(torch.zeros(1, 6, dtype=torch.float64))
    with pytest.raises(InputError, match="shape"):
        file(torch.zeros(1, 7))


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_unusable_files(content: bytes | None, tmp_path: Path):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.onnx"):
        DeployedNetwork(path)


@pytest.mark.parametrize("path", [None, 3, "", "a\0b"])
def test_what_is_no_path(path: object):
    for use in (
        DeployedNetwork,
        wp.load,
        lambda place: wp.export(small(), place),
        lambda place: wp.save(small(), place),
    ):
        with pytest.raises(InputError, match=r"path|folder"):
            use(path)


@pytest.mark.parametrize("tolerance", ["a", True, torch.tensor(1.0), float("nan"), -1.0, 1e300])
def test_what_is_no_tolerance(tolerance: object, tmp_path: Path):
    with pytest.raises(InputError, match="tolerance"):
        wp.export(small(), tmp_path / "m.onnx", tolerance=tolerance)


def test_without_a_tolerance_it_is_a_thousandth(tmp_path: Path):
    model = small()
    for name, options in (("none", {"tolerance": None}), ("left-out", {}), ("given", {"tolerance": 1e-3})):
        wp.export(model, tmp_path / name, **options)
        assert (tmp_path / name).read_bytes() == (tmp_path / "none").read_bytes()
    assert DeployedNetwork(tmp_path / "none").tolerance == pytest.approx(1e-3)


def test_arguments_of_other_kinds(tmp_path: Path):
    network = wp.export(small(), tmp_path / "m.onnx")
    file = DeployedNetwork(tmp_path / "m.onnx")
    for x in (torch.zeros(2, 6).to_sparse(), torch.zeros(2, 6, device="meta"), np.zeros((2, 6), np.float32), None):
        with pytest.raises(InputError, match="x: is"):
            file(x)
    for certificate in (None, network):
        with pytest.raises(InputError, match="certificate"):
            file.radii(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long), certificate)
