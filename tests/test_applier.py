"""A plan that is being applied, killed at every single write of its record, and everything that can go wrong around it."""

from __future__ import annotations

import asyncio
import copy
import fcntl
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from placement.errors import ConfigError
from placement.planning.make import Request, plan_document, plan_for, plan_of_document
from placement.planning.plans import Action, Deadline, Ending, Plan, Step
from scheduler.cluster_reader import take_snapshot
from scheduler.errors import ApiError, RecordError
from scheduler.evictions import CORDON_ANNOTATION
from scheduler.gates import GATE, TARGET_ANNOTATION
from scheduler.kube import KubeClient
from scheduler.planning.applier import Applier, ApplyLimits, why_not_valid
from scheduler.planning.looks import PlanLeft, pod_of, require_emptied
from scheduler.planning.record import (
    PlanRecord,
    PlanState,
    Retention,
    State,
    alone,
    fresh_record,
    plan_id,
    read_record,
    save_record,
    summary,
)
from scheduler.rights import APPLIES
from tests.api_server import ApiServer, api_server, client_of, node_object, pod_object

pytestmark = pytest.mark.timeout(90)
PODS = "/api/v1/namespaces/default/pods"
LIMITS = ApplyLimits(refusal_s=0.5, settle_s=2, outage_s=0.3)


def look_often(patch: pytest.MonkeyPatch) -> None:
    """For tests that apply a plan tens of times: looks at what others do are close together."""
    patch.setattr("scheduler.planning.applier.POLL_S", 0.02)


class Crash(BaseException):
    """The process is gone."""


def pod(name: str, on: str, app: str = "web", cpu: str = "1", **meta: Any) -> dict[str, Any]:
    """A pod of a replica set; ``on`` empty = pending behind our gate."""
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": True}
    body = pod_object(name, cpu=cpu, ownerReferences=[owner], labels={"pod-template-hash": "h", "app": app}, **meta)
    if on:
        body["spec"]["nodeName"] = on
        body["status"]["phase"] = "Running"
    else:
        body["spec"]["schedulingGates"] = [{"name": GATE}]
    return body


class Cluster:
    """The fake API with a controller that makes pods anew and a scheduler that does as nominations say."""

    def __init__(self, api: ApiServer, client: KubeClient, folder: Path) -> None:
        self.api, self.client, self.folder = api, client, folder
        self.wanted: dict[str, int] = {}
        self.scheduled: Callable[[str], str] = lambda nominated: nominated
        self.evicted: list[str] = []
        self._numbers = itertools.count()

    def pods(self) -> dict[str, dict[str, Any]]:
        return {k.rpartition("/")[2]: v for k, v in self.api.objects.items() if k.startswith("pods/")}

    def homes(self) -> list[str]:
        return sorted(p["spec"].get("nodeName") or "" for p in self.pods().values())

    async def play(self) -> None:
        before: set[str] = set()
        while True:
            pods = self.pods()
            self.evicted += sorted(before - pods.keys())
            for app, wanted in self.wanted.items():
                have = sum(p["metadata"]["labels"].get("app") == app for p in pods.values())
                for _ in range(wanted - have):
                    name = f"{app}-new-{next(self._numbers)}"
                    self.api.put("pods", pod(name, "", app))
            for body in self.pods().values():
                nominated = body["status"].get("nominatedNodeName")
                if nominated and not body["spec"].get("schedulingGates") and not body["spec"].get("nodeName"):
                    home = self.scheduled(nominated)
                    if home:
                        body["spec"]["nodeName"], body["status"]["phase"] = home, "Running"
                        body["status"].pop("nominatedNodeName")
                        self.api.put("pods", body)
            before = set(self.pods())
            await asyncio.sleep(0.01)

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.objects[self.api.key("nodes", "", name)]
        return found

    def cordoned(self) -> list[str]:
        nodes = {k.rpartition("/")[2]: v for k, v in self.api.objects.items() if k.startswith("nodes/")}
        return sorted(name for name, node in nodes.items() if node["spec"].get("unschedulable"))

    async def plan(self, kind: str = "consolidate") -> Plan:
        return plan_for(Request(kind, await take_snapshot(self.client)), Deadline(1.0, time.perf_counter))

    def applier(
        self,
        plan: Plan,
        *,
        crash_at: int = 0,
        counts: Callable[[PlanRecord], bool] = lambda _record: True,
        limits: ApplyLimits = LIMITS,
    ) -> Applier:
        """Goes on with the record on disk; the ``crash_at``-th write that ``counts`` is the last thing that happens."""
        path = self.folder / "record.json"
        record = read_record(path, plan) or fresh_record(plan)
        writes = itertools.count(1)

        def save() -> None:
            save_record(record, path)
            if counts(record) and next(writes) == crash_at:
                raise Crash

        return Applier(self.client, record, save, limits, lambda _number, _message: None)

    def dying(self, *, after: int) -> Callable[..., Awaitable[bytes]]:
        """``call`` of the client; the ``after``-th act on the cluster is the last thing that happens."""
        call, acts = self.client.call, itertools.count(1)

        async def dying(method: str, *words: Any, **more: Any) -> bytes:
            answer = await call(method, *words, **more)
            if method != "GET" and next(acts) == after:
                raise Crash
            return answer

        return dying

    def nothing_is_held(self) -> None:
        for body in self.pods().values():
            assert body["spec"].get("nodeName"), "bound"
            assert not body["spec"].get("schedulingGates")
            assert not body["status"].get("nominatedNodeName")
            assert TARGET_ANNOTATION not in body["metadata"].get("annotations", {})


