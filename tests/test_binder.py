"""Bindings whose outcome is not known: nobody else gets the devices that they may still take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace as with_class
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from placement.pods import GpuRequest
from placement.resources import DEVICES_ANNOTATION
from scheduler.binder import LATER_S, TICK_S, Binder
from scheduler.errors import ApiError
from scheduler.ledger import Seen
from scheduler.settings import KubeSettings, Settings
from scheduler.wire import Binding
from tests.live_engine import Live, cpu_pod

SPEC = cpu_pod(1, gpu=GpuRequest(1, 600))
POD: dict[str, Any] = {
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
        self.bindings: list[tuple[str, Any]] = []
        """Path and body of each."""
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
            self.bindings.append((path, body))
            await self.before_bind.wait()
            self.on_bind()
            return b"{}"
        await self.before_get.wait()
        if not path.endswith(f"/pods/{self.pod['metadata']['name']}"):
            raise ApiError(f"GET {path}: no such pod", 404)
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
    assert await case.binder.settle_overdue()
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


async def test_who_asks_for_no_device_does_not_wait_for_bindings_of_a_process_before_this_one(tmp_path: Path) -> None:
    case = Case(tmp_path)
    plain = Seen("uid-c", "c", "shop", 1, cpu_pod(1))
    case.ledger.see(plain)
    case.binder.engine.may_give_devices = lambda: False
    assert "sent before a restart" in await case.bind()
    assert not case.api.bindings
    assert await case.binder.bind(Binding("c", "shop", "uid-c", "n1")) == ""
    assert [body["metadata"]["name"] for _, body in case.api.bindings] == ["c"]


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


def bound_to(node: str, devices: str) -> dict[str, Any]:
    """The pod as the API shows it, bound."""
    meta = POD["metadata"] | {"resourceVersion": "5", "annotations": {DEVICES_ANNOTATION: devices} if devices else {}}
    return POD | {"metadata": meta, "spec": POD["spec"] | {"nodeName": node}}


def refusal(status: int) -> Callable[[], None]:
    def refuse() -> None:
        raise ApiError("as ordered", status)

    return refuse


async def test_every_attempt_names_the_same_devices_and_tells_the_server_when_to_give_up(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for status in (0, 500, 504, 429, 409, 404):
        case.api.on_bind = refusal(status)
        assert "as ordered" in await case.bind()
        assert case.free == 400, "the first attempt may still take effect, whatever becomes of the others"
    case.api.on_bind = lambda: None
    assert await case.bind() == ""
    assert len(case.api.bindings) == 7
    timeout = f"timeout={KubeSettings().bind_timeout_s:g}s"
    assert {path for path, _ in case.api.bindings} == {f"/api/v1/namespaces/shop/pods/g/binding?{timeout}"}
    for _, body in case.api.bindings:
        assert body["metadata"]["annotations"] == {DEVICES_ANNOTATION: "0"}
        assert body["metadata"]["uid"] == "uid-g", "never a pod of the same name"
        assert body["metadata"]["resourceVersion"] == "1", "never one that has changed"


async def test_a_pod_that_changes_all_the_time_is_tried_twice_and_gives_its_devices_back(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def change() -> None:
        version = str(int(case.api.pod["metadata"]["resourceVersion"]) + 1)
        case.api.pod = POD | {"metadata": POD["metadata"] | {"resourceVersion": version}}
        raise ApiError("ResourceVersion in precondition", 409)

    case.api.on_bind = change
    assert "in precondition" in await case.bind()
    assert [body["metadata"]["resourceVersion"] for _, body in case.api.bindings] == ["1", "2"]
    assert case.free == 1000
    case.api.on_bind = lambda: None
    assert await case.bind() == ""
    assert case.api.bindings[-1][1]["metadata"]["resourceVersion"] == "3"


async def test_the_deadline_of_a_lost_binding_counts_from_the_last_attempt(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.api.on_bind = no_answer
    await case.bind()
    case.now_s = 59.0
    await case.bind()
    case.now_s = 61.0
    await case.binder.settle_overdue()
    assert case.free == 400, "the second attempt was sent two seconds ago"
    case.now_s = 119.5
    await case.binder.settle_overdue()
    assert case.free == 1000


@pytest.mark.parametrize(("status", "pause_s"), [(0, LATER_S), (429, LATER_S), (503, LATER_S), (400, TICK_S)], ids=str)
async def test_an_api_that_cannot_be_asked_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, pause_s: float
) -> None:
    case, pauses = Case(tmp_path), list[float]()
    case.now_s = 1000.0

    async def refuse(*_words: object, **_options: object) -> bytes:
        raise ApiError("refused", status)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(case.api, "call", refuse)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await case.binder.run()
    assert pauses == [pause_s]


async def test_a_resource_that_kube_scheduler_leaves_to_others_keeps_no_device_from_its_pod(tmp_path: Path) -> None:
    """The node has none of it: a device class gives it out."""
    case = Case(tmp_path)
    case.ledger.forget("uid-g", "chosen elsewhere")
    more = with_class(SPEC, request=(*SPEC.request, ("example.com/nic", 1)))
    case.ledger.see(replace(case.seen, version=2, spec=more))
    assert await case.bind() == ""
    assert case.free == 400


async def test_a_list_that_is_read_while_a_binding_is_on_its_way_frees_nothing(tmp_path: Path) -> None:
    """It shows the pod as it was: unbound, edited, or nominated elsewhere."""
    case = Case(tmp_path)
    case.api.before_bind.clear()
    binding = asyncio.create_task(case.bind())
    await asyncio.sleep(0)
    edits: list[dict[str, Any]] = [
        {},
        {"spec": with_class(SPEC, leaving=True)},
        {"planned": "n2", "nominated": "n2"},
        {"nominated": ""},
    ]
    for version, changes in enumerate(edits):
        case.ledger.see(replace(case.seen, version=version + 2, **changes))
        case.now_s += 1000
        await case.binder.settle_overdue()
        assert case.free == 400
    case.api.before_bind.set()
    assert await binding == ""
    assert case.ledger.reservations["uid-g"].is_accepted


@pytest.mark.parametrize("status", [0, 404, 409, 504])
async def test_a_pod_that_is_deleted_while_it_is_bound_leaves_its_devices_to_others(
    tmp_path: Path, status: int
) -> None:
    """No Binding can take effect any more: it names the UID."""
    case = Case(tmp_path)
    case.api.before_bind.clear()
    binding = asyncio.create_task(case.bind())
    await asyncio.sleep(0)
    assert case.free == 400
    case.ledger.lose("uid-g")
    assert case.free == 1000
    case.api.pod = POD | {"metadata": POD["metadata"] | {"uid": "uid-new"}}
    case.api.on_bind = refusal(status)
    case.api.before_bind.set()
    assert await binding == "ullage: the pod is gone"
    case.ledger.see(replace(case.seen, version=9, node="n1", devices=0b1))
    assert case.free == 1000, "a late event brings nobody back"


@pytest.mark.parametrize("status", [0, 409, 500])
@pytest.mark.parametrize(
    ("node", "devices", "left"),
    [
        ("n2", "1", [1000, 400]),
        ("n2", "0", [400, 1000]),
        ("n2", "", [400, 400]),
        ("n2", "0,1", [400, 400]),
        ("n1", "0", [1000, 1000]),
    ],
)
async def test_what_another_leader_bound_is_counted_as_it_says(
    tmp_path: Path, status: int, node: str, devices: str, left: list[int]
) -> None:
    """Ours was refused, or got no answer: the pod is where the API shows it, on the devices that the Binding named."""
    case = Case(tmp_path)
    case.ledger.forget("uid-g", "test")
    assert case.ledger.assume(case.seen.who, SPEC, "n2", 0b1)
    case.api.on_bind, case.api.pod = refusal(status), bound_to(node, devices)
    error = await case.bind("n2")
    assert (error == "") == (node == "n2")
    assert case.ledger.state.gpu_free[2].tolist() == left
    assert not case.ledger.reservations
    assert case.ledger.devices_given_twice() == 0


@pytest.mark.parametrize("end", ["unbound", "deleted", "bound elsewhere", "bound there"])
async def test_a_node_that_is_made_anew_keeps_devices_for_a_binding_that_may_take_effect(
    tmp_path: Path, end: str
) -> None:
    case = Case(tmp_path)
    node = case.ledger.state.nodes[1]
    assert node is not None
    case.api.on_bind = no_answer
    await case.bind()
    case.ledger.lose_node("n1")
    assert await case.bind() == "ullage: the node is gone"
    if end == "deleted":
        case.ledger.lose("uid-g")
    elif end != "unbound":
        case.ledger.see(replace(case.seen, version=2, node="n2" if end == "bound elsewhere" else "n1", devices=0b1))
    case.ledger.see_node(node)
    assert case.free == (400 if end in ("unbound", "bound there") else 1000)
    assert set(case.ledger.reservations) == ({"uid-g"} if end == "unbound" else set())
    case.now_s += 100
    await case.binder.settle_overdue()
    assert case.free == (400 if end == "bound there" else 1000), "the API has shown what became of it"


async def test_a_binding_that_was_refused_while_its_node_was_away_keeps_nothing_there(tmp_path: Path) -> None:
    case = Case(tmp_path)
    node = case.ledger.state.nodes[1]
    assert node is not None

    def refuse() -> None:
        case.ledger.lose_node("n1")
        raise ApiError("forbidden", 403)

    case.api.on_bind = refuse
    assert "forbidden" in await case.bind()
    case.ledger.see_node(node)
    assert not case.ledger.reservations
    assert case.free == 1000


async def test_a_nomination_that_ended_while_its_node_was_away_keeps_nothing_there_for_ever(tmp_path: Path) -> None:
    case = Case(tmp_path)
    node = case.ledger.state.nodes[1]
    assert node is not None
    case.ledger.see(replace(case.seen, version=2, planned="n1", nominated="n1", planned_devices=0b1))
    case.api.on_bind = no_answer
    await case.bind()
    case.ledger.lose_node("n1")
    case.ledger.see(replace(case.seen, version=3))
    case.ledger.see_node(node)
    assert case.free == 400, "the Binding may still arrive"
    case.now_s += 100
    await case.binder.settle_overdue()
    assert case.free == 1000


async def test_devices_that_are_taken_after_the_decision_are_not_bound(tmp_path: Path) -> None:
    """By a pod of which nobody knows where it lies: it may be on the very device."""
    case = Case(tmp_path)
    hidden = Seen("uid-x", "x", "shop", 1, cpu_pod(1, gpu=GpuRequest(1, 500)), node="n1")
    case.ledger.see(hidden)
    assert case.free == -100
    assert await case.bind() == "ullage: the devices on this node are no longer free"
    assert not case.api.bindings
    case.ledger.lose("uid-x")
    assert await case.bind() == ""


async def test_a_device_that_is_given_twice_is_said_whoever_did_it(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert await case.bind() == ""
    stranger = Seen("uid-x", "x", "shop", 1, cpu_pod(1, gpu=GpuRequest(1, 500)), node="n1", devices=0b1)
    case.ledger.see(stranger)
    assert case.ledger.devices_given_twice() == 0, "ours is not seen there yet"
    case.ledger.see(replace(case.seen, version=2, node="n1", devices=0b1))
    assert case.ledger.devices_given_twice() == 1
    case.ledger.lose("uid-x")
    assert case.ledger.devices_given_twice() == 0


async def test_a_pod_that_ended_while_its_binding_had_no_answer_holds_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.api.on_bind = no_answer
    case.api.pod = bound_to("n1", "0") | {"status": {"phase": "Succeeded"}}
    assert await case.bind() == "ullage: the pod is gone"
    assert case.free == 1000


@pytest.mark.parametrize("name", ["h", "../nodes", ""])
async def test_a_caller_who_names_another_pod_buries_none(name: str, tmp_path: Path) -> None:
    """Neither one whose Binding got no answer, nor one that holds room under the name that a caller gave."""
    case = Case(tmp_path)
    case.api.on_bind = no_answer
    await case.bind()
    assert await case.binder.bind(Binding(name, "shop", "uid-g", "n1")) != ""
    assert ("uid-g" in case.ledger.pods, case.free) == (True, 400)
    misnamed = Seen("uid-m", "g", "shop", 1, cpu_pod(1))
    case.api.pod = POD | {"metadata": POD["metadata"] | {"uid": "uid-m"}}
    case.ledger.see(misnamed)
    assert case.ledger.assume(misnamed.who._replace(name=name), misnamed.spec, "n2", 0)
    case.now_s += 100
    await case.binder.settle_overdue()
    assert "uid-m" in case.ledger.pods
    assert "uid-m" not in case.ledger.reservations, "it is not bound, and its time is over"


async def test_a_pod_that_the_watch_has_yet_to_show_is_seen_whatever_a_caller_said_of_it(tmp_path: Path) -> None:
    case = Case(tmp_path)
    late = Seen("uid-l", "l", "shop", 7, SPEC)
    assert case.ledger.assume(late.who, SPEC, "n2", 0b1)
    assert await case.binder.bind(Binding("h", "shop", "uid-l", "n2")) == "ullage: the pod is gone"
    assert "uid-l" not in case.ledger.reservations
    case.ledger.see(replace(late, node="n2", devices=0b1))
    assert case.ledger.state.residents["uid-l"].devices == 0b1


async def test_bindings_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    case = Case(tmp_path)

    def counted(outcome: str) -> float:
        labels = {"outcome": outcome}
        return case.binder.engine.metrics.registry.get_sample_value("ullage_binds_total", labels) or 0.0

    case.api.on_bind = no_answer
    await case.bind()
    case.api.on_bind = lambda: None
    await case.bind()
    assert (counted("failed"), counted("bound"), counted("refused")) == (1, 1, 0)


async def test_one_binding_that_may_take_effect_is_enough_to_keep_the_lead(tmp_path: Path) -> None:
    """Beside reservations of which nothing was sent."""
    case = Case(tmp_path)
    other = Seen("uid-o", "o", "shop", 1, SPEC)
    case.ledger.see(other)
    assert case.ledger.assume(other.who, SPEC, "n2", 0b1)
    assert await case.binder.drain()
    case.api.on_bind = no_answer
    await case.bind()
    assert not await case.binder.drain()


async def test_who_stops_says_whether_bindings_are_on_their_way(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert await case.binder.drain()
    case.binder.engine.settings = Settings(kube=KubeSettings(bind_timeout_s=0.1))
    case.api.before_bind.clear()
    binding = asyncio.create_task(case.bind())
    await asyncio.sleep(0)
    assert not await case.binder.drain()
    case.api.on_bind = no_answer
    case.api.before_bind.set()
    assert not await case.binder.drain(), "it may take effect"
    assert "no answer" in await binding
    case.api.on_bind = lambda: None
    assert await case.bind() == ""
    assert await case.binder.drain()
