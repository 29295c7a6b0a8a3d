"""Trials of the campaign about single inputs: certified radii, error bounds of solves, and verified regions."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from wellposed.certificates import certify
from wellposed.errors import NotConvergedWarning, WellposedError
from wellposed.falsification.constant_trials import Tamper
from wellposed.falsification.pairs import BASES
from wellposed.falsification.subject import Subject
from wellposed.falsification.tally import Tally
from wellposed.network import bounded_logits, materialise
from wellposed.verification import verifier_of

_POINTS = 2000  # of every certified region


@torch.no_grad()
def radius_trial(subject: Subject, tally: Tally, generator: torch.Generator, tamper: Tamper) -> None:
    """Radii around inputs, against the class that the running model gives to points within them."""
    model, dtype = subject.model, next(subject.model.parameters()).dtype
    base = (
        subject.spread * torch.randn(BASES, subject.inputs, generator=generator, dtype=torch.float64, device="cpu")
    ).to(dtype)
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
    for direction in (gradient, torch.randn(base.shape, generator=generator, device="cpu").to(dtype)):
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
def solve_trial(subject: Subject, tally: Tally, generator: torch.Generator) -> None:
    """Error bounds of solves at several tolerances, against float64."""
    layer = subject.layer
    if layer is None:
        return
    dtype = layer.injection.weight.dtype
    x = (
        subject.spread * torch.randn(12 * BASES, subject.inputs, generator=generator, dtype=torch.float64, device="cpu")
    ).to(dtype)
    kept = layer.tolerance
    try:
        exact = materialise(layer).exact.blocks[0].module
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
def region_trial(subject: Subject, tally: Tally, norm: str, generator: torch.Generator) -> None:
    """Balls or boxes that were verified, against points in them."""
    x = subject.spread * torch.randn(subject.inputs, generator=generator, dtype=torch.float64, device="cpu")
    radius = float(subject.spread * 10.0 ** (-2.0 * torch.rand((), generator=generator, device="cpu")))
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
    change = torch.randn(_POINTS, subject.inputs, generator=generator, dtype=torch.float64, device="cpu")
    change = change.sign() if norm == "inf" else change / change.norm(dim=1, keepdim=True)
    shrink = torch.rand(_POINTS, 1, generator=generator, dtype=torch.float64, device="cpu") ** (1.0 / subject.inputs)
    shrink[: _POINTS // 2] = 1.0
    result = bounded_logits(exact, x + radius * (1.0 - 1e-12) * shrink * change)
    margin = result.logits[:, label : label + 1] - result.logits
    margin[:, label] = torch.inf
    tally.judge((margin.amin(1) + math.sqrt(2.0) * result.error < 0.0).double(), 0.0)
