"""The looks of an applied plan, one by one, and what it holds, steers and gives back on the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from placement import objects
from placement.owners import template_of
from placement.planning.plans import Action, Ending, Plan, Step
from placement.specs import pod_spec
from scheduler.evictions import CORDON_ANNOTATION, open_again
from scheduler.gates import TARGET_ANNOTATION, TIME_ANNOTATION, timestamp
from scheduler.planning import applier as applier_module
from scheduler.planning.applier import Applier, ApplyLimits, why_not_valid
from scheduler.planning.looks import PlanLeft, peers, require_emptied, require_room
from scheduler.planning.record import PlanState, State, plan_id, rows
from tests.api_server import api_server, client_of, node_object
from tests.test_applier import LIMITS, Cluster, Crash, cluster, copies, look_often, pod
from tests.test_apply_gangs import gang_of, member, of_gang
from tests.waiting import until

pytestmark = pytest.mark.timeout(90)
SLOW = ApplyLimits(refusal_s=20, settle_s=20, outage_s=0.3)


def plan_of(*steps: Step) -> Plan:
    return Plan("rescue", Ending.DEADLINE, "pods placed", 1, 1, steps)


def move(name: str, source: str, target: str) -> Step:
    return Step(Action.MOVE, f"uid-{name}", f"default/{name}", source, target)


def place(name: str, target: str) -> Step:
    return Step(Action.PLACE, f"uid-{name}", f"default/{name}", "", target)


def begun(here: Cluster, plan: Plan, limits: ApplyLimits = LIMITS) -> Applier:
    """As if the whole plan had been looked at before."""
    applier = here.applier(plan, limits=limits)
    applier.record.steps[0].state = State.STARTED
    return applier


# ── the whole plan ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (move("web-0", "a", "d"), "step 0: node d is gone"),
        (Step(Action.CORDON, source="d"), "step 0: node d is gone"),
        (move("web-9", "a", "b"), "step 0: pod default/web-9 is gone"),
        (place("held", "b"), "step 0: pod default/held is not to be placed now: it waits behind the gate kueue"),
        (move("web-0", "b", "c"), "step 0: pod uid-web-0 is not on b"),
    ],
)
async def test_what_is_wrong_with_a_plan_is_said_before_anything_is_done(step: Step, says: str, tmp_path: Path) -> None:
    held = pod("held", "", "held")
    held["spec"]["schedulingGates"].append({"name": "kueue"})
    async with cluster(tmp_path, *copies(), held) as here:
        assert await why_not_valid(here.client, plan_of(step)) == [says]


async def test_a_node_that_went_before_it_was_cordoned_stops_the_plan(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        applier = begun(here, plan_of(Step(Action.CORDON, source="d")))
        assert await applier.run() == PlanState.STOPPED
        assert applier.record.reason == "node d is gone"


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("owner", "opens"), [("", False), ("another", False), ("this", True)])
async def test_of_nodes_that_were_cordoned_before_only_its_own_are_opened(
    owner: str, opens: bool, tmp_path: Path
) -> None:
    """Its own: of a run whose record was lost."""
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        source = plan.steps[0].source
        here.node(source)["spec"]["unschedulable"] = True
        if owner:
            marks = {CORDON_ANNOTATION: plan_id(plan) if owner == "this" else owner}
            here.node(source)["metadata"]["annotations"] = marks
        here.api.refusals = 10**6
        assert await here.applier(plan).run() == PlanState.STOPPED
        assert here.cordoned() == ([] if opens else [source])


async def test_a_node_that_somebody_opened_once_it_was_emptied_is_not_closed_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        first = next(step.source for step in plan.steps if step.action == Action.DELETE)
        applier = here.applier(plan)
        applier.say = crash_at(f"{first} is empty")
        with pytest.raises(Crash):
            await applier.run()
        here.node(first)["spec"]["unschedulable"] = False
        here.api.put("pods", pod("new-0", first, "new"))
        applier = here.applier(plan)
        assert await applier.run() == PlanState.DONE
        assert first not in here.cordoned()
        opened = f"emptied, but since then node {first} was opened by somebody else"
        assert applier.record.reason == opened
        reasons = {
            row["what"]: row["reason"] for row in rows(applier.record) if str(row["what"]).startswith("see that")
        }
        assert sorted(reasons.values()) == ["as planned", opened]
        assert next(str(what) for what, why in reasons.items() if why == opened).startswith(f"see that {first} ")


async def test_a_node_that_somebody_opens_before_it_is_empty_is_not_said_to_be_emptied(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        plan = await here.plan()
        first = next(step.source for step in plan.steps if step.action == Action.DELETE)
        applier = here.applier(plan)

        def say(_number: int, message: str) -> None:
            if "is evicted" in message:
                here.node(first)["spec"]["unschedulable"] = False

        applier.say = say
        assert await applier.run() == PlanState.STOPPED
        assert applier.record.reason == f"node {first} was opened by somebody else"
        assert here.cordoned() == []


def crash_at(words: str) -> Callable[[int, str], None]:
    def say(_number: int, message: str) -> None:
        if words in message:
            raise Crash

    return say


async def test_a_node_is_opened_only_by_the_plan_that_closed_it_last(tmp_path: Path) -> None:
    async with cluster(tmp_path) as here:
        node = here.node("a")
        node["spec"]["unschedulable"], node["metadata"]["annotations"] = True, {CORDON_ANNOTATION: "theirs"}
        assert not await open_again(here.client, "a", "ours")
        assert here.cordoned() == ["a"]
        assert await open_again(here.client, "a", "theirs")
        assert here.cordoned() == []
        assert not await open_again(here.client, "d", "ours"), "it is gone"


# ── evictions ─────────────────────────────────────────────────────────────────────────────────────────────────


def marks(here: Cluster) -> dict[str, str]:
    """Pod → where it was said that its replacement belongs."""
    seen = [value["metadata"] for _, kind, _, value in here.api.history if kind == "pods"]
    return {meta["name"]: target for meta in seen if (target := meta.get("annotations", {}).get(TARGET_ANNOTATION))}


async def test_a_pod_says_where_its_replacement_belongs_before_it_is_evicted(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x"), pod("y-0", "b", "y"), pod("z-0", "b", "z"), nodes="ab") as here:
        here.wanted["z"] = 0
        steps = (Step(Action.EVICT, "uid-x-0", "default/x-0", "a"), move("y-0", "b", "a"), place("x-0", "b"))
        for_good = Step(Action.EVICT, "uid-z-0", "default/z-0", "b")
        assert await here.applier(plan_of(*steps, for_good)).run() == PlanState.DONE
        assert marks(here) == {"x-0": "b", "y-0": "a"}


@pytest.mark.parametrize("status", [404, 409])
async def test_an_eviction_that_finds_another_pod_or_none_is_looked_at_again(status: int, tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        here.api.fail_next("POST", "eviction", status)
        assert await here.applier(await here.plan()).run() == PlanState.DONE


async def test_a_place_that_is_held_is_said_to_be_so_as_long_as_a_budget_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier_module, "RENEW_S", 0.05)
    running = (pod("x-0", "a", "x", "4"), pod("y-0", "b", "y", "3"))
    async with cluster(tmp_path, *running, pod("big-0", "", "big", "6"), nodes="ab") as here:
        applier = here.applier(await here.plan("rescue"), limits=SLOW)
        here.api.refusals = 10**6
        work = asyncio.create_task(applier.run())
        await until(lambda: here.pods()["big-0"]["status"].get("nominatedNodeName"))
        here.pods()["big-0"]["metadata"]["annotations"][TIME_ANNOTATION] = timestamp(0)
        await until(lambda: here.pods()["big-0"]["metadata"]["annotations"][TIME_ANNOTATION] != timestamp(0))
        here.api.refusals = 0
        assert await work == PlanState.DONE, applier.record.reason
        here.nothing_is_held()


async def test_a_mark_that_comes_while_a_budget_is_waited_for_is_obeyed(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x")) as here:
        here.api.refusals = 10**6
        applier = here.applier(plan_of(move("x-0", "a", "b")), limits=SLOW)
        applying = asyncio.create_task(applier.run())
        await until(lambda: applier.record.marked)
        here.api.pod("x-0")["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] = "true"
        assert await applying == PlanState.STOPPED
        assert "must not be moved: annotation karpenter.sh/do-not-disrupt=true" in applier.record.reason
        assert marks(here) == {"x-0": "b"}
        here.nothing_is_held()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body["status"].update(phase="Succeeded"), "is gone"),
        (lambda body: body["spec"].update(nodeName="c"), "is on c, not on a"),
        (lambda body: body["metadata"].update(ownerReferences=[]), "nobody would recreate it"),
    ],
)
async def test_a_pod_that_is_not_what_was_planned_stops_the_plan(
    change: Callable[[dict[str, Any]], None], says: str, tmp_path: Path
) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x"), pod("y-0", "b", "y")) as here:
        applier = here.applier(plan_of(move("y-0", "b", "c"), move("x-0", "a", "b")))
        applier.say = lambda number, _message: change(here.api.pod("x-0")) if number == 0 else None
        assert await applier.run() == PlanState.STOPPED
        assert says in applier.record.reason
        assert here.evicted == ["y-0"]


async def test_a_grace_period_that_whoever_deletes_gives_counts_for_the_pods_own(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x", deletionGracePeriodSeconds=60)) as here:
        here.api.ends_after_s = 0.8
        applier = here.applier(plan_of(move("x-0", "a", "b")), limits=replace(LIMITS, settle_s=0.4))
        assert await applier.run() == PlanState.DONE, applier.record.reason


async def test_pods_of_a_gang_change_places_on_full_nodes(tmp_path: Path) -> None:
    """What leaves takes no room for what comes, and each node is asked for what comes to it."""
    others = [pod("p-0", "a", "p", "3"), pod("q-0", "b", "q", "3")]
    async with cluster(tmp_path, member(0, "a", "5"), member(1, "b", "5"), *others, nodes="ab") as here:
        applier = here.applier(plan_of(of_gang(0, "a", "b"), of_gang(1, "b", "a")))
        assert await applier.run() == PlanState.DONE, applier.record.reason
        assert gang_of(here) == ["a", "b"]


# ── replacements ──────────────────────────────────────────────────────────────────────────────────────────────


def is_gated(here: Cluster, name: str) -> bool:
    return bool(here.pods()[name]["spec"].get("schedulingGates"))


async def test_no_gate_of_a_gang_goes_before_all_its_replacements_have_come(tmp_path: Path) -> None:
    async with cluster(tmp_path, *(member(i, "abc"[i]) for i in range(3)), nodes="abcd") as here:
        here.wanted["g"] = 1
        applier = here.applier(plan_of(*(of_gang(i, "abc"[i], "d") for i in range(3))), limits=SLOW)
        applying = asyncio.create_task(applier.run())
        await until(lambda: "g-new-0" in here.pods() and here.pods()["g-new-0"]["status"].get("nominatedNodeName"))
        looks = len(here.api.calls)
        await until(lambda: len(here.api.calls) > looks + 3)
        assert is_gated(here, "g-new-0")
        here.wanted["g"] = 3
        assert await applying == PlanState.DONE
        here.nothing_is_held()


async def test_who_was_taken_for_the_replacement_stays_it_when_another_pod_comes(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x")) as here:
        here.scheduled = lambda _nominated: ""
        applier = here.applier(plan_of(move("x-0", "a", "b")), limits=SLOW)
        applying = asyncio.create_task(applier.run())
        await until(lambda: applier.record.steps[0].replacement)
        here.wanted["x"] = 2
        here.api.put("pods", pod("x-added", "", "x"))  # listed before it
        looks = len(here.api.calls)
        await until(lambda: len(here.api.calls) > looks + 5)
        here.scheduled = lambda nominated: nominated
        assert await applying == PlanState.DONE
        assert applier.record.steps[0].replacement_name == "default/x-new-0"
        assert not here.pods()["x-added"]["status"].get("nominatedNodeName")


async def test_a_replacement_that_is_to_be_placed_later_and_goes_is_followed_by_the_next(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x"), pod("y-0", "b", "y"), pod("v-0", "b", "v")) as here:
        leaves = Step(Action.EVICT, "uid-x-0", "default/x-0", "a")
        steps = (move("v-0", "b", "c"), leaves, move("y-0", "b", "a"), place("x-0", "b"))
        here.scheduled = lambda nominated: "" if nominated == "b" else nominated
        applier = here.applier(plan_of(*steps), limits=SLOW)
        applying = asyncio.create_task(applier.run())
        await until(lambda: "x-new-1" in here.pods() or applying.done())
        await until(lambda: not is_gated(here, "x-new-1"))
        here.api.delete("pods", "x-new-1", "default")
        here.scheduled = lambda nominated: nominated
        assert await applying == PlanState.DONE
        assert not [path for _, path in here.api.calls if "//" in path], "nobody looks for it before it has left"
        here.nothing_is_held()


async def test_a_gang_that_is_placed_after_all_have_left_is_nominated_whole_before_a_gate_goes(tmp_path: Path) -> None:
    async with cluster(tmp_path, member(0, "a"), member(1, "b"), nodes="abc") as here:
        places = (place("g-0", "c"), place("g-1", "c"))
        applier = here.applier(plan_of(of_gang(0, "a"), of_gang(1, "b"), *places))
        assert await applier.run() == PlanState.DONE, applier.record.reason
        assert gang_of(here) == ["c", "c"]
        patched = [path for how, path in here.api.calls if how == "PATCH" and "g-new" in path]
        assert [path.endswith("/status") for path in patched] == [True, True, False, False]
        here.nothing_is_held()


async def test_a_replacement_that_goes_between_a_look_and_a_patch_is_looked_for_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("x-0", "a", "x")) as here:
        for _ in ("the nomination", "the gate"):
            here.api.fail_next("PATCH", "x-new", 404)
        assert await here.applier(plan_of(move("x-0", "a", "b"))).run() == PlanState.DONE
        here.nothing_is_held()


async def test_whatever_ended_well_is_held_by_nobody_in_the_record(tmp_path: Path) -> None:
    async with cluster(tmp_path, *copies()) as here:
        applier = here.applier(await here.plan())
        assert await applier.run() == PlanState.DONE
        assert (applier.record.cordoned, applier.record.nominated, applier.record.marked) == ([], {}, {})


async def test_given_up_right_after_any_act_it_takes_back_what_it_has_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with cluster(folder, pod("x-0", "a", "x"), pod("y-0", "b", "y"), nodes="ab") as here:
            plan = await here.plan()
            here.scheduled = lambda _nominated: ""
            applier = here.applier(plan, limits=replace(LIMITS, settle_s=0.3))
            with monkeypatch.context() as patch:
                patch.setattr(here.client, "call", here.dying(after=number))
                try:
                    await applier.run()
                    break
                except Crash:
                    pass
            if applier.record.outcome == PlanState.RUNNING:  # else it was giving back already
                await here.applier(plan).abandon()
                pods = here.pods().values()
                assert here.cordoned() == [], number
                assert not any(TARGET_ANNOTATION in p["metadata"].get("annotations", {}) for p in pods), number
                assert not any(p["status"].get("nominatedNodeName") for p in pods), number
    assert number > 5, "there were acts to be killed after"


# ── pending pods ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_pods_that_are_placed_already_are_not_asked_for_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("p-0", "", "p"), pod("q-0", "", "q")) as here:
        applier = here.applier(plan_of(place("p-0", "a"), place("q-0", "b")))
        applier.record.steps[0].state = State.DONE
        here.wanted["p"] = 0
        here.api.delete("pods", "p-0", "default")  # it has done its work
        assert await applier.run() == PlanState.DONE, applier.record.reason
        assert here.homes() == ["b"]


async def test_a_pod_that_goes_while_it_is_waited_for_stops_the_plan(tmp_path: Path) -> None:
    async with cluster(tmp_path, pod("p-0", "", "p")) as here:
        here.wanted["p"] = 0
        here.scheduled = lambda _nominated: ""
        applier = here.applier(plan_of(place("p-0", "a")), limits=SLOW)
        applying = asyncio.create_task(applier.run())
        await until(lambda: not is_gated(here, "p-0"))
        here.api.delete("pods", "p-0", "default")
        assert await applying == PlanState.STOPPED
        assert applier.record.reason == "pod default/p-0 is gone"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("gone", "pod default/p-0 is gone"),
        ("full", "node a carries more load than planned: no room for p-0"),
        ("not bound", "pod default/p-0 was nominated to a but not bound in 0.5 s"),
    ],
)
async def test_a_pending_pod_that_cannot_be_placed_as_planned_stops_the_plan(
    how: str, says: str, tmp_path: Path
) -> None:
    async with cluster(tmp_path, pod("p-0", "", "p")) as here:
        applier = begun(here, plan_of(place("p-0", "a")), replace(LIMITS, settle_s=0.5))
        if how == "gone":
            here.wanted["p"] = 0
            here.api.delete("pods", "p-0", "default")
        elif how == "full":
            here.api.put("pods", pod("big", "a", "other", "7500m"))
        here.scheduled = lambda _nominated: ""
        assert await applier.run() == PlanState.STOPPED
        assert applier.record.reason == says
        assert not any(body["status"].get("nominatedNodeName") for body in here.pods().values())


# ── single looks ──────────────────────────────────────────────────────────────────────────────────────────────


def read(body: dict[str, Any]) -> objects.Pod:
    return msgspec.convert(body, objects.Pod)


async def test_room_is_what_those_who_run_leave_of_what_the_pod_asks_for(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        api.put("nodes", node_object("a"))
        over, ended = pod("over", "a", cpu="1"), pod("ended", "a", cpu="8")
        over["spec"]["containers"][0]["resources"]["requests"]["example.com/port"] = "1"
        ended["status"]["phase"] = "Failed"
        for body in (over, ended):
            api.put("pods", body)
        await require_room(client, [read(pod("fits", "", cpu="7"))], "a")
        asks = pod("asks", "", cpu="1")
        asks["spec"]["containers"][0]["resources"]["requests"]["example.com/other"] = "1"
        for bodies in ([pod("large", "", cpu="7001m")], [asks], [pod("plain", ""), asks]):
            with pytest.raises(PlanLeft, match="no room for"):
                await require_room(client, [read(body) for body in bodies], "a")


def made_strange(body: dict[str, Any]) -> dict[str, Any]:
    """A pod with GPU annotations that its owner edited until they make no sense."""
    body["spec"]["containers"][0]["resources"]["requests"]["ullage.dev/gpu-milli"] = "500"
    body["metadata"]["annotations"]["ullage.dev/gpu-count"] = "many"
    return body


@pytest.mark.parametrize("label", ["pod-template-hash", "controller-revision-hash"])
async def test_peers_are_those_who_live_and_come_from_the_same_template(label: str, tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        alike, ended, leaving, other = (pod(name, "a") for name in ("alike", "ended", "leaving", "other"))
        strange = made_strange(pod("strange", ""))
        for body in (alike, ended, leaving, other, strange):
            body["metadata"]["labels"] = {label: "1"}
            api.put("pods", body)
        ended["status"]["phase"] = "Succeeded"
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        other["metadata"]["ownerReferences"][0]["name"] = "api"
        found = await peers(client, template_of(pod_spec(read(alike))))
        assert sorted(body.metadata.name for body in found) == ["alike", "strange"]


async def test_a_node_whose_own_pods_are_left_is_empty(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client:
        agent, ended = made_strange(pod("agent", "a")), pod("ended", "a")
        agent["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet"
        ended["status"]["phase"] = "Succeeded"
        for body in (agent, ended):
            api.put("pods", body)
        await require_emptied(client, "a")  # it is gone
        api.put("nodes", node_object("a"))
        with pytest.raises(PlanLeft, match="node a was opened by somebody else"):
            await require_emptied(client, "a")
        api.put("nodes", {**node_object("a"), "spec": {"unschedulable": True}})
        await require_emptied(client, "a")
        api.put("pods", pod("web", "a"))
        with pytest.raises(PlanLeft, match="default/web is there"):
            await require_emptied(client, "a")
