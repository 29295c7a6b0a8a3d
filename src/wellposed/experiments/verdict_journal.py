"""Verdicts of a verification that is not finished yet, kept on disk as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wellposed.experiments.image_verdicts import Outcome
from wellposed.training.files import sealed, unsealed, unwritable


class VerdictJournal:
    """A file of JSON lines: first what the verdicts are about, then the outcome of a few images on each line.

    Every line has its digest. The file may be cut anywhere, as it is when its writer is killed: a line that was not finished, or
    is damaged, is not counted. A file about
    something else is begun anew.

    Args:
        path: of the file.
        about: everything that verdicts depend on, which JSON can hold.

    Raises:
        CheckpointError: the file cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        head, *lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        self._outcomes = dict(_outcomes(lines))
        if _parsed(head) != about:
            self._outcomes = {}
            self._write("w", sealed(about) + "\n")
        elif lines[-1:] != [b""]:
            self._write("a", "\n")

    def outcome(self, first: int, count: int, radii: int) -> Outcome | None:
        """What was noted for so many images from the first on at so many radii, or None."""
        found = self._outcomes.get(first)
        shapes = [count] * radii
        fits = found is not None and [len(row) for row in found.status] == shapes == [len(row) for row in found.methods]
        return found if fits else None

    def keep(self, first: int, outcome: Outcome) -> None:
        """Note the outcome of a few images.

        Args:
            first: place of the first of them.
            outcome: of these images.

        Raises:
            CheckpointError: the file cannot be written.
        """
        self._write("a", sealed({"first": first, **asdict(outcome)}) + "\n")

    def remove(self) -> None:
        """Remove the file: everything that it holds is in a result."""
        self.path.unlink(missing_ok=True)

    def _write(self, mode: str, text: str) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            raise unwritable(self.path, error) from error


def _outcomes(lines: list[bytes]) -> Iterator[tuple[int, Outcome]]:
    """Place of the first image and outcome of every whole line."""
    for line in lines:
        with suppress(TypeError, ValueError, KeyError):
            content = dict(_parsed(line))
            yield content.pop("first"), Outcome(**content)


def _parsed(line: bytes) -> Any:
    try:
        return unsealed(line, needs_digest=True)
    except (ValueError, RecursionError):
        return None
