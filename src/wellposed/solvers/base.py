"""The contract of an algorithm: immutable options (`Solver`) and one running solve (`Iteration`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from wellposed.errors import InputError, shown
from wellposed.guarantee import Guarantee, Plan
from wellposed.numerics.euclidean import euclidean
from wellposed.solvers.problem import Problem

Numbers = np.ndarray[Any, np.dtype[Any]]
# Changes of iterates are taken to shrink by this share at least.
_LEAST_SHRINKING = 1e-12
_TINY = float(np.finfo(np.float64).tiny)
# By what distances are enlarged where iterations are slow: modes that are slower still take over.
_SLOW = 1.25
# A residual that has not fallen for this many steps is at its floor, or grows, or goes in circles.
PATIENCE = 30
# Changes of so many units in the last place of an iterate are rounding.
ROUNDINGS = 4.0


class Window(NamedTuple):
    """A change of an iterate many steps ago.

    Attributes:
        change: its norms, shape (batch,).
        steps: how many were taken since.
    """

    change: Tensor
    steps: int


class Iteration(ABC):
    """One solve under way: the tensors of the algorithm, advanced a step at a time.

    Attributes:
        problem: the problem of the samples that are still in the batch.
        rowwise: names of the attributes that hold one row per sample.
        image_is_free: whether judging costs no evaluation of the map, so that every step can be checked.
        guarantee: what is known of the problem, for iterations that extrapolate.
        algorithm: what runs, for reports; empty for the name of the solver.
        patience: for how many steps a residual may not fall before the sample counts as failed.
        is_cheap: whether a step costs less than a look that comes too early.
        norm: Euclidean norms of samples, which loops may replace by a cheaper one while numbers are in its range.
    """

    rowwise: tuple[str, ...] = ("point", "image")
    image_is_free: ClassVar[bool] = True
    patience: ClassVar[int] = PATIENCE
    problem: Problem
    is_cheap: bool = False
    guarantee: Guarantee | None = None
    algorithm: str = ""
    norm: Callable[[Tensor], Tensor] = staticmethod(euclidean)
    point: Tensor
    image: Tensor

    def admitted(self, state: Tensor) -> Tensor:
        """The state, brought back to the domain of the guarantee."""
        return state if self.guarantee is None else self.guarantee.project(state)

    @abstractmethod
    def advance(self) -> None:
        """Take one step."""

    def observe(self) -> Tensor:
        """The current value: what the solve would return."""
        return self.image

    def judge(self, guarantee: Guarantee | None) -> tuple[Tensor, Tensor, Tensor]:
        """The current value, its residual and its error bound (the residual where nothing is guaranteed)."""
        residual = euclidean(self.image - self.point)
        bound = residual if guarantee is None else guarantee.error_bound(self.point, self.image)
        return self.image, residual, bound

    def changes(self, norm: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Norms of the iterate's last change, of the two before, and of the iterate; None where solves are not judged by them."""
        return None

    def window(self) -> Window | None:
        """A change of about half as many steps; None in the first steps, and where solves are not judged by changes."""
        return None

    def residual_norm(self) -> Tensor:
        """‖image − point‖₂ of each sample."""
        return self.norm(self.image - self.point)

    def predicted_rate(self) -> float:
        """An estimate of the contraction per step. Only asked for where the image is not free, to decide when to look."""
        raise NotImplementedError

    def select(self, rows: Tensor) -> None:
        """Keep the samples ``rows`` only."""
        problem = self.problem.select(rows)
        if problem is None:
            raise InputError("rows: this problem cannot be restricted to some of its samples")
        self.problem = problem
        for name in self.rowwise:
            setattr(self, name, getattr(self, name)[rows])


def distance_left(
    last: Numbers, before: Numbers, earlier: Numbers, rounding: Numbers, window: Window | None = None
) -> Numbers:
    """The distance of each sample from the limit, if changes of iterates go on shrinking as they did.

    Pairs of changes tell where two modes with rates of opposite signs shrink by turns. Where changes shrink slowly, rounding
    blurs how much they did in two steps: the slower of that and of what they did in many steps counts. By numpy, whose small
    operations cost a fraction of torch's. Changes that are rounding may go in circles, and tell no more.

    Args:
        last: norms of the last changes, shape (batch,).
        before: those of the changes before.
        earlier: those of the changes before these; zero where there were none.
        rounding: up to what norm changes are rounding.
        window: a change of many steps ago, if there is one.
    """
    single = last * (last / np.maximum(before - last, before * _LEAST_SHRINKING + _TINY))
    paired = (last + before) * (last / np.maximum(earlier - last, earlier * _LEAST_SHRINKING + _TINY))
    left = np.where(earlier > 0.0, paired, single)
    if window is not None:
        rate = np.minimum((last / window.change.cpu().numpy()) ** (1.0 / window.steps), 1.0 - _LEAST_SHRINKING)
        left = np.fmax(left, _SLOW * last * (rate / (1.0 - rate)))
    return np.where(np.maximum(last, before) <= rounding, last, left)


class Solver(ABC):
    """Options of an algorithm; a frozen dataclass whose fields are checked."""

    def plan(self, guarantee: Guarantee) -> Plan | None:
        """What a guarantee proves of this algorithm with these options; None where nothing is proven, as by default."""
        return None

    def reflected_step(self, guarantee: Guarantee) -> float | None:
        """The step α of an algorithm whose iteration is ``u ← αq + C·(R(u) + αq)``; None for others.

        C is the operator's `cayley` at that step, R the reflected resolvent of the activation, and the value its resolvent of u.
        """
        return None

    @abstractmethod
    def bind(self, problem: Problem, guarantee: Guarantee | None, start: Tensor | None, like: Tensor) -> Iteration:
        """Begin a solve.

        Args:
            problem: what to solve.
            guarantee: what is known about it, used for step sizes.
            start: first iterate of shape (batch, *state), or None for zero.
            like: a tensor of the state's shape, dtype and device.
        """


def check_solver(solver: object) -> None:
    """Refuse anything but an instance of a solver, or None.

    Raises:
        InputError: a name or a class was given.
    """
    if solver is not None and not isinstance(solver, Solver):
        raise InputError(f"solver={shown(solver)}: give an instance, such as wellposed.Anderson(), or None")
