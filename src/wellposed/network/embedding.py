"""Explicit and monotone networks as equilibrium networks, exactly: ``z = σ(Wz + Ux + b)``, ``y = W_o z + b_o``.

Each part k of a chain, from u to y, comes with a multiplier Λ_k and a bound γ_k for which

    ``2Δzᵀ Λ_k (Δv − Δz) ≤ γ_k‖Δu‖² − ‖Δy‖²/γ_k``    for v = the pre-activation of z, whatever z is

(Revay, Wang & Manchester 2020, Condition 2, part by part). Weighted by w_1 = γ/γ_1 and w_k = w_(k−1)/(γ_(k−1)γ_k) these add
up to the same statement for the whole chain with γ = Π γ_k, so that the embedding inherits the bound of the chain:

- ``σ(Mu + b)``: γ_k = ‖M‖₂, Λ_k = I/‖M‖₂;  ``Mu``: γ_k = ‖M‖₂, no state;  ``u`` itself as linear coordinates: γ_k = 1, Λ_k = I;
- sandwich layer: γ_k = 1, Λ_k = Ψ²;  SDP-based residual layer: γ_k = 1, Λ_k = T (Havens et al. 2023);
- residual layer u + Gσ(Hu + b): γ_k = 1 + ‖G‖₂‖H‖₂, Λ_k = (‖G‖₂/‖H‖₂)·I;
- monotone layer with I − W ⪰ mI: γ_k = ‖U‖₂/m, Λ_k = I/‖U‖₂, which is the product bound of Pabbaraju et al. 2021.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.activations import ReLU
from wellposed.errors import CertificateError, InputError, checked_options
from wellposed.guarantee import proved_monotonicity
from wellposed.layers.embedded import Embedding as Embedding
from wellposed.layers.embedded import embedder
from wellposed.layers.explicit import ExplicitBlock
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.orthogonal_linear import OrthogonalLinear
from wellposed.layers.plain import is_plain
from wellposed.network.materialise import check_model, materialise
from wellposed.network.network import Network
from wellposed.numerics.verified import spectral_norm_upper_bound

_LEAST_NORM = 1e-6  # a bound of a norm may be larger than it, and must not be zero


class _Chain:
    """The network built so far; its current signal is ``h = read·z + direct·x + constant``."""

    def __init__(self, inputs: int) -> None:
        self.W, self.U, self.b = _empty(0, 0), _empty(0, inputs), _empty(0)
        self.read, self.direct = _empty(inputs, 0), torch.eye(inputs, dtype=torch.float64, device="cpu")
        self.constant = _empty(inputs)
        self.metric, self.linear = _empty(0), 0
        self.gamma = 1.0

    def transform(self, matrix: Tensor, shift: Tensor | None, norm: float) -> None:
        """H ← matrix·h + shift, with its norm counted."""
        self.read, self.direct, self.constant = matrix @ self.read, matrix @ self.direct, matrix @ self.constant
        if shift is not None:
            self.constant = self.constant + shift
        self.gamma *= norm

    def states(
        self, inner: Tensor, shift: Tensor, multiplier: Tensor, factor: float = 1.0, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Append z_k = σ(own·z_k + inner·h + shift), with its Λ_k and γ_k.

        Units that nothing drives are constants, for which no multiplier is needed: they become no states.

        Returns:
            The matrix and the constant that read z_k, of shapes (hidden, n) and (hidden,).
        """
        alive = torch.ones(len(inner), dtype=torch.bool, device="cpu") if own is not None else (inner != 0.0).any(1)
        constant = torch.where(alive, 0.0, shift.clamp_min(0.0))
        inner, shift, multiplier = inner[alive], shift[alive], multiplier[alive]
        old, new = len(self.W), len(inner)
        own = torch.zeros(new, new, dtype=torch.float64, device="cpu") if own is None else own
        self.W = torch.cat([torch.cat([self.W, _empty(old, new)], 1), torch.cat([inner @ self.read, own], 1)])
        self.U = torch.cat([self.U, inner @ self.direct])
        self.b = torch.cat([self.b, inner @ self.constant + shift])
        # w_k = γ/(γ_1²…γ_(k−1)²γ_k), where the γ of the whole chain is multiplied in at the end.
        self.metric = torch.cat([self.metric, multiplier.double() / (self.gamma * self.gamma * factor)])
        self.gamma *= factor
        self.read = torch.cat([self.read, _empty(len(self.read), new)], 1)
        units = torch.eye(len(alive), dtype=torch.float64, device="cpu")[:, alive]
        return torch.cat([_empty(len(alive), old), units], 1), constant

    def signal_is(self, read: Tensor, constant: Tensor) -> None:
        """H ← read·z + constant."""
        self.read, self.direct = read, _empty(len(read), self.direct.shape[1])
        self.constant = constant


