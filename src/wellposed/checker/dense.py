"""Equilibrium layers z = σ(Wz + Ux + b) with a matrix W and slopes in [0, 1], in diagonal metrics, with a linear head."""

import math
from types import ModuleType

import numpy as np

from .activations import ACTIVATIONS
from .case import Block, Case, Getter, Shape, module, moves_only
from .proofs import SAFETY, Array, Refuted, near_one, rounding_constant, semidefinite
from .rows import check_rows

_FORMULAS = {"monotone": "monotone", "lipschitz-bounded": "lipschitz_bounded", "log-norm": "log_norm", "given": "given"}


def roles(case: Case, block: Block) -> tuple[set[str], set[str]]:
    """Names of the tensors that a block of this kind must have, and of those that it may have besides."""
    if block["activation"] not in ACTIVATIONS:
        raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}")
    scaled = {"linear": ("weight",), "scaled": ("free", "log_gamma")}[block["input"]]
    if type(block["output"]) is not bool or (block["output"] and block["input"] != "scaled"):
        raise Refuted("accounting", f"{block['name']}: an output map goes with scaled maps")
    ends = ["injection", "output"] if block["output"] else ["injection"]
    needed = {f"constraint.{name}" for name in _formula(block).ROLES}
    return needed | {f"{end}.{name}" for end in ends for name in scaled}, {f"{end}.bias" for end in ends}


def ends(case: Case, block: Block, given: Shape) -> tuple[Shape, Shape]:
    """The shapes of the values and the inputs of a block."""
    get, front = case.getter(block), () if given is None else given[:-1]
    inner = get(f"injection.{'free' if block['input'] == 'scaled' else 'weight'}").shape
    outputs = len(get("output.free")) if block["output"] else inner[0]
    return (*front, outputs), (*front, inner[1])


def prove(case: Case, place: int, value: float) -> bool:
    """Whether a layer's own constant is proved."""
    block = case.blocks[place]
    matrix, driven = matrices(case, block)
    seen = output_map(case, block) if block["output"] else np.eye(len(matrix))
    multipliers = case.evidence[f"{block['name']}/multipliers"]
    _check_rounding(case, block, matrix, multipliers)
    return metric_proves(matrix, driven, seen, np.abs(seen), multipliers, value)


def joint(case: Case, place: int) -> None:
    """The constants of a layer with its head."""
    matrix, driven = matrices(case, case.blocks[place])
    rows = case.evidence["joint/multipliers"]
    _check_rounding(case, case.blocks[place], matrix, rows[0])
    if case.norm != "2":
        driven = driven / scaling(case, place, driven.shape[1])[1]

    def proves(row: int, seen: Array, size: Array, claimed: float) -> bool:
        if case.norm != "inf":  # an input may be changed coordinate by coordinate, for ‖Δx‖₁
            parts = [driven] if case.norm == "2" else np.split(driven, driven.shape[1], 1)
            return all(metric_proves(matrix, part, seen, size, rows[row], claimed) for part in parts)
        shares = case.evidence["joint/shares"][row].astype(np.float64)  # ‖Δx‖_∞ ≤ 1 implies Σ shares·Δx² ≤ Σ shares
        if shares.shape != (driven.shape[1],) or not 1e-50 < shares.min() <= shares.max() < 1e50:
            return False
        inner = claimed / math.sqrt(float(shares.sum())) * (1.0 - 1e-12)
        return metric_proves(matrix, driven / np.sqrt(shares), seen, size, rows[row], inner)

    check_rows(case, head(case, place), len(rows), proves)


