"""The gRPC service ``Plans``: ask, follow, fetch, apply; see ``proto/ullage/v1/plans.proto``.

One plan is made at a time, one is applied at a time, each in a process of its own; applied only if the settings allow it. Plans
live in memory, the last ones only; what was applied has its record on disk, under the name that the plan has here, and goes
on from there after a restart. No two plans have one name, whoever made them when.
Errors: ``INVALID_ARGUMENT`` the question makes no sense, ``NOT_FOUND`` no such plan, ``RESOURCE_EXHAUSTED`` another plan is
made or applied, ``PERMISSION_DENIED`` applying is off, ``UNAVAILABLE`` another replica leads or the API is away.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # the library has no types
import msgspec

from placement.errors import ConfigError, PlacementError
from placement.planning.foresight import DAYS, QUANTILE
from placement.planning.make import KINDS, PROGRESS_UNITS, PlanningError, Request, SaleShape
from placement.planning.plans import Action, Plan
from placement.planning.snapshots import KIND, VERSION, SnapshotFile
from scheduler._pb import plans_pb2 as pb
from scheduler._pb import plans_pb2_grpc
from scheduler.clocks import calm_s
from scheduler.engine import Engine
from scheduler.errors import ApiError, RecordError
from scheduler.planning.adherence import AS_PLANNED, Adherence
from scheduler.planning.record import SUFFIX, Retention, recorded
from scheduler.planning.worker import Ahead, ApplyWorker, Ended, Happened, Order, PlanWorker, Progress, Worker, check
from scheduler.slices import by_slices

log = logging.getLogger(__name__)

KEPT, KEPT_STEPS = 32, 100_000
"""So many plans are kept, and steps of them, which take 400 bytes each; the last plan whatever it has."""
NAME = re.compile(r"plan-[0-9a-z-]+")
"""Of a plan; the name of its record's file begins with it."""
MIN_DAYS, MAX_DAYS = 0.01, 400.0
"""Of history, as on the command line."""
LOOK_S = 0.5
"""Between looks whether this replica still leads while it applies a plan."""
Context = Any
"""``grpc.aio.ServicerContext``; the library has no types."""


