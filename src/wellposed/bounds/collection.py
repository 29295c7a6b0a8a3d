"""The bounds that `certify` knows, to which others can be added, and what they say of a network together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wellposed.bounds.bound import Bound, BoundMethod
from wellposed.bounds.budget import Budget, OutOfBudget
from wellposed.bounds.entrywise import Entrywise
from wellposed.bounds.from_l1 import Columns
from wellposed.bounds.from_linf import Ellipsoids
from wellposed.bounds.metric_of_tail import MetricOfTail
from wellposed.bounds.product import ProductOfConstants
from wellposed.bounds.tail_method import TailMethod
from wellposed.errors import CertificateError, GuaranteeError, InputError, check, choices
from wellposed.network import Network
from wellposed.numerics.norm import NORMS, Norm

PRODUCT = ProductOfConstants()
_TAILS: tuple[TailMethod, ...] = (MetricOfTail(), Ellipsoids(), Columns())
_METHODS: list[BoundMethod] = [Entrywise(), PRODUCT, *_TAILS]


def bound_methods(norm: Norm | None = None) -> tuple[BoundMethod, ...]:
    """The methods that `certify` asks, in order.

    Args:
        norm: those for this norm only; None for all.
    """
    return tuple(method for method in _METHODS if norm is None or norm in method.norms)


def register_bound(method: BoundMethod) -> BoundMethod:
    """Let `certify` ask a further method, whose bounds count as proved on its author's word.

    Args:
        method: an instance of a class that inherits from `BoundMethod`, whose name no other method has.

    Returns:
        The method.

    Raises:
        InputError: it is something else, or has no name, no norms, or a name that is taken.
    """
    check(
        isinstance(method, BoundMethod),
        "method",
        method,
        "must be an instance of a class that inherits from BoundMethod",
    )
    name, norms = getattr(method, "name", None), getattr(method, "norms", ())
    check(isinstance(name, str) and bool(name), "name", name, "a bound method needs a name to be asked by")
    check(bool(norms) and set(norms) <= set(NORMS), "norms", norms, f"must be some of {', '.join(NORMS)}")
    taken = [other.name for other in _METHODS]
    check(name not in taken, "name", name, f"is the name of another bound; taken are {', '.join(taken)}")
    _METHODS.append(method)
    return method


def unregister_bound(method: BoundMethod) -> None:
    """Let `certify` forget a method that was registered.

    Raises:
        InputError: it is not registered.
    """
    check(any(other is method for other in _METHODS), "method", method, "is not registered")
    _METHODS[:] = [other for other in _METHODS if other is not method]


def collect(
    network: Network, norm: Norm, name: str | None = None, budget: Budget | None = None
) -> tuple[tuple[Bound, ...], tuple[str, ...]]:
    """What the methods prove of a network, each by itself.

    Args:
        network: the stored numbers.
        norm: of inputs and outputs.
        name: of the one method to ask, beside the product of the blocks' constants; None to ask all.
        budget: of time for searches; None for no limit.

    Returns:
        The bounds, and in words what was left out for the budget.

    Raises:
        CertificateError: none of them applies, or the one that was asked for does not, and why; a `GuaranteeError` where weights
            fail their theorem.
        InputError: there is no method of that name, or it is about other norms.
    """
    if name is not None:
        choices("method", name, tuple(method.name for method in _METHODS))
    asked = bound_methods(norm)
    if name is not None and all(method.name != name for method in asked):
        known = ", ".join(next(method.norms for method in _METHODS if method.name == name))
        raise InputError(f"method={name!r}: is about the norm {known}; leave it out for norm={norm!r}")
    found: list[Bound] = []
    refusals: list[str] = []
    left_out: list[str] = []
    kinds: set[type[CertificateError]] = set()
    for method in asked:
        if name not in (None, method.name) and method is not PRODUCT:
            continue
        try:
            bound = method.bound(network, norm, budget=budget)
        except CertificateError as error:
            refusals.append(f"{method.name}: {error}")
            kinds.add(type(error))
            if isinstance(error, OutOfBudget):
                left_out.append(refusals[-1])
            continue
        if bound.left_out:
            left_out.append(f"{method.name}: {bound.left_out}")
        _require_bound(bound, method, norm)
        found.append(replace(bound, pairs=None) if network.gives_rows else bound)
    if not found or (name is not None and all(bound.method != name for bound in found)):
        asked_for = f"norm={norm!r}" if name is None else f"method={name!r}"
        failed = GuaranteeError if GuaranteeError in kinds else CertificateError
        raise failed(f"{asked_for}: {'; '.join(refusals)}")
    return tuple(found), tuple(left_out)


def least(bounds: Sequence[Bound]) -> tuple[Bound, Tensor | None]:
    """The bound with the least constant of all outputs, the first of several, and the least of all constants of every margin.

    Raises:
        CertificateError: there is none, or they are about different numbers of classes.
    """
    if not bounds:
        raise CertificateError("bounds: nothing proves a constant")
    pairs = [bound.pairs for bound in bounds if bound.pairs is not None]
    if any(part.shape != pairs[0].shape for part in pairs):
        raise CertificateError(f"pairs: bounds of {', '.join(str(len(part)) for part in pairs)} classes of one network")
    return min(bounds, key=lambda bound: bound.value), torch.stack(pairs).amin(0) if pairs else None


def _require_bound(bound: Bound, method: BoundMethod, norm: Norm) -> None:
    """Refuse what a method gave if it is no bound of its own in a norm.

    Raises:
        CertificateError: it is about another norm, or has a value that is no constant.
    """
    pairs = bound.pairs
    square = pairs is None or (pairs.ndim == 2 and pairs.shape[0] == pairs.shape[1] and bool((pairs >= 0.0).all()))
    if (bound.method, bound.norm) != (method.name, norm) or not bound.value >= 0.0 or not square:
        raise CertificateError(f"{bound!r}: is no bound of the method {method.name!r} in the norm {norm!r}")
