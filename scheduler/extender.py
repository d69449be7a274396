"""The verbs that kube-scheduler calls, and the small pages around them.

Two stanzas are served. ``/v1/…`` is for all pods and fails *open*: whenever we cannot answer well (view not
complete, another replica leads, deadline passed), the answer changes nothing. ``/v1/gpu/…`` is for pods that ask
for GPU shares and fails *closed*: only we know which devices are free, so a guess could place two pods on one.

Modes, per pod: ``off`` and ``shadow`` answer neutrally; ``score`` passes what fits and ranks; ``decide`` answers
``filter`` with the one chosen node, which counts in the ledger from that moment.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from asyncio import sleep as rest
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from placement.errors import PlacementError
from placement.gangs import is_tried_whole
from placement.pods import PodSpec
from placement.resources import BoolArray, IntArray
from placement.strategy import MAX_PRIORITY, Decision
from scheduler import wire
from scheduler.api import Who
from scheduler.binder import Binder
from scheduler.engine import NO_DEVICE, NO_ROOM, NOT_CHOSEN, UNKNOWN_NODE, UNRECORDED, Answered, Engine
from scheduler.metrics import CONTENT_TYPE
from scheduler.server import Request, Response, problem
from scheduler.wire import Question

log = logging.getLogger(__name__)

PREFIX = "/v1"
GPU_PREFIX = "/v1/gpu"
NOT_SERVING = "not serving"
"""Outcome while the view is not complete or another replica leads: neutral, and the caller is to connect anew, for
kube-scheduler would stay with us, as long as its connection lasts, when the Service has long turned to the new leader."""

LATE = "late"
"""No outcome yet: there is no room or no devices, and the pod is asked about once more after what the watch brings in
:data:`LATE_S`. kube-scheduler asks within a millisecond of hearing who left; a pod that is refused evicts others where it can,
and is asked about again only when something else happens."""
LATE_S = 0.002

SILENT = ("off", "shadow")
"""Modes in which the stanza for all pods changes nothing."""

Verb = Callable[[Request], Response | Awaitable[Response]]
Observe = Callable[[float], None]
Outcome = tuple[bytes, str]
"""Body, and the word for the metric."""


@dataclass(slots=True)
class _Asker:
    """One verb call on its way."""

    verb: str
    arrived: float
    is_gpu: bool
    """Came through the stanza that fails closed."""
    has_waited: bool = False
    """For what the watch brings."""
    answered: float = 0.0
    """When the answer was ready (``time.perf_counter``)."""
    after: Callable[[], None] | None = None
    """What the decision leaves behind: done once its answer is on its way, before anything else is asked."""


async def _later(ask: Callable[[], Response | Awaitable[Response]]) -> Response:
    await rest(LATE_S)
    response = ask()
    assert isinstance(response, Response), "it waits once"
    return response


class Extender:
    """Routes requests to verbs. ``handle`` is what :class:`~scheduler.server.HttpServer` calls."""

    def __init__(self, engine: Engine, binder: Binder, *, version: str) -> None:
        self.engine = engine
        self.binder = binder
        self.version = version
        self.deadline_s = engine.settings.http.deadline_ms / 1000
        self._observed: dict[tuple[str, str], tuple[Observe, Observe]] = {}
        self._verbs: dict[str, Verb] = {}
        for prefix, is_gpu in ((PREFIX, False), (GPU_PREFIX, True)):
            self._verbs[f"{prefix}/filter"] = partial(self._question, "filter", is_gpu, self._filter)
            self._verbs[f"{prefix}/prioritize"] = partial(self._question, "prioritize", is_gpu, self._prioritize)
            self._verbs[f"{prefix}/preempt"] = partial(self._preempt, is_gpu)
            self._verbs[f"{prefix}/bind"] = self._bind
        self._pages: dict[str, Callable[[], Response]] = {
            "/healthz": lambda: Response(b"ok", content_type="text/plain"),
            "/livez": lambda: Response(b"ok", content_type="text/plain"),
            "/readyz": self._ready,
            "/version": self._version,
            "/metrics": lambda: Response(engine.metrics.expose(), content_type=CONTENT_TYPE),
        }

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Answer one request."""
        verb = self._verbs.get(request.path)
        if verb is not None:
            if request.method != "POST":
                return problem(405, f"{request.path} takes POST")
            return verb(request)
        return self.handle_page(request)

    def handle_page(self, request: Request) -> Response:
        """Probes and metrics alone, for the port without client certificates."""
        page = self._pages.get(request.path.partition("?")[0])
        if page is None:
            return problem(404, f"nothing here; verbs are {', '.join(self._verbs)}")
        if request.method != "GET":
            return problem(405, "this page takes GET")
        return page()

    # ── pages ─────────────────────────────────────────────────────────────────────────────────

    def _ready(self) -> Response:
        why = self.engine.why_not_serving()
        return Response(why.encode() or b"ok", 503 if why else 200, "text/plain")

    def _version(self) -> Response:
        engine = self.engine
        strategy = engine.in_force()
        return Response(
            json.dumps(
                {
                    "version": self.version,
                    "python": platform.python_version(),
                    "strategy": strategy.name,
                    "strategyDigest": strategy.digest,
                    "strategyConfigured": engine.strategy.name,
                    "knowledgeDigest": engine.state.knowledge.digest,
                    "mode": "off" if engine.modes.is_killed else engine.modes.default,
                }
            ).encode()
        )

    # ── filter and prioritize ─────────────────────────────────────────────────────────────────

    def _question(
        self,
        verb: str,
        is_gpu: bool,
        answer: Callable[[_Asker, Question, PodSpec], Outcome],
        request: Request,
        *,
        before: float = 0.0,
    ) -> Response | Awaitable[Response]:
        """Answer now, or later where the answer was :data:`LATE`; ``before`` is when that was asked for."""
        started = before or time.perf_counter()
        question = wire.read_question(request.body, self.engine.table)
        asker = _Asker(verb, request.arrived, is_gpu, has_waited=bool(before))
        try:
            body, outcome = self._guarded(asker, question, answer)
        except Exception as error:
            asker.after, outcome = None, "error"
            body = self._neutral(asker, question, self._failed(verb, question.head, error))
        if outcome == LATE:
            return _later(partial(self._question, verb, is_gpu, answer, request, before=started))
        asker.answered = time.perf_counter()
        after = partial(self._settle, asker, outcome, len(question.rows), started)
        return Response(body, after=after, closes=outcome == NOT_SERVING)

    def _about(self, verb: str, head: wire.Meta) -> dict[str, str]:
        """What a log line says of a question: the pod, and the decision that holds room for it, if one does."""
        held = self.engine.ledger.reservations.get(head.uid)
        return {"verb": verb, "pod": f"{head.namespace}/{head.name}"} | ({} if held is None else held.about)

    def _failed(self, verb: str, head: wire.Meta, error: Exception) -> str:
        """Log why a question gets a neutral answer, and say so in words for its caller."""
        about = self._about(verb, head)
        if isinstance(error, PlacementError):
            log.warning("answered neutrally", extra=about | {"error": str(error)})
            return str(error)
        log.error("defect in a verb", exc_info=error, extra=about)
        return "internal error"

    def _settle(self, asker: _Asker, outcome: str, num_nodes: int, started: float) -> None:
        """Everything about an answer that its reader need not wait for."""
        after, asker.after = asker.after, None  # it holds the asker: no cycle is left for the collector
        if after is not None:
            after()
        self._count_fall(outcome)
        see_nodes, see_duration = self._observers(asker.verb, outcome)
        see_nodes(num_nodes)
        see_duration(asker.answered - started)

    def _count_fall(self, outcome: str) -> None:
        if outcome in ("error", "deadline", NOT_SERVING):
            self.engine.metrics.fallback.labels(outcome).inc()

    def _observers(self, verb: str, outcome: str) -> tuple[Observe, Observe]:
        """Take a number of nodes and a duration; finding a metric by its labels costs more than using it."""
        found = self._observed.get((verb, outcome))
        if found is None:
            metrics = self.engine.metrics
            durations = metrics.request_duration.labels(verb, outcome)
            found = metrics.nodes_evaluated.labels(verb).observe, durations.observe
            self._observed[verb, outcome] = found
        return found

    def _guarded(
        self, asker: _Asker, question: Question, answer: Callable[[_Asker, Question, PodSpec], Outcome]
    ) -> Outcome:
        """Everything that makes an answer neutral before anything is decided."""
        engine = self.engine
        why = engine.why_not_serving()
        if why:
            return self._neutral(asker, question, why), NOT_SERVING
        mode = engine.mode_of(question.head.namespace)
        if mode == "off" and not asker.is_gpu:
            return self._neutral(asker, question, ""), "off"
        spec = self._spec(question)
        if time.perf_counter() - asker.arrived > self.deadline_s:
            return self._neutral(asker, question, "the internal deadline has passed"), "deadline"
        may_refuse = asker.verb == "filter" and (mode not in SILENT or asker.is_gpu)
        if may_refuse and not asker.has_waited and self._lacks_devices(question, spec):
            return b"", LATE
        return answer(asker, question, spec)

    def _lacks_devices(self, question: Question, spec: PodSpec) -> bool:
        """Whether no node asked about has devices for a pod that holds none."""
        if spec.gpu is None or question.head.uid in self.engine.ledger.reservations:
            return False
        return not self._at(self.engine.has_devices(spec), question.rows).any()

    def _neutral(self, asker: _Asker, question: Question, why: str) -> bytes:
        if asker.verb == "prioritize":
            return wire.neutral_priorities(question, self.engine.table)
        if asker.is_gpu:
            return wire.filter_error(f"ullage: {why}; GPU shares cannot be given out without it")
        return wire.filter_all(question)

    def _spec(self, question: Question) -> PodSpec:
        """The pod's class: as the watch decoded it, if that is the same version and depends on nothing else."""
        seen = self.engine.ledger.pods.get(question.head.uid)
        is_same = seen is not None and seen.version and str(seen.version) == question.head.resourceVersion
        if seen is not None and is_same and not seen.spec.unmodelled and not seen.spec.node_rules.volume_affinity:
            return seen.spec
        return self.engine.reader.spec(question.pod)

    def _filter(self, asker: _Asker, question: Question, spec: PodSpec) -> Outcome:
        engine, head = self.engine, question.head
        mode = engine.mode_of(head.namespace, spec)
        held = self._held(question)
        if held is not None:
            return held, "confirmed"
        if engine.ledger.is_gone(head.uid) and (mode == "decide" or asker.is_gpu):
            # 1.34 still asks, and would count the pod on a node of its own choice until its Binding fails. Nodes that are
            # left out without a word are those where evicting others would not help either
            return wire.filter_some(question, engine.table, np.zeros(len(question.rows), np.bool_)), "rejected"
        if engine.ledger.is_settled(head.uid):  # asked late, or of a resize in place, whose pod has its node (1.37)
            return wire.filter_all(question), mode
        if mode == "decide":
            return self._decide(asker, question, *engine.judged(spec, engine.candidates(question)))
        if mode == "shadow":
            judged, candidates = engine.judged(spec, engine.candidates(question))
            decided = engine.decide(head.uid, judged, candidates)
            asker.after = partial(self._record, asker, question, judged, candidates, decided, "shadow")
        if spec.gpu is None or (mode in SILENT and not asker.is_gpu):
            return wire.filter_all(question), mode
        reasons = self._device_reasons(spec, question.rows)
        _, lacking = reasons[-1]
        return wire.filter_some(question, engine.table, ~lacking, reasons), mode

    def _device_reasons(self, spec: PodSpec, rows: IntArray) -> tuple[tuple[str, BoolArray], ...]:
        """Why nodes asked about have no devices for a class, and where; the last holds wherever another one does."""
        lacking = ~self._at(self.engine.has_devices(spec), rows)
        hidden = self._at(self.engine.state.hides_devices(spec), rows)
        return (UNKNOWN_NODE, rows < 0), (UNRECORDED, hidden), (NO_DEVICE, lacking)

    def _held(self, question: Question) -> bytes | None:
        """The answer for a pod that holds a reservation: confirm it if it is what is asked, else end it.

        One that keeps room without the devices that the pod asks for, or whose devices were taken, is no answer.
        """
        engine, uid = self.engine, question.head.uid
        held = engine.ledger.reservations.get(uid)
        if held is None:
            return None
        asked = question.rows == engine.state.row_of.get(held.node, -2)
        if held.is_binding or (len(asked) == 1 and asked[0] and engine.ledger.keeps_devices(held)):
            return wire.filter_some(question, engine.table, asked, ((NOT_CHOSEN, ~asked),))
        engine.ledger.forget(uid, "asked again")
        return None

    def _decide(self, asker: _Asker, question: Question, spec: PodSpec, candidates: BoolArray) -> Outcome:
        engine, head, rows = self.engine, question.head, question.rows
        decided = engine.decide(head.uid, spec, candidates, is_last=asker.has_waited)
        decision = decided[0]
        if not decision.is_placed and not asker.has_waited:
            return b"", LATE
        asker.after = partial(self._leave, asker, question, spec, candidates, decided, "decide")
        if decision.is_placed and not engine.settings.name_losers:
            return wire.filter_one(question, engine.table, decision.row), "decided"
        if decision.is_placed:
            passes = rows == decision.row
            return wire.filter_some(question, engine.table, passes, ((NOT_CHOSEN, ~passes),)), "decided"
        nothing = np.zeros(len(rows), np.bool_)
        reasons = (*self._device_reasons(spec, rows), (NO_ROOM, ~nothing))
        return wire.filter_some(question, engine.table, nothing, reasons), "rejected"

    @staticmethod
    def _at(mask: BoolArray, rows: IntArray) -> BoolArray:
        """``mask[rows]``, False for unknown nodes."""
        if not len(mask):
            return np.zeros(len(rows), np.bool_)
        return mask[rows] & (rows >= 0)

    def _prioritize(self, asker: _Asker, question: Question, spec: PodSpec) -> Outcome:
        engine, head = self.engine, question.head
        mode = engine.mode_of(head.namespace)
        if mode in SILENT or engine.ledger.is_gone(head.uid):
            return wire.neutral_priorities(question, engine.table), mode
        held = engine.ledger.reservations.get(head.uid)
        if held is not None and (mode == "decide" or held.is_binding):
            chosen = np.zeros(engine.state.num_rows, np.int64)
            chosen[engine.state.row_of[held.node]] = MAX_PRIORITY  # a reservation ends with its node
            return wire.priorities(question, engine.table, chosen), "confirmed"
        engine.ledger.forget(head.uid, "asked again")
        candidates = engine.candidates(question)
        spec, candidates = engine.judged(spec, candidates)
        decided = engine.decide(head.uid, spec, candidates)
        marks = engine.marks(spec, candidates, decided[0])
        asker.after = partial(self._leave, asker, question, spec, candidates, decided, "score")
        return wire.priorities(question, engine.table, marks), "ranked"

    def _leave(
        self,
        asker: _Asker,
        question: Question,
        spec: PodSpec,
        candidates: BoolArray,
        decided: tuple[Decision, int],
        mode: str,
    ) -> None:
        """Record a decision and count its pod.

        Under ``score`` the likely winner is charged too, or equal pods in a burst would all be sent to one node; but for pods
        of groups, which kube-scheduler only tries.
        """
        decision, head, number = decided[0], question.head, self.engine.next_id()
        try:
            self._record(asker, question, spec, candidates, decided, mode, number)
        finally:
            if decision.is_placed and not is_tried_whole(spec):
                who, is_guess = Who(head.uid, head.namespace, head.name), mode == "score"
                self.engine.ledger.assume(
                    who, spec, decision.node, decision.devices, is_guess=is_guess, decision_id=number
                )

    def _record(
        self,
        asker: _Asker,
        question: Question,
        spec: PodSpec,
        candidates: BoolArray,
        decided: tuple[Decision, int],
        mode: str,
        number: str = "",
    ) -> None:
        decision, draw = decided
        head = question.head
        self.engine.record(
            Answered(
                decision_id=number or self.engine.next_id(),
                wall_s=time.time(),
                verb=asker.verb,
                mode=mode,
                uid=head.uid,
                name=head.name,
                namespace=head.namespace,
                spec=spec,
                decision=decision,
                draw=draw,
                candidates=candidates,
                num_candidates=len(question.rows),
                duration_s=asker.answered - asker.arrived,
                outcome="placed" if decision.is_placed else "rejected",
            )
        )

    # ── preempt and bind ──────────────────────────────────────────────────────────────────────

    def _preempt(self, is_gpu: bool, request: Request) -> Response:
        started = time.perf_counter()
        asked = wire.read_preemption(request.body)
        victims, outcome = asked.victims, "off"
        if is_gpu or self.engine.mode_of(asked.head.namespace) not in SILENT:
            try:
                why = self.engine.why_not_serving()
                if why:
                    outcome = NOT_SERVING
                    victims = () if is_gpu else victims
                elif self.engine.ledger.is_gone(asked.head.uid):
                    victims, outcome = (), "trimmed"  # nobody gives way to a pod that is gone
                else:
                    spec = self.engine.reader.spec(asked.pod)
                    keeps = spec.gpu is None or self.engine.ledger.is_settled(asked.head.uid)  # devices are not resized
                    victims = tuple(v for v in victims if keeps or self.engine.fits_without(spec, v.node, v.uids))
                    outcome = "trimmed"
            except Exception as error:
                self._failed("preempt", asked.head, error)
                outcome, victims = "error", () if is_gpu else asked.victims
        self._count_fall(outcome)
        self.engine.metrics.request_duration.labels("preempt", outcome).observe(time.perf_counter() - started)
        return Response(wire.preempt_answer(victims), closes=outcome == NOT_SERVING)

    async def _bind(self, request: Request) -> Response:
        started = time.perf_counter()
        binding = wire.read_binding(request.body)
        why = self.engine.why_not_serving()
        error = f"ullage: {why}" if why else await self.binder.bind(binding)
        outcome = "refused" if error else "bound"
        self.engine.metrics.request_duration.labels("bind", outcome).observe(time.perf_counter() - started)
        return Response(wire.bind_answer(error), closes=bool(why))
