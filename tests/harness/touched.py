"""Which files of the library ran: a pytest plugin that fails the run if a file has functions and none was called."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import wellposed

SOURCE = Path(wellposed.__file__).parent
_FUNCTION = 0x01  # the flag CO_OPTIMIZED of code objects, which bodies of modules and classes do not have


def computes(path: Path) -> bool:
    """Whether a file has a function that does something: its body is more than a docstring, an ellipsis or a refusal."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    return any(not isinstance(line, ast.Expr | ast.Raise | ast.Pass) for node in functions for line in node.body)


class Touched:
    """Records the files whose functions are called by tests; imports do not count."""

    def __init__(self) -> None:
        self.code: set[CodeType] = set()
        self.files: set[str] = set()

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.code.add(frame.f_code)

    def pytest_sessionstart(self) -> None:
        for found in pkgutil.walk_packages(wellposed.__path__, "wellposed."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        sys.setprofile(self._called)
        threading.setprofile(self._called)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.files.update(node.workeroutput.get("touched", ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.files.update(code.co_filename for code in self.code if code.co_flags & _FUNCTION)
        if hasattr(session.config, "workeroutput"):  # one of several processes: the first one judges for all
            session.config.workeroutput["touched"] = sorted(self.files)
        elif self.untouched():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        untouched = self.untouched()
        terminalreporter.section("files of wellposed without a call")
        terminalreporter.write_line("\n".join(untouched) if untouched else "none")

    def untouched(self) -> list[str]:
        """The files, relative to the library."""
        return [
            path.relative_to(SOURCE).as_posix()
            for path in sorted(SOURCE.rglob("*.py"))
            if str(path) not in self.files and computes(path)
        ]
