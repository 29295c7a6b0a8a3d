"""Files of results: whole or not there at all, and with a digest by which a damaged one is found."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError
from wellposed.writing import written_whole

DIGEST, NOT_FINITE = "sha256", "not_finite"


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file or folder that cannot be written."""
    return CheckpointError(
        f"{path}: cannot be written ({error.strerror or error}); make room there, or choose another --out"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those that it is in.

    Raises:
        CheckpointError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with written_whole(path) as unfinished:
            unfinished.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def write_text(path: Path, content: str) -> None:
    """Write a file of text whole or not at all, in UTF-8; names of files that are not keep their bytes.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_bytes(path, content.encode(errors="surrogateescape"))


def legible(text: str) -> str:
    """A text that any page can have: bytes of names of files that are no UTF-8 as their codes."""
    return text.encode(errors="backslashreplace").decode()


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write a JSON file, on one line or with an indentation, with its digest in the entry ``sha256``.

    The digest is of the text before it. JSON has no infinite numbers: null takes their place, and the entry ``not_finite`` says
    which numbers these were.

    Args:
        path: of the file.
        content: what JSON can hold, and infinite numbers; a list gets no digest.
        indent: of its lines.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_text(path, sealed(content, indent))


def sealed(content: Any, indent: int | None = None) -> str:
    """The text of `write_json`.

    Args:
        content: see `write_json`.
        indent: of its lines.
    """
    plain = strict(content)
    text = json.dumps(plain, indent=indent, allow_nan=False)
    if not isinstance(plain, dict):
        return text
    if not plain:  # what is empty has no place for a comma
        text = json.dumps({NOT_FINITE: {}}, indent=indent)
    body = text.removesuffix("}").rstrip()
    return f'{body}, "{DIGEST}": "{hashlib.sha256(body.encode()).hexdigest()}"}}'


def read_json(path: Path, mend: str) -> Any:
    """What `write_json` wrote, now or before files had digests.

    Args:
        path: of the file.
        mend: what to do if it is damaged, a command.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there yet; {mend} first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: corrupt ({error}); {mend} again") from error


def unsealed(content: bytes, *, needs_digest: bool = False) -> Any:
    """What a text of `sealed` says.

    Args:
        content: the text in UTF-8.
        needs_digest: whether a text without a digest, as all had once, is refused.

    Raises:
        ValueError: it is damaged.
        RecursionError: it is damaged, too.
    """
    text = content.decode("utf-8")
    found = json.loads(text)
    if not isinstance(found, dict):
        if needs_digest:
            raise ValueError("it has no SHA-256")
        return found
    last = next(reversed(found), "")
    if last != DIGEST and (needs_digest or _is_nearly(last, DIGEST)):
        raise ValueError("it has no SHA-256, or a damaged one")
    if DIGEST in found:
        del found[DIGEST]
        body, _, end = text.rpartition(f', "{DIGEST}": ')
        if end != f'"{hashlib.sha256(body.encode()).hexdigest()}"}}':
            raise ValueError("its content is not that of its SHA-256")
    named = found.get(NOT_FINITE)
    if isinstance(named, dict):  # of a text that was changed by hand as well
        del found[NOT_FINITE]
        try:
            for place, number in named.items():
                _put(found, place, float(number))
        except (TypeError, LookupError) as error:
            raise ValueError(f"its entry {NOT_FINITE} does not fit the others") from error
    return found


def _is_nearly(word: str, other: str) -> bool:
    """Whether two words differ in one letter."""
    return len(word) == len(other) and sum(a != b for a, b in zip(word, other, strict=True)) == 1


def strict(content: Any) -> Any:
    """What strict JSON can hold: null in the place of numbers that are not finite, which ``not_finite`` names then.

    Args:
        content: a dictionary, or a list of dictionaries.
    """
    if isinstance(content, list):
        return [strict(entry) if isinstance(entry, dict) else _finite(entry, "", {}) for entry in content]
    reasons: dict[str, str] = {}
    plain = _finite(content, "", reasons)
    return {**plain, NOT_FINITE: reasons} if reasons else plain


def _finite(content: Any, place: str, reasons: dict[str, str]) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value, f"{place}/{key}", reasons) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value, f"{place}/{index}", reasons) for index, value in enumerate(content)]
    if isinstance(content, float) and not math.isfinite(content):
        reasons[place.removeprefix("/")] = str(content)
        return None
    return content


def _put(content: Any, place: str, number: float) -> None:
    """Put a number where nothing is, into lists and dictionaries, whose keys may have the stroke that divides places."""
    fitting = [str(key) for key in (content if isinstance(content, dict) else range(len(content)))]
    first = max((key for key in fitting if f"{place}/".startswith(f"{key}/")), key=len)
    key, rest = first if isinstance(content, dict) else int(first), place[len(first) + 1 :]
    if rest:
        _put(content[key], rest, number)
    elif content[key] is None:
        content[key] = number


def file_digest(path: Path) -> str:
    """SHA-256 of a file; empty if it is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
