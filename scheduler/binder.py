"""Makes decisions about GPU shares true: one Binding per pod, with the devices in an annotation.

kube-scheduler counts GPU shares in total only; which device a pod gets is ours to say, so pods that ask for shares
are bound here. The API server copies a Binding's annotations to the pod, so node and devices appear in one write.

A reservation of devices ends only when the API has shown what became of the pod. A POST whose answer was lost
leaves it in place (``is_binding``) until a read says; a timer alone never frees a device.

A Binding names the version of its pod that it was decided for, and the API server refuses it once the pod has changed.
kube-scheduler writes into the pod that it got no answer or, where it wrote just that before, what its next attempt met,
seconds later; another replica leads later still. So a Binding that comes even later, from a machine that was stopped with
it on its way, takes no device that was given away meanwhile.
"""

from __future__ import annotations

import asyncio
import logging

import numpy as np

from placement.errors import PlacementError
from placement.resources import DEVICES_ANNOTATION
from placement.state import devices_text
from scheduler.api import Api, Who, can_exist, pod_path
from scheduler.engine import Engine
from scheduler.errors import ApiError
from scheduler.ledger import Reservation, Seen
from scheduler.wire import Binding

log = logging.getLogger(__name__)

EARLIER = "a Binding sent before a restart may still take effect; try again"
LOOK_UPS_PER_TICK = 50
ABOUT_US = (401, 403, 408, 429)
"""Refusals below 500 that the next call would meet as well; all others are about one pod."""
TICK_S = 0.25
LATER_S = 5.0
"""Until reservations are looked up again once the API could not be asked."""


