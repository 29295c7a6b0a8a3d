"""Branch and bound on the signs of pre-activations: complete, as the relaxation is exact where no unit is uncertain."""

from __future__ import annotations

import heapq
import itertools
import time

from torch import Tensor

from wellposed.verification.bounding import Bounding, Outcome
from wellposed.verification.question import Target


def branch(bounding: Bounding, target: Target, known: Outcome | None, deadline: float) -> tuple[str, Tensor | None]:
    """Split a region, the part with the worst bound first, until every part is proved or one has a counterexample.

    Args:
        bounding: the relaxation.
        target: the class that must not win.
        known: what the relaxation says of it on the whole region; None to find out.
        deadline: by `time.monotonic`, after which to give up.

    Returns:
        ``"certified"``, ``"falsified"`` or ``"unknown"``, and the counterexample.
    """
    order = itertools.count()
    waiting: list[tuple[float, int, Outcome, dict[int, int]]] = []
    parts: list[dict[int, int]] = [{}]
    outcomes = [] if known is None else [known]
    while True:
        if not outcomes:
            if time.monotonic() > deadline:
                return "unknown", None
            outcomes = bounding.bound([(target, part) for part in parts])
        for outcome, decisions in zip(outcomes, parts, strict=True):
            if outcome.counterexample is not None:
                return "falsified", outcome.counterexample
            if not outcome.proved:
                heapq.heappush(waiting, (outcome.bound, next(order), outcome, decisions))
        if not waiting:
            return "certified", None
        _, _, worst, decisions = heapq.heappop(waiting)
        if worst.split is None:  # the least margin is zero, up to rounding
            return "unknown", None
        parts, outcomes = [{**decisions, worst.split: sign} for sign in (1, -1)], []
