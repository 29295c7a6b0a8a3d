"""Products of matrices by the library whose kernels for them are the quickest that torch has on the machine.

Torch multiplies float32 matrices on x86 processors by MKL, which does not use AVX-512 on AMD's. oneDNN, which torch contains for
convolutions, uses the instructions that it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Fewer multiplications take less time than what oneDNN needs to begin.
_LEAST = 1 << 22
# Products with fewer rows or columns are as quick by MKL.
_NARROW = 16
# Of each shape oneDNN keeps a program of half a megabyte: other shapes than the first ones are left to MKL.
_MOST_SHAPES = 64
# Torch's operator is for its own compiler: it may change.
_KNOWN = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)


def _linear() -> Callable[..., Tensor] | None:
    """OneDNN's ``x @ w.t()``; None where torch does not have it as it is known here, or it is not known to be quicker."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return found.default if found is not None and str(found.default._schema) == _KNOWN else None


_LINEAR = _linear()
_shapes: set[tuple[int, int, int]] = set()


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of matrices of one dtype; its rounding is that of sums in any order.

    Args:
        left: shape (m, k).
        right: shape (k, n).
    """
    return _by_onednn(left, right) if _pays(left, right) else torch.mm(left, right)


def added_product(added: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``added + left @ right``; see `product`."""
    return _by_onednn(left, right).add_(added) if _pays(left, right) else torch.addmm(added, left, right)


def subtracted_product(whole: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``whole - left @ right``; see `product`."""
    return whole - _by_onednn(left, right) if _pays(left, right) else torch.addmm(whole, left, right, alpha=-1.0)


def _pays(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN takes the matrices and is quicker; it knows no derivatives, no transforms and no tensors but torch's own."""
    (rows, terms), columns = left.shape, right.shape[1]
    if rows * terms * columns < _LEAST or min(rows, columns) < _NARROW or _LINEAR is None:
        return False
    return (
        all(map(_is_plain, (left, right)))
        and left.shape[1] == len(right)
        and forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and (left.requires_grad or right.requires_grad))
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_mkldnn_enabled()
        and _is_admitted((rows, terms, columns))
    )


def _is_plain(matrix: Tensor) -> bool:
    return (
        matrix.dtype == torch.float32
        and matrix.device.type == "cpu"
        and matrix.layout == torch.strided
        and not torch._C._dispatch_keys(matrix).has(
            torch._C.DispatchKey.Python
        )  # a class that answers operators itself
    )


def _is_admitted(shape: tuple[int, int, int]) -> bool:
    if shape not in _shapes:
        if len(_shapes) >= _MOST_SHAPES:
            return False
        _shapes.add(shape)
    return True


def _by_onednn(left: Tensor, right: Tensor) -> Tensor:
    assert _LINEAR is not None
    return _LINEAR(_packed(left), _packed(right).t(), None, "none", [], "")


def _packed(matrix: Tensor) -> Tensor:
    """The matrix, or a copy where its rows and columns have gaps, with which oneDNN takes a thousand times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
