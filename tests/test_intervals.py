"""Interval images of every kind of block: they hold samples, are attained where they can be, and verify kinds of one's own."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.network.branches import Branches, Place
from wellposed.network.kinds import block_of
from wellposed.network.mixed_monotone import StateBoxes
from wellposed.network.pointwise import Elementwise, Rescale, Reshape, Shift
from wellposed.verification import ChainVerifier, IntervalVerifier, verifier_of
from wellposed.verification.images import images_of
from wellposed.verification.region import Region

FLAT, IMAGE = (6,), (2, 5, 4)


def normalised(norm):
    """A batch normalisation with statistics of its own, some of its scales negative."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 2.0)
        norm.weight.normal_()
        norm.bias.normal_()
    return norm.eval()


def scaled(layer, by):
    """A layer whose free parameters are larger than they start."""
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(by)
    return layer


def with_output():
    """A layer with an output map whose boxes close."""
    layer = wp.LBEN(6, 5, gamma=2.0, out_features=3)
    with torch.no_grad():
        layer.constraint.V.copy_(2.0 * testing.eye(5))
        layer.constraint.S.mul_(0.2)
    return layer


def residual(part):
    """x − f(x)."""
    return Branches([Place("f", (-1,)), Place("difference", (-1, 0), (1.0, -1.0))], [part, None])


# Name: the module, the shape of inputs, and whether every bound is attained.
CASES = {
    "linear": (lambda: nn.Linear(6, 5), FLAT, True),
    "orthogonal": (lambda: wp.OrthogonalLinear(6, 5), FLAT, True),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), IMAGE, True),
    "identity": (nn.Identity, FLAT, True),
    "dropout": (nn.Dropout, FLAT, True),
    "flattened": (nn.Flatten, IMAGE, True),
    "unflattened": (lambda: nn.Unflatten(1, (2, 3)), FLAT, True),
    "another shape": (lambda: Reshape((4, 10)), IMAGE, True),
    "relu": (nn.ReLU, FLAT, True),
    "hardtanh": (lambda: nn.Hardtanh(-0.3, 0.7), FLAT, True),
    "tanh": (nn.Tanh, FLAT, True),
    "sigmoid": (nn.Sigmoid, FLAT, True),
    "sorted": (lambda: wp.GroupSort(2), FLAT, True),
    **{
        f"activation {name}": (lambda name=name: Elementwise(wp.activations.activation(name)), FLAT, True)
        for name in wp.activations.monotone_names()
    },
    "activation silu": (lambda: Elementwise(wp.activations.activation("silu")), FLAT, False),
    "activation gelu": (lambda: Elementwise(wp.activations.activation("gelu")), FLAT, False),
    "product": (lambda: Rescale(testing.tensor([1.5, -2.0, 0.3, -0.1, 1.0, 7.0])), FLAT, True),
    "quotient": (lambda: Rescale(testing.tensor([1.5, -2.0, 0.3, -0.1, 1.0, 7.0]), divide=True), FLAT, True),
    "sum": (lambda: Shift(testing.randn(6)), FLAT, True),
    "normalisation": (lambda: wp.Normalize((0.3, 0.1), (0.5, 0.2)), IMAGE, True),
    "batch normalisation": (lambda: normalised(nn.BatchNorm1d(6)), FLAT, True),
    "batch normalisation of images": (lambda: normalised(nn.BatchNorm2d(2)), IMAGE, True),
    "averages": (lambda: nn.AvgPool2d(2), IMAGE, True),
    "overlapping averages": (lambda: nn.AvgPool2d(3, stride=1, padding=1), IMAGE, True),
    "maxima": (lambda: nn.MaxPool2d(2), IMAGE, True),
    "unit pooling": (lambda: wp.UnitPool2d(2), IMAGE, True),
    "difference": (lambda: residual(nn.Tanh()), FLAT, False),
    "sandwich": (lambda: wp.Sandwich(6, 5), FLAT, False),
    "residual layer": (lambda: wp.SLL(6, 4), FLAT, False),
    "equilibrium": (lambda: scaled(wp.NEMON(6, 5, mu=0.5), 4.0), FLAT, False),
    "equilibrium with tanh": (lambda: scaled(wp.NEMON(6, 5, mu=0.5, activation="tanh"), 4.0), FLAT, False),
    "equilibrium of images": (lambda: scaled(wp.ConvNEMON(2, 3, (5, 4), mu=0.6, stride=2), 2.0), IMAGE, False),
    "equilibrium with an output": (with_output, FLAT, False),
    "positive": (lambda: wp.PcDEQ(6, 5), FLAT, False),
    "positive and sharp": (lambda: wp.PcDEQ(6, 5, floor=1e-2, sharpness=5.0), FLAT, False),
    "positive sigmoid": (lambda: wp.PcDEQ(6, 5, activation="sigmoid"), FLAT, False),
    "positive images": (lambda: wp.ConvPcDEQ(2, 3, (5, 4)), IMAGE, False),
}  # fmt: skip


