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
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.activations import Activation
from wellposed.bounds.tail import normalisation_before, tail_of
from wellposed.errors import CertificateError, GuaranteeError
from wellposed.layers.conv_equilibrium import ConvEquilibrium, ImageInjection
from wellposed.layers.equilibrium import Equilibrium
from wellposed.layers.plain import is_plain
from wellposed.layers.prescribed_bound import ScaledLinear
from wellposed.network import Network, materialise
from wellposed.network.metric import metric_guarantee
from wellposed.numerics.outward import rounding_constant
from wellposed.operators.base import Operator
from wellposed.verification.base import RegionQuestion, RegionVerifier
from wellposed.verification.verdict import Verdict

_STEPS = 2000
# In which precision boxes are looked for, and by how much the offsets are widened, relative to them: room for rounding.
_SEARCHES = ((torch.float32, 1e-5), (torch.float64, 1e-8), (torch.float64, 1e-5))
_PATIENCE = 40  # steps without getting closer


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
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
        known = operator.coefficients()
        if known is None:
            raise CertificateError(f"W: intervals are for matrices and zero-padded convolutions, not {operator!r}")
        whole, own = _Linear(known.weight.detach().double().cpu()), known.own.cpu()
        diagonal = whole.weight[own].reshape(-1, *[1] * (len(operator.state_shape) - 1))
        off = whole.weight.masked_fill(own, 0.0)
        parts = (whole.part(each) for each in (off.clamp_min(0.0), (-off).clamp_min(0.0), whole.weight.abs()))
        return cls(diagonal, 2.0 * rounding_constant(2 * whole.terms + 16), *parts)

    def to(self, dtype: torch.dtype) -> _Split:
        """The same in another precision, for searches."""
        parts = (part.part(part.weight.to(dtype)) for part in (self.positive, self.negative, self.absolute))
        return _Split(self.diagonal.to(dtype), self.rounding, *parts)

    def __call__(self, near: Tensor, far: Tensor) -> Tensor:
        """D·near + P·near − N·far."""
        return self.diagonal * near + self.positive(near) - self.negative(far)


