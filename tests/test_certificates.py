"""Lipschitz certificates: never exceeded, attained where they are tight, refused where they do not apply."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math

import numpy as np
import pytest
import scipy.optimize
import torch

import wellposed as wp
from harness.tails import with_tail
from wellposed import testing
from wellposed.certificates.radius import radii
from wellposed.generalisation.pac_bayes_tightened import Norms, deviations, on_grid, output_change, tails, tightened
from wellposed.network import bounded_logits, surely_misclassified
from wellposed.numerics.golden_section import golden_section


def model_of(m=0.5, width=8, seed=0, dtype=torch.float32, activation="relu"):
    torch.manual_seed(seed)
    layer = wp.MonDEQ(16, width, m=m, dtype=dtype, activation=activation)
    head = torch.nn.Linear(width, 4, dtype=dtype)
    model = torch.nn.Sequential(wp.Normalize((0.4,), (0.25,)), torch.nn.Flatten(), layer, head)
    with torch.no_grad():  # away from the small weights of the initialisation
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.to(dtype).eval()


def images(count=32, dtype=torch.float32, seed=1):
    return testing.rand(count, 1, 4, 4, generator=testing.generator(seed)).to(dtype)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("m", [0.1, 1.0, 20.0])
def test_sampled_ratios_never_exceed_the_constant_nor_the_pair_constants(m, activation):
    model = model_of(m, dtype=torch.float64, activation=activation)
    certificate = wp.certify(model)
    x = images(400, torch.float64)
    rows, columns = torch.triu_indices(4, 4, 1)
    for scale in (1e-4, 1e-2, 1.0, 100.0):
        y = x + scale * torch.randn_like(x)
        gap = (x - y).flatten(1).norm(dim=1)
        moved = model(x) - model(y)
        assert (moved.norm(dim=1) <= certificate.lipschitz * gap * (1 + 1e-9) + 1e-8).all()
        margins = moved[:, rows] - moved[:, columns]
        assert (margins.abs() <= certificate.pairs[rows, columns] * gap[:, None] * (1 + 1e-9) + 1e-8).all()


def test_theorem_1_is_attained_by_the_scaled_identity():
    # W = (1 − m)I with A = B = 0 gives z* = relu(q)/m: the bound ‖U‖/m is exact, and so is the whole product.
    layer = wp.MonDEQ(6, 6, m=0.25, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    head = torch.nn.Linear(6, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.A.zero_()
        layer.constraint.B.zero_()
        layer.injection.weight.copy_(torch.linalg.qr(testing.randn(6, 6, dtype=torch.float64))[0])
        layer.injection.bias.fill_(10.0)
        head.weight.copy_(testing.eye(6))
    model = torch.nn.Sequential(layer, head)
    certificate = wp.certify(model, inputs=testing.randn(8, 6, dtype=torch.float64) * 0.1)
    assert certificate.lipschitz == pytest.approx(4.0, rel=1e-10)
    assert certificate.lower_bound == pytest.approx(4.0, rel=1e-6)
    assert certificate.lower_bound <= certificate.lipschitz


def test_the_constant_is_the_product_of_the_published_formula():
    model = model_of(m=2.0, dtype=torch.float64)
    u, head = model[2].injection.weight.detach().numpy(), model[3].weight.detach().numpy()
    expected = np.linalg.norm(u, 2) / 2.0 * np.linalg.norm(head, 2) / 0.25
    assert wp.certify(model, method="product").lipschitz == pytest.approx(expected, rel=1e-6)
    pairs = wp.certify(model, method="product").pairs
    for i in range(4):
        for j in range(4):
            row = np.linalg.norm(head[i] - head[j]) * np.linalg.norm(u, 2) / 2.0 / 0.25
            assert float(pairs[i, j]) == pytest.approx(row, rel=1e-6)


def test_witness_is_a_pair_that_anyone_can_evaluate():
    model = model_of()
    found = wp.witness(model, images())
    exact = copy.deepcopy(model).double()
    exact[2].tolerance = wp.solvers.solution.Tolerance(1e-12, 1e-12)
    with torch.no_grad():
        moved = exact(found.first[None].double()) - exact(found.second[None].double())
    ratio = float(moved.norm() / (found.first - found.second).norm())
    assert ratio >= found.lipschitz
    assert 0 < found.lipschitz <= wp.certify(model).lipschitz


def test_radii_rules_are_ordered_and_hold_under_attack():
    model = model_of(m=1.0)
    x = images(64)
    labels = model(x).argmax(1)
    certificate = wp.certify(model)
    found = {rule: certificate.evaluate(x, labels, rule=rule) for rule in ("paper", "sqrt2", "pairs")}
    assert (found["paper"] <= found["sqrt2"]).all()
    assert (found["sqrt2"] <= found["pairs"] * (1 + 1e-6)).all()
    assert (found["pairs"] > 0).float().mean() > 0.9
    # Gradient steps on the margin, then random directions, inside the certified ball.
    radius = found["pairs"]
    for _ in range(20):
        delta = torch.randn_like(x)
        point = (x + 0.1 * delta).requires_grad_()
        logits = model(point)
        truth = logits.gather(1, labels[:, None])[:, 0]
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        direction = torch.autograd.grad((others - truth).sum(), point)[0] + 0.01 * delta
        direction = direction / direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        moved = x + (0.999999 * radius).float().reshape(-1, 1, 1, 1) * direction
        assert (model(moved).argmax(1) == labels).all()


def test_the_error_of_the_logits_is_counted():
    logits = testing.tensor([[2.0, 1.0, 0.0]])
    labels = testing.tensor([0])
    pairs = testing.ones(3, 3, dtype=torch.float64)
    plain = radii(logits, labels, 1.0, pairs, "pairs")
    assert float(plain) == pytest.approx(1.0)
    assert float(radii(logits, labels, 1.0, pairs, "pairs", testing.tensor([0.1]))) == pytest.approx(1 - 0.2 * 2**0.5)
    assert float(radii(logits, labels, 1.0, pairs, "pairs", testing.tensor([torch.inf]))) == 0.0
    assert float(radii(logits, labels, 1.0, pairs, "paper")) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "logits",
    [
        [[1.0, 1.0, 0.0]],
        [[torch.nan, 1.0, 0.0]],
        [[1.0, -torch.inf, 0.0]],
        [[torch.inf, 1.0, 0.0]],
        [[0.0, 1.0, 0.0]],
    ],
    ids=["tie", "nan", "minus infinity", "infinity", "wrong"],
)
def test_nothing_is_certified_for_ties_nan_infinity_or_errors(logits):
    pairs = testing.ones(3, 3, dtype=torch.float64)
    for rule in ("paper", "sqrt2", "pairs"):
        assert float(radii(testing.tensor(logits), testing.tensor([0]), 1.0, pairs, rule)) == 0.0


def test_tiny_weights_do_not_underflow_to_a_certificate():
    model = model_of()
    with torch.no_grad():
        model[3].weight.mul_(1e-38)
        model[3].weight.mul_(1e-5)  # subnormal in float32
    certificate = wp.certify(model)
    assert certificate.lipschitz > 0
    nonzero = (model[3].weight[0] != model[3].weight[1]).any()
    assert not nonzero or float(certificate.pairs[0, 1]) > 0


def test_a_solve_that_stops_short_certifies_no_more_than_the_truth():
    model = model_of()
    x = images(100)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        truth = exact(x.double())
    y = truth.argmax(1)
    full = wp.certify(model).radius(truth, y)
    for steps in (1, 3, 5):
        model[2].max_steps = steps
        certificate = wp.certify(model)
        with pytest.warns(wp.NotConvergedWarning):
            result = bounded_logits(model, x)
        assert ((result.logits.double() - truth).norm(dim=1) <= result.error).all()
        with pytest.warns(wp.NotConvergedWarning):
            found = certificate.evaluate(x, y)
        assert (found <= full).all()
        short = torch.isinf(result.error)
        assert bool(short.any()) and not bool(found[short].any())


def test_solves_at_their_rounding_floor_certify_nothing():
    """Weights and inputs so far from each other that float64 cannot reach the tolerance: bounded, and yet not covered."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(wp.NEMON(7, 2, mu=0.9, dtype=torch.float64), torch.nn.Linear(2, 2, dtype=torch.float64))
    x = 1e12 * testing.randn(60, 7, dtype=torch.float64)
    with torch.no_grad():
        model[0].injection.weight.mul_(1e-8)
        labels = model[1](model[0].state(x)).argmax(1)
        model[0].tolerance = wp.solvers.solution.Tolerance(1e-16, 0.0)
        with pytest.warns(wp.NotConvergedWarning):
            converged = model[0].solve(x).converged
        with pytest.warns(wp.NotConvergedWarning):
            radii = wp.certify(model).evaluate(x, labels)
    assert not bool(converged.all()) and not bool(radii[~converged].any())


