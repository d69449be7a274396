"""Plans that were asked for over gRPC, made in a process of their own: snapshot, solver and checker all run there.

The worker reads the cluster through the API by itself, so that a large list costs the event loop that answers
kube-scheduler nothing; it runs at low priority and ends with its parent. What it says on the way (value and bound) comes
through a pipe, and last the plan or the reason why there is none.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec

from placement.errors import ConfigError, PlacementError
from placement.planning.make import PlanningError, Request, plan_for
from placement.planning.plans import Deadline, Plan
from placement.planning.snapshots import SnapshotFile
from scheduler.cluster_reader import take_snapshot
from scheduler.errors import ApiError
from scheduler.kube import KubeClient
from scheduler.planning.solver import NICE
from scheduler.settings import KubeSettings
from scheduler.slices import give_way

GRACE_S = 120.0
"""Beyond its limit, for the start of the process, reading the cluster, and the last solver step."""
DEATH_S = 0.1
"""From the end of a worker's pipe to its exit code; answers wait for so long at most."""
NOTE_S = 0.05
"""At most one word of progress in this time; the last one before the plan always comes."""


@dataclass(frozen=True)
class Progress:
    """The best plan so far, ``time_s`` seconds after planning began."""

    value: float
    bound: float | None
    time_s: float


async def _read(kube: KubeSettings) -> SnapshotFile:
    client = await KubeClient.connect(kube)
    try:
        return await take_snapshot(client)
    finally:
        await client.close()


def _serve(request: Request, kube: KubeSettings, cancelled: Event, answer: Connection) -> None:
    give_way(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides
    os.dup2(2, 1)  # solvers print at times
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a worker"

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
    told_s = 0.0

    def note(value: float, bound: float | None) -> None:
        nonlocal told_s
        if deadline.elapsed_s - told_s >= NOTE_S:
            told_s = deadline.elapsed_s
            answer.send(("note", (value, bound, told_s)))

    try:
        taken = asyncio.run(_read(kube))
        deadline = Deadline(request.time_s, time.perf_counter, cancelled.is_set, note=note)
        plan = plan_for(msgspec.structs.replace(request, snapshot=taken), deadline)
        answer.send(("plan", msgspec.json.encode(plan)))
    except PlacementError as error:
        status = error.status if isinstance(error, ApiError) else 0
        answer.send((type(error).__name__, (str(error), status)))


class PlanWorker:
    """One plan in one process: iterate :meth:`events`; :meth:`finish` asks for the best so far; then :meth:`close`."""

    def __init__(self, request: Request, kube: KubeSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._limit_s = request.time_s + GRACE_S
        self._cancelled = context.Event()
        self._answer, child = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(request, kube, self._cancelled, child), daemon=True)
        self._process.start()
        child.close()

    def finish(self) -> None:
        """Ask for the best plan so far."""
        self._cancelled.set()

    async def events(self) -> AsyncIterator[Progress | Plan]:
        """What the worker says, the plan last.

        Raises
        ------
        ConfigError : the question makes no sense. ApiError : the cluster cannot be read.
        PlanningError : the worker failed, died or hung.
        """
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._answer.fileno(), ready.set)
        end = loop.time() + self._limit_s
        try:
            while True:
                try:
                    async with asyncio.timeout_at(end):
                        await ready.wait()
                except TimeoutError as error:
                    raise PlanningError(
                        "the planner did not answer in time and was stopped; give it less to do"
                    ) from error
                ready.clear()
                while self._answer.poll():
                    found = self._take()
                    yield found
                    if isinstance(found, Plan):
                        return
        finally:
            loop.remove_reader(self._answer.fileno())

    def _take(self) -> Progress | Plan:
        try:
            kind, data = self._answer.recv()
        except EOFError as error:
            self._process.join(DEATH_S)
            raise PlanningError.of_death(self._process.exitcode) from error
        if kind == "note":
            return Progress(*data)
        if kind == "plan":
            return msgspec.json.decode(data, type=Plan)
        message, status = data
        if kind == "ApiError":
            raise ApiError(message, status)
        raise ConfigError(message) if kind == "ConfigError" else PlanningError(message)

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._process.kill()
        with suppress(OSError):
            self._answer.close()
        threading.Thread(target=self._process.join, daemon=True).start()
