"""Per-input verification: against all activation patterns, against an SDP solver, against samples, and in its refusals."""

from __future__ import annotations

import dataclasses
import itertools
import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.bounds.affine_network import affine_network
from wellposed.verification.attack import descend, margins
from wellposed.verification.base import RegionQuestion
from wellposed.verification.central_path import minimise
from wellposed.verification.proof import proved
from wellposed.verification.question import Margins, Question, surely_wrong
from wellposed.verification.reduction import Bounds, Reduction
from wellposed.verification.region import Region
from wellposed.verification.secants import margin_change, refine

FAMILIES = {
    "mondeq": lambda d, n: wp.MonDEQ(d, n, m=0.3, dtype=torch.float64),
    "lben": lambda d, n: wp.LBEN(d, n, dtype=torch.float64),
    "nemon": lambda d, n: wp.NEMON(d, n, mu=0.5, dtype=torch.float64),
}


def network_of(kind="mondeq", inputs=3, units=5, classes=3, seed=0, normalised=False):
    torch.manual_seed(seed)
    layer = FAMILIES[kind](inputs, units)
    layer.injection.weight.data.mul_(3.0)
    head = nn.Linear(units, classes).double()
    blocks = [layer, head]
    if normalised:
        blocks = [wp.Normalize((0.3,), (0.4,)).double(), nn.Flatten(), *blocks]
    return nn.Sequential(*blocks)


def question_of(model, x, label, radius, norm):
    network = affine_network(model)
    region = Region.ball(x, radius) if norm == "2" else Region.box(x, radius, None)
    asked = RegionQuestion(
        x=x, label=label, radius=radius, region=region, allowance=0.0, shape=tuple(x.shape), valid=None
    )
    centre = network.centre(region.centre)
    margins = Margins.of(network, centre, region, testing.tensor(label), testing.tensor(0.0, dtype=torch.float64))
    return Question.of(asked, network, centre, margins)


def exact_margin(network, x, label, radius, norm, solver="CLARABEL"):
    """The least margin on a region: the least over all activation patterns, in each of which everything is affine."""
    n = len(network.matrix)
    matrix, weight, bias = (t.numpy() for t in (network.matrix, network.weight, network.bias))
    output, constant = network.output.numpy(), network.output_bias.numpy()
    best = math.inf
    for bits in itertools.product([0.0, 1.0], repeat=n):
        pattern = np.array(bits)
        inverse = np.linalg.inv(np.eye(n) - pattern[:, None] * matrix)
        point = cp.Variable(weight.shape[1])
        pre_map = matrix @ inverse @ (pattern[:, None] * weight) + weight
        pre_shift = matrix @ inverse @ (pattern * bias) + bias
        value = pre_map @ point + pre_shift
        limits = [
            cp.multiply(2 * pattern - 1, value) >= 0,
            cp.norm(point - x.numpy(), 2 if norm == "2" else "inf") <= radius,
        ]
        for other in range(len(output)):
            if other == label:
                continue
            row = (output[label] - output[other]) @ inverse @ np.diag(pattern)
            goal = row @ (weight @ point + bias) + constant[label] - constant[other]
            problem = cp.Problem(cp.Minimize(goal), limits)
            problem.solve(solver=solver)
            if problem.status == "optimal":
                best = min(best, problem.value)
    return best


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_verdicts_are_those_of_all_activation_patterns(kind, norm):
    model = network_of(kind, units=4, seed=3)
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(3, dtype=torch.float64)
    label = int(model(x[None]).argmax())
    decided = []
    for radius in (0.05, 0.2, 0.5, 1.0, 2.0):
        least = exact_margin(verifier.network, x, label, radius, norm)
        verdict = verifier.verify(x, label, radius, norm=norm)
        if abs(least) > 1e-4:
            assert verdict.status == ("certified" if least > 0 else "falsified"), (radius, least, verdict)
            decided.append(verdict.status)
    assert len(decided) >= 4


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("seed", range(4))
def test_the_verified_radius_is_the_exact_one(seed, norm):
    """Bisection on the radius by the verifier ends where the least margin over all patterns is zero."""
    model = network_of(units=4, seed=seed, normalised=True)
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(1, 1, 3, dtype=torch.float64)
    label = int(model(x).argmax())
    low, high = 0.0, 4.0
    for _ in range(12):
        radius = 0.5 * (low + high)
        status = verifier.verify(x[0], label, radius, norm=norm).status
        assert status != "unknown"
        low, high = (radius, high) if status == "certified" else (low, radius)
    if high < 4.0:
        assert exact_margin(verifier.network, x.reshape(-1), label, low, norm) > -1e-6
        assert exact_margin(verifier.network, x.reshape(-1), label, high * (1 + 1e-6), norm) < 1e-3


