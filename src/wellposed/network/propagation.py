"""Errors of an evaluation on their way through a network: at the inputs themselves, and anywhere around them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.numerics.outward import enlarged
from wellposed.operators.graphs import Graphs


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BoundedLogits:
    """Logits and what is known of their error.

    Attributes:
        logits: shape (batch, classes).
        error: bound on ‖logits − true logits‖₂ through solver residuals and rounding, shape (batch,), float64.
        elsewhere: with ``growth``: the same bound for the evaluation of any input at most r away in the Euclidean norm, provided
            that its solves converge, is ``elsewhere + growth·r``; shape (batch,). Solves elsewhere may stop anywhere within their
            tolerance, whatever they reached here.
        growth: shape (batch,).
        inputs: size of an input.
        unsolved: for which inputs a solve did not converge, so that nothing is known of their error, boolean, shape (batch,).
        digest: of the network that they are of, see `Network.digest`.
    """

    logits: Tensor
    error: Tensor
    elsewhere: Tensor
    growth: Tensor
    inputs: int
    unsolved: Tensor
    digest: str | None = None

    def __repr__(self) -> str:
        return f"BoundedLogits(shape {tuple(self.logits.shape)}, error at most {max(self.error.tolist(), default=0.0):.3g})"


@dataclass(frozen=True, eq=False)
class Own:
    """Error of one step's own arithmetic, and how fast it may grow with the norms of the step's input and output.

    Attributes:
        here: at the inputs, shape (batch,), or a number.
        inside: per change of the input, in the Euclidean norm.
        outside: per change of the output.
    """

    here: Tensor | float = 0.0
    inside: float = 0.0
    outside: float = 0.0

    def plus(self, other: Own, scale: float = 1.0) -> Own:
        """Both together, the other one times a factor."""
        return Own(
            self.here + scale * other.here, self.inside + scale * other.inside, self.outside + scale * other.outside
        )


@dataclass(frozen=True, eq=False)
class Step:
    """A part of a block.

    Attributes:
        own: its error, anywhere.
        image: its output at the inputs.
        reach: Lipschitz constant from the block's input to its output.
        after: Lipschitz constant from its output to the block's.
        known: its error at the inputs, where that is known better.
    """

    own: Own
    image: Tensor
    reach: float
    after: float = 1.0
    known: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors on their way through the blocks: at the inputs themselves, and anywhere around them.

    Attributes:
        here: at the inputs, shape (batch,).
        elsewhere: with ``growth``: at most r away, where the evaluation may stop anywhere within its tolerances, it is
            ``elsewhere + growth·r``.
        growth: shape (batch,).
        reach: Lipschitz constant from the network's input to here.
    """

    here: Tensor
    elsewhere: Tensor
    growth: Tensor
    reach: float = 1.0

    @classmethod
    def none(cls, count: int, device: torch.device) -> Errors:
        """Those of the inputs."""
        zero = torch.zeros(count, dtype=torch.float64, device=device)
        return cls(zero, zero, zero)

    def through(self, factor: float, steps: list[Step]) -> Errors:
        """Those behind a block of this Lipschitz constant, which is done in these steps."""
        slack, spread = self.here + self.elsewhere, self.growth
        here, elsewhere, growth = (factor * part for part in (self.here, self.elsewhere, self.growth))
        # By how much more than its distance the input of a step may differ from the one here, and how that grows with r.
        moved, rate = slack, self.reach + spread
        # What earlier steps have added to the output of a step already.
        added, adding = torch.zeros_like(slack), torch.zeros_like(slack)
        for step in steps:
            own = step.own
            at_hand = torch.zeros_like(here) + own.here if step.known is None else step.known
            # The output elsewhere differs by reach·r and by all errors, also by the one that is bounded here.
            out = step.reach * slack + at_hand + added
            out_rate = step.reach * (self.reach + spread) + adding
            anywhere = own.here + own.inside * moved + own.outside * out
            rising = own.inside * rate + own.outside * out_rate
            share = 1.0 / (1.0 - own.outside) if own.outside < 1.0 else math.inf
            # Without error 0·∞ would not be a number.
            anywhere, rising = (torch.where(part > 0.0, part * share, part) for part in (anywhere, rising))
            here, elsewhere = here + step.after * at_hand, elsewhere + step.after * anywhere
            growth = growth + step.after * rising
            moved, rate = out + anywhere, out_rate + rising
            added, adding = added + step.after * (at_hand + anywhere), adding + step.after * rising
        # Each step adds at most twelve operations to what it goes through: three for `out`, three for `anywhere`, three for the
        # share, two for the sums, one for `moved`; four come before and after.
        operations = 12 * len(steps) + 4
        here, elsewhere, growth = (enlarged(part, operations) for part in (here, elsewhere, growth))
        return Errors(here, elsewhere, growth, self.reach * factor)

    def plus(self, other: Errors) -> Errors:
        """Those of a sum or difference, before its own rounding."""
        parts = ((self.here, other.here), (self.elsewhere, other.elsewhere), (self.growth, other.growth))
        here, elsewhere, growth = (enlarged(first + second, 1) for first, second in parts)
        return Errors(here, elsewhere, growth, self.reach + other.reach)


@dataclass(frozen=True, eq=False)
class Point:
    """A value inside of the network.

    Attributes:
        value: at the inputs, shape (batch, ...).
        errors: of it.
        solved: whether all solves so far did converge, shape (batch,).
        graphs: that the values belong to, whose nodes are the rows of ``value``; None where samples are.
    """

    value: Tensor
    errors: Errors
    solved: Tensor
    graphs: Graphs | None = None
