"""Solving and differentiating z = tanh(Wz + Ux + b) with a loop in jax that is written by hand and compiled as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.benchmarking.fixed_point_case import Case
from wellposed.benchmarking.fixed_point_rivals import MOST_STEPS, Solving
from wellposed.errors import require

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


class JaxLoop(Solving):
    """A loop until every sample's relative residual is within the tolerance, one step more, and the same loop for the adjoint.

    Args:
        case: the equation.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        os.environ.setdefault("XLA_FLAGS", _ONE_THREAD)
        jax = require("jax", "bench")
        tensors = (case.weight, case.inner, case.bias, case.x, case.cotangent)
        self._arrays = [jax.numpy.asarray(tensor.detach().numpy()) for tensor in tensors]
        self._compiled = jax.jit(_solved(jax))
        self._ready = jax.block_until_ready

    def run(self, *tolerances: float) -> tuple[Tensor, Tensor]:
        """See `Solving.run`."""
        found = self._ready(self._compiled(*self._arrays, *tolerances))
        value, gradient = (torch.from_numpy(np.array(part)) for part in found[:2])
        return value, gradient


def _solved(jax: Any) -> Callable[..., Any]:
    """The function of W, U, b, x, the cotangent and two tolerances: value, and gradients in the offset, W, U and b."""
    np_ = jax.numpy

    def iterated(step: Callable[[Any], Any], state: Any, rtol: Any) -> Any:
        def unfinished(carried: Any) -> Any:
            count, before, image = carried
            residual = np_.linalg.norm(image - before, axis=1)
            return (count < MOST_STEPS) & ~(residual <= rtol * np_.linalg.norm(image, axis=1)).all()

        def further(carried: Any) -> Any:
            count, _, image = carried
            return count + 1, image, step(image)

        return jax.lax.while_loop(unfinished, further, (1, state, step(state)))[2]

    def solved(weight: Any, inner: Any, bias: Any, x: Any, cotangent: Any, forward: Any, backward: Any) -> Any:
        def cell(z: Any, given: Any, offset: Any) -> Any:
            return np_.tanh(z @ given.T + offset)

        offset, through = jax.vjp(lambda u, b: x @ u.T + b, inner, bias)
        state = iterated(lambda z: cell(z, weight, offset), np_.zeros_like(cotangent), forward)
        image, transposed = jax.vjp(cell, state, weight, offset)
        adjoint = iterated(lambda y: cotangent + transposed(y)[0], cotangent, backward)
        _, in_weight, in_offset = transposed(adjoint)
        return image, in_offset, in_weight, *through(in_offset)

    return solved
