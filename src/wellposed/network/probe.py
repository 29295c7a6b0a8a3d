"""The last line of defence: a network and the model that it was made from are compared where that is possible."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, NotConvergedWarning, failing_as_unprovable
from wellposed.network.keeping import unchanged
from wellposed.network.network import Network
from wellposed.network.shapes import probe_shapes

_BATCHES = (1, 3)
_MANY = (24, 7)  # inputs for a forward that was followed
_GUESSES = 8  # shapes that are tried where the blocks do not tell


def compare_on_probes(model: nn.Module, network: Network, written: bool) -> None:
    """Refuse a network that does not compute what its model computes, on probe inputs in batches of one and three.

    The model is left as it was: what its ``forward`` changes in it is put back.

    Args:
        model: the live module.
        network: what was made of it.
        written: whether a ``forward`` was followed that is neither torch's nor this library's: then there must be a comparison.

    Raises:
        CertificateError: they differ by more than rounding and ten times the tolerances of the solves, carried to the output, can
            explain; or in shape or precision; or the model fails, or changes its own tensors; or no shape is known that it could
            be compared on.
    """
    with unchanged(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)  # it is said where it matters
        if network.takes_graphs:
            _compare(model, network, written, _graph_probes(model, network))
        elif network.input_shape is not None:
            _compare(model, network, written, _probes(model, network, network.input_shape, written))
        else:
            _compare_on_likely(model, network, written)


def _compare_on_likely(model: nn.Module, network: Network, written: bool) -> None:
    """Compare on the first shape of those that inputs are likely to have which the model takes."""
    for shape in itertools.islice(probe_shapes(network.blocks, model, network.dtype), _GUESSES if written else 1):
        try:
            _compare(model, network, written, _probes(model, network, shape, written))
        except _ModelFailed:  # which may well take inputs of another shape
            continue
        return
    if written:
        raise CertificateError(
            "model: its own forward was followed, and there is no input of a likely shape to compare the result on; "
            "give it, as in wellposed.certify(wellposed.materialise(model, input_shape))"
        )


class _ModelFailed(CertificateError):
    """The model fails on a probe."""


def _probes(model: nn.Module, network: Network, shape: tuple[int, ...], written: bool) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for count in (*_BATCHES, *_MANY) if written else _BATCHES:
        x = torch.rand(count, *shape, generator=generator, dtype=torch.float64, device="cpu")
        if count in _MANY:  # of many sizes, as what a forward hides may show at few inputs
            sizes = 10.0 ** torch.linspace(-1.0, 1.5, count, dtype=torch.float64, device="cpu")
            x = torch.randn(count, *shape, generator=generator, dtype=torch.float64, device="cpu") * sizes.reshape(
                -1, *[1] * len(shape)
            )
        yield torch.cat([x[:1], 2.0 - 4.0 * x[1:]]).to(
            device, network.dtype
        )  # of both signs, as far as there are several


class _Paths:
    """Paths of three nodes and more, each a graph, with the attributes of a torch_geometric batch."""

    def __init__(self, count: int, features: int, network: Network, device: torch.device) -> None:
        sizes = torch.arange(3, 3 + count, device="cpu")
        self.batch = torch.arange(count, device="cpu").repeat_interleave(sizes).to(device)
        inner = torch.nonzero(self.batch[1:] == self.batch[:-1])[:, 0]
        self.edge_index = torch.cat([torch.stack([inner, inner + 1]), torch.stack([inner + 1, inner])], 1).to(device)
        self.num_graphs, self.num_nodes = count, int(sizes.sum())
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randn(self.num_nodes, features, generator=generator, dtype=torch.float64, device="cpu")
        self.x = numbers.to(device, network.dtype)


def _graph_probes(model: nn.Module, network: Network) -> Iterator[_Paths]:
    first = network.blocks[0].module
    weight: Any = getattr(first, "injection", first)
    features = getattr(weight, "in_features", 2)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    for count in (1, 2, 3):
        yield _Paths(count, features, network, device)


def _compare(model: nn.Module, network: Network, written: bool, probes: Iterable[Any]) -> None:
    for x in probes:
        count = x.num_graphs if isinstance(x, _Paths) else len(x)
        with torch.no_grad(), failing_as_unprovable("model: its blocks do not run together"):
            expected = network(x)
        if expected.ndim < 2 or len(expected) != count:
            raise CertificateError(
                f"model: gives an output of shape {tuple(expected.shape)} for {count} samples, which it does not keep apart"
            )
        modes = [torch.no_grad, torch.enable_grad, torch.inference_mode] if written else [torch.no_grad]
        for mode in modes[:1] if count in _MANY else modes:
            try:
                with mode():
                    found = model(x.clone() if isinstance(x, Tensor) else x)
            except Exception as error:  # what users write can fail in many ways
                raise _ModelFailed(
                    f"model: fails on {count} samples that its blocks take ({type(error).__name__}: {str(error)[:200]}); "
                    "give input_shape if it takes others"
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
            # As it is nearly always, for the same numbers go through the same code.
            if not torch.equal(found.detach(), expected):
                _require_near(found.detach().clone(), x, network, written)


@torch.no_grad()
def _require_near(found: Tensor, x: Any, network: Network, written: bool) -> None:
    """Refuse outputs that are further from the network's than plain forward passes can be."""
    bounded = network.bounded(x, forward=not network.takes_graphs)
    away = (found.double() - bounded.logits.double()).flatten(1).norm(dim=1)
    allowed = bounded.error + 10.0 * bounded.elsewhere
    unknown = written and bool(torch.isinf(allowed).any())
    if not bool(torch.isfinite(found).all()) and not bool(torch.isfinite(bounded.logits).all()):
        raise CertificateError("model: its values overflow on probe inputs, so that nothing can be said of it")
    if unknown or not bool((away <= allowed).all()):
        raise CertificateError(
            f"model: its output is {float(away.max()):.3g} away from that of the network of its blocks, and rounding and the "
            f"tolerances of its solves explain {float(allowed.max()):.3g} at most; it does something that its blocks do not say"
        )
