"""Which precisions certificates hold for: float32 and float64, computed as such."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from wellposed.errors import CertificateError


def check_precision(tensors: Iterable[tuple[str, Tensor]], device: torch.device | None = None) -> str:
    """Refuse numbers and settings under which arithmetic is not that of float32 or float64.

    The error bounds behind a certificate are about the rounding of float32 and float64. Half precision, autocast and the reduced
    products of accelerators (TF32, and bfloat16 splits) round a thousand times more, without saying where.

    Args:
        tensors: parameters and buffers by name.
        device: where the network runs; None for where its tensors are.

    Returns:
        The precisions of the numbers, by name; nothing where there are none.

    Raises:
        CertificateError: weights in another precision, or a setting under which float32 products are not float32.
    """
    found = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    for name, tensor in found:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise CertificateError(f"{name}: has dtype {tensor.dtype}; certificates hold for float32 and float64 only")
    kind = next((tensor.device.type for _, tensor in found), "cpu") if device is None else device.type
    if torch.is_autocast_enabled(kind):
        raise CertificateError(
            "autocast: is on; certificates hold for float32 and float64 only, leave its context first"
        )
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError as error:  # set through newer names
        raise CertificateError(f"fp32_precision: {error}; certificates need 'ieee' everywhere") from error
    if products != "highest":
        raise CertificateError(
            f"float32_matmul_precision={products!r}: products are not computed in float32 (TF32 or bfloat16); call "
            "torch.set_float32_matmul_precision('highest')"
        )
    if any(tensor.ndim == 4 for _, tensor in found):
        _check_convolutions(kind)
    names = {str(tensor.dtype).removeprefix("torch.") for _, tensor in found}
    return ", ".join(sorted(names))


def _check_convolutions(kind: str) -> None:
    """Settings of the libraries that compute convolutions."""
    if kind == "cuda" and torch.backends.cudnn.allow_tf32:
        raise CertificateError(
            "torch.backends.cudnn.allow_tf32=True: convolutions are not computed in float32; set it to False, in the program "
            "that runs the model too"
        )
    convolutions = getattr(getattr(torch.backends, "mkldnn", None), "conv", None)
    setting = getattr(convolutions, "fp32_precision", "none")
    if kind == "cpu" and setting not in ("none", "ieee"):
        raise CertificateError(
            f"torch.backends.mkldnn.conv.fp32_precision={setting!r}: convolutions are not computed in float32; set it to 'ieee'"
        )
