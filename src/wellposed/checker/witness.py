"""The lower bound of a constant: two inputs with their states, for a chain of normalisation, one layer and a linear head."""

import math

import numpy as np

from .activations import ACTIVATIONS
from .case import Case
from .dense import head, matrices, scaling
from .proofs import UNIT, Refuted, rounding_constant, semidefinite


def check_witness(case: Case, low: float) -> None:
    """The lower bound: two inputs with their states, for a chain of normalisation, one layer and a linear head."""
    place = case.claim["joint"]["place"]
    block = case.blocks[place]
    points = case.evidence["witness/points"].astype(np.float64).reshape(2, -1)
    mean, std = scaling(case, place, points.shape[1])
    value = (points - mean) / std
    matrix, driven = matrices(case, block)
    bias = case.getter(block)("injection.bias") if "injection.bias" in block["tensors"] else np.zeros(len(matrix))
    states = case.evidence["witness/states"]
    image = ACTIVATIONS[block["activation"]](states @ matrix.T + value @ driven.T + bias)
    # image solves the equation for an offset moved by W(states − image), and rounding; λ turns that into a distance.
    rounding = rounding_constant(matrix.shape[1] + driven.shape[1] + 16)
    sizes = np.abs(states) @ np.abs(matrix).T + np.abs(value) @ np.abs(driven).T + np.abs(bias)
    moved = np.abs((states - image) @ matrix.T) + rounding * (sizes + np.abs(states - image) @ np.abs(matrix).T)
    moved = moved + 8.0 * UNIT * np.abs(image) + 1e-300
    weights, eye = case.evidence["witness/multipliers"], np.eye(len(matrix))
    half = weights[:, None] * (eye - matrix)
    least = 0.999 * float(np.linalg.eigvalsh(half + half.T)[0])
    slack = rounding_constant(8) * float((weights[:, None] * (eye + np.abs(matrix))).sum() * 2.0) + UNIT * abs(least)
    if not semidefinite(half + half.T - least * eye, slack) or least <= 0.0 or not (weights > 0.0).all():
        raise Refuted("witness", "the layer is not proved monotone enough to bound the error of its states")
    away = 2.0 * np.linalg.norm(weights * moved, axis=1) / least * (1.0 + 1e-10)
    rows = head(case, place)
    apart, norm = rows @ (image[1] - image[0]), float(np.linalg.norm(rows)) * (1.0 + rounding_constant(rows.size + 8))
    lost, order = norm * (float(away.sum()) + rounding * float(np.abs(image).sum())), float(case.norm)
    found = float(np.linalg.norm(apart, order)) - lost * (math.sqrt(len(rows)) if order == 1.0 else 1.0)
    distance = float(np.linalg.norm(points[1] - points[0], order))
    proved = found / distance * (1.0 - 1e-12) if distance > 0.0 else 0.0
    if not proved >= low:
        raise Refuted("witness", f"{low!r} is claimed, the two inputs prove {proved!r}")
    case.log.append(f"witness: two inputs prove that no constant below {low:.9g} holds")