def module_of(name):
    torch.manual_seed(len(name))
    module = CASES[name][0]().double().eval()
    for part in module.modules():
        if isinstance(part, wp.ImplicitLayer):
            part.tolerance = type(part.tolerance)(1e-11, 1e-11)
    return module, CASES[name][1]


def boxes_of(shape, width, count=3):
    centre = testing.randn(count, *shape, dtype=torch.float64)
    half = width * testing.rand(count, *shape, dtype=torch.float64)
    return centre - half, centre + half


def sampled(lower, upper, count=1000):
    """Points of boxes: half of them anywhere, half of them corners; shape (count, batch, *shape)."""
    share = testing.rand(count, *lower.shape, dtype=torch.float64)
    share[::2] = share[::2].round()
    return (lower + share * (upper - lower)).clamp(lower, upper)


@torch.no_grad()
@pytest.mark.parametrize("width", [1e-9, 0.1, 2.0])
@pytest.mark.parametrize("name", CASES)
def test_a_thousand_images_lie_inside(name, width):
    module, shape = module_of(name)
    lower, upper = boxes_of(shape, width)
    least, largest = block_of("block", module).interval(lower, upper)
    assert least.dtype == largest.dtype == torch.float64
    points = sampled(lower, upper)
    images = module(points.flatten(0, 1)).unflatten(0, (len(points), -1))
    assert least.shape == largest.shape == images.shape[1:]
    room = 1e-9 if block_of("", module).is_implicit else 1e-13 * (1.0 + images.abs())
    finite = torch.isfinite(least) & torch.isfinite(largest)
    assert bool(finite.all()) or (width == 2.0 and block_of("", module).is_implicit)
    assert bool(((images >= least - room) | ~finite).all() and ((images <= largest + room) | ~finite).all())
    if width == 1e-9:  # nothing is lost at a point but what closes a box of states
        assert float((largest - least).amax()) < (1e-3 if block_of("", module).is_implicit else 1e-6)


@pytest.mark.parametrize("name", [name for name, (_, _, tight) in CASES.items() if tight])
def test_bounds_are_attained_where_every_entry_is_monotone(name):
    """At the corner that the signs of the derivatives name."""
    module, shape = module_of(name)
    lower, upper = boxes_of(shape, 0.5, count=1)
    least, largest = block_of("block", module).interval(lower, upper)
    size = lower.numel()
    jacobian = torch.autograd.functional.jacobian(module, 0.5 * (lower + upper)).reshape(-1, size)
    for entry, slopes in enumerate(jacobian):
        falling = (slopes < 0.0).reshape(lower.shape)
        for bound, corner in (
            (least, torch.where(falling, upper, lower)),
            (largest, torch.where(falling, lower, upper)),
        ):
            with torch.no_grad():
                attained = module(corner).flatten()[entry]
            assert float(bound.flatten()[entry]) == pytest.approx(float(attained), rel=1e-12, abs=1e-12)


