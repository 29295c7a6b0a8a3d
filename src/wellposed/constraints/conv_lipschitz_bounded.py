"""Convolutional state maps that are monotone in a learned metric, with or without a Lipschitz bound (Revay et al. 2020).

``W = I − Ψ(VᵀV + εI + Sᵀ − S + H)`` with circular convolutions V and S: the paper's Condition 1 for H = 0, and its Condition 2
for ``H = (GᵀG + ΛUUᵀΛ)/(2γ)``, where G maps the state to the output and U the input to the state. With the metric in front of a
strided circular convolution, U = ΨŨ, ΛUUᵀΛ = ŨŨᵀ is a circular convolution in every metric, and all of W but Ψ and the few rows
of G is one. The published networks have U = Ũ: then a metric that differs from pixel to pixel stands around ŨŨᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch
from torch import Tensor, nn
from typing_extensions import override

from wellposed.constraints.base import ImageConstraint, SavedNumber
from wellposed.constraints.circular_monotone import circular_kernel
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.errors import check, choices
from wellposed.guarantee.frequencywise import ScaledStronglyMonotone
from wellposed.names import IMAGE_METRICS
from wellposed.numerics.linear_algebra import full_precision
from wellposed.operators.driven_circular import DrivenCircular
from wellposed.operators.fourier import transfer_function
from wellposed.operators.scaled_circular import ScaledCircular


class ConvLipschitzBounded(SavedNumber, ImageConstraint):
    """Free kernels V and S of shape (channels, channels, taps, taps) and ψ, the logarithm of Ψ.

    Args:
        channels: of the state.
        image: height and width of the state.
        metric: what Ψ may depend on: ``"full"`` (channel and pixel), ``"channels"``, ``"image"`` (the pixel), or nothing for
            ``"identity"``.
        epsilon: the margin, as a fraction of the mean eigenvalue of VᵀV plus one.
        taps: rows and columns of the kernels, odd; less where the image is smaller.
    """

    saved = "epsilon"

    def __init__(
        self,
        channels: int,
        image: tuple[int, int],
        *,
        metric: str = "channels",
        epsilon: float = 0.1,
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.set_image(channels, image, taps)
        choices("metric", metric, IMAGE_METRICS)
        check(0.0 < epsilon < math.inf, "epsilon", epsilon, "the margin must be positive and finite")
        self.epsilon = float(epsilon)
        self.V = circular_kernel(channels, channels, self.image, taps, device=device, dtype=dtype)
        self.S = circular_kernel(channels, channels, self.image, taps, device=device, dtype=dtype)
        pixels = self.image if metric in ("full", "image") else (1, 1)
        size = (channels if metric in ("full", "channels") else 1, *pixels)
        self.psi = nn.Parameter(torch.zeros(size, device=device, dtype=dtype), requires_grad=metric != "identity")

    def _is_usable(self, value: float) -> bool:
        return 0.0 < value < math.inf

    def materialise(
        self, driven: Tensor | None = None, seen: Tensor | None = None, *, in_metric: bool = True
    ) -> tuple[ScaledCircular, ScaledStronglyMonotone]:
        """W and its guarantee.

        Args:
            driven: transfer function of Ũ for the bound γ = 1, (height, width//2 + 1, channels, inputs).
            seen: G for the bound γ = 1, shape (outputs, channels, height, width).
            in_metric: whether U = ΨŨ, else Ũ.
        """
        with full_precision(self.V.device):
            v, s = (transfer_function(kernel, *self.image) for kernel in (self.V, self.S))
            margin = self.epsilon * (1.0 + self.V.square().sum() / self.channels)
            core = v.mH @ v + s.mH - s + margin * torch.eye(self.channels, dtype=v.dtype, device=v.device)
            factor = None if seen is None else seen * 0.5**0.5
            scale, cache = torch.exp(self.psi), factorisation_cache(self)
            if driven is not None and in_metric:
                core = core + 0.5 * (driven @ driven.mH)
            operator = ScaledCircular(core, scale, self.image[1], factor, cache)
            if driven is not None and factor is not None and not in_metric:
                operator = DrivenCircular(core, scale, self.image[1], factor, driven * 0.5**0.5, cache)
        constant = margin.detach()
        nominal = None if torch._C._functorch.is_functorch_wrapped_tensor(constant) else float(constant)
        return operator, ScaledStronglyMonotone(operator, nominal)

    @override
    def decided_by(self) -> tuple[Hashable, tuple[Tensor, ...]]:
        """What W is formed of where there is no H; layers with one know what that is formed of."""
        return (float(self.epsilon), self.channels, self.image), (self.V, self.S, self.psi)

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.channels}, image={self.image}, epsilon={self.epsilon}"
