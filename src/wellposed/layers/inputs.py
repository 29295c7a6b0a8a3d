"""What layers refuse to be given: other shapes, dtypes and devices, NaN and infinity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import InputError, check
from wellposed.numerics.linear_algebra import autocast_to, autocasts, check_precision


def check_samples(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse inputs whose last dimensions are not the shape of one input.

    Raises:
        InputError: with both shapes.
    """
    count = len(shape)
    if x.ndim < count or tuple(x.shape[x.ndim - count :]) != shape:
        taken = (
            f"{shape[0]} features in the last dimension; flatten or reshape the input"
            if count == 1
            else f"images of shape {shape}"
        )
        raise InputError(f"x: has shape {tuple(x.shape)}, but the layer takes {taken}")


def check_numbers(x: Tensor, stored: Tensor) -> None:
    """Refuse inputs of another dtype or on another device than a layer's weights.

    Args:
        x: the inputs.
        stored: one of the weights.

    Raises:
        InputError: they differ, or the weights are not of float32 or float64.
    """
    check_precision(stored.dtype)
    if x.dtype != stored.dtype:
        raise InputError(f"x: has dtype {x.dtype}, the weights have {stored.dtype}; convert one of them")
    if x.layout != torch.strided:
        raise InputError(f"x: has layout {x.layout}; give x.to_dense()")
    if x.device != stored.device:
        raise InputError(f"x: is on {x.device}, the weights are on {stored.device}; move one of them")


def check_tensor(x: Any) -> None:
    """Refuse inputs that are no tensors.

    Raises:
        InputError: with their type.
    """
    if not isinstance(x, Tensor):  # naming the type takes longer than telling it
        raise InputError(f"x={type(x).__name__!r}: must be a torch.Tensor")


def in_precision_of(layer: nn.Module, x: Tensor) -> Tensor:
    """The input as a layer takes it: under autocast, what other layers give in less precision is cast to the weights' dtype.

    Raises:
        InputError: it is no tensor.
    """
    check_tensor(x)
    if not autocasts(x.device):
        return x
    return autocast_to(next((tensor.dtype for tensor in floating_tensors(layer)), x.dtype), x)


def floating_tensors(module: nn.Module) -> Iterator[Tensor]:
    """A module's parameters and buffers that are numbers of floating point, parameters first."""
    return (tensor for tensor in itertools.chain(module.parameters(), module.buffers()) if tensor.is_floating_point())


def check_shape(argument: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raise an `InputError` unless a tensor has a shape."""
    check(tuple(value.shape) == shape, argument, value, f"must have shape {shape}")


def check_start(z0: Tensor, expected: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a first iterate of another shape or dtype, or with NaN or infinity.

    Raises:
        InputError: says which.
    """
    if tuple(z0.shape) != expected or z0.dtype != dtype:
        raise InputError(
            f"z0: has shape {tuple(z0.shape)} and dtype {z0.dtype}; needs shape {expected} and dtype {dtype}"
        )
    if _has_other_than_numbers(z0):
        raise InputError("z0: has NaN or infinite entries; give a finite first iterate, or none")


def check_finite(layer: nn.Module, x: Tensor, offset: Tensor) -> None:
    """Refuse NaN and infinity in the injected input; its sum, one number, shows whether to look closer.

    Raises:
        InputError: names where they come from.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(offset):
        return
    if not math.isfinite(float(offset.detach().sum())):
        diagnose(layer, x, offset)


def diagnose(layer: nn.Module, x: Tensor, offset: Tensor) -> None:
    """Raise the error that names the source of NaN or infinity, if there is one.

    Tensors whose numbers ``torch.func`` transforms hide are passed over.
    """
    if _has_other_than_numbers(x):
        raise InputError("x: has NaN or infinite entries; an equilibrium for them means nothing")
    for name, parameter in layer.named_parameters():
        if _has_other_than_numbers(parameter):
            raise InputError(f"{name}: the weights have NaN or infinite entries; was the learning rate too high?")
    if _has_other_than_numbers(offset):
        raise InputError("x: input and weights are finite but U x + b overflows their dtype; rescale the input")


def _has_other_than_numbers(values: Tensor) -> bool:
    return not torch._C._functorch.is_functorch_wrapped_tensor(values) and not bool(torch.isfinite(values).all())