@pytest.mark.float32
@pytest.mark.parametrize("seed", range(6))
def test_the_relaxation_is_the_sdp_that_it_says_it_is(seed):
    model = network_of(units=5, seed=seed)
    x = testing.randn(3, dtype=torch.float64)
    question = question_of(model, x, 0, 0.4, "2")
    network, centre = question.network, question.centre
    away = network.slopes * 0.4 + 1e-12
    bounds = Bounds(centre.preactivation - away, centre.preactivation + away)
    target = question.target(1, testing.ones(5, dtype=torch.float64))
    decisions = {int(torch.nonzero(bounds.uncertain())[0]): 1} if seed % 2 else {}
    reduction = Reduction(network, centre, question.region, bounds, decisions)
    problem = reduction.margin(target.row, target.constant, target.metric)
    found = minimise([problem], tolerance=1e-7)[0]
    p, s = len(problem.lower), len(problem.widths)
    size = problem.objective.numel()
    moments = cp.Variable((size, size), PSD=True)

    def product(a, b):
        return a @ moments @ b

    one = np.eye(size)[-1]
    limits = [moments[-1, -1] == 1, cp.trace(moments[p:-1, p:-1]) <= 1]
    for k in range(p):
        z, y = np.eye(size)[k], np.eye(size)[k] - problem.preactivations[k].numpy()
        u, r = float(problem.upper[k]), -float(problem.lower[k])
        limits += [product(z, y) == 0, product(z, u * one - z) >= 0, product(y, r * one - y) >= 0]
        limits += [1 - product(z, one) / u - product(y, one) / r >= 0]
    for k in range(s):
        form = problem.ranges[k].numpy()
        limits += [product(form, float(problem.widths[k]) * one - form) >= 0]
    sdp = cp.Problem(cp.Minimize(product(problem.objective.numpy(), one)), limits)
    sdp.solve(solver="CLARABEL")
    assert found.bound == pytest.approx(sdp.value, rel=1e-4, abs=1e-5)
    assert found.bound <= found.reachable
    safe = proved(problem, found)
    assert sdp.value + 1e-6 >= safe >= found.bound - 1e-6 * (1 + abs(found.bound))


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_bounds_hold_on_samples(kind, norm):
    model = network_of(kind, inputs=6, units=8, classes=4, seed=1, normalised=True)
    x = testing.rand(6, dtype=torch.float64)
    for radius in (0.02, 0.1, 0.5):
        question = question_of(model, x, 0, radius, norm)
        network, centre, region = question.network, question.centre, question.region
        away = network.slopes * region.radius + centre.error
        first = Bounds(centre.preactivation - away, centre.preactivation + away)
        second = refine(network, centre, region, first)
        assert bool((second.lower >= first.lower).all()) and bool((second.upper <= first.upper).all())
        rows = network.output[:1] - network.output[1:]
        change = margin_change(network, centre, region, second, rows)
        points = region.project(x + radius * 2 * testing.randn(4000, 6, dtype=torch.float64))
        state = network.layer.state(points)
        value = state @ network.matrix.t() + points @ network.weight.t() + network.bias
        tolerance = 1e-7
        for bounds in (first, second):
            assert bool((value >= bounds.lower - tolerance).all()) and bool((value <= bounds.upper + tolerance).all())
        moved = ((state - centre.state) @ rows.t()).abs().amax(0)
        assert bool((moved <= change + tolerance).all())
        target = question.target(1, network.metric)
        shares = None if norm == "2" else testing.rand(6, dtype=torch.float64) + 0.1
        reduction = Reduction(network, centre, region, second, None, shares)
        problem = reduction.margin(target.row, target.constant, target.metric, target.error)
        least = float((state @ target.row).amin()) + target.constant
        assert proved(problem, minimise([problem])[0]) <= least + tolerance
        for unit in torch.nonzero(second.uncertain())[:2, 0].tolist():
            for sign in (1.0, -1.0):
                problem = reduction.preactivation(unit, sign, network.metric)
                assert proved(problem, minimise([problem])[0]) <= float((sign * value[:, unit]).amin()) + tolerance