def test_logit_errors_bound_the_truth():
    model = model_of()
    model[2].tolerance = wp.solvers.solution.Tolerance(1e-2, 1e-2)
    exact = copy.deepcopy(model).double()
    exact[2].tolerance = wp.solvers.solution.Tolerance(1e-12, 1e-12)
    x = images(200)
    result = bounded_logits(model, x)
    with torch.no_grad():
        error = (result.logits.double() - exact(x.double())).norm(dim=1)
    assert (error <= result.error).all()
    assert float((result.error / error).median()) < 30


def test_every_claim_is_proved_again_and_about_its_network():
    model = model_of()
    certificate = wp.certify(model, inputs=images(8))
    assert certificate.check() and certificate.check(model)
    for changes, words in (
        ({"lipschitz": certificate.lipschitz * 0.99}, "lipschitz"),
        ({"pairs": certificate.pairs * 0.99}, "pairs"),
    ):
        with pytest.raises(wp.CertificateError, match=words):
            dataclasses.replace(certificate, **changes).check()
    with pytest.raises(wp.CertificateError, match="contradiction"):
        dataclasses.replace(certificate, lower_bound=certificate.lipschitz * 2)
    with torch.no_grad():
        model[3].weight.view(-1)[0] += 1e-6
    with pytest.raises(wp.CertificateError, match="another network"):
        certificate.check(model)
    assert certificate.check()


