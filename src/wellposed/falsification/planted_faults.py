"""Faults that were really made, or that would be fatal, each planted and looked for by the campaign, the checker or a refusal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from wellposed.falsification import claimed_faults as claimed
from wellposed.falsification import computed_faults as computed

FAULTS: dict[str, Callable[[], tuple[bool, str]]] = {
    "a Lipschitz constant × 0.99": lambda: claimed.by_campaign("metric", claimed.low),
    "constants of a convolutional network × 0.99": lambda: claimed.by_campaign("images", claimed.low, 40_000),
    "constants of class margins × 0.99": lambda: claimed.by_campaign("pairs", claimed.low, 60_000),
    "rows of the class margins swapped": lambda: claimed.by_campaign("pairs", claimed.swapped),
    "a wrong metric Λ": lambda: claimed.checked(claimed.wrong_metric),
    "rows of W swapped in a deployed file": lambda: claimed.checked(claimed.swapped_rows),
    "one flipped bit of a deployed file": lambda: claimed.checked(claimed.flipped_bit, sealed=False),
    "κ after the solve": computed.kappa_after_the_solve,
    "NEMON's missing k²": computed.missing_taps,
    "a solver's residual left out": computed.residual_left_out,
    "tiny weights that underflow": computed.tiny_weights,
    "a broken normalisation": claimed.broken_normalisation,
    "a gate that believes isinstance": claimed.believing_gate,
    "a tracer that ignores a branch": lambda: claimed.blind_tracer(1),
    "a tracer that ignores +=": lambda: claimed.blind_tracer(2),
    "logits of −∞": claimed.infinite_logits,
    "power iteration": computed.power_iteration,
    "a rounding search at the radius": computed.rounding_search,
    "running statistics that see the bound's samples": computed.leaking_statistics,
}


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes:
        fault: what was planted.
        caught: whether it was noticed.
        by: what noticed it, and what it said.
    """

    fault: str
    caught: bool
    by: str


def planted_faults() -> list[Outcome]:
    """Plant every fault, one after the other."""
    found = []
    for name, plant in FAULTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            caught, by = plant()
        found.append(Outcome(name, caught, by))
    return found


def as_text(outcomes: list[Outcome]) -> str:
    """One line per fault."""
    width = max(len(outcome.fault) for outcome in outcomes)
    return "\n".join(
        f"{outcome.fault:<{width}}  {'caught' if outcome.caught else 'MISSED'}  {outcome.by}" for outcome in outcomes
    )
