"""The last line of defence: a network and the model that it was made from are compared where that is possible."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError
from wellposed.network.network import Network

_BATCHES = (1, 3)


@torch.no_grad()
def compare(model: nn.Module, shape: tuple[int, ...], network: Network) -> None:
    """Refuse a network that does not compute what its model computes, on probe inputs in batches of one and three.

    Args:
        model: the live module.
        shape: of one input.
        network: what was made of it.

    Raises:
        CertificateError: they differ by more than rounding and ten times the tolerances of the solves, carried to the output, can
            explain; or in shape or precision; or the model fails.
    """
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for count in _BATCHES:
        x = torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(device, network.dtype)
        expected = network(x)
        try:
            found = model(x.clone())
        except Exception as error:  # what users write can fail in many ways
            raise CertificateError(
                f"model: fails on an input of shape {tuple(x.shape)} that its blocks take ({type(error).__name__}: "
                f"{str(error)[:200]}); give input_shape if it takes another one"
            ) from error
        if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
            given = (
                f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            )
            raise CertificateError(
                f"model: gives {given} where the network of its blocks gives {expected.dtype} of shape {tuple(expected.shape)}"
            )
        if not torch.equal(found, expected):  # as it is nearly always, for the same numbers go through the same code
            _require_near(found, x, network)


def _require_near(found: Tensor, x: Tensor, network: Network) -> None:
    """Refuse outputs that are further from the network's than plain forward passes can be."""
    bounded = network.bounded(x, forward=True)
    away = (found.double() - bounded.logits.double()).flatten(1).norm(dim=1)
    allowed = bounded.error + 10.0 * bounded.elsewhere
    if not bool((away <= allowed).all()):
        raise CertificateError(
            f"model: its output is {float(away.max()):.3g} away from that of the network of its blocks, and rounding and the "
            f"tolerances of its solves explain {float(allowed.max()):.3g} at most; it does something that its blocks do not say"
        )