def _empty(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device="cpu")


@torch.no_grad()
@checked_options
def embed(network: nn.Module | Network) -> Embedding:
    """An equilibrium network with exactly the outputs of a given network, and its metric and Lipschitz bound.

    Args:
        network: a network or module to be materialised, a chain of ``Linear``, ``OrthogonalLinear``, ``ReLU``, `Sandwich`,
            `SLL`, `Residual`, `MonDEQ` (with ReLU) and ``Flatten`` blocks on inputs of shape (batch, inputs), with at least one
            state among them.

    Raises:
        InputError: another kind of block, or no state at all.
    """
    check_model("network", network)
    try:
        found = materialise(network)
    except CertificateError as error:
        raise InputError(f"network: {error}") from error
    blocks = [block.module for block in found.blocks if not (block.moves or block.is_identity)]
    sizes: list[Any] = [block.in_features for block in blocks if hasattr(block, "in_features")]
    if not sizes:
        raise InputError(f"network: has no block with in_features: {[type(block).__name__ for block in blocks]}")
    chain = _Chain(int(sizes[0]))
    place = 0
    while place < len(blocks):
        block = blocks[place]
        place += 1
        if is_plain(block, nn.Linear) or is_plain(block, OrthogonalLinear):
            activated = place < len(blocks) and is_plain(blocks[place], nn.ReLU)
            place += int(activated)
            _linear(chain, block, activated)
        elif is_plain(block, nn.ReLU):
            _signal_as_states(chain)
        elif isinstance(block, ExplicitBlock):
            _explicit(chain, block)
        elif is_plain(block, MonDEQ) and block.activation == ReLU():
            _monotone(chain, block)
        else:
            raise InputError(f"network: cannot embed a {type(block).__name__}; see the list of blocks in `embed`")
    if not len(chain.W):
        raise InputError("network: has no state, it is a linear map; nothing to embed")
    if bool((chain.direct != 0).any()):
        raise InputError("network: its output depends on the input directly; no block with states comes last enough")
    return Embedding(
        matrix=chain.W, input_weight=chain.U, bias=chain.b, output_weight=chain.read, output_bias=chain.constant,
        metric=chain.metric * chain.gamma, gamma=chain.gamma, linear=chain.linear,
    )  # fmt: skip


def _linear(chain: _Chain, block: Any, activated: bool) -> None:
    """A linear map, with the ReLU after it if there is one."""
    weight = block.weight.double().cpu()
    shift = None if block.bias is None else block.bias.double().cpu()
    norm = max(spectral_norm_upper_bound(weight), _LEAST_NORM)
    if not activated:
        chain.transform(weight, shift, norm)
        return
    shift = _empty(len(weight)) if shift is None else shift
    chain.signal_is(*chain.states(weight, shift, torch.ones(len(weight), device="cpu").double() / norm, norm))


def _signal_as_states(chain: _Chain) -> None:
    """The signal itself through ReLU: units that read it."""
    size = len(chain.read)
    chain.signal_is(
        *chain.states(torch.eye(size, dtype=torch.float64, device="cpu"), _empty(size), torch.ones(size, device="cpu"))
    )


def _explicit(chain: _Chain, block: ExplicitBlock) -> None:
    inner, outer, multiplier = (part.double().cpu() for part in block.maps())
    if block.residual and bool((chain.direct != 0).any()):
        size = len(chain.read)  # the signal itself as linear coordinates: a feedthrough would be singular
        _signal_as_states(chain)
        chain.linear = size
    read, constant = chain.read, chain.constant
    states, constants = chain.states(inner, block.bias.double().cpu(), multiplier, block.nominal())
    # What is read of units that nothing drives may be as large as their multipliers, if it is not zero times that.
    chain.signal_is(outer @ states, (outer * (constants != 0.0)) @ constants)
    if block.residual:
        chain.read = chain.read + torch.cat([read, _empty(len(read), states.shape[1] - read.shape[1])], 1)
        chain.constant = chain.constant + constant


def _monotone(chain: _Chain, block: MonDEQ) -> None:
    own = block.operator().dense().double().cpu()
    driven = block.injection.numbers().cpu()
    norm = max(driven.norm_bound(), _LEAST_NORM)
    factor = norm / proved_monotonicity(own)
    chain.signal_is(
        *chain.states(driven.weight, driven.bias, torch.ones(len(own), device="cpu").double() / norm, factor, own)
    )


@embedder
def _embedded(network: nn.Module | Network) -> tuple[Embedding, Tensor]:
    """The embedding of a network, and one of its parameters."""
    check_model("network", network)
    given = materialise(network)
    return embed(given), next(parameter for block in given.blocks for parameter in block.module.parameters())