def test_certify_refuses_what_it_does_not_know():
    with pytest.raises(wp.CertificateError, match="no Lipschitz constant is known for a ConvTranspose2d"):
        wp.certify(torch.nn.Sequential(torch.nn.ConvTranspose2d(1, 2, 3)))
    with pytest.raises(wp.CertificateError, match="dropout is active"):
        wp.certify(torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(3, 2)).train())
    with pytest.raises(wp.InputError, match="norm=7"):
        wp.certify(model_of(), norm=7)
    model = model_of()
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(wp.InputError, match="NaN"):
        wp.certify(model)
    certificate = wp.certify(wp.MonDEQ(3, 4))
    assert certificate.pairs is None
    with pytest.raises(wp.InputError, match="rule='pairs'"):
        certificate.radius(testing.randn(2, 4), testing.tensor([0, 1]), rule="pairs")
    with pytest.raises(wp.InputError, match="forward='no'"):
        certificate.evaluate(testing.rand(2, 1, 4, 4), torch.tensor([0, 1]), forward="no")
    with pytest.raises(wp.InputError, match="labels"):
        certificate.radius(testing.randn(2, 4), testing.tensor([0, 7]))


def test_perturbation_bound_holds_and_is_not_vacuous():
    ratios = []
    for seed in range(6):
        torch.manual_seed(seed)
        layer = wp.MonDEQ(10, 12, m=1.0, dtype=torch.float64)
        other = copy.deepcopy(layer)
        scale = 10.0 ** -(seed + 1)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
        x = testing.randn(50, 10, dtype=torch.float64)
        bound = wp.perturbation_bound(layer, other, x)
        moved = (layer(x) - other(x)).norm(dim=1)
        assert (moved <= bound + 1e-9).all()
        ratios.append(float((bound / moved).detach().median()))
    assert max(ratios) < 20


