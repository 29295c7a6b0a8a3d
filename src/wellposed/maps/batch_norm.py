"""Batch normalisation in eval mode as a map of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError


def require_fixed(name: str, norm: nn.BatchNorm1d | nn.BatchNorm2d, features: int | None = None) -> None:
    """Refuse a batch normalisation that depends on the batch, or whose numbers do not fit together.

    Args:
        name: of the part, for the error.
        norm: the normalisation.
        features: how many it must have; None for any number.

    Raises:
        CertificateError: it is in training mode or has no running statistics; or shapes, signs or numbers do not fit.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise CertificateError(f"{name}: batch normalisation depends on the batch; call model.eval() first")
    count = norm.running_var.numel() if features is None else features
    parts = [norm.running_mean, norm.running_var, *([] if norm.weight is None else [norm.weight, norm.bias])]
    if any(part is None or part.shape != (count,) for part in parts) or norm.affine != (norm.weight is not None):
        raise CertificateError(f"{name}: its statistics and weights do not have {count} entries each")
    if not bool(torch.isfinite(norm.running_mean).all() and torch.isfinite(norm.running_var).all()):
        raise CertificateError(f"{name}: its running statistics are not finite")
    if not float((norm.running_var.double() + norm.eps).amin()) > 0.0:
        raise CertificateError(f"{name}: the variances plus eps={norm.eps!r} are not all positive")


def batch_norm_map(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch normalisation in eval mode, float64, each of shape (features,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.detach().double() if norm.affine else shift