def test_rounding_is_outward_in_rational_arithmetic():
    """Sums that cancel: float64 is wrong in the third digit, and the exact ends lie inside all the same."""
    torch.manual_seed(0)
    linear = nn.Linear(8, 4).double().requires_grad_(False)
    with torch.no_grad():
        linear.weight[:, 4:] = -linear.weight[:, :4] * (1.0 + 2.0**-40)
        linear.bias.mul_(1e-14)
    lower = testing.rand(1, 4, dtype=torch.float64).repeat(1, 2)
    upper = lower * (1.0 + 2.0**-50)
    least, largest = block_of("linear", linear).interval(lower, upper)
    for row in range(4):
        ends = [Fraction(float(linear.bias[row]))] * 2
        for weight, low, high in zip(linear.weight[row].tolist(), lower[0].tolist(), upper[0].tolist(), strict=True):
            products = sorted(Fraction(weight) * Fraction(end) for end in (low, high))
            ends = [total + product for total, product in zip(ends, products, strict=True)]
        assert Fraction(float(least[0, row])) <= ends[0] and ends[1] <= Fraction(float(largest[0, row]))


@pytest.mark.parametrize(
    "name", ["linear", "convolution", "sandwich", "equilibrium", "equilibrium with an output", "positive"]
)
def test_balls_hold_their_images_and_are_no_wider_than_boxes(name):
    module, shape = module_of(name)
    block = block_of("block", module)
    centre, radius = testing.randn(2, *shape, dtype=torch.float64), testing.tensor([0.05, 0.3], dtype=torch.float64)
    wide = radius.reshape(-1, *[1] * len(shape))
    least, largest = block.interval_of_balls(centre, radius)
    change = testing.randn(1000, 2, *shape, dtype=torch.float64)
    change = change / change.flatten(2).norm(dim=2).reshape(1000, 2, *[1] * len(shape))
    with torch.no_grad():
        images = module((centre + wide * change).flatten(0, 1)).unflatten(0, (1000, 2))
    assert bool((images >= least - 1e-9).all() and (images <= largest + 1e-9).all())
    below, above = block.interval(centre - wide, centre + wide)
    room = 2e-4 if block.is_implicit else 1e-12
    assert bool((least >= below - room).all() and (largest <= above + room).all())
    if name == "linear":  # attained along the row
        with torch.no_grad():
            reach = module.weight.norm(dim=1) * radius[:, None]
            torch.testing.assert_close(largest, module(centre) + reach, rtol=1e-12, atol=1e-12)


def test_differences_of_rows_lose_less_than_entries():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4).double()
    block = block_of("linear", linear)
    lower, upper = boxes_of(FLAT, 1.0)
    labels = testing.tensor([0, 2, 3])
    low, high = block.margins(lower, upper, labels)
    least, largest = wp.Block.margins(block, lower, upper, labels)
    with torch.no_grad():
        values = linear(sampled(lower, upper))
        margins = values.gather(2, labels.expand(1000, 3)[:, :, None]) - values
        corners = linear.weight[labels][:, None] - linear.weight
        exact = linear.bias[labels][:, None] - linear.bias + (
            corners.clamp_min(0.0) @ lower[:, :, None] + corners.clamp_max(0.0) @ upper[:, :, None]
        )[:, :, 0]  # fmt: skip
    torch.testing.assert_close(low, exact, rtol=1e-12, atol=1e-12)
    assert bool((margins >= low - 1e-12).all() and (margins <= high + 1e-12).all())
    assert bool((low >= least).all() and (high <= largest).all()) and float((low - least).amax()) > 0.1


