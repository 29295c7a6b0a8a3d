"""Equilibrium layers z = σ(Wz + Ux + b) with a matrix W and slopes in [0, 1], in diagonal metrics, with a linear head."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .activations import ACTIVATIONS
from .core import SAFETY, UNIT, Array, Block, Checker, Refuted, Shape, gamma, moves_only, near_one, semidefinite
from .rows import check_rows

# The tensors that a block must have, by what it says of itself; biases may be missing.
_STATES = {
    "monotone": {"A", "B", "_extra_state"}, "lipschitz-bounded": {"V", "S", "psi", "_extra_state"},
    "log-norm": {"T", "slack", "log_weights", "_extra_state"}, "given": {"W"},
}  # fmt: skip


def roles(case: Checker, block: Block) -> tuple[set[str], set[str]]:
    """Tensors that a layer of its kind has, and those that it may have."""
    if block["activation"] not in ACTIVATIONS:
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}")
    scaled = {"linear": ("weight",), "scaled": ("free", "log_gamma")}[block["input"]]
    if type(block["output"]) is not bool or (block["output"] and block["input"] != "scaled"):
        raise Refuted("accounting", f"{block['name']}: an output map goes with scaled maps")
    ends = ["injection", "output"] if block["output"] else ["injection"]
    needed = {f"constraint.{name}" for name in _STATES[block["state"]]}
    return needed | {f"{end}.{name}" for end in ends for name in scaled}, {f"{end}.bias" for end in ends}


def ends(case: Checker, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of its values and inputs."""
    get, front = case.getter(block), () if given is None else given[:-1]
    inner = get(f"injection.{'free' if block['input'] == 'scaled' else 'weight'}").shape
    outputs = len(get("output.free")) if block["output"] else inner[0]
    return (*front, outputs), (*front, inner[1])


def prove(case: Checker, place: int, value: float) -> bool:
    """Whether a layer's own constant is proved."""
    block = case.blocks[place]
    matrix, driven = matrices(case, block)
    seen = output_map(case, block) if block["output"] else np.eye(len(matrix))
    multipliers = case.evidence[f"{block['name']}/multipliers"]
    _check_rounding(case, block, matrix, multipliers)
    return metric_proves(matrix, driven, seen, np.abs(seen), multipliers, value)


def joint(case: Checker, place: int) -> None:
    """The constants of a layer with its head."""
    matrix, driven = matrices(case, case.blocks[place])
    rows = case.evidence["joint/multipliers"]
    _check_rounding(case, case.blocks[place], matrix, rows[0])
    if case.norm != "2":
        driven = driven / _scaling(case, place, driven.shape[1])[1]

    def proves(row: int, seen: Array, size: Array, claimed: float) -> bool:
        if case.norm != "inf":  # an input may be changed coordinate by coordinate, for ‖Δx‖₁
            parts = [driven] if case.norm == "2" else np.split(driven, driven.shape[1], 1)
            return all(metric_proves(matrix, part, seen, size, rows[row], claimed) for part in parts)
        shares = case.evidence["joint/shares"][row].astype(np.float64)  # ‖Δx‖_∞ ≤ 1 implies Σ shares·Δx² ≤ Σ shares
        if shares.shape != (driven.shape[1],) or not 1e-50 < shares.min() <= shares.max() < 1e50:
            return False
        inner = claimed / math.sqrt(float(shares.sum())) * (1.0 - 1e-12)
        return metric_proves(matrix, driven / np.sqrt(shares), seen, size, rows[row], inner)

    check_rows(case, _head(case, place), len(rows), proves)


def metric_proves(
    matrix: Array, driven: Array, seen: Array, seen_size: Array, multipliers: Array, value: float
) -> bool:
    """Whether x ↦ seen·z is proved ``value``-Lipschitz for z = σ(matrix·z + driven·x + b), all slopes of σ in [0, 1].

    By M = Λ(I − W) + (I − W)ᵀΛ ⪰ 0 and M − CᵀC − ΛUUᵀΛ/γ² ⪰ 0 (Revay, Wang & Manchester 2020, Condition 2) for W = matrix,
    U = driven, C = seen, each entry of which is off by one rounding of that of ``seen_size`` at most, Λ = multipliers, γ = value.
    """
    size = len(matrix)
    if matrix.shape != (size, size) or len(driven) != size or seen.shape != seen_size.shape or seen.shape[1] != size:
        return False
    finite = all(np.isfinite(part).all() for part in (matrix, driven, seen, multipliers))
    if multipliers.shape != (size,) or not finite or not (multipliers > 0.0).all() or not 0.0 < value < math.inf:
        return False
    c, (u_scaled, u) = near_one(seen_size)[1], near_one(driven)
    if abs(c) > 500 or abs(c + u) > 900:
        return False
    seen, seen_size = np.ldexp(seen, -c), np.ldexp(seen_size, -c)
    scale, bound = np.ldexp(multipliers, -2 * c), math.ldexp(value, -c - u)
    if not (1e-100 < bound < 1e100 and scale.min() > 1e-100 and scale.max() < 1e100):
        return False
    half, terms = (scale[:, None] * part for part in (np.eye(size) - matrix, np.eye(size) + np.abs(matrix)))
    rounding = gamma(driven.shape[1] + len(seen) + 24)
    condition, sizes = half + half.T, terms + terms.T
    if not semidefinite(condition, rounding * float(sizes.sum(1).max())):
        return False
    through = scale[:, None] * (u_scaled @ u_scaled.T) * scale / bound**2
    reach = scale[:, None] * (np.abs(u_scaled) @ np.abs(u_scaled).T) * scale / bound**2
    sizes = sizes + reach + seen_size.T @ seen_size
    lost = 1e-307 * size * (len(seen) + driven.shape[1]) * (1.0 + (scale.max() / bound) ** 2)
    return semidefinite(condition - seen.T @ seen - through, rounding * float(sizes.sum(1).max()) + lost)


