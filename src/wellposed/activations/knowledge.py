"""What is known of an activation besides its numbers: what of torch it is, and how concave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from wellposed.activations.base import Activation


@dataclass(frozen=True, eq=False)
class TorchForm:
    """What of torch computes an activation, or a family of them.

    Attributes:
        make: the activation for values of the options, in their order; raises an `InputError` for values that are not known.
        options: names of the options, which functions take in this order behind the tensor, and modules have as attributes;
            with torch's defaults.
        modules: classes of modules.
        functions: functions of one tensor.
        methods: names of methods of tensors.
        writers: functions of one tensor that write into it.
    """

    make: Callable[..., Activation]
    options: dict[str, Any] = field(default_factory=dict)
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Any, ...] = ()
    methods: tuple[str, ...] = ()
    writers: tuple[Any, ...] = ()

    def called(self, *args: Any, **options: Any) -> Activation:
        """The activation that a call with these arguments behind the tensor computes.

        Raises:
            TypeError: there are no such arguments.
            InputError: nothing is known for their values.
        """
        names = tuple(self.options)
        given = dict(zip(names, args, strict=False)) | options
        if len(args) > len(names) or len(given) < len(args) + len(options) or not given.keys() <= self.options.keys():
            raise TypeError(f"takes the options {names}")
        return self.make(*(self.options | given).values())

    def of(self, module: nn.Module) -> Activation:
        """The activation that a module of one of the classes computes.

        Raises:
            InputError: nothing is known for the values of its options.
        """
        return self.make(*(getattr(module, name) for name in self.options))


@dataclass(frozen=True)
class Concavity:
    """That an activation is nonnegative and concave on the positive axis.

    Attributes:
        lowest_floor: offsets must lie above it, or at zero, for the Thompson modulus to be below one.
        modulus: the Thompson modulus as a function of the floor, where there is a formula; None where it is searched for.
    """

    lowest_floor: float = 0.0
    modulus: Callable[[float], float] | None = None
