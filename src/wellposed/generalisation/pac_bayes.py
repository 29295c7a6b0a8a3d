"""A PAC-Bayes generalisation bound for monotone networks (Pabbaraju, Winston & Kolter 2021, Theorem 3, Appendix C).

The network is ``y = W_o·z*(x) + b_o`` with inputs in a ball of radius B. Three versions: ``published`` evaluates the bound
of the appendix with all of its constants, optimised over its free constant c₁. ``repaired`` closes four gaps in the
published proof (tail bounds of rectangular blocks, the skew part's contribution, the head's cross term and its bias)
by solving for the largest perturbation that keeps the output within γ/4. ``tightened`` gives less away, see
`pac_bayes_tightened`. All are above 1 for trained networks: only their trends are informative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.constraints.monotone import Monotone
from wellposed.errors import CertificateError, check, check_number, checked_options, choices
from wellposed.generalisation.pac_bayes_tightened import Norms, tightened
from wellposed.network import Network, materialise
from wellposed.numerics.golden_section import golden_section
from wellposed.numerics.outward import enlarged, enlarged_sum
from wellposed.numerics.verified import spectral_norm_upper_bound


@dataclass(frozen=True, kw_only=True)
class PacBayesBound:
    """A bound on the expected margin loss and what it is made of.

    Attributes:
        value: bound on the expected zero-one loss, with probability at least 1 − delta over the training set.
        empirical_margin_loss: fraction of the training samples with margin at most gamma.
        complexity: the rest of the bound.
        beta: largest of the norms ‖U‖, ‖A‖, ‖b‖, ‖W_o‖ (spectral, Euclidean).
        squared_frobenius: sum of the squared Frobenius norms of all six blocks.
        c1: the free constant that was used, if the version has one.
        version: ``published``, ``repaired`` or ``tightened``.
    """

    value: float
    empirical_margin_loss: float
    complexity: float
    beta: float
    squared_frobenius: float
    c1: float | None
    version: str


@checked_options
def pac_bayes(
    model: nn.Module | Network,
    logits: Tensor,
    labels: Tensor,
    *,
    radius: float,
    gamma: float = 10.0,
    delta: float = 0.1,
    c1: float | None = None,
    version: str = "published",
) -> PacBayesBound:
    """Evaluate Theorem 3 for a trained network.

    Args:
        model: a chain that ends in a monotone layer with bias and a linear layer with bias.
        logits: of the training samples, shape (samples, classes).
        labels: their classes, shape (samples,).
        radius: B, bound on the Euclidean norm of the input *of the monotone layer* (after normalisation).
        gamma: margin, positive.
        delta: probability of failure, in (0, 1).
        c1: the free constant in (0, 1) of the first two versions; None to minimise the bound over it.
        version: ``published``, ``repaired`` or ``tightened``, which needs at least eight samples.
    """
    choices("version", version, ("published", "repaired", "tightened"))
    check_number("gamma", gamma, 0.0, math.inf, "the margin must be positive and finite")
    check_number("delta", delta, 0.0, 1.0, "must lie in (0, 1)")
    check_number("radius", radius, 0.0, math.inf, "must be positive and finite")
    if c1 is not None:
        check_number("c1", c1, 0.0, 1.0, "must lie in (0, 1)")
    check(c1 is None or version != "tightened", "c1", c1, "this version has no such constant")
    blocks = _blocks(model)
    check(blocks.beta > 0.0, "model", "all weights are zero", "the bound is about trained weights")
    loss, samples = _margin_loss(logits, labels, blocks.norms.classes, gamma, 8 if version == "tightened" else 2)
    if version == "tightened":
        best, rest = None, tightened(blocks.norms, loss, samples, radius=radius, gamma=gamma, delta=delta) - loss
    else:
        evaluate = _published if version == "published" else _repaired

        def complexity(c: float) -> float:
            return 4.0 * math.sqrt(evaluate(blocks, samples, radius, gamma, delta, c) / (samples - 1))

        best = 10.0 ** golden_section(lambda k: complexity(10.0**k), -12.0, -0.1, 1e-12) if c1 is None else c1
        rest = complexity(best)
    return PacBayesBound(
        value=loss + rest, empirical_margin_loss=loss, complexity=rest, beta=blocks.beta,
        squared_frobenius=blocks.squared_frobenius, c1=best, version=version,
    )  # fmt: skip


def _margin_loss(logits: Tensor, labels: Tensor, classes: int, gamma: float, least: int) -> tuple[float, int]:
    """The share of samples whose margin is at most γ, and the number of samples, which must be at least ``least``."""
    for name, part in (("logits", logits), ("labels", labels)):
        check(isinstance(part, Tensor), name, type(part).__name__, "must be a torch tensor")
    samples = logits.shape[0]
    check(samples >= least, "logits", tuple(logits.shape), f"needs at least {least} samples")
    shape = (samples, classes)
    check(tuple(logits.shape) == shape, "logits", tuple(logits.shape), f"must have shape {shape}")
    check(bool(torch.isfinite(logits).all()), "logits", "NaN or infinite entries", "margins of these mean nothing")
    whole = not labels.is_floating_point() and tuple(labels.shape) == (samples,)
    check(whole, "labels", tuple(labels.shape), f"must be one integer class for each of {samples} samples")
    inside = 0 <= int(labels.min()) <= int(labels.max()) < classes
    check(inside, "labels", int(labels.max()), f"must lie in 0…{classes - 1}")
    truth = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return float((truth <= gamma + others).double().mean()), samples


@dataclass(frozen=True)
class _Blocks:
    """What the first two versions know of the blocks: one norm for all, and B as it is stored."""

    norms: Norms
    squared_frobenius: float

    @property
    def beta(self) -> float:
        return max(self.norms.spectral)


@torch.no_grad()
def _blocks(model: nn.Module | Network) -> _Blocks:
    """The norms of a network that Theorem 3 is about; its last two blocks are a monotone layer and a head."""
    blocks = materialise(model).blocks
    layer = blocks[-2].affine_layer if len(blocks) > 1 else None
    head = blocks[-1].linear_map
    if head is None or layer is None or not isinstance(layer.constraint, Monotone):
        raise CertificateError("model: Theorem 3 is about one monotone layer followed by one linear layer")
    if any(list(block.module.parameters()) for block in blocks[:-2]):
        raise CertificateError("model: Theorem 3 says nothing of trained blocks before the layer")
    layer.activation.require_zero_at_zero("model")
    constraint: Any = layer.constraint
    injection, (output, output_bias) = layer.injection, head
    if injection.bias is None or output_bias is None:
        raise CertificateError("model: Theorem 3 needs biases in the monotone and in the linear layer")
    skew = 0.5 * (constraint.B - constraint.B.t())
    tensors = (constraint.A, skew, injection.weight, injection.bias, output, output_bias)
    a, b, u, shift, o, o_shift = (_squared_frobenius(part) for part in tensors)
    whole, driven, seen = (spectral_norm_upper_bound(w) for w in (constraint.A, injection.weight, output))
    norms = Norms(
        width=layer.state_features, in_features=layer.in_features, classes=len(output), m=constraint.m,
        spectral=(whole, driven, enlarged(math.sqrt(shift), 1), seen), squares=(a, b, u, shift, o, o_shift),
    )  # fmt: skip
    return _Blocks(norms, a + _squared_frobenius(constraint.B) + u + shift + o + o_shift)


def _squared_frobenius(part: Tensor) -> float:
    """At least the sum of the squares of all entries."""
    return enlarged_sum(float(part.double().square().sum()), part.numel())


def _published(blocks: _Blocks, samples: int, radius: float, gamma: float, delta: float, c1: float) -> float:
    """The divergence, and the logarithm that makes it sure with probability 1 − δ, as the appendix has them."""
    h, m, beta = blocks.norms.width, blocks.norms.m, blocks.beta
    c3 = (1.0 + c1) * gamma / (4.0 * (1.0 - c1) * beta)
    q = (
        2.0 * beta**3 * (1.0 + c1) ** 3 * (1.0 + c3) * (radius + 1.0)
        + 2.0 * m * beta * (1.0 + c1) * (radius + 1.0) * (1.0 - c1) ** 2
        + m**2 * (1.0 - c1) ** 3
    )
    kl = 16.0 * h * math.log(24.0 * h) * q**2 * blocks.squared_frobenius / (gamma**2 * m**4 * (1.0 - c1) ** 6)
    return kl + math.log(3.0 * samples**1.5 / (c1 * delta))


def _repaired(blocks: _Blocks, samples: int, radius: float, gamma: float, delta: float, c1: float) -> float:
    """The divergence for the largest deviation that keeps the output within γ/4, and the logarithm that makes it sure."""
    norms = blocks.norms
    h, d, k, m = norms.width, norms.in_features, norms.classes, norms.m
    beta = blocks.beta * (1.0 + c1) / (1.0 - c1)
    tail = math.sqrt(2.0 * math.log(12.0))  # each of six Gaussian blocks exceeds its bound with probability 1/12

    def output_change(sigma: float) -> float:
        a = b = sigma * (2.0 * math.sqrt(h) + tail)
        u, offset = sigma * (math.sqrt(h) + math.sqrt(d) + tail), sigma * (math.sqrt(h) + 1.0 + tail)
        o, o_bias = sigma * (math.sqrt(h) + math.sqrt(k) + tail), sigma * (math.sqrt(k) + 1.0 + tail)
        moved = (2.0 * beta * a + a**2 + 2.0 * b) * beta * (radius + 1.0) / m**2 + (u * radius + offset) / m
        return (beta + o) * moved + o * beta * (radius + 1.0) / m + o_bias

    low, high = 0.0, 1.0
    while output_change(high) < gamma / 4.0:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if output_change(middle) <= gamma / 4.0 else (low, middle)
    kl = blocks.squared_frobenius / (2.0 * low**2)
    # β is unknown beforehand: a union bound over a cover of the positive axis by ratios (1 + c₁)/(1 − c₁) around 1, the
    # k-th interval to either side getting the share 3/(π²(k + 1)²) of δ.
    members = 1.0 + abs(math.log(blocks.beta)) / math.log((1.0 + c1) / (1.0 - c1))
    return kl + math.log(6.0 * samples / delta) + math.log(math.pi**2 / 3.0 * (members + 1) ** 2)
