"""Live batches: collect gated pods, solve, nominate, lift the gates, and see every nomination to its end.

A pod with our gate waits for a short window, less when nobody comes after it; a gang waits until it is complete. The batch
is solved in another process (:mod:`scheduler.planning.solver`). Then each pod gets its nomination, and when all of a gang
have theirs the gates go. kube-scheduler tries the nominated node first, with all its filters, and binds.

Nothing waits for ever. A gate older than ``gate_deadline_s`` is lifted without a plan; pods the model does not cover
are let go at once. A nomination ends when the pod is bound, when kube-scheduler wrote another one, or when
``nomination_deadline_s`` passed since it was written or renewed (by a plan that is being applied): then it is cleared, for a
stale one keeps room. Only the replica that leads plans.
Nothing is kept here that the API does not say, so a new leader goes on where the old one died.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from placement.errors import PlacementError
from placement.gangs import Groups
from placement.planning.batch_problems import batch_plan, batch_problem
from placement.planning.cluster import Cluster
from placement.planning.gathering import Gathering
from placement.planning.plans import Plan
from placement.pods import Pod
from placement.state import devices_mask, devices_text
from scheduler.api import Api
from scheduler.engine import Engine
from scheduler.errors import ApiError
from scheduler.gates import clear, lift, nominate
from scheduler.ledger import Seen
from scheduler.planning.adherence import AS_PLANNED, ENDED, EXPIRED, Adherence, Place, judged, why_not_bound
from scheduler.planning.patience import Patience
from scheduler.planning.solver import Solver
from scheduler.settings import PlanSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_S = 0.02
SETTLE_S = 0.2
LOOK_S = 1.0
SLICE = 8
"""Pods that are counted, here and by whoever is told, before others may run: under a millisecond."""
MAX_DELIVERIES = 4
"""Batches on their way at once; beyond it pods wait for one to arrive, and the next batch is larger."""
PART = 100
"""Pods that get their nominations before the first gate goes: a tenth of a second's work for a busy API server. With more,
the first ones wait for long, and kube-scheduler looks at all nominations to a node for each pod that goes there."""
GONE = (404, 409)
UNCOVERED = "the model does not cover it"
KILLED = "the kill switch is thrown"
NO_PLACE = "no place was found for it in time"
NO_PLAN = "no batch with it was planned in time"
"""The solver did not answer (why, the log says), or more pods wait than it is given at once."""


class Promise(NamedTuple):
    """A pod, where it is to go, and which devices (as bits) are kept for it there."""

    seen: Seen
    node: str
    devices: int = 0


class Active(NamedTuple):
    """A nomination that has not ended: the node, when it was written as far as the watch has shown, since when it counts."""

    node: str
    planned_at: str
    since: float
    """By the ledger's clock."""


def unit_of(seen: Seen, groups: Groups) -> tuple[str, str]:
    """Who is planned, held and delivered together: (namespace, gang), or the UID of a pod that is alone."""
    return groups.gang_of(seen.spec) or (seen.namespace, seen.uid)


def _is_preemptor(seen: Seen) -> bool:
    """Whether a nominated pod waits, and kube-scheduler nominated it, as it does where others leave for it."""
    return seen.nominated != seen.planned and not (seen.node or seen.is_gated or seen.is_held or seen.spec.leaving)


def _parts(gangs: list[list[Promise]]) -> Iterator[list[list[Promise]]]:
    """In order, gangs whole, each of about :data:`PART` pods."""
    part: list[list[Promise]] = []
    for members in gangs:
        part.append(members)
        if sum(map(len, part)) >= PART:
            yield part
            part = []
    if part:
        yield part


def _say(what: str, pods: list[tuple[str, str]]) -> None:
    """One line in the log for each reason, with one of its pods: there may be hundreds, and metrics and ``ullage plan status``
    have them all."""
    examples = {reason: pod for pod, reason in pods}
    for reason, number in Counter(reason for _, reason in pods).items():
        log.info(what, extra={"reason": reason, "pods": number, "pod": examples[reason]})