def metric_proves(
    matrix: Array, driven: Array, seen: Array, seen_size: Array, multipliers: Array, value: float
) -> bool:
    """Whether x ↦ seen·z is proved ``value``-Lipschitz for z = σ(matrix·z + driven·x + b), all slopes of σ in [0, 1].

    By M = Λ(I − W) + (I − W)ᵀΛ ⪰ 0 and M − CᵀC − ΛUUᵀΛ/γ² ⪰ 0 (Revay, Wang & Manchester 2020, Condition 2) for W = matrix,
    U = driven, C = seen, Λ = multipliers, γ = value; every entry of C may be off by a unit in the last place of ``seen_size``.
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
    rounding = rounding_constant(driven.shape[1] + len(seen) + 24)
    condition, sizes = half + half.T, terms + terms.T
    if not semidefinite(condition, rounding * float(sizes.sum(1).max())):
        return False
    through = scale[:, None] * (u_scaled @ u_scaled.T) * scale / bound**2
    reach = scale[:, None] * (np.abs(u_scaled) @ np.abs(u_scaled).T) * scale / bound**2
    sizes = sizes + reach + seen_size.T @ seen_size
    lost = 1e-307 * size * (len(seen) + driven.shape[1]) * (1.0 + (scale.max() / bound) ** 2)
    return semidefinite(condition - seen.T @ seen - through, rounding * float(sizes.sum(1).max()) + lost)


def matrices(case: Case, block: Block) -> tuple[Array, Array]:
    """W and U as they run."""
    matrix = case.formed(block, "matrix", *_weight(case, block))
    return matrix, case.formed(block, "input", *_linear(block["input"], "injection", case.getter(block)))


def _check_rounding(case: Case, block: Block, matrix: Array, multipliers: Array) -> None:
    """What W may differ by from what the weights give must be small against what keeps it well posed, or forgers could use it."""
    stored, root = case.evidence[f"{block['name']}/matrix"].dtype, np.sqrt(np.maximum(multipliers, 1e-300))
    off = np.finfo(stored).eps * _weight(case, block)[1]
    half, lost = (root[:, None] * part / root for part in (np.eye(len(matrix)) - matrix, off))
    if not np.linalg.eigvalsh(half + half.T)[0] >= SAFETY * np.linalg.norm(lost + lost.T, 2):
        raise Refuted("rounding", f"{block['name']}: that of W is not small against what keeps it well posed")


def output_map(case: Case, block: Block) -> Array:
    """The layer's own C as it runs."""
    return case.formed(block, "output", *_linear(block["input"], "output", case.getter(block)))


def _formula(block: Block) -> ModuleType:
    """The module that forms W from its free parameters."""
    if block["state"] not in _FORMULAS:
        raise Refuted("matrix", f"no formula is known for the parametrisation {block['state']!r}")
    return module(_FORMULAS[block["state"]])


def _weight(case: Case, block: Block) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    found: tuple[Array, Array] = _formula(block).weight(case.getter(block), block["output"])
    return found


def _linear(kind: str, role: str, get: Getter) -> tuple[Array, Array]:
    """The weight of a linear map, and how many units in the last place each entry may be off."""
    if kind == "linear":
        return get(f"{role}.weight"), np.zeros_like(get(f"{role}.weight"))
    logarithm = 0.5 * float(get(f"{role}.log_gamma"))
    weight = get(f"{role}.free") * math.exp(logarithm)
    return weight, (8.0 + abs(logarithm)) * np.abs(weight)


def head(case: Case, place: int) -> Array:
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


def scaling(case: Case, place: int, inputs: int) -> tuple[Array, Array]:
    """What a layer's inputs are normalised with, by the only block before it that may do more than move."""
    mean, std = np.zeros(inputs), np.ones(inputs)
    working = [block for block in case.blocks[:place] if not moves_only(block)]
    if [block["kind"] for block in working] not in ([], ["normalize"]):
        raise Refuted("joint", f"more than a normalisation stands before {case.blocks[place]['name']}")
    for block in working:
        mean, std = (case.getter(block)(role) for role in ("mean", "std"))
        flat = any(part["class"] == "Flatten" and part.get("dims") == [1, -1] for part in case.blocks[:place])
        if not flat and any((part != part.reshape(-1)[0]).any() for part in (mean, std)):
            raise Refuted("joint", "channels are normalised differently, and nothing makes one vector of each image")
        if mean.shape != std.shape or std.shape[1:] != (1, 1) or inputs % len(std) or not (std > 0.0).all():
            raise Refuted("joint", f"{block['name']} is no normalisation of {inputs} inputs")
        mean, std = (np.repeat(part.reshape(-1), inputs // part.size) for part in (mean, std))
    return mean, std