@pytest.mark.parametrize(
    "module",
    [wp.ConvMonDEQ(1, 2, (4, 4)), wp.OrthogonalDEQ(16, 8)],
    ids=["circular", "composed"],
)
def test_what_is_not_known_is_said(module):
    with pytest.raises(wp.CertificateError, match=r"block: .*interval"):
        block_of("block", module).interval(*(testing.zeros(1, *module.input_shape, dtype=torch.float64),) * 2)


class Bump(nn.Module):
    """x/(1 + x²), entry by entry: increases on [−1, 1], decreases outside."""

    def forward(self, x):
        return x / (1.0 + x * x)


class BumpBlock(wp.Block):
    """What is known of a `Bump`: slopes in [−1/8, 1], its rounding, and where it increases."""

    elementwise = True

    def constant(self, norm):
        return 1.0, "largest slope"

    def relative_rounding(self, value, image):
        unit = 8.0 * torch.finfo(value.dtype).eps
        return wp.Own(unit * image.double().norm(dim=1), unit)

    def interval(self, lower, upper):
        ends = self.module(lower), self.module(upper)
        least, largest = torch.minimum(*ends), torch.maximum(*ends)
        least = torch.where((lower < -1.0) & (upper > -1.0), -0.5, least)
        largest = torch.where((lower < 1.0) & (upper > 1.0), 0.5, largest)
        return least - 1e-15, largest + 1e-15


class Opaque(nn.Module):
    """max(x, x/2) in a class of its own."""

    def forward(self, x):
        return torch.maximum(x, 0.5 * x)


class OpaqueBlock(wp.Block):
    """Nothing is known of an `Opaque` but its intervals."""

    def interval(self, lower, upper):
        return self.module(lower), self.module(upper)


wp.register(Bump, BumpBlock)
wp.register(Opaque, OpaqueBlock)


