"""The two sides of a comparison: subjects in this process, in a process of another checkout, and what is absent."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.benchmarking import worker
from wellposed.errors import InputError
from wellposed.training.environment import commit

OWN = Path(__file__).resolve().parents[2]  # the folder from which this version of the library is imported


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
        name: for tables.
        errors: the errors at given tolerances.
        seconds: what one run at given tolerances costs.
        missing: why it cannot be measured here; empty where it can.
    """

    name: str
    errors: Callable[[Sequence[float]], Sequence[float]]
    seconds: Callable[[Sequence[float]], float]
    missing: str = ""

    @classmethod
    def of(cls, name: str, subject: worker.Subject) -> Contestant:
        """A subject in this process."""
        return cls(name, lambda given: subject.errors(*given), lambda given: worker.cpu_seconds(subject, given))

    @classmethod
    def absent(cls, name: str, reason: str) -> Contestant:
        """A side that cannot be measured here, with the reason."""
        return cls(name, lambda given: (), lambda given: 0.0, reason)


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


@contextlib.contextmanager
def elsewhere(name: str, source: Path, path: Path, factory: str, arguments: dict[str, Any]) -> Iterator[Contestant]:
    """A subject in a process of its own.

    Args:
        name: for tables.
        source: the folder from which that process imports the library.
        path: of the file with the factory, which may import nothing of the library but what every version of it has.
        factory: name of the function that makes the subject.
        arguments: of the factory.
    """
    environment = {**importing_from(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", worker.__file__, str(path), factory, json.dumps(arguments)]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(errors: bool, tolerances: Sequence[float]) -> Any:
            print(json.dumps({"errors": errors, "tolerances": list(tolerances)}), file=process.stdin, flush=True)
            answer = process.stdout.readline() if process.stdout else ""
            if not answer:
                raise InputError(f"against={str(source)!r}: {factory} failed there; see what it printed")
            return json.loads(answer)

        yield Contestant(name, lambda given: ask(True, given), lambda given: ask(False, given))
        process.stdin.close()


def importing_from(source: Path) -> dict[str, str]:
    """The environment of a process that looks for modules in a folder first."""
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def source_of(checkout: Path) -> Path:
    """The folder that holds the library in a checkout.

    Raises:
        InputError: there is none.
    """
    for folder in (checkout / "src", checkout):
        if (folder / "wellposed" / "__init__.py").exists():
            return folder.resolve()
    raise InputError(
        f"against={str(checkout)!r}: no checkout of this library; give the folder that holds src/wellposed"
    )


def version_at(checkout: Path) -> str:
    """The name of another checkout in tables, with its commit."""
    return f"checkout at {commit(source_of(checkout))}"
