"""Live batches against an API over real HTTP whose faults are chosen; no scheduler takes part.

Most tests run the planner here; the last ones run the app, which keeps it in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from placement import gangs
from placement.planning.batch import Batch, Batched
from scheduler import gates
from scheduler.api import Who
from scheduler.errors import ApiError
from scheduler.gates import GATE, NODE_ANNOTATION, TARGET_ANNOTATION, TIME_ANNOTATION, timestamp, unix_of
from scheduler.ledger import Seen
from scheduler.planning import nominator
from scheduler.planning.adherence import EXPIRED
from scheduler.planning.nominator import Nominator
from scheduler.planning.planner import Planner
from scheduler.planning.planner_process import Order
from scheduler.planning.solver import SolverError
from scheduler.settings import PlanSettings, Settings
from tests.api_server import ApiServer, client_of, node_object, pod_object
from tests.live_engine import Live, cpu_pod
from tests.waiting import until
from tests.whole_app import cluster, running

pytestmark = pytest.mark.timeout(90)
PLAN = PlanSettings(enabled=True, window_s=0.05, time_s=0.05, nomination_deadline_s=600, gate_deadline_s=600)
"""Deadlines that no test reaches, on however busy a machine."""
HASTY = replace(PLAN, nomination_deadline_s=1)


def gated(name: str, cpu: str = "2", **meta: Any) -> dict[str, Any]:
    """A pod behind our gate."""
    body = pod_object(name, cpu=cpu, **meta)
    body["spec"]["schedulingGates"] = [{"name": GATE}]
    return body


def member(gang: str, number: int, size: int, cpu: str = "2") -> dict[str, Any]:
    """One pod of a gang."""
    marks = {"labels": {"scheduling.x-k8s.io/pod-group": gang}, "annotations": {gangs.SIZE: str(size)}}
    return gated(f"{gang}{number}", cpu, **marks)


def is_free(api: ApiServer, name: str) -> bool:
    return not api.pod(name)["spec"].get("schedulingGates")


def nominated(api: ApiServer, name: str) -> str:
    return str(api.pod(name)["status"].get("nominatedNodeName") or "")


@asynccontextmanager
async def planning(
    api: ApiServer, folder: Path, order: Order | None = None, plan: PlanSettings = PLAN
) -> AsyncIterator[Planner]:
    """The planner, in this process."""
    async with client_of(api, folder, page_size=2) as client:
        planner = Planner(Settings(plan=plan), client, order or Order(float("inf")))
        work = asyncio.create_task(planner.run())
        try:
            yield planner
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def outcome(planner: Planner, word: str) -> float:
    return planner.metrics.registry.get_sample_value("ullage_plan_pods_total", {"outcome": word}) or 0.0


def bind(api: ApiServer, name: str, node: str) -> None:
    """What kube-scheduler would do."""
    body = api.pod(name)
    body["spec"]["nodeName"] = node
    body["status"].pop("nominatedNodeName", None)
    api.put("pods", body)


async def test_gated_pods_are_nominated_freed_and_counted_when_bound(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        for i in range(6):
            api.put("pods", gated(f"p{i}", "3"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(6)))
        homes = [nominated(api, f"p{i}") for i in range(6)]
        assert all(homes.count(home) == 2 for home in homes), "two pods of three cores fit on a node of eight"
        assert all(api.pod(f"p{i}")["metadata"]["annotations"][NODE_ANNOTATION] == homes[i] for i in range(6))
        for i in range(5):
            bind(api, f"p{i}", homes[i])
        elsewhere = next(home for home in homes if home != homes[5])
        bind(api, "p5", elsewhere)
        await until(lambda: outcome(planner, "as planned") == 5 and outcome(planner, "elsewhere") == 1)
        text = planner.metrics.expose().decode()
        assert 'ullage_plan_gap_ratio{kind="batch"}' in text
        assert 'ullage_plan_value{kind="batch"} 6.0' in text


async def test_nominations_carry_the_time_of_the_api_server(tmp_path: Path) -> None:
    """The sweeper goes by it, and would clear those of a planner whose clock is behind as soon as they are written."""
    server_s = 10**9
    async with cluster() as api:
        api.date = format_datetime(datetime.fromtimestamp(server_s, UTC), usegmt=True)
        async with planning(api, tmp_path):
            api.put("pods", gated("p"))
            await until(lambda: is_free(api, "p"))
        planned_s = unix_of(api.pod("p")["metadata"]["annotations"][TIME_ANNOTATION])
        assert planned_s is not None
        assert server_s <= planned_s < server_s + 10**6


async def test_a_batch_is_closed_when_nobody_came_for_half_of_the_window(tmp_path: Path) -> None:
    plan = replace(PLAN, window_s=600, gate_deadline_s=10**6)
    async with cluster() as api, planning(api, tmp_path, plan=plan) as planner:
        ledger, later_s = planner.engine.ledger, 0
        clock = ledger.clock
        ledger.clock = lambda: clock() + later_s
        for number in range(2):
            api.put("pods", gated(f"p{number}"))
            await until(lambda number=number: len(ledger.gated) == number + 1)
            await asyncio.sleep(0.1)  # seen by the planner
            later_s += 100
        await asyncio.sleep(0.3)
        assert not any(nominated(api, f"p{i}") for i in range(2)), "the second came 100 s ago"
        later_s += 250
        await until(lambda: all(is_free(api, f"p{i}") for i in range(2)))
        assert planner.metrics.registry.get_sample_value("ullage_plan_batches_total", {"ending": "optimal"}) == 1


@pytest.mark.parametrize("max_pods", [500, 2])
async def test_where_room_is_short_it_goes_to_the_highest_priority(max_pods: int, tmp_path: Path) -> None:
    """Three nodes of eight cores: two for those that came last, the third for the gang; also where a batch is cut short."""

    def ranked(body: dict[str, Any], priority: int) -> dict[str, Any]:
        body["spec"]["priority"] = priority
        return body

    plan = replace(PLAN, window_s=0.5, max_pods=max_pods)
    async with cluster() as api, planning(api, tmp_path, plan=plan):
        for i in range(3):
            api.put("pods", ranked(gated(f"early{i}", "6"), -1))
        for i in range(2):
            api.put("pods", ranked(member("g", i, 2, "3"), 5))
        for i in range(2):
            api.put("pods", ranked(gated(f"late{i}", "7"), 1000))
        await until(lambda: all(is_free(api, f"late{i}") and is_free(api, f"g{i}") for i in range(2)))
        assert nominated(api, "late0") != nominated(api, "late1")
        assert (
            nominated(api, "g0") == nominated(api, "g1") not in ("", nominated(api, "late0"), nominated(api, "late1"))
        )
        await asyncio.sleep(1.2)  # two more windows
        assert not any(nominated(api, f"early{i}") or is_free(api, f"early{i}") for i in range(3)), (
            "they wait, planned for nobody"
        )


async def test_pods_that_fit_nowhere_fill_no_batch_after_batch_however_important(tmp_path: Path) -> None:
    plan = replace(PLAN, max_pods=2)
    async with cluster() as api, planning(api, tmp_path, plan=plan) as planner:
        for i in range(2):
            large = gated(f"large{i}", "100")
            large["spec"]["priority"] = 1000
            api.put("pods", large)
        await until(lambda: len(planner.engine.ledger.gated) == 2)
        for i in range(3):
            api.put("pods", gated(f"p{i}"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(3)))
        assert all(nominated(api, f"p{i}") for i in range(3))
        assert not is_free(api, "large0")


async def test_room_that_others_were_evicted_for_is_the_preemptors(tmp_path: Path) -> None:
    """Their victims are gone, and kube-scheduler tries it again when its back-off ends."""
    async with cluster() as api, planning(api, tmp_path) as planner:
        waits = pod_object("preemptor", cpu="8")
        waits["status"]["nominatedNodeName"] = "node-0001"
        api.put("pods", waits)
        await until(lambda: "uid-preemptor" in planner.engine.ledger.pods)
        for i in range(3):
            api.put("pods", gated(f"p{i}", "8"))
        await until(lambda: sum(is_free(api, f"p{i}") for i in range(3)) == 2)
        await asyncio.sleep(0.5)  # several windows
        assert sorted(nominated(api, f"p{i}") for i in range(3)) == ["", "node-0000", "node-0002"]
        assert "uid-preemptor" not in planner.engine.ledger.reservations
        api.delete("pods", "preemptor", "default")
        await until(lambda: all(is_free(api, f"p{i}") for i in range(3)))


async def test_quantities_that_are_a_mistake_keep_nobody_else_from_being_planned(tmp_path: Path) -> None:
    """Whoever may make pods in one namespace could stop all planning; a kubelet could as well."""
    async with cluster() as api, planning(api, tmp_path) as planner:
        for i in range(3):
            pod, node = gated(f"hog{i}"), node_object(f"vast{i}")
            pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = "3Ei"
            node["status"]["allocatable"]["memory"] = "3Ei"
            api.put("nodes", node)
            api.put("pods", pod)
        await until(lambda: len(planner.engine.ledger.gated) == 3)
        api.put("pods", gated("p"))
        await until(lambda: is_free(api, "p"))
        assert nominated(api, "p")


async def test_a_pod_behind_a_gate_of_others_as_well_takes_no_room_until_that_is_gone(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path):
        body = gated("held", "8")
        body["spec"]["schedulingGates"].append({"name": "kueue.x-k8s.io/admission"})
        api.put("pods", body)
        for i in range(3):
            api.put("pods", gated(f"p{i}", "8"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(3)))
        homes = {nominated(api, f"p{i}") for i in range(3)}
        assert len(homes - {""}) == 3, "nothing is kept for the other"
        assert nominated(api, "held") == ""
        for i in range(3):
            api.delete("pods", f"p{i}", "default")
        body["spec"]["schedulingGates"].pop()
        api.put("pods", body)
        await until(lambda: is_free(api, "held"))
        assert nominated(api, "held")


async def test_batches_that_overlap_never_promise_the_same_room_twice(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        for i in range(12):
            api.put("pods", gated(f"p{i}"))
            await asyncio.sleep(0.03)
        await until(lambda: all(is_free(api, f"p{i}") for i in range(12)))
        homes = [nominated(api, f"p{i}") for i in range(12)]
        assert all(homes.count(home) <= 4 for home in homes)
        batches = planner.metrics.registry.get_sample_value("ullage_plan_solve_seconds_count")
        assert (batches or 0) > 1


@pytest.mark.parametrize(
    ("part", "order"),
    [(100, 12 * "N" + 12 * "L"), (4, 8 * "N" + 4 * "L" + 4 * "N" + 8 * "L"), (1, "N" + 11 * "NL" + "L")],
)
async def test_no_gate_goes_right_after_its_nomination(
    part: int, order: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The API server's cache would have the pod as it was before, and the write would be done twice."""
    monkeypatch.setattr(nominator, "PART", part)
    async with cluster() as api:
        for i in range(12):
            api.put("pods", gated(f"p{i}"))
        async with planning(api, tmp_path):
            await until(lambda: all(is_free(api, f"p{i}") for i in range(12)))
    assert "".join("N" if path.endswith("/status") else "L" for method, path in api.calls if method == "PATCH") == order


