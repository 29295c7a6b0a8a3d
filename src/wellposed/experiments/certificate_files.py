"""Certificate files of runs: each is about the run's network as one ONNX file, beside which it stands."""

from __future__ import annotations

from pathlib import Path

from wellposed.certificates import Certificate
from wellposed.deployment import certify_file, export
from wellposed.errors import CertificateError
from wellposed.experiments.results import in_norm
from wellposed.training.folder import RunFolder


def file_certificate(run: Path, certificate: Certificate, tolerance: float | None = None) -> str:
    """Write ``model.onnx`` and ``certificate.json``, or ``certificate-NORM.json``, into a run's folder.

    Args:
        run: the run folder.
        certificate: of its network.
        tolerance: see `wellposed.export`.

    Returns:
        Why no certificate file was written; empty where one was. An earlier one is removed then.
    """
    try:
        export(certificate.network, RunFolder(run).model, tolerance=tolerance)
    except CertificateError as error:
        _remove(run, certificate)
        return str(error)
    return file_of_exported(run, certificate)


def file_of_exported(run: Path, certificate: Certificate) -> str:
    """Write the certificate file of a run whose network was exported to ``model.onnx``; see `file_certificate`.

    Args:
        run: the run folder.
        certificate: of the network in that file.

    Returns:
        Why no certificate file was written; empty where one was.
    """
    try:
        certify_file(certificate, RunFolder(run).model, _place(run, certificate))
    except CertificateError as error:
        _remove(run, certificate)
        return str(error)
    return ""


def _place(run: Path, certificate: Certificate) -> Path:
    return in_norm(RunFolder(run).certificate, certificate.norm)


def _remove(run: Path, certificate: Certificate) -> None:
    """Remove a certificate file that is about an earlier network, or of an earlier format."""
    for path in (_place(run, certificate), _place(run, certificate).with_suffix(".safetensors")):
        path.unlink(missing_ok=True)
