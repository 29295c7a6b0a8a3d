"""The convolutional monotone layer against the dense layer of its matrix, and the norms of convolutions."""

from __future__ import annotations

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.numerics.convolution_norms import convolution_norm, least_eigenvalues
from wellposed.testing import ConvLayerCase

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
    return testing.randn(count, *layer.input_shape, generator=testing.generator(1)).to(dtype)


class TestConvMonDEQ(ConvLayerCase):
    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        torch.manual_seed(0)
        layer = wp.ConvMonDEQ(channels, 3, image, **{"m": 0.5, "dtype": dtype, **self.exact(dtype), **options})
        with torch.no_grad():
            for parameter in layer.constraint.parameters():
                parameter.mul_(1.5)
        return layer


class TestBorderedConvMonDEQ(TestConvMonDEQ):
    """With a zero border, circular convolutions are zero-padded ones."""

    def make(self, image=(5, 6), dtype=torch.float64, channels=2, **options):
        return super().make(image, dtype, channels, border=1, **options)

    def inside(self, layer):
        mask = testing.zeros(layer.state_shape, dtype=torch.bool)
        mask[:, 1:-1, 1:-1] = True
        return mask.flatten()

    def test_the_map_inside_the_border_is_zero_padded(self):
        layer = self.make((4, 5))
        kept = self.inside(layer)
        a, b = layer.constraint.A.detach(), layer.constraint.B.detach()
        identity = testing.eye(3 * 4 * 5, dtype=torch.float64).reshape(-1, 3, 4, 5)

        def padded(image, kernel):
            return torch.nn.functional.conv2d(image, kernel, padding=1)

        wide = torch.nn.functional.pad(identity, (1, 1, 1, 1))  # A's own values on the border count in AᵀA
        gram = torch.nn.functional.conv2d(
            torch.nn.functional.conv2d(torch.nn.functional.pad(wide, (1, 1, 1, 1)), a),
            a.transpose(0, 1).flip(2, 3),
        )
        skew = padded(identity, b) - padded(identity, b.transpose(0, 1).flip(2, 3))
        expected = (0.5 * identity - gram + skew).flatten(1).T
        found = self.matrix(layer)[kept][:, kept]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def dense_gap(layer):
    """The symmetric part of I − W as a matrix, float64."""
    matrix = layer.operator().to(torch.float64).dense().detach()
    return testing.eye(len(matrix), dtype=torch.float64) - 0.5 * (matrix + matrix.T)


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


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("image", [(6, 6), (5, 7), (1, 8), (9, 4)])
@pytest.mark.parametrize("taps", [(3, 3), (1, 1), (5, 3)])
def test_norm_of_a_convolution_from_above_and_nearly_attained(image, stride, taps):
    kernel = testing.randn(4, 3, *taps, generator=testing.generator(0), dtype=torch.float64)
    identity = testing.eye(3 * image[0] * image[1], dtype=torch.float64).reshape(-1, 3, *image)
    padding = (taps[0] // 2, taps[1] // 2)
    matrix = torch.nn.functional.conv2d(identity, kernel, stride=stride, padding=padding).flatten(1)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    bound = convolution_norm(kernel, image, stride)
    assert true <= bound
    assert bound <= (2.5 if min(image) >= 4 else 4.0) * true  # a kernel half outside of a narrow image
    if taps == (1, 1) and stride == 1:
        assert bound == pytest.approx(true, rel=1e-6)
    large = testing.eye(3 * 144, dtype=torch.float64).reshape(-1, 3, 12, 12)
    if stride == 1:  # borders matter less on larger images
        true = float(torch.linalg.matrix_norm(torch.nn.functional.conv2d(large, kernel, padding=padding).flatten(1), 2))
        assert true <= convolution_norm(kernel, (12, 12)) <= 1.2 * true


def test_least_eigenvalues_are_bounded_from_below_and_closely():
    generator = testing.generator(0)
    for size in (1, 2, 7, 30):
        for scale in (1e-8, 1.0, 1e8):
            raw = testing.randn(20, size, size, generator=generator, dtype=torch.complex128) * scale
            hermitian = raw @ raw.mH / scale - scale * testing.eye(size)
            hermitian[0] = 0.0
            found, true = least_eigenvalues(hermitian), torch.linalg.eigvalsh(hermitian)[:, 0]
            assert (found <= true + 1e-15 * scale).all()
            assert (found >= true - 1e-10 * (1e-200 + hermitian.abs().sum(2).amax(1))).all()


def test_m_travels_with_the_weights_and_bad_arguments():
    layer = make()
    other = make(m=2.0)
    other.load_state_dict(layer.state_dict())
    assert other.constraint.m == 0.5
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
    x = testing.randn(6, 1, 6, 8, dtype=torch.float64)
    certificate = wp.certify(model, inputs=x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x).reshape(6, 4, 48)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= certificate.lipschitz * (1 + 1e-9)
    assert 0 < certificate.lower_bound <= certificate.lipschitz
    assert certificate.check()
    factors = {factor.block: factor.value for factor in certificate.factors}
    assert factors["1"] == pytest.approx(1.0) and factors["2"] == pytest.approx(6**-0.5)
    identity = testing.eye(3 * 12, dtype=torch.float64).reshape(-1, 3, 3, 4)
    pooled = torch.nn.AvgPool2d((3, 2))(identity).flatten(1)
    assert float(torch.linalg.matrix_norm(pooled, 2)) == pytest.approx(factors["2"], rel=1e-12)
    for bad in (
        torch.nn.AvgPool2d(3, stride=1),
        torch.nn.AvgPool2d(2, padding=1),
        torch.nn.AvgPool2d(2, ceil_mode=True),
    ):
        with pytest.raises(wp.CertificateError, match="disjoint windows"):
            wp.certify(torch.nn.Sequential(layer, bad, torch.nn.Flatten()))


@pytest.mark.float32
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
