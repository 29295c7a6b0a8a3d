"""Dataclasses that hold tensors, shown by the shapes of these."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor


class Brief:
    """What a dataclass with ``repr=False`` inherits for a ``repr`` of one line: tensors by their shape and dtype."""

    def __repr__(self) -> str:
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]  # a dataclass
        return f"{type(self).__name__}({', '.join(f'{field.name}={shown(getattr(self, field.name))}' for field in fields)})"


def shown(value: Any) -> str:
    """A tensor's shape and dtype, a number with six digits, the ``repr`` of anything else."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(shown, value))})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