class PlansService(plans_pb2_grpc.PlansServicer):  # type: ignore[misc]  # generated code has no types
    """``ended`` gives the last planned pods of live batches, oldest first."""

    def __init__(self, engine: Engine, ended: Callable[[], Iterable[Adherence]]) -> None:
        self.engine = engine
        self.ended = ended
        self.plans: OrderedDict[str, Plan] = OrderedDict()
        self._running: dict[str, PlanWorker] = {}
        self._is_applying = False
        self._check_turn = asyncio.Lock()
        """One at a time: each is a process that holds the whole cluster."""

    # ── planning ──────────────────────────────────────────────────────────────────────────────

    async def Make(self, request: pb.MakePlanRequest, context: Context) -> AsyncIterator[pb.MakePlanEvent]:
        """Plan; see the proto."""
        await self._serving(context)
        if self._running:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "another plan is being made; wait, or Finish it")
        try:
            asked, ahead = self._request(request), self._ahead(request)
        except ConfigError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        name = f"plan-{self.engine.next_id()}"
        worker = self._running[name] = PlanWorker(asked, self.engine.settings.kube, ahead)
        ending, plan = "failed", None
        try:
            yield pb.MakePlanEvent(id=name)
            async for event in worker.events():
                if isinstance(event, Progress):
                    unit = PROGRESS_UNITS[asked.kind]
                    progress = pb.PlanProgress(value=event.value, bound=event.bound, unit=unit, seconds=event.time_s)
                    yield pb.MakePlanEvent(id=name, progress=progress)
                else:
                    ending, plan = event.ending.value, event
                    self._keep(name, plan)
        except ConfigError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ApiError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except PlanningError as error:
            log.error("plan failed", extra={"error": str(error)})
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        except (asyncio.CancelledError, GeneratorExit):
            ending = "cancelled"
            raise
        finally:
            self.engine.metrics.plans.labels(asked.kind, ending).inc()
            del self._running[name]
            await worker.close()
        if plan is not None:  # the next may be made while this one is read
            yield pb.MakePlanEvent(id=name, plan=await plan_message(name, plan))

    def _request(self, request: pb.MakePlanRequest) -> Request:
        kind = pb.PlanKind.Name(request.kind).removeprefix("PLAN_KIND_").lower() if request.kind in _KINDS else ""
        most_s = self.engine.settings.plan.max_time_s
        if kind not in KINDS:
            raise ConfigError(f"kind {request.kind} is no plan; set one of {', '.join(KINDS)}")
        if not 0 < request.time_seconds <= most_s:
            raise ConfigError(f"time_seconds {request.time_seconds:g} must be above 0 and at most {most_s:g}")
        if request.HasField("max_moves") and request.max_moves < 0:
            raise ConfigError(f"max_moves {request.max_moves} is negative; leave it out for no limit")
        unpriced = next((s.name for s in request.shapes if not s.HasField("usd_per_hour")), None)
        if unpriced is not None:
            raise ConfigError(f"shape {unpriced} has no usd_per_hour; give its price (0 for one that is owned)")
        shapes = tuple(
            SaleShape(
                s.name,
                dict(s.amounts),
                s.usd_per_hour,
                s.limit or None,
                s.spot,
                s.interruption_usd_per_hour,
                s.num_gpus,
                s.gpu_model,
                s.term_hours,
                s.pool,
            )
            for s in request.shapes
        )
        return Request(
            kind,
            SnapshotFile(KIND, VERSION, [], [], []),  # the worker reads the cluster
            request.time_seconds,
            request.seed,
            request.max_moves if request.HasField("max_moves") else None,
            request.usd_per_move,
            dict(request.usd_per_hour) or None,
            shapes,
            request.interruptions_per_hour,
            request.usd_per_interruption,
            request.usd_per_pod_interrupted,
            max_nodes=request.max_nodes if request.HasField("max_nodes") else None,
            hours_of_use=request.hours_of_use if request.HasField("hours_of_use") else None,
        )

    def _ahead(self, request: pb.MakePlanRequest) -> Ahead | None:
        given = [name for name in ("ahead_seconds", "quantile", "history_days") if request.HasField(name)]
        if given and request.kind != pb.PLAN_KIND_PURCHASE:
            raise ConfigError(f"{given[0]} is of a purchase; leave it out")
        if "ahead_seconds" not in given:
            if given:
                raise ConfigError(f"{given[0]} changes nothing without ahead_seconds; give both")
            return None
        quantile = request.quantile if "quantile" in given else QUANTILE
        days = request.history_days if "history_days" in given else DAYS
        usage = self.engine.settings.usage
        if not 0 < request.ahead_seconds < 10**10:
            raise ConfigError(f"ahead_seconds {request.ahead_seconds} is no span; give more than 0, or leave it out")
        if not 0 < quantile < 1:
            raise ConfigError(f"quantile {quantile:g} must be above 0 and below 1")
        if not MIN_DAYS <= days <= MAX_DAYS:
            raise ConfigError(f"history_days {days:g} must be {MIN_DAYS:g} to {MAX_DAYS:g}")
        if not usage.prometheus:
            raise ConfigError("ahead_seconds needs a history: set usage.prometheus, or leave it out")
        return Ahead(request.ahead_seconds, quantile, days, usage)

    def _keep(self, name: str, plan: Plan) -> None:
        self.plans[name] = plan
        while len(self.plans) > 1 and (
            len(self.plans) > KEPT or sum(len(kept.steps) for kept in self.plans.values()) > KEPT_STEPS
        ):
            self.plans.popitem(last=False)
        metrics = self.engine.metrics
        metrics.plan_value.labels(plan.kind).set(plan.value)
        if plan.bound is not None:
            metrics.plan_bound.labels(plan.kind).set(plan.bound)
            metrics.plan_gap.labels(plan.kind).set(plan.gap_share or 0.0)
        metrics.plan_moves.labels(plan.kind).set(plan.count(Action.MOVE) + plan.count(Action.EVICT))
        metrics.plan_time.labels(plan.kind).set(plan.time_s)
        if plan.kind == "batch":
            metrics.see_wishes(plan.kind, plan.details)

    async def Finish(self, request: pb.FinishPlanRequest, context: Context) -> pb.FinishPlanResponse:
        """Ask for the best so far."""
        worker = self._running.get(request.id)
        if worker is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no plan {request.id!r} is being made")
        else:
            worker.finish()
        return pb.FinishPlanResponse()

    async def Get(self, request: pb.GetPlanRequest, context: Context) -> pb.Plan:
        """A plan that was made."""
        return await plan_message(request.id, await self._plan(request.id, context))

    async def _plan(self, name: str, context: Context) -> Plan:
        plan = self.plans.get(name)
        if plan is None and NAME.fullmatch(name):
            try:
                record = await asyncio.to_thread(recorded, self._record_of(name))
                plan = None if record is None else record.to_plan
            except (ConfigError, RecordError) as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        if plan is None:
            kept = f"the last {KEPT} are (fewer where they are long), and those that were applied"
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no plan {name!r} is kept; {kept}")
        assert plan is not None, "abort() raises"
        return plan

    def _record_of(self, name: str) -> Path:
        return Path(self.engine.settings.plan.records) / f"{name}{SUFFIX}"

    async def _serving(self, context: Context) -> None:
        why = self.engine.why_not_serving()
        if why:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{why}; ask again, or another replica")

    # ── applying ──────────────────────────────────────────────────────────────────────────────

    async def Apply(self, request: pb.ApplyPlanRequest, context: Context) -> AsyncGenerator[pb.ApplyPlanEvent, None]:
        """Act on a plan; see the proto."""
        await self._serving(context)
        plan = await self._plan(request.id, context)
        settings = self.engine.settings.plan
        try:
            if not request.confirmed and not request.abandon:
                for problem in await self._wrong_with(plan):
                    yield pb.ApplyPlanEvent(message=f"would stop: {problem}")
                yield pb.ApplyPlanEvent(message="nothing was changed; set confirmed to do it", outcome="running")
                return
            if not settings.applies:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "plan.applies is off; plans are proposals here")
            if self._is_applying:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "another plan is being applied; wait for it")
            self._is_applying = True
            try:
                async with aclosing(
                    self._apply(request, plan)
                ) as events:  # its process has ended before another one begins
                    async for event in events:
                        yield event
            finally:
                self._is_applying = False
        except (ConfigError, RecordError) as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except PlacementError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{error}; the same call goes on")

    async def _wrong_with(self, plan: Plan) -> list[str]:
        async with self._check_turn:
            worker = Worker(check, msgspec.json.encode(plan), self.engine.settings.kube)
            try:
                found: list[str] = await worker.hear()
                return found
            finally:
                await worker.close()

    async def _apply(self, request: pb.ApplyPlanRequest, plan: Plan) -> AsyncGenerator[pb.ApplyPlanEvent, None]:
        settings = self.engine.settings
        where = self._record_of(request.id)
        retention = Retention(settings.plan.records_max_age_days, settings.plan.records_max_bytes)
        most = request.max_evictions if request.HasField("max_evictions") else None
        order = Order(msgspec.json.encode(plan), where, retention, calm_s(), most, request.abandon)
        worker = ApplyWorker(order, settings.kube)
        ended = None
        try:
            while ended is None:
                said = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        said = await worker.hear()
                if isinstance(said, Happened):
                    yield pb.ApplyPlanEvent(step=said.step, message=said.message, evictions=said.evictions)
                if isinstance(said, Ended):
                    ended = said
                elif why := self.engine.why_not_serving():
                    raise ApiError(f"interrupted: {why}")
        finally:
            await worker.stop()
        self.engine.metrics.plan_applied.labels(plan.kind, str(ended.outcome)).inc()
        yield pb.ApplyPlanEvent(outcome=str(ended.outcome), reason=ended.reason, evictions=ended.evictions)

    # ── adherence ─────────────────────────────────────────────────────────────────────────────

    async def ListAdherence(self, request: pb.ListAdherenceRequest, _context: Context) -> pb.ListAdherenceResponse:
        """The last planned pods of live batches that ended."""
        found = [a for a in self.ended() if not request.differs or a.reason != AS_PLANNED]
        response = pb.ListAdherenceResponse()
        async for one in by_slices(found):
            response.pods.add(**asdict(one))
        return response


_KINDS = pb.PlanKind.values()


async def plan_message(name: str, plan: Plan) -> pb.Plan:
    """A plan on the wire; what is not known stays absent."""
    message = pb.Plan(
        id=name,
        kind=pb.PlanKind.Value(f"PLAN_KIND_{plan.kind.upper()}"),
        ending=pb.PlanEnding.Value(f"PLAN_ENDING_{plan.ending.value.upper()}"),
        unit=plan.unit,
        value=plan.value,
        bound=plan.bound,
        gap_share=plan.gap_share,
        usd_per_hour=plan.usd_per_hour,
        payback_seconds=plan.payback_s,
        seconds=plan.time_s,
        details=plan.details,
        reasons=plan.reasons,
    )
    async for s in by_slices(plan.steps):
        message.steps.add(
            action=s.action.value,
            pod_uid=s.pod,
            name=s.name,
            source=s.source,
            target=s.target,
            devices=s.devices,
            gang=s.gang,
        )
    return message
