"""The convolutional Lipschitz-bounded layer, in all metrics, against the dense layer of its matrix."""

from __future__ import annotations

import copy

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.names import IMAGE_METRICS
from wellposed.testing import ConvLayerCase, monotone_numpy

BOUND = {"gamma": 3.0, "out_features": 4, "pool": 2}


def matrices(layer):
    """W, U, W_o P and Λ as dense float64 matrices, by applying the layer's own maps to unit images."""
    exact = copy.deepcopy(layer).double()
    inputs = testing.eye(layer.in_features, dtype=torch.float64).reshape(-1, *layer.input_shape)
    states = testing.eye(layer.state_features, dtype=torch.float64).reshape(-1, *layer.state_shape)
    with torch.no_grad():
        operator = layer.operator().to(torch.float64)
        w = operator.dense()
        u = (exact.injection(inputs) - exact.injection(torch.zeros_like(inputs))).flatten(1).T
        o = None if layer.output is None else (exact.output(states) - exact.output(torch.zeros_like(states))).T
        metric = operator.scaling.expand(layer.state_shape).flatten()
    return w, u, o, metric


class TestConvLBEN(ConvLayerCase):
    options: dict = {"metric": "full"}  # noqa: RUF012

    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        torch.manual_seed(0)
        settings = {"epsilon": 0.5, "dtype": dtype, **self.exact(dtype), **self.options, **options}
        layer = wp.ConvLBEN(channels, 3, image, **settings)
        with torch.no_grad():
            if layer.constraint.psi.requires_grad:
                layer.constraint.psi.uniform_(-0.5, 0.5)
        return layer

    def exact(self, dtype):
        return {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {}

    def true_state(self, layer, x):
        """In the variables √Λ z, where the scaled map is strongly monotone in the ordinary norm."""
        kept = self.inside(layer)
        w, _, _, metric = matrices(layer)
        root = metric.sqrt()[kept]
        injection = copy.deepcopy(layer.injection).double()
        with torch.no_grad():  # the kernel as it runs
            injection.free.copy_(layer.injection.weight)
            injection.log_gamma.zero_()
        offset = injection(x.double()).flatten(1).detach()[:, kept] * root
        scaled = w[kept][:, kept] * root[:, None] / root
        m = float(torch.linalg.eigvalsh(testing.eye(len(root)) - 0.5 * (scaled + scaled.T))[0])
        state = testing.zeros(len(x), layer.state_features, dtype=torch.float64)
        state[:, kept] = monotone_numpy(scaled.numpy(), offset.numpy(), m) / root
        return state

    def check_condition(self, layer):
        w, _, _, metric = matrices(layer)
        core = metric[:, None] * (testing.eye(len(w)) - w)
        assert 0 < layer.guarantee().m <= float(torch.linalg.eigvalsh(0.5 * (core + core.T))[0]) + 1e-12


class TestConvLBENPerChannel(TestConvLBEN):
    options = {"metric": "channels"}  # noqa: RUF012


class TestBoundedConvLBEN(TestConvLBEN):
    options = {"metric": "image", "gamma": 3.0, "out_features": 4}  # noqa: RUF012


class TestBoundedConvLBENAsPublished(TestConvLBEN):
    options = {"metric": "full", "input_in_metric": False, **BOUND, "pool": 1}  # noqa: RUF012


class TestBorderedBoundedConvLBEN(TestConvLBEN):
    options = {"metric": "channels", "border": 1, **BOUND}  # noqa: RUF012

    def inside(self, layer):
        mask = testing.zeros(layer.state_shape, dtype=torch.bool)
        mask[:, 1:-1, 1:-1] = True
        return mask.flatten()


@pytest.mark.parametrize("metric", IMAGE_METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("inside", [True, False])
def test_condition_2_on_dense_matrices(metric, dtype, border, scale, inside):
    torch.manual_seed(0)
    options = {"metric": metric, "border": border, "stride": 2, "dtype": dtype, "input_in_metric": inside, **BOUND}
    layer = wp.ConvLBEN(1, 2, (5, 4), **options | {"gamma": 0.7})
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * 0.3 * torch.randn_like(parameter))
        layer.constraint.psi.clamp_(-2, 2)
    try:
        bound, reason = layer.lipschitz()
    except wp.GuaranteeError:
        assert dtype == torch.float32 and scale > 1
        return
    assert "0.7" in reason
    assert bound <= 0.7 * (1 + (1e-6 if dtype == torch.float64 else 1e-2))
    w, u, o, metric_ = matrices(layer)
    best = -torch.inf
    for s in testing.logspace(-2, 2, 400, dtype=torch.float64):  # the metric is proved up to a multiple
        core = s * metric_[:, None] * (testing.eye(len(w)) - w)
        through = s * metric_[:, None] * u
        condition = core + core.T - (o.T @ o + through @ through.T) / bound
        best = max(best, float(torch.linalg.eigvalsh(condition)[0]) / float(core.abs().max()))
    assert best >= -1e-3  # on a grid of multiples


@pytest.mark.parametrize("inside", [True, False])
def test_bound_is_nearly_attained_where_the_margin_is_small(inside):
    torch.manual_seed(0)
    layer = wp.ConvLBEN(
        1, 2, (4, 4), gamma=2.0, out_features=3, epsilon=1e-3, activation="identity", dtype=torch.float64,
        metric="channels" if inside else "full", input_in_metric=inside, rtol=1e-10, atol=1e-10, max_steps=20000,
    )  # fmt: skip
    with torch.no_grad():
        layer.constraint.V.mul_(0.05)
        layer.constraint.S.mul_(0.05)
        layer.output.free.mul_(4.0)
        layer.injection.free.mul_(2.0)
    bound, _ = layer.lipschitz()
    optimiser = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.05)
    x = testing.randn(1, 1, 4, 4, dtype=torch.float64)
    for _ in range(20):
        jacobian = torch.func.jacrev(layer)(x).reshape(3, 16)
        loss = -torch.linalg.matrix_norm(jacobian, 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    bound, _ = layer.lipschitz()
    reached = float(torch.linalg.matrix_norm(torch.func.jacrev(layer)(x).reshape(3, 16), 2).detach())
    assert 0.95 * bound <= reached <= bound * (1 + 1e-9) <= 2.0 * (1 + 1e-6)


def test_the_output_is_that_of_the_pooled_state_and_gamma_can_change():
    layer = TestBorderedBoundedConvLBEN().make()
    x = TestConvLBEN().inputs(layer, 3)
    state = layer.state(x)
    pooled = torch.nn.functional.avg_pool2d(state, 2).flatten(1)
    torch.testing.assert_close(layer(x), pooled @ layer.output.weight.T + layer.output.bias)
    seen = layer.output.spread(layer.output.weight).flatten(1)
    torch.testing.assert_close(state.flatten(1) @ seen.T + layer.output.bias, layer(x))
    before = layer.operator().dense().detach()
    layer.set_gamma(6.0)
    assert layer.gamma == pytest.approx(6.0) and layer.lipschitz()[0] <= 6.0 * (1 + 1e-6)
    torch.testing.assert_close(layer.operator().dense().detach(), before, rtol=1e-9, atol=1e-9)
    for bad, message in (
        ({"metric": "half"}, "metric='half'"),
        ({"gamma": 1.0}, "give both"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"gamma": 1.0, "out_features": 2, "pool": 9}, "pool=9"),
        ({"border": 3}, "border=3"),
    ):
        with pytest.raises(wp.InputError, match=message):
            wp.ConvLBEN(1, 2, (4, 4), **bad)


def test_certificate_of_a_model_with_a_bound():
    torch.manual_seed(0)
    layer = wp.ConvLBEN(1, 3, (6, 8), stride=2, dtype=torch.float64, rtol=1e-10, atol=1e-10, **BOUND)
    model = torch.nn.Sequential(wp.layers.Normalize((0.1,), (0.5,)).double(), layer)
    x = testing.randn(6, 1, 6, 8, dtype=torch.float64)
    certificate = wp.certify(model, inputs=x)
    assert 0 < certificate.lower_bound <= certificate.lipschitz <= 6.0 * (1 + 1e-6)
    assert certificate.check()
    assert (certificate.radius(model(x), testing.zeros(6, dtype=torch.int64)) >= 0).all()
