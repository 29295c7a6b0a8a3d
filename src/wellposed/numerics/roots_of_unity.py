"""Roots of unity in float64, each exactly rounded."""

from __future__ import annotations

from functools import cache

_BITS = 256  # of fixed-point numbers
_ONE = 1 << _BITS


@cache
def roots_of_unity(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cosines and sines of 0, 2π/n, 4π/n, …, 2π(n − 1)/n, the float64 numbers nearest to them.

    Args:
        count: n, at least one.
    """
    angle = 2 * _pi() // count
    cosine, sine = _series(angle, 0), _series(angle, 1)
    point, cosines, sines = (_ONE, 0), [], []
    for _ in range(count):
        cosines.append(_rounded(point[0]))
        sines.append(_rounded(point[1]))
        first, second = point
        point = (first * cosine - second * sine) >> _BITS, (first * sine + second * cosine) >> _BITS
    return tuple(cosines), tuple(sines)


def _rounded(number: int) -> float:
    """A fixed-point number in float64; one as small as errors are is zero, as all other sines and cosines are far larger."""
    return 0.0 if abs(number) < 1 << _BITS // 2 else number / _ONE


def _series(angle: int, first: int) -> int:
    """The Taylor series of the cosine, from its term 0 on, or of the sine, from its term 1 on."""
    term, total, place = (angle if first else _ONE), 0, first
    while term:
        total += term
        place += 2
        term = -(((term * angle >> _BITS) * angle >> _BITS) // (place * (place - 1)))
    return total


def _pi() -> int:
    """π by Machin's formula, 16·arctan(1/5) − 4·arctan(1/239)."""
    return 16 * _inverse_arctangent(5) - 4 * _inverse_arctangent(239)


def _inverse_arctangent(number: int) -> int:
    power, total, place = _ONE // number, 0, 1
    while power:
        total += power // place if place % 4 == 1 else -(power // place)
        power, place = power // number**2, place + 2
    return total
