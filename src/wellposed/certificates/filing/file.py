"""Certificate files: a claim in JSON that names and seals its evidence, a safetensors file beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from wellposed.errors import CertificateError

FORMAT = "wellposed-certificate/5"


def write(path: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a claim and its evidence.

    Args:
        path: of the JSON file.
        content: the claim.
        tensors: the evidence.

    Raises:
        CertificateError: a file cannot be written.
    """
    evidence = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
    beside = path.with_suffix(".safetensors")
    if beside == path:
        raise CertificateError(f"{path}: the evidence is written beside it under this name; choose another ending")
    sealed = {
        "format": FORMAT, **content,
        "evidence": {"file": beside.name, "sha256": hashlib.sha256(evidence).hexdigest()},
    }  # fmt: skip
    try:
        beside.write_bytes(evidence)
        path.write_text(json.dumps({**sealed, "sha256": seal(sealed)}, indent=1), encoding="utf-8")
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written ({error.strerror or error})") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A claim and its evidence.

    Raises:
        CertificateError: not a certificate of this format, or changed since it was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CertificateError(f"{path}: format {content['format']!r}; this version reads {FORMAT!r}")
        if content.pop("sha256") != seal(content):
            raise CertificateError(f"{path}: sha256: the claim was changed after it was written")
        evidence = path.with_name(content["evidence"]["file"]).read_bytes()
        if hashlib.sha256(evidence).hexdigest() != content["evidence"]["sha256"]:
            raise CertificateError(f"{path}: the evidence beside it is not the one that was written with it")
        return content, safetensors.torch.load(evidence)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CertificateError(f"{path}: not a readable certificate ({error})") from error


def seal(content: dict[str, Any]) -> str:
    """SHA-256 of a claim, its keys in order and without white space."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
