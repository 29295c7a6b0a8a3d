"""Orthogonal equilibrium networks on images (after Singh & Lou): the single-layer residual network, truly 1-Lipschitz."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.errors import check, checked_options, choices
from wellposed.layers.contractive_cell import ContractiveCell, mixing_numbers
from wellposed.layers.group_sort import group_sort
from wellposed.layers.options import SolveOptions
from wellposed.layers.orthogonal_conv import OrthogonalConv2d
from wellposed.layers.resolved_sort import resolved_contraction, resolved_max_min, resolved_shares
from wellposed.maps.checks import require_kind
from wellposed.names import CONV_COUPLINGS
from wellposed.numerics.euclidean import euclidean
from wellposed.numerics.outward import rounding_constant
from wellposed.operators.real_spectrum import RealTransforms, block_rounding, real_blocks, real_rounding


class ConvOrthogonalDEQ(ContractiveCell):
    """The equilibrium of a residual cell of two orthogonal convolutions and MaxMin; 1-Lipschitz in its input.

    With ``g(z) = C₂ S(C₁ z)``, S = MaxMin over channels, and h(x) an orthogonal convolution of the input, or the input itself:
    ``"convex"`` ``z = κ((1 − ω)S(g(z)) + ω h(x))``;
    ``"residual"`` ``z = κ S(a₂z + (1 − a₂)(a₁h(x) + (1 − a₁)g(z)))`` with learned mixing weights a in (0.05, 0.95), and
    ω = a₁(1 − a₂). Both are κω/(1 − κ(1 − ω)) ≤ κ Lipschitz, for κ = 1 too.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium, even.
        image: height and width of the input.
        hidden: channels inside of the cell, even; None for 4/3 of ``channels``, rounded up to an even number.
        coupling: ``"convex"`` or ``"residual"``.
        kappa: κ in (0, 1].
        omega: ω in (0, 1], for ``"convex"``.
        taps: rows and columns of the free kernels, odd.
        stride: of the input convolution.
        encode: whether the input goes through an orthogonal convolution; else it has ``channels`` channels and no stride.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is `Picard`, and tolerances are eps^(1/2) by default.

    Example:
        >>> layer = ConvOrthogonalDEQ(3, 6, (8, 8), stride=2)
        >>> layer(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 6, 4, 4])
    """

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
        image: tuple[int, int],
        *,
        hidden: int | None = None,
        coupling: str = "residual",
        kappa: float = 1.0,
        omega: float = 0.5,
        taps: int = 3,
        stride: int = 1,
        encode: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        super().__init__(**options)
        choices("coupling", coupling, CONV_COUPLINGS)
        hidden = 2 * -(-2 * channels // 3) if hidden is None else hidden
        check(channels > 0 and channels % 2 == 0, "channels", channels, "must be even, for MaxMin")
        check(hidden > 0 and hidden % 2 == 0, "hidden", hidden, "must be even, for MaxMin")
        check(0.0 < kappa <= 1.0, "kappa", kappa, "must lie in (0, 1]")
        check(0.0 < omega <= 1.0, "omega", omega, "must lie in (0, 1]")
        plain = in_channels == channels and stride == 1
        check(encode or plain, "encode", encode, "without an encoder the input has as many channels, and no stride")
        self.coupling, self.kappa, self.omega = coupling, float(kappa), float(omega)
        where: dict[str, Any] = {"taps": taps, "device": device, "dtype": dtype}
        self._input_shape = (in_channels, int(image[0]), int(image[1]))
        self.injection = OrthogonalConv2d(in_channels, channels, image, stride=stride, **where) if encode else None
        state = self._input_shape[1:] if self.injection is None else self.injection.out_image
        self._state_shape = (channels, *state)
        first = OrthogonalConv2d(channels, hidden, self._state_shape[1:], **where)
        second = OrthogonalConv2d(hidden, channels, self._state_shape[1:], **where)
        self.maps = nn.ModuleList([first, second])
        self.mixing = nn.Parameter(torch.zeros(2, device=device, dtype=dtype)) if coupling == "residual" else None

    def check_parts(self) -> None:
        """Raise an error if a part or an option was replaced by one that the theorem of this layer is not about."""
        choices("coupling", self.coupling, CONV_COUPLINGS)
        ranges = 0.0 < self.kappa <= 1.0 and 0.0 < self.omega <= 1.0
        check(ranges, "kappa, omega", (self.kappa, self.omega), "outside of what the theorem allows")
        check(len(self.maps) == 2, "maps", len(self.maps), "must be two")
        mixing, residual = self.mixing, self.coupling == "residual"
        check((mixing is not None) == residual, "mixing", mixing, f"does not go with the coupling {self.coupling!r}")
        check(mixing is None or mixing.shape == (2,), "mixing", mixing, "must be two numbers")
        for part in (*self.maps, *([] if self.injection is None else [self.injection])):
            require_kind("maps", part, (OrthogonalConv2d,))
            assert isinstance(part, OrthogonalConv2d)
            part.check_parts()
            check(part.bias is not None, "bias", None, "the cell needs one")
        first, second = self._parts
        state, hidden = self._state_shape, first.out_channels
        shapes = (first.in_channels, *first.image) == state and (second.in_channels, *second.image) == (
            hidden,
            *state[1:],
        )
        inside = (
            first.stride == second.stride == 1 and second.out_channels == state[0] and hidden % 2 == 0 == state[0] % 2
        )
        given = state if self.injection is None else (self.injection.out_channels, *self.injection.out_image)
        taken = state if self.injection is None else (self.injection.in_channels, *self.injection.image)
        check(
            shapes and inside and given == state and taken == self._input_shape,
            "maps",
            self.maps,
            "do not fit together",
        )

    @property
    @override
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    @property
    @override
    def state_shape(self) -> tuple[int, ...]:
        return self._state_shape

    @property
    @override
    def _parts(self) -> list[OrthogonalConv2d]:
        return [part for part in self.maps if isinstance(part, OrthogonalConv2d)]

    @override
    def norm_excess(self) -> float:
        parts = self._parts if self.injection is None else [*self._parts, self.injection]
        return max(part.norm_excess() for part in parts)

    @override
    def constants(self, excess: float) -> tuple[float, float]:
        if self.mixing is None:
            direct, through, driven = 0.0, 1.0 - self.omega, self.omega
        else:
            first, second = mixing_numbers(self.mixing)
            direct, through, driven = second, (1.0 - second) * (1.0 - first), (1.0 - second) * first
        size = 1.0 + excess
        return self._constants(self.kappa * (direct + through * size**2), self.kappa * driven * size)

    @override
    def _described(self) -> str:
        return f"orthogonal convolutions, {self.coupling} coupling, κ = {self.kappa:g}"

    @override
    def step_factor(self, excess: float) -> float:
        if self.mixing is None:
            return super().step_factor(excess)
        return self._constants(resolved_contraction(self.mixing, self.kappa, (1.0 + excess) ** 2), 0.0)[0]

    @override
    def _cell(self, rows: Tensor, dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...], Tensor]:
        """As rows of (width, height, channels), whose memory is that of a matrix with a column for every sample."""
        size = (self._state_shape[1], self._state_shape[2])
        transforms = RealTransforms.of(size, dtype, rows.device)
        (*first, inner_bias), (*second, outer_bias) = (_numbers(part, size, dtype) for part in self._parts)
        drive = self._drive(rows).to(dtype)
        if self.mixing is None:
            through = outer_bias.new_tensor(self.kappa * (1.0 - self.omega))
            last, drive = through * outer_bias, (self.kappa * self.omega) * drive
        else:
            through, driven, last = resolved_shares(self.mixing, self.kappa, dtype)
            drive = driven * drive + through * outer_bias
        weights = (*first, inner_bias, *(through * block for block in second), last, *transforms.matrices)

        def maps(z: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
            transforms = RealTransforms(size, *weights[8:])
            inside = group_sort(transforms.convolved(weights[:3], self._image(z, size)) + weights[3], dim=-2)
            return transforms.convolved(weights[4:7], inside)

        def convex(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            return self._rows(group_sort(maps(z, weights) + weights[7], dim=-2)) + drive

        def residual(z: Tensor, drive: Tensor, *weights: Tensor) -> Tensor:
            return self._rows(resolved_max_min(self._image(drive, size) + maps(z, weights), weights[7], dim=-2))

        return (convex if self.mixing is None else residual), weights, self._rows(drive)

    def _drive(self, x: Tensor) -> Tensor:
        """What x contributes, shape (width, height, channels, batch), in float64, as every iteration adds its rounding."""
        x = x.double()
        if self.injection is None:
            return x.permute(3, 2, 1, 0)
        transforms = RealTransforms.of(self.injection.out_image, x.dtype, x.device)
        *blocks, bias = _numbers(self.injection, transforms.size, x.dtype)
        return transforms.convolved(blocks, self.injection.unshuffled(x).permute(3, 2, 1, 0)) + bias

    @override
    def _packed(self, state: Tensor) -> Tensor:
        return self._rows(state.permute(3, 2, 1, 0))

    @override
    def _unpacked(self, rows: Tensor) -> Tensor:
        return self._image(rows, (self._state_shape[1], self._state_shape[2])).permute(3, 2, 1, 0).contiguous()

    @staticmethod
    def _rows(image: Tensor) -> Tensor:
        return image.flatten(0, -2).t()

    @staticmethod
    def _image(rows: Tensor, size: tuple[int, int]) -> Tensor:
        return rows.t().reshape(size[1], size[0], rows.shape[1] // (size[0] * size[1]), rows.shape[0])

    @override
    def _evaluation_error(self, x: Tensor, value: Tensor) -> Tensor:
        parts = self._parts if self.injection is None else [*self._parts, self.injection]
        pixels = float(self._state_shape[1] * self._state_shape[2])
        bias = sum(euclidean(part.bias.detach()[None]) for part in parts if part.bias is not None) * pixels**0.5
        # Two transforms and a product per frequency each, of maps with norm one, and a few roundings more.
        terms = sum(2.0 * real_rounding(part.out_image) + block_rounding(*part.free.shape[:2]) + 48.0 for part in parts)
        return rounding_constant(math.ceil(2.0 * terms)) * (euclidean(x) + bias + 2.0 * euclidean(value))

    @override
    def extra_repr(self) -> str:
        return f"coupling={self.coupling!r}, kappa={self.kappa:g}, omega={self.omega:g}"


def _numbers(part: OrthogonalConv2d, size: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """The three `real_blocks` of a convolution, and its bias as a column, with their graph."""
    assert part.bias is not None  # checked with the parts
    return [*real_blocks(part.transfer().to(dtype), size), part.bias.to(dtype)[:, None]]
