"""Arrays of rational numbers, on which numpy's functions act without rounding.

Sums, differences, products and comparisons are exact. Quotients that are no dyadic numbers, roots and transcendental functions
are within 2⁻²⁰⁰ of the truth, relative to it: far less than what the proofs count for one rounding in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .proofs import Array

try:
    import flint
    from flint import arb, fmpq, fmpq_mat
except ImportError:  # told where exact mode begins
    flint = None  # type: ignore[assignment]

_BITS = 300  # of what is no rational number, or a long one
_KEPT = {
    np.add, np.subtract, np.multiply, np.negative, np.absolute, np.maximum, np.minimum, np.less, np.less_equal, np.greater,
    np.greater_equal, np.equal, np.not_equal, np.positive,
}  # fmt: skip


def rational(value: Any) -> fmpq:
    """A float, an integer or a rational number as exactly this rational number."""
    return value if isinstance(value, fmpq) else fmpq(*value.as_integer_ratio())


_rational = np.frompyfunc(rational, 1, 1)


class Rationals(np.ndarray):
    """An array of rational numbers; what numpy cannot do with them exactly is a `TypeError`."""

    @classmethod
    def of(cls, values: Any) -> Rationals:
        """Numbers as exactly these rational ones."""
        found = np.empty(np.shape(values), object)
        found[...] = _rational(np.asarray(values))
        return found.view(cls)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply a function of numpy."""
        if "out" in options or any(isinstance(part, NDArrayOperatorsMixin) for part in inputs):  # complex ones
            return NotImplemented
        if ufunc is np.isfinite:
            return np.ones(self.shape, bool)
        if ufunc is np.ldexp:
            return inputs[0] * _power_of_two(inputs[1])
        given = [_entries(part) for part in inputs]
        if ufunc is np.matmul:
            return _wrapped(_product(*given))
        if ufunc in _APPROXIMATE and method == "__call__":
            return _wrapped(np.frompyfunc(_APPROXIMATE[ufunc], ufunc.nin, 1)(*given))
        if ufunc not in _KEPT:
            return NotImplemented
        if "initial" in options and isinstance(options["initial"], float):
            options["initial"] = rational(options["initial"])
        return _wrapped(getattr(ufunc, method)(*given, **options))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """Apply a function of numpy that moves entries."""
        found = super().__array_function__(function, types, arguments, options)
        if function is np.empty_like:
            return found
        if isinstance(found, list | tuple):
            return type(found)(_wrapped(part) for part in found)
        return Rationals.of(found) if isinstance(found, np.ndarray) and found.dtype.hasobject else found

    def __getitem__(self, place: Any) -> Any:
        return _wrapped(super().__getitem__(place))

    def __float__(self) -> float:
        raise TypeError("a rational number is no float")

    def __repr__(self) -> str:
        return repr(self.nearest().tolist())

    def any(self, *places: Any) -> Any:  # type: ignore[override]
        """Whether one is not zero."""
        return (self != 0.0).any(*places)

    def nearest(self) -> Array:
        """Floats near these."""
        return np.asarray(self, np.float64)

    def below(self) -> Rationals:
        """Numbers at most these, near them and short."""
        return _wrapped(np.frompyfunc(lambda value: _short(value.p, value.q), 1, 1)(_entries(self)))


def _entries(values: Any) -> Array:
    return values.view(np.ndarray) if isinstance(values, Rationals) else _rational(np.asarray(values))


def _wrapped(found: Any) -> Any:
    """Numbers as `Rationals`, a single one too; anything else unchanged."""
    if isinstance(found, fmpq):
        single = np.empty((), object)
        single[()] = found
        return single.view(Rationals)
    return found.view(Rationals) if isinstance(found, np.ndarray) and found.dtype.hasobject else found


def _power_of_two(exponent: Any) -> Array:
    return Rationals.of(np.frompyfunc(lambda e: fmpq(2) ** int(e), 1, 1)(exponent))


def _product(left: Array, right: Array) -> Array:
    """The product of matrices, or of a matrix and a vector."""
    if left.ndim > 2 or right.ndim > 2 or left.ndim * right.ndim == 0:
        return np.matmul(left, right)
    rows, columns = np.atleast_2d(left), right if right.ndim == 2 else right[:, None]
    first, second = (fmpq_mat(part.shape[0], part.shape[1], part.ravel().tolist()) for part in (rows, columns))
    found = np.array((first * second).entries(), object).reshape(len(rows), columns.shape[1])
    found = found if left.ndim == 2 else found[0]
    return found if right.ndim == 2 else found[..., 0]


def _short(above: Any, below: Any) -> fmpq:
    """The largest number of `_BITS` bits that is at most a quotient of integers, the second one positive."""
    above, below = int(above), int(below)
    shift = _BITS - above.bit_length() + below.bit_length()
    return fmpq((above << shift) // below, 1 << shift) if shift > 0 else fmpq((above // (below << -shift)) << -shift)


def _quotient(above: fmpq, below: fmpq) -> fmpq:
    found = above / below
    return found if int(found.q).bit_count() == 1 else _short(found.p, found.q)


def _root(value: fmpq) -> fmpq:
    if value < 0:
        raise ValueError("the root of a negative number")
    above, below = int(value.p), int(value.q)
    shift = max(2 * _BITS - above.bit_length() + below.bit_length(), 0)
    shift += shift % 2
    return fmpq(isqrt((above << shift) // below), 1 << (shift // 2))


def _power(value: fmpq, exponent: fmpq) -> fmpq:
    if exponent.q == 1:
        found = value ** abs(int(exponent.p))
        return found if exponent.p >= 0 else _quotient(fmpq(1), found)
    return _by_balls("__pow__")(value, exponent)


def _by_balls(name: str) -> Callable[..., fmpq]:
    """A function of ball arithmetic by its name, with its radius checked."""

    def applied(*values: fmpq) -> fmpq:
        with flint.ctx.workprec(2 * _BITS):
            found = getattr(arb, name)(*(arb(value) for value in values))
            if not found.is_exact() and found.rel_accuracy_bits() < _BITS - 50:
                raise ArithmeticError("a function lost its accuracy")
            return found.mid().fmpq()

    return applied


def _log_of_sum(first: fmpq, second: fmpq) -> fmpq:
    larger, apart = max(first, second), abs(first - second)
    return larger + _by_balls("log1p")(_by_balls("exp")(-apart))


_APPROXIMATE: dict[Any, Callable[..., fmpq]] = {
    np.divide: _quotient, np.sqrt: _root, np.power: _power, np.tanh: _by_balls("tanh"), np.cosh: _by_balls("cosh"),
    np.exp: _by_balls("exp"), np.expm1: _by_balls("expm1"), np.log1p: _by_balls("log1p"), np.arctan: _by_balls("atan"),
    np.arcsinh: _by_balls("asinh"), np.logaddexp: _log_of_sum, np.square: lambda value: value * value,
    np.sign: lambda value: fmpq(int(value > 0) - int(value < 0)),
}  # fmt: skip
