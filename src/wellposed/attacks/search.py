"""The nearest adversarial examples found so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Judge = Callable[[Tensor, Tensor], Tensor]


class Search:
    """The nearest adversarial examples of a batch so far; each was evaluated, and its distance measured, here.

    Args:
        judge: maps inputs and true classes to whether each input fools the model, shape (batch,).
        images: shape (batch, ...).
        truth: true classes, shape (batch,).
        order: of the norm.
        box: least and largest values that inputs may have, numbers or tensors.
    """

    def __init__(
        self, judge: Judge, images: Tensor, truth: Tensor, order: float, box: tuple[Any, Any] = (0.0, 1.0)
    ) -> None:
        self._judge, self.images, self.truth, self._order, self._box = judge, images, truth, order, box
        with torch.no_grad():
            wrong = judge(images, truth)
        self.best = torch.where(wrong, 0.0, torch.inf).double()
        self.examples = images.clone()

    def offer(self, candidates: Tensor) -> None:
        """Take every candidate that fools the model and is nearer than what is known."""
        with torch.no_grad():
            fooled = self._judge(candidates, self.truth)
        moved = (candidates.double() - self.images.double()).flatten(1)
        distance = torch.linalg.vector_norm(moved, self._order, dim=1)
        valid = ((candidates >= self._box[0]) & (candidates <= self._box[1])).flatten(1).all(1)
        better = fooled & valid & (distance < self.best)
        self.best = torch.where(better, distance, self.best)
        self.examples[better] = candidates[better]

    def press(self, attack: Callable[..., Tensor], radius: float) -> None:
        """Run an attack with a radius on the inputs that nothing is known for within it."""
        rest = self.best > radius
        if not bool(rest.any()):
            return
        candidates = self.images.clone()
        candidates[rest] = attack(self.images[rest], self.truth[rest], radius)
        self.offer(candidates)
