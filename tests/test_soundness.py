"""Ways in which a certificate or a layer could say what is not true: each was found once, and is refused or right now."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.operators import ScaledCircular
from wellposed.operators.cache import FactorisationCache
from wellposed.operators.fourier import transfer_function


def true_norm(function, shape):
    x = testing.randn(3, *shape, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: function(v[None])[0]))(x)
    return float(torch.linalg.matrix_norm(jacobian.reshape(3, -1, x[0].numel()), 2).max())


def bounded(**options):
    torch.manual_seed(0)
    settings = {"gamma": 1.0, "out_features": 3, "metric": "full", "dtype": torch.float64, "rtol": 1e-10, "atol": 1e-10}
    return wp.ConvLBEN(1, 2, (4, 4), **settings | options)


def test_the_metric_of_the_input_map_cannot_part_from_that_of_the_state_map():
    layer = bounded()
    copied = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict(copied, assign=True)
    with torch.no_grad():
        layer.constraint.psi.fill_(1.5)
        layer.injection.bias.fill_(30.0)
    assert float(layer.injection.scale.amin()) == pytest.approx(torch.e**1.5)
    assert true_norm(layer, (1, 4, 4)) <= layer.lipschitz()[0] * (1 + 1e-9)
    layer.set_gamma(4.0)
    assert true_norm(layer, (1, 4, 4)) <= layer.lipschitz()[0] * (1 + 1e-9) <= 4.0 * (1 + 1e-6)
    assert len([name for name, _ in layer.named_parameters() if "psi" in name]) == 1


def test_orthogonal_convolutions_refuse_images_that_they_were_not_made_for():
    layer = wp.OrthogonalConv2d(2, 2, (8, 4))
    with pytest.raises(wp.InputError, match=r"images of shape \(2, 8, 4\)"):
        layer(testing.zeros(1, 2, 8, 5))  # as many frequencies, another map
    assert layer(testing.zeros(0, 2, 8, 4)).shape == (0, 2, 8, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_not_numbers_are_never_certified(value):
    torch.manual_seed(0)
    single = {"dtype": torch.float32, "rtol": None, "atol": None}
    models = [
        (nn.Sequential(wp.OrthogonalConv2d(1, 2, (4, 4)), nn.Flatten()), "0.free"),
        (nn.Sequential(bounded(**single)), "0.constraint.psi"),
        (nn.Sequential(bounded(**single)), "0.output.free"),
        (wp.ConvMonDEQ(1, 2, (4, 4)), "injection.weight"),
        (wp.ConvMonDEQ(1, 2, (4, 4)), "constraint.A"),
        (wp.MultiScaleMonDEQ(1, (2, 2), (4, 4)), "constraint.D.0"),
        (wp.ConvLBEN(1, 2, (4, 4)), "constraint.psi"),
        (wp.ConvPcDEQ(1, 2, (4, 4)), "constraint.gain"),
        (nn.Sequential(wp.MonDEQ(4, 3), nn.Linear(3, 2)), "0.injection.weight"),
    ]
    for model, name in models:
        with torch.no_grad():
            dict(model.named_parameters())[name].reshape(-1)[0] = value
        try:
            found = wp.certify(model).lipschitz
        except (wp.InputError, wp.GuaranteeError, wp.CertificateError):
            continue
        assert value == 1e30, name  # a number: what is claimed of it must be true
        first, second = (testing.randn(2, *shape_of(model)) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error", wp.NotConvergedWarning)
            try:
                change = model(first) - model(second)
            except wp.NotConvergedWarning:  # said so
                continue
        slope = change.double().flatten(1).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
        assert float(slope.max()) <= found * 1.01 < float("inf"), name


def shape_of(model):
    """Of one input."""
    block = model[0] if isinstance(model, nn.Sequential) else model
    return (block.in_channels, *block.image) if isinstance(block, wp.OrthogonalConv2d) else block.input_shape


def test_hooks_inside_of_a_layer_are_seen():
    layer = wp.ConvMonDEQ(1, 2, (4, 4))
    layer.injection.register_forward_hook(lambda module, inputs, output: 100 * output)
    with pytest.raises(wp.CertificateError, match="forward hooks"):
        wp.certify(nn.Sequential(layer))


def test_forward_backward_steps_follow_the_metric():
    layer = bounded(gamma=None, out_features=None, epsilon=0.5)
    with torch.no_grad():
        layer.constraint.psi.fill_(3.0)
    guarantee = layer.guarantee()
    step = guarantee.m / guarantee.smoothness**2
    assert guarantee.forward_backward_plan(step).factor < 1
    x = testing.randn(3, 1, 4, 4, dtype=torch.float64)
    expected = layer(x)
    layer.solver, layer.max_steps = wp.ForwardBackward(step=step), 100_000
    layer.tolerance = wp.solvers.solution.Tolerance(1e-8, 1e-8)
    solution = layer.solve(x)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: wp.MonDEQ(16, 4, **o), lambda **o: wp.LBEN(16, 4, **o),
        lambda **o: wp.ConvMonDEQ(1, 2, (4, 4), border=1, **o),
        lambda **o: wp.MultiScaleMonDEQ(1, (2, 2), (4, 4), border=1, **o),
        lambda **o: wp.ConvLBEN(1, 2, (4, 4), **o), lambda **o: wp.ConvPcDEQ(1, 2, (4, 4), **o),
        lambda **o: wp.ConvOrthogonalDEQ(1, 2, (4, 4), **o),
    ],
)  # fmt: skip
def test_inference_mode_and_empty_batches(make):
    torch.manual_seed(0)
    layer = make(gradient=wp.Unrolled())
    x = testing.randn(2, *layer.input_shape)
    with torch.inference_mode():
        inside = layer(x)
    outside = layer(x)
    torch.testing.assert_close(inside.clone(), outside.detach(), rtol=1e-3, atol=1e-3)
    outside.sum().backward()
    assert layer(x[:0]).shape == (0, *outside.shape[1:])


def test_smallest_cases():
    with pytest.raises(wp.InputError, match="two or more tiers"):
        wp.MultiScaleMonDEQ(1, (2,), (4, 4))
    layer = bounded()
    nn.init.zeros_(layer.output.free)
    assert 0 < layer.lipschitz()[0] < 1e-100
    tiny = wp.ConvPcDEQ(1, 1, (2, 2), floor=1e-16, dtype=torch.float64)
    assert torch.isfinite(tiny(testing.randn(2, 1, 2, 2, dtype=torch.float64))).all()


def test_what_is_remembered_is_about_these_numbers_and_this_image():
    cache = FactorisationCache()
    generator = testing.generator(0)
    kernel = 0.1 * testing.randn(1, 1, 1, 3, generator=generator, dtype=torch.float64)
    transfer = transfer_function(kernel, 1, 4)
    assert transfer.shape == transfer_function(kernel, 1, 5).shape
    scale = testing.ones(1, 1, 1, dtype=torch.float64)
    for width in (4, 5):
        transform = ScaledCircular(transfer, scale, width, cache=cache).cayley(1.0)
        assert transform.apply(testing.ones(1, 1, 1, width, dtype=torch.float64)).shape[-1] == width
    layer = bounded()
    with torch.no_grad():
        layer.injection.free.zero_()
        layer.output.free.zero_()
    assert layer.materialise()[1].m > 0 and layer.constraint.materialise()[1].m > 0


def test_numbers_that_decide_what_weights_mean_travel_with_them():
    torch.manual_seed(0)
    first, second = wp.ConvLBEN(1, 2, (4, 4), epsilon=0.1), wp.ConvLBEN(1, 2, (4, 4), epsilon=3.0)
    second.load_state_dict(first.state_dict())
    x = testing.randn(2, 1, 4, 4)
    torch.testing.assert_close(first(x), second(x))
    cell, other = wp.OrthogonalDEQ(3, 4, omega=0.3), wp.OrthogonalDEQ(3, 4, omega=0.8)
    other.load_state_dict(cell.state_dict())
    assert other.omega == 0.3
    with pytest.raises(wp.InputError, match=r"\[0\.2\]: the checkpoint was made with \[0\.1\]"):
        wp.PcDEQ(3, 4, floor=0.2).load_state_dict(wp.PcDEQ(3, 4, floor=0.1).state_dict())


def test_orthogonal_cells_are_the_same_inside_of_autocast_and_under_transforms():
    torch.manual_seed(0)
    layer = wp.OrthogonalDEQ(6, 4, coupling="residual")
    x = testing.randn(3, 6)
    expected = layer(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-4, atol=1e-4)
    names = [name for name, _ in layer.named_parameters()]
    stacked = [torch.stack([p.detach(), p.detach()]) for p in layer.parameters()]

    def run(*parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    torch.testing.assert_close(torch.func.vmap(run)(*stacked)[0], expected, rtol=1e-3, atol=1e-3)


def test_perturbation_bounds_are_for_matrices():
    first, second = wp.ConvMonDEQ(1, 2, (3, 3)), wp.ConvMonDEQ(1, 2, (3, 3))
    with pytest.raises(wp.CertificateError, match="a matrix, not a convolution"):
        wp.perturbation_bound(first, second, testing.randn(2, 9))
