"""The last line of defence: a network and the model that it was made from are compared where that is possible."""

from __future__ import annotations

import itertools
import warnings

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, NotConvergedWarning, failing_as_unprovable
from wellposed.network.network import Network
from wellposed.network.shapes import probe_shapes

_BATCHES = (1, 3)
_MANY = 48  # inputs for a forward that was followed
_GUESSES = 8  # shapes that are tried where the blocks do not tell


def compare_on_probes(model: nn.Module, network: Network, written: bool) -> None:
    """Refuse a network that does not compute what its model computes, on probe inputs in batches of one and three.

    Args:
        model: the live module.
        network: what was made of it.
        written: whether a ``forward`` was followed that is neither torch's nor this library's: then there must be a comparison.

    Raises:
        CertificateError: they differ by more than rounding and ten times the tolerances of the solves, carried to the output, can
            explain; or in shape or precision; or the model fails; or no shape is known that it could be compared on.
    """
    if network.input_shape is not None:
        _compare_silently(model, network.input_shape, network, written)
        return
    for shape in itertools.islice(probe_shapes(network.blocks, model, network.dtype), _GUESSES if written else 1):
        try:
            _compare_silently(model, shape, network, written)
        except _ModelFailed:  # which may well take inputs of another shape
            continue
        return
    if written:
        raise CertificateError(
            "model: its own forward was followed, and there is no input of a likely shape to compare the result on; "
            "give input_shape"
        )


class _ModelFailed(CertificateError):
    """The model fails on a probe."""


def _compare_silently(model: nn.Module, shape: tuple[int, ...], network: Network, written: bool) -> None:
    """Compare on one shape; what a solve has to say of its convergence is said where it matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        _compare(model, shape, network, written)


def _compare(model: nn.Module, shape: tuple[int, ...], network: Network, written: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for count in (*_BATCHES, _MANY) if written else _BATCHES:
        x = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        if count == _MANY:  # of many sizes, as what a forward hides may show at few inputs
            sizes = 10.0 ** torch.linspace(-1.0, 1.5, count, dtype=torch.float64)
            x = torch.randn(count, *shape, generator=generator, dtype=torch.float64) * sizes.reshape(
                -1, *[1] * len(shape)
            )
        x = torch.cat([x[:1], 2.0 - 4.0 * x[1:]]).to(
            device, network.dtype
        )  # of both signs, as far as there are several
        with torch.no_grad(), failing_as_unprovable("model: its blocks do not run together"):
            expected = network(x)
        for gradients in (False, True) if written else (False,):
            try:
                with torch.set_grad_enabled(gradients):
                    found = model(x.clone())
            except Exception as error:  # what users write can fail in many ways
                raise _ModelFailed(
                    f"model: fails on an input of shape {tuple(x.shape)} that its blocks take ({type(error).__name__}: "
                    f"{str(error)[:200]}); give input_shape if it takes another one"
                ) from error
            if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
                given = (
                    f"{found.dtype} of shape {tuple(found.shape)}"
                    if isinstance(found, Tensor)
                    else type(found).__name__
                )
                raise CertificateError(
                    f"model: gives {given} where the network of its blocks gives {expected.dtype} of shape "
                    f"{tuple(expected.shape)}"
                )
            if not torch.equal(
                found, expected
            ):  # as it is nearly always, for the same numbers go through the same code
                _require_near(found, x, network)


@torch.no_grad()
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
