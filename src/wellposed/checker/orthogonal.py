"""Orthogonal maps, dense and circular, and equilibrium layers whose cell they make a contraction.

A map has norm at most 1 + e by what runs. A cell with g = S(Q_d … S(Q₁ z)) of norm n, S nonexpansive, and h of norm 1 + e has an
equilibrium with the constant c/(1 − ρ), ρ < 1 that of the cell in z and c that in x: "convex" κ((1 − ω)g + ωh); "additive"
κg + h; "residual" κS(a₂z + (1 − a₂)(a₁h + (1 − a₁)g)). "joint" κS(Q[z; √(1 − κ²)/κ·x]) has ρ√(1 − κ²)/(κ√(1 − ρ²)) with ρ = κn.
"""

from __future__ import annotations

import math

import numpy as np

from .convolution import all_semidefinite, transfer
from .core import UNIT, Array, Block, Checker, Refuted, gamma, norm_at_most

_FREE = {"cayley": {"free"}, "bjorck": {"free"}, "exponential": {"free", "base", "calls"}, "circular": {"free"}}


def roles(case: Checker, block: Block) -> tuple[set[str], set[str]]:
    """Tensors that a block of its kind has, and those that it may have."""
    needed, optional = set[str](), set[str]()
    for part in _parts(block):
        needed |= {part + name for name in _FREE[block["parametrisation"]]}
        optional |= {part + "bias"}
    if block["kind"] == "orthogonal":
        return needed, optional
    images, joined = block["parametrisation"] == "circular", block["coupling"] == "joint"
    if (joined and images) or (bool(block["encodes"]) == joined and not images):
        raise Refuted("accounting", f"{block['name']}: no such coupling of these maps")
    needed |= {"_extra_state"} | ({"mixing"} if block["coupling"] == "residual" else set())
    return needed | {f"angles.{k}" for k in range(int(block["angles"]))}, optional


def ends(case: Checker, block: Block) -> tuple[int | None, int | None]:
    """Numbers of outputs and inputs; of images they depend on more."""
    if block["parametrisation"] == "circular":
        return None, None
    first, last = (
        case.evidence[f"{block['name']}/{part}matrix"].shape for part in (_parts(block)[0], _parts(block)[-1])
    )
    if block["kind"] == "cell" and block["coupling"] == "joint":
        return first[0], first[1] - first[0]
    return first[0], last[1]


def prove(case: Checker, place: int, value: float) -> bool:
    """Whether a block's own constant is proved."""
    block = case.blocks[place]
    excess = float(block["excess"])
    if not 0.0 <= excess < 1.0 or not all(_norm_at_most(case, block, part, 1.0 + excess) for part in _parts(block)):
        return False
    if block["kind"] == "orthogonal":
        return value >= 1.0 + excess
    depth, coupling = int(block["depth"]), block["coupling"]
    kappa, omega = (float(number) for number in case.getter(block)("_extra_state"))
    if depth < 1 or not 0.0 < kappa <= 1.0 or not 0.0 < omega <= 1.0 or (coupling == "joint" and depth != 1):
        return False
    reflections = int(block["angles"])  # they may round as much as maps do
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
    maps = [f"maps.{k}." for k in range(int(block["depth"]))]
    if block["coupling"] == "joint" or not block["encodes"]:
        return maps
    return [*maps, "injection."]


def matrix(case: Checker, block: Block, part: str = "") -> Array:
    """A map as it runs, once it is shown to be what the weights give; complex, frequencies first, if it is circular."""
    name, kind = f"{block['name']}/{part}matrix", block["parametrisation"]
    stored, get = case.evidence[name], lambda role: case.getter(block)(part + role)
    unit, found = float(np.finfo(stored.dtype).eps), stored.astype(np.float64)
    good = case.weights[block["tensors"][part + "free"]].dtype == stored.dtype
    if kind == "circular":
        found = found[..., 0] + 1j * found[..., 1]
        rows, columns = block["grids"][_parts(block).index(part)]
        free = transfer(get("free"), (int(rows), int(columns)))
        good = good and _is_cayley(found, free.reshape(-1, *free.shape[2:]), unit)
    elif kind == "cayley":
        good = good and _is_cayley(found[None], get("free")[None], unit)
    else:
        expected = (
            _exponential(get("free"), get("base"), found.shape) if kind == "exponential" else _bjorck(get("free"))
        )
        allowed = 256.0 * unit * max(expected.shape)
        good = good and found.shape == expected.shape and float(np.linalg.norm(found - expected)) <= allowed
    if not good:
        raise Refuted("matrix", f"{name}: not what the weights give, by more than rounding")
    return found


def _norm_at_most(case: Checker, block: Block, part: str, value: float) -> bool:
    """Whether the norm of a map is proved."""
    found = matrix(case, block, part)
    if found.ndim == 2:
        return norm_at_most(found, value)
    wide = found if found.shape[1] <= found.shape[2] else found.conj().swapaxes(1, 2)
    squares = wide @ wide.conj().swapaxes(1, 2)
    error = 8.0 * gamma(wide.shape[2] + 8) * float((np.abs(wide) ** 2).sum((1, 2)).max())
    return all_semidefinite(value**2 * np.eye(wide.shape[1]) - squares, error + 8.0 * UNIT)


def _is_cayley(matrices: Array, free: Array, unit: float) -> bool:
    """Whether Q(I + A) = [I − A; −2V] up to rounding, for tall [U; V] and A = U − Uᴴ + VᴴV."""
    if free.shape[1] < free.shape[2]:
        matrices, free = (part.conj().swapaxes(1, 2) for part in (matrices, free))
    if matrices.shape != free.shape:
        return False
    size = free.shape[2]
    upper, lower, eye = free[:, :size], free[:, size:], np.eye(size)
    skew = upper - upper.conj().swapaxes(1, 2) + lower.conj().swapaxes(1, 2) @ lower
    wanted = np.concatenate([eye - skew, -2.0 * lower], 1)
    missed = np.linalg.norm(matrices @ (eye + skew) - wanted, axis=(1, 2))
    scale = np.linalg.norm(eye + skew, axis=(1, 2)) ** 2 + (np.abs(free) ** 2).sum((1, 2))
    return bool((missed <= 64.0 * (size + 16.0) * unit * scale).all())


def _exponential(free: Array, base: Array, shape: tuple[int, ...]) -> Array:
    """A corner of base·exp(S), S skew, by its series for S/2ˢ and s squarings."""
    upper = np.triu(free, 1)
    skew = upper - upper.T
    halvings = max(0, math.frexp(float(np.abs(skew).sum(1).max()))[1] + 4)
    term = found = np.eye(len(skew))
    for k in range(1, 16):
        term = term @ skew / (k * 2.0**halvings)
        found = found + term
    for _ in range(halvings):
        found = found @ found
    return (base @ found)[: shape[0], : shape[1]]


def _bjorck(free: Array) -> Array:
    """Thirty steps towards the polar factor."""
    if free.shape[0] < free.shape[1]:
        return _bjorck(free.T).T
    found = free / max(math.sqrt(float(np.abs(free).sum(0).max()) * float(np.abs(free).sum(1).max())), 1e-300)
    for _ in range(30):
        found = 1.5 * found - 0.5 * found @ (found.T @ found)
    return found
