"""The results of a benchmark: rows with a ratio each, and the record that is kept of them, with where it was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import DataError


@dataclass(frozen=True)
class Row:
    """Ours against one rival.

    Attributes:
        case: what was computed.
        ours: what of this library.
        rival: what it was compared with.
        remark: why nothing was measured; empty where something was.
        ratio: our time over the rival's, the median over the turns.
        spread: quartiles of that ratio.
        milliseconds: median times, ours and the rival's.
        turns: how often each ran.
        errors: ours and the rival's, in the order that the benchmark says.
        as_exact: whether none of our errors is above the rival's.
    """

    case: str
    ours: str
    rival: str
    remark: str = ""
    ratio: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    milliseconds: tuple[float, float] = (0.0, 0.0)
    turns: int = 0
    errors: tuple[Sequence[float], Sequence[float]] = ((), ())
    as_exact: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether there is a ratio."""
        return not self.remark


@dataclass(frozen=True)
class Record:
    """The rows of one benchmark.

    Attributes:
        benchmark: its name.
        environment: versions, machine, date and command.
        rows: one per comparison.
    """

    benchmark: str
    environment: dict[str, Any]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a file.

        Raises:
            DataError: the file holds no record.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(Row(**row) for row in content["rows"])
            return cls(content["benchmark"], content["environment"], rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is no record of a benchmark ({error}); run `wellposed bench` again") from error
