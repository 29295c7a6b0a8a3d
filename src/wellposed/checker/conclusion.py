"""Whether the claims about the whole chain follow from what was proved of its blocks."""

import math

import numpy as np

from .case import Case, module
from .proofs import Array, Refuted, real

_Constants = tuple[float, Array | None]  # of all outputs, and of class margins


def check_conclusion(case: Case) -> None:
    """The constants that are claimed follow from what was proved."""
    claim, proofs = case.claim, _proofs(case)
    least = min(value for value, _ in proofs)
    if not least <= real(claim["lipschitz"]):
        raise Refuted("lipschitz", f"{claim['lipschitz']!r} is claimed, {least!r} follows")
    case.log.append(f"conclusion: constant at most {claim['lipschitz']:.9g}")
    if claim["pairs"] is None:
        return
    known, pairs = [part for _, part in proofs if part is not None], np.array(claim["pairs"], dtype=np.float64)
    if not known or any(part.shape != pairs.shape for part in known):
        raise Refuted("pairs", "nothing proves class margins, or as many")
    off = ~np.eye(len(pairs), dtype=bool)
    if not (np.minimum.reduce(known)[off] <= pairs[off]).all():
        raise Refuted("pairs", "a constant of a class margin is smaller than what follows")
    case.log.append(f"conclusion: the margins of {len(pairs)} classes")


def _proofs(case: Case) -> list[_Constants]:
    """The constants that follow, by each way that there is."""
    claim, joint, found = case.claim, case.claim["joint"], list[_Constants]()
    if joint is not None:
        factor, own = case.before(joint["place"]), joint["pairs"]
        scaled = None if own is None else np.nextafter(factor * np.array(own, dtype=np.float64), math.inf)
        found.append((math.nextafter(factor * real(joint["value"]), math.inf), scaled))
    elif case.norm == "2":
        found.append(
            (case.before(len(case.blocks)), module("margins").margins(case) if claim["pairs"] is not None else None)
        )
    if case.norm != "2" and claim["components"] is True:
        found.append(module("components").constants(case))
        case.log.append("components: every layer's sensitivity is bounded by vectors")
    if not found:
        raise Refuted("norm", f"nothing proves a constant in the norm {case.norm!r}")
    return found


def check_lower_bound(case: Case) -> None:
    """The lower bound holds, where there is evidence for it."""
    low = case.claim["lower_bound"]
    if low is None:
        return
    if not 0.0 <= real(low) <= real(case.claim["lipschitz"]):
        raise Refuted("witness", f"a lower bound {low!r} above the upper one")
    if "witness/states" not in case.evidence:
        case.unchecked.append(f"the lower bound {low!r}, for which the evidence has no states")
        return
    module("witness").check_witness(case, float(low))
