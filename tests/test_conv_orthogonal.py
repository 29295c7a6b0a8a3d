"""Orthogonal convolutions and the residual cell made of them, against dense matrices."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import wellposed as wp
from wellposed import testing
from wellposed.models import FAMILIES

IMAGES = [(4, 4), (5, 5), (3, 6), (6, 3), (1, 5), (4, 1)]
CELLS = [
    {"coupling": "convex", "omega": 0.4},
    {"coupling": "convex", "kappa": 0.9, "omega": 0.2},
    {"coupling": "residual"},
    {"coupling": "residual", "kappa": 0.95, "stride": 2},
]


def matrix_of(module, shape):
    """The linear part of a module as a matrix, from unit images."""
    count = shape[0] * shape[1] * shape[2]
    identity = testing.eye(count, dtype=torch.float64).reshape(count, *shape)
    with torch.no_grad():
        return (module(identity) - module(torch.zeros_like(identity))).flatten(1).T


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 2), (2, 5), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_orthogonal_matrices(image, inputs, outputs, stride):
    torch.manual_seed(0)
    layer = wp.OrthogonalConv2d(inputs, outputs, image, stride=stride, dtype=torch.float64)
    with torch.no_grad():
        layer.free.mul_(3.0)
        layer.bias.normal_()
    matrix = matrix_of(layer, (inputs, *image))
    assert matrix.shape == (outputs * layer.out_image[0] * layer.out_image[1], inputs * image[0] * image[1])
    values = torch.linalg.svdvals(matrix)
    assert float(values.max()) <= 1 + 1e-12
    if outputs >= inputs * stride**2:
        gram = matrix.T @ matrix
        torch.testing.assert_close(gram, testing.eye(len(gram), dtype=torch.float64), rtol=1e-12, atol=1e-12)
    if outputs <= inputs * stride**2 and all(extent % stride == 0 for extent in image):
        gram = matrix @ matrix.T
        torch.testing.assert_close(gram, testing.eye(len(gram), dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(values.max()) <= 1 + layer.norm_excess() <= 1 + 1e-8


def test_the_excess_over_norm_one_counts_float32():
    torch.manual_seed(0)
    layer = wp.OrthogonalConv2d(3, 4, (7, 6))
    exact = copy.deepcopy(layer)
    transfer = layer.transfer().detach()
    norm = torch.linalg.matrix_norm(torch.view_as_complex(transfer.double()), 2).max()
    assert float(norm) <= 1 + layer.norm_excess() <= 1 + 1e-5
    assert torch.equal(exact.transfer(), transfer)
    shifted = torch.roll(testing.randn(2, 3, 7, 6), (2, 3), (2, 3))
    torch.testing.assert_close(  # a convolution commutes with cyclic shifts
        layer(torch.roll(shifted, (1, 2), (2, 3))), torch.roll(layer(shifted), (1, 2), (2, 3)), rtol=1e-5, atol=1e-5
    )


def test_unit_pooling_has_orthonormal_rows():
    for window, image in ((2, (4, 6)), (3, (7, 6)), (1, (2, 2))):
        pool = wp.UnitPool2d(window)
        matrix = matrix_of(pool, (2, *image))
        torch.testing.assert_close(matrix @ matrix.T, testing.eye(len(matrix), dtype=torch.float64))
        assert wp.certify(nn.Sequential(pool)).lipschitz == pytest.approx(1.0)
    with pytest.raises(wp.InputError, match="window=0"):
        wp.UnitPool2d(0)


def make(options, image=(4, 5), dtype=torch.float64):
    torch.manual_seed(0)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    layer = wp.ConvOrthogonalDEQ(2, 4, image, hidden=6, dtype=dtype, **tolerance, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def true_state(layer, x):
    """By Picard's iteration with dense matrices of the maps in float64, sorting written out."""
    exact = copy.deepcopy(layer).double()
    x = x.double()

    def affine(module, shape):
        transfer = next(
            part for part in (*layer.maps, layer.injection) if part is not None and part.free.shape == module.free.shape
            and torch.equal(part.free.double(), module.free)
        ).transfer().detach().double()  # fmt: skip
        identity = testing.eye(shape[0] * shape[1] * shape[2], dtype=torch.float64).reshape(-1, *shape)
        matrix = module.apply_transfer(transfer, None, module.unshuffled(identity)).flatten(1)
        return lambda z: (
            (z.flatten(1) @ matrix).reshape(-1, module.out_channels, *module.out_image) + module.bias[:, None, None]
        )

    def sort(z):
        half = z.shape[1] // 2
        return torch.cat([torch.minimum(z[:, :half], z[:, half:]), torch.maximum(z[:, :half], z[:, half:])], 1)

    with torch.no_grad():
        first = affine(exact.maps[0], layer.state_shape)
        second = affine(exact.maps[1], (exact.maps[0].out_channels, *layer.state_shape[1:]))
        drive = affine(exact.injection, layer.input_shape)(x)
        state = torch.zeros_like(drive)
        for _ in range(3000):
            through = second(sort(first(state)))
            if layer.coupling == "convex":
                state = layer.kappa * ((1 - layer.omega) * sort(through) + layer.omega * drive)
            else:
                a, b = (0.05 + 0.9 * torch.sigmoid(layer.mixing.detach().double())).tolist()
                state = layer.kappa * sort(b * state + (1 - b) * (a * drive + (1 - a) * through))
    return state


