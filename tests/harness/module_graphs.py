"""A judge of what is certified of modules with forwards of their own."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

import wellposed as wp
from harness.changed_models import REFUSALS
from wellposed import testing
from wellposed.falsification.module_graphs import UserModule
from wellposed.falsification.slopes import sampled_slopes


@dataclass
class Count:
    """What became of many modules.

    Attributes:
        outcomes: how many were certified, refused, or made another error.
        unusual: of the modules that were certified, how many have each unusual construct.
        faults: what is wrong, by seed.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    unusual: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def certified(self) -> float:
        """The share that was certified."""
        return self.outcomes["certified"] / max(self.outcomes.total(), 1)


def count(modules: Iterable[tuple[int, UserModule]]) -> Count:
    found = Count()
    for seed, written in modules:
        outcome, fault = judge(written)
        found.outcomes[outcome] += 1
        if outcome == "certified":
            found.unusual.update(written.unusual)
        if fault:
            found.faults[seed] = f"{', '.join(written.unusual) or 'plain'}: {fault}"
    return found


def judge(written: UserModule) -> tuple[str, str | None]:
    """Whether a module is certified, and what is wrong with that, if anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            claimed = wp.certify(written.module).lipschitz
        except REFUSALS:
            return "refused", None
        except Exception as error:
            return "error", f"certify: {type(error).__name__}: {error}"
        return "certified", exceeded(written, claimed)


def exceeded(written: UserModule, claimed: float) -> str | None:
    """How the module contradicts a constant, with and without gradients, or None."""
    points = written.points(6, testing.generator(1))

    def with_gradients(rows):
        with torch.enable_grad():
            return written.module(rows)

    for run in (written.module, with_gradients):
        try:
            seen = sampled_slopes(run, points, random_pairs=16)
        except Exception:  # a module that does not run on such inputs computes nothing false
            continue
        if not seen.largest <= claimed * (1.0 + 1e-6):
            return f"certified {claimed:.6g}, slope {seen.largest:.6g}"
        if not seen.steady:
            return f"certified {claimed:.6g}, but the same input has two outputs"
    return None
