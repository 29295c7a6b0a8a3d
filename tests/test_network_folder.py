"""Network folders: what is saved is proved again when it is loaded, and its radii hold for the file's answers."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed.cli.main import run
from wellposed.errors import CertificateError, InputError

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.float32


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), wp.NEMON(6, 10), nn.Linear(10, 3)).eval()


def test_saved_loaded_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    network = wp.save(model(), tmp_path / "net", norms=("2", "inf"), input_shape=(6,), figures={"test error": "3 %"})
    loaded = wp.load(tmp_path / "net")
    x = torch.randn(40, 6)
    logits, error = loaded(x)
    assert bool(((logits - network.exact(x.double())).norm(dim=1) <= error).all())
    for norm in ("2", "inf"):
        certificate = wp.certify(network, norm=norm)
        assert loaded.claims[norm].lipschitz == pytest.approx(certificate.lipschitz, rel=1e-4)
        assert loaded.claims[norm].lipschitz >= certificate.lipschitz
        labels = logits.argmax(1)
        plain = certificate.radius(network.exact(x.double()), labels)
        radii = loaded.radii(x, labels, norm=norm)
        assert bool((radii <= plain).all()) and float((radii > 0.9 * plain).double().mean()) > 0.9
        name = "certificate.json" if norm == "2" else "certificate-inf.json"
        assert run(["verify", str(tmp_path / "net" / name), str(tmp_path / "net" / "model.onnx")]) == 0
        assert "holds" in capsys.readouterr().out
    card = (tmp_path / "net" / "card.md").read_text()
    assert "test error: 3 %" in card and "wellposed verify certificate-inf.json model.onnx" in card


def test_verified_without_the_library(tmp_path: Path):
    wp.save(model(), tmp_path / "net", input_shape=(6,))
    folder = Path(wp.__file__).parent / "checker"
    program = (
        f"import sys; sys.path.insert(0, {str(folder.parent)!r}); import checker; "
        "code = checker.main(sys.argv[1:]); "
        "assert not any(name.split('.')[0] in ('wellposed', 'torch') for name in sys.modules); sys.exit(code)"
    )
    files = [str(tmp_path / "net" / name) for name in ("certificate.json", "model.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_changed_is_not_loaded(tmp_path: Path):
    wp.save(model(), tmp_path / "net", input_shape=(6,))
    wp.save(model(1), tmp_path / "other", input_shape=(6,))
    place = tmp_path / "net" / "certificate.json"
    honest = place.read_text()
    claim = json.loads(honest)
    place.write_text(json.dumps({**claim, "lipschitz": 0.5 * claim["lipschitz"]}))
    with pytest.raises(CertificateError, match=r"certificate\.json"):
        wp.load(tmp_path / "net")
    place.write_text(honest)
    wp.load(tmp_path / "net")
    (tmp_path / "net" / "model.onnx").write_bytes((tmp_path / "other" / "model.onnx").read_bytes())
    with pytest.raises(CertificateError, match=r"certificate\.json"):
        wp.load(tmp_path / "net")


def test_errors_name_what_is_wrong(tmp_path: Path):
    with pytest.raises(InputError, match="certificate"):
        wp.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder"):
        wp.save(model(), tmp_path / "file", input_shape=(6,))
    with pytest.raises(InputError, match="norm"):
        wp.save(model(), tmp_path / "net", norms=("3",), input_shape=(6,))
    wp.save(model(), tmp_path / "net", input_shape=(6,))
    with pytest.raises(InputError, match="norm"):
        wp.load(tmp_path / "net").radii(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long), norm="inf")


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 3)).eval()


def test_folders_hold_what_was_saved_last(tmp_path):
    wp.save(small(), tmp_path, norms=("2", "inf"))
    other = torch.nn.Sequential(wp.MonDEQ(4, 5), torch.nn.Linear(5, 3)).eval()
    wp.save(other, tmp_path, norms=("2",))
    assert set(wp.load(tmp_path).claims) == {"2"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"card.md", "certificate.json", "certificate.safetensors", "model.onnx"}


@pytest.mark.parametrize(
    "call",
    [
        lambda folder: wp.save(small(), folder, norms=()),
        lambda folder: wp.save(small(), folder, norms=2),
        lambda folder: wp.save(small(), folder, norms=None),
        lambda folder: wp.save(small(), folder, norms="2"),
        lambda folder: wp.save(small(), folder, figures=[1]),
        lambda folder: wp.save(small(), folder, figures={"x": "\ud800"}),
        lambda folder: wp.save(small(), "\ud800"),
        lambda folder: wp.export(small(), "\ud800"),
        lambda folder: wp.export(small(), folder / "m.onnx", tolerance=10**400),
        lambda folder: wp.load("x" * 300),
    ],
)
def test_unusable_arguments_are_named(call, tmp_path):
    with pytest.raises(wp.InputError):
        call(tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors", ".", "/", "x:y.json", "\ud800.json"])
def test_certificates_never_replace_models(name, tmp_path):
    model = tmp_path / ("m.safetensors" if name == "m.safetensors" else "m.onnx")
    certificate = wp.certify(wp.export(small(), model))
    before = model.read_bytes()
    target = "m.json" if name == "m.safetensors" else name
    with pytest.raises(wp.InputError, match="certificate_path"):
        wp.certify_file(certificate, model, target if target in (".", "/") else tmp_path / target)
    assert model.read_bytes() == before


def test_pipes_and_foreign_models_are_refused(tmp_path):
    import onnx

    model = tmp_path / "model.onnx"
    certificate = wp.certify(wp.export(small(), model))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(wp.InputError, match="no regular file"):
        wp.certify_file(certificate, tmp_path / "pipe", tmp_path / "c.json")
    wp.save(small(), tmp_path / "folder")
    changed = onnx.load(tmp_path / "folder" / "model.onnx")
    last = changed.graph.node[-1]
    for tensor in changed.graph.initializer:
        if tensor.name == last.input[2]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(2, np.float32), tensor.name))
    onnx.save(changed, tmp_path / "folder" / "model.onnx")
    with pytest.raises(wp.CertificateError):  # before a runtime reads it
        wp.load(tmp_path / "folder")
    (tmp_path / "folder" / "model.onnx").unlink()
    os.mkfifo(tmp_path / "folder" / "model.onnx")
    with pytest.raises(wp.CertificateError):
        wp.load(tmp_path / "folder")


def test_refusals_print_no_control_characters(tmp_path, capsys):
    import onnx

    from wellposed.checker.core import main

    wp.save(small(), tmp_path)
    changed = onnx.load(tmp_path / "model.onnx")
    changed.graph.initializer[0].name = "x\n\x1b[2Kthe certificate holds"
    onnx.save(changed, tmp_path / "model.onnx")
    digest = hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    claim = json.loads((tmp_path / "certificate.json").read_text())
    claim["model_sha256"] = digest
    rest = {key: value for key, value in claim.items() if key != "sha256"}
    claim["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "certificate.json").write_text(json.dumps(claim))
    assert main([str(tmp_path / "certificate.json"), str(tmp_path / "model.onnx")]) == 1
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "the certificate holds" not in printed.splitlines()