class MixedMonotoneVerifier(RegionVerifier):
    """Verifies inputs of one model by intervals, which is quick and works for any increasing activation and for convolutions.

    Args:
        model: normalisation, reshaping, one layer with a guarantee whose state map is a matrix or a zero-padded convolution,
            and a linear head, for images possibly behind averages over windows; in eval mode.
        valid: range of the pixels that boxes are clipped to; None for any numbers.

    Raises:
        CertificateError: the model is of another kind.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module | Network, *, valid: tuple[float, float] | None = (0.0, 1.0)) -> None:
        blocks = materialise(model).blocks
        tail = tail_of(blocks)
        if tail is None:
            raise CertificateError("model: needs an equilibrium layer, and a linear head")
        name, layer = tail.name, tail.layer
        self._output, self._bias = tail.spread(tail.rows), tail.bias
        if not layer.activation.is_monotone:
            raise CertificateError(f"{name}: intervals need an increasing activation with slopes of at most one")
        try:  # that there is but one equilibrium is the other half of the proof
            (metric_guarantee(name, layer) or layer.guarantee()).offset_lipschitz()
        except GuaranteeError as error:
            raise CertificateError(f"{name}: {error}") from error
        self._split, self._activation = _Split.of(layer.operator()), layer.activation
        self._input, self._shift = _input_map(name, layer)
        self._shape = layer.input_shape if isinstance(layer, ConvEquilibrium) else (layer.in_features,)
        self.inputs = math.prod(self._shape)
        images = len(self._shape) > 1
        self._normalisation = normalisation_before(blocks, tail.place, self.inputs, images=images)
        self.valid, self.steps, self.batch_size = valid, ("embedding",), 32
        self.classes = len(self._output)

    def answers(self, questions: list[RegionQuestion], last: int, seconds: float) -> list[Verdict]:
        """Verdicts on all questions together: intervals take a fixed time."""
        if not questions:
            return []
        start = time.monotonic()
        labels = torch.tensor([asked.label for asked in questions])
        points = torch.stack([asked.x for asked in questions])
        still = torch.zeros(len(questions), dtype=torch.float64)
        _, high, proved = self._margins(points, torch.zeros_like(points), still, labels)
        wrong = proved & (high.amin(1) < 0.0)
        centres = torch.stack([asked.region.centre for asked in questions])
        widths = [asked.region.widths for asked in questions]
        reach = torch.stack([torch.full_like(points[0], math.inf) if width is None else width for width in widths])
        radii = torch.stack([asked.region.radius for asked in questions])
        low, _, proved = self._margins(centres, reach, radii, labels)
        allowances = torch.tensor([asked.allowance for asked in questions], dtype=torch.float64)
        certified = proved & (low.amin(1) > allowances)
        each = (time.monotonic() - start) / len(questions)
        return [
            Verdict("misclassified", "input", seconds=each)
            if lost
            else Verdict("certified" if sure else "unknown", "embedding", seconds=each)
            for lost, sure in zip(wrong.tolist(), certified.tolist(), strict=True)
        ]

    def _margins(self, centre: Tensor, widths: Tensor, radius: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper bounds of the margins over the other classes, and for which inputs they are proved.

        Args:
            centre: of the inputs, shape (batch, inputs).
            widths: around it, may be infinite.
            radius: of a Euclidean ball around it that has all of them, shape (batch,).
            labels: the classes, shape (batch,).

        Returns:
            Shapes (batch, classes), infinite at the label, twice, and (batch,).
        """
        below, above, proved = self.enclose(*self.offsets(centre, widths, radius))
        below, above = (part.flatten(1)[:, :, None] for part in (below, above))
        own, constant = self._output[labels][:, None], self._bias[labels][:, None] - self._bias
        rows = own - self._output
        # Differences of rows round once.
        sizes = (self._output.abs() + own.abs()) @ torch.maximum(below.abs(), above.abs())
        size = sizes[:, :, 0] + self._bias.abs() + self._bias[labels].abs()[:, None]
        error = 2.0 * rounding_constant(below.shape[1] + 16) * size
        plus, minus = rows.clamp_min(0.0), (-rows).clamp_min(0.0)
        low = (plus @ below - minus @ above)[:, :, 0] + constant - error
        high = (plus @ above - minus @ below)[:, :, 0] + constant + error
        low, high = (part.scatter(1, labels[:, None], math.inf) for part in (low, high))
        return low, high, proved

    def offsets(self, centre: Tensor, widths: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Proved bounds of the offsets of sets of inputs.

        Args:
            centre: shape (batch, inputs).
            widths: likewise, possibly infinite.
            radius: of Euclidean balls that have the sets inside, shape (batch,).
        """
        shaped = centre.reshape(-1, *self._shape)
        reach = widths.reshape(-1, *self._shape)
        scale, blur = 1.0, torch.zeros_like(shaped)
        if self._normalisation is not None:
            mean, std = (part.reshape(self._shape) for part in self._normalisation)
            blur = 4.0 * 2.0**-53 * (shaped.abs() + mean.abs()) / std
            shaped, reach = (shaped - mean) / std, reach / std * (1.0 + 2.0**-51)
            scale = 1.0 / float(std.min()) * (1.0 + 2.0**-51)
        absolute = self._input.part(self._input.weight.abs())
        value = self._input(shaped) + self._shift
        rounding = 2.0 * rounding_constant(self._input.terms + 16) * (absolute(shaped.abs() + blur) + self._shift.abs())
        balls = (radius * scale * (1.0 + 1e-12)).reshape(-1, *[1] * (value.ndim - 1))
        away = (self._input.row_norms * balls).expand_as(value)
        if bool(torch.isfinite(reach).all()):
            away = torch.minimum(away, absolute(reach) * (1.0 + 1e-12))
        away = away + rounding + absolute(blur)
        return value - away, value + away

    def enclose(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes for the equilibria of all offsets between two, for a batch, and of which that is proved.

        Args:
            low: shape (batch, *state_shape), float64.
            high: likewise.

        Returns:
            Shapes (batch, *state_shape), twice, and (batch,).
        """
        lower, upper = torch.zeros_like(low), torch.zeros_like(high)
        proved = torch.zeros(len(low), dtype=torch.bool)
        for dtype, widened in _SEARCHES:
            rest = (~proved).nonzero()[:, 0]
            if not len(rest):
                break
            least, most = low[rest], high[rest]
            room = widened * (1.0 + torch.maximum(least.abs(), most.abs()))
            box = self._search(least - room, most + room, 0.1 * room, dtype)
            lower[rest], upper[rest] = (part.double() for part in box)
            proved[rest] = self.holds(lower[rest], upper[rest], least, most)
        return lower, upper, proved

    def _search(self, low: Tensor, high: Tensor, close: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the damped iteration of the two bounds comes to, until each is close or stands still; proves nothing."""
        split, sigma = self._split.to(dtype), self._activation
        low, high, close = low.to(dtype), high.to(dtype), close.to(dtype)
        step = 1.0 / (1.0 - split.diagonal.clamp_max(0.0))
        found = torch.zeros_like(low), torch.zeros_like(high)
        rows = torch.arange(len(low))
        lower = upper = torch.zeros_like(low)
        nearest, since = torch.full((len(low),), math.inf, dtype=dtype), torch.zeros(len(low))
        for count in range(_STEPS):
            below, above = sigma(split(lower, upper) + low), sigma(split(upper, lower) + high)
            gap = torch.maximum((below - lower).abs(), (above - upper).abs()) / close
            away = gap.flatten(1).amax(1)
            lower, upper = lower + step * (below - lower), upper + step * (above - upper)
            closer = away < 0.99 * nearest
            nearest, since = torch.where(closer, away, nearest), torch.where(closer, 0.0, since + 1.0)
            done = (away <= 1.0) | (since >= _PATIENCE) | ~torch.isfinite(away)
            if count == _STEPS - 1:
                done = torch.ones_like(done)
            if bool(done.any()):
                # What still decays to zero is cut off; the room makes up for that.
                found[0][rows[done]] = torch.minimum(lower, below)[done]
                found[1][rows[done]] = torch.maximum(upper, above)[done]
                rows, lower, upper, low, high, close, nearest, since = (
                    part[~done] for part in (rows, lower, upper, low, high, close, nearest, since)
                )
                if not len(rows):
                    break
        return found

    def holds(self, lower: Tensor, upper: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Which boxes are proved to have the equilibria of all offsets between two, rounding included, shape (batch,)."""
        split, sigma = self._split, self._activation
        largest = torch.maximum(lower.abs(), upper.abs())
        error = split.rounding * (split.absolute(largest) + torch.maximum(low.abs(), high.abs())) + 1e-300
        below = _outward(sigma, split(lower, upper) + low - error, -1.0)
        above = _outward(sigma, split(upper, lower) + high + error, 1.0)
        return ((below >= lower) & (above <= upper) & (lower <= upper)).flatten(1).all(1)


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
