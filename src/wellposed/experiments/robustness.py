"""Certified and attacked accuracy of a run, per input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks import adversarial_distances, auto_attack, plain_distances
from wellposed.attacks.search import Search
from wellposed.certificates import Certificate, certify
from wellposed.data import TensorData, load_images
from wellposed.data.own import Evaluation, load_to_evaluate, source_digest
from wellposed.errors import CertificateError, GuaranteeError, InputError, check
from wellposed.experiments.certificate_files import file_certificate
from wellposed.experiments.learning import learned
from wellposed.experiments.radii import check_radii
from wellposed.experiments.results import Attacked, Certified, keep_attacked, keep_certified
from wellposed.names import is_own
from wellposed.network import Network, materialise, surely_misclassified
from wellposed.numerics.norm import norm_named
from wellposed.training.about import about_run
from wellposed.training.config import TrainConfig
from wellposed.training.files import file_digest, write_json
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_classifier_run

_BATCH = 1000
_SHOWN = 6  # adversarial examples of a report
_WITNESS_INPUTS = 64


def certify_run(
    run: Path,
    *,
    data_root: Path | None,
    limit: int | None,
    done: Callable[[int, int], None],
    other_data: str | None = None,
    method: str | None = None,
    norm: str = "2",
    seconds: float | None = None,
) -> Certified:
    """Certify a run, and write ``certified.json``, ``model.onnx`` and its ``certificate.json`` into its folder.

    Where the network has no form in such files, or nothing can be proved about the file, the result says why.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        limit: only the first so many test images; None for all.
        done: called with the number of images that are finished, and with that of all.
        other_data: name or file of another set whose test inputs to take; the results go to ``certified-NAME.json`` then. The
            file of a user's own data that the run was trained on is no other set, wherever it is.
        method: of the constant, see `wellposed.certify`.
        norm: of perturbations, see `wellposed.certify`; where it is not the Euclidean one, files are ``certified-NORM.json`` and
            ``certificate-NORM.json``.
        seconds: for searches of metrics, see `wellposed.certify`.

    Raises:
        InputError: the other set has inputs of another size, or other classes.
    """
    norm = norm_named(norm)
    moved, other_data = told_apart(run, other_data)
    config, data, model = load_classifier_run(run, data_root, moved)
    samples = Evaluation(data.test_x, data.test_y)
    if other_data is not None:
        samples = _other(other_data, config, data, data_root)
        other_data = Path(other_data).stem
    x, y = _first(samples, limit)
    network = materialise(model, tuple(x.shape[1:]))
    certificate = certify(network, norm=norm, inputs=x[:_WITNESS_INPUTS], method=method, seconds=seconds)
    batches = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
    assert certificate.lower_bound is not None  # inputs were given
    found = certified_on(
        batches,
        network,
        certificate,
        certificate.lower_bound,
        file_digest(RunFolder(run).weights),
        lambda count: done(count, len(y)),
    )
    found = replace(found, unfiled=file_certificate(run, certificate), said=samples.remarks)
    keep_certified(run, found, norm, other_data)
    return found


def told_apart(run: Path, given: str | None) -> tuple[str | None, str | None]:
    """What is given for data, as a new place of the run's own data or as another set.

    Args:
        run: the run folder.
        given: name or path; None for nothing.

    Returns:
        The place, and the name or path of the other set; None for what it is not.
    """
    if given is None or not is_own(given):
        return None, given
    own = Path(given).exists() and source_digest(Path(given)) == about_run(run).data_sha256
    return (given, None) if own else (None, given)


def _other(name: str, config: TrainConfig, data: TensorData, data_root: Path | None) -> Evaluation:
    """The test inputs of another set for a run."""
    if is_own(name):
        names, columns = ((), ()) if data.source is None else (data.source.classes, data.source.columns)
        target = config.target if Path(name).suffix.lower() == ".csv" else ""
        other = load_to_evaluate(Path(name), classes=data.task.outputs, target=target, names=names, columns=columns)
    else:
        known = load_images(name, data_root)
        other = Evaluation(known.test_x, known.test_y)
    if tuple(other.x.shape[1:]) != data.shape or int(other.y.max()) >= data.task.outputs:
        raise InputError(f"data={name!r}: has other {data.inputs} or classes than the run's own {data.name}")
    return other


def certified_on(
    batches: Iterable[tuple[Any, Tensor]], network: Network, certificate: Certificate, lower_bound: float, digest: str,
    done: Callable[[int], None],
) -> Certified:  # fmt: skip
    """The radii of a certificate at batches of inputs and labels.

    Args:
        batches: at least one.
        network: what the certificate is about.
        certificate: the certificate.
        lower_bound: of the Lipschitz constant.
        digest: of the weight file.
        done: called with the number of inputs that are finished.
    """
    radii: dict[str, list[float]] = {rule: [] for rule in certificate.rules}
    predictions, truth, unsolved = [], [], 0
    for inputs, labels in batches:
        result = network.bounded(inputs)
        for rule, values in radii.items():
            values += certificate.of(result, labels, rule=rule).tolist()
        predictions.append(result.logits.argmax(1))
        truth.append(labels)
        unsolved += int(result.unsolved.sum())
        done(sum(map(len, truth)))
    what = learned(torch.cat(predictions), torch.cat(truth))
    return Certified(
        certificate.lipschitz, lower_bound, what.error, radii, digest, certificate.method, constants_of(certificate),
        unsolved=unsolved, left_out=certificate.left_out, majority_error=what.majority_error, classes_named=what.classes_named,
    )  # fmt: skip


def constants_of(certificate: Certificate) -> list[tuple[str, float, str]]:
    """Names, values and reasons of the blocks' own constants, and of what replaces those of the last ones where it is tighter."""
    tail, factors = certificate.tail, certificate.factors
    found = [(factor.block, factor.value, factor.reason) for factor in factors]
    if tail is None:
        return found
    first = factors[tail.place].block if tail.place < len(factors) else tail.block
    name = tail.block if tail.block.startswith(first) else f"{first} … {tail.block}"
    return [*found, (name, tail.value, "best diagonal metric, verified Cholesky")]


