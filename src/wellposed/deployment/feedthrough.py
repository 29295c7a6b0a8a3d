"""The metric that proves a constant of an equilibrium with an output map and a direct one, as far as its direction is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wellposed.checker.metric import Segment
from wellposed.constraints.lipschitz_condition import proved_with_feedthrough
from wellposed.errors import WellposedError

_SLACKS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
_SCALES = np.geomspace(1e-4, 1e4, 801)


def metric_with_feedthrough(segment: Segment, metric: NDArray[Any]) -> tuple[float, NDArray[Any]] | None:
    """A constant and multipliers that prove it; None where none were found.

    Args:
        segment: with a direct map.
        metric: multipliers up to a common factor, shape (n,).
    """
    assert segment.direct is not None
    parts = (segment.matrix, segment.driving, segment.seen, metric, segment.direct)
    try:
        known = proved_with_feedthrough(*(torch.from_numpy(np.array(part)) for part in parts))
    except WellposedError:
        return None
    for slack in _SLACKS:
        value = known * (1.0 + slack)
        best = max(_SCALES, key=lambda scale: _least(segment, scale * value * metric, value))
        for scale in (best, *np.geomspace(best / 1.03, best * 1.03, 401)):
            if segment.proves(slice(None), scale * value * metric, value):
                return value, scale * value * metric
    return None


def _least(segment: Segment, metric: NDArray[Any], value: float) -> float:
    """The least eigenvalue of the inequality of `wellposed.checker.dense.metric_proves`, scaled by the metric."""
    assert segment.direct is not None
    half = metric[:, None] * (np.eye(len(metric)) - segment.matrix)
    inner = np.concatenate([metric[:, None] * segment.driving, -segment.direct]) / value
    whole = np.block([[half + half.T, segment.seen.T], [segment.seen, np.eye(len(segment.seen))]]) - inner @ inner.T
    root = np.concatenate([metric**-0.5, np.ones(len(segment.seen))])
    return float(np.linalg.eigvalsh(root[:, None] * whole * root)[0])
