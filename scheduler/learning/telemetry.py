"""Measured usage in bounded memory: what the Telemetry stream brings and a learner takes.

The newest sample of each subject is kept, and a queue of samples nobody has taken yet. When the queue is full and
somebody takes samples, senders wait (the stream's flow control holds them back); when nobody does, the oldest goes
and is counted.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from placement.errors import PlacementError
from scheduler.metrics import Metrics

MAX_NAME = 253
"""Kubernetes' own limit of names; UIDs are shorter."""
FUTURE_S = 60.0
"""A sample from further ahead than this is a wrong clock."""


class SampleError(PlacementError):
    """A sample that makes no sense."""


class Subject(NamedTuple):
    """What was measured: ``("pod", uid, "")``, ``("node", name, "")`` or ``("device", node, index)``."""

    kind: str
    name: str
    part: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; None = not measured."""

    subject: Subject
    unix_s: float
    cpu_millicores: float | None = None
    memory_bytes: float | None = None
    gpu_share: float | None = None
    gpu_memory_bytes: float | None = None

    def check(self, now_s: float) -> None:
        """Raise if the sample makes no sense.

        Raises
        ------
        SampleError : what is wrong with it.
        """
        kind, name, _ = self.subject
        if not name or len(name) > MAX_NAME:
            raise SampleError(f"the {kind} of a sample has {'no name' if not name else 'too long a name'}")
        values = (self.cpu_millicores, self.memory_bytes, self.gpu_share, self.gpu_memory_bytes)
        given = [v for v in values if v is not None]
        if not given:
            raise SampleError(f"a sample of {kind} {name} measures nothing; set at least one value")
        if not all(math.isfinite(v) and 0 <= v < 2**62 for v in given):
            raise SampleError(f"a sample of {kind} {name} has a value that is negative or not finite")
        if self.gpu_share is not None and self.gpu_share > 1:
            raise SampleError(f"a sample of {kind} {name} has gpu_share {self.gpu_share:g}, must be 0 to 1")
        if not 0 <= self.unix_s <= now_s + FUTURE_S:
            raise SampleError(
                f"a sample of {kind} {name} is {self.unix_s - now_s:.0f} s ahead of this clock; set clocks"
            )


class UsageStore:
    """Samples waiting to be learned from. Used on one event loop."""

    def __init__(self, max_samples: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self.max_samples = max_samples
        self.clock = clock
        self.latest: OrderedDict[Subject, Sample] = OrderedDict()
        """Newest sample by subject, the least recently measured first; at most ``max_samples`` subjects."""
        self.refused: Counter[str] = Counter()
        self.has_taker = False
        """Whether somebody calls :meth:`take`; then a full queue makes senders wait."""
        self._queue: deque[Sample] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._arrived_s = float("nan")
        self.metrics = metrics
        metrics.before_scrape(self._scrape)

    def _scrape(self) -> None:
        self.metrics.telemetry_age.set(self.clock() - self._arrived_s)
        self.metrics.telemetry_subjects.set(len(self.latest))
        self.metrics.telemetry_queue.set(len(self._queue))

    async def put(self, sample: Sample) -> str:
        """Keep a checked sample; ``accepted`` or ``stale``. Waits while the queue is full and somebody takes.

        One that is of the future by now, because the clock was set back, keeps no other out.
        """
        while not (is_stale := self._is_stale(sample)) and self.has_taker and len(self._queue) >= self.max_samples:
            self._room.clear()
            await self._room.wait()
        if is_stale:
            return self._counted("stale")
        if len(self._queue) >= self.max_samples:
            self._queue.popleft()
            self._counted("evicted")
        self._queue.append(sample)
        self.latest[sample.subject] = sample
        self.latest.move_to_end(sample.subject)
        if len(self.latest) > self.max_samples:
            self.latest.popitem(last=False)
        self._arrived_s = self.clock()
        return self._counted("accepted")

    def _is_stale(self, sample: Sample) -> bool:
        known = self.latest.get(sample.subject)
        return known is not None and sample.unix_s < known.unix_s <= self.clock() + FUTURE_S

    def _counted(self, outcome: str) -> str:
        self.metrics.telemetry_samples.labels(outcome).inc()
        if outcome != "accepted":
            self.refused[outcome] += 1
        return outcome

    def refuse(self, outcome: str) -> None:
        """Count a sample that was never fit to keep."""
        self._counted(outcome)

    def take(self, number: int) -> list[Sample]:
        """The oldest samples, at most ``number``; they are gone from the queue."""
        taken = [self._queue.popleft() for _ in range(min(number, len(self._queue)))]
        self._room.set()
        return taken

    def __len__(self) -> int:
        return len(self._queue)
