"""The convolutional monotone layer against the dense layer of its matrix, and the norms of convolutions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import wellposed as wp
from harness.problems import monotone_numpy
from wellposed.convolution_norms import convolution_norm, least_eigenvalues

IMAGES = [(5, 6), (4, 4), (7, 3), (1, 6), (5, 1)]


def make(image=(5, 6), dtype=torch.float64, **options):
    torch.manual_seed(0)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    layer = wp.ConvMonDEQ(2, 3, image, **{"m": 0.5, "dtype": dtype, **tolerance, **options})
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(1.5)
    return layer


def inputs(layer, count=4, dtype=torch.float64):
    return torch.randn(count, *layer.input_shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def dense_gap(layer):
    """The symmetric part of I − W as a matrix, float64."""
    matrix = layer.operator().to(torch.float64).dense().detach()
    return torch.eye(len(matrix), dtype=torch.float64) - 0.5 * (matrix + matrix.T)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_error_bound(image, stride, dtype):
    layer = make(image, dtype, stride=stride)
    x = inputs(layer, 6, dtype)
    solution = layer.solve(x)
    assert solution.converged.all()
    assert solution.value.shape == (6, *layer.state_shape) and solution.value.dtype == dtype
    exact = copy.deepcopy(layer.injection).double()
    offset = exact(x.double()).flatten(1).detach()
    matrix = layer.operator().to(torch.float64).dense().detach()
    truth = monotone_numpy(matrix.numpy(), offset.numpy(), 0.45)
    error = (solution.value.detach().double().flatten(1) - truth).norm(dim=1)
    assert (error <= solution.error_bound + 1e-12).all()
    quick = (layer(x).detach().double().flatten(1) - truth).norm(dim=1)
    assert (quick <= 1e-3 * (1 + truth.norm(dim=1))).all()


@pytest.mark.parametrize("image", IMAGES)
def test_gradients_agree_with_those_of_the_dense_layer(image):
    layer = make(image, activation="tanh")
    x = inputs(layer, 3).requires_grad_()
    cotangent = torch.randn(3, *layer.state_shape, dtype=torch.float64)
    found = torch.autograd.grad((layer(x) * cotangent).sum(), [x, *layer.parameters()])
    matrix, offset = layer.operator().dense(), layer.injection(x).flatten(1)
    state = torch.zeros_like(offset)
    for _ in range(900):  # unrolled, damped
        state = state + 0.1 * (torch.tanh(state @ matrix.T + offset) - state)
    expected = torch.autograd.grad((state * cotangent.flatten(1)).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_derivatives_of_every_kind():
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(1, 2, (2, 3), activation="tanh", dtype=torch.float64, rtol=1e-12, atol=1e-12)
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = inputs(layer, 2).requires_grad_()
    arguments = (x, *layer.parameters())
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(lambda v: function(v, *layer.parameters()), (x,))
    assert torch.autograd.gradcheck(function, arguments, check_forward_ad=True, check_backward_ad=False)
    jacobian = torch.func.jacrev(layer)(x.detach())
    expected = torch.autograd.functional.jacobian(layer, x.detach())
    torch.testing.assert_close(jacobian, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(torch.func.vmap(layer)(x.detach()), layer(x.detach()), rtol=1e-9, atol=1e-10)


def test_nothing_is_factorised_again_in_backward():
    layer = make()
    cache = layer.operator()._cache
    value = layer(inputs(layer))
    before = cache.factorisations
    assert before > 0
    value.sum().backward()
    with torch.no_grad():
        layer(2 * inputs(layer))
    assert cache.factorisations == before
    with torch.no_grad():
        layer.constraint.A.data.add_(0.1)
        layer(inputs(layer))
    assert cache.factorisations == before + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e2, 1e5])
@pytest.mark.parametrize("image", [(4, 5), (1, 6)])
def test_condition_holds_for_any_kernels_or_the_layer_raises(image, dtype, scale):
    layer = make(image, dtype)
    with torch.no_grad():
        for parameter in layer.constraint.parameters():
            parameter.mul_(scale)
            parameter[0] = 0.0
    try:
        m = layer.guarantee().m
    except wp.GuaranteeError:
        return
    assert 0 < m <= 0.5 * (1 + 1e-4)
    gap = dense_gap(layer)
    assert float(torch.linalg.eigvalsh(gap)[0]) >= m - 1e-12 * float(gap.abs().max())


def test_condition_after_training_by_dense_eigenvalues():
    layer = make((6, 5), torch.float32)
    x = inputs(layer, 16, torch.float32)
    target = torch.randn(16, *layer.state_shape)
    for optimiser in (torch.optim.AdamW, torch.optim.SGD):
        step = optimiser(layer.parameters(), lr=1e-2, weight_decay=1e-2)
        losses = []
        for _ in range(40):
            loss = (layer(x) - target).square().mean()
            step.zero_grad()
            loss.backward()
            step.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
    m = layer.guarantee().m
    assert 0.49 < m <= float(torch.linalg.eigvalsh(dense_gap(layer))[0]) + 1e-12
    layer.tolerance = wp.solvers.solution.Tolerance(1e-6, 1e-6)
    solution = layer.solve(x)
    assert solution.converged.all()
    assert (solution.error_bound <= 1e-6 * (1 + solution.value.flatten(1).norm(dim=1))).all()


def test_lipschitz_constant_is_never_exceeded():
    for stride in (1, 2, 3):
        layer = make((5, 6), stride=stride)
        constant, _ = layer.lipschitz()
        x = inputs(layer, 5)
        jacobians = torch.func.vmap(torch.func.jacrev(layer))(x).reshape(5, -1, 60)
        assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= constant * (1 + 1e-9)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("image", [(6, 6), (5, 7), (1, 8), (9, 4)])
@pytest.mark.parametrize("taps", [(3, 3), (1, 1), (5, 3)])
def test_norm_of_a_convolution_from_above_and_nearly_attained(image, stride, taps):
    kernel = torch.randn(4, 3, *taps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    identity = torch.eye(3 * image[0] * image[1], dtype=torch.float64).reshape(-1, 3, *image)
    padding = (taps[0] // 2, taps[1] // 2)
    matrix = torch.nn.functional.conv2d(identity, kernel, stride=stride, padding=padding).flatten(1)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    bound = convolution_norm(kernel, image, stride)
    assert true <= bound
    assert bound <= (2.5 if min(image) >= 4 else 4.0) * true  # a kernel half outside of a narrow image
    if taps == (1, 1) and stride == 1:
        assert bound == pytest.approx(true, rel=1e-6)
    large = torch.eye(3 * 144, dtype=torch.float64).reshape(-1, 3, 12, 12)
    if stride == 1:  # borders matter less on larger images
        true = float(torch.linalg.matrix_norm(torch.nn.functional.conv2d(large, kernel, padding=padding).flatten(1), 2))
        assert true <= convolution_norm(kernel, (12, 12)) <= 1.2 * true


def test_least_eigenvalues_are_bounded_from_below_and_closely():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 7, 30):
        for scale in (1e-8, 1.0, 1e8):
            raw = torch.randn(20, size, size, generator=generator, dtype=torch.complex128) * scale
            hermitian = raw @ raw.mH / scale - scale * torch.eye(size)
            hermitian[0] = 0.0
            found, true = least_eigenvalues(hermitian), torch.linalg.eigvalsh(hermitian)[:, 0]
            assert (found <= true + 1e-15 * scale).all()
            assert (found >= true - 1e-10 * (1e-200 + hermitian.abs().sum(2).amax(1))).all()


def test_leading_shapes_copies_and_bad_input():
    layer = make()
    x = inputs(layer, 6)
    rows = layer(x)
    torch.testing.assert_close(layer(x.reshape(2, 3, 2, 5, 6)), rows.reshape(2, 3, 3, 5, 6))
    torch.testing.assert_close(layer(x[0]), rows[0])
    warm = layer.solve(x, rows.detach())
    assert int(warm.steps.max()) < int(layer.solve(x).steps.max())
    again = pickle.loads(pickle.dumps(layer))
    torch.testing.assert_close(again(x), rows)
    other = make(m=2.0)
    other.load_state_dict(layer.state_dict())
    assert other.constraint.m == 0.5
    with pytest.raises(wp.InputError, match=r"takes images of shape \(2, 5, 6\)"):
        layer(x.transpose(2, 3))
    with pytest.raises(wp.InputError, match="NaN or infinite"):
        layer(x / 0)
    with pytest.raises(wp.InputError, match="taps=4"):
        wp.ConvMonDEQ(1, 2, (5, 5), taps=4)
    with pytest.raises(wp.InputError, match="m=0"):
        wp.ConvMonDEQ(1, 2, (5, 5), m=0)
    with pytest.raises(wp.OptionError, match="Did you mean 'stride'"):
        wp.ConvMonDEQ(1, 2, (5, 5), strid=2)


def test_certificates_count_pooling_exactly():
    torch.manual_seed(0)
    layer = wp.ConvMonDEQ(1, 3, (6, 8), stride=2, m=2.0, dtype=torch.float64, rtol=1e-10, atol=1e-10)
    pools = [torch.nn.AvgPool2d(1), torch.nn.AvgPool2d((3, 2))]
    head = torch.nn.Linear(6, 4, dtype=torch.float64)
    model = torch.nn.Sequential(layer, *pools, torch.nn.Flatten(), head)
    x = torch.randn(6, 1, 6, 8, dtype=torch.float64)
    certificate = wp.certify(model, inputs=x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x).reshape(6, 4, 48)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= certificate.lipschitz * (1 + 1e-9)
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    assert certificate.check()
    factors = {factor.block: factor.value for factor in certificate.factors}
    assert factors["1"] == pytest.approx(1.0) and factors["2"] == pytest.approx(6**-0.5)
    identity = torch.eye(3 * 12, dtype=torch.float64).reshape(-1, 3, 3, 4)
    pooled = torch.nn.AvgPool2d((3, 2))(identity).flatten(1)
    assert float(torch.linalg.matrix_norm(pooled, 2)) == pytest.approx(factors["2"], rel=1e-12)
    for bad in (
        torch.nn.AvgPool2d(3, stride=1),
        torch.nn.AvgPool2d(2, padding=1),
        torch.nn.AvgPool2d(2, ceil_mode=True),
    ):
        with pytest.raises(wp.CertificateError, match="disjoint windows"):
            wp.certify(torch.nn.Sequential(layer, bad, torch.nn.Flatten()))


def test_train_and_certify_from_the_command_line(tmp_path, capsys):
    import json

    from wellposed.cli.main import run as command

    out = str(tmp_path / "run")
    options = ["--data", "digits", "--epochs", "3", "--width", "4", "--stride", "1", "--learning-rate", "0.02"]
    assert command(["train", "mondeq-conv", *options, "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test/accuracy"] > 0.5
    assert command(["certify", out, "--limit", "50", "--eps", "0.05", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 0 < summary["lower_bound"] <= summary["lipschitz"]
    assert command(["attack", out, "--limit", "20", "--eps", "0.05", "--steps", "3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["certified"] <= row["attacked"] <= row["clean"]
