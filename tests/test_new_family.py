"""A family of one's own needs nothing but its constraint: solvers, gradients, evidence and certificates follow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.activations import TorchForm
from wellposed.constraints import Constraint
from wellposed.guarantee import Plan
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.verified import spectral_norm_upper_bound
from wellposed.operators import Dense
from wellposed.testing import LayerCase, picard_numpy


class NormBall(wp.Guarantee):
    """‖W‖₂ < 1 and slopes in [0, 1]: a contraction."""

    theorem = "Banach: ‖W‖₂ < 1"
    lipschitz_theorem = "Banach: 1/(1 − ‖W‖₂)"

    def __init__(self, operator):
        self.operator = operator

    @property
    def norm(self):
        return self.operator.remembered("norm", lambda: spectral_norm_upper_bound(self.operator.dense()))

    def picard_plan(self):
        return Plan(1.0, self.norm)

    def error_bound(self, point, image):
        return self.norm * euclidean(image - point) / (1.0 - self.norm)

    def defect_bound(self, defect, size):
        return size / (1.0 - self.norm)

    def offset_lipschitz(self):
        return 1.0 / (1.0 - self.norm) * (1.0 + 1e-15)

    def on(self, operator):
        return NormBall(operator)


@dataclass(frozen=True)
class Twice(wp.Solver):
    """Picard's iteration, two steps at a time: a solver of one's own asks a guarantee for what fits."""

    def plan(self, guarantee):
        plan = guarantee.picard_plan()
        return None if plan is None else Plan(plan.step, plan.factor**2, plan.distortion)

    def bind(self, problem, guarantee, start, like):
        iteration = wp.Picard().bind(problem, guarantee, start, like)
        once = iteration.advance
        iteration.advance = lambda: (once(), once())
        return iteration


@wp.register
class Shrunk(Constraint):
    """W = 0.9·V/(1 + ‖V‖_F)."""

    def __init__(self, size, dtype):
        super().__init__()
        self.V = nn.Parameter(testing.randn(size, size, dtype=dtype))

    @property
    def state_features(self):
        return self.V.shape[0]

    def materialise(self):
        operator = Dense(0.9 * self.V / (1.0 + torch.linalg.matrix_norm(self.V)))
        return operator, NormBall(operator)


class TestNewFamily(LayerCase):
    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(0)
        return wp.Equilibrium(nn.Linear(7, 6, dtype=dtype), Shrunk(6, dtype), **options)

    def true_state(self, layer, x):
        offset = x.detach() @ layer.injection.weight.detach().double().T + layer.injection.bias.detach().double()
        return picard_numpy(layer.operator().dense().detach().double().numpy(), offset.numpy(), "relu")

    def condition(self, layer):
        return 1.0 - float(torch.linalg.matrix_norm(layer.operator().dense().detach().double(), 2))

    def test_converges_within_the_steps_that_its_guarantee_predicts(self):
        layer = self.make_layer(rtol=0.0, atol=1e-9)
        solution = layer.solve(self.inputs(20))
        plan = layer.materialise()[1].picard_plan()
        first = float(layer.injection(self.inputs(20)).relu().norm(dim=1).max())
        assert int(solution.steps.max()) <= plan.iterations(first, 1e-10)

    def promised(self, layer):
        return 0.09

    def test_a_solver_of_ones_own_converges_as_its_plan_says(self):
        layer = self.make_layer(rtol=0.0, atol=1e-9)
        expected = layer.solve(self.inputs(20))
        layer.solver = Twice()
        found = layer.solve(self.inputs(20))
        torch.testing.assert_close(found.value, expected.value, rtol=0.0, atol=2e-9)
        guarantee = layer.materialise()[1]
        assert layer.solver.plan(guarantee).factor == guarantee.norm**2
        assert int(found.steps.max()) <= int(expected.steps.max()) // 2 + 1

    def test_nothing_is_proved_of_other_iterations(self):
        guarantee = self.make_layer().materialise()[1]
        assert guarantee.forward_backward_plan() is None and guarantee.reflected_plan() is None
        assert guarantee.suggested_step() is None
        half = wp.Averaged(0.5).plan(guarantee)
        assert half.step == 0.5 and half.factor == 0.5 + 0.5 * guarantee.norm
        assert wp.Anderson().plan(guarantee) is None
        with pytest.raises(wp.InputError, match="proves no step"):
            self.make_layer(solver=wp.PeacemanRachford()).solve(self.inputs())

    @pytest.mark.float32
    def test_certified_like_any_other(self):
        model = nn.Sequential(self.make_layer(torch.float32), nn.Linear(6, 3))
        certificate = wp.certify(model, inputs=testing.randn(10, 7))
        assert 0 < certificate.lower_bound <= certificate.lipschitz
        assert "Banach" in certificate.factors[0].reason

    def test_bad_weights(self):
        layer = self.make_layer()
        with torch.no_grad():
            layer.constraint.V[0, 0] = torch.nan
        try:
            layer(self.inputs())
        except wp.InputError:
            return
        raise AssertionError

    def test_nothing_is_factorised_again_in_backward_or_while_weights_stand_still(self):
        """There is nothing to factorise, and no cache."""


@wp.register
@dataclass(frozen=True)
class Shrinking(wp.Activation):
    """v − tanh(v), which torch has as a module and as a function: an activation of one's own says so."""

    torch_forms = (TorchForm(lambda: Shrinking(), modules=(nn.Tanhshrink,), functions=(nn.functional.tanhshrink,)),)

    def __call__(self, value):
        return value - torch.tanh(value)

    def derivative(self, value):
        return torch.tanh(value) ** 2


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(nn.functional.tanhshrink(self.first(x)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(wp.MonDEQ(7, 6, activation=Shrinking()), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Linear(7, 6), wp.Elementwise(Shrinking()), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanhshrink(), nn.Linear(6, 3)),
        Written,
    ],
)
def test_an_activation_of_ones_own_works_in_layers_and_between_them(make):
    torch.manual_seed(0)
    model = make()
    x = testing.randn(20, 7)
    network = wp.materialise(model, (7,))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-4)
    for norm in (2, "inf"):
        try:
            certificate = wp.certify(network, norm=norm, inputs=x)
        except wp.CertificateError:
            assert norm == "inf" and isinstance(model, nn.Sequential) and isinstance(model[0], wp.MonDEQ)
            continue
        assert 0.0 < certificate.lower_bound <= certificate.lipschitz
