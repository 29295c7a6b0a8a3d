"""Norms of convolutions, proved frequency by frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.outward import UNIT, enlarged, rounding_constant

_TRANSFORMED = (
    1e-11  # far above what a transform and the products err by, relative to the sum of all squares at a frequency
)


def least_eigenvalues(hermitian: Tensor) -> Tensor:
    """Lower bounds of the least eigenvalue of every stored Hermitian matrix, close to it.

    As `wellposed.numerics.verified.symmetric_part_lower_bound`, for many complex matrices at once: each is proved by a Cholesky
    factorisation of its real form [[Re, −Im], [Im, Re]] shifted by more than the factorisation can err (Rump 2006). Where
    that fails, which only happens to ill-conditioned matrices, the bound is Gershgorin's.

    Args:
        hermitian: complex128, shape (count, n, n); the Hermitian part of what is stored counts.

    Returns:
        Float64, shape (count,).
    """
    if not bool(torch.isfinite(torch.view_as_real(hermitian)).all()):
        raise InputError(
            "weights: have NaN or infinite entries, or overflow in products; nothing can be certified for them"
        )
    matrix = _real_form(hermitian)
    size = matrix.shape[1]
    scale = matrix.abs().sum(2).amax(1)
    smallest = torch.linalg.eigvalsh(matrix)[:, 0]
    proved = -scale * (1.0 + rounding_constant(size + 4))
    settled = torch.zeros_like(proved, dtype=torch.bool)
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    slack = 1e-14 * scale + 1e-300
    for _ in range(12):
        candidate = smallest - slack
        # Forming the shifted matrix, and the symmetric part, rounds too.
        error = 4.0 * UNIT * (scale + candidate.abs())
        good = _semidefinite(matrix - candidate[:, None, None] * eye, error)
        proved = torch.where(good & ~settled, candidate, proved)
        settled |= good
        if bool(settled.all()):
            break
        slack = 4.0 * slack
    return proved


def are_semidefinite(hermitian: Tensor, errors: Tensor) -> Tensor:
    """Whether everything within an error of each Hermitian matrix is proved to be positive semidefinite.

    Args:
        hermitian: complex128, shape (count, n, n); the Hermitian part of what is stored counts.
        errors: in the Euclidean norm, float64, shape (count,).

    Returns:
        Shape (count,); False means "not proved".
    """
    if not bool(torch.isfinite(torch.view_as_real(hermitian)).all()):
        return torch.zeros(len(hermitian), dtype=torch.bool, device="cpu")
    matrix = _real_form(hermitian)
    return _semidefinite(matrix, errors + 4.0 * UNIT * matrix.abs().sum(2).amax(1))


def _real_form(hermitian: Tensor) -> Tensor:
    """[[Re, −Im], [Im, Re]] of the Hermitian part, which has the same eigenvalues, each twice."""
    real, imaginary = hermitian.real, hermitian.imag
    matrix = torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)
    return 0.5 * matrix + 0.5 * matrix.mT


def _semidefinite(matrix: Tensor, error: Tensor) -> Tensor:
    """Whether symmetric matrices are proved semidefinite, give or take an error, by Cholesky factorisations (Rump 2006)."""
    size = matrix.shape[1]
    trace = matrix.diagonal(dim1=1, dim2=2).clamp(min=0.0).sum(1) * (1.0 + rounding_constant(size))
    factor = rounding_constant(size + 1)
    shift = (factor / (1.0 - factor) * trace + error) * (1.0 + 8.0 * UNIT) + 1e-300
    tested = matrix - shift[:, None, None] * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky_ex(tested)[1] == 0


def convolution_norm(kernel: Tensor, image: tuple[int, int], stride: int = 1) -> float:
    """Proved upper bound of ‖K‖₂ of a zero-padded convolution, for every padding, from the stored kernel.

    A zero-padded convolution is a part of the circular one on a grid larger by the kernel, so its norm is at most that one's.
    With a stride, ``K Kᴴ`` at a frequency of the coarse grid is the mean over the frequencies that fall onto it.

    Args:
        kernel: shape (out_channels, in_channels, rows, columns).
        image: height and width of the input.
        stride: of the convolution.
    """
    stored = kernel.detach().double().cpu()
    rows, columns = stored.shape[2:]
    grid = [-(-(extent + taps - 1) // stride) * stride for extent, taps in zip(image, (rows, columns), strict=True)]
    transfer = torch.fft.fft2(stored, s=grid).permute(2, 3, 0, 1)  # (height, width, out, in)
    coarse = [extent // stride for extent in grid]
    aliases = transfer.reshape(stride, coarse[0], stride, coarse[1], *transfer.shape[2:])
    aliases = aliases.permute(1, 3, 4, 0, 2, 5).flatten(3).flatten(0, 1) / stride  # (frequencies, out, in·stride²)
    return largest_singular_value(aliases)


def largest_singular_value(transfer: Tensor) -> float:
    """Proved upper bound of ‖K‖₂ of a circular convolution with a transfer function that was computed in float64.

    Args:
        transfer: complex128, shape (*, out, in), the stored frequencies in front.
    """
    matrices = transfer.detach().to("cpu", torch.complex128).flatten(0, -3)
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mH
    square = -float(least_eigenvalues(-(matrices @ matrices.mH)).amin())
    energy = float(matrices.abs().square().sum((1, 2)).amax())
    return enlarged((max(square, 0.0) + _TRANSFORMED * energy) ** 0.5, 3)
