"""Metrics of deployed equilibria of images, with the constants of their segments that these prove."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wellposed.bounds.input_gram import constant_gram
from wellposed.bounds.tail_bound import TailBound
from wellposed.checker import Refuted
from wellposed.checker.bounded import BoundedSegment
from wellposed.checker.maps import margins
from wellposed.checker.node import Node
from wellposed.checker.pooled import PooledSegment
from wellposed.numerics.outward import REPRODUCIBLE

Array = NDArray[Any]
_SLACKS = tuple(10.0**power for power in range(-9, 0))  # by which a bound is enlarged until it is proved


def constant_gram_of(kernel: Array, image: tuple[int, ...], strides: tuple[int, int]) -> Array:
    """A matrix above those of UUᵀ at every frequency, U a convolution, see `wellposed.bounds.input_gram.constant_gram`."""
    if strides[0] != strides[1]:
        raise Refuted("metric", "no such matrix is known of a convolution with two strides")
    found, _ = constant_gram(torch.from_numpy(kernel), (image[0], image[1]), strides[0])
    return found[0].real.numpy()


def image_metrics(end: Node, segment: PooledSegment | BoundedSegment, tail: TailBound | None) -> dict[str, Array]:
    """Constants of a segment with the metrics that prove them; none where none are known.

    Args:
        end: the node that the segment's last edge leaves.
        segment: of images.
        tail: what a certificate says of the end of the network, if the segment is that.
    """
    rows = _bounded(segment) if isinstance(segment, BoundedSegment) else _pooled(segment, tail)
    if not rows:
        return {}
    return {
        f"{end.place}/values": np.array([value for value, _ in rows]),
        f"{end.place}/multipliers": np.stack([row for _, row in rows]),
    }


def _pooled(segment: PooledSegment, tail: TailBound | None) -> list[tuple[float, Array]]:
    """The metrics of a certificate, as far as they are about the segment and prove what they should."""
    count = len(segment.seen)
    places: list[slice | tuple[int, int]] = [slice(None), *(margins(count) if count > 1 else ())]
    known = of_tail(tail, len(places), segment.multipliers)
    if known is None or not segment.proves(places[0], known[0][1], known[0][0]):
        return []
    rows = [known[0]]
    for place, (value, metric) in zip(places[1:], known[1:], strict=True):
        good = segment.proves(place, metric, value)
        rows.append((value if good else math.sqrt(2.0) * rows[0][0] * REPRODUCIBLE, metric))
    return rows


def _bounded(segment: BoundedSegment) -> list[tuple[float, Array]]:
    """The least bound γ = √(qτ/2) with 2τ(C + Cᴴ)/2 above ŨŨᴴ, and its multiple of the metric."""
    values, vectors = np.linalg.eigh(segment.core)
    if not values.min() > 0.0:
        return []
    root = vectors / np.sqrt(values)[..., None, :]
    ratio = float(np.linalg.eigvalsh(root.conj().swapaxes(2, 3) @ segment.squares @ root)[..., -1].max())
    for slack in _SLACKS:
        value = math.sqrt(0.5 * segment.square * ratio) * (1.0 + slack)
        metric = np.array([0.5 * segment.square / value * (1.0 + 0.5 * slack)])
        if segment.proves(slice(None), metric, value):
            return [(value, metric)]
    return []


def of_tail(tail: TailBound | None, rows: int, states: int) -> list[tuple[float, Array]] | None:
    """What a certificate's metrics prove, enlarged for the checker's rounding; None where they are about something else."""
    if tail is None or tail.multipliers.shape != (rows, states) or tail.shares is not None:
        return None
    values = [tail.value]
    if rows > 1:
        if tail.pairs is None:
            return None
        values += [float(tail.pairs[i, j]) for i, j in margins(len(tail.pairs))]
    return [(value * REPRODUCIBLE, row.numpy()) for value, row in zip(values, tail.multipliers, strict=True)]
