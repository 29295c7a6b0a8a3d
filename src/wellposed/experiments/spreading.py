"""Independent pieces of work, spread over processes of this machine by joblib, or over machines by Ray."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

import wellposed
from wellposed.errors import InputError, WellposedError, check, require

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Placed = Generator[tuple[int, _Result], None, None]
_RETRIES = 3  # of a piece whose machine was lost
_ANSWERED_WITHIN = 5.0  # seconds; Ray itself tries for two minutes and then ends the program


def spread(
    function: Callable[[_Item], _Result], items: Sequence[_Item], *, jobs: int = 1, ray: str | None = None
) -> _Placed[_Result]:
    """Place and result of every item, as they are finished.

    Whoever keeps each result when it comes loses none of them if the program is stopped. Whoever may stop before the last result
    closes the generator, by `contextlib.closing`, which stops the other processes.

    Args:
        function: of one item; a function of a module, or an object that can be pickled, such as a `functools.partial` of one.
            Each process gets it once, however many items there are.
        items: what to do.
        jobs: processes of this machine; with one, everything happens in this process.
        ray: address of a Ray cluster that this machine belongs to, ``"auto"`` or ``"HOST:6379"``, whose machines do the work in
            place of this one's processes. What a lost machine was at is done again elsewhere.

    Raises:
        InputError: no cluster answers at the address.
        MissingExtraError: joblib or Ray is not installed.
        WellposedError: a piece of work failed so, or the process or the machines that were at it were lost; the others' results
            that came before are not lost.
    """
    check(jobs >= 1, "jobs", jobs, "must be at least 1")
    if ray is not None:
        return _by_ray(require("ray", "cluster"), function, items, ray)
    if jobs == 1 or len(items) <= 1:
        return ((place, function(item)) for place, item in enumerate(items))
    return _by_joblib(require("joblib", "train"), function, items, jobs)


def _by_joblib(
    joblib: ModuleType, function: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int
) -> _Placed[_Result]:
    parallel = joblib.Parallel(
        n_jobs=jobs, return_as="generator_unordered", batch_size=1, initializer=_keep, initargs=(function, os.getpid())
    )
    results = parallel(joblib.delayed(_by_kept)(place, item) for place, item in enumerate(items))
    try:
        yield from results
    except joblib.externals.loky.process_executor.TerminatedWorkerError as error:
        words = (
            "a process was killed, perhaps as memory ran out; what was finished is kept: call again, with fewer jobs"
        )
        raise WellposedError(words) from error
    finally:
        results.close()
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _by_ray(
    ray: ModuleType, function: Callable[[_Item], _Result], items: Sequence[_Item], address: str
) -> _Placed[_Result]:
    with _connected(ray, address):
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_by_fetched)
        shared = ray.put(function)
        waiting = [remote.remote([shared], place, item) for place, item in enumerate(items)]
        try:
            while waiting:
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                yield _got(ray, ready)
        finally:
            for reference in waiting:
                ray.cancel(reference)


def _got(ray: ModuleType, ready: Any) -> Any:
    """The result of a finished piece of work.

    Raises:
        WellposedError: the piece failed so, or every machine that was at it was lost.
    """
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, WellposedError) else error from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise WellposedError(
            f"a piece of work was lost {_RETRIES + 1} times; what was finished is kept ({reason})"
        ) from error


@contextlib.contextmanager
def _connected(ray: ModuleType, address: str) -> Iterator[None]:
    """A connection to a cluster; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    try:
        _require_answer(address)
        # The machines run this very library, whatever version they have.
        ray.init(
            address=address, log_to_driver=False, logging_level="error",
            runtime_env={"py_modules": [str(Path(wellposed.__file__).parent)]},
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"ray={address!r}: no cluster answers there ({error}); start one with `ray start --head`, and let this machine "
            "join it with `ray start --address=HOST:6379`"
        ) from error
    # Whatever it is told, Ray prints the last words of a lost machine, some of them when it is shut down.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Refuse HOST:PORT where nothing listens.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWERED_WITHIN).close()


_kept: list[Callable[[Any], Any]] = []  # what a process of joblib got when it began


def _keep(function: Callable[[Any], Any], parent: int) -> None:
    _kept[:] = [function]
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after the one that began it: joblib's would wait for further work for minutes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _by_kept(place: int, item: Any) -> tuple[int, Any]:
    return _on_one_thread(_kept[0], place, item)


def _by_fetched(shared: Sequence[Any], place: int, item: Any) -> tuple[int, Any]:
    """In a list Ray leaves the reference as it is, so that it is followed once a process, not once an item."""
    return _on_one_thread(_fetched(shared[0]), place, item)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Callable[[Any], Any]:
    return require("ray", "cluster").get(reference)


def _on_one_thread(function: Callable[[_Item], _Result], place: int, item: _Item) -> tuple[int, _Result]:
    """Each process takes one core: more threads than cores are slower, and results are those of one thread."""
    torch.set_num_threads(1)
    return place, function(item)
