"""Lifts scheduling gates and clears nominations that nobody looked after, when no replica of ours lives.

It runs outside our Deployment (a CronJob with rights of its own: list pods, patch pods and their status) and needs
nothing of ours but the API: a gate's age is the pod's, for gates can only be set at creation, and a nomination's age
stands beside it. Both are by the API server's clock, and so is now: ours may be wrong. Its deadlines are
longer than the planner's own, so while a planner lives there is nothing to sweep. Running it twice, or beside a
planner, does no harm: every patch tests what it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from placement import objects
from placement.errors import UNREADABLE
from placement.gangs import gang_named
from placement.specs import gang_besides_labels
from scheduler.api import Who
from scheduler.errors import ApiError
from scheduler.gates import GATE, NODE_ANNOTATION, TIME_ANNOTATION, clear, lift, unix_of
from scheduler.kube import KubeClient

PAGE = 500
WIDTH = 32
_decode = msgspec.json.Decoder(objects.Pod).decode


@dataclass
class Swept:
    """What a sweep did; ``failed`` holds what could not be done, in words."""

    seen: int = 0
    lifted: int = 0
    cleared: int = 0
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stale:
    who: Who
    nominated: str
    is_gated: bool


def stale(pod: objects.Pod, now_s: float, deadline_s: float, gang_deadline_s: float) -> _Stale | None:
    """What of a pod is to be swept, None if nothing is. A time that cannot be read counts as old; at a deadline of 0 all do,
    those of this second too.

    While a gate of somebody else keeps the pod as well, ours costs it nothing, and planners have not begun to count its
    time: it stays, unless the deadline is 0.
    """
    meta, status = pod.metadata, pod.status
    if pod.spec.nodeName or status.phase in ("Succeeded", "Failed"):
        return None
    labels, annotations = meta.labels or {}, meta.annotations or {}
    limit_s = gang_deadline_s if gang_besides_labels(pod) or gang_named(labels) else deadline_s
    is_all = limit_s <= 0
    gates = {gate.get("name") for gate in pod.spec.schedulingGates or ()}
    is_ripe = is_all or (len(gates) == 1 and _age_s(meta.creationTimestamp, now_s) > limit_s)
    is_gated = GATE in gates and is_ripe
    planned = annotations.get(NODE_ANNOTATION, "")
    is_ours = bool(planned) and planned == status.nominatedNodeName
    planned_s = _age_s(annotations.get(TIME_ANNOTATION), now_s)
    if planned_s < -limit_s:  # by a clock that was ahead; it is not older than its pod
        planned_s = _age_s(meta.creationTimestamp, now_s)
    is_old = is_ours and (is_all or is_gated or planned_s > limit_s)
    if not is_gated and not is_old:
        return None
    return _Stale(Who(meta.uid, meta.namespace, meta.name), planned if is_old else "", is_gated)


def _age_s(text: str | None, now_s: float) -> float:
    moment = unix_of(text or "")
    return float("inf") if moment is None else now_s - moment


async def sweep(
    client: KubeClient, now: Callable[[], float], *, deadline_s: float, gang_deadline_s: float, is_dry: bool = False
) -> Swept:
    """One pass over all pods, ``now`` being asked after each page; nominations go before gates, so that none outlives its gate.

    What a page shows is mended before the next one is read: of a large cluster on a slow API server the list may be too old
    before it ends, or a sweep be ended before it is read, each time.

    Raises
    ------
    ApiError : pods cannot be listed (any further). A pod that cannot be read or patched is reported in the result instead.
    """
    swept = Swept()
    async for page in client.list_pages("/api/v1/pods", page_size=PAGE):
        now_s = now()
        found: list[_Stale] = []
        for raw in page.items or ():
            swept.seen += 1
            try:
                what = stale(_decode(raw), now_s, deadline_s, gang_deadline_s)
            except UNREADABLE as error:  # an API server newer than we are; others are swept all the same
                swept.failed += (f"a pod cannot be read: {error}",)
                continue
            if what is not None:
                found.append(what)
        queue = iter(found)
        await asyncio.gather(*[_work(client, queue, swept, is_dry=is_dry) for _ in range(min(WIDTH, len(found)))])
    return swept


async def _work(client: KubeClient, queue: Iterator[_Stale], swept: Swept, *, is_dry: bool) -> None:
    for what in queue:
        try:
            await _mend(client, what, swept, is_dry=is_dry)
        except ApiError as error:
            if error.status not in (404, 409):
                swept.failed += (str(error),)


async def _mend(client: KubeClient, what: _Stale, swept: Swept, *, is_dry: bool) -> None:
    if what.nominated and (is_dry or await clear(client, what.who, what.nominated)):
        swept.cleared += 1
    if what.is_gated:
        if not is_dry:
            await lift(client, what.who)
        swept.lifted += 1
