"""The convolutional Lipschitz-bounded equilibrium network (Revay, Wang & Manchester 2020)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Unpack

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.activations import Activation, Bordered
from wellposed.activations import activation as activation_named
from wellposed.constraints.conv_lipschitz_bounded import ConvLipschitzBounded
from wellposed.constraints.conv_lipschitz_condition import proved_conv_lipschitz
from wellposed.errors import CertificateError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.layers.conv_equilibrium import ImageLayer, input_side
from wellposed.layers.options import SolveOptions
from wellposed.layers.prescribed_bound import PrescribedBound, checked_bound, learned_logarithm
from wellposed.maps.checks import computes_as_written
from wellposed.maps.circular import CircularInjection
from wellposed.maps.image import state_image
from wellposed.maps.pooled import PooledLinear
from wellposed.operators import Operator


class ConvLBEN(ImageLayer, PrescribedBound):
    """``z* = σ(W z* + Ψ(Ũ x) + b)``, ``y = W_o P z* + b_o`` on images: γ-Lipschitz from x to y for every weight.

    Ũ is a strided circular convolution, P averages over windows. Without ``gamma`` the layer returns z* and only
    well-posedness is built in.

    Args:
        in_channels: channels of the input.
        channels: channels of the equilibrium.
        image: height and width of the input.
        gamma: the Lipschitz bound; None for none. `set_gamma` changes it.
        out_features: size of y; needed with ``gamma`` and only then.
        learn_gamma: learn the logarithm of γ, from ``gamma`` on.
        pool: rows and columns of the windows of P, with ``gamma`` only.
        metric: what Ψ may depend on: ``"full"``, ``"channels"``, ``"image"`` or ``"identity"``, see `ConvLipschitzBounded`.
        input_in_metric: with ``gamma`` only; False leaves Ψ out of the input map, as published: the same functions where Ψ is
            alike for all pixels, and else a solve that factorises a matrix of the size of the image.
        epsilon: the margin, see `ConvLipschitzBounded`.
        taps: rows and columns of all kernels, odd.
        input_taps: rows and columns of the input convolution, odd; None for ``taps``.
        stride: of the input convolution; the equilibrium has ⌈height/stride⌉ × ⌈width/stride⌉ pixels.
        border: 1 adds a border to the equilibrium that is kept zero, see `Bordered`; with 0 images are cyclic.
        activation: a name or an `Activation` with slopes in [0, 1].
        bias: whether the input convolution has a bias.
        device: where the weights are created.
        dtype: their dtype.
        options: see `SolveOptions`; solver None is Peaceman–Rachford with steps in proportion to Ψ⁻¹.

    Example:
        >>> layer = ConvLBEN(1, 8, (28, 28), gamma=5.0, out_features=10, stride=2, pool=2)
        >>> layer(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    constraint: ConvLipschitzBounded
    constraints = (ConvLipschitzBounded,)
    injection: CircularInjection
    output: PooledLinear | None
    injections = (CircularInjection,)
    outputs = (PooledLinear,)

    @checked_options
    def __init__(
        self,
        in_channels: int,
        channels: int,
        image: tuple[int, int],
        *,
        gamma: float | None = None,
        out_features: int | None = None,
        learn_gamma: bool = False,
        pool: int = 1,
        metric: str = "channels",
        input_in_metric: bool = True,
        epsilon: float = 0.1,
        taps: int = 3,
        input_taps: int | None = None,
        stride: int = 1,
        border: int = 0,
        activation: str | Activation = "relu",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[SolveOptions],
    ) -> None:
        check(in_channels > 0, "in_channels", in_channels, "must be a positive integer")
        check(border in (0, 1), "border", border, "must be 0 or 1")
        checked_bound(gamma, out_features)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        rows, columns = state_image(image, stride)
        state = (channels, rows + 2 * border, columns + 2 * border)
        constraint = ConvLipschitzBounded(channels, state[1:], metric=metric, epsilon=epsilon, taps=taps, **where)
        log_gamma = learned_logarithm(gamma, learn_gamma, device=device, dtype=dtype)
        injection = CircularInjection(
            in_channels, image, state, log_gamma, taps=input_side(taps, input_taps), stride=stride,
            border=border, bias=bias, **where,
        )  # fmt: skip
        sigma = activation_named(activation)
        super().__init__(injection, constraint, activation=Bordered(sigma, (state,)) if border else sigma, **options)
        if gamma is not None and input_in_metric:
            injection.take_metric(constraint)
        if out_features is not None:
            self.output = PooledLinear(state, out_features, pool, log_gamma, **where)

    @override
    def _check_shapes(self) -> None:
        super()._check_shapes()
        injection = self.injection
        self._check_border(injection.border, (injection.state,))
        if injection.owner not in (None, self.constraint):
            raise CertificateError("injection: is scaled by the metric of another constraint than the layer's")
        self.check_bound()

    @override
    def _form(self) -> tuple[Operator, Guarantee | None]:
        if self.output is None:
            return self.constraint.materialise()
        # With Ũ and W_o scaled by √γ the condition for γ is that of the free parameters for 1, whatever γ is.
        injection, output = self.injection, self.output
        return self.constraint.materialise(
            injection.transfer(injection.free), output.spread(output.free), in_metric=injection.scale is not None
        )

    @override
    def _decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]] | None:
        known = super()._decided_by()
        if known is None or self.output is None:
            return known
        injection, output = self.injection, self.output
        if not (computes_as_written(injection, "transfer") and computes_as_written(output, "spread")):
            return None
        sizes = injection.state, injection.stride, output.state, output.windows, output.pool
        return (known[0], sizes, injection.owner is None), (*known[1], injection.free, output.free)

    @override
    @torch.no_grad()
    def lipschitz(self) -> tuple[float, str]:
        """The bound proved for the stored numbers, at most γ up to rounding, and its reason."""
        if self.output is None:
            return super().lipschitz()
        operator, _ = self.materialise()
        injection, output = self.injection, self.output
        seen = output.spread(output.weight.double())
        value = proved_conv_lipschitz(operator, injection.transfer(injection.weight.double()), seen)  # type: ignore[arg-type]
        return value, (
            f"Revay, Wang & Manchester 2020, Condition 2, proved at every frequency (prescribed {self.gamma:.6g})"
        )
