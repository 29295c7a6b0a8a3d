"""Products of matrices by the library whose kernels for them are the quickest that torch has on the machine.

Torch multiplies float32 matrices on x86 processors by MKL, which leaves half of the throughput of AMD's unused. oneDNN, which
torch contains for convolutions, uses the instructions that it finds.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Fewer multiplications take less time than what oneDNN needs to begin.
_LEAST = 1 << 22
# Torch's operator is for its own compiler: it may change.
_KNOWN = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
# Products with fewer rows or columns are as quick by MKL.
_NARROW = 16


def _linear() -> Callable[..., Tensor] | None:
    """OneDNN's ``x @ w.t()``; None where torch does not have it as it is known here, or nothing is known of its speed."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return None
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return found.default if found is not None and str(found.default._schema) == _KNOWN else None


_LINEAR = _linear()


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


def _pays(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN takes the matrices, and is the quicker; it knows no derivatives."""
    (rows, terms), columns = left.shape, right.shape[1]
    return (
        rows * terms * columns >= _LEAST
        and min(rows, columns) >= _NARROW
        and _LINEAR is not None
        and left.dtype == torch.float32
        and left.device.type == "cpu"
        and not (torch.is_grad_enabled() and (left.requires_grad or right.requires_grad))
        and not torch._C._are_functorch_transforms_active()
    )


def _by_onednn(left: Tensor, right: Tensor) -> Tensor:
    assert _LINEAR is not None
    return _LINEAR(_packed(left), _packed(right).t(), None, "none", [], "")


def _packed(matrix: Tensor) -> Tensor:
    """The matrix, or a copy where its rows and columns have gaps, with which oneDNN takes a thousand times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
