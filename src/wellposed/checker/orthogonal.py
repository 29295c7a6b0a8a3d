"""Orthogonal maps, dense and circular, and equilibrium layers whose cell they make a contraction.

A map has norm at most 1 + e by what runs. A cell with g = S(Q_d … S(Q₁ z)) of norm n, S nonexpansive, and h of norm 1 + e has an
equilibrium with the constant c/(1 − ρ), ρ < 1 the constant of the cell in z and c its constant in x: "convex" κ((1 − ω)g + ωh);
"additive" κg + h; "residual" κS(a₂z + (1 − a₂)(a₁h + (1 − a₁)g)). "joint" κS(Q[z; √(1 − κ²)/κ·x]) has the constant
ρ√(1 − κ²)/(κ√(1 − ρ²)) with ρ = κn.
"""

import math

import numpy as np

from .case import Block, Case, Shape, module
from .cayley import cayley, near_by_rows
from .proofs import UNIT, Array, Refuted, norm_at_most, real, rounding_constant, whole

FREE = {"cayley": {"free"}, "bjorck": {"free"}, "exponential": {"free", "base", "calls"}, "circular": {"free"}}


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    needed, optional = set[str](), set[str]()
    for part in _parts(block):
        needed |= {part + name for name in FREE[block["parametrisation"]]}
        optional |= {part + "bias"}
    if block["kind"] == "orthogonal":
        return needed, optional
    images, joined = block["parametrisation"] == "circular", block["coupling"] == "joint"
    if (joined and images) or (bool(block["encodes"]) == joined and not images):
        raise Refuted("accounting", f"{block['name']}: no such coupling of these maps")
    needed |= {"_extra_state"} | ({"mixing"} if block["coupling"] == "residual" else set())
    depth, angles = whole(block["depth"]), whole(block["angles"], 0)
    if angles not in (0, depth + (block["coupling"] == "residual")):
        raise Refuted("accounting", f"{block['name']}: {angles} vectors of angles for {depth} maps")
    return needed | {f"angles.{k}" for k in range(angles)}, optional


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block; None for what goes into a convolution, which may have a stride."""
    parts, shapes = _parts(block), [[whole(extent) for extent in shape] for shape in block["shapes"]]
    if block["parametrisation"] == "circular":
        rows, columns = block["grids"][-1]
        return (len(case.getter(block)(parts[-1] + "free")), whole(rows), whole(columns)), None
    front, joined = () if given is None else given[:-1], block.get("coupling") == "joint"
    inputs = shapes[0][1] - shapes[0][0] if joined else shapes[-1][1]
    return (*front, shapes[0][0]), (*front, inputs)


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a block's own constant is proved."""
    block = case.blocks[place]
    excess = real(block["excess"])
    if not 0.0 <= excess < 1.0 or not all(_norm_at_most(case, block, part, 1.0 + excess) for part in _parts(block)):
        return False
    if block["kind"] == "orthogonal":
        return value >= 1.0 + excess
    depth, coupling = whole(block["depth"]), block["coupling"]
    kappa, omega = (float(number) for number in case.getter(block)("_extra_state"))
    if not 0.0 < kappa <= 1.0 or not 0.0 < omega <= 1.0 or (coupling == "joint" and depth != 1):
        return False
    reflections = whole(block["angles"], 0)  # they may round as much as maps do
    norm = (1.0 + excess) ** (depth + min(reflections, depth))
    direct, through, driven = 0.0, 1.0 - omega, omega * (1.0 + excess)
    if coupling == "additive":
        through, driven = 1.0, (1.0 + excess) / kappa
    elif coupling == "residual":
        first, second = 0.05 + 0.9 * (0.5 + 0.5 * np.tanh(0.5 * case.getter(block)("mixing")))
        outside = (1.0 + excess) if reflections else 1.0
        direct, through = float(second) * outside, float((1.0 - second) * (1.0 - first)) * outside
        driven = float((1.0 - second) * first) * (1.0 + excess) * outside
    elif coupling == "joint":
        contraction = kappa * norm * (1.0 + 1e-15)
        ratio = math.sqrt(1.0 - kappa**2) / kappa * (1.0 + 1e-15)
        return contraction < 1.0 and value >= contraction * ratio / math.sqrt(1.0 - contraction**2) * (1.0 + 1e-12)
    elif coupling != "convex":
        raise Refuted("block", f"{block['name']}: unknown coupling {coupling!r}")
    contraction = kappa * (direct + through * norm) * (1.0 + 1e-15)
    return contraction < 1.0 and value >= kappa * driven / (1.0 - contraction) * (1.0 + 1e-13)


