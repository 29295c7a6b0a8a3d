"""Runs as deployed files: export, and the accuracy that is certified of the file's own answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wellposed.certificates import certify
from wellposed.deployment import export
from wellposed.deployment.export import TOLERANCE
from wellposed.deployment.runtime import DeployedNetwork
from wellposed.errors import check
from wellposed.experiments.certificate_files import file_of_exported
from wellposed.experiments.graph_robustness import is_on_graphs
from wellposed.experiments.learning import NO_ANSWER, learned
from wellposed.experiments.results import Certified, keep_certified
from wellposed.experiments.robustness import constants_of
from wellposed.network import Network
from wellposed.numerics.norm import norm_named
from wellposed.training.files import file_digest
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_classifier_run, load_run

_BATCH = 500
_WITNESS_INPUTS = 64


def export_run(
    run: Path, *, data_root: Path | None, tolerance: float | None, out: Path | None = None, own_data: str | None = None
) -> tuple[Path, Network]:
    """Write a run's network as one ONNX file.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        tolerance: see `wellposed.export`; None for 0.001, by regression 0.001 standard deviations of the targets.
        out: of the file; None for ``model.onnx`` in the run folder.
        own_data: see `load_run`.

    Returns:
        The path, and the network that the file computes.
    """
    path = RunFolder(run).model if out is None else out
    if is_on_graphs(run):
        return path, export(load_run(run, data_root)[2], path, tolerance=tolerance)
    _, data, model = load_run(run, data_root, own_data)
    shape = data.as_tensors(f"run={str(run)!r}").shape
    tolerance = TOLERANCE * data.task.unit if tolerance is None else tolerance
    return path, export(model, path, tolerance=tolerance, input_shape=shape)


def certify_deployed(
    run: Path,
    *,
    data_root: Path | None,
    limit: int | None,
    tolerance: float | None,
    norm: str,
    done: Callable[[int, int], None],
    seconds: float | None = None,
    own_data: str | None = None,
) -> tuple[Certified, int]:
    """Export a run, and certify what the file answers for test images; writes ``certified-deployed.json`` and its certificate.

    Args:
        run: the run folder.
        data_root: see `load_images`.
        limit: only the first so many test images; None for all.
        tolerance: see `wellposed.export`.
        norm: of perturbations.
        done: called with the number of images that are finished, and with that of all.
        seconds: for searches of metrics, see `wellposed.certify`.
        own_data: see `load_run`.

    Returns:
        The radii, with those of the same numbers' answers in float64 from which no error is subtracted, and how many images the
        file refused to answer for; these count as misclassified.
    """
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    norm = norm_named(norm)
    _, data, _ = load_classifier_run(run, data_root, own_data)
    x, y = data.test_x[:limit], data.test_y[:limit]
    path, network = export_run(run, data_root=data_root, tolerance=tolerance, own_data=own_data)
    file = DeployedNetwork(path)
    certificate = certify(network, norm=norm, inputs=x[:_WITNESS_INPUTS], seconds=seconds)
    assert certificate.lower_bound is not None  # inputs were given
    rule, exact = certificate.rules[-1], network.exact
    radii, unrounded, answers, refused = list[float](), list[float](), list[Tensor](), 0
    for rows, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        logits, error = file(rows)
        elsewhere = torch.full_like(error, file.tolerance)
        radii += certificate.radius(logits, labels, rule=rule, logit_error=error, elsewhere=elsewhere).tolist()
        unrounded += certificate.radius(exact(rows.double()), labels, rule=rule).tolist()
        answered = torch.isfinite(error)
        answers.append(torch.where(answered, logits.argmax(1), NO_ANSWER))
        refused += int((~answered).sum())
        done(len(radii), len(y))
    what = learned(torch.cat(answers), y)
    found = Certified(
        certificate.lipschitz, certificate.lower_bound, what.error, {"float64": unrounded, rule: radii},
        file_digest(RunFolder(run).weights), certificate.method, constants_of(certificate),
        unfiled=file_of_exported(run, certificate), unsolved=refused, left_out=certificate.left_out,
        majority_error=what.majority_error, classes_named=what.classes_named,
    )  # fmt: skip
    keep_certified(run, found, norm, "deployed")
    return found, refused
