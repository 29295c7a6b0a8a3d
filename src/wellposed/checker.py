"""Checks a certificate file against a weight file, without the library that wrote it: numpy and safetensors only.

    python checker.py CERTIFICATE.json WEIGHTS.safetensors

A certificate names the blocks of a chain, a claimed Lipschitz constant for each, for all of them, and for every class margin. The
evidence beside it holds the matrices that run and multipliers of a linear matrix inequality. This program checks, in this order:
digests; that the matrices are what the weights give, up to the rounding of their precision; every proof, again, by its own means;
and that the claims follow. It trusts that the model is the chain of blocks that is named, evaluated by their definitions.
Proofs are Cholesky factorisations of matrices shifted by a bound of all rounding errors (Rump, BIT 46, 2006).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

FORMAT = "wellposed-certificate/4"
Array = NDArray[Any]
_UNIT = 2.0**-53
# With slopes in [0, 1] everywhere, which is all that the theorem needs of them.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0.0), "leaky_relu": lambda v: np.where(v > 0.0, v, 0.01 * v), "identity": lambda v: v,
    "hardtanh": lambda v: np.clip(v, -1.0, 1.0), "relu6": lambda v: np.clip(v, 0.0, 6.0), "tanh": np.tanh,
    "sigmoid": lambda v: 0.5 * (1.0 + np.tanh(0.5 * v)), "softplus": lambda v: np.logaddexp(v, 0.0), "arctan": np.arctan,
    "softsign": lambda v: v / (1.0 + np.abs(v)), "isru": lambda v: v / np.sqrt(1.0 + v * v), "arcsinh": np.arcsinh,
    "elu": lambda v: np.where(v > 0.0, v, np.expm1(np.minimum(v, 0.0))),
}  # fmt: skip
# The tensors that a block must have, by what it says of itself; biases may be missing.
_STATES = {
    "monotone": {"A", "B", "_extra_state"}, "lipschitz-bounded": {"V", "S", "psi", "_extra_state"},
    "log-norm": {"T", "slack", "log_weights", "_extra_state"}, "given": {"W"},
}  # fmt: skip
_NONEXPANSIVE = ("Flatten", "Unflatten", "Identity", "ReLU", "Tanh", "Sigmoid", "Hardtanh", "Dropout", "GroupSort")


class Refuted(Exception):
    """A check failed; the message begins with its name."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")


def gamma(terms: int) -> float:
    """Relative rounding error of a sum of products of so many terms, in any order."""
    return terms * _UNIT / (1.0 - terms * _UNIT)


def semidefinite(matrix: Array, error: float) -> bool:
    """Whether all symmetric matrices within ``error`` of this one, in the Euclidean norm, are proved positive semidefinite."""
    size, diagonal = len(matrix), np.diagonal(matrix)
    if not np.isfinite(matrix).all() or not math.isfinite(error) or (diagonal < 0.0).any():
        return False
    trace = float(diagonal.sum()) * (1.0 + gamma(size))
    own = gamma(size + 1) / (1.0 - gamma(size + 1)) * trace
    shift = (own + error + 4.0 * (size + 1) * (2.0 * size + trace) * 2.3e-308 + _UNIT * trace) * (1.0 + 1e-14)
    try:
        np.linalg.cholesky(matrix - shift * np.eye(size))
    except np.linalg.LinAlgError:
        return False
    return True


def near_one(matrix: Array) -> tuple[Array, int]:
    """The matrix over the power of two that brings its largest entry into [1/2, 1), and the exponent; exact."""
    exponent = math.frexp(float(np.abs(matrix).max(initial=0.0)))[1]
    return np.ldexp(matrix, -exponent), exponent


def norm_at_most(matrix: Array, value: float) -> bool:
    """Whether the largest singular value is proved to be at most this."""
    scaled, exponent = near_one(matrix.astype(np.float64))
    if not scaled.any():
        return value >= 0.0
    scaled = scaled if scaled.shape[0] <= scaled.shape[1] else scaled.T
    bound = math.ldexp(value, -exponent)
    if not 0.0 < bound < 1e100:
        return bool(bound >= 1e100) and math.isfinite(value)
    gram, absolute = scaled @ scaled.T, np.abs(scaled)
    error = gamma(scaled.shape[1] + 4) * float((absolute @ absolute.T).sum(1).max()) + 4.0 * _UNIT * bound**2 + 1e-290
    return semidefinite(bound**2 * np.eye(len(gram)) - gram, error)


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


