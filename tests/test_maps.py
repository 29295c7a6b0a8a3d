"""Input and output maps: their numbers against their forward, and their bounds by sampling."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

import wellposed as wp
from wellposed import testing
from wellposed.constraints.conv_lipschitz_bounded import ConvLipschitzBounded
from wellposed.constraints.holding import Holding
from wellposed.constraints.monotone import Monotone
from wellposed.maps import (
    CircularInjection,
    Feedthrough,
    ImageInjection,
    InputMap,
    LinearMap,
    Matrix,
    PooledLinear,
    PositiveConv2d,
    PositiveLinear,
    ScaledLinear,
)
from wellposed.network.kinds.equilibrium import affine_rounding

DOUBLE = {"dtype": torch.float64}
WHERE = {"device": None, **DOUBLE}


def gamma() -> nn.Parameter:
    return nn.Parameter(testing.tensor(0.7, **DOUBLE))


def circular(*, scaled: bool, border: int = 0) -> CircularInjection:
    state = (3, 3 + 2 * border, 4 + 2 * border)
    found = CircularInjection(2, (5, 7), state, gamma(), taps=3, stride=2, border=border, bias=True, **WHERE)
    if scaled:
        constraint = ConvLipschitzBounded(3, state[1:], metric="full", **DOUBLE)
        constraint.psi.data.normal_()
        found.take_metric(constraint)
    return found


def normalised(found):
    for _ in range(5):
        found(3.0 * testing.randn(16, *found.input_shape, **DOUBLE) + 1.0)
    for parameter in found.norm.parameters():
        parameter.data.normal_()
    return found.eval()


KINDS = {
    "linear": lambda: LinearMap(5, 4, **DOUBLE),
    "linear without bias": lambda: LinearMap(5, 4, bias=False, **DOUBLE),
    "scaled": lambda: ScaledLinear(5, 4, gamma(), **DOUBLE),
    "image": lambda: ImageInjection(2, (5, 7), ((3, 3, 4),), taps=3, stride=2, border=0, bias=True, **DOUBLE),
    "bordered image": lambda: ImageInjection(2, (5, 6), ((3, 7, 8),), taps=3, stride=1, border=1, bias=True, **DOUBLE),
    "tiers": lambda: ImageInjection(
        2, (6, 6), ((3, 6, 6), (2, 3, 3)), taps=3, stride=1, border=0, bias=True, **DOUBLE
    ),
    "circular": lambda: circular(scaled=False),
    "circular in a metric": lambda: circular(scaled=True, border=1),
    "positive": lambda: PositiveLinear(5, 4, 0.1, 5.0, **DOUBLE),
    "positive, second variant": lambda: PositiveLinear(5, 4, 0.0, **DOUBLE),
    "positive, normalised": lambda: normalised(PositiveLinear(5, 4, 0.1, batch_norm=True, **DOUBLE)),
    "positive image": lambda: normalised(
        PositiveConv2d(2, 3, (5, 7), 3, 0.1, batch_norm=True, stride=2, padding=1, **DOUBLE)
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request) -> InputMap:
    torch.manual_seed(0)
    found = KINDS[request.param]()
    for parameter in found.parameters():
        if parameter.ndim and not parameter.any():
            parameter.data.normal_()
    return found


def samples(kind: InputMap, count: int = 40) -> torch.Tensor:
    return testing.randn(count, *kind.input_shape, dtype=kind.stored.dtype)


def jacobian(kind: InputMap, x: torch.Tensor) -> torch.Tensor:
    outputs, inputs = math.prod(kind.output_shape), x.numel()
    return torch.func.jacrev(lambda row: kind(row[None])[0])(x).reshape(outputs, inputs)


def test_shapes_and_numbers_are_those_of_the_forward(kind):
    x = samples(kind)
    value = kind(x).detach()
    assert value.shape == (40, *kind.output_shape)
    kind.check_numbers("injection")
    exact = kind.exact(x)
    assert exact.value.shape == value.shape
    assert ((exact.value - value).flatten(1).norm(dim=1) <= 1e-12 * (1.0 + value.flatten(1).norm(dim=1))).all()
    numbers = kind.affine()
    if numbers is not None:
        torch.testing.assert_close((numbers(x) + numbers.bias).expand_as(value), value)


def test_the_error_of_the_exact_offset_covers_that_of_float32(kind):
    """The offset of the stored float32 numbers in float64 is exact up to its bound, far below what float32 errs by."""
    single = copy.deepcopy(kind).float()
    if isinstance(single, Holding):
        single.hold()
    x = samples(single)
    exact, again = single.exact(x), copy.deepcopy(single).double().exact(x.double())
    assert ((exact.value - again.value).flatten(1).norm(dim=1) <= exact.error + again.error).all()
    assert (exact.error <= 1e-10).all()


def test_norms_are_never_exceeded_and_nearly_attained(kind):
    norms = [float(torch.linalg.matrix_norm(jacobian(kind, x).detach(), 2)) for x in samples(kind, 5)]
    assert max(norms) <= kind.norm_bound()
    if kind.positive_part is None:
        assert max(norms) > 0.2 * kind.norm_bound()
        absolute = float(torch.linalg.matrix_norm(jacobian(kind, samples(kind, 1)[0]).detach().abs(), 2))
        assert absolute <= kind.numbers().absolute_norm()


def test_intervals_hold_all_offsets(kind):
    centre = samples(kind, 6)
    widths, radius = torch.rand_like(centre), 1.5 * testing.rand(6, **DOUBLE)
    inside = torch.clamp(testing.randn(300, *centre.shape, **DOUBLE), -1.0, 1.0)
    boxes = kind((centre + inside * widths).flatten(0, 1)).detach().unflatten(0, (300, 6))
    away = inside * (radius / inside.flatten(2).norm(dim=2)).reshape(300, 6, *[1] * len(kind.input_shape))
    balls = kind((centre + away).flatten(0, 1)).detach().unflatten(0, (300, 6))
    numbers = kind.affine()
    if numbers is not None:
        low, high = numbers.interval(centre - widths, centre + widths)
        assert ((low <= boxes) & (boxes <= high)).all()
        low, high = numbers.interval_of_balls(centre, radius)
        assert ((low <= balls) & (balls <= high)).all()
    try:
        low, high = (part.detach() for part in kind.interval(centre - widths, centre + widths))
    except wp.GuaranteeError:
        return
    assert ((low <= boxes + 1e-12) & (boxes <= high + 1e-12)).all()


def test_an_interval_is_attained_at_corners():
    torch.manual_seed(0)
    kind = LinearMap(5, 4, **DOUBLE)
    centre, widths = samples(kind, 1), testing.rand(1, 5, **DOUBLE)
    _, high = kind.numbers().interval(centre - widths, centre + widths)
    corners = centre + kind.weight.detach().sign() * widths
    torch.testing.assert_close(high[0], kind(corners).detach().diagonal(), rtol=1e-12, atol=1e-12)


def test_rows_are_bounded_by_their_norms(kind):
    numbers, whole = kind.numbers(), jacobian(kind, samples(kind, 1)[0]).detach()
    if kind.affine() is None:
        return
    rows = numbers.row_norms.expand(kind.output_shape).flatten()
    assert (whole.norm(dim=1) <= rows).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_normalisation_that_is_folded_in(seed):
    torch.manual_seed(seed)
    numbers = Matrix.of(testing.randn(4, 6), testing.randn(4))
    mean, std = testing.randn(6, **DOUBLE), 0.1 + testing.rand(6, **DOUBLE)
    folded, x = numbers.behind(mean, std), testing.randn(20, 6, **DOUBLE)
    torch.testing.assert_close(
        folded(x) + folded.bias, numbers((x - mean) / std) + numbers.bias, rtol=1e-12, atol=1e-12
    )
    assert folded.roundings > 0 and (folded.bias_size >= folded.bias.abs() - 1e-12).all()
    assert folded.norm_bound() >= float(torch.linalg.matrix_norm(numbers.weight / std, 2))


@pytest.mark.parametrize("name", ["pooled", "feedthrough", "scaled"])
def test_output_maps_are_their_numbers(name):
    torch.manual_seed(0)
    kind = {
        "pooled": lambda: PooledLinear((3, 5, 4), 2, 2, gamma(), **DOUBLE),
        "feedthrough": lambda: Feedthrough(6, 2, gamma(), **DOUBLE),
        "scaled": lambda: ScaledLinear(6, 2, gamma(), **DOUBLE),
    }[name]()
    kind.free.data.normal_()
    x = testing.randn(7, *kind.input_shape, **DOUBLE)
    numbers = kind.numbers()
    torch.testing.assert_close(numbers(x.flatten(1)) + numbers.bias, kind(x).detach())
    kind.check_numbers(name)
    kind.free.data = kind.free.data[:, 1:]
    with pytest.raises(wp.CertificateError, match=name):
        kind.check_numbers(name)


def layer_of(injection: nn.Module) -> wp.Equilibrium:
    return wp.Equilibrium(injection, Monotone(4, 1.0))


def test_a_linear_module_becomes_an_input_map_and_stays_what_it_was():
    torch.manual_seed(0)
    linear = nn.Linear(5, 4)
    seen = []
    linear.register_forward_hook(lambda *args: seen.append(1))
    state, x = {f"injection.{name}": part for name, part in linear.state_dict().items()}, testing.randn(3, 5)
    before = linear(x)
    layer = layer_of(linear)
    assert layer.injection is linear and isinstance(linear, LinearMap) and isinstance(linear, nn.Linear)
    assert torch.equal(layer.injection(x), before) and len(seen) == 2
    assert {name: part for name, part in layer.state_dict().items() if name in state}.keys() == state.keys()
    other = layer_of(nn.Linear(5, 4))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.injection.weight, linear.weight)
    other.injection = nn.Linear(5, 4, bias=False)
    assert isinstance(other.injection, LinearMap) and other(x).shape == (3, 4)


def test_parametrised_modules_become_input_maps_too():
    torch.manual_seed(0)
    linear = parametrizations.weight_norm(nn.Linear(5, 4))
    layer, x = layer_of(linear).eval(), testing.randn(3, 5)
    assert isinstance(layer.injection, LinearMap) and parametrize.is_parametrized(layer.injection)
    assert "injection.parametrizations.weight.original0" in layer.state_dict()
    certificate = wp.certify(nn.Sequential(layer, nn.Linear(4, 3)))
    assert type(certificate.network.blocks[0].module.injection) is LinearMap
    parametrize.remove_parametrizations(linear, "weight")
    assert type(linear) is LinearMap and layer.solve(x).converged.all()


def test_an_input_map_can_be_a_block_of_its_own():
    torch.manual_seed(0)
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, layer_of(linear), nn.Linear(4, 3)).eval()
    alone = nn.Sequential(layer_of(nn.Linear(4, 4)).injection, nn.ReLU(), nn.Linear(4, 3)).eval()
    for each in (model, alone):
        certificate = wp.certify(each, inputs=testing.randn(10, 4))
        assert 0 < certificate.lower_bound <= certificate.lipschitz


@pytest.mark.parametrize("wrong", [nn.Identity(), nn.Conv2d(1, 1, 1), nn.LazyLinear(4)])
def test_other_modules_are_no_input_maps(wrong):
    with pytest.raises(wp.InputError, match=r"injection: is a .*inherit from wellposed.maps.InputMap"):
        layer_of(wrong)


@wp.register
class Doubled(InputMap):
    """Twice a matrix, with a bias."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.part, self.shift = nn.Parameter(testing.randn(outputs, inputs)), nn.Parameter(testing.randn(outputs))

    @property
    @override
    def input_shape(self):
        return (self.part.shape[1],)

    @property
    @override
    def output_shape(self):
        return (len(self.part),)

    @override
    def forward(self, x):
        return x @ (2.0 * self.part).t() + self.shift

    @override
    def numbers(self):
        return Matrix.of(2.0 * self.part.detach().double(), self.shift)