def test_perturbation_bound_is_attained_by_a_shift_of_the_bias():
    layer = wp.MonDEQ(4, 4, m=0.5, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        layer.constraint.A.zero_()
        layer.constraint.B.zero_()
        layer.injection.bias.fill_(5.0)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.injection.bias.add_(0.1)
    x = 0.1 * testing.randn(5, 4, dtype=torch.float64)
    moved = (layer(x) - other(x)).norm(dim=1)
    torch.testing.assert_close(wp.perturbation_bound(layer, other, x), moved, rtol=1e-8, atol=0)


def trained_norms(squares):
    """The norms that the paper's notebook prints."""
    spectral = (5.0687, 15.9904, 0.5578, 4.7987)
    return Norms(width=40, in_features=784, classes=10, m=20.0, spectral=spectral, squares=squares)


class TestPacBayes:
    def evaluate(self, **options):
        model = model_of(m=1.0)
        x = images(128)
        logits = model(x).detach()
        return wp.pac_bayes(model, logits, logits.argmax(1), **{"radius": 10.0, "gamma": 1.0, **options})

    def test_published_numbers(self):
        """The appendix's formula at the norms that the paper's notebook prints: 23 660.6, and 23 646.5 at the best c₁."""
        module = importlib.import_module("wellposed.generalisation.pac_bayes")
        squares = (55.686, 47.723, 1747.613, 0.3112, 110.891, 0.1351)
        norms = trained_norms(squares)
        blocks = module._Blocks(norms, 1962.359)

        def bound(c1, evaluate):
            return 4 * math.sqrt(evaluate(blocks, 4096, 50.0, 10.0, 0.1, c1) / 4095)

        assert bound(1e-4, module._published) == pytest.approx(23660.6, rel=1e-4)
        best = 10.0 ** golden_section(lambda k: bound(10.0**k, module._published), -12.0, -0.1, 1e-12)
        assert bound(best, module._published) == pytest.approx(23646.5, rel=1e-4)
        assert bound(1e-4, module._repaired) == pytest.approx(14439, rel=2e-3)
        assert tightened(norms, 0.0, 4096, radius=50.0, gamma=10.0, delta=0.1) == pytest.approx(157.0, rel=1e-3)

    def test_tightened_deviations_are_nearly_the_best(self):
        """Against a general solver, which knows nothing of their form."""
        squares = (55.686, 47.723, 1747.613, 0.3112, 110.891, 0.1351)
        norms = trained_norms(squares)
        found = np.log(deviations(norms, 50.0, 10.0, 3.0))

        def kl(logarithms):
            return sum(square / 2.0 * math.exp(-2.0 * s) for square, s in zip(squares, logarithms, strict=True))

        def room(logarithms):
            change = output_change(norms, tails(norms, tuple(np.exp(logarithms)), 3.0), 50.0)
            return math.log(10.0 / (2.0 * math.sqrt(2.0))) - math.log(change)

        assert room(found) >= -1e-12
        best = scipy.optimize.minimize(
            lambda s: math.log(kl(s)), found - 0.5, constraints={"type": "ineq", "fun": room}, method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )  # fmt: skip
        assert best.success and kl(found) <= math.exp(best.fun) * 1.001

    @pytest.mark.parametrize("m", [0.3, 5.0])
    def test_noise_within_its_tails_moves_no_margin_by_half_of_gamma(self, m):
        torch.manual_seed(0)
        layer, head = wp.MonDEQ(9, 6, m=m, dtype=torch.float64), torch.nn.Linear(6, 3, dtype=torch.float64)
        model = torch.nn.Sequential(layer, head)
        x = testing.randn(200, 9, dtype=torch.float64)
        x = 2.0 * x / x.norm(dim=1, keepdim=True)
        norms = importlib.import_module("wellposed.generalisation.pac_bayes")._blocks(model).norms
        gamma, tail = 4.0, 2.5
        sigmas, _ = on_grid(deviations(norms, 2.0, gamma, tail))
        limits = tails(norms, sigmas, tail)
        before = model(x).detach()
        inside, largest = 0, 0.0
        for _ in range(300):
            noisy = copy.deepcopy(model)
            parts = (
                noisy[0].constraint.A, noisy[0].constraint.B, noisy[0].injection.weight, noisy[0].injection.bias,
                noisy[1].weight, noisy[1].bias,
            )  # fmt: skip
            noise = [sigma * torch.randn_like(part) for sigma, part in zip(sigmas, parts, strict=True)]
            sizes = [part.norm() if part.ndim == 1 else torch.linalg.matrix_norm(part, 2) for part in noise]
            within = all(float(size) <= limit for size, limit in zip(sizes, limits, strict=True))
            inside += within
            with torch.no_grad():
                for part, added in zip(parts, noise, strict=True):
                    part.add_(added)
                moved = noisy(x) - before
            if within:
                largest = max(largest, float((moved.amax(1) - moved.amin(1)).max()))
        assert inside / 300 >= 1.0 - 6.0 * math.exp(-0.5 * tail**2)
        assert 0.01 * gamma < largest <= 0.5 * gamma

    def test_optimised_constant_is_no_worse(self):
        assert self.evaluate(version="tightened").value < self.evaluate(version="repaired").value
        for version in ("published", "repaired"):
            best = self.evaluate(version=version)
            for c1 in (1e-6, 1e-3, 0.3):
                assert best.value <= self.evaluate(version=version, c1=c1).value * (1 + 1e-9)

    def test_monotone_in_its_arguments(self):
        for version in ("published", "repaired", "tightened"):

            def complexity(version=version, **options):
                return self.evaluate(version=version, **options).complexity

            first = complexity(gamma=1.0, radius=10.0, delta=0.1)
            assert complexity(gamma=2.0) < first
            assert complexity(radius=20.0) > first
            assert complexity(delta=0.01) > first
            assert self.evaluate(gamma=1e9, version=version).empirical_margin_loss == 1.0

    def test_refusals(self):
        with pytest.raises(wp.InputError, match="gamma=-1"):
            self.evaluate(gamma=-1.0)
        with pytest.raises(wp.InputError, match="c1"):
            self.evaluate(version="tightened", c1=0.1)
        with pytest.raises(wp.CertificateError, match="one monotone layer"):
            wp.pac_bayes(torch.nn.Linear(2, 2), testing.randn(4, 2), testing.zeros(4, dtype=torch.long), radius=1.0)
        trained = torch.nn.Sequential(torch.nn.Linear(3, 4), wp.MonDEQ(4, 5), torch.nn.Linear(5, 2))
        with pytest.raises(wp.CertificateError, match="before the layer"):
            wp.pac_bayes(trained, testing.randn(9, 2), testing.zeros(9, dtype=torch.long), radius=1.0)

    @pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e8])
    def test_tightened_at_every_scale(self, scale):
        squares = tuple(scale**2 * part for part in (1.0, 2.0, 3.0, 0.0, 4.0, 0.0))
        for zeros in ((2,), (0,), (3,), (1, 2)):
            spectral = tuple(0.0 if k in zeros else scale for k in range(4))
            norms = Norms(width=4, in_features=5, classes=3, m=1.0, spectral=spectral, squares=squares)
            found = deviations(norms, 2.0, 1.0, 3.0)
            change = output_change(norms, tails(norms, found, 3.0), 2.0)
            assert 0.999 / (2.0 * math.sqrt(2.0)) <= change <= 1.0 / (2.0 * math.sqrt(2.0))
            assert tightened(norms, 0.0, 100, radius=2.0, gamma=1.0, delta=0.1) > 0.0


