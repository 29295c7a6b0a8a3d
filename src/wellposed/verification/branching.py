"""Branch and bound on the signs of pre-activations: complete, as the relaxation is exact where no unit is uncertain."""

from __future__ import annotations

import heapq
import itertools
import math
import time

from torch import Tensor

from wellposed.verification.bounding import Bounding
from wellposed.verification.question import Target


def branch(bounding: Bounding, target: Target, deadline: float) -> tuple[str, Tensor | None]:
    """Split a region, the part with the worst bound first, until every part is proved or one has a counterexample.

    Args:
        bounding: the relaxation.
        target: the class that must not win.
        deadline: by `time.monotonic`, after which to give up.

    Returns:
        ``"certified"``, ``"falsified"`` or ``"unknown"``, and the counterexample.
    """
    order = itertools.count()
    waiting: list[tuple[float, int, dict[int, int]]] = [(-math.inf, next(order), {})]
    while waiting:
        if time.monotonic() > deadline:
            return "unknown", None
        _, _, decisions = heapq.heappop(waiting)
        outcome = bounding.bound(target, decisions)
        if outcome.counterexample is not None:
            return "falsified", outcome.counterexample
        if outcome.proved:
            continue
        if outcome.split is None:  # the least margin is zero, up to rounding
            return "unknown", None
        for sign in (1, -1):
            heapq.heappush(waiting, (outcome.bound, next(order), {**decisions, outcome.split: sign}))
    return "certified", None
