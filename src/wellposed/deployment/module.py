"""A network as a plain torch module with a fixed number of iterations."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from wellposed.deployment.export import deployed, float32_network
from wellposed.errors import CertificateError, check, checked_options
from wellposed.network import Network

_ANY = float(torch.finfo(torch.float32).max)


@checked_options
def deployable(model: nn.Module | Network, steps: int = 50, *, input_shape: tuple[int, ...] | None = None) -> nn.Module:
    """A plain module that computes a network with a fixed number of iterations, and a bound of what they leave.

    The module maps x of shape (batch, *input_shape) to the logits and, for each sample, a bound of their Euclidean distance
    from those of exact arithmetic: iterations that are missing and every rounding counted, as in the files of `wellposed.export`.
    It consists of torch's own functions and has no control flow, so that ``torch.export``, ``torch.compile(fullgraph=True)``
    and ``torch.jit.trace`` take it as it is.

    Args:
        model: a module or a network. One in float64 becomes its float32 network first.
        steps: rounds of every equilibrium's iteration, in dense layers of three steps each. More leave less; the bound says how
            much.
        input_shape: of one input, where the network does not tell it.

    Raises:
        CertificateError: the network cannot be materialised, or a block has no form in deployed files; it is named.

    Example:
        >>> module = deployable(nn.Sequential(wp.MonDEQ(4, 8), nn.Linear(8, 2)).eval(), steps=60)
        >>> logits, error = module(torch.zeros(3, 4))
        >>> bool((error < 1e-3).all())
        True
    """
    check(type(steps) is int and steps >= 1, "steps", steps, "must be a positive integer")
    network = float32_network(model, input_shape)
    if network.takes_graphs:
        raise CertificateError("network: takes graphs, which plain modules do not; export it as a file")
    found = fx.symbolic_trace(_Interpreted(network, steps))
    found.graph.eliminate_dead_code()
    for node in found.graph.nodes:
        node.type = None  # TorchScript knows no annotations by these names
    found.recompile()
    return found


class _Interpreted(nn.Module):
    """A deployed network while it is followed."""

    def __init__(self, network: Network, steps: int) -> None:
        super().__init__()
        self._model, self._steps = deployed(network, tolerance=_ANY), steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the bounds of their errors."""
        from wellposed.deployment.interpreter import run

        return run(self._model, x, self._steps)
