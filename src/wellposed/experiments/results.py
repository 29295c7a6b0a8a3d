"""What certifying and attacking a run give, per input: as files in its folder, with the invariant that ties them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from wellposed.certificates.order import must_be_ordered
from wellposed.errors import CertificateError, CheckpointError, InputError, check, check_fields
from wellposed.experiments.learning import Learned
from wellposed.training.checkpoint import read_weights
from wellposed.training.files import file_digest, read_json, write_json
from wellposed.training.folder import RunFolder

NORMS = {"2": "Euclidean", "inf": "ℓ∞", "1": "ℓ1"}  # with what they are called
_Result = TypeVar("_Result", bound="OfWeights")


class OtherWeightsError(CheckpointError):
    """A file of results is intact, and about other weights than those in its folder."""


class OfWeights(Protocol):
    """Results that say by its digest which weight file they are about."""

    @property
    def weights_sha256(self) -> str:
        """Digest of the weight file."""


@dataclass(frozen=True)
class Certified:
    """Certified radii of the first test inputs of a run.

    Attributes:
        lipschitz: upper bound of the Lipschitz constant, pixel units.
        lower_bound: proved lower bound of the Lipschitz constant.
        test_error: fraction of misclassified inputs.
        radii: certified radius per input and rule, zero where nothing is certified.
        weights_sha256: digest of the weight file.
        method: how the constant was obtained; empty where that was not noted.
        constants: what contributes to it, as names of blocks, their constants and the reasons.
        unfiled: why there is no certificate file; empty where there is one.
        unsolved: how many inputs have the radius zero as their solve did not converge.
        left_out: what the budget of the certificate did not suffice for, in words.
        majority_error: see `Learned`; None where that was not noted.
        classes_named: see `Learned`; None where that was not noted.
        said: what a reader must know of the inputs, in words.
    """

    lipschitz: float
    lower_bound: float
    test_error: float
    radii: dict[str, list[float]]
    weights_sha256: str
    method: str = ""
    constants: list[tuple[str, float, str]] = field(default_factory=list)
    unfiled: str = ""
    unsolved: int = 0
    left_out: Sequence[str] = ()
    majority_error: float | None = None
    classes_named: int | None = None
    said: Sequence[str] = ()

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)
        check_fields(self, finite=False)
        check(0.0 <= self.test_error <= 1.0, "test_error", self.test_error, "must lie in [0, 1]")
        counts = {len(values) for values in self.radii.values()}
        check(len(counts) == 1, "radii", sorted(self.radii), "must have as many numbers for every rule")
        check(
            min(min(values, default=0.0) for values in self.radii.values()) >= 0.0,
            "radii",
            "",
            "must not be negative",
        )

    @property
    def remarks(self) -> list[str]:
        """What a reader of the radii must know, in words: nothing learned, inputs not solved, searches left out."""
        first = [self.warning] if self.warning else []
        solves = [f"the solve did not converge for {self.unsolved} inputs, whose radius is 0"] if self.unsolved else []
        return first + list(self.said) + solves + [f"left out: {part}" for part in self.left_out]

    @property
    def warning(self) -> str:
        """What a reader must know before all else: that nothing was learned; else empty."""
        return _nothing_learned(self.test_error, self.majority_error, self.classes_named)

    @property
    def best(self) -> list[float]:
        """Radii by the tightest rule that the certificate supports."""
        return list(self.radii.values())[-1]

    def accuracy(self, radius: float, rule: str | None = None, limit: int | None = None) -> float:
        """Fraction of the (first ``limit``) inputs certified at a radius, by the tightest rule unless one is named."""
        values = torch.tensor(
            (self.best if rule is None else self.radii[rule])[:limit], dtype=torch.float64, device="cpu"
        )
        return float(((values >= radius) & (values > 0)).double().mean())


@dataclass(frozen=True)
class Attacked:
    """Smallest adversarial distances found for the first test inputs of a run.

    Attributes:
        distances: per input; zero where misclassified, infinite where nothing was found.
        steps: steps of projected gradient descent.
        tried: radii of projected gradient descent.
        weights_sha256: digest of the weight file.
        majority_error: see `Learned`; None where that was not noted.
        classes_named: see `Learned`; None where that was not noted.
    """

    distances: list[float]
    steps: int
    tried: list[float]
    weights_sha256: str
    majority_error: float | None = None
    classes_named: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, finite=False)
        check(
            min(self.distances, default=0.0) >= 0.0,
            "distances",
            min(self.distances, default=0.0),
            "must not be negative",
        )

    @property
    def warning(self) -> str:
        """What a reader must know before all else: that nothing was learned; else empty."""
        return _nothing_learned(1.0 - self.accuracy(0.0), self.majority_error, self.classes_named)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the distances must know, in words: that nothing was learned."""
        return [self.warning] if self.warning else []

    def accuracy(self, radius: float) -> float:
        """Fraction of the inputs that no attack found an adversarial example for within a radius."""
        return float((torch.tensor(self.distances, dtype=torch.float64, device="cpu") > radius).double().mean())

    def accuracy_tried(self, radius: float) -> float | None:
        """`accuracy`, or None above every radius that was tried: hardly anything was looked for there."""
        return self.accuracy(radius) if radius <= max(self.tried, default=0.0) else None