def test_problems_together_get_the_bounds_that_they_get_alone():
    model = network_of(inputs=6, units=8, classes=4, seed=1, normalised=True)
    question = question_of(model, testing.rand(6, dtype=torch.float64), 0, 0.3, "inf")
    network, centre, region = question.network, question.centre, question.region
    away = network.slopes * region.radius + centre.error
    bounds = Bounds(centre.preactivation - away, centre.preactivation + away)
    reduction = Reduction(network, centre, region, bounds)
    targets = [question.target(other, network.metric) for other in (1, 2, 3)]
    problems = [reduction.margin(target.row, target.constant, target.metric, target.error) for target in targets]
    problems += [reduction.preactivation(int(unit), 1.0, network.metric) for unit in reduction.open]
    alone = [minimise([problem], tolerance=1e-7)[0] for problem in problems]
    together = minimise(problems, tolerance=1e-7)
    assert [found.bound for found in together] == pytest.approx([found.bound for found in alone], rel=1e-6, abs=1e-8)
    for problem, found in zip(problems, together, strict=True):
        assert proved(problem, found) == pytest.approx(found.bound, rel=1e-6, abs=1e-6)
    # Each of some stops at its own goal, and numbers that are too far apart leave the others alone.
    goals = [found.bound - 0.5 * abs(found.bound) for found in alone]
    for goal, found, best in zip(goals, minimise(problems, targets=goals), alone, strict=True):
        assert goal < found.bound <= best.bound + 1e-6 * abs(best.bound)
    broken = dataclasses.replace(problems[0], objective=problems[0].objective * math.nan)
    first, second = minimise([broken, problems[1]], tolerance=1e-7)
    assert first is None and second.bound == pytest.approx(alone[1].bound, rel=1e-6, abs=1e-8)
    assert minimise([]) == []


def test_a_region_without_uncertain_units_is_bounded_exactly():
    model = network_of(units=6, seed=2)
    x = testing.randn(3, dtype=torch.float64)
    network = affine_network(model)
    radius = 0.2 * float((network.centre(x).preactivation.abs() / network.slopes).amin())
    question = question_of(model, x, 0, radius, "2")
    away = network.slopes * radius
    bounds = Bounds(question.centre.preactivation - away, question.centre.preactivation + away)
    assert not bool(bounds.uncertain().any())
    target = question.target(1, testing.ones(6, dtype=torch.float64))
    value, gradient = margins(
        network, x[None], target.row[None], testing.tensor([target.constant], dtype=torch.float64)
    )
    exact = float(value) - radius * float(gradient.norm())
    problem = Reduction(network, question.centre, question.region, bounds).margin(
        target.row, target.constant, target.metric
    )
    assert proved(problem, minimise([problem], tolerance=1e-8)[0]) == pytest.approx(exact, rel=1e-6)
    assert float(target.base - margin_change(network, question.centre, question.region, bounds, target.row[None])) == (
        pytest.approx(exact, rel=1e-6)
    )


def test_counterexamples_are_inside_and_wrong():
    for seed, norm in itertools.product(range(6), ("2", "inf")):
        model = network_of(inputs=9, units=7, classes=3, seed=seed, normalised=True)
        x = testing.rand(1, 3, 3, dtype=torch.float64)
        label = int(model(x[None]).argmax())
        verdict = wp.Verifier(model).verify(x, label, 0.6, norm=norm)
        if verdict.status != "falsified":
            continue
        found = verdict.counterexample
        assert found.shape == x.shape
        assert float(model(found[None])[0].argmax()) != label
        change = found - x
        if norm == "2":
            assert float(change.norm()) <= 0.6
        else:
            assert float(change.abs().max()) <= 0.6 and float(found.min()) >= 0.0 and float(found.max()) <= 1.0


