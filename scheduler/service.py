"""The gRPC services: questions to the decider, decisions as they happen, usage samples in.

``Placement`` asks the same engine that answers kube-scheduler, on the same event loop, so it sees the same ledger;
it changes nothing. ``Telemetry`` fills a :class:`~scheduler.learning.telemetry.UsageStore`. Health and reflection are the
standard ones. Messages, calls at once, and memory are bounded by settings; errors have these codes:

* ``INVALID_ARGUMENT`` the bytes or the question make no sense (says why), ``NOT_FOUND`` a candidate node or a resource
  that does not exist;
* ``UNAVAILABLE`` the view is not complete, or another replica leads: ask again;
* ``RESOURCE_EXHAUSTED`` too many calls, or too large a message; ``DEADLINE_EXCEEDED`` the caller's own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc  # type: ignore[import-untyped]  # the library has no types
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped]  # nor has this
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from placement.errors import ConfigError, PlacementError, why
from placement.pods import GpuRequest, NodeRules, PodSpec
from placement.resources import CPU, DEVICE_MILLI, MEMORY, NOT_FEASIBLE, BoolArray
from placement.state import device_indices
from placement.strategy import Decision, Strategy
from scheduler._pb import placement_pb2 as pb
from scheduler._pb import placement_pb2_grpc, plans_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from scheduler.certificates import Files
from scheduler.engine import Answered, Engine
from scheduler.errors import ListenError
from scheduler.grpc_guard import Guard
from scheduler.learning.telemetry import Sample, SampleError, Subject, UsageStore
from scheduler.recorder import best_of, runner_up
from scheduler.settings import GrpcSettings
from scheduler.slices import by_slices

if TYPE_CHECKING:
    from scheduler.planning.service import PlansService

log = logging.getLogger(__name__)

FEED = 1000
"""Decisions that wait for a slow reader; beyond it they are missed, and counted."""
TURN = 256
"""Samples of one stream before others may run."""
MAX_CANDIDATES = 100_000
HEALTH_S = 0.5
"""Between looks whether what somebody watches has changed."""
KEEPALIVE_MS = 60_000
"""A caller from whom nothing came for so long is asked whether it is there, and given as long to answer."""
SERVICES = ("ullage.v1.Placement", "ullage.v1.Telemetry")
PLANS = "ullage.v1.Plans"

Answer = TypeVar("Answer")
Context = Any
"""``grpc.aio.ServicerContext``; the library has no types."""


class _Refused(Exception):
    """Ends a call with a status."""

    def __init__(self, code: Any, message: str) -> None:
        super().__init__(message)
        self.code = code


async def _answered(context: Context, work: Callable[[], Answer]) -> Answer:
    """``work()``, with every expected failure as a status and every defect as INTERNAL without details."""
    remaining_s = context.time_remaining()
    if remaining_s is not None and remaining_s <= 0:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline had passed before the work began")
    try:
        return work()
    except _Refused as error:
        await context.abort(error.code, str(error))
    except PlacementError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except Exception as error:
        log.error("defect in a gRPC call", exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the log")
    raise AssertionError("abort() raises")


class PlacementService(placement_pb2_grpc.PlacementServicer):  # type: ignore[misc]  # generated code has no types
    """See ``proto/ullage/v1/placement.proto``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._readers: set[_Feed] = set()
        engine.listeners.append(self._tell)

    # ── questions ─────────────────────────────────────────────────────────────────────────────

    async def Decide(self, request: pb.DecideRequest, context: Context) -> pb.DecideResponse:
        """Where a pod would go now."""

        def work() -> pb.DecideResponse:
            strategy, spec, candidates = self._question(request.question)
            decision = strategy.decide(self.engine.state.snapshot(), spec, candidates, _draw(request.draw))
            return pb.DecideResponse(decision=_decision(decision, strategy))

        return await _answered(context, work)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Scores and marks of every node where the pod may go."""

        def work() -> tuple[int, list[tuple[str, int, int]]]:
            strategy, spec, candidates = self._question(request.question)
            state = self.engine.state
            snapshot = state.snapshot()
            scores = strategy.scores(snapshot, spec, candidates)
            marks = strategy.priorities(snapshot, spec, candidates)
            rows = np.flatnonzero(scores > NOT_FEASIBLE).tolist()
            return state.version, [(state.names[row], int(scores[row]), int(marks[row])) for row in rows]

        version, found = await _answered(context, work)
        response = pb.ScoreResponse(version=version)
        async for node, score, priority in by_slices(found):
            response.nodes.add(node=node, score=score, priority=priority)
        return response

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Reasons, score parts, runner-up."""

        def work() -> pb.ExplainResponse:
            strategy, spec, candidates = self._question(request.question)
            return self._explain(strategy, spec, candidates, _draw(request.draw))

        return await _answered(context, work)

    def _explain(
        self, strategy: Strategy, spec: PodSpec, candidates: BoolArray | None, draw: int
    ) -> pb.ExplainResponse:
        state = self.engine.state
        decision = strategy.decide(state.snapshot(), spec, candidates, draw)
        best, standing = best_of(strategy, state, spec, candidates, decision)
        top = best.entries()
        rejected = [
            pb.Rejected(reason=reason, nodes=[state.names[row] for row in np.flatnonzero(mask).tolist()])
            for reason, mask in standing.masks().items()
        ]
        return pb.ExplainResponse(
            decision=_decision(decision, strategy),
            runner_up=runner_up(top, decision.node),
            top=[pb.ScoreParts(**entry) for entry in top],
            rejected=rejected,
        )

    def _question(self, question: pb.PodQuestion) -> tuple[Strategy, PodSpec, BoolArray | None]:
        why = self.engine.why_not_serving()
        if why:
            raise _Refused(grpc.StatusCode.UNAVAILABLE, f"{why}; ask again, or another replica")
        spec, state = self._spec(question), self.engine.state
        unknown = next((name for name in spec.amounts if state.lane(name) < 0), None)
        if unknown is not None:  # a ledger that learned every name would grow with each question
            raise _Refused(grpc.StatusCode.NOT_FOUND, f"no node offers {unknown!r}, and no pod has it")
        return self.engine.in_force(), spec, self._candidates(question)

    def _spec(self, question: pb.PodQuestion) -> PodSpec:
        kind = question.WhichOneof("pod")
        if kind == "pod_json":
            return self.engine.reader.spec(question.pod_json.encode())
        if kind == "plain":
            return plain_spec(question.plain)
        raise ConfigError("the question has no pod; set pod_json or plain")

    def _candidates(self, question: pb.PodQuestion) -> BoolArray | None:
        names = question.candidates
        if not names:
            return None
        if len(names) > MAX_CANDIDATES:
            raise ConfigError(
                f"{len(names)} candidates are more than {MAX_CANDIDATES}; leave them out to ask about all"
            )
        row_of = self.engine.state.row_of
        unknown = [name for name in names if name not in row_of]
        if unknown:
            raise _Refused(grpc.StatusCode.NOT_FOUND, f"{len(unknown)} candidates do not exist, like {unknown[0]!r}")
        return self.engine.mask(np.array([row_of[name] for name in names], np.int64))

    # ── decisions as they happen ──────────────────────────────────────────────────────────────

    def _tell(self, answered: Answered) -> None:
        for reader in self._readers:
            if not reader.namespace or reader.namespace == answered.namespace:
                reader.put(answered)

    async def WatchDecisions(
        self, request: pb.WatchDecisionsRequest, context: Context
    ) -> AsyncIterator[pb.DecisionEvent]:
        """Decisions from now on; ends when the caller goes."""
        feed = _Feed(request.namespace)
        self._readers.add(feed)
        try:
            await context.send_initial_metadata(())
            while True:
                answered, missed = await feed.get()
                yield self._event(answered, missed)
        finally:
            self._readers.discard(feed)

    def _event(self, answered: Answered, missed: int) -> pb.DecisionEvent:
        engine, decision = self.engine, answered.decision
        strategy = engine.strategy if decision.strategy == engine.strategy.digest else engine.fallback
        return pb.DecisionEvent(
            id=answered.decision_id,
            asked=_timestamp(answered.wall_s),
            pod_uid=answered.uid,
            pod_name=answered.name,
            namespace=answered.namespace,
            verb=answered.verb,
            mode=answered.mode,
            outcome=answered.outcome,
            decision=_decision(decision, strategy),
            candidates=answered.num_candidates,
            duration_seconds=answered.duration_s,
            missed=missed,
        )


