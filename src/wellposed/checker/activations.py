"""Activations with slopes in [0, 1] everywhere, which is all that the theorems need of them."""

from collections.abc import Callable

import numpy as np

from .proofs import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0.0), "leaky_relu": lambda v: np.where(v > 0.0, v, 0.01 * v), "identity": lambda v: v,
    "hardtanh": lambda v: np.clip(v, -1.0, 1.0), "relu6": lambda v: np.clip(v, 0.0, 6.0), "tanh": np.tanh,
    "sigmoid": lambda v: np.exp(-np.logaddexp(0.0, -v)), "softplus": lambda v: np.logaddexp(v, 0.0), "arctan": np.arctan,
    "softsign": lambda v: v / (1.0 + np.abs(v)), "isru": lambda v: v / np.sqrt(1.0 + v * v), "arcsinh": np.arcsinh,
    "elu": lambda v: np.where(v > 0.0, v, np.expm1(np.minimum(v, 0.0))),
}  # fmt: skip