def own_chain(part):
    """A chain with a kind of this file, whose classes change within the unit cube."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 12), part, nn.Linear(12, 3)).double().eval()
    with torch.no_grad():
        model[1].weight.mul_(2.0)
        model[-1].weight.mul_(5.0)
        model[-1].bias.copy_(-model[-1].weight @ model[:-1](testing.rand(40, 6, dtype=torch.float64)).mean(0))
    return model


@pytest.mark.parametrize("norm", ["2", "inf"])
@pytest.mark.parametrize("part", [Bump(), Opaque()], ids=["constant and interval", "interval only"])
def test_a_kind_of_ones_own_is_verified_image_by_image(part, norm):
    model = own_chain(part)
    verifier = verifier_of(model)
    assert type(verifier) is (ChainVerifier if type(part) is Bump else IntervalVerifier)
    assert "embedding" in verifier.steps
    x = testing.rand(30, 1, 2, 3, dtype=torch.float64)
    labels = model(x).argmax(1)
    seen = set()
    for radius in (0.01, 0.05, 0.1, 0.6):
        for image, label, verdict in zip(
            x, labels, verifier.verify_batch(x, labels.tolist(), radius, norm=norm), strict=True
        ):
            seen.add((verdict.status, verdict.method))
            if verdict.status == "certified":
                noise = testing.randn(300, *image.shape, dtype=torch.float64)
                noise = noise.sign() if norm == "inf" else noise / noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
                near = image + radius * noise
                assert bool((model(near.clamp(0.0, 1.0) if norm == "inf" else near).argmax(1) == label).all())
            if verdict.status == "falsified":
                assert int(model(verdict.counterexample[None]).argmax()) != int(label)
    assert ("certified", "embedding") in seen  # more than the global constants certify, where there are any
    assert type(part) is Opaque or {("certified", "global"), ("falsified", "attack")} <= seen
    assert verifier.verify(x[0], int(model(x[:1]).argmin()), 0.01, norm=norm).status == "misclassified"


def test_two_equilibria_and_what_lies_between_are_decided():
    torch.manual_seed(0)
    first = scaled(wp.NEMON(6, 8, mu=0.3), 3.0)
    second = scaled(wp.NEMON(8, 6, mu=0.3, activation="tanh"), 3.0)
    model = nn.Sequential(
        wp.Normalize((0.5,), (0.25,)), nn.Flatten(), first, nn.Linear(8, 8), nn.GELU(), second, nn.Linear(6, 3)
    )
    model = model.double().eval()
    verifier = IntervalVerifier(model)
    x = testing.rand(12, 1, 2, 3, dtype=torch.float64)
    labels = model(x).argmax(1)
    for norm in ("2", "inf"):
        counts = []
        for radius in (1e-3, 1e-2, 1.0):
            verdicts = verifier.verify_batch(x, labels.tolist(), radius, norm=norm)
            counts.append(sum(verdict.status == "certified" for verdict in verdicts))
            for image, label, verdict in zip(x, labels, verdicts, strict=True):
                if verdict.status == "certified":
                    noise = testing.randn(200, *image.shape, dtype=torch.float64)
                    size = noise.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
                    near = image + radius * (noise.sign() if norm == "inf" else noise / size)
                    near = near.clamp(0.0, 1.0) if norm == "inf" else near
                    assert bool((model(near).argmax(1) == label).all())
        assert counts[0] >= 10 and counts[0] >= counts[1] >= counts[2]


def test_balls_go_through_what_has_a_constant_and_boxes_through_the_rest():
    torch.manual_seed(0)
    model = nn.Sequential(wp.Normalize((0.5,), (0.25,)), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7)).double()
    centre = testing.rand(2, 20, dtype=torch.float64)
    images = images_of(Region(centre, testing.tensor([0.1, 0.2], dtype=torch.float64)), (1, 5, 4))
    for block in wp.materialise(model).exact.blocks:
        images = images.behind(block)
    boxes = images.boxes()
    with torch.no_grad():
        middle = model(centre.reshape(2, 1, 5, 4))
        reach = model[3].weight.norm(dim=1) * testing.tensor([[0.4], [0.8]], dtype=torch.float64)
    torch.testing.assert_close(boxes.upper, middle + reach, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(boxes.lower, middle - reach, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_boxes_of_wide_convolutions_are_hardly_wider_than_what_both_ends_tend_to(activation):
    torch.manual_seed(0)
    layer = scaled(wp.ConvNEMON(1, 10, (5, 4), mu=0.0, taps=5, activation=activation), 3.0).float()
    operator, _ = layer.materialise()
    boxes = StateBoxes("layer", operator, layer.activation)
    centre = 3.0 * testing.randn(5, *operator.state_shape, dtype=torch.float64)
    reach = testing.rand(5, 1, 1, 1, dtype=torch.float64)
    low, high = centre - reach, centre + reach
    lower, upper, proved = boxes.enclose(low, high)
    assert bool(proved.all())
    weight = operator.to(torch.float64).dense().detach()
    own = torch.diag(weight.diagonal())
    up, down = (weight - own).clamp_min(0.0), (weight - own).clamp_max(0.0)
    step, ends = 1.0 / (1.0 - weight.diagonal().clamp_max(0.0)), [torch.zeros(5, len(weight), dtype=torch.float64)] * 2
    sigma = {"relu": torch.relu, "tanh": torch.tanh}[activation]
    for _ in range(1500):
        images = [
            sigma(end @ (own + up).T + other @ down.T + offset.flatten(1))
            for end, other, offset in ((ends[0], ends[1], low), (ends[1], ends[0], high))
        ]
        ends = [end + step * (image - end) for end, image in zip(ends, images, strict=True)]
    assert bool((lower.flatten(1) <= ends[0] + 1e-9).all()) and bool((upper.flatten(1) >= ends[1] - 1e-9).all())
    assert bool((lower.flatten(1) >= ends[0] - 1e-4).all()) and bool((upper.flatten(1) <= ends[1] + 1e-4).all())
    assert float((ends[1] - ends[0]).amax()) > 0.1
