"""Independent pieces of work, spread over processes of this machine by joblib, or over machines by Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from wellposed.errors import InputError, WellposedError, check, require

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_RETRIES = 3  # of a piece whose machine was lost


def spread(
    function: Callable[[_Item], _Result], items: Sequence[_Item], *, jobs: int = 1, ray: str | None = None
) -> Iterator[tuple[int, _Result]]:
    """Place and result of every item, as they are finished.

    Whoever keeps each result when it comes loses none of them if the program is stopped.

    Args:
        function: of one item; a function of a module, or a `functools.partial` of one, so that other processes can have it.
        items: what to do.
        jobs: processes of this machine; with one, everything happens in this process.
        ray: address of a Ray cluster, such as ``"auto"`` or ``"ray://host:10001"``, whose machines do the work in place of
            this one's processes. What a lost machine was at is done again elsewhere.

    Raises:
        InputError: no cluster answers at the address.
        MissingExtraError: Ray is not installed.
        WellposedError: a piece of work failed so; the others' results that came before are not lost.
    """
    check(jobs >= 1, "jobs", jobs, "must be at least 1")
    if ray is not None:
        return _by_ray(function, items, ray)
    if jobs == 1 or len(items) <= 1:
        return ((place, function(item)) for place, item in enumerate(items))
    return _by_joblib(function, items, jobs)


def _by_joblib(
    function: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int
) -> Iterator[tuple[int, _Result]]:
    joblib = require("joblib", "train")
    work = (joblib.delayed(_on_one_thread)(function, place, item) for place, item in enumerate(items))
    yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(work)


def _by_ray(
    function: Callable[[_Item], _Result], items: Sequence[_Item], address: str
) -> Iterator[tuple[int, _Result]]:
    ray = require("ray", "cluster")
    with _connected(ray, address):
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_on_one_thread)
        shared = ray.put(function)  # once, however many items there are
        waiting = [remote.remote(shared, place, item) for place, item in enumerate(items)]
        try:
            while waiting:
                (ready,), waiting = ray.wait(waiting, num_returns=1)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause
                    raise cause if isinstance(cause, WellposedError) else error from None
                yield result
        finally:
            for reference in waiting:
                ray.cancel(reference)


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection to a cluster; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = f"ray={address!r}: no cluster answers there ({error}); start one with `ray start --head`"
        raise InputError(words) from error
    try:
        yield
    finally:
        ray.shutdown()


def _on_one_thread(function: Callable[[_Item], _Result], place: int, item: _Item) -> tuple[int, _Result]:
    """Each process takes one core: more threads than cores are slower, and results are those of one thread."""
    torch.set_num_threads(1)
    return place, function(item)
