"""A campaign that tries to break every certificate: random, degenerate and extreme networks, pairs guided by gradients.

A trial is one network with one pair of inputs (or one input with one point of its certified region), judged in float64 with the
errors of that judgement counted. A certificate that is refused makes no trials; one that is violated once is wrong.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wellposed.bounds.affine_network import affine_network
from wellposed.certificates import Certificate, certify
from wellposed.errors import CertificateError, NotConvergedWarning, WellposedError
from wellposed.falsification.module_trials import changed_model_trial, user_module_trial
from wellposed.falsification.subjects import Subject, graph_subject, image_subject, subjects
from wellposed.falsification.tally import Tally as Tally
from wellposed.layers.equilibrium import Equilibrium
from wellposed.lower_bounds.graph_witness import steepest_features, with_features
from wellposed.lower_bounds.patterns import steep_points
from wellposed.network import Network, bounded_logits, materialise
from wellposed.operators.graphs import frobenius_norms
from wellposed.verification import verifier_of

Tamper = Callable[[Certificate], Certificate]
_MODULES: dict[str, Callable[[Tally, torch.Generator], None]] = {
    "changed models": changed_model_trial,
    "random user modules": user_module_trial,
}
METHODS = (
    "product", "metric", "pairs", "max norm", "sum norm", "radius", "error", "ball", "box", "images", "graphs", *_MODULES,
)  # fmt: skip
_NORMS = {"max norm": "inf", "sum norm": "1"}
_BASES = 60
_LENGTHS = (1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0)
_POINTS = 2000  # of every certified region
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
    generator, of_images, of_graphs = (torch.Generator().manual_seed(seed + offset) for offset in (0, 1, 2))
    of_modules = {name: torch.Generator().manual_seed(seed + 3 + place) for place, name in enumerate(_MODULES)}
    lipschitz = tuple(name for name in ("product", "metric", "pairs", *_NORMS) if name in methods)
    for subject in subjects(generator):
        missing = {name for name in methods if found.tallies[name].trials < trials}
        done(min(found.tallies[name].trials for name in methods))
        if not missing:
            return found
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if missing & set(lipschitz):
                _constants(subject, found, generator, tamper, missing)
            if "radius" in missing:
                _radius(subject, found.tallies["radius"], generator, tamper)
            if "error" in missing and subject.stored:
                _error(subject, found.tallies["error"], generator)
            for name, norm in (("ball", "2"), ("box", "inf")):
                if name in missing:
                    _regions(subject, found.tallies[name], norm, generator)
            if "images" in missing:
                _images(found.tallies["images"], of_images, tamper)
            if "graphs" in missing:
                _graphs(found.tallies["graphs"], of_graphs, tamper)
            for name, trial in _MODULES.items():
                if name in missing:
                    trial(found.tallies[name], of_modules[name])
                    _check_progress(name, found.tallies[name])
    raise AssertionError  # subjects never end


def _check_progress(name: str, tally: Tally) -> None:
    """Refuse to go on for ever with a method that certifies nothing."""
    if not tally.trials and tally.refused >= _MOST_REFUSED:
        raise CertificateError(f"{name}: all of {tally.refused} models were refused; there is nothing to judge")


def pairs_of(
    model: nn.Module | Network, inputs: int, spread: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pairs of inputs, half of them along the gradient of a random combination of the outputs; shapes (pairs, inputs)."""
    base = spread * torch.randn(_BASES, inputs, generator=generator, dtype=torch.float64)
    steep = base.clone().requires_grad_()
    with torch.enable_grad():
        value = model(steep)
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((weights * value).sum(), steep)
    directions = []
    for direction in (gradient, torch.randn(base.shape, generator=generator, dtype=torch.float64)):
        size = direction.norm(dim=1, keepdim=True)
        directions.append(torch.where(size > 0.0, direction / size.clamp_min(1e-300), torch.ones_like(direction)))
    first, second = [], []
    for direction in directions:
        for length in _LENGTHS:
            first.append(base)
            second.append(base + spread * length * direction)
    return torch.cat(first), torch.cat(second)


