"""Certificates of deployed networks: claims about the numbers of one file, which `wellposed.checker` proves again."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellposed.bounds.diagonal_metric import DenseMetricProblem
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates import Certificate
from wellposed.certificates.certification import SECONDS
from wellposed.checker.claim import Claim, sealed
from wellposed.checker.core import constants_of
from wellposed.checker.maps import Linear, linear_maps, margins
from wellposed.checker.metric import Segment, segment_of
from wellposed.checker.model import read
from wellposed.checker.node import Node
from wellposed.checker.proofs import Refuted, rounding_constant
from wellposed.checker.witness import SIGMA, lower_bound
from wellposed.deployment.export import content_of, deployed_with_evidence
from wellposed.deployment.feedthrough import metric_with_feedthrough
from wellposed.deployment.image_metrics import constant_gram_of, image_metrics, of_tail
from wellposed.errors import CertificateError
from wellposed.numerics.outward import REPRODUCIBLE
from wellposed.writing import written_whole

Array = NDArray[Any]
_STEPS = 3000  # of the iterations that find the states of two inputs


class _Draft(Claim):
    """A claim before its constants are known, with the evidence as it grows."""

    def __init__(self, norm: str, theorems: list[str], tensors: dict[str, Array]) -> None:
        self.norm, self.theorems, self.tensors = norm, theorems, tensors
        self._evidence, self.used = tensors, set()

    def moved(self, node: Node, system: Array, wanted: Array) -> Array:
        """See `wellposed.checker.claim.Claim.moved`; the vectors are found here.

        They may be much larger than what they bound, and so is the rounding that the checker counts for their product with the
        system. So they solve a system that is less by twice as much in every entry.
        """
        slack = 8.0 * rounding_constant(2 * len(system) + 32)
        room = 1e-12 * wanted.max(axis=0, initial=0.0) + 1e-280
        found = np.linalg.solve(system - slack * np.abs(system), wanted * REPRODUCIBLE + room)
        self.tensors[f"{node.place}/moved"] = np.ascontiguousarray(np.maximum(found, 0.0))
        return super().moved(node, system, wanted)

    def gram(self, node: Node, kernel: Array, strides: tuple[int, int]) -> Array:
        """See `wellposed.checker.claim.Claim.gram`; the matrix is found here."""
        self.tensors[f"{node.place}/gram"] = constant_gram_of(kernel, node.shape[1:], strides)
        return super().gram(node, kernel, strides)

    def states(self, node: Node, offsets: Array) -> Array:
        """See `wellposed.checker.claim.Claim.states`; they are found here."""
        matrix, step = node.numbers["W"], float(node.numbers.get("step", 1.0))
        sigma, state = SIGMA[node.sigma], np.zeros_like(offsets)
        if "step" in node.numbers:  # Peaceman–Rachford
            inverse = np.linalg.inv((1.0 + step) * np.eye(len(matrix)) - step * matrix).T
            for _ in range(_STEPS):
                mirrored = 2.0 * sigma(state) - state
                state = 2.0 * (mirrored + step * offsets) @ inverse - mirrored
            state = sigma(state)
        else:
            for _ in range(_STEPS):
                state = sigma(state @ matrix.T + offsets)
        self.tensors[f"{node.place}/states"] = state
        return super().states(node, offsets)


def claimed(certificate: Certificate, path: Path) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """What a certificate claims of a deployed file, with its evidence; None where the file holds another network.

    Args:
        certificate: of a network in float32.
        path: of the ONNX file.

    Raises:
        CertificateError: nothing proves a constant of it.
        Refuted: the file is none of `wellposed.export`.
        InputError: the file cannot be read.
    """
    data = content_of("model_path", path)
    digest = hashlib.sha256(data).hexdigest()
    nodes = read(path, digest)
    written, found = deployed_with_evidence(certificate.network, float(nodes[-1].numbers["tolerance"]))
    if written.SerializeToString(deterministic=True) != data:
        return None
    return _claimed(certificate, nodes, found, digest)


def _claimed(
    certificate: Certificate, nodes: list[Node], found: dict[str, Tensor], digest: str
) -> tuple[dict[str, Any], dict[str, Array]]:
    """A claim with its evidence."""
    tensors = {name: part.numpy() for name, part in found.items()}
    metrics = {name: tensors.pop(name) for name in list(tensors) if name.endswith("/metric")}
    if certificate.norm != "2":
        tensors = {name: part for name, part in tensors.items() if not name.endswith("/scale")}
        rows = _from_input(nodes, certificate.tail, certificate.norm)
        tensors.update(rows)
        theorems = _provable(nodes, certificate.norm, [["entrywise"], *([["metric"]] if rows else [])], tensors)
    else:
        maps = linear_maps(nodes)
        for end, last, segment in _segments(nodes, maps, _Draft(certificate.norm, [], tensors)):
            if not isinstance(segment, Segment):
                tensors.update(image_metrics(end, segment, certificate.tail if last else None))
                continue
            metrics.setdefault(f"{end.place}/metric", tensors[f"{segment.layer}/sensitivity"])
            tensors.update(_metrics(end, segment, certificate.tail, metrics, last))
        theorems = ["product", *(["metric"] if any(name.endswith("/values") for name in tensors) else [])]
    draft = _Draft(certificate.norm, theorems, tensors)
    whole, pairs = constants_of(nodes, draft)
    claim = {
        "model_sha256": digest, "norm": certificate.norm, "lipschitz": whole * REPRODUCIBLE,
        "pairs": None if pairs is None else (pairs * REPRODUCIBLE).tolist(), "theorems": theorems, "lower_bound": None,
    }  # fmt: skip
    claim["lower_bound"] = _lower_bound(certificate, nodes, draft)
    return claim, {name: part for name, part in tensors.items() if name in draft.used}


def _lower_bound(certificate: Certificate, nodes: list[Node], draft: _Draft) -> float | None:
    """What the two inputs of a certificate prove; None where they cannot be followed through the network."""
    if certificate.witness is None or certificate.lower_bound is None:
        return None
    points = torch.stack(certificate.witness).double().flatten(1).cpu().numpy()
    draft.tensors["witness/points"] = points
    try:
        found = lower_bound(nodes, draft) * (1.0 - 1e-9)
    except Refuted:
        draft.used -= {name for name in draft.used if name.startswith("witness/") or name.endswith("/states")}
        return None
    return max(min(found, certificate.lower_bound), 0.0)


def _provable(nodes: list[Node], norm: str, each: list[list[str]], tensors: dict[str, Array]) -> list[str]:
    """The theorems that prove something by themselves."""
    found, reasons = list[str](), list[str]()
    for theorems in each:
        try:
            constants_of(nodes, _Draft(norm, theorems, tensors))
            found += theorems
        except Refuted as error:
            reasons.append(str(error))
    if not found:
        raise CertificateError("; ".join(reasons))
    return found


def _from_input(nodes: list[Node], tail: TailBound | None, norm: str) -> dict[str, Array]:
    """The metrics of a certificate in ℓ∞ or ℓ1, with their constants; none where it has none."""
    if tail is None or (norm == "inf") != (tail.shares is not None):
        return {}
    place = nodes[-1].sources[0]
    values = [
        tail.value,
        *(() if tail.pairs is None else (float(tail.pairs[i, j]) for i, j in margins(len(tail.pairs)))),
    ]
    found = {f"{place}/values": np.array(values) * REPRODUCIBLE, f"{place}/multipliers": tail.multipliers.numpy()}
    return found if tail.shares is None else {**found, f"{place}/shares": tail.shares.numpy()}


def _segments(nodes: list[Node], maps: list[Linear], draft: Claim) -> Iterator[tuple[Node, bool, Any]]:
    """For every equilibrium in a diagonal metric the last edge up to which there are only linear maps.

    Beside it, whether that edge is the last one of the network behind a map.
    """
    ends: dict[int, tuple[Node, Any]] = {}
    for node in nodes[:-1]:
        try:
            segment = segment_of(nodes, maps, node, draft)
        except Refuted:
            continue
        known = node.place == segment.layer or maps[node.place].matrix.ndim == 2 or segment.direct is not None
        if known:
            ends[segment.layer] = node, segment
    for end, segment in ends.values():
        yield end, end.place == nodes[-1].sources[0] and end.place != segment.layer, segment


def _metrics(
    end: Node, segment: Segment, tail: TailBound | None, metrics: dict[str, Array], last: bool
) -> dict[str, Array]:
    """Constants of a segment with the metrics that prove them; none where none was found."""
    if segment.direct is not None:
        margins_of = len(margins(len(segment.seen))) if last else 0
        known = metric_with_feedthrough(segment, metrics[f"{end.place}/metric"])
        rows = [] if known is None else [known, *[(known[0] * math.sqrt(2.0) * REPRODUCIBLE, known[1])] * margins_of]
    else:
        rows = _searched(segment, metrics[f"{end.place}/metric"], tail if last else None, last)
    if not rows:
        return {}
    return {
        f"{end.place}/values": np.array([value for value, _ in rows]),
        f"{end.place}/multipliers": np.stack([row for _, row in rows]),
    }


def _searched(segment: Segment, metric: Array, tail: TailBound | None, last: bool) -> list[tuple[float, Array]]:
    """Constants and metrics of all outputs, and at the end of a network of every margin."""
    matrix, driven, seen = (
        torch.from_numpy(np.array(part)) for part in (segment.matrix, segment.driving, segment.seen)
    )
    several = last and len(seen) > 1
    places: list[slice | tuple[int, int]] = [slice(None), *(margins(len(seen)) if several else ())]
    known = of_tail(tail, len(places), len(matrix))
    problem, rows, start = None, list[tuple[float, Array]](), torch.from_numpy(metric)
    deadline = time.monotonic() + SECONDS
    for index, place in enumerate(places):
        if known is not None and segment.proves(place, known[index][1], known[index][0]):
            rows.append(known[index])
            continue
        if problem is None:
            problem = DenseMetricProblem(matrix, driven, start, roundings=8)
        row = seen if isinstance(place, slice) else (seen[place[0]] - seen[place[1]])[None]
        found = None if index > 0 and time.monotonic() > deadline else problem.bound(row, start)
        value = math.inf if found is None else found.value * REPRODUCIBLE
        if found is None or not segment.proves(place, found.multipliers.numpy(), value):
            if index == 0:
                return []
            rows.append((math.sqrt(2.0) * rows[0][0] * REPRODUCIBLE, rows[0][1]))
        else:
            start = found.multipliers
            rows.append((value, start.numpy()))
    return rows


def write(place: Path, claim: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Write a claim and its evidence, with their digests.

    Args:
        place: of the claim.
        claim: the claim, without digests of files.
        tensors: the evidence.

    Raises:
        OSError: a file cannot be written.
    """
    beside = place.with_suffix(".safetensors")
    data = safetensors.numpy.save({name: np.ascontiguousarray(part, np.float64) for name, part in tensors.items()})
    named = {"file": beside.name, "sha256": hashlib.sha256(data).hexdigest()}
    with written_whole(beside) as evidence, written_whole(place) as text:
        evidence.write_bytes(data)
        text.write_bytes(sealed({**claim, "evidence": named}).encode())
