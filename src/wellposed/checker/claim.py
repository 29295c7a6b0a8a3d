"""The claim and its evidence, read so that there is one way to understand them."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from .node import Node
from .proofs import Array, Refuted, require

FORMAT, NORMS, THEOREMS = "wellposed-certificate/6", ("2", "inf", "1"), ("product", "metric", "entrywise")
_KEYS = {
    "model_sha256",
    "norm",
    "lipschitz",
    "pairs",
    "theorems",
    "lower_bound",
    "evidence",
}  # beside format and digest
_CLAIM, _EVIDENCE = 1 << 26, 1 << 30  # bytes, at most


def content_of(path: Path, most: int) -> bytes:
    """The content of a regular file that is not too large."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            known = os.fstat(handle)
            require(stat.S_ISREG(known.st_mode), "files", f"{path.name} is no regular file")
            require(known.st_size <= most, "files", f"{path.name} has more than {most} bytes")
            found = file.read(most + 1)
    except OSError as error:
        raise Refuted("files", f"{path.name} cannot be read ({error.strerror})") from error
    require(len(found) == known.st_size, "files", f"{path.name} changes while it is read")
    return found


def number(value: Any, least: float = 0.0) -> float:
    """A finite number of a claim, at least ``least``."""
    good = type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value) and value >= least
    require(good, "claim", f"{value!r} is no number from {least} on")
    return float(value)


def sealed(content: dict[str, Any]) -> str:
    """The text of a claim of this format, with its digest, in the one way in which it may be written."""
    claim = {"format": FORMAT, **content}
    digest = hashlib.sha256(json.dumps(claim, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({**claim, "sha256": digest}, indent=1)


class Claim:
    """A claim with its evidence.

    Attributes:
        norm: of inputs and outputs.
        lipschitz: claimed constant of all outputs.
        pairs: claimed constants of margins, shape (classes, classes), or None.
        theorems: names of the theorems that prove them.
        lower_bound: claimed lower bound, or None.
        model_sha256: digest of the model's file.
        used: names of the evidence that was taken.
    """

    def __init__(self, path: Path) -> None:
        path = path.resolve()
        text = content_of(path, _CLAIM)
        try:
            content = dict(json.loads(text.decode("utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise Refuted("claim", f"no JSON object ({error})") from error
        found = content.pop("format", None), content.pop("sha256", None)
        require(
            found[0] == FORMAT, "format", f"{found[0]!r} is not {FORMAT}: certify again, which writes an ONNX file too"
        )
        require(set(content) == _KEYS, "claim", f"needs the keys of the format {FORMAT}")
        same = sealed(content).encode() == text
        require(same, "claim digest", "was changed after it was written, or is not written as the format says")
        self.norm, self.theorems, self.model_sha256 = content["norm"], content["theorems"], content["model_sha256"]
        good = self.norm in NORMS and type(self.model_sha256) is str
        require(good, "claim", f"unknown norm {self.norm!r}, or no digest")
        named = type(self.theorems) is list and all(theorem in THEOREMS for theorem in self.theorems)
        require(named and len(set(self.theorems)) == len(self.theorems), "claim", f"unknown theorems {self.theorems!r}")
        self.lipschitz, self.pairs = number(content["lipschitz"]), None
        self.lower_bound = None if content["lower_bound"] is None else number(content["lower_bound"])
        if content["pairs"] is not None:
            rows = content["pairs"]
            square = type(rows) is list and rows and all(type(row) is list and len(row) == len(rows) for row in rows)
            require(square, "claim", "pairs are no square matrix")
            self.pairs = np.array([[number(value) for value in row] for row in rows])
        self._evidence, self.used = self._tensors(path, content["evidence"]), set[str]()

    @staticmethod
    def _tensors(path: Path, named: Any) -> dict[str, Array]:
        known = type(named) is dict and set(named) == {"file", "sha256"} and type(named["file"]) is str
        plain = known and named["file"] not in ("", ".", "..") and not set(named["file"]) & set("/\\:\0")
        require(plain, "evidence", "needs the name of a file in the certificate's folder, and its digest")
        data = content_of(path.with_name(named["file"]), _EVIDENCE)
        require(hashlib.sha256(data).hexdigest() == named["sha256"], "evidence digest", "other evidence than claimed")
        try:
            found = load(data)
        except Exception as error:
            raise Refuted("evidence", f"unreadable ({type(error).__name__}: {error})") from error
        require(save(found) == data, "evidence", "is not what its tensors are written as")
        for name, array in found.items():
            require(array.dtype == np.float64 and np.isfinite(array).all(), "evidence", f"{name} is not finite float64")
        return found

    def has(self, name: str) -> bool:
        """Whether there is evidence of a name."""
        return name in self._evidence

    def take(self, name: str, *shape: int) -> Array:
        """The evidence of a name, which counts as used; −1 in its shape is for any extent."""
        found = self._evidence.get(name)
        require(found is not None, "evidence", f"{name} is missing")
        assert found is not None
        fits = found.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, found.shape, strict=True)
        )
        require(fits, "evidence", f"{name} has shape {found.shape} instead of {shape}")
        self.used.add(name)
        return found

    def moved(self, node: Node, system: Array, wanted: Array) -> Array:
        """The evidence of how far a node's value moves: nonnegative and, as the caller proves, above system⁻¹·wanted."""
        return self.take(f"{node.place}/moved", *wanted.shape)

    def gram(self, node: Node, kernel: Array, strides: tuple[int, int]) -> Array:
        """The evidence of a matrix for all frequencies, proved by the caller to be above those of UUᵀ, U the input map."""
        return self.take(f"{node.place}/gram", len(kernel), len(kernel))

    def states(self, node: Node, offsets: Array) -> Array:
        """The evidence of a node's equilibria for two offsets, or of something near them."""
        return self.take(f"{node.place}/states", *offsets.shape)

    def convert(self, change: Callable[[Array], Array]) -> None:
        """Change the kind of numbers that the evidence holds."""
        self._evidence = {name: change(part) for name, part in self._evidence.items()}

    def require_all_used(self) -> None:
        """Refuse evidence that nothing needed."""
        require(self.used == set(self._evidence), "evidence", f"unused: {sorted(set(self._evidence) - self.used)}")
