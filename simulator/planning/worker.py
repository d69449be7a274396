"""Plans in a worker process: a deadline, a way to cancel, and a crash that stays in the worker.

The parent stays responsive whatever the solver does: it sends a snapshot, waits for the plan, and may set the
``cancel`` event, after which the worker returns the best plan so far. A worker that dies, or does not answer well after
its deadline, becomes an error here.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import msgspec

from placement.errors import ConfigError, PlacementError
from placement.planning.make import PlanningError, Request, SaleShape, plan_for
from placement.planning.plans import Deadline, Plan
from simulator.reproduce.priority import warm_up
from simulator.workers import deaf_children, require

LOOK_S = 0.2
GRACE_S = 180.0
"""How long past its deadline a worker may take: imports, compiling kernels, the last solver step."""
BEGUN = ("begun", b"")
"""What a worker sends when it has compiled and begins to plan."""


def make_plan(request: Request, cancelled: Event | None = None) -> Plan:
    """Plan in this process; the plan has passed the independent checker."""
    stop = cancelled.is_set if cancelled is not None else lambda: False
    with ThreadPoolExecutor(1) as beside:
        return plan_for(request, Deadline(request.time_s, time.perf_counter, stop), beside)


def _serve(cancelled: Event, pipe: Connection) -> None:
    os.dup2(2, 1)  # solvers print at times, and standard output is data
    data = pipe.recv_bytes()
    warm_up()
    pipe.send(BEGUN)
    try:
        plan = make_plan(msgspec.json.decode(data, type=Request), cancelled)
        pipe.send(("plan", msgspec.json.encode(plan)))
    except PlacementError as error:
        pipe.send((type(error).__name__, str(error).encode()))


class Planner:
    """One plan in one worker process: :meth:`result`, perhaps after :meth:`cancel`; then :meth:`close`."""

    def __init__(self, request: Request) -> None:
        require("ortools")
        context = multiprocessing.get_context("spawn")
        self._time_s = request.time_s
        self._cancelled = context.Event()
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._cancelled, child), daemon=True)
        with deaf_children():  # this process decides what Ctrl-C means
            self._process.start()
        child.close()
        with suppress(OSError):  # it died before it had read its task, which result() says
            self._pipe.send_bytes(msgspec.json.encode(request))

    def cancel(self) -> None:
        """Ask for the best plan so far."""
        self._cancelled.set()

    def result(self, tick: Callable[[float], None] = lambda _elapsed_s: None) -> Plan:
        """The plan; a worker that failed, died or hangs becomes an error. ``tick`` is told for how long it has planned."""
        start = time.monotonic()
        begun_s, sent = float("inf"), BEGUN
        try:
            while sent == BEGUN:
                while not self._pipe.poll(LOOK_S):
                    now_s = time.monotonic()
                    tick(max(0.0, now_s - begun_s))
                    if now_s - start < self._time_s + GRACE_S:
                        continue
                    raise PlanningError(
                        f"the planner did not answer {GRACE_S:.0f} s after its limit of {self._time_s:g} s; "
                        "it was stopped, give a smaller problem or more time"
                    )
                sent, begun_s = self._pipe.recv(), time.monotonic()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise PlanningError.of_death(self._process.exitcode) from error
        kind, data = sent
        if kind == "plan":
            return msgspec.json.decode(data, type=Plan)
        message = data.decode()
        raise ConfigError(message) if kind == "ConfigError" else PlanningError(message)

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._process.terminate()
        self._process.join(5)


__all__ = ["Planner", "PlanningError", "Request", "SaleShape", "make_plan"]
