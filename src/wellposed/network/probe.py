"""The last line of defence: a network and the model that it was made from are compared where that is possible."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError

_BATCHES = (1, 3)
Bound = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def compare(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, bounded: Bound) -> None:
    """Refuse a network that does not compute what its model computes, on probe inputs in batches of one and three.

    Args:
        model: the live module.
        shape: of one input.
        dtype: of inputs.
        bounded: the network's outputs for inputs, with a bound on how far plain forward passes may be from them.

    Raises:
        CertificateError: they differ by more than the bound, in shape or precision, or the model fails or changes its output
            from one call to the next.
    """
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for count in _BATCHES:
        x = torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
        expected, allowed = bounded(x)
        for _ in range(2):
            try:
                found = model(x.to(device, copy=True))
            except Exception as error:  # what users write can fail in many ways
                raise CertificateError(
                    f"model: fails on an input of shape {tuple(x.shape)} that its blocks take ({type(error).__name__}: "
                    f"{str(error)[:200]}); give input_shape if it takes another one"
                ) from error
            if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != dtype:
                given = (
                    f"{found.dtype} of shape {tuple(found.shape)}"
                    if isinstance(found, Tensor)
                    else type(found).__name__
                )
                raise CertificateError(
                    f"model: gives {given} where the network of its blocks gives {dtype} of shape {tuple(expected.shape)}"
                )
            away = (found.detach().cpu().double() - expected.double()).flatten(1).norm(dim=1)
            if bool((away > allowed).any()):
                raise CertificateError(
                    f"model: its output is {float(away.max()):.3g} away from that of the network of its blocks, and "
                    f"rounding and the tolerances of its solves explain {float(allowed.max()):.3g} at most; it does something "
                    "that its blocks do not say"
                )
