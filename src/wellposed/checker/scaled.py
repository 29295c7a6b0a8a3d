"""Equilibrium layers on images with W = I − Ψ(C + FᵀF), C circular, in the metric Λ = Ψ⁻¹; slopes in [0, 1].

Without an output map m below the Hermitian part of C gives ‖Ũ‖₂·max Λ/m for the input map Ũ; with one see `bounded`.
"""

import math

import numpy as np

from .activations import ACTIVATIONS
from .case import Block, Case, Shape, module
from .convolution import all_semidefinite, check_margin, frequencies, gram, transfer
from .proofs import UNIT, Array, Refuted, near_one, real, whole


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    options = block["output"], block["in_metric"]
    if block["activation"] not in ACTIVATIONS or not all(type(option) is bool for option in options):
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}, or output")
    ends = ("injection", "output") if block["output"] else ("injection",)
    needed = {f"constraint.{name}" for name in ("V", "S", "psi", "_extra_state")}
    needed |= {f"{end}.{name}" for end in ends for name in ("free", "log_gamma")}
    return needed, {"injection.bias", "output.bias"}


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    (rows, columns), (height, width), get = block["image"], block["input_image"], case.getter(block)
    state = len(get("constraint.V")), whole(rows), whole(columns)
    stride, border = whole(block["stride"]), {0: 0, 1: 2}[block["border"]]
    if state[1:] != (-(-whole(height) // stride) + border, -(-whole(width) // stride) + border):
        raise Refuted("block", f"{block['name']}: a state of {state[1:]} pixels for images of {height} × {width}")
    inputs = get("injection.free").shape[1], whole(height), whole(width)
    return ((len(get("output.free")),) if block["output"] else state), inputs


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a layer's own constant is proved."""
    block, get = case.blocks[place], case.getter(case.blocks[place])
    rows, columns = (whole(extent) for extent in block["image"])
    stride, psi = whole(block["stride"]), get("constraint.psi")
    fits = psi.ndim == 3 and psi.shape[0] in (1, len(get("constraint.V")))
    fits = fits and psi.shape[1:] in ((1, 1), (rows, columns))
    metric = case.formed(block, "scale", np.exp(psi), (8.0 + np.abs(psi)) * np.exp(psi))
    core = _core(case, block, (rows, columns), stride)
    condition = core + core.conj().swapaxes(2, 3)
    size = np.abs(core).sum(3).max(2) * 2.0
    kernel = case.formed(block, "input", *scaled_map(get, "injection"))
    squares, missing = gram(kernel, (rows, columns), stride)
    eye = np.eye(condition.shape[2])
    if not fits or min(rows, columns, stride) < 1 or not (metric > 0.0).all() or not 1e-100 < value < 1e100:
        return False
    if block["output"]:
        least = float(metric.min())
        bounded: bool = module("bounded").prove(case, block, value, (condition, size), (squares, missing), least)
        return bounded
    least, norm = real(block["monotonicity"]), real(block["input_norm"])
    good = all_semidefinite(condition - 2.0 * least * eye, 8.0 * UNIT * (size + least))
    good = good and all_semidefinite(norm**2 * eye - squares, missing + 4.0 * UNIT * norm**2)
    return good and least > 0.0 and norm > 0.0 and value >= norm / (float(metric.min()) * least) * (1.0 + 1e-14)


def joint(case: Case, place: int) -> None:
    """The constants of a layer without an output map with averages over its image, if any, and a linear head."""
    block = case.blocks[place]
    image, psi = (whole(block["image"][0]), whole(block["image"][1])), case.getter(block)("constraint.psi")
    if block["output"] or psi.shape[1:] != (1, 1):
        raise Refuted("joint", f"{block['name']}: its W is no circular convolution")
    metric = case.formed(block, "scale", np.exp(psi), (8.0 + np.abs(psi)) * np.exp(psi))
    core = _core(case, block, image, whole(block["stride"]))
    eye = np.eye(core.shape[2])
    kernel, exponent = near_one(case.formed(block, "input", *scaled_map(case.getter(block), "injection")))
    squares, missing = gram(kernel, image, whole(block["stride"]))
    driven = squares.reshape(-1, *squares.shape[2:]), missing, exponent
    module("pooled").check_pooled(case, place, image, eye - metric.reshape(-1, 1) * core, driven)


def scaled_map(get: object, role: str) -> tuple[Array, Array]:
    """A map that is √γ times its free parameters, and how many units in the last place each entry may be off."""
    assert callable(get)
    logarithm = 0.5 * float(get(f"{role}.log_gamma"))
    weight: Array = get(f"{role}.free") * math.exp(logarithm)
    return weight, (8.0 + abs(logarithm)) * np.abs(weight)


def _core(case: Case, block: Block, image: tuple[int, int], stride: int) -> Array:
    """C at every frequency as it runs."""
    get = case.getter(block)
    kernels = [get(f"constraint.{name}") for name in ("V", "S")]
    v, s = (transfer(part, image) for part in kernels)
    first, second = (np.abs(part).sum((2, 3)) for part in kernels)
    channels = len(first)
    margin = float(get("constraint._extra_state")) * (1.0 + float((kernels[0] ** 2).sum()) / channels)
    exact = v.conj().swapaxes(2, 3) @ v + s.conj().swapaxes(2, 3) - s + margin * np.eye(channels)
    off = (64.0 + channels) * first.T @ first + 64.0 * (second + second.T)
    off = off + (kernels[0].size + 16.0) * margin * np.eye(channels)
    if block["output"] and block["in_metric"]:
        free = get("injection.free")
        driven, taps = transfer(free, image, stride), np.abs(free).sum((2, 3))
        exact = exact + 0.5 * driven @ driven.conj().swapaxes(2, 3)
        off = off + (64.0 + driven.shape[3]) * taps @ taps.T
    found = frequencies(case, block, "transfer", exact, off)
    check_margin(case, block, "transfer", found, off)
    return found
