"""Verification of single inputs for positive concave layers, by the hull of their equilibria and by the slopes on it.

z*(p) increases with the offset p, so that offsets in [p_l, p_u] have equilibria in [z*(p_l), z*(p_u)], both ends attained. And
its derivative M(p) = (I − DW)⁻¹D decreases, so that differences of equilibria are M̃ times differences of offsets, with
M(p_u) ≤ M̃ ≤ M(p_l) in every entry (Gabor, Piotrowski & Cavalcante 2024 show monotonicity and concavity; the bounds follow).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from wellposed.errors import CertificateError, GuaranteeError
from wellposed.guarantee.majorant import majorant
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.frozen import Stored, linear_map
from wellposed.layers.normalize import Normalize, batch_norm_map
from wellposed.layers.pcdeq import PositiveLinear
from wellposed.layers.plain import is_plain, moves_only
from wellposed.network import Network, materialise
from wellposed.numerics.outward import rounding_constant
from wellposed.operators.dense import Dense
from wellposed.verification.base import RegionQuestion, RegionVerifier
from wellposed.verification.region import Region
from wellposed.verification.verdict import Verdict

_UP = 1.0 + 1e-11  # covers the rounding of a few sums and products of nonnegative numbers


class PositiveVerifier(RegionVerifier):
    """Verifies inputs of one model with a positive concave layer.

    Args:
        model: normalisation, flattening, one dense `PcDEQ` layer and a linear head, in eval mode.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        blocks = materialise(model).blocks
        chain = [pair for pair in blocks if not moves_only(pair[1])]
        places = [
            place
            for place, (_, block) in enumerate(chain)
            if isinstance(block, Equilibrium) and isinstance(block.injection, PositiveLinear)
        ]
        if not places:
            raise CertificateError("model: needs a dense positive concave layer")
        name, layer = chain[places[0]]
        before, after = [[block for _, block in part] for part in (chain[: places[0]], chain[places[0] + 1 :])]
        assert isinstance(layer, Equilibrium)
        if len(before) > 1 or not all(is_plain(block, Normalize) for block in before):
            raise CertificateError(f"{name}: needs nothing but one normalisation and flattening before the layer")
        operator, guarantee = layer.materialise()
        matrix = operator.matrix()
        if matrix is None or guarantee is None or not guarantee.is_concave:
            raise CertificateError(f"{name}: needs a dense positive concave layer")
        stored = Dense(matrix.detach().double().cpu().contiguous())
        self._matrix, self._activation, self._injection = stored.dense(), layer.activation, layer.injection
        weight, bias = (part.cpu() for part in layer.injection.folded())
        self._bias_size = bias.abs()
        for norm in before:
            assert isinstance(norm, Normalize)
            mean, std = norm.spread(weight.shape[1], [block for _, block in blocks[: blocks.index(chain[places[0]])]])
            self._bias_size = self._bias_size + weight.abs() @ (mean / std).abs()
            bias, weight = bias - weight @ (mean / std), weight / std
        self._weight, self._bias = weight, bias
        size = len(self._matrix)
        # The equilibrium as a function of its offset.
        self._layer = Equilibrium(
            linear_map(torch.eye(size, dtype=torch.float64), None), Stored(stored, guarantee.on(stored), size),
            activation=layer.activation, rtol=1e-10, atol=1e-10, max_steps=20000, on_failure="raise",
        )  # fmt: skip
        self._output, self._output_bias = _head(name, after, size)
        self.valid, self.steps = valid, ("hull",)
        self.inputs, self.classes = weight.shape[1], len(self._output)

    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:  # noqa: D102
        found = []
        for asked in questions:
            start = time.monotonic()
            try:
                verdict = self._verdict(asked.x, asked.region, asked.label, asked.allowance)
            except (GuaranteeError, CertificateError):
                verdict = Verdict("unknown", "hull")
            found.append(replace(verdict, seconds=time.monotonic() - start))
        return found

    def _verdict(self, x: Tensor, region: Region, label: int, allowance: float) -> Verdict:
        margin, error = self._margins(self._state(self._drive(x)), label)
        margin[label] = math.inf
        if float((margin + error).amin()) < 0.0:
            return Verdict("misclassified", "input")
        inputs = self._weight.shape[1]
        offset = self._weight @ region.centre + self._bias
        terms = self._weight.abs() @ region.centre.abs() + self._bias_size
        rounding = 2.0 * rounding_constant(inputs + 16) * terms
        reach = self._weight.norm(dim=1) * region.radius
        if region.widths is not None:
            reach = torch.minimum(reach, self._weight.abs() @ region.widths)
        reach = reach * _UP + rounding
        lower, upper = (self._state(self._positive(offset + sign * reach, sign)) for sign in (-1.0, 1.0))
        centre = self._state(self._positive(offset, 0.0))
        rows = self._output[label] - self._output
        hull = rows.clamp_min(0.0) @ lower[0] - (-rows).clamp_min(0.0) @ upper[1]
        base, error = self._margins(centre, label)
        gradient, spread = self._slopes(rows, offset, reach, lower[0], upper[1])
        through = gradient @ self._weight
        first = through.norm(dim=1) * region.radius if region.widths is None else through.abs() @ region.widths
        constant = self._output_bias[label] - self._output_bias
        size = 4.0 * rounding_constant(inputs + len(upper[1]) + 32)
        slack = size * (rows.abs() @ upper[1] + constant.abs() + gradient.abs() @ (terms + reach) + spread @ reach)
        steep = base - error - (first * _UP + spread @ reach * _UP) - slack
        best = torch.maximum(hull + constant - slack, steep)
        best[label] = math.inf
        return Verdict("certified" if float(best.amin()) > allowance else "unknown", "hull")

    def _drive(self, x: Tensor) -> Tensor:
        return self._positive(self._weight @ x + self._bias, 0.0)

    def _positive(self, offset: Tensor, sign: float) -> Tensor:
        """The positive part of v, rounded down, up or not at all."""
        value = self._injection.positive(offset)
        return (value * (1.0 + sign * 1e-14) + sign * 1e-15).clamp_min(self._injection.floor)

    def _state(self, drive: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of the equilibrium of an offset."""
        solution = self._layer.solve(drive[None])
        assert solution.error_bound is not None
        value, away = solution.value[0], float(solution.error_bound[0]) * _UP
        return (value - away).clamp_min(0.0), value + away

    def _margins(self, state: tuple[Tensor, Tensor], label: int) -> tuple[Tensor, Tensor]:
        """Margins over the other classes at an input, and their errors."""
        middle, away = 0.5 * (state[0] + state[1]), 0.5 * (state[1] - state[0])
        rows, constant = self._output[label] - self._output, self._output_bias[label] - self._output_bias
        return rows @ middle + constant, rows.abs() @ away * _UP + rounding_constant(len(middle) + 16) * (
            rows.abs() @ middle.abs() + constant.abs()
        )

    def _slopes(
        self, rows: Tensor, offset: Tensor, reach: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Middle and half-width of rows·M̃·S, S the slopes of the positive part: the margins' slopes in v, (classes, n) each."""
        low, high = self._positive(offset - reach, -1.0), self._positive(offset + reach, 1.0)
        steepest = self._derivative(lower, low) * (1.0 + 1e-13) + 1e-15
        flattest = (self._derivative(upper, high) * (1.0 - 1e-13) - 1e-15).clamp_min(0.0)
        largest = majorant(steepest[:, None] * self._matrix).sensitivity * steepest * _UP
        least = _least(flattest, self._matrix)
        middle, width = 0.5 * (largest + least), 0.5 * (largest - least).clamp_min(0.0)
        through, blur = rows @ middle, rows.abs() @ width * _UP
        own, own_blur = self._positive_slopes(offset, reach)
        return through * own, (through.abs() + blur) * own_blur * _UP + blur * own * _UP

    def _derivative(self, state: Tensor, drive: Tensor) -> Tensor:
        return self._activation.derivative(self._matrix @ state + drive)

    def _positive_slopes(self, offset: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
        """Middle and half-width of the slopes of the positive part, which increase."""
        low = self._injection.slope(offset - reach) * (1.0 - 1e-13)
        high = self._injection.slope(offset + reach) * (1.0 + 1e-13)
        return 0.5 * (low + high), 0.5 * (high - low) + 1e-15


def _head(name: str, blocks: list[nn.Module], size: int) -> tuple[Tensor, Tensor]:
    """The linear map after the layer, with a batch normalisation before it folded in."""
    scale, shift = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    if blocks and is_plain(blocks[0], nn.BatchNorm1d):
        if blocks[0].training or blocks[0].running_var is None:
            raise CertificateError(f"{name}: batch normalisation depends on the batch; call model.eval() first")
        scale, shift = (part.cpu() for part in batch_norm_map(blocks[0]))
        blocks = blocks[1:]
    if len(blocks) != 1 or not is_plain(blocks[0], nn.Linear):
        raise CertificateError(f"{name}: needs one linear layer after it, at most behind a batch normalisation")
    weight = blocks[0].weight.detach().double().cpu()
    bias = (
        torch.zeros(len(weight), dtype=torch.float64)
        if blocks[0].bias is None
        else blocks[0].bias.detach().double().cpu()
    )
    return weight * scale, bias + weight @ shift


def _least(slopes: Tensor, matrix: Tensor) -> Tensor:
    """A proved lower bound of (I − DW)⁻¹D in every entry: any X with (I − DW)X ≤ D, as the inverse is nonnegative."""
    size = len(slopes)
    eye, right, inner = torch.eye(size, dtype=torch.float64), torch.diag(slopes), slopes[:, None] * matrix
    found = torch.linalg.solve_ex(eye - inner, torch.cat([right, torch.ones(size, 1, dtype=torch.float64)], 1))[0]
    # A little of a positive vector less, so that rounding cannot spoil the inequality.
    candidate = found[:, :-1] - 1e-12 * float(slopes.amax()) * found[:, -1:]
    rounding = 1e-15 * (size + 8) * (candidate.abs() + inner @ candidate.abs())
    proved = bool((candidate - inner @ candidate + rounding <= right).all())
    return candidate.clamp_min(0.0) if proved else right
