"""Which precisions certificates hold for: float32 and float64, computed as such."""

from __future__ import annotations

import torch
from torch import nn

from wellposed.errors import CertificateError


def check_precision(model: nn.Module) -> str:
    """Refuse a model that does not run in float32 or float64 arithmetic.

    The error bounds behind a certificate are about the rounding of float32 and float64. Half precision, autocast and the reduced
    products of accelerators (TF32, and bfloat16 splits) round a thousand times more, without saying where.

    Returns:
        The precisions of its parameters, by name.

    Raises:
        CertificateError: weights in another precision, or a setting under which float32 products are not float32.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise CertificateError(
                f"{name}: has dtype {parameter.dtype}; certificates hold for float32 and float64 only"
            )
    kind = next((parameter.device.type for parameter in model.parameters()), "cpu")
    if torch.is_autocast_enabled(kind):
        raise CertificateError(
            "autocast: is on; certificates hold for float32 and float64 only, leave its context first"
        )
    try:
        found = torch.get_float32_matmul_precision()
    except RuntimeError as error:  # set through newer names
        raise CertificateError(f"fp32_precision: {error}; certificates need 'ieee' everywhere") from error
    if found != "highest":
        raise CertificateError(
            f"float32_matmul_precision={found!r}: products are not computed in float32 (TF32 or bfloat16); call "
            "torch.set_float32_matmul_precision('highest')"
        )
    if not any(parameter.ndim == 4 for parameter in model.parameters()):
        return _precisions(model)
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
    return _precisions(model)


def _precisions(model: nn.Module) -> str:
    """Names of the dtypes of its parameters."""
    return (
        ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}))
        or "float32"
    )