def _nothing_learned(error: float, majority_error: float | None, classes_named: int | None) -> str:
    """`Learned.remark` as a part of a line, where there is one; else empty."""
    if majority_error is None or classes_named is None:
        return ""
    words = Learned(error, majority_error, classes_named).remark.removesuffix(".")
    return words[:1].lower() + words[1:]


def keep_certified(run: Path, found: Certified, norm: str = "2", other_data: str | None = None) -> None:
    """Write what `certify_run` found.

    Raises:
        CertificateError: an attack on the run's own data contradicts it.
    """
    plain = RunFolder(run).certified
    named = plain if other_data is None else plain.with_stem(f"{plain.stem}-{other_data}")
    write_json(in_norm(named, norm), asdict(found))
    attacked = read_attacked(run, norm) if other_data is None else None
    if attacked is not None:
        check_consistency(found, attacked)


def keep_attacked(run: Path, found: Attacked, norm: str = "2") -> None:
    """Write what `attack_run` found.

    Raises:
        CertificateError: it contradicts a certificate.
    """
    write_json(in_norm(RunFolder(run).attacked, norm), asdict(found))
    if is_certified(run, norm):
        check_consistency(read_certified(run, norm), found)


def in_norm(path: Path, norm: str) -> Path:
    """The name of a file of results in a norm: plain for the Euclidean one."""
    return path if norm == "2" else path.with_stem(f"{path.stem}-{norm}")


def read_certified(run: Path, norm: str = "2") -> Certified:
    """What `certify_run` wrote for the run's own data, if it is about the weights that are there.

    Raises:
        CheckpointError: it is missing, corrupt or about other weights.
    """
    return parsed(Certified, in_norm(RunFolder(run).certified, norm), "certify", run)


def read_attacked(run: Path, norm: str = "2") -> Attacked | None:
    """What `attack_run` wrote for the weights that are there, or None; an attack on others says nothing of them, see `left_out`.

    Raises:
        CheckpointError: the file is corrupt.
    """
    try:
        return _attacked(run, norm)
    except OtherWeightsError:
        return None


def _attacked(run: Path, norm: str) -> Attacked | None:
    path = in_norm(RunFolder(run).attacked, norm)
    return parsed(Attacked, path, "attack", run) if path.exists() else None


def left_out(run: Path, norm: str = "2") -> list[str]:
    """Results in a run's folder that are about other weights, and so are neither shown nor compared with others, in words.

    Raises:
        CheckpointError: a file of results is corrupt.
    """
    said = []
    for read in (_attacked, _certified):
        try:
            read(run, norm)
        except OtherWeightsError as error:
            said.append(f"left out: {error}")
    return said


def parsed(kind: type[_Result], path: Path, command: str, run: Path) -> _Result:
    """A file of results, if it is about the weights that are there.

    Args:
        kind: of the results, a dataclass with the digest ``weights_sha256``.
        path: of the file.
        command: that writes it.
        run: the run folder.

    Raises:
        CheckpointError: the file is missing, corrupt or about other weights.
        CertificateError: it contradicts itself.
    """
    content = read_json(path, f"run `wellposed {command} {run}`")
    try:
        found = kind(**content)
    except (TypeError, InputError) as error:
        raise CheckpointError(f"{path}: corrupt ({error}); run `wellposed {command} {run}` again") from error
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from error
    if found.weights_sha256 != file_digest(RunFolder(run).weights):
        read_weights(RunFolder(run).weights)  # which says so where they are damaged
        raise OtherWeightsError(
            f"{path}: about other weights than those there now; run `wellposed {command} {run}` again"
        )
    return found


def is_certified(run: Path, norm: str = "2") -> bool:
    """Whether `certify_run` wrote results for the weights that are there.

    Raises:
        CheckpointError: the file is corrupt.
    """
    try:
        return _certified(run, norm) is not None
    except OtherWeightsError:
        return False


def _certified(run: Path, norm: str) -> Certified | None:
    return read_certified(run, norm) if in_norm(RunFolder(run).certified, norm).exists() else None


def norms_with_results(run: Path) -> list[str]:
    """The norms that there are radii or attacks in, of the weights that are there; the Euclidean one first."""
    return [norm for norm in NORMS if is_certified(run, norm) or read_attacked(run, norm) is not None]


def norms_of(*places: Path) -> list[str]:
    """The norms that there are results in, the Euclidean one first.

    Args:
        places: of results in the Euclidean norm, see `in_norm`.
    """
    return [norm for norm in NORMS if any(in_norm(place, norm).exists() for place in places)]


def check_consistency(certified: Certified, attacked: Attacked) -> None:
    """No input may have an adversarial example within its certified radius.

    Raises:
        CertificateError: one has; either the certificate or the evaluation is wrong.
    """
    for rule, values in certified.radii.items():
        for index, (radius, distance) in enumerate(zip(values, attacked.distances, strict=False)):
            if 0.0 < distance <= radius or (distance == 0.0 and radius > 0.0):
                raise CertificateError(
                    f"test input {index}: certified to {radius:.6g} by the rule {rule!r}, but an adversarial example was "
                    f"found at {distance:.6g}: the certificate is wrong; please report this run"
                )
