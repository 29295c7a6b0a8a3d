"""Checks a certificate against a deployed network, without the library that wrote them: numpy, onnx and safetensors only.

    python -m checker [--exact] CERTIFICATE.json MODEL.onnx

The claim names the digest of the model's file, a norm, constants, and the theorems and the evidence that prove them; what the
network is, this program reads from the file alone: its nodes are functions of the domain ``wellposed``, each of which it
compares with the one that it knows, and which define what is computed. It proves the constants for exactly the numbers in the
file, and whatever the file's own bound of its errors relies on.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from . import euclidean
from .claim import Claim
from .functions import assumed
from .model import read
from .node import Node
from .proofs import Array, Refuted, require
from .shapes import SCALARS


def check(certificate: Path, model: Path, *, exact: bool = False) -> list[str]:
    """Check everything that a certificate claims of a model, in floating point, or in rational arithmetic.

    Returns:
        What was proved, and every option that it relies on, line by line.

    Raises:
        Refuted: the first check that fails.
    """
    try:
        claim = Claim(certificate)
        nodes = read(model, claim.model_sha256)
        log = [line for node in nodes for line in _described(node)]
        if exact:
            import_module(".exact", __package__).convert(nodes, claim)
            log.append("every inequality is proved in rational arithmetic")
        whole, pairs = constants_of(nodes, claim)
        log += import_module(".graphs", __package__).ASSUMED if nodes[0].nodewise else []
        for sigma in sorted({node.sigma for node in nodes} - {""}):
            log.append(f"assumed: a runtime's {sigma} is within {assumed(sigma)}·(1 + |v|) of the function of v")
        require(whole <= claim.lipschitz, "lipschitz", f"{claim.lipschitz} is claimed, {whole} is proved")
        log.append(f"norm {claim.norm}, by {', '.join(claim.theorems)}: constant at most {float(claim.lipschitz)!r}")
        if claim.pairs is not None:
            fits = pairs is not None and pairs.shape == claim.pairs.shape
            require(fits, "pairs", "nothing proves constants of margins, or of as many")
            assert pairs is not None
            require((pairs <= claim.pairs).all(), "pairs", "a constant of a margin is smaller than what is proved")
            log.append(f"the margins of {len(pairs)} classes: constants at most {float(np.max(claim.pairs))!r}")
        if claim.lower_bound is not None:
            require(claim.lower_bound <= claim.lipschitz, "lower bound", "is above the upper one")
            log.append(import_module(".witness", __package__).check(nodes, claim))
        claim.require_all_used()
        return log
    except Refuted:
        raise
    except Exception as error:
        raise Refuted("structure", f"{type(error).__name__}: {error}") from error


def constants_of(nodes: list[Node], claim: Claim) -> tuple[Any, Array | None]:
    """Prove what the file's bound of errors relies on, and the constants of all outputs and of their margins."""
    for node in nodes[1:]:
        if prove := getattr(node.module, "check", None):
            prove(node, claim, nodes[node.sources[0]])
    theorem = euclidean if claim.norm == "2" else import_module(".entrywise", __package__)
    found: tuple[Any, Array | None] = theorem.constants(nodes, claim)
    return found


def _described(node: Node) -> list[str]:
    """A node with what it relies on."""
    options = [f"{role} {float(node.numbers[role]):.9g}" for role in SCALARS if role in node.numbers]
    return [" ".join([node.name, str(node.shape), *options])]


def main(arguments: list[str]) -> int:
    """The command: 0 if everything that is claimed holds, 1 if a check failed, 2 for wrong usage."""
    files = [Path(argument) for argument in arguments if argument != "--exact"]
    if len(files) != 2 or len(arguments) > 3:
        print("usage: python -m wellposed.checker [--exact] CERTIFICATE.json MODEL.onnx", file=sys.stderr)
        return 2
    try:
        return _told(files, len(arguments) == 3)
    except OSError:  # nobody takes what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _told(files: list[Path], exact: bool) -> int:
    """The exit code of a check whose lines are printed."""
    try:
        for line in check(*files, exact=exact):
            _print(f"ok  {line}")
    except Refuted as failure:
        _print(f"FAILED  {failure}")
        return 1
    _print("the certificate holds")
    return 0


def _print(line: str) -> None:
    """Print one line, whatever is in it: names in a file may hold control characters, and a terminal may know ASCII only."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(plain.encode(encoding, "backslashreplace").decode(encoding), flush=True)
