"""Checks a certificate file against a weight file, without the library that wrote it: numpy and safetensors only.

    python -m checker CERTIFICATE.json WEIGHTS.safetensors

A certificate names the blocks of a chain, a claimed Lipschitz constant for each, for all of them, and for every class margin.
The evidence beside it holds the numbers that run and what proves the constants. This program checks digests; that the numbers are
what the weights give, up to the rounding of their precision; every proof, again, by its own means; and that the claims follow. It
trusts that the model is the chain of blocks that is named, evaluated by their definitions, with the numbers of the evidence.
Kinds of blocks have modules of their own, of which only those that a certificate needs are loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

FORMAT = "wellposed-certificate/5"
Array = NDArray[Any]
Block = dict[str, Any]
Shape = tuple[int, ...] | None
UNIT = 2.0**-53
SAFETY = 4.0  # by how much margins must exceed what the rounding of weights can change
_CLASSES = {
    "nonexpansive": "Flatten Unflatten Identity ReLU Tanh Sigmoid Hardtanh Dropout GroupSort", "normalize": "Normalize",
    "linear": "Linear", "convolution": "Conv2d", "equilibrium": "Equilibrium MonDEQ LBEN NEMON DEQ", "scaled": "ConvLBEN",
    "pooling": "AvgPool2d UnitPool2d MaxPool2d", "batch-norm": "BatchNorm1d BatchNorm2d", "circular": "ConvMonDEQ",
    "orthogonal": "OrthogonalLinear OrthogonalConv2d", "cell": "OrthogonalDEQ ConvOrthogonalDEQ", "channels": "ConvNEMON",
    "positive": "PcDEQ ConvPcDEQ", "scales": "MultiScaleMonDEQ", "explicit": "Sandwich SLL Residual",
    "graph": "ImplicitGraph NodeSum",
}  # fmt: skip
# A module has `roles`, the tensors that a block of the kind has; `ends`, the shapes of its values and inputs, None where they are
# not known; `prove`, whether its constant holds; and maybe `joint`, for the layer with its head.
_MODULES = {
    "equilibrium": "dense", "pooling": "simple", "batch-norm": "simple", "convolution": "simple", "orthogonal": "orthogonal",
    "cell": "orthogonal",
    **{kind: kind for kind in ("positive", "circular", "channels", "scales", "scaled", "explicit", "graph")},
}  # fmt: skip
_SIMPLE = {"nonexpansive": set[str](), "normalize": {"mean", "std"}, "linear": {"weight"}}


class Refuted(Exception):
    """A check failed; the message begins with its name."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")


def gamma(terms: int) -> float:
    """Relative rounding error of a sum of products of so many terms, in any order."""
    return terms * UNIT / (1.0 - terms * UNIT)


def semidefinite(matrix: Array, error: float) -> bool:
    """Whether all symmetric matrices within ``error`` of this one, in the Euclidean norm, are proved positive semidefinite.

    By a Cholesky factorisation, shifted by a bound of all rounding errors (Rump, BIT 46, 2006).
    """
    size, diagonal = len(matrix), np.diagonal(matrix)
    if not np.isfinite(matrix).all() or not math.isfinite(error) or (diagonal < 0.0).any():
        return False
    trace = float(diagonal.sum()) * (1.0 + gamma(size))
    own = gamma(size + 1) / (1.0 - gamma(size + 1)) * trace
    shift = (own + error + 4.0 * (size + 1) * (2.0 * size + trace) * 2.3e-308 + UNIT * trace) * (1.0 + 1e-14)
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
    error = gamma(scaled.shape[1] + 4) * float((absolute @ absolute.T).sum(1).max()) + 4.0 * UNIT * bound**2 + 1e-290
    return semidefinite(bound**2 * np.eye(len(gram)) - gram, error)


