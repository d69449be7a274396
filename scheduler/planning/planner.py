"""The planning process: live batches, apart from the process that answers kube-scheduler.

``ullage serve`` starts it (:mod:`scheduler.planning.planner_process`) with the settings on the first line of its standard input.
It follows the cluster by a watch of its own, solves and delivers (:mod:`scheduler.planning.nominator`), at lower priority than
answers. Orders come as lines of JSON (until when our replica leads, whether the kill switch is thrown) and reports go back
as lines of JSON on what was its standard output: which pods are about to go where, samples of its metrics, and planned
pods that ended. Without orders it stops planning by itself, and it ends when its standard input does, so it never outlives
who started it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial

import msgspec

from placement.gangs import KINDS
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.clocks import boot_s
from scheduler.engine import Engine
from scheduler.eventlog import NoLog
from scheduler.informer import Informer, Reflector
from scheduler.jsonlog import log_to_stderr
from scheduler.kube import KubeClient
from scheduler.lead import Lead
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.planning.nominator import Nominator
from scheduler.planning.patcher import Patcher
from scheduler.planning.planner_process import LINE_BYTES, Message, Order, Report
from scheduler.settings import Settings
from scheduler.slices import Naps, give_way
from scheduler.view import KindSink, Reader, group_sinks, sinks

NICE = 5
"""Below answers, and above what may wait for ever."""
REST_S = 0.01
"""Between two looks at a watch: a batch waits for longer, and to wake up costs several times what an event does."""
REPORT_S = 0.5
REPORTED_PODS = 200
"""At most, in one report or promise: a line stays short."""


class Planner:
    """Follows the cluster and plans, as long as ``order`` allows."""

    def __init__(self, settings: Settings, client: KubeClient, order: Order) -> None:
        self.order = order
        self._num_terms = 1
        self.metrics = Metrics()
        ledger = Ledger(ClusterState(events=NoLog()), time.monotonic, self.metrics)
        reader = Reader()
        self.engine = Engine(ledger, reader, strategy_named("best-fit"), settings, self.metrics)
        naps = Naps()

        def following(kinds: list[KindSink]) -> list[Reflector]:
            return [Reflector(s.kind, s.path, s, client, self.metrics, naps, is_optional=s.is_optional) for s in kinds]

        self.informer = Informer(following(sinks(ledger, self.engine.modes, reader)))
        gangs = dict(zip(KINDS, following(group_sinks(reader.groups)), strict=True))
        self.gangs = Informer(list(gangs.values()))
        """Apart: where one of them cannot be read (its conversion webhook is down), only its own gangs wait for it."""
        reader.groups.is_unread = lambda kind: not gangs[kind].synced.is_set()
        self.lead = Lead(lambda: self._num_terms if self._is_ordered else 0, self.informer)
        self.engine.is_synced = lambda: self.informer.is_synced
        self.engine.is_leading = lambda: self.lead.may_act
        self.patcher = Patcher(client, width=settings.plan.width)
        self.nominator = Nominator(self.engine, client, settings.plan, self.patcher, client.server_s)

    @property
    def _is_ordered(self) -> bool:
        """Whether our replica leads, by the last order."""
        return boot_s() < self.order.leads_until_s

    def obey(self, order: Order) -> None:
        """Take over what the parent wants."""
        self._num_terms += not self._is_ordered
        self.order = order
        self.engine.modes.is_killed = order.is_killed

    async def run(self) -> None:
        """Plan for ever; a part that fails ends all of it."""
        self.informer.start()
        self.gangs.start()
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self.nominator.run())
                parts.create_task(self._follow())
        finally:
            await self.informer.stop()
            await self.gangs.stop()
            await self.patcher.close()

    async def _follow(self) -> None:
        while True:
            self.informer.raise_dead()
            self.gangs.raise_dead()
            await self.lead.follow()
            await asyncio.sleep(REPORT_S)

    def report(self) -> Report:
        """What happened so far; planned pods that ended are told once."""
        ended = self.nominator.adherence
        told = [ended.popleft() for _ in range(min(len(ended), REPORTED_PODS))]
        return Report(self.informer.is_synced, self.metrics.plan_samples(), told)


async def _serve(answers: int) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    settings = msgspec.json.decode(await reader.readline(), type=Settings)
    order = msgspec.json.decode(await reader.readline(), type=Order)
    async with await KubeClient.connect(settings.kube, "plan.enabled") as client:
        client.rest_s = REST_S
        planner = Planner(settings, client, order)
        planner.nominator.on_promised = partial(say_promised, answers)
        parts = [
            asyncio.create_task(planner.run()),
            asyncio.create_task(_obey(planner, reader)),
            asyncio.create_task(_report(planner, answers)),
        ]
        ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        for part in ended:
            part.result()


async def _obey(planner: Planner, reader: asyncio.StreamReader) -> None:
    """Until the parent is gone."""
    while line := await reader.readline():
        planner.obey(msgspec.json.decode(line, type=Order))


def say_promised(answers: int, promised: list[tuple[str, str, int]]) -> None:
    """A gang may be large, and a line is short."""
    for first in range(0, len(promised), REPORTED_PODS):
        _say(answers, Message(promised=promised[first : first + REPORTED_PODS]))


def _say(answers: int, message: Message) -> None:
    os.write(answers, msgspec.json.encode(message) + b"\n")


async def _report(planner: Planner, answers: int) -> None:
    while True:
        _say(answers, Message(planner.report()))
        await asyncio.sleep(REPORT_S)


def main() -> None:
    """Entry point of the process."""
    give_way(NICE)
    answers = os.dup(1)
    os.dup2(2, 1)  # solvers print at times
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    log_to_stderr(sys.argv[1])
    with suppress(BrokenPipeError):
        asyncio.run(_serve(answers))


if __name__ == "__main__":
    main()
