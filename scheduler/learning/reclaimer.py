"""The reclaim controller: keeps each node's reclaimed capacity as large as prediction allows, and takes it back.

Every few seconds, on the leading replica, each node that is marked for it gets the offer of
:mod:`placement.learning.reclaim`: from the forecasts in force and from what its pods use right now. The offer is patched into
the node's status as extended resources; kube-scheduler then places batch pods that ask for them, with its own filter.
When guaranteed pods want their own back, the offer shrinks in the same round, and reclaimed pods that no longer fit
are evicted (through the Eviction API, so that PDBs hold; a refusal is counted and tried again). Such nodes come first, and
what there is no time for until the next look grows after that one: a slow API server delays no guard.

``dry`` computes, logs and counts, and changes nothing. Without fresh usage forecasts fall to the request, so offers
shrink by themselves: no news never sells capacity. A node that is no longer marked takes its offer back. A restart
leaves offers standing, for the next leader goes on with them; ``withdraw`` takes every offer back and evicts what runs
on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from placement.learning.reclaim import (
    MIB,
    RECLAIMED_CPU,
    RECLAIMED_MEMORY,
    Load,
    Offer,
    ReclaimedPod,
    ReclaimPolicy,
    expected,
    is_reclaimed,
    offer,
    to_evict,
)
from placement.nodes import NodeSpec
from placement.resources import CPU, MEMORY
from placement.state import Resident
from scheduler.engine import Engine
from scheduler.errors import ApiError
from scheduler.evictions import evict
from scheduler.gates import MERGE
from scheduler.kube import KubeClient
from scheduler.learning.usage_learner import Current
from scheduler.settings import ReclaimSettings
from scheduler.slices import by_slices

log = logging.getLogger(__name__)

KEEP_LABEL = "ullage.dev/keep-requests"
"""On a namespace, any value: its pods count with their requests, and are never right-sized."""
EVERYTHING = Offer(2**40, 2**40)
"""An offer that may grow without limit: who must leave depends on what is there, not on how fast offers grow."""
FRESH_S = 120.0
"""A measurement older than this is not "now"; the pod's expectation stands for it."""
AT_ONCE = 50
"""Nodes that are looked at before verbs are answered: each is looked at as it is then, with its pods of that moment."""


@dataclass(frozen=True)
class _Round:
    """What one look at a node leads to."""

    node: str
    old: Offer
    new: Offer
    evicts: tuple[str, ...]

    @property
    def order(self) -> tuple[bool, int]:
        """Of acting: whoever takes something back first, then whoever offers least."""
        takes_back = self.evicts or self.new.cpu_milli < self.old.cpu_milli or self.new.memory_mib < self.old.memory_mib
        return not takes_back, self.old.cpu_milli


def _shown(node: NodeSpec) -> Offer:
    """What a node offers as it stands."""
    amounts = dict(node.amounts)
    return Offer(amounts.get(RECLAIMED_CPU, 0), amounts.get(RECLAIMED_MEMORY, 0))


