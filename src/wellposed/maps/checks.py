"""Whether the affine maps of a layer are of the kinds and shapes that its theorem is about."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as torch_modules

from wellposed.errors import CertificateError

_TRUSTED = ("wellposed", "torch")


def require_kind(name: str, part: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Refuse a part of another class.

    Args:
        name: of the part, for the error.
        part: the module.
        kinds: the classes that it may be of, or inherit from.

    Raises:
        CertificateError: the part is of another class.
    """
    if not isinstance(part, kinds):
        allowed = ", ".join(kind.__name__ for kind in kinds) or "none"
        raise CertificateError(f"{name}: is a {type(part).__name__}; the theorem of this layer is about {allowed}")


def check_map(name: str, part: Any, inputs: int, outputs: int) -> None:
    """Refuse a linear map whose numbers have other shapes than it says.

    Args:
        name: of the part, for the error.
        part: with the attributes ``weight`` and ``bias`` of `torch.nn.Linear`.
        inputs: features that it must take.
        outputs: features that it must give.

    Raises:
        CertificateError: weight or bias have another shape.
    """
    found = tuple(part.weight.shape)
    if found != (outputs, inputs):
        raise CertificateError(f"{name}.weight: has shape {found}; the layer needs {(outputs, inputs)}")
    if part.bias is not None and tuple(part.bias.shape) != (outputs,):
        raise CertificateError(f"{name}.bias: has shape {tuple(part.bias.shape)}; the layer needs {(outputs,)}")


def plain_convolution(convolution: nn.Conv2d) -> bool:
    """Whether a convolution has zero padding, one group and no dilation, and weights of the shapes that it says."""
    weight, bias = convolution.weight, convolution.bias
    shapes = (
        weight.ndim == 4
        and weight.shape[1] == convolution.in_channels
        and (bias is None or bias.shape == weight.shape[:1])
    )
    return shapes and convolution.dilation == (1, 1) and convolution.groups == 1 and convolution.padding_mode == "zeros"


def is_centred(convolution: nn.Conv2d) -> bool:
    """Whether a convolution is plain, with equal strides and half of the taps for padding, as layers on images make theirs."""
    taps = tuple(convolution.weight.shape[2:])
    return (
        plain_convolution(convolution)
        and convolution.stride[0] == convolution.stride[1]
        and convolution.padding == (taps[0] // 2, taps[1] // 2)
    )


def computes_as_written(part: nn.Module, *names: str) -> bool:
    """Whether a module is called as torch calls modules, without hooks, and its methods are this library's or torch's.

    Args:
        part: the module.
        names: of the methods, ``forward`` aside.
    """
    kind, own = type(part), vars(part)
    hooks = part._forward_hooks or part._forward_pre_hooks
    if hooks or torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks:
        return False
    methods = ("forward", "__call__", "_call_impl", *names)
    return not any(name in own or getattr(kind, name).__module__.split(".")[0] not in _TRUSTED for name in methods)
