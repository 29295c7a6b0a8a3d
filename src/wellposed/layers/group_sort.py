"""Sorting activations: 1-Lipschitz in every norm, and norm preserving (Anil et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import check, checked_options
from wellposed.layers.inputs import check_tensor
from wellposed.numerics.positional import PositionalFunction


def group_sort(value: Tensor, group: int = 2, dim: int = -1) -> Tensor:
    """Sort within groups of features (group 2: MaxMin): 1-Lipschitz in every norm, and norm preserving.

    Of n features, i, i + n/group, i + 2n/group, … are a group: rows of neighbours are what processors are fast at.

    Args:
        value: any shape, with features along ``dim``, divisible by ``group``.
        group: size of the groups.
        dim: the dimension of the features, negative.
    """
    check(
        value.shape[dim] % group == 0,
        "x",
        tuple(value.shape),
        f"dimension {dim} must be divisible into groups of {group}",
    )
    if group == 2 and not torch.is_grad_enabled():  # inside of solves: twice as fast again
        first, second = value.chunk(2, dim)
        return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim)
    inner = dim - 1  # of the members of a group, once their dimension is split off
    grouped = value.unflatten(dim, (group, -1))
    if group == 2:  # several times as fast as sorting, forwards and backwards
        first, second = grouped.detach().unbind(inner)
        marked = (first > second).unsqueeze(inner)
        if torch.compiler.is_compiling():  # which follows no functions with a forward derivative of their own
            return torch.where(marked, grouped.flip(inner), grouped).flatten(inner, dim)
        return _Swap.apply(grouped, marked, inner).flatten(inner, dim)
    return grouped.sort(dim=inner).values.flatten(inner, dim)


class _Swap(PositionalFunction):
    """Pairs, those marked in reverse: linear, and its own adjoint."""

    @staticmethod
    def forward(pairs: Tensor, marked: Tensor, dim: int) -> Tensor:
        return torch.where(marked, pairs.flip(dim), pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])
        ctx.dim = inputs[2]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        first, second = cotangents[0].unbind(ctx.dim)
        weight = (
            ctx.saved_tensors[0].squeeze(ctx.dim).to(first.dtype)
        )  # of the other one: seven times as fast as a choice
        return torch.stack([torch.lerp(first, second, weight), torch.lerp(second, first, weight)], ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Swap.apply(tangents[0], ctx.saved_tensors[0], ctx.dim)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], pairs: Tensor, marked: Tensor, dim: int) -> Any:
        pairs, marked = (
            part.expand(info.batch_size, *part.shape) if place is None else part.movedim(place, 0)
            for part, place in ((pairs, in_dims[0]), (marked, in_dims[1]))
        )
        return _Swap.apply(pairs, marked, dim), 0


def householder(value: Tensor, angle: Tensor) -> Tensor:
    """Reflect pairs of features into the half-plane ``vᵀz ≥ 0``, v = (sin θ/2, −cos θ/2): 1-Lipschitz and norm preserving.

    At θ = π/2 this is MaxMin, in one of its two orders. The pairs are features i and i + n/2.

    Args:
        value: shape (*, n), n even.
        angle: θ, shape (n/2,).
    """
    check(
        value.shape[-1] == 2 * len(angle),
        "angle",
        tuple(angle.shape),
        f"must have one entry for two of {value.shape[-1]} features",
    )
    first, second = value.chunk(2, -1)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    across = torch.sin(0.5 * angle) * first - torch.cos(0.5 * angle) * second
    # I − 2vvᵀ = [[cos θ, sin θ], [sin θ, −cos θ]]
    mirrored = torch.cat([cosine * first + sine * second, sine * first - cosine * second], -1)
    keep = (across.detach() > 0.0).repeat(*[1] * (value.ndim - 1), 2)
    return torch.where(keep, value, mirrored)


class GroupSort(nn.Module):
    """`group_sort` as a module.

    Args:
        group: size of the groups.
        dim: the dimension of the features, negative: −1, or −3 for the channels of images.
    """

    @checked_options
    def __init__(self, group: int = 2, dim: int = -1) -> None:
        super().__init__()
        check(group >= 1, "group", group, "must be at least 1")
        check(dim < 0, "dim", dim, "must be negative")
        self.group, self.dim = group, dim

    def check_parts(self) -> None:
        """Raise an error if an option was changed to one that has no meaning."""
        check(isinstance(self.group, int) and self.group >= 1, "group", self.group, "must be a positive integer")
        check(isinstance(self.dim, int) and self.dim < 0, "dim", self.dim, "must be negative")

    def forward(self, x: Tensor) -> Tensor:
        """The sorted features, of the shape of x."""
        check_tensor(x)
        return group_sort(x, self.group, self.dim)
