"""One writer for a run folder: whoever comes second is told who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from wellposed.errors import CheckpointError
from wellposed.training.files import unwritable, write_text
from wellposed.training.folder import check_is_run

_LOCK, _OWNER = ".writer.lock", ".writer.json"
# What launchers tell a process about its place among those that train together, wherever one of them says it.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints, of those that train one network together."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Hold a run folder, so that no other process writes to it meanwhile; one that is not there needs no holding.

    The operating system lets go of the folder when a process ends, however it ends. A file beside the lock names the process
    and its host, for others and for hosts that share a file system without locks. Processes that train together with the main
    one hold nothing.

    Args:
        path: the run folder.

    Raises:
        CheckpointError: another process holds the folder, or it cannot be written to.
    """
    if not is_main_process() or not path.is_dir():
        yield
        return
    from filelock import FileLock, Timeout

    owner = path / _OWNER
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise CheckpointError(
            f"{path}: {_held(owner)} is writing to it; wait for it, or choose another --out"
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        host = _read(owner).get("host", socket.gethostname())
        if host != socket.gethostname():
            raise CheckpointError(
                f"{path}: {_held(owner)} is writing to it, or was stopped there; if it runs no more, delete {owner}"
            )
        write_text(owner, json.dumps({"process": os.getpid(), "host": host}))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                owner.unlink(missing_ok=True)
    finally:
        lock.release()


@contextlib.contextmanager
def one_writer_of_run(path: Path) -> Iterator[None]:
    """Hold the folder of a run, and leave any other folder as it was.

    Raises:
        CheckpointError: no training wrote the folder, or see `one_writer`.
    """
    check_is_run(path)
    with one_writer(path):
        yield


def _held(owner: Path) -> str:
    """The process that holds a folder, in words."""
    known = _read(owner)
    return f"process {known['process']} on {known['host']}" if known else "another process"


def _read(owner: Path) -> dict[str, str]:
    """What the file beside the lock says; nothing where it is missing or damaged, as after a crash."""
    try:
        content = json.loads(owner.read_text(encoding="utf-8"))
        return {name: str(content[name]) for name in ("process", "host")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
