"""``wellposed verify``: a certificate file checked against a deployed network by a program that shares no code."""

from __future__ import annotations

from pathlib import Path

from wellposed.errors import InputError, OptionError

_USAGE = """usage: wellposed verify [--exact] CERTIFICATE.json MODEL.onnx

Proves every constant of a certificate again, for exactly the numbers in the model's file, with numpy, onnx and safetensors only.

  --exact    in rational arithmetic, which needs wellposed[exact] and minutes

Exit codes: 0 everything that is claimed holds; 1 a check failed; 2 unusable arguments or files."""


def verify(arguments: list[str]) -> int:
    """``wellposed verify [--exact] CERTIFICATE MODEL``."""
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    names = [argument for argument in arguments if not argument.startswith("-")]
    unknown = set(arguments) - set(names) - {"--exact"}
    if unknown:
        raise OptionError(f"verify has no option {', '.join(sorted(unknown))}; it has --exact\n{_USAGE}")
    if len(names) != 2:
        raise InputError(f"verify: needs two files, CERTIFICATE.json and MODEL.onnx; got {len(names)}\n{_USAGE}")
    for name in names:
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file; `wellposed certify RUN` writes certificate.json and model.onnx")
    from wellposed import checker  # which takes a quarter of a second

    return checker.main([*(["--exact"] if "--exact" in arguments else []), *names])
