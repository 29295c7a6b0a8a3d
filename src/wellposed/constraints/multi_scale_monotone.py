"""Strong monotonicity over several image sizes (Winston & Kolter 2020, section 4: the multi-tier network).

``W = (1 − m)I − AᵀA + skew`` with A block lower bidiagonal: A_i on the diagonal, convolutions of tier i, and D_i below it,
convolutions of stride two from tier i to the next. The skew part has B_i − B_iᵀ on the diagonal, and beside it what makes W block
lower triangular: every tier is driven by the one before, W_(i+1),i = −2 A_(i+1)ᵀ D_i.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import check_size
from wellposed.constraints.circular_monotone import circular_kernel, monotone_transfer
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.constraints.monotone import StrongMonotonicity
from wellposed.errors import check
from wellposed.guarantee.frequencywise import MultiScaleStronglyMonotone
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.fourier import transfer_function
from wellposed.operators.multi_scale import MultiScale
from wellposed.operators.tiers import Size


class MultiScaleMonotone(StrongMonotonicity):
    """Free kernels A_i, B_i for every tier and D_i between neighbours; I − W ⪰ m·I.

    Args:
        channels: of every tier.
        images: height and width of every tier, see `MultiScale`.
        m: strong-monotonicity constant, positive. Saved with the weights.
        taps: rows and columns of the kernels, odd; less where an image is smaller.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        images: tuple[Size, ...],
        m: float = 1.0,
        *,
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(m)
        for count in channels:
            check_size(count)
        check(len(channels) == len(images) >= 1, "channels", channels, f"must be as many as tiers, {len(images)}")
        check(taps % 2 == 1, "taps", taps, "must be odd")
        self.tier_channels, self.images = tuple(channels), tuple(images)
        tiers = list(zip(channels, images, strict=True))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.A = nn.ParameterList([circular_kernel(count, count, image, taps, **where) for count, image in tiers])
        self.B = nn.ParameterList([circular_kernel(count, count, image, taps, **where) for count, image in tiers])
        self.D = nn.ParameterList(
            [
                circular_kernel(after[0], count, image, taps, **where)
                for (count, image), after in itertools.pairwise(tiers)
            ]
        )

    @property
    @override
    def state_features(self) -> int:
        return sum(count * h * w for count, (h, w) in zip(self.tier_channels, self.images, strict=True))

    @override
    def materialise(self) -> tuple[MultiScale, MultiScaleStronglyMonotone]:
        with full_precision(self.A[0].device):
            a, b, down = (
                [transfer_function(kernel, *image) for kernel, image in zip(kernels, self.images, strict=False)]
                for kernels in (self.A, self.B, self.D)
            )
            own = tuple(monotone_transfer(first, second, self.m) for first, second in zip(a, b, strict=True))
            into = tuple(-2.0 * diagonal.mH for diagonal in a[1:])
        operator = MultiScale(own, tuple(down), into, self.images, factorisation_cache(self))
        return operator, MultiScaleStronglyMonotone(operator, self.m)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        return (float(self.m), self.images), (*self.A, *self.B, *self.D)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.tier_channels}, images={self.images}, m={self.m}"


def tier_images(image: Size, tiers: int, border: int = 0) -> tuple[Size, ...]:
    """Height and width of every tier for images of a size: halved from tier to tier, a border around each.

    Extents are rounded up so that they can be halved, but for a single pixel without a border.

    Args:
        image: height and width of the image.
        tiers: how many.
        border: pixels on every side.
    """
    unit = 2 ** (tiers - 1)
    extents = [extent if extent == 1 and not border else -(-extent // unit) * unit for extent in image]
    return tuple(
        (max(extents[0] // 2**k, 1) + 2 * border, max(extents[1] // 2**k, 1) + 2 * border) for k in range(tiers)
    )
