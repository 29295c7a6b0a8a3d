"""How steep a module is as it runs: slopes between pairs of inputs, and whether it is a map of single inputs at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import NotConvergedWarning

Run = Callable[[Tensor], Tensor]
_CENTRES = 3  # points whose steepest directions are looked for
_STEP = 1e-4  # of the differences that the steepest directions are found from
_LENGTHS = (1e-4, 1e-2, 1.0, 10.0)
NOISE = 1e-9  # relative: what solves and rounding in float64 may move an output by


@dataclass(frozen=True, eq=False)
class Slopes:
    """What was seen of a module.

    Attributes:
        observed: slopes between pairs of inputs, the errors of their outputs subtracted; shape (pairs,).
        steady: whether the same input has the same output again, alone and in another batch.
    """

    observed: Tensor
    steady: bool

    @property
    def largest(self) -> float:
        """The steepest slope, infinite where an output is not a number."""
        finite = torch.isfinite(self.observed)
        return float(self.observed.max()) if bool(finite.all()) else float("inf")


def sampled_slopes(run: Run, points: Tensor, *, random_pairs: int = 0, noise: float = NOISE) -> Slopes:
    """Slopes along the steepest directions at the first points, by differences, and between all of the points.

    Args:
        run: the module, from inputs of shape (batch, *shape) to outputs of shape (batch, ...); it may change what it is given.
        points: inputs, float64, shape (count, *shape), at least three.
        random_pairs: further pairs, of random points in random directions.
        noise: relative error of an output.

    Raises:
        NotConvergedWarning: a solve did not converge; certificates are about those that do.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", NotConvergedWarning)
        return _sampled(run, points, random_pairs, noise)


def _sampled(run: Run, points: Tensor, random_pairs: int, noise: float) -> Slopes:
    shape = points.shape[1:]
    base = points[:_CENTRES].flatten(1)
    size = base.shape[1]
    moved = base[:, None] + _STEP * torch.eye(size, dtype=base.dtype, device="cpu")
    value = _flat(run, points)
    after = _flat(run, moved.reshape(-1, *shape)).reshape(_CENTRES, size, -1)
    jacobian = (after - value[:_CENTRES, None]) / _STEP
    steepest = torch.linalg.svd(torch.nan_to_num(jacobian), full_matrices=False)[0][:, :, 0]
    first = torch.cat([base.repeat(len(_LENGTHS), 1), _neighbours(points.flatten(1), random_pairs)])
    second = torch.cat([base + length * steepest for length in _LENGTHS])
    if random_pairs:
        start = first[len(second) :]
        scale = torch.tensor(_LENGTHS, device="cpu").double()[
            torch.arange(random_pairs, device="cpu") % len(_LENGTHS), None
        ]
        second = torch.cat([second, start + scale * _directions(start)])
    ends = _flat(run, torch.cat([first, second]).reshape(-1, *shape))
    distances = [(second - first).norm(dim=1), (points.flatten(1)[1:] - points.flatten(1)[:-1]).norm(dim=1)]
    changes = [ends[: len(first)] - ends[len(first) :], value[1:] - value[:-1]]
    error = 2.0 * noise * (1.0 + float(torch.nan_to_num(ends).abs().max()))
    observed = [(change.norm(dim=1) - error) / distance for change, distance in zip(changes, distances, strict=True)]
    alone = torch.cat([_flat(run, points[k : k + 1]) for k in range(2)])
    apart = torch.cat([alone - value[:2], ends[:_CENTRES] - value[:_CENTRES]]).abs().max()
    return Slopes(torch.cat(observed), bool(apart <= 10.0 * error) or not bool(torch.isfinite(apart)))


def _flat(run: Run, points: Tensor) -> Tensor:
    return run(points.clone()).detach().as_subclass(Tensor).double().reshape(len(points), -1)


def _neighbours(rows: Tensor, count: int) -> Tensor:
    """Points, again and again, scaled so that small and large inputs are among them."""
    place = torch.arange(count, device="cpu")
    scale = torch.tensor([1.0, 0.1, 3.0, 0.0], dtype=rows.dtype, device="cpu")[place // max(len(rows), 1) % 4]
    return scale[:, None] * rows[place % len(rows)]


def _directions(rows: Tensor) -> Tensor:
    """Unit vectors that depend on nothing but the number of rows."""
    generator = torch.Generator().manual_seed(len(rows))
    found = torch.randn(rows.shape, generator=generator, dtype=rows.dtype, device="cpu")
    return found / found.norm(dim=1, keepdim=True)
