"""A deployed model with its claim and its evidence, as they are changed and sealed anew."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from onnx import ModelProto

from wellposed.certificates import Certificate
from wellposed.checker import Refuted, check
from wellposed.checker.claim import Claim
from wellposed.checker.core import constants_of
from wellposed.checker.model import read
from wellposed.checker.node import Node
from wellposed.deployment import certify_file

Array = NDArray[Any]
Rewrite = Callable[[bytes], bytes]
MODEL, CLAIM, EVIDENCE = "m.onnx", "c.json", "c.safetensors"


class Impossible(Exception):
    """A change that these files have no place for."""


@dataclass
class Files:
    """The contents of the three files; digests are set when they are written.

    Attributes:
        model: the network.
        claim: the JSON object, without digests.
        tensors: the evidence.
        rewrites: changes of the bytes of a file, by its name; digests are of what they give.
    """

    model: ModelProto
    claim: dict[str, Any]
    tensors: dict[str, Array]
    rewrites: dict[str, Rewrite] = field(default_factory=dict)

    @classmethod
    def of(cls, certificate: Certificate, folder: Path) -> Files:
        """The files of an exported network.

        Args:
            certificate: of the network.
            folder: where its model is, and where its claim and evidence are written.
        """
        certify_file(certificate, folder / MODEL, folder / CLAIM)
        claim = json.loads((folder / CLAIM).read_text())
        model = ModelProto.FromString((folder / MODEL).read_bytes())
        return cls(model, claim, safetensors.numpy.load_file(folder / EVIDENCE))

    def copy(self) -> Files:
        """A copy that shares nothing."""
        model = ModelProto.FromString(self.model_bytes)
        return Files(model, copy.deepcopy(self.claim), {name: part.copy() for name, part in self.tensors.items()})

    @property
    def model_bytes(self) -> bytes:
        """The model as it is stored, but for rewrites."""
        return bytes(self.model.SerializeToString(deterministic=True))

    def write(self, folder: Path) -> None:
        """Write the three files with right digests."""
        tensors = {name: np.ascontiguousarray(part) for name, part in self.tensors.items()}
        content = {MODEL: self.model_bytes, EVIDENCE: safetensors.numpy.save(tensors)}
        content = {name: self.rewrites.get(name, bytes)(data) for name, data in content.items()}
        self.claim["model_sha256"] = hashlib.sha256(content[MODEL]).hexdigest()
        if isinstance(self.claim.get("evidence"), dict):
            self.claim["evidence"]["sha256"] = hashlib.sha256(content[EVIDENCE]).hexdigest()
        self.claim.pop("sha256", None)
        text = json.dumps(self.claim, sort_keys=True, separators=(",", ":")).encode()
        sealed = json.dumps({**self.claim, "sha256": hashlib.sha256(text).hexdigest()}, indent=1).encode()
        content[CLAIM] = self.rewrites.get(CLAIM, bytes)(sealed)
        for name, data in content.items():
            (folder / name).unlink(missing_ok=True)  # writing over it would wait for the disk
            (folder / name).write_bytes(data)

    def nodes(self, folder: Path) -> list[Node]:
        """The nodes of the model that was written to a folder, as the checker reads them."""
        return read(folder / MODEL, hashlib.sha256((folder / MODEL).read_bytes()).hexdigest())


def accepted(folder: Path) -> bool:
    """Whether the checker accepts the files of a folder."""
    try:
        check(folder / CLAIM, folder / MODEL)
    except Refuted:
        return False
    return True


def proved(files: Files, folder: Path) -> tuple[float, Array | None] | None:
    """What the checker proves of files that were written, whatever they claim; None if it proves nothing."""
    try:
        return constants_of(files.nodes(folder), Claim(folder / CLAIM))
    except Refuted:
        return None
    except Exception:  # which the checker refuses, too
        return None


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Bytes with one bit of one of them changed."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
