"""A family of one's own needs nothing but its constraint: solvers, gradients, evidence and certificates follow."""

from __future__ import annotations

import torch
from torch import nn

import wellposed as wp
from wellposed import testing
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
    preferred = "picard"

    def __init__(self, operator):
        self.operator = operator

    @property
    def norm(self):
        return self.operator.remembered("norm", lambda: spectral_norm_upper_bound(self.operator.dense()))

    def plan(self, algorithm, step=None):
        return Plan(1.0, self.norm) if algorithm == "picard" else None

    def error_bound(self, point, image):
        return self.norm * euclidean(image - point) / (1.0 - self.norm)

    def defect_bound(self, defect, size):
        return size / (1.0 - self.norm)

    def offset_lipschitz(self):
        return 1.0 / (1.0 - self.norm) * (1.0 + 1e-15)

    def on(self, operator):
        return NormBall(operator)


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
        plan = layer.materialise()[1].plan("picard")
        first = float(layer.injection(self.inputs(20)).relu().norm(dim=1).max())
        assert int(solution.steps.max()) <= plan.iterations(first, 1e-10)

    def promised(self, layer):
        return 0.09

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
