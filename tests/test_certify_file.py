"""Certificate files: of which network, by which command, with which numbers; and what is refused with its mend."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.damage import write_anew
from harness.deployed_files import accepted, claim_of, forge, is_accepted, refused, written
from wellposed.checker import Refuted, check
from wellposed.checker.proofs import norm_of
from wellposed.cli.main import run
from wellposed.experiments.certificate_files import file_certificate
from wellposed.experiments.results import Certified, read_certified
from wellposed.training.folder import RunFolder

pytestmark = pytest.mark.float32


def model(width=5):
    torch.manual_seed(0)
    return nn.Sequential(wp.MonDEQ(6, width), nn.Linear(width, 3)).eval()


def test_a_certificate_is_filed_for_the_network_that_export_returned(tmp_path):
    network = wp.export(model(), tmp_path / "m.onnx")
    certificate = wp.certify(network)
    wp.certify_file(certificate, tmp_path / "m.onnx", tmp_path / "c.json")
    assert accepted(tmp_path)
    assert certificate.lipschitz <= claim_of(tmp_path)["lipschitz"] <= certificate.lipschitz * (1.0 + 1e-6)
    for given, words in (
        (wp.certify(model(4)), "another network"),
        (wp.certify(model().double()), "float64.*wp.export"),
    ):
        with pytest.raises(wp.CertificateError, match=words):
            wp.certify_file(given, tmp_path / "m.onnx", tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()


def test_a_network_in_float64_is_certified_as_its_float32_network(tmp_path):
    certificate = wp.certify(wp.export(model().double(), tmp_path / "m.onnx"))
    wp.certify_file(certificate, tmp_path / "m.onnx", tmp_path / "c.json")
    assert certificate.precision == "float32" and accepted(tmp_path)


@pytest.mark.parametrize(
    ("certificate", "file", "place", "words"),
    [
        (None, "m.onnx", "c.json", "certificate=None: must be an instance of Certificate"),
        ("good", 3, "c.json", "model_path"),
        ("good", "m.onnx", None, "certificate_path"),
        ("good", "none.onnx", "c.json", "none.onnx.*cannot be read"),
        ("good", "m.onnx", "no/c.json", "cannot be read or written"),
        ("good", "m.onnx", "c.safetensors", "evidence with the ending"),
    ],
)
def test_arguments_of_other_kinds(certificate, file, place, words, tmp_path):
    known = wp.certify(wp.export(model(), tmp_path / "m.onnx"))
    given = known if certificate == "good" else certificate
    paths = [tmp_path / part if isinstance(part, str) else part for part in (file, place)]
    with pytest.raises(wp.InputError, match=words):
        wp.certify_file(given, *paths)


@pytest.mark.parametrize("file", ["c.json", "c.safetensors", "m.onnx"])
def test_every_changed_bit_is_noticed(file, tmp_path):
    written(model(), tmp_path, (6,), inputs=torch.randn(4, 6))
    whole = (tmp_path / file).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(100):
        place, bit = int(generator.integers(len(whole))), int(generator.integers(8))
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        write_anew(tmp_path / file, bytes(changed))
        assert not is_accepted(tmp_path)
    (tmp_path / file).write_bytes(whole)
    assert is_accepted(tmp_path)


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
@pytest.mark.parametrize("case", ["equal rows", "a zero row", "no head"])
def test_degenerate_ends(case, norm, tmp_path):
    torch.manual_seed(0)
    layer, head = wp.NEMON(6, 5), nn.Linear(5, 3)
    with torch.no_grad():
        head.weight[1] = head.weight[0] if case == "equal rows" else 0.0
    whole = nn.Sequential(layer) if case == "no head" else nn.Sequential(layer, head)
    certificate = written(whole, tmp_path, (6,), norm=norm, inputs=torch.randn(5, 6))
    assert accepted(tmp_path)
    assert claim_of(tmp_path)["lipschitz"] <= certificate.lipschitz * (1.0 + 1e-6)


@pytest.mark.parametrize("exponent", [-100, -30, 30, 100])
def test_extreme_scales(exponent, tmp_path):
    """Powers of two change no digit, so certificates scale with them."""
    (tmp_path / "plain").mkdir()
    written(model(), tmp_path / "plain", (6,))
    scaled = model()
    with torch.no_grad():
        scaled[1].weight.mul_(2.0**exponent)
        scaled[1].bias.zero_()
    written(scaled, tmp_path, (6,))
    assert accepted(tmp_path)
    plain, found = (claim_of(folder)["lipschitz"] for folder in (tmp_path / "plain", tmp_path))
    assert found == pytest.approx(np.ldexp(plain, exponent), rel=1e-6)
    forge(tmp_path, lambda claim: claim.update(lipschitz=0.99 * claim["lipschitz"]))
    refused(tmp_path, "lipschitz")


def test_norms_are_proved_from_above():
    generator = np.random.default_rng(0)
    for shape in ((3, 7), (9, 4), (1, 5), (6, 6)):
        matrix = generator.normal(size=shape) * 10.0 ** generator.integers(-8, 8)
        assert 1.0 <= norm_of(matrix) / np.linalg.norm(matrix, 2) * (1.0 + 1e-14) < 1.0 + 1e-9
    assert norm_of(np.zeros((2, 2))) == 0.0
    with pytest.raises((Refuted, ValueError, np.linalg.LinAlgError)):
        norm_of(np.full((2, 2), np.nan))


@pytest.mark.parametrize("format", ["wellposed-certificate/5", "wellposed-certificate/7", None])
def test_files_of_other_formats_are_refused_with_the_mend(format, tmp_path, capsys):
    (tmp_path / "c.json").write_text(json.dumps({"format": format, "norm": "2", "weights_sha256": "0" * 64}))
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 100)
    assert run(["verify", str(tmp_path / "c.json"), str(tmp_path / "w.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "c.json: no intact certificate (format" in told and "certify again" in told


def test_weights_are_no_model(tmp_path):
    written(model(), tmp_path, (6,))
    with pytest.raises(Refuted, match=r"c\.safetensors: certify again"):
        check(tmp_path / "c.json", tmp_path / "c.safetensors")


def test_a_run_without_a_form_in_files_keeps_no_certificate_of_before(tmp_path):
    certificate = wp.certify(wp.materialise(model()))
    assert file_certificate(tmp_path, certificate) == ""
    assert check(tmp_path / "certificate.json", tmp_path / "model.onnx")
    sharp = nn.Sequential(wp.PcDEQ(6, 5, floor=1e-3, sharpness=3.0), nn.Linear(5, 3)).eval()
    assert "no form in deployed files" in file_certificate(tmp_path, wp.certify(sharp))
    assert not (tmp_path / "certificate.json").exists() and not (tmp_path / "certificate.safetensors").exists()


def test_results_that_were_written_before_can_be_read(tmp_path):
    folder = RunFolder(tmp_path)
    old = {"lipschitz": 2.0, "lower_bound": 1.0, "test_error": 0.1, "radii": {"gap": [0.5]}, "weights_sha256": ""}
    folder.certified.write_text(json.dumps(old))
    assert read_certified(tmp_path) == Certified(2.0, 1.0, 0.1, {"gap": [0.5]}, "")


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_sensitivities_far_larger_than_what_they_bound_are_proved(size, norm, tmp_path):
    """Rows of I − M(W) whose sums are tiny beside their entries, as training with μ near one gives them."""
    torch.manual_seed(0)
    layer = wp.NEMON(1, 50, mu=0.99)
    with torch.no_grad():
        layer.constraint.T.mul_(size)
        layer.constraint.slack.fill_(-100.0)
    whole = nn.Sequential(layer, nn.Linear(50, 1))
    certificate = written(whole, tmp_path, (1,), norm=norm, inputs=torch.randn(5, 1), method="entrywise")
    assert accepted(tmp_path) and claim_of(tmp_path)["theorems"] == ["entrywise"]
    assert claim_of(tmp_path)["lipschitz"] <= certificate.lipschitz * (1.0 + 1e-5)