@asynccontextmanager
async def cluster(folder: Path, *pods: dict[str, Any], nodes: str = "abc") -> AsyncIterator[Cluster]:
    async with api_server() as api, client_of(api, folder) as client:
        here = Cluster(api, client, folder)
        for name in nodes:
            api.put("nodes", node_object(name))
        for body in pods:
            api.put("pods", body)
            app = body["metadata"]["labels"]["app"]
            here.wanted[app] = here.wanted.get(app, 0) + 1
        task = asyncio.create_task(here.play())
        try:
            yield here
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


SPREAD = (pod("web-0", "a"), pod("web-1", "b"), pod("web-2", "b"), pod("web-3", "c", cpu="2"))


def copies() -> list[dict[str, Any]]:
    return copy.deepcopy(list(SPREAD))


async def test_nodes_are_cordoned_emptied_and_stay_closed_and_replacements_go_where_planned(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        assert await here.applier(plan).run() == PlanState.DONE
        deleted = [s.source for s in plan.steps if s.action == Action.DELETE]
        assert len(deleted) == 2
        assert here.cordoned() == sorted(deleted)
        assert len(set(here.homes())) == 1
        assert all(here.node(n)["metadata"]["annotations"][CORDON_ANNOTATION] for n in deleted)
        here.nothing_is_held()


async def test_killed_at_any_write_the_same_command_goes_on_and_evicts_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        async with cluster(folder, *copies()) as here:
            plan = await here.plan()
            moves = plan.count(Action.MOVE)
            try:
                await here.applier(plan, crash_at=number).run()
                break  # it wrote less often than that: every write has been the last one once
            except Crash:
                pass
            assert await here.applier(plan).run() == PlanState.DONE, number
            assert len(here.evicted) == moves, number
            assert len(set(here.homes())) == 1
            here.nothing_is_held()
    assert number > 10, "there were writes to be killed at"


@pytest.mark.parametrize("kind", ["consolidate", "rescue"])
async def test_killed_right_after_any_act_the_same_command_finds_it_done(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it meant to do was written down before."""
    look_often(monkeypatch)
    running = [pod("x-0", "a", "x", "4"), pod("y-0", "b", "y", "3")]
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        pods = copy.deepcopy(running) + [pod("big-0", "", "big", "6")] * (kind == "rescue")
        async with cluster(folder, *pods, nodes="ab") as here:
            here.api.ends_after_s = 0.05
            plan = await here.plan(kind)
            with monkeypatch.context() as patch:
                patch.setattr(here.client, "call", here.dying(after=number))
                try:
                    await here.applier(plan).run()
                    break
                except Crash:
                    pass
            assert await here.applier(plan).run() == PlanState.DONE, number
            assert len(here.evicted) == plan.count(Action.MOVE) == 1, number
            assert len([path for _, path in here.api.calls if path.endswith("/eviction")]) == 1, number
            assert "" not in here.homes()
            assert here.cordoned() == [step.source for step in plan.steps if step.action == Action.DELETE]
            here.nothing_is_held()
    assert number > 5, "there were acts to be killed after"


@pytest.mark.parametrize("status", [0, 429, 500, 503])
async def test_an_api_that_fails_now_and_then_is_asked_again(status: int, tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        for method, part in (("POST", "eviction"), ("PATCH", "/status"), ("PATCH", "nodes"), ("GET", "pods")):
            here.api.fail_next(method, part, status, after_effect=True)
        assert await here.applier(plan, limits=ApplyLimits(1, 5, outage_s=20)).run() == PlanState.DONE
        assert len(here.evicted) == plan.count(Action.MOVE)
        here.nothing_is_held()


async def test_an_api_that_stays_away_interrupts_and_keeps_everything_for_the_next_run(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        applier = here.applier(plan)
        for _ in range(40):
            here.api.fail_next("POST", "eviction", 503)
        with pytest.raises(ApiError):
            await applier.run()
        assert applier.record.outcome == PlanState.RUNNING
        assert len(here.cordoned()) == 1, "it will be wanted"
        here.api.faults.clear()
        assert await here.applier(plan).run() == PlanState.DONE


async def test_a_right_that_is_missing_is_named_with_the_manifest_that_grants_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        here.client.purpose = APPLIES
        plan = await here.plan()
        applier = here.applier(plan)
        here.api.fail_next("POST", "eviction", 403)
        with pytest.raises(
            ApiError, match=r"may not create pods/eviction: grant it .*components/plan-apply/rbac\.yaml"
        ):
            await applier.run()
        assert await here.applier(plan).run() == PlanState.DONE, "it goes on once that is granted"


async def test_a_budget_is_waited_for_and_a_long_refusal_stops_the_plan_and_opens_the_node(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        here.api.refusals = 2
        applier = here.applier(plan, limits=ApplyLimits(refusal_s=20, settle_s=5))
        assert await applier.run() == PlanState.DONE
    (tmp_path / "record.json").unlink()
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        here.api.refusals = 10**6
        applier = here.applier(plan)
        assert await applier.run() == PlanState.STOPPED
        assert "disruption budget" in applier.record.reason
        assert here.cordoned() == []
        assert here.evicted == []
        here.nothing_is_held()
        assert await here.applier(plan).run() == PlanState.STOPPED, "it is not begun again"


async def test_a_pod_that_a_second_budget_covers_meanwhile_ends_the_plan(tmp_path: Path) -> None:
    """The API would answer 500 for ever."""
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        for name in ("one", "two"):
            body = {"spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 5}}
            here.api.put("poddisruptionbudgets", body | {"metadata": {"name": name, "namespace": "default"}})
        applier = here.applier(plan)
        applier.record.steps[0].state = State.STARTED  # the whole plan was looked at before
        assert await applier.run() == PlanState.STOPPED
        assert "more than one PodDisruptionBudget" in applier.record.reason
        assert here.cordoned() == []
        assert here.evicted == []
        here.nothing_is_held()


def _leave(here: Cluster, how: str, plan: Plan) -> None:
    """Change reality after the first step."""
    move = next(s for s in plan.steps if s.action == Action.MOVE)
    name = move.name.partition("/")[2]
    if how == "gone":
        here.api.delete("pods", name, "default")
    elif how == "another pod of that name":
        here.api.delete("pods", name, "default")
        here.api.put("pods", pod(name, move.source))
        here.api.pod(name)["metadata"]["uid"] = "another"
    elif how == "marked":
        here.api.pod(name)["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] = "true"
    elif how == "being deleted":
        here.api.pod(name)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    elif how == "target cordoned":
        here.node(move.target)["spec"]["unschedulable"] = True
    elif how == "target tainted":
        here.node(move.target)["spec"]["taints"] = [{"key": "x", "effect": "NoSchedule"}]
    elif how == "target gone":
        here.api.delete("nodes", move.target)
    elif how == "more load":
        here.api.put("pods", pod("big", move.target, "other", "7500m"))
    elif how == "goes elsewhere":
        here.scheduled = lambda _nominated: "nowhere"
    elif how == "not bound":
        here.scheduled = lambda _nominated: ""
    elif how == "new pod on the emptied node":
        here.api.put("pods", pod("late", move.source, "other"))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("gone", "is gone"),
        ("another pod of that name", "is gone"),
        ("marked", "must not be moved: annotation"),
        ("being deleted", "being deleted"),
        ("target cordoned", "is cordoned"),
        ("target tainted", "has changed"),
        ("target gone", "is gone"),
        ("more load", "more load than planned"),
        ("goes elsewhere", "went to nowhere"),
        ("not bound", "was not bound within"),
        ("new pod on the emptied node", "is not empty"),
    ],
)
async def test_it_stops_where_reality_leaves_the_plan(how: str, says: str, tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        with pytest.raises(Crash):
            await here.applier(plan, crash_at=2).run()  # the first node is cordoned
        _leave(here, how, plan)
        applier = here.applier(plan)
        assert await applier.run() == PlanState.STOPPED
        assert says in applier.record.reason, applier.record.reason
        target = next(s.target for s in plan.steps if s.action == Action.MOVE)
        assert here.cordoned() == ([target] if how == "target cordoned" else [])
        assert not applier.record.nominated
        assert not applier.record.cordoned


async def test_killed_while_it_stops_the_same_command_gives_the_rest_back_and_does_nothing_else(tmp_path: Path) -> None:
    """Once a node is open again, a plan that went on would evict pods from it all the same, and call it emptied."""
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with cluster(folder, *copies()) as here:
            plan = await here.plan()
            here.scheduled = lambda _nominated: "nowhere"
            stopping = here.applier(plan, crash_at=number, counts=lambda record: record.outcome == PlanState.STOPPED)
            try:
                await stopping.run()
                break
            except Crash:
                pass
            evicted = list(here.evicted)
            here.scheduled = lambda nominated: nominated  # what stood in the way is gone
            again = here.applier(plan)
            assert await again.run() == PlanState.STOPPED
            assert "went to nowhere" in again.record.reason
            assert not again.record.owes
            assert (here.cordoned(), here.evicted) == ([], evicted), number
    assert number == 3, "it was killed before a node was opened, and after"


async def test_an_api_that_goes_away_while_a_plan_stops_is_no_reason_to_go_on_with_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        with pytest.raises(Crash):
            await here.applier(plan, crash_at=2).run()
        _leave(here, "marked", plan)
        for _ in range(40):
            here.api.fail_next("PATCH", "nodes", 503)
        applier = here.applier(plan)
        with pytest.raises(ApiError):
            await applier.run()
        assert here.cordoned()
        assert "some of what it held is still to be given back" in summary(applier.record)
        here.api.faults.clear()
        for body in here.pods().values():
            body["metadata"]["annotations"].clear()
        assert await here.applier(plan).run() == PlanState.STOPPED
        assert (here.cordoned(), here.evicted) == ([], [])


async def test_a_plan_that_no_longer_holds_is_not_begun(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        here.api.put("pods", pod("big", plan.steps[1].target, "other", "7500m"))
        assert "exceeded" in (await why_not_valid(here.client, plan))[0]
        applier = here.applier(plan)
        assert await applier.run() == PlanState.STOPPED
        assert here.evicted == []
        assert here.cordoned() == []


async def test_a_cordon_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        source = plan.steps[0].source
        here.node(source)["spec"]["unschedulable"] = True
        here.api.refusals = 10**6
        assert await here.applier(plan).run() == PlanState.STOPPED
        assert here.cordoned() == [source]


async def test_the_budget_of_evictions_is_never_exceeded(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        applier = here.applier(plan, limits=ApplyLimits(max_evictions=1))
        assert await applier.run() == PlanState.STOPPED
        assert len(here.evicted) == 1
        assert "budget of 1 evictions" in applier.record.reason


async def test_a_rescue_holds_the_place_before_it_makes_room(tmp_path: Path) -> None:
    waiting = pod("big-0", "", "big", "6")
    waiting["spec"].pop("schedulingGates")
    pods = (pod("x-0", "a", "x", "4"), pod("y-0", "b", "y", "3"), pod("z-0", "b", "z", "1"), waiting)
    async with cluster(tmp_path, *pods, nodes="ab") as here:
        plan = await here.plan("rescue")
        assert plan.count(Action.MOVE) + plan.count(Action.EVICT) >= 1
        assert await here.applier(plan).run() == PlanState.DONE
        assert here.pods()["big-0"]["spec"]["nodeName"]
        calls = here.api.calls
        assert calls.index(("PATCH", f"{PODS}/big-0/status")) < min(
            n for n, c in enumerate(calls) if "eviction" in c[1]
        )
        here.nothing_is_held()


async def test_a_place_is_not_held_while_others_of_the_plan_come_and_more_has_to_leave(tmp_path: Path) -> None:
    """Beside the nomination they would find no room, kube-scheduler's filters count it."""
    running = (pod("x-0", "a", "x", "4"), pod("w-0", "a", "w", "3"), pod("z-0", "c", "z"))
    async with cluster(tmp_path, *running, pod("big-0", "", "big", "6"), pod("tiny-0", "", "tiny")) as here:
        steps = (
            Step(Action.PLACE, "uid-tiny-0", "default/tiny-0", "", "a"),
            Step(Action.MOVE, "uid-x-0", "default/x-0", "a", "b"),
            Step(Action.MOVE, "uid-z-0", "default/z-0", "c", "a"),
            Step(Action.MOVE, "uid-w-0", "default/w-0", "a", "c"),
            Step(Action.PLACE, "uid-big-0", "default/big-0", "", "a"),
        )
        plan = Plan("rescue", Ending.DEADLINE, "pods placed", 2, 2, steps)
        assert await why_not_valid(here.client, plan) == []
        applier = here.applier(plan)
        assert await applier.run() == PlanState.DONE, applier.record.reason
        calls = here.api.calls
        held, leaves = ("PATCH", f"{PODS}/big-0/status"), ("POST", f"{PODS}/w-0/eviction")
        assert calls.index(held) < calls.index(leaves), "held before the last of it leaves"
        here.nothing_is_held()


async def test_a_circle_is_broken_by_an_eviction_whose_replacement_is_placed_later(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x"), pod("y-0", "b", "y"), nodes="ab") as here:
        steps = (
            Step(Action.EVICT, "uid-x-0", "default/x-0", "a", ""),
            Step(Action.MOVE, "uid-y-0", "default/y-0", "b", "a"),
            Step(Action.PLACE, "uid-x-0", "default/x-0", "", "b"),
        )
        applier = here.applier(Plan("rescue", Ending.DEADLINE, "pods placed", 2, 2, steps))
        assert await applier.run() == PlanState.DONE
        where = {p["metadata"]["labels"]["app"]: p["spec"]["nodeName"] for p in here.pods().values()}
        assert where == {"x": "b", "y": "a"}
        calls = here.api.calls
        held, leaves = calls.index(("PATCH", f"{PODS}/x-new-0/status")), calls.index(("POST", f"{PODS}/y-0/eviction"))
        let_go = calls.index(("PATCH", f"{PODS}/x-new-0"))
        assert held < leaves < let_go, "where it belongs there is no room before, so that it would go elsewhere"
        here.nothing_is_held()


PLACE_LATE = Plan(
    "batch", Ending.OPTIMAL, "pods placed", 1, 1, (Step(Action.PLACE, "uid-late", "default/late", "", "b"),)
)


async def test_a_nomination_is_written_again_only_where_it_was_cleared_and_another_process_gives_it_back(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, pod("late", "", "late")) as here:
        here.scheduled = lambda _nominated: ""
        applier = here.applier(PLACE_LATE)
        for written in (1, 1, 2):
            if written == 2:
                del here.pods()["late"]["status"]["nominatedNodeName"]
            found = await pod_of(here.client, PLACE_LATE.steps[0])
            assert found is not None
            await applier._nominate(found, "b")
            assert here.pods()["late"]["status"]["nominatedNodeName"] == "b"
            assert [c for c in here.api.calls if c[0] == "PATCH"] == [("PATCH", f"{PODS}/late/status")] * written
        other = here.applier(PLACE_LATE)
        assert other.record.nominated == {"uid-late": ("default", "late", "b")}
        await other.abandon()
        assert not here.pods()["late"]["status"].get("nominatedNodeName")
        assert not here.pods()["late"]["spec"].get("schedulingGates")


async def test_a_pod_that_was_bound_since_it_was_looked_at_is_not_nominated_and_the_plan_goes_on(
    tmp_path: Path,
) -> None:
    """The API server lets nobody nominate a bound pod (422); the next look sees where it is."""
    async with cluster(tmp_path, pod("late", "", "late")) as here:
        here.scheduled = lambda _nominated: ""
        applier = here.applier(PLACE_LATE)
        found = await pod_of(here.client, PLACE_LATE.steps[0])
        assert found is not None
        bound = here.pods()["late"]
        here.api.put("pods", bound | {"spec": bound["spec"] | {"nodeName": "a"}})
        await applier._nominate(found, "b")
        assert ("PATCH", f"{PODS}/late/status") in here.api.calls
        assert not here.pods()["late"]["status"].get("nominatedNodeName")


async def test_a_plan_can_be_given_up_after_a_crash(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        with pytest.raises(Crash):
            await here.applier(plan, crash_at=4).run()
        await here.applier(plan).abandon()
        assert here.cordoned() == []
        assert await here.applier(plan).run() == PlanState.ABANDONED


def test_a_record_belongs_to_one_plan_and_one_process(tmp_path: Path) -> None:
    step = Step(Action.CORDON, source="a")
    plan = Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, (step,))
    other = Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, (Step(Action.CORDON, source="b"),))
    path = tmp_path / "r.json"
    assert read_record(path, plan) is None
    save_record(fresh_record(plan), path)
    assert read_record(path, plan) == fresh_record(plan)
    with pytest.raises(RecordError, match="another plan"):
        read_record(path, other)
    for damaged in (
        path.read_bytes()[:50],
        path.read_bytes().replace(b"cordon", b"c\xffrdon"),
        b'{"x":' + b"[" * 100_000,
    ):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="damaged"):
            read_record(path, plan)
    path.write_text('{"kind":"PlanRecord","version":9,"id":"","plan":{},"outcome":"running","steps":[]}')
    with pytest.raises(RecordError, match="PlanRecord 9"):
        read_record(path, plan)
    with alone(path), pytest.raises(RecordError, match="another process"), alone(path):
        pass
    with pytest.raises(RecordError, match="cannot be written"):
        save_record(fresh_record(plan), tmp_path / "none" / "r.json")
    with pytest.raises(RecordError, match="cannot be written"), alone(tmp_path / "none" / "r.json"):
        pass


def test_plans_without_gangs_keep_the_ids_that_their_records_have() -> None:
    steps = (Step(Action.CORDON, source="a"), Step(Action.MOVE, "u", "ns/p", "a", "b"))
    plan = Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, steps)
    assert plan_id(plan) == "712d0cdbc0cb"
    assert plan_id(replace(plan, steps=(replace(steps[1], gang="ns/g"),))) != plan_id(replace(plan, steps=steps[1:]))


