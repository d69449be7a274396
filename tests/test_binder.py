"""Bindings whose outcome is not known: nobody else gets the devices that they may still take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from placement.pods import GpuRequest
from scheduler.binder import Binder
from scheduler.errors import ApiError
from scheduler.ledger import Seen
from scheduler.wire import Binding
from tests.live_engine import Live, cpu_pod

SPEC = cpu_pod(1, gpu=GpuRequest(1, 600))
POD = {
    "metadata": {"name": "g", "namespace": "shop", "uid": "uid-g", "resourceVersion": "1"},
    "spec": {
        "containers": [
            {"name": "main", "resources": {"requests": {"cpu": "1", "memory": "1Gi", "ullage.dev/gpu-milli": "600"}}}
        ]
    },
}


class FakeApi:
    """Answers a look-up with the pod, unbound, after ``before_get``; a Binding with what ``on_bind`` does."""

    def __init__(self) -> None:
        self.on_bind: Callable[[], None] = lambda: None
        self.before_get = asyncio.Event()
        self.before_bind = asyncio.Event()
        self.pod: dict[str, Any] = POD
        self.before_get.set()
        self.before_bind.set()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30,
    ) -> bytes:
        if method == "POST":
            await self.before_bind.wait()
            self.on_bind()
            return b"{}"
        await self.before_get.wait()
        return msgspec.json.encode(self.pod)


def no_answer() -> None:
    raise ApiError("no answer", 0)


class Case:
    """A pod that is decided on n1, and a clock that is set by hand."""

    def __init__(self, tmp_path: Path) -> None:
        live = Live(tmp_path / "records.db")
        self.ledger, self.now_s = live.ledger, 0.0
        self.ledger.clock = lambda: self.now_s
        self.seen = Seen("uid-g", "g", "shop", 1, SPEC)
        self.ledger.see(self.seen)
        assert self.ledger.assume(self.seen.who, SPEC, "n1", 0b1)
        self.api = FakeApi()
        self.binder = Binder(live.engine, self.api)

    @property
    def free(self) -> int:
        """Of the device that the pod is given."""
        return int(self.ledger.state.gpu_free[1, 0])

    async def bind(self, node: str = "n1") -> str:
        return await self.binder.bind(Binding("g", "shop", "uid-g", node))


async def test_a_nomination_that_ends_leaves_the_devices_of_a_binding_without_an_answer(tmp_path: Path) -> None:
    case = Case(tmp_path)
    nominated = replace(case.seen, version=2, planned="n1", nominated="n1", planned_devices=0b1)
    case.ledger.see(nominated)
    case.api.on_bind = no_answer
    case.now_s = 1000.0
    assert "no answer" in await case.bind()
    case.ledger.see(replace(nominated, version=3, nominated=""))
    assert case.free == 400, "the Binding may still arrive"
    await case.binder.settle_overdue()
    assert case.free == 400, "it was sent just now"
    case.now_s += 100
    await case.binder.settle_overdue()
    assert case.free == 1000


async def test_a_nomination_that_stands_does_not_keep_a_lost_binding_alive_for_ever(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.ledger.see(replace(case.seen, version=2, planned="n1", nominated="n1", planned_devices=0b1))
    case.api.on_bind = no_answer
    await case.bind()
    assert case.ledger.reservations["uid-g"].is_binding
    case.now_s += 100
    await case.binder.settle_overdue()
    held = case.ledger.reservations["uid-g"]
    assert (held.is_binding, held.is_nominated) == (False, True), "asked about, it may go elsewhere now"
    assert not case.ledger.overdue(50)


async def test_a_binding_that_is_sent_while_its_pod_is_looked_up_keeps_its_devices(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.now_s += 100
    case.api.before_get.clear()
    case.api.before_bind.clear()
    look = asyncio.create_task(case.binder.settle_overdue())
    await asyncio.sleep(0)
    binding = asyncio.create_task(case.bind())
    for _ in range(5):
        await asyncio.sleep(0)
    case.api.before_get.set()
    await look
    assert case.free == 400, "on its way"
    case.api.before_bind.set()
    assert await binding == ""


async def test_no_binding_to_another_node_while_one_may_still_take_effect(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.api.on_bind = no_answer
    await case.bind()
    case.api.on_bind = lambda: None
    assert await case.bind("n2") == "ullage: a Binding to n1 may still take effect; try again"
    assert case.free == 400
    case.now_s += 100
    await case.binder.settle_overdue()
    assert await case.bind("n2") == ""


async def test_a_refused_binding_gives_its_devices_back_at_once(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def refuse() -> None:
        raise ApiError("forbidden", 403)

    case.api.on_bind = refuse
    assert "forbidden" in await case.bind()
    assert case.free == 1000


async def test_a_pod_that_is_edited_until_nobody_understands_it_ends_nothing_but_its_own_reservation(
    tmp_path: Path,
) -> None:
    """Whoever may edit a pod must not be able to end the service: annotations of a pending pod are free."""
    case = Case(tmp_path)
    case.api.pod = POD | {"metadata": POD["metadata"] | {"annotations": {"ullage.dev/gpu-count": "many"}}}
    case.now_s += 100
    await case.binder.settle_overdue()
    assert case.free == 1000
    case.ledger.lose("uid-g")
    assert "does not divide" in await case.binder.bind(Binding("g", "shop", "uid-h", "n1"))


async def test_no_binding_goes_out_once_the_lead_is_gone(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.api.on_bind = no_answer
    await case.bind()
    case.api.before_get.clear()
    bound: list[bool] = []
    case.api.on_bind = lambda: bound.append(True)
    again = asyncio.create_task(case.bind())
    await asyncio.sleep(0)
    case.binder.engine.is_leading = lambda: False
    case.api.before_get.set()
    assert await again == "ullage: another replica leads"
    assert not bound
