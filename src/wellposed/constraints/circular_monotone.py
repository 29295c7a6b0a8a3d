"""Strong monotonicity of a circular convolution: ``W = (1 − m)I − A*A + B − B*`` (Winston & Kolter 2020, section 4)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.base import Constraint, check_size
from wellposed.constraints.factorisations import factorisation_cache
from wellposed.convolution_norms import least_eigenvalues
from wellposed.errors import GuaranteeError, check
from wellposed.guarantee import StronglyMonotone
from wellposed.linear_algebra import full_precision
from wellposed.operators.circular import Circular, transfer_function


class CircularMonotone(Constraint):
    """Free kernels A, B of shape (channels, channels, taps, taps); at every frequency I − W ⪰ m·I.

    Args:
        channels: of the state.
        image: height and width of the state.
        m: strong-monotonicity constant, positive. Saved with the weights.
        taps: rows and columns of the kernels, odd and at most the image's.
    """

    def __init__(
        self,
        channels: int,
        image: tuple[int, int],
        m: float = 1.0,
        *,
        taps: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_size(channels)
        check(len(image) == 2 and min(image) >= 1, "image", image, "must be a positive height and width")
        check(isinstance(m, int | float) and 0.0 < m < math.inf, "m", m, "must be positive and finite")
        check(taps % 2 == 1, "taps", taps, "must be odd")
        self.image, self.m = (int(image[0]), int(image[1])), float(m)
        size = [min(taps, extent if extent % 2 else extent - 1) for extent in self.image]
        self.A = nn.Parameter(torch.empty(channels, channels, *size, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.empty_like(self.A))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A and B uniformly within ±1/√(inputs of a tap sum), as `torch.nn.Conv2d` does."""
        bound = (self.A.shape[1] * self.A.shape[2] * self.A.shape[3]) ** -0.5
        nn.init.uniform_(self.A, -bound, bound)
        nn.init.uniform_(self.B, -bound, bound)

    @property
    def channels(self) -> int:
        """Channels of the state."""
        return self.A.shape[0]

    @property
    def state_features(self) -> int:  # noqa: D102
        return self.channels * self.image[0] * self.image[1]

    def materialise(self) -> tuple[Circular, StronglyMonotone]:  # noqa: D102
        with full_precision(self.A.device):
            a, b = (transfer_function(kernel, *self.image) for kernel in (self.A, self.B))
            identity = torch.eye(self.channels, dtype=a.dtype, device=a.device)
            transfer = (1.0 - self.m) * identity - a.mH @ a + b - b.mH
        operator = Circular(transfer, self.image[1], factorisation_cache(self))
        return operator, ProvedCircularMonotone(operator)

    def get_extra_state(self) -> Tensor:
        """``m``, which decides what the weights mean and so must travel with them."""
        return torch.tensor(self.m, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Restore ``m`` from a state dict."""
        m = float(state)
        check(math.isfinite(m) and m > 0.0, "m", m, "the checkpoint's strong-monotonicity constant is unusable")
        self.m = m

    def extra_repr(self) -> str:
        """Shown inside ``repr``."""
        return f"channels={self.channels}, image={self.image}, m={self.m}"


class ProvedCircularMonotone(StronglyMonotone):
    """Strong monotonicity of a circular convolution, proved at every stored frequency."""

    theorem = "Winston & Kolter 2020, Theorem 1, for a circular convolution"

    def __init__(self, operator: Circular) -> None:
        self.operator = operator

    @cached_property
    def m(self) -> float:  # type: ignore[override]  # on demand: it needs numbers, not graph tensors
        """The least eigenvalue of the symmetric part of I − W, from below.

        Frequencies that are their own mirror images count with the mean of what is stored for both, which is no smaller.
        """
        operator = self.operator
        assert isinstance(operator, Circular)

        def compute() -> float:
            transfer = operator.tensors[0].detach().to("cpu", torch.complex128).flatten(0, 1)
            identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype)
            displacement = identity - transfer
            # Subtracting from the identity rounds once.
            rounding = 2.0**-52 * (1.0 + float(transfer.abs().sum(2).amax()))
            return float(least_eigenvalues(0.5 * (displacement + displacement.mH)).amin()) - rounding

        proved = operator.remembered("monotonicity", compute)
        if proved <= 0.0:
            raise GuaranteeError(
                f"W: I − W is not monotone in these numbers (proved only {proved:.3g}): lost to rounding at these weights; "
                "use float64, a larger m, or smaller weights"
            )
        return proved

    @property
    def smoothness(self) -> float:  # cheaper for a convolution
        """Upper bound of ‖I − W‖₂."""
        return 1.0 + self.operator.norm_upper_bound()

    def offset_lipschitz(self) -> float:
        """1/m."""
        return 1.0 / self.m * (1.0 + 1e-15)

    def on(self, operator: Any) -> StronglyMonotone:
        """The transpose, and float64 copies, have the same constant."""
        found = ProvedCircularMonotone(operator)
        if "m" in self.__dict__:
            found.__dict__["m"] = self.m
        return found
