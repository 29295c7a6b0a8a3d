"""A digest of everything that decides what a network computes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.guarantee import Guarantee
from wellposed.implicit import Gradient
from wellposed.network.branches import Branches
from wellposed.network.kinds import Block
from wellposed.operators import Operator
from wellposed.solvers import Solver

# What a module keeps beside its own attributes, and what changes nothing in what it computes.
_LEFT_OUT = frozenset(vars(nn.Module())) | {"on_failure", "compiled_handle"}


def digest_of(blocks: Iterable[Block]) -> str:
    """SHA-256 over kinds, options, order and numbers of the blocks, W of equilibrium layers as it runs included.

    Args:
        blocks: in order; their names are not a part of the digest.
    """
    digest = hashlib.sha256()
    for block in blocks:
        _module(digest, block.module)
    return digest.hexdigest()


def _say(digest: Any, *words: str) -> None:
    for word in words:
        digest.update(word.encode() + b"\0")


def _module(digest: Any, module: nn.Module) -> None:
    _say(digest, "module", type(module).__module__, type(module).__qualname__)
    if isinstance(module, Branches):
        for place in module.places:
            _say(digest, repr((place.sources, place.signs)))
    for name in sorted(vars(module).keys() - _LEFT_OUT):
        if not (isinstance(module, Branches) and name == "places"):
            _say(digest, name)
            _value(digest, vars(module)[name])
    for group in (module._parameters, module._buffers, module._modules):
        for name in sorted(group):
            _say(digest, name)
            _value(digest, group[name])


def _is_own(value: object) -> bool:
    """Whether a class is this library's, whose guarantees have no numbers but those of their operators."""
    return type(value).__module__.partition(".")[0] == "wellposed"


def _value(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        _say(digest, "tensor", str(array.dtype), str(tuple(array.shape)))
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, nn.Module):
        _module(digest, value)
    elif isinstance(value, Operator):
        _say(digest, "operator", type(value).__qualname__)
        _value(digest, list(value.tensors))
    elif isinstance(value, Gradient):
        _say(digest, "gradient")  # decides no value
    elif isinstance(value, dict):
        for name in sorted(value):
            _say(digest, name)
            _value(digest, value[name])
    elif isinstance(value, tuple | list):
        _say(digest, "sequence", str(len(value)))
        for part in value:
            _value(digest, part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _say(digest, "object", type(value).__qualname__)
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            _say(digest, field.name)
            _value(digest, getattr(part, "__qualname__", part) if callable(part) else part)
    elif isinstance(value, Activation | Solver) or (isinstance(value, Guarantee) and not _is_own(value)):
        _say(digest, "object", type(value).__module__, type(value).__qualname__)
        later = {
            name
            for kind in type(value).__mro__
            for name, part in vars(kind).items()
            if isinstance(part, cached_property)
        }
        _value(digest, {name: part for name, part in vars(value).items() if not callable(part) and name not in later})
    elif value is None or isinstance(value, bool | int | float | str | torch.dtype):
        _say(digest, type(value).__name__, float(value).hex() if isinstance(value, float) else repr(value))
    else:
        _say(digest, type(value).__module__, type(value).__qualname__, getattr(value, "__qualname__", ""))