async def test_a_gang_waits_until_it_is_whole_and_fits_whole(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path):
        for i in range(3):
            api.put("pods", member("g", i, 4))
        api.put("pods", gated("alone"))
        await until(lambda: is_free(api, "alone"))
        assert not any(is_free(api, f"g{i}") for i in range(3))
        api.put("pods", member("g", 3, 4))
        await until(lambda: all(is_free(api, f"g{i}") for i in range(4)))
        running = member("half", 0, 2)
        del running["spec"]["schedulingGates"]
        api.put("pods", running)
        api.put("pods", member("half", 1, 2))
        await until(lambda: is_free(api, "half1"))
        for i in range(4):
            api.put("pods", member("h", i, 4, "7"))
        await asyncio.sleep(0.5)
        assert not any(nominated(api, f"h{i}") for i in range(4)), "they do not fit, so none is begun"


async def test_members_that_leave_or_wait_for_others_do_not_make_a_gang_whole(tmp_path: Path) -> None:
    """A gang that is begun anew: its old pods still end while the first of the new ones come."""
    async with cluster() as api, planning(api, tmp_path) as planner:
        old = member("g", 0, 2)
        del old["spec"]["schedulingGates"]
        old["spec"]["nodeName"] = "node-0000"
        leaving, held = member("leaving", 1, 2), member("held", 1, 2)
        held["spec"]["schedulingGates"].append({"name": "kueue.x-k8s.io/admission"})
        for body in (old, leaving):
            body["metadata"]["deletionTimestamp"] = timestamp(0)
        for body in (
            old,
            leaving,
            held,
            member("g", 1, 2),
            member("leaving", 0, 2),
            member("held", 0, 2),
            gated("alone"),
        ):
            api.put("pods", body)
        await until(lambda: is_free(api, "alone"))
        await asyncio.sleep(0.3)  # several windows
        assert not any(is_free(api, name) for name in ("g1", "leaving0", "held0"))
        api.put("pods", member("g", 2, 2))
        await until(lambda: is_free(api, "g1") and is_free(api, "g2"))
        assert not planner.engine.ledger.pods["uid-leaving1"].is_gated


