"""The factorised resolvent of a `DrivenCircular` map."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from wellposed.numerics.linear_algebra import inverse
from wellposed.operators.fourier import to_image, to_spectrum, typical_singular_value
from wellposed.operators.structured import FactorisedTransform

_CHUNK = 128  # columns of B that are transformed at a time


class DrivenCayley(FactorisedTransform):
    """``2·(I + step·Λ(I − W))⁻¹ − I`` for a `DrivenCircular` W.

    With V = (I + step·C)⁻¹ the inverse is V − V Bᵀ(I/step + B V Bᵀ)⁻¹B V. The transform of Wᵀ is Λ times the adjoint times Ψ.

    Args:
        tensors: the tensors of the map.
        image: height and width.
        step: the step.
    """

    def __init__(self, tensors: tuple[Tensor, ...], image: tuple[int, int], step: float) -> None:
        transfer, self._scale, factor, driven = tensors
        self._image, self._transposed = image, False
        identity = torch.eye(transfer.shape[-1], dtype=transfer.dtype, device=transfer.device)
        self._solved = inverse(identity + step * transfer).flatten(0, 1)
        self._driven, self._rows = driven.flatten(0, 1), factor.flatten(1)
        size = len(factor) + driven.shape[-1] * image[0] * image[1]
        units = torch.eye(size, dtype=factor.dtype, device=factor.device)
        columns = [self._seen(self._convolved(self._spread(part))) for part in units.split(_CHUNK)]
        self._small = inverse(units / step + torch.cat(columns).t())

    def _convolved(self, state: Tensor) -> Tensor:
        matrices = self._solved.mH if self._transposed else self._solved
        return to_image(torch.bmm(matrices, to_spectrum(state)), self._image)

    def _seen(self, state: Tensor) -> Tensor:
        """B of states of shape (batch, *state)."""
        inputs = to_image(torch.bmm(self._driven.mH, to_spectrum(state / self._scale)), self._image)
        return torch.cat([state.flatten(1) @ self._rows.t(), inputs.flatten(1)], 1)

    def _spread(self, vector: Tensor) -> Tensor:
        """Bᵀ of vectors, one a row."""
        rows = len(self._rows)
        inputs = vector[:, rows:].reshape(len(vector), -1, *self._image)
        state = to_image(torch.bmm(self._driven, to_spectrum(inputs)), self._image) / self._scale
        return state + (vector[:, :rows] @ self._rows).reshape(state.shape)

    @override
    def apply(self, state: Tensor) -> Tensor:
        start = state * self._scale if self._transposed else state
        first = self._convolved(start)
        small = self._small if self._transposed else self._small.t()
        found = 2.0 * (first - self._convolved(self._spread(self._seen(first) @ small))) - start
        return found / self._scale if self._transposed else found

    def norm_estimate(self) -> float:
        """Of the convolution, as if R and G were not there: they only add to what is inverted."""
        if "_rate" not in self.__dict__:
            identity = torch.eye(self._solved.shape[-1], dtype=self._solved.dtype, device=self._solved.device)
            self._rate = typical_singular_value(2.0 * self._solved - identity, self._image)
        return self._rate