@pytest.mark.parametrize("options", CELLS)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_error_bound(options, image, dtype):
    layer = make(options, image, dtype)
    x = testing.randn(5, 2, *image, generator=testing.generator(1)).to(dtype)
    truth = true_state(layer, x)
    solution = layer.solve(x)
    assert solution.converged.all() and solution.value.shape == (5, *layer.state_shape)
    error = (solution.value.detach().double() - truth).flatten(1).norm(dim=1)
    assert (error <= solution.error_bound + 1e-12).all()
    assert (solution.error_bound <= 1e-2).all()
    torch.testing.assert_close(layer(x).double(), truth, rtol=1e-2, atol=1e-2)


def unrolled(layer, x):
    """Picard's iteration as the layer's description has it, of its modules, with its graph."""
    drive, (first, second) = layer.injection(x), layer.maps
    state = torch.zeros_like(drive)
    for _ in range(400):
        through = second(wp.GroupSort(2, -3)(first(state)))
        if layer.coupling == "convex":
            state = layer.kappa * ((1 - layer.omega) * wp.GroupSort(2, -3)(through) + layer.omega * drive)
        else:
            a, b = 0.05 + 0.9 * torch.sigmoid(layer.mixing)
            state = layer.kappa * wp.GroupSort(2, -3)(b * state + (1 - b) * (a * drive + (1 - a) * through))
    return state


@pytest.mark.parametrize("options", CELLS)
def test_gradients_agree_with_an_unrolled_iteration(options):
    layer = make(options)
    x = testing.randn(3, *layer.input_shape, dtype=torch.float64, requires_grad=True)
    cotangent = testing.randn(3, *layer.state_shape, dtype=torch.float64)
    parameters = [x, *layer.parameters()]
    found = torch.autograd.grad((layer(x) * cotangent).sum(), parameters, allow_unused=True)
    state = unrolled(layer, x)
    expected = torch.autograd.grad((state * cotangent).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", CELLS)
def test_lipschitz_constant_is_never_exceeded(options):
    layer = make(options)
    constant, reason = layer.lipschitz()
    assert constant <= 1 + 1e-6 and layer.coupling in reason
    x = testing.randn(5, *layer.input_shape, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))(x).reshape(5, -1, 40)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= constant * (1 + 1e-9)
    assert wp.witness(layer, x, rounds=4).lipschitz <= constant


def test_a_sum_of_residual_paths_would_not_converge_but_the_convex_cell_does():
    """At κ = 1 too, and for the identity in place of a rotation."""
    layer = make({"coupling": "residual", "kappa": 1.0})
    with torch.no_grad():
        for part in layer.maps:
            part.free.zero_()
    x = testing.randn(3, *layer.input_shape, dtype=torch.float64)
    assert layer.solve(x).converged.all()
    plan = wp.Contraction(layer.constants(0.0)[0]).picard_plan()
    assert plan.factor <= 1 - 0.05 * 0.05


def test_training_keeps_the_constant():
    layer = make({"coupling": "residual"}, (6, 6), torch.float32)
    model = nn.Sequential(layer, wp.UnitPool2d(2), nn.Flatten(), wp.OrthogonalLinear(36, 3))
    x, y = testing.randn(32, 2, 6, 6), testing.randint(0, 3, (32,))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(10 * model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    certificate = wp.certify(model)
    assert wp.witness(model, x[:4], rounds=4).lipschitz <= certificate.lipschitz <= 1 + 1e-4
    assert certificate.check()
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again(x), model(x))


def test_the_published_network_and_the_truly_1_lipschitz_one():
    torch.manual_seed(0)
    x = testing.rand(4, 3 * 4 * 4)
    constants = {}
    for published in (False, True):
        family = FAMILIES["orthogonal-conv"](width=4, hidden=4, pool=2, published=published)
        model = nn.Sequential(*family.build((3, 4, 4), 10))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
        model(x)
        model.eval()
        constants[published] = wp.certify(model).lipschitz
        assert wp.witness(model, x[:1], rounds=4).lipschitz <= constants[published]
    assert constants[False] <= 1.0 < constants[True]
    full = nn.Sequential(*FAMILIES["orthogonal-conv"](published=True, kappa=0.95).build((3, 32, 32), 10))
    # The tutorial's 64,842 less three group normalisations (320), plus biases (112) and two mixing weights.
    assert sum(p.numel() for p in full.parameters()) == 64_842 - 320 + 112 + 2


def test_bad_input():
    layer = make(CELLS[0])
    for bad, message in (
        ({"channels": 3}, "channels=3"),
        ({"hidden": 5}, "hidden=5"),
        ({"kappa": 1.1}, "kappa=1.1"),
        ({"encode": False}, "encode=False"),
        ({"coupling": "joint"}, "coupling='joint'"),
    ):
        with pytest.raises(wp.InputError, match=message):
            wp.ConvOrthogonalDEQ(**{"in_channels": 2, "channels": 4, "image": (4, 4), **bad})
    with pytest.raises(wp.InputError, match="images of shape"):
        layer(testing.zeros(1, 2, 5, 4, dtype=torch.float64))
    with pytest.raises(wp.InputError, match="taps=2"):
        wp.OrthogonalConv2d(1, 1, (4, 4), taps=2)
    with pytest.raises(wp.CertificateError, match="one group"):
        wp.certify(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)))


def test_the_bound_of_an_ordinary_convolution_holds_for_every_stride():
    torch.manual_seed(0)
    for stride in (1, 2):
        for padding in (0, 1, 2):
            block = nn.Conv2d(2, 3, 3, stride=stride, padding=padding, dtype=torch.float64)
            norm = torch.linalg.matrix_norm(matrix_of(block, (2, 7, 6)), 2)
            bound = wp.certify(nn.Sequential(block)).lipschitz
            assert float(norm) <= bound <= 4 * float(norm)
