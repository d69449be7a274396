"""Planning and applying for whoever asks over gRPC, in a process of its own for each: it holds up no answer.

A worker reads the cluster through the API by itself, so that a large list costs the event loop that answers
kube-scheduler nothing; it runs at low priority and ends with its parent. A thread starts it and reads the pipe through which
it says things: a worker that is slow at hearing or saying something holds nobody up either. Killed at any moment, an applied
plan goes on from its record (:mod:`scheduler.planning.record`).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from placement.errors import ConfigError, PlacementError
from placement.planning import patterns
from placement.planning.foresight import Foreseen, foresee, history_of_recording
from placement.planning.make import PlanningError, Request, plan_for
from placement.planning.plans import Deadline, Plan
from placement.planning.snapshots import SnapshotFile
from placement.rates import RATES
from scheduler.cluster_reader import take_snapshot
from scheduler.errors import ApiError, PlanPaused, RecordError, SourceError
from scheduler.kube import KubeClient
from scheduler.planning.applier import Applier, ApplyLimits, why_not_valid
from scheduler.planning.record import PlanState, Retention, alone, fresh_record, read_record, save_record
from scheduler.planning.solver import NICE
from scheduler.recording import record_with
from scheduler.rights import APPLIES
from scheduler.settings import KubeSettings, UsageSettings
from scheduler.slices import give_way
from scheduler.workers import end_with_parent

GRACE_S = 120.0
"""Beyond its limit, for the start of the process, reading the cluster, and the last solver step."""
HISTORY_S = 1800.0
"""Beyond that, to read weeks of history from Prometheus, which is asked for a share of the time only (``usage.busy_share``)."""
STOPPING_S = 0.1
"""Between looks whether somebody tells a worker to end what it does."""
STOP_S = 10.0
"""For the evictions of a gang that has begun to leave; then the process is killed, and the record knows how far it came."""
NOTE_S = 0.05
"""At most one word of progress in this time."""

NOT_READ = "finished before its history was read, so nothing is expected: only pending pods count"

Say = Callable[[Any], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """The best plan so far, ``time_s`` seconds after planning began."""

    value: float
    bound: float | None
    time_s: float


@dataclass(frozen=True)
class Failure:
    """Why a worker gave up."""

    kind: str
    message: str
    status: int

    def error(self) -> PlacementError:
        """The same as it was raised."""
        if self.kind == "ApiError":
            return ApiError(self.message, self.status)
        kinds: dict[str, type[PlacementError]] = {
            "ConfigError": ConfigError,
            "SnapshotError": ConfigError,
            "RecordError": RecordError,
            "PlanPaused": PlanPaused,
        }
        return kinds.get(self.kind, PlanningError)(self.message)


@dataclass(frozen=True)
class _Death:
    exit_code: int | None


def _begin(work: Callable[..., None], words: tuple[Any, ...], answer: Connection) -> None:
    give_way(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides
    os.dup2(2, 1)  # solvers print at times
    end_with_parent()
    try:
        work(answer.send, *words)
    except PlacementError as error:
        status = error.status if isinstance(error, ApiError) else 0
        answer.send(Failure(type(error).__name__, str(error), status))


async def until_told(work: Coroutine[None, None, T], told: Event) -> T | None:
    """What ``work`` returns; None where somebody has ``told`` it to end before."""
    doing = asyncio.create_task(work)
    while not (doing.done() or told.is_set()):
        await asyncio.wait((doing,), timeout=STOPPING_S)
    doing.cancel()  # of no effect once it is done
    with suppress(asyncio.CancelledError):
        return await doing
    return None


class Worker:
    """``work(say, *words)`` in a process: :meth:`hear` what it says, then :meth:`close`."""

    def __init__(self, work: Callable[..., None], *words: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, child = context.Pipe(duplex=False)
        self._process = context.Process(target=_begin, args=(work, words, child), daemon=True)
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self._has_started, self._is_dead = asyncio.Event(), asyncio.Event()
        threading.Thread(target=self._live, args=(asyncio.get_running_loop(), child), daemon=True).start()

    def _live(self, loop: asyncio.AbstractEventLoop, child: Connection) -> None:
        with self._answer, suppress(RuntimeError):  # the loop may be closed by then
            try:
                with child:
                    self._process.start()  # waits, where words are many, until what reads them is imported there
            except OSError as error:
                said = Failure("OSError", f"the process cannot be started: {error}", 0)
                loop.call_soon_threadsafe(self._said.put_nowait, said)
            else:
                loop.call_soon_threadsafe(self._has_started.set)
                self._listen(loop)
            loop.call_soon_threadsafe(self._is_dead.set)
            loop.call_soon_threadsafe(self._has_started.set)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(EOFError, OSError):
            while True:
                loop.call_soon_threadsafe(self._said.put_nowait, self._answer.recv())
        self._process.join()
        loop.call_soon_threadsafe(self._said.put_nowait, _Death(self._process.exitcode))

    async def hear(self) -> Any:
        """The next thing it says.

        Raises
        ------
        PlacementError : it gave up, or (PlanningError) died.
        """
        said = await self._said.get()
        if isinstance(said, Failure):
            raise said.error()
        if isinstance(said, _Death):
            raise PlanningError.of_death(said.exit_code)
        return said

    def says_more(self) -> bool:
        """Whether :meth:`hear` would not wait."""
        return not self._said.empty()

    async def close(self) -> None:
        """End it, whatever it does."""
        await self._has_started.wait()
        if not self._is_dead.is_set():
            self._process.kill()
            await self._is_dead.wait()


# ── making ────────────────────────────────────────────────────────────────────────────────────


async def _read(kube: KubeSettings) -> SnapshotFile:
    async with await KubeClient.connect(kube, "plan.enabled") as client:
        return await take_snapshot(client)


@dataclass(frozen=True)
class Ahead:
    """A purchase is also for the demand expected within ``span_s``, at ``quantile``, by ``days`` of what Prometheus saw."""

    span_s: int
    quantile: float
    days: float
    usage: UsageSettings

    async def foreseen(self, kube: KubeSettings) -> Foreseen:
        """Read the past, and what is to be expected.

        Raises
        ------
        ApiError : the cluster or Prometheus cannot be read. ConfigError : nothing was measured.
        """
        try:
            recording = await record_with(kube, self.usage, name="history", days=self.days)
        except SourceError as error:
            raise ApiError(f"no foresight: {error}") from error
        history, specs = history_of_recording(recording, RATES, days=self.days)
        return foresee(history, specs, self.span_s, self.quantile)


def _make(say: Say, request: Request, kube: KubeSettings, ahead: Ahead | None, cancelled: Event) -> None:
    told_s = 0.0

    def note(value: float, bound: float | None) -> None:
        nonlocal told_s
        if deadline.elapsed_s - told_s >= NOTE_S:
            told_s = deadline.elapsed_s
            say(Progress(value, bound, told_s))

    if ahead is not None:
        seen = asyncio.run(until_told(ahead.foreseen(kube), cancelled))
        growth, words = ((), (NOT_READ,)) if seen is None else (seen.growth, seen.words)
        request = msgspec.structs.replace(request, growth=growth, foresight=words)
    request = msgspec.structs.replace(request, snapshot=asyncio.run(_read(kube)))
    patterns.warm_up()  # compiling, where it was not done yet, is not a plan's time
    deadline = Deadline(request.time_s, time.perf_counter, cancelled.is_set, note=note)
    say(msgspec.json.encode(plan_for(request, deadline)))


class PlanWorker:
    """One plan in one process: iterate :meth:`events`; :meth:`finish` asks for the best so far; then :meth:`close`."""

    def __init__(self, request: Request, kube: KubeSettings, ahead: Ahead | None = None) -> None:
        self._limit_s = request.time_s + GRACE_S + (0.0 if ahead is None else HISTORY_S)
        self._cancelled = multiprocessing.get_context("spawn").Event()
        self._worker = Worker(_make, request, kube, ahead, self._cancelled)
        self.close = self._worker.close

    def finish(self) -> None:
        """Ask for the best plan so far."""
        self._cancelled.set()

    async def events(self) -> AsyncIterator[Progress | Plan]:
        """What the worker says, the plan last. Whoever is slow to take it misses progress.

        Raises
        ------
        ConfigError : the question makes no sense. ApiError : the cluster cannot be read.
        PlanningError : the worker failed, died or hung.
        """
        end = asyncio.get_running_loop().time() + self._limit_s
        while True:
            try:
                async with asyncio.timeout_at(end):
                    said = await self._worker.hear()
            except TimeoutError as error:
                raise PlanningError("the planner did not answer in time and was stopped; give it less to do") from error
            if not isinstance(said, Progress):
                yield msgspec.json.decode(said, type=Plan)
                return
            if not self._worker.says_more():
                yield said


# ── applying ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Order:
    """What to do with a plan whose record is, or will be, at ``record``."""

    plan: bytes
    record: Path
    retention: Retention
    """Of the records in that folder."""
    now_s: float
    """By which these are old: Unix time of whoever asks, for the worker's own process has seen no clock jump."""
    max_evictions: int | None = None
    abandons: bool = False


