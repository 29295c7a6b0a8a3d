"""Images and their half spectra: the discrete Fourier transform turns circular convolutions into one matrix per frequency.

Real images need half of the frequencies, as in ``torch.fft.rfft2``. Every height and width is allowed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.linear_algebra import check_precision

_FEW_TAPS = 9  # up to which a sum over taps in float32 is no less exact than a transform,
_MANY_PIXELS = 196  # of at least so many pixels
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def to_spectrum(image: Tensor) -> Tensor:
    """Shape (batch, channels, height, width) to (frequencies, channels, batch)."""
    if not image.shape[0]:  # which some transforms refuse
        return to_spectrum(torch.nn.functional.pad(image, (0, 0, 0, 0, 0, 0, 0, 1)))[:, :, :0]
    # Batched products copy every matrix by itself whose rows and columns are both strided: one copy of all is far quicker.
    return torch.fft.rfft2(image).flatten(2).permute(2, 0, 1).contiguous().mT


def to_image(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """Shape (frequencies, channels, batch) to (batch, channels, height, width), size = (height, width)."""
    if not spectrum.shape[2]:
        return to_image(torch.nn.functional.pad(spectrum, (0, 1)), size)[:0]
    return torch.fft.irfft2(spectrum.permute(2, 1, 0).unflatten(2, (size[0], size[1] // 2 + 1)), s=size)


def multiplicity(width: int, device: torch.device) -> Tensor:
    """How many frequencies each stored one of a row stands for, float64, shape (width//2 + 1,)."""
    count = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    count[0] = 1.0
    if width % 2 == 0:
        count[-1] = 1.0
    return count


def typical_singular_value(matrices: Tensor, size: tuple[int, int]) -> float:
    """The root-mean-square singular value of a circular map with these matrices, shape (frequencies, n, n)."""
    squares = torch.view_as_real(matrices.detach()).double().square().sum((1, 2, 3))
    weights = multiplicity(size[1], squares.device).repeat(size[0])
    return (float((squares * weights).sum()) / (size[0] * size[1] * matrices.shape[-1])) ** 0.5


def transfer_function(kernel: Tensor, height: int, width: int, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """The transfer function of ``torch.nn.functional.conv2d`` with circular padding, centred.

    A convolution with strides (r, s) takes an image of (r·height, s·width) pixels. It is one of stride one on the r·s images
    of every r-th row and s-th column: these stand in for input channels, a channel's own ones together.

    Args:
        kernel: shape (out_channels, in_channels, rows, columns), rows and columns odd and at most the image's.
        height: of the output.
        width: of the output.
        stride: of the convolution.

    Returns:
        Complex, shape (height, width//2 + 1, out_channels, in_channels·r·s), with its graph.
    """
    check_precision(kernel.dtype)
    rows, columns = kernel.shape[2:]
    full = (height * stride[0], width * stride[1])
    if rows % 2 == 0 or columns % 2 == 0 or rows > full[0] or columns > full[1]:
        raise InputError(
            f"kernel: has {rows} × {columns} taps; needs odd numbers of them, no larger than the image of {full[0]} × {full[1]}"
        )
    padded = torch.nn.functional.pad(kernel, (0, full[1] - columns, 0, full[0] - rows))
    centred = torch.roll(padded, (-(rows // 2), -(columns // 2)), (2, 3))
    if stride != (1, 1):
        phases = centred.unflatten(3, (width, stride[1])).unflatten(2, (height, stride[0]))
        centred = phases.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    # conv2d correlates: its transfer function is the conjugate of the kernel's transform.
    return torch.fft.rfft2(centred).conj().permute(2, 3, 0, 1).resolve_conj().contiguous()


def summed_transfer_function(kernel: Tensor, height: int, width: int) -> Tensor:
    """`transfer_function` of stride one; in float32 for few taps and many pixels a sum over taps: quicker, and no less exact."""
    outputs, inputs, rows, columns = kernel.shape
    if kernel.dtype != torch.float32 or rows * columns > _FEW_TAPS or height * width < _MANY_PIXELS:
        return transfer_function(kernel, height, width)
    down, across, up, along = (
        torch.arange(count, dtype=torch.float64, device=kernel.device)
        for count in (rows, columns, height, width // 2 + 1)
    )
    turns = (up[:, None] * (down - rows // 2) % height) / height
    turns_across = (along[:, None] * (across - columns // 2) % width) / width
    angles = 2.0 * torch.pi * (turns[:, None, :, None] + turns_across[None, :, None, :]).reshape(-1, rows * columns)
    taps = kernel.flatten(2).permute(2, 0, 1).flatten(1)
    real, imaginary = (part.to(kernel.dtype) @ taps for part in (angles.cos(), angles.sin()))
    return torch.complex(real, imaginary).reshape(height, width // 2 + 1, outputs, inputs)


def image_rounding(size: tuple[int, int]) -> float:
    """`fft_rounding` of a transform over rows and columns."""
    return fft_rounding(size[0]) + fft_rounding(size[1])


def fft_rounding(size: int) -> float:
    """Error of a one-dimensional FFT in the Euclidean norm, in units of the last place relative to the norm of its value.

    A generous multiple of what mixed-radix algorithms are proved to need (Higham 2002, section 24.1, for radix two): each prime
    factor p costs a sum of p products with tabulated roots of unity. Other ways of treating large primes cost less.
    """
    rest, cost, factor = size, 0.0, 2
    while rest > 1:
        factor = rest if factor * factor > rest else factor
        while rest % factor == 0:
            rest //= factor
            cost += 4.0 * factor + 8.0
        factor += 1
    return cost


def real_parts(transfer: Tensor) -> Tensor:
    """Real and imaginary parts of complex numbers, shape (*, 2)."""
    return torch.view_as_real(transfer.resolve_conj())
