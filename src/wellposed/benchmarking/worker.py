"""A subject of a benchmark in a process of its own, so that another checkout of this library can be timed.

The file is run as a script, by the path, with that checkout on Python's path; nothing here imports the library. Requests and
answers are lines of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol


class Subject(Protocol):
    """What is compared: something that is run at given tolerances, and whose errors are known."""

    def errors(self, *tolerances: float) -> Sequence[float]:
        """The errors at these tolerances, for each kind of number the median and the worst."""

    def run(self, *tolerances: float) -> object:
        """One run at these tolerances."""


def cpu_seconds(subject: Subject, tolerances: Sequence[float]) -> float:
    """CPU seconds that this process, with all of its threads, spends on one run."""
    start = time.process_time()
    subject.run(*tolerances)
    return time.process_time() - start


def serve(path: str, factory: str, arguments: dict[str, Any]) -> None:
    """Make a subject, and answer requests until there are none.

    Args:
        path: of the file with the factory.
        factory: name of the function that makes the subject.
        arguments: of the factory.
    """
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print must not look like an answer
    spec = importlib.util.spec_from_file_location("subject", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    subject: Subject = getattr(module, factory)(**arguments)
    for line in sys.stdin:
        request = json.loads(line)
        given = request["tolerances"]
        answer = list(subject.errors(*given)) if request["errors"] else cpu_seconds(subject, given)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
