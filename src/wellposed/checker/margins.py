"""Class margins at the end of a chain, by the rows of its last block."""

import numpy as np

from .case import Case
from .proofs import Array, Refuted, near_one, rounding_constant


def margins(case: Case) -> Array:
    """Constants of class margins by the rows of the last block, a linear one."""
    head, exponent = near_one(case.linear_map(case.blocks[-1]))
    apart = np.sqrt(((head[:, None] - head[None]) ** 2).sum(2)) * (1.0 + rounding_constant(head.shape[1] + 8))
    proved = np.ldexp(apart, exponent) * case.before(len(case.blocks) - 1)
    equal = (head[:, None] == head[None]).all(2)  # margins that never move
    if (~equal & ((proved < 1e-250) | (apart < 1e-140))).any():
        raise Refuted("pairs", "two rows of the head are too close to each other for float64")
    return proved