class Reclaimer:
    """See the module. ``current`` is what each pod uses now, by UID."""

    def __init__(
        self,
        engine: Engine,
        client: KubeClient,
        settings: ReclaimSettings,
        current: Mapping[str, Current],
        unix_s: Callable[[], float],
    ) -> None:
        self.engine = engine
        self.client = client
        self.settings = settings
        self.current = current
        self.unix_s = unix_s
        self.policy = ReclaimPolicy(settings.keep_share, settings.offer_share, settings.guard, settings.growth_share)
        self._dry: dict[str, Offer] = {}
        self._said: set[str] = set()

    async def run(self) -> None:
        """Round after round, while this replica may act."""
        while True:
            await asyncio.sleep(self.settings.every_s)
            if self._may_act():
                await self.turn()

    def _may_act(self) -> bool:
        """Whether this replica serves and the kill switch is not thrown."""
        return not (self.engine.why_not_serving() or self.engine.modes.is_killed)

    async def turn(self) -> None:
        """Look at every node that is marked, or offers something, and act."""
        due_s = time.monotonic() + self.settings.every_s
        kept, nodes, rounds = self._kept_namespaces(), self.engine.state.nodes, []
        for row in range(len(nodes)):
            node = nodes[row]
            if node is not None and (self._is_marked(node) or _shown(node) != Offer()):
                rounds.append(self._look(row, node, kept))
            if row % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        self._dry = {found.node: self._dry.get(found.node, Offer()) for found in rounds}
        rounds.sort(key=lambda found: found.order)
        for i, found in enumerate(rounds):
            grows, _ = found.order
            if grows and time.monotonic() >= due_s:
                rounds[i] = replace(found, new=found.old)
            else:
                await self._act(found)
        await self._gauges(rounds)

    def _is_marked(self, node: NodeSpec) -> bool:
        key, _, value = self.settings.node_label.partition("=")
        labels = dict(node.labels)
        return not key or (key in labels and (not value or labels[key] == value))

    def _kept_namespaces(self) -> frozenset[str]:
        namespaces = self.engine.state.namespaces.values()
        return frozenset(n.name for n in namespaces if any(key == KEEP_LABEL for key, _ in n.labels))

    # ── one node ──────────────────────────────────────────────────────────────────────────────

    def _look(self, row: int, node: NodeSpec, kept: frozenset[str]) -> _Round:
        state = self.engine.state
        amounts = dict(node.amounts)
        old = _shown(node) if self.settings.mode != "dry" else self._dry.get(node.name, Offer())
        residents = list(state.residents_on[row].values())
        new = room = Offer()
        if self.settings.mode != "withdraw" and self._is_marked(node):
            load = self._load(amounts, residents, kept)
            new, room = offer(load, old, self.policy), offer(load, EVERYTHING, self.policy)
        reclaimed = [self._pod(r) for r in residents if is_reclaimed(r.spec)]
        return _Round(node.name, old, new, tuple(to_evict(reclaimed, room)))

    def _load(self, amounts: Mapping[str, int], residents: list[Resident], kept: frozenset[str]) -> Load:
        forecasts = self.engine.state.knowledge.forecasts
        total, used, unmeasured = [0, 0], [0, 0], [0, 0]
        for resident in residents:
            if is_reclaimed(resident.spec):
                continue
            expects = expected(resident.spec, forecasts, keeps=resident.spec.namespace in kept)
            for i, (most, now) in enumerate(zip(expects, self._used(resident.uid), strict=True)):
                total[i] += most
                used[i] += now or 0
                unmeasured[i] += most if now is None else 0
        return Load(amounts.get(CPU, 0), amounts.get(MEMORY, 0), *total, *used, *unmeasured)

    def _used(self, uid: str) -> tuple[int | None, int | None]:
        now = self.current.get(uid)
        if now is None or abs(self.unix_s() - now.unix_s) > FRESH_S:
            return None, None
        return now.cpu_millicores, now.memory_bytes

    @staticmethod
    def _pod(resident: Resident) -> ReclaimedPod:
        spec = resident.spec
        return ReclaimedPod(
            resident.uid, spec.amount(RECLAIMED_CPU), spec.amount(RECLAIMED_MEMORY), resident.since_s, spec.priority
        )

    # ── acting ────────────────────────────────────────────────────────────────────────────────

    async def _act(self, found: _Round) -> None:
        if self.settings.mode == "dry":
            self._dry[found.node] = found.new
            return
        if found.new != found.old and self._may_act():
            await self._try("patch", self._patch(found))
        if self.settings.evicts:
            for uid in found.evicts:
                if self._may_act():  # a round takes long where many nodes are patched
                    await self._try("evict", self._evict(uid))

    async def _try(self, what: str, work: Any) -> None:
        count = self.engine.metrics.reclaim_actions.labels
        try:
            await work
        except ApiError as error:
            count(what, "refused").inc()
            if what not in self._said:
                self._said.add(what)
                log.warning("reclaim controller was refused; it tries again", extra={"what": what, "error": str(error)})
            return
        self._said.discard(what)
        count(what, "done").inc()

    async def _patch(self, found: _Round) -> None:
        amounts = {RECLAIMED_CPU: str(found.new.cpu_milli), RECLAIMED_MEMORY: str(found.new.memory_mib)}
        body = {"status": {"capacity": amounts, "allocatable": amounts}}
        await self.client.call("PATCH", f"/api/v1/nodes/{found.node}/status", body, content_type=MERGE, timeout_s=5)

    async def _evict(self, uid: str) -> None:
        pod = self.engine.ledger.pods.get(uid)
        if pod is None:
            return
        try:
            await evict(self.client, pod.who)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        log.info("evicted a reclaimed pod", extra={"pod": f"{pod.namespace}/{pod.name}"})

    async def _gauges(self, rounds: list[_Round]) -> None:
        gauge = self.engine.metrics.reclaimed.labels
        gauge("cpu", "offered").set(sum(r.new.cpu_milli for r in rounds) / 1000)
        gauge("memory", "offered").set(sum(r.new.memory_mib for r in rounds) * MIB)
        residents = list(self.engine.state.residents.values())
        sold = [r.spec async for r in by_slices(residents, 10 * AT_ONCE) if is_reclaimed(r.spec)]
        gauge("cpu", "sold").set(sum(s.amount(RECLAIMED_CPU) for s in sold) / 1000)
        gauge("memory", "sold").set(sum(s.amount(RECLAIMED_MEMORY) for s in sold) * MIB)
