"""What is demanded of certificates when a model is changed, and a judge of it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

import wellposed as wp
from wellposed import testing
from wellposed.falsification.change import Change
from wellposed.falsification.changes import changes
from wellposed.falsification.known_models import KnownModel, known_models
from wellposed.falsification.slopes import sampled_slopes

REFUSALS = (wp.WellposedError, NotImplementedError)


@dataclass
class Verdict:
    """What became of one change.

    Attributes:
        outcome: "refused", "certified", "not applicable" where the change cannot be made, or "failed" for another error.
        effect: whether the model's values changed, or it no longer runs.
        faults: kinds of what is wrong, with details.
    """

    outcome: str = "not applicable"
    effect: bool = False
    faults: dict[str, str] = field(default_factory=dict)


def every_change(share: int | None = None) -> Iterator[tuple[KnownModel, Change]]:
    """All changes of all known models, or so many of each model, drawn the same way every time."""
    for known in known_models():
        found = list(changes(known.make()))
        yield from ((known, change) for change in (found if share is None else chosen(found, share)))


def chosen(found: list[Change], share: int) -> list[Change]:
    """Some changes, of as many kinds as there are."""
    generator = random.Random(len(found))
    kinds: dict[str, list[Change]] = {}
    for change in generator.sample(found, len(found)):
        kinds.setdefault(change.kind, []).append(change)
    ranks = [(place, kind, change) for kind, members in kinds.items() for place, change in enumerate(members)]
    first = generator.sample(ranks, len(ranks))
    return [change for _, _, change in sorted(first, key=lambda entry: entry[0])[:share]]


def judge(known: KnownModel, change: Change) -> Verdict:
    """Certify, change, certify again, and compare what is claimed with what runs."""
    verdict = Verdict()
    model = known.make()
    points = known.points(6, testing.generator(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = run(known, model, points)
        labels = before.argmax(1)
        earlier = wp.certify(model, method="product")
        radii = earlier.evaluate(known.data(points), labels)
        with ExitStack() as stack:
            try:
                change.apply(model, stack)
            except Exception:
                return verdict
            after = attempt(known, model, points)
            verdict.effect = differs(change, before, after)
            judge_claim(known, change, model, points, after, verdict)
            judge_identity(earlier, model, verdict)
            if not change.of_the_library:
                judge_radii(known, earlier, points, labels, radii, verdict)
        if change.of_the_library:
            judge_radii(known, earlier, points, labels, radii, verdict)
    return verdict


def run(known: KnownModel, model: torch.nn.Module, points: Tensor) -> Tensor:
    with torch.no_grad():
        return model(known.data(points)).detach().as_subclass(Tensor)


def attempt(known: KnownModel, model: torch.nn.Module, points: Tensor) -> Tensor | None:
    """The model's outputs, or None where it no longer runs on such inputs, or its solves do not converge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", wp.NotConvergedWarning)
            found = run(known, model, points)
    except Exception:
        return None
    return found if isinstance(found, Tensor) and len(found) == len(points) and found.dtype == torch.float64 else None


def differs(change: Change, before: Tensor, after: Tensor | None) -> bool:
    """Whether a model has other values than before, by more than errors of solves, or has none any more."""
    if after is None:
        return not change.of_the_solve
    if after.shape != before.shape or not bool(torch.isfinite(after).all()):
        return True
    return bool((after - before).abs().max() > change.noise * (1.0 + before.abs().max()))


def judge_claim(known, change, model, points, after, verdict) -> None:
    try:
        claimed = wp.certify(model).lipschitz
        verdict.outcome = "certified"
    except REFUSALS:
        verdict.outcome = "refused"
        return
    except Exception as error:
        verdict.outcome = "failed"
        verdict.faults["certify: another error"] = f"{type(error).__name__}: {error}"
        return
    if after is None:
        return
    try:
        seen = sampled_slopes(lambda rows: model(known.data(rows)), points, noise=change.noise)
    except Exception:  # runs at some inputs only
        return
    if not seen.largest <= claimed * (1.0 + 1e-6):
        verdict.faults["a slope above the claim"] = f"certified {claimed:.6g}, slope {seen.largest:.6g}"
    elif not seen.steady:
        verdict.faults["no map of single inputs"] = f"certified {claimed:.6g}, but the same input has two outputs"


def judge_identity(earlier, model, verdict) -> None:
    if not hasattr(earlier, "is_about"):
        verdict.faults["no is_about"] = "certificates cannot be asked what they are about"
        return
    try:
        same = earlier.is_about(model)
    except Exception as error:
        verdict.faults["is_about: an error"] = f"{type(error).__name__}: {error}"
        return
    if same and verdict.effect:
        verdict.faults["passes for the certified network"] = "is_about says so of a model with other values"


def judge_radii(known, earlier, points, labels, radii, verdict) -> None:
    try:
        again = earlier.evaluate(known.data(points), labels)
    except Exception as error:
        verdict.faults["evaluate: an error"] = f"{type(error).__name__}: {error}"
        return
    if not torch.allclose(again, radii, rtol=1e-9, atol=1e-12):
        verdict.faults["evaluate: other radii"] = f"{float(radii.max()):.6g} became {float(again.max()):.6g}"
