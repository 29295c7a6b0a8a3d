"""Equilibria of images in a diagonal metric: ``z = σ(Wz + Ψ(Ũx) + b)``, with ``y = W_o P z + b_o`` of a prescribed bound."""

from __future__ import annotations

from typing import Any

import torch
from typing_extensions import override

from wellposed.activations import name_of
from wellposed.layers.conv_lben import ConvLBEN
from wellposed.network.description import Description
from wellposed.network.kinds.block import kind_of
from wellposed.network.kinds.equilibrium import EquilibriumBlock
from wellposed.numerics.checkable import ROOM, checkable_convolution_norm
from wellposed.operators.fourier import real_parts

_BELOW = 1.0 - 1e-11  # of the monotonicity, for the checker's coarser rounding
_ABOVE, _HALF_WAY = (
    1.0 + 1e-6,
    1.0 + 5e-7,
)  # of the prescribed bound, and where its inequality then has room on both sides
_SHARE = 1e-11  # of the size of RRᵀ, for the rounding of its least eigenvalue


@kind_of(ConvLBEN, inherited=True)
class ScaledBlock(EquilibriumBlock):
    """W = I − Ψ(C + FᵀF), or I − Ψ(C + FᵀF) − RRᵀΛ, by its matrices at every frequency."""

    @override
    def describe(self, value: float | None) -> Description:
        layer: ConvLBEN = self.module
        interior = layer.activation.interior
        sigma = name_of(interior)
        if value is None or sigma is None:
            return super().describe(value)
        operator: Any = layer.operator()
        options: dict[str, Any] = {
            "activation": sigma, "input_image": list(layer.input_shape[1:]), "stride": layer.injection.stride,
            "image": list(layer.state_shape[1:]), "output": layer.output is not None,
            "border": int(interior is not layer.activation), "in_metric": operator.driven is None,
        }  # fmt: skip
        tensors = {"scale": operator.scale, "transfer": real_parts(operator.transfer), "input": layer.injection.weight}
        found = self._monotone(value) if layer.output is None else self._bounded(value)
        return Description("scaled", {**options, **found.options}, found.value, {**tensors, **found.tensors})

    def _monotone(self, value: float) -> Description:
        """What proves ‖ΨŨ‖₂·max Λ/m, m below the Hermitian part of C."""
        layer = self.module
        operator, guarantee = layer.materialise()
        least = guarantee.m * _BELOW
        norm = checkable_convolution_norm(layer.injection.weight, layer.injection_norm())
        bound = norm / (float(operator.scale.detach().double().amin()) * least) * ROOM
        return Description(options={"monotonicity": least, "input_norm": norm}, value=max(value, bound))

    def _bounded(self, value: float) -> Description:
        """What proves the prescribed bound: a multiplier s of its condition, and what R needs of C."""
        layer, operator = self.module, self.module.operator()
        bound = value * _ABOVE
        factor = operator.factor.detach().double().cpu()
        seen = layer.output.spread(layer.output.weight.detach().double().cpu())
        square = (
            (float((seen * factor).sum()) / float(factor.square().sum())) ** 2 if float(factor.norm()) > 0.0 else 1.0
        )
        multiplier = 0.5 * square / bound * _HALF_WAY
        options = {"pool": layer.output.pool, "multiplier": multiplier}
        tensors = {"factor": operator.factor, "output": layer.output.weight}
        if operator.driven is not None:
            tensors["driven"] = real_parts(operator.driven)
            own = operator.driven.to("cpu", torch.complex128)
            through = layer.injection.transfer(layer.injection.weight.double()).cpu()
            room = torch.linalg.eigvalsh(2.0 * own @ own.mH - multiplier / bound * through @ through.mH)[..., 0].amin()
            options["around"] = _SHARE * float(own.abs().square().sum((2, 3)).amax()) + 1.01 * max(-float(room), 0.0)
        return Description(options=options, value=bound, tensors=tensors)