def _state_weight(kind: str, get: Callable[[str], Array], block: dict[str, Any]) -> tuple[Array, Array]:
    """W from the free parameters, in float64, and how many units in the last place each entry may be off."""
    if kind == "given":
        return get("constraint.W"), np.zeros_like(get("constraint.W"))
    if kind == "monotone":
        a, skew, m = get("constraint.A"), get("constraint.B"), float(get("constraint._extra_state"))
        one, size, skew = np.eye(len(a)), len(a), skew - skew.T
        off = (size + 8.0) * np.abs(a).T @ np.abs(a) + 8.0 * ((1.0 + abs(m)) * one + np.abs(skew))
        return (1.0 - m) * one - a.T @ a + skew, off
    if kind == "lipschitz-bounded":
        v, skew, psi = get("constraint.V"), get("constraint.S"), get("constraint.psi")
        size, skew = len(v), skew.T - skew
        margin = float(get("constraint._extra_state")) * (1.0 + float((v**2).sum()) / size)
        core = v.T @ v + margin * np.eye(size) + skew
        off = (size + 8.0) * np.abs(v).T @ np.abs(v) + (size + 16.0) * abs(margin) * np.eye(size) + 8.0 * np.abs(skew)
        if block["output"]:
            u, o = np.exp(-psi)[:, None] * get("injection.free"), get("output.free")
            core = core + 0.5 * (o.T @ o + u @ u.T)
            off = off + (len(o) + 16.0) * np.abs(o).T @ np.abs(o) + (u.shape[1] + 32.0) * np.abs(u) @ np.abs(u).T
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


def _moves_only(block: dict[str, Any]) -> bool:
    return block["kind"] == "nonexpansive" and block["class"] in ("Flatten", "Identity")


def _check_roles(block: dict[str, Any], prefix: str) -> None:
    """A block has the tensors that one of its kind has, under their own names, and no others."""
    biases = {"bias"} if block["kind"] == "linear" else set()
    needed = {"normalize": {"mean", "std"}, "linear": {"weight"}}.get(block["kind"], set())
    if block["kind"] == "equilibrium":
        if block["activation"] not in _ACTIVATIONS:
            raise Refuted("block", f"{block['name']}: unknown activation {block['activation']!r}")
        scaled = {"linear": ("weight",), "scaled": ("free", "log_gamma")}[block["input"]]
        if type(block["output"]) is not bool or (block["output"] and block["input"] != "scaled"):
            raise Refuted("accounting", f"{block['name']}: an output map goes with scaled maps")
        ends = ["injection", "output"] if block["output"] else ["injection"]
        needed = {f"constraint.{name}" for name in _STATES[block["state"]]}
        needed |= {f"{end}.{name}" for end in ends for name in scaled}
        biases = {f"{end}.bias" for end in ends}
    has = set(block["tensors"])
    if not needed <= has <= needed | biases or any(key != prefix + role for role, key in block["tensors"].items()):
        raise Refuted("accounting", f"{block['name']}: other tensors than a {block['class']} of this kind has")


