"""Ways in which files are damaged: cut, emptied, a bit flipped, of another type, missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wellposed.errors import WellposedError

CUTS = (0.01, 0.2, 0.5, 0.8, 0.99)
PLACES = (0.0, 0.3, 0.7, 1.0)


def flipped(content: bytes, place: float, bit: int = 2) -> bytes:
    """A content with one bit changed, at a share of its length."""
    at = min(int(place * len(content)), len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def flips(content: bytes, count: int | None = None) -> Iterator[bytes]:
    """A content with one bit changed: every one of them, or so many that are drawn with a fixed seed."""
    bits = range(8 * len(content))
    for place in bits if count is None or count >= len(bits) else random.Random(0).sample(bits, count):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


DAMAGE: Mapping[str, Callable[[bytes], bytes] | None] = {
    **{f"cut at {share}": (lambda content, share=share: content[: int(share * len(content))]) for share in CUTS},
    **{f"bit at {place}": (lambda content, place=place: flipped(content, place)) for place in PLACES},
    "empty": lambda content: b"", "a zip": lambda content: b"PK\x03\x04 and so on", "text": lambda content: b"[1, 2]",
    "a pickle": lambda content: b"\x80\x04K\x01.", "zeros": lambda content: bytes(len(content)),
    "missing": None, "a folder": None,
}  # fmt: skip


def write_anew(path: Path, content: bytes) -> None:
    """Write a file in the place of another one: writing over its bytes would wait for the disk each time."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def damage(path: Path, kind: str) -> None:
    """Damage a file in one of the ways of `DAMAGE`."""
    change = DAMAGE[kind]
    if change is not None:
        write_anew(path, change(path.read_bytes()))
        return
    path.unlink()
    if kind == "a folder":
        path.mkdir()


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """What reading gives, and nothing; or None and this library's one line about what is wrong."""
    try:
        return read(), ""
    except WellposedError as error:
        said = str(error)
    assert said and "\n" not in said, said
    return None, said


def drawn(seed: str, count: int) -> list[str]:
    """So many ways, drawn by a word: a cut, a bit, and others."""
    kinds, random_ = list(DAMAGE), random.Random(seed)
    random_.shuffle(kinds)
    cut = next(kind for kind in kinds if kind.startswith("cut"))
    bit = next(kind for kind in kinds if kind.startswith("bit"))
    others = [kind for kind in kinds if not kind.startswith(("cut", "bit"))]
    return [cut, bit, *others][:count]
