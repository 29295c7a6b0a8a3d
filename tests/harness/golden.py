"""What certificates, verdicts and bounds came to, as one flat dictionary that later code is compared with.

``PYTHONPATH=src:tests python -m harness.golden --write`` measures the code as it is and stores it in the file
``tests/golden/certificates.json``; without ``--write`` it prints how far the code is from what is stored. Store only values that
are known to be right: a stored upper bound must never grow and a stored radius never shrink.

Keys end in what their values are: ``upper`` values may only fall, ``lower`` values may only grow, ``outcomes`` may only become
more decided, and ``labels`` stay.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wellposed as wp
from harness.golden_models import NAMES, SEARCHED, fill, inputs_of, model_of
from wellposed.lower_bounds.graph_witness import graph_slope
from wellposed.verification import IntervalVerifier, PositiveVerifier, RegionVerifier, verifier_of

FILE = Path(__file__).parents[1] / "golden" / "certificates.json"
TOLERANCE = 1e-9  # relative
SEARCH_TOLERANCE = 1e-6  # of lower bounds, which a random search found
FLOAT32_TOLERANCE = 1e-6  # of radii from logits in float32, whose rounding follows the instruction set
LARGEST_LOOSENING = 1e-6
KINDS: dict[str, tuple[int | str, str | None]] = {
    "2, product": (2, "product"),
    "2, metric": (2, "metric"),
    "inf": ("inf", None),
    "1": ("1", None),
}
VERIFIED: dict[str, tuple[Callable[[nn.Module], RegionVerifier], str, tuple[float, ...]]] = {
    "ladder": (wp.Verifier, "mondeq/float64", (0.013, 0.07, 0.31)),
    "ladder of large units": (wp.Verifier, "mondeq of forty units/float32", (0.013, 0.31)),
    "ladder in a metric": (wp.Verifier, "lben/float64", (0.013, 0.07, 0.31)),
    "embedding": (IntervalVerifier, "nemon/float64", (0.07, 0.31)),
    "embedding of convolutions": (IntervalVerifier, "conv nemon of grey images/float32", (0.31, 3.0)),
    "hull": (PositiveVerifier, "pcdeq/float64", (0.07, 3.0)),
    "chain": (verifier_of, "two equilibria/float64", (0.07, 0.31)),
    "strongest for images": (verifier_of, "conv mondeq/float32", (0.07, 0.31)),
}
_DECIDED = ("certified", "falsified", "misclassified", "refuted")

Values = dict[str, list[Any]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of several threads are in another order, and searches that stop on them end elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def of_model(name: str, labels: list[int] | None = None) -> Values:
    """Every certificate of a model that can be had.

    Args:
        name: of `NAMES`.
        labels: classes of the inputs; None for those that the model predicts.
    """
    model, x = model_of(name), inputs_of(name)
    if labels is None:
        with torch.no_grad():
            labels = model(x).argmax(1).tolist()
    found: Values = {f"{name}/labels": labels}
    for kind, (norm, method) in KINDS.items():
        if norm == "1" and name.endswith("float32"):
            continue  # as in float64, but for the rounding that "inf" has too
        try:
            certificate = wp.certify(model, norm=norm, method=method)
        except wp.CertificateError:
            continue
        found[f"{name}/{kind}/lipschitz/upper"] = [certificate.lipschitz]
        if certificate.pairs is not None:
            found[f"{name}/{kind}/pairs/upper"] = certificate.pairs.flatten().tolist()
        found[f"{name}/{kind}/radii/lower"] = certificate.evaluate(x, torch.tensor(labels)).tolist()
        if name in SEARCHED and kind != "2, product":
            steepest = wp.witness(model, x, norm=str(certificate.norm), rounds=4)
            found[f"{name}/{kind}/slope/lower"] = [steepest.lipschitz]
    if name in SEARCHED:
        whole = wp.certify(model, inputs=x)
        found[f"{name}/2/lipschitz/upper"] = [whole.lipschitz]
        found[f"{name}/2/slope/lower"] = [whole.lower_bound]
    return found


def of_verifier(name: str, labels: list[int]) -> Values:
    """Verdicts on three inputs after every step of a verifier."""
    build, of, radii = VERIFIED[name]
    verifier, x = build(model_of(of)), inputs_of(of)[:3]
    found: Values = {}
    for norm in (2, "inf"):
        for radius in radii:
            for step in verifier.steps:
                verdicts = verifier.verify_batch(x, labels[:3], radius, norm=norm, method=step, seconds=600.0)
                key = f"{name}/{norm}, radius {radius}, up to {step}/outcomes"
                found[key] = [verdict.status for verdict in verdicts]
    return found


def of_bounds() -> Values:
    """Well-posedness, perturbation bounds, PAC-Bayes bounds and slopes of graph classifiers."""
    found: Values = {}
    for name, factor in (("small", 0.5), ("medium", 1.0), ("large", 3.0)):
        layer = wp.DEQ(4, 6, activation="relu", dtype=torch.float64)
        fill(layer, name)
        with torch.no_grad():
            layer.constraint.W.mul_(factor)
        found[f"well-posedness of {name} weights/outcomes"] = [wp.well_posedness(layer).outcome]
    for dtype in (torch.float32, torch.float64):
        layers = [wp.MonDEQ(8, 6, dtype=dtype), wp.MonDEQ(8, 6, dtype=dtype)]
        for layer, name in zip(layers, ("perturbed", "unperturbed"), strict=True):
            fill(layer, name)
        x = inputs_of("mondeq by itself/float64").to(dtype)
        found[f"perturbation in {dtype}/upper"] = wp.perturbation_bound(*layers, x).tolist()
    model, x = model_of("mondeq/float64"), inputs_of("mondeq/float64")
    with torch.no_grad():
        logits = model(x).repeat(4, 1)
    for version in ("published", "repaired", "tightened"):
        bound = wp.pac_bayes(model, logits, logits.argmax(1), radius=4.0, gamma=0.05, version=version)
        found[f"PAC-Bayes, {version}/upper"] = [bound.value, bound.complexity, bound.beta, bound.squared_frobenius]
    name = "lipschitz graphs/float64"
    found[f"{name}/slope/lower"] = [graph_slope(model_of(name), inputs_of(name), rounds=4)]
    return found


def measure(stored: Values | None = None) -> Values:
    """All values of the code as it is, with the labels that are stored, if any are."""
    known = {} if stored is None else stored
    found: Values = {}
    with one_thread():
        for name in NAMES:
            found |= of_model(name, known.get(f"{name}/labels"))
        for name, (_, of, _) in VERIFIED.items():
            found |= of_verifier(name, found[f"{of}/labels"])
        return found | of_bounds()


def read() -> Values:
    """What is stored."""
    return json.loads(FILE.read_text())


def write(values: Values) -> None:
    """Store values, one key a line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(values.items())]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def violations(stored: Values, found: Values, loosened: dict[str, tuple[float, str]]) -> list[str]:
    """What is worse than it was, in words.

    Args:
        stored: the values to hold.
        found: the values to compare; more of them than are stored are welcome.
        loosened: by key, how much more is allowed, relative, and what proof demands it.
    """
    wrong = [f"{key}: loosened, but not stored" for key in loosened if key not in stored]
    for key, (allowed, reason) in loosened.items():
        if not 0.0 < allowed <= LARGEST_LOOSENING or not reason:
            wrong.append(f"{key}: may be loosened by at most {LARGEST_LOOSENING}, for a reason")
    for key, before in stored.items():
        now = found.get(key)
        if now is None or len(now) != len(before):
            wrong.append(f"{key}: missing, or of another shape")
            continue
        tolerance = max(tolerance_of(key), loosened.get(key, (0.0, ""))[0])
        wrong += [
            f"{key}[{place}]: {new!r}, was {old!r}"
            for place, (old, new) in enumerate(zip(before, now, strict=True))
            if not _holds(key.rsplit("/", 1)[-1], old, new, tolerance)
        ]
    return wrong


