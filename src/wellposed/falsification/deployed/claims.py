"""Changes of the evidence and of the claim."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from wellposed.falsification.deployed.files import CLAIM, EVIDENCE, Files, Impossible, flipped

_FACTORS = (0.0, 0.5, 0.9, 0.99, 1.0 - 1e-7, 1.01, 2.0)


def _name(rng: Generator, files: Files) -> str:
    if not files.tensors:
        raise Impossible
    return sorted(files.tensors)[rng.integers(len(files.tensors))]


def values(rng: Generator, files: Files) -> None:
    """Numbers of the evidence: scaled, changed a little, negated, in another order, or one bit of them."""
    name, kind = _name(rng, files), rng.integers(6)
    array = files.tensors[name]
    flat = array.reshape(-1).copy()
    place = rng.integers(flat.size)
    if kind == 0:
        flat = flat * rng.choice(_FACTORS)
    elif kind == 1:
        flat = flat * (1.0 + 10.0 ** -rng.integers(1, 12) * rng.standard_normal(flat.size))
    elif kind == 2:
        flat[place] *= rng.choice([*_FACTORS, -1.0])
    elif kind == 3:
        flat = rng.permutation(flat)
    elif kind == 4:
        bits = flat.view(np.int64)
        bits[place] ^= np.int64(1) << np.int64(rng.integers(63))
    else:
        flat[place] = rng.choice([0.0, np.nan, np.inf, 1e-310, 1e308, -1.0])
    files.tensors[name] = flat.reshape(array.shape)


def names(rng: Generator, files: Files) -> None:
    """Evidence left out, exchanged, given to other nodes, of another shape or another type."""
    name, other, kind = _name(rng, files), _name(rng, files), rng.integers(6)
    array = files.tensors[name]
    if kind == 0:
        del files.tensors[name]
    elif kind == 1:
        files.tensors[name], files.tensors[other] = files.tensors[other], files.tensors[name]
    elif kind == 2:
        files.tensors[f"{rng.integers(8)}/{name.partition('/')[2]}"] = array.copy()
    elif kind == 3:
        files.tensors[name] = array.astype(np.float32 if rng.random() < 0.5 else np.int64)
    elif kind == 4:
        files.tensors[name] = array[..., None] if rng.random() < 0.5 else array[:1]
    else:
        files.tensors[name] = array[: max(1, len(array) // 2)]


def evidence_bytes(rng: Generator, files: Files) -> None:
    """Bytes of the evidence: header or numbers, cut off, repeated, with other offsets, types and entries that occur twice."""
    kind, seed = rng.integers(7), int(rng.integers(1 << 30))

    def rewrite(found: bytes) -> bytes:
        own, length = np.random.default_rng(seed), int.from_bytes(found[:8], "little")
        header, rest = found[8 : 8 + length], found[8 + length :]
        place = int(own.integers(len(found)))
        if kind == 0:
            return flipped(found, place, int(own.integers(8)))
        if kind == 1:
            return found[:place]
        if kind == 2:
            return found + rest[: int(own.integers(1, 32))]
        if kind == 3:
            header = header.replace(b"F64", own.choice([b"I64", b"F32", b"U64"]), 1)
        elif kind == 4:  # an entry twice
            text = header.strip()
            header = text[:-1] + b"," + text[1:] if own.random() < 0.5 else text[:-1] + b',"x":' + text[1:] + b"}"
        elif kind == 5:  # overlapping offsets
            known = json.loads(header) or {"x": {}, "y": {"data_offsets": [0, 0]}}
            first, second = (known[key] for key in own.choice(sorted(known), 2))
            first["data_offsets"] = second.get("data_offsets", [0, 8])
            header = json.dumps(known).encode()
        else:
            known = json.loads(header)
            known["__metadata__"] = {"a": "b"}
            header = json.dumps(known).encode()
        return len(header).to_bytes(8, "little") + header + rest

    files.rewrites[EVIDENCE] = rewrite


def constants(rng: Generator, files: Files) -> None:
    """Other constants."""
    claim, factor = files.claim, float(rng.choice(_FACTORS))
    kind = rng.integers(4)
    if kind <= 1 or claim["pairs"] is None:
        claim["lipschitz"] *= factor
    elif kind == 2:
        claim["pairs"] = [[factor * value for value in row] for row in claim["pairs"]]
    else:
        first, second = rng.integers(len(claim["pairs"]), size=2)
        claim["pairs"][first][second] *= factor


def lower_bound(rng: Generator, files: Files) -> None:
    """A lower bound that is larger, or is there although no inputs prove it."""
    known = files.claim["lower_bound"]
    files.claim["lower_bound"] = (
        rng.random() * files.claim["lipschitz"] if known is None else known * rng.choice(_FACTORS)
    )


def theorems(rng: Generator, files: Files) -> None:
    """Other theorems, or another norm."""
    if rng.random() < 0.6:
        count = int(rng.integers(0, 4))
        files.claim["theorems"] = [str(part) for part in rng.choice(["product", "metric", "entrywise"], count)]
    else:
        files.claim["norm"] = str(rng.choice(["1", "2", "inf", "3", "fro"]))


def pairs(rng: Generator, files: Files) -> None:
    """Pairs left out, in another order, fewer or more."""
    known, kind = files.claim["pairs"], rng.integers(4)
    if known is None:
        files.claim["pairs"] = [[0.0, 1e9], [1e9, 0.0]]
    elif kind == 0:
        files.claim["pairs"] = None
    elif kind == 1:
        files.claim["pairs"] = [row[::-1] for row in known]
    elif kind == 2:
        files.claim["pairs"] = [row[:-1] for row in known[:-1]]
    else:
        order = rng.permutation(len(known))
        files.claim["pairs"] = [[known[i][j] for j in order] for i in order]


def text(rng: Generator, files: Files) -> None:
    """The text of the claim: bytes, keys that occur twice, numbers that are none, other files, more keys."""
    kind, place = rng.integers(6), float(rng.random())
    ways: list[Callable[[bytes], bytes]] = [
        lambda found: found[: int(place * len(found))],
        lambda found: found.replace(b'"lipschitz"', b'"lipschitz": 1e-3, "lipschitz"', 1),
        lambda found: found.replace(b'"norm"', b'"lipschitz": 1e-3, "norm"', 1),
        lambda found: found.replace(b'"lower_bound": null', b'"lower_bound": NaN', 1),
        lambda found: found[: int(place * len(found))] + b" " + found[int(place * len(found)) :],
    ]
    if kind < len(ways):
        files.rewrites[CLAIM] = ways[kind]
        return
    extra: dict[str, list[object]] = {
        "lipschitz": [True, "1e-3", None, [1e-3], -1.0, 10**400],
        "blocks": [[]],
        "format": ["wellposed-certificate/5", 6],
    }
    key = str(rng.choice(sorted(extra)))
    files.claim[key] = extra[key][rng.integers(len(extra[key]))]


CLAIMS = {
    "evidence: numbers": values, "evidence: names and shapes": names, "evidence: bytes": evidence_bytes,
    "claim: constants": constants, "claim: lower bound": lower_bound, "claim: theorems and norm": theorems,
    "claim: pairs": pairs, "claim: text": text,
}  # fmt: skip
