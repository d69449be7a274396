"""The gRPC service Plans through a real server, a real channel, a real worker process and an API over real HTTP."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from placement.planning.make import Request
from placement.planning.plans import Action, Ending, Plan, Step
from placement.planning.snapshots import KIND, VERSION, SnapshotFile
from scheduler import grpc_guard
from scheduler._pb import plans_pb2 as pb
from scheduler._pb import plans_pb2_grpc
from scheduler.planning import service, worker
from scheduler.planning.adherence import Adherence
from scheduler.planning.record import SUFFIX, PlanState, fresh_record, save_record
from scheduler.planning.service import PlansService
from scheduler.service import GrpcServer
from scheduler.settings import GrpcSettings, KubeSettings, PlanSettings, UsageSettings
from scheduler.slices import SLICE
from tests.api_server import ApiServer, api_server, kubeconfig, node_object, pod_object
from tests.live_engine import Live, Turns
from tests.test_prometheus import FakeProm, fake_prometheus
from tests.test_recorded import OWNER
from tests.test_service import fails

NOW = int(time.time())
"""Workers read Prometheus up to the real now; the past here ends with it."""


def owned(name: str, on: str, cpu: str = "1") -> dict[str, Any]:
    """A pod of a replica set that runs on a node."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "w", "controller": True}
    body = pod_object(name, cpu=cpu, ownerReferences=[owner], labels={"pod-template-hash": "h"})
    body["spec"]["nodeName"] = on
    body["status"]["phase"] = "Running"
    return body


class Here:
    """Server, stub and what they work on."""

    def __init__(self, api: ApiServer, live: Live, service: PlansService, target: str, channel: Any) -> None:
        self.api, self.live, self.service, self.target = api, live, service, target
        self.stub, self.health = plans_pb2_grpc.PlansStub(channel), health_pb2_grpc.HealthStub(channel)

    def metric(self, name: str, **labels: str) -> float:
        return self.live.metrics.registry.get_sample_value(name, labels) or 0.0

    async def made(self, **question: Any) -> tuple[list[pb.MakePlanEvent], pb.Plan]:
        """Every event of a plan, and the plan."""
        asked = pb.MakePlanRequest(**{"time_seconds": 2.0, **question})
        events = [event async for event in self.stub.Make(asked)]
        return events, events[-1].plan

    async def failing(self, asked: pb.MakePlanRequest) -> None:
        """Ask, and hear it to its end."""
        async for _ in self.stub.Make(asked):
            pass


@asynccontextmanager
async def here(folder: Path, **plan: Any) -> AsyncIterator[Here]:
    """Two nodes, a pod on each, both would fit on one."""
    async with api_server() as api:
        for name in ("a", "b"):
            api.put("nodes", node_object(name))
            api.put("pods", owned(f"web-{name}", name))
        live = Live(folder / "records.db")
        kube = KubeSettings(kubeconfig=kubeconfig(api.port, folder))
        settings = PlanSettings(**{"records": str(folder), **plan})
        live.engine.settings = replace(live.engine.settings, kube=kube, plan=settings)
        ended = [
            Adherence("shop/p", "a", "a", "as planned", "0", "0"),
            Adherence("shop/q", "a", "b", "the planned node is gone", "0,1", "2,3"),
        ]
        plans = PlansService(live.engine, lambda: ended)
        server = GrpcServer(GrpcSettings(port=0), live.engine, plans)
        await server.start()
        try:
            target = f"127.0.0.1:{server.port}"
            async with grpc.aio.insecure_channel(target) as channel:
                yield Here(api, live, plans, target, channel)
        finally:
            await server.stop(0)
            live.recorder.close()


async def test_a_plan_is_made_told_measured_and_fetched_again(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        events, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE, usd_per_hour={"a": 0.2, "b": 0.5})
        assert [step.action for step in plan.steps] == ["cordon", "move", "delete"]
        assert plan.ending == pb.PLAN_ENDING_OPTIMAL
        assert plan.usd_per_hour == pytest.approx(0.5)
        assert plan.gap_share == 0
        assert {event.id for event in events} == {plan.id}
        assert events[0].WhichOneof("event") is None, "whoever wants to finish it knows its name at once"
        assert all(e.progress.unit == "USD per hour saved" for e in events[1:-1])
        assert await h.stub.Get(pb.GetPlanRequest(id=plan.id)) == plan
        assert h.metric("ullage_plans_total", kind="consolidate", ending="optimal") == 1
        assert h.metric("ullage_plan_moves", kind="consolidate") == 1
        assert h.metric("ullage_plan_value", kind="consolidate") == pytest.approx(0.5)
        _, without = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        assert not without.HasField("usd_per_hour"), "not known is not zero"
        await fails(h.stub.Get(pb.GetPlanRequest(id="plan-99")), grpc.StatusCode.NOT_FOUND)


