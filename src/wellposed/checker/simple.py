"""Pooling, batch normalisation and explicit convolutions."""

import math

import numpy as np

from .case import Block, Case, Shape
from .proofs import Array, Refuted, real, whole

_BATCH_NORM = {"running_mean", "running_var", "num_batches_tracked"}


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    if block["kind"] == "convolution":
        return {"weight"}, {"bias"}
    return (_BATCH_NORM, {"weight", "bias"}) if block["kind"] == "batch-norm" else (set(), set())


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block; None for convolutions, as these depend on strides."""
    if block["kind"] == "batch-norm":
        return given, given
    if block["kind"] == "pooling" and block["class"] != "MaxPool2d" and given is not None and len(given) == 3:
        rows, columns = window(block)
        return (given[0], given[1] // rows, given[2] // columns), given
    return None, None


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a block's Euclidean constant is proved."""
    block = case.blocks[place]
    if block["class"] == "MaxPool2d":  # each window that a value is in moves by no more than it does
        steps = [whole(step) for step in block["stride"]]
        shared = math.prod(-(-taps // step) for taps, step in zip(window(block), steps, strict=True))
        return value >= math.nextafter(math.sqrt(shared), math.inf)
    if block["kind"] == "pooling":  # averages over disjoint windows, or times the root of the window's size
        rows, columns = window(block)
        norm = 1.0 if block["class"] == "UnitPool2d" else math.nextafter((rows * columns) ** -0.5, math.inf)
        return block["class"] in ("AvgPool2d", "UnitPool2d") and value >= norm
    if block["kind"] == "batch-norm":
        good = block["class"] in ("BatchNorm1d", "BatchNorm2d")
        return good and value >= float(np.abs(batch_norm_scale(case, block)).max()) * (1.0 + 1e-14)
    kernel = case.getter(block)("weight")
    if block["class"] != "Conv2d" or kernel.ndim != 4:
        return False
    # Young's inequality for the sums over taps: for all strides, paddings and image sizes.
    sums = np.abs(kernel).sum((2, 3))
    return value >= math.sqrt(float(sums.sum(0).max()) * float(sums.sum(1).max())) * (1.0 + 1e-13)


def window(block: Block) -> tuple[int, int]:
    """Rows and columns of the windows of a pooling."""
    rows, columns = block["window"]
    return whole(rows), whole(columns)


def batch_norm_scale(case: Case, block: Block, prefix: str = "") -> Array:
    """What batch normalisation multiplies with in eval mode."""
    get, epsilon = case.getter(block), real(block["epsilon"])
    variance = get(f"{prefix}running_var")
    if not (variance >= 0.0).all() or not epsilon > 0.0:
        raise Refuted("block", f"{block['name']}: no variances")
    scale = 1.0 / np.sqrt(variance + epsilon)
    return scale * get(f"{prefix}weight") if f"{prefix}weight" in block["tensors"] else scale
