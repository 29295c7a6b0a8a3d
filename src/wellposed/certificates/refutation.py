"""A proof that some offset of a ReLU network has several equilibria, or none: a principal minor of I − W that is not positive.

z = max(Wz + q, 0) has exactly one solution for every q if and only if all principal minors of I − W are positive (Murty 1972).
Minors are searched for in floating point, where they may have any sign by rounding, and then proved: of up to 64 rows in
rational arithmetic, which also gives two equilibria; of more by the residuals of a factorisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from wellposed.numerics.outward import enlarged, rounding_constant

_STARTS = 40  # of the search for a minor that is not positive
_EXACT_ROWS = 64  # of minors in rational arithmetic
_ROUNDED = 1e-6  # of two equilibria's distance, by which rounding may move them

Vector = list[Fraction]


@dataclass(frozen=True, eq=False, repr=False)
class TwoEquilibria:
    """Two solutions of z = max(Wz + q, 0), rational numbers rounded to float64.

    Attributes:
        offset: q, float64, shape (n,).
        first: a solution, shape (n,).
        second: another.
        residual: the larger of the two norms ‖max(Wz + q, 0) − z‖₂ for the rounded numbers.
        input: an x with Ux + b = q up to rounding, shape (inputs,), or None where there is none.
    """

    offset: Tensor
    first: Tensor
    second: Tensor
    residual: float
    input: Tensor | None

    def __repr__(self) -> str:
        return f"TwoEquilibria({len(self.first)} units, off by {self.residual:.3g})"


def refuted(matrix: Tensor) -> tuple[bool, TwoEquilibria | None]:
    """Whether a principal minor of I − W is proved not to be positive, and two equilibria where they are at hand.

    Flips entries of D, a diagonal of zeros and ones, each time the one that shrinks det(I − DW) most, from several starts.

    Args:
        matrix: W, float64, shape (n, n).
    """
    size = len(matrix)
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for start in range(_STARTS):
        share = 0.0 if start == 0 else float(torch.rand((), generator=generator, device="cpu"))
        pattern = (torch.rand(size, generator=generator, device="cpu") < share).double()
        for _ in range(4 * size):
            inverse, failed = torch.linalg.inv_ex(identity - pattern[:, None] * matrix)
            if int(failed):
                break
            # det(I − D'W)/det(I − DW) when entry k is flipped: linear in it.
            ratios = 1.0 - (1.0 - 2.0 * pattern) * (matrix * inverse.t()).sum(1)
            place = int(ratios.argmin())
            least = float(ratios[place])
            if least <= 0.0:
                proved, found = _crossed(matrix, pattern > 0.5, place)
                if proved:
                    return True, found
                break  # the sign was one of rounding
            if not least < 1.0:
                break
            pattern[place] = 1.0 - pattern[place]
    return False, None


def _crossed(matrix: Tensor, active: Tensor, place: int) -> tuple[bool, TwoEquilibria | None]:
    """Whether det(I − DW) is proved to reach zero when one entry of D is flipped, and what lies there."""
    if int(active.sum()) <= _EXACT_ROWS:
        return _exactly(matrix, active.nonzero()[:, 0].tolist(), place)
    flipped = active.clone()
    flipped[place] = ~flipped[place]
    return any(_is_negative(matrix[kept][:, kept]) for kept in (active, flipped)), None


def _exactly(matrix: Tensor, active: list[int], place: int) -> tuple[bool, TwoEquilibria | None]:
    """The two equilibria where the determinant is zero, in rational numbers."""
    size = len(matrix)
    used = sorted({*active, place})
    columns = [[Fraction(x) for x in matrix[:, k].tolist()] for k in used]
    rows = [[Fraction(int(i == j)) - column[i] for j, column in zip(used, columns, strict=True)] for i in active]
    # v = DWv + e_place; outside of D it is e_place.
    kept = [k for k, j in enumerate(used) if j in set(active)]
    unit = [Fraction(int(j == place)) for j in used]
    right = [unit[used.index(i)] for i in active]
    if place not in active:
        right = [value + columns[used.index(place)][i] for value, i in zip(right, active, strict=True)]
    solved = _solved([[row[k] for k in kept] for row in rows], right)
    if solved is None:
        return True, None  # a minor that is zero
    vector = [Fraction(1)] * len(used)
    for k, value in zip(kept, solved, strict=True):
        vector[k] = value
    change = [sum((c[i] * v for c, v in zip(columns, vector, strict=True)), Fraction(0)) for i in range(size)]
    at, before = change[place], int(place in active)
    if (1 - 2 * before) * at < 1:
        return False, None
    largest = max(abs(value) for value in change)
    return True, _rounded(matrix, set(active), place, [value / largest for value in change], before + 1 / at)


def _rounded(matrix: Tensor, active: set[int], place: int, change: Vector, between: Fraction) -> TwoEquilibria | None:
    """The equilibria whose pre-activations differ by ``change``, at most one in size, where D is ``between`` at a place."""
    if change[place] < 0:
        change = [-value for value in change]
    first, second = ([sign * value / 2 for value in change] for sign in (1, -1))
    for k in range(len(change)):
        middle = 1 if k in active else -1
        first[k], second[k] = first[k] + middle, second[k] + middle
    first[place], second[place] = between * change[place], (between - 1) * change[place]
    zero = Fraction(0)
    states = [[max(value, zero) for value in driven] for driven in (first, second)]
    rows = [[Fraction(x) for x in row] for row in matrix.tolist()]
    offset = [value - _dot(row, states[0]) for value, row in zip(first, rows, strict=True)]
    try:
        given, *found = ([float(value) for value in part] for part in (offset, *states))
    except OverflowError:
        return None
    missed = []
    for state in ([Fraction(value) for value in part] for part in found):
        away = [
            float(max(_dot(row, state) + Fraction(q), zero) - value)
            for row, q, value in zip(rows, given, state, strict=True)
        ]
        missed.append(math.hypot(*away))
    apart = math.dist(*found)
    if not max(missed) <= _ROUNDED * apart:
        return None
    q, z, other = (torch.tensor(part, dtype=torch.float64, device="cpu") for part in (given, *found))
    return TwoEquilibria(q, z, other, max(missed), None)


def _dot(first: Vector, second: Vector) -> Fraction:
    return sum((a * b for a, b in zip(first, second, strict=True) if b), Fraction(0))


def _solved(rows: list[Vector], right: Vector) -> Vector | None:
    """The solution of a square system, exactly, or None of a singular one (Bareiss' elimination in whole numbers)."""
    whole: list[list[int]] = []
    for entries, value in zip(rows, right, strict=True):
        scale = math.lcm(value.denominator, *(x.denominator for x in entries))
        whole.append([int(x * scale) for x in (*entries, value)])
    size, divisor = len(whole), 1
    for k in range(size):
        pivot = next((i for i in range(k, size) if whole[i][k]), None)
        if pivot is None:
            return None
        whole[k], whole[pivot] = whole[pivot], whole[k]
        top = whole[k]
        for row in whole[k + 1 :]:
            own = row[k]
            row[k:] = [0, *((top[k] * row[j] - own * top[j]) // divisor for j in range(k + 1, size + 1))]
        divisor = top[k]
    found: Vector = []
    for k in reversed(range(size)):
        row = whole[k]
        known = sum((row[j] * value for j, value in zip(range(size - 1, k, -1), found, strict=True)), Fraction(0))
        found.append((row[size] - known) / row[k])
    return found[::-1]


def _is_negative(matrix: Tensor) -> bool:
    """Whether det(I − W) < 0 is proved, by one LU factorisation and one inverse X.

    Where ‖X·B − I‖ < 1, det X and det B have the same sign (I + s(XB − I) is regular for all s in [0, 1]); it is proved of the
    matrix, with its rounding errors, and of the computed factors, whose determinant has a sign that can be read.
    """
    size = len(matrix)
    displacement = torch.eye(size, dtype=torch.float64, device="cpu") - matrix
    exponents = torch.frexp(displacement.abs().amax(1))[1]
    scaled = torch.ldexp(displacement, -exponents[:, None])
    order, lower, upper = torch.linalg.lu(scaled)
    inverse, failed = torch.linalg.inv_ex(scaled)
    if int(failed) or not bool(torch.isfinite(inverse).all()):
        return False
    factored, rounding, identity = (
        order @ lower,
        rounding_constant(2 * size + 8),
        torch.eye(size, dtype=torch.float64, device="cpu"),
    )
    tiny = size * torch.finfo(torch.float64).tiny
    for product, terms in (
        (inverse @ scaled, inverse.abs() @ (scaled.abs() + identity)),
        (inverse @ factored @ upper, inverse.abs() @ factored.abs() @ upper.abs()),
    ):
        missed = (
            (product - identity).abs()
            + enlarged(rounding * (terms + identity), 2 * size + 4)
            + tiny * (1.0 + inverse.abs().sum(1))[:, None]
        )
        if not float(missed.sum(1).amax()) < 0.99:
            return False
    places = order.argmax(0).tolist()
    swaps, seen = 0, [False] * size
    for begin in range(size):
        place, length = begin, 0
        while not seen[place]:
            seen[place], place, length = True, places[place], length + 1
        swaps += max(length - 1, 0)
    negative = int((upper.diagonal() < 0.0).sum()) + swaps
    return negative % 2 == 1