async def test_long_plans_make_room_for_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "KEPT_STEPS", 5)
    async with here(tmp_path) as h:
        _, first = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        _, second = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        assert len(first.steps) == len(second.steps) == 3
        assert (await h.stub.Get(pb.GetPlanRequest(id=second.id))).steps == second.steps
        assert "fewer where they are long" in await fails(
            h.stub.Get(pb.GetPlanRequest(id=first.id)), grpc.StatusCode.NOT_FOUND
        )
        monkeypatch.setattr(service, "KEPT_STEPS", 2)
        _, third = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        assert [*h.service.plans] == [third.id], "the last one is kept, however long it is"


async def test_health_of_plans_follows_the_engine(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        watch = h.health.Watch(health_pb2.HealthCheckRequest(service="ullage.v1.Plans"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        h.live.engine.is_leading = lambda: False
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_a_purchase_is_for_who_fits_on_no_node_that_is_there(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        for i, cpu in enumerate(("7", "7", "7", "500")):
            h.api.put("pods", pod_object(f"w{i}", cpu=cpu))
        shape = pb.NodeShape(name="m", amounts={"cpu": 8000, "memory": 64 << 30, "pods": 110}, usd_per_hour=1.0)
        _, plan = await h.made(kind=pb.PLAN_KIND_PURCHASE, shapes=[shape])
        assert [step.name for step in plan.steps] == ["m"]
        assert plan.details["housed"] == 2
        assert plan.reasons[0] == "2 pods find room on the nodes that are there"
        assert plan.reasons[1].startswith(
            "pod default/w3 is left out: it fits on no shape for sale; the nearest, m, has"
        )


class Bursts(FakeProm):
    """Three pods for two hours, every eight hours, the last until three hours ago; and one that runs on."""

    def _result(self, form: dict[str, str]) -> list[dict[str, Any]]:
        found = super()._result(form)
        for series in found:
            name = series["metric"].get("pod", "")
            if "values" in series and name != "web-0":
                age_h = int(name.split("-")[1]) * 8
                series["values"] = [v for v in series["values"] if age_h + 3 <= (NOW - v[0]) / 3600 <= age_h + 5]
        return found


async def test_a_purchase_ahead_is_also_for_who_came_and_went_so_far(tmp_path: Path) -> None:
    async with here(tmp_path) as h, fake_prometheus(Bursts()) as prometheus:
        prometheus.pods = {f"burst-{k}-{i}": lambda t: 0.5 for k in range(20) for i in range(3)} | {
            "web-0": lambda t: 0.5
        }
        usage = UsageSettings(prometheus=f"http://127.0.0.1:{prometheus.port}", busy_share=1.0)
        h.live.engine.settings = replace(h.live.engine.settings, usage=usage)
        alike = pod_object("web-0", cpu="6", ownerReferences=[OWNER])
        alike["metadata"]["namespace"], alike["spec"]["nodeName"], alike["status"]["phase"] = "shop", "a", "Running"
        h.api.put("pods", alike)
        shape = pb.NodeShape(name="m", amounts={"cpu": 8000, "memory": 64 << 30, "pods": 110}, usd_per_hour=1.0)
        _, now = await h.made(kind=pb.PLAN_KIND_PURCHASE, shapes=[shape])
        assert (len(now.steps), list(now.reasons)) == (0, ["nothing is pending"])
        ahead: dict[str, Any] = {"ahead_seconds": 8 * 3600, "history_days": 6.0}
        _, plan = await h.made(kind=pb.PLAN_KIND_PURCHASE, shapes=[shape], **ahead)
        assert "within 8 h, at quantile 0.9: at the peak 3 pods more and 0 fewer than now" in plan.reasons[0]
        assert [step.name for step in plan.steps] == ["m", "m"], "one of the three finds room on b"
        assert plan.details["housed"] == 1
        prometheus.raw = (500, b"no")
        asked = pb.MakePlanRequest(kind=pb.PLAN_KIND_PURCHASE, shapes=[shape], time_seconds=1, **ahead)
        assert "no foresight: " in await fails(h.failing(asked), grpc.StatusCode.UNAVAILABLE)


async def test_a_purchase_ahead_is_finished_while_its_history_is_read(tmp_path: Path) -> None:
    async with here(tmp_path) as h, fake_prometheus() as prometheus:
        prometheus.delay_s = 10**6
        usage = UsageSettings(prometheus=f"http://127.0.0.1:{prometheus.port}", timeout_s=600)
        h.live.engine.settings = replace(h.live.engine.settings, usage=usage)
        h.api.put("pods", pod_object("waits", cpu="8"))
        shape = pb.NodeShape(name="m", amounts={"cpu": 8000, "memory": 64 << 30, "pods": 110}, usd_per_hour=1.0)
        making = h.stub.Make(
            pb.MakePlanRequest(kind=pb.PLAN_KIND_PURCHASE, shapes=[shape], time_seconds=60, ahead_seconds=3600)
        )
        last = await making.read()
        while not prometheus.forms:
            await asyncio.sleep(0.05)
        await h.stub.Finish(pb.FinishPlanRequest(id=last.id))
        while not last.HasField("plan"):
            last = await making.read()
        assert [step.name for step in last.plan.steps] == ["m"]
        assert last.plan.reasons[0] == worker.NOT_READ
        assert h.metric("ullage_plans_total", kind="purchase", ending="failed") == 0


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"kind": pb.PLAN_KIND_PURCHASE, "ahead_seconds": 3600}, "needs a history: set usage.prometheus"),
        ({"kind": pb.PLAN_KIND_PURCHASE, "ahead_seconds": 0}, "is no span"),
        ({"kind": pb.PLAN_KIND_PURCHASE, "ahead_seconds": 60, "quantile": 1.0}, "below 1"),
        ({"kind": pb.PLAN_KIND_PURCHASE, "ahead_seconds": 60, "history_days": 0.0}, "must be 0.01 to 400"),
        ({"kind": pb.PLAN_KIND_PURCHASE, "quantile": 0.5}, "changes nothing without ahead_seconds"),
        ({"kind": pb.PLAN_KIND_RESCUE, "ahead_seconds": 60}, "is of a purchase"),
        ({}, "is no plan"),
        ({"kind": 77}, "is no plan"),
        ({"kind": pb.PLAN_KIND_RESCUE, "time_seconds": 0.0}, "above 0"),
        ({"kind": pb.PLAN_KIND_RESCUE, "time_seconds": 1e9}, "at most 300"),
        ({"kind": pb.PLAN_KIND_CONSOLIDATE, "max_moves": -1}, "negative"),
        ({"kind": pb.PLAN_KIND_CONSOLIDATE, "max_nodes": -1}, "budget of -1 nodes"),
        ({"kind": pb.PLAN_KIND_CONSOLIDATE, "usd_per_hour": {"a": -1.0, "b": 1.0}}, "price of node a"),
        ({"kind": pb.PLAN_KIND_PURCHASE, "shapes": [pb.NodeShape(name="s", amounts={"cpu": 5})]}, "no usd_per_hour"),
        (
            {
                "kind": pb.PLAN_KIND_PURCHASE,
                "shapes": [pb.NodeShape(name="s", amounts={"cpu": -5}, usd_per_hour=1.0)],
            },
            "cpu=-5",
        ),
        ({"kind": pb.PLAN_KIND_CONSOLIDATE, "usd_per_hour": {"a": 1.0}}, "node b has no price"),
        ({"kind": pb.PLAN_KIND_CONSOLIDATE, "usd_per_interruption": -1.0}, "finite numbers >= 0"),
    ],
)
async def test_a_bad_question_is_refused_with_its_reason(question: dict[str, Any], says: str, tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        asked = pb.MakePlanRequest(**{"time_seconds": 1.0, **question})
        assert says in await fails(h.failing(asked), grpc.StatusCode.INVALID_ARGUMENT)


async def test_one_plan_is_made_at_a_time_and_ends_when_asked_or_when_the_caller_goes(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        h.api.put("pods", pod_object("waits", cpu="2"))
        slow = h.stub.Make(pb.MakePlanRequest(kind=pb.PLAN_KIND_RESCUE, time_seconds=200))
        first = asyncio.ensure_future(slow.read())
        await asyncio.sleep(0.1)
        second = h.stub.Make(pb.MakePlanRequest(kind=pb.PLAN_KIND_BATCH, time_seconds=1))
        assert "another plan" in await fails(second.read(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        events = [await first]
        await h.stub.Finish(pb.FinishPlanRequest(id=events[0].id))
        while not events[-1].HasField("plan"):
            events.append(await slow.read())
        assert len(events[-1].plan.steps) == 1
        await fails(h.stub.Finish(pb.FinishPlanRequest(id=events[0].id)), grpc.StatusCode.NOT_FOUND)
        gone = h.stub.Make(pb.MakePlanRequest(kind=pb.PLAN_KIND_RESCUE, time_seconds=200))
        await asyncio.sleep(0.1)
        gone.cancel()
        while not h.metric("ullage_plans_total", kind="rescue", ending="cancelled"):
            await asyncio.sleep(0.05)
        await h.made(kind=pb.PLAN_KIND_BATCH)


NARROW = [("grpc.http2.lookahead_bytes", 65_535), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
"""Of a channel that takes no more than this before somebody reads."""


class Talker:
    """Plans nothing, and says what it is made to say."""

    says: Iterable[worker.Progress | Plan] = ()
    num_closed = 0

    def __init__(self, *_: Any) -> None:
        self.left = iter(self.says)

    async def events(self) -> AsyncIterator[worker.Progress | Plan]:
        for said in self.left:
            yield said

    async def close(self) -> None:
        Talker.num_closed += 1


async def drained(call: Any) -> None:
    """Read on to the end of a stream."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def begun(h: Here, channel: Any) -> Any:
    """A plan is asked for, and only its name is read."""
    async with asyncio.timeout(30):
        while True:
            call = plans_pb2_grpc.PlansStub(channel).Make(pb.MakePlanRequest(kind=pb.PLAN_KIND_BATCH, time_seconds=1))
            try:
                assert (await call.read()).id
                return call
            except grpc.aio.AioRpcError:  # the one before is still being made
                await asyncio.sleep(0.02)


async def test_a_plan_that_is_not_read_keeps_no_other_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("batch", Ending.OPTIMAL, "pods", 0.0, 0.0, reasons=("x" * 1000,) * 3000)
    monkeypatch.setattr(Talker, "says", [plan])
    monkeypatch.setattr(service, "PlanWorker", Talker)
    async with here(tmp_path) as h, grpc.aio.insecure_channel(h.target, NARROW) as channel:
        calls = [await begun(h, channel) for _ in range(3)]
        assert h.metric("ullage_plans_total", kind="batch", ending="optimal") >= 2
        assert len((await calls[0].read()).plan.reasons) == 3000, "it is there for whoever is slow"


async def test_whoever_reads_no_progress_loses_the_stream_and_not_the_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_guard, "READ_S", 0.2)
    monkeypatch.setattr(Talker, "says", itertools.repeat(worker.Progress(1.0, 2.0, 3.0)))
    monkeypatch.setattr(Talker, "num_closed", 0)
    monkeypatch.setattr(service, "PlanWorker", Talker)
    async with here(tmp_path) as h, grpc.aio.insecure_channel(h.target, NARROW) as channel:
        lost = await begun(h, channel)
        await begun(h, channel)
        assert Talker.num_closed == 1
        assert h.metric("ullage_plans_total", kind="batch", ending="cancelled") == 1
        said = await fails(drained(lost), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert "nothing was read" in said


def talk(say: worker.Say, *_: Any) -> None:
    """In a worker."""
    for number in range(100):
        say(worker.Progress(number, None, 0.1))
    say(msgspec.json.encode(Plan("batch", Ending.OPTIMAL, "pods", 99.0, None)))


async def test_whoever_is_slow_hears_the_newest_of_a_plan_and_not_all_there_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Taking each word in its time, a slow reader would hold the planner long after the plan was made."""
    monkeypatch.setattr(worker, "_make", talk)
    asked = Request("batch", SnapshotFile(KIND, VERSION, [], [], []), 1.0)
    planning = worker.PlanWorker(asked, KubeSettings())
    await planning._worker._is_dead.wait()
    heard = [said async for said in planning.events()]
    assert [type(said) for said in heard] == [Plan]
    await planning.close()


async def test_a_plan_of_a_thousand_steps_becomes_a_message_while_others_are_answered() -> None:
    steps = tuple(Step(Action.MOVE, pod=f"u{i}", name=f"shop/p{i}", source="a", target="b") for i in range(1000))
    async with Turns() as turns:
        message = await service.plan_message("p", Plan("consolidate", Ending.DEADLINE, "USD", 1.0, None, steps))
    assert [(step.action, step.pod_uid) for step in message.steps] == [("move", f"u{i}") for i in range(1000)]
    assert turns.number >= 1000 // SLICE


async def test_a_cluster_that_cannot_be_read_is_unavailable_and_the_next_plan_is_not(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        h.api.fail_next("GET", "/api/v1/pods", 500)
        asked = pb.MakePlanRequest(kind=pb.PLAN_KIND_BATCH, time_seconds=1)
        assert "500" in await fails(h.failing(asked), grpc.StatusCode.UNAVAILABLE)
        await h.made(kind=pb.PLAN_KIND_BATCH)
        for name in ("a", "b"):
            h.api.delete("nodes", name)
        assert "has no nodes" in await fails(h.failing(asked), grpc.StatusCode.INVALID_ARGUMENT)
        h.live.engine.is_leading = lambda: False
        assert "leads" in await fails(h.failing(asked), grpc.StatusCode.UNAVAILABLE)


async def test_applying_is_dry_and_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is done elsewhere: reading and checking ten thousand pods takes a second, for which no answer may wait."""
    monkeypatch.setattr(worker, "why_not_valid", None)
    async with here(tmp_path) as h:
        _, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        before = h.api.version
        dry = [event async for event in h.stub.Apply(pb.ApplyPlanRequest(id=plan.id))]
        assert "nothing was changed" in dry[-1].message
        call = h.stub.Apply(pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        assert "plan.applies is off" in await fails(call.read(), grpc.StatusCode.PERMISSION_DENIED)
        assert h.api.version == before


async def test_checks_that_are_asked_for_at_once_take_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds the whole cluster in memory."""
    there: list[int] = []

    class Counted(worker.Worker):
        num = 0

        def __init__(self, *words: Any) -> None:
            Counted.num += 1
            there.append(Counted.num)
            super().__init__(*words)

        async def close(self) -> None:
            await super().close()
            Counted.num -= 1

    async with here(tmp_path) as h:
        _, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        monkeypatch.setattr(service, "Worker", Counted)
        calls = [h.stub.Apply(pb.ApplyPlanRequest(id=plan.id)) for _ in range(3)]
        for dry in await asyncio.gather(*[applied_dry(call) for call in calls]):
            assert "nothing was changed" in dry[-1].message
    assert there == [1, 1, 1]


async def applied_dry(call: Any) -> list[pb.ApplyPlanEvent]:
    return [event async for event in call]


async def test_a_plan_that_is_long_holds_up_nobody_while_its_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe takes 64 KiB; the rest waits until the process has imported the solvers."""
    has_gone_on = threading.Event()
    start = SpawnProcess.start

    def patient(process: Any) -> None:
        assert has_gone_on.wait(10), "whoever starts a process goes on before it has"
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", patient)
    working = worker.Worker(length, b"x" * 200_000)
    has_gone_on.set()
    assert await working.hear() == 200_000
    await working.close()


def length(say: worker.Say, data: bytes) -> None:
    """In a worker."""
    say(len(data))


async def recreate(api: ApiServer, plan: pb.Plan) -> None:
    """A controller that makes one pod anew, and a scheduler that does as it is told."""
    move = next(step for step in plan.steps if step.action == "move")
    name = move.name.partition("/")[2]
    while api.key("pods", "default", name) in api.objects:
        await asyncio.sleep(0.01)
    body = owned("web-new", "")
    body["metadata"]["uid"] = "uid-new"
    api.put("pods", body)
    while not (node := api.pod("web-new")["status"].get("nominatedNodeName")):
        await asyncio.sleep(0.01)
    body = api.pod("web-new")
    api.put("pods", body | {"spec": body["spec"] | {"nodeName": node}})


async def applied(h: Here, request: pb.ApplyPlanRequest) -> list[pb.ApplyPlanEvent]:
    """The call's events; while the call before it is still ending, it is asked again."""
    while True:
        try:
            return [event async for event in h.stub.Apply(request)]
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        await asyncio.sleep(0.05)


async def test_a_plan_is_applied_interrupted_by_the_caller_and_resumed(tmp_path: Path) -> None:
    async with here(tmp_path, applies=True) as h:
        record = fresh_record(
            Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, (Step(Action.CORDON, source="x"),))
        )
        record.outcome, old = PlanState.DONE, tmp_path / f"0ld{SUFFIX}"
        save_record(record, old)
        os.utime(old, (0, 0))
        _, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        h.api.refusals = 10**6
        call = h.stub.Apply(pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        assert "cordoned" in (await call.read()).message
        busy = h.stub.Apply(pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        assert "another plan" in await fails(busy.read(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        call.cancel()
        h.api.refusals = 1
        task = asyncio.create_task(recreate(h.api, plan))
        events = await applied(h, pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        await task
        assert (events[-1].outcome, events[-1].evictions) == ("done", 1)
        assert h.metric("ullage_plans_applied_total", kind="consolidate", outcome="done") == 1
        events = await applied(h, pb.ApplyPlanRequest(id=plan.id, abandon=True))
        assert events[-1].outcome == "done", "what has ended is not given up"
        assert [path.name for path in tmp_path.glob(f"*{SUFFIX}")] == [f"{plan.id}{SUFFIX}"], "the old one is pruned"


async def test_a_plan_that_was_interrupted_goes_on_by_the_same_call_after_a_restart(tmp_path: Path) -> None:
    async with here(tmp_path, applies=True) as h:
        _, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        h.api.refusals = 10**6
        call = h.stub.Apply(pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        assert "cordoned" in (await call.read()).message
        call.cancel()
        h.service.plans.clear()
        dry = [event async for event in h.stub.Apply(pb.ApplyPlanRequest(id=plan.id))]
        assert "nothing was changed" in dry[-1].message
        events = await applied(h, pb.ApplyPlanRequest(id=plan.id, abandon=True))
        assert events[-1].outcome == "abandoned"
        assert not any(node["spec"].get("unschedulable") for key, node in h.api.objects.items() if "nodes/" in key)
        for name in ("../records", "plan-none"):
            await fails(h.stub.Get(pb.GetPlanRequest(id=name)), grpc.StatusCode.NOT_FOUND)
        (tmp_path / f"plan-0{SUFFIX}").write_text("{")
        await fails(h.stub.Get(pb.GetPlanRequest(id="plan-0")), grpc.StatusCode.FAILED_PRECONDITION)


async def test_plans_of_two_runs_have_no_name_in_common(tmp_path: Path) -> None:
    names = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        async with here(tmp_path / run) as h:
            names += [(await h.made(kind=pb.PLAN_KIND_BATCH))[1].id for _ in range(2)]
    assert len(set(names)) == 4


class Doer:
    """Applies nothing, and says that it did."""

    num_stopped = 0

    def __init__(self, *_: Any) -> None: ...

    async def hear(self) -> worker.Happened:
        return worker.Happened(1, "done", 0)

    async def stop(self) -> None:
        Doer.num_stopped += 1


async def test_an_applied_plan_of_which_nothing_is_read_is_stopped_before_another_may_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doer, "num_stopped", 0)
    monkeypatch.setattr(service, "ApplyWorker", Doer)
    async with here(tmp_path, applies=True) as h:
        plans = PlansService(h.live.engine, lambda: ())
        plans.plans["p"] = Plan("batch", Ending.OPTIMAL, "pods", 0.0, 0.0)
        events = plans.Apply(pb.ApplyPlanRequest(id="p", confirmed=True), None)
        await anext(events)
        await events.aclose()
        assert Doer.num_stopped == 1


async def test_an_interrupted_plan_can_be_given_up(tmp_path: Path) -> None:
    async with here(tmp_path, applies=True) as h:
        _, plan = await h.made(kind=pb.PLAN_KIND_CONSOLIDATE)
        h.api.refusals = 10**6
        call = h.stub.Apply(pb.ApplyPlanRequest(id=plan.id, confirmed=True))
        await call.read()
        call.cancel()
        node = plan.steps[0].source
        assert h.api.objects[h.api.key("nodes", "", node)]["spec"]["unschedulable"]
        events = await applied(h, pb.ApplyPlanRequest(id=plan.id, abandon=True))
        assert events[-1].outcome == "abandoned"
        assert "unschedulable" not in h.api.objects[h.api.key("nodes", "", node)]["spec"]
        assert "ullage.dev/replacement-node" not in h.api.pod(f"web-{node}")["metadata"]["annotations"]


async def test_adherence_is_listed_with_the_reason_of_each_difference(tmp_path: Path) -> None:
    async with here(tmp_path) as h:
        assert len((await h.stub.ListAdherence(pb.ListAdherenceRequest())).pods) == 2
        found = (await h.stub.ListAdherence(pb.ListAdherenceRequest(differs=True))).pods
        assert [(p.pod, p.actual, p.reason) for p in found] == [("shop/q", "b", "the planned node is gone")]
        assert [(p.planned_devices, p.actual_devices) for p in found] == [("0,1", "2,3")]