@wp.register
class OfDoubled(wp.Equilibrium):
    """A layer for it."""

    injections = (Doubled,)


def test_an_input_map_of_ones_own_answers_for_itself():
    torch.manual_seed(0)
    layer = OfDoubled(Doubled(5, 4), Monotone(4, 1.0))
    x = testing.randn(6, 5)
    solution = layer.solve(x)
    assert solution.converged.all() and (solution.error_bound < 1e-4).all()
    model = nn.Sequential(layer, nn.Linear(4, 3)).eval()
    certificate = wp.certify(model, inputs=x)
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    assert (certificate.evaluate(x, model(x).argmax(1)) > 0.0).all()
    label = int(model(x)[0].argmax())
    assert wp.Verifier(wp.materialise(model), valid=None).verify(x[0].double(), label, 1e-3).status == "certified"
    with pytest.raises(wp.CertificateError, match="is a Doubled; the theorem of this layer is about LinearMap"):
        wp.certify(nn.Sequential(wp.Equilibrium(Doubled(5, 4), Monotone(4, 1.0)), nn.Linear(4, 3)).eval())


def steep_batch_norm() -> wp.PcDEQ:
    layer = wp.PcDEQ(5, 4, batch_norm=True)
    layer.injection.norm.running_var.fill_(1e-8)
    layer.injection.norm.running_mean.fill_(-10.0)
    return layer.eval()


def steep_metric() -> wp.ConvLBEN:
    layer = wp.ConvLBEN(2, 3, (5, 4), gamma=5.0, out_features=2, metric="full")
    layer.constraint.psi.data.fill_(7.0)
    return layer


@pytest.mark.parametrize("make", [steep_batch_norm, steep_metric])
def test_the_rounding_of_forward_passes_counts_what_scales_the_offset(make):
    torch.manual_seed(0)
    layer = make()
    x = testing.randn(50, *layer.input_shape)
    with torch.no_grad():
        offset = layer.injection(x)
        exact = layer.injection.exact(x)
        bound = affine_rounding(layer, x, torch.zeros_like(offset)).here
    away = (offset.double() - exact.value).flatten(1).norm(dim=1)
    assert (away <= bound + exact.error).all()
    assert (away > 1e-5).any()
