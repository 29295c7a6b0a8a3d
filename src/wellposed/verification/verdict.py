"""What a verifier says of one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is known of one input and region.

    Attributes:
        status: ``"certified"``; ``"falsified"``, with a counterexample; ``"misclassified"``, the input itself; or ``"unknown"``.
        method: the step of `LADDER` that decided or was the last to try, ``"hull"`` for positive concave layers, or
            ``"embedding"`` for intervals; ``"input"`` where the input itself did, ``"attack"`` where its gradients did.
        counterexample: an input of the region, in its shape, that is surely misclassified.
        seconds: spent.
    """

    status: str
    method: str
    counterexample: Tensor | None = field(default=None, repr=False)
    seconds: float = 0.0

    def shaped(self, shape: Sequence[int]) -> Verdict:
        """The verdict with its counterexample, if it has one, in the shape of the inputs."""
        found = self.counterexample
        return self if found is None else replace(self, counterexample=found.reshape(tuple(shape)))