def _constants(
    subject: Subject, found: Campaign, generator: torch.Generator, tamper: Tamper, missing: set[str]
) -> None:
    """The constants of the product, of the metric, and of class margins, against pairs."""
    tallies = found.tallies
    try:
        product = tamper(certify(subject.model, method="product"))
        tightest = tamper(certify(subject.model))
        exact = materialise(subject.model).exact
        first, second = pairs_of(exact, subject.inputs, subject.spread, generator)
        with contextlib.suppress(CertificateError):  # patterns are about one ReLU layer
            for point, direction in steep_points(affine_network(exact), first[:6]):
                first = torch.cat([first, point.expand(len(_LENGTHS), -1)])
                lengths = float(point.norm()) * torch.tensor(_LENGTHS, dtype=torch.float64)[:, None]
                second = torch.cat([second, point + lengths * direction])
        results = [bounded_logits(exact, points) for points in (first, second)]
    except WellposedError:
        for name in ("product", "metric", "pairs"):
            tallies[name].refused += 1
        return
    change = results[1].logits.double() - results[0].logits.double()
    error = (results[0].error + results[1].error).double()
    distance = (second - first).norm(dim=1)
    observed = (change.norm(dim=1) - error) / distance
    usable = torch.isfinite(observed) & (distance > 0.0)
    tallies["product"].judge(observed[usable], product.lipschitz)
    tallies["metric"].judge(observed[usable], tightest.lipschitz)
    _margins(tallies["pairs"], tightest, change[usable], error[usable], distance[usable])
    for name, norm in _NORMS.items():
        if name in missing:
            _norms(subject, tallies[name], norm, (change[usable], error[usable], (second - first)[usable]), tamper)


def _margins(tally: Tally, certificate: Certificate, change: Tensor, error: Tensor, distance: Tensor) -> None:
    """The constants of all class margins."""
    if certificate.pairs is None:
        return
    margins = (change[:, :, None] - change[:, None, :]).abs() - math.sqrt(2.0) * error[:, None, None]
    each = margins / distance[:, None, None]
    classes = torch.triu_indices(change.shape[1], change.shape[1], 1)
    for i, j in classes.t().tolist():
        tally.judge(each[:, i, j], float(certificate.pairs[i, j]))


