"""Learns while serving how long pods live: hears the ledger's log, looks now and then, and tells what it knows.

What is learned and which rung counts is decided by :class:`placement.learning.lifetimes.LifetimeForecaster`, as in a replay. The
trees are asked on a thread, everything else is done in slices between which verbs are answered. A pod that was there at
the start tells of its own workload alone (its age is not known, and who is still there has outlived others); asked about,
its age counts from the start, and too low an age errs towards "may end soon". A model that cannot be used is said to be so,
counted, and the history answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from placement.errors import ModelError
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.lifetime_model import load_lifetimes
from placement.learning.lifetimes import POPULATION, RUNGS, LifetimeForecaster, answer
from placement.learning.prediction import HISTORY, RULE_PREFIX
from placement.log import POD_ASSUMED, POD_BOUND, POD_ENDED, POD_FORGOTTEN, POD_FOUND, POD_RELEASED, Event
from scheduler.engine import Engine
from scheduler.learning.model_folder import ModelFolder

log = logging.getLogger(__name__)

HEARD = frozenset({POD_ASSUMED, POD_BOUND, POD_FOUND, POD_FORGOTTEN, POD_RELEASED, POD_ENDED})
SLICE = 50
"""Pods or workloads before others may run: one or two milliseconds."""
AT_ONCE = 500
"""Workloads per visit to the trees."""

T = TypeVar("T")


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


class LifetimeLearner:
    """For strategies that read lifetimes; others are left alone, since each telling makes cached scores stale.

    ``clock`` is Unix time. The ledger counts from its start, and models look at the hour.
    """

    def __init__(
        self,
        engine: Engine,
        every_s: float,
        is_ready: Callable[[], bool],
        *,
        model: str = "",
        max_workloads: int = MOST_WORKLOADS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.every_s = every_s
        self.is_ready = is_ready
        self.folder = "" if model.startswith(RULE_PREFIX) else model
        self.forecaster = LifetimeForecaster(
            max_workloads=max_workloads, every_s=every_s, begins_s=round(clock()) - engine.ledger.time_s
        )
        self._heard: deque[Event] = deque()
        self._folder = ModelFolder(self.folder)
        self._counted: Counter[str] = Counter()
        self._is_full = False
        if self.is_needed:
            engine.state.log.also_tell(self._hear)
            engine.metrics.before_scrape(self._gauges)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do."""
        return self.every_s > 0 and self.engine.strategy.reads_lifetimes

    def _hear(self, event: Event) -> None:
        if event.kind in HEARD:
            self._heard.append(event)

    async def run(self) -> None:
        """Look every so often; nothing is told before the ledger is complete."""
        while True:
            await asyncio.sleep(self.every_s)
            if self.is_ready():
                await self.turn()
            else:
                await self._catch_up()

    async def turn(self) -> None:
        """One round: model, news, questions, outcomes, knowledge."""
        await self._follow_model()
        now_s = await self._catch_up()
        forecaster = self.forecaster
        while forecaster.history.pass_some(now_s, SLICE):
            await asyncio.sleep(0)
        changed = forecaster.changed(now_s)
        for part in _slices(changed, AT_ONCE):
            questions = []
            for some in _slices(part, SLICE // 5):
                questions += forecaster.questions(some, now_s)
                await asyncio.sleep(0)
            model = forecaster.model
            answers = answer(None, questions) if model is None else await asyncio.to_thread(answer, model, questions)
            for said in _slices(answers, SLICE):
                forecaster.take(said)
                await asyncio.sleep(0)
        forecaster.settle()
        for kin in _slices(forecaster.stale(), SLICE):
            forecaster.spell_out(kin)
            await asyncio.sleep(0)
        self._note_falls()
        ledger = self.engine.ledger
        ledger.state.learn(forecaster.renewed(ledger.state.knowledge, now_s), time_s=now_s)

    async def _catch_up(self) -> int:
        """Pass on what was heard; returns the ledger's time."""
        now_s = self.engine.ledger.time_s
        self.forecaster.begin_round(now_s)
        num = len(self._heard)
        for i in range(num):
            self.forecaster.hear(self._heard.popleft())
            if i % SLICE == SLICE - 1:
                await asyncio.sleep(0)
        return now_s

    # ── the model ─────────────────────────────────────────────────────────────────────────────

    async def _follow_model(self) -> None:
        """Load the folder when it changed; one that cannot be used, or holds no lifetimes, leaves the history."""
        if not self.folder or not self._folder.has_changed():
            return
        try:
            model = await asyncio.to_thread(load_lifetimes, Path(self.folder))
            self._folder.taken()
        except ModelError as error:
            model = None
            self.engine.metrics.fallback.labels("lifetime model refused").inc()
            log.error("lifetime model not used; the history answers", extra={"error": str(error)})
        self.forecaster.use(model)
        log.info("lifetimes are predicted", extra={"source": self.forecaster.source})

    def _note_falls(self) -> None:
        """Count and say when the model was shut, and what did not go as it should."""
        counts, metrics = self.forecaster.counts, self.engine.metrics
        for rung in (HISTORY, POPULATION):
            for _ in range(self._new(f"fall to {rung}", counts.falls[rung])):
                metrics.lifetime_falls.labels(rung).inc()
                metrics.fallback.labels(f"lifetimes on {rung}").inc()
                log.warning("the lifetime model did worse than the history and is not asked", extra={"to": rung})
        if self._new("jump", counts.jumps):
            log.warning("time jumped; what happened in between counts in no pod's age")
        turned_away = self._new("turned away", counts.turned_away)
        metrics.usage_refused.labels("too many workloads for lifetimes").inc(turned_away)
        if turned_away and not self._is_full:
            log.warning(
                "more workloads than usage.max_workloads; pods of those that come later are told by their size",
                extra={"max_workloads": self.forecaster.max_workloads, "pods": turned_away},
            )
        self._is_full = bool(turned_away)

    def _new(self, what: str, total: int) -> int:
        """By how much a total has grown since the last time."""
        new = total - self._counted[what]
        self._counted[what] = total
        return new

    def _gauges(self) -> None:
        metrics, forecaster = self.engine.metrics, self.forecaster
        rungs = forecaster.by_rung()
        for rung in RUNGS:
            metrics.lifetime_rung.labels(rung).set(rungs[rung])
        for is_new, monitor in forecaster.monitors.items():
            workloads = "new" if is_new else "known"
            metrics.lifetime_trusted.labels(workloads).set(int(monitor.trusted))
            for name, value in zip(("model", "history"), monitor.losses, strict=True):
                metrics.lifetime_loss.labels(workloads, name).set(value)
