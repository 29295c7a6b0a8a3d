"""Verification of single inputs by intervals: boxes that the equation maps into themselves.

For W = D + P − N with D its diagonal and P, N ≥ 0, and a box [l, u] of states, every offset in [a, b] has its equilibrium inside
if

    σ(Dl + Pl − Nu + a) ≥ l   and   σ(Du + Pu − Nl + b) ≤ u :

the damped map (1 − α)z + ασ(Wz + q), α ≤ 1/(1 − D), increases in z's own coordinate and so maps the box into itself; a fixed
point in it exists by Brouwer's theorem, and there is no other (the embedded network of Jafarpour et al. 2022, arXiv 2208.03889,
checked instead of trusted). The box is found by iteration, a little too wide, and the two inequalities are the whole proof.
Margins are bounded by differences of the head's rows, which loses less than bounding logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.certificates.ending import find, find_pooled, output_map
from wellposed.certificates.lipschitz import blocks_of
from wellposed.certificates.well_posedness import metric_guarantee
from wellposed.errors import CertificateError, GuaranteeError
from wellposed.layers.blocks import is_plain, moves_only
from wellposed.layers.conv_equilibrium import ConvEquilibrium, ImageInjection
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.normalize import Normalize
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.operators.base import Operator
from wellposed.operators.dense import Dense
from wellposed.operators.zero_padded import ZeroPadded
from wellposed.verification.base import RegionVerifier
from wellposed.verification.region import Region
from wellposed.verification.verdict import Verdict
from wellposed.verified import gamma

_STEPS = 2000
# In which precision boxes are looked for, and by how much the offsets are widened, relative to them: room for rounding.
_SEARCHES = ((torch.float32, 1e-5), (torch.float64, 1e-8), (torch.float64, 1e-5))
_PATIENCE = 40  # steps without getting closer


@dataclass(frozen=True)
class _Linear:
    """A matrix or a zero-padded convolution; float64.

    Attributes:
        weight: shape (out, in), or (out, in, rows, columns).
        stride: of a convolution.
    """

    weight: Tensor
    stride: int = 1

    def __call__(self, state: Tensor) -> Tensor:
        if self.weight.ndim == 2:
            return state @ self.weight.t()
        padding = (self.weight.shape[2] // 2, self.weight.shape[3] // 2)
        return nn.functional.conv2d(state, self.weight, stride=self.stride, padding=padding)

    def part(self, weight: Tensor) -> _Linear:
        """The same kind of map with other numbers."""
        return _Linear(weight, self.stride)

    @property
    def terms(self) -> int:
        """That are added up in one output."""
        return self.weight[0].numel()

    @property
    def row_norms(self) -> Tensor:
        """Upper bounds of the Euclidean norms of rows, to be broadcast over outputs without their batch dimension."""
        norms = self.weight.flatten(1).norm(dim=1) * (1.0 + 1e-12)
        return norms if self.weight.ndim == 2 else norms[:, None, None]


@dataclass(frozen=True)
class _Split:
    """W in its signed parts.

    Attributes:
        diagonal: D, to be broadcast over states.
        rounding: of one product with W in float64, relative to that of absolute values.
        positive: P.
        negative: N.
        absolute: D, P and N in absolute values.
    """

    diagonal: Tensor
    rounding: float
    positive: _Linear
    negative: _Linear
    absolute: _Linear

    @classmethod
    def of(cls, operator: Operator) -> _Split:
        """The parts of a matrix or a zero-padded convolution, float64."""
        if isinstance(operator, Dense):
            whole = _Linear(operator.dense().detach().double().cpu())
            own = torch.eye(len(whole.weight), dtype=torch.float64) > 0.0
            diagonal = whole.weight.diagonal().clone()
        elif isinstance(operator, ZeroPadded) and not operator.transposed:
            whole = _Linear(operator.kernel.detach().double().cpu())
            count, _, rows, columns = whole.weight.shape
            own = torch.zeros_like(whole.weight, dtype=torch.bool)
            own[torch.arange(count), torch.arange(count), rows // 2, columns // 2] = True
            diagonal = whole.weight[own][:, None, None]
        else:
            raise CertificateError(f"W: intervals are for matrices and zero-padded convolutions, not {operator!r}")
        off = whole.weight.masked_fill(own, 0.0)
        parts = (whole.part(each) for each in (off.clamp_min(0.0), (-off).clamp_min(0.0), whole.weight.abs()))
        return cls(diagonal, 2.0 * gamma(2 * whole.terms + 16), *parts)

    def to(self, dtype: torch.dtype) -> _Split:
        """The same in another precision, for searches."""
        parts = (part.part(part.weight.to(dtype)) for part in (self.positive, self.negative, self.absolute))
        return _Split(self.diagonal.to(dtype), self.rounding, *parts)

    def __call__(self, near: Tensor, far: Tensor) -> Tensor:
        """D·near + P·near − N·far."""
        return self.diagonal * near + self.positive(near) - self.negative(far)


class EmbeddedVerifier(RegionVerifier):
    """Verifies inputs of one model by intervals, which is quick and works for any increasing activation and for convolutions.

    Args:
        model: normalisation, reshaping, one layer with a guarantee whose state map is a matrix or a zero-padded convolution,
            and a linear head, for images possibly behind averages over windows; in eval mode.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        chain = blocks_of(model)
        found, pooled = find(chain), find_pooled(chain)
        layer: Equilibrium
        if found is not None and isinstance(found[2].operator(), Dense):
            place, name, layer, head = found
            self._output, bias = output_map(layer, head), None if head is None else head.bias
        elif pooled is not None:
            place, name, layer = pooled.place, pooled.name, pooled.layer
            self._output = pooled.spread(pooled.rows)
            bias = chain[-1][1].bias if isinstance(chain[-1][1], nn.Linear) else None
        else:
            raise CertificateError("model: needs an equilibrium layer, and a linear head")
        if not layer.activation.is_monotone or layer.direct is not None:
            raise CertificateError(f"{name}: intervals need an increasing activation with slopes of at most one")
        try:  # that there is but one equilibrium is the other half of the proof
            (metric_guarantee(name, layer) or layer.guarantee()).offset_lipschitz()
        except GuaranteeError as error:
            raise CertificateError(f"{name}: {error}") from error
        self._bias = (
            torch.zeros(len(self._output), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        )
        self._split, self._activation = _Split.of(layer.operator()), layer.activation
        self._input, self._shift = _input_map(name, layer)
        self._normalise(name, [block for _, block in chain[:place]])
        self._shape = layer.input_shape if isinstance(layer, ConvEquilibrium) else (layer.in_features,)
        self.valid, self.steps = valid, ("embedding",)
        self.inputs, self.classes = math.prod(self._shape), len(self._output)

    def _normalise(self, name: str, before: list[nn.Module]) -> None:
        rest = [block for block in before if not moves_only(block) and not is_plain(block, nn.Unflatten)]
        if len(rest) > 1 or not all(is_plain(block, Normalize) for block in rest):
            raise CertificateError(f"{name}: needs nothing but one normalisation and reshaping before the layer")
        self._mean = self._std = None
        for norm in rest:
            assert isinstance(norm, Normalize)
            self._mean, self._std = (part.detach().double().cpu().reshape(-1) for part in (norm.mean, norm.std))

    def _answer(
        self, x: Tensor, label: int, radius: float, region: Region, allowance: float, last: int, deadline: float
    ) -> Verdict:
        own = self._margins(x, torch.zeros_like(x), 0.0, label)
        if own is not None and float(own[1].amin()) < 0.0:
            return Verdict("misclassified", "input")
        widths = torch.full_like(x, math.inf) if region.widths is None else region.widths
        found = self._margins(region.centre, widths, region.radius, label)
        certified = found is not None and float(found[0].amin()) > allowance
        return Verdict("certified" if certified else "unknown", "embedding")

    def _margins(self, centre: Tensor, widths: Tensor, radius: float, label: int) -> tuple[Tensor, Tensor] | None:
        """Proved lower and upper bounds of the margins over the other classes; None where no box was proved.

        Args:
            centre: of the inputs, shape (inputs,).
            widths: around it, may be infinite.
            radius: of a Euclidean ball around it that has all of them.
            label: the class.
        """
        box = self.enclose(*self.offsets(centre[None], widths[None], radius))
        if box is None:
            return None
        low, high = (part.flatten(1)[0] for part in box)
        rows, constant = self._output[label] - self._output, self._bias[label] - self._bias
        # Differences of rows round once.
        sizes = self._output.abs() + self._output[label].abs()
        largest = torch.maximum(low.abs(), high.abs())
        error = 2.0 * gamma(len(low) + 16) * (sizes @ largest + self._bias.abs() + self._bias[label].abs())
        plus, minus = rows.clamp_min(0.0), (-rows).clamp_min(0.0)
        bounds = (plus @ low - minus @ high + constant - error, plus @ high - minus @ low + constant + error)
        for bound in bounds:
            bound[label] = math.inf
        return bounds

    def offsets(self, centre: Tensor, widths: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Proved bounds of the offsets of sets of inputs.

        Args:
            centre: shape (batch, inputs).
            widths: likewise, possibly infinite.
            radius: of Euclidean balls that have the sets inside.
        """
        shaped = centre.reshape(-1, *self._shape)
        reach = widths.reshape(-1, *self._shape)
        scale, blur = 1.0, torch.zeros_like(shaped)
        if self._std is not None and self._mean is not None:
            each = self.inputs // self._std.numel()
            std, mean = (part.repeat_interleave(each).reshape(self._shape) for part in (self._std, self._mean))
            blur = 4.0 * 2.0**-53 * (shaped.abs() + mean.abs()) / std
            shaped, reach = (shaped - mean) / std, reach / std * (1.0 + 2.0**-51)
            scale = 1.0 / float(self._std.min()) * (1.0 + 2.0**-51)
        absolute = self._input.part(self._input.weight.abs())
        value = self._input(shaped) + self._shift
        rounding = 2.0 * gamma(self._input.terms + 16) * (absolute(shaped.abs() + blur) + self._shift.abs())
        away = (self._input.row_norms * (radius * scale * (1.0 + 1e-12))).expand_as(value)
        if bool(torch.isfinite(reach).all()):
            away = torch.minimum(away, absolute(reach) * (1.0 + 1e-12))
        away = away + rounding + absolute(blur)
        return value - away, value + away

    def enclose(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor] | None:
        """Boxes that provably have the equilibria of all offsets between two, for a batch; None where one was not found.

        Args:
            low: shape (batch, *state_shape), float64.
            high: likewise.
        """
        for dtype, widened in _SEARCHES:
            room = widened * (1.0 + torch.maximum(low.abs(), high.abs()))
            lower, upper = (part.double() for part in self._search(low - room, high + room, 0.1 * room, dtype))
            if self.holds(lower, upper, low, high):
                return lower, upper
        return None

    def _search(self, low: Tensor, high: Tensor, close: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the damped iteration of the two bounds comes to; proves nothing."""
        split, sigma = self._split.to(dtype), self._activation
        low, high, close = low.to(dtype), high.to(dtype), close.to(dtype)
        step = 1.0 / (1.0 - split.diagonal.clamp_max(0.0))
        lower = upper = below = above = torch.zeros_like(low)
        nearest, since = math.inf, 0
        for _ in range(_STEPS):
            below, above = sigma(split(lower, upper) + low), sigma(split(upper, lower) + high)
            away = float((torch.maximum((below - lower).abs(), (above - upper).abs()) / close).amax())
            lower, upper = lower + step * (below - lower), upper + step * (above - upper)
            nearest, since = (away, 0) if away < 0.99 * nearest else (nearest, since + 1)
            if away <= 1.0 or since >= _PATIENCE or not math.isfinite(away):
                break
        # What still decays to zero is cut off; the room makes up for that.
        return torch.minimum(lower, below), torch.maximum(upper, above)

    def holds(self, lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> bool:
        """Whether boxes are proved to have the equilibria of all offsets between two, rounding included."""
        split, sigma = self._split, self._activation
        largest = torch.maximum(lower.abs(), upper.abs())
        error = split.rounding * (split.absolute(largest) + torch.maximum(low.abs(), high.abs())) + 1e-300
        below = _outward(sigma, split(lower, upper) + low - error, -1.0)
        above = _outward(sigma, split(upper, lower) + high + error, 1.0)
        return bool((below >= lower).all() and (above <= upper).all() and (lower <= upper).all())


def _outward(sigma: Activation, value: Tensor, sign: float) -> Tensor:
    """σ, rounded in a direction: activations err by a few units in the last place of their value or of their argument."""
    found = sigma(value)
    blur = 2.0**-49 * torch.maximum(found.abs(), torch.minimum(value.abs(), found.abs() + 1.0) * (found != 0.0))
    return found + sign * blur


def _input_map(name: str, layer: Equilibrium) -> tuple[_Linear, Tensor]:
    """U and b."""
    injection = layer.injection
    image = isinstance(layer, ConvEquilibrium) and is_plain(injection, ImageInjection)
    if image and (injection.border or len(injection.tiers) > 1):
        raise CertificateError(f"{name}: intervals are for convolutions without a border, on one image")
    if not (image or is_plain(injection, nn.Linear) or is_plain(injection, ScaledLinear)):
        raise CertificateError(f"{name}: intervals need a linear input map")
    weight = injection.weight.detach().double().cpu()
    shift = weight.new_zeros(len(weight)) if injection.bias is None else injection.bias.detach().double().cpu()
    return (_Linear(weight, injection.stride[0]), shift[:, None, None]) if image else (_Linear(weight), shift)
