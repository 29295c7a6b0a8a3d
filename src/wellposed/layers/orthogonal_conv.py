"""Orthogonal convolutions, and pooling of norm one (Trockman & Kolter 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.circular_monotone import circular_kernel
from wellposed.constraints.factorisations import formed_once, proved_once
from wellposed.constraints.holding import Holding
from wellposed.constraints.orthogonal import cayley_orthogonal
from wellposed.errors import InputError, check, checked_options
from wellposed.layers.compiled import Compilable, value_of
from wellposed.layers.inputs import check_numbers, check_tensor, in_precision_of
from wellposed.numerics.convolution_norms import largest_singular_value
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.fourier import to_image, to_spectrum, transfer_function


class OrthogonalConv2d(Compilable, Holding):
    """A circular convolution whose matrix at every frequency is (semi-)orthogonal, by the block Cayley transform.

    It keeps norms unless it has fewer outputs than inputs, where it is 1-Lipschitz. A stride s acts as the permutation of
    s × s pixels to channels before it, for images of any size, with zeros added below and to the right. Kernels have as many
    taps as the image once transformed: the module belongs to one image size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        image: height and width of the input, even or odd.
        taps: rows and columns of the free kernel, odd; less where the image is smaller.
        stride: rows and columns that become channels before the convolution.
        bias: whether there is a bias.
        device: where the parameters are created.
        dtype: their dtype.
    """

    @checked_options
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image: tuple[int, int],
        *,
        taps: int = 3,
        stride: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check(in_channels > 0, "in_channels", in_channels, "must be a positive integer")
        check(out_channels > 0, "out_channels", out_channels, "must be a positive integer")
        check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
        check(taps >= 1 and taps % 2 == 1, "taps", taps, "must be odd")
        check(stride >= 1, "stride", stride, "must be at least 1")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.image = (int(image[0]), int(image[1]))
        self.out_image = (-(-self.image[0] // stride), -(-self.image[1] // stride))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.free = circular_kernel(out_channels, in_channels * stride**2, self.out_image, taps, **where)
        self.bias = nn.Parameter(torch.zeros(out_channels, **where)) if bias else None

    def transfer(self) -> Tensor:
        """Q at every frequency as pairs of real numbers, shape (frequencies, out, in, 2), with its graph."""
        return self.formed("transfer", self._form)

    forms = ("transfer",)

    def _form(self) -> Tensor:
        rows, columns = self.out_image

        def form(kernel: Tensor) -> Tensor:
            # In float64: the inverses would lose several units of the last place, and iterations would keep the error.
            free = transfer_function(kernel.double(), rows, columns).flatten(0, 1)
            return torch.view_as_real(cayley_orthogonal(free)).to(kernel.dtype)

        with full_precision(self.free.device):
            return formed_once(self, f"transfer of {self.out_image}", form, self.free)

    def check_parts(self) -> None:
        """Raise an error if an option was changed to one that the weights were not made for."""
        check(self.stride >= 1, "stride", self.stride, "must be at least 1")
        out_image = tuple(-(-extent // self.stride) for extent in self.image)
        check(
            self.out_image == out_image,
            "out_image",
            self.out_image,
            f"must be {out_image}, for images of {self.image} pixels",
        )
        outputs, inputs = self.free.shape[:2]
        fits = self.free.ndim == 4 and (outputs, inputs) == (self.out_channels, self.in_channels * self.stride**2)
        fits = fits and all(taps <= extent for taps, extent in zip(self.free.shape[2:], out_image, strict=True))
        check(fits, "free", tuple(self.free.shape), "does not fit the channels, the stride and the image")
        check(self.bias is None or self.bias.shape == (outputs,), "bias", self.bias, f"must have {outputs} entries")

    def norm_excess(self) -> float:
        """By how much the stored map exceeds norm one, proved; at least zero."""
        with torch.no_grad():
            return max(0.0, proved_once(self, _norm, self.transfer()) - 1.0)

    def unshuffled(self, x: Tensor) -> Tensor:
        """Pixels to channels, as the stride wants.

        Raises:
            InputError: images of another size, for which this would be another map, and not orthogonal.
        """
        self._check_images(x)
        below, right = (
            s * count - n for n, count, s in zip(self.image, self.out_image, (self.stride,) * 2, strict=True)
        )
        wide = nn.functional.pad(x, (0, right, 0, below)) if below or right else x
        # As torch's pixel_unshuffle, which gives empty batches another shape.
        (height, width), side = self.out_image, self.stride
        tiles = wide.unflatten(-1, (width, side)).unflatten(-3, (height, side))
        return tiles.movedim((-3, -1), (-4, -3)).flatten(-5, -3) if side > 1 else wide

    def _check_images(self, x: Tensor) -> None:
        if tuple(x.shape[-3:]) != (self.in_channels, *self.image):
            wanted = (self.in_channels, *self.image)
            raise InputError(
                f"x: has shape {tuple(x.shape)}, but the convolution was made for images of shape {wanted}"
            )

    def apply_transfer(self, transfer: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """The convolution with Q and bias as given, of images that went through `unshuffled`."""
        value = to_image(torch.bmm(torch.view_as_complex(transfer), to_spectrum(x)), self.out_image)
        return value if bias is None else value + bias[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, in_channels, height, width) to (batch, out_channels, ⌈height/stride⌉, ⌈width/stride⌉)."""
        x = in_precision_of(self, x)
        check_numbers(x, self.free)
        if torch.compiler.is_compiling() or x.is_meta:  # compilers are wrong about complex numbers
            return value_of(self, x)
        return self.evaluate(x)[0]

    def shapes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the value, and of a state of no entries."""
        self._check_images(x)
        return (x.shape[0], self.out_channels, *self.out_image), (0,)

    def evaluate(self, x: Tensor, aside: None = None, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The value, and a state of no entries."""
        with full_precision(x.device):
            value = self.apply_transfer(self.transfer(), self.bias, self.unshuffled(x))
        return value, value.new_empty(0)


class UnitPool2d(nn.Module):
    """Averages over disjoint windows, times the root of their size: a map with orthonormal rows, of norm one.

    Args:
        window: rows and columns of a window; what is left over at the bottom and the right is not used.
    """

    @checked_options
    def __init__(self, window: int) -> None:
        super().__init__()
        check(window >= 1, "window", window, "must be at least 1")
        self.window = window

    def check_parts(self) -> None:
        """Raise an error if the window is no positive integer."""
        check(isinstance(self.window, int) and self.window >= 1, "window", self.window, "must be a positive integer")

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*, channels, height, width) to (*, channels, height//window, width//window)."""
        check_tensor(x)
        room = x.ndim >= 3 and min(x.shape[-2:]) >= self.window
        check(
            room,
            "x",
            x,
            f"must be images of at least {self.window} rows and columns, shape (*, channels, height, width)",
        )
        return nn.functional.avg_pool2d(x, self.window) * self.window


def _norm(transfer: Tensor) -> float:
    """A proved bound of the largest singular value at any frequency, of pairs of real numbers; refuses NaN."""
    return largest_singular_value(torch.view_as_complex(transfer.double()))
