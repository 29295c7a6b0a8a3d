"""Certified and attacked accuracy of a run on graphs: changes of node features, in the Frobenius norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.attacks.graphs import graph_distances
from wellposed.certificates import certify
from wellposed.errors import check
from wellposed.experiments.certificate_files import file_certificate
from wellposed.experiments.learning import learned
from wellposed.experiments.radii import check_radii
from wellposed.experiments.results import Attacked, Certified, keep_attacked, keep_certified
from wellposed.experiments.robustness import certified_on
from wellposed.lower_bounds.graph_witness import graph_slope
from wellposed.network import materialise
from wellposed.training.config import read_config
from wellposed.training.files import file_digest
from wellposed.training.folder import RunFolder
from wellposed.training.run import load_run

_BATCH = 100


def is_on_graphs(run: Path) -> bool:
    """Whether a run is about graphs; False where there is no run."""
    return inputs_of_run(run) == "graphs"


def inputs_of_run(run: Path) -> str:
    """What one sample of a run is: ``"images"``, which it also is where there is no run, ``"vectors"`` or ``"graphs"``."""
    config = RunFolder(run).config
    return read_config(config).inputs if config.exists() else "images"


def certify_graphs(
    run: Path, *, data_root: Path | None, limit: int | None, done: Callable[[int, int], None]
) -> Certified:
    """Certify a run on its test graphs, and write ``certified.json``, ``model.onnx`` and ``certificate.json`` into its folder.

    Where the network has no form in such files, or nothing can be proved about the file, the result says why.

    Args:
        run: the run folder.
        data_root: see `load_graphs`.
        limit: only the first so many test graphs; None for all.
        done: called with the number of graphs that are finished, and with that of all.

    Raises:
        CertificateError: the network has no constant for all graphs, as where it sums over nodes.
    """
    model, batches = _loaded(run, data_root, limit)
    network = materialise(model)
    certificate = certify(network)
    total = sum(len(labels) for _, labels in batches)
    slope = max(graph_slope(network, graphs) for graphs, _ in batches)
    found = certified_on(
        batches, network, certificate, slope, file_digest(RunFolder(run).weights), lambda count: done(count, total)
    )
    found = replace(found, unfiled=file_certificate(run, certificate))
    keep_certified(run, found)
    return found


def attack_graphs(
    run: Path,
    *,
    data_root: Path | None,
    radii: Sequence[float],
    limit: int | None,
    steps: int,
    done: Callable[[int, int], None],
) -> Attacked:
    """Attack a run on its test graphs, and write ``attacked.json`` into its folder.

    Args:
        run: the run folder.
        data_root: see `load_graphs`.
        radii: see `graph_distances`.
        limit: only the first so many test graphs; None for all.
        steps: see `graph_distances`.
        done: called with the number of graphs that are finished, and with that of all.
    """
    check_radii(radii)
    check(steps >= 1, "steps", steps, "must be at least 1")
    model, batches = _loaded(run, data_root, limit)
    distances: list[float] = []
    with torch.no_grad():
        predictions = torch.cat([model(graphs).argmax(1) for graphs, _ in batches])
    what = learned(predictions, torch.cat([labels for _, labels in batches]))
    for graphs, labels in batches:
        distances += graph_distances(model, graphs, labels, radii, steps=steps).tolist()
        done(len(distances), len(predictions))
    digest = file_digest(RunFolder(run).weights)
    found = Attacked(distances, steps, list(radii), digest, what.majority_error, what.classes_named)
    keep_attacked(run, found)
    return found


def _loaded(run: Path, data_root: Path | None, limit: int | None) -> tuple[nn.Module, list[tuple[Any, Tensor]]]:
    """The model and its test graphs with their classes, in batches."""
    check(limit is None or limit >= 1, "limit", limit, "must be at least 1")
    _, data, model = load_run(run, data_root)
    graphs = data.as_graphs(f"run={str(run)!r}")
    return model, [graphs.batch(chosen) for chosen in graphs.test[:limit].split(_BATCH)]