class Nominator:
    """See the module. ``adherence`` holds the last planned pods that ended."""

    def __init__(
        self,
        engine: Engine,
        api: Api,
        settings: PlanSettings,
        writer: Api | None = None,
        server_s: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.api = api
        self.writer = writer or api
        """For writes that may be repeated, many at once."""
        self.server_s = server_s
        self.settings = settings
        self.solver = Solver()
        self.groups = engine.reader.groups
        self.adherence: deque[Adherence] = deque(maxlen=10_000)
        self.on_promised: Callable[[list[tuple[str, str, int]]], None] = lambda promised: None
        """Told the UID, node and devices (as bits) of planned pods, a few at a time, before anything is patched."""
        self._active: dict[str, Active] = {}
        """By UID."""
        self._cleared: set[str] = set()
        """UIDs of those whose nomination we took back; their end is when the watch shows it."""
        self._gathering = Gathering[str](settings.window_s, settings.max_pods)
        """By UID, from when the gate was first seen by the ledger's clock."""
        self._busy: set[str] = set()
        """UIDs of pods that are planned and on their way, or were let go, until the watch shows them without our gate."""
        self._patience = Patience()
        self._astray: list[tuple[str, str]] = []
        """Pods that left their plan since that was said last, and why."""
        self._tried: set[str] = set()
        """UIDs of gated pods that were in a batch for which a plan was found."""
        self._running: Counter[tuple[str, str] | None] = Counter()
        """Gang → members that are not gated, as of ``_looked_s`` by the ledger's clock."""
        self._looked_s = float("-inf")
        self._deliveries: set[asyncio.Task[None]] = set()
        self._retry_s = 0.0
        """After a failure nothing is planned before this, by the ledger's clock."""

    async def run(self) -> None:
        """Watch and plan, while this replica serves; a batch is solved while the one before it is delivered."""
        batch: asyncio.Task[None] | None = None
        settle_s = 0.0
        try:
            while True:
                await asyncio.sleep(TICK_S)
                if self.engine.why_not_serving():
                    continue
                if (now := self.engine.ledger.clock()) >= settle_s:
                    settle_s = now + SETTLE_S
                    await self.settle()
                if batch is not None and batch.done():
                    batch.result()
                    batch = None
                for delivery in [d for d in self._deliveries if d.done()]:
                    self._deliveries.discard(delivery)
                    delivery.result()
                if batch is None and len(self._deliveries) < MAX_DELIVERIES and (ready := self.ready()):
                    batch = asyncio.create_task(self.plan(ready))
        finally:
            for task in (*self._deliveries, *([batch] if batch is not None else ())):
                task.cancel()
            self.solver.close()

    # ── what waits ────────────────────────────────────────────────────────────────────────────

    def ready(self) -> list[Seen]:
        """Gated pods of a batch that is closed (:mod:`placement.planning.gathering`)."""
        ledger, now, gathering = self.engine.ledger, self.engine.ledger.clock(), self._gathering
        for uid in [u for u in gathering.since if u not in ledger.gated]:
            gathering.leave(uid)
        for uid in ledger.gated:
            gathering.join(uid, now)
        self._busy &= ledger.gated.keys()
        self._tried &= ledger.gated.keys()
        if now < self._retry_s or self.engine.modes.is_killed:
            return []
        waiting = [uid for uid in gathering.since if uid not in self._busy]
        if resting := {unit_of(ledger.gated[u], self.groups) for u in self._patience.resting(now) if u in ledger.gated}:
            waiting = [uid for uid in waiting if unit_of(ledger.gated[uid], self.groups) not in resting]
        if now < gathering.closes_s(waiting):
            return []
        units = [[seen.uid for seen in members] for members in self._by_unit(waiting).values()]

        def priority(uid: str) -> int:
            return ledger.gated[uid].spec.priority

        def is_whole(uids: Sequence[str]) -> bool:
            return not self._why_waits([ledger.gated[uid] for uid in uids], now)

        return [ledger.gated[uid] for uid in gathering.chosen(units, priority, is_whole, now)]

    def _by_unit(self, uids: Iterable[str]) -> dict[tuple[str, str], list[Seen]]:
        units: dict[tuple[str, str], list[Seen]] = defaultdict(list)
        for uid in uids:
            seen = self.engine.ledger.gated[uid]
            units[unit_of(seen, self.groups)].append(seen)
        return units

    def _why_waits(self, members: list[Seen], now: float) -> str:
        """What a gang lacks, empty when it is all there; who runs already is looked for once in a while, there may be
        many."""
        gang = self.groups.gang_of(members[0].spec)
        size = max(seen.spec.gang_size for seen in members)
        if gang is None or not (why := self.groups.why_waits(gang, len(members), size)):
            return ""
        if now - self._looked_s >= LOOK_S:
            ledger, self._looked_s = self.engine.ledger, now
            there = (seen for uid, seen in ledger.pods.items() if uid not in ledger.gated)
            classes = Counter(seen.spec for seen in there if not (seen.spec.leaving or seen.is_held))
            self._running.clear()
            for spec, number in classes.items():
                self._running[self.groups.gang_of(spec)] += number
        running = self._running[gang]
        return self.groups.why_waits(gang, len(members) + running, size) if running else why

    # ── one batch ─────────────────────────────────────────────────────────────────────────────

    async def plan(self, waiting: list[Seen]) -> None:
        """Solve for these pods and deliver; what cannot be placed waits for the next window."""
        metrics = self.engine.metrics
        began = time.monotonic()
        # A leader before us may have died between nominating and lifting: what all of a gang got still holds.
        unheld = {unit_of(s, self.groups) for s in waiting if not (s.planned and s.planned == s.nominated)}
        finished = [s for s in waiting if unit_of(s, self.groups) not in unheld]
        await self._each(finished, self._relift)
        rest = [s for s in waiting if unit_of(s, self.groups) in unheld]
        for seen in rest:
            self._forget(seen.uid, "planned again")
        aimed = {s.uid: promise for s in rest if (promise := self._aimed(s)) is not None}
        if aimed:
            self.on_promised([(uid, node, devices) for uid, (_, node, devices) in aimed.items()])
            self._deliver_soon([[promise] for promise in aimed.values()])
            rest = [s for s in rest if s.uid not in aimed]
        pods = tuple(Pod(s.uid, f"{s.namespace}/{s.name}", self.groups.resolved(s.spec)) for s in rest)
        if not pods:
            return
        try:
            plan = await self._solve(pods)
        except PlacementError as error:
            log.warning("batch not planned", extra={"error": str(error)})
            metrics.plan_batches.labels("failed").inc()
            self._retry_s = self.engine.ledger.clock() + self.settings.window_s
            return
        self._tried.update(seen.uid for seen in rest)
        metrics.plan_batches.labels(plan.ending.value).inc()
        metrics.plan_solve.observe(time.monotonic() - began)
        self._measure(replace(plan, time_s=time.monotonic() - began), len(pods))
        gangs = await self._hold(plan, {s.uid: s for s in rest})
        log.debug(
            "batch planned", extra={"pods": len(rest), "placed": len(plan.steps), "seconds": time.monotonic() - began}
        )
        placed = {promise.seen.uid for members in gangs for promise in members}
        self._gathering.tried([seen.uid for seen in rest], placed, self.engine.ledger.clock())
        self._deliver_soon(gangs)

    def _measure(self, plan: Plan, num_pods: int) -> None:
        metrics = self.engine.metrics
        metrics.plan_value.labels(plan.kind).set(plan.value)
        metrics.plan_bound.labels(plan.kind).set(plan.value if plan.bound is None else plan.bound)
        metrics.plan_gap.labels(plan.kind).set(plan.gap_share or 0.0)
        metrics.plan_time.labels(plan.kind).set(plan.time_s)
        metrics.see_wishes(plan.kind, plan.details)
        metrics.plan_placed.labels("placed").inc(len(plan.steps))
        metrics.plan_placed.labels("no place").inc(num_pods - len(plan.steps))
        metrics.plans.labels(plan.kind, plan.ending.value).inc()

    async def _hold(self, plan: Plan, waiting: dict[str, Seen]) -> list[list[Promise]]:
        """Count the plan's pods on their nodes, so that the next batch sees them; gangs that changed meanwhile wait."""
        ledger = self.engine.ledger
        gangs: dict[tuple[str, str], list[Promise]] = defaultdict(list)
        for step in plan.steps:
            seen = waiting[step.pod]
            gangs[unit_of(seen, self.groups)].append(Promise(seen, step.target, devices_mask(step.devices)))
        whole: list[list[Promise]] = []
        promised: list[tuple[str, str, int]] = []
        for members in gangs.values():
            if len(promised) >= SLICE:
                self.on_promised(promised)
                promised = []
                await asyncio.sleep(0)
            for promise in members:  # who had a nomination already may have been taken up again while this was solved
                self._forget(promise.seen.uid, "planned again")
            counted = [
                seen
                for seen, node, devices in members
                if seen.uid in ledger.gated and ledger.assume(seen.who, seen.spec, node, devices)
            ]
            if len(counted) == len(members):
                whole.append(members)
                promised += [(seen.uid, node, devices) for seen, node, devices in members]
            else:
                for seen in counted:
                    ledger.forget(seen.uid, "not nominated")
        self.on_promised(promised)
        return whole

    async def _solve(self, pods: tuple[Pod, ...]) -> Plan:
        with self._preemptors_counted():
            problem = batch_problem(Cluster(self.engine.state, pods), fills=True)
        covered, gated = {p.uid for members in problem.pods for p in members}, self.engine.ledger.gated
        await self._let_go({gated[p.uid]: UNCOVERED for p in pods if p.uid not in covered and p.uid in gated})
        batched = await self.solver.solve(problem.batch, self.settings.time_s, self.engine.settings.seed)
        return batch_plan(problem, batched, time_s=0.0)

    @contextmanager
    def _preemptors_counted(self) -> Iterator[None]:
        """Room that kube-scheduler had others evicted for is the preemptor's, who may be tried again seconds after they left.
        No answer counts it: kube-scheduler itself offers no node where it would be missed."""
        ledger = self.engine.ledger
        waits = [
            seen
            for seen in ledger.pods.values()  # a glance at each of thousands
            if seen.nominated and _is_preemptor(seen) and ledger.assume(seen.who, seen.spec, seen.nominated, 0)
        ]
        try:
            yield
        finally:
            for seen in waits:
                ledger.forget(seen.uid, "not decided here")

    def _deliver_soon(self, gangs: list[list[Promise]]) -> None:
        self._busy.update(promise.seen.uid for members in gangs for promise in members)
        self._deliveries.add(asyncio.create_task(self._deliver(gangs)))

    async def _deliver(self, gangs: list[list[Promise]]) -> None:
        """Some pods at a time: all nominations, those of the next ones, and then the gates of gangs that have all of theirs.

        A gate that is lifted right after the nomination meets an API server whose cache has the pod without it: the write
        conflicts, and the server does all of its work again.
        """
        began, done = time.monotonic(), set[str]()

        async def nominated(promise: Promise) -> None:
            if await self._nominate(promise):
                done.add(promise.seen.uid)

        async def lifted(promise: Promise) -> None:
            if not await self._lift(promise.seen):
                done.discard(promise.seen.uid)

        def whole(some: list[list[Promise]]) -> list[list[Promise]]:
            return [members for members in some if all(promise.seen.uid in done for promise in members)]

        earlier: list[list[Promise]] = []
        for some in (*_parts(gangs), []):
            await self._each(chain.from_iterable(some), nominated)
            await self._each(chain.from_iterable(whole(earlier)), lifted)
            earlier = some
        arrived = {promise.seen.uid for members in whole(gangs) for promise in members}
        left = {promise.seen.uid for members in gangs for promise in members} - arrived
        if left:
            self._busy -= left
            self._retry_s = self.engine.ledger.clock() + self.settings.window_s
        log.debug("batch delivered", extra={"pods": len(arrived), "seconds": time.monotonic() - began})

    def _aimed(self, seen: Seen) -> Promise | None:
        """The replacement of a pod that an applied plan evicted goes where that plan wants it, if it fits there now."""
        engine, ledger = self.engine, self.engine.ledger
        if self.groups.gang_of(seen.spec) is not None or not (node := ledger.target_for(seen.uid, seen.spec)):
            return None
        there = engine.mask(np.array([engine.state.row_of[node]]))
        fits = engine.in_force().decide(engine.state.snapshot(), seen.spec, there, 0).is_placed
        return Promise(seen, node) if fits and ledger.assume(seen.who, seen.spec, node, 0) else None

    async def _each(self, pods: Iterable[T], act: Callable[[T], Awaitable[None]]) -> None:
        listed = list(pods)
        queue = iter(listed)

        async def worker() -> None:
            for pod in queue:
                await act(pod)

        await asyncio.gather(*[worker() for _ in range(min(self.settings.width, len(listed)))])

    async def _nominate(self, promise: Promise) -> bool:
        seen, node, devices = promise
        write = partial(nominate, self.writer, seen.who, node, self.server_s(), devices_text(devices))
        if self.engine.modes.is_killed or not await self._patch("nominate", seen, write):
            self.engine.ledger.forget(seen.uid, "not nominated")
            return False
        self._active[seen.uid] = Active(node, "", self.engine.ledger.clock())
        return True

    async def _lift(self, seen: Seen) -> bool:
        return await self._patch("lift", seen, partial(lift, self.writer, seen.who))

    async def _clear(self, seen: Seen) -> bool:
        """Whether the nomination is gone for certain."""
        return await self._patch("clear", seen, partial(clear, self.api, seen.who, seen.planned))

    async def _patch(self, what: str, seen: Seen, write: Callable[[], Awaitable[object]]) -> bool:
        """The one way by which anything is written; whether it was. The lead may have gone since that was decided: whoever was
        stopped for a minute goes on in the midst of a batch, and another replica plans for its pods."""
        if self.engine.why_not_serving():
            return False
        try:
            await write()
        except ApiError as error:
            outcome = "gone" if error.status in GONE else "failed"
            self.engine.metrics.plan_patches.labels(what, outcome).inc()
            if outcome == "failed" and self._patience.failed(seen.uid, self.engine.ledger.clock()):
                log.warning("planned pod not patched", extra={"what": what, "error": str(error)})
            return False
        self._patience.worked(seen.uid)
        self.engine.metrics.plan_patches.labels(what, "done").inc()
        return True

    async def _relift(self, seen: Seen) -> None:
        """Its nomination stands, by a leader before us or by a patch whose answer was lost; only the gate is left."""
        self._take_over(seen)
        if await self._lift(seen):
            self._busy.add(seen.uid)
        else:
            self._retry_s = self.engine.ledger.clock() + self.settings.window_s

    def _take_over(self, seen: Seen) -> None:
        """From now on it counts, and has an end."""
        ledger = self.engine.ledger
        self._active[seen.uid] = Active(seen.planned, seen.planned_at, ledger.clock())
        ledger.assume(seen.who, seen.spec, seen.planned, seen.planned_devices)

    async def _let_go(self, pods: dict[Seen, str]) -> None:
        """Lift the gates of pods without a plan, and take back what was nominated; ``pods`` say why."""

        freed: list[tuple[str, str]] = []

        async def free(seen: Seen) -> None:
            if seen.planned and seen.planned == seen.nominated and not await self._clear(seen):
                return
            if not await self._lift(seen):
                return
            self._busy.add(seen.uid)
            freed.append((f"{seen.namespace}/{seen.name}", pods[seen]))
            self.engine.metrics.plan_pods.labels("let go").inc()

        await self._each(pods, free)
        _say("gates lifted without a plan", freed)

    # ── how it ends ───────────────────────────────────────────────────────────────────────────

    async def settle(self) -> None:
        """Gates past the deadline go; nominations that ended are counted, and old ones cleared."""
        ledger, now = self.engine.ledger, self.engine.ledger.clock()
        metrics, settings = self.engine.metrics, self.settings
        metrics.plan_gated.set(len(ledger.gated))
        self._adopt()
        self._patience.keep(ledger.pods)
        waiting = {uid for uid in ledger.gated.keys() - self._busy if not self._patience.is_resting(uid, now)}
        gated = [(ledger.gated[uid], since) for uid, since in self._gathering.since.items() if uid in waiting]
        late = [seen for seen, since in gated if now - since > self._deadline(seen)]
        await self._let_go(self._why_late(late, now))
        old = []
        for uid, (node, planned_at, since) in list(self._active.items()):
            seen = ledger.pods.get(uid)
            if seen is None:
                self._end(uid, Adherence(uid, node, "", ENDED))
            elif seen.node:
                self._end(uid, self._compare(seen, node))
            elif seen.planned == node and seen.nominated != node and not self._is_to_be_shown(uid):
                is_expired = uid in self._cleared and not seen.nominated
                why = EXPIRED if is_expired else why_not_bound(seen.nominated)
                self._end(uid, Adherence(f"{seen.namespace}/{seen.name}", node, "", why))
            elif seen.planned == node and seen.planned_at != planned_at:
                self._active[uid] = Active(node, seen.planned_at, now)
            elif now - since > settings.nomination_deadline_s and seen.planned == node:
                old.append(seen)
        _say("pods left their plans", self._astray)
        self._astray.clear()
        await self._each([s for s in old if not self._patience.is_resting(s.uid, now)], self._expire)
        metrics.plan_nominations.set(len(self._active))

    def _is_to_be_shown(self, uid: str) -> bool:
        """Whether the watch has yet to show our nomination. A pod that had one before keeps its annotation, so until then it
        looks as if the new one had been taken back."""
        held = self.engine.ledger.reservations.get(uid)
        return held is not None and not held.is_nominated and uid not in self._cleared

    def _why_late(self, late: list[Seen], now: float) -> dict[Seen, str]:
        if not late:
            return {}
        if self.engine.modes.is_killed:
            return dict.fromkeys(late, KILLED)
        gangs = self._by_unit(self.engine.ledger.gated)
        why = {unit: self._why_waits(members, now) for unit, members in gangs.items()}
        return {s: why[unit_of(s, self.groups)] or (NO_PLACE if s.uid in self._tried else NO_PLAN) for s in late}

    def _deadline(self, seen: Seen) -> float:
        if self.engine.modes.is_killed:
            return 0.0
        is_alone = self.groups.gang_of(seen.spec) is None
        return self.settings.gate_deadline_s if is_alone else self.settings.gang_deadline_s

    def _adopt(self) -> None:
        """Nominations of another leader, before us or while we did not lead."""
        for seen in list(self.engine.ledger.planned.values()):
            known = self._active.get(seen.uid)
            if (
                (known is None or seen.planned != known.node)
                and seen.nominated == seen.planned
                and seen.uid not in self._busy
            ):
                self._take_over(seen)

    async def _expire(self, seen: Seen) -> None:
        if await self._clear(seen):
            self._cleared.add(seen.uid)
            self._active[seen.uid] = Active(seen.planned, seen.planned_at, self.engine.ledger.clock())

    def _compare(self, seen: Seen, planned: str) -> Adherence:
        row = self.engine.state.row_of.get(planned)
        node = None if row is None else self.engine.state.nodes[row]
        wanted = Place(planned, seen.planned_devices if seen.planned == planned else 0)
        is_cordoned = node is not None and node.unschedulable
        return judged(
            f"{seen.namespace}/{seen.name}",
            wanted,
            Place(seen.node, seen.devices),
            is_known=node is not None,
            is_cordoned=is_cordoned,
        )

    def _end(self, uid: str, adherence: Adherence) -> None:
        self._active.pop(uid, None)
        self._cleared.discard(uid)
        self.adherence.append(adherence)
        outcome = adherence.outcome
        if outcome != AS_PLANNED:
            self._astray.append((adherence.pod, adherence.reason))
        self.engine.metrics.plan_pods.labels(outcome).inc()
        if not adherence.actual:
            self.engine.ledger.forget(uid, "plan ended")

    def _forget(self, uid: str, how: str) -> None:
        self._active.pop(uid, None)
        self._cleared.discard(uid)
        self.engine.ledger.forget(uid, how)
