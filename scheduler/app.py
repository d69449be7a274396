"""The running extender: builds every part from settings, starts them in order, and stops them in reverse.

This is the one place where parts meet; each of them can be read and tested alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from placement.errors import ConfigError
from placement.state import ClusterState
from placement.strategies import strategy_named
from scheduler.admin import Admin
from scheduler.binder import Binder
from scheduler.engine import Engine
from scheduler.errors import ApiError
from scheduler.eventlog import DiskLog, NoLog
from scheduler.extender import Extender
from scheduler.informer import Informer, Reflector
from scheduler.kube import KubeClient
from scheduler.lead import Lead
from scheduler.learning.learner import Learner, read_workload
from scheduler.learning.lifetime_learner import LifetimeLearner
from scheduler.learning.predict_worker import WorkerProcess
from scheduler.learning.prometheus import Prometheus
from scheduler.learning.reclaimer import Reclaimer
from scheduler.learning.usage_learner import UsageLearner
from scheduler.lease import Election
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.planning.planner_process import PlannerProcess
from scheduler.quiet import Quiet
from scheduler.recorder import Recorder
from scheduler.server import HttpServer
from scheduler.settings import MODES, Settings
from scheduler.view import Reader, sinks
from scheduler.warmup import warm_up

if TYPE_CHECKING:
    from scheduler.planning.expander import ExpanderServer
    from scheduler.planning.service import PlansService
    from scheduler.service import GrpcServer

log = logging.getLogger(__name__)

TICK_S = 0.5
SYNC_PAUSE_S = 0.02


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("ullage")
    except PackageNotFoundError:
        return "0+unknown"


class App:
    """One replica. ``start`` returns when it listens; it becomes ready when the view is complete.

    ``quiet`` takes over the collector of garbage, if it may, once the view is complete and everything is compiled.
    """

    def __init__(self, settings: Settings, client: KubeClient, quiet: Quiet) -> None:
        self.settings = settings
        self.client = client
        self.metrics = Metrics()
        began, begins_unix_s = time.monotonic(), round(time.time())
        self.strategy = strategy_named(settings.strategy)
        events = DiskLog(settings.log, self.metrics, package_version(), quiet) if settings.log.folder else NoLog()
        self.events = events
        state = ClusterState(events=events)
        self.ledger = Ledger(state, lambda: time.monotonic() - began, self.metrics)
        self.reader = Reader()
        self.recorder = Recorder(settings.records, self.metrics, quiet) if settings.records.path else None
        self.engine = Engine(
            self.ledger,
            self.reader,
            self.strategy,
            settings,
            self.metrics,
            fallback=strategy_named(settings.fallback_strategy),
        )
        if self.recorder is not None:
            self.recorder.attach(self.engine)
        if isinstance(events, DiskLog):
            events.attach(state, [self.engine.strategy, self.engine.fallback], begins_unix_s=begins_unix_s)
        self.informer = Informer(
            [
                Reflector(s.kind, s.path, s, client, self.metrics, is_optional=s.is_optional)
                for s in sinks(self.ledger, self.engine.modes, self.reader)
            ]
        )
        self.ledger.is_complete = lambda: self.informer.is_synced
        self.election = Election(client, settings.lease) if settings.lease.enabled else None
        self.binder = Binder(self.engine, client)
        self.extender = Extender(self.engine, self.binder, version=package_version())
        self.learner = Learner(
            self.engine,
            settings.learn_every_s,
            lambda: self.informer.is_synced,
            read_workload(settings.knowledge) if settings.knowledge else None,
        )
        self.lifetimes = LifetimeLearner(
            self.engine,
            settings.lifetimes_every_s,
            lambda: self.informer.is_synced,
            model=settings.usage.model,
            max_workloads=settings.usage.max_workloads,
        )
        self.prometheus = Prometheus(settings.usage, self.metrics) if settings.usage.prometheus else None
        self.usage = UsageLearner(
            self.engine,
            settings.usage,
            lambda: self.informer.is_synced,
            prometheus=self.prometheus,
            asker=WorkerProcess(),
        )
        self.reclaimer = Reclaimer(self.engine, client, settings.reclaim, self.usage.current, time.time)
        self.http = HttpServer(settings.http, self.extender.handle, self.metrics, quiet)
        self.side_servers: list[HttpServer] = []
        self.grpc: GrpcServer | None = None
        self.expander: ExpanderServer | None = None
        self.planner = self._planner() if settings.plan.enabled else None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: asyncio.Future[None] | None = None
        self.quiet = quiet
        self._is_warm = False
        self.is_compiling = False
        """A thread is at work whose end nobody waits for once the service stops."""
        self.engine.is_synced = lambda: self._is_warm and self.informer.is_synced and self.learner.is_satisfied
        election = self.election
        self.lead = Lead(lambda: 1 if election is None else election.term, self.informer)
        self.lead.await_binds(settings.kube.bind_reach_s, lambda: bool(state.gpu_count.any()))
        self.engine.is_leading = lambda: self.lead.may_act
        self.engine.may_give_devices = lambda: self.lead.may_give_devices
        self.metrics.before_scrape(self._gauges)
        self.metrics.build.info({"version": package_version(), "strategy": self.strategy.name})

    # ── life ──────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Listen, and begin to follow the cluster.

        Raises
        ------
        PlacementError : a port is taken, TLS files are bad, the API cannot be reached at all, or a right is missing.
        """
        self._failure = asyncio.get_running_loop().create_future()
        await self.client.call("GET", "/version", timeout_s=10)
        await self._check_rights()
        await self.http.start()
        http = self.settings.http
        side = replace(http, tls_cert="", tls_key="", client_ca="")
        if http.health_port:
            await self._listen_beside(replace(side, port=http.health_port), self.extender.handle_page)
        if http.admin_port:
            await self._listen_beside(replace(side, port=http.admin_port, host="127.0.0.1"), Admin(self.engine).handle)
        if self.settings.grpc.port >= 0:
            from scheduler.service import GrpcServer  # a second of imports that few need

            self.grpc = GrpcServer(self.settings.grpc, self.engine, self._plans())
            await self.grpc.start()
            self.usage.store = self.grpc.store
            self.grpc.store.has_taker = True
        if self.settings.expander.port >= 0:
            self.expander = self._expander()
            await self.expander.start()
        self.informer.start()
        self._keep(self._warm_up())
        self._keep(self._tick())
        self._keep(self.binder.run())
        self._keep(self.learner.run())
        if self.lifetimes.is_needed:
            self._keep(self.lifetimes.run())
        if self.usage.has_source:
            self._keep(self.usage.run())
        if self.settings.reclaim.mode != "off":
            self._keep(self.reclaimer.run())
        if self.planner is not None:
            self._keep(self.planner.run())
        if self.election is not None:
            self._keep(self.election.run())
        log.info(
            "listening", extra={"port": self.http.port, "mode": self.settings.mode, "strategy": self.strategy.name}
        )

    def _planner(self) -> PlannerProcess:
        if find_spec("ortools") is None:
            raise ConfigError("plan.enabled = True needs the solvers; pip install 'ullage[plan]'")
        return PlannerProcess(self.engine, self.client.settings)

    def _plans(self) -> PlansService | None:
        """The service, where the solvers are installed."""
        if find_spec("ortools") is None:
            return None
        from scheduler.planning.service import PlansService

        return PlansService(self.engine, lambda: () if self.planner is None else tuple(self.planner.adherence))

    def _expander(self) -> ExpanderServer:
        if find_spec("ortools") is None:
            raise ConfigError(
                f"expander.port = {self.settings.expander.port} needs the solvers; pip install 'ullage[plan]'"
            )
        from scheduler.planning.expander import ExpanderServer

        return ExpanderServer(self.settings, self.metrics)

    async def _check_rights(self) -> None:
        """Fail at once where waiting would not help; anything else is retried by whoever lists. All are asked at once: an API
        server that answers none keeps the probes waiting for one time-out, not for ten."""
        asked = [r for r in self.informer.reflectors if not r.is_optional]
        calls = (self.client.call("GET", f"{r.path}?limit=1", timeout_s=30) for r in asked)
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, ApiError):
                if answer.status in (401, 403):
                    raise answer
            elif isinstance(answer, BaseException):
                raise answer

    def _compile(self) -> None:
        self.is_compiling = True
        try:
            warm_up((self.engine.strategy, self.engine.fallback))
        finally:
            self.is_compiling = False

    async def _warm_up(self) -> None:
        await asyncio.to_thread(self._compile)
        while not self.informer.is_synced:
            await asyncio.sleep(SYNC_PAUSE_S)
        self.quiet.calm()
        self._is_warm = True
        state = self.engine.state
        log.info("view complete", extra={"nodes": len(state.row_of), "pods": len(state.residents)})

    async def _listen_beside(self, http: Any, handler: Any) -> None:
        server = HttpServer(http, handler, self.metrics)
        await server.start()
        self.side_servers.append(server)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that ended by a defect ends the process: restarting is safe, a frozen view is not."""
        if task.cancelled() or self._failure is None or self._failure.done():
            return
        error = task.exception()
        if error is not None:
            self._failure.set_exception(error)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set or a part fails."""
        assert self._failure is not None, "start() comes first"
        waiting = asyncio.ensure_future(stop.wait())
        try:
            parts: list[asyncio.Future[Any]] = [waiting, self._failure]
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
        finally:
            waiting.cancel()

    async def stop(self) -> None:
        """Finish what is in progress, hand the lead over, close everything."""
        await self.http.stop()
        for server in self.side_servers:
            await server.stop(0)
        if self.grpc is not None:
            await self.grpc.stop()
        if self.expander is not None:
            await self.expander.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        is_done = await self.binder.drain()
        if self.election is not None and is_done:  # else the Lease expires, after they have
            await self.election.release()
        await self.informer.stop()
        self.usage.asker.close()
        if self.prometheus is not None:
            await self.prometheus.close()
        await self.client.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        self.events.close()
        if self._failure is not None and self._failure.done():
            self._failure.exception()

    def reload(self, settings: Settings) -> None:
        """Take over what may change while running: mode, exempt namespaces, ignored wishes."""
        self.engine.modes.switch(settings.mode)
        self.engine.exempt = frozenset(settings.exempt_namespaces)
        self.engine.settings = replace(
            self.engine.settings,
            exempt_namespaces=settings.exempt_namespaces,
            ignored_wishes=settings.ignored_wishes,
        )
        log.info("settings read again", extra={"mode": settings.mode})

    # ── the slow clock ────────────────────────────────────────────────────────────────────────

    async def _tick(self) -> None:
        """Leadership, dead parts, lag, garbage."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.metrics.loop_lag.set(max(0.0, time.monotonic() - before - TICK_S))
            self.informer.raise_dead()
            self.quiet.rest()
            await self.lead.follow()

    def _gauges(self) -> None:
        metrics, state, ledger = self.metrics, self.engine.state, self.ledger
        metrics.connections.set(sum(len(server.limits.connections) for server in (self.http, *self.side_servers)))
        metrics.is_leader.set(int(self.lead.term() > 0))
        metrics.cache_synced.set(int(self.informer.is_synced))
        for reflector in self.informer.reflectors:
            metrics.cache_age.labels(reflector.kind).set(reflector.age_s)
        metrics.cache_objects.labels("nodes").set(len(state.row_of))
        metrics.cache_objects.labels("pods").set(len(ledger.pods))
        metrics.reservations.set(len(ledger.reservations))
        metrics.devices_twice.set(ledger.devices_given_twice())
        oldest = min((r.since_s for r in ledger.reservations.values()), default=ledger.clock())
        metrics.reservation_age.set(ledger.clock() - oldest)
        in_force = "off" if self.engine.modes.is_killed else self.engine.modes.default
        for mode in MODES:
            metrics.mode.labels(mode).set(int(mode == in_force))
