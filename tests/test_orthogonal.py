"""Orthogonal maps, GroupSort and the equilibrium built from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.constraints.orthogonal import bjorck_orthogonal, cayley_orthogonal
from wellposed.layers import group_sort, householder

COUPLINGS = [
    {"coupling": "convex", "omega": 0.4},
    {"coupling": "convex", "omega": 0.2, "kappa": 0.9, "depth": 2},
    {"coupling": "additive", "kappa": 0.6},
    {"coupling": "joint", "kappa": 0.8},
    {"coupling": "residual", "kappa": 0.95, "depth": 2},
    {"coupling": "residual", "activation": "householder"},
    {"coupling": "convex", "activation": "householder", "parametrisation": "exponential", "depth": 2},
    {"coupling": "additive", "kappa": 0.5, "group": 8, "parametrisation": "bjorck"},
]


def make(options, dtype=torch.float64, features=8, **more):
    torch.manual_seed(0)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    layer = wp.OrthogonalDEQ(5, features, dtype=dtype, **tolerance, **options, **more)
    with torch.no_grad():
        for part in layer.maps:
            part.bias.normal_(std=0.3)
        for angle in layer.angles or ():
            angle.uniform_(-3, 3)
        if layer.mixing is not None:
            layer.mixing.copy_(testing.tensor([0.4, -0.7]))
    return layer


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (64, 64), (20, 6), (6, 20), (1, 9), (200, 160)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_orthogonality_after_training_with_weight_decay(shape, dtype, limit):
    torch.manual_seed(0)
    linear = wp.OrthogonalLinear(shape[1], shape[0], dtype=dtype)
    optimiser = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=1e-2)
    x, target = testing.randn(16, shape[1], dtype=dtype), testing.randn(16, shape[0], dtype=dtype)
    for _ in range(1000 if max(shape) < 100 else 20):
        optimiser.zero_grad()
        (linear(x) - target).square().mean().backward()
        optimiser.step()
    q = linear.weight.detach()
    small = q.T @ q if shape[0] >= shape[1] else q @ q.T
    assert float((small - testing.eye(min(shape), dtype=dtype)).abs().max()) <= limit


def test_cayley_gradients_and_scale():
    parameter = testing.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cayley_orthogonal, (parameter,))
    for scale in (1e-6, 1e3):
        q = cayley_orthogonal(scale * parameter.detach())
        torch.testing.assert_close(q.T @ q, testing.eye(4, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_group_sort_permutes_and_never_expands(group):
    x, y = testing.randn(500, 8, dtype=torch.float64), testing.randn(500, 8, dtype=torch.float64)
    torch.testing.assert_close(group_sort(x, group).sort(1).values, x.sort(1).values)
    for norm in (1, 2, torch.inf):
        change = torch.linalg.vector_norm(group_sort(x, group) - group_sort(y, group), norm, dim=1)
        assert (change <= torch.linalg.vector_norm(x - y, norm, dim=1) * (1 + 1e-12)).all()
    jacobian = torch.func.jacrev(lambda v: group_sort(v, group))(x[0])
    torch.testing.assert_close(jacobian @ jacobian.T, testing.eye(8, dtype=torch.float64))


@pytest.mark.parametrize("options", COUPLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_error_bound(options, dtype):
    layer = make(options, dtype)
    x = 3 * testing.randn(200, 5, dtype=dtype)
    solution = layer.solve(x)
    assert solution.converged.all()
    # In numpy, by plain iteration to the end.
    maps = [(p.weight.detach().double().numpy(), p.bias.detach().double().numpy()) for p in layer.maps]
    kappa, omega = layer.kappa, layer.omega
    data = x.double().numpy()

    def activate(v, index):
        if layer.angles is None:
            return np.sort(v.reshape(len(v), layer.group, -1), axis=1).reshape(v.shape)
        theta = layer.angles[index].detach().double().numpy()
        normal = np.stack([np.sin(theta / 2), -np.cos(theta / 2)])
        pairs = v.reshape(len(v), 2, -1)
        across = (pairs * normal).sum(1, keepdims=True)
        return (pairs - 2 * np.minimum(across, 0.0) * normal).reshape(v.shape)

    z = np.zeros((200, 8))
    for _ in range(2000):
        if layer.coupling == "joint":
            ((q, b),) = maps
            z = kappa * activate(np.concatenate([z, math.sqrt(1 - kappa**2) / kappa * data], 1) @ q.T + b, 0)
            continue
        p, c = layer.injection.weight.detach().double().numpy(), layer.injection.bias.detach().double().numpy()
        g = z
        for index, (q, b) in enumerate(maps):
            g = activate(g @ q.T + b, index)
        h = data @ p.T + c
        if layer.coupling == "residual":
            first, second = 0.05 + 0.9 / (1 + np.exp(-layer.mixing.detach().double().numpy()))
            z = kappa * activate(second * z + (1 - second) * (first * h + (1 - first) * g), len(maps))
        else:
            z = kappa * ((1 - omega) * g + omega * h) if layer.coupling == "convex" else kappa * g + h
    error = (solution.value.detach().double() - testing.tensor(z)).norm(dim=1)
    assert (error <= solution.error_bound).all()
    assert (solution.error_bound <= 1e-2).all()
    quick = (layer(x).detach().double() - testing.tensor(z)).norm(dim=1)
    assert (quick <= 1e-3 * (1 + testing.tensor(z).norm(dim=1))).all()


@pytest.mark.parametrize("options", COUPLINGS)
def test_constants_are_never_exceeded(options):
    layer = make(options)
    value = layer.lipschitz()[0]
    x = 3 * testing.randn(100, 5, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(layer.forward))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= value * (1 + 1e-9)
    if options["coupling"] != "additive":
        assert value <= 1 + 1e-9


@pytest.mark.parametrize("options", COUPLINGS)
def test_converges_within_the_steps_that_the_contraction_predicts(options):
    layer = make(options)
    x = testing.randn(20, 5, dtype=torch.float64)
    solution = layer.solve(x)
    factor = layer.constants(1e-12)[0]
    first = float(solution.value.norm(dim=1).max()) * 2
    assert int(solution.steps.max()) <= wp.guarantee.Plan(1.0, factor).iterations(first, 1e-12 * 0.5)


def test_theorems_are_attained_by_their_tight_examples():
    """Linear cells with aligned maps: group 1 (no sorting), Q = I where it can be."""
    for coupling, kappa, omega in (("convex", 0.9, 0.3), ("convex", 1.0, 0.3), ("additive", 0.7, 0.5)):
        layer = wp.OrthogonalDEQ(
            4, 4, coupling=coupling, kappa=kappa, omega=omega, group=1, dtype=torch.float64, rtol=1e-13
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()  # Cayley of zero is the identity
        jacobian = torch.func.jacrev(layer.forward)(testing.randn(1, 4, dtype=torch.float64))[0, :, 0]
        assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(layer.lipschitz()[0], rel=1e-6)
    # Joint: z = κ(az + bρx) with a = κ, b = √(1 − κ²), in one dimension.
    kappa = 0.8
    layer = wp.OrthogonalDEQ(1, 1, coupling="joint", kappa=kappa, group=1, dtype=torch.float64, rtol=1e-13)
    best = 0.0
    for angle in testing.linspace(-3, 3, 20001, dtype=torch.float64):
        with torch.no_grad():
            layer.maps[0].free.copy_(testing.tensor([[0.0, angle]]))
        a, b = layer.maps[0].weight[0].tolist()
        best = max(best, abs(kappa * b * math.sqrt(1 - kappa**2) / kappa / (1 - kappa * a)))
    assert best == pytest.approx(layer.lipschitz()[0], rel=1e-6)
    assert layer.lipschitz()[0] == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("options", COUPLINGS)
def test_gradients(options):
    layer = make(options, features=options.get("group", 4))
    names = [name for name, _ in layer.named_parameters()]
    x = testing.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def function(x, *p):
        return torch.func.functional_call(layer, dict(zip(names, p, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()))
    solution = layer.solve(x)
    expected = torch.autograd.grad(layer(x).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(solution.value.sum(), x)[0], expected, rtol=1e-7, atol=1e-8)


def test_the_input_matters():
    layer = make(COUPLINGS[0])
    x = testing.randn(2, 5, dtype=torch.float64)
    assert float((layer(x)[0] - layer(x)[1]).norm()) > 1e-2


def test_certificates_and_bad_input():
    model = torch.nn.Sequential(torch.nn.Flatten(), make(COUPLINGS[0], torch.float32), wp.OrthogonalLinear(8, 4))
    certificate = wp.certify(model, inputs=testing.randn(8, 5))
    assert 0 < certificate.lower_bound <= certificate.lipschitz <= 1 + 1e-5
    assert certificate.rules[-1] == "pairs"
    assert certificate.check()
    for options, words in (
        ({"kappa": 1.0, "coupling": "additive"}, "lie in"),
        ({"omega": 0.0}, "lie in"),
        ({"group": 3}, "must divide"),
        ({"coupling": "sideways"}, "coupling='sideways'"),
    ):
        with pytest.raises(wp.InputError, match=words):
            wp.OrthogonalDEQ(5, 8, **options)
    with pytest.raises(wp.InputError, match="takes 5 features"):
        wp.OrthogonalDEQ(5, 8)(testing.zeros(2, 4))
    with pytest.raises(wp.InputError, match="NaN or infinite"):
        wp.OrthogonalDEQ(5, 8)(testing.full((2, 5), torch.nan))


@pytest.mark.parametrize("parametrisation", ["exponential", "bjorck"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (40, 40), (20, 6), (6, 20), (1, 9)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_other_parametrisations_stay_orthogonal_under_weight_decay(parametrisation, shape, dtype, limit):
    torch.manual_seed(0)
    linear = wp.OrthogonalLinear(shape[1], shape[0], parametrisation=parametrisation, dtype=dtype)
    optimiser = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=1e-2)
    x, target = testing.randn(16, shape[1], dtype=dtype), testing.randn(16, shape[0], dtype=dtype)
    for _ in range(250):
        optimiser.zero_grad()
        (linear(x) - target).square().mean().backward()
        optimiser.step()
        linear.project()
    q = linear.weight.detach()
    small = q.T @ q if shape[0] >= shape[1] else q @ q.T
    assert float((small - testing.eye(min(shape), dtype=dtype)).abs().max()) <= limit


def test_the_base_point_of_the_exponential_moves_with_the_weight():
    torch.manual_seed(0)
    linear = wp.OrthogonalLinear(6, 6, parametrisation="exponential", dtype=torch.float64)
    with torch.no_grad():
        linear.free.normal_(std=3.0)
    before, base = linear.weight.detach().clone(), linear.base.clone()
    for _ in range(99):
        linear.project()
    assert torch.equal(linear.base, base)
    linear.project()
    torch.testing.assert_close(linear.weight, before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear.base, before, rtol=1e-12, atol=1e-12)
    assert float(linear.free.abs().max()) == 0.0
    determinants = set()
    for seed in range(20):  # both components of the orthogonal group are reached
        torch.manual_seed(seed)
        q = wp.OrthogonalLinear(3, 3, parametrisation="exponential", dtype=torch.float64).weight
        determinants.add(round(float(torch.linalg.det(q))))
    assert determinants == {-1, 1}
    restored = wp.OrthogonalLinear(6, 6, parametrisation="exponential", dtype=torch.float64)
    restored.load_state_dict(linear.state_dict())
    assert torch.equal(restored.weight, linear.weight)


def test_bjorck_never_exceeds_norm_one():
    generator = testing.generator(0)
    for scale in (1e-6, 1.0, 1e6):
        for shape in ((30, 30), (8, 20), (20, 8)):
            parameter = scale * testing.randn(*shape, generator=generator, dtype=torch.float64)
            parameter[0] = parameter[1]  # not of full rank
            assert float(torch.linalg.matrix_norm(bjorck_orthogonal(parameter), 2)) <= 1 + 1e-12


def test_householder_contains_maxmin_and_preserves_norms():
    value = testing.randn(100, 8, dtype=torch.float64)
    at_right_angle = householder(value, testing.full((4,), math.pi / 2, dtype=torch.float64))
    # MaxMin with the larger of a pair first.
    torch.testing.assert_close(at_right_angle, -group_sort(-value))
    angle = testing.linspace(-3, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(householder(value, angle).norm(dim=1), value.norm(dim=1))
    moved = value + 1e-3 * torch.randn_like(value)
    change = (householder(value, angle) - householder(moved, angle)).norm(dim=1)
    assert (change <= (value - moved).norm(dim=1) * (1 + 1e-12)).all()
    assert torch.autograd.gradcheck(householder, (value[:5].requires_grad_(), angle))


@pytest.mark.slow
@pytest.mark.parametrize("options", COUPLINGS)
def test_error_bound_over_a_hundred_thousand_samples(options):
    layer = make(options, torch.float32, rtol=1e-3, atol=1e-3)
    ratios = []
    for seed in range(10):
        x = testing.randn(10_000, 5, generator=testing.generator(seed)) * 10.0 ** (seed % 3 - 1)
        solution = layer.solve(x)
        cell, weights, drive = layer._cell(x, torch.float64)  # the float32 maps, as stored
        with torch.no_grad():
            state = testing.zeros(10_000, 8, dtype=torch.float64)
            for _ in range(400):
                state = cell(state, drive, *weights)
        error = (solution.value.detach().double() - state).norm(dim=1)
        assert (error <= solution.error_bound + 1e-13 * (1 + state.norm(dim=1))).all()
        ratios.append((solution.error_bound / error.clamp_min(1e-12)).detach())
    print(f"{options}: median overestimate {float(torch.cat(ratios).median()):.2f}")


@pytest.mark.parametrize("options", COUPLINGS)
def test_trained_cells_reach_six_digits_within_the_predicted_steps(options):
    layer = make(options, torch.float32, rtol=1e-4, atol=1e-4)
    generator = testing.generator(0)
    x, target = testing.randn(32, 5, generator=generator), testing.randn(32, 8, generator=generator)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    layer.tolerance = wp.solvers.solution.Tolerance(1e-6, 1e-6)
    solution = layer.solve(x)
    size = solution.value.detach().norm(dim=1)
    assert solution.converged.all()
    assert (solution.error_bound <= 1e-6 * (1 + size) * (1 + 1e-6)).all()
    factor = layer.constants(layer.norm_excess())[0]
    assert int(solution.steps.max()) <= wp.guarantee.Plan(1.0, factor).iterations(2 * float(size.max()), 0.5e-6)


def test_witnesses_are_about_the_orthogonal_maps_that_run():
    """Formed again in float64 they are others, by more than the constants are apart."""
    for seed in range(30):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Flatten(), wp.OrthogonalLinear(6, 4))
        for norm in (2, "inf", 1):
            certificate = wp.certify(model, norm=norm, inputs=testing.rand(5, 6))
            assert certificate.lower_bound <= certificate.lipschitz
