"""A model's Lipschitz constants as an object that can be applied and checked again."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.bounds.bound import Bound, require_proved
from wellposed.bounds.collection import least
from wellposed.bounds.factor import Factor, product
from wellposed.bounds.tail_bound import TailBound
from wellposed.certificates.order import must_be_ordered
from wellposed.certificates.radius import RULES, check_labels, radii
from wellposed.errors import (
    CertificateError,
    InputError,
    NotConvergedWarning,
    WellposedError,
    check,
    check_class,
    choices,
)
from wellposed.lower_bounds.witness import slope_between
from wellposed.network import BoundedLogits, Network, bounded_logits, materialise
from wellposed.numerics.norm import Norm
from wellposed.numerics.outward import REPRODUCIBLE, enlarged
from wellposed.numerics.shown import at_least, at_most


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Certificate:
    """Proved Lipschitz constants of one network. Two certificates are equal that claim the same of the same network.

    Attributes:
        norm: the norm of inputs and outputs, ``"2"``, ``"inf"`` or ``"1"``.
        lipschitz: constant of the map from the model's input to its logits, in the input's own units (pixels, when the
            model normalises inside).
        method: how it was obtained.
        network: the network that it is about, which `evaluate` runs.
        bounds: every bound that was proved, with its evidence; the claims are the least of them.
        pairs: constants of the class margins y_i − y_j, shape (classes, classes), or None without a linear head.
        precision: of the arithmetic that radii hold for: ``"float32"``, ``"float64"``, or ``"float32, float64"`` for a mixture.
        lower_bound: a proved lower bound of the same constant, or None if none was looked for.
        witness: the two inputs that prove the lower bound.
        left_out: what the budget of `certify` did not suffice for, in words, each with the bound's name.
    """

    norm: Norm
    lipschitz: float
    method: str
    network: Network
    bounds: tuple[Bound, ...]
    pairs: Tensor | None
    precision: str
    lower_bound: float | None = None
    witness: tuple[Tensor, Tensor] | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        must_be_ordered(self.lower_bound, self.lipschitz)

    def __repr__(self) -> str:
        margins = "no class margins" if self.pairs is None else f"{len(self.pairs)} classes"
        least = "" if self.lower_bound is None else f", at least {at_least(self.lower_bound, 6)}"
        missing = "".join(f"; left out: {part}" for part in self.left_out)
        return f"Certificate(norm {self.norm}: at most {at_most(self.lipschitz, 6)}{least}; {margins}; {self.method}{missing})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Certificate):
            return NotImplemented
        pairs = [None if part.pairs is None else part.pairs.tolist() for part in (self, other)]
        return self._claims() == other._claims() and pairs[0] == pairs[1]

    def __hash__(self) -> int:
        return hash(self._claims())

    def _claims(self) -> tuple[object, ...]:
        return self.norm, self.lipschitz, self.lower_bound, self.network.digest, self.precision

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The blocks with their constants in this norm, whose product is an upper bound too; none where a block has none."""
        return next((bound.factors for bound in self.bounds if bound.factors), ())

    @property
    def tail(self) -> TailBound | None:
        """What diagonal metrics prove of the last layer with its head, or None where they prove nothing."""
        return next((bound.tail for bound in self.bounds if bound.tail is not None), None)

    @property
    def rules(self) -> tuple[str, ...]:
        """The radius rules that this certificate supports, the tightest last."""
        known = RULES if self.pairs is not None else RULES[:-1]
        return known if self.norm == "2" else tuple(rule for rule in known if rule != "sqrt2")

    def radius(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        rule: str | None = None,
        logit_error: Tensor | None = None,
        elsewhere: Tensor | None = None,
        growth: Tensor | None = None,
    ) -> Tensor:
        """Certified radius per sample; see `wellposed.certificates.radius.radii`.

        Args:
            logits: shape (batch, classes).
            labels: true classes, shape (batch,).
            rule: ``"paper"``, ``"sqrt2"`` or ``"pairs"``; None for the tightest available.
            logit_error: bound on the error of the logits; None to take them as exact. `evaluate` counts it.
            elsewhere: with ``growth``, a bound ``elsewhere + growth·r`` on the errors of logits at inputs up to r away; None for
                ``logit_error``, where that holds everywhere.
            growth: how errors of logits grow with the distance from the input; None for zero.
        """
        rule = self.rules[-1] if rule is None else rule
        choices("rule", rule, self.rules if self.norm != "2" else RULES)
        # The published rule is about the published constant.
        published = rule == "paper" and self.norm == "2" and bool(self.factors)
        constant = product(self.factors) if published else self.lipschitz
        return radii(logits, labels, constant, self.pairs, rule, logit_error, elsewhere, growth)

    def evaluate(
        self, x: Any, labels: Tensor, *, rule: str | None = None, forward: bool = False, batch_size: int = 1000
    ) -> Tensor:
        """Certified radii of inputs under the network that this certificate is about, whatever became of the module since.

        The errors of its evaluation and of all others within the radius are counted.

        Args:
            x: inputs, shape (batch, ...), or a batch of graphs, see `bounded_logits`.
            labels: true classes, shape (batch,).
            rule: see `radius`.
            forward: whether radii are to hold for plain forward passes that are within their tolerance too, in the worst case of
                rounding; see `bounded_logits`.
            batch_size: inputs evaluated at a time.

        Warns:
            NotConvergedWarning: with the number of inputs whose solve did not converge; their radius is zero.
        """
        check(type(forward) is bool, "forward", forward, "must be True or False")
        network = self._about(None)
        network.require_unchanged()
        if network.takes_graphs:
            result = bounded_logits(network, x, forward=forward)
            _say_unsolved(int(result.unsolved.sum()), len(result.error))
            return self.of(result, labels, rule=rule)
        network.check_input(x)
        check_labels(labels, len(x))
        check(type(batch_size) is int and batch_size >= 1, "batch_size", batch_size, "must be a positive integer")
        batch_size = min(batch_size, max(len(x), 1))
        found, unsolved = [], 0
        for rows, truth in zip(x.split(batch_size), labels.split(batch_size), strict=True):
            result = bounded_logits(network, rows, forward=forward)
            found.append(self.of(result, truth, rule=rule))
            unsolved += int(result.unsolved.sum())
        _say_unsolved(unsolved, len(x))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device="cpu")

    def of(self, result: BoundedLogits, labels: Tensor, *, rule: str | None = None) -> Tensor:
        """Certified radius per sample, with every error of the evaluation and of all others within the radius counted.

        Args:
            result: of `Network.bounded` of the network that this certificate is about.
            labels: true classes, shape (batch,).
            rule: see `radius`.

        Raises:
            InputError: they are logits of another network.
        """
        check_class("result", result, BoundedLogits, "must be what Network.bounded gives")
        if result.digest not in (None, self.network.digest):
            raise InputError("result: these are logits of another network than the one that this certificate is about")
        # Errors grow with the Euclidean distance, which is at most √d times that of the ℓ∞ norm.
        growth = result.growth if self.norm != "inf" else enlarged(result.growth * math.sqrt(result.inputs), 2)
        return self.radius(
            result.logits, labels, rule=rule, logit_error=result.error, elsewhere=result.elsewhere, growth=growth
        )

    def is_about(self, model: nn.Module | Network) -> bool:
        """Whether a model now is the network that this certificate is about; False also where it could not be certified.

        Args:
            model: any module, or a network.
        """
        try:
            return materialise(model, self.network.input_shape).digest == self.network.digest
        except WellposedError:
            return False

    def check(self, model: nn.Module | Network | None = None) -> bool:
        """Prove everything again, from the network's stored numbers.

        Args:
            model: the model; by default the network that was certified.

        Returns:
            True.

        Raises:
            CertificateError: the weights differ, or a constant claimed here is smaller than what can be proved.
        """
        network = self._about(model)
        best, pairs = least([bound.check(network) for bound in self.bounds])
        if not math.isfinite(self.lipschitz):
            raise CertificateError(f"lipschitz: {self.lipschitz!r} is no constant")
        require_proved("lipschitz", self.lipschitz, self.pairs, best.value, pairs)
        self._check_lower_bound(network)
        return True

    def _check_lower_bound(self, network: Network) -> None:
        if self.lower_bound is None:
            return
        try:
            if self.witness is None:
                raise InputError("witness: missing")
            proved = slope_between(network.exact, *self.witness, norm=self.norm)
        except (RuntimeError, ValueError, InputError) as error:
            raise CertificateError(f"witness: not a pair of inputs of the model ({error})") from error
        if not self.lower_bound <= min(proved * REPRODUCIBLE, self.lipschitz):
            raise CertificateError(f"lower_bound: {self.lower_bound!r} is claimed, the witness proves only {proved!r}")

    def _about(self, model: nn.Module | Network | None) -> Network:
        """The network that this certificate is about, which a given model must be."""
        if model is not None and materialise(model, self.network.input_shape).digest != self.network.digest:
            raise CertificateError("model: is another network by now than the one that this certificate is about")
        return self.network


def _say_unsolved(count: int, inputs: int) -> None:
    """Warn of inputs whose solve did not converge, if there are any."""
    if count:
        warnings.warn(
            f"{count} of {inputs} inputs: the solve did not converge, and their radius is 0",
            NotConvergedWarning,
            stacklevel=3,
        )
