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


def moves_only(block: nn.Module) -> bool:
    """Whether a block only reshapes, and computes what its class says."""
    return is_plain(block, nn.Flatten) or is_plain(block, nn.Identity)


def flattens_images(block: nn.Module) -> bool:
    """Whether a block makes one vector of each image of a batch."""
    return is_plain(block, nn.Flatten) and block.start_dim == 1 and block.end_dim in (-1, 3)
