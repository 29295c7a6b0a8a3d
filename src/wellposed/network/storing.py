"""A module as a block of a network: gated, with the numbers that run and nothing else that could change."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from wellposed.activations import of_module
from wellposed.constraints.holding import Holding
from wellposed.errors import CertificateError, InputError, failing_as_unprovable
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.graph_classifier import GraphClassifier
from wellposed.network.kinds import block_of, kind_for
from wellposed.network.known import is_leaf_class, known_blocks, require_known
from wellposed.network.pointwise import Elementwise

Block = Any


def stored(path: str, module: nn.Module) -> nn.Module:
    """A block with its numbers as they run; W of an equilibrium layer is formed for the last time.

    Args:
        path: of the module in its model, for errors.
        module: a private copy, without parametrisations; it becomes the block, or is replaced by one.

    Raises:
        CertificateError: nothing is known of such a module, a part of it is not what its class says, it acts differently in
            training, or its options are outside of what is known.
    """
    if isinstance(module, GraphClassifier):
        raise CertificateError(f"{path}: a GraphClassifier inside another module; certify it by itself")
    if not is_leaf_class(type(module)):
        raise CertificateError(
            f"{path}: no Lipschitz constant is known for a {type(module).__name__}; known blocks are {known_blocks()}; "
            "wellposed.register adds a class of your own on your word"
        )
    require_known(path, module)
    with failing_as_unprovable(f"{path}: its parts do not fit together"):
        block_of(path, module).require_usable()
        for part in module.modules():
            if isinstance(part, Holding | Equilibrium):
                part.hold()
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return _as_block(path, module)


def without_parametrisations(model: nn.Module) -> None:
    """Replace torch's own parametrisations in a private copy of a model by the weights that they give.

    Raises:
        CertificateError: a parametrisation is not one of torch's, or changes its weight from one use to the next.
    """
    for path, module in list(model.named_modules()):
        if parametrize.is_parametrized(module):
            _resolve(path, module)


def _resolve(path: str, module: Block) -> None:
    """Give one module its class before parametrisation, and the weights that run.

    Torch's own way would change the class that the copy shares with the live module.
    """
    weights = {}
    for name, chain in module.parametrizations.items():
        where = f"{path}.{name}".lstrip(".")
        for part in chain:
            if type(part).__module__ != "torch.nn.utils.parametrizations":
                raise CertificateError(
                    f"{where}: has a parametrisation {type(part).__name__}, which is not one of torch's; remove it with "
                    "torch.nn.utils.parametrize.remove_parametrizations"
                )
        first, second = getattr(module, name), getattr(module, name)
        if not torch.equal(first, second):
            raise CertificateError(f"{where}: its parametrisation changes with every use; call model.eval() first")
        weights[name] = first.detach().clone()
    original = type(module).__bases__[0]
    if type(module).__name__ != f"Parametrized{original.__name__}":
        raise CertificateError(
            f"{path or 'model'}: {type(module).__name__} is not what torch makes of a parametrised module"
        )
    del module._modules["parametrizations"]
    module.__class__ = original
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def _as_block(path: str, module: Block) -> nn.Module:
    """The module itself, or the block that computes the same."""
    if hasattr(module, "inplace"):
        module.inplace = False
    try:
        sigma = None if kind_for(type(module)) is not None else of_module(module)
    except InputError as error:
        raise CertificateError(f"{path}: {error}") from error
    return module if sigma is None else Elementwise(sigma)