@pytest.mark.parametrize("status", [500, 0])
async def test_a_patch_that_fails_is_done_again_and_nothing_stays_reserved(status: int, tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        api.fail_next("PATCH", "/status", status)
        api.fail_next("PATCH", "/pods/p", status, after_effect=True)
        for i in range(4):
            api.put("pods", gated(f"p{i}"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(4)))
        for i in range(4):
            bind(api, f"p{i}", nominated(api, f"p{i}"))
        await until(lambda: outcome(planner, "as planned") == 4)
        assert not planner.engine.ledger.reservations


class Taking:
    """An API that takes every patch."""

    async def call(self, *_args: object, **_more: object) -> bytes:
        return b""


async def test_many_pods_that_are_let_go_are_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planner = Nominator(Live(tmp_path / "records.db").engine, Taking(), PLAN)
    pods = {Seen(f"p{i}", f"p{i}", "shop", 1, cpu_pod(1)): nominator.UNCOVERED for i in range(300)}
    with caplog.at_level(logging.INFO, logger="scheduler.planning.nominator"):
        await planner._let_go(pods)
    (said,) = caplog.records
    assert (vars(said)["pods"], vars(said)["reason"]) == (300, nominator.UNCOVERED)
    planner.solver.close()


class Refusing:
    """An API that takes no patch."""

    async def call(self, *_args: object, **_more: object) -> bytes:
        raise ApiError("429 too many requests", 429)


async def test_a_pod_that_is_refused_again_and_again_is_tried_less_and_less_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch a window, each pod of it patched anew, would keep an API server that is overloaded as it is."""
    live, now_s = Live(tmp_path / "records.db"), 0.0
    live.ledger.clock = lambda: now_s
    planner = Nominator(live.engine, Refusing(), PLAN)
    bad, good = (Seen(name, name, "shop", 1, cpu_pod(1), is_gated=True) for name in ("bad", "good"))
    for seen in (bad, good):
        live.ledger.see(seen)
    assert planner.ready() == []
    waits = []
    for _ in range(8):
        now_s += 10
        assert set(planner.ready()) == {bad, good}
        assert not await planner._lift(bad)
        began_s = now_s
        while bad not in planner.ready():
            assert planner.ready() == [good], "whose own patches are not refused"
            now_s += 0.1
        waits.append(now_s - began_s)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(5, abs=0.2)
    assert [r.message for r in caplog.records].count("planned pod not patched") == 1
    planner.solver.close()


async def test_a_pod_that_rests_has_no_batch_closed(tmp_path: Path) -> None:
    """Pods for which there is no place were solved for at every tick meanwhile."""
    live, now_s = Live(tmp_path / "records.db"), 0.0
    live.ledger.clock = lambda: now_s
    planner = Nominator(live.engine, Refusing(), replace(PLAN, window_s=1))
    large, bad = (
        Seen(name, name, "shop", 1, cpu_pod(cpu), is_gated=True) for name, cpu in (("large", 100), ("bad", 1))
    )
    for seen in (large, bad):
        live.ledger.see(seen)
    assert planner.ready() == []
    for _ in range(6):
        assert not await planner._lift(bad)
    now_s = 1.0
    assert planner.ready() == [large]
    await planner.plan([large])
    now_s = 1.9
    assert planner.ready() == [], "the window is not over"
    now_s = 2.0
    assert planner.ready() == [large]
    now_s = 5.0
    assert planner.ready() == [bad, large], "it has rested"
    planner.solver.close()


async def test_of_pods_that_matter_the_same_the_oldest_come_first(tmp_path: Path) -> None:
    live, now_s = Live(tmp_path / "records.db"), 0.0
    live.ledger.clock = lambda: now_s
    planner = Nominator(live.engine, Taking(), replace(PLAN, max_pods=10))
    pods = [Seen(f"p{i}", f"p{i}", "shop", 1, cpu_pod(1), is_gated=True) for i in range(30)]
    for seen in pods:
        live.ledger.see(seen)
    assert planner.ready() == []
    now_s = 1.0
    assert planner.ready() == pods[:10]
    planner.solver.close()


async def test_gates_whose_deadline_is_over_are_lifted_from_the_oldest_on(tmp_path: Path) -> None:
    lifted: list[str] = []

    class Noting(Taking):
        async def call(self, *args: object, **_more: object) -> bytes:
            lifted.append(str(args[1]).rpartition("/")[2].partition("?")[0])
            return b""

    live, now_s = Live(tmp_path / "records.db"), 0.0
    live.ledger.clock = lambda: now_s
    planner = Nominator(live.engine, Noting(), PLAN)
    for i in range(30):
        live.ledger.see(Seen(f"p{i}", f"p{i}", "shop", 1, cpu_pod(1), is_gated=True))
    assert planner.ready() == []
    now_s = PLAN.gate_deadline_s + 1
    await planner.settle()
    assert lifted == [f"p{i}" for i in range(30)]
    planner.solver.close()


async def test_a_nomination_that_a_plan_renews_is_not_cleared_as_long_as_it_does(tmp_path: Path) -> None:
    """Of a plan that is being applied: it holds a place while budgets and grace periods let nobody leave."""
    cleared: list[object] = []

    class Noting(Taking):
        async def call(self, *args: object, **_more: object) -> bytes:
            cleared.append(args)
            return b""

    live, now_s = Live(tmp_path / "records.db"), 0.0
    live.ledger.clock = lambda: now_s
    planner = Nominator(live.engine, Noting(), PLAN)
    for number in range(5):
        now_s = 0.9 * number * PLAN.nomination_deadline_s
        held = Seen("p", "p", "shop", number, cpu_pod(1), planned="n1", nominated="n1", planned_at=timestamp(number))
        live.ledger.see(held)
        await planner.settle()
    assert live.ledger.reservations["p"].node == "n1"
    assert cleared == []
    now_s += 1.1 * PLAN.nomination_deadline_s
    await planner.settle()
    assert len(cleared) == 1
    planner.solver.close()


async def test_a_nomination_that_nobody_takes_is_cleared_and_one_that_was_replaced_is_left(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path, plan=HASTY) as planner:
        api.put("pods", gated("old"))
        api.put("pods", gated("taken"))
        await until(lambda: is_free(api, "old") and is_free(api, "taken"))
        body = api.pod("taken")
        body["status"]["nominatedNodeName"] = "by-kube-scheduler"
        api.put("pods", body)
        await until(lambda: not nominated(api, "old"))
        assert nominated(api, "taken") == "by-kube-scheduler"
        await until(lambda: outcome(planner, "not bound") == 2)
        assert not planner.engine.ledger.reservations


async def test_a_nomination_that_was_cleared_ends_once_however_late_the_watch_shows_it(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path, plan=HASTY) as planner:
        api.put("pods", gated("p"))
        await until(lambda: planner.engine.ledger.reservations.keys() == {"uid-p"} and is_free(api, "p"))
        await until(lambda: not planner.engine.ledger.gated)
        api.is_silent = True
        await until(lambda: not nominated(api, "p"))
        await asyncio.sleep(1.5)  # several looks, and another deadline
        api.compact()
        api.version += 1
        api.is_silent = False
        api.cut()
        await until(lambda: not planner.engine.ledger.reservations and len(planner.nominator.adherence) > 0)
        assert [(a.reason, a.planned != "") for a in planner.nominator.adherence] == [(EXPIRED, True)]
        assert outcome(planner, "not bound") == 1


async def test_a_nomination_that_is_written_again_has_not_ended_because_the_watch_is_late(tmp_path: Path) -> None:
    """The annotation of the first one stays when that is cleared."""
    async with cluster(nodes=1) as api, planning(api, tmp_path) as planner:
        again = gated("p")
        again["metadata"]["annotations"] = {NODE_ANNOTATION: "node-0000", TIME_ANNOTATION: timestamp(0)}
        api.put("pods", again)
        await until(lambda: "uid-p" in planner.engine.ledger.gated)
        api.is_silent = True
        await until(lambda: is_free(api, "p"))
        await asyncio.sleep(3 * nominator.SETTLE_S)
        assert planner.engine.ledger.reservations.keys() == {"uid-p"}
        api.compact()
        api.version += 1
        api.is_silent = False
        api.cut()
        await until(lambda: planner.engine.ledger.reservations["uid-p"].is_nominated)
        bind(api, "p", "node-0000")
        await until(lambda: outcome(planner, "as planned") == 1)
        assert outcome(planner, "not bound") == 0


async def test_a_new_leader_finishes_what_the_old_one_began(tmp_path: Path) -> None:
    async with cluster() as api:
        half = gated("half")
        half["metadata"]["annotations"] = {NODE_ANNOTATION: "node-0001", TIME_ANNOTATION: timestamp(0)}
        half["status"]["nominatedNodeName"] = "node-0001"
        api.put("pods", half)
        async with planning(api, tmp_path):
            await until(lambda: is_free(api, "half"))
            assert nominated(api, "half") == "node-0001"


async def test_what_the_old_leader_nominated_is_freed_once_however_late_the_watch_shows_it(tmp_path: Path) -> None:
    async with cluster() as api:
        half = gated("half")
        half["metadata"]["annotations"] = {NODE_ANNOTATION: "node-0001", TIME_ANNOTATION: timestamp(0)}
        half["status"]["nominatedNodeName"] = "node-0001"
        api.put("pods", half)
        api.is_silent = True
        async with planning(api, tmp_path) as planner:
            await until(lambda: is_free(api, "half"))
            await asyncio.sleep(0.3)  # several windows
            assert planner.engine.ledger.gated
        assert len([path for method, path in api.calls if method == "PATCH" and "/status" not in path]) == 1


async def test_a_gang_of_which_some_were_nominated_is_planned_again_however_long_that_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Meanwhile what stands in the API counts again."""
    async with cluster() as api, planning(api, tmp_path) as planner:
        at_once = planner.nominator.solver.solve

        async def slow(batch: Batch, time_s: float, seed: int) -> Batched:
            found = await at_once(batch, time_s, seed)
            await asyncio.sleep(3 * nominator.SETTLE_S)
            return found

        monkeypatch.setattr(planner.nominator.solver, "solve", slow)
        api.fail_next("PATCH", "/pods/g1/status", 500)
        for i in range(2):
            api.put("pods", member("g", i, 2))
        await until(lambda: is_free(api, "g0") and is_free(api, "g1"))
        assert nominated(api, "g0")
        assert nominated(api, "g1")


async def test_a_nomination_that_another_leader_changed_has_an_end_too(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path, plan=HASTY) as planner:
        api.put("pods", gated("p"))
        await until(lambda: is_free(api, "p"))
        body = api.pod("p")
        other = next(f"node-{i:04d}" for i in range(3) if nominated(api, "p") != f"node-{i:04d}")
        body["metadata"]["annotations"][NODE_ANNOTATION] = body["status"]["nominatedNodeName"] = other
        api.put("pods", body)
        await until(lambda: planner.engine.ledger.reservations["uid-p"].node == other)
        await until(lambda: outcome(planner, "not bound") == 1)
        assert not nominated(api, "p")


async def test_what_a_pod_asks_for_is_read_once_its_volumes_are_known(tmp_path: Path) -> None:
    """Else a planner that begins would let go of whoever waits with a volume."""
    async with cluster() as api:
        claim = {"metadata": {"name": "data", "namespace": "default"}, "spec": {"volumeName": "disk"}}
        api.put("persistentvolumeclaims", claim)
        api.put("persistentvolumes", {"metadata": {"name": "disk"}, "spec": {}})
        waits = gated("waits")
        waits["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        api.put("pods", waits)
        api.fail_next("GET", "persistentvolumeclaims", 500)
        async with planning(api, tmp_path) as planner:
            await until(lambda: is_free(api, "waits"))
            assert nominated(api, "waits")
            assert outcome(planner, "let go") == 0


async def test_pods_that_are_not_modelled_are_let_go_at_once(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        odd = gated("odd")
        odd["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        api.put("pods", odd)
        await until(lambda: is_free(api, "odd") and outcome(planner, "let go") == 1)
        assert not nominated(api, "odd")


async def test_a_pod_is_let_go_once_however_late_the_watch_shows_it(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        api.put("pods", gated("large", "100"))
        await until(lambda: planner.engine.ledger.gated.keys() == {"uid-large"})
        api.is_silent = True
        planner.obey(Order(float("inf"), is_killed=True))
        await until(lambda: is_free(api, "large"))
        await asyncio.sleep(0.7)  # several looks
        assert planner.engine.ledger.gated
        assert outcome(planner, "let go") == 1


async def test_the_replacement_of_an_evicted_pod_goes_where_its_plan_wants_it(tmp_path: Path) -> None:
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "w", "controller": True}]
    async with cluster() as api, running(api, tmp_path, plan=PLAN) as scheduler:
        await until(lambda: "ullage_planner_ready 1.0" in scheduler.app.metrics.expose().decode())
        for name, target in (("a", "node-0002"), ("b", "node-0001")):
            old = pod_object(name, ownerReferences=owner, annotations={TARGET_ANNOTATION: target})
            old["spec"]["nodeName"] = "node-0000"
            api.put("pods", old)
            await until(lambda name=name: f"uid-{name}" in scheduler.app.ledger.pods)  # type: ignore[misc]  # bound here
            api.delete("pods", name, "default")
        api.put("pods", gated("new", ownerReferences=owner))
        plain = api.put("pods", pod_object("plain", ownerReferences=owner))
        await until(lambda: is_free(api, "new"))
        assert nominated(api, "new") in ("node-0001", "node-0002")
        answer = await scheduler.filter(plain, [f"node-{i:04d}" for i in range(3)])
        assert {answer["NodeNames"][0], nominated(api, "new")} == {"node-0001", "node-0002"}
        third = api.put("pods", pod_object("third", ownerReferences=owner))
        assert (await scheduler.filter(third, ["node-0000"]))["NodeNames"] == ["node-0000"]


async def test_a_replacement_whose_node_has_filled_meanwhile_is_planned_like_any_other_pod(tmp_path: Path) -> None:
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "w", "controller": True}]
    async with cluster() as api, planning(api, tmp_path) as planner:
        old = pod_object("old", ownerReferences=owner, annotations={TARGET_ANNOTATION: "node-0002"})
        old["spec"]["nodeName"] = "node-0000"
        fills = pod_object("fills", cpu="7")
        fills["spec"]["nodeName"] = "node-0002"
        api.put("pods", old)
        api.put("pods", fills)
        await until(lambda: {"uid-old", "uid-fills"} <= planner.engine.ledger.pods.keys())
        api.delete("pods", "old", "default")
        await until(lambda: "uid-old" not in planner.engine.ledger.pods)
        api.put("pods", gated("new", ownerReferences=owner))
        await until(lambda: is_free(api, "new"))
        assert nominated(api, "new") in ("node-0000", "node-0001")


async def test_replacements_with_one_target_are_aimed_as_far_as_they_fit_and_said_before_anything_is_patched(
    tmp_path: Path,
) -> None:
    owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "w", "controller": True}]
    said: list[tuple[str, str, int]] = []
    async with cluster() as api, planning(api, tmp_path, Order()) as planner:
        planner.nominator.on_promised = said.extend
        for name in ("a", "b"):
            old = pod_object(name, cpu="1", ownerReferences=owner, annotations={TARGET_ANNOTATION: "node-0002"})
            old["spec"]["nodeName"] = "node-0000"
            api.put("pods", old)
        await until(lambda: len(planner.engine.ledger.pods) == 2)
        for name in ("a", "b"):
            api.delete("pods", name, "default")
        await until(lambda: not planner.engine.ledger.pods)
        for _ in range(1000):
            api.fail_next("PATCH", "/status", 500)
        for name in ("new-a", "new-b"):
            api.put("pods", gated(name, "5", ownerReferences=owner))
        await until(lambda: len(planner.engine.ledger.gated) == 2)
        planner.obey(Order(float("inf")))
        await until(lambda: len({uid for uid, _, _ in said}) == 2)
        first = {uid: node for uid, node, _ in reversed(said)}
        assert sum(node == "node-0002" for node in first.values()) == 1
        assert not any(nominated(api, name) for name in ("new-a", "new-b"))