def _parts(block: Block) -> list[str]:
    """Prefixes of the tensors of the orthogonal maps, the input's last."""
    if block["kind"] == "orthogonal":
        return [""]
    if block["kind"] == "graph":
        return ["state_map.", "injection."]
    maps = [f"maps.{k}." for k in range(whole(block["depth"]))]
    if block["coupling"] == "joint" or not block["encodes"]:
        return maps
    return [*maps, "injection."]


def matrix(case: Case, block: Block, part: str = "") -> Array:
    """A map as it runs, once it is shown to be what the weights give; complex, frequencies first, if it is circular."""
    name, kind, place = f"{block['name']}/{part}matrix", block["parametrisation"], _parts(block).index(part)
    stored, get = case.evidence[name], lambda role: case.getter(block)(part + role)
    unit, found = float(np.finfo(stored.dtype).eps), stored.astype(np.float64)
    if kind not in ("circular", "exponential") and tuple(block["shapes"][place]) != get("free").shape:
        raise Refuted(
            "accounting", f"{block['name']}/{part}: a map of shape {block['shapes'][place]}, the weights have another"
        )
    if kind == "circular":
        found = found[..., 0] + 1j * found[..., 1]
        rows, columns = block["grids"][place]
        free = module("convolution").transfer(get("free"), (whole(rows), whole(columns)))
        expected, lost = cayley(free.reshape(-1, *free.shape[2:]))
    elif kind == "cayley":
        expected, lost = (each[0] for each in cayley(get("free")[None]))
    else:
        outputs, inputs = (whole(extent) for extent in block["shapes"][place])
        if kind == "exponential" and get("free").shape != 2 * (max(outputs, inputs),):
            raise Refuted("accounting", f"{block['name']}/{part}: a map of shape {(outputs, inputs)} of another size")
        base = get("base") if kind == "exponential" else None
        expected, lost = module("rotations").formed(get("free"), base)
        expected = expected[:outputs, :inputs]
    biases = block["tensors"].get(part + "bias")
    good = case.weights[block["tensors"][part + "free"]].dtype == stored.dtype and found.shape == expected.shape
    if kind != "circular" and biases is not None:
        good = good and len(case.weights[biases]) == len(found)
    # Row by row, as margins are differences of rows; those of images are not. Torch's exponentials are off by up to 3e-10.
    off = np.maximum(unit * lost[..., None], 1e-9 * (kind == "exponential"))
    if not good or not near_by_rows(name, found, expected, off, least=1.0 if kind == "circular" else 0.0):
        raise Refuted("matrix", f"{name}: not what the weights give, by more than rounding")
    return found


def _norm_at_most(case: Case, block: Block, part: str, value: float) -> bool:
    """Whether the norm of a map is proved."""
    found = matrix(case, block, part)
    if found.ndim == 2:
        return norm_at_most(found, value)
    wide = found if found.shape[1] <= found.shape[2] else found.conj().swapaxes(1, 2)
    squares = wide @ wide.conj().swapaxes(1, 2)
    error = 8.0 * rounding_constant(wide.shape[2] + 8) * float((np.abs(wide) ** 2).sum((1, 2)).max())
    good: bool = module("convolution").all_semidefinite(value**2 * np.eye(wide.shape[1]) - squares, error + 8.0 * UNIT)
    return good
