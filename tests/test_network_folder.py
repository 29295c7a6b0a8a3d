"""Network folders: what is saved is proved again when it is loaded, and its radii hold for the file's answers."""

import json
import subprocess
import sys
from pathlib import Path

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
