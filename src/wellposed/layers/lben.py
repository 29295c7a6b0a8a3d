"""The Lipschitz-bounded equilibrium network (Revay, Wang & Manchester 2020)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, Unpack

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation
from wellposed.constraints.lipschitz_bounded import LipschitzBounded
from wellposed.constraints.lipschitz_condition import lipschitz_term, proved_lipschitz, proved_with_feedthrough
from wellposed.errors import GuaranteeError, InputError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.guarantee.monotone import ProvedMonotone
from wellposed.layers.embedded import Embedding, embedding_of
from wellposed.layers.inputs import check_shape
from wellposed.layers.options import SolveOptions
from wellposed.layers.prescribed_bound import PrescribedBound, checked_bound, learned_logarithm
from wellposed.maps.feedthrough import Feedthrough
from wellposed.maps.linear import LinearMap
from wellposed.maps.scaled import ScaledLinear
from wellposed.operators import Operator


class LBEN(PrescribedBound):
    """``z* = σ(W z* + U x + b)``, ``y = W_o z* + b_o``: well posed for every weight, and γ-Lipschitz from x to y.

    Without ``gamma`` the layer returns z* and only well-posedness is built in (Condition 1 of the paper). With it, the
    layer returns y and ‖y(x) − y(x')‖₂ ≤ γ‖x − x'‖₂ holds as well (Condition 2).

    Args:
        in_features: size of the last dimension of the input.
        state_features: size of the equilibrium.
        gamma: the Lipschitz bound; None for none. `set_gamma` changes it, for a schedule.
        out_features: size of y; needed with ``gamma`` and only then.
        learn_gamma: learn the logarithm of γ, from ``gamma`` on.
        feedthrough: add D x to y, with ‖D‖₂ < γ (Revay et al. 2021, recurrent equilibrium networks); starts at zero.
        metric: ``"diagonal"`` learns Λ; ``"identity"`` keeps Λ = I (a monotone layer with a Lipschitz bound).
        epsilon: see `LipschitzBounded`.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the input map has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford, and tolerances are about z*.

    Example:
        >>> layer = LBEN(784, 100, gamma=2.0, out_features=10)
        >>> layer(torch.zeros(5, 784)).shape
        torch.Size([5, 10])
    """

    constraint: LipschitzBounded
    constraints = (LipschitzBounded,)
    injections = (LinearMap, ScaledLinear)
    outputs = (ScaledLinear, Feedthrough)
    # Scaled with the bound where there is one; without it the input map has no free parameters but its weight.
    injection: ScaledLinear
    output: ScaledLinear | None
    direct: Feedthrough | None

    @checked_options
    def __init__(
        self,
        in_features: int,
        state_features: int,
        *,
        gamma: float | None = None,
        out_features: int | None = None,
        learn_gamma: bool = False,
        feedthrough: bool = False,
        metric: str = "diagonal",
        epsilon: float = 0.01,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        checked_bound(gamma, out_features)
        constraint = LipschitzBounded(state_features, metric=metric, epsilon=epsilon, device=device, dtype=dtype)
        log_gamma = learned_logarithm(gamma, learn_gamma, device=device, dtype=dtype)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        injection = (
            LinearMap(in_features, state_features, bias=bias, **where)
            if gamma is None
            else ScaledLinear(in_features, state_features, log_gamma, bias=bias, **where)
        )
        super().__init__(
            injection, constraint,
            activation=activation, **options,
        )  # fmt: skip
        if out_features is not None:
            self.output = ScaledLinear(state_features, out_features, log_gamma, **where)
            if feedthrough:
                self.direct = Feedthrough(in_features, out_features, log_gamma, **where)
        else:
            check(not feedthrough, "feedthrough", feedthrough, "a layer without gamma has no output to add to")

    @override
    def _check_shapes(self) -> None:
        super()._check_shapes()
        self.check_bound()

    @override
    def _form(self) -> tuple[Operator, Guarantee | None]:
        if self.output is None:
            return self.constraint.materialise()
        metric = self.constraint.metric()
        # With U = √γ·U', W_o = √γ·W_o' and D = γN the condition for γ is that of U', W_o', N for 1, whatever γ is.
        contraction = None if self.direct is None else self.direct.contraction
        term = lipschitz_term(self.injection.free, self.output.free, metric, 1.0, contraction)
        return self.constraint.materialise(term)

    @override
    def _decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]] | None:
        known = super()._decided_by()
        if known is None or self.output is None:
            return known
        key, tensors = known
        maps = (self.injection.free, self.output.free)
        if self.direct is None:
            return key, (*tensors, *maps)
        return (key, self.direct.margin), (*tensors, *maps, self.direct.free)

    @override
    def lipschitz(self) -> tuple[float, str]:
        """The bound proved for the stored numbers, at most γ up to rounding, and its reason."""
        if self.output is None:
            return super().lipschitz()
        with torch.no_grad():
            operator, _ = self.materialise()
        assert operator.metric is not None
        weights = operator.dense(), self.injection.weight, self.output.weight, operator.metric
        direct = self.direct
        value = proved_lipschitz(*weights) if direct is None else proved_with_feedthrough(*weights, direct.weight)
        return value, f"Revay, Wang & Manchester 2020, Condition 2, proved by Cholesky (prescribed {self.gamma:.6g})"

    @checked_options
    @torch.no_grad()
    def set_dense(
        self, matrix: Tensor, input_weight: Tensor, metric: Tensor, output_weight: Tensor | None = None
    ) -> None:
        """Give the layer a state map, an input map and, with a bound, an output map from elsewhere.

        Args:
            matrix: W, shape (state_features, state_features).
            input_weight: U, shape (state_features, in_features).
            metric: the diagonal of Λ, positive, in which they satisfy the condition of this layer.
            output_weight: W_o, shape (out_features, state_features).

        Raises:
            GuaranteeError: they do not satisfy it.
        """
        states, features = self.injection.weight.shape
        check_shape("matrix", matrix, (states, states))
        check_shape("input_weight", input_weight, (states, features))
        check_shape("metric", metric, (states,))
        if self.output is None:
            check(output_weight is None, "output_weight", output_weight, "the layer has no output map; leave it out")
            self.constraint.set_dense(matrix, metric)
            self.injection.weight.copy_(input_weight)
            return
        if output_weight is None:
            raise InputError("output_weight=None: a layer with a Lipschitz bound needs its output map")
        check_shape("output_weight", output_weight, (self.output.out_features, states))
        u, o, root = input_weight.double(), output_weight.double(), math.sqrt(self.gamma or 1.0)
        contraction = None if self.direct is None else self.direct.contraction.double()
        term = lipschitz_term(u / root, o / root, metric.double(), 1.0, contraction)
        self.constraint.set_dense(matrix, metric, term)
        self.injection.free.copy_(u / root)
        self.output.free.copy_(o / root)

    @classmethod
    @checked_options
    def from_network(
        cls, network: Any, *, gamma: float | None = None, epsilon: float = 1e-7, **options: Unpack[SolveOptions]
    ) -> LBEN:
        """A layer that computes what a given network computes, in the network's dtype: a start for training.

        Args:
            network: a module, or its `Network`, see `wellposed.embed`: feed-forward, residual, sandwich, SDP-based and
                monotone networks.
            gamma: see `from_embedding`.
            epsilon: see `from_embedding`.
            options: see `SolveOptions`.

        Raises:
            InputError: the network cannot be embedded.
            GuaranteeError: it does not satisfy the bound ``gamma`` in the embedding's metric, or not in this precision.
        """
        found, like = embedding_of(network)
        layer = cls.from_embedding(found, gamma=gamma, epsilon=epsilon, dtype=like.dtype, **options)
        return layer.to(like.device)

    @classmethod
    @checked_options
    @torch.no_grad()
    def from_embedding(
        cls,
        found: Embedding,
        *,
        gamma: float | None = None,
        epsilon: float = 1e-7,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> LBEN:
        """A layer on the CPU with the numbers of an embedding.

        Args:
            found: the numbers, see `wellposed.embed`.
            gamma: the bound to build in; None for 1.01 times the one that comes with the embedding.
            epsilon: see `LipschitzBounded`; small, as W_o, U and W must satisfy the condition with this margin.
            dtype: of the weights.
            options: see `SolveOptions`.

        Raises:
            GuaranteeError: the numbers do not satisfy the bound ``gamma`` in the embedding's metric, or not in this precision.
        """
        bound = 1.01 * found.gamma if gamma is None else gamma
        layer = cls(
            found.input_weight.shape[1], len(found.matrix), gamma=bound, out_features=len(found.output_weight),
            activation=found.activation, epsilon=epsilon, dtype=dtype, device="cpu", **options,
        )  # fmt: skip
        assert layer.output is not None and layer.output.bias is not None and layer.injection.bias is not None
        layer.set_dense(found.matrix, found.input_weight, found.metric, found.output_weight)
        layer.injection.bias.copy_(found.bias)
        layer.output.bias.copy_(found.output_bias)
        layer._must_have_maps(found)
        return layer

    def _must_have_maps(self, found: Embedding) -> None:
        """Refuse an embedding whose maps its parameters do not give back, as where their scales are too far apart."""
        operator, guarantee = self.materialise()
        assert isinstance(guarantee, ProvedMonotone) and self.output is not None
        _ = guarantee.m  # raises where it is lost to rounding
        driven, read = self.injection.numbers(), self.output.numbers()
        pairs = (
            (operator.dense(), found.matrix), (driven.weight, found.input_weight), (read.weight, found.output_weight),
            (driven.bias, found.bias), (read.bias, found.output_bias),
        )  # fmt: skip
        dtype = self.injection.stored.dtype
        allowed = torch.finfo(dtype).eps ** 0.5
        for own, wanted in pairs:
            away = (own.detach().double().cpu() - wanted).abs()
            if not bool((away <= allowed * (1.0 + wanted.abs().amax())).all()):
                raise GuaranteeError(
                    f"network: its scales are too far apart for an embedding in {dtype} (weights off by "
                    f"{float(away.amax()):.3g}); use float64 or a network of milder scales"
                )