class Binder:
    """Binds pods and looks up reservations that nobody settled."""

    def __init__(self, engine: Engine, api: Api) -> None:
        self.engine = engine
        self.api = api
        self._in_flight: dict[str, asyncio.Task[str]] = {}

    async def bind(self, binding: Binding) -> str:
        """Bind a pod; the error for kube-scheduler, empty for success. Calling again for one UID is safe."""
        while running := self._in_flight.get(binding.uid):
            await asyncio.wait([running])
        task = self._in_flight[binding.uid] = asyncio.ensure_future(self._bind(binding))
        task.add_done_callback(lambda _: self._in_flight.pop(binding.uid))
        return await asyncio.shield(task)  # the POST goes on even if the caller hangs up

    async def _bind(self, binding: Binding, *, is_again: bool = False) -> str:
        """One attempt; a second one where the pod turns out to have changed since it was last seen."""
        try:
            if not can_exist(binding.namespace, binding.name):
                return self._count("gone", "ullage: no pod can have that name")
            seen = await self._pod(binding)
            if seen is None:
                return self._count("gone", "ullage: the pod is gone")
            if seen.node:
                return self._already(binding, seen)
            if (
                why := self.engine.why_not_serving()
            ):  # the lead may have gone while it was looked up, and devices with it
                return self._count("refused", f"ullage: {why}")
            if binding.node not in self.engine.state.row_of:
                return self._node_gone(binding)
            if seen.spec.gpu is not None and not self.engine.may_give_devices():
                return self._count("refused", f"ullage: {EARLIER}")
            held = self.engine.ledger.reservations.get(binding.uid)
            if held is not None and held.is_binding and held.node != binding.node:
                return self._count("failed", f"ullage: a Binding to {held.node} may still take effect; try again")
            reservation = self._reserve(binding, seen)
            if reservation is None:
                return self._count("no device", "ullage: the devices on this node are no longer free")
            return await self._post(binding, reservation, seen.version, is_again=is_again)
        except ApiError as error:
            return self._count("api", f"ullage: {error}")
        except PlacementError as error:
            return self._count("refused", f"ullage: {error}")

    def _count(self, outcome: str, error: str) -> str:
        self.engine.metrics.binds.labels(outcome).inc()
        return error

    async def _pod(self, binding: Binding) -> Seen | None:
        """The pod as last seen, or read now; None when that UID no longer exists."""
        seen = self.engine.ledger.pods.get(binding.uid)
        held = self.engine.ledger.reservations.get(binding.uid)
        if seen is not None and not (held is not None and held.is_binding):
            return seen
        return await self.look_up(binding.uid, binding.name, binding.namespace)

    def _already(self, binding: Binding, seen: Seen) -> str:
        if seen.node == binding.node:
            return self._count("repeated", "")
        return self._count("conflict", f"ullage: the pod is already bound to {seen.node}")

    def _node_gone(self, binding: Binding) -> str:
        """The API server would bind to a node that no longer exists, and nobody would ever start the pod."""
        self.engine.ledger.forget(binding.uid, "node gone")
        return self._count("no node", "ullage: the node is gone")

    def _reserve(self, binding: Binding, seen: Seen) -> Reservation | None:
        """The reservation on exactly this node, made now if the choice was not ours or its devices are no longer to be had."""
        engine = self.engine
        held = engine.ledger.reservations.get(binding.uid)
        is_here = held is not None and held.node == binding.node
        if held is not None and is_here and (held.is_binding or engine.ledger.keeps_devices(held)):
            return held
        engine.ledger.forget(binding.uid, "devices gone" if is_here else "chosen elsewhere")
        spec, candidates = engine.judged(seen.spec, engine.mask(np.array([engine.state.row_of[binding.node]])))
        decision, _draw = engine.decide(binding.uid, spec, candidates)
        who = Who(binding.uid, binding.namespace, binding.name)
        if not decision.is_placed or not engine.ledger.assume(who, spec, decision.node, decision.devices):
            return None
        return engine.ledger.reservations[binding.uid]

    async def _post(self, binding: Binding, held: Reservation, version: int, *, is_again: bool) -> str:
        ledger = self.engine.ledger
        annotations = {DEVICES_ANNOTATION: devices_text(held.devices)} if held.devices else {}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": binding.name,
                "namespace": binding.namespace,
                "uid": binding.uid,
                "resourceVersion": str(version or ""),
                "annotations": annotations,
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": binding.node},
        }
        is_first, held.is_binding = not held.is_binding, True
        held.since_s = ledger.clock()
        timeout_s = self.engine.settings.kube.bind_timeout_s
        path = (
            pod_path(binding.namespace, binding.name) + f"/binding?timeout={timeout_s:g}s"
        )  # the server gives up, too
        try:
            await self.api.call("POST", path, body, timeout_s=timeout_s)
        except ApiError as error:
            named = None if is_again else version
            return await self._failed(binding, held, error, named, is_first=is_first)
        held.is_accepted = True
        return self._count("bound", "")

    async def _failed(
        self, binding: Binding, held: Reservation, error: ApiError, version: int | None, *, is_first: bool
    ) -> str:
        """Find out what the API did, then answer; bind again if the pod has another ``version`` by now (None: do not). While
        nobody knows, the reservation stays.

        After a refusal nothing of ours is on its way to etcd, if nothing was before (``is_first``). Without an answer, or
        with one of 500 and more, a Binding may be, and that the pod is not bound yet says nothing: it keeps node and
        devices for another attempt, until :meth:`settle_overdue`.
        """
        is_refused = is_first and 400 <= error.status < 500 and error.status != 408
        held.is_binding = not is_refused
        if is_refused and error.status not in (404, 409, 429):
            self.engine.ledger.forget(binding.uid, "refused")
            return self._count("refused", f"ullage: {error}")
        seen = await self.look_up(binding.uid, binding.name, binding.namespace)
        if seen is None:
            return self._count("gone", "ullage: the pod is gone")
        if seen.node:
            return self._already(binding, seen)
        if error.status == 409 and version not in (None, seen.version):
            return await self._bind(binding, is_again=True)
        if is_refused:
            self.engine.ledger.forget(binding.uid, "bind failed")
        return self._count("failed", f"ullage: {error}")

    async def look_up(self, uid: str, name: str, namespace: str) -> Seen | None:
        """Read one pod and tell the ledger; None (and buried) when that UID does not exist any more.

        Raises
        ------
        ApiError : the API does not answer; nothing is known then.
        ConfigError, WireError : the pod was edited until it makes no sense; it is not bound, for a bound one always does.
        """
        ledger = self.engine.ledger
        known = ledger.pods.get(uid) or ledger.reservations.get(uid)
        if known is not None:  # a caller who gives one pod's UID and another's name says nothing of the former
            name, namespace = known.name, known.namespace
        if not can_exist(namespace, name):
            ledger.deny(uid)
            return None
        try:
            body = await self.api.call("GET", pod_path(namespace, name), timeout_s=5)
        except ApiError as error:
            if error.status != 404:
                raise
            ledger.deny(uid)
            return None
        seen = self.engine.reader.pod(body)
        if seen.uid != uid:
            ledger.deny(uid)
            return None
        ledger.see(seen)
        return None if seen.has_ended else seen

    async def settle_overdue(self) -> bool:
        """Look up reservations past their time: bound ones are confirmed, gone ones buried, unbound ones forgotten, unless
        they stand as nominations or are being bound meanwhile. False if the API cannot be asked now."""
        timeout_s = self.engine.settings.assume_timeout_s
        for held in self.engine.ledger.overdue(timeout_s)[:LOOK_UPS_PER_TICK]:
            if held.uid in self._in_flight:
                continue
            try:
                seen = await self.look_up(held.uid, held.name, held.namespace)
                is_settled = seen is None or bool(seen.node)
            except ApiError as error:
                log.warning("reservation cannot be looked up", extra={**held.about, "error": str(error)})
                if 400 <= error.status < 500 and error.status not in ABOUT_US:
                    continue
                return False
            except PlacementError as error:
                log.warning("reservation of a pod that is not understood", extra={**held.about, "error": str(error)})
                is_settled = False
            stands = self.engine.ledger.reservations.get(held.uid) is held and held.uid not in self._in_flight
            if is_settled or not stands:
                continue
            held.is_binding = False
            if not held.is_nominated:
                self.engine.ledger.forget(held.uid, "deadline")
        return True

    async def drain(self) -> bool:
        """Wait for Bindings that are on their way; whether none is left that may take effect unseen."""
        try:
            async with asyncio.timeout(self.engine.settings.kube.bind_timeout_s):
                while self._in_flight:
                    await asyncio.wait(self._in_flight.values())
        except TimeoutError:
            log.warning("stopped with Bindings on their way", extra={"bindings": len(self._in_flight)})
        held = self.engine.ledger.reservations.values()
        return not self._in_flight and not any(one.is_binding and not one.is_accepted for one in held)

    async def run(self) -> None:
        """Settle overdue reservations for ever."""
        while True:
            await asyncio.sleep(TICK_S if await self.settle_overdue() else LATER_S)
