"""Tells Cluster Autoscaler which node group to grow (``--expander=grpc``); see ``proto/grpcplugin/expander.proto``.

It listens on a port of its own, with the certificate of the HTTP port: the autoscaler shows no certificate, which the other
services may demand. It asks nothing of the ledger and changes nothing, so any replica answers.

An empty answer keeps newer autoscalers from growing anything. So where there is no answer it is an error, after which the
autoscaler's next expander decides: ``FAILED_PRECONDITION`` a price is missing, ``INVALID_ARGUMENT`` the question makes no
sense, ``DEADLINE_EXCEEDED`` nothing was found in time, ``INTERNAL`` the worker died or has a defect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # the library has no types
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from placement.errors import ConfigError
from placement.planning.patterns import warm_up
from scheduler._pb import expander_pb2
from scheduler.metrics import Metrics
from scheduler.planning.expansion import Advice, Unpriced, advise
from scheduler.planning.prices import read_prices
from scheduler.planning.solver import GRACE_S, begin
from scheduler.service import Context, HealthService, listen, new_server
from scheduler.settings import GrpcSettings, Settings
from scheduler.workers import OwnProcess

log = logging.getLogger(__name__)

SERVICE = expander_pb2.DESCRIPTOR.services_by_name["Expander"].full_name
ANSWER_S = 4.0
"""The autoscaler waits 5 s."""
MAX_CALLS = 2
"""One autoscaler asks one question at a time, and each is in memory several times."""
MAX_MESSAGE_BYTES = 64 * 2**20
"""Every pod comes once for each group that would run it, of a few KB."""


class ExpanderServer:
    """The service on its port, and the process that thinks for it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        http, self._settings = settings.http, settings.expander
        self._grpc = GrpcSettings(
            port=settings.expander.port,
            host="::",
            tls_cert=http.tls_cert,
            tls_key=http.tls_key,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_calls=MAX_CALLS,
        )
        self.metrics = metrics
        self.port = 0
        self._process = OwnProcess(begin, False)
        self._hung_s = 0.0
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        ListenError : the port is taken or may not be used.
        ConfigError : certificates or the price book cannot be used.
        """
        read_prices(Path(self._settings.prices))
        server = new_server(self._grpc)
        answer = grpc.unary_unary_rpc_method_handler(self._best_options, bytes, bytes)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"BestOptions": answer}),))
        health_pb2_grpc.add_HealthServicer_to_server(HealthService(dict.fromkeys(("", SERVICE), lambda: True)), server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = listen(server, self._grpc, "expander")
        self._server = server
        self._begin_anew()
        await server.start()
        log.info("listening for Cluster Autoscaler", extra={"port": self.port, "tls": bool(self._grpc.tls_cert)})

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls, give running ones ``grace_s``, close."""
        if self._server is not None:
            await self._server.stop(grace_s)
        self._process.close()

    async def _best_options(self, question: bytes, context: Context) -> bytes:
        try:
            self._replace_if_hung()
            process = self._process
            async with asyncio.timeout(ANSWER_S):
                advice: Advice = await asyncio.shield(self._run(advise, question, self._settings.prices))
        except Unpriced as error:
            why = grpc.StatusCode.FAILED_PRECONDITION, "no price", str(error)
        except ConfigError as error:
            why = grpc.StatusCode.INVALID_ARGUMENT, "malformed", str(error)
        except TimeoutError:
            why = grpc.StatusCode.DEADLINE_EXCEEDED, "late", f"no answer was found in {ANSWER_S:g} s"
        except BrokenProcessPool:
            why = grpc.StatusCode.INTERNAL, "failed", "the process that plans died; a new one is started"
            if process is self._process:  # else a new one has begun, and others wait for it
                try:
                    self._begin_anew()
                except OSError as error:
                    why = *why[:2], f"the process that plans died, and no other can be started ({error.strerror})"
        except Exception as error:
            log.error("defect in an answer to Cluster Autoscaler", exc_info=error)
            why = grpc.StatusCode.INTERNAL, "failed", "internal error; see the log"
        else:
            self.metrics.expander_questions.labels("answered").inc()
            log.info("node group advised", extra={"groups": ",".join(advice.groups), "why": advice.words})
            return advice.answer
        code, outcome, message = why
        self.metrics.expander_questions.labels(outcome).inc()
        log.warning("no node group advised", extra={"outcome": outcome, "error": message})
        await context.abort(code, message)
        raise AssertionError("abort() raises")

    def _begin_anew(self) -> None:
        """A new process, which loads at once what it needs: that takes longer than an autoscaler waits."""
        self._process.close()
        self._process, self._hung_s = OwnProcess(begin, False), time.monotonic() + GRACE_S
        self._run(warm_up)

    def _replace_if_hung(self) -> None:
        now_s = time.monotonic()
        if not self._process.is_busy:
            self._hung_s = now_s + GRACE_S
        elif now_s > self._hung_s:
            self._begin_anew()

    def _run(self, work: Any, *words: Any) -> asyncio.Future[Any]:
        """``work(*words)`` in the process."""
        running = self._process.run(work, *words)
        running.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody else may look
        return running
