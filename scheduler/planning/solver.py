"""Batches are solved in processes of their own, so that answers to kube-scheduler never wait for a solver.

Two of them, each started when it is first needed (``spawn``: nothing of ours is forked) and ended with its parent. One finds
a first placement, a little below its parent's priority: pods wait for it, answers must not. The other improves on it while
the time limit lasts, on processors that nobody else wants; on a busy machine it may get none at all, and then the first
placement is what is used, as where it dies. A worker that does not answer is killed, and the next batch gets a new one.
What is handed back was checked against the batch by a look that shares nothing with the solver.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placement.errors import PlacementError
from placement.planning.batch import Batch, Batched
from placement.planning.batches import at_once, place_batch
from placement.planning.plans import Deadline
from placement.resources import IntArray
from scheduler.workers import OwnProcess, end_with_parent

log = logging.getLogger(__name__)

NICE = 10
FIRST_NICE = 5
"""It works for tens of milliseconds on end; whoever answers should not wait for them."""
GRACE_S = 30.0
"""For the start of a process and a first placement; and for the last step of one that improves."""


class SolverError(PlacementError):
    """The worker died, hung, or returned a placement that breaks a rule."""


def begin(is_patient: bool) -> None:
    """In a worker: keep standard output clean, and end when the parent does."""
    os.nice(NICE if is_patient else FIRST_NICE)
    if is_patient and sys.platform == "linux":  # at low priority giving way takes milliseconds; this does it at once
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides
    os.dup2(2, 1)
    end_with_parent()


def _checked(batch: Batch, batched: Batched) -> Batched:
    wrong = batch.violations(batched.placed)
    if not wrong and batched.wishes_met != batch.wishes_met(batched.placed):
        wrong = [f"{batched.wishes_met} points of wishes are claimed, {batch.wishes_met(batched.placed)} are met"]
    if wrong:
        raise SolverError(f"a batch failed its check ({wrong[0]}); it is discarded, please report it")
    return batched


class Sent(NamedTuple):
    """A batch on its way to a worker, small: (class, node) matrices take megabytes, and packing those up takes the
    interpreter from whoever answers meanwhile."""

    batch: Batch
    """Without ``most`` and ``wish``."""
    mask: NDArray[np.uint8]
    """``(C, ceil(N / 8))`` where each class may go, a bit per node."""
    most: IntArray | None
    """``(C, N)``, only where it is not all or nothing."""
    wish: NDArray[np.uint16 | np.uint32] | None
    """``(C, N)``, only where there are wishes; points are hundreds, parts of them thousands of that."""

    @classmethod
    def of(cls, batch: Batch) -> Sent:
        """Pack."""
        mask = batch.most > 0
        is_plain = np.array_equal(batch.most, mask * batch.count[:, None])
        empty = np.zeros((0, 0), np.int64)
        wish: NDArray[np.uint16 | np.uint32] | None = None
        if batch.wish is not None:
            is_small = batch.wish.max(initial=0) < 2**16
            wish = batch.wish.astype(np.uint16) if is_small else batch.wish.astype(np.uint32)
        small = replace(batch, most=empty, wish=None)
        return cls(small, np.packbits(mask, axis=1), None if is_plain else batch.most, wish)

    def unpack(self) -> Batch:
        """The batch."""
        wish = None if self.wish is None else self.wish.astype(np.int64)
        if self.most is not None:
            return replace(self.batch, most=self.most, wish=wish)
        mask = np.unpackbits(self.mask, axis=1, count=self.batch.free.shape[1])
        return replace(self.batch, most=mask.astype(np.int64) * self.batch.count[:, None], wish=wish)


class Sparse(NamedTuple):
    """A placement on its way: where pods of which class go, and how many."""

    classes: IntArray
    nodes: IntArray
    pods: IntArray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, placed: IntArray) -> Sparse:
        """Pack ``(C, N)``."""
        classes, nodes = np.nonzero(placed)
        return cls(classes, nodes, placed[classes, nodes], placed.shape)

    def unpack(self) -> IntArray:
        """``(C, N)``."""
        placed = np.zeros(self.shape, np.int64)
        placed[self.classes, self.nodes] = self.pods
        return placed


Answer = tuple[Batched, Sparse]
"""The result without its placement, and the placement."""


def _answer(batch: Batch, batched: Batched) -> Answer:
    checked = _checked(batch, batched)
    return replace(checked, placed=np.zeros((0, 0), np.int64)), Sparse.of(checked.placed)


def first(sent: Sent) -> Answer:
    """A placement at once; in the worker."""
    batch = sent.unpack()
    return _answer(batch, at_once(batch))


def improve(sent: Sent, start: Sparse, time_s: float, seed: int) -> Answer:
    """The best placement within ``time_s``, at least as good as ``start``; in the worker."""
    batch = sent.unpack()
    deadline = Deadline(time_s, time.perf_counter)
    return _answer(batch, place_batch(batch, deadline, seed=seed, start=start.unpack()))


class Solver:
    """Both processes."""

    def __init__(self) -> None:
        self._first = OwnProcess(begin, False)
        self._improver = OwnProcess(begin, True)
        self._late_s = 0.0

    async def solve(self, batch: Batch, time_s: float, seed: int) -> Batched:
        """The placement, ``time_s`` after a first one was found at the latest.

        Raises
        ------
        PlacementError : nobody found a first one: the worker died, hung, or could not plan; the next call starts a new one.
        """
        sent = Sent.of(batch)
        try:
            async with asyncio.timeout(GRACE_S):
                found, placed = await self._first.run(first, sent)
        except (TimeoutError, BrokenProcessPool) as error:
            self._first.close()
            what = "hung" if isinstance(error, TimeoutError) else "died"
            raise SolverError(f"the planning process {what}; the batch is planned again by a new one") from error
        if found.is_final or self._is_late():
            return replace(found, placed=placed.unpack())
        self._late_s = time.monotonic() + time_s + GRACE_S
        try:
            running = self._improver.run(improve, sent, placed, time_s, seed)
            try:
                async with asyncio.timeout(time_s):
                    found, placed = await asyncio.shield(running)
            except TimeoutError:
                running.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody else will look
        except Exception as error:  # for want of memory, say, and then each time
            self._improver.close()
            log.warning("batch not improved, its first placement is used", extra={"error": repr(error)})
        return replace(found, placed=placed.unpack())

    def _is_late(self) -> bool:
        """Whether the improver still works on an earlier batch; one that hangs is replaced."""
        if not self._improver.is_busy:
            return False
        if time.monotonic() > self._late_s:
            self._improver.close()
            return False
        return True

    def close(self) -> None:
        """End both, whatever they do."""
        self._first.close()
        self._improver.close()
