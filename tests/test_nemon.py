"""The ℓ∞ layer through the shared case, and what is particular to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.activations import LeakyReLU
from wellposed.guarantee.majorant import majorant
from wellposed.testing import LayerCase, trained


def exact_majorant(weight):
    return np.abs(weight) - np.diag(np.abs(np.diag(weight)) - np.diag(weight))


class TestNEMON(LayerCase):
    mu = 0.2

    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(2)
        layer = wp.NEMON(7, 6, **{"mu": self.mu, "dtype": dtype, **options})
        with torch.no_grad():
            layer.constraint.T.normal_(std=0.5)
            layer.constraint.slack.uniform_(-4, 0)
            layer.constraint.log_weights.uniform_(-0.7, 0.7)
        return layer

    def true_state(self, layer, x):
        """Elimination of the diagonal, in numpy: a contraction in a weighted ℓ∞ norm."""
        weight = layer.operator().dense().detach().double().numpy()
        offset = (
            x.detach() @ layer.injection.weight.detach().double().T + layer.injection.bias.detach().double()
        ).numpy()
        diagonal = np.diag(weight)
        off = weight - np.diag(diagonal)
        z = np.zeros_like(offset)
        for _ in range(5000):
            z = np.maximum(z @ off.T + offset, 0.0) / (1.0 - diagonal)
        return testing.tensor(z)

    def condition(self, layer):
        weight = layer.operator().dense().detach().double().numpy()
        return 1.0 - max(np.linalg.eigvals(exact_majorant(weight)).real)

    def test_converges_within_the_steps_that_its_guarantee_predicts(self):
        for solver in (None, wp.Averaged()):
            layer = trained(self.make_layer(atol=0.0, rtol=1e-6, solver=solver))
            guarantee = layer.materialise()[1]
            plan = guarantee.forward_backward_plan() if solver is None else solver.plan(guarantee)
            x = self.inputs(20)
            solution = layer.solve(x)
            first = float(layer.activation(layer.injection(x)).detach().norm(dim=1).max()) * float(
                torch.as_tensor(plan.step).max()
            )
            # The solver stops on a certified bound: ‖G W(z − f(z))‖.
            smallest = float(solution.value.detach().norm(dim=1).min())
            loss = guarantee.offset_lipschitz() * layer.operator().norm_upper_bound() * 2.0
            assert int(solution.steps.max()) <= plan.iterations(first, 1e-6 * smallest / loss)

    def promised(self, layer):
        proof = layer.materialise()[1].majorant  # raises, or proves it by a positive vector
        weight = layer.operator().dense().detach().double().numpy()
        diagonal = np.diag(weight)
        gaps = np.min([(1 - e * diagonal) / abs(e) for e in layer.activation.slope_range if e], axis=0)
        away = np.diag(gaps) - np.abs(weight - np.diag(diagonal))
        assert (away @ proof.weights.numpy() > 0).all()
        return 0.0

    def test_log_norm_is_what_it_says(self):
        layer = self.make_layer()
        weight = layer.operator().dense().detach().numpy()
        eta = layer.constraint.log_weights.detach().exp().numpy()
        norms = (exact_majorant(weight) @ eta) / eta
        slack = np.logaddexp(layer.constraint.slack.detach().numpy(), 0.0)
        np.testing.assert_allclose(norms, self.mu - slack, atol=1e-12)

    def test_mu_travels_with_the_weights(self):
        layer, other = self.make_layer(), self.make_layer(mu=-1.0)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(self.inputs()), layer(self.inputs()))
        for bad in (1.0, 2.0, float("nan"), float("-inf")):
            with pytest.raises(wp.InputError, match="below one|mu=nan: must be a number"):
                self.make_layer(mu=bad)


class TestCloseToOne(TestNEMON):
    mu = 0.97
    largest_overestimate = 100.0  # signs cancel in W, and not in M(W)

    def exact_layer(self):
        return self.make_layer(rtol=1e-10, atol=1e-10, activation="tanh")


@pytest.mark.parametrize("seed", range(20))
def test_majorant_bounds_the_exact_inverse(seed):
    torch.manual_seed(seed)
    weight = wp.NEMON(3, 12, mu=0.9 if seed % 2 else -2.0).operator().dense().detach()
    proof = majorant(weight)
    away = np.eye(12) - exact_majorant(weight.double().numpy())
    exact = np.linalg.inv(away)
    assert (proof.sensitivity.numpy() >= exact * (1 - 1e-13)).all()
    np.testing.assert_allclose(proof.sensitivity.numpy(), exact, rtol=1e-9, atol=1e-12)
    jacobi = np.diag(1 / (1 - np.diag(weight.double().numpy()))) @ np.abs(weight.double().numpy() * (1 - np.eye(12)))
    assert max(abs(np.linalg.eigvals(jacobi))) <= proof.jacobi * (1 + 1e-9) < 1
    averaged = wp.Componentwise(wp.NEMON(3, 12).operator()).averaged_plan()
    assert 0 < averaged.step <= 1
    assert proof.jacobi <= 1 - (1 - max(proof.log_norm, 0)) / (1 - min(np.diag(weight).min(), 0)) + 1e-12


def test_optimal_step_and_factor_of_the_averaged_iteration():
    weight = testing.tensor([[-3.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
    guarantee = wp.Componentwise(wp.operators.Dense(weight))
    plan = guarantee.averaged_plan()
    assert plan.step == pytest.approx(1 / 4)  # 1/(1 − min W_ii)
    log_norm = max(guarantee.majorant.log_norm, 0.0)
    assert plan.factor == pytest.approx(1 - (1 - log_norm) / 4)
    assert guarantee.averaged_plan(0.3) is None  # beyond the optimal step nothing is proved


def test_sensitivity_is_attained_by_positive_systems():
    torch.manual_seed(0)
    layer = wp.NEMON(4, 8, mu=0.5, dtype=torch.float64, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        layer.constraint.T.abs_()
        layer.injection.weight.abs_()
        layer.injection.bias.fill_(1.0)
    x = testing.rand(1, 4, dtype=torch.float64)
    jacobian = torch.func.jacrev(layer)(x)[0, :, 0]
    row_sum = float(jacobian.abs().sum(1).max())
    assert row_sum == pytest.approx(float(layer.gain()), rel=1e-9)
    value = layer.lipschitz()[0]
    assert float(torch.linalg.matrix_norm(jacobian, 2)) <= value


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "sigmoid"])
def test_gains_are_never_exceeded_and_below_the_published_bound(activation):
    torch.manual_seed(1)
    layer = wp.NEMON(4, 8, mu=0.5, dtype=torch.float64, activation=activation, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.constraint.T.normal_(std=0.6)
        layer.constraint.log_weights.uniform_(-1, 1)
    head = testing.randn(3, 8, dtype=torch.float64)
    x = 3 * testing.randn(300, 4, dtype=torch.float64)
    jacobians = head @ torch.func.vmap(torch.func.jacrev(layer))(x)
    eta = layer.constraint.log_weights.exp().detach()
    inner = (layer.injection.weight.abs().sum(1) / eta).max()
    published = (head.abs() @ eta).max() * inner / (1 - 0.5)
    assert float(jacobians.abs().sum(2).max()) <= float(layer.gain(head)) <= float(published) * (1 + 1e-12)
    assert float(jacobians.abs().sum(1).max()) <= float(layer.gain(head, norm="1"))
    layer.gain(head).backward()
    assert float(layer.constraint.T.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hardtanh", "tanh", "softplus"])
def test_every_solver_finds_the_same_equilibrium(name):
    torch.manual_seed(3)
    options = {"mu": 0.8, "dtype": torch.float64, "activation": name, "rtol": 1e-11, "atol": 1e-11}
    layer = wp.NEMON(4, 8, **options)
    x = testing.randn(6, 4, dtype=torch.float64)
    expected = layer(x)
    again = layer.activation(expected @ layer.operator().dense().T + layer.injection(x))
    torch.testing.assert_close(expected, again, rtol=1e-9, atol=1e-9)
    for solver in (
        wp.Averaged(),
        wp.PeacemanRachford(),
        wp.DouglasRachford(),
        wp.Anderson(),
        wp.Newton(),
        wp.Broyden(),
    ):
        layer.solver = solver
        torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def test_a_monotone_layer_has_in_general_no_componentwise_guarantee():
    torch.manual_seed(0)
    operator = wp.MonDEQ(5, 30, m=0.5).operator()
    with pytest.raises(wp.GuaranteeError, match="M-matrix"):
        _ = wp.Componentwise(operator).majorant


def test_certificates_read_the_sensitivity():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), wp.NEMON(8, 10, mu=0.5), torch.nn.Linear(10, 3))
    certificate = wp.certify(model, inputs=testing.randn(20, 8))
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    assert "componentwise" in certificate.factors[1].reason
    assert certificate.check()


class TestSlopesOutsideTheUnitInterval(TestNEMON):
    """gelu: slopes in [−0.129, 1.129]."""

    mu = 0.2

    def make_layer(self, dtype=torch.float64, **options):
        return super().make_layer(dtype, **{"activation": "gelu", **options})

    def true_state(self, layer, x):
        from scipy.special import erf

        weight = layer.operator().dense().detach().double().numpy()
        offset = (
            x.detach() @ layer.injection.weight.detach().double().T + layer.injection.bias.detach().double()
        ).numpy()
        sigma = {"gelu": lambda v: 0.5 * v * (1 + erf(v / np.sqrt(2))), "tanh": np.tanh}[repr(layer.activation)]
        z = np.zeros_like(offset)
        for _ in range(20000):
            z = z + 0.1 * (sigma(z @ weight.T + offset) - z)
        return testing.tensor(z)

    def condition(self, layer):
        weight = layer.operator().dense().detach().double().numpy()
        low, high = layer.activation.slope_range
        gaps = np.minimum((1 - low * np.diag(weight)) / abs(low), (1 - high * np.diag(weight)) / high)
        off = np.abs(weight - np.diag(np.diag(weight)))
        return 1.0 - max(np.abs(np.linalg.eigvals(off / gaps[:, None])))

    def test_converges_within_the_steps_that_its_guarantee_predicts(self):
        layer = trained(self.make_layer(atol=0.0, rtol=1e-6))
        guarantee = layer.materialise()[1]
        assert wp.solvers.solver_for(guarantee) == wp.Averaged()
        plan = guarantee.averaged_plan()
        assert guarantee.reflected_plan() is None and guarantee.forward_backward_plan() is None
        x = self.inputs(20)
        solution = layer.solve(x)
        first = float(layer.activation(layer.injection(x)).detach().norm(dim=1).max())
        smallest = float(solution.value.detach().norm(dim=1).min())
        loss = guarantee.offset_lipschitz() * layer.operator().norm_upper_bound() * 2.0
        assert int(solution.steps.max()) <= plan.iterations(first, 1e-6 * smallest / loss)

    def test_sampled_changes_are_within_the_sensitivity(self):
        layer = self.make_layer(rtol=1e-12, atol=1e-12)
        sensitivity = layer.materialise()[1].sensitivity
        offsets = testing.randn(200, 7, dtype=torch.float64) * 3
        moved = offsets + torch.randn_like(offsets) * 10.0 ** testing.linspace(-4, 1, 200)[:, None]
        change = (layer(offsets) - layer(moved)).abs().detach()
        reach = ((moved - offsets) @ layer.injection.weight.detach().T).abs() @ sensitivity.T
        assert (change <= reach * (1 + 1e-9) + 1e-11).all()
        jacobians = torch.func.vmap(torch.func.jacrev(layer))(offsets)
        gain = float(layer.gain().detach())
        assert float(jacobians.abs().sum(2).max()) <= gain * (1 + 1e-9)

    def test_mu_must_suit_the_slopes(self):
        with pytest.raises(wp.InputError, match="must be below 0.88"):
            wp.NEMON(7, 6, mu=0.9, activation="gelu")


def test_leaky_slopes_contract_faster_where_mu_is_negative():
    """The averaged iteration has 1 − α(1 − max(μ, aμ)) for slopes in [a, 1]: −aμ is gained for μ < 0."""
    torch.manual_seed(0)
    factors = {}
    for name in ("relu", "leaky_relu"):
        activation = LeakyReLU(0.5) if name == "leaky_relu" else name
        layer = wp.NEMON(5, 8, mu=-2.0, activation=activation)
        with torch.no_grad():
            layer.constraint.slack.fill_(-20.0)
            layer.constraint.T.normal_(generator=testing.generator(1), std=0.3)
        guarantee = layer.materialise()[1]
        plan = guarantee.averaged_plan()
        factors[name] = (1 - plan.factor) / plan.step
    assert factors["relu"] == pytest.approx(1.0, abs=1e-6)
    assert guarantee.majorant.log_norm < -1.5
    assert factors["leaky_relu"] == pytest.approx(1.0 - 0.5 * guarantee.majorant.log_norm, rel=1e-9)
