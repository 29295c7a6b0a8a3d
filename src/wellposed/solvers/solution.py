"""The result of a solve: values with evidence, one entry per sample."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from wellposed.errors import NotConvergedError, NotConvergedWarning, check, choices
from wellposed.numerics.brief import shown

State = TypeVar("State", Tensor, tuple[Tensor, ...])


class Status(enum.Enum):
    """What became of one sample; the value says what happened and what to do."""

    CONVERGED = "converged: the error bound, or without a guarantee the residual, is within the tolerance"
    MAX_STEPS = "not converged: the step limit was reached; raise max_steps, loosen rtol/atol, or use another solver"
    STALLED = (
        "not converged: the residual stopped falling, close to the rounding floor of the dtype; "
        "loosen rtol/atol, or use float64 where these numbers are float32"
    )
    ROUNDING = (
        "not certified: the value has settled, but what rounding may have moved it by, as far as it is bounded, is more than the "
        "tolerance; loosen rtol/atol, or use float64 where these numbers are float32"
    )
    DIVERGED = (
        "not converged: the residual grows or goes in circles, so this iteration does not contract here; use a damped, "
        "Anderson, Broyden or Newton solver, or a constrained layer whose convergence is guaranteed"
    )
    NONFINITE = (
        "not converged: NaN or infinity appeared; the value is the best finite iterate. Check this sample's input and "
        "the weights"
    )

    @property
    def code(self) -> int:
        """The number that stands for this status in ``Solution.status_codes``."""
        return _ORDER.index(self)


_ORDER = tuple(Status)


class Statuses(tuple[Status, ...]):
    """The status of every sample; its ``repr`` counts them."""

    def __repr__(self) -> str:
        return (
            ", ".join(f"{self.count(status)}× {status.name.lower()}" for status in _ORDER if status in self) or "none"
        )


@dataclass(frozen=True)
class Tolerance:
    """When a sample is done: its error bound (or residual) is at most ``atol + rtol·‖value‖₂``.

    Error bounds may exceed it by what numbers can lose at the lower end of the dtype, far below 1e-25 in float32.

    Left at None, both are eps^(2/3) of the state's dtype: 2.4e-5 in float32, 3.7e-11 in float64.
    """

    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            check(not isinstance(value, Tensor), name, value, "must be a number, not a tensor: use .item()")
            check(value is None or 0.0 <= value < float("inf"), name, value, "must be a finite number, not negative")

    def resolve(self, dtype: torch.dtype) -> tuple[float, float]:
        """``(rtol, atol)`` with the defaults of a dtype filled in."""
        default = torch.finfo(dtype).eps ** (2 / 3)
        return (default if self.rtol is None else self.rtol, default if self.atol is None else self.atol)


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """How a solve went, without its value; shapes are (batch,).

    Attributes:
        status_codes: index into the members of `Status`.
        residual: ‖f(z) − z‖₂ at the last accepted point.
        steps: iterations that led to this sample's value, or until it failed.
        error_bound: rigorous bound on ‖value − z*‖₂, or None where no guarantee is known.
        algorithm: what ran: the name of the solver, and of `Adaptive` what it came to, "Picard" where that was enough and
            "Picard, then Anderson" where acceleration was tried.
    """

    status_codes: Tensor
    residual: Tensor
    steps: Tensor
    error_bound: Tensor | None
    algorithm: str = ""

    @property
    def converged(self) -> Tensor:
        """Which samples converged, boolean of shape (batch,)."""
        return self.status_codes == Status.CONVERGED.code

    @property
    def status(self) -> Statuses:
        """The status of every sample."""
        return Statuses(_ORDER[code] for code in self.status_codes.flatten().tolist())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(self._said())})"

    def _said(self) -> list[str]:
        """What ``repr`` says of the samples, one after the other."""
        if not self.steps.numel():
            return ["no samples"]
        known = "residual" if self.error_bound is None else "error"
        most = float((self.residual if self.error_bound is None else self.error_bound).max())
        return [repr(self.status), f"at most {int(self.steps.max())} steps", f"{known} at most {most:.3g}"]

    def fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All that is one number per sample, in order."""
        return self.status_codes, self.residual, self.steps, self.error_bound

    def reshape(self, lead: torch.Size) -> Report:
        """The report with its samples arranged in another batch shape."""
        codes, residual, steps, bound = self.fields()
        shaped_bound = None if bound is None else bound.reshape(lead)
        return Report(codes.reshape(lead), residual.reshape(lead), steps.reshape(lead), shaped_bound, self.algorithm)

    def complain(self, on_failure: str, what: str, diagnose: Callable[[], None] | None = None) -> None:
        """Raise or warn if any sample did not converge.

        Args:
            on_failure: ``"raise"`` or ``"warn"``.
            what: the words that name the solve in the message.
            diagnose: called first on failure, to raise a more telling error if it knows one.
        """
        if not bool(self.status_codes.any()):  # the code of CONVERGED is zero
            return
        if diagnose is not None:
            diagnose()
        failed = [code for code in self.status_codes.flatten().tolist() if code]
        worst = max(set(failed), key=failed.count)
        message = f"{what}: {len(failed)} of {self.status_codes.numel()} samples {_ORDER[worst].value}"
        if self.error_bound is not None:
            largest = self.error_bound[self.status_codes > 0].max()
            message += f" (error bounds up to {float(largest):.3g})"
        if on_failure == "raise":
            raise NotConvergedError(message)
        warnings.warn(message, NotConvergedWarning, stacklevel=3)


def check_on_failure(on_failure: str) -> None:
    """Refuse anything but the two ways of hearing about a failure."""
    choices("on_failure", on_failure, ("warn", "raise"))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The value of a solve, and how it went."""

    value: Tensor
    report: Report


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Solution(Report, Generic[State]):
    """The value of a solve and its evidence.

    Attributes:
        value: the equilibrium, in the state's shape; differentiable.
        adjoint_reports: filled, in order, by every backward pass through ``value``: how the adjoint solve went, with the
            error bound of the adjoint state.
    """

    value: State
    adjoint_reports: list[Report] = field(default_factory=list)

    def _said(self) -> list[str]:
        return [*super()._said(), f"value {shown(self.value)}"]
