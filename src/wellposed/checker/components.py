"""Constants in the ℓ∞ and ℓ1 norms, component by component.

Every block has a nonnegative matrix K with |Δy| ≤ K|Δx|. For layers with slopes in [0, 1] it is A⁻¹|U| with A = I − M(W), which
keeps W's diagonal and takes absolute values off it (Jafarpour et al. 2021); for positive ones (I − DW)⁻¹D|U|. A is an M-matrix
once a v > 0 has Av > 0; then y with Ay ≥ s ≥ 0 is above A⁻¹s, so that vectors prove all there is to prove.
"""

import itertools
from typing import Any

import numpy as np

from .case import Block, Case, module, moves_only
from .proofs import Array, Refuted, bounded, rounding_constant

_LAYERS = {"equilibrium": "dense", "positive": "positive"}
_LINEAR = ("linear", "orthogonal")
_TINY = 1e-300  # more than underflow can lose
_ELEMENTWISE = ("Flatten", "Identity", "ReLU", "Tanh", "Sigmoid", "Hardtanh", "Dropout")


def constants(case: Case) -> tuple[float, Array | None]:
    """Proved constants of all outputs and of their margins, the latter None where no linear map ends the chain."""
    passive = [block["kind"] == "nonexpansive" and block["class"] in _ELEMENTWISE for block in case.blocks]
    for block, skipped in zip(case.blocks, passive, strict=True):
        if not skipped and (block["kind"] not in ("normalize", *_LINEAR, *_LAYERS) or block.get("image")):
            raise Refuted("components", f"{block['name']}: nothing is known by components of a {block['class']}")
    place = len(passive) - 1 - passive[::-1].index(False)
    blocks, trailing = case.blocks[: place + 1], case.blocks[place + 1 :]
    # What an activation makes of two outputs is not bounded by their difference.
    linear = blocks[-1]["kind"] in _LINEAR or bool(blocks[-1].get("output"))
    linear = linear and all(moves_only(block) or block["class"] == "Dropout" for block in trailing)
    rows = _rows(case, blocks[-1])
    places = list(itertools.combinations(range(len(rows)), 2)) if linear else []
    margins = np.array([rows[i] - rows[j] for i, j in places]).reshape(-1, rows.shape[1])
    up = 1.0 + rounding_constant(2 * rows.shape[1] + 16)
    if case.norm == "inf":
        bounds = np.abs(np.concatenate([rows, margins])) @ _ahead(case, blocks) * up
        bounds = bounds + _TINY * np.concatenate([rows, margins]).any(1)
        whole, apart = float(bounds[: len(rows)].max()), bounds[len(rows) :]
    else:
        bounds = _back(case, blocks, np.concatenate([np.abs(rows).sum(0)[None], np.abs(margins)]) * up).max(1)
        whole, apart = float(bounds[0]), bounds[1:]
    if not linear:
        return whole, None
    pairs = np.zeros((len(rows), len(rows)))
    for (i, j), bound in zip(places, apart, strict=True):
        pairs[i, j] = pairs[j, i] = bound
    return whole, pairs


def _rows(case: Case, block: Block) -> Array:
    """The matrix that a block ends with, with its signs."""
    if block["kind"] in _LINEAR:
        return case.linear_map(block)
    if block.get("output"):
        return module("dense").output_map(case, block)
    return np.eye(len(case.evidence[f"{block['name']}/matrix"]))


def _ahead(case: Case, blocks: list[Block]) -> Array:
    """How far every component moves at most before the rows of the last block, for inputs that move by one each."""
    reached = np.ones(_inputs(case, blocks))
    for place, block in enumerate(blocks):
        if block["kind"] == "normalize":
            reached = reached / _deviations(case, block, blocks[place:]) * (1.0 + 1e-15)
        if block["kind"] in _LAYERS:
            layer = _Layer(case, block)
            driven = layer.scale * (layer.inputs @ reached) * layer.up + _TINY
            reached = layer.above(case.evidence[f"{block['name']}/moved"].astype(np.float64), driven, backwards=False)
        if block is not blocks[-1] and (block["kind"] in _LINEAR or block.get("output")):
            rows = np.abs(_rows(case, block))
            reached = rows @ reached * (1.0 + rounding_constant(rows.shape[1] + 8)) + _TINY
    return reached


