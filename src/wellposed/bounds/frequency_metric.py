"""The inequality of `metric_inequality` for a W that is a circular convolution, proved frequency by frequency.

There is one multiplier λ_c for all pixels of a channel. Then S = ΛH + HᵀΛ − ΛGΛ/γ² falls apart
into one Hermitian matrix S_ω of the size of the channels for every frequency, if G ⪰ UUᵀ is a circular convolution too. C need
not be one: it is seen through its transform, and x ↦ C z* is γ-Lipschitz if Σ_ω C_ωᴴ S_ω⁻¹ C_ω ⪯ I. The proof for the stored
numbers is one verified Cholesky factorisation of [[S_ω, C_ω], [C_ωᴴ, P_ω]] for every frequency, with Σ P_ω ⪯ I.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.bounds.input_gram import circular_gram, constant_gram
from wellposed.bounds.metric_inequality import DiagonalBound, MetricInequality, least_proved
from wellposed.bounds.search.frequency_barrier import FrequencyBarrier
from wellposed.bounds.search.interior_point import minimise
from wellposed.layers.equilibrium import Equilibrium
from wellposed.numerics.convolution_norms import are_semidefinite
from wellposed.numerics.outward import UNIT, enlarged, enlarged_norm, reduced, rounding_constant
from wellposed.numerics.verified import is_positive_semidefinite, near_one
from wellposed.operators.fourier import image_rounding, multiplicity

_SLACK = 1e-9
_SMALLEST, _LARGEST = 1e-90, 1e90  # of scaled numbers, whose products then neither under- nor overflow
_TOLERANCE = 1e-5  # relative gap to the optimum at which a search stops


class CircularMetricProblem(MetricInequality):
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
        eye = torch.eye(self._size, dtype=torch.complex128, device="cpu")
        self._displacement = eye - matrices
        absolute = torch.where(own, 0.5 * (stored.abs() + mirrored.abs()), stored.abs()).flatten(0, 1)
        self._terms = absolute + eye.real
        self._gram, self._gram_error, self._exponent, self._metric = gram, gram_error, exponent, metric

    @override
    def proves(self, output: Tensor, multipliers: Tensor, value: float, shares: Tensor | None = None) -> bool:
        if multipliers.shape != (self._size,) or not multipliers.is_floating_point() or not self._fits(output):
            return False
        usable = bool(torch.isfinite(multipliers).all() and (multipliers > 0.0).all())
        if not usable or not (0.0 < value < math.inf) or not bool(torch.isfinite(output).all()):
            return False
        seen, exponent = near_one(output)
        scale = torch.ldexp(multipliers.double(), torch.tensor(-2.0 * exponent, device="cpu"))
        value = math.ldexp(value, -exponent - self._exponent) if abs(exponent + self._exponent) < 1000 else 0.0
        if not (_SMALLEST < value < _LARGEST and float(scale.min()) > _SMALLEST and float(scale.max()) < _LARGEST):
            return False
        matrix, error = self._sides(scale, value)
        rows = self._transformed(seen)
        share = self._shared_out(matrix, rows)
        if share is None or not _covers(matrix, rows, share, error):
            return False
        # The transform of C is off by little: ‖S^(−1/2)Cᵀ‖ by that over the root of the least eigenvalue of S.
        floor = _least(matrix, error)
        if floor is None:
            return False
        unitary = 4.0 * UNIT * (image_rounding(self._image) + 4.0) * enlarged_norm(float(seen.norm()), seen.numel())
        limit = 1.0 - enlarged(unitary / math.sqrt(floor), 4)
        if not limit > 0.0:
            return False
        total = torch.einsum("f,fab->ab", self._counts, share.real)
        absolute = torch.einsum("f,fab->ab", self._counts, share.abs())
        lost = rounding_constant(len(self._counts) + 8) * float(absolute.sum(1).max())
        rest = reduced(limit * limit, 3) * torch.eye(len(seen), dtype=torch.float64, device="cpu") - 0.5 * (
            total + total.t()
        )
        return is_positive_semidefinite(rest.numpy(), lost)

    @override
    def bound(self, output: Tensor, start: Tensor | None = None, deadline: float = math.inf) -> DiagonalBound | None:
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
        point = minimise(barrier, metric, tolerance=_TOLERANCE, deadline=deadline)
        if point is None or abs(exponent) > 500 or abs(exponent + self._exponent) > 1000:
            return None

        def claim(slack: float) -> DiagonalBound:
            # A larger λ leaves C room, and a t that grows more than λ lifts S off its boundary.
            value = math.ldexp(math.sqrt(point.square) * (1.0 + slack) * norm, exponent + self._exponent)
            multipliers = torch.ldexp(
                point.multipliers * norm**2 * (1.0 + slack), torch.tensor(2.0 * exponent, device="cpu")
            )
            return DiagonalBound(value, multipliers)

        return least_proved(claim, lambda found: self.proves(output, found.multipliers, found.value), slack=_SLACK)

    def _fits(self, output: Tensor) -> bool:
        features = self._size * self._image[0] * self._image[1]
        return output.ndim == 2 and len(output) > 0 and output.shape[1] == features and output.is_floating_point()

    def _sides(self, scale: Tensor, value: float) -> tuple[Tensor, Tensor]:
        """S = ΛH + HᴴΛ − ΛGΛ/γ², and a bound on its error at every frequency."""
        half = scale[:, None] * self._displacement
        terms = scale[:, None] * self._terms
        through = scale[:, None] * self._gram * scale / (value * value)
        # Entries come out of at most seven operations, those of W included; the rest covers the rounding of their sizes.
        size = (terms + terms.mT + through.abs()).sum(2).amax(1)
        given = float(scale.max()) ** 2 * self._gram_error / (value * value)
        return half + half.mH - through, rounding_constant(16) * size + enlarged(given, 4)

    def _shared_out(self, matrix: Tensor, rows: Tensor) -> Tensor | None:
        """P_ω above C_ω S_ω⁻¹ C_ωᴴ whose sum stays below the identity; None where that is not so. It proves nothing."""
        needed = rows.mH @ torch.linalg.solve_ex(matrix, rows)[0]
        needed = 0.5 * (needed + needed.mH)
        total = torch.einsum("f,fab->ab", self._counts, needed.real)
        left = 1.0 - float(torch.linalg.eigvalsh(total)[-1])
        if not left > 0.0:
            return None
        # Half of what is left of the identity is shared out: evenly, and in proportion to the needs.
        even = 0.25 * left / (self._image[0] * self._image[1])
        return (1.0 + 0.25 * left) * needed + even * torch.eye(rows.shape[2], dtype=needed.dtype, device="cpu")

    def _transformed(self, output: Tensor) -> Tensor:
        """The rows of C in the unitary transform, complex128, shape (frequencies, channels, outputs)."""
        images = output.double().reshape(len(output), self._size, *self._image)
        return torch.fft.rfft2(images, norm="ortho").flatten(2).permute(2, 1, 0).contiguous()


def circular_metric_problem(layer: Equilibrium, std: Tensor | None = None) -> CircularMetricProblem | None:
    """The numbers of a layer that the theorem is about, or None if it is about another kind of layer.

    Args:
        layer: the layer.
        std: of a normalisation before it, which U is divided by, float64, shape (in_channels,); None for none.
    """
    if not layer.activation.is_monotone or layer.output is not None or layer.direct is not None:
        return None
    with torch.no_grad():
        operator, guarantee = layer.materialise()
        form = operator.frequency_form()
        if form is None or guarantee is None:
            return None
        circular, padded = layer.injection.numbers().as_circular(), layer.injection.convolution()
        driven = padded if circular is None else circular
        if driven is None:
            return None
        weight = driven.weight.cpu()
        if not bool(torch.isfinite(weight).all()) or not bool((weight != 0.0).any()):
            return None
        kernel, exponent = near_one(weight if std is None else weight / std[:, None, None])
        kept = layer.activation.interior is not layer.activation and weight.shape[-1] <= 3
        build = circular_gram if circular is not None or kept else constant_gram
        gram, error = build(kernel, form.image, driven.stride[0])
        return CircularMetricProblem(form.transfer, form.image, gram, error, exponent, form.metric)


def _covers(matrix: Tensor, rows: Tensor, share: Tensor, error: Tensor) -> bool:
    """Whether [[S, C], [Cᴴ, P]] ⪰ 0 is proved at every frequency, for every S within an error of a matrix."""
    # Powers of two bring both diagonal blocks near one, exactly.
    first, second = (
        torch.ldexp(torch.ones(len(part), device="cpu"), (-0.5 * part.diagonal(dim1=1, dim2=2).real.amax(1).log2()).round())
        .to(torch.float64)[:, None, None]
        for part in (matrix, share)
    )  # fmt: skip
    upper = torch.cat([matrix * first * first, rows * first * second], 2)
    bordered = torch.cat([upper, torch.cat([rows.mH * first * second, share * second * second], 2)], 1)
    return bool(are_semidefinite(bordered, enlarged(error * first.flatten() ** 2, 2)).all())


def _least(matrix: Tensor, error: Tensor) -> float | None:
    """A positive lower bound of the least eigenvalue at any frequency, or None."""
    candidate = 0.5 * float(torch.linalg.eigvalsh(matrix)[:, 0].amin())
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device="cpu")
    for _ in range(6):
        if candidate > 0.0 and bool(
            are_semidefinite(matrix - candidate * eye, error + rounding_constant(2) * candidate).all()
        ):
            return candidate
        candidate *= 0.1
    return None
