"""Starts the planning process (:mod:`scheduler.planning.planner`), keeps it running, and says what it reports.

Answers to kube-scheduler never wait for it: it has an interpreter of its own and a lower priority, and when it dies or
hangs it is ended and started anew, after a pause that grows. What it was doing stands in the API, so the next one goes on.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace

import msgspec
from msgspec import Struct

from placement.state import devices_text
from scheduler.clocks import boot_s
from scheduler.engine import Engine
from scheduler.planning.adherence import Adherence
from scheduler.settings import KubeSettings

log = logging.getLogger(__name__)

ORDER_S = 0.5
LEAD_S = 2.0
"""A planner without orders for so long stops planning; far below the time in which a Lease goes to another replica."""
HUNG_S = 60.0
"""Without a report, it is taken for dead."""
END_S = 5.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
LINE_BYTES = 2**20


class Order(Struct):
    """What the planning process is told, twice a second."""

    leads_until_s: float = 0.0
    """By :func:`scheduler.clocks.boot_s`, which both processes read: an order does not outlive the sleep of its machine."""
    is_killed: bool = False
    """The kill switch is thrown: nothing is planned, and gates are lifted."""


class Report(Struct):
    """What it says, twice a second."""

    is_synced: bool
    """Its view of the cluster is complete."""
    samples: list[tuple[str, dict[str, str], float]]
    """Name, labels and value of its metrics about planning."""
    ended: list[Adherence]
    """Planned pods that ended since the report before."""


class Message(Struct, omit_defaults=True):
    """One line of what it says."""

    report: Report | None = None
    promised: list[tuple[str, str, int]] = []
    """UID, node and devices of pods that are about to be nominated: their room is taken from now on."""


class PlannerProcess:
    """``adherence`` holds the last planned pods that ended."""

    COMMAND = (sys.executable, "-m", "scheduler.planning.planner")

    def __init__(self, engine: Engine, kube: KubeSettings) -> None:
        self.engine = engine
        self.settings = replace(engine.settings, kube=kube)
        self.adherence: deque[Adherence] = deque(maxlen=10_000)
        self.pid = 0
        """Of the process that runs now; 0 = none."""

    async def run(self) -> None:
        """Keep it running, until cancelled."""
        wait_s = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            try:
                why = await self._live()
            except OSError as error:
                why = f"cannot be started: {error}"
            if time.monotonic() - began > LONGEST_WAIT_S:
                wait_s = FIRST_WAIT_S
            log.error("planner ended, is started anew", extra={"why": why, "pause_s": wait_s})
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _live(self) -> str:
        """One life, and why it ended."""
        metrics = self.engine.metrics
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        process = await asyncio.create_subprocess_exec(
            *self.COMMAND, level,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES,
        )  # fmt: skip
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        self.pid = process.pid
        metrics.planner_starts.inc()
        process.stdin.write(msgspec.json.encode(self.settings) + b"\n")
        orders = asyncio.create_task(self._order(process.stdin))
        try:
            while line := await _line(process.stdout):
                self._take(msgspec.json.decode(line, type=Message))
                await asyncio.sleep(0)  # answers come first
            async with asyncio.timeout(END_S):
                return f"exit code {await _ended(process)}"
        except TimeoutError:
            return "it hung"
        except ValueError as error:  # no message, or a line without an end
            return f"what it says cannot be read: {error}"
        finally:
            orders.cancel()
            metrics.planner_ready.set(0)
            await self._end(process)
            self.pid = 0

    @staticmethod
    async def _end(process: asyncio.subprocess.Process) -> None:
        """It ends when its standard input does; if it does not, it is killed."""
        if process.stdin is not None:
            process.stdin.close()
        for is_last in (False, True):
            try:
                async with asyncio.timeout(END_S):
                    await _ended(process)
                return
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                if is_last:
                    log.error("planner's pipe stays open; somebody else holds it", extra={"pid": process.pid})

    async def _order(self, stdin: asyncio.StreamWriter) -> None:
        while not stdin.is_closing():
            leads_until_s = boot_s() + LEAD_S if self.engine.is_leading() else 0.0
            stdin.write(msgspec.json.encode(Order(leads_until_s, self.engine.modes.is_killed)) + b"\n")
            await asyncio.sleep(ORDER_S)

    def _take(self, message: Message) -> None:
        ledger, report = self.engine.ledger, message.report
        for uid, node, devices in message.promised:
            seen = ledger.pods.get(uid)
            if seen is not None and not seen.node:
                ledger.forget(uid, "planned again")
                if not ledger.assume(seen.who, seen.spec, node, devices):
                    self.engine.metrics.conflicts.labels("promise void").inc()
                    about = {"pod": f"{seen.namespace}/{seen.name}", "node": node, "devices": devices_text(devices)}
                    log.warning("room that was planned is not there, nothing is kept for the pod", extra=about)
        if report is None:
            return
        metrics = self.engine.metrics
        metrics.planner_ready.set(int(report.is_synced))
        metrics.planned = {(name, tuple(sorted(labels.items()))): value for name, labels, value in report.samples}
        self.adherence.extend(report.ended)


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its exit code. What it still says is read and dropped: asyncio waits for the end of its output, too, which never
    comes while a full buffer keeps it from being read."""
    assert process.stdout is not None, "a pipe"
    while await process.stdout.read(LINE_BYTES):
        pass
    return await process.wait()


async def _line(stdout: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end; raises TimeoutError. (``wait_for`` may lose a cancellation in Python 3.11.)"""
    async with asyncio.timeout(HUNG_S):
        return await stdout.readline()
