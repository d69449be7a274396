"""Work in other processes that leaves none behind: not on Ctrl-C, not on SIGTERM, not when this process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

from placement.errors import PlacementError

T = TypeVar("T")


def require(module: str) -> None:
    """Miss a library before the work that wants it, not amid it, and not in a worker, where it would be a traceback.

    Raises
    ------
    ModuleNotFoundError : it is not installed.
    """
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in it never hear Ctrl-C, which a terminal sends to all: their parent ends them.

    They inherit the blocked signal, so there is no moment, as while they import, in which it reaches them. This process
    hears it at the end: a pool that is interrupted while it starts would wait for processes that it does not know.
    """
    heard: list[int] = []
    listener = signal.getsignal(signal.SIGINT)
    waits = callable(listener) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, listener)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _nothing() -> None:
    """What workers do before their first task, unless told otherwise."""


def _begin(begin: Callable[[], None]) -> None:
    """End this process with its parent, however that ends; then ``begin``."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    begin()


def in_processes(
    jobs: int, work: Callable[..., T], tasks: Sequence[tuple[Any, ...]], *, begin: Callable[[], None] = _nothing
) -> Iterator[tuple[int, T]]:
    """(index, ``work(*task)``) as tasks finish, in ``jobs`` fresh processes: threads of polars do not survive a fork.

    Each process begins with ``begin``. Whoever stops listening, by an exception or otherwise, ends the processes and
    what they were doing.

    Raises
    ------
    PlacementError : a process died, or what ``work`` raises.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(begin,))
    try:
        with deaf_children():
            futures = {pool.submit(work, *task): i for i, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise PlacementError(
            "a process that did part of the work was ended from outside, often for want of memory; "
            "give fewer --jobs, or a machine with more memory"
        ) from error
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


__all__ = ["deaf_children", "in_processes", "require"]
