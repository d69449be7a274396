"""Learns usage while serving: sources in, histories kept, forecasts out as a new version of knowledge.

Every so often it takes what the Telemetry stream brought, asks Prometheus what each pod uses now and for the
five-minute samples since the last time, asks the model about workloads whose history changed (in a process of its own), and hands
the ledger a new :class:`~placement.knowledge.Knowledge` if a forecast changed. No verb ever waits for any of it: a
decision reads the stored answer. A source that fails is tried again next time; meanwhile forecasts age, then fall to
the request. A model that cannot be used is said to be so, counted, and the history answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from placement.errors import ModelError
from placement.knowledge import Forecasts, workload_of
from placement.learning.drift import is_full
from placement.learning.facts import facts_of
from placement.learning.forecasting import Forecaster, asked_of, rungs_below
from placement.learning.prediction import (
    HISTORY,
    LEARNED,
    MODEL,
    REQUEST,
    YOUNG,
    Question,
    Rungs,
    load_rungs,
    target_of,
)
from placement.learning.reclaim import is_reclaimed
from placement.learning.siblings import SIBLINGS
from placement.learning.usage import DAY, STEP_S
from placement.resources import CPU, MEMORY, IntArray
from placement.state import CPU_ROW
from scheduler.engine import Engine
from scheduler.errors import SourceError
from scheduler.learning.model_folder import ModelFolder
from scheduler.learning.predict_worker import Asker, OnThread, Source, WorkerLostError
from scheduler.learning.prometheus import PodSeries, Prometheus
from scheduler.learning.telemetry import Sample, UsageStore
from scheduler.ledger import Seen
from scheduler.settings import UsageSettings
from scheduler.slices import by_slices

log = logging.getLogger(__name__)

TAKE = 100
"""Samples of the stream before others may run: about a millisecond."""
AT_ONCE = 500
"""Samples kept before others may run: about two milliseconds."""
PER_VISIT = 20
"""Questions per visit to the worker: about a tenth of a second of its time and 2.6 MB of histories."""
MOST_KILLED = 10_000
"""Kills kept between two looks; more than that tell nothing new."""
EMPTY_S = 86_400
"""As long a time for which Prometheus had nothing at all is asked for again: what it reads from may have been away."""
SETTLE_S = 30
"""A five-minute sample is read this long after its end: scrapes come late."""


@dataclass(frozen=True, slots=True)
class Current:
    """What one pod uses now, None where it was not measured."""

    unix_s: float
    cpu_millicores: int | None = None
    memory_bytes: int | None = None


class UsageLearner:
    """See the module. ``store`` is the Telemetry stream's, None without gRPC."""

    def __init__(
        self,
        engine: Engine,
        settings: UsageSettings,
        is_ready: Callable[[], bool],
        *,
        prometheus: Prometheus | None = None,
        asker: Asker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.is_ready = is_ready
        self.prometheus = prometheus
        self.asker = asker or OnThread()
        self.store: UsageStore | None = None
        self.clock = clock
        self.target = target_of(settings.horizon)
        self.parts = engine.strategy.reads_parts
        self.forecaster = Forecaster(
            self.target,
            rungs=Rungs.of_history(self.target, parts=self.parts),
            fresh_s=settings.fresh_s,
            stale_s=settings.stale_s,
            max_workloads=settings.max_workloads,
            siblings=settings.siblings,
        )
        self.current: dict[str, Current] = {}
        """What each pod uses now, by UID; for the reclaim controller's guard."""
        self.answered_s: dict[str, float] = {}
        """When each source last answered, unix time."""
        self._read_to_s = 0
        self._has_past = True
        """False while the first reading of the past was begun and not ended."""
        self._folder = ModelFolder(settings.model)
        self._model = ""
        """Folder in use; empty = the history alone."""
        self._rungs_before: dict[str, str] = {}
        self._counted: Counter[str] = Counter()
        self._killed: deque[Seen] = deque(maxlen=MOST_KILLED)
        engine.ledger.on_oom = self._killed.append
        engine.metrics.before_scrape(self._gauges)

    @property
    def has_source(self) -> bool:
        """Whether anything can be learned at all."""
        return self.prometheus is not None or self.store is not None

    async def run(self) -> None:
        """Learn every so often, for ever."""
        while True:
            if self.is_ready():
                await self.turn()
            await asyncio.sleep(self.settings.every_s if self.is_ready() else 0.2)

    async def turn(self) -> None:
        """One round: model, sources, questions, knowledge."""
        await self._follow_model()
        await self._drain_stream()
        await self._poll()
        self._take_kills()
        for uid in [u for u in self.current if u not in self.engine.ledger.pods]:
            del self.current[uid]
        forecaster = self.forecaster
        await self._look_at_nodes()
        specs = {pod.spec for pod in self.engine.ledger.pods.values()}
        requested, facts = asked_of(specs), facts_of(specs) if forecaster.rungs.reads_kin else None
        forecaster.keep(requested)
        # Workloads are tried on their past once: on all of it.
        while self._has_past and (questions := forecaster.questions(requested, facts)):
            if not await self._predict(questions):
                break
        for _ in forecaster.recall():
            await asyncio.sleep(0)
        forecaster.settle(self.clock())
        self._note_left_out()
        self._publish()

    # ── the model ─────────────────────────────────────────────────────────────────────────────

    async def _follow_model(self) -> None:
        """Load the folder when it changed; one that cannot be used leaves the history rung."""
        if not self.settings.model or not self._folder.has_changed():
            return
        try:
            rungs = await asyncio.to_thread(load_rungs, self.settings.model, self.target, parts=self.parts)
            self._model = self.settings.model
            self._folder.taken()
        except ModelError as error:
            self._model = ""
            self.engine.metrics.fallback.labels("model refused").inc()
            log.error("model not used; the history rung answers", extra={"error": str(error)})
            rungs = Rungs.of_history(self.target, parts=self.parts)
        self.forecaster.use(rungs)
        log.info("usage is predicted", extra={"source": rungs.source, "target": self.target.name})

    # ── sources ───────────────────────────────────────────────────────────────────────────────

    async def _drain_stream(self) -> None:
        """Samples that the Telemetry stream brought."""
        if self.store is None:
            return
        names = await self._uids() if len(self.store) else {}
        while len(self.store):
            for sample in self.store.take(TAKE):
                self._take_sample(sample, names)
            await asyncio.sleep(0)

    def _take_sample(self, sample: Sample, names: Mapping[tuple[str, str], str]) -> None:
        if sample.subject.kind != "pod":
            return
        namespace, _, name = sample.subject.name.partition("/")
        uid = names.get((namespace, name), "") if name else namespace
        workload = self._workload(uid)
        if not workload:
            self.engine.metrics.usage_refused.labels("pod unknown").inc()
            return
        cpu = None if sample.cpu_millicores is None else round(sample.cpu_millicores)
        memory = None if sample.memory_bytes is None else round(sample.memory_bytes)
        if cpu is None and memory is None:
            return
        self.answered_s["telemetry"] = self.clock()
        self.current[uid] = Current(sample.unix_s, cpu, memory)
        self.forecaster.add(
            workload,
            int(sample.unix_s),
            int(self.clock()),
            cpu_millicores=-1 if cpu is None else cpu,
            memory_bytes=-1 if memory is None else memory,
        )

    async def _poll(self) -> None:
        """What Prometheus knows since the last time; a failure is said once and counted each time."""
        if self.prometheus is None:
            return
        try:
            await self._read_now(self.prometheus)
            await self._read_history(self.prometheus)
        except SourceError as error:
            self.engine.metrics.fallback.labels("usage source").inc()
            if self._counted["silent"] == 0:
                log.warning("usage cannot be read; forecasts age", extra={"error": str(error)})
            self._counted["silent"] += 1
            return
        if self._counted.pop("silent", 0):
            log.info("usage is read again")

    async def _read_now(self, prometheus: Prometheus) -> None:
        now_s = self.clock()
        found = await prometheus.now(now_s)
        self.answered_s["prometheus"] = now_s
        names = await self._uids()
        measured: dict[str, dict[str, int]] = {}
        async for series in by_slices(found):
            uid = names.get((series.namespace, series.pod))
            if uid is not None and series.time_s[-1] > now_s + STEP_S:
                self.engine.metrics.usage_refused.labels("of the future").inc()
            elif uid is not None:
                unit = 1000 if series.resource == CPU else 1
                measured.setdefault(uid, {})[series.resource] = round(float(series.values[-1]) * unit)
                self.forecaster.seen(self._workload(uid), float(series.time_s[-1]))
        async for uid, amounts in by_slices(measured.items(), AT_ONCE):
            self.current[uid] = Current(now_s, amounts.get(CPU), amounts.get(MEMORY))

    async def _read_history(self, prometheus: Prometheus) -> None:
        now_s = self.clock()
        last_s = int(now_s - SETTLE_S) // STEP_S * STEP_S
        if self._read_to_s > last_s:
            self._read_to_s = 0  # the clock was set back: nobody knows what was there to be read at that time
        if self._read_to_s == last_s:
            return
        # The newest sample of the last time is read again: what is written from afar comes minutes late.
        first_s = self._read_to_s or int(now_s - self.settings.history_days * 86_400)
        owners = await prometheus.owners(last_s, (last_s - first_s) / 86_400 + 1 / 24)
        recent = await prometheus.owners(last_s, 1) if last_s - first_s > 86_400 else owners
        classes = {pod.spec for pod in self.engine.ledger.pods.values()}
        here = {workload_of(spec.namespace, spec.owner) for spec in classes} | set(recent.values())
        names, is_empty = await self._uids(), True
        is_first = not self._read_to_s
        is_past, lately = is_first or not self._has_past, dict[str, IntArray]()
        async for chunk in prometheus.history(first_s, last_s):
            self._has_past = self._has_past and not is_first
            is_empty = is_empty and not chunk
            for series in chunk:
                uid = names.get((series.namespace, series.pod))
                workload = self._workload(uid) if uid else owners.get((series.namespace, series.pod), "")
                # Whoever is gone would take the places of those that are here: jobs of the last weeks, say.
                await self._add_series(workload if workload in here else "", series, int(now_s))
                if uid and is_past and series.resource == CPU:
                    self._note_use(lately, uid, series, last_s)
            if chunk and chunk[0].resource == MEMORY:  # CPU of that time was read before it
                # One query in hundreds fails where a server is slow: what was read until then is not asked for again.
                self._read_to_s = min(last_s, int(max(series.time_s[-1] for series in chunk)))
        if lately:
            self._recall_nodes(lately, last_s)
        if not is_empty or last_s - first_s > EMPTY_S:
            self._read_to_s = last_s
        self._has_past = True

    def _note_use(self, lately: dict[str, IntArray], uid: str, series: PodSeries, last_s: int) -> None:
        """What a pod used in the last day counts for the node where it is now, unless it is on reclaimed capacity."""
        state = self.engine.state
        resident = state.residents.get(uid)
        if resident is None or is_reclaimed(resident.spec):
            return
        at = series.time_s.astype(np.int64) // STEP_S - (last_s // STEP_S - DAY + 1)
        used = lately.setdefault(state.names[resident.row], np.zeros(DAY, np.int64))
        inside = (at >= 0) & (at < DAY)
        used[at[inside]] += np.rint(series.values[inside] * 1000).astype(np.int64)

    def _recall_nodes(self, lately: Mapping[str, IntArray], last_s: int) -> None:
        """Tell crowding what nodes were used in the day before anybody looked."""
        state, calm = self.engine.state, np.zeros(DAY, np.int64)
        rows = np.flatnonzero(state.is_alive[: state.num_rows])
        used = np.array([lately.get(state.names[row], calm) for row in rows.tolist()]).reshape(-1, DAY)
        self.forecaster.crowding.recall(last_s, used, state.offered[CPU_ROW, rows])

    async def _add_series(self, workload: str, series: PodSeries, now_s: int) -> None:
        if not workload:
            return
        add = self.forecaster.add
        for number, (at, value) in enumerate(zip(series.time_s.tolist(), series.values.tolist(), strict=True), 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if series.resource == CPU:
                add(workload, int(at), now_s, cpu_millicores=round(value * 1000))
            else:
                add(workload, int(at), now_s, memory_bytes=round(value))
        await asyncio.sleep(0)

    # ── pods and workloads ────────────────────────────────────────────────────────────────────

    async def _uids(self) -> dict[tuple[str, str], str]:
        """UID by (namespace, name)."""
        pods = list(self.engine.ledger.pods.values())
        return {(pod.namespace, pod.name): pod.uid async for pod in by_slices(pods, AT_ONCE)}

    def _workload(self, uid: str | None) -> str:
        pod = self.engine.ledger.pods.get(uid or "")
        return "" if pod is None else workload_of(pod.namespace, pod.spec.owner)

    def _take_kills(self) -> None:
        """Pods that were killed for want of memory needed more than they asked for, and more than they were seen to use."""
        while self._killed:
            seen = self._killed.popleft()
            workload = workload_of(seen.namespace, seen.spec.owner)
            now = self.current.get(seen.uid)
            used = 0 if now is None or now.memory_bytes is None else now.memory_bytes
            if workload:
                memory = max(used, seen.spec.amount(MEMORY))
                self.forecaster.add_oom(workload, seen.oom_s, int(self.clock()), memory)

    async def _look_at_nodes(self) -> None:
        """How many nodes are used up by pods that are not on reclaimed capacity, as far as they are measured now."""
        state, now_s = self.engine.state, self.clock()
        used: dict[int, int] = {}
        async for uid, now in by_slices(list(self.current.items()), AT_ONCE):
            resident = state.residents.get(uid)
            if resident is None or now.cpu_millicores is None or abs(now_s - now.unix_s) > STEP_S:
                continue
            if not is_reclaimed(resident.spec):
                used[resident.row] = used.get(resident.row, 0) + now.cpu_millicores
        if used:
            full = sum(is_full(cpu, float(state.offered[CPU_ROW, row])) for row, cpu in used.items())
            self.forecaster.crowding.look(now_s, full, int(state.is_alive[: state.num_rows].sum()))

    # ── forecasts ─────────────────────────────────────────────────────────────────────────────

    async def _predict(self, questions: list[Question]) -> bool:
        """Whether the worker answered."""
        source = Source(self._model, self._folder.stamp, self.target, self.parts)
        for first in range(0, len(questions), PER_VISIT):
            part = questions[first : first + PER_VISIT]
            try:
                answers = await self.asker.answers(source, part)
            except (WorkerLostError, ModelError) as error:
                self.engine.metrics.fallback.labels("prediction worker").inc()
                log.warning("nothing was predicted this time", extra={"error": str(error)})
                self.forecaster.ask_again(q.workload for q in questions[first:])
                return False
            self.forecaster.take(answers)
        return True

    def _publish(self) -> None:
        """A new version of knowledge, if a forecast changed."""
        ledger = self.engine.ledger
        knowledge = ledger.state.knowledge
        new = self.forecaster.renewed(knowledge, self.clock())
        if new is None:
            return
        if new.forecasts is not None:
            self._note_falls(new.forecasts)
        ledger.state.learn(new, time_s=ledger.time_s)

    def _note_left_out(self) -> None:
        """Say once that there are more workloads than places, and once that there are no more."""
        left_out, most = self.forecaster.num_left_out, self.forecaster.max_workloads
        if left_out and not self._counted["left out"]:
            log.warning(
                "more workloads than usage.max_workloads; those that came later count with their requests",
                extra={"max_workloads": most, "left_out": left_out},
            )
        elif self._counted["left out"] and not left_out:
            log.info("every workload has a place again", extra={"max_workloads": most})
        self._counted["left out"] = left_out

    def _note_falls(self, new: Forecasts) -> None:
        """Count and say which workloads fell, or rose again."""
        falls: Counter[str] = Counter()
        rises: Counter[str] = Counter()
        for workload, forecast in new.of.items():
            before = self._rungs_before.get(workload)
            if before is not None and before != forecast.rung:
                is_fall = rungs_below(forecast.rung) > rungs_below(before)
                (falls if is_fall else rises)[forecast.rung] += 1
        self._rungs_before = {workload: forecast.rung for workload, forecast in new.of.items()}
        for rung, number in falls.items():
            self.engine.metrics.prediction_falls.labels(rung).inc(number)
            self.engine.metrics.fallback.labels(f"prediction on {rung}").inc(number)
            log.warning("predictions fell", extra={"to": rung, "workloads": number})
        for rung, number in rises.items():
            log.info("predictions rose again", extra={"to": rung, "workloads": number})

    def _gauges(self) -> None:
        metrics, forecaster, now_s = self.engine.metrics, self.forecaster, self.clock()
        rungs = Counter(self._rungs_before.values())
        for rung in (MODEL, HISTORY, YOUNG, SIBLINGS, REQUEST):
            metrics.prediction_rung.labels(rung).set(rungs[rung])
        names = [rung for rung, _ in forecaster.rungs.predictors]
        of_newcomers = [YOUNG] * (MODEL in names) + [SIBLINGS] * (forecaster.siblings is not None)
        for rung in (*names, *of_newcomers):
            metrics.prediction_trusted.labels(rung).set(int(forecaster.trusted(rung)))
            for resource in LEARNED:
                metrics.prediction_coverage.labels(rung, resource).set(forecaster.coverage(rung, resource))
                if rung in of_newcomers:
                    metrics.prediction_newcomers.labels(rung, resource).set(forecaster.num_newcomers(rung, resource))
        metrics.siblings_age.set(float("nan"))
        if forecaster.siblings is not None:
            metrics.siblings_age.set(now_s - forecaster.siblings.newest_s)
            for resource in LEARNED:
                metrics.siblings_pairs.labels(resource).set(forecaster.siblings.num_pairs(resource))
        for (rung, resource), score in forecaster.scores.items():
            metrics.prediction_error.labels(rung, resource).set(score.error())
        metrics.prediction_age.set(forecaster.oldest_s(now_s))
        metrics.prediction_left_out.set(forecaster.num_left_out)
        for source in ("prometheus", "telemetry"):
            metrics.usage_age.labels(source).set(now_s - self.answered_s.get(source, float("nan")))
        self._count("sample refused by history", forecaster.num_refused)
        self._count("too many workloads", forecaster.num_turned_away)

    def _count(self, reason: str, total: int) -> None:
        """Bring a counter up to a total kept elsewhere."""
        new = total - self._counted[reason]
        if new > 0:
            self.engine.metrics.usage_refused.labels(reason).inc(new)
            self._counted[reason] = total