def test_broken_evidence_proves_nothing():
    model = network_of(units=6, seed=4)
    x = testing.randn(3, dtype=torch.float64)
    question = question_of(model, x, 0, 0.5, "2")
    away = question.network.slopes * 0.5
    bounds = Bounds(question.centre.preactivation - away, question.centre.preactivation + away)
    target = question.target(1, testing.ones(6, dtype=torch.float64))
    problem = Reduction(question.network, question.centre, question.region, bounds).margin(
        target.row, target.constant, target.metric
    )
    found = minimise([problem], tolerance=1e-7)[0]
    true = proved(problem, found)
    for place in range(1, len(found.values)):
        changed = found.values.clone()
        changed[place] *= 0.9
        assert proved(problem, dataclasses.replace(found, values=changed)) <= true + 1e-6 * abs(true)
    assert proved(problem, dataclasses.replace(found, bound=found.bound + 1.0)) <= true + 1e-6 * abs(true)
    negative = found.values.clone()
    negative[1] = -1.0
    assert proved(problem, dataclasses.replace(found, values=negative)) == -math.inf
    worse = dataclasses.replace(problem, errors=problem.errors + 1e-3)
    assert proved(worse, found) < true


def test_boxes_are_rounded_outwards_and_clipped():
    x = testing.tensor([0.0, 0.03, 0.5, 1.0], dtype=torch.float64)
    region = Region.box(x, 0.1)
    low, high = (x - 0.1).clamp_min(0.0), (x + 0.1).clamp_max(1.0)
    assert bool((region.centre - region.widths <= low).all()) and bool((region.centre + region.widths >= high).all())
    assert torch.allclose(region.widths, testing.tensor([0.05, 0.065, 0.1, 0.05], dtype=torch.float64), rtol=1e-12)
    assert float(region.widths.norm()) <= region.radius <= float(region.widths.norm()) * (1 + 1e-12)


def test_attacks_find_the_least_margin_of_small_networks():
    reached = 0
    for seed in range(8):
        model = network_of(units=4, seed=seed)
        x = testing.randn(3, dtype=torch.float64)
        question = question_of(model, x, 0, 0.7, "2")
        targets = [question.target(other, testing.ones(4)) for other in (1, 2)]
        rows = torch.stack([target.row for target in targets])
        constants = testing.tensor([target.constant for target in targets], dtype=torch.float64)
        starts = question.region.project(x + testing.randn(10, 3, dtype=torch.float64))
        rows, constants = rows.repeat(5, 1), constants.repeat(5)
        values, points = descend(question.network, question.region, starts, rows, constants)
        again, _ = margins(question.network, points, rows, constants)
        assert torch.allclose(values, again) and float((points - x).norm(dim=1).max()) <= 0.7
        exact = exact_margin(question.network, x, 0, 0.7, "2")
        assert float(values.min()) >= exact - 1e-6
        start = float((rows @ question.centre.state + constants).min())
        reached += float(values.min()) <= exact + 0.02 * (start - exact) + 1e-6
    assert reached >= 7


def test_layers_without_a_guarantee_are_verified_where_a_metric_proves_them():
    torch.manual_seed(0)
    layer = wp.DEQ(3, 4, activation="relu").double()
    with torch.no_grad():
        layer.constraint.W.mul_(0.5)
    model = nn.Sequential(layer, nn.Linear(4, 3).double())
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(3, dtype=torch.float64)
    label = int(model(x[None]).argmax())
    least = exact_margin(verifier.network, x, label, 0.3, "2")
    assert verifier.verify(x, label, 0.3).status == ("certified" if least > 0 else "falsified")
    with torch.no_grad():
        layer.constraint.W.mul_(20.0)
    with pytest.raises(wp.CertificateError, match="no diagonal metric"):
        wp.Verifier(model)


def test_an_allowance_must_be_left_over():
    model = network_of(units=5, seed=0)
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(3, dtype=torch.float64)
    logits = model(x[None])[0]
    label = int(logits.argmax())
    radius = 0.05
    least = exact_margin(verifier.network, x, label, radius, "2")
    assert least > 0
    assert verifier.verify(x, label, radius, allowance=0.99 * least).status == "certified"
    assert verifier.verify(x, label, radius, allowance=1.01 * least).status == "unknown"