def test_only_what_no_solver_error_explains_counts_as_misclassified():
    model = model_of()
    x = images(50)
    exact = wp.materialise(model).exact
    with torch.no_grad():
        truth = exact(x.double())
    runner_up = truth.topk(2, dim=1).indices[:, 1]
    assert surely_misclassified(exact, x.double(), runner_up).all()
    assert not surely_misclassified(exact, x.double(), truth.argmax(1)).any()
    model[2].max_steps = 1  # an error larger than the margins
    with pytest.warns(wp.NotConvergedWarning):
        unsure = surely_misclassified(model, x, runner_up)
    assert not unsure.all()


def test_a_module_that_occurs_twice_counts_twice():
    linear = torch.nn.Linear(5, 5, bias=False)
    with torch.no_grad():
        linear.weight.copy_(3 * testing.eye(5))
    model = torch.nn.Sequential(linear, torch.nn.ReLU(), linear)
    assert wp.certify(model).lipschitz == pytest.approx(9.0)
    x = testing.rand(3, 5)
    torch.testing.assert_close(bounded_logits(model, x).logits, model(x))


def test_whoever_computes_something_else_is_not_certified():
    class Residual(torch.nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Louder(torch.nn.Linear):
        def forward(self, x):
            return 10 * super().forward(x)

    class LouderDEQ(wp.MonDEQ):
        def forward(self, x):
            return 10 * super().forward(x)

    hooked = torch.nn.Linear(5, 5)
    hooked.register_forward_hook(lambda module, given, found: 10 * found)
    for block in (LouderDEQ(5, 5), hooked):
        with pytest.raises(wp.CertificateError):
            wp.certify(torch.nn.Sequential(block, torch.nn.Linear(5, 3)))
    for block in (Residual(torch.nn.Linear(5, 5)), Louder(5, 5)):  # whose forward says what they compute
        linear = torch.nn.Sequential(block, torch.nn.Linear(5, 3, bias=False))
        matrix = linear(testing.eye(5)) - linear(testing.zeros(1, 5))
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= wp.certify(linear).lipschitz * (1.0 + 1e-6)
    with pytest.raises(wp.CertificateError, match="empty Sequential"):
        wp.certify(torch.nn.Sequential())


@pytest.mark.parametrize(
    "damage",
    [
        {"lipschitz": float("nan")},
        {"pairs": testing.tensor([[1e9]])},
        {"pairs": testing.full((4, 4), float("nan"))},
        {"lower_bound": 1e9},
        {"lower_bound": float("nan")},
        {"bounds": ()},
        {"witness": None},
    ],
)
def test_tampered_certificates_are_refused(damage):
    certificate = wp.certify(model_of(), inputs=images(4))
    with pytest.raises(wp.CertificateError):
        dataclasses.replace(certificate, **damage).check()
    first, second = certificate.witness
    with pytest.raises(wp.CertificateError, match="witness"):
        dataclasses.replace(certificate, witness=(first[:, :2], second[:, :2])).check()
    with pytest.raises(wp.CertificateError, match="metric"):
        with_tail(
            certificate, dataclasses.replace(certificate.tail, multipliers=certificate.tail.multipliers[:0])
        ).check()
    assert certificate.check()


def test_theorem_2_is_refused_where_its_proof_fails():
    x = testing.zeros(1, 3)
    with pytest.raises(wp.CertificateError, match="zero at zero"):
        wp.perturbation_bound(wp.MonDEQ(3, 6, activation="sigmoid"), wp.MonDEQ(3, 6, activation="sigmoid"), x)
    with pytest.raises(wp.InputError, match="has the activation tanh"):
        wp.perturbation_bound(wp.MonDEQ(3, 6), wp.MonDEQ(3, 6, activation="tanh"), x)
    with pytest.raises(wp.InputError, match="must be a finite tensor"):
        wp.perturbation_bound(wp.MonDEQ(3, 6), wp.MonDEQ(3, 6), x / 0)


def test_rounding_of_the_normalisation_is_counted():
    torch.manual_seed(0)
    w = testing.randn(4, 32)
    model = torch.nn.Sequential(wp.Normalize((0.0,), (0.3,)), torch.nn.Flatten(), wp.MonDEQ(64, 4, m=0.5))
    with torch.no_grad():
        model[2].injection.weight.copy_(torch.cat([w, -w], 1))
    x = 1e5 * testing.rand(50, 1, 4, 8)
    x = torch.cat([x + 0.1 * torch.rand_like(x), x], 3)
    result = bounded_logits(model, x)
    exact = copy.deepcopy(model).double()
    exact[2].tolerance = wp.solvers.solution.Tolerance(1e-12, 1e-12)
    mean_std = (x.double() / model[0].std.double()).flatten(1)
    with torch.no_grad():
        truth = exact[2](mean_std)
    assert ((result.logits.double() - truth).norm(dim=1) <= result.error).all()
