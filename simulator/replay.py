"""The loop: a trace's events, in virtual time, through the very object that decides live.

Each pod goes through ``Strategy.decide`` on the ledger; nothing here chooses. What surrounds a decision live is
simulated: the pending queue (:mod:`simulator.pending`), preemption, nodes that come, go and fail, a fleet that grows, and
the delivery that loses quality on the way. Pods of one gang start together or not at all (:mod:`simulator.gangs`).

Not simulated: image pulls, kubelet start-up, and the latency of schedulers and planners; a decision or a batch takes no
virtual time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import ceil, inf
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from placement.errors import PlacementError
from placement.knowledge import Knowledge, Workload
from placement.log import DECISION, Asked, Event, EventLog
from placement.nodes import NodeSpec
from placement.planning.batch_problems import batch_plan, batch_problem
from placement.planning.batches import at_once, place_batch
from placement.planning.cluster import Cluster
from placement.planning.gathering import Gathering, Terms
from placement.planning.plans import Deadline, Step, WorkClock
from placement.pods import Pod, PodSpec
from placement.rejections import main_reason
from placement.state import ClusterState, Resident, device_indices, devices_mask
from placement.strategy import Decision, Strategy
from simulator.accounts import check_ledger
from simulator.delivery import DELIVERIES, Courier, Delivery
from simulator.fleet import Elastic
from simulator.gangs import INCOMPLETE, NO_ROOM, Gangs, Unit
from simulator.output import Progress, untold
from simulator.pending import NEVER, Pending
from simulator.planning.buying import autoscaler
from simulator.preemption import choose_victims
from simulator.spare import without_room
from simulator.timeline import Timeline

if TYPE_CHECKING:
    from simulator.traces.trace import NodeEvent, Trace

DRAWS = 4096
GIVE_UP_S = 86_400
"""A replay that runs until everything has ended stops when nobody has run for so long after the last recorded event."""

NAMED = 20
"""So many pods that found no place are named."""

# Order of events within one second: what frees room comes before what takes it.
_END, _NODE, _SPOT, _IDLE, _RETRY, _SCAN, _WINDOW, _POLICY = range(8)


class Policy(Protocol):
    """Acts on the running cluster at intervals of virtual time: consolidation, descheduling."""

    @property
    def every_s(self) -> int:
        """Seconds between two acts."""

    def act(self, replay: Replay) -> None:
        """Look at the cluster, and change it through :meth:`Replay.migrate` and :meth:`Replay.retire`."""


@dataclass(frozen=True)
class Interruptions:
    """Spot nodes taken back at random: a Poisson process per node."""

    per_node_hour: float = 0.0
    return_s: int = 0
    """On a fixed fleet, after how long an equal node is back; 0 = never."""


@dataclass(frozen=True)
class ReplayOptions:
    """Everything about a replay besides the trace and the strategy."""

    seed: int = 0
    delivery: Delivery = DELIVERIES["decide"]
    retries: bool = True
    """Pods that fit nowhere wait and are tried again; False drops them (the FGD paper's protocol)."""
    departures: bool = True
    elastic: Elastic | None = None
    """None = the trace's own nodes."""
    warmup_s: int = 0
    """Metrics start this long after the first arrival."""
    end_s: int = NEVER
    """Stop here; NEVER = when the last event has happened or, with pods that never end, the last arrival."""
    preemption: bool = True
    spot: Interruptions = Interruptions()
    knowledge: Knowledge | None = None
    """What is known from the start; None = nothing, and the replay learns from the pods it has seen."""
    learn_from: int = 64
    """Learn when so many pods have arrived, and at each doubling; only where ``knowledge`` is None."""
    backend: str = "auto"
    log: bool = True
    """Record every decision; placements are always recorded."""
    samples: int = 400
    """Points of the time series."""
    checks: bool = True
    """Compare the ledger with its residents at the end (nothing lost, nothing counted twice)."""
    policies: tuple[Policy, ...] = ()
    """What acts on running pods and nodes at intervals; policies may keep records, so give each replay its own."""


@dataclass(frozen=True)
class Outcome:
    """What happened in one replay. Times in seconds, arrays one entry per pod of the trace."""

    strategy: str
    strategy_digest: str
    knowledge_digest: str
    trace: str
    seed: int
    delivery: str
    num_pods: int
    num_placed: int
    """Pods placed at least once."""
    unplaced: dict[str, int]
    """Pods never placed, by reason."""
    unplaced_pods: tuple[str, ...]
    """The first :data:`NAMED` of them, by name."""
    pending_s: np.ndarray
    """Time from arrival to first placement, −1 for never."""
    node_of: np.ndarray
    """Index of the first node's name in ``node_names``, −1 for never."""
    node_names: tuple[str, ...]
    num_preemptions: int
    num_evictions: int
    """Pods that lost their node: to preemption, failure, interruption, removal."""
    lost_pod_s: int
    """Pod-seconds that such pods had run and must repeat."""
    timeline: Timeline
    num_decisions: int
    log: EventLog
    wall_s: float = 0.0
    cpu_s: float = 0.0
    loop_cpu_s: float = 0.0
    """Between the first event and the last."""


class _Ending(NamedTuple):
    """A pod's lifetime is over, unless it has moved since."""

    pod: int
    generation: int


class _Idle(NamedTuple):
    """A node may go, unless it has held a pod since."""

    node: str
    emptied: int
    """Which time it is that the node became empty."""


class _Spot(NamedTuple):
    """A spot node is taken back, unless it has gone since."""

    node: NodeSpec
    stay: int
    """Which of the stays of nodes this one is."""


class Replay:
    """One trace, one strategy, one set of options: equal ones give equal outcomes. All times are the trace's seconds."""

    def __init__(self, trace: Trace, strategy: Strategy, options: ReplayOptions | None = None) -> None:
        self.trace = trace
        self.strategy = strategy
        self.options = options or ReplayOptions()
        self.state = ClusterState(events=EventLog(), backend=self.options.backend)
        self.state.learn(self.options.knowledge or Knowledge.neutral())  # the log's first event
        self._learns = bool(self.options.knowledge is None and strategy.needs)
        self._learn_at = self.options.learn_from
        self._leaving = False
        self.snapshot = self.state.snapshot()
        self._courier = None if self.options.delivery.is_exact else Courier(self.options.delivery, strategy)
        self.rng = np.random.default_rng([self.options.seed, 0x5EED])
        self.node_rng = np.random.default_rng([self.options.seed, 0x5207])
        self.scaler = None if self.options.elastic is None else autoscaler(self.options.elastic)
        self._draws: list[int] = []
        self._queue: list[tuple[int, int, int, object]] = []
        self._order = count()
        self._pending = Pending()
        self._retry_at = NEVER
        self._emptied: dict[str, int] = {}
        self._stays: dict[str, int] = {}
        self._taken_away: set[str] = set()
        self._scan_at = NEVER
        gate = self.options.delivery.gate
        self._terms = gate or Terms()
        self._gathering = Gathering[int](self._terms.window_s, self._terms.max_pods)
        self._window_at = NEVER
        self._rooms_tried = 0
        self._alone_s = NEVER
        self._in_vain: set[int] = set()
        self._buys_again_s: dict[Unit, int] = {}

    # ── the loop ──────────────────────────────────────────────────────────────────────────────

    def run(self, progress: Progress = untold) -> Outcome:
        """Replay to the end; see :class:`Outcome`. Once for each replay. ``progress`` hears of pods.

        Raises
        ------
        ConfigError : the strategy needs a part of knowledge that the options' lacks.
        """
        started, cpu_started = perf_counter(), process_time()
        self._begin()
        loop_started = process_time()
        queue, timeline = self._queue, self.timeline
        arrivals: list[int] = self.trace.pods.arrival_s.tolist()
        num, i, end_s = len(arrivals), 0, self.end_s
        is_gated = self.options.delivery.gate is not None
        arrive: Callable[[int], None] = self._arrive_gated if is_gated else self._arrive
        handlers: dict[int, Callable[[Any], None]] = {
            _END: self._ended,
            _NODE: self._node_event,
            _SPOT: self._interrupt,
            _IDLE: self._idle,
            _RETRY: self._wake_up,
            _SCAN: self._scan,
            _WINDOW: self._look_behind_the_gate,
            _POLICY: self._act,
        }
        if self.gangs and not is_gated:
            arrive = self._arrive_in_gangs(arrive)
        while True:
            arrival = arrivals[i] if i < num else None
            if queue and (arrival is None or queue[0][0] <= arrival):
                time_s, kind, _, subject = heapq.heappop(queue)
                if end_s != NEVER and time_s > end_s:
                    break
                if arrival is None and end_s == NEVER and self._is_over(time_s, kind, subject):
                    break
                self.time_s = time_s
                if time_s >= timeline.next_s:
                    timeline.advance(time_s)
                handlers[kind](subject)
            elif arrival is not None and (end_s == NEVER or arrival <= end_s):
                self.time_s = arrival
                if arrival >= timeline.next_s:
                    timeline.advance(arrival)
                arrive(i)
                i += 1
                if i == self._learn_at and self._learns:
                    self._learn(i)
                if not i & 1023:
                    progress(i, num)
            else:
                break
        progress(i, num)
        if end_s != NEVER:
            self.time_s = max(self.time_s, end_s)
        loop_cpu_s = process_time() - loop_started
        outcome = self._finish(i)
        return replace(
            outcome, wall_s=perf_counter() - started, cpu_s=process_time() - cpu_started, loop_cpu_s=loop_cpu_s
        )

    def _begin(self) -> None:
        trace, options = self.trace, self.options
        num = len(trace.pods.arrival_s)
        self.specs = [trace.specs[c] for c in trace.pods.spec.tolist()]
        self.uids: list[str] = list(trace.pods.name)
        arrival, departure = trace.pods.arrival_s, trace.pods.departure_s
        lasts = (departure >= 0) & options.departures
        self.lifetimes: list[int] = np.where(lasts, departure - arrival, NEVER).tolist()
        self.first_placed_s: list[int] = [NEVER] * num
        self.node_of: list[int] = [NEVER] * num
        self.placed_s: list[int] = [NEVER] * num
        self.pod_of = {uid: i for i, uid in enumerate(self.uids)}
        self.gangs = Gangs(trace.pods.gang)
        self.generation = [0] * num
        self.has_ended = bytearray(num)
        self.node_names: list[str] = []
        self.node_index: dict[str, int] = {}
        self.failed: dict[int, str] = {}
        self._reasons: dict[PodSpec, str] = {}  # as of each class's first failure
        self.num_decisions = self.num_preemptions = self.num_evictions = self.lost_pod_s = 0
        self.time_s, last_s = (int(arrival[0]), int(arrival[-1])) if num else (0, 0)
        self.end_s: int = options.end_s
        if self.end_s == NEVER and not lasts.all():
            self.end_s = last_s  # something never ends
        self.timeline: Timeline = Timeline(
            self.state,
            start_s=self.time_s + options.warmup_s,
            end_s=last_s if self.end_s == NEVER else self.end_s,
            samples=options.samples,
            specs=trace.specs,
            classes=trace.pods.spec,
            workload=Workload.of(trace.specs, np.bincount(trace.pods.spec, minlength=len(trace.specs)).tolist()),
        )
        for node in trace.nodes:
            self._node_up(node)
        for event in trace.failures:
            self._push(max(event.time_s, self.time_s), _NODE, event)  # what was before the first arrival stands then
        for policy in options.policies:
            self._push(self.time_s + policy.every_s, _POLICY, policy)

    def _is_over(self, time_s: int, kind: int, subject: object) -> bool:
        """After the last arrival: whether this event and all that are ahead leave everything as it is.

        So it is when nobody runs and nobody waits. Pods that wait can start only where a node changes: once nothing but
        policies and the autoscaler's scans are ahead and each has acted once more in vain, they never will. Where nodes
        still come and go by themselves, they are given :data:`GIVE_UP_S`.
        """
        if self.state.residents or self._gathering.since:
            self._alone_s = NEVER
            self._in_vain.clear()
            return False
        if not self._pending:
            return True
        if self._alone_s == NEVER:
            self._alone_s = time_s
        queued = [(kind, subject), *((k, s) for _, k, _, s in self._queue)]
        ahead = [(k, s) for k, s in queued if not self._is_stale(s)]
        if all(k in (_POLICY, _SCAN) for k, _ in ahead):
            over = {id(s) for _, s in ahead} <= self._in_vain
            self._in_vain.add(id(subject))
            return over
        self._in_vain.clear()
        if any(k == _NODE and not isinstance(s, NodeSpec) for k, s in ahead):
            self._alone_s = time_s
        return time_s - self._alone_s > GIVE_UP_S

    def _is_stale(self, subject: object) -> bool:
        """Whether an event does nothing any more: its pod has left that place, or its node has gone."""
        if isinstance(subject, _Ending):
            return self.generation[subject.pod] != subject.generation
        if isinstance(subject, _Spot):
            return subject.node.name not in self.state.row_of or self._stays[subject.node.name] != subject.stay
        return False

    def _push(self, time_s: int, kind: int, subject: object) -> None:
        heapq.heappush(self._queue, (time_s, kind, next(self._order), subject))

    def _act(self, policy: Policy) -> None:
        """A policy's time has come."""
        policy.act(self)
        self._push(self.time_s + policy.every_s, _POLICY, policy)

    # ── pods ──────────────────────────────────────────────────────────────────────────────────

    def _more_draws(self) -> list[int]:
        self._draws = self.rng.integers(0, 1 << 62, DRAWS).tolist()
        return self._draws

    def _arrive(self, pod: int) -> None:
        self.timeline.num_arrived = pod + 1
        self._enter(pod, self.specs[pod])

    def _enter(self, pod: int, unit: Unit) -> None:
        """Wait behind others of the class, or be tried."""
        if not (self._pending.join_behind(unit, pod) or self._attempt(pod, unit)):
            self._wait(pod, unit)

    def _arrive_in_gangs(self, alone: Callable[[int], None]) -> Callable[[int], None]:
        """Pods of gangs wait for each other; all others arrive as ever."""
        gang_of = self.gangs.of

        def arrive(pod: int) -> None:
            if gang_of[pod] < 0:
                alone(pod)
                return
            self.timeline.num_arrived = pod + 1
            if members := self.gangs.join(pod):
                self._enter(members[0], tuple(self.specs[member] for member in members))

        return arrive

    # ── behind the gate (as :mod:`scheduler.planning.nominator`) ──────────────────────────────

    def _arrive_gated(self, pod: int) -> None:
        self.timeline.num_arrived = pod + 1
        if self.gangs.of[pod] >= 0:
            self.gangs.join(pod)
        self._gather(pod)

    def _gather(self, pod: int) -> None:
        """A gated pod waits to be planned."""
        self._gathering.join(pod, self.time_s)
        self._look_at(self._gathering.closes_s([pod]))

    def _look_at(self, at: float) -> None:
        if at != inf and (self._window_at == NEVER or at < self._window_at):
            self._window_at = max(ceil(at), self.time_s)
            self._push(self._window_at, _WINDOW, None)

    def _look_behind_the_gate(self, _: object) -> None:
        """Let go who has waited for too long, plan a batch if it is closed, and see when to look next."""
        if self.time_s != self._window_at:
            return
        self._window_at = NEVER
        gathering = self._gathering
        for pod in [pod for pod, since_s in gathering.since.items() if self.time_s > since_s + self._deadline_s(pod)]:
            self._let_go(pod)
        if self.time_s >= gathering.closes_s(self._waiting_behind_gate()):
            units: dict[int, list[int]] = {}
            for pod in gathering.since:
                units.setdefault(self._gang_behind_gate(pod, ~pod), []).append(pod)
            self._rooms_tried = self._pending.rooms
            chosen = gathering.chosen(units.values(), lambda pod: self.specs[pod].priority, self._is_whole, self.time_s)
            if chosen:
                self._plan_together(chosen)
        self._look_at(gathering.closes_s(self._waiting_behind_gate()))
        late = (since_s + self._deadline_s(pod) for pod, since_s in gathering.since.items())
        self._look_at(min(late, default=inf) + 1)

    def _gang_behind_gate(self, pod: int, alone: int = NEVER) -> int:
        """The gang with which a pod is planned; of one that has run, the others count as members that run."""
        gang = self.gangs.of[pod]
        return gang if gang >= 0 and self.first_placed_s[pod] < 0 else alone

    def _is_whole(self, members: Sequence[int]) -> bool:
        return self._gang_behind_gate(members[0]) < 0 or self.gangs.is_whole(members[0])

    def _deadline_s(self, pod: int) -> float:
        is_alone = self._gang_behind_gate(pod) < 0
        return self._terms.gate_deadline_s if is_alone else self._terms.gang_deadline_s

    def _waiting_behind_gate(self) -> list[int]:
        """Those for whom another batch may do something: who had no place in one has none before room has come."""
        gathering, has_changed = self._gathering, self._pending.rooms != self._rooms_tried
        return [pod for pod in gathering.since if has_changed or not gathering.is_in_vain(pod)]

    def _let_go(self, pod: int) -> None:
        """A gate goes without a plan: the pod goes the ordinary way, alone."""
        self._gathering.leave(pod)
        self.gangs.let_go(pod)
        self._enter(pod, self.specs[pod])

    def with_gang(self, pod: int) -> PodSpec:
        """The class of a pod that waits, with its gang if it still has to start together with others."""
        gang, spec = self._gang_behind_gate(pod), self.specs[pod]
        return spec if gang < 0 else replace(spec, gang=f"trace/{gang}", gang_size=len(self.gangs.with_pod(pod)))

    def _plan_together(self, pods: list[int]) -> None:
        """One batch: place whom the plan has a place for; the others wait for the next, or are let go if it never covers
        them."""
        waiting = tuple(Pod(self.uids[pod], self.uids[pod], self.with_gang(pod)) for pod in pods)
        held: dict[int, tuple[int, int]] = {}
        try:
            problem = batch_problem(Cluster(self.state, waiting), fills=True)
        except PlacementError:  # no nodes; live it is logged
            pass
        else:
            covered = {pod.uid for members in problem.pods for pod in members}
            for pod in pods:
                if self.uids[pod] not in covered:
                    self._let_go(pod)
            found = at_once(problem.batch)
            if not found.is_final:
                deadline = Deadline(self._terms.time_s, WorkClock())
                found = place_batch(problem.batch, deadline, seed=self.options.seed, start=found.placed)
            steps = batch_plan(problem, found, time_s=0.0).steps
            held = self._hold(steps)
            if len(held) < len(steps):
                self._rooms_tried = NEVER  # there may be other devices for the others
        for pod in held:
            self._gathering.leave(pod)
        self._gathering.tried(pods, held, self.time_s)
        # What is held for pods of the plan goes to none that leaves it.
        astray = [pod for pod in pods if pod in held and not self._place_at(pod, self.specs[pod], *held[pod])]
        for pod in astray:
            self.gangs.let_go(pod)
            self._enter(pod, self.specs[pod])
        for pod in () if self.options.retries else [pod for pod in pods if pod in self._gathering.since]:
            self._let_go(pod)

    def _hold(self, steps: Sequence[Step]) -> dict[int, tuple[int, int]]:
        """Planned pods → row and devices (as bits), gangs whole; without those whose devices went to pods that were let go
        since the plan was begun."""
        units: dict[int, list[tuple[int, int, int]]] = {}
        for step in steps:
            pod, row = self.pod_of[step.pod], self.state.row_of[step.target]
            units.setdefault(self._gang_behind_gate(pod, ~pod), []).append((pod, row, devices_mask(step.devices)))
        taken: Counter[tuple[int, int]] = Counter()  # thousandths by row and device
        held: dict[int, tuple[int, int]] = {}
        for members in units.values():
            asked: Counter[tuple[int, int]] = Counter()
            for pod, row, devices in members:
                if (gpu := self.specs[pod].gpu) is not None:
                    asked.update({(row, device): gpu.milli for device in device_indices(devices)})
            if all(taken[at] + milli <= self.state.gpu_free[at] for at, milli in asked.items()):
                taken += asked
                held |= {pod: (row, devices) for pod, row, devices in members}
        return held

    def _place_at(self, pod: int, spec: PodSpec, row: int, devices: int = 0) -> bool:
        """Place a pod on one node if every rule allows it there, as kube-scheduler checks a nominated node; on the
        ``devices`` (as bits) of its plan, if it has any."""
        only = np.zeros(self.state.num_rows, np.bool_)
        only[row] = True
        decision = self.strategy.decide(self.snapshot, spec, only, 0)
        self.num_decisions += 1
        if decision.row < 0:
            return False
        if self.options.log:
            self._tell(pod, decision, Asked(decision.strategy, spec, 0, (decision.node,)))
        self._place(pod, spec, decision.row, decision.node, devices or decision.devices)
        return True

    def migrate(self, uid: str, row: int, *, restart_s: int, checkpoint_s: int) -> bool:
        """Evict a running pod and start it again on the node of ``row``; False, and nothing lost, where it cannot go.

        The pod repeats what it did since its last checkpoint, ``checkpoint_s`` ago at most, and takes ``restart_s`` to
        start; both are counted as lost and lengthen its stay.
        """
        pod = self.pod_of[uid]
        home = self.state.residents[uid]
        lifetime, started = self.lifetimes[pod], self.placed_s[pod]
        lost = self._uproot(pod, restart_s, checkpoint_s)
        if self._place_at(pod, home.spec, row):
            self._count_eviction(lost)
            self._room(home.row)
            return True
        self.lifetimes[pod] = max(lifetime - (self.time_s - started), 0) if lifetime >= 0 else lifetime
        self._place(pod, home.spec, home.row, self.state.names[home.row], home.devices)
        self.placed_s[pod] = started
        self.lifetimes[pod] = lifetime
        return False

    def evict(self, uid: str, *, restart_s: int, checkpoint_s: int) -> bool:
        """Evict a pod and leave its replacement to the scheduler, at the cost that :meth:`migrate` states; False where it
        does not run, as when the replacement of another has preempted it."""
        resident = self.state.residents.get(uid)
        if resident is None:
            return False
        pod = self.pod_of[uid]
        self._count_eviction(self._uproot(pod, restart_s, checkpoint_s))
        self._room(resident.row)
        self._come_again(pod)
        return True

    def _come_again(self, pod: int) -> None:
        """The replacement of an evicted pod is gated as the pod was."""
        if self.options.delivery.gate is not None:
            self._gather(pod)
        else:
            self._enter(pod, self.specs[pod])

    def _uproot(self, pod: int, restart_s: int, checkpoint_s: int) -> int:
        """Take a running pod off its node; returns the seconds by which that lengthens its stay."""
        lifetime, ran_s = self.lifetimes[pod], self.time_s - self.placed_s[pod]
        lost_s = min(ran_s, checkpoint_s) + restart_s
        self._release(pod)
        if lifetime >= 0:
            self.lifetimes[pod] = max(lifetime - ran_s, 0) + lost_s
        return lost_s

    def _count_eviction(self, lost_s: int) -> None:
        self.num_evictions += 1
        self.lost_pod_s += lost_s

    def _attempt(self, pod: int, unit: Unit) -> bool:
        """Try a pod, or the gang that it is the first of."""
        return self._try(pod, unit) if isinstance(unit, PodSpec) else self._try_together(self.gangs.with_pod(pod))

    def _ask(self, pod: int, spec: PodSpec) -> Decision:
        """What the strategy, as delivered, says; noted in the log."""
        draws = self._draws or self._more_draws()
        draw = draws.pop()
        self.num_decisions += 1
        if self._courier is None:
            decision = self.strategy.decide(self.snapshot, spec, None, draw)
        else:
            decision = self._courier.choose(self.snapshot, spec, draw)
        if self.options.log:
            self._tell(pod, decision, Asked(decision.strategy, spec, draw, None))
        return decision

    def _tell(self, pod: int, decision: Decision, asked: Asked) -> None:
        """Note a decision in the log."""
        event = Event(self.time_s, DECISION, self.uids[pod], decision.node, decision.devices, asked)
        self.state.log.append(event)

    def _try(self, pod: int, spec: PodSpec) -> bool:
        """Ask the strategy; place the pod if it finds a node."""
        decision = self._ask(pod, spec)
        if decision.row < 0:
            return self._preempt(pod, spec)
        self._place(pod, spec, decision.row, decision.node, decision.devices)
        return True

    def _try_together(self, members: list[int]) -> bool:
        """Ask for each pod of a gang in turn, earlier ones assumed; confirm all of them, or forget all."""
        state, timeline, time_s = self.state, self.timeline, self.time_s
        assumed: list[tuple[int, Decision]] = []
        for pod in members:
            spec = self.specs[pod]
            decision = self._ask(pod, spec)
            if decision.row < 0:
                for earlier, found in reversed(assumed):
                    state.forget(self.uids[earlier], time_s=time_s)
                    timeline.released(self.specs[earlier], found.row, time_s)
                return False
            state.assume(self.uids[pod], spec, decision.node, decision.devices, time_s=time_s)
            timeline.placed(spec, decision.row, time_s)
            assumed.append((pod, decision))
        for pod, decision in assumed:
            state.confirm(self.uids[pod], time_s=time_s)
            self._started(pod, decision.node)
        return True

    def _place(self, pod: int, spec: PodSpec, row: int, node: str, devices: int) -> None:
        time_s = self.time_s
        self.state.bind(self.uids[pod], spec, node, devices, time_s=time_s)
        self.timeline.placed(spec, row, time_s)
        self._started(pod, node)

    def _started(self, pod: int, node: str) -> None:
        time_s = self.time_s
        if self.first_placed_s[pod] < 0:
            self.first_placed_s[pod] = time_s
            self.node_of[pod] = self.node_index[node]
        self.placed_s[pod] = time_s
        lifetime = self.lifetimes[pod]
        if lifetime >= 0:
            self._push(time_s + lifetime, _END, _Ending(pod, self.generation[pod]))

    def _ended(self, ending: _Ending) -> None:
        pod = ending.pod
        if self._is_stale(ending):
            return
        row = self._release(pod).row
        self.has_ended[pod] = 1
        self._room(row)
        if self._learns and not self._leaving:
            self._leaving = True
            if self._learn_at > self.options.learn_from:  # what was learned before did not know it
                self._learn(self.timeline.num_arrived)

    def _release(self, pod: int) -> Resident:
        resident = self.state.release(self.uids[pod], time_s=self.time_s)
        self.generation[pod] += 1
        self.timeline.released(resident.spec, resident.row, self.time_s)
        return resident

    def _wait(self, pod: int, unit: Unit) -> None:
        if not self.options.retries:
            reason = self._reason(unit)
            for member in self._pods_of(unit, pod):
                if self.first_placed_s[member] < 0:  # who ran and lost his node has had a place
                    self.failed[member] = reason
            return
        self._pending.join(unit, pod, self.time_s)
        if self.scaler is not None and self._scan_at == NEVER:
            self._scan_at = self.time_s + self.scaler.settings.scan_s
            self._push(self._scan_at, _SCAN, None)

    def _room(self, row: int) -> None:
        """Room appeared: an emptied node may go, and waiting pods may be tried when their back-off allows."""
        self._may_go(row)
        self.wake()

    def _may_go(self, row: int) -> None:
        """A node of an elastic fleet goes when it stays empty from now on."""
        if self.scaler is not None and not self.state.residents_on[row]:
            name = self.state.names[row]
            self._emptied[name] = emptied = next(self._order)
            self._push(self.time_s + self.scaler.settings.idle_s, _IDLE, _Idle(name, emptied))

    def wake(self) -> None:
        """Something changed that may make room: who waits is tried as soon as his back-off allows."""
        self._pending.rooms += 1
        self._await_backoff()
        if self._gathering.since:
            self._gathering.skip(self.time_s)
            self._look_at(self._gathering.closes_s(self._gathering.since))

    def _await_backoff(self) -> None:
        """Try again as soon as the first class may that has not been tried since something changed."""
        soonest = self._pending.soonest_s()
        if soonest == NEVER:
            return
        at = max(soonest, self.time_s)
        if self._retry_at == NEVER or at < self._retry_at:
            self._retry_at = at
            self._push(at, _RETRY, None)

    def _wake_up(self, _: object) -> None:
        if self.time_s == self._retry_at:  # else an earlier one has taken its place
            self._retry_at = NEVER
            self._retry()

    def _retry(self) -> None:
        """Try every waiting class that may be tried."""
        for unit, waiting in self._pending.ready(self.time_s):
            while waiting.pods and self._attempt(waiting.pods[0], unit):
                waiting.leave()
            if waiting.pods:
                waiting.back_off(self.time_s, self._pending.rooms)
        self._await_backoff()

    def _preempt(self, pod: int, spec: PodSpec) -> bool:
        """Make room as kube-scheduler does, if lower priorities stand in the way."""
        if not self.options.preemption or not spec.preempts or not self.timeline.has_lower(spec.priority):
            return False
        plan = choose_victims(self.state, spec, offset=(self._draws or self._more_draws()).pop())
        if plan is None:
            return False
        self.num_preemptions += 1
        row = self.state.row_of[plan.node]
        for uid in plan.victims:
            self._evict(self.pod_of[uid])
        found = self._try(pod, spec)
        self._may_go(row)
        return found

    def _evict(self, pod: int) -> None:
        """A pod loses its node; its owner starts it again from nothing."""
        self._release(pod)
        self._requeue(pod)

    def _requeue(self, pod: int) -> None:
        self._count_eviction(self.time_s - self.placed_s[pod] if self.lifetimes[pod] >= 0 else 0)
        if self.options.delivery.gate is not None:
            self._gather(pod)
        else:
            self._wait(pod, self.specs[pod])
        self.wake()

    def _pods_of(self, unit: Unit, pod: int) -> list[int]:
        """The pods that an entry of the queue stands for."""
        return [pod] if isinstance(unit, PodSpec) else self.gangs.with_pod(pod)

    def _queued(self) -> list[tuple[int, str]]:
        """Every pod that waits, and why."""
        found = [(pod, INCOMPLETE) for pod in self.gangs.incomplete(self.timeline.num_arrived)]
        found += [
            (pod, self._reason(self.specs[pod]) if self._gang_behind_gate(pod) < 0 else NO_ROOM)
            for pod in self._gated()
        ]
        for unit, waiting in self._pending:
            reason = self._reason(unit)
            found += [(pod, reason) for entry in waiting.pods for pod in self._pods_of(unit, entry)]
        return found

    def _reason(self, spec: Unit) -> str:
        if not isinstance(spec, PodSpec):
            return NO_ROOM
        reason = self._reasons.get(spec)
        if reason is None:
            reason = "" if self.scaler is None else self.scaler.refusal(spec)
            reason = self._reasons[spec] = reason or main_reason(self.state.snapshot(), self.strategy, spec)
        return reason

    def _learn(self, num_seen: int) -> None:
        """New knowledge from the pods that are here now, running or waiting; never from those to come.

        What is here weighs each class by how long its pods stay: the demand that a fleet in steady state carries.
        Counting arrivals instead cost 0.7–1.6 points of GPUs under churn.
        """
        here = np.frombuffer(self.has_ended, np.bool_)[:num_seen] == 0
        counts = np.bincount(self.trace.pods.spec[:num_seen][here], minlength=len(self.trace.specs))
        workload = Workload.of(self.trace.specs, counts.tolist(), leaving=self._leaving)
        nodes = [node for node in self.state.nodes if node is not None]
        prices = None
        if "prices" in self.strategy.needs:
            from placement.prices import device_prices, has_devices

            if has_devices(workload, nodes):
                prices = device_prices(workload, nodes)
        self.state.learn(self.state.knowledge.but(workload=workload, prices=prices), time_s=self.time_s)
        self._learn_at = 2 * num_seen

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────

    def _node_up(self, node: NodeSpec) -> None:
        row = self.state.add_node(node, time_s=self.time_s)
        if node.name not in self.node_index:
            self.node_index[node.name] = len(self.node_names)
            self.node_names.append(node.name)
        self.timeline.node_up(node, self.time_s)
        self._stays[node.name] = stay = next(self._order)
        if node.spot and self.options.spot.per_node_hour > 0:
            wait_s = int(self.node_rng.exponential(3600 / self.options.spot.per_node_hour))
            self._push(self.time_s + wait_s, _SPOT, _Spot(node, stay))
        self._room(row)

    def retire(self, name: str) -> None:
        """A node goes; whatever still runs there is evicted and waits."""
        node = self.state.nodes[self.state.row_of[name]]
        assert node is not None, "a named node exists"
        evicted = self.state.remove_node(name, time_s=self.time_s)
        self.timeline.node_down(node, [r.spec for r in evicted], self.time_s)
        for resident in evicted:
            pod = self.pod_of[resident.uid]
            self.generation[pod] += 1
            self._requeue(pod)
        if self.scaler is not None and node.shape in self.scaler.alive:
            self.scaler.gone(node.shape)

    def _node_event(self, event: NodeSpec | NodeEvent) -> None:
        """A recorded change of the fleet, or a node that has booted."""
        if isinstance(event, NodeSpec):
            # else the trace has brought it back already, or took it while it was away
            if event.name not in self.state.row_of and event.name not in self._taken_away:
                self._node_up(event)
            return
        kind, name = event.kind, event.node
        alive = name in self.state.row_of
        if kind in ("fail", "remove", "drain", "spot"):
            self._taken_away.add(name)
            if alive:
                self.retire(name)
        elif kind in ("repair", "add"):
            self._taken_away.discard(name)
            node = None if alive else next((n for n in self.trace.nodes if n.name == name), None)
            if node is not None:
                self._node_up(node)

    def _interrupt(self, spot: _Spot) -> None:
        if self._is_stale(spot):
            return
        self.retire(spot.node.name)
        if self.options.spot.return_s and self.scaler is None:  # an elastic fleet buys what it misses
            self._push(self.time_s + self.options.spot.return_s, _NODE, spot.node)

    def _idle(self, idle: _Idle) -> None:
        row = self.state.row_of.get(idle.node)
        is_same = self._emptied.get(idle.node) == idle.emptied
        if row is not None and is_same and not self.state.residents_on[row]:
            self.retire(idle.node)
            self._buy_later()

    def _buy_later(self) -> None:
        """A node has stood empty until it went: gangs that wait are bought for once they have waited twice as long.

        What limits sell, or what holds them by their rules, may never be enough. Nodes of others go as well, so a gang that
        is put off is put off no further before it was bought for.
        """
        for unit, waiting in self._pending:
            if not isinstance(unit, PodSpec):
                oldest_s = int(self.trace.pods.arrival_s[waiting.pods[0]])
                self._buys_again_s.setdefault(unit, 2 * self.time_s - oldest_s)

    def _scan(self, _: object) -> None:
        assert self.scaler is not None, "only an elastic fleet is scanned"
        self._scan_at = NEVER
        later = {unit for unit, at_s in self._buys_again_s.items() if at_s > self.time_s}
        wanted = without_room(self._pending, self.snapshot, self.strategy, later)
        classes = sorted(
            wanted.items(), key=lambda item: (-item[0].priority, -max(item[0].amounts.values(), default=0))
        )
        orders = self.scaler.order(classes, self.time_s, self._came(self.scaler.settings))
        for node, ready_s in orders:
            self._push(ready_s, _NODE, node)
        for unit, _ in self._pending:
            if unit not in later:
                self._buys_again_s.pop(unit, None)
        if self._pending and (orders or self._queue or later):
            self._scan_at = self.time_s + self.scaler.settings.scan_s
            self._push(self._scan_at, _SCAN, None)

    def _came(self, settings: Elastic) -> list[tuple[PodSpec, int]]:
        """Classes that arrived within what the buyer looks back to, and how many of each."""
        if settings.buys != "foreseen":
            return []
        pods, num = self.trace.pods, self.timeline.num_arrived
        first = int(np.searchsorted(pods.arrival_s[:num], self.time_s - settings.foresees_s, side="right"))
        number = np.bincount(pods.spec[first:num], minlength=len(self.trace.specs))
        return [(self.trace.specs[c], int(number[c])) for c in np.flatnonzero(number)]

    def waiting(self) -> list[int]:
        """Pods that have arrived and have no place, by class and then oldest first; not those of gangs that are not complete."""
        waits = [pod for unit, waiting in self._pending for entry in waiting.pods for pod in self._pods_of(unit, entry)]
        return waits + self._gated()

    def _gated(self) -> list[int]:
        """Pods behind the gate, but for those of gangs that are not complete."""
        return [pod for pod in self._gathering.since if self._is_whole([pod])]

    # ── the end ───────────────────────────────────────────────────────────────────────────────

    def _finish(self, num_seen: int) -> Outcome:
        self.timeline.finish(self.time_s)
        unplaced: Counter[str] = Counter(self.failed.values())
        waiting = [(pod, reason) for pod, reason in self._queued() if self.first_placed_s[pod] < 0]
        unplaced.update(reason for _, reason in waiting)
        placed = np.array(self.first_placed_s, np.int64)
        if self.options.checks:
            self._check(num_seen)
        arrivals = self.trace.pods.arrival_s
        return Outcome(
            strategy=self.strategy.name,
            strategy_digest=self.strategy.digest,
            knowledge_digest=self.state.knowledge.digest,
            trace=self.trace.manifest.name,
            seed=self.options.seed,
            delivery=self.options.delivery.name,
            num_pods=num_seen,
            num_placed=int((placed >= 0).sum()),
            unplaced=dict(sorted(unplaced.items())),
            unplaced_pods=tuple(self.uids[p] for p in sorted({*self.failed, *(p for p, _ in waiting)})[:NAMED]),
            pending_s=np.where(placed >= 0, placed - arrivals, NEVER),
            node_of=np.array(self.node_of, np.int64),
            node_names=tuple(self.node_names),
            num_preemptions=self.num_preemptions,
            num_evictions=self.num_evictions,
            lost_pod_s=self.lost_pod_s,
            timeline=self.timeline,
            num_decisions=self.num_decisions,
            log=self.state.log,
        )

    def _check(self, num_seen: int) -> None:
        """Nothing lost, nothing counted twice: pods are in one place each, and the ledger is the sum of its residents."""
        where = Counter[str]()
        for pod in range(num_seen):
            where["failed" if pod in self.failed else "placed" if self.first_placed_s[pod] >= 0 else "waiting"] += 1
        waiting = [pod for pod, _ in self._queued()]
        assert len(waiting) == len(set(waiting)), "a pod waits twice"
        assert where["waiting"] == sum(self.first_placed_s[pod] < 0 for pod in waiting), "a pod was lost"
        assert not any(self.uids[pod] in self.state.residents for pod in waiting), "a pod both runs and waits"
        for members in self.gangs.all():
            started = {self.first_placed_s[pod] for pod in members if pod < num_seen}
            assert len(started) <= 1, "a gang did not start together"
        check_ledger(self.state)


__all__ = ["Interruptions", "Outcome", "Replay", "ReplayOptions"]
