"""The one equilibrium layer of a network, for theorems about a layer by itself."""

from __future__ import annotations

from torch import nn

from wellposed.errors import InputError
from wellposed.layers.equilibrium import Equilibrium
from wellposed.network.materialise import check_model, gated
from wellposed.network.network import Network


def single_layer(name: str, model: nn.Module | Network) -> Equilibrium:
    """The layer that a network consists of, with the numbers that run.

    Args:
        name: of the argument, for the error.
        model: an affine equilibrium layer, or a network or module that is one behind reshaping.

    Raises:
        CertificateError: the module cannot be materialised.
        InputError: the network is something else.
    """
    check_model(name, model)
    network = model if isinstance(model, Network) else gated(model)
    blocks = [block.module for block in network.blocks if not block.moves]
    if len(blocks) != 1 or not isinstance(blocks[0], Equilibrium):
        raise InputError(
            f"{name}: must be one layer z = σ(Wz + Ux + b), not {' → '.join(type(b).__name__ for b in blocks)}"
        )
    return blocks[0]