def real(value: Any) -> float:
    """A finite number of a claim."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Refuted("number", f"{value!r} is no finite number")
    return float(value)


def moves_only(block: Block) -> bool:
    """Whether a block only moves numbers to other places."""
    return bool(block["kind"] == "nonexpansive" and block["class"] in ("Flatten", "Identity"))


def module(name: str) -> ModuleType:
    """A part of this program, loaded when it is needed."""
    return importlib.import_module(f".{name}", __package__)


class Checker:
    """One certificate with its evidence, and the weights that it should be about."""

    def __init__(self, certificate: Path, weights: Path) -> None:
        try:
            self.claim: dict[str, Any] = json.loads(certificate.read_text(encoding="utf-8"))
            content, self.norm = self.claim, self.claim["norm"]
            if content["format"] != FORMAT or self.norm not in ("2", "inf", "1"):
                raise Refuted("format", f"{content['format']!r}, norm {self.norm!r}; this is for {FORMAT!r}, 2, inf, 1")
            evidence = certificate.parent / content["evidence"]["file"]
            self.evidence_bytes = evidence.read_bytes()
            self.evidence, self.weights = load_file(evidence), load_file(weights)
            self.blocks: list[Block] = content["blocks"]
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
        except Refuted:
            raise
        except Exception as error:
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
            if array.dtype not in (np.float32, np.float64) and not name.endswith((".calls", ".num_batches_tracked")):
                raise Refuted("precision", f"{name} has dtype {array.dtype}; proofs are about float32 and float64")
            if not np.isfinite(array).all():
                raise Refuted("finite", f"{name} has NaN or infinite entries")
        self.log.append("digests: claim, evidence and weights are the ones that were written")

    def _known(self, block: Block) -> ModuleType:
        if block["kind"] not in _MODULES:
            raise Refuted("block", f"{block['name']}: this program knows no proof for a {block['class']}")
        return module(_MODULES[block["kind"]])

    def check_accounting(self) -> None:
        """Every tensor of the weight file belongs to a block that the certificate names."""
        names = [block["name"] for block in self.blocks]
        if len(set(names)) != len(names) or not all(type(name) is str for name in names):
            raise Refuted("accounting", "two blocks of one name")
        named = {key for block in self.blocks for key in block["tensors"].values()}
        if set(self.weights) != named:
            raise Refuted("accounting", f"tensors outside of the chain: {sorted(set(self.weights) ^ named)}")
        given: Shape = None
        for block in (block for block in self.blocks if block["kind"] != "other"):
            if block["kind"] in _CLASSES and block["class"] not in _CLASSES[block["kind"]].split():
                raise Refuted("accounting", f"{block['name']}: a {block['class']} is not of the kind {block['kind']}")
            prefix, kind, has = "" if names == ["model"] else f"{block['name']}.", block["kind"], set(block["tensors"])
            needed, optional = _SIMPLE.get(kind, set()), {"bias"} if kind == "linear" else set()
            if kind not in _SIMPLE:
                needed, optional = self._known(block).roles(self, block)
            wrong = any(key != prefix + role for role, key in block["tensors"].items())
            if not needed <= has <= needed | optional or wrong:
                raise Refuted("accounting", f"{block['name']}: other tensors than a {block['class']} of this kind has")
            given = self.shape_after(block, given)
        self.log.append(f"accounting: {len(self.blocks)} blocks, {len(named)} tensors")

    def shape_after(self, block: Block, given: Shape) -> Shape:
        """The shape of a block's values, its inputs being those of the block before; None where that is not known."""
        kind, found, taken = block["kind"], given, given
        if kind == "linear":
            outputs, inputs = self.getter(block)("weight").shape
            found, taken = ((*given[:-1], outputs), (*given[:-1], inputs)) if given else ((outputs,), None)
        elif kind == "nonexpansive" and block["class"] in ("Flatten", "Unflatten"):
            found = (math.prod(given),) if given is not None and block.get("dims") == [1, -1] else None
        elif kind not in _SIMPLE:
            found, taken = self._known(block).ends(self, block, given)
        if None not in (given, taken) and given != taken:
            raise Refuted("accounting", f"{block['name']}: takes inputs of shape {taken}, is given {given}")
        return found

    def getter(self, block: Block) -> Callable[[str], Array]:
        """The tensors of a block by their roles, in float64."""
        return lambda role: self.weights[block["tensors"][role]].astype(np.float64)

    def formed(self, block: Block, part: str, exact: Array, off: Array) -> Array:
        """A matrix of the evidence, once it is shown to be ``exact``, what the weights give, but for ``off`` last places."""
        stored = self.evidence[f"{block['name']}/{part}"]
        if stored.shape != exact.shape:
            raise Refuted("matrix", f"{block['name']}/{part}: shape {stored.shape}, the weights give {exact.shape}")
        free = [self.weights[key].dtype for role, key in block["tensors"].items() if not role.endswith("_extra_state")]
        if {dtype for dtype in free if dtype.kind == "f"} != {stored.dtype}:
            raise Refuted("matrix", f"{block['name']}/{part}: has dtype {stored.dtype}, the weights have others")
        allowed = float(np.finfo(stored.dtype).eps) * off + float(np.finfo(stored.dtype).tiny)
        if not float(np.linalg.norm(allowed)) <= 1e-2 * float(np.linalg.norm(exact)) + 1e-30:
            raise Refuted("matrix", f"{block['name']}/{part}: cancellation leaves too little of it to compare")
        if not (np.abs(stored.astype(np.float64) - exact) <= allowed).all():
            raise Refuted("matrix", f"{block['name']}/{part}: not what the weights give, by more than rounding")
        return stored.astype(np.float64)

    def check_block(self, place: int, block: Block) -> None:
        """The constant of one block; the one that the joint bound covers needs none of its own."""
        if self.norm != "2" and block["value"] is None:
            return
        value, name, kind, joint = real(block["value"]), block["name"], block["kind"], self.claim["joint"]
        if self.norm != "2" or value < 0.0:
            raise Refuted("block", f"{name}: the constant {value!r} is none")
        if kind == "nonexpansive":
            good = value >= 1.0
        elif kind == "normalize":
            std = self.getter(block)("std")
            good = bool((std > 0.0).all()) and value >= math.nextafter(1.0 / float(std.min()), math.inf)
        elif kind == "linear":
            good = norm_at_most(self.getter(block)("weight"), value)
        elif joint is not None and joint["place"] == place and hasattr(self._known(block), "joint"):
            self.log.append(f"block {name}: its own constant is not used, as the joint bound covers it")
            return
        else:
            good = self._known(block).prove(self, place, value)
        if not good:
            raise Refuted("block", f"{name}: the constant {value!r} of this {block['class']} is not proved")
        self.log.append(f"block {name}: {block['class']}, {value:.9g}")

    def before(self, place: int) -> float:
        """Product of the constants of the blocks before a place, rounded up; other norms' joint bounds are about these too."""
        found = 1.0
        for block in self.blocks[:place] if self.norm == "2" else ():
            found = math.nextafter(found * real(block["value"]), math.inf)
        return found

    def check_joint(self) -> None:
        """The constants of the last layer together with its head, for all outputs and for every pair of them."""
        joint = self.claim["joint"]
        if joint is None:
            return
        place = joint["place"]
        if type(place) is not int or not 0 <= place < len(self.blocks):
            raise Refuted("joint", f"{place!r} is no place of an equilibrium layer")
        known, kind = self._known(self.blocks[place]), self.blocks[place]["kind"]
        if not hasattr(known, "joint") or (self.norm != "2" and kind != "equilibrium"):
            raise Refuted("joint", f"{place!r} is no place of an equilibrium layer")
        known.joint(self, place)

    def linear_map(self, block: Block) -> Array:
        """The matrix of a linear block."""
        if block["kind"] == "linear":
            return self.getter(block)("weight")
        if block["kind"] == "orthogonal" and block["parametrisation"] != "circular":
            found: Array = self._known(block).matrix(self, block)
            return found
        raise Refuted("head", f"{block['name']}: no linear map, so that nothing proves class margins")

    def check_conclusion(self) -> None:
        """The claims follow from what was proved."""
        claim, joint, proofs = self.claim, self.claim["joint"], list[tuple[float, Array | None]]()
        if joint is not None:
            factor, own = self.before(joint["place"]), joint["pairs"]
            scaled = None if own is None else np.nextafter(factor * np.array(own, dtype=np.float64), math.inf)
            proofs.append((math.nextafter(factor * real(joint["value"]), math.inf), scaled))
        elif self.norm == "2":
            proofs.append((self.before(len(self.blocks)), self.margins() if claim["pairs"] is not None else None))
        if self.norm != "2" and claim["components"] is True:
            proofs.append(module("components").constants(self))
            self.log.append("components: every layer's sensitivity is bounded by vectors")
        if not proofs:
            raise Refuted("norm", f"nothing proves a constant in the norm {self.norm!r}")
        least = min(value for value, _ in proofs)
        if not least <= real(claim["lipschitz"]):
            raise Refuted("lipschitz", f"{claim['lipschitz']!r} is claimed, {least!r} follows")
        self.log.append(f"conclusion: constant at most {claim['lipschitz']:.9g}")
        if claim["pairs"] is None:
            return
        known, pairs = [part for _, part in proofs if part is not None], np.array(claim["pairs"], dtype=np.float64)
        if not known or any(part.shape != pairs.shape for part in known):
            raise Refuted("pairs", "nothing proves class margins, or as many")
        off = ~np.eye(len(pairs), dtype=bool)
        if not (np.minimum.reduce(known)[off] <= pairs[off]).all():
            raise Refuted("pairs", "a constant of a class margin is smaller than what follows")
        self.log.append(f"conclusion: the margins of {len(pairs)} classes")

    def margins(self) -> Array:
        """Constants of class margins by the rows of the last block, a linear one."""
        head, exponent = near_one(self.linear_map(self.blocks[-1]))
        apart = np.sqrt(((head[:, None] - head[None]) ** 2).sum(2)) * (1.0 + gamma(head.shape[1] + 8))
        proved = np.ldexp(apart, exponent) * self.before(len(self.blocks) - 1)
        equal = (head[:, None] == head[None]).all(2)  # margins that never move
        if (~equal & ((proved < 1e-250) | (apart < 1e-140))).any():
            raise Refuted("pairs", "two rows of the head are too close to each other for float64")
        return proved

    def check_witness(self) -> None:
        """The lower bound, where there is evidence for it."""
        low = self.claim["lower_bound"]
        if low is None:
            return
        if not 0.0 <= real(low) <= real(self.claim["lipschitz"]):
            raise Refuted("witness", f"a lower bound {low!r} above the upper one")
        if "witness/states" not in self.evidence:
            self.unchecked.append(f"the lower bound {low!r}, for which the evidence has no states")
            return
        module("dense").witness(self, float(low))


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
