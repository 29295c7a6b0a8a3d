"""The claims about a layer with its head: a constant of all outputs, and one of every margin."""

import itertools
import math
from collections.abc import Callable

import numpy as np

from .case import Case
from .proofs import UNIT, Array, Refuted, real


def check_rows(case: Case, head: Array, count: int, proves: Callable[[int, Array, Array, float], bool]) -> None:
    """The claimed constants of a head and its pairs of rows, for which so many rows of multipliers were given."""
    joint, value = case.claim["joint"], real(case.claim["joint"]["value"])
    # Single outputs, or all of them, for which ‖Δy‖₁ ≤ √k‖Δy‖₂.
    wholes = [head[k : k + 1] for k in range(len(head))] if case.norm == "inf" else [head]
    each = value / math.sqrt(len(head)) * (1.0 - 1e-15) if case.norm == "1" else value
    if not all(proves(k, whole, np.abs(whole), each) for k, whole in enumerate(wholes)):
        raise Refuted("joint", f"the constant {value!r} is not proved by its multipliers")
    case.log.append(f"joint: the layer with its head, {value:.9g}")
    if joint["pairs"] is None:
        return
    pairs = np.array(joint["pairs"], dtype=np.float64)
    places = list(itertools.combinations(range(len(head)), 2))
    if pairs.shape != (len(head), len(head)) or count != len(wholes) + len(places):
        raise Refuted("joint", f"pairs of shape {pairs.shape}, {count} rows of multipliers, {len(head)} outputs")
    for row, (i, j) in enumerate(places, len(wholes)):
        claimed, size = min(pairs[i, j], pairs[j, i]), (np.abs(head[i]) + np.abs(head[j]))[None]
        follows = (2.0 * value if case.norm == "inf" else math.sqrt(2.0) * each) * (1.0 + 4.0 * UNIT)
        if not claimed >= follows and not proves(row, (head[i] - head[j])[None], size, claimed):
            raise Refuted("joint", f"the constant {claimed!r} of the margin of {i} and {j} is not proved")
    case.log.append(f"joint: {len(places)} class margins, each by its own inequality")