async def test_no_orders_no_planning_and_the_kill_switch_frees_every_pod(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path, Order()) as planner:
        api.put("pods", gated("p"))
        api.put("pods", member("g", 0, 4))
        await until(lambda: "uid-p" in planner.engine.ledger.gated)
        await asyncio.sleep(0.5)
        assert not is_free(api, "p"), "another replica may lead"
        planner.obey(Order(float("inf"), is_killed=True))
        await until(lambda: is_free(api, "p") and is_free(api, "g0"))
        assert not nominated(api, "p")
        planner.obey(Order(float("inf")))
        api.put("pods", gated("q"))
        await until(lambda: bool(nominated(api, "q")))


async def test_orders_that_stop_coming_end_the_planning_and_new_ones_are_followed_after_another_look(
    tmp_path: Path,
) -> None:
    """Another replica may have led meanwhile."""
    async with cluster() as api, planning(api, tmp_path) as planner:
        planner.obey(Order(time.monotonic() + 0.2))
        await until(lambda: not planner.engine.is_leading())
        api.put("pods", gated("p"))
        await until(lambda: "uid-p" in planner.engine.ledger.gated)
        await asyncio.sleep(0.5)
        assert not is_free(api, "p")
        looks = api.lists["pods"]
        planner.obey(Order(float("inf")))
        assert not planner.engine.is_leading(), "not before it is up to date"
        await until(lambda: is_free(api, "p"))
        assert api.lists["pods"] == looks + 1
        planner.obey(Order(float("inf")))
        assert planner.engine.is_leading(), "the same term goes on"