def matrices(case: Checker, block: Block) -> tuple[Array, Array]:
    """W and U as they run."""
    matrix = case.formed(block, "matrix", *_state_weight(block["state"], case.getter(block), block))
    return matrix, case.formed(block, "input", *_linear(block["input"], "injection", case.getter(block)))


def _check_rounding(case: Checker, block: Block, matrix: Array, multipliers: Array) -> None:
    """What W may differ by from what the weights give must be small against what keeps it well posed, or forgers could use it."""
    stored, root = case.evidence[f"{block['name']}/matrix"].dtype, np.sqrt(np.maximum(multipliers, 1e-300))
    off = np.finfo(stored).eps * _state_weight(block["state"], case.getter(block), block)[1]
    half, lost = (root[:, None] * part / root for part in (np.eye(len(matrix)) - matrix, off))
    if not np.linalg.eigvalsh(half + half.T)[0] >= SAFETY * np.linalg.norm(lost + lost.T, 2):
        raise Refuted("rounding", f"{block['name']}: that of W is not small against what keeps it well posed")


def output_map(case: Checker, block: Block) -> Array:
    """The layer's own C as it runs."""
    return case.formed(block, "output", *_linear(block["input"], "output", case.getter(block)))


def _sums(terms: int) -> float:
    """Units in the last place that a sum of products loses, in anything but the worst case."""
    return 2.0 * math.sqrt(terms) + 8.0


def _state_weight(kind: str, get: Callable[[str], Array], block: Block) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    if kind == "given":
        return get("constraint.W"), np.zeros_like(get("constraint.W"))
    if kind == "monotone":
        a, skew, m = get("constraint.A"), get("constraint.B"), float(get("constraint._extra_state"))
        one, size, skew = np.eye(len(a)), len(a), skew - skew.T
        off = _sums(size) * np.abs(a).T @ np.abs(a) + 8.0 * ((1.0 + abs(m)) * one + np.abs(skew))
        return (1.0 - m) * one - a.T @ a + skew, off
    if kind == "lipschitz-bounded":
        v, skew, psi = get("constraint.V"), get("constraint.S"), get("constraint.psi")
        size, skew = len(v), skew.T - skew
        margin = float(get("constraint._extra_state")) * (1.0 + float((v**2).sum()) / size)
        core = v.T @ v + margin * np.eye(size) + skew
        off = _sums(size) * np.abs(v).T @ np.abs(v) + (size + 16.0) * abs(margin) * np.eye(size) + 8.0 * np.abs(skew)
        if block["output"]:
            u, o = np.exp(-psi)[:, None] * get("injection.free"), get("output.free")
            core = core + 0.5 * (o.T @ o + u @ u.T)
            off = (
                off
                + (8.0 + _sums(len(o))) * np.abs(o).T @ np.abs(o)
                + (24.0 + _sums(u.shape[1])) * np.abs(u) @ np.abs(u).T
            )
        scale = np.exp(psi)[:, None]
        return np.eye(size) - scale * core, scale * (off + 8.0 * np.abs(core)) + 8.0 * np.eye(size)
    if kind == "log-norm":
        free, slack, weights = get("constraint.T"), get("constraint.slack"), get("constraint.log_weights")
        free = free * (1.0 - np.eye(len(free)))
        mu, sums, softplus = float(get("constraint._extra_state")), np.abs(free).sum(1), np.logaddexp(slack, 0.0)
        scaled = free * np.exp(weights[:, None] - weights)
        # The exponents round relative to their own size.
        spread = 8.0 + np.abs(weights[:, None]) + np.abs(weights)
        off = spread * np.abs(scaled) + np.diag((len(free) + 8.0) * sums + 8.0 * (abs(mu) + softplus))
        return scaled + np.diag(mu - sums - softplus), off
    raise Refuted("matrix", f"no formula is known for the parametrisation {kind!r}")


