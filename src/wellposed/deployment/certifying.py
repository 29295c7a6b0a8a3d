"""Certificate files of deployed networks: a claim in JSON about one ONNX file, and beside it the evidence that proves it."""

from __future__ import annotations

from pathlib import Path

import torch

from wellposed.certificates import Certificate
from wellposed.deployment.export import path_of
from wellposed.errors import CertificateError, InputError, check, checked_options

_HOW = "certify what wp.export returned, as in wp.certify(wp.export(model, path))"


@checked_options
def certify_file(certificate: Certificate, model_path: str | Path, certificate_path: str | Path) -> None:
    """Write a certificate of a deployed file: a claim in JSON, and beside it the evidence that proves it.

    The claimed constants are those that `wellposed.checker` proves of the numbers in the file, a little enlarged so
    that it proves them on any machine.

    Args:
        certificate: of the network that the file holds, as `wellposed.export` returned it.
        model_path: of the ONNX file.
        certificate_path: of the JSON file; the evidence gets its name with the ending ``.safetensors``.

    Raises:
        CertificateError: the file holds another network than the certificate is about, such as its float32 numbers where that
            is in float64; or nothing proves a constant of it.
        InputError: an argument is of another kind, or a file cannot be read or written.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(wp.MonDEQ(6, 5), nn.Linear(5, 3)).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     certificate = wp.certify(wp.export(model, f"{folder}/model.onnx"))
        ...     wp.certify_file(certificate, f"{folder}/model.onnx", f"{folder}/certificate.json")
    """
    from wellposed.checker import Refuted
    from wellposed.deployment.certificate import claimed, write

    if not isinstance(certificate, Certificate):
        raise InputError(f"certificate: is a {type(certificate).__name__}; give what wp.certify returns")
    path, place = path_of("model_path", model_path), path_of("certificate_path", certificate_path)
    _check_names(path, place)
    if certificate.network.dtype != torch.float32:
        raise CertificateError(
            f"certificate: is about a network in float64, and {path} holds float32 numbers: those are other ones; {_HOW}"
        )
    try:
        found = claimed(certificate, path)
        if found is None:
            raise CertificateError(f"{path}: holds another network than the certificate is about; {_HOW}")
        write(place, *found)
    except Refuted as error:
        raise CertificateError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read or written ({error.strerror})") from error


def _check_names(model: Path, certificate: Path) -> None:
    """Refuse names under which files would overwrite each other, or which no checker takes."""
    usable = certificate.name not in ("", "..") and not set(certificate.name) & set("\\:")
    check(
        usable, "certificate_path", str(certificate), "must end in the name of a file, without colons and backslashes"
    )
    written = (certificate, certificate.with_suffix(".safetensors"))
    places = {path.resolve() for path in (model, *written)}
    check(
        len(places) == 3, "certificate_path", str(certificate),
        "must not be the model, and its evidence with the ending .safetensors neither; choose a name such as certificate.json",
    )  # fmt: skip
