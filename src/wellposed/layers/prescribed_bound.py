"""What layers with a prescribed Lipschitz bound γ from input to output share."""

from __future__ import annotations

import math

import torch
from torch import nn

from wellposed.errors import CertificateError, InputError, check, checked_options
from wellposed.layers.equilibrium import Equilibrium


class PrescribedBound(Equilibrium):
    """A layer whose maps, if it has an ``output``, share the logarithm of the bound, see `AffineMap.bound_logarithm`."""

    @property
    def gamma(self) -> float | None:
        """The Lipschitz bound from input to output, or None."""
        logarithm = None if self.output is None else self.output.bound_logarithm()
        return None if logarithm is None else float(torch.exp(logarithm.detach().double()))

    def check_bound(self) -> None:
        """Refuse parts that hold several logarithms of the bound, or none where there is an output."""
        parts = [self.injection, *(part for _, part in self._output_maps())]
        logarithms = [found for part in parts if (found := part.bound_logarithm()) is not None]
        if self.output is not None and len(logarithms) < len(parts):
            raise CertificateError("log_gamma: a part of a layer with a Lipschitz bound does not depend on it")
        if any(not torch.equal(logarithm, logarithms[0]) for logarithm in logarithms):
            raise CertificateError("log_gamma: the parts of the layer have different ones; call set_gamma")

    @checked_options
    @torch.no_grad()
    def set_gamma(self, gamma: float) -> None:
        """Change the bound: the weights change with it, so that it holds."""
        check(0.0 < gamma < math.inf, "gamma", gamma, "the Lipschitz bound must be positive and finite")
        if self.output is None:
            raise InputError(f"gamma={gamma!r}: the layer was built without a Lipschitz bound")
        for part in (self.injection, *(part for _, part in self._output_maps())):
            logarithm = part.bound_logarithm()  # one parameter, unless a state dict was assigned to them
            if logarithm is not None:
                logarithm.fill_(math.log(gamma))


def checked_bound(gamma: float | None, out_features: int | None) -> None:
    """Refuse a bound without an output, or an output without a bound."""
    if (gamma is None) != (out_features is None):
        raise InputError(
            f"gamma={gamma!r}, out_features={out_features!r}: a Lipschitz bound is one from input to output; give both "
            "or neither"
        )
    if out_features is not None:
        check(out_features > 0, "out_features", out_features, "must be a positive integer")


def learned_logarithm(
    gamma: float | None, learned: bool, *, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Parameter:
    """The logarithm of γ as a parameter; of one where there is no bound."""
    scale = 1.0 if gamma is None else gamma
    check(0.0 < scale < math.inf, "gamma", gamma, "the Lipschitz bound must be positive and finite")
    logarithm = torch.tensor(math.log(scale), device=device, dtype=dtype)
    return nn.Parameter(logarithm, requires_grad=learned and gamma is not None)
