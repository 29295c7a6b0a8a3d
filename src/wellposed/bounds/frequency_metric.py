"""Lipschitz bounds of a circular convolutional layer and the linear map after it, in the best metric of the channels.

The condition of `diagonal_metric`, with one multiplier λ_c for all pixels of a channel. Then S = ΛH + HᵀΛ − ΛGΛ/γ² falls apart
into one Hermitian matrix S_ω of the size of the channels for every frequency, if G ⪰ UUᵀ is a circular convolution too. C need
not be one: it is seen through its transform, and x ↦ C z* is γ-Lipschitz if Σ_ω C_ωᴴ S_ω⁻¹ C_ω ⪯ I. The proof for the stored
numbers is one verified Cholesky factorisation of [[S_ω, C_ω], [C_ωᴴ, P_ω]] for every frequency, with Σ P_ω ⪯ I.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wellposed.bounds.diagonal_metric import DiagonalBound
from wellposed.bounds.frequency_barrier import FrequencyBarrier
from wellposed.bounds.interior_point import minimise
from wellposed.layers.conv_equilibrium import ImageInjection, ImageLayer
from wellposed.layers.conv_lben import CircularInjection
from wellposed.layers.plain import is_plain
from wellposed.numerics.convolution_norms import are_semidefinite, largest_singular_value
from wellposed.numerics.outward import rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite, near_one
from wellposed.operators.fourier import image_rounding, multiplicity

_UNIT = 2.0**-53


class CircularMetricProblem:
    """The stored numbers of one layer z = σ(Wz + Ux + b) on images, W a circular convolution.

    Args:
        transfer: of W, complex, shape (height, width//2 + 1, channels, channels); entries may err by two roundings of complex128.
        image: height and width of the state.
        gram: G over 4 to the power of ``exponent``, complex128, Hermitian, shape (height·(width//2 + 1), channels, channels).
        gram_error: of that, in the Euclidean norm.
        exponent: U is 2 to that power times numbers near one.
        metric: a positive λ, shape (channels,), in which W is well posed.
    """

    def __init__(
        self, transfer: Tensor, image: tuple[int, int], gram: Tensor, gram_error: float, exponent: int, metric: Tensor
    ) -> None:
        self._image = image
        self._counts = multiplicity(image[1], torch.device("cpu")).repeat(image[0])
        stored = transfer.detach().to("cpu", torch.complex128)
        mirrored = stored.roll(-1, 0).flip(0).conj()  # what is stored for −ω, where that is stored
        own = (self._counts == 1.0).reshape(stored.shape[:2])[..., None, None]
        matrices = torch.where(own, 0.5 * (stored + mirrored), stored).flatten(0, 1)
        self._size = matrices.shape[1]
        eye = torch.eye(self._size, dtype=torch.complex128)
        self._displacement = eye - matrices
        absolute = torch.where(own, 0.5 * (stored.abs() + mirrored.abs()), stored.abs()).flatten(0, 1)
        self._terms = absolute + eye.real
        self._gram, self._gram_error, self._exponent, self._metric = gram, gram_error, exponent, metric

    @property
    def constant_gram(self) -> Tensor | None:
        """G where it is the same real matrix at all frequencies, shape (channels, channels)."""
        same = self._gram.stride(0) == 0
        return self._gram[0].real.contiguous() if same else None

    def proves(self, output: Tensor, multipliers: Tensor, value: float) -> bool:
        """Whether x ↦ C z* is proved to be Lipschitz with this constant, rounding included.

        Args:
            output: C, shape (outputs, channels·height·width).
            multipliers: λ, shape (channels,).
            value: γ.
        """
        if multipliers.shape != (self._size,) or not multipliers.is_floating_point() or not self._fits(output):
            return False
        usable = bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not usable or not (0.0 < value < math.inf) or not bool(torch.isfinite(output).all()):
            return False
        seen, exponent = near_one(output)
        scale = torch.ldexp(multipliers.double(), torch.tensor(-2.0 * exponent))
        value = math.ldexp(value, -exponent - self._exponent) if abs(exponent + self._exponent) < 1000 else 0.0
        extremes = float(scale.min()), float(scale.max())
        if not (1e-90 < value < 1e90 and extremes[0] > 1e-90 and extremes[1] < 1e90):
            return False
        condition, through, error = self._parts(scale, value)
        matrix = condition - through
        rows = self._transformed(seen)
        pixels = self._image[0] * self._image[1]
        solved = torch.linalg.solve_ex(matrix, rows)[0]
        needed = rows.mH @ solved
        needed = 0.5 * (needed + needed.mH)
        total = torch.einsum("f,fab->ab", self._counts, needed.real)
        left = 1.0 - float(torch.linalg.eigvalsh(total)[-1])
        if not left > 0.0:
            return False
        # Half of what is left of the identity is shared out: evenly, and in proportion to the needs.
        outputs = len(seen)
        share = (1.0 + 0.25 * left) * needed + 0.25 * left / pixels * torch.eye(outputs, dtype=needed.dtype)
        # Powers of two bring both diagonal blocks near one, exactly.
        first, second = (
            torch.ldexp(torch.ones(len(part)), (-0.5 * part.diagonal(dim1=1, dim2=2).real.amax(1).log2()).round())
            .to(torch.float64)[:, None, None]
            for part in (matrix, share)
        )  # fmt: skip
        upper = torch.cat([matrix * first * first, rows * first * second], 2)
        bordered = torch.cat([upper, torch.cat([rows.mH * first * second, share * second * second], 2)], 1)
        sizes = bordered.abs().sum(2).amax(1)
        if not bool(are_semidefinite(bordered, error * first.flatten() ** 2 * 1.01 + 8.0 * _UNIT * sizes).all()):
            return False
        # The transform of C is off by little: ‖S^(−1/2)Cᵀ‖ by that over the root of the least eigenvalue of S.
        floor = _least(matrix, error)
        if floor is None:
            return False
        unitary = 4.0 * _UNIT * (image_rounding(self._image) + 4.0) * float(seen.norm()) * 1.01
        limit = 1.0 - unitary / math.sqrt(floor)
        if not limit > 0.0:
            return False
        total = torch.einsum("f,fab->ab", self._counts, share.real)
        absolute = torch.einsum("f,fab->ab", self._counts, share.abs())
        lost = rounding_constant(len(self._counts) + 8) * float(absolute.sum(1).max())
        rest = limit * limit * (1.0 - 1e-15) * torch.eye(outputs, dtype=torch.float64) - 0.5 * (total + total.t())
        return is_positive_semidefinite(rest.numpy(), lost)

    def bound(self, output: Tensor, start: Tensor | None = None) -> DiagonalBound | None:
        """A nearly least proved constant of x ↦ C z*, or None where none could be proved.

        Args:
            output: C, shape (outputs, channels·height·width).
            start: multipliers to start from, such as those of another C.
        """
        if not self._fits(output) or not bool(torch.isfinite(output).all()) or not float(output.abs().max()) > 0.0:
            return None
        if not float(self._gram.abs().max()) > 0.0:
            return None
        seen, exponent = near_one(output)
        norm = float(torch.linalg.matrix_norm(seen, 2))
        barrier = FrequencyBarrier(
            self._displacement, self._gram, self._transformed(seen) / norm, self._counts, self._size
        )
        metric = near_one(self._metric if start is None else start)[0]
        point = minimise(barrier, metric, tolerance=1e-5)
        if point is None or abs(exponent) > 500 or abs(exponent + self._exponent) > 1000:
            return None
        slack = 1e-9
        while slack < 1e-2:
            # A larger λ leaves C room, and a t that grows more than λ lifts S off its boundary.
            value = math.ldexp(math.sqrt(point.square) * (1.0 + slack) * norm, exponent + self._exponent)
            multipliers = torch.ldexp(point.multipliers * norm**2 * (1.0 + slack), torch.tensor(2.0 * exponent))
            if self.proves(output, multipliers, value):
                return DiagonalBound(value * (1.0 + 1e-9), multipliers)
            slack *= 8.0
        return None

    def _fits(self, output: Tensor) -> bool:
        features = self._size * self._image[0] * self._image[1]
        return output.ndim == 2 and len(output) > 0 and output.shape[1] == features and output.is_floating_point()

    def _parts(self, scale: Tensor, value: float) -> tuple[Tensor, Tensor, Tensor]:
        """ΛH + HᴴΛ, ΛGΛ/γ², and a bound on the errors of both together at every frequency."""
        half = scale[:, None] * self._displacement
        terms = scale[:, None] * self._terms
        through = scale[:, None] * self._gram * scale / (value * value)
        size = (terms + terms.mT + through.abs()).sum(2).amax(1)
        error = 32.0 * _UNIT * size + float(scale.max()) ** 2 * self._gram_error / (value * value) * 1.01
        return half + half.mH, through, error

    def _transformed(self, output: Tensor) -> Tensor:
        """The rows of C in the unitary transform, complex128, shape (frequencies, channels, outputs)."""
        images = output.double().reshape(len(output), self._size, *self._image)
        return torch.fft.rfft2(images, norm="ortho").flatten(2).permute(2, 1, 0).contiguous()


def circular_metric_problem(layer: object, std: Tensor | None = None) -> CircularMetricProblem | None:
    """The numbers of a layer that the theorem is about, or None if it is about another kind of layer.

    Args:
        layer: the layer.
        std: of a normalisation before it, which U is divided by, float64, shape (in_channels,); None for none.
    """
    if not isinstance(layer, ImageLayer) or not layer.activation.is_monotone:
        return None
    if layer.output is not None or layer.direct is not None:
        return None
    with torch.no_grad():
        weight = layer.injection.weight.detach()
        if not bool(torch.isfinite(weight).all()) or not bool((weight != 0.0).any()):
            return None
        operator, guarantee = layer.materialise()
        kernel, exponent = near_one(weight if std is None else weight.double().cpu() / std[:, None, None])
        form = operator.frequency_form()
        if form is None or guarantee is None:
            return None
        if is_plain(layer.injection, CircularInjection):
            gram, error = _circular_gram(kernel, form.image, layer.injection.stride)
        elif is_plain(layer.injection, ImageInjection) and _is_usual(layer.injection):
            kept = layer.activation.interior is not layer.activation and weight.shape[-1] <= 3
            gram, error = (_circular_gram if kept else _constant_gram)(kernel, form.image, layer.injection.stride[0])
        else:
            return None
        return CircularMetricProblem(form.transfer, form.image, gram, error, exponent, form.metric)


def _is_usual(convolution: ImageInjection) -> bool:
    """Whether the settings of the convolution are those that it was made with: equal strides and centred taps."""
    padding = tuple(taps // 2 for taps in convolution.weight.shape[2:])
    equal = convolution.stride[0] == convolution.stride[1] and convolution.padding == padding
    return equal and convolution.dilation == (1, 1) and convolution.groups == 1 and convolution.padding_mode == "zeros"


def _circular_gram(kernel: Tensor, image: tuple[int, int], stride: int) -> tuple[Tensor, float]:
    """UUᵀ at every frequency, for a circular U, and its error.

    Where a border of the state is kept zero a zero-padded U may as well wrap around: what the border gets does not matter.
    """
    lines = torch.arange(image[0]), torch.arange(image[1] // 2 + 1)
    return _gram(_transfer(kernel, lines, image, stride), kernel)


def _constant_gram(kernel: Tensor, image: tuple[int, int], stride: int) -> tuple[Tensor, float]:
    """The same matrix at every frequency, above those of U on a grid large enough for zero padding, and its error.

    A zero-padded convolution is a part of the circular one on such a grid. Of all matrices that are above its frequencies',
    which multiplicative steps approach, the one of least volume is taken.
    """
    grid = (image[0] + kernel.shape[2], image[1] + kernel.shape[3])
    lines = torch.arange(grid[0]), torch.arange(grid[1] // 2 + 1)
    transfer = _transfer(kernel, lines, grid, stride)
    norm = largest_singular_value(transfer)
    matrices, error = _gram(transfer, kernel)
    count, size = len(matrices), matrices.shape[1]
    floor = torch.eye(size, dtype=torch.float64) * (1e-7 * norm**2 + error)
    weights = torch.full((count,), 1.0 / count, dtype=torch.float64)
    for _ in range(60):
        mean = torch.einsum("f,fab->ab", weights, matrices.real) + floor
        leverage = torch.einsum("fai,ab,fbi->f", transfer.conj(), torch.linalg.inv(mean).to(transfer.dtype), transfer)
        weights = weights * leverage.real
        weights = weights / weights.sum()
    mean = torch.einsum("f,fab->ab", weights, matrices.real) + floor
    inner = transfer.mH @ torch.linalg.inv(mean).to(transfer.dtype) @ transfer
    largest = float(torch.linalg.eigvalsh(inner)[:, -1].amax())
    constant = largest * mean + floor
    above = are_semidefinite(
        constant - matrices, torch.full((count,), error + 4.0 * _UNIT * float(constant.abs().sum()))
    )
    if not bool(above.all()):
        constant = torch.eye(size, dtype=torch.float64) * (norm * norm * (1.0 + 1e-15))
    frequencies = image[0] * (image[1] // 2 + 1)
    return constant.to(torch.complex128).expand(frequencies, size, size), 0.0


def _transfer(kernel: Tensor, lines: tuple[Tensor, Tensor], grid: tuple[int, int], stride: int) -> Tensor:
    """Of a convolution with a stride on a grid of its outputs, by sums over its taps.

    Every phase of the pixels of the input counts as a channel; tap t of phase p is that of pixel (t − p)/stride. Complex128,
    shape (frequencies, out, in·stride²).
    """
    rows, columns = kernel.shape[2:]
    found = torch.zeros(
        len(lines[0]) * len(lines[1]), kernel.shape[0], kernel.shape[1], stride, stride, dtype=torch.complex128
    )
    for row in range(rows):
        for column in range(columns):
            at = row - rows // 2, column - columns // 2
            turned = [
                torch.remainder(line * (tap // stride), extent).double() * (2.0 * math.pi / extent)
                for line, tap, extent in zip(lines, at, grid, strict=True)
            ]
            angle = (turned[0][:, None] + turned[1][None, :]).flatten()
            phase = torch.complex(angle.cos(), angle.sin())
            found[:, :, :, at[0] % stride, at[1] % stride] += phase[:, None, None] * kernel[None, :, :, row, column]
    return found.flatten(2)


def _gram(transfer: Tensor, kernel: Tensor) -> tuple[Tensor, float]:
    """``K Kᴴ`` at every frequency, and a bound on its error in the Euclidean norm."""
    taps = kernel.abs().sum((2, 3))
    energy = float(taps.square().sum())  # above the square of the Frobenius norm at any frequency
    gram = transfer @ transfer.mH
    # Sums over taps with tabulated angles of up to 4π, then products; the kernel may be rounded once itself.
    return gram, 4.0 * rounding_constant(kernel[0].numel() + 68) * energy


def _least(matrix: Tensor, error: Tensor) -> float | None:
    """A positive lower bound of the least eigenvalue at any frequency, or None."""
    candidate = 0.5 * float(torch.linalg.eigvalsh(matrix)[:, 0].amin())
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    for _ in range(6):
        if candidate > 0.0 and bool(are_semidefinite(matrix - candidate * eye, error + 2.0 * _UNIT * candidate).all()):
            return candidate
        candidate *= 0.1
    return None
