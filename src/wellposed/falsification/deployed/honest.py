"""What the library proves of a deployed file as it is: evidence that is looked for anew, from the file's own numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.bounds.from_l1 import ColumnMetricProblem
from wellposed.bounds.from_linf import EllipsoidMetricProblem
from wellposed.bounds.metric_inequality import DiagonalBound
from wellposed.checker import Refuted
from wellposed.checker.maps import linear_maps, margins
from wellposed.checker.metric import Segment
from wellposed.checker.node import Node
from wellposed.checker.positive import slopes
from wellposed.deployment import certificate as prover
from wellposed.deployment.image_metrics import image_metrics
from wellposed.deployment.sensitivity import proved_sensitivity
from wellposed.errors import WellposedError
from wellposed.falsification.deployed.files import Array, Files, Impossible
from wellposed.guarantee.metric_search import find_metric
from wellposed.numerics.outward import REPRODUCIBLE

_OF_IMAGES = (
    "sensitivity",
    "start",
    "reach",
    "back",
    "vector",
    "gram",
)  # of equilibria on images, taken over as they are
_ROUNDS = 200  # of the power iteration for a sensitivity


def sensitivities(nodes: list[Node]) -> tuple[dict[int, float], dict[str, Array]]:
    """Sensitivities of all equilibria by their places, and the evidence for them.

    Raises:
        Impossible: an equilibrium is not known to be unique.
    """
    values: dict[int, float] = {}
    evidence: dict[str, Array] = {}
    for node in nodes:
        if node.kind == "ReflectedEquilibrium":
            matrix = torch.from_numpy(np.array(node.numbers["W"]))
            try:
                metric = find_metric(matrix)
                if metric is None:
                    raise Impossible
                values[node.place], multipliers = proved_sensitivity(matrix, metric)
            except WellposedError as error:
                raise Impossible from error
            evidence[f"{node.place}/sensitivity"] = multipliers.numpy()
        elif node.kind == "PositiveEquilibrium":
            values[node.place], parts = _positive(node)
            evidence |= {f"{node.place}/{name}": part for name, part in parts.items()}
    return values, evidence


def _positive(node: Node) -> tuple[float, dict[str, Array]]:
    """The largest singular value of (I − DW)⁻¹D, with the vectors that prove it."""
    weight, scale = node.numbers["W"], slopes(node)
    try:
        inverse = np.linalg.inv(np.eye(len(weight)) - scale[:, None] * weight)
    except np.linalg.LinAlgError as error:
        raise Impossible from error
    start = np.ones(len(weight))
    for _ in range(_ROUNDS):
        reach = inverse @ (scale * start)
        start = scale * (inverse.T @ reach)
        start = np.maximum(start / start.max(), 1e-9)
    reach = inverse @ (scale * start) * REPRODUCIBLE
    back = inverse.T @ reach * REPRODUCIBLE
    if not (reach > 0.0).all() or not (back > 0.0).all():
        raise Impossible
    return math.sqrt(float((scale * back / start).max())) * REPRODUCIBLE, {"start": start, "reach": reach, "back": back}


def proof(nodes: list[Node], norm: str, kept: dict[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Constants of a file with the sensitivities that it stores, as the entries of a claim, and their evidence.

    Args:
        nodes: of the file.
        norm: of inputs and outputs.
        kept: evidence, of which scales of explicit layers are taken over, and metrics to begin with.

    Raises:
        Impossible: nothing was proved.
    """
    tensors = {name: part for name, part in kept.items() if name.split("/")[1] in _OF_IMAGES} | sensitivities(nodes)[1]
    if norm == "2":
        tensors |= {name: part for name, part in kept.items() if name.endswith("/scale")}
        tensors |= {name: part for name, part in kept.items() if name.endswith("/ratio")}
        for end, last, segment in prover._segments(nodes, linear_maps(nodes), prover._Draft(norm, [], tensors)):
            if not isinstance(segment, Segment):
                tensors |= image_metrics(end, segment, None)
                continue
            start, old = tensors[f"{segment.layer}/sensitivity"], kept.get(f"{end.place}/multipliers")
            start = start if old is None or old.shape[1:] != start.shape else old[0]
            tensors |= prover._metrics(end, segment, None, {f"{end.place}/metric": start}, last)
        theorems = ["product", *(["metric"] if any(name.endswith("/values") for name in tensors) else [])]
    else:
        rows = _from_input(nodes, norm, tensors)
        tensors |= rows
        theorems = ["entrywise", *(["metric"] if rows else [])]
    draft = prover._Draft(norm, theorems, tensors)
    try:
        whole, pairs = prover.constants_of(nodes, draft)
    except (Refuted, np.linalg.LinAlgError) as error:
        raise Impossible from error
    claim = {
        "lipschitz": whole * REPRODUCIBLE, "pairs": None if pairs is None else (pairs * REPRODUCIBLE).tolist(),
        "theorems": theorems, "norm": norm, "lower_bound": None,
    }  # fmt: skip
    return claim, {name: part for name, part in tensors.items() if name in draft.used}


def by_evidence(nodes: list[Node], norm: str, kept: Files) -> tuple[float, Array | None] | None:
    """Constants of a file by the theorems and the evidence of another one, but for sensitivities; None if these prove none.

    Args:
        nodes: of the file.
        norm: of inputs and outputs.
        kept: the other file.
    """
    try:
        tensors = kept.tensors | sensitivities(nodes)[1]
        return prover.constants_of(nodes, prover._Draft(norm, kept.claim["theorems"], tensors))
    except (Refuted, Impossible, ValueError, KeyError, IndexError, np.linalg.LinAlgError):
        return None


def _from_input(nodes: list[Node], norm: str, known: dict[str, Array]) -> dict[str, Array]:
    """Metrics in ℓ∞ or ℓ1, with their constants; none where the network is not an equilibrium with linear maps around it."""
    end = nodes[nodes[-1].sources[0]]
    try:
        segment = Segment(nodes, linear_maps(nodes), end)
    except Refuted:
        return {}
    if segment.start != 0 or segment.direct is not None:
        return {}
    largest, outputs = norm == "inf", len(segment.seen)
    kind = EllipsoidMetricProblem if largest else ColumnMetricProblem
    parts = (segment.matrix, segment.driven, known[f"{segment.layer}/sensitivity"], segment.seen)
    matrix, driven, metric, seen = (torch.from_numpy(np.array(part)) for part in parts)
    problem = kind(matrix, driven, metric, roundings=8)
    wholes: list[Tensor] = list(seen.split(1)) if largest else [seen]
    if end.place != segment.layer:
        wholes += [(seen[i] - seen[j])[None] for i, j in margins(outputs)]
    found: list[DiagonalBound | None] = [problem.bound(rows) for rows in wholes]
    rows = [part for part in found if part is not None]
    if len(rows) < len(found):
        return {}
    own = outputs if largest else 1
    value = max(row.value for row in rows[:own]) * (1.0 if largest else math.sqrt(outputs))
    tensors = {
        f"{end.place}/values": np.array([value, *(row.value for row in rows[own:])]) * REPRODUCIBLE,
        f"{end.place}/multipliers": torch.stack([row.multipliers for row in rows]).numpy(),
    }
    shares = [row.shares for row in rows if row.shares is not None]
    return tensors | ({f"{end.place}/shares": torch.stack(shares).numpy()} if shares else {})
