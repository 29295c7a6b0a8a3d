"""Where and with what something was measured."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("wellposed", "torch", "numpy", "onnxruntime", "torchdeq", "jax", "cvxpy")


def environment(arguments: list[str]) -> dict[str, Any]:
    """Versions, commit, date, command, threads and the machine's processor.

    Args:
        arguments: of the command, its name first.
    """
    return {
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "commit": commit(Path(__file__).parents[1]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(arguments),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "processor": processor(),
    }


def commit(folder: Path) -> str:
    """The commit that a folder is at, with a plus sign where files of it were changed; "unknown" where none tracks it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # an installed package in somebody else's repository
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The name of the processor."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
