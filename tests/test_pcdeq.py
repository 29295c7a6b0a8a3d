"""The positive concave layer through the shared case, and what is particular to it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.activations.concave import concave_activation, concave_names, thompson_modulus
from wellposed.testing import LayerCase, trained

NUMPY = {"tanh": np.tanh, "sigmoid": lambda s: 1 / (1 + np.exp(-s))}


class TestVariant1(LayerCase):
    name = "tanh"

    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(2)
        given = {"dtype": dtype, **options, "activation": options.get("activation", self.name)}
        if given["activation"] == "tanh" and self.name == "sigmoid":
            given["activation"] = "sigmoid"  # the shared case asks for a smooth activation
        layer = wp.PcDEQ(7, 6, **given)
        with torch.no_grad():
            layer.constraint.V.uniform_(0.0, 0.9)  # far beyond norm one
        return layer

    def true_state(self, layer, x):
        weight = layer.operator().dense().detach().double().numpy()
        offset = copy.deepcopy(layer.injection).double()(x.detach()).detach().numpy()
        z = np.zeros_like(offset)
        for _ in range(3000):
            z = NUMPY[self.name](z @ weight.T + offset)
        return testing.tensor(z)

    def condition(self, layer):
        return float(layer.operator().dense().min())

    def test_converges_within_the_steps_that_its_guarantee_predicts(self):
        layer = trained(self.make_layer(atol=0.0, rtol=1e-6))
        x = self.inputs(20)
        solution = layer.solve(x)
        # A priori, for every W ≥ 0 and every input: the Thompson distance shrinks by κ at every step.
        factor = layer.thompson_factor
        floor = layer.injection.floor
        start = math.log(1.0 / float(layer.activation(testing.tensor(floor, dtype=torch.float64))))
        guarantee = layer.materialise()[1]
        loss = guarantee.offset_lipschitz() * layer.operator().norm_upper_bound() * 4.0
        target = 1e-6 / loss / 6**0.5
        predicted = 2 + math.ceil(math.log(target / start) / math.log(factor))
        assert int(solution.steps.max()) <= predicted

    def promised(self, layer):
        return 0.0  # W ≥ 0 is all

    def test_bad_input(self):
        layer = self.make_layer()
        with pytest.raises(wp.InputError, match=r"x: has shape \(3, 5\).*takes 7 features"):
            layer(testing.zeros(3, 5, dtype=torch.float64))
        with pytest.raises(wp.InputError, match="x: has NaN or infinite"):
            layer(self.inputs() / 0)
        with pytest.raises(wp.InputError, match="which need not be monotone here"):
            wp.PcDEQ(7, 6, solver=wp.PeacemanRachford())
        with pytest.raises(wp.InputError, match="Did you mean 'tanh'"):
            wp.PcDEQ(7, 6, activation="tahn")
        with pytest.raises(wp.InputError, match="must be positive and finite"):
            wp.PcDEQ(7, 6, floor=0.0)
        with pytest.raises(wp.InputError, match="must be zero for the sigmoid"):
            wp.PcDEQ(7, 6, activation="sigmoid", floor=0.5)


class TestSharpVariant1(TestVariant1):
    """The published offset, with a small floor."""

    def make_layer(self, dtype=torch.float64, **options):
        return super().make_layer(dtype, **{"floor": 1e-3, "sharpness": 5.0, **options})


class TestVariant2(TestVariant1):
    name = "sigmoid"


@pytest.mark.parametrize("floor", [0.01, 0.1, 0.5])
def test_thompson_modulus_against_closed_forms(floor):
    assert thompson_modulus("softsign", floor) == pytest.approx(
        (math.sqrt(1 + floor) - math.sqrt(floor)) ** 2, rel=1e-8
    )
    assert thompson_modulus("relu6", floor) == pytest.approx(1 - floor / 6)
    table = {
        "sigmoid": (0.2763, 0.2573, 0.1854),
        "tanh": (0.9251, 0.6823, 0.2759),
        "exponential": (0.8652, 0.6168, 0.3017),
    }
    place = (0.01, 0.1, 0.5).index(floor)
    for name, values in table.items():
        assert thompson_modulus(name, floor) == pytest.approx(values[place], abs=6e-5)
    assert thompson_modulus("sigmoid", 0.0) == pytest.approx(0.278465, abs=1e-6)  # Lambert W(exp(−1))
    assert thompson_modulus("tanh", 0.2255) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", concave_names())
def test_contraction_in_the_thompson_metric_for_all_weights(name):
    floor = 0.0 if name == "sigmoid" else 0.1
    sigma, factor = concave_activation(name), thompson_modulus(name, floor)
    generator = testing.generator(0)
    for _ in range(200):
        scale = 10.0 ** float(4 * testing.rand((), generator=generator) - 2)
        weight = scale * testing.rand(5, 5, generator=generator, dtype=torch.float64)
        z, w = (testing.rand(50, 5, generator=generator, dtype=torch.float64) * 3 + 1e-3 for _ in range(2))
        b = floor + testing.rand(50, 5, generator=generator, dtype=torch.float64)
        before = (z / w).log().abs().amax(1)
        after = (sigma(z @ weight.T + b) / sigma(w @ weight.T + b)).log().abs().amax(1)
        assert (after <= factor * before * (1 + 1e-9) + 1e-14).all()
    if name == "sigmoid":
        assert factor <= 0.2785


@pytest.mark.parametrize("name", ["tanh", "softsign", "sigmoid", "logarithm", "isru"])
def test_lipschitz_constant_is_that_of_the_floor_and_is_attained(name):
    torch.manual_seed(0)
    layer = wp.PcDEQ(4, 8, activation=name, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        layer.constraint.V.uniform_(0.0, 0.5)
    operator, guarantee = layer.materialise()
    weight, floor = operator.dense().detach(), layer.injection.floor
    z = testing.zeros(8, dtype=torch.float64)
    for _ in range(5000):
        z = layer.activation(weight @ z + floor)
    slopes = layer.activation.derivative(weight @ z + floor)
    exact = torch.linalg.solve(testing.eye(8, dtype=torch.float64) - slopes[:, None] * weight, torch.diag(slopes))
    upper = guarantee.sensitivity
    assert (upper >= exact - 1e-12).all()
    assert float((upper / exact).max()) <= 1.1  # the guarantee leaves an offset room to be pushed 1 % below the floor
    # Attained: difference quotients at the floor; never exceeded: anywhere above it.
    cell = wp.solvers.problem.AffineProblem
    base = testing.full((1, 8), floor, dtype=torch.float64)
    _, _, right = torch.linalg.svd(exact)
    pair = torch.cat([base, base + 1e-6 * right[:1].abs()])

    def solve(offset):
        problem = cell(wp.operators.Dense(weight), offset, layer.activation)
        return wp.fixed_point(problem, torch.zeros_like(offset), solver=wp.Picard(), rtol=1e-14, atol=1e-15).value

    found = solve(pair)
    ratio = float((found[1] - found[0]).norm() / (pair[1] - pair[0]).norm())
    norm = float(torch.linalg.matrix_norm(exact, 2))
    assert ratio == pytest.approx(norm, rel=1e-4)
    first, second = (floor + 2 * testing.rand(500, 8, dtype=torch.float64) for _ in range(2))
    quotients = (solve(first) - solve(second)).norm(dim=1) / (first - second).norm(dim=1)
    assert float(quotients.max()) <= norm * (1 + 1e-9)
    assert guarantee.offset_lipschitz() >= norm


@pytest.mark.parametrize("parametrisation", ["square", "softplus", "projection"])
def test_parametrisations_stay_nonnegative_and_train(parametrisation):
    torch.manual_seed(0)
    layer = wp.PcDEQ(4, 8, parametrisation=parametrisation)
    x, target = testing.randn(64, 4), testing.rand(64, 8)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    losses = []
    for _ in range(200):
        loss = (layer(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        layer.constraint.project()
        losses.append(float(loss.detach()))
        assert (layer.operator().dense() >= 0).all()
    assert losses[-1] < 0.9 * losses[0]
    assert layer.solve(x).converged.all()


def test_certificates_read_the_sensitivity_at_the_floor():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), wp.PcDEQ(8, 10), torch.nn.Linear(10, 3))
    certificate = wp.certify(model, inputs=testing.randn(20, 8))
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    assert "floor" in certificate.factors[1].reason
    assert certificate.check()


def test_batch_normalisation_is_part_of_the_input_map_in_eval_mode():
    torch.manual_seed(0)
    layer = wp.PcDEQ(5, 6, batch_norm=True, rtol=1e-9, dtype=torch.float64)
    norm = torch.nn.BatchNorm1d(6, dtype=torch.float64)
    model = torch.nn.Sequential(layer, norm, torch.nn.Linear(6, 3, dtype=torch.float64))
    for _ in range(20):
        model(3 * testing.randn(64, 5, dtype=torch.float64) + 1)
    with pytest.raises(wp.InputError, match="call eval"):
        layer.solve(testing.randn(8, 5, dtype=torch.float64))
    with pytest.raises((wp.CertificateError, wp.InputError), match="call"):
        wp.certify(model)
    model.eval()
    x = testing.randn(50, 5, dtype=torch.float64)
    inside = layer.injection.numbers()
    torch.testing.assert_close(layer.injection(x), layer.injection.positive_part(inside(x) + inside.bias))
    assert layer.solve(x).converged.all()
    certificate = wp.certify(model, inputs=x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= certificate.lipschitz
    assert certificate.lower_bound <= certificate.lipschitz
    # Errors in single precision, against the model in double precision.
    from wellposed.network import bounded_logits

    single = torch.nn.Sequential(layer, norm, model[2]).float()
    result = bounded_logits(single, x.float())
    exact = bounded_logits(single.double(), x.float().double())
    assert ((result.logits.double() - exact.logits).norm(dim=1) <= result.error + exact.error).all()


SOLVERS = [wp.Picard(), wp.Averaged(0.7), wp.Anderson(), wp.Broyden(), wp.Newton(), wp.NewtonKrylov()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu6", "arcsinh"])
def test_every_solver_stays_on_the_cone_and_finds_its_fixed_point(solver, name):
    """Also from a start near another fixed point: tanh(2z + 0.01) has one near −0.96, and one near −0.01."""
    torch.manual_seed(0)
    layer = wp.PcDEQ(3, 4, activation=name, solver=solver, dtype=torch.float64, rtol=1e-9, atol=1e-9)
    if name != "sigmoid":
        layer.injection.floor = layer.constraint._floor = 0.01
    with torch.no_grad():
        layer.constraint.V.copy_(2.0**0.5 * testing.eye(4) * (0.3 if name in ("relu6", "arcsinh") else 1.0))
        layer.injection.weight.zero_()
        layer.injection.bias.fill_(-40.0)  # the offset is the floor
    x = testing.zeros(5, 3, dtype=torch.float64)
    weight, offset = layer.operator().dense().detach(), layer.injection(x).detach()
    truth = testing.zeros(5, 4, dtype=torch.float64)
    for _ in range(20000):
        truth = layer.activation(truth @ weight.T + offset)
    for start in (None, testing.full((5, 4), -0.9, dtype=torch.float64), 1e3 * testing.ones(5, 4, dtype=torch.float64)):
        solution = layer.solve(x, start)
        assert solution.converged.all(), (start, solution.status)
        error = (solution.value.detach() - truth).norm(dim=1)
        assert (error <= solution.error_bound + 1e-12).all()
        assert (error <= 1e-8 * (1 + truth.norm(dim=1))).all()


@pytest.mark.parametrize("name", ["tanh", "softsign", "sigmoid", "relu6", "logarithm"])
def test_newton_decreases_to_the_fixed_point_from_the_floor(name):
    torch.manual_seed(1)
    layer = wp.PcDEQ(7, 30, activation=name, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.V.uniform_(0.0, 0.25)
    x = testing.randn(50, 7, dtype=torch.float64)
    operator, guarantee = layer.materialise()
    offset = layer.injection(x).detach()
    problem = wp.AffineProblem(operator.rebuild((operator.dense().detach(),)), offset, layer.activation)
    start = guarantee.start(offset)
    iteration = wp.Newton().bind(problem, guarantee, start, offset)
    truth = offset
    for _ in range(5000):
        truth = layer.activation(truth @ operator.dense().detach().T + offset)
    assert (start <= truth + 1e-12).all()
    iteration.advance()
    previous = torch.full_like(truth, torch.inf)
    for _ in range(9):
        iteration.advance()
        assert (iteration.point >= truth - 1e-12 * truth).all()  # an upper bound at every step
        assert (iteration.point <= previous + 1e-12 * truth).all()
        previous = iteration.point
    torch.testing.assert_close(previous, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu6", "logarithm"])
def test_enclosures_contain_the_fixed_point_in_fifty_digits(name, dtype):
    mpmath = pytest.importorskip("mpmath")
    sigma = {
        "tanh": mpmath.tanh, "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)), "logarithm": lambda v: mpmath.log(1 + v),
        "relu6": lambda v: min(max(v, mpmath.mpf(0)), mpmath.mpf(6)),
    }[name]  # fmt: skip
    torch.manual_seed(3)
    layer = wp.PcDEQ(3, 4, activation=name, dtype=dtype)
    with torch.no_grad():
        layer.constraint.V.uniform_(0.0, 0.5)
    x = testing.randn(6, 3).to(dtype)
    lower, upper = layer.enclosure(x)
    assert lower.dtype == upper.dtype == torch.float64
    assert float(((upper - lower) / lower).max()) <= (1e-3 if dtype == torch.float32 else 1e-8)
    with mpmath.workdps(50):
        exact = [[mpmath.mpf(float(w)) for w in row] for row in layer.operator().dense().detach()]
        u = [[mpmath.mpf(float(w)) for w in row] for row in layer.injection.weight.detach()]
        b = [mpmath.mpf(float(w)) for w in layer.injection.bias.detach()]
        floor = mpmath.mpf(layer.injection.floor)
        for row, low, high in zip(x, lower, upper, strict=True):
            v = [
                sum(w * mpmath.mpf(float(t)) for w, t in zip(line, row, strict=True)) + c
                for line, c in zip(u, b, strict=True)
            ]
            p = [max(t, mpmath.mpf(0)) if name == "sigmoid" else floor + mpmath.log(1 + mpmath.exp(t)) for t in v]
            z = [mpmath.mpf(1)] * 4
            for _ in range(400):
                z = [
                    sigma(sum(w * t for w, t in zip(line, z, strict=True)) + c)
                    for line, c in zip(exact, p, strict=True)
                ]
            for value, least, most in zip(z, low.tolist(), high.tolist(), strict=True):
                assert mpmath.mpf(least) <= value <= mpmath.mpf(most)


def test_bounds_hold_where_batch_normalisation_cancels():
    """A bias and a running mean of a million: their difference is the offset."""
    mpmath = pytest.importorskip("mpmath")
    torch.manual_seed(0)
    layer = wp.PcDEQ(2, 3, dtype=torch.float64, batch_norm=True, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        layer.injection.bias.copy_(1e6 + testing.rand(3, dtype=torch.float64))
        layer.injection.norm.running_mean.copy_(1e6 - testing.rand(3, dtype=torch.float64))
        layer.injection.norm.running_var.uniform_(0.5, 2.0)
    layer.eval()
    x = testing.randn(4, 2, dtype=torch.float64)
    solution, (lower, upper) = layer.solve(x), layer.enclosure(x)
    norm = layer.injection.norm
    with mpmath.workdps(50):
        number = lambda t: mpmath.mpf(float(t))  # noqa: E731
        for row in range(4):
            offset = []
            for i in range(3):
                value = number(layer.injection.bias[i]) - number(norm.running_mean[i])
                value += sum(number(layer.injection.weight[i, j]) * number(x[row, j]) for j in range(2))
                value = value / mpmath.sqrt(number(norm.running_var[i]) + mpmath.mpf(norm.eps))
                value = value * number(norm.weight[i]) + number(norm.bias[i])
                offset.append(mpmath.mpf(layer.injection.floor) + mpmath.log(1 + mpmath.exp(value)))
            weight = layer.operator().dense().detach()
            z = [mpmath.mpf(1)] * 3
            for _ in range(300):
                z = [mpmath.tanh(sum(number(weight[i, j]) * z[j] for j in range(3)) + offset[i]) for i in range(3)]
            error = mpmath.sqrt(sum((number(solution.value[row, i]) - z[i]) ** 2 for i in range(3)))
            assert error <= number(solution.error_bound[row])
            assert all(number(lower[row, i]) <= z[i] <= number(upper[row, i]) for i in range(3))


@pytest.mark.parametrize("gradient", [wp.Unrolled(), wp.Phantom(), wp.JacobianFree()])
def test_the_value_is_the_certified_one_whatever_the_gradient(gradient):
    layer = wp.PcDEQ(2, 4, activation="logarithm", gradient=gradient, dtype=torch.float64, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        layer.constraint.V.fill_(0.4)
    x = testing.randn(5, 2, dtype=torch.float64)
    solution = layer.solve(x)
    plain = wp.PcDEQ(2, 4, activation="logarithm", dtype=torch.float64, rtol=1e-14, atol=1e-14)
    plain.load_state_dict(layer.state_dict())
    assert ((solution.value - plain(x)).norm(dim=1) <= solution.error_bound * (1 + 1e-6) + 1e-14).all()
    assert torch.autograd.grad(solution.value.sum(), layer.injection.weight)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "weight", "floor"), [("sigmoid", 37.0, 0.0), ("tanh", 1.0, 17.0), ("tanh", 2.0, 25.0)]
)
def test_constants_of_saturated_units_are_not_lost_to_cancellation(name, weight, floor):
    mpmath = pytest.importorskip("mpmath")
    layer = wp.PcDEQ(1, 1, activation=name, floor=None if name == "sigmoid" else floor, dtype=torch.float64)
    with torch.no_grad():
        layer.constraint.V.fill_(weight**0.5)
    with mpmath.workdps(60):
        sigma = mpmath.tanh if name == "tanh" else lambda v: 1 / (1 + mpmath.exp(-v))
        w = mpmath.mpf(float(layer.operator().dense()[0, 0]))
        z = mpmath.mpf(1)
        for _ in range(100):
            z = sigma(w * z + floor)
        slope = mpmath.diff(sigma, w * z + floor)
        assert slope / (1 - slope * w) <= mpmath.mpf(layer.guarantee().offset_lipschitz())


@pytest.mark.parametrize("floor", [1e-5, 1e-6])
def test_nearly_critical_weights_are_still_guaranteed(floor):
    layer = wp.PcDEQ(1, 1, floor=floor, solver=wp.Newton(), dtype=torch.float64, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        layer.constraint.V.fill_(1.001**0.5)
        layer.injection.bias.fill_(-30.0)
        layer.injection.weight.zero_()
    solution = layer.solve(testing.zeros(1, 1, dtype=torch.float64))
    assert solution.converged.all()
    z, w, q = (
        solution.value.item(),
        layer.operator().dense().item(),
        layer.injection(testing.zeros(1, 1).double()).item(),
    )
    assert abs(math.tanh(w * z + q) - z) <= 1e-9


@pytest.mark.parametrize("scale", [1e-6, 1e-12])
def test_small_cotangents_are_solved_for_as_well_as_large_ones(scale):
    for layer in (wp.PcDEQ(7, 6, dtype=torch.float64), wp.MonDEQ(7, 6, dtype=torch.float64), wp.NEMON(7, 6)):
        x = testing.randn(5, 7, dtype=layer.injection.weight.dtype)
        solution = layer.solve(x)
        (scale * solution.value).sum().backward()
        assert solution.adjoint_reports[0].converged.all()
