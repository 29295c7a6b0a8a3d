"""The convolutional positive concave layer against the dense layer of its matrix."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.models import FAMILIES
from wellposed.testing import ConvLayerCase
from wellposed.testing.conv_layer_case import IMAGES


def dense_sensitivity(layer):
    """M = (I − DW)⁻¹D at the exact fixed point of the floor, as a matrix: its norm is the exact constant."""
    w = layer.operator().to(torch.float64).dense().detach()
    floor = testing.full((len(w),), layer.injection.floor, dtype=torch.float64)
    state = torch.zeros_like(floor)
    for _ in range(5000):
        state = layer.activation(w @ state + floor)
    slopes = layer.activation.derivative(w @ state + floor)
    return torch.linalg.solve(testing.eye(len(w), dtype=torch.float64) - slopes[:, None] * w, torch.diag(slopes))


class TestConvPcDEQ(ConvLayerCase):
    unrolled_step = 1.0

    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        torch.manual_seed(0)
        settings = {"activation": self.smooth, "dtype": dtype, **self.exact(dtype), **options}
        layer = wp.ConvPcDEQ(channels, 3, image, **settings)
        with torch.no_grad():
            layer.constraint.gain.mul_(2.0)  # row sums of 1.2
        return layer

    def true_state(self, layer, x):
        offset = copy.deepcopy(layer).double().injection(x.double()).flatten(1).detach()
        matrix = self.matrix(layer)
        state = torch.zeros_like(offset)
        for _ in range(2000):
            state = layer.activation(state @ matrix.T + offset)
        return state

    def check_condition(self, layer):
        assert float(layer.operator().kernel.detach().min()) >= 0.0
        assert layer.guarantee().picard_plan().factor < 1.0

    def test_nothing_is_factorised_again_in_backward(self):
        layer = self.make()
        layer(self.inputs(layer)).sum().backward()
        assert layer.operator()._cache.factorisations == 0

    @pytest.mark.parametrize("image", IMAGES)
    @pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
    def test_the_constant_is_exact_without_any_matrix(self, image, scale):
        layer = self.make(image)
        with torch.no_grad():
            layer.constraint.gain.mul_(scale**0.5)
        exact = float(torch.linalg.matrix_norm(dense_sensitivity(layer), 2))
        found = layer.guarantee().offset_lipschitz()
        assert exact <= found <= 1.15 * exact  # the floor is taken one per cent lower, for residuals
        plan = layer.guarantee().picard_plan()
        assert 0 < plan.factor < 1

    def test_bounds_of_every_component(self):
        layer = self.make()
        x = self.inputs(layer, 6)
        lower, upper = layer.enclosure(x)
        truth = self.true_state(layer, x).reshape(lower.shape)
        assert (lower <= truth + 1e-15).all() and (truth <= upper + 1e-15).all()
        assert float(((upper - lower) / truth).max()) < 1e-8


class TestConvPcDEQSigmoid(TestConvPcDEQ):
    smooth = "sigmoid"


class TestConvPcDEQLogarithm(TestConvPcDEQ):
    """Unbounded, with row sums that no contraction in a norm allows."""

    smooth = "logarithm"


@pytest.mark.parametrize("parametrisation", ["square", "softplus", "projection"])
def test_kernels_are_nonnegative_in_every_parametrisation(parametrisation):
    torch.manual_seed(0)
    layer = wp.ConvPcDEQ(1, 4, (6, 6), parametrisation=parametrisation)
    sums = layer.operator().kernel.detach().sum((1, 2, 3))
    torch.testing.assert_close(sums, torch.full_like(sums, 0.3), rtol=1e-3, atol=1e-3)
    x, target = testing.rand(8, 1, 6, 6), testing.rand(8, 4, 6, 6)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(30):
        loss = (layer(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        layer.constraint.project()
    assert float(layer.operator().kernel.detach().min()) >= 0.0
    if parametrisation == "projection":
        assert float(layer.constraint.V.min()) >= 0.0 and float(layer.constraint.gain.min()) >= 0.0
    assert layer.solve(x).converged.all()


@pytest.mark.parametrize(
    ("name", "options", "shape", "count"),
    [
        ("pcdeq-conv", {"width": 82, "stride": 1, "pool": 8}, (1, 28, 28), 69_136),
        ("pcdeq-multi", {}, (1, 28, 28), 41_278),
        ("pcdeq-conv", {"width": 125, "stride": 1, "pool": 8}, (3, 32, 32), 164_760),
        ("pcdeq-multi", {"width": 20, "further": (50, 80)}, (3, 32, 32), 130_950),
        ("pcdeq-multi", {"width": 100, "further": (120, 140)}, (3, 32, 32), 661_470),
    ],
)
def test_published_architectures_have_their_numbers_of_parameters(name, options, shape, count):
    model = nn.Sequential(*FAMILIES[name](**options).build(shape, 10))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_batch_normalisation_pooling_and_certificates():
    torch.manual_seed(0)
    body = FAMILIES["pcdeq-multi"](width=3, further=(4,), pool=2).build((1, 9, 8), 5)
    model = nn.Sequential(nn.Flatten(), *body).double()
    for block in model:
        if isinstance(block, wp.ConvPcDEQ):
            block.tolerance = wp.solvers.solution.Tolerance(1e-10, 1e-10)
    for _ in range(5):
        model(testing.randn(32, 1, 9, 8, dtype=torch.float64))
    with pytest.raises((wp.CertificateError, wp.InputError), match="eval"):
        wp.certify(model)
    model.eval()
    x = testing.randn(6, 1, 9, 8, dtype=torch.float64)
    certificate = wp.certify(model, inputs=x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x).reshape(6, 5, 72)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= certificate.lipschitz * (1 + 1e-9)
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    factors = {type(block).__name__: factor.value for block, factor in zip(model, certificate.factors, strict=True)}
    assert factors["MaxPool2d"] == pytest.approx(3.0)
    layer = model[2]
    solution = layer.solve(x.reshape(6, 1, 9, 8))
    exact = layer.injection.exact(x.reshape(6, 1, 9, 8))
    assert (exact.error <= 1e-10).all()
    torch.testing.assert_close(exact.value, layer.injection(x.reshape(6, 1, 9, 8)), rtol=1e-9, atol=1e-9)
    assert solution.converged.all()
    with pytest.raises(wp.CertificateError, match="dilation"):
        wp.certify(nn.Sequential(layer, nn.MaxPool2d(3, 1, 1, dilation=2), nn.Flatten()))


def test_the_norm_of_maximum_pooling_is_not_exceeded_and_attained():
    pool = nn.MaxPool2d(3, 1, 1)
    ((_, value, _),) = ((f.block, f.value, f.reason) for f in wp.certify(nn.Sequential(pool)).factors)
    spike = testing.zeros(1, 1, 7, 7, dtype=torch.float64)
    spike[..., 3, 3] = 1.0
    reached = float((pool(spike) - pool(torch.zeros_like(spike))).norm())
    assert reached == pytest.approx(3.0) and reached <= value
    first, second = testing.randn(2, 500, 1, 7, 7, dtype=torch.float64)
    for kind in (pool, nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)):
        bound = wp.certify(nn.Sequential(kind)).lipschitz
        ratio = (kind(first) - kind(second)).flatten(1).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
        assert float(ratio.max()) <= bound


def test_unusable_arguments():
    for bad, message in (
        ({"floor": 0.0}, "floor=0.0"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"taps": 2}, "taps=2"),
        ({"padding": 0, "image": (2, 2)}, "too small"),
        ({"solver": wp.PeacemanRachford()}, "splits the operator"),
        ({"parametrisation": "cube"}, "parametrisation='cube'"),
    ):
        with pytest.raises(wp.InputError, match=message):
            wp.ConvPcDEQ(1, 2, **{"image": (5, 5), **bad})
