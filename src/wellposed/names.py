"""The names that options take, and what they stand for: known without torch, so that help and settings need none of it."""

from __future__ import annotations

import os
from pathlib import Path

from wellposed.errors import choices

ACTIVATIONS = (
    "relu", "leaky_relu", "hardtanh", "relu6", "identity", "tanh", "sigmoid", "softplus", "softsign", "arctan", "isru", "arcsinh",
    "logarithm", "exponential", "elu", "silu", "gelu",
)  # fmt: skip
CONCAVE_ACTIVATIONS = (  # nonnegative and concave on the positive axis
    "hardtanh", "relu6", "tanh", "sigmoid", "softsign", "arctan", "isru", "arcsinh", "logarithm", "exponential",
)  # fmt: skip
COUPLINGS = ("convex", "additive", "joint", "residual")  # of orthogonal layers: how the input enters
CONV_COUPLINGS = ("convex", "residual")  # of those on images
GRAPH_VARIANTS = ("ignn", "orthogonal", "lipschitz")
IMAGE_METRICS = ("full", "channels", "image", "identity")  # what the metric of a convolution may depend on
NONNEGATIVE = ("square", "softplus", "projection")  # how W ≥ 0 is made
TASKS = ("classification", "regression")
FOLDS = 10  # parts that graph sets are divided into

DATA_SETS: dict[str, tuple[str, ...]] = {
    "images": ("digits", "mnist", "fashion-mnist", "cifar10", "cifar10-jpeg", "cifar10-lossless", "svhn"),
    "vectors": ("function-estimation",),
    "graphs": ("MUTAG", "PTC_MR", "COX2", "PROTEINS", "NCI1"),
}
"""Data sets by what one of their samples is."""


def inputs_of(name: str) -> str:
    """What one sample of a data set is: ``"images"``, ``"vectors"`` or ``"graphs"``.

    Raises:
        InputError: no set has that name.
    """
    choices("data", name, tuple(known for names in DATA_SETS.values() for known in names))
    return next(inputs for inputs, names in DATA_SETS.items() if name in names)


def is_own(name: str) -> bool:
    """Whether a name is the path of a user's own data; names of known sets are not."""
    is_known = any(name in names for names in DATA_SETS.values())
    path = Path(name)
    return not is_known and (path.suffix.lower() in (".npz", ".csv") or "/" in name or os.sep in name or path.is_dir())
