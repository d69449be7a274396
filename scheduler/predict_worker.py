"""Asks the models in a process of its own, so that no verb waits for them.

One workload with 28 days of history takes some 60 ms of CPU. On a thread it would hold the interpreter for most of
that: the event loop was seen to stop for 70 ms. A worker is started on first use, at low priority; it loads the
model folder itself (checksums included) and keeps it. A worker that dies is replaced at the next turn.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from placement.baselines import Target
from placement.errors import ModelError, PlacementError
from placement.forecasting import Answers, Question, Rungs, ask
from placement.prediction import HISTORY, MODEL, load_predictor

log = logging.getLogger(__name__)

NICENESS = 10
PR_SET_PDEATHSIG = 1
"""``prctl(2)``: the signal to get when the parent dies."""


def load_rungs(folder: str, target: Target) -> Rungs:
    """The rungs of a model folder; of the history alone where ``folder`` is empty.

    Raises
    ------
    ModelError : damaged, of another schema, without this target, or LightGBM is not installed.
    """
    if not folder:
        return Rungs.of_history(target)
    try:
        model, history = load_predictor(Path(folder), target)
    except ImportError as error:
        raise ModelError(
            f"model {folder} needs {error.name}, which this install lacks; install 'ullage[learn]'"
        ) from error
    return Rungs(((MODEL, model), (HISTORY, history)), target, f"model {Path(folder).name}")


class WorkerLostError(PlacementError):
    """The worker process died; the questions may be asked again."""


class Asker(Protocol):
    """Answers questions away from the event loop."""

    async def answers(self, folder: str, stamp: float, target: Target, questions: list[Question]) -> list[Answers]:
        """Ask the rungs of ``folder`` (empty = history alone) as of ``stamp``, its card's time of change."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


class WorkerProcess:
    """An :class:`Asker` in a process of its own."""

    def __init__(self) -> None:
        self._pool: Executor | None = None

    async def answers(self, folder: str, stamp: float, target: Target, questions: list[Question]) -> list[Answers]:
        """See :class:`Asker`.

        Raises
        ------
        WorkerLostError : the process died, for want of memory most likely. ModelError : it cannot load the folder.
        """
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
        try:
            return await asyncio.wrap_future(self._pool.submit(_answers, folder, stamp, target, questions))
        except BrokenProcessPool as error:
            self.close()
            raise WorkerLostError("the prediction worker died; it is started anew (is memory short?)") from error

    def close(self) -> None:
        """See :class:`Asker`."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class OnThread:
    """An :class:`Asker` on a thread of this process: for commands, where nobody waits for a verb."""

    async def answers(self, folder: str, stamp: float, target: Target, questions: list[Question]) -> list[Answers]:
        """See :class:`Asker`."""
        return await asyncio.to_thread(_answers, folder, stamp, target, questions)

    def close(self) -> None:
        """See :class:`Asker`."""


_loaded: dict[tuple[str, float, Target], Rungs] = {}


def _begin() -> None:
    """Low priority; and never outlive a parent that was killed."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _answers(folder: str, stamp: float, target: Target, questions: list[Question]) -> list[Answers]:
    key = folder, stamp, target
    if key not in _loaded:
        rungs = load_rungs(folder, target)
        _loaded.clear()
        _loaded[key] = rungs
    rungs = _loaded[key]
    return [ask(rungs, question) for question in questions]