def test_records_of_plans_that_ended_go_by_age_and_by_size_and_no_other(tmp_path: Path) -> None:
    def put(name: str, outcome: PlanState, age_s: float, cordoned: Sequence[str] = ()) -> Path:
        record = fresh_record(
            Plan("consolidate", Ending.OPTIMAL, "nodes saved", 1, 1, (Step(Action.CORDON, source=name),))
        )
        record.outcome, record.cordoned = outcome, list(cordoned)
        path = tmp_path / f"{name}.record.json"
        with alone(path):
            save_record(record, path)
        os.utime(path, (10**6 - age_s, 10**6 - age_s))
        return path

    for old, outcome in enumerate((PlanState.DONE, PlanState.STOPPED, PlanState.ABANDONED)):
        put(f"old-{old}", outcome, 86_400 + 10)
    runs, owes = put("runs", PlanState.RUNNING, 10**6), put("owes", PlanState.STOPPED, 10**6, cordoned=["owes"])
    used, last = put("used", PlanState.DONE, 86_400 + 5), put("last", PlanState.DONE, 5)
    newer = [put(f"newer-{i}", PlanState.DONE, 100 - i) for i in range(3)]
    broken, foreign = tmp_path / "broken.record.json", tmp_path / "plan.json"
    broken.write_text("{")
    foreign.write_text("{}")
    for path in (broken, foreign):
        os.utime(path, (0, 0))
    with alone(used):
        assert Retention(1, 2**30).prune(tmp_path, 10**6) == 3
    kept = {runs, owes, used, last, *newer, broken, foreign}
    assert {path for path in tmp_path.iterdir() if path.suffix == ".json"} == kept
    assert len(list(tmp_path.glob("*.lock"))) == 7, "with the record goes its lock"
    room = last.stat().st_size + newer[2].stat().st_size
    assert Retention(1, room).prune(tmp_path, 10**6) == 3, "too old, and then the oldest"
    assert {path for path in tmp_path.iterdir() if path.suffix == ".json"} == kept - {used, *newer[:2]}
    assert Retention(1, 1).prune(tmp_path / "nowhere", 10**6) == 0


