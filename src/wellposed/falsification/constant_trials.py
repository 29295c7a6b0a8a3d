"""Trials of the campaign about Lipschitz constants, of all outputs and of class margins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from wellposed.bounds.affine_network import affine_network
from wellposed.certificates import Certificate, certify
from wellposed.errors import CertificateError, WellposedError
from wellposed.falsification.graph_subjects import graph_subject
from wellposed.falsification.image_subjects import image_subject
from wellposed.falsification.pairs import LENGTHS, Pairs, pairs_of
from wellposed.falsification.subject import Subject
from wellposed.falsification.tally import Tally
from wellposed.lower_bounds.graph_witness import steepest_features, with_features
from wellposed.lower_bounds.patterns import steep_points
from wellposed.network import bounded_logits, materialise
from wellposed.operators.graphs import frobenius_norms

Tamper = Callable[[Certificate], Certificate]
NORMS = {"max norm": "inf", "sum norm": "1"}
CONSTANTS = ("product", "metric", "pairs", *NORMS)


def constants(
    subject: Subject, tallies: dict[str, Tally], generator: torch.Generator, tamper: Tamper, norms: Collection[str]
) -> None:
    """The constants of the product, of the metric, of class margins, and in some of the other norms, against pairs."""
    try:
        product = tamper(certify(subject.model, method="product"))
        tightest = tamper(certify(subject.model))
        exact = materialise(subject.model).exact
        first, second = pairs_of(exact, subject.inputs, subject.spread, generator)
        with contextlib.suppress(CertificateError):  # patterns are about one ReLU layer
            for point, direction in steep_points(affine_network(exact), first[:6]):
                first = torch.cat([first, point.expand(len(LENGTHS), -1)])
                lengths = float(point.norm()) * torch.tensor(LENGTHS, dtype=torch.float64, device="cpu")[:, None]
                second = torch.cat([second, point + lengths * direction])
        start, end = (bounded_logits(exact, points) for points in (first, second))
    except WellposedError:
        for name in ("product", "metric", "pairs"):
            tallies[name].refused += 1
        return
    pairs = Pairs.between(start, end, (second - first).norm(dim=1))
    tallies["product"].judge(pairs.slopes(), product.lipschitz)
    tallies["metric"].judge(pairs.slopes(), tightest.lipschitz)
    pairs.judge_margins(tallies["pairs"], tightest)
    for name in norms:
        _in_norm(subject, tallies[name], NORMS[name], pairs, (second - first)[pairs.usable], tamper)


def _in_norm(subject: Subject, tally: Tally, norm: str, pairs: Pairs, apart: Tensor, tamper: Tamper) -> None:
    """Constants in another norm, of all outputs and of one margin."""
    try:
        certificate = tamper(certify(subject.model, norm=norm))
    except WellposedError:
        tally.refused += 1
        return
    distance = torch.linalg.vector_norm(apart, float(norm), dim=1)
    worst = pairs.error * pairs.change.shape[1] ** 0.5
    change = torch.linalg.vector_norm(pairs.change, float(norm), dim=1)
    tally.judge((change - worst) / distance, certificate.lipschitz)
    if certificate.pairs is not None:
        margin = (pairs.change[:, 0] - pairs.change[:, 1]).abs() - 2.0 * pairs.error
        tally.judge(margin / distance, float(certificate.pairs[0, 1]))


def image_trial(tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Constants and class margins of a convolutional network, frequency by frequency, against pairs of images."""
    subject = image_subject(generator)
    try:
        # A layer with a bound of its own and no head has the bound in the best metric already.
        certificate = tamper(certify(subject.model, method="metric" if subject.head else None))
        exact = materialise(subject.model).exact
        first, second = pairs_of(exact, subject.inputs, subject.spread, generator)
        start, end = (bounded_logits(exact, points) for points in (first, second))
    except WellposedError:
        tally.refused += 1
        return
    pairs = Pairs.between(start, end, (second - first).norm(dim=1))
    tally.judge(pairs.slopes(), certificate.lipschitz)
    pairs.judge_margins(tally, certificate)


def graph_trial(tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Constants and class margins of a graph classifier, against pairs of node features on the same graphs."""
    model, data = graph_subject(generator)
    try:
        certificate = tamper(certify(model))
        exact = materialise(model).exact
        start = bounded_logits(exact, data)
        steep = steepest_features(exact, data)[1]
        for direction in (steep, torch.randn(steep.shape, generator=generator, dtype=torch.float64, device="cpu")):
            for length in LENGTHS:
                other = with_features(data, data.x + length * float(data.x.std()) * direction)
                apart = frobenius_norms(other.x - data.x, data.batch, data.num_graphs)
                pairs = Pairs.between(start, bounded_logits(exact, other), apart)
                tally.judge(pairs.slopes(), certificate.lipschitz)
                pairs.judge_margins(tally, certificate)
    except WellposedError:
        tally.refused += 1
