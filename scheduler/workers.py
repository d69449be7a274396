"""Processes beside the one that answers: none of them outlives it, and none is waited for."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Said = TypeVar("Said")


def end_with_parent() -> None:
    """In a worker: end when the parent does, however that ends, and at once if it has."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()


class OwnProcess:
    """One process (``spawn``: nothing of ours is forked), made when it is first needed; it begins with ``begin(*words)``."""

    def __init__(self, begin: Callable[..., None], *words: Any) -> None:
        self._begin, self._words = begin, words
        self._pool: ProcessPoolExecutor | None = None
        self._last: Future[Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether it still works on something whose time is over."""
        return self._last is not None and not self._last.done()

    def run(self, work: Callable[..., Said], *words: Any) -> asyncio.Future[Said]:
        """``work(*words)`` in the process."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=self._begin, initargs=self._words)
        self._last = future = self._pool.submit(work, *words)
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """End the process, whatever it does: ``shutdown`` alone, and the interpreter's own end, would wait for that."""
        pool, self._pool, self._last = self._pool, None, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
