"""Operators through the shared case."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import wellposed as wp
from wellposed import testing
from wellposed.numerics.convolution_norms import largest_singular_value
from wellposed.operators import Circular, Dense, DrivenCircular, MultiScale, ScaledCircular, ZeroPadded
from wellposed.operators.fourier import summed_transfer_function, to_image, to_spectrum, transfer_function
from wellposed.operators.tiers import decimate, halved, spread
from wellposed.testing import OperatorCase


class TestDense(OperatorCase):
    def make_operator(self):
        return Dense(testing.randn(11, 11, dtype=torch.float64) * 0.2)

    def dense(self, operator):
        return operator.tensors[0]

    def state_shape(self):
        return (11,)


class TestLargeDense(TestDense):
    """Above the block size of the accretive inverse."""

    def make_operator(self):
        skew = testing.randn(150, 150, dtype=torch.float64)
        return Dense(0.05 * testing.randn(150, 150, dtype=torch.float64) + skew - skew.T)

    def state_shape(self):
        return (150,)


def test_only_square_matrices():
    with pytest.raises(wp.InputError, match=r"\(2, 3\)"):
        Dense(testing.zeros(2, 3))


def circular_conv2d(x, kernel):
    rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
    return torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (columns, columns, rows, rows), mode="circular"), kernel
    )


class TestCircular(OperatorCase):
    """Every parity of height and width, and images of a single pixel in one direction."""

    shape, taps = (2, 4, 5), (3, 3)

    def kernel(self):
        channels = self.shape[0]
        generator = testing.generator(0)
        return 0.15 * testing.randn(channels, channels, *self.taps, generator=generator, dtype=torch.float64)

    def make_operator(self):
        return Circular(transfer_function(self.kernel(), *self.shape[1:]), self.shape[2])

    def dense(self, operator):
        """From the tensor, by the definition of the discrete Fourier transform."""
        channels, height, width = self.shape
        half = operator.tensors[0]
        matrix = testing.zeros(*self.shape, *self.shape, dtype=torch.float64)
        u, v = torch.meshgrid(testing.arange(height), testing.arange(width), indexing="ij")
        full = testing.zeros(height, width, channels, channels, dtype=torch.complex128)
        for a in range(height):
            for b in range(width):
                stored = b <= width // 2
                full[a, b] = half[a, b] if stored else half[-a % height, width - b].conj()
        full = 0.5 * (full + full.flip(0, 1).roll((1, 1), (0, 1)).conj())  # what a real inverse transform sees
        for y in range(height):
            for x in range(width):
                phase = torch.exp(2j * torch.pi * (u.double() * y / height + v.double() * x / width))
                taps = (full * phase[:, :, None, None]).sum((0, 1)).real / (height * width)
                for yy in range(height):
                    for xx in range(width):
                        matrix[:, (yy + y) % height, (xx + x) % width, :, yy, xx] = taps
        size = channels * height * width
        return matrix.reshape(size, size)

    def state_shape(self):
        return self.shape

    def test_it_is_the_convolution(self):
        z = self.states()
        operator = self.make_operator()
        torch.testing.assert_close(operator.apply(z), circular_conv2d(z, self.kernel()), rtol=1e-12, atol=1e-12)


class TestCircularOddByEven(TestCircular):
    shape = (3, 5, 6)


class TestCircularOnePixelWide(TestCircular):
    shape, taps = (3, 6, 1), (5, 1)


class TestCircularOnePixelHigh(TestCircular):
    shape, taps = (2, 1, 7), (1, 3)


class TestCircularOnePixel(TestCircular):
    shape, taps = (4, 1, 1), (1, 1)


def test_circular_gradients_reach_the_kernel():
    kernel = testing.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    z = testing.randn(3, 2, 4, 5, dtype=torch.float64)
    y = torch.randn_like(z)
    found = torch.autograd.grad((Circular(transfer_function(kernel, 4, 5), 5).apply(z) * y).sum(), kernel)[0]
    expected = torch.autograd.grad((circular_conv2d(z, kernel) * y).sum(), kernel)[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [28, 30, 32, 34, 31, 47])
def test_rounding_of_large_images_is_bounded(size):
    generator = testing.generator(size)
    kernel = testing.randn(4, 4, 3, 3, generator=generator)
    operator = Circular(transfer_function(kernel, size, size), size)
    exact = operator.to(torch.float64)
    z = testing.randn(20, 4, size, size, generator=generator)
    error = (operator.apply(z).double() - exact.apply(z.double())).flatten(1).norm(dim=1)
    bound = operator.rounding(z.flatten(1).norm(dim=1), testing.zeros(20))
    assert (error <= bound).all()
    assert (bound <= 1e-3 * operator.norm_upper_bound() * z.flatten(1).norm(dim=1)).all()


def test_unusable_transfer_functions_and_kernels():
    with pytest.raises(wp.InputError, match="must be complex"):
        Circular(testing.zeros(4, 3, 2, 2), 5)
    with pytest.raises(wp.InputError, match="width=7"):
        Circular(testing.zeros(4, 3, 2, 2, dtype=torch.complex64), 7)
    with pytest.raises(wp.InputError, match="odd numbers"):
        transfer_function(testing.zeros(2, 2, 2, 3), 5, 5)
    with pytest.raises(wp.InputError, match="no larger than the image"):
        transfer_function(testing.zeros(2, 2, 5, 3), 4, 5)


class TestZeroPadded(OperatorCase):
    """A convolution without a cheap resolvent."""

    shape, taps = (3, 4, 5), (3, 3)
    has_resolvent = False

    def make_operator(self):
        channels = self.shape[0]
        generator = testing.generator(0)
        kernel = 0.2 * testing.randn(channels, channels, *self.taps, generator=generator, dtype=torch.float64)
        return ZeroPadded(kernel, self.shape[1:])

    def dense(self, operator):
        """Tap by tap."""
        channels, height, width = self.shape
        kernel = operator.tensors[0]
        matrix = testing.zeros(*self.shape, *self.shape, dtype=torch.float64)
        for a in range(self.taps[0]):
            for b in range(self.taps[1]):
                down, right = a - self.taps[0] // 2, b - self.taps[1] // 2
                for y in range(max(0, -down), min(height, height - down)):
                    for x in range(max(0, -right), min(width, width - right)):
                        matrix[:, y, x, :, y + down, x + right] = kernel[:, :, a, b]
        return matrix.reshape(channels * height * width, -1)

    def state_shape(self):
        return self.shape

    def test_cayley_of_the_operator_and_of_its_transpose(self):
        with pytest.raises(wp.InputError, match="no cheap resolvent"):
            self.make_operator().cayley(1.0)

    def test_changed_weights_are_noticed_however_they_change(self):
        operator = self.make_operator()
        before = operator.norm_upper_bound()
        operator.tensors[0].data.mul_(0.5)
        assert operator.rebuild(operator.tensors).norm_upper_bound() == pytest.approx(0.5 * before)

    def test_the_closer_norm_bound_holds_too(self):
        operator = self.make_operator()
        true = float(torch.linalg.matrix_norm(self.dense(operator), 2))
        assert true <= operator.proved_norm() <= operator.norm_upper_bound() * 1.01
        spread = float(torch.linalg.matrix_norm(self.dense(operator))) / len(self.dense(operator)) ** 0.5
        assert operator.norm_estimate() == pytest.approx(spread, rel=1e-12)


class TestZeroPaddedNarrow(TestZeroPadded):
    shape, taps = (2, 6, 1), (5, 3)


class TestZeroPaddedPointwise(TestZeroPadded):
    shape, taps = (4, 3, 2), (1, 1)


class TestMultiScale(OperatorCase):
    """Three tiers, from convolutions of dense matrices; the last tier is odd."""

    channels, images = (2, 3, 1), ((4, 8), (2, 4), (1, 3))

    def kernels(self):
        generator = testing.generator(0)

        def kernel(rows, columns, image):
            taps = [min(3, extent - 1 + extent % 2) for extent in image]
            return 0.3 * testing.randn(rows, columns, *taps, generator=generator, dtype=torch.float64)

        tiers = list(zip(self.channels, self.images, strict=True))
        own = [kernel(count, count, image) for count, image in tiers]
        down = [kernel(b[0], a[0], a[1]) for a, b in itertools.pairwise(tiers)]
        into = [kernel(count, count, image) for count, image in tiers[1:]]
        return own, down, into

    def make_operator(self):
        own, down, into = self.kernels()
        return MultiScale(
            tuple(transfer_function(k, *image) for k, image in zip(own, self.images, strict=True)),
            tuple(transfer_function(k, *image) for k, image in zip(down, self.images, strict=False)),
            tuple(transfer_function(k, *image) for k, image in zip(into, self.images[1:], strict=True)),
            self.images,
        )

    def dense(self, operator):
        """From conv2d on unit images and plain matrix products, scaled as the operator's tensors are."""
        own, down, into = self.kernels()
        scale = float((operator.tensors[0].abs().amax() / self.make_operator().tensors[0].abs().amax()).detach())

        def matrix(kernel, image, step=1):
            count = kernel.shape[1] * image[0] * image[1]
            identity = testing.eye(count, dtype=torch.float64).reshape(count, kernel.shape[1], *image)
            moved = circular_conv2d(identity, kernel)
            return moved[..., :: min(step, image[0]), :: min(step, image[1])].flatten(1).T

        sizes = [c * h * w for c, (h, w) in zip(self.channels, self.images, strict=True)]
        starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        whole = testing.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
        for i, image in enumerate(self.images):
            rows = slice(starts[i], starts[i + 1])
            whole[rows, rows] = scale * matrix(own[i], image)
            if i < len(down):
                halved = scale * matrix(down[i], image, 2)
                whole[rows, rows] -= halved.T @ halved
                count, following = self.channels[i + 1], self.images[i + 1]
                smaller = [max(extent // 2, 1) for extent in image]
                embedding = testing.zeros(count, *following, count, *smaller, dtype=torch.float64)
                for c in range(count):
                    for y in range(smaller[0]):
                        for x in range(smaller[1]):
                            embedding[c, y, x, c, y, x] = 1.0
                embedding = embedding.reshape(sizes[i + 1], -1)
                below = slice(starts[i + 1], starts[i + 2])
                whole[below, rows] = scale * matrix(into[i], following) @ embedding @ halved
        return whole

    def state_shape(self):
        return (sum(c * h * w for c, (h, w) in zip(self.channels, self.images, strict=True)),)


class TestMultiScaleOfOnePixelWidth(TestMultiScale):
    channels, images = (2, 2), ((6, 1), (3, 1))


class TestMultiScaleOfOneTier(TestMultiScale):
    channels, images = (2,), ((3, 5),)


def test_tiers_that_do_not_fit():
    with pytest.raises(wp.InputError, match="odd extent"):
        TestMultiScale.make_operator(_tiers((5, 4), (3, 2)))
    with pytest.raises(wp.InputError, match="cannot hold"):
        TestMultiScale.make_operator(_tiers((6, 4), (2, 2)))


def _tiers(*images):
    case = TestMultiScale()
    case.channels, case.images = (1, 1), images
    return case


class TestScaledCircular(OperatorCase):
    """A metric that differs from unit to unit, and a term of rank three."""

    shape, metric, rank = (2, 4, 5), (2, 4, 5), 3

    def make_operator(self):
        generator = testing.generator(0)
        kernel = 0.2 * testing.randn(2, 2, 3, min(3, self.shape[2]), generator=generator, dtype=torch.float64)
        kernel[:, :, 1, kernel.shape[3] // 2] += testing.eye(2, dtype=torch.float64)
        scale = testing.rand(self.metric, generator=generator, dtype=torch.float64) + 0.5
        factor = 0.3 * testing.randn(self.rank, *self.shape, generator=generator, dtype=torch.float64)
        transfer = transfer_function(kernel, *self.shape[1:])
        return ScaledCircular(transfer, scale, self.shape[2], factor if self.rank else None)

    def dense(self, operator):
        transfer, scale, *factor = operator.tensors
        full = torch.fft.irfft2(
            transfer.permute(2, 3, 0, 1), s=self.shape[1:]
        )  # of a unit impulse: the kernel, reversed
        size = 2 * self.shape[1] * self.shape[2]
        matrix = testing.zeros(2, *self.shape[1:], 2, *self.shape[1:], dtype=torch.float64)
        for y in range(self.shape[1]):
            for x in range(self.shape[2]):
                matrix[..., y, x] = torch.roll(full, (y, x), (2, 3)).permute(0, 2, 3, 1)
        rows = factor[0].flatten(1) if factor else testing.zeros(0, size, dtype=torch.float64)
        diagonal = scale.expand(self.shape).flatten()[:, None]
        return testing.eye(size, dtype=torch.float64) - diagonal * (matrix.reshape(size, size) + rows.T @ rows)

    def state_shape(self):
        return self.shape


class TestDrivenCircular(TestScaledCircular):
    """With a further convolution, from three channels, that the metric stands around."""

    def make_operator(self):
        first = super().make_operator()
        generator = testing.generator(1)
        kernel = 0.4 * testing.randn(2, 3, 3, min(3, self.shape[2]), generator=generator, dtype=torch.float64)
        driven = transfer_function(kernel, *self.shape[1:])
        return DrivenCircular(first.transfer, first.scale, self.shape[2], first.factor, driven)

    def dense(self, operator):
        transfer, scale, factor, driven = operator.tensors
        first = super().dense(ScaledCircular(transfer, scale, self.shape[2], factor))
        inputs = (driven.shape[3], *self.shape[1:])
        images = testing.eye(math.prod(inputs), dtype=torch.float64).reshape(-1, *inputs)
        columns = to_image(torch.bmm(driven.flatten(0, 1), to_spectrum(images)), self.shape[1:]).flatten(1)
        return first - columns.T @ columns / scale.expand(self.shape).flatten()


class TestDrivenCircularOfOnePixelWidth(TestDrivenCircular):
    shape, metric, rank = (2, 5, 1), (1, 5, 1), 1


class TestScaledCircularPerChannel(TestScaledCircular):
    shape, metric, rank = (2, 3, 4), (2, 1, 1), 0


class TestScaledCircularOfOnePixelWidth(TestScaledCircular):
    shape, metric, rank = (2, 5, 1), (1, 5, 1), 1


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (4, 4), (1, 3), (5, 1)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2), (1, 2)])
def test_strided_convolutions_and_their_adjoints_by_transfer_functions(size, stride):
    """Channels in ≠ out; the adjoint is the transposed convolution, exactly."""
    full = (size[0] * stride[0], size[1] * stride[1])
    taps = [min(3, extent - 1 + extent % 2) for extent in full]
    generator = testing.generator(0)
    kernel = testing.randn(4, 3, *taps, generator=generator, dtype=torch.float64)
    transfer = transfer_function(kernel, *size, stride).flatten(0, 1)
    x = testing.randn(2, 3, *full, generator=generator, dtype=torch.float64, requires_grad=True)
    y = testing.randn(2, 4, *size, generator=generator, dtype=torch.float64)

    def phases(image):
        split = image.unflatten(3, (size[1], stride[1])).unflatten(2, (size[0], stride[0]))
        return split.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    expected = circular_conv2d(x, kernel)[..., :: stride[0], :: stride[1]]
    found = to_image(transfer @ to_spectrum(phases(x)), size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (adjoint,) = torch.autograd.grad((expected * y).sum(), x)
    torch.testing.assert_close(to_image(transfer.mH @ to_spectrum(y), size), phases(adjoint), rtol=1e-12, atol=1e-12)
    count = 3 * full[0] * full[1]
    identity = testing.eye(count, dtype=torch.float64).reshape(count, 3, *full)
    matrix = circular_conv2d(identity, kernel)[..., :: stride[0], :: stride[1]].flatten(1)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    assert true <= largest_singular_value(transfer) <= true * (1 + 1e-8)


@pytest.mark.parametrize("size", [(4, 6), (1, 4), (6, 1), (2, 2)])
def test_decimation_and_spreading_are_adjoint(size):
    image = testing.randn(2, 3, *size, dtype=torch.float64)
    small = decimate(image, size)
    assert small.shape[-2:] == halved(size)
    other = torch.randn_like(small)
    torch.testing.assert_close((small * other).sum(), (image * spread(other, size)).sum(), rtol=1e-13, atol=1e-13)
    assert torch.equal(decimate(spread(other, size), size), other)


@pytest.mark.float32
@pytest.mark.parametrize("image", [(30, 30), (14, 14), (16, 16), (28, 28)])
def test_transfer_functions_summed_over_taps_are_as_exact_as_transforms(image):
    kernel = testing.randn(24, 16, 3, 3, dtype=torch.float32)
    exact = transfer_function(kernel.double(), *image)
    summed, transformed = (
        float((found(kernel, *image).to(exact.dtype) - exact).norm())
        for found in (summed_transfer_function, transfer_function)
    )
    assert 0.0 < summed <= transformed
    for other, size in (
        (testing.randn(2, 2, 5, 5, dtype=torch.float32), image),
        (kernel, (6, 5)),
        (kernel.double(), image),
    ):
        assert torch.equal(summed_transfer_function(other, *size), transfer_function(other, *size))
