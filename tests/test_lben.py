"""The Lipschitz-bounded layer through the shared case, and what is particular to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.constraints.lipschitz_condition import lipschitz_matrix, proved_lipschitz
from wellposed.testing import LayerCase, monotone_numpy


class TestLBEN(LayerCase):
    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(2)
        layer = wp.LBEN(7, 6, **{"epsilon": 0.3, "dtype": dtype, **options})
        with torch.no_grad():
            layer.constraint.psi.uniform_(-0.7, 0.7)
        return layer

    def exact_layer(self):  # of a larger margin, which takes a fifth of the iterations
        return self.make_layer(rtol=1e-13, atol=1e-13, activation="tanh", epsilon=1.0)

    def true_state(self, layer, x):
        weight = layer.operator().dense().detach().double().numpy()
        offset = (
            x.detach() @ layer.injection.weight.detach().double().T + layer.injection.bias.detach().double()
        ).numpy()
        root = np.sqrt(layer.operator().metric.numpy())  # in the metric's coordinates, ReLU being homogeneous
        state = monotone_numpy(root[:, None] * weight / root, offset * root, 0.9 * self.condition(layer))
        return state / testing.tensor(root)

    def condition(self, layer):
        operator = layer.operator()
        root = np.sqrt(operator.metric.numpy())
        gap = root[:, None] * (np.eye(6) - operator.dense().detach().double().numpy()) / root
        return float(np.linalg.eigvalsh(0.5 * (gap + gap.T))[0]) + 1e-13 * np.abs(gap).max()


class TestIdentityMetric(TestLBEN):
    def make_layer(self, dtype=torch.float64, **options):
        torch.manual_seed(2)
        return wp.LBEN(7, 6, **{"epsilon": 0.3, "metric": "identity", "dtype": dtype, **options})


def bounded(gamma, dtype=torch.float64, width=9, **options):
    torch.manual_seed(4)
    layer = wp.LBEN(5, width, gamma=gamma, out_features=3, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("seed", range(50))
def test_condition_2_holds_for_random_parameters(seed):
    torch.manual_seed(seed)
    gamma, epsilon = float(10.0 ** (4 * testing.rand(()) - 2)), 1e-3
    layer = wp.LBEN(5, 9, gamma=gamma, out_features=3, epsilon=epsilon, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    operator = layer.operator()
    # U = √γ·U' and W_o = √γ·W_o': the condition for γ.
    matrix = lipschitz_matrix(operator.dense(), layer.injection.weight, layer.output.weight, operator.metric, gamma)
    margin = 2.0 * float(layer.constraint.margin().detach())
    assert float(torch.linalg.eigvalsh(matrix)[0]) >= margin - 1e-10 * float(matrix.abs().max())
    assert layer.lipschitz()[0] <= gamma


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 20.0])
def test_sampled_ratios_and_jacobians_never_exceed_the_bound(gamma, activation):
    layer = bounded(gamma, activation=activation, rtol=1e-12, atol=1e-12)
    value = layer.lipschitz()[0]
    assert value <= gamma
    x = 3 * testing.randn(200, 5, dtype=torch.float64)
    y = x + 0.1 * torch.randn_like(x)
    ratio = (layer(x) - layer(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert float(ratio.max()) <= value * (1 + 1e-9)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= value * (1 + 1e-9)


def test_the_bound_is_attained_by_a_linear_layer():
    # W = 0, U = W_o = I, identity activation: y = x, and Λ = I satisfies the condition with γ = 1 exactly.
    eye = testing.eye(4, dtype=torch.float64)
    assert proved_lipschitz(0 * eye, eye, eye, testing.ones(4)) == pytest.approx(1.0, rel=1e-9)
    assert proved_lipschitz(0 * eye, eye, eye, testing.ones(4)) >= 1.0


def test_product_bound_is_never_beaten_by_it():
    """The condition contains ‖U‖‖W_o‖/m of monotone layers."""
    for seed in range(20):
        torch.manual_seed(seed)
        layer, head = wp.MonDEQ(5, 9, m=0.5, dtype=torch.float64), torch.nn.Linear(9, 3, dtype=torch.float64)
        product = wp.certify(torch.nn.Sequential(layer, head), method="product").lipschitz
        metric = testing.ones(9, dtype=torch.float64)
        assert (
            proved_lipschitz(layer.operator().dense(), layer.injection.weight, head.weight, metric) <= product * 1.0001
        )


@pytest.mark.parametrize("gamma", [None, 0.3, 5.0])
def test_completeness_round_trip(gamma):
    options = {} if gamma is None else {"gamma": gamma, "out_features": 3}
    torch.manual_seed(1)
    source = wp.LBEN(5, 9, dtype=torch.float64, epsilon=0.1, **options)
    with torch.no_grad():
        source.constraint.psi.uniform_(-1, 1)
    other = wp.LBEN(5, 9, dtype=torch.float64, epsilon=1e-3, **options)
    operator = source.operator()
    output = None if gamma is None else source.output.weight
    other.set_dense(operator.dense(), source.injection.weight, operator.metric, output)
    torch.testing.assert_close(other.operator().dense(), operator.dense(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.injection.weight, source.injection.weight, rtol=1e-12, atol=1e-12)
    with pytest.raises(wp.GuaranteeError, match="misses the condition"):
        other.set_dense(3 * testing.eye(9, dtype=torch.float64), source.injection.weight, operator.metric, output)


def test_a_monotone_layer_is_one_in_the_identity_metric():
    torch.manual_seed(0)
    monotone = wp.MonDEQ(5, 9, m=0.5, dtype=torch.float64)
    layer = wp.LBEN(5, 9, epsilon=1e-3, dtype=torch.float64)
    layer.set_dense(monotone.operator().dense(), monotone.injection.weight, testing.ones(9))
    with torch.no_grad():
        layer.injection.bias.copy_(monotone.injection.bias)
    x = testing.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), monotone(x), rtol=1e-9, atol=1e-10)


def test_gamma_can_be_scheduled_and_learned():
    layer = bounded(1.0, learn_gamma=True)
    x = testing.randn(6, 5, dtype=torch.float64)
    layer(x).square().sum().backward()
    assert layer.output.log_gamma is layer.injection.log_gamma
    assert float(layer.output.log_gamma.grad) != 0.0
    layer.set_gamma(0.2)
    assert layer.gamma == pytest.approx(0.2)
    assert layer.lipschitz()[0] <= 0.2
    fixed = bounded(1.0)
    assert not fixed.output.log_gamma.requires_grad
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(wp.InputError, match="gamma=(.*must be positive and finite|nan: must be a number)"):
            wp.LBEN(5, 9, gamma=bad, out_features=3)
    with pytest.raises(wp.InputError, match="give both or neither"):
        wp.LBEN(5, 9, gamma=1.0)


def test_certificates_use_the_bound_of_the_whole_layer():
    layer = bounded(0.7, torch.float32)
    certificate = wp.certify(torch.nn.Sequential(torch.nn.Flatten(), layer), inputs=testing.randn(8, 5))
    assert 0.0 < certificate.lower_bound <= certificate.lipschitz <= 0.7
    assert certificate.rules[-1] == "pairs"
    assert certificate.check()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_extreme_parameters_keep_the_bound_or_raise(scale):
    layer = bounded(1.0, torch.float32)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad and parameter.ndim == 2:
                parameter.mul_(scale)
    try:
        value = layer.lipschitz()[0]
    except wp.GuaranteeError:
        return
    operator = layer.operator()
    matrix = lipschitz_matrix(operator.dense(), layer.injection.weight, layer.output.weight, operator.metric, value)
    core = lipschitz_matrix(operator.dense(), layer.injection.weight, layer.output.weight, operator.metric, 1e300)
    assert value > 0
    assert float(torch.linalg.eigvalsh(core)[0]) > 0 or float(torch.linalg.eigvalsh(matrix)[0]) > 0


# --- feedthrough ---


def with_feedthrough(gamma, scale=0.4, dtype=torch.float64):
    layer = bounded(gamma, dtype, feedthrough=True)
    with torch.no_grad():
        layer.direct.free.normal_(std=scale)
    return layer


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 20.0])
def test_feedthrough_satisfies_condition_2_and_its_bound(gamma, scale):
    layer = with_feedthrough(gamma, scale)
    operator, direct = layer.operator(), layer.direct.weight
    assert float(torch.linalg.matrix_norm(direct, 2)) < gamma
    matrix = lipschitz_matrix(
        operator.dense(), layer.injection.weight, layer.output.weight, operator.metric, gamma, direct
    )
    assert float(torch.linalg.eigvalsh(matrix)[0]) >= -1e-10 * float(matrix.detach().abs().max())
    value = layer.lipschitz()[0]
    assert value <= gamma * (1 + 1e-9)
    x = 3 * testing.randn(200, 5, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))(x)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= value * (1 + 1e-6)
    plain = layer.output(layer.state(x))
    torch.testing.assert_close(layer(x), plain + x @ direct.t())


def test_every_contraction_is_a_feedthrough_and_attains_the_bound():
    """D = γ(1 − δ)I with W_o = 0 and U = 0 is exactly γ(1 − δ)-Lipschitz."""
    layer = wp.LBEN(3, 4, gamma=2.0, out_features=3, feedthrough=True, dtype=torch.float64)
    with torch.no_grad():
        layer.output.free.zero_()
        layer.injection.free.zero_()
        layer.direct.free.copy_(testing.eye(3))
    torch.testing.assert_close(layer.direct.weight, 2 * 0.95 * testing.eye(3, dtype=torch.float64))
    assert 2 * 0.95 <= layer.lipschitz()[0] <= 2 * 0.95 * (1 + 1e-5)


@pytest.mark.float32
def test_feedthrough_in_training_certificates_and_errors():
    layer = with_feedthrough(1.0, dtype=torch.float32)
    layer(testing.randn(5, 5)).square().sum().backward()
    assert float(layer.direct.free.grad.abs().sum()) > 0
    certificate = wp.certify(torch.nn.Sequential(torch.nn.Flatten(), layer), inputs=testing.randn(8, 5))
    assert 0.0 < certificate.lower_bound <= certificate.lipschitz <= 1.0 + 1e-6
    with pytest.raises(wp.InputError, match="feedthrough=True"):
        wp.LBEN(5, 9, feedthrough=True)


# --- exact embeddings ---


def network(kind, dtype=torch.float64):
    torch.manual_seed(7)
    linear, options = torch.nn.Linear, {"dtype": dtype}
    tight = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    if kind == "feed-forward":
        parts = [
            linear(5, 6, **options),
            torch.nn.ReLU(),
            linear(6, 4, **options),
            torch.nn.ReLU(),
            linear(4, 3, **options),
        ]
    elif kind == "sandwich":
        parts = [wp.Sandwich(5, 6, **options), wp.Sandwich(6, 4, **options), wp.OrthogonalLinear(4, 3, **options)]
    elif kind == "sll":
        parts = [wp.SLL(5, 7, **options), wp.SLL(5, 4, **options)]
    elif kind == "residual":
        parts = [
            linear(5, 6, **options),
            wp.Residual(6, 8, **options),
            wp.Residual(6, **options),
            linear(6, 3, **options),
        ]
    elif kind == "monotone":
        parts = [wp.MonDEQ(5, 8, m=0.5, **tight, **options), linear(8, 3, **options)]
    else:
        parts = [
            wp.OrthogonalLinear(5, 6, **options), wp.SLL(6, **options), torch.nn.ReLU(), wp.Sandwich(6, 5, **options),
            wp.SLL(5, 3, **options), wp.MonDEQ(5, 4, **tight, **options), linear(4, 2, **options),
        ]  # fmt: skip
    found = torch.nn.Sequential(*parts)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.endswith(("bias", "log_scale", "log_q")):
                parameter.normal_(std=0.4)
    return found


KINDS = ["feed-forward", "sandwich", "sll", "residual", "monotone", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_computes_the_same_and_keeps_the_bound(kind):
    source = network(kind)
    found = wp.embed(source)
    x = 2 * testing.randn(50, 5, dtype=torch.float64)
    state = testing.zeros(50, len(found.matrix), dtype=torch.float64)
    for _ in range(400):
        through = state @ found.matrix.T + x @ found.input_weight.T + found.bias
        state = state + 0.5 * (found.activation(through) - state)
    torch.testing.assert_close(
        state @ found.output_weight.T + found.output_bias, source(x).detach(), rtol=1e-8, atol=1e-8
    )
    margins = torch.linalg.eigvalsh(
        lipschitz_matrix(found.matrix, found.input_weight, found.output_weight, found.metric, found.gamma)
    )
    assert float(margins[0]) >= -1e-12 * max(1.0, float(margins[-1]))
    core = found.metric[:, None] * (testing.eye(len(found.matrix)) - found.matrix)
    assert float(torch.linalg.eigvalsh(core + core.T)[0]) > 0  # well posed in that metric
    certified = wp.certify(source.eval(), method="product").lipschitz
    assert found.gamma <= certified * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["sandwich", "sll"])
def test_sandwich_and_residual_embeddings_are_exactly_tight(kind):
    source = network(kind)
    if kind == "sandwich":  # tight where B has orthonormal rows as well: without a head that throws features away
        source = torch.nn.Sequential(*list(source)[:2])
    found = wp.embed(source)
    assert found.gamma == pytest.approx(1.0, abs=1e-9)
    margins = torch.linalg.eigvalsh(
        lipschitz_matrix(found.matrix, found.input_weight, found.output_weight, found.metric, 1.0)
    )
    assert abs(float(margins[0])) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_from_a_network_computes_the_same_and_trains_on(kind, dtype):
    source = network(kind, dtype)
    layer = wp.LBEN.from_network(source)
    x = testing.randn(40, 5, dtype=dtype)
    tolerance = 1e-7 if dtype == torch.float64 else 2e-3
    torch.testing.assert_close(layer(x), source(x), rtol=tolerance, atol=tolerance)
    bound = 1.01 * wp.embed(source).gamma
    assert layer.gamma == pytest.approx(bound)
    if dtype == torch.float64:
        assert layer.lipschitz()[0] <= bound * (1 + 1e-9)
    layer(x).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)
    with pytest.raises(wp.GuaranteeError, match="misses the condition"):
        wp.LBEN.from_network(source, gamma=0.2 * wp.embed(source).gamma)


def test_what_cannot_be_embedded():
    with pytest.raises(wp.InputError, match="cannot embed a Tanh"):
        wp.embed(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()))
    with pytest.raises(wp.InputError, match="it is a linear map"):
        wp.embed(torch.nn.Sequential(torch.nn.Linear(3, 3)))


def test_a_subclass_or_hook_is_not_embedded_as_something_else():
    class Twice(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(wp.InputError, match="cannot embed a Rescale"):
        wp.embed(torch.nn.Sequential(Twice(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)))
    hooked = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    hooked[0].register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(wp.InputError, match="hooks"):
        wp.embed(hooked)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "names",
    [
        ("SLL",),
        ("SLL", "SLL"),
        ("SLL", "Linear", "SLL"),
        ("Sandwich", "Sandwich"),
        ("Sandwich", "SLL"),
        ("ReLU", "SLL"),
    ],
)
def test_layers_start_from_any_chain_of_blocks(names, seed):
    torch.manual_seed(seed)
    make = {
        "SLL": lambda: wp.SLL(3, dtype=torch.float64), "Sandwich": lambda: wp.Sandwich(3, 3, dtype=torch.float64),
        "Linear": lambda: torch.nn.Linear(3, 3, dtype=torch.float64),
        "ReLU": lambda: torch.nn.Sequential(torch.nn.Linear(3, 3, dtype=torch.float64), torch.nn.ReLU()),
    }  # fmt: skip
    parts = [make[name]() for name in names]
    flat = [p for part in parts for p in (part if isinstance(part, torch.nn.Sequential) else [part])]
    source = torch.nn.Sequential(*flat, torch.nn.Linear(3, 2, dtype=torch.float64))
    layer = wp.LBEN.from_network(source, rtol=1e-10, atol=1e-10)
    x = testing.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), source(x), rtol=1e-6, atol=1e-6)


def test_networks_with_zero_weights_embed():
    source = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    with torch.no_grad():
        source[2].weight.zero_()
    layer = wp.LBEN.from_network(source, gamma=1.0)
    torch.testing.assert_close(layer(testing.randn(5, 3).double()), source[2].bias.expand(5, 2), rtol=1e-6, atol=1e-6)
    with pytest.raises(wp.OptionError, match="dtype"):
        wp.LBEN.from_network(source, dtype=torch.float32)
