"""A campaign that tries to break every certificate: random, degenerate and extreme networks, pairs guided by gradients.

A trial is one network with one pair of inputs (or one input with one point of its certified region), judged in float64 with the
errors of that judgement counted. A certificate that is refused makes no trials; one that is violated once is wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from wellposed.errors import CertificateError
from wellposed.falsification.constant_trials import CONSTANTS, NORMS, Tamper, constants, graph_trial, image_trial
from wellposed.falsification.module_trials import changed_model_trial, user_module_trial
from wellposed.falsification.region_trials import radius_trial, region_trial, solve_trial
from wellposed.falsification.subjects import subjects
from wellposed.falsification.tally import Tally as Tally

_OWN: dict[str, Callable[[Tally, torch.Generator, Tamper], None]] = {  # methods with networks of their own
    "images": image_trial,
    "graphs": graph_trial,
    "changed models": lambda tally, generator, tamper: changed_model_trial(tally, generator),
    "random user modules": lambda tally, generator, tamper: user_module_trial(tally, generator),
}
METHODS = (*CONSTANTS, "radius", "error", "ball", "box", *_OWN)
_MOST_REFUSED = 2000  # models, before one is certified


@dataclass(frozen=True)
class Campaign:
    """The tallies by method."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in METHODS})

    @property
    def violations(self) -> int:
        """Of all methods."""
        return sum(tally.violations for tally in self.tallies.values())


def campaign(
    trials: int,
    *,
    seed: int = 0,
    done: Callable[[int], None] = lambda _: None,
    methods: tuple[str, ...] = METHODS,
    tamper: Tamper = lambda certificate: certificate,
) -> Campaign:
    """Try to break every method, with at least so many trials each.

    Args:
        trials: per method.
        seed: of everything.
        done: called with the smallest number of trials that a method has had.
        methods: some of `METHODS`.
        tamper: applied to every certificate: a fault for the campaign to find.
    """
    found = Campaign()
    tallies, generator = found.tallies, torch.Generator().manual_seed(seed)
    of_own = {name: torch.Generator().manual_seed(seed + place) for place, name in enumerate(_OWN, 1)}
    for subject in subjects(generator):
        missing = {name for name in methods if tallies[name].trials < trials}
        done(min(tallies[name].trials for name in methods))
        if not missing:
            return found
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not missing.isdisjoint(CONSTANTS):
                constants(subject, tallies, generator, tamper, [name for name in NORMS if name in missing])
            if "radius" in missing:
                radius_trial(subject, tallies["radius"], generator, tamper)
            if "error" in missing:
                solve_trial(subject, tallies["error"], generator)
            for name, norm in (("ball", "2"), ("box", "inf")):
                if name in missing:
                    region_trial(subject, tallies[name], norm, generator)
            for name, trial in _OWN.items():
                if name in missing:
                    trial(tallies[name], of_own[name], tamper)
                    _check_progress(name, tallies[name])
    raise AssertionError  # subjects never end


def _check_progress(name: str, tally: Tally) -> None:
    """Refuse to go on for ever with a method that certifies nothing."""
    if not tally.trials and tally.refused >= _MOST_REFUSED:
        raise CertificateError(f"{name}: all of {tally.refused} models were refused; there is nothing to judge")


def as_text(found: Campaign) -> str:
    """The tallies as aligned text."""
    width = max(map(len, found.tallies))
    lines = [f"{'method':>{width}} {'trials':>9} {'violations':>11} {'not certified':>14} {'closest':>9}"]
    for name, tally in found.tallies.items():
        closest = f"{tally.closest:9.6f}" if tally.closest else f"{'–':>9}"
        lines.append(f"{name:>{width}} {tally.trials:9d} {tally.violations:11d} {tally.refused:14d} {closest}")
    return "\n".join(lines)
