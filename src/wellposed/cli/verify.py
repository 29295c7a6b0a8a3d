"""``wellposed verify``: a certificate file checked against a deployed network by a program that shares no code."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wellposed.errors import CheckpointError, InputError, OptionError

_USAGE = """usage: wellposed verify [--exact] CERTIFICATE.json MODEL.onnx
       wellposed verify [--exact] FOLDER

Proves every constant of a certificate again, for exactly the numbers in the model's file, with numpy, onnx and safetensors only.

  --exact    in rational arithmetic, which needs wellposed[exact] and minutes

Exit codes: 0 everything that is claimed holds; 1 a check failed; 2 unusable arguments, or files that are damaged or others."""


def verify(arguments: list[str]) -> int:
    """``wellposed verify [--exact] CERTIFICATE MODEL``."""
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    names = [argument for argument in arguments if not argument.startswith("-")]
    unknown = set(arguments) - set(names) - {"--exact"}
    if unknown:
        raise OptionError(f"verify has no option {', '.join(sorted(unknown))}; it has --exact\n{_USAGE}")
    exact = ["--exact"] if "--exact" in arguments else []
    if len(names) == 1 and Path(names[0]).is_dir():
        return _verify_folder(Path(names[0]), exact)
    if len(names) != 2:
        raise InputError(f"verify: needs two files, CERTIFICATE.json and MODEL.onnx; got {len(names)}\n{_USAGE}")
    for name in names:
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file; `wellposed certify RUN` writes certificate.json and model.onnx")
    return _checked(Path(names[0]), Path(names[1]), exact)


def _verify_folder(folder: Path, exact: list[str]) -> int:
    """Every certificate of a run or of a network folder against the model beside it; the largest exit code."""
    certificates = sorted(folder.glob("certificate*.json"))
    model = folder / "model.onnx"
    if not certificates or not model.is_file():
        raise InputError(f"{folder}: has no certificate.json with a model.onnx; `wellposed certify RUN` writes both")
    return max(_checked(certificate, model, exact) for certificate in certificates)


def _checked(certificate: Path, model: Path, exact: list[str]) -> int:
    """The exit code of the checker, for files that are what they were when they were written.

    Raises:
        CheckpointError: one is damaged, of another kind or about another file.
    """
    from wellposed import checker  # which takes a quarter of a second
    from wellposed.checker.claim import Claim

    try:
        claimed = Claim(certificate).model_sha256
    except checker.Refuted as failure:
        raise CheckpointError(
            f"{certificate}: no intact certificate ({failure}); `wellposed certify` writes it anew"
        ) from failure
    with model.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != claimed:
        raise CheckpointError(
            f"{model}: not the ONNX file that {certificate.name} is about (its SHA-256 is another); give that one, or certify "
            "again"
        )
    return checker.main([*exact, str(certificate), str(model)])
