"""Linear layers with orthonormal rows or columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.base import Projected
from wellposed.constraints.factorisations import formed_once, proved_once
from wellposed.constraints.holding import Holding
from wellposed.constraints.orthogonal import bjorck_orthogonal, cayley_orthogonal, skew_exponential
from wellposed.errors import check, checked_options, choices
from wellposed.layers.inputs import check_numbers, check_samples, in_precision_of
from wellposed.maps.checks import check_map, require_kind
from wellposed.numerics.linear_algebra import full_precision
from wellposed.numerics.verified import spectral_norm_upper_bound

PARAMETRISATIONS = ("cayley", "exponential", "bjorck")


class OrthogonalLinear(Holding, Projected):
    """``x·Qᵀ + b`` with a (semi-)orthogonal Q of shape (out_features, in_features): 1-Lipschitz, isometric unless Q is wide.

    Args:
        in_features: inputs.
        out_features: outputs.
        parametrisation: ``"cayley"``, ``"exponential"`` (twice to ten times as expensive; its base point follows the
            parameter if `project` is called after every optimiser step, as the training command does) or ``"bjorck"``; see
            `wellposed.constraints.orthogonal`.
        bias: whether there is a bias.
        device: where the parameters are created.
        dtype: their dtype.
    """

    rebase_every = 100  # calls of `project`
    base: Tensor
    calls: Tensor

    @checked_options
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        parametrisation: str = "cayley",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check(in_features > 0, "in_features", in_features, "must be a positive integer")
        check(out_features > 0, "out_features", out_features, "must be a positive integer")
        choices("parametrisation", parametrisation, PARAMETRISATIONS)
        self.in_features, self.out_features, self.parametrisation = in_features, out_features, parametrisation
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        if parametrisation == "exponential":
            size = max(in_features, out_features)
            self.free = nn.Parameter(torch.zeros(size, size, **where))
            self.register_buffer("base", nn.init.orthogonal_(torch.empty(size, size, **where)))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=device))
        else:
            self.free = nn.Parameter(torch.empty(out_features, in_features, **where))
            if parametrisation == "cayley":
                nn.init.normal_(self.free, std=min(in_features, out_features) ** -0.5)
            else:
                nn.init.orthogonal_(self.free)
        self.bias = nn.Parameter(torch.zeros(out_features, **where)) if bias else None

    @property
    def weight(self) -> Tensor:
        """Q, with its graph."""
        return self.formed("weight", self._form)

    def lent_weight(self) -> Tensor:
        """As `weight`, for callers that neither write to it nor hand it on: it may be what is kept for later calls."""
        return self.formed("weight", lambda: self._form(lent=True))

    def _form(self, *, lent: bool = False) -> Tensor:
        with full_precision(self.free.device):
            if self.parametrisation == "cayley":
                return formed_once(self, "cayley", cayley_orthogonal, self.free, lent=lent)
            if self.parametrisation == "bjorck":
                return formed_once(self, "bjorck", bjorck_orthogonal, self.free, lent=lent)
            turned = formed_once(self, "exponential", _turned, self.base, self.free, lent=lent)
            return turned[: self.out_features, : self.in_features]

    @torch.no_grad()
    def norm_excess(self) -> float:
        """By how much the stored map exceeds norm one, proved; at least zero."""
        return max(0.0, proved_once(self, spectral_norm_upper_bound, self.lent_weight()) - 1.0)

    @torch.no_grad()
    def project(self) -> None:
        """Every hundredth call: make Q the new base point of the exponential, cleaned of rounding by a polar factor."""
        if self.parametrisation != "exponential":
            return
        self.calls += 1
        if int(self.calls) % self.rebase_every == 0:
            self.rebase()

    @torch.no_grad()
    def rebase(self) -> None:
        """Make Q the new base point of the exponential and the parameter zero; Q stays the same."""
        left, _, right = torch.linalg.svd((self.base @ skew_exponential(self.free)).double())
        self.base.copy_(left @ right)
        self.free.zero_()

    def check_parts(self) -> None:
        """Raise an error if the parameters have other shapes than a map of these features has."""
        choices("parametrisation", self.parametrisation, PARAMETRISATIONS)
        check_map("weight", self, self.in_features, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (*, in_features) to (*, out_features)."""
        x = in_precision_of(self, x)
        check_samples(x, (self.in_features,))
        check_numbers(x, self.free)
        with full_precision(x.device):  # as a product in less precision would be far from orthogonal
            return nn.functional.linear(x, self.weight, self.bias)


def _turned(base: Tensor, free: Tensor) -> Tensor:
    return base @ skew_exponential(free)


def require_orthogonal(name: str, part: nn.Module, inputs: int, outputs: int) -> None:
    """Refuse a part of a cell that is no orthogonal map of these features with a bias.

    Args:
        name: of the part, for the error.
        part: the module.
        inputs: features that it must take.
        outputs: features that it must give.

    Raises:
        CertificateError: it is another module, or has other shapes.
    """
    require_kind(name, part, (OrthogonalLinear,))
    assert isinstance(part, OrthogonalLinear)
    check_map(name, part, inputs, outputs)
    check(part.bias is not None, f"{name}.bias", None, "the cell needs one")