def test_what_is_wrong_already_and_bad_input():
    model = network_of(units=5, seed=0)
    verifier = wp.Verifier(model)
    x = testing.rand(3, dtype=torch.float64)
    label = int(model(x[None]).argmin())
    assert verifier.verify(x, label, 0.1).status == "misclassified"
    assert bool(surely_wrong(verifier.network, x[None], testing.tensor([label])))
    for change, match in (
        ({"radius": 0.0}, "radius"), ({"radius": math.nan}, "radius"), ({"label": 3}, "label"), ({"norm": 1}, "norm"),
        ({"method": "guess"}, "method"), ({"x": testing.rand(4)}, "x"), ({"x": testing.full((3,), math.nan)}, "x"),
        ({"x": 2 * testing.ones(3)}, "x"), ({"allowance": -1.0}, "allowance"), ({"allowance": math.nan}, "allowance"),
    ):  # fmt: skip
        options = {"x": x, "label": 0, "radius": 0.1, **change}
        with pytest.raises(wp.InputError, match=match):
            verifier.verify(**options)


def test_steps_of_the_ladder_decide_in_order():
    model = network_of(inputs=8, units=10, classes=3, seed=5)
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(8, dtype=torch.float64)
    label = int(model(x[None]).argmax())
    certified = {}
    for method in ("global", "secants", "relaxation", "tightening", "branching"):
        low, high = 0.0, 4.0
        for _ in range(10):
            radius = 0.5 * (low + high)
            verdict = verifier.verify(x, label, radius, method=method)
            low, high = (radius, high) if verdict.status == "certified" else (low, radius)
        certified[method] = low
    radii = list(certified.values())
    assert radii == sorted(radii) and radii[0] > 0.0 and radii[-1] > radii[0]


def test_no_time_leaves_the_question_open():
    model = network_of(inputs=8, units=10, classes=3, seed=5)
    verifier = wp.Verifier(model, valid=None)
    x = testing.randn(10, 8, dtype=torch.float64)
    labels = model(x).argmax(1)
    statuses = {
        verdict.status
        for radius in (0.1, 0.5, 1.0, 2.0)
        for verdict in verifier.verify_batch(x, labels, radius, seconds=1e-9)
    }
    assert statuses <= {"certified", "falsified", "unknown"} and "unknown" in statuses


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_inputs_together_get_the_verdicts_that_they_get_alone(kind, norm):
    model = network_of(kind, inputs=6, units=8, classes=4, seed=1, normalised=True)
    verifier, radius = wp.Verifier(model), 0.15 if norm == "2" else 0.05
    assert verifier.batch_size == 100
    verifier.batch_size = 7  # more inputs than go together
    x = testing.rand(24, 1, 2, 3, dtype=torch.float64)
    labels = model(x).argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    allowances = [0.0] * 20 + [0.3] * 4
    together = verifier.verify_batch(x, labels.tolist(), radius, norm=norm, allowances=allowances)
    for image, label, allowance, verdict in zip(x, labels.tolist(), allowances, together, strict=True):
        alone = verifier.verify(image, label, radius, norm=norm, allowance=allowance)
        assert (alone.status, alone.method) == (verdict.status, verdict.method)
    assert {verdict.status for verdict in together} >= {"certified", "falsified", "misclassified"}
    assert len({verdict.method for verdict in together}) >= 3
    assert verifier.verify_batch(x[:0], [], radius, norm=norm) == []


def test_inputs_whose_solve_did_not_converge_get_no_verdict():
    model = network_of(inputs=6, units=8, classes=3, seed=1)
    x = testing.randn(20, 6, dtype=torch.float64)
    verifier = wp.Verifier(model, valid=None)
    solved = verifier.verify_batch(x, model(x).argmax(1).tolist(), 1e-6)
    assert {verdict.status for verdict in solved} == {"certified"}
    verifier.network.layer.max_steps = 1
    with pytest.warns(wp.NotConvergedWarning):
        verdicts = verifier.verify_batch(x, model(x).argmax(1).tolist(), 1e-6)
    assert {(verdict.status, verdict.method) for verdict in verdicts} == {("unknown", "input")}
