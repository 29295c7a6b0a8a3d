"""W as a parameter of its own."""

import numpy as np

from .case import Getter
from .proofs import Array

ROLES = {"W"}


def weight(get: Getter, output: bool) -> tuple[Array, Array]:
    """W, in float64, which is off by nothing."""
    return get("constraint.W"), np.zeros_like(get("constraint.W"))
