"""A campaign against the checker of deployed files: honest files are changed at random, and what is accepted is judged.

A forger recomputes digests, may look for new evidence of the changed numbers, and claims as little as the checker proves.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator

from wellposed.falsification.deployed.claims import CLAIMS
from wellposed.falsification.deployed.files import Files, Impossible, accepted, proved
from wellposed.falsification.deployed.graph import GRAPH
from wellposed.falsification.deployed.honest import sensitivities
from wellposed.falsification.deployed.judge import Judge
from wellposed.falsification.deployed.numbers import NUMBERS, put
from wellposed.falsification.deployed.subjects import SUBJECTS

CHANGES: dict[str, Callable[[Generator, Files], None]] = {**NUMBERS, **GRAPH, **CLAIMS}
_ATTEMPTS = 20  # to find a place for a change


@dataclass
class Outcome:
    """What became of one changed file.

    Attributes:
        kind: of the first change.
        subject: the network, and the norm of its certificate.
        trial: its number, which is the seed.
        what: ``"refused"``, ``"sound"`` or ``"fault"``.
        reasons: why it is a fault.
        own: whether the file holds other numbers or another graph.
    """

    kind: str
    subject: str
    trial: int
    what: str
    reasons: list[str] = field(default_factory=list)
    own: bool = False


def campaign(
    trials: int,
    *,
    seed: int = 0,
    subjects: tuple[str, ...] = tuple(SUBJECTS),
    kinds: tuple[str, ...] = tuple(CHANGES),
    done: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """Change honest files so many times in all, every kind as often, and judge what is accepted.

    Args:
        trials: changed files.
        seed: of everything.
        subjects: some of `SUBJECTS`.
        kinds: of changes, some of `CHANGES`.
        done: called with the number of trials that are over.
    """
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cases = [(name, norm) for name in subjects for norm in SUBJECTS[name].norms]
        honest = {case: SUBJECTS[case[0]].files(case[1], folder) for case in cases}
        judges = {case: Judge(files) for case, files in honest.items()}
        for trial in range(trials):
            case = cases[trial // len(kinds) % len(cases)]
            rng = np.random.default_rng([seed, trial])
            kind, files = changed(rng, kinds[trial % len(kinds)], honest[case])
            found.append(Outcome(kind, " ".join(case), trial, *_judged(rng, files, judges[case], folder)))
            done(trial + 1)
    return found


def changed(rng: Generator, kind: str, honest: Files) -> tuple[str, Files]:
    """Honest files with a change of a kind, or of another one where they have no place for it, and sometimes with another."""
    for _ in range(_ATTEMPTS):
        files = honest.copy()
        try:
            CHANGES[kind](rng, files)
        except Impossible:
            kind = str(rng.choice(list(NUMBERS)))
            continue
        if rng.random() < 0.25:
            with contextlib.suppress(
                Impossible, ArithmeticError, ValueError, TypeError, KeyError, IndexError
            ):  # of what the first one left
                CHANGES[str(rng.choice(list(CHANGES)))](rng, files)
        return kind, files
    raise AssertionError(kind)


def _judged(rng: Generator, files: Files, judge: Judge, folder: Path) -> tuple[str, list[str], bool]:
    own = files.model_bytes != judge.honest.model_bytes
    files.write(folder)
    if own and rng.random() < 0.4:
        _with_evidence(rng, files, judge, folder)
    if rng.random() < 0.5:
        _claimed(rng, files, folder)
    files.write(folder)
    if not accepted(folder):
        return "refused", [], own
    reasons = judge.faults(files, folder)
    return ("fault" if reasons else "sound"), reasons, own


def _with_evidence(rng: Generator, files: Files, judge: Judge, folder: Path) -> None:
    """New evidence of the numbers that files hold, mostly with new sensitivities; the claim is the old one."""
    try:
        nodes = files.nodes(folder)
        if rng.random() < 0.8:
            values, _ = sensitivities(nodes)
            for place, value in values.items():
                name = files.model.graph.node[place].input[2 + list(nodes[place].numbers).index("sensitivity")]
                tensor = next(part for part in files.model.graph.initializer if part.name == name)
                put(tensor, np.array(value * rng.choice([1.0, 1.0, 1.0 - 1e-6, 0.9])))
            files.write(folder)
        claim, tensors = judge.proof(files, folder)
    except Exception:  # of files that are refused whatever is beside them
        return
    files.tensors = dict(tensors)
    files.claim |= {name: claim[name] for name in ("theorems", "lower_bound")}


def _claimed(rng: Generator, files: Files, folder: Path) -> None:
    """A claim of what the evidence proves, or of half of that."""
    files.write(folder)
    known = proved(files, folder)
    if known is None:
        return
    factor = float(rng.choice([1.0, 1.0, 1.0, 1.0 - 1e-12, 0.5]))
    files.claim["lipschitz"] = known[0] * factor
    files.claim["pairs"] = None if known[1] is None else (known[1] * factor).tolist()


def as_text(outcomes: list[Outcome]) -> str:
    """How many files of every kind were refused, accepted and sound, and faults."""
    counts = Counter((outcome.kind, outcome.what) for outcome in outcomes)
    width = max(map(len, CHANGES))
    lines = [f"{'change':<{width}} {'refused':>9} {'sound':>9} {'faults':>9}"]
    for kind in [*CHANGES, "all"]:
        row = [
            sum(count for (own, name), count in counts.items() if name == what and kind in (own, "all"))
            for what in ("refused", "sound", "fault")
        ]
        lines.append(f"{kind:<{width}} " + " ".join(f"{count:>9}" for count in row))
    changed_files = sum(outcome.own and outcome.what != "refused" for outcome in outcomes)
    lines.append(f"{changed_files} of those that were accepted have another model than the honest file")
    lines += [
        f"FAULT {part.subject}, trial {part.trial}, {part.kind}: {'; '.join(part.reasons)}"
        for part in outcomes
        if part.reasons
    ]
    return "\n".join(lines)
