"""Trials of the campaign about what a model is: changed after it was certified, or with a forward of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

import torch
from torch import Tensor, nn

from wellposed.certificates import Certificate, certify
from wellposed.errors import WellposedError
from wellposed.falsification.change import Change
from wellposed.falsification.changes import changes
from wellposed.falsification.known_models import KnownModel, known_models
from wellposed.falsification.module_graphs import UserModule, user_module
from wellposed.falsification.slopes import Slopes, sampled_slopes
from wellposed.falsification.subject import drawing
from wellposed.falsification.tally import Tally

_PAIRS = 500  # random ones of every model
_POINTS = 40
_OF_SOLVES = 1e-7  # relative: what the errors of solves, which are not bounded here, may add to a slope
_VIOLATION = torch.ones(1, dtype=torch.float64, device="cpu")  # an error that is no refusal


def changed_model_trial(
    tally: Tally, generator: torch.Generator, certifying: Callable[[nn.Module], Certificate] = certify,
    kinds: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Certify a known model, change it, and judge both: what is then certified, and the radii that were before.

    Args:
        tally: of the method.
        generator: of all choices.
        certifying: what is judged.
        kinds: of changes; all of them if there are none.
    """
    draw = drawing(generator)
    known = _models()[draw(len(_models()))]
    found = [change for change in _changes(known.name) if not kinds or change.kind in kinds]
    change, model = found[draw(len(found))], known.make()
    points = known.points(_POINTS, generator)
    try:
        earlier = certify(model, method="product")
        labels = model(known.data(points)).detach().argmax(1)
        radii = earlier.evaluate(known.data(points), labels)
    except WellposedError:
        tally.refused += 1
        return
    with ExitStack() as stack:
        try:
            change.apply(model, stack)
        except Exception:  # torch knows changes that cannot be made
            return
        _judge_claim(
            tally, lambda: certifying(model).lipschitz,
            lambda: sampled_slopes(lambda rows: model(known.data(rows)), points, random_pairs=_PAIRS, noise=change.noise),
        )  # fmt: skip
    _judge_radii(tally, earlier, known, points, labels, radii)


def _judge_radii(
    tally: Tally, earlier: Certificate, known: KnownModel, points: Tensor, labels: Tensor, radii: Tensor
) -> None:
    """The radii of the certificate from before the change, which is about the network of then."""
    try:
        again = earlier.evaluate(known.data(points), labels)
    except Exception:  # what became of the model is no matter of this certificate
        tally.judge(_VIOLATION, 0.0)
        return
    tally.judge((again.double() - radii.double()).clamp_min(0.0), 1e-9 * (1.0 + radii.double()))


def user_module_trial(
    tally: Tally,
    generator: torch.Generator,
    constant: Callable[[UserModule], float] | None = None,
    plain: bool | None = None,
) -> None:
    """Certify a random module with a forward of its own, and judge its constant.

    Args:
        tally: of the method.
        generator: of all choices.
        constant: what is judged; None for `certify`.
        plain: see `user_module`.
    """
    written = user_module(drawing(generator)(2**31 - 1), plain=plain)
    _judge_claim(
        tally, lambda: certify(written.module).lipschitz if constant is None else constant(written),
        lambda: sampled_slopes(written.module, written.points(_POINTS, generator), random_pairs=_PAIRS),
    )  # fmt: skip


def _judge_claim(tally: Tally, claim: Callable[[], float], see: Callable[[], Slopes]) -> None:
    """What is certified of a module, against its slopes; a certificate may be refused, and nothing else may go wrong."""
    try:
        claimed = claim()
    except (WellposedError, NotImplementedError):
        tally.refused += 1
        return
    except Exception:
        tally.judge(_VIOLATION, 0.0)
        return
    try:
        seen = see()
    except Exception:  # what does not run computes nothing false
        return
    tally.judge(seen.observed, claimed * (1.0 + _OF_SOLVES))
    tally.judge(torch.tensor([0.0 if seen.steady else 1.0], dtype=torch.float64, device="cpu"), 0.0)


@cache
def _models() -> tuple[KnownModel, ...]:
    return known_models()


@cache
def _changes(name: str) -> tuple[Change, ...]:
    (known,) = (model for model in _models() if model.name == name)
    return tuple(changes(known.make()))
