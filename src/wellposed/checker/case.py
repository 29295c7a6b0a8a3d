"""One certificate with its evidence, and the weights that it should be about, for the modules that prove parts of it.

Every kind of block has a module with ``roles``, the tensors that a block of the kind has; ``ends``, the shapes of its values and
inputs, None where they are not known; ``prove``, whether its constant holds; and maybe ``joint``, for the layer with its head.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from .proofs import Array, Refuted, real

FORMAT = "wellposed-certificate/5"
Block = dict[str, Any]
Shape = tuple[int, ...] | None
Getter = Callable[[str], Array]
# Of every kind the module with its proofs, and the classes of its blocks.
KINDS = {
    "nonexpansive": (None, "Flatten Unflatten Identity ReLU Tanh Sigmoid Hardtanh Dropout GroupSort"), "linear": (None, "Linear"),
    "normalize": (None, "Normalize"), "batch-norm": ("simple", "BatchNorm1d BatchNorm2d"), "convolution": ("simple", "Conv2d"),
    "pooling": ("simple", "AvgPool2d UnitPool2d MaxPool2d"), "equilibrium": ("dense", "Equilibrium MonDEQ LBEN NEMON DEQ"),
    "circular": ("circular", "ConvMonDEQ"), "scaled": ("scaled", "ConvLBEN"), "channels": ("channels", "ConvNEMON"),
    "scales": ("scales", "MultiScaleMonDEQ"), "orthogonal": ("orthogonal", "OrthogonalLinear OrthogonalConv2d"),
    "cell": ("orthogonal", "OrthogonalDEQ ConvOrthogonalDEQ"), "positive": ("positive", "PcDEQ ConvPcDEQ"),
    "explicit": ("explicit", "Sandwich SLL Residual"), "graph": ("graph", "ImplicitGraph NodeSum"),
}  # fmt: skip


def moves_only(block: Block) -> bool:
    """Whether a block only moves numbers to other places."""
    return bool(block["kind"] == "nonexpansive" and block["class"] in ("Flatten", "Identity"))


def module(name: str) -> ModuleType:
    """A part of this program, loaded when it is needed."""
    return importlib.import_module(f".{name}", __package__)


def module_of(block: Block) -> ModuleType:
    """The module with the proofs for the kind of a block."""
    name, _ = KINDS.get(block["kind"], (None, ""))
    if name is None:
        raise Refuted("block", f"{block['name']}: this program knows no proof for a {block['class']}")
    return module(name)


class Case:
    """The claim, the evidence and the weights.

    Attributes:
        claim: the content of the JSON file.
        norm: of inputs and outputs, ``"2"``, ``"inf"`` or ``"1"``.
        blocks: the entries of the claim for the blocks of the chain, in order.
        evidence: the arrays that the claim names.
        weights: the arrays of the weight file.
        log: what was proved, line by line.
        unchecked: what was not, for which the evidence has nothing.
    """

    def __init__(self, certificate: Path, weights: Path) -> None:
        try:
            self.claim: dict[str, Any] = json.loads(certificate.read_text(encoding="utf-8"))
            self.norm, form = self.claim["norm"], self.claim["format"]
            if form != FORMAT or self.norm not in ("2", "inf", "1"):
                raise Refuted("format", f"{form!r}, norm {self.norm!r}; this is for {FORMAT!r}, 2, inf, 1")
            evidence = certificate.parent / self.claim["evidence"]["file"]
            self.evidence_bytes = evidence.read_bytes()
            self.evidence, self.weights = load_file(evidence), load_file(weights)
            self.blocks: list[Block] = self.claim["blocks"]
        except Refuted:
            raise
        except Exception as error:
            raise Refuted("files", f"unreadable ({type(error).__name__}: {error})") from error
        self.log, self.unchecked = list[str](), list[str]()

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

    def getter(self, block: Block) -> Getter:
        """The tensors of a block by their roles, in float64."""
        return lambda role: self.weights[block["tensors"][role]].astype(np.float64)

    def formed(self, block: Block, part: str, exact: Array, off: Array) -> Array:
        """A matrix of the evidence, once it is shown to be what the weights give.

        Args:
            block: whose evidence it is.
            part: its name within the block.
            exact: what the weights give, in float64.
            off: how many units in the last place every entry may be off.
        """
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

    def before(self, place: int) -> float:
        """Product of the constants of the blocks before a place, rounded up; joint bounds in other norms are about these too."""
        found = 1.0
        for block in self.blocks[:place] if self.norm == "2" else ():
            found = math.nextafter(found * real(block["value"]), math.inf)
        return found

    def linear_map(self, block: Block) -> Array:
        """The matrix of a linear block."""
        if block["kind"] == "linear":
            return self.getter(block)("weight")
        if block["kind"] == "orthogonal" and block["parametrisation"] != "circular":
            found: Array = module_of(block).matrix(self, block)
            return found
        raise Refuted("head", f"{block['name']}: no linear map, so that nothing proves class margins")
