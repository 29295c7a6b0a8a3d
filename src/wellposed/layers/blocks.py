"""Whether a module computes what its class says."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn

_Block = TypeVar("_Block", bound=nn.Module)


def is_plain(block: nn.Module, kind: type[_Block]) -> TypeGuard[_Block]:
    """Whether a block is of a class and computes what that class computes; a subclass with another forward does not."""
    return isinstance(block, kind) and type(block).forward is kind.forward


def moves_only(block: nn.Module) -> bool:
    """Whether a block only reshapes, and computes what its class says."""
    return is_plain(block, nn.Flatten) or is_plain(block, nn.Identity)


def has_hooks(block: nn.Module) -> bool:
    """Whether forward hooks may change what the block computes."""
    return bool(block._forward_hooks or block._forward_pre_hooks)
