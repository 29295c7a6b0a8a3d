"""A lower bound of a constant: two inputs whose outputs are followed through the network, with bounds of their errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .claim import Claim
from .maps import scale_of
from .node import Node
from .proofs import UNIT, Array, Refuted, norm_of, require, rounding_constant
from .vectors import length

SIGMA: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0.0), "leaky_relu": lambda v: np.where(v > 0.0, v, 0.01 * v),
    "identity": lambda v: v, "hardtanh": lambda v: np.minimum(np.maximum(v, -1.0), 1.0),
    "relu6": lambda v: np.minimum(np.maximum(v, 0.0), 6.0),
    "tanh": np.tanh,
    "sigmoid": lambda v: np.exp(-np.logaddexp(0.0, -v)), "softplus": lambda v: np.logaddexp(v, 0.0), "arctan": np.arctan,
    "softsign": lambda v: v / (1.0 + np.abs(v)), "isru": lambda v: v / np.sqrt(1.0 + v * v), "arcsinh": np.arcsinh,
    "elu": lambda v: np.where(v > 0.0, v, np.expm1(np.minimum(v, 0.0))),
    "logarithm": lambda v: np.sign(v) * np.log1p(np.abs(v)), "exponential": lambda v: -np.sign(v) * np.expm1(-np.abs(v)),
}  # fmt: skip
# Values at both inputs, shape (2, entries), and bounds of their Euclidean errors, shape (2,).
_Point = tuple[Array, Array]


def check(nodes: list[Node], claim: Claim) -> str:
    """The claimed lower bound holds; what was proved, in words."""
    proved = lower_bound(nodes, claim)
    require(claim.lower_bound is not None and proved >= claim.lower_bound, "lower bound", f"the inputs prove {proved}")
    return f"two inputs prove that no constant below {claim.lower_bound!r} holds"


def lower_bound(nodes: list[Node], claim: Claim) -> Any:
    """What the two inputs of the evidence prove."""
    points = claim.take("witness/points", 2, nodes[0].size)
    found: list[_Point] = []
    for node in nodes[:-1]:
        given = [found[source] for source in node.sources]
        found.append(_followed(node, given, claim) if given else (points, np.zeros(2)))
    values, errors = found[-1]
    apart = _length(values[1] - values[0], claim.norm) * (1.0 - rounding_constant(2 * values.shape[1] + 8))
    lost = errors.sum() * (math.sqrt(values.shape[1]) if claim.norm == "1" else 1.0) * (1.0 + 1e-12)
    distance = _length(points[1] - points[0], claim.norm) * (1.0 + rounding_constant(points.shape[1] + 8))
    return (apart - lost) / distance * (1.0 - 1e-12) if distance > 1e-100 else 0.0


def _length(vector: Array, norm: str) -> Any:
    sizes = np.abs(vector)
    return length(vector) if norm == "2" else sizes.sum() if norm == "1" else sizes.max()


def _size(value: Array) -> Array:
    """Euclidean norms of both rows, rounded up."""
    found: Array = np.sqrt((value * value).sum(1)) * (1.0 + rounding_constant(value.shape[1] + 8)) + 1e-140
    return found


def _through(matrix: Array, bias: Array, point: _Point) -> _Point:
    """Behind a linear map."""
    value, error = point
    found, rounding = value @ matrix.T + bias, rounding_constant(matrix.shape[1] + 16)
    return found, (error * norm_of(matrix) + rounding * _size(np.abs(value) @ np.abs(matrix).T + np.abs(bias))) * (
        1.0 + 1e-12
    )


def _activated(sigma: str, slope: Any, point: _Point) -> _Point:
    require(sigma in SIGMA, "lower bound", f"nothing follows {sigma}")
    value = SIGMA[sigma](point[0])
    return value, (point[1] * slope + 32.0 * UNIT * _size(np.abs(point[0]) + 1.0)) * (1.0 + 1e-12)


def _followed(node: Node, given: list[_Point], claim: Claim) -> _Point:
    kind, numbers, (value, error) = node.kind, node.numbers, given[0]
    scale = scale_of(node)
    if kind == "Reshaped":
        return value, error
    if kind in ("SumOfTwo", "DifferenceOfTwo"):
        total = value + given[1][0] if kind == "SumOfTwo" else value - given[1][0]
        return total, (error + given[1][1] + 2.0 * UNIT * _size(total)) * (1.0 + 1e-12)
    if scale is not None:
        before, behind = (
            np.broadcast_to(numbers.get(role, 0.0), node.shape, subok=True).reshape(-1) for role in _shifts(kind)
        )
        found = (value - before) * scale + behind
        lost = 32.0 * UNIT * _size((np.abs(value) + np.abs(before)) * np.abs(scale) + np.abs(behind))
        return found, (error * np.abs(scale).max() + lost) * (1.0 + 1e-12)
    if kind == "Linear" and len(node.shape) == 1:
        return _through(numbers["W"], numbers["b"], given[0])
    if kind == "Activation":
        return _activated(node.sigma, node.slope, given[0])
    if kind == "PositivePart":
        beyond, lost = _activated("softplus", 1.0, given[0])
        found = beyond + numbers["floor"]
        return found, lost + 2.0 * UNIT * _size(found)
    if kind in ("Sandwich", "Residual") and len(node.shape) == 1:
        inner = _activated("relu", 1.0, _through(numbers["H"], numbers["b"], given[0]))
        outer, lost = _through(numbers["G"], numbers["c"], inner)
        if kind == "Sandwich":
            return outer, lost
        return outer + value, (lost + error + 2.0 * UNIT * _size(outer + value)) * (1.0 + 1e-12)
    if kind in ("ReflectedEquilibrium", "PositiveEquilibrium"):
        return _solved(node, given[0], claim)
    raise Refuted("lower bound", f"nothing follows values through {node.name}")


def _shifts(kind: str) -> tuple[str, str]:
    """Names of what is subtracted before a scale, and of what is added behind it."""
    return {"Affine": ("none", "shift"), "Normalize": ("mean", "none"), "BatchNormalized": ("mean", "bias")}[kind]


def _solved(node: Node, offset: _Point, claim: Claim) -> _Point:
    """An equilibrium near the states of the evidence: their image solves the equation for an offset that is off a little."""
    matrix, (value, error), state = node.numbers["W"], offset, claim.states(node, offset[0])
    driven, lost = _through(matrix, np.zeros(len(matrix)), (state, np.zeros(2)))
    argument = driven + value
    lost = lost + 2.0 * UNIT * _size(np.abs(driven) + np.abs(value))
    image, own = _activated(node.sigma, 1.0, (argument, np.zeros(2)))
    moved, rest = _through(
        matrix, np.zeros(len(matrix)), (state - image, own + 2.0 * UNIT * _size(np.abs(state) + np.abs(image)))
    )
    off = (_size(moved) + rest + lost + error) * (1.0 + 1e-12)
    if node.kind == "PositiveEquilibrium":
        good = (state >= 0.0).all() and (value.min(1) - off >= node.numbers["floor"]).all()
        require(good, "lower bound", f"{node.name}: an offset may be below its floor")
    return image, (off * node.numbers["sensitivity"] + own) * (1.0 + 1e-12)
