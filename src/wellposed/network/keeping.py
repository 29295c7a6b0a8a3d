"""A model that is run to be looked at stays what it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wellposed.errors import CertificateError


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back what running a model changes in its modules, and refuse a model that changes its own tensors.

    Args:
        model: the live module.

    Raises:
        CertificateError: a parameter or buffer is another one than before, or has other numbers.
    """
    attributes = [
        (module, dict(vars(module)), dict(module._buffers), dict(module._parameters)) for module in model.modules()
    ]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        changed = False
        for module, own, buffers, parameters in attributes:
            groups: list[tuple[dict[str, Any], dict[str, Any]]] = [
                (module._buffers, buffers),
                (module._parameters, parameters),
            ]
            for group, before in groups:
                changed |= any(group.get(name) is not tensor for name, tensor in before.items()) or len(group) != len(
                    before
                )
                group.clear()
                group.update(before)
            vars(module).clear()
            vars(module).update(own)
        with torch.no_grad():
            for tensor, numbers in tensors:
                if not torch.equal(tensor, numbers) and not bool(torch.isnan(numbers).any()):
                    changed = True
                    tensor.copy_(numbers)
    if changed:
        raise CertificateError(
            "model: its forward changes the model's own parameters or buffers; certified are fixed maps"
        )
