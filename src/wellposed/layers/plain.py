"""Whether a module computes what its class says."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn

_Block = TypeVar("_Block", bound=nn.Module)


def is_plain(block: nn.Module, kind: type[_Block]) -> TypeGuard[_Block]:
    """Whether a block is of a class and computes what that class computes; one with another forward or call does not."""
    same = (
        isinstance(block, kind) and type(block).forward is kind.forward and type(block).__call__ is nn.Module.__call__
    )
    return same and "forward" not in vars(block)