def tolerance_of(key: str) -> float:
    """How much worse, relatively, a value may be without anything being wrong."""
    if key.endswith("slope/lower"):
        return SEARCH_TOLERANCE
    return FLOAT32_TOLERANCE if "/float32/" in key and key.endswith("radii/lower") else TOLERANCE


def _holds(kind: str, old: Any, new: Any, tolerance: float) -> bool:
    """Whether a value is as good as it was."""
    if kind == "upper":
        return new <= old * (1.0 + tolerance) < math.inf
    if kind == "lower":
        return new >= old * (1.0 - tolerance)
    return new == old or (kind == "outcomes" and old not in _DECIDED and new in _DECIDED)


def distances(stored: Values, found: Values) -> Iterable[tuple[float, str]]:
    """The largest relative difference under each key that has numbers."""
    for key in stored.keys() & found.keys():
        if key.endswith(("upper", "lower")) and len(stored[key]) == len(found[key]):
            pairs = zip(stored[key], found[key], strict=True)
            yield max(abs(new - old) / max(abs(old), 1e-300) for old, new in pairs), key


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the values of the code as it is")
    if parser.parse_args().write:
        write(measure())
        return
    stored = read()
    found = measure(stored)
    for distance, key in sorted(distances(stored, found))[-20:]:
        print(f"{distance:.1e}  {key}")
    print("\n".join(violations(stored, found, {})) or "nothing is worse than it was")


if __name__ == "__main__":
    main()