def _linear(kind: str, role: str, get: Callable[[str], Array]) -> tuple[Array, Array]:
    """The weight of a linear map, and how many units in the last place each entry may be off."""
    if kind == "linear":
        return get(f"{role}.weight"), np.zeros_like(get(f"{role}.weight"))
    logarithm = 0.5 * float(get(f"{role}.log_gamma"))
    weight = get(f"{role}.free") * math.exp(logarithm)
    return weight, (8.0 + abs(logarithm)) * np.abs(weight)


def _head(case: Checker, place: int) -> Array:
    """The matrix after a layer."""
    block, rest = case.blocks[place], [later for later in case.blocks[place + 1 :] if not moves_only(later)]
    if block["output"]:
        if rest:
            raise Refuted("joint", "something comes after the layer's own output map")
        return output_map(case, block)
    if not rest:
        return np.eye(len(case.evidence[f"{block['name']}/matrix"]))
    if len(rest) > 1:
        raise Refuted("joint", "the layer is not followed by one linear map")
    return case.linear_map(rest[0])


def check_flattened(case: Checker, place: int, *channels: Array) -> None:
    """Channels that differ need a flattening of whole images before a layer, which else would see pixels apart."""
    flat = any(block["class"] == "Flatten" and block.get("dims") == [1, -1] for block in case.blocks[:place])
    if not flat and any((part != part.reshape(-1)[0]).any() for part in channels):
        raise Refuted("joint", "channels are normalised differently, and nothing makes one vector of each image")


def _scaling(case: Checker, place: int, inputs: int) -> tuple[Array, Array]:
    """What a layer's inputs are normalised with, by the only block before it that may do more than move."""
    mean, std = np.zeros(inputs), np.ones(inputs)
    working = [block for block in case.blocks[:place] if not moves_only(block)]
    if [block["kind"] for block in working] not in ([], ["normalize"]):
        raise Refuted("joint", f"more than a normalisation stands before {case.blocks[place]['name']}")
    for block in working:
        mean, std = (case.getter(block)(role) for role in ("mean", "std"))
        check_flattened(case, place, mean, std)
        if mean.shape != std.shape or std.shape[1:] != (1, 1) or inputs % len(std) or not (std > 0.0).all():
            raise Refuted("joint", f"{block['name']} is no normalisation of {inputs} inputs")
        mean, std = (np.repeat(part.reshape(-1), inputs // part.size) for part in (mean, std))
    return mean, std


def witness(case: Checker, low: float) -> None:
    """The lower bound: two inputs with their states, for a chain of normalisation, one layer and a linear head."""
    place = case.claim["joint"]["place"]
    block = case.blocks[place]
    points = case.evidence["witness/points"].astype(np.float64).reshape(2, -1)
    mean, std = _scaling(case, place, points.shape[1])
    value = (points - mean) / std
    matrix, driven = matrices(case, block)
    bias = case.getter(block)("injection.bias") if "injection.bias" in block["tensors"] else np.zeros(len(matrix))
    states = case.evidence["witness/states"]
    image = ACTIVATIONS[block["activation"]](states @ matrix.T + value @ driven.T + bias)
    # image solves the equation for an offset moved by W(states − image), and rounding; λ turns that into a distance.
    rounding = gamma(matrix.shape[1] + driven.shape[1] + 16)
    sizes = np.abs(states) @ np.abs(matrix).T + np.abs(value) @ np.abs(driven).T + np.abs(bias)
    moved = np.abs((states - image) @ matrix.T) + rounding * (sizes + np.abs(states - image) @ np.abs(matrix).T)
    moved = moved + 8.0 * UNIT * np.abs(image) + 1e-300
    weights, eye = case.evidence["witness/multipliers"], np.eye(len(matrix))
    half = weights[:, None] * (eye - matrix)
    least = 0.999 * float(np.linalg.eigvalsh(half + half.T)[0])
    slack = gamma(8) * float((weights[:, None] * (eye + np.abs(matrix))).sum() * 2.0) + UNIT * abs(least)
    if not semidefinite(half + half.T - least * eye, slack) or least <= 0.0 or not (weights > 0.0).all():
        raise Refuted("witness", "the layer is not proved monotone enough to bound the error of its states")
    away = 2.0 * np.linalg.norm(weights * moved, axis=1) / least * (1.0 + 1e-10)
    rows = _head(case, place)
    apart, norm = rows @ (image[1] - image[0]), float(np.linalg.norm(rows)) * (1.0 + gamma(rows.size + 8))
    lost, order = norm * (float(away.sum()) + rounding * float(np.abs(image).sum())), float(case.norm)
    found = float(np.linalg.norm(apart, order)) - lost * (math.sqrt(len(rows)) if order == 1.0 else 1.0)
    distance = float(np.linalg.norm(points[1] - points[0], order))
    proved = found / distance * (1.0 - 1e-12) if distance > 0.0 else 0.0
    if not proved >= low:
        raise Refuted("witness", f"{low!r} is claimed, the two inputs prove {proved!r}")
    case.log.append(f"witness: two inputs prove that no constant below {low:.9g} holds")