def test_a_lock_that_is_taken_away_before_it_is_held_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / "r.json", fcntl.flock
    lock = path.with_name("r.json.lock")

    def late(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        lock.unlink()  # somebody prunes the record at this moment
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with alone(path):
        with pytest.raises(RecordError, match="another process"), alone(path):
            pass
        assert lock.exists()


def test_a_plan_survives_its_document_and_a_foreign_document_is_refused() -> None:
    steps = (Step(Action.MOVE, "u", "ns/p", "a", "b"), Step(Action.DELETE, source="a"))
    plan = Plan("consolidate", Ending.DEADLINE, "USD", 1.5, 1.6, steps, ("x",), usd_per_hour=1.5, details={"m": 1.0})
    assert plan_of_document(plan_document(plan)) == plan
    for document in ({}, {"kind": "Pod"}, {"kind": "Plan", "plan": "dance"}, {"kind": "Plan", "steps": 3}):
        with pytest.raises(ConfigError, match="make one with"):
            plan_of_document(document)
    with pytest.raises(ConfigError, match="purchase plan adds machines"):
        fresh_record(Plan("purchase", Ending.OPTIMAL, "USD", 1, 1, (Step(Action.BUY, name="s"),), minimised=True))


async def test_a_nomination_that_outlived_a_binding_elsewhere_takes_no_room(tmp_path: Path) -> None:
    """Before 1.35 the API server leaves ``nominatedNodeName`` as it was when a pod is bound."""
    async with api_server() as api, client_of(api, tmp_path) as client:
        elsewhere, coming = pod("web-1", "node-0"), pod("web-2", "")
        elsewhere["status"]["nominatedNodeName"] = "node-1"
        api.put("pods", elsewhere)
        for name in ("node-0", "node-1"):
            api.put("nodes", {**node_object(name), "spec": {"unschedulable": True}})
        await require_emptied(client, "node-1")
        coming["status"]["nominatedNodeName"] = "node-1"
        api.put("pods", coming)
        with pytest.raises(PlanLeft, match="default/web-2 is there"):
            await require_emptied(client, "node-1")
        with pytest.raises(PlanLeft, match="default/web-1 is there"):
            await require_emptied(client, "node-0")


@pytest.mark.parametrize(("grace", "outcome"), [(60, PlanState.DONE), (0, PlanState.STOPPED)])
async def test_an_evicted_pod_has_its_own_grace_period_to_end(grace: int, outcome: PlanState, tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        for body in here.pods().values():
            body["spec"]["terminationGracePeriodSeconds"] = grace
        here.api.ends_after_s = 0.8
        applier = here.applier(await here.plan(), limits=ApplyLimits(refusal_s=0.5, settle_s=0.4, outage_s=0.3))
        assert await applier.run() == outcome
        assert outcome == PlanState.DONE or "did not end within" in applier.record.reason