class _Feed:
    """What waits for one reader."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._queue: asyncio.Queue[Answered] = asyncio.Queue(FEED)
        self._missed = 0

    def put(self, answered: Answered) -> None:
        try:
            self._queue.put_nowait(answered)
        except asyncio.QueueFull:
            self._missed += 1

    async def get(self) -> tuple[Answered, int]:
        answered = await self._queue.get()
        missed, self._missed = self._missed, 0
        return answered, missed


class TelemetryService(telemetry_pb2_grpc.TelemetryServicer):  # type: ignore[misc]  # generated code has no types
    """See ``proto/ullage/v1/telemetry.proto``."""

    def __init__(self, store: UsageStore) -> None:
        self.store = store

    async def Report(
        self, request_iterator: AsyncIterator[telemetry_pb2.UsageSample], context: Context
    ) -> telemetry_pb2.ReportSummary:
        """Take samples until the sender closes."""
        counts: dict[str, int] = {}
        number = 0
        async for message in request_iterator:
            outcome = await self._take(message)
            counts[outcome] = counts.get(outcome, 0) + 1
            number += 1
            if number % TURN == 0:
                await asyncio.sleep(0)
        accepted = counts.pop("accepted", 0)
        return telemetry_pb2.ReportSummary(accepted=accepted, refused=counts)

    async def _take(self, message: telemetry_pb2.UsageSample) -> str:
        now_s = self.store.clock()
        try:
            sample = sample_of(message, now_s)
            sample.check(now_s)
        except SampleError as error:
            log.debug("sample refused", extra={"error": str(error)})
            self.store.refuse("malformed")
            return "malformed"
        return await self.store.put(sample)


# ── translation ───────────────────────────────────────────────────────────────────────────────


def _draw(draw: int) -> int:
    if draw < 0:
        raise ConfigError(f"draw {draw} is negative; send 0 or more")
    return draw


def _decision(decision: Decision, strategy: Strategy) -> pb.Decision:
    return pb.Decision(
        node=decision.node,
        devices=device_indices(decision.devices),
        score=decision.score if decision.is_placed else 0,
        version=decision.version,
        strategy=strategy.name,
        strategy_digest=decision.strategy,
        knowledge_digest=decision.knowledge,
    )


def _timestamp(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(unix_s * 1e9))
    return stamp


def plain_spec(plain: pb.PlainPod) -> PodSpec:
    """A pod class from plain requests.

    Raises
    ------
    ConfigError : an amount is negative or too large, or the GPU request is not possible.
    """
    amounts = {CPU: plain.cpu_millicores, MEMORY: plain.memory_bytes, **dict(plain.extended)}
    gpu = None
    if plain.gpu_count or plain.gpu_milli:
        milli = plain.gpu_milli or DEVICE_MILLI
        gpu = GpuRequest(plain.gpu_count or 1, milli, tuple(plain.gpu_models))
    return PodSpec(
        tuple(sorted((name, int(amount)) for name, amount in amounts.items() if amount)),
        gpu=gpu,
        namespace=plain.namespace or "default",
        node_rules=NodeRules(node_selector=tuple(sorted(plain.node_selector.items()))),
    )


def sample_of(message: telemetry_pb2.UsageSample, now_s: float) -> Sample:
    """A sample from its message.

    Raises
    ------
    SampleError : it has no subject.
    """
    kind = message.WhichOneof("subject")
    if kind == "pod":
        subject = Subject("pod", message.pod.uid or f"{message.pod.namespace}/{message.pod.name}".strip("/"))
    elif kind == "node":
        subject = Subject("node", message.node.name)
    elif kind == "device":
        subject = Subject("device", message.device.node, str(message.device.index))
    else:
        raise SampleError("a sample has no subject; set pod, node or device")

    def measured(name: str) -> float | None:
        return float(getattr(message, name)) if message.HasField(name) else None

    unix_s = message.time.seconds + message.time.nanos / 1e9 if message.HasField("time") else now_s
    return Sample(
        subject,
        unix_s,
        measured("cpu_millicores"),
        measured("memory_bytes"),
        measured("gpu_share"),
        measured("gpu_memory_bytes"),
    )


# ── the server ────────────────────────────────────────────────────────────────────────────────


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated code has no types
    """What ``grpc.health.v1`` defines, of what ``serves`` says by name. (The library's own forgets who watches a service
    once another of its watchers leaves, and one that reads nothing keeps the news from all.)"""

    def __init__(self, serves: Mapping[str, Callable[[], bool]]) -> None:
        self.serves = serves

    def _status(self, name: str) -> Any:
        statuses, serves = health_pb2.HealthCheckResponse, self.serves.get(name)
        if serves is None:
            return statuses.SERVICE_UNKNOWN
        return statuses.SERVING if serves() else statuses.NOT_SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Whether a service serves now."""
        if request.service not in self.serves:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The same now and whenever it changes; ends when the caller goes."""
        said = None
        while True:
            if (status := self._status(request.service)) != said:
                said = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(HEALTH_S)


class GrpcServer:
    """All services (``plans`` where the solvers are installed), health and reflection on one port."""

    def __init__(self, settings: GrpcSettings, engine: Engine, plans: PlansService | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.plans = plans
        self.store = UsageStore(settings.max_samples, engine.metrics, time.time)
        self.port = 0
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        ListenError : the port is taken or may not be used.
        ConfigError : certificates cannot be used.
        """
        server = new_server(self.settings)
        placement_pb2_grpc.add_PlacementServicer_to_server(PlacementService(self.engine), server)
        telemetry_pb2_grpc.add_TelemetryServicer_to_server(TelemetryService(self.store), server)
        services: tuple[str, ...] = SERVICES
        if self.plans is not None:
            plans_pb2_grpc.add_PlansServicer_to_server(self.plans, server)
            services = (*SERVICES, PLANS)
        serves = dict.fromkeys(("", *services), lambda: not self.engine.why_not_serving())
        serves[SERVICES[1]] = lambda: True  # samples are taken from anybody, at any time
        health_pb2_grpc.add_HealthServicer_to_server(HealthService(serves), server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = listen(server, self.settings)
        self._server = server
        await server.start()
        log.info("gRPC listening", extra={"port": self.port, "tls": bool(self.settings.tls_cert)})

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, give running ones ``grace_s``, close."""
        if self._server is not None:
            await self._server.stop(grace_s)


def new_server(settings: GrpcSettings) -> Any:
    """A server without services, within the limits of the settings."""
    return grpc.aio.server(
        interceptors=[Guard(max(settings.max_calls // 2, 1))],
        maximum_concurrent_rpcs=settings.max_calls,
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_concurrent_streams", settings.max_calls),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # a caller whose machine died says no goodbye, and would hold its streams for two hours
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
            # otherwise whole messages come in of calls that nobody has taken yet; so 64 KiB of each do
            ("grpc.http2.bdp_probe", 0),
        ],
    )


def listen(server: Any, settings: GrpcSettings, section: str = "grpc") -> int:
    """Bind a server that has its services; the port in use.

    Raises
    ------
    ListenError : the port is taken or may not be used; ``section`` of the settings has it.
    ConfigError : certificates cannot be used.
    """
    host = f"[{settings.host.strip('[]')}]" if ":" in settings.host else settings.host
    address = f"{host}:{max(settings.port, 0)}"
    try:
        if settings.tls_cert:
            return int(server.add_secure_port(address, credentials(settings)))
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise ListenError(
            f"cannot listen on {address} for gRPC ({error}); stop what holds the port or set {section}.port"
        ) from error


def credentials(settings: GrpcSettings) -> Any:
    """Server credentials that follow their files.

    Raises
    ------
    ConfigError : a file cannot be read.
    """

    def read() -> Any:
        key, certificate = Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes()
        authority = Path(settings.client_ca).read_bytes() if settings.client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def renewed() -> Any:
        """New certificates if a file changed since the last look, else None; those that do not go together change nothing."""
        try:
            return read() if files.are_renewed() else None
        except OSError as error:
            log.warning("gRPC certificates cannot be read again", extra={"error": str(error)})
            return None

    try:
        files, first = Files(settings.tls_key, settings.tls_cert, settings.client_ca), read()
    except OSError as error:
        raise ConfigError(
            f"gRPC certificates: cannot be read ({why(error)}); check grpc.tls_cert, tls_key, client_ca"
        ) from error
    return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=bool(settings.client_ca))
