"""Asks the models in a process of its own, so that no verb waits for them.

Twenty workloads with 28 days of history take some 80 ms of CPU, 200 when they are asked about for the first time. On a
thread that would hold the interpreter for most of it. A worker is started on first use, at low priority; it loads the
model folder itself (checksums included) and keeps it. A worker that dies or hangs is replaced at the next turn: forecasts
grow old where turns end.
"""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Protocol

from placement.errors import PlacementError
from placement.learning.baselines import Target
from placement.learning.prediction import Answers, Question, Rungs, ask, load_rungs
from scheduler.slices import give_way
from scheduler.workers import OwnProcess, end_with_parent

NICENESS = 10
HUNG_S = 120.0
"""For one visit, in which the process may have to be started and the model to be loaded; then it is taken for dead."""


@dataclass(frozen=True)
class Source:
    """Which rungs are asked."""

    folder: str
    """Of the model; empty = the history alone."""
    stamp: float
    """Its card's time of change."""
    target: Target
    parts: bool = False
    """Whether parts of the day are wanted."""


class WorkerLostError(PlacementError):
    """The worker process died or hung; the questions may be asked again."""


class Asker(Protocol):
    """Answers questions away from the event loop."""

    async def answers(self, source: Source, questions: list[Question]) -> list[Answers]:
        """Ask the rungs of ``source``."""
        ...

    def close(self) -> None:
        """End what runs."""
        ...


class WorkerProcess:
    """An :class:`Asker` in a process of its own."""

    def __init__(self) -> None:
        self._process = OwnProcess(_begin)
        self.close = self._process.close

    async def answers(self, source: Source, questions: list[Question]) -> list[Answers]:
        """See :class:`Asker`.

        Raises
        ------
        WorkerLostError : the process died, for want of memory most likely, hung, or cannot be started. ModelError : it
        cannot load the folder.
        """
        try:
            async with asyncio.timeout(HUNG_S):
                return await self._process.run(_answers, source, questions)
        except TimeoutError as error:
            self.close()
            raise WorkerLostError(
                f"the prediction worker gave no answer in {HUNG_S:g} s; it is started anew"
            ) from error
        except BrokenProcessPool as error:
            self.close()
            raise WorkerLostError("the prediction worker died; it is started anew (is memory short?)") from error
        except OSError as error:
            self.close()
            raise WorkerLostError(f"the prediction worker cannot be started ({error}); it is tried again") from error


class OnThread:
    """An :class:`Asker` on a thread of this process: for commands, where nobody waits for a verb."""

    async def answers(self, source: Source, questions: list[Question]) -> list[Answers]:
        """See :class:`Asker`."""
        return await asyncio.to_thread(_answers, source, questions)

    def close(self) -> None:
        """See :class:`Asker`."""


_loaded: dict[Source, Rungs] = {}


def _begin() -> None:
    """Low priority; and never outlive a parent that was killed. A terminal sends Ctrl-C to all; the parent decides."""
    give_way(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _answers(source: Source, questions: list[Question]) -> list[Answers]:
    if source not in _loaded:
        rungs = load_rungs(source.folder, source.target, parts=source.parts)
        _loaded.clear()
        _loaded[source] = rungs
    return ask(_loaded[source], questions)