class Checker:
    """One certificate with its evidence, and the weights that it should be about."""

    def __init__(self, certificate: Path, weights: Path) -> None:
        try:
            self.claim: dict[str, Any] = json.loads(certificate.read_text(encoding="utf-8"))
            content, self.norm = self.claim, self.claim["norm"]
            if content["format"] != FORMAT or self.norm not in ("2", "inf", "1"):
                raise Refuted(
                    "format", f"{content['format']!r}, norm {self.norm!r}; this program checks {FORMAT!r}, 2, inf, 1"
                )
            evidence = certificate.parent / content["evidence"]["file"]
            self.evidence_bytes = evidence.read_bytes()
            self.evidence = load_file(evidence)
            self.weights = load_file(weights)
            self.blocks: list[dict[str, Any]] = content["blocks"]
        except Refuted:
            raise
        except Exception as error:
            raise Refuted("files", f"unreadable ({type(error).__name__}: {error})") from error
        self.log, self.unchecked = list[str](), list[str]()

    def run(self) -> list[str]:
        """All checks, the first that fails raising `Refuted`; what was done, line by line."""
        try:
            self.check_digests()
            self.check_accounting()
            for place, block in enumerate(self.blocks):
                self.check_block(place, block)
            self.check_joint()
            self.check_conclusion()
            self.check_witness()
        except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
            raise Refuted("structure", f"{type(error).__name__}: {error}") from error
        return self.log

    def check_digests(self) -> None:
        """The claim is as it was written, and about these weights and this evidence."""
        rest = {key: value for key, value in self.claim.items() if key != "sha256"}
        own = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        if own != self.claim["sha256"]:
            raise Refuted("claim digest", "the claim was changed after it was written")
        if hashlib.sha256(self.evidence_bytes).hexdigest() != self.claim["evidence"]["sha256"]:
            raise Refuted("evidence digest", "the evidence file is not the one that was written with this claim")
        digest = hashlib.sha256()
        for name, array in sorted(self.weights.items()):
            digest.update(f"{name}|torch.{array.dtype}|{array.shape}|".encode())
            digest.update(array.tobytes())
        if digest.hexdigest() != self.claim["weights_sha256"]:
            raise Refuted("weights digest", "the certificate is about other weights")
        for name, array in (*self.weights.items(), *self.evidence.items()):
            if array.dtype not in (np.float32, np.float64):
                raise Refuted("precision", f"{name} has dtype {array.dtype}; proofs are about float32 and float64")
            if not np.isfinite(array).all():
                raise Refuted("finite", f"{name} has NaN or infinite entries")
        self.log.append("digests: claim, evidence and weights are the ones that were written")

    def check_accounting(self) -> None:
        """Every tensor of the weight file belongs to a block that the certificate names."""
        names = [block["name"] for block in self.blocks]
        if len(set(names)) != len(names) or not all(type(name) is str for name in names):
            raise Refuted("accounting", "two blocks of one name")
        for block in (block for block in self.blocks if block["kind"] != "other"):
            _check_roles(block, "" if names == ["model"] else f"{block['name']}.")
        named = {key for block in self.blocks for key in block["tensors"].values()}
        if set(self.weights) != named:
            raise Refuted("accounting", f"tensors outside of the chain: {sorted(set(self.weights) ^ named)}")
        width: int | None = None
        for block in self.blocks:  # the outputs of each block must be inputs of the next
            if block["kind"] in ("linear", "equilibrium"):
                shape = self._ends(block)
                if width is not None and width != shape[1]:
                    raise Refuted("accounting", f"{block['name']}: takes {shape[1]} inputs, is given {width}")
                width = shape[0]
        self.log.append(f"accounting: {len(self.blocks)} blocks, {len(named)} tensors")

    def _ends(self, block: dict[str, Any]) -> tuple[int, int]:
        """Numbers of outputs and inputs of a block."""
        get = self._getter(block)
        if block["kind"] == "linear":
            return get("weight").shape[0], get("weight").shape[1]
        inner = get(f"injection.{'free' if block['input'] == 'scaled' else 'weight'}").shape
        return (len(get("output.free")) if block["output"] else inner[0]), inner[1]

    def _getter(self, block: dict[str, Any]) -> Callable[[str], Array]:
        return lambda role: self.weights[block["tensors"][role]].astype(np.float64)

    def _formed(self, block: dict[str, Any], part: str) -> Array:
        """A matrix of the evidence, once it is shown to be what the weights give."""
        stored = self.evidence[f"{block['name']}/{part}"]
        get = self._getter(block)
        if part == "matrix":
            exact, off = _state_weight(block["state"], get, block)
        else:
            exact, off = _linear(block["input"], "injection" if part == "input" else "output", get)
        if stored.shape != exact.shape:
            raise Refuted("matrix", f"{block['name']}/{part}: shape {stored.shape}, the weights give {exact.shape}")
        roles = set(block["tensors"]) - {"constraint._extra_state"}
        dtypes = {self.weights[block["tensors"][role]].dtype for role in roles}
        if dtypes != {stored.dtype}:
            raise Refuted("matrix", f"{block['name']}/{part}: has dtype {stored.dtype}, the weights have others")
        allowed = float(np.finfo(stored.dtype).eps) * off
        if not float(np.linalg.norm(allowed)) <= 1e-2 * float(np.linalg.norm(exact)) + 1e-300:
            raise Refuted("matrix", f"{block['name']}/{part}: cancellation leaves too little of it to compare")
        if not (np.abs(stored.astype(np.float64) - exact) <= allowed).all():
            raise Refuted("matrix", f"{block['name']}/{part}: not what the weights give, by more than rounding")
        return stored.astype(np.float64)

    def check_block(self, place: int, block: dict[str, Any]) -> None:
        """The constant of one block; the one that the joint bound covers needs none of its own."""
        if self.norm != "2" and block["value"] is None:
            return
        value, name, kind = float(block["value"]), block["name"], block["kind"]
        if self.norm != "2" or not 0.0 <= value < math.inf:
            raise Refuted("block", f"{name}: the constant {value!r} is none")
        get = self._getter(block)
        if kind == "nonexpansive":
            good = block["class"] in _NONEXPANSIVE and value >= 1.0
        elif kind == "normalize":
            std = get("std")
            good = bool((std > 0.0).all()) and value >= math.nextafter(1.0 / float(std.min()), math.inf)
        elif kind == "linear":
            good = norm_at_most(get("weight"), value)
        elif kind == "equilibrium":
            joint = self.claim["joint"]
            if joint is not None and joint["place"] == place:
                self.log.append(f"block {name}: its own constant is not used, as the joint bound covers it")
                return
            matrix, driven = self._formed(block, "matrix"), self._formed(block, "input")
            seen = self._formed(block, "output") if block["output"] else np.eye(len(matrix))
            good = metric_proves(matrix, driven, seen, np.abs(seen), self.evidence[f"{name}/multipliers"], value)
        else:
            raise Refuted("block", f"{name}: this program knows no proof for a {block['class']}")
        if not good:
            raise Refuted("block", f"{name}: the constant {value!r} of this {block['class']} is not proved")
        self.log.append(f"block {name}: {block['class']}, {value:.9g}")

    def _head(self, place: int) -> Array:
        """The matrix after an equilibrium layer."""
        block = self.blocks[place]
        rest = [k for k in range(place + 1, len(self.blocks)) if not _moves_only(self.blocks[k])]
        if block["output"]:
            if rest:
                raise Refuted("joint", "something comes after the layer's own output map")
            return self._formed(block, "output")
        if not rest:
            return np.eye(len(self._formed(block, "matrix")))
        head = self.blocks[rest[0]]
        if len(rest) > 1 or head["kind"] != "linear":
            raise Refuted("joint", "the layer is not followed by one linear map")
        return self._getter(head)("weight")

    def _before(self, place: int) -> float:
        """Product of the constants of the blocks before a place, rounded up; other norms' joint bounds are about these too."""
        found = 1.0
        for block in self.blocks[:place] if self.norm == "2" else ():
            found = math.nextafter(found * float(block["value"]), math.inf)
        return found

    def _scaling(self, place: int, inputs: int) -> tuple[Array, Array]:
        """What a layer's inputs are normalised with, by the only block before it that may do more than move."""
        mean, std = np.zeros(inputs), np.ones(inputs)
        working = [block for block in self.blocks[:place] if not _moves_only(block)]
        if [block["kind"] for block in working] not in ([], ["normalize"]):
            raise Refuted("joint", f"more than a normalisation stands before {self.blocks[place]['name']}")
        for block in working:
            mean, std = (self._getter(block)(role) for role in ("mean", "std"))
            if mean.shape != std.shape or std.shape[1:] != (1, 1) or inputs % len(std) or not (std > 0.0).all():
                raise Refuted("joint", f"{block['name']} is no normalisation of {inputs} inputs")
            mean, std = (np.repeat(part.reshape(-1), inputs // part.size) for part in (mean, std))
        return mean, std

    def check_joint(self) -> None:
        """The constants of the last layer together with its head, for all outputs and for every pair of them."""
        joint = self.claim["joint"]
        if joint is None:
            if self.norm != "2":
                raise Refuted("norm", f"{self.norm!r}: by components, which this program does not follow")
            return
        place = joint["place"]
        if type(place) is not int or not 0 <= place < len(self.blocks) or self.blocks[place]["kind"] != "equilibrium":
            raise Refuted("joint", f"{place!r} is no place of an equilibrium layer")
        block = self.blocks[place]
        matrix, driven = self._formed(block, "matrix"), self._formed(block, "input")
        head = self._head(place)
        rows, value = self.evidence["joint/multipliers"], float(joint["value"])
        if self.norm != "2":
            driven = driven / self._scaling(place, driven.shape[1])[1]

        def proves(row: int, seen: Array, size: Array, claimed: float) -> bool:
            if self.norm != "inf":  # an input may be changed coordinate by coordinate, for ‖Δx‖₁
                parts = [driven] if self.norm == "2" else np.split(driven, driven.shape[1], 1)
                return all(metric_proves(matrix, part, seen, size, rows[row], claimed) for part in parts)
            shares = self.evidence["joint/shares"][row].astype(np.float64)  # ‖Δx‖_∞ ≤ 1 implies Σ shares·Δx² ≤ Σ shares
            if shares.shape != (driven.shape[1],) or not 1e-50 < shares.min() <= shares.max() < 1e50:
                return False
            inner = claimed / math.sqrt(float(shares.sum())) * (1.0 - 1e-12)
            return metric_proves(matrix, driven / np.sqrt(shares), seen, size, rows[row], inner)

        # Single outputs, or all of them, for which ‖Δy‖₁ ≤ √k‖Δy‖₂.
        wholes = [head[k : k + 1] for k in range(len(head))] if self.norm == "inf" else [head]
        each = value / math.sqrt(len(head)) * (1.0 - 1e-15) if self.norm == "1" else value
        if not all(proves(k, whole, np.abs(whole), each) for k, whole in enumerate(wholes)):
            raise Refuted("joint", f"the constant {value!r} is not proved by its multipliers")
        self.log.append(f"joint: {block['name']} with its head, {value:.9g}, a matrix inequality of size {len(matrix)}")
        if joint["pairs"] is None:
            return
        pairs = np.array(joint["pairs"], dtype=np.float64)
        places = list(itertools.combinations(range(len(head)), 2))
        if pairs.shape != (len(head), len(head)) or len(rows) != len(wholes) + len(places):
            raise Refuted(
                "joint", f"pairs of shape {pairs.shape}, {len(rows)} rows of multipliers, {len(head)} outputs"
            )
        for row, (i, j) in enumerate(places, len(wholes)):
            claimed, size = min(pairs[i, j], pairs[j, i]), (np.abs(head[i]) + np.abs(head[j]))[None]
            follows = (2.0 * value if self.norm == "inf" else math.sqrt(2.0) * each) * (1.0 + 4.0 * _UNIT)
            if not claimed >= follows and not proves(row, (head[i] - head[j])[None], size, claimed):
                raise Refuted("joint", f"the constant {claimed!r} of the margin of {i} and {j} is not proved")
        self.log.append(f"joint: {len(places)} class margins, each by its own inequality")

    def check_conclusion(self) -> None:
        """The claims follow from what was proved."""
        claim, joint, covered = self.claim, self.claim["joint"], self.claim["joint"] is not None
        whole = self._before(joint["place"]) * float(joint["value"]) if covered else self._before(len(self.blocks))
        whole = math.nextafter(whole, math.inf) if covered else whole
        if not whole <= float(claim["lipschitz"]) < math.inf:
            raise Refuted("lipschitz", f"{claim['lipschitz']!r} is claimed, {whole!r} follows")
        if claim["pairs"] is None:
            return
        pairs, last = np.array(claim["pairs"], dtype=np.float64), self.blocks[-1]
        if covered and joint["pairs"] is not None:
            proved = np.nextafter(self._before(joint["place"]) * np.array(joint["pairs"], dtype=np.float64), math.inf)
        elif last["kind"] == "linear" and not covered:
            head, exponent = near_one(self._getter(last)("weight"))
            apart = np.sqrt(((head[:, None] - head[None]) ** 2).sum(2)) * (1.0 + gamma(head.shape[1] + 8))
            proved = np.ldexp(apart, exponent) * self._before(len(self.blocks) - 1)
            if (proved < 1e-250).any() and (apart[~np.eye(len(apart), dtype=bool)] < 1e-140).any():
                raise Refuted("pairs", "two rows of the head are too close to each other for float64")
        else:
            raise Refuted("pairs", "nothing proves class margins")
        off = ~np.eye(len(pairs), dtype=bool)
        if pairs.shape != proved.shape or not (proved[off] <= pairs[off]).all():
            raise Refuted("pairs", "a constant of a class margin is smaller than what follows")
        self.log.append(
            f"conclusion: constant at most {float(claim['lipschitz']):.9g}, and {len(pairs)} classes' margins"
        )

    def check_witness(self) -> None:
        """The lower bound: two inputs with their states, for a chain of normalisation, one layer and a linear head."""
        low = self.claim["lower_bound"]
        if low is None:
            return
        if not 0.0 <= float(low) <= float(self.claim["lipschitz"]):
            raise Refuted("witness", f"a lower bound {low!r} above the upper one")
        if "witness/states" not in self.evidence:
            self.unchecked.append(f"the lower bound {low!r}, for which the evidence has no states")
            return
        place = self.claim["joint"]["place"]
        block = self.blocks[place]
        points = self.evidence["witness/points"].astype(np.float64).reshape(2, -1)
        mean, std = self._scaling(place, points.shape[1])
        value = (points - mean) / std
        matrix, driven = self._formed(block, "matrix"), self._formed(block, "input")
        bias = self._getter(block)("injection.bias") if "injection.bias" in block["tensors"] else np.zeros(len(matrix))
        states = self.evidence["witness/states"]
        image = _ACTIVATIONS[block["activation"]](states @ matrix.T + value @ driven.T + bias)
        # image solves the equation for an offset moved by W(states − image), and rounding; λ turns that into a distance.
        rounding = gamma(matrix.shape[1] + driven.shape[1] + 16)
        sizes = np.abs(states) @ np.abs(matrix).T + np.abs(value) @ np.abs(driven).T + np.abs(bias)
        moved = np.abs((states - image) @ matrix.T) + rounding * (sizes + np.abs(states - image) @ np.abs(matrix).T)
        moved = moved + 8.0 * _UNIT * np.abs(image) + 1e-300
        weights, eye = self.evidence["witness/multipliers"], np.eye(len(matrix))
        half = weights[:, None] * (eye - matrix)
        least = 0.999 * float(np.linalg.eigvalsh(half + half.T)[0])
        slack = gamma(8) * float((weights[:, None] * (eye + np.abs(matrix))).sum() * 2.0) + _UNIT * abs(least)
        if not semidefinite(half + half.T - least * eye, slack) or least <= 0.0 or not (weights > 0.0).all():
            raise Refuted("witness", "the layer is not proved monotone enough to bound the error of its states")
        away = 2.0 * np.linalg.norm(weights * moved, axis=1) / least * (1.0 + 1e-10)
        head = self._head(place)
        apart, norm = head @ (image[1] - image[0]), float(np.linalg.norm(head)) * (1.0 + gamma(head.size + 8))
        lost, order = norm * (float(away.sum()) + rounding * float(np.abs(image).sum())), float(self.norm)
        found = float(np.linalg.norm(apart, order)) - lost * (math.sqrt(len(head)) if order == 1.0 else 1.0)
        distance = float(np.linalg.norm(points[1] - points[0], order))
        proved = found / distance * (1.0 - 1e-12) if distance > 0.0 else 0.0
        if not proved >= float(low):
            raise Refuted("witness", f"{low!r} is claimed, the two inputs prove {proved!r}")
        self.log.append(f"witness: two inputs prove that no constant below {float(low):.9g} holds")


def main(arguments: list[str]) -> int:
    """The command: 0 if the certificate holds, 1 if a check failed, 2 for wrong usage."""
    if len(arguments) != 2:
        print("usage: wellposed verify CERTIFICATE.json WEIGHTS.safetensors", file=sys.stderr)
        return 2
    try:
        checker = Checker(Path(arguments[0]), Path(arguments[1]))
        for line in checker.run():
            print(f"ok  {line}")
    except Refuted as failure:
        print(f"FAILED  {failure}")
        return 1
    for line in checker.unchecked:
        print(f"NOT CHECKED  {line}")
    print("the certificate holds" + (", but for what was not checked" if checker.unchecked else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
