"""The convolutional Lipschitz-bounded equilibrium network (Revay, Wang & Manchester 2020)."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from wellposed.activations import Activation, Bordered
from wellposed.activations import activation as activation_named
from wellposed.constraints.circular_monotone import circular_kernel
from wellposed.constraints.conv_lipschitz_bounded import ConvLipschitzBounded, proved_conv_lipschitz
from wellposed.constraints.holding import Holding
from wellposed.errors import CertificateError, check, checked_options
from wellposed.guarantee import Guarantee
from wellposed.layers.conv_equilibrium import ImageLayer, input_side, state_image
from wellposed.layers.options import SolveOptions
from wellposed.layers.prescribed_bound import PrescribedBound, checked_bound, learned_logarithm
from wellposed.numerics.convolution_norms import largest_singular_value
from wellposed.numerics.euclidean import euclidean, product_underflow
from wellposed.numerics.outward import rounding_constant
from wellposed.operators import Operator
from wellposed.operators.fourier import transfer_function
from wellposed.solvers.a_posteriori import ExactOffset


class CircularInjection(Holding):
    """``Ψ(Ũ x) + b`` or ``Ũ x + b``: a strided circular convolution of the image, put into a canvas that the stride divides.

    Ψ is not its own: it takes it from the constraint that it was made for, if any, so that the two cannot differ.

    Args:
        in_channels: channels of the input.
        image: height and width of the input.
        state: channels, height and width of the state.
        log_gamma: logarithm of γ, shared: Ũ is √γ times its free parameters.
        taps: rows and columns, odd; less where the canvas is smaller.
        stride: of the convolution.
        border: pixels of the state before the image.
        bias: whether there is a bias.
        where: device and dtype.
    """

    def __init__(
        self,
        in_channels: int,
        image: tuple[int, int],
        state: tuple[int, int, int],
        log_gamma: nn.Parameter,
        *,
        taps: int,
        stride: int,
        border: int,
        bias: bool,
        **where: Any,
    ) -> None:
        super().__init__()
        self.in_channels, self.stride, self.state = in_channels, stride, state
        rows, columns = stride * state[1], stride * state[2]
        start = stride * border
        self._place = (start, columns - image[1] - start, start, rows - image[0] - start)
        self.free = circular_kernel(state[0], in_channels, (rows, columns), taps, **where)
        self.bias = nn.Parameter(torch.zeros(state[0], **where)) if bias else None
        self.log_gamma = log_gamma
        self._owner: tuple[ConvLipschitzBounded, ...] = ()

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Zeros on the left, right, top and bottom of the image in its canvas."""
        return self._place

    @property
    def owner(self) -> ConvLipschitzBounded | None:
        """The constraint whose Ψ scales the map; None where nothing does."""
        return self._owner[0] if self._owner else None

    def take_metric(self, constraint: ConvLipschitzBounded) -> None:
        """Scale by the constraint's Ψ from now on."""
        self._owner = (constraint,)  # in a tuple: it is no part of this module

    @property
    def scale(self) -> Tensor | None:
        """Ψ as it runs, with its graph; None for the identity."""
        return self.formed("scale", lambda: torch.exp(self._owner[0].psi) if self._owner else None)

    forms = ("weight", "scale")

    @property
    def weight(self) -> Tensor:
        """The kernel of Ũ as it runs, shape (channels, in_channels, rows, columns), with its graph."""
        return self.formed("weight", lambda: self.free * torch.exp(0.5 * self.log_gamma))

    def transfer(self, kernel: Tensor) -> Tensor:
        """The transfer function of such a convolution with another kernel, see `transfer_function`."""
        return transfer_function(kernel, *self.state[1:], (self.stride, self.stride))

    def convolved(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Ũ x for a kernel."""
        rows, columns = kernel.shape[2] // 2, kernel.shape[3] // 2
        canvas = nn.functional.pad(x, self._place)
        canvas = nn.functional.pad(canvas, (columns, columns, rows, rows), mode="circular")
        return nn.functional.conv2d(canvas, kernel, stride=self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, in_channels, height, width) to (batch, *state)."""
        value = self.convolved(x, self.weight)
        scale = self.scale
        if scale is not None:
            value = value * scale
        return value if self.bias is None else value + self.bias[:, None, None]


class PooledLinear(Holding):
    """``W_o P z + b_o``: averages over disjoint windows, then a linear map whose weight is √γ times its free parameters.

    Args:
        state: channels, height and width of z.
        out_features: outputs.
        pool: rows and columns of the windows; what is left over at the bottom and the right is not used.
        log_gamma: logarithm of γ, shared.
        where: device and dtype.
    """

    def __init__(
        self, state: tuple[int, int, int], out_features: int, pool: int, log_gamma: nn.Parameter, **where: Any
    ) -> None:
        super().__init__()
        windows = (state[1] // pool, state[2] // pool)
        check(min(windows) >= 1, "pool", pool, f"is larger than the state of {state[1:]} pixels")
        self.state, self.pool, self.windows = state, pool, windows
        self.in_features, self.out_features = state[0] * state[1] * state[2], out_features
        free = nn.Linear(state[0] * windows[0] * windows[1], out_features, **where)
        self.free, self.bias = free.weight, free.bias
        self.log_gamma = log_gamma

    def spread(self, weight: Tensor) -> Tensor:
        """The whole map W_o P for some W_o, shape (out_features, *state)."""
        image = weight.unflatten(1, (self.state[0], *self.windows)) / self.pool**2
        wide = image.repeat_interleave(self.pool, 2).repeat_interleave(self.pool, 3)
        left = [extent - self.pool * count for extent, count in zip(self.state[1:], self.windows, strict=True)]
        return nn.functional.pad(wide, (0, left[1], 0, left[0]))

    @property
    def weight(self) -> Tensor:
        """W_o as it runs, shape (out_features, features of the windows); W_o P is of no larger norm."""
        return self.formed("weight", lambda: self.free * torch.exp(0.5 * self.log_gamma))

    def forward(self, state: Tensor) -> Tensor:
        """Shape (*, channels, height, width) to (*, out_features)."""
        means = nn.functional.avg_pool2d(state.reshape(-1, *self.state), self.pool).flatten(1)
        value = nn.functional.linear(means, self.weight, self.bias)
        return value.reshape(*state.shape[:-3], self.out_features)


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
        self._image, self._state_shape = (int(image[0]), int(image[1])), state
        if gamma is not None and input_in_metric:
            injection.take_metric(constraint)
        if out_features is not None:
            self.output = PooledLinear(state, out_features, pool, log_gamma, **where)

    def _check_shapes(self) -> None:
        super()._check_shapes()
        injection, output, state = self.injection, self.output, self._state_shape
        border = int(isinstance(self.activation, Bordered))
        start = injection.stride * border
        across = [injection.stride * extent - size - start for extent, size in zip(state[1:], self._image, strict=True)]
        placed = injection.place == (start, across[1], start, across[0]) and injection.state == state
        kernel = injection.free.ndim == 4 and injection.free.shape[:2] == (state[0], injection.in_channels)
        odd = all(taps % 2 == 1 for taps in injection.free.shape[2:])
        biased = injection.bias is None or injection.bias.shape == state[:1]
        if not (placed and kernel and odd and biased and injection.owner in (None, self.constraint)):
            raise CertificateError(
                f"injection: does not fit images of {self._image} pixels and states of shape {state}"
            )
        if isinstance(self.activation, Bordered) and self.activation.tiers != (state,):
            raise CertificateError(f"activation={self.activation!r}: has another image than the state, {state}")
        if output is not None:
            windows = (state[1] // output.pool, state[2] // output.pool)
            fits = output.state == state and output.windows == windows and output.in_features == math.prod(state)
            if not fits or output.weight.shape != (output.out_features, state[0] * math.prod(windows)):
                raise CertificateError(f"output: does not fit states of shape {state}")
        self.check_bound()

    @property
    def value_shape(self) -> tuple[int, ...]:  # noqa: D102
        return self.state_shape if self.output is None else (self.output.out_features,)

    def _form(self) -> tuple[Operator, Guarantee | None]:
        if self.output is None:
            return self.constraint.materialise()
        # With Ũ and W_o scaled by √γ the condition for γ is that of the free parameters for 1, whatever γ is.
        injection, output = self.injection, self.output
        return self.constraint.materialise(
            injection.transfer(injection.free), output.spread(output.free), in_metric=injection.scale is not None
        )

    def injection_norm(self) -> float:
        """Of Ũ, for every image in the canvas, times the largest Ψ."""
        injection = self.injection
        scale = injection.scale
        largest = 1.0 if scale is None else float(scale.detach().double().amax())
        return largest * largest_singular_value(injection.transfer(injection.weight.detach().double())) * (1.0 + 1e-12)

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

    def _exact_offset(self, rows: Tensor) -> ExactOffset:
        injection = self.injection
        exact, kernel = rows.detach().double(), injection.weight.detach().double()
        scale = exact.new_ones(1) if injection.scale is None else injection.scale.detach().double()
        value = injection.convolved(exact, kernel) * scale
        size = injection.convolved(exact.abs(), kernel.abs()) * scale
        if injection.bias is not None:
            shift = injection.bias.detach().double()[:, None, None]
            value, size = value + shift, size + shift.abs()
        lost = product_underflow(
            rows.dtype,
            value[0].numel(),
            kernel[0].numel(),
            exact[0].numel(),
            float(kernel.abs().sum()),
            euclidean(exact),
        )
        lost = lost * (1.0 + scale.amax())
        return ExactOffset(value, 2.0 * rounding_constant(kernel[0].numel() + 8) * euclidean(size) + lost)