def _images(tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Constants and class margins of a convolutional network, frequency by frequency, against pairs of images."""
    subject = image_subject(generator)
    try:
        bounded = isinstance(subject.model[-1], Equilibrium)  # which is the joint bound already
        certificate = tamper(certify(subject.model, method=None if bounded else "metric"))
        exact = materialise(subject.model).exact
        first, second = pairs_of(exact, subject.inputs, subject.spread, generator)
        results = [bounded_logits(exact, points) for points in (first, second)]
    except WellposedError:
        tally.refused += 1
        return
    change, error = results[1].logits - results[0].logits, results[0].error + results[1].error
    distance = (second - first).norm(dim=1)
    usable = torch.isfinite(change.norm(dim=1) - error) & (distance > 0.0)
    change, error, distance = change[usable], error[usable], distance[usable]
    tally.judge((change.norm(dim=1) - error) / distance, certificate.lipschitz)
    _margins(tally, certificate, change, error, distance)


def _graphs(tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Constants and class margins of a graph classifier, against pairs of node features on the same graphs."""
    model, data = graph_subject(generator)
    try:
        certificate = tamper(certify(model))
        exact = materialise(model).exact
        start = bounded_logits(exact, data)
        steep = steepest_features(exact, data)[1]
        for direction in (steep, torch.randn(steep.shape, generator=generator, dtype=torch.float64)):
            for length in _LENGTHS:
                other = with_features(data, data.x + length * float(data.x.std()) * direction)
                end = bounded_logits(exact, other)
                change, error = end.logits - start.logits, start.error + end.error
                distance = frobenius_norms(other.x - data.x, data.batch, data.num_graphs)
                usable = torch.isfinite(change.norm(dim=1) - error) & (distance > 0.0)
                change, error, distance = change[usable], error[usable], distance[usable]
                tally.judge((change.norm(dim=1) - error) / distance, certificate.lipschitz)
                _margins(tally, certificate, change, error, distance)
    except WellposedError:
        tally.refused += 1


def _norms(subject: Subject, tally: Tally, norm: str, pairs: tuple[Tensor, Tensor, Tensor], tamper: Tamper) -> None:
    """Constants in another norm, of all outputs and of one margin."""
    change, error, apart = pairs
    try:
        certificate = tamper(certify(subject.model, norm=norm))
    except WellposedError:
        tally.refused += 1
        return
    distance = torch.linalg.vector_norm(apart, float(norm), dim=1)
    worst = error * change.shape[1] ** 0.5
    tally.judge((torch.linalg.vector_norm(change, float(norm), dim=1) - worst) / distance, certificate.lipschitz)
    if certificate.pairs is not None:
        margin = (change[:, 0] - change[:, 1]).abs() - 2.0 * error
        tally.judge(margin / distance, float(certificate.pairs[0, 1]))


@torch.no_grad()
def _radius(subject: Subject, tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Radii around inputs, against the class that the running model gives to points within them."""
    model, dtype = subject.model, next(subject.model.parameters()).dtype
    base = (subject.spread * torch.randn(_BASES, subject.inputs, generator=generator, dtype=torch.float64)).to(dtype)
    try:
        certificate = tamper(certify(model))
        labels = model(base).argmax(1)
        radii = certificate.evaluate(base, labels, forward=True)
    except WellposedError:
        tally.refused += 1
        return
    usable = (radii > 0.0) & torch.isfinite(radii)
    tally.refused += int((~usable).sum())
    if not bool(usable.any()):
        return
    base, labels, radii = base[usable], labels[usable], radii[usable]
    steep = base.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(steep)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, labels[:, None])[:, 0]).sum(), steep)
    for direction in (gradient, torch.randn(base.shape, generator=generator).to(dtype)):
        unit = direction.double() / direction.double().norm(dim=1, keepdim=True).clamp_min(1e-300)
        for share in (1.0 - 1e-7, 1.0 - 1e-3, 0.7):
            points = (base.double() + share * radii[:, None] * unit).to(dtype)
            distance = (points.double() - base.double()).norm(dim=1)
            inside = (distance <= radii) & torch.isfinite(points).all(1)
            if bool(inside.any()):
                wrong = model(points[inside]).argmax(1) != labels[inside]
                for place in torch.nonzero(wrong)[:, 0].tolist():
                    wrong[place] = _converges(model, points[inside][place])
                tally.judge(wrong.double(), 0.0)


def _converges(model: nn.Module, point: Tensor) -> bool:
    """Whether a forward pass at a point converges, which radii assume: one that does not says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConvergedWarning)
        try:
            model(point[None])
        except NotConvergedWarning:
            return False
    return True


@torch.no_grad()
def _error(subject: Subject, tally: Tally, generator: torch.Generator) -> None:
    """Error bounds of solves at several tolerances, against float64."""
    layer = subject.model[0]
    assert isinstance(layer, Equilibrium)
    dtype = layer.injection.weight.dtype
    x = (subject.spread * torch.randn(12 * _BASES, subject.inputs, generator=generator, dtype=torch.float64)).to(dtype)
    kept = layer.tolerance
    try:
        ((_, exact),) = materialise(layer).exact.blocks
        assert isinstance(exact, Equilibrium)
        best = exact.solve(x.double())
        for digits in (1e-1, 1e-3, None):
            layer.tolerance = type(kept)(digits, digits)
            solution = layer.solve(x)
            assert solution.error_bound is not None and best.error_bound is not None
            away = (solution.value.double() - best.value).norm(dim=1) - best.error_bound.double()
            tally.judge(away.clamp_min(0.0), solution.error_bound.double())
    except WellposedError:
        tally.refused += 1
    finally:
        layer.tolerance = kept


@torch.no_grad()
def _regions(subject: Subject, tally: Tally, norm: str, generator: torch.Generator) -> None:
    """Balls or boxes that were verified, against points in them."""
    x = subject.spread * torch.randn(subject.inputs, generator=generator, dtype=torch.float64)
    radius = float(subject.spread * 10.0 ** (-2.0 * torch.rand((), generator=generator)))
    try:
        exact = materialise(subject.model).exact
        label = int(exact(x[None]).argmax())
        verdict = verifier_of(subject.model, valid=None).verify(x, label, radius, norm=norm, seconds=1.0)
    except WellposedError:
        tally.refused += 1
        return
    if verdict.status != "certified":
        tally.refused += 1
        return
    change = torch.randn(_POINTS, subject.inputs, generator=generator, dtype=torch.float64)
    change = change.sign() if norm == "inf" else change / change.norm(dim=1, keepdim=True)
    shrink = torch.rand(_POINTS, 1, generator=generator, dtype=torch.float64) ** (1.0 / subject.inputs)
    shrink[: _POINTS // 2] = 1.0
    result = bounded_logits(exact, x + radius * (1.0 - 1e-12) * shrink * change)
    margin = result.logits[:, label : label + 1] - result.logits
    margin[:, label] = torch.inf
    tally.judge((margin.amin(1) + math.sqrt(2.0) * result.error < 0.0).double(), 0.0)


def as_text(found: Campaign) -> str:
    """The tallies as aligned text."""
    width = max(map(len, found.tallies))
    lines = [f"{'method':>{width}} {'trials':>9} {'violations':>11} {'not certified':>14} {'closest':>9}"]
    for name, tally in found.tallies.items():
        closest = f"{tally.closest:9.6f}" if tally.closest else f"{'–':>9}"
        lines.append(f"{name:>{width}} {tally.trials:9d} {tally.violations:11d} {tally.refused:14d} {closest}")
    return "\n".join(lines)
