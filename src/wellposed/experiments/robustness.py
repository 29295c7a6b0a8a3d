"""Certified and attacked accuracy of a run, per input, with the invariant that ties them together."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from wellposed.attacks import adversarial_distances
from wellposed.certificates import Certificate, certify
from wellposed.certificates.order import must_be_ordered
from wellposed.data import ImageData, load_images
from wellposed.errors import CertificateError, CheckpointError, GuaranteeError, InputError, check
from wellposed.network import Network, materialise, surely_misclassified
from wellposed.numerics.norm import norm_named
from wellposed.training.run import RunFolder, load_image_run

_WITNESS_INPUTS = 64
_Result = TypeVar("_Result", "Certified", "Attacked")


@dataclass(frozen=True)
class Certified:
    """Certified radii of the first test inputs of a run.

    Attributes:
        lipschitz: upper bound of the Lipschitz constant, pixel units.
        lower_bound: proved lower bound of the same.
        test_error: fraction of misclassified inputs.
        radii: certified radius per input and rule, zero where nothing is certified.
        weights_sha256: digest of the weight file.
    """

    lipschitz: float
    lower_bound: float
    test_error: float
    radii: dict[str, list[float]]
    weights_sha256: str

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)

    @property
    def best(self) -> list[float]:
        """Radii by the tightest rule that the certificate supports."""
        return list(self.radii.values())[-1]

    def accuracy(self, radius: float, rule: str | None = None, limit: int | None = None) -> float:
        """Fraction of the (first ``limit``) inputs certified at a radius, by the tightest rule unless one is named."""
        values = torch.tensor((self.best if rule is None else self.radii[rule])[:limit], dtype=torch.float64)
        return float(((values >= radius) & (values > 0)).double().mean())


@dataclass(frozen=True)
class Attacked:
    """Smallest adversarial distances found for the first test inputs of a run.

    Attributes:
        distances: per input; zero where misclassified, infinite where nothing was found.
        steps: steps of projected gradient descent.
        tried: radii that it was run at.
        weights_sha256: digest of the weight file.
    """

    distances: list[float]
    steps: int
    tried: list[float]
    weights_sha256: str

    def accuracy(self, radius: float) -> float:
        """Fraction of the inputs that no attack found an adversarial example for within a radius."""
        return float((torch.tensor(self.distances, dtype=torch.float64) > radius).double().mean())


def certify_run(
    run: Path,
    *,
    data_root: Path | None,
    limit: int | None,
    done: Callable[[int], None],
    other_data: str | None = None,
    method: str | None = None,
    norm: str = "2",
) -> Certified:
    """Certify a run, and write ``certificate.json`` and ``certified.json`` into its folder.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        limit: only the first so many test images; None for all.
        done: called with the number of images that are finished.
        other_data: name of another set whose test images to take; the results go to ``certified-NAME.json`` then.
        method: see `wellposed.certify`.
        norm: likewise; results in other norms than the Euclidean one go to ``certified-NORM.json`` and ``certificate-NORM.json``.

    Raises:
        InputError: the other set has images of another size, or other classes.
    """
    norm = norm_named(norm)
    _, data, model = load_image_run(run, data_root)
    if other_data is not None:
        other = load_images(other_data, data_root)
        if other.test_x.shape[1:] != data.test_x.shape[1:] or int(other.test_y.max()) > int(data.train_y.max()):
            raise InputError(f"data={other_data!r}: has other images or classes than the run's own {data.name}")
        data = other
    x, y = _first(data, limit)
    network = materialise(model, tuple(x.shape[1:]))
    certificate = certify(network, norm=norm, inputs=x[:_WITNESS_INPUTS], method=method)
    radii: dict[str, list[torch.Tensor]] = {rule: [] for rule in certificate.rules}
    count, wrong = 0, 0
    for images, labels in zip(x.split(1000), y.split(1000), strict=True):
        result = network.bounded(images)
        for rule, values in radii.items():
            values.append(certificate.of(result, labels, rule=rule))
        wrong += int((result.logits.argmax(1) != labels).sum())
        count += len(labels)
        done(count)
    assert certificate.lower_bound is not None  # inputs were given
    found = Certified(
        certificate.lipschitz, certificate.lower_bound, wrong / max(count, 1),
        {rule: torch.cat(values).tolist() for rule, values in radii.items()}, file_digest(RunFolder(run).weights),
    )  # fmt: skip
    certificate.save(_in_norm(RunFolder(run).certificate, norm))
    keep_certified(run, found, norm, other_data)
    return found


def check_radii(radii: Sequence[float]) -> None:
    """Refuse radii that no ball has.

    Raises:
        InputError: there are none, or one is not positive and finite.
    """
    if not radii or any(not 0.0 < radius < float("inf") for radius in radii):
        raise InputError(f"eps={list(radii)}: radii must be positive and finite")


def keep_certified(run: Path, found: Certified, norm: str = "2", other_data: str | None = None) -> None:
    """Write what `certify_run` found.

    Raises:
        CertificateError: an attack on the run's own data contradicts it.
    """
    path = _in_norm(RunFolder(run).certified, norm)
    _write(
        path if other_data is None else path.with_stem(f"{RunFolder(run).certified.stem}-{other_data}"), asdict(found)
    )
    attacked = read_attacked(run, norm) if other_data is None else None
    if attacked is not None:
        check_consistency(found, attacked)


def _in_norm(path: Path, norm: str) -> Path:
    """The name of a file of results in a norm: plain for the Euclidean one."""
    return path if norm == "2" else path.with_stem(f"{path.stem}-{norm}")


def attack_run(
    run: Path,
    *,
    data_root: Path | None,
    radii: Sequence[float],
    limit: int | None,
    steps: int,
    done: Callable[[int], None],
    norm: str = "2",
    restarts: int = 1,
    carlini_wagner: int = 0,
    auto: bool = False,
) -> Attacked:
    """Attack a run and write ``attacked.json`` and the adversarial examples into its folder; ``attacked-NORM.json`` otherwise."""
    check_radii(radii)
    norm = norm_named(norm)
    _, data, model = load_image_run(run, data_root)
    x, y = _first(data, limit)
    exact = _exact(model)
    distances, examples = adversarial_distances(
        model, x, y, radii, norm=norm, steps=steps, restarts=restarts, carlini_wagner=carlini_wagner, auto=auto, done=done,
        is_fooled=lambda images, truth: _is_fooled(exact, images.double(), truth),
    )  # fmt: skip
    found = Attacked(distances.tolist(), steps, list(radii), file_digest(RunFolder(run).weights))
    keep_attacked(run, found, norm)
    if norm != "2":
        return found
    with torch.no_grad():
        predictions = exact(examples.double()).argmax(1)
    order = torch.argsort(torch.where(distances > 0, distances, torch.inf))[:6]
    shown = [
        {
            "index": int(i),
            "distance": float(distances[i]),
            "label": int(y[i]),
            "prediction": int(predictions[i]),
            "image": x[i, 0].tolist(),
            "adversarial": examples[i, 0].tolist(),
        }
        for i in order
        if torch.isfinite(distances[i]) and distances[i] > 0
    ]
    _write(RunFolder(run).adversarial, shown)
    return found


def keep_attacked(run: Path, found: Attacked, norm: str = "2") -> None:
    """Write what `attack_run` found.

    Raises:
        CertificateError: it contradicts a certificate.
    """
    _write(_in_norm(RunFolder(run).attacked, norm), asdict(found))
    if is_certified(run, norm):
        check_consistency(read_certified(run, norm), found)


def _exact(model: torch.nn.Module) -> Network | torch.nn.Module:
    """The network in float64, number for number; a float64 copy of a model about which nothing can be certified."""
    try:
        return materialise(model).exact
    except CertificateError:
        return copy.deepcopy(model).cpu().double().eval()


def _is_fooled(exact: torch.nn.Module | Network, images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Whether another class wins for sure or, for models whose evaluation nothing bounds, in float64."""
    try:
        return surely_misclassified(exact, images, truth)
    except (CertificateError, GuaranteeError):
        with torch.no_grad():
            return exact(images).argmax(1) != truth


