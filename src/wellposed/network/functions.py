"""What functions, methods and operators that a module's ``forward`` calls mean as blocks of a network."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wellposed.activations import TorchForm, torch_forms
from wellposed.errors import CertificateError
from wellposed.network.pointwise import Rescale, Reshape, Shift, block_of_activation, constant_like

F: Any = functional  # its functions have many signatures


class Batch:
    """The number of samples, or all sizes, of which it is the first: what ``x.size(0)`` and ``x.shape`` are while tracing."""


@dataclass(frozen=True)
class Signal:
    """A tensor that depends on the input.

    Attributes:
        place: of the step that it is the value of; −1 is the input.
    """

    place: int


@dataclass(frozen=True)
class Meaning:
    """What a call does.

    Attributes:
        block: the block that it is; None for a sum, or for nothing at all.
        terms: the signals that it takes.
        signs: of the terms of a sum.
        alias: whether its value may share memory with its input.
        in_place: whether it writes into its first input.
        then: a further block of the value, or None.
    """

    block: nn.Module | None
    terms: tuple[Signal, ...]
    signs: tuple[float, ...] = ()
    alias: bool = False
    in_place: bool = False
    then: nn.Module | None = None


Handler = Callable[..., Meaning]


def _signal(value: Any) -> Signal:
    if not isinstance(value, Signal):
        raise CertificateError(f"takes {value!r:.60} where a tensor that depends on the input is expected")
    return value


def _constant(value: Any, dtype: torch.dtype) -> Tensor:
    """A number or tensor that the input is added to or multiplied by, as torch takes it."""
    if isinstance(value, bool) or not isinstance(value, Tensor | float | int):
        raise CertificateError(f"takes {value!r:.60}, which is neither a number nor a tensor")
    if isinstance(value, Tensor) and value.ndim and value.dtype != dtype:
        raise CertificateError(f"combines {dtype} with a constant of {value.dtype}; convert one of them")
    found = constant_like(value, dtype)
    if not bool(torch.isfinite(found).all()):
        raise CertificateError("takes NaN or infinity as a constant")
    return found


class Calls:
    """Meanings of calls, for inputs of one precision.

    Args:
        dtype: of the input and all signals.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.functions, self.methods = self._own_functions(), self._own_methods()
        for handler, several in self._arithmetic().items():
            for function in several:
                self.functions[function] = handler
                if function.__module__ == "torch":
                    self.methods[function.__name__] = handler
        writers: tuple[tuple[Any, Handler], ...] = (
            (operator.iadd, self._add),
            (operator.isub, self._sub),
            (operator.imul, self._mul),
            (operator.itruediv, self._div),
        )
        for writer, meaning in writers:
            self.functions[writer] = self._written(meaning)
        for name in ("add", "sub", "mul", "div", "neg"):
            self.methods[f"{name}_"] = self._written(self.methods[name])
        for form in torch_forms():
            handler = self._activation(form)
            self.functions |= dict.fromkeys(form.functions, handler)
            self.functions |= dict.fromkeys(form.writers, self._written(handler))
            for name in form.methods:
                self.methods |= {name: handler, f"{name}_": self._written(handler)}

    def _own_functions(self) -> dict[Any, Handler]:
        """Functions that are no methods of the same name."""
        return {
            torch.flatten: self._flatten,
            torch.reshape: self._reshape,
            operator.pos: self._same,
            torch.clone: self._copied,
            F.linear: self._linear,
            F.conv2d: self._conv2d,
            torch.conv2d: self._conv2d,
            F.dropout: self._dropout,
            torch.dropout: self._dropout,
            F.avg_pool2d: self._avg_pool2d,
            F.max_pool2d: self._max_pool2d,
            torch.max_pool2d: self._max_pool2d,
        }

    def _arithmetic(self) -> dict[Handler, tuple[Any, ...]]:
        """Functions that are methods and operators too."""
        return {
            self._neg: (torch.neg, torch.negative, operator.neg),
            self._add: (torch.add, operator.add),
            self._sub: (torch.sub, torch.subtract, operator.sub),
            self._mul: (torch.mul, torch.multiply, operator.mul),
            self._div: (torch.div, torch.divide, torch.true_divide, operator.truediv),
            self._matmul: (torch.matmul, torch.mm, operator.matmul),
        }

    def _own_methods(self) -> dict[str, Handler]:
        """Methods that are no functions of the same name."""
        return {
            "flatten": self._flatten,
            "reshape": self._reshape,
            "view": self._viewed,
            "unflatten": self._unflatten,
            "clone": self._copied,
            "contiguous": self._same,
            "detach": self._same,
            "float": self._cast(torch.float32),
            "double": self._cast(torch.float64),
            "to": self._to,
        }

    @staticmethod
    def _written(handler: Handler) -> Handler:
        """A meaning whose value is written into the first argument."""

        def inside(*args: Any, **options: Any) -> Meaning:
            found = handler(*args, **options)
            if not isinstance(args[0], Signal):
                raise CertificateError("writes into a constant of the module")
            return Meaning(found.block, found.terms, found.signs, alias=True, in_place=True, then=found.then)

        return inside

    @staticmethod
    def _same(value: Any) -> Meaning:
        return Meaning(None, (_signal(value),), alias=True)

    @staticmethod
    def _copied(value: Any, *, memory_format: Any = None) -> Meaning:
        return Meaning(None, (_signal(value),))

    def _cast(self, dtype: torch.dtype) -> Handler:
        """A conversion to a precision, which must be the one that the signal has."""

        def converted(value: Any) -> Meaning:
            if dtype != self.dtype:
                raise CertificateError(f"converts {self.dtype} to {dtype}; a network has one precision")
            return self._same(value)

        return converted

    def _to(self, value: Any, *args: Any, **options: Any) -> Meaning:
        for target in (*args, *options.values()):
            if not isinstance(target, torch.dtype) or target != self.dtype:
                raise CertificateError(
                    f"converts to {target!r}; a network has one precision and runs where its input is"
                )
        return self._same(value)

    @staticmethod
    def _activation(form: TorchForm) -> Handler:
        def meaning(value: Any, *args: Any, inplace: bool = False, **options: Any) -> Meaning:
            if len(args) > len(form.options):  # the last argument of most
                *args, inplace = args  # type: ignore[assignment]
            block = block_of_activation(form.called(*args, **options))
            return Meaning(block, (_signal(value),), alias=inplace, in_place=inplace)

        return meaning

    @staticmethod
    def _dropout(value: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Meaning:
        if training is not False:
            raise CertificateError("dropout is active; pass training=self.training and call model.eval() first")
        return Meaning(None, (_signal(value),), alias=True)

    @staticmethod
    def _flatten(value: Any, start_dim: int = 0, end_dim: int = -1) -> Meaning:
        if start_dim == 0:
            raise CertificateError("flattens the samples of a batch into one; use start_dim=1")
        return Meaning(nn.Flatten(start_dim, end_dim), (_signal(value),), alias=True)

    @staticmethod
    def _unflatten(value: Any, dim: int, sizes: Any) -> Meaning:
        if dim == 0 or not all(isinstance(size, int) for size in sizes):
            raise CertificateError(f"dim={dim!r}, sizes={sizes!r}: takes a batch of samples apart")
        return Meaning(nn.Unflatten(dim, tuple(sizes)), (_signal(value),), alias=True)

    def _viewed(self, value: Any, *shape: Any) -> Meaning:
        if len(shape) == 1 and isinstance(shape[0], torch.dtype):
            raise CertificateError("reads numbers as those of another dtype")
        return self._reshape(value, *shape)

    @staticmethod
    def _reshape(value: Any, *shape: Any) -> Meaning:
        sizes = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else shape
        if len(sizes) > 1 and isinstance(sizes[0], Batch) and all(isinstance(size, int) for size in sizes[1:]):
            rest = tuple(int(size) for size in sizes[1:])
            block = nn.Flatten() if rest == (-1,) else Reshape(rest)
            return Meaning(block, (_signal(value),), alias=True)
        raise CertificateError(f"reshapes to {sizes!r}; the first size must be that of the batch, as x.size(0)")

    @staticmethod
    def _neg(value: Any) -> Meaning:
        return Meaning(None, (_signal(value),), (-1.0,))

    def _add(self, first: Any, second: Any, *, alpha: float = 1) -> Meaning:
        return self._sum(first, second, 1.0, alpha)

    def _sub(self, first: Any, second: Any, *, alpha: float = 1) -> Meaning:
        return self._sum(first, second, -1.0, alpha)

    def _sum(self, first: Any, second: Any, sign: float, alpha: float) -> Meaning:
        if alpha != 1:
            raise CertificateError(f"alpha={alpha!r}: write the factor as a product of its own")
        if isinstance(first, Signal) and isinstance(second, Signal):
            return Meaning(None, (first, second), (1.0, sign))
        if isinstance(first, Signal):
            return Meaning(Shift(sign * _constant(second, self.dtype)), (first,))
        if sign > 0:
            return Meaning(Shift(_constant(first, self.dtype)), (_signal(second),))
        return Meaning(None, (_signal(second),), (-1.0,), then=Shift(_constant(first, self.dtype)))

    def _mul(self, first: Any, second: Any) -> Meaning:
        if isinstance(first, Signal) and isinstance(second, Signal):
            raise CertificateError("multiplies two tensors that depend on the input, which has no Lipschitz constant")
        constant, value = (second, first) if isinstance(first, Signal) else (first, second)
        return Meaning(Rescale(_constant(constant, self.dtype)), (_signal(value),))

    def _div(self, first: Any, second: Any, *, rounding_mode: Any = None) -> Meaning:
        if rounding_mode is not None or isinstance(second, Signal):
            raise CertificateError("divides by a tensor that depends on the input, or rounds")
        constant = _constant(second, self.dtype)
        if bool((constant == 0.0).any()):
            raise CertificateError("divides by zero")
        return Meaning(Rescale(constant, divide=True), (_signal(first),))

    def _matmul(self, first: Any, second: Any) -> Meaning:
        if isinstance(second, Signal) or not isinstance(second, Tensor) or second.ndim != 2:
            raise CertificateError("is known as a product with a constant matrix from the right only")
        return self._linear(first, second.t())

    def _linear(self, value: Any, weight: Any, bias: Any = None) -> Meaning:
        return Meaning(_with_numbers(_linear(weight), weight, bias, self.dtype), (_signal(value),))

    def _conv2d(
        self,
        value: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Meaning:
        if not isinstance(weight, Tensor) or weight.ndim != 4:
            raise CertificateError("convolves with a kernel that is no constant of four dimensions")
        outputs, inputs, *taps = weight.shape
        block = nn.Conv2d(
            inputs * groups, outputs, (taps[0], taps[1]), stride=stride, padding=padding, dilation=dilation, groups=groups,
            bias=bias is not None, device="meta",
        )  # fmt: skip
        return Meaning(_with_numbers(block, weight, bias, self.dtype), (_signal(value),))

    @staticmethod
    def _avg_pool2d(
        value: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *options: Any, **named: Any
    ) -> Meaning:
        return Meaning(nn.AvgPool2d(kernel_size, stride, padding, *options, **named), (_signal(value),))

    @staticmethod
    def _max_pool2d(
        value: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Meaning:
        block = nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices=return_indices, ceil_mode=ceil_mode)
        return Meaning(block, (_signal(value),))


def _linear(weight: Any) -> nn.Linear:
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise CertificateError("multiplies by something that is no constant matrix")
    return nn.Linear(weight.shape[1], weight.shape[0], device="meta")


def _with_numbers(block: nn.Linear | nn.Conv2d, weight: Any, bias: Any, dtype: torch.dtype) -> nn.Module:
    """A linear map with these weights."""
    for name, part in (("weight", weight), ("bias", bias)):
        if part is not None and (not isinstance(part, Tensor) or part.dtype != dtype):
            raise CertificateError(f"has a {name} that is no constant tensor of {dtype}")
    block.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    block.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
    return block


def known_functions() -> str:
    """Functions and methods that have a meaning, for errors."""
    calls = Calls(torch.float32)
    names = {getattr(function, "__name__", str(function)) for function in calls.functions} | set(calls.methods)
    return ", ".join(sorted(names))