async def test_who_does_not_lead_lifts_no_gate_however_late(tmp_path: Path) -> None:
    plan = replace(PLAN, gate_deadline_s=0.1)
    async with cluster() as api, planning(api, tmp_path, Order(), plan) as planner:
        api.put("pods", gated("large", "100"))
        await until(lambda: "uid-large" in planner.engine.ledger.gated)
        await asyncio.sleep(4 * nominator.SETTLE_S)
        assert not is_free(api, "large"), "whoever leads may be about to plan it"
        planner.obey(Order(float("inf")))
        await until(lambda: is_free(api, "large"))


async def test_a_batch_on_its_way_is_not_nominated_after_the_kill_switch(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        planner.nominator.on_promised = lambda _promised: planner.obey(Order(float("inf"), is_killed=True))
        for i in range(3):
            api.put("pods", gated(f"p{i}"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(3)))
        assert not any("/status" in path for method, path in api.calls if method == "PATCH")
        assert not planner.engine.ledger.reservations


async def test_a_batch_on_its_way_is_not_nominated_once_the_lead_is_lost(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        planner.nominator.on_promised = lambda _promised: planner.obey(Order())
        for i in range(3):
            api.put("pods", gated(f"p{i}"))
        await until(lambda: bool(planner.nominator._deliveries))
        await until(lambda: all(delivery.done() for delivery in planner.nominator._deliveries))
        assert not any(method == "PATCH" for method, _ in api.calls), "another replica plans for these pods now"
        assert not planner.engine.ledger.reservations
        planner.nominator.on_promised = lambda _promised: None
        planner.obey(Order(float("inf")))
        await until(lambda: all(is_free(api, f"p{i}") and nominated(api, f"p{i}") for i in range(3)))


async def test_no_gate_is_lifted_and_no_nomination_cleared_once_the_lead_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever was stopped in the midst of a batch, for longer than a Lease lasts, goes on in a world that others plan for."""
    async with cluster() as api, planning(api, tmp_path) as planner:

        async def last(api: Any, who: Who, *words: Any) -> None:
            await gates.nominate(api, who, *words)
            planner.obey(Order())

        monkeypatch.setattr(nominator, "nominate", last)
        api.put("pods", gated("p"))
        await until(lambda: bool(nominated(api, "p")) and "uid-p" in planner.engine.ledger.planned)
        await until(lambda: all(delivery.done() for delivery in planner.nominator._deliveries))
        assert not await planner.nominator._clear(planner.engine.ledger.planned["uid-p"])
        assert [path.endswith("/status") for method, path in api.calls if method == "PATCH"] == [True]
        planner.obey(Order(float("inf")))
        await until(lambda: is_free(api, "p"))
        assert nominated(api, "p")


async def test_who_is_let_go_is_told_whether_it_was_planned_in_vain_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        said = [vars(r) for r in caplog.records if r.getMessage() == "gates lifted without a plan"]
        return [one["reason"] for one in said]

    caplog.set_level(logging.INFO, logger="scheduler.planning.nominator")
    async with cluster() as api, planning(api, tmp_path) as planner:
        api.put("pods", gated("large", "100"))
        await until(lambda: bool(planner.nominator._tried))
        planner.nominator.settings = replace(PLAN, gate_deadline_s=1)
        await until(lambda: is_free(api, "large"))
        assert told() == [nominator.NO_PLACE]

        async def hung(*_words: Any) -> Batched:
            raise SolverError("the planning process hung")

        monkeypatch.setattr(planner.nominator.solver, "solve", hung)
        api.put("pods", gated("small"))
        await until(lambda: is_free(api, "small"))
        assert told() == [nominator.NO_PLACE, nominator.NO_PLAN]


async def test_members_that_run_are_counted_once_however_long_the_others_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nominator, "LOOK_S", 0.05)
    async with cluster() as api, planning(api, tmp_path) as planner:
        runs = member("g", 0, 4)
        del runs["spec"]["schedulingGates"]
        runs["spec"]["nodeName"] = "node-0000"
        for body in (runs, member("g", 1, 4), member("g", 2, 4)):
            api.put("pods", body)
        await until(lambda: len(planner.engine.ledger.gated) == 2)
        await asyncio.sleep(0.7)  # a dozen looks
        assert not is_free(api, "g1")
        api.put("pods", member("g", 3, 4))
        await until(lambda: all(is_free(api, f"g{i}") for i in range(1, 4)))


async def test_a_batch_that_cannot_be_solved_is_counted_and_solved_in_the_next_window(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        solve, errors = planner.nominator.solver.solve, [SolverError("the planning process died")]

        async def flaky(*words: Any) -> Batched:
            if errors:
                raise errors.pop()
            return await solve(*words)

        monkeypatch.setattr(planner.nominator.solver, "solve", flaky)
        api.put("pods", gated("p"))
        await until(lambda: is_free(api, "p"))
        assert nominated(api, "p")
        failed = planner.metrics.registry.get_sample_value("ullage_plan_batches_total", {"ending": "failed"})
        assert failed == 1


async def test_a_gang_that_lost_a_member_while_it_was_planned_keeps_no_room_and_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with cluster() as api, planning(api, tmp_path) as planner:
        solve, lost = planner.nominator.solver.solve, list[Any]()

        async def slow(*words: Any) -> Batched:
            found = await solve(*words)
            if not lost:
                lost.append("g0")
                api.delete("pods", "g0", "default")
                await until(lambda: "uid-g0" not in planner.engine.ledger.gated)
            return found

        monkeypatch.setattr(planner.nominator.solver, "solve", slow)
        for i in range(3):
            api.put("pods", member("g", i, 3))
        await until(lambda: bool(lost) and "uid-g0" not in planner.engine.ledger.gated)
        await asyncio.sleep(0.3)  # several windows
        assert not planner.engine.ledger.reservations
        assert not any(method == "PATCH" for method, _ in api.calls)
        api.put("pods", member("g", 3, 3))
        await until(lambda: all(is_free(api, f"g{i}") for i in range(1, 4)))


async def test_a_gate_that_could_not_be_lifted_is_lifted_later_and_nobody_is_nominated_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused: list[str] = []

    async def flaky(api: Any, who: Who) -> None:
        if who.name not in refused:
            refused.append(who.name)
            raise ApiError("busy", status=500)
        await gates.lift(api, who)

    monkeypatch.setattr(nominator, "lift", flaky)
    async with cluster() as api, planning(api, tmp_path):
        for i in range(2):
            api.put("pods", member("g", i, 2))
        api.put("pods", gated("alone"))
        names = ("g0", "g1", "alone")
        await until(lambda: all(is_free(api, name) for name in names))
        assert sorted(refused) == sorted(names)
        assert all(nominated(api, name) for name in names)
        assert sum(path.endswith("/status") for method, path in api.calls if method == "PATCH") == 3


async def test_a_planner_that_is_killed_is_started_anew_and_answers_never_wait_for_it(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, plan=replace(PLAN, nomination_deadline_s=10)) as scheduler:
        app = scheduler.app
        assert app.planner is not None
        api.put("pods", gated("p", "8"))
        await until(lambda: is_free(api, "p"))
        held = nominated(api, "p")
        await until(lambda: "uid-p" in app.ledger.reservations)
        others = {f"node-{i:04d}" for i in range(3)} - {held}
        answer = await scheduler.filter(api.put("pods", pod_object("now", cpu="7")), sorted(others | {held}))
        assert answer["NodeNames"][0] in others, "a nomination counts here too, as soon as the watch shows it"
        first = app.planner.pid
        os.kill(first, signal.SIGKILL)
        answer = await scheduler.filter(api.put("pods", pod_object("next", cpu="7")), sorted(others | {held}))
        assert answer["NodeNames"][0] in others
        await until(lambda: app.planner is not None and app.planner.pid not in (0, first))
        await until(lambda: "uid-p" not in app.ledger.reservations)  # the new one cleared what nobody took
        assert not nominated(api, "p")
        bind(api, "now", sorted(others)[0])
        text = app.metrics.expose().decode()
        assert "ullage_planner_starts_total 2.0" in text


async def test_a_plan_takes_room_before_the_api_knows_of_it(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, plan=PLAN) as scheduler:
        for _ in range(1000):
            api.fail_next("PATCH", "/status", 500)
        api.put("pods", gated("p", "8"))
        reservations = scheduler.app.ledger.reservations
        await until(lambda: "uid-p" in reservations)
        node = reservations["uid-p"].node
        answer = await scheduler.filter(api.put("pods", pod_object("now", cpu="7")), [node])
        assert answer["NodeNames"] == []
        assert not nominated(api, "p")


async def test_metrics_of_the_planning_process_are_said_with_ours(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, plan=PLAN) as scheduler:
        for i in range(3):
            api.put("pods", gated(f"p{i}"))
        await until(lambda: all(is_free(api, f"p{i}") for i in range(3)))
        for i in range(3):
            bind(api, f"p{i}", nominated(api, f"p{i}"))
        app = scheduler.app
        app.metrics.plans.labels("rescue", "optimal").inc()
        await until(lambda: 'ullage_plan_pods_total{outcome="as planned"} 3.0' in app.metrics.expose().decode())
        text = app.metrics.expose().decode()
        assert 'ullage_plan_patches_total{outcome="done",what="nominate"} 3.0' in text
        assert 'ullage_plans_total{ending="optimal",kind="rescue"} 1.0' in text
        assert "ullage_planner_ready 1.0" in text
        assert text.count("# TYPE ullage_plan_solve_seconds histogram") == 1
        assert app.planner is not None
        assert [a.reason for a in app.planner.adherence] == ["as planned"] * 3
        assert not app.ledger.reservations