def _first(data: ImageData, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    return data.test_x[:limit], data.test_y[:limit]


def read_certified(run: Path, norm: str = "2") -> Certified:
    """What `certify_run` wrote for the run's own data, if it is about the weights that are there.

    Raises:
        CheckpointError: it is missing, corrupt or about other weights.
    """
    return _parse(Certified, _in_norm(RunFolder(run).certified, norm), "certify", run)


def read_attacked(run: Path, norm: str = "2") -> Attacked | None:
    """What `attack_run` wrote, or None."""
    path = _in_norm(RunFolder(run).attacked, norm)
    return _parse(Attacked, path, "attack", run) if path.exists() else None


def _parse(kind: type[_Result], path: Path, command: str, run: Path) -> _Result:
    content = _read(path, command)
    try:
        found = kind(**content)
    except TypeError as error:
        raise CheckpointError(f"{path}: corrupt ({error}); run `wellposed {command} {run}` again") from error
    if found.weights_sha256 != file_digest(RunFolder(run).weights):
        raise CheckpointError(
            f"{path}: about other weights than those there now; run `wellposed {command} {run}` again"
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file; empty if it is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def is_certified(run: Path, norm: str = "2") -> bool:
    """Whether `certify_run` wrote results."""
    return _in_norm(RunFolder(run).certified, norm).exists()


def read_certificate(run: Path) -> Certificate:
    """The certificate of a run."""
    return Certificate.load(RunFolder(run).certificate)


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


def _write(path: Path, content: Any) -> None:
    try:
        path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error


def _read(path: Path, command: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there yet; run `wellposed {command} {path.parent}` first") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: corrupt; run `wellposed {command} {path.parent}` again") from error
