"""Lipschitz bounds of circular convolutions, by frequencies: against dense matrices, a semidefinite solver, and tampering."""

from __future__ import annotations

import dataclasses

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

import wellposed as wp
from harness.tails import with_tail
from wellposed import testing
from wellposed.bounds.frequency_metric import circular_metric_problem
from wellposed.bounds.metric_of_tail import MetricOfTail
from wellposed.bounds.search.frequency_barrier import FrequencyBarrier
from wellposed.testing import check_refusals


def layer_of(image=(3, 4), *, channels=2, border=1, stride=1, inputs=1, seed=0, scale=1.0, **options):
    torch.manual_seed(seed)
    layer = wp.ConvMonDEQ(
        inputs, channels, image, border=border, stride=stride, m=0.7, dtype=torch.float64, rtol=1e-10, **options
    )
    with torch.no_grad():
        layer.constraint.A.mul_(2.0)
        layer.constraint.B.mul_(3.0)
        layer.injection.weight.mul_(scale)
        layer.injection.bias.mul_(scale)
    return layer


def by_hand(layer):
    """W and U as matrices, by applying the layer's own convolutions to unit images."""
    matrix = layer.operator().dense().detach()
    unit = testing.eye(layer.in_features, dtype=torch.float64).reshape(-1, *layer.input_shape)
    zero = layer.injection(testing.zeros(1, *layer.input_shape, dtype=torch.float64))
    return matrix, (layer.injection(unit) - zero).flatten(1).t().detach()