def attack_run(
    run: Path,
    *,
    data_root: Path | None,
    radii: Sequence[float],
    limit: int | None,
    steps: int,
    done: Callable[[int, int], None],
    norm: str = "2",
    restarts: int = 1,
    carlini_wagner: int = 0,
    auto: bool = False,
    own_data: str | None = None,
) -> Attacked:
    """Attack a run, and write ``attacked.json`` and the nearest examples into its folder, or ``attacked-NORM.json`` alone.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        radii: see `adversarial_distances`.
        limit: only the first so many test images; None for all.
        steps: see `adversarial_distances`.
        done: called with the number of images that are finished, and with that of all.
        norm: of perturbations.
        restarts: see `adversarial_distances`.
        carlini_wagner: see `adversarial_distances`.
        auto: see `adversarial_distances`.
        own_data: see `load_run`.
    """
    check_radii(radii)
    norm = norm_named(norm)
    _, data, model = load_classifier_run(run, data_root, own_data)
    x, y = _first(Evaluation(data.test_x, data.test_y), limit)
    exact = _exact(model)
    distances, examples = adversarial_distances(
        model, x, y, radii, norm=norm, steps=steps, restarts=restarts, carlini_wagner=carlini_wagner, auto=auto,
        done=lambda count: done(count, len(x)),
        is_fooled=_judge(exact), box=data.box,
    )  # fmt: skip
    named = _named(exact, x)
    distances, what = torch.where(named == y, distances, 0.0), learned(named, y)
    found = Attacked(
        distances.tolist(),
        steps,
        list(radii),
        file_digest(RunFolder(run).weights),
        what.majority_error,
        what.classes_named,
    )
    keep_attacked(run, found, norm)
    if norm == "2" and data.inputs == "images":
        write_json(RunFolder(run).adversarial, {"examples": _nearest(exact, (x, y), distances, examples)})
    return found


