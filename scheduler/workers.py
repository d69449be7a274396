"""Processes beside the one that answers: none of them outlives it, and none is waited for."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def end_with_parent() -> None:
    """In a worker: end when the parent does, however that ends, and at once if it has."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()


def end(pool: ProcessPoolExecutor) -> None:
    """End its processes, whatever they do; ``shutdown`` alone, and the interpreter's own end, would wait for that."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