@dataclass(frozen=True)
class Happened:
    """Something that happened while a plan is applied."""

    step: int
    """From 1; 0 = none."""
    message: str
    evictions: int


@dataclass(frozen=True)
class Ended:
    """How applying stands at last."""

    outcome: PlanState
    reason: str
    evictions: int


def check(say: Say, plan: bytes, kube: KubeSettings) -> None:
    """In a worker: say what is wrong with a plan on the cluster as it is now, all at once."""

    async def work() -> list[str]:
        async with await KubeClient.connect(kube, APPLIES) as client:
            return await why_not_valid(client, msgspec.json.decode(plan, type=Plan))

    say(asyncio.run(work()))


def apply(say: Say, order: Order, kube: KubeSettings, stopping: Event) -> None:
    """In a worker: act on a plan, saying what happened and last how it ended, or stands once it is ``stopping``."""

    async def work() -> None:
        plan, where = msgspec.json.decode(order.plan, type=Plan), order.record
        async with await KubeClient.connect(kube, APPLIES) as client:
            with alone(where):
                record = read_record(where, plan) or fresh_record(plan)
                save_record(record, where)
                applier = Applier(
                    client,
                    record,
                    lambda: save_record(record, where),
                    ApplyLimits(max_evictions=order.max_evictions),
                    lambda number, message: say(Happened(number + 1, message, record.evictions)),
                )
                await (applier.abandon() if order.abandons else applier.run())
                say(Ended(record.outcome, record.reason, record.evictions))

    order.retention.prune(order.record.parent, order.now_s)
    asyncio.run(until_told(work(), stopping))


class ApplyWorker(Worker):
    """A plan that is applied in a process; :meth:`stop` ends it between two steps."""

    def __init__(self, order: Order, kube: KubeSettings) -> None:
        self._stopping = multiprocessing.get_context("spawn").Event()
        super().__init__(apply, order, kube, self._stopping)

    async def stop(self) -> None:
        """Let it come to where a plan may be interrupted, for a while; then end it."""
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._is_dead.wait()
        await self.close()