@torch.no_grad()
def _nearest(
    exact: Network | nn.Module, data: tuple[Tensor, Tensor], distances: Tensor, examples: Tensor
) -> list[dict[str, Any]]:
    """The nearest adversarial examples beside their images, as reports show them."""
    x, y = data
    predictions = exact(examples.double()).argmax(1)
    nearest = torch.argsort(torch.where(distances > 0, distances, torch.inf))[:_SHOWN]
    return [
        {
            "index": i, "distance": float(distances[i]), "label": int(y[i]), "prediction": int(predictions[i]),
            "image": x[i].tolist(), "adversarial": examples[i].tolist(),
        }
        for i in nearest.tolist()
        if 0.0 < float(distances[i]) < float("inf")
    ]  # fmt: skip


def attacked_on(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    *,
    norm: str = "2",
    steps: int = 40,
    auto: bool = False,
) -> Attacked:
    """The smallest adversarial distances found at inputs, judged as those of runs are.

    Args:
        model: maps pixels to logits, in eval mode.
        x: images, shape (batch, ...).
        y: classes, shape (batch,).
        radii: see `adversarial_distances`.
        norm: of perturbations.
        steps: see `adversarial_distances`.
        auto: see `adversarial_distances`.
    """
    check_radii(radii)
    exact = _exact(model)
    distances, _ = adversarial_distances(model, x, y, radii, norm=norm, steps=steps, auto=auto, is_fooled=_judge(exact))
    return Attacked(torch.where(_named(exact, x) == y, distances, 0.0).tolist(), steps, list(radii), "")


def plainly_attacked_on(
    model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float], *, name: str, norm: str
) -> Attacked:
    """The smallest sizes at which a perturbation that is not searched for fools a model, judged as attacks on runs are.

    Args:
        model: maps pixels to logits, in eval mode.
        x: images, shape (batch, ...).
        y: classes, shape (batch,).
        radii: sizes to try.
        name: of the perturbation, see `plain_distances`.
        norm: of its size.
    """
    check_radii(radii)
    exact = _exact(model)
    distances = plain_distances(model, x, y, radii, name=name, norm=norm, is_fooled=_judge(exact))
    return Attacked(torch.where(_named(exact, x) == y, distances, 0.0).tolist(), 0, list(radii), "")


def auto_attacked_on(
    model: nn.Module, x: Tensor, y: Tensor, known: Attacked, *, norm: str, steps: int, queries: int
) -> Attacked:
    """What AutoAttack finds nearer than other attacks did, judged as attacks on runs are.

    Args:
        model: maps pixels to logits, in eval mode.
        x: images, shape (batch, channels, height, width).
        y: classes, shape (batch,).
        known: what others found for these images: AutoAttack tries the same radii, each on the images that withstood all before.
        norm: of perturbations.
        steps: see `auto_attack`.
        queries: see `auto_attack`.
    """
    search = Search(_judge(_exact(model)), x, y, float(norm))
    search.best = search.best.minimum(torch.tensor(known.distances, dtype=torch.float64, device="cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for radius in sorted(known.tried):
            search.press(partial(auto_attack, model, norm=norm, steps=steps, queries=queries), radius)
    return replace(known, distances=search.best.tolist())


def _judge(exact: Network | nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Judges candidates by the network in float64."""
    return lambda images, truth: _is_fooled(exact, images.double(), truth)


def _exact(model: nn.Module) -> Network | nn.Module:
    """The network in float64, number for number; a float64 copy of a model about which nothing can be certified."""
    try:
        return materialise(model).exact
    except CertificateError:
        return copy.deepcopy(model).cpu().double().eval()


@torch.no_grad()
def _named(exact: Network | nn.Module, x: Tensor) -> Tensor:
    """The classes that a network in float64 gives, of which one that is no more than rounding ahead is wrong or right, too."""
    return torch.cat([exact(part.double()).argmax(1) for part in x.split(_BATCH)])


def _is_fooled(exact: nn.Module | Network, images: Tensor, truth: Tensor) -> Tensor:
    """Whether another class wins for sure or, for models whose evaluation nothing bounds, in float64."""
    try:
        return surely_misclassified(exact, images, truth)
    except (CertificateError, GuaranteeError):
        with torch.no_grad():
            return exact(images).argmax(1) != truth


def _first(samples: Evaluation, limit: int | None) -> tuple[Tensor, Tensor]:
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    return samples.x[:limit], samples.y[:limit]