def wrapped_around(layer):
    """U on images of the size of the state, with circular padding."""
    _, height, width = layer.state_shape
    weight, taps = layer.injection.weight.detach(), layer.injection.weight.shape[-1]
    unit = testing.eye(weight.shape[1] * height * width, dtype=torch.float64).reshape(
        -1, weight.shape[1], height, width
    )
    padded = nn.functional.pad(unit, (taps // 2,) * 4, mode="circular")
    return nn.functional.conv2d(padded, weight).flatten(1).t()


def by_clarabel(matrix, driven, seen, channels):
    """The semidefinite program of the whole image, with one multiplier for every channel."""
    size = len(matrix)
    root = np.linalg.cholesky((driven @ driven.T + 1e-11 * testing.eye(size)).numpy())
    multipliers, square = cvxpy.Variable(channels), cvxpy.Variable()
    spread = np.kron(np.eye(channels), np.ones((size // channels, 1))) @ multipliers
    half = cvxpy.diag(spread) @ (np.eye(size) - matrix.numpy())
    through = cvxpy.diag(spread) @ root
    corner = half + half.T - seen.numpy().T @ seen.numpy()
    whole = cvxpy.bmat([[corner, through], [through.T, square * np.eye(size)]])
    cvxpy.Problem(cvxpy.Minimize(square), [0.5 * (whole + whole.T) >> 0]).solve(solver=cvxpy.CLARABEL)
    return float(square.value) ** 0.5


def head_for(layer, outputs, seed=1):
    generator = testing.generator(seed)
    return testing.randn(outputs, layer.state_features, generator=generator, dtype=torch.float64) / 10


@pytest.mark.parametrize(("image", "outputs"), [((1, 1), 1), ((2, 1), 3), ((2, 2), 1)])
def test_the_optimum_is_that_of_a_semidefinite_solver(image, outputs):
    layer = layer_of(image)
    seen = head_for(layer, outputs)
    found = circular_metric_problem(layer).bound(seen)
    expected = by_clarabel(by_hand(layer)[0], wrapped_around(layer), seen, 2)
    assert expected * (1 - 1e-6) <= found.value <= expected * (1 + 1e-4)


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize(("image", "stride", "taps"), [((3, 4), 1, 3), ((4, 3), 2, 3), ((5, 5), 1, 5), ((5, 2), 3, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e120])
def test_bounds_are_never_exceeded(border, image, stride, taps, scale):
    layer = layer_of(image, border=border, stride=stride, inputs=2, scale=scale, taps=taps)
    matrix, driven = by_hand(layer)
    # What the border drives never enters.
    inside = layer.activation.derivative(testing.ones(1, *layer.state_shape, dtype=torch.float64)).flatten()
    generator = testing.generator(0)
    for outputs in (1, 4):
        seen = head_for(layer, outputs) / scale
        found = circular_metric_problem(layer).bound(seen)
        worst = 0.0
        for _ in range(300):
            slopes = testing.randint(0, 2, (len(matrix),), generator=generator).double() * inside
            system = testing.eye(len(matrix), dtype=torch.float64) - slopes[:, None] * matrix
            jacobian = seen @ torch.linalg.solve(system, slopes[:, None] * driven)
            worst = max(worst, float(torch.linalg.matrix_norm(jacobian, 2)))
        product = float(torch.linalg.matrix_norm(seen, 2) * layer.lipschitz()[0])
        assert 0.1 * found.value <= worst <= found.value
        assert found.value <= product * (1 + 1e-9)


def bounded_layer(image, metric="channels", **options):
    torch.manual_seed(0)
    layer = wp.ConvLBEN(1, 2, image, metric=metric, dtype=torch.float64, rtol=1e-10, **options)
    with torch.no_grad():
        layer.constraint.S.mul_(3.0)
        if metric != "identity":
            layer.constraint.psi.copy_(torch.randn_like(layer.constraint.psi))
    return layer


def test_the_optimum_in_a_learned_metric_is_that_of_a_semidefinite_solver():
    layer = bounded_layer((2, 2))
    seen = head_for(layer, 2)
    found = circular_metric_problem(layer).bound(seen)
    assert found.value == pytest.approx(by_clarabel(*by_hand(layer), seen, 2), rel=1e-4)


@pytest.mark.parametrize("metric", ["identity", "channels"])
@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_bounds_in_a_learned_metric_are_never_exceeded(metric, border, stride):
    layer = bounded_layer((5, 4), metric, border=border, stride=stride)
    matrix, driven = by_hand(layer)
    inside = layer.activation.derivative(testing.ones(1, *layer.state_shape, dtype=torch.float64)).flatten()
    seen, generator, worst = head_for(layer, 3), testing.generator(0), 0.0
    found = circular_metric_problem(layer).bound(seen).value
    for _ in range(300):
        slopes = testing.randint(0, 2, (len(matrix),), generator=generator).double() * inside
        system = testing.eye(len(matrix), dtype=torch.float64) - slopes[:, None] * matrix
        worst = max(
            worst, float(torch.linalg.matrix_norm(seen @ torch.linalg.solve(system, slopes[:, None] * driven), 2))
        )
    assert 0.05 * found <= worst <= found
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(layer.state_features, 3)).double()
    assert wp.certify(model).lipschitz < 0.8 * wp.certify(model, method="product").lipschitz


@pytest.mark.parametrize("metric", ["image", "full"])
def test_metrics_that_differ_from_pixel_to_pixel_are_left_out(metric):
    assert circular_metric_problem(bounded_layer((3, 3), metric)) is None
    assert circular_metric_problem(wp.ConvLBEN(1, 2, (4, 4), gamma=1.0, out_features=3)) is None


def test_it_is_attained_by_what_is_always_active():
    """With one channel, no coupling of pixels and no signs: the gain of all units being active, U wrapping around."""
    layer = layer_of((5, 6), channels=1)
    with torch.no_grad():
        layer.injection.weight.abs_()
        layer.constraint.A.zero_()
        layer.constraint.B.zero_()
    seen = testing.ones(1, layer.state_features, dtype=torch.float64)
    matrix, driven = by_hand(layer)
    inverse = torch.linalg.inv(testing.eye(len(matrix), dtype=torch.float64) - matrix)
    found = circular_metric_problem(layer).bound(seen).value
    assert found == pytest.approx(float((seen @ inverse @ wrapped_around(layer)).norm()), rel=1e-4)
    assert found >= float((seen @ inverse @ driven).norm())


@pytest.mark.parametrize("border", [0, 1])
def test_what_is_proved_and_what_is_not(border):
    layer = layer_of(border=border)
    block = circular_metric_problem(layer)
    seen = head_for(layer, 3)
    check_refusals(block, seen)
    found = block.bound(seen)
    with torch.no_grad():
        layer.injection.weight.mul_(1.01)
    assert not circular_metric_problem(layer).proves(seen, found.multipliers, found.value)


def test_weights_that_underflow_when_squared_prove_nothing_too_small():
    layer = layer_of()
    seen = head_for(layer, 2)
    true = circular_metric_problem(layer).bound(seen)
    with torch.no_grad():
        layer.injection.weight.mul_(1e-200)
    tiny = circular_metric_problem(layer)
    assert tiny.bound(seen).value == pytest.approx(true.value * 1e-200, rel=1e-5, abs=0.0)
    assert not tiny.proves(seen, true.multipliers, 0.99e-200 * true.value)


def test_derivatives_of_the_barrier():
    generator = testing.generator(0)

    def draw(*shape):
        return testing.randn(*shape, generator=generator, dtype=torch.complex128)

    driven = draw(5, 3, 2)
    counts = testing.tensor([1.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    displacement = 0.3 * draw(5, 3, 3) + 2.0 * testing.eye(3)
    barrier = FrequencyBarrier(displacement, driven @ driven.mH, 0.3 * draw(5, 3, 2), counts, 2)
    multipliers, square = barrier.interior(testing.tensor([1.0, 1.1, 0.9], dtype=torch.float64))
    point = torch.cat([multipliers, testing.tensor([square], dtype=torch.float64)])

    def difference(function):
        rows = []
        for direction in testing.eye(4, dtype=torch.float64) * point * 1e-6:
            ahead, behind = point + direction, point - direction
            step = 2.0 * float(direction.sum())
            rows.append((function(ahead[:3], float(ahead[3])) - function(behind[:3], float(behind[3]))) / step)
        return torch.stack([torch.as_tensor(row, dtype=torch.float64) for row in rows])

    gradient, hessian = barrier.derivatives(multipliers, square)
    torch.testing.assert_close(gradient, difference(barrier.value), rtol=1e-6, atol=1e-8)
    slopes = difference(lambda at, t: barrier.derivatives(at, t)[0])
    torch.testing.assert_close(hessian, slopes, rtol=1e-5, atol=1e-8)


def classifier(layer, pool=2):
    channels, height, width = layer.state_shape
    torch.manual_seed(5)
    head = nn.Linear(channels * (height // pool) * (width // pool), 3, dtype=torch.float64)
    return nn.Sequential(layer, nn.AvgPool2d(pool), nn.Flatten(), head).eval()


@pytest.mark.parametrize("border", [0, 1])
def test_class_pairs_of_a_classifier(border, tmp_path):
    layer = layer_of((4, 5), border=border)
    model = classifier(layer)
    product = wp.certify(model, method="product")
    found = wp.certify(model, inputs=testing.rand(8, 1, 4, 5, dtype=torch.float64))
    assert found.tail is not None
    off = ~testing.eye(3, dtype=torch.bool)
    assert found.lower_bound <= found.lipschitz < 0.95 * product.lipschitz
    assert bool((found.pairs[off] < 0.95 * product.pairs[off]).all())
    # Every Jacobian of a margin stays below its constant.
    x = testing.rand(20, 1, 4, 5, dtype=torch.float64)
    for sample in x:
        jacobian = torch.autograd.functional.jacobian(lambda at: model(at[None])[0], sample).flatten(1)
        for i in range(3):
            for j in range(i):
                assert float((jacobian[i] - jacobian[j]).norm()) <= float(found.pairs[i, j])
    assert found.check()
    tail = dataclasses.replace(found.tail, value=0.98 * found.tail.value)
    with pytest.raises(wp.CertificateError, match="metric"):
        with_tail(found, tail).check()
    tail = dataclasses.replace(found.tail, pairs=0.98 * found.tail.pairs)
    with pytest.raises(wp.CertificateError, match="classes"):
        with_tail(found, tail).check()


def test_the_pooled_head_is_what_the_blocks_compute():
    layer = layer_of((5, 4), border=0)
    model = classifier(layer)
    tail = MetricOfTail().bound(wp.materialise(model), "2").tail
    assert tail.block == "0 + 1 + 3"
    state = testing.randn(2, *layer.state_shape, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda at: model[1:](at[None])[0], state[0]).flatten(1)
    assert circular_metric_problem(layer).proves(rows, tail.multipliers[0], tail.value * (1 + 1e-9))


@pytest.mark.parametrize(
    "rest",
    [
        lambda: (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
        lambda: (nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(18, 3)),
        lambda: (nn.AvgPool2d(2), nn.Flatten(), nn.ReLU(), nn.Linear(8, 3)),
    ],
)
def test_other_endings_get_the_product(rest):
    assert unbounded(nn.Sequential(layer_of((4, 4), border=0), *rest()).double().eval())


def test_other_layers_are_left_out():
    assert circular_metric_problem(wp.ConvNEMON(1, 2, (3, 3))) is None
    assert circular_metric_problem(wp.MonDEQ(4, 3)) is None
    layer = layer_of()
    with torch.no_grad():
        layer.injection.weight[0, 0, 0, 0] = float("inf")
    assert circular_metric_problem(layer) is None


@pytest.mark.parametrize("flatten", [lambda: nn.Flatten(2), lambda: nn.Flatten(1, 2), lambda: nn.Flatten(0)])
def test_averages_over_something_else_are_not_taken_for_averages_over_windows(flatten):
    """Before pooling, flattening makes channels of what are none; features may be as many by chance."""
    layer = layer_of((2, 2), border=0)
    model = nn.Sequential(layer, flatten(), nn.AvgPool2d(2), nn.Flatten(1), nn.Linear(2, 3, dtype=torch.float64))
    assert unbounded(model.eval())
    after = nn.Sequential(layer, nn.AvgPool2d(2), flatten(), nn.Linear(2, 3, dtype=torch.float64)).eval()
    assert unbounded(after)


def unbounded(model):
    """Whether no metric applies, be it that the blocks do not even fit together."""
    try:
        MetricOfTail().bound(wp.materialise(model), "2")
    except wp.WellposedError:
        return True
    return False
    return False


def test_rows_that_are_nearly_equal():
    """Their difference is far smaller than what dividing them by nine rounds."""
    layer = layer_of((3, 3), border=0, channels=1)
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.zero_()
    head = nn.Linear(1, 2, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(1.0 + testing.tensor([[4.0], [5.0]], dtype=torch.float64) * 2.0**-52)
    model = nn.Sequential(layer, nn.AvgPool2d(3), nn.Flatten(), head).eval()
    found = wp.certify(model, method="metric")
    matrix, driven = by_hand(layer)
    inverse = torch.linalg.inv(testing.eye(9, dtype=torch.float64) - matrix)
    slope = 2.0**-52 / 9.0 * testing.ones(1, 9, dtype=torch.float64) @ inverse @ driven
    assert float(found.pairs[0, 1]) >= float(slope.norm()) * (1 - 1e-12)
    assert found.check()


def test_blocks_that_do_not_compute_what_their_class_says():
    class Loud(nn.Linear):
        def __call__(self, x):
            return 100.0 * super().__call__(x)

    class Steep(wp.ConvMonDEQ):
        def readout(self, state, x):
            return 100.0 * state

    def build(layer, head):
        return nn.Sequential(layer, nn.Flatten(), head.double()).eval()

    layer = layer_of((2, 2), border=0)
    sneaky = nn.Linear(8, 3)
    sneaky.forward = lambda x: 100.0 * nn.Linear.forward(sneaky, x)
    for model in (build(layer, Loud(8, 3)), build(layer, sneaky), build(Steep(1, 2, (2, 2)).double(), nn.Linear(8, 3))):
        with pytest.raises(wp.CertificateError):
            wp.certify(model)
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 100.0 * output)
    try:
        with pytest.raises(wp.CertificateError, match="hooks"):
            wp.certify(build(layer, nn.Linear(8, 3)))
    finally:
        handle.remove()
    strange = layer_of((4, 4), border=0)
    strange.injection.dilation = (2, 2)
    assert circular_metric_problem(strange) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_that_sees_nothing(stride):
    layer = layer_of((4, 4), border=0, stride=stride)
    with torch.no_grad():
        layer.injection.weight.zero_()
    assert circular_metric_problem(layer) is None
    assert wp.certify(classifier(layer)).lipschitz == pytest.approx(0.0, abs=1e-140)


@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e-78, 1e78, 1e100, 1e160])
def test_heads_of_any_scale(scale):
    layer = layer_of((4, 4), border=0)
    model = classifier(layer)
    true = wp.certify(model)
    with torch.no_grad():
        model[3].weight.mul_(scale)
    found = wp.certify(model)
    off = ~testing.eye(3, dtype=torch.bool)
    assert float((found.pairs[off] / (true.pairs[off] * scale)).amin()) >= 1 - 1e-4
    assert found.lipschitz >= true.lipschitz * scale * (1 - 1e-4)


def test_searches_that_fail_do_not_fail_the_certificate():
    for seed in range(60):
        layer = layer_of((3, 4), border=0, seed=seed, channels=3, inputs=2)
        found = wp.certify(classifier(layer, pool=1), method="metric")
        assert found.lipschitz > 0.0


def test_malformed_evidence_is_refused(tmp_path):
    layer = layer_of((4, 4), border=0)
    model = classifier(layer)
    found = wp.certify(model)
    tail = found.tail
    for change in (
        {"multipliers": tail.multipliers[:0]}, {"multipliers": tail.multipliers[0]},
        {"multipliers": tail.multipliers.to(torch.complex128)}, {"pairs": tail.pairs[:2, :2]}, {"pairs": tail.pairs[0]},
        {"pairs": tail.pairs - testing.eye(3)},
        {"multipliers": tail.multipliers[:, :1]},
    ):  # fmt: skip
        with pytest.raises(wp.CertificateError):
            with_tail(found, dataclasses.replace(tail, **change)).check()
    listed = nn.Sequential(layer, nn.AvgPool2d([2, 2]), nn.Flatten(), model[3]).eval()
    assert wp.certify(listed).lipschitz == pytest.approx(found.lipschitz, rel=1e-6)
    assert circular_metric_problem(layer).bound(testing.ones(2, 3)) is None
    assert not circular_metric_problem(layer).proves(testing.ones(0, 32), testing.ones(2), 1.0)


@pytest.mark.float32
def test_the_exact_copy_keeps_the_frequencies_that_run():
    """Forming them again in float64 would give another network, which a constant that is attained does not cover."""
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(1, 2, (4, 5), border=1)
    for model in (layer, nn.Sequential(layer, nn.Flatten(), nn.Linear(84, 3)).eval()):
        exact = wp.materialise(model).exact
        copied = exact.blocks[0].module
        stored = copied.operator().tensors[0]
        assert stored.dtype == torch.complex128
        assert torch.equal(stored, layer.operator().tensors[0].to(torch.complex128))
        x = testing.rand(3, 1, 4, 5)
        torch.testing.assert_close(exact(x.double()).float(), model(x), rtol=1e-4, atol=1e-4)
        assert bool((copied.solve(x.double()).error_bound < 1e-6).all())
