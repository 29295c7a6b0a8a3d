"""Numerical linear algebra that works around defects of torch.

With two or more threads, a batch of two or more and matrices of 150 rows or more, torch's batched LU on the CPU hangs,
raises or returns wrong numbers (pytorch issues 142815 and 141358, torch 2.13 included). One matrix at a time is right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import InputError
from wellposed.numerics.product import added_product, product, subtracted_product

_FIRST_BROKEN_SIZE = 150
_PRECISIONS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def _must_loop(matrix: Tensor) -> bool:
    return matrix.ndim > 2 and matrix.device.type == "cpu" and matrix.shape[-1] >= _FIRST_BROKEN_SIZE


def check_precision(dtype: torch.dtype) -> None:
    """Refuse numbers of half precision, in which nothing that this library promises could hold.

    Raises:
        InputError: the dtype is not float32 or float64, real or complex.
    """
    if dtype not in _PRECISIONS:
        raise InputError(
            f"dtype={dtype}: the weights must be float32 or float64; use torch.autocast for half precision around them"
        )


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve ``matrix @ x = right`` for every matrix of a batch; singular matrices give non-finite rows, not an error.

    Args:
        matrix: shape (..., n, n).
        right: shape (..., n, k), with the same leading shape.
    """
    if not _must_loop(matrix):
        return torch.linalg.solve_ex(matrix, right)[0]
    flat = [torch.linalg.solve_ex(a, b)[0] for a, b in zip(matrix.flatten(0, -3), right.flatten(0, -3), strict=True)]
    return torch.stack(flat).reshape(right.shape)


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of every matrix of a batch of shape (..., n, n)."""
    check_precision(matrix.dtype)
    if not _must_loop(matrix):
        return torch.linalg.inv_ex(matrix)[0]
    return torch.stack([torch.linalg.inv_ex(a)[0] for a in matrix.flatten(0, -3)]).reshape(matrix.shape)


def largest_singular_value(matrix: Tensor) -> Tensor:
    """The spectral norm of a matrix, with its graph, from the smaller of its two Gram matrices in float64; not proved.

    Args:
        matrix: shape (rows, columns).
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().t()
    largest = torch.linalg.eigvalsh(wide @ wide.t())[-1]
    return largest.clamp_min(torch.finfo(torch.float64).tiny).sqrt().to(matrix.dtype)


_BLOCK = 64


def accretive_inverse(matrix: Tensor) -> Tensor:
    """Inverse of one (n, n) matrix whose symmetric part is positive definite.

    Such a matrix has only such diagonal blocks and Schur complements, so block elimination needs no pivoting; by halves
    it is mostly matrix products and, from n = 100 or so, about twice as fast as LAPACK's general inverse.
    """
    size = matrix.shape[0]
    if size <= _BLOCK:
        return torch.linalg.inv_ex(matrix)[0]
    half = size // 2
    upper, lower = matrix[:half, half:], matrix[half:, :half]
    first = accretive_inverse(matrix[:half, :half])
    right = product(first, upper)
    last = accretive_inverse(subtracted_product(matrix[half:, half:], lower, right))
    left = product(last, product(lower, first))
    top = torch.cat([added_product(first, right, left), product(right, last).neg()], 1)
    return torch.cat([top, torch.cat([left.neg(), last], 1)], 0)


def directional_derivative(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> Tensor:
    """Derivative of ``function`` at a point along a direction.

    The reverse mode transposed twice: torch's forward mode cannot be nested, so it is left to the caller.
    """
    image, transposed = torch.func.vjp(function, *at)  # type: ignore[misc]  # three only with has_aux
    return torch.func.vjp(transposed, torch.zeros_like(image))[1](along)[0]


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; there is none of tensors without numbers, and asking for it is an error."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which autocast, if it is on, is off: guarantees are about the weights' own dtype."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # entering autocast costs more than a small product


def autocast_now(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A way back, from inside `full_precision`, to the autocast that is on now.

    Its casts are not kept for later calls: one that was made without a graph would hide a gradient.
    """
    kind = device.type
    if not autocasts(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, cache_enabled=False)


def autocast_to(dtype: torch.dtype, x: Tensor) -> Tensor:
    """The tensor in a dtype, where autocast is on and the tensor has less precision than that."""
    less = x.dtype != dtype and x.is_floating_point() and torch.finfo(x.dtype).eps >= torch.finfo(dtype).eps
    return x.to(dtype) if less and autocasts(x.device) else x
