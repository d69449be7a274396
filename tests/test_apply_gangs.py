"""A gang in a plan that is applied: begun whole or not at all, and whole after every stop that is not a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from placement.planning.plans import Action, Ending, Plan, Step
from scheduler.errors import PlanPaused
from scheduler.gates import GATE
from scheduler.planning.applier import Applier, ApplyLimits
from scheduler.planning.record import PlanState, State
from tests.test_applier import LIMITS, PODS, Cluster, Crash, cluster, look_often, pod

pytestmark = pytest.mark.timeout(90)
LABEL = "scheduling.x-k8s.io/pod-group"


def member(number: int, on: str, cpu: str = "2") -> dict[str, Any]:
    body = pod(f"g-{number}", on, "g", cpu)
    body["metadata"]["labels"][LABEL] = "g"
    return body


def budget(allowed: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "g", "namespace": "default", "uid": "b"},
        "spec": {"selector": {"matchLabels": {"app": "g"}}},
        "status": {"disruptionsAllowed": allowed},
    }


def of_gang(number: int, source: str, target: str = "") -> Step:
    action = Action.MOVE if target else Action.EVICT
    return Step(action, f"uid-g-{number}", f"default/g-{number}", source, target, gang="default/g")


MOVES = (of_gang(0, "a", "d"), of_gang(1, "b", "d"), of_gang(2, "c", "d"))
PLAN = Plan("rescue", Ending.DEADLINE, "pods placed", 3, 3, MOVES)
AFTER_ANOTHER = replace(PLAN, steps=(Step(Action.EVICT, "uid-x-0", "default/x-0", "a"), *MOVES))


@asynccontextmanager
async def ganged(folder: Path, *more: dict[str, Any]) -> AsyncIterator[Cluster]:
    """A gang of three on three nodes, and a free one."""
    async with cluster(folder, *(member(i, "abc"[i]) for i in range(3)), *more, nodes="abcd") as here:
        yield here


def gang_of(here: Cluster) -> list[str]:
    """Nodes of its pods, '' for those that wait."""
    pods = here.pods().values()
    return sorted(p["spec"].get("nodeName") or "" for p in pods if p["metadata"]["labels"]["app"] == "g")


async def seen(applier: Applier, evicted: int) -> None:
    while sum(step.state in (State.EVICTED, State.DONE) for step in applier.record.steps) < evicted:
        await asyncio.sleep(0.005)


async def test_all_of_a_gang_leaves_before_any_of_it_comes_back_and_no_gate_goes_before_all_are_nominated(
    tmp_path: Path,
) -> None:
    async with ganged(tmp_path) as here:
        assert await here.applier(PLAN).run() == PlanState.DONE
        assert gang_of(here) == ["d"] * 3
        here.nothing_is_held()
        calls = here.api.calls
        evicted = [n for n, (_, path) in enumerate(calls) if path.endswith("/eviction")]
        nominated = [
            n for n, (how, path) in enumerate(calls) if how == "PATCH" and "g-new" in path and "/status" in path
        ]
        lifted = [
            n for n, (how, path) in enumerate(calls) if how == "PATCH" and "g-new" in path and "/status" not in path
        ]
        assert (len(evicted), len(nominated), len(lifted)) == (3, 3, 3)
        assert max(evicted) < min(nominated) <= max(nominated) < min(lifted)


async def test_killed_at_any_write_the_same_command_goes_on_with_the_gang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        async with ganged(folder) as here:
            try:
                await here.applier(PLAN, crash_at=number).run()
                break
            except Crash:
                pass
            assert await here.applier(PLAN).run() == PlanState.DONE, number
            assert len(here.evicted) == 3, number
            assert gang_of(here) == ["d"] * 3
            here.nothing_is_held()
    assert number > 10, "there were writes to be killed at"


async def test_a_replacement_that_was_seen_home_is_not_waited_for_again(tmp_path: Path) -> None:
    async with ganged(tmp_path) as here:
        applier = here.applier(PLAN)
        applier.say = stop_at_home
        with pytest.raises(Crash):
            await applier.run()
        states = [step.state for step in applier.record.steps]
        assert states == [State.DONE, State.EVICTED, State.EVICTED]
        here.wanted["g"] = 2
        here.api.delete(
            "pods", applier.record.steps[0].replacement_name.rpartition("/")[2], "default"
        )  # it has done its work
        again = here.applier(PLAN)
        assert await again.run() == PlanState.DONE, again.record.reason
        assert gang_of(here) == ["d"] * 2
        here.nothing_is_held()


async def test_while_nothing_comes_a_namespace_is_listed_ever_more_rarely_and_once_for_a_whole_gang(
    tmp_path: Path,
) -> None:
    """Without a template hash all of it is listed; three members, looked for four times a second, made 36 lists of this."""
    members = [member(i, "abc"[i]) for i in range(3)]
    for body in members:
        del body["metadata"]["labels"]["pod-template-hash"]
    async with cluster(tmp_path, *members, nodes="abcd") as here:
        here.wanted["g"] = 0
        applier = here.applier(PLAN, limits=replace(LIMITS, settle_s=3))
        assert await applier.run() == PlanState.STOPPED
        assert "did not appear" in applier.record.reason
        lists = [path for how, path in here.api.calls if how == "GET" and path == PODS]
        assert 2 < len(lists) <= 12


def stop_at_home(_number: int, message: str) -> None:
    if " is on " in message:
        raise Crash


@pytest.mark.parametrize("why", ["room", "evictions", "marked", "budget"])
async def test_a_gang_that_cannot_go_whole_does_not_go_at_all(why: str, tmp_path: Path) -> None:
    async with ganged(tmp_path) as here:
        limits, says = LIMITS, "cpu on d is exceeded"
        if why == "room":
            here.api.put("pods", pod("other", "d", "other", "3"))
        elif why == "evictions":
            limits, says = ApplyLimits(0.5, 2, 0.3, max_evictions=2), "2 evictions is used up, of which a gang of 3"
        elif why == "marked":
            here.api.pod("g-2")["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] = "true"
            says = "must not be touched"
        elif why == "budget":
            here.api.put("poddisruptionbudgets", budget(2))
            says = "disruption budget default/g is exceeded"
        applier = here.applier(PLAN, limits=limits)
        assert await applier.run() == PlanState.STOPPED
        assert says in applier.record.reason
        assert here.evicted == []
        assert gang_of(here) == ["a", "b", "c"]
        here.nothing_is_held()


@pytest.mark.parametrize(
    ("later", "says"), [("room", "no room for g-0, g-1, g-2"), ("budget", "lets 2 of 3 go now, for 0.5 s")]
)
async def test_what_a_gang_needs_is_looked_for_again_right_before_it_leaves(
    later: str, says: str, tmp_path: Path
) -> None:
    async with ganged(tmp_path, pod("x-0", "a", "x", "1")) as here:
        here.api.put("poddisruptionbudgets", budget(3))
        applier = here.applier(AFTER_ANOTHER)
        here.api.ends_after_s = 0.5  # time to change something before the gang is looked at
        applying = asyncio.create_task(applier.run())
        while not applier.record.evictions:
            await asyncio.sleep(0.005)
        if later == "room":
            here.api.put("pods", pod("other", "d", "other", "3"))
        else:
            here.api.put("poddisruptionbudgets", budget(2))
        assert await applying == PlanState.STOPPED
        assert says in applier.record.reason
        assert here.evicted == ["x-0"]


async def test_a_budget_that_would_let_some_of_a_gang_go_is_waited_for(tmp_path: Path) -> None:
    async with ganged(tmp_path, pod("x-0", "a", "x", "1")) as here:
        here.api.put("poddisruptionbudgets", budget(3))
        applier = here.applier(AFTER_ANOTHER, limits=ApplyLimits(refusal_s=20, settle_s=5))
        here.api.ends_after_s = 0.5  # time to change something before the gang is looked at
        applying = asyncio.create_task(applier.run())
        while not applier.record.evictions:
            await asyncio.sleep(0.005)
        here.api.put("poddisruptionbudgets", budget(2))
        await asyncio.sleep(1)
        assert here.evicted == ["x-0"]
        here.api.put("poddisruptionbudgets", budget(3))
        assert await applying == PlanState.DONE


async def test_a_refusal_in_the_middle_pauses_the_plan_says_how_the_gang_stands_and_the_next_run_goes_on(
    tmp_path: Path,
) -> None:
    async with ganged(tmp_path) as here:
        applier = here.applier(PLAN)
        here.api.evictions_left = 1
        with pytest.raises(PlanPaused) as paused:
            await applier.run()
        said = str(paused.value)
        assert "a disruption budget refused the eviction of default/g-1" in said
        assert "of gang default/g 1 of 3 pods are evicted, 0 replacements are bound" in said
        assert "the same command goes on with it" in said
        assert applier.record.outcome == PlanState.RUNNING
        here.api.evictions_left = 10
        again = here.applier(PLAN)
        assert await again.run() == PlanState.DONE
        assert (len(here.evicted), again.record.evictions) == (3, 3)
        assert gang_of(here) == ["d"] * 3
        here.nothing_is_held()


async def test_an_interruption_comes_between_no_evictions_of_a_gang(tmp_path: Path) -> None:
    async with ganged(tmp_path) as here:
        here.api.refusals = 1
        applier = here.applier(PLAN, limits=ApplyLimits(refusal_s=20, settle_s=5))
        applying = asyncio.create_task(applier.run())
        while not any(step.state == State.STARTED for step in applier.record.steps):
            await asyncio.sleep(0.005)
        here.api.refusals = 0
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        states = {step.state for step in applier.record.steps}
        assert states in ({State.EVICTED}, {State.STARTED}), "all or none"
        assert applier.record.outcome == PlanState.RUNNING
        assert await here.applier(PLAN).run() == PlanState.DONE
        assert len(here.evicted) == 3


async def test_somebody_who_stops_waits_for_no_budget(tmp_path: Path) -> None:
    async with ganged(tmp_path) as here:
        here.api.evictions_left = 1
        applier = here.applier(PLAN, limits=ApplyLimits(refusal_s=60, settle_s=5))
        applying = asyncio.create_task(applier.run())
        await seen(applier, 1)
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(20):
                await applying
        assert [step.state for step in applier.record.steps] == [State.EVICTED, State.STARTED, State.STARTED]


async def test_a_gang_that_gives_way_leaves_in_one_step_and_a_stop_behind_it_says_what_became_of_it(
    tmp_path: Path,
) -> None:
    waiting = pod("w-0", "", "w", "7")
    waiting["spec"]["schedulingGates"] = [{"name": GATE}]
    async with ganged(tmp_path, waiting) as here:
        here.wanted["g"] = 0  # nobody makes them anew
        steps = (*(of_gang(i, "abc"[i]) for i in range(3)), Step(Action.PLACE, "uid-w-0", "default/w-0", "", "a"))
        assert await here.applier(Plan("rescue", Ending.DEADLINE, "pods placed", 1, 4, steps)).run() == PlanState.DONE
        assert here.evicted == ["g-0", "g-1", "g-2"]
        here.nothing_is_held()
    (tmp_path / "record.json").unlink()
    async with ganged(tmp_path) as here:
        here.scheduled = lambda _nominated: "a"
        applier = here.applier(PLAN)
        assert await applier.run() == PlanState.STOPPED
        assert "went to a, not to d; of gang default/g 3 of 3 pods are evicted" in applier.record.reason
