"""Strong monotonicity of a circular convolution: ``W = (1 − m)I − A*A + B − B*`` (Winston & Kolter 2020, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import ImageConstraint
from wellposed.constraints.factorisations import factorisation_cache, formed_once
from wellposed.constraints.monotone import StrongMonotonicity
from wellposed.guarantee.frequencywise import FrequencywiseMonotone
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.circular import Circular
from wellposed.operators.fourier import summed_transfer_function


class CircularMonotone(StrongMonotonicity, ImageConstraint):
    """Free kernels A, B of shape (channels, channels, taps, taps); at every frequency I − W ⪰ m·I.

    Args:
        channels: of the state.
        image: height and width of the state.
        m: strong-monotonicity constant, positive. Saved with the weights.
        taps: rows and columns of the kernels, odd and at most the image's.
    """

    def __init__(
        self,
        channels: int,
        image: tuple[int, int],
        m: float = 1.0,
        *,
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(m)
        self.set_image(channels, image, taps)
        self.A = circular_kernel(channels, channels, self.image, taps, device=device, dtype=dtype)
        self.B = circular_kernel(channels, channels, self.image, taps, device=device, dtype=dtype)

    @override
    def materialise(self) -> tuple[Circular, FrequencywiseMonotone]:
        image, m = self.image, self.m

        def form(*kernels: Tensor) -> Tensor:
            a, b = (summed_transfer_function(kernel, *image) for kernel in kernels)
            return monotone_transfer(a, b, m)

        with full_precision(self.A.device):
            transfer = formed_once(self, f"transfer of {image}, {m}", form, self.A, self.B)
        operator = Circular(transfer, self.image[1], factorisation_cache(self))
        return operator, FrequencywiseMonotone(operator, self.m)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.channels}, image={self.image}, m={self.m}"


def circular_kernel(
    out_channels: int,
    in_channels: int,
    image: tuple[int, int],
    taps: int,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Parameter:
    """A kernel drawn uniformly within ±1/√(inputs of a tap sum), as `torch.nn.Conv2d` does; no larger than the image.

    Args:
        out_channels: outputs.
        in_channels: inputs.
        image: height and width.
        taps: rows and columns, odd; less where the image is smaller.
        device: where it is created.
        dtype: its dtype.
    """
    size = [min(taps, extent if extent % 2 else extent - 1) for extent in image]
    kernel = torch.empty(out_channels, in_channels, *size, device=device, dtype=dtype)
    bound = (in_channels * size[0] * size[1]) ** -0.5
    return nn.Parameter(nn.init.uniform_(kernel, -bound, bound))


def monotone_transfer(a: Tensor, b: Tensor, m: float) -> Tensor:
    """``(1 − m)I − A*A + B − B*`` from the transfer functions of A and B, all complex (height, width//2 + 1, n, n)."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return (1.0 - m) * identity - a.mH @ a + b - b.mH
