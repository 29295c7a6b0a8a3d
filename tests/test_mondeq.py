"""The monotone layer through the shared case, and what is particular to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.activations import monotone_names
from wellposed.constraints import Monotone
from wellposed.testing import LayerCase, monotone_numpy


class TestMonDEQ(LayerCase):
    m = 0.7

    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(2)
        return wp.MonDEQ(7, 6, **{"m": self.m, "dtype": dtype, **options})

    def true_state(self, layer, x):
        weight = layer.operator().dense().detach().double().numpy()
        injection = layer.injection.weight.detach().double()
        offset = (x.detach() @ injection.T + layer.injection.bias.detach().double()).numpy()
        return monotone_numpy(weight, offset, self.m * 0.99)

    def condition(self, layer):
        gap = np.eye(6) - layer.operator().dense().detach().double().numpy()
        return float(np.linalg.eigvalsh(0.5 * (gap + gap.T))[0]) + 1e-13 * np.abs(gap).max()

    def test_state_weight_formula(self):
        layer = self.make_layer()
        a, b = layer.constraint.A, layer.constraint.B
        expected = (1 - self.m) * testing.eye(6, dtype=torch.float64) - a.T @ a + b - b.T
        torch.testing.assert_close(layer.operator().dense(), expected, rtol=1e-14, atol=1e-14)
        gap = np.eye(6) - expected.detach().numpy()
        assert np.linalg.eigvalsh(0.5 * (gap + gap.T))[0] >= self.m - 1e-13

    def test_m_travels_with_the_weights(self):
        layer, other = self.make_layer(), self.make_layer(m=3.0)
        other.load_state_dict(layer.state_dict())
        assert other.constraint.m == self.m
        assert torch.equal(other(self.inputs()), layer(self.inputs()))
        assert layer.float().double().constraint.m == self.m

    @pytest.mark.parametrize("m", [0.0, -1.0, float("nan"), float("inf")])
    def test_m_must_be_positive(self, m):
        with pytest.raises(wp.InputError, match="strong-monotonicity constant|m=nan: must be a number"):
            self.make_layer(m=m)

    @pytest.mark.parametrize("name", monotone_names())
    def test_every_monotone_activation(self, name):
        layer = self.make_layer(activation=name)
        z = layer(self.inputs())
        again = layer.activation(z @ layer.operator().dense().T + layer.injection(self.inputs()))
        torch.testing.assert_close(z, again, rtol=1e-8, atol=1e-9)

    def test_gradients_against_an_unrolled_loop(self):
        layer = self.exact_layer()
        x = self.inputs().requires_grad_()
        cotangent = testing.randn(4, 6, dtype=torch.float64)
        found = torch.autograd.grad((layer(x) * cotangent).sum(), [x, *layer.parameters()])
        weight = layer.operator().dense()
        z = testing.zeros(4, 6, dtype=torch.float64)
        damping = 0.05
        for _ in range(3000):
            z = (1 - damping) * z + damping * torch.tanh(z @ weight.T + layer.injection(x))
        torch.testing.assert_close(z, layer(x), rtol=1e-10, atol=1e-11)
        expected = torch.autograd.grad((z * cotangent).sum(), [x, *layer.parameters()])
        for value, true in zip(found, expected, strict=True):
            torch.testing.assert_close(value, true, rtol=1e-8, atol=1e-9)

    def test_relu_gradients_against_the_closed_form(self):
        layer = self.make_layer(rtol=1e-13, atol=1e-13)
        x = self.inputs()
        z = layer(x).detach()
        weight = layer.operator().dense().detach()
        jacobian = torch.func.vmap(torch.func.jacrev(layer))(x)
        for row, state in enumerate(z):
            mask = torch.diag((state > 0).double())
            inner = torch.linalg.inv(testing.eye(6, dtype=torch.float64) - mask @ weight)
            torch.testing.assert_close(jacobian[row], inner @ mask @ layer.injection.weight, rtol=1e-9, atol=1e-10)

    def test_guarantee_plans(self):
        _, guarantee = self.make_layer().constraint.materialise()
        gap = np.eye(6) - self.make_layer().operator().dense().detach().numpy()
        smooth = np.linalg.norm(gap, 2)
        assert guarantee.smoothness >= smooth
        assert guarantee.smoothness <= smooth * (1 + 1e-9)
        plan = guarantee.reflected_plan()
        assert abs(plan.step - 1 / np.sqrt(self.m * smooth)) < 1e-6
        for found in (guarantee.forward_backward_plan(), plan, guarantee.reflected_plan(relaxation=0.5)):
            assert 0 <= found.factor < 1
        assert guarantee.picard_plan() is None
        assert guarantee.forward_backward_plan(10.0) is None
        # The proven factors hold for the matrices that they are about.
        alpha = plan.step
        cayley = 2 * np.linalg.inv(np.eye(6) + alpha * gap) - np.eye(6)
        assert np.linalg.norm(cayley, 2) <= plan.factor + 1e-9
        forward = guarantee.forward_backward_plan()
        assert np.linalg.norm(np.eye(6) - forward.step * gap, 2) <= forward.factor + 1e-9

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_error_bound_holds_for_any_point(self, activation):
        layer = self.make_layer(activation=activation)
        operator, guarantee = layer.constraint.materialise()
        x = self.inputs(500)
        true = layer.solve(x).value
        for scale in (1e-6, 1e-2, 1.0, 10.0):
            point = true + scale * torch.randn_like(true)
            image = layer.activation(operator.affine(point, layer.injection(x)))
            bound = guarantee.error_bound(point, image)
            assert ((image - true).norm(dim=1) <= bound + 1e-9).all()

    def test_memory_does_not_grow_with_the_iterations(self):
        sizes = []
        for m in (2.0, 1e-3):
            layer = self.make_layer(m=m, rtol=1e-10)
            x = self.inputs()
            saved = 0

            def pack(tensor):
                nonlocal saved
                saved += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                solution = layer.solve(x)
            sizes.append((int(solution.steps.max()), saved))
        assert sizes[1][0] > 3 * sizes[0][0]
        assert sizes[0][1] == sizes[1][1]

    def test_autocast_does_not_reach_the_solve(self):
        layer = self.make_layer(torch.float32)
        x = self.inputs(dtype=torch.float32)
        expected = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(layer(x), expected)

    def test_error_bound_over_many_samples(self):
        torch.manual_seed(11)
        layer = wp.MonDEQ(20, 24, m=1.0, rtol=1e-3, atol=1e-6)
        exact = wp.MonDEQ(20, 24, m=1.0, rtol=1e-12, atol=1e-12, dtype=torch.float64)
        exact.load_state_dict(layer.state_dict())
        weight = layer.operator().dense().detach().double()
        ratios, violations = [], 0
        for seed in range(10):
            x = testing.randn(10_000, 20, generator=testing.generator(seed)) * 10.0 ** (seed % 5 - 2)
            solution = layer.solve(x)
            # The oracle: Newton on the activation pattern of a float64 solve, then a dense linear system per sample.
            offset = x.double() @ layer.injection.weight.detach().double().T + layer.injection.bias.detach().double()
            pattern = (exact.injection(x.double()) * 0 + exact(x.double()) > 0).double().detach()
            system = testing.eye(24, dtype=torch.float64) - pattern[:, :, None] * weight
            true = torch.linalg.solve(system, pattern * offset)
            error = (solution.value.detach().double() - true).norm(dim=1)
            violations += int((error > solution.error_bound).sum())
            ratios.append((solution.error_bound / error.clamp_min(1e-300)).detach())
        assert violations == 0
        assert float(torch.cat(ratios).median()) <= 10


class TestLargeM(TestMonDEQ):
    m = 20.0


def test_rank_deficient_and_degenerate_parameters():
    for fill in ("zero", "rank one", "huge skew"):
        constraint = Monotone(9, 0.5, dtype=torch.float64)
        with torch.no_grad():
            if fill == "zero":
                constraint.A.zero_()
                constraint.B.zero_()
            elif fill == "rank one":
                constraint.A.copy_(torch.outer(testing.randn(9), testing.randn(9)))
            else:
                constraint.B.mul_(1e8)
        operator, guarantee = constraint.materialise()
        gap = np.eye(9) - operator.dense().detach().numpy()
        smallest = np.linalg.eigvalsh(0.5 * (gap + gap.T))[0]
        assert 0 < guarantee.m <= smallest + 1e-15 * np.abs(gap).max() * 9


@pytest.mark.float32
def test_lost_monotonicity_raises():
    constraint = Monotone(8, 1e-6, dtype=torch.float32)
    with torch.no_grad():
        constraint.A.copy_(torch.outer(testing.randn(8), testing.randn(8)) * 1e3)
    with pytest.raises(wp.GuaranteeError, match="lost to rounding"):
        _ = constraint.materialise()[1].m
    layer = wp.MonDEQ(3, 8, m=1e-6)
    layer.constraint.load_state_dict(constraint.state_dict())
    with pytest.raises(wp.GuaranteeError, match="use float64"):
        layer.solve(testing.randn(2, 3))


@pytest.mark.parametrize("certified", [False, True])
def test_adjoint_of_a_sample_without_active_units(certified):
    layer = wp.MonDEQ(3, 5, m=1.0)
    x = testing.randn(4, 3)
    with torch.no_grad():
        layer.constraint.A.mul_(0.1)
        layer.constraint.B.mul_(0.1)
        layer.injection.bias.fill_(-100.0)
    x.requires_grad_()
    solution = layer.solve(x)
    value = solution.value if certified else layer(x)
    assert (value == 0).all()
    assert (torch.autograd.grad(value.sum(), x)[0] == 0).all()
    assert all(report.converged.all() for report in solution.adjoint_reports)


@pytest.mark.parametrize("size", [255, 257, 300])
def test_large_state_weights_follow_the_formula_too(size):
    constraint = Monotone(size, 0.4, dtype=torch.float64)
    a, b = constraint.A.detach().numpy(), constraint.B.detach().numpy()
    matrix = constraint.materialise()[0].dense()
    np.testing.assert_allclose(matrix.detach().numpy(), 0.6 * np.eye(size) - a.T @ a + b - b.T, atol=1e-12)
    cotangent = testing.randn(size, size, dtype=torch.float64)
    matrix.backward(cotangent)
    g = cotangent.numpy()
    np.testing.assert_allclose(constraint.A.grad.numpy(), -a @ (g + g.T), atol=1e-10)
    np.testing.assert_allclose(constraint.B.grad.numpy(), g - g.T, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e15])
def test_forward_passes_and_gradients_are_as_exact_at_every_scale(scale):
    torch.manual_seed(0)
    layer = wp.MonDEQ(5, 30, bias=False, atol=0.0, dtype=torch.float32)
    x = testing.randn(40, 5, dtype=torch.float32).mul_(scale).requires_grad_()
    value = layer(x)
    cotangent = testing.randn(40, 30, dtype=torch.float32) * scale
    (found,) = torch.autograd.grad(value, x, cotangent)
    accurate = wp.MonDEQ(5, 30, bias=False, rtol=1e-9, atol=0.0, dtype=torch.float64)
    accurate.load_state_dict(layer.state_dict())
    exact = x.detach().double().requires_grad_()
    true = accurate(exact)
    (gradient,) = torch.autograd.grad(true, exact, cotangent.double())
    assert ((value - true).norm(dim=1) <= 1e-4 * true.norm(dim=1)).all()
    assert ((found - gradient).norm(dim=1) <= 1e-3 * gradient.norm(dim=1)).double().mean() >= 0.95
