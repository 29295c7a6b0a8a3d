"""A network folder: a deployed network, its certificates, and a card that says what it is and how to verify it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates import certify
from wellposed.certificates.radius import radii
from wellposed.deployment.certifying import certify_file
from wellposed.deployment.export import export, path_of, shape_of_inputs, tolerance_of
from wellposed.deployment.runtime import DeployedNetwork
from wellposed.errors import CertificateError, InputError, check, checked_options, choices
from wellposed.network import Network
from wellposed.numerics.norm import NORMS, Norm, norm_named
from wellposed.numerics.shown import at_most

MODEL, CARD = "model.onnx", "card.md"


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """Constants that a certificate file claims of a deployed network, after its checker has proved them.

    Attributes:
        norm: of inputs and outputs.
        lipschitz: constant of all outputs.
        pairs: constants of class margins, shape (classes, classes), or None.
    """

    norm: Norm
    lipschitz: float
    pairs: Tensor | None


class NetworkFolder:
    """A deployed network with certificates that were proved again when the folder was loaded; see `load`.

    Attributes:
        path: of the folder.
        network: its file, run by onnxruntime.
        claims: what is proved, by norm.
    """

    def __init__(self, path: Path, network: DeployedNetwork, claims: Mapping[Norm, Claimed]) -> None:
        self.path, self.network, self.claims = path, network, dict(claims)

    def __repr__(self) -> str:
        known = ", ".join(f"norm {norm}: at most {at_most(claim.lipschitz, 6)}" for norm, claim in self.claims.items())
        return f"NetworkFolder({str(self.path)!r}; {known})"

    def __call__(self, x: Any) -> tuple[Tensor, Tensor]:
        """The logits, and bounds of their errors; see `DeployedNetwork`."""
        return self.network(x)

    def radii(self, x: Any, labels: Tensor, *, norm: str = "2") -> Tensor:
        """Radii within which every answer of the file that it does not refuse is the right class; shape (batch,), float64.

        Args:
            x: shape (batch, *input_shape), float32, or graphs, see `DeployedNetwork`.
            labels: true classes, shape (batch,).
            norm: of perturbations, one that the folder has a certificate for.

        Raises:
            InputError: the folder has no certificate in this norm, or inputs or labels do not fit.
        """
        name = norm_named(norm)
        choices("norm", name, tuple(self.claims))
        claim = self.claims[name]
        logits, error = self.network(x)
        rule = "sqrt2" if name == "2" else "paper"
        return radii(
            logits, labels, claim.lipschitz, claim.pairs, rule if claim.pairs is None else "pairs",
            error, torch.full_like(error, self.network.tolerance),
        )  # fmt: skip


@checked_options
def save(
    model: nn.Module | Network,
    folder: str | Path,
    *,
    norms: Sequence[str] = ("2",),
    tolerance: float | None = None,
    input_shape: tuple[int, ...] | None = None,
    figures: Mapping[str, str] | None = None,
) -> Network:
    """Write a network folder: ``model.onnx``, a certificate for each norm, and ``card.md``.

    Args:
        model: a module or a network. One in float64 becomes its float32 network first.
        folder: made if it is not there; files of these names, and certificates in other norms, are replaced.
        norms: of the certificates.
        tolerance: see `wellposed.export`.
        input_shape: of one input, where the network does not tell it.
        figures: what is known of it, such as its test error, for the card.

    Returns:
        The network that the folder holds.

    Raises:
        CertificateError: the network cannot be materialised, has no form in deployed files, or nothing is proved of it.
        InputError: an argument is unusable, or a file cannot be written.
    """
    place = path_of("folder", folder)
    several = isinstance(norms, Sequence) and not isinstance(norms, str) and len(norms) > 0
    check(several, "norms", norms, "must be a sequence of norms, such as ('2', 'inf')")
    known = [norm_named(norm) for norm in norms]
    named = isinstance(figures, Mapping) and all(_is_text(part) for pair in figures.items() for part in pair)
    check(figures is None or named, "figures", figures, "must be a mapping from names to texts, or None")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder={str(folder)!r}: cannot be made ({error.strerror})") from error
    tolerance = tolerance_of(model, tolerance)
    network = export(model, place / MODEL, tolerance=tolerance, input_shape=input_shape)
    lines = []
    for norm in NORMS:  # of a network that was here before
        for suffix in (".json", ".safetensors"):
            _certificate(place, norm).with_suffix(suffix).unlink(missing_ok=True)
    for norm in known:
        certificate = certify(network, norm=norm)
        certify_file(certificate, place / MODEL, _certificate(place, norm))
        claim = json.loads(_certificate(place, norm).read_text(encoding="utf-8"))
        lines.append(f"| {norm} | {claim['lipschitz']:.6g} | {', '.join(claim['theorems'])} |")
    try:
        (place / CARD).write_text(_card(network, tolerance, lines, figures or {}, known), encoding="utf-8")
    except OSError as error:
        raise InputError(f"folder={str(folder)!r}: {CARD} cannot be written ({error.strerror})") from error
    return network


@checked_options
def load(folder: str | Path) -> NetworkFolder:
    """Read a network folder, and prove its certificates again before anything is said of the network.

    Args:
        folder: of `save`.

    Raises:
        CertificateError: a certificate does not hold for the file beside it; the first check that fails is named.
        InputError: a file is missing or cannot be read.
        MissingExtraError: onnxruntime is not installed.
    """
    from wellposed.checker import Refuted
    from wellposed.checker.claim import Claim
    from wellposed.checker.core import check as prove

    place = path_of("folder", folder)
    found = {norm: path for norm in NORMS if (path := _certificate(place, norm)).exists()}
    if not found:
        raise InputError(f"folder={str(folder)!r}: has no certificate.json; write the folder by wellposed.save")
    claims, digests = dict[Norm, Claimed](), set[str]()
    for norm, path in found.items():
        try:
            prove(path, place / MODEL)
            claim = Claim(path)
        except Refuted as error:
            raise CertificateError(f"{path}: does not hold for {MODEL}: {error}") from error
        if claim.norm != norm:
            raise CertificateError(f"{path}: is about another norm than its name says")
        digests.add(claim.model_sha256)
        pairs = None if claim.pairs is None else torch.from_numpy(claim.pairs)
        claims[norm] = Claimed(norm=norm, lipschitz=claim.lipschitz, pairs=pairs)
    network = DeployedNetwork(place / MODEL)  # which a runtime reads only once it is known for what it is
    if digests != {network.sha256}:
        raise CertificateError(f"{place / MODEL}: changed while its certificates were proved")
    return NetworkFolder(place, network, claims)


def _is_text(part: object) -> bool:
    """Whether something is a text that a file in UTF-8 can hold."""
    return isinstance(part, str) and not any("\ud800" <= letter <= "\udfff" for letter in part)


def _certificate(folder: Path, norm: Norm) -> Path:
    return folder / ("certificate.json" if norm == "2" else f"certificate-{norm}.json")


def _card(
    network: Network, tolerance: float, constants: Sequence[str], figures: Mapping[str, str], norms: Sequence[Norm]
) -> str:
    """The card of a network, in Markdown."""
    kinds = " → ".join(block.kind for block in network.blocks)
    shape = ", ".join(map(str, shape_of_inputs(network) or ()))
    if network.takes_graphs:
        taken = f"- inputs `x`: float32, shape (nodes, {shape}); `edge_index`: int64, shape (2, edges), sources, then targets; "
        taken += "`batch`: int64, the graph of each node"
    else:
        taken = f"- input `x`: float32, shape (batch, {shape})"
    known = "".join(f"- {name}: {value}\n" for name, value in figures.items())
    checks = "\n".join(f"wellposed verify {_certificate(Path(), norm).name} {MODEL}" for norm in norms)
    return (
        f"# {kinds}\n\nAn equilibrium network with guarantees, as one ONNX file.\n\n"
        f"{taken}\n"
        "- outputs: `logits`, and `error_bound`, a bound of their Euclidean error\n"
        f"- tolerance: {tolerance:g}; where the bound is larger, it is infinite, and the answer is to be refused\n{known}\n"
        f"## Proved Lipschitz constants\n\n| norm | at most | by |\n|---|---|---|\n" + "\n".join(constants) + "\n\n"
        f"## Verify\n\n```\n{checks}\n```\n"
    )