def _back(case: Case, blocks: list[Block], back: Array) -> Array:
    """``back·K`` for the K of the blocks before the rows of the last one, rounded up."""
    for place, block in reversed(list(enumerate(blocks))):
        if block["kind"] == "normalize":
            back = back / _deviations(case, block, blocks[place:]) * (1.0 + 1e-15)
        if block is not blocks[-1] and (block["kind"] in _LINEAR or block.get("output")):
            rows = np.abs(_rows(case, block))
            back = back @ rows * (1.0 + rounding_constant(len(rows) + 8)) + _TINY * back.any(1, keepdims=True)
        if block["kind"] in _LAYERS:
            layer, moved = _Layer(case, block), case.evidence[f"{block['name']}/moved"].astype(np.float64)
            proved = [layer.above(above, row, backwards=True) for above, row in zip(moved, back, strict=True)]
            back = (np.stack(proved) * layer.scale) @ layer.inputs * layer.up + _TINY * back.any(1, keepdims=True)
    return back


class _Layer:
    """A, the scale D and |U| of one layer, A being an M-matrix."""

    def __init__(self, case: Case, block: Block) -> None:
        if block["kind"] == "equilibrium":
            matrix, driven = module("dense").matrices(case, block)
            self.diagonal, self.off = 1.0 - np.diagonal(matrix), np.abs(matrix) * (1.0 - np.eye(len(matrix)))
            self.scale: Any = 1.0
        else:
            positive = module("positive")
            weight, driven = positive.weight(case, block), positive.input_map(case, block)
            self.scale = positive.sensitivity(case, block)[2]
            self.diagonal, self.off = np.ones(len(weight)), self.scale[:, None] * weight
        self.inputs, self.rounding = np.abs(driven), rounding_constant(2 * len(self.off) + sum(driven.shape) + 32)
        self.up = 1.0 + 2.0 * self.rounding
        probe = case.evidence[f"{block['name']}/m_matrix"].astype(np.float64)
        if probe.shape != self.diagonal.shape or not bounded(probe) or not (self.least(probe, False) > 1e-250).all():
            raise Refuted("components", f"{block['name']}: no M-matrix")

    def least(self, vector: Array, backwards: bool) -> Array:
        """A lower bound of A·vector, or Aᵀ·vector, for a nonnegative one."""
        through = (self.off.T if backwards else self.off) @ vector
        return self.diagonal * vector * (1.0 - 4.0 * self.rounding) - through * (1.0 + 4.0 * self.rounding)

    def above(self, vector: Array, wanted: Array, backwards: bool) -> Array:
        """The vector, if it is shown to be above A⁻¹, or A⁻ᵀ, times another."""
        if not wanted.any():
            return wanted
        if vector.shape != wanted.shape or not (vector >= 0.0).all():
            raise Refuted("components", "a vector is not above what it should bound")
        if not (self.least(vector, backwards) >= wanted + 1e-290).all():
            raise Refuted("components", "a vector is not above what it should bound")
        return vector


def _inputs(case: Case, blocks: list[Block]) -> int:
    """How many inputs the first map of some blocks takes."""
    first = next(block for block in blocks if block["kind"] in (*_LINEAR, *_LAYERS))
    known = _LAYERS.get(first["kind"])
    return case.linear_map(first).shape[1] if known is None else int(module(known).ends(case, first, None)[1][-1])


def _deviations(case: Case, block: Block, rest: list[Block]) -> Array:
    """What a normalisation divides each input of the blocks from it on by."""
    std, inputs = case.getter(block)("std"), _inputs(case, rest)
    maps = [k for k, later in enumerate(rest) if later["kind"] in (*_LINEAR, *_LAYERS)]
    flat = any(later["class"] == "Flatten" and later.get("dims") == [1, -1] for later in rest[: maps[0]])
    if not flat and (std != std.reshape(-1)[0]).any():
        raise Refuted("components", f"{block['name']}: channels differ, and nothing makes one vector of each image")
    if std.shape[1:] != (1, 1) or not len(std) or inputs % len(std) or not (std > 0.0).all():
        raise Refuted("components", f"{block['name']} is no normalisation of {inputs} inputs")
    return np.repeat(std.reshape(-1), inputs // std.size)
