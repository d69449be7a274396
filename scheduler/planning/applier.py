"""Acts on a plan, step by step, and only as long as the cluster is the one that was planned for.

Before each step the cluster is looked at again; the intent is written to the record, then the act is done, then its
outcome is written. So a process that was killed anywhere goes on with the same record: whatever was on its way is looked
up, never repeated blindly. A step ends when the API shows its effect: the pod is gone and its replacement (same
namespace, owner and template hash, not there before) is bound. If it is bound elsewhere than planned, if a pod or node
changed, or if a target carries more load than planned, everything stops: later steps relied on it.

What a plan holds while it runs is given back when it stops or is abandoned: nodes that it cordoned and has not emptied
are opened, nominations and marks that nobody used are cleared. Evictions go one at a time through the Eviction API; a
refusal by a disruption budget (429) is waited for, up to a deadline.

What leaves of a gang leaves in one step, for part of it is of no use: begun only when its budgets let all of it go and all
replacements find room, and once begun no stop and no interruption comes between its evictions. If a budget refuses one of
them all the same, the plan is paused, not given up: the same command goes on with that gang.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from placement import objects
from placement.errors import PlacementError
from placement.marks import forbidden
from placement.owners import template_of
from placement.planning.plan_check import check_steps
from placement.planning.plans import Action, Plan, Step, together
from placement.planning.snapshots import cluster_of
from scheduler.api import Who
from scheduler.cluster_reader import take_snapshot
from scheduler.errors import ApiError, PlanPaused
from scheduler.evictions import SEVERAL_BUDGETS, TOO_MANY, cordon, cordon_state, evict, mark_target, open_again
from scheduler.gates import GATE, clear, lift, nominate, renew
from scheduler.kube import KubeClient
from scheduler.planning.looks import (
    PlanLeft,
    class_of,
    grace_s,
    peers,
    pod_of,
    require_emptied,
    require_movable,
    require_room,
    split,
    why_not_at_once,
)
from scheduler.planning.record import PlanRecord, PlanState, State, StepRecord

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
POLL_S, LONGEST_POLL_S = 0.25, 3.0
RENEW_S = 10.0
"""Between two times that nominations are said to hold still: planners and sweepers clear old ones."""
GONE = (404, 409)
Template = tuple[str, str, str]
Peers = dict[Template, list[objects.Pod]]
"""Template → its pods, as of one look: where pods carry no template hash, that is a list of their whole namespace."""


class Looks:
    """Pauses between looks at what others do: short after each change, and half as long again after each look that saw none."""

    def __init__(self) -> None:
        self._seen: object = None
        self._wait_s = POLL_S

    async def pause(self, seen: object) -> None:
        """After a look; ``seen`` is all of it that matters."""
        self._wait_s = POLL_S if seen != self._seen else min(1.5 * self._wait_s, LONGEST_POLL_S)
        self._seen = seen
        await asyncio.sleep(self._wait_s)


@dataclass(frozen=True)
class ApplyLimits:
    """How long a step may take, and how many pods may be evicted."""

    refusal_s: float = 300.0
    """A disruption budget that refuses for longer stops the plan."""
    settle_s: float = 180.0
    """From an eviction until the pod has ended, its grace period apart; then, or from a nomination, until the pod is bound."""
    outage_s: float = 60.0
    """The API may be away for so long; then the work is interrupted, to be resumed."""
    max_evictions: int | None = None
    """None = as many as the plan has."""


async def why_not_valid(client: KubeClient, plan: Plan) -> list[str]:
    """What is wrong with a whole plan on the cluster as it is now; empty when every step would fit.

    Raises
    ------
    PlacementError : the cluster cannot be read.
    """
    cluster = cluster_of(await take_snapshot(client))
    known = set(cluster.node_names())
    waits = {pod.uid: why for pod, why in cluster.not_now}
    pods = {*cluster.state.residents, *(pod.uid for pod in cluster.pending), *waits}
    wrong = [
        f"step {i}: node {name} is gone"
        for i, step in enumerate(plan.steps)
        for name in (step.source, step.target)
        if name and name not in known
    ]
    wrong += [
        f"step {i}: pod {s.name or s.pod} is gone" for i, s in enumerate(plan.steps) if s.pod and s.pod not in pods
    ]
    wrong += [
        f"step {i}: pod {s.name or s.pod} is not to be placed now: {waits[s.pod]}"
        for i, s in enumerate(plan.steps)
        if s.pod in waits
    ]
    return wrong or check_steps(cluster, plan)


async def _unless_gone(write: Callable[[], Awaitable[None]]) -> None:
    """Write to a pod, without effect if that is gone, or bound where bound ones are not written to: the next look sees it."""
    try:
        await write()
    except ApiError as error:
        if error.status not in GONE:
            raise


class Applier:
    """One plan, one record. ``save`` makes the record durable; ``say`` tells people what happens."""

    def __init__(
        self,
        client: KubeClient,
        record: PlanRecord,
        save: Callable[[], None],
        limits: ApplyLimits,
        say: Callable[[int, str], None],
    ) -> None:
        self.client = client
        self.record = record
        self.plan = record.to_plan
        self.save = save
        self.limits = limits
        self.say = say
        self._later = {s.pod: i for i, s in enumerate(self.plan.steps) if s.action == Action.PLACE}
        """UID → the step that places it; of an evicted pod, its replacement."""
        self._is_stopping = False
        """Somebody wants to stop; only evictions of a gang that has begun to leave are still done."""
        self._evicted = {s.pod: i for i, s in enumerate(self.plan.steps) if s.action == Action.EVICT}

    # ── the loop ──────────────────────────────────────────────────────────────────────────────

    async def run(self) -> PlanState:
        """Go on until the plan is done or reality has left it, or to the end of giving back what it held.

        Raises
        ------
        PlacementError : the API is away, or the record cannot be written: the same call resumes.
        """
        if self.record.outcome != PlanState.RUNNING:
            if self.record.owes:
                await self._give_back(self.record.outcome)
            return self.record.outcome
        try:
            if all(step.state == State.PENDING for step in self.record.steps):
                wrong = await self._patiently(partial(why_not_valid, self.client, self.plan))
                if wrong:
                    raise PlanLeft(f"the cluster is no longer the one that was planned for: {wrong[0]}")
            await self._steps()
        except PlanLeft as left:
            self.record.reason = str(left)
            await self._give_back(PlanState.STOPPED)
        else:
            await self._look_back()
            self.record.outcome = PlanState.DONE
            self.save()
        return self.record.outcome

    async def _look_back(self) -> None:
        """Write down which nodes that were emptied somebody has opened since: what they were to save is not saved."""
        for i, step in enumerate(self.plan.steps):
            if step.action == Action.DELETE:
                try:
                    await self._patiently(partial(require_emptied, self.client, step.source))
                except PlanLeft as left:
                    self.record.steps[i].reason = self.record.reason = f"emptied, but since then {left}"
                    self.say(i, self.record.reason)

    async def _steps(self) -> None:
        renewing = asyncio.create_task(self._renew())
        try:
            for some in together(self.plan.steps):
                if any(self.record.steps[j].state != State.DONE for j in some):
                    await self._patiently(partial(self._act, some))
        finally:
            renewing.cancel()

    async def _renew(self) -> None:
        """A place that is held before room is made may have to wait for budgets and grace periods, for minutes."""
        while True:
            await asyncio.sleep(RENEW_S)
            for uid, (namespace, name, node) in list(self.record.nominated.items()):
                with suppress(ApiError):  # tried again soon; that the API is away is the steps' to say
                    await renew(self.client, Who(uid, namespace, name), node, self.client.server_s())

    async def _act(self, group: Sequence[int]) -> None:
        i = group[0]
        step = self.plan.steps[i]
        try:
            if step.action == Action.PLACE:
                await self._place(group)
            elif step.action in (Action.MOVE, Action.EVICT):
                await self._move(group)
            elif step.action == Action.CORDON:
                await self._cordon(i, step)
            else:
                await require_emptied(self.client, step.source)
                if step.source in self.record.cordoned:
                    self.record.cordoned.remove(step.source)  # emptied: that is what was wanted, it stays closed
                self._done(i, f"{step.source} is empty")
        except PlanLeft as left:
            why = f"{left}{self._pieces(group)}"
            for j in group:
                if self.record.steps[j].state != State.DONE:
                    self.record.steps[j].state, self.record.steps[j].reason = State.FAILED, why
            raise PlanLeft(why) from left  # written down with the outcome: a plan that has failed never goes on

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """``act()``, again while the API is away or busy, for a time."""
        end = time.monotonic() + self.limits.outage_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return await act()
            except ApiError as error:
                if (error.status and error.status < 500 and error.status != TOO_MANY) or time.monotonic() > end:
                    raise
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _put(self, i: int, state: State) -> StepRecord:
        self.record.steps[i].state = state
        self.save()
        return self.record.steps[i]

    def _done(self, i: int, what: str) -> None:
        self._put(i, State.DONE)
        self.say(i, what)

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────

    async def _cordon(self, i: int, step: Step) -> None:
        node = step.source
        try:
            closed, owner = await cordon_state(self.client, node)
            if closed and owner != self.record.id:
                self._done(i, f"{node} was cordoned already; it is not this plan's to open")
                return
            if node not in self.record.cordoned:
                self.record.cordoned.append(node)
                self._put(i, State.STARTED)
            if not closed:
                await cordon(self.client, node, self.record.id)
        except ApiError as error:
            if error.status != 404:
                raise
            raise PlanLeft(f"node {node} is gone") from error
        self._done(i, f"{node} is cordoned")

    # ── evictions ─────────────────────────────────────────────────────────────────────────────

    async def _move(self, group: Sequence[int]) -> None:
        """Evict a pod, or what leaves of a gang, and see replacements to their nodes."""
        if all(self.record.steps[i].state == State.PENDING for i in group):
            await self._begin(group)
        await self._uninterrupted(self._evictions(group), is_whole=len(group) == 1)
        for i in group:
            await self._until_gone(self.plan.steps[i])
        await self._replacements(group)
        for i in group:
            entry, name = self.record.steps[i], self.plan.steps[i].name
            self._done(i, f"{entry.replacement_name} is on {entry.actual}" if entry.actual else f"{name} is gone")

    async def _begin(self, group: Sequence[int]) -> None:
        """Look that all of it may go and all replacements find room; then say that it goes."""
        steps = [self.plan.steps[i] for i in group]
        pods = {step.pod: await require_movable(self.client, step) for step in steps}
        for target in sorted({step.target for step in steps if step.target}):
            coming = [pods[step.pod] for step in steps if step.target == target]
            await require_room(self.client, coming, target, pods.keys())
        self._within_budget(len(group))
        if len(group) > 1:
            await self._until_all_may_go(list(pods.values()))
        there: Peers = {}
        for i, step in zip(group, steps, strict=True):
            entry = self.record.steps[i]
            entry.template = template_of(class_of(pods[step.pod]))
            entry.known = sorted(p.metadata.uid for p in await self._peers(entry.template, there))
        for source in sorted({step.source for step in steps}):
            await self._reserve(source, group[0])
        for i in group:
            self.record.steps[i].state = State.STARTED
        self.record.evictions += len(group)
        self.save()

    async def _until_all_may_go(self, pods: list[objects.Pod]) -> None:
        end = time.monotonic() + self.limits.refusal_s
        wait_s = FIRST_WAIT_S
        while why := await why_not_at_once(self.client, pods):
            if time.monotonic() > end:
                raise PlanLeft(f"{why}, for {self.limits.refusal_s:g} s: a gang goes at once or not at all")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _evictions(self, group: Sequence[int]) -> None:
        """All of them; what was accepted is written down at once."""
        for i in group:
            step = self.plan.steps[i]
            if self.record.steps[i].state != State.STARTED:
                continue
            try:
                await self._evict(step, step.target or self._target_later(step))
            except PlanLeft as left:
                if all(self.record.steps[j].state == State.STARTED for j in group):
                    raise  # nobody has left: the gang is whole
                on = "the same command goes on with it, --abandon leaves it like that"
                raise PlanPaused(f"{left}{self._pieces(group)}; {on}") from left
            self._put(i, State.EVICTED)
            self.say(i, f"{step.name} is evicted")

    async def _uninterrupted(self, evictions: Coroutine[None, None, None], *, is_whole: bool) -> None:
        """To the end even where somebody wants to stop meanwhile, who then waits for no budget; ``is_whole``: stop at once."""
        if is_whole:
            await evictions
            return
        work = asyncio.ensure_future(evictions)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._is_stopping = True
            with suppress(PlacementError, PlanLeft):  # the record says how far it came
                await work
            raise

    def _pieces(self, group: Sequence[int]) -> str:
        """What has become of a gang of which only a part has gone or come back; empty where that is not so."""
        states = [self.record.steps[i].state for i in group]
        gang = self.plan.steps[group[0]].gang
        evicted = sum(state in (State.EVICTED, State.DONE) for state in states)
        if not gang or len(group) < 2 or not evicted:
            return ""
        text = f"; of gang {gang} {evicted} of {len(group)} pods are evicted"
        if not any(self.plan.steps[i].target or self._target_later(self.plan.steps[i]) for i in group):
            return text
        return f"{text}, {sum(bool(self.record.steps[i].actual) for i in group)} replacements are bound"

    def _target_later(self, step: Step) -> str:
        later = self._later.get(step.pod)
        return "" if later is None else self.plan.steps[later].target

    def _within_budget(self, more: int) -> None:
        most = self.limits.max_evictions
        if most is not None and self.record.evictions + more > most:
            gang = f", of which a gang of {more} would be more than is left" if more > 1 else ""
            raise PlanLeft(f"the budget of {most} evictions is used up{gang}")

    async def _evict(self, step: Step, target: str) -> None:
        """Until the API has accepted the eviction, or the pod is gone (then it was accepted, or somebody else's)."""
        who = Who(step.pod, *split(step))
        end = time.monotonic() + self.limits.refusal_s
        wait_s = FIRST_WAIT_S
        while True:
            pod = await pod_of(self.client, step)
            if pod is None or pod.metadata.deletionTimestamp:
                return
            if why := forbidden(pod.metadata):
                raise PlanLeft(f"pod {step.name} must not be moved: {why}")
            try:
                if target:
                    self.record.marked[step.pod] = (who.namespace, who.name)
                    self.save()
                    await mark_target(self.client, who, target)
                await evict(self.client, who)
                return
            except ApiError as error:
                if SEVERAL_BUDGETS in str(error):
                    raise PlanLeft(f"pod {step.name} is evicted by nobody: it has {SEVERAL_BUDGETS}") from error
                if error.status not in (404, 409, TOO_MANY):
                    raise
                if self._is_stopping or time.monotonic() > end:
                    raise PlanLeft(
                        f"a disruption budget refused the eviction of {step.name} for {self.limits.refusal_s:g} s: {error}"
                    ) from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _until_gone(self, step: Step) -> None:
        limit_s = self.limits.settle_s + await grace_s(self.client, step)
        end = time.monotonic() + limit_s
        while await pod_of(self.client, step) is not None:
            if time.monotonic() > end:
                raise PlanLeft(f"pod {step.name} was evicted but did not end within {limit_s:g} s")
            await asyncio.sleep(POLL_S)
        if self.record.marked.pop(step.pod, None):
            self.save()

    async def _replacements(self, group: Sequence[int]) -> None:
        """Find the pods that came for those evicted and steer each to its target; the gates of a gang's go together.

        One that has been on its target is not looked for again, whatever became of it since. Those that a later step
        places are only awaited: until then there is no room where they belong, and they would go elsewhere.
        """
        steps = {i: self.plan.steps[i] for i in group if self.record.steps[i].state != State.DONE}
        wanted = {i: target for i, step in steps.items() if (target := step.target or self._target_later(step))}
        end, looks = time.monotonic() + self.limits.settle_s, Looks()
        while wanted:
            there: Peers = {}
            found = {i: pod for i in wanted if (pod := await self._find(i, there)) is not None}
            coming = {i: pod for i, pod in found.items() if steps[i].target and not pod.spec.nodeName}
            for i, pod in coming.items():
                await self._nominate(pod, wanted[i])
            if len(found) == len(wanted):
                for pod in coming.values():
                    await self._lift(pod)
            for i, pod in found.items():
                if pod.spec.nodeName:
                    self._bound(self.record.steps[i], pod, pod.spec.nodeName, wanted.pop(i))
            if found.keys() >= wanted.keys() and not any(steps[i].target for i in wanted):
                return
            if time.monotonic() > end:
                late = next((i for i in wanted if i not in found), min(wanted))
                what = "was not bound" if late in found else "did not appear"
                raise PlanLeft(
                    f"the replacement of {steps[late].name} {what} within {self.limits.settle_s:g} s of the eviction"
                )
            await looks.pause({pod.metadata.uid: pod.spec.nodeName for pod in found.values()})

    async def _peers(self, template: Template, there: Peers) -> list[objects.Pod]:
        """Pods of a template, listed once for all who ask in the same look."""
        if template not in there:
            there[template] = await peers(self.client, template)
        return there[template]

    async def _find(self, i: int, there: Peers) -> objects.Pod | None:
        """The replacement of step ``i``: one of its template that is neither old nor another step's."""
        entry = self.record.steps[i]
        others = {other.replacement for j, other in enumerate(self.record.steps) if j != i and other.replacement}
        candidates = [
            pod
            for pod in await self._peers(entry.template, there)
            if pod.metadata.uid not in entry.known and pod.metadata.uid not in others
        ]
        if not candidates:
            return None
        chosen = next((p for p in candidates if p.metadata.uid == entry.replacement), candidates[0])
        if chosen.metadata.uid != entry.replacement:
            entry.replacement = chosen.metadata.uid
            entry.replacement_name = f"{chosen.metadata.namespace}/{chosen.metadata.name}"
            self.save()
        return chosen

    def _bound(self, entry: StepRecord, pod: objects.Pod, node: str, target: str) -> None:
        entry.actual = node
        self.record.nominated.pop(pod.metadata.uid, None)
        if node != target:
            raise PlanLeft(f"pod {pod.metadata.namespace}/{pod.metadata.name} went to {node}, not to {target}")

    # ── pending pods ──────────────────────────────────────────────────────────────────────────

    async def _place(self, group: Sequence[int]) -> None:
        """Nominate all, then lift their gates, then see all bound: gangs start whole."""
        waiting: dict[int, objects.Pod] = {}
        for i in group:
            step = self.plan.steps[i]
            if self.record.steps[i].state == State.DONE:
                continue
            pod = await self._coming(i)
            if pod is None:
                continue
            if not pod.spec.nodeName:
                await require_room(self.client, [pod], step.target)
                self._put(i, State.STARTED)
                await self._nominate(pod, step.target, step.devices)
            waiting[i] = pod
        for pod in waiting.values():
            if not pod.spec.nodeName:
                await self._lift(pod)
        for i in group:
            if self.record.steps[i].state != State.DONE:
                await self._until_bound(i)

    async def _coming(self, i: int) -> objects.Pod | None:
        """Whom step ``i`` places: the pod itself, or the replacement of one that was evicted before, once that is there."""
        step = self.plan.steps[i]
        if step.pod in self._evicted:
            return await self._find(self._evicted[step.pod], {})
        pod = await pod_of(self.client, step)
        if pod is None:
            raise PlanLeft(f"pod {step.name} is gone")
        return pod

    async def _until_bound(self, i: int) -> None:
        step, entry = self.plan.steps[i], self.record.steps[i]
        end, looks = time.monotonic() + self.limits.settle_s, Looks()
        while True:
            pod = await self._coming(i)
            if pod is not None and pod.spec.nodeName:
                self._bound(entry, pod, pod.spec.nodeName, step.target)
                self._done(i, f"{pod.metadata.namespace}/{pod.metadata.name} is on {entry.actual}")
                return
            if pod is not None and step.pod in self._evicted:
                await self._nominate(pod, step.target)
                await self._lift(pod)
            if time.monotonic() > end:
                raise PlanLeft(
                    f"pod {step.name} was nominated to {step.target} but not bound in {self.limits.settle_s:g} s"
                )
            await looks.pause(pod and pod.metadata.uid)

    async def _reserve(self, node: str, first: int) -> None:
        """Nominate pending pods that are to come to ``node`` before step ``first`` makes room: a nomination holds it for them.

        One for which more has to leave waits while others still come in between: they would find no room beside it.
        """
        steps = self.plan.steps
        for pod, i in self._later.items():
            evicted = self._evicted.get(pod)
            has_left = evicted is None or self.record.steps[evicted].state == State.DONE
            if steps[i].target != node or i < first or not has_left:
                continue
            last = max(j for j in range(first, i) if steps[j].source == node)
            if any(steps[j].target == node for j in range(first, last)):
                continue
            found = await self._coming(i)
            if found is not None and not found.spec.nodeName:
                await self._nominate(found, node, steps[i].devices)

    async def _nominate(self, pod: objects.Pod, node: str, devices: str = "") -> None:
        """Write our nomination, once; a pod that is gone or bound by now is seen at the next look."""
        meta = pod.metadata
        if (
            self.record.nominated.get(meta.uid) == (meta.namespace, meta.name, node)
            and pod.status.nominatedNodeName == node
        ):
            return
        self.record.nominated[meta.uid] = (meta.namespace, meta.name, node)
        self.save()
        who = Who(meta.uid, meta.namespace, meta.name)
        await _unless_gone(partial(nominate, self.client, who, node, self.client.server_s(), devices))

    async def _lift(self, pod: objects.Pod) -> None:
        if any(gate.get("name") == GATE for gate in pod.spec.schedulingGates or ()):
            who = Who(pod.metadata.uid, pod.metadata.namespace, pod.metadata.name)
            await _unless_gone(partial(lift, self.client, who))

    # ── giving up ─────────────────────────────────────────────────────────────────────────────

    async def abandon(self) -> None:
        """Give the plan up, if it has not ended, and take back what it holds and has not used.

        Raises
        ------
        ApiError : the API is away; calling again goes on.
        """
        has_ended = self.record.outcome != PlanState.RUNNING
        await self._give_back(self.record.outcome if has_ended else PlanState.ABANDONED)

    async def _give_back(self, outcome: PlanState) -> None:
        """Take back cordons of nodes that it did not empty, nominations and marks.

        The outcome is written first, so that whoever resumes gives back the rest and nothing else.
        """
        self.record.outcome = outcome
        self.save()
        for node in list(self.record.cordoned):
            opened = await self._patiently(partial(open_again, self.client, node, self.record.id))
            self.record.cordoned.remove(node)
            self.save()
            self.say(-1, f"{node} is open again" if opened else f"{node} is no longer this plan's to open")
        for uid, (namespace, name, node) in list(self.record.nominated.items()):
            who = Who(uid, namespace, name)
            await self._patiently(partial(clear, self.client, who, node))
            # no pod stays behind our gate for a plan that is over
            await self._patiently(partial(_unless_gone, partial(lift, self.client, who)))
            del self.record.nominated[uid]
            self.save()
        for uid, (namespace, name) in list(self.record.marked.items()):
            unmark = partial(mark_target, self.client, Who(uid, namespace, name), None)
            await self._patiently(partial(_unless_gone, unmark))
            del self.record.marked[uid]
            self.save()
