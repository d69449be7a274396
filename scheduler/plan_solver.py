"""Batches are solved in a process of their own, so that answers to kube-scheduler never wait for a solver.

The worker is started once (``spawn``: nothing of ours is forked), ends with its parent, and is killed when it does not
answer in time; the next batch then gets a new one. A first placement is found at normal priority, for pods wait for it;
what improves it runs in a thread of low priority, for that may take a processor for as long as it is let. What is handed
back was checked against the batch by a look that shares nothing with the solver.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

from placement.batches import Batch, Batched, best_fit, place_batch
from placement.errors import PlacementError
from placement.plans import Deadline

NICE = 10
GRACE_S = 30.0
"""Beyond its limit, for the start of the process and the last solver step."""


class SolverError(PlacementError):
    """The worker died, hung, or returned a placement that breaks a rule."""


def _begin() -> None:
    """In the worker: keep standard output clean, and end when the parent does."""
    os.dup2(2, 1)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()


def _yield() -> None:
    """In the improving thread: Linux has a priority for each; elsewhere the worker's own stays."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


@cache
def _improver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, initializer=_yield)


def solve(batch: Batch, time_s: float, seed: int) -> Batched:
    """Place a batch within ``time_s`` and check the answer; in the worker."""
    deadline = Deadline(time_s, time.perf_counter)
    first = best_fit(batch)
    batched = _improver().submit(place_batch, batch, deadline, seed=seed, start=first).result()
    wrong = batch.violations(batched.placed)
    if wrong:
        raise SolverError(f"a batch failed its check ({wrong[0]}); it is discarded, please report it")
    return batched


class Solver:
    """One worker process, made when it is first needed."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    async def solve(self, batch: Batch, time_s: float, seed: int) -> Batched:
        """The placement.

        Raises
        ------
        PlacementError : the worker died, hung, or could not plan; the next call starts a new one.
        """
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
        running = asyncio.get_running_loop().run_in_executor(self._pool, solve, batch, time_s, seed)
        try:
            return await asyncio.wait_for(running, time_s + GRACE_S)
        except (TimeoutError, BrokenProcessPool) as error:
            self.close()
            what = "hung" if isinstance(error, TimeoutError) else "died"
            raise SolverError(f"the planning process {what}; the batch is planned again by a new one") from error

    def close(self) -> None:
        """End the worker, whatever it does."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):  # shutdown() alone would wait for a running solver
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
