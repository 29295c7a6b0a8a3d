"""``wellposed verify``: a certificate file checked against a deployed network by a program that shares no code."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from wellposed.errors import CheckpointError, InputError, OptionError

_WEIGHTS = "weights.safetensors"
_OTHER = "not the ONNX file that the certificate is about (its SHA-256 is another); give that one, or certify again"
_OTHER_WEIGHTS = (
    "exported anew, these are not to the byte the ONNX file that the certificate is about: other weights, or another version "
    "or number of threads; verify the model.onnx beside the certificate"
)
_HELP = "wellposed verify --help explains them"
_USAGE = """usage: wellposed verify [--exact] CERTIFICATE.json MODEL.onnx
       wellposed verify [--exact] CERTIFICATE.json RUN/weights.safetensors
       wellposed verify [--exact] FOLDER

Proves every constant of a certificate again, for exactly the numbers in the model's file, with numpy, onnx and safetensors only.
Weights of a run are exported anew first: that file must be, to the byte, the one that the certificate is about.

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
        raise OptionError(f"verify has no option {', '.join(sorted(unknown))}; it has --exact; {_HELP}")
    exact = ["--exact"] if "--exact" in arguments else []
    if len(names) == 1 and Path(names[0]).is_dir():
        return _verify_folder(Path(names[0]), exact)
    if len(names) != 2:
        raise InputError(f"verify: needs two files, CERTIFICATE.json and MODEL.onnx; got {len(names)}; {_HELP}")
    for name in names:
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file; `wellposed certify RUN` writes certificate.json and model.onnx")
    certificate, model = map(Path, names)
    return (_checked_weights if model.name == _WEIGHTS else _checked)(certificate, model, exact)


def _checked_weights(certificate: Path, weights: Path, exact: list[str]) -> int:
    """The exit code of the checker for the ONNX file that the weights of a run give.

    Raises:
        CheckpointError: the weights are of no finished run, or give another file than the certificate is about.
    """
    from wellposed.experiments.deployment import export_run

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        export_run(weights.parent, data_root=None, tolerance=None, out=out)
        return _checked(certificate, out, exact, f"{weights}: {_OTHER_WEIGHTS}")


def _verify_folder(folder: Path, exact: list[str]) -> int:
    """Every certificate of a run or of a network folder against the model beside it; the largest exit code."""
    certificates = sorted(folder.glob("certificate*.json"))
    model = folder / "model.onnx"
    if not certificates or not model.is_file():
        raise InputError(f"{folder}: has no certificate.json with a model.onnx; `wellposed certify RUN` writes both")
    worst = max(_checked(certificate, model, exact) for certificate in certificates)
    others = sorted(set(folder.glob("*.safetensors")) - {path.with_suffix(".safetensors") for path in certificates})
    if others:
        how = f"`wellposed verify CERTIFICATE WEIGHTS` does, for weights with the name {_WEIGHTS} beside the run's config.toml"
        print(f"about {model}; {', '.join(path.name for path in others)} beside it was not looked at: {how}")
    return worst


def _checked(certificate: Path, model: Path, exact: list[str], other: str = "") -> int:
    """The exit code of the checker, for files that are what they were when they were written.

    Args:
        certificate: the JSON file.
        model: the ONNX file.
        exact: ``--exact``, or nothing.
        other: what to say where the ONNX file is another one.

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
    if found != claimed and model.suffix == ".safetensors" and model.with_name("config.toml").exists():
        raise CheckpointError(
            f"{model}: weights of a run are verified beside its config.toml by the name {_WEIGHTS}; rename it"
        )
    if found != claimed:
        raise CheckpointError(other or f"{model}: {_OTHER}")
    return checker.main([*exact, str(certificate), str(model)])
