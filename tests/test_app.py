"""The whole extender in one process."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

from placement import log as placement_log
from placement.knowledge import Workload
from placement.log_lines import begin_of, read_log
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU
from placement.specs import MAX_RULES, UNOFFERED
from scheduler.app import App
from scheduler.engine import UNRECORDED, Engine
from scheduler.errors import ApiError
from scheduler.quiet import Quiet
from scheduler.settings import HttpSettings, KubeSettings, LeaseSettings, LogSettings, Settings
from tests.api_server import client_of, node_object, pod_object
from tests.live_engine import Live
from tests.waiting import until
from tests.whole_app import NAMES, cluster, running


async def test_rights_are_asked_for_at_once(tmp_path: Path) -> None:
    """An API server that lets each call run into its time-out would keep a start beyond its probes."""
    async with cluster() as api, client_of(api, tmp_path) as client:
        app = App(Settings(http=HttpSettings(host="127.0.0.1", port=0)), client, Quiet())
        all_asked = asyncio.Barrier(sum(not r.is_optional for r in app.informer.reflectors))

        async def call(*_args: object, **_more: object) -> bytes:
            await all_asked.wait()
            return b""

        client.call = call  # type: ignore[method-assign]  # the server of this test answers when all have asked
        async with asyncio.timeout(30):
            await app._check_rights()
        assert all_asked.parties > 1


@pytest.mark.parametrize("part", ["watch", "binder", "learner", "lifetimes", "warm-up", "lead"])
async def test_a_part_that_fails_ends_the_replica_and_says_why(part: str, tmp_path: Path) -> None:
    """A restart is safe; a frozen view that goes on deciding is not."""

    async def fail() -> None:
        raise RuntimeError(f"a defect of the {part}")

    async with cluster() as api, client_of(api, tmp_path) as client:
        settings = Settings(http=HttpSettings(host="127.0.0.1", port=0), strategy="nilas", mode="decide")
        app = App(settings, client, Quiet())
        owners: dict[str, tuple[object, str]] = {
            "watch": (app.informer.reflectors[-1], "run"),
            "binder": (app.binder, "run"),
            "learner": (app.learner, "run"),
            "lifetimes": (app.lifetimes, "run"),
            "warm-up": (app, "_warm_up"),
            "lead": (app.lead, "follow"),
        }
        setattr(*owners[part], fail)
        try:
            await app.start()
            with pytest.raises(RuntimeError, match=f"a defect of the {part}"):
                await app.run(asyncio.Event())
        finally:
            await app.stop()


async def test_told_to_stop_a_replica_ends_and_answers_nobody_any_more(tmp_path: Path) -> None:
    async with cluster() as api, client_of(api, tmp_path) as client, aiohttp.ClientSession() as session:
        app = App(Settings(http=HttpSettings(host="127.0.0.1", port=0, health_port=0)), client, Quiet())
        await app.start()
        stop = asyncio.Event()
        life = asyncio.create_task(app.run(stop))
        page = f"http://127.0.0.1:{app.http.port}/healthz"
        async with session.get(page) as response:
            assert response.status == 200
        assert not life.done()
        stop.set()
        await life
        await app.stop()
        with pytest.raises(aiohttp.ClientError):
            await session.get(page)


@pytest.mark.parametrize("status", [0, 403, 404, 500])
async def test_a_start_fails_at_once_only_where_waiting_would_not_help(status: int, tmp_path: Path) -> None:
    async with cluster() as api, client_of(api, tmp_path) as client:
        app = App(Settings(http=HttpSettings(host="127.0.0.1", port=0)), client, Quiet())
        api.fail_next("GET", "/nodes", status)
        if status in (401, 403):
            with pytest.raises(ApiError, match="nodes"):
                await app.start()
        else:
            await app.start()
            await until(lambda: app.informer.is_synced)
        await app.stop()


async def test_decide_answers_with_one_node_that_counts_at_once(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        chosen = []
        for i in range(16):
            pod = api.put("pods", pod_object(f"p{i}", cpu="4"))
            answer = await scheduler.filter(pod, NAMES)
            chosen.append(answer["NodeNames"])
            if not answer["NodeNames"]:
                assert set(answer["FailedNodes"]) == set(NAMES)
        assert [len(c) for c in chosen] == [1] * 6 + [0] * 10
        assert len(scheduler.app.ledger.reservations) == 6


async def test_the_watch_confirms_a_decision_and_frees_a_deleted_pod(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        state = scheduler.app.engine.state
        pod = api.put("pods", pod_object("p"))
        node = (await scheduler.filter(pod, NAMES))["NodeNames"][0]
        pod["spec"]["nodeName"] = node
        api.put("pods", pod)
        await until(lambda: state.residents["uid-p"].is_bound)
        assert not scheduler.app.ledger.reservations
        api.delete("pods", "p", "default")
        await until(lambda: not state.residents)
        assert not state.taken.any()


async def test_the_log_tells_pods_that_were_there_at_the_start_from_those_that_came_later(tmp_path: Path) -> None:
    """Nobody knows since when the former run; and every segment says when the log's second 0 was."""
    folder, before_s = tmp_path / "log", time.time()
    async with cluster() as api:
        for i in range(5):
            api.put("pods", bound(f"old-{i}"))
        async with running(api, tmp_path, log=LogSettings(folder=str(folder))) as scheduler:
            api.put("pods", bound("new"))
            await until(lambda: "uid-new" in scheduler.app.engine.state.residents)
    header, events, _lost = read_log(folder)
    kinds = {e.subject: e.kind for e in events if e.subject.startswith("uid-")}
    assert kinds == {**{f"uid-old-{i}": placement_log.POD_FOUND for i in range(5)}, "uid-new": placement_log.POD_BOUND}
    assert before_s - 1 <= begin_of(header, events.events) <= time.time() + 1, "in whole seconds"


def bound(name: str, **asks: Any) -> dict[str, Any]:
    body = pod_object(name, **asks)
    body["spec"]["nodeName"] = NAMES[0]
    return body


async def test_devices_are_bound_once_and_come_back_after_a_restart(tmp_path: Path) -> None:
    async with cluster() as api:
        async with running(api, tmp_path) as scheduler:
            for i in range(6):
                pod = api.put("pods", pod_object(f"g{i}", milli=600))
                answer = await scheduler.filter(pod, NAMES, gpu=True)
                assert await scheduler.bind(pod, answer["NodeNames"][0]) == ""
                assert await scheduler.bind(pod, answer["NodeNames"][0]) == ""
            last = api.put("pods", pod_object("g6", milli=600))
            answer = await scheduler.filter(last, NAMES, gpu=True)
            assert answer["NodeNames"] == []
            assert set(answer["FailedNodes"].values()) == {"ullage: no device with enough free GPU share"}
        held = {
            (api.pod(f"g{i}")["spec"]["nodeName"], api.pod(f"g{i}")["metadata"]["annotations"]["ullage.dev/devices"])
            for i in range(6)
        }
        assert len(held) == 6
        async with running(api, tmp_path) as again:
            state = again.app.engine.state
            assert sorted(state.gpu_free[:3, :2].ravel().tolist()) == [400] * 6


async def test_a_binding_that_was_sent_before_a_restart_keeps_its_device(tmp_path: Path) -> None:
    """The process was killed with it on its way, and its next life must not take the device for free."""
    async with cluster(gpus=1, nodes=1) as api, client_of(api, tmp_path) as killed:
        old, new = (api.put("pods", pod_object(name, milli=600)) for name in ("old", "new"))
        meta = {"name": "old", "uid": "uid-old", "annotations": {"ullage.dev/devices": "0"}}
        body = {"metadata": meta, "target": {"name": NAMES[0]}}
        api.bindings_go_on.clear()
        late = asyncio.create_task(killed.call("POST", "/api/v1/namespaces/default/pods/old/binding", body))
        await until(lambda: ("POST", "/api/v1/namespaces/default/pods/old/binding") in api.calls)
        async with running(api, tmp_path, is_first=False) as scheduler:
            scheduler.app.lead.await_binds(3600, lambda: True)
            assert (await scheduler.filter(new, NAMES[:1], gpu=True))["NodeNames"] == NAMES[:1]
            assert "may still take effect" in await scheduler.bind(new, NAMES[0])
            api.bindings_go_on.set()
            await late
            scheduler.app.lead.await_binds(0, lambda: True)
            await until(lambda: scheduler.app.lead.may_give_devices)
            assert "no longer free" in await scheduler.bind(new, NAMES[0])
            assert api.pod(old["metadata"]["name"])["spec"]["nodeName"] == NAMES[0]
            assert "nodeName" not in api.pod("new")["spec"]


async def test_a_binding_that_arrives_once_another_leads_takes_no_device_that_was_given_away(tmp_path: Path) -> None:
    """The leader's machine was stopped with it on its way. Meanwhile kube-scheduler had no answer and wrote so into the pod."""
    kube = KubeSettings(page_size=2, silence_timeout_s=5, bind_timeout_s=0.3)
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, kube=kube) as stopped:
        old, new = (api.put("pods", pod_object(name, milli=600)) for name in ("old", "new"))
        api.bindings_go_on.clear()
        assert "no answer in time" in await stopped.bind(old, NAMES[0])
        old["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "no answer in time"}]
        api.put("pods", old)
        async with running(api, tmp_path) as leader:
            binding = asyncio.create_task(leader.bind(new, NAMES[0]))
            await until(lambda: ("POST", "/api/v1/namespaces/default/pods/new/binding") in api.calls)
            api.bindings_go_on.set()
            assert await binding == ""
            assert "nodeName" not in api.pod("old")["spec"]
            assert leader.app.ledger.devices_given_twice() == 0


async def test_a_pod_that_changed_just_before_its_binding_is_bound_at_the_second_attempt(tmp_path: Path) -> None:
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        await until(lambda: "uid-g" in scheduler.app.ledger.pods)
        api.is_silent = True
        pod["metadata"]["labels"] = {"changed": "by-somebody"}
        api.put("pods", pod)
        assert await scheduler.bind(pod, NAMES[0]) == ""
        assert api.calls.count(("POST", "/api/v1/namespaces/default/pods/g/binding")) == 2
        assert scheduler.app.metrics.registry.get_sample_value("ullage_binds_total", {"outcome": "failed"}) is None


async def test_where_there_are_no_devices_nothing_is_waited_for_after_a_start(tmp_path: Path) -> None:
    async with cluster(gpus=0) as api, running(api, tmp_path, is_first=False) as scheduler:
        has_devices = scheduler.app.lead._has_devices
        scheduler.app.lead.await_binds(3600, has_devices)
        assert scheduler.app.engine.may_give_devices()
        api.put("nodes", node_object("late", gpus=1))
        await until(lambda: "late" in scheduler.app.engine.state.row_of)
        assert not scheduler.app.engine.may_give_devices()


@pytest.mark.parametrize(("status", "after_effect"), [(0, True), (500, True), (504, True), (0, False), (500, False)])
async def test_a_lost_answer_to_a_binding_is_found_out_not_guessed(
    tmp_path: Path, status: int, after_effect: bool
) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        node = (await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"][0]
        api.fail_next("POST", "/binding", status, after_effect=after_effect)
        error = await scheduler.bind(pod, node)
        assert (error == "") == after_effect
        assert (scheduler.app.engine.state.gpu_free[:3, :2] < 1000).sum() == 1
        assert await scheduler.bind(pod, node) == ""
        assert api.pod("g")["spec"]["nodeName"] == node


async def test_devices_stay_reserved_for_a_binding_that_may_still_take_effect_and_come_back_when_it_did_not(
    tmp_path: Path,
) -> None:
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        late = api.put("pods", pod_object("late", milli=600))
        await scheduler.filter(late, NAMES[:1], gpu=True)
        api.fail_next("POST", "/binding", 504)
        assert await scheduler.bind(late, NAMES[0]) != ""
        api.fail_next("POST", "/binding", 429)
        assert await scheduler.bind(late, NAMES[0]) != ""  # refused, but the first attempt may be on its way
        other = api.put("pods", pod_object("other", milli=600))
        assert (await scheduler.filter(other, NAMES[:1], gpu=True))["NodeNames"] == []
        late["spec"]["nodeName"] = NAMES[0]
        late["metadata"]["annotations"]["ullage.dev/devices"] = "0"
        api.put("pods", late)
        await until(lambda: scheduler.app.engine.state.residents["uid-late"].is_bound)
        api.delete("pods", "late", "default")
        never = api.put("pods", pod_object("never", milli=600))
        await until(lambda: not scheduler.app.engine.state.residents)
        await scheduler.filter(never, NAMES[:1], gpu=True)
        api.fail_next("POST", "/binding", 504)
        assert await scheduler.bind(never, NAMES[0]) != ""
        await until(lambda: not scheduler.app.ledger.reservations)
        assert (await scheduler.filter(other, NAMES[:1], gpu=True))["NodeNames"] == NAMES[:1]


@pytest.mark.parametrize("status", [403, 429])
async def test_a_refused_binding_gives_its_devices_back_at_once(tmp_path: Path, status: int) -> None:
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        await scheduler.filter(pod, NAMES[:1], gpu=True)
        api.fail_next("POST", "/binding", status)
        assert await scheduler.bind(pod, NAMES[0]) != ""
        assert not scheduler.app.engine.state.residents


async def test_calls_to_bind_one_pod_are_done_one_after_another(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        node = (await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"][0]
        api.fail_next("POST", "/binding", 504)
        errors = await asyncio.gather(*[scheduler.bind(pod, node) for _ in range(5)])
        assert [error == "" for error in sorted(errors)] == [True] * 4 + [False]
        assert len([path for method, path in api.calls if method == "POST" and "/binding" in path]) == 2


async def test_devices_stay_reserved_while_nobody_can_say_what_became_of_a_binding(tmp_path: Path) -> None:
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        await scheduler.filter(pod, NAMES[:1], gpu=True)
        api.fail_next("POST", "/binding", 0, after_effect=True)
        api.is_silent = True
        for _ in range(3):
            api.fail_next("GET", "/pods/g", 500)
        assert await scheduler.bind(pod, NAMES[0]) != ""
        other = api.put("pods", pod_object("h", milli=600))
        answer = await scheduler.filter(other, NAMES[:1], gpu=True)
        assert answer["NodeNames"] == []
        await until(lambda: scheduler.app.engine.state.residents["uid-g"].is_bound)


async def test_a_name_that_no_pod_can_have_never_becomes_part_of_an_api_path(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        ledger = scheduler.app.engine.ledger
        for name in ("../../../nodes/n", "a/eviction?x=", "a b", "x" * 300, ""):
            pod = pod_object("p")
            pod["metadata"] |= {"name": name, "uid": f"uid-{name}"}
            await scheduler.filter(pod, NAMES)
        assert len(ledger.reservations) == 5
        before = len(api.calls)
        pod = pod_object("p")
        pod["metadata"]["name"] = "a/eviction?x="
        assert "no pod can have that name" in await scheduler.bind(pod, NAMES[0])
        assert len(api.calls) == before
        await until(lambda: not ledger.reservations)
        assert not [call for call in api.calls[before:] if call[0] == "POST" or "pods/" in call[1]]


async def test_one_reservation_that_cannot_be_looked_up_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        for name in ("first", "second"):
            await scheduler.filter(api.put("pods", pod_object(name)), NAMES)
        for _ in range(200):
            api.fail_next("GET", "/pods/first", 400)
        ledger = scheduler.app.engine.ledger
        await until(lambda: "uid-second" not in ledger.reservations)
        assert "uid-first" in ledger.reservations


async def test_a_pod_bound_elsewhere_moves_and_one_deleted_before_its_binding_frees_its_device(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        state = scheduler.app.engine.state
        pod = api.put("pods", pod_object("g", milli=600))
        chosen = (await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"][0]
        other = next(n for n in NAMES if n != chosen)
        assert await scheduler.bind(pod, other) == ""
        await until(lambda: state.residents["uid-g"].is_bound)
        assert state.names[state.residents["uid-g"].row] == other
        gone = api.put("pods", pod_object("x", milli=600))
        node = (await scheduler.filter(gone, NAMES, gpu=True))["NodeNames"][0]
        api.delete("pods", "x", "default")
        assert await scheduler.bind(gone, node) != ""
        await until(lambda: set(state.residents) == {"uid-g"})


async def test_a_second_call_with_the_chosen_node_alone_is_confirmed(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        chosen = (await scheduler.filter(pod, NAMES))["NodeNames"]
        devices = scheduler.app.engine.state.residents["uid-g"].devices
        assert (await scheduler.filter(pod, chosen, gpu=True))["NodeNames"] == chosen
        assert scheduler.app.engine.state.residents["uid-g"].devices == devices


async def test_modes_differ_as_promised(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, mode="shadow") as scheduler:
        modes, state = scheduler.app.engine.modes, scheduler.app.engine.state
        pod, large = api.put("pods", pod_object("p")), api.put("pods", pod_object("large", milli=1000, count=3))
        victims = {"NodeNameToMetaVictims": {NAMES[0]: {"Pods": [{"UID": "a"}], "NumPDBViolations": 0}}}
        for mode in ("off", "shadow"):
            modes.switch(mode)
            assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
            assert (await scheduler.filter(large, NAMES))["NodeNames"] == NAMES, "no node has so many devices"
            assert (await scheduler.filter(large, NAMES, gpu=True))["NodeNames"] == []
            assert await scheduler.post("/v1/preempt", {"Pod": large, **victims}) == victims
            assert (await scheduler.post("/v1/gpu/preempt", {"Pod": large, **victims}))["NodeNameToMetaVictims"] == {}
            assert set((await scheduler.prioritize(pod, NAMES)).values()) == {0}
            assert not state.residents
        modes.switch("score")
        assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
        marks = await scheduler.prioritize(pod, [*NAMES, "stranger"])
        assert sorted(marks) == [*NAMES, "stranger"]
        assert list(marks.values()).count(10) == 1
        api.put("namespaces", {"metadata": {"name": "default", "labels": {"ullage.dev/mode": "decide"}}})
        await until(lambda: modes.of("default") == "decide")
        assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1
        modes.is_killed = True
        assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES


async def test_a_burst_of_equal_pods_is_not_ranked_onto_one_node(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, mode="score", strategy="worst-fit") as scheduler:
        winners = []
        for i in range(9):
            marks = await scheduler.prioritize(api.put("pods", pod_object(f"p{i}")), NAMES)
            winners.append(max(marks, key=lambda name: marks[name]))
        assert [winners.count(name) for name in NAMES] == [3, 3, 3]


async def test_a_pod_with_soft_wishes_that_nobody_models_is_not_decided(tmp_path: Path) -> None:
    prefers = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}]}}  # fmt: skip
    pod = pod_object("p")
    pod["spec"]["affinity"] = prefers
    async with cluster() as api:
        api.put("pods", pod)
        async with running(api, tmp_path) as scheduler:
            assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
        async with running(api, tmp_path, ignored_wishes=("node-affinity",)) as scheduler:
            assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1


@pytest.mark.parametrize("mode", ["decide", "score"])
async def test_a_pod_whose_group_is_tried_whole_takes_no_room(mode: str, tmp_path: Path) -> None:
    pod = pod_object("p")
    pod["spec"]["schedulingGroup"] = {"podGroupName": "train"}
    async with cluster() as api, running(api, tmp_path, mode=mode) as scheduler:
        assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
        assert sorted((await scheduler.prioritize(pod, NAMES)).values())[-1] == 10
        assert not scheduler.app.ledger.reservations


async def test_a_pod_with_more_rules_than_are_modelled_keeps_its_wishes(tmp_path: Path) -> None:
    """kube-scheduler ranks nodes by all of them: it would not if one alone were left."""
    pod, near = pod_object("p"), {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}
    wishes = [{"weight": 1, "podAffinityTerm": near}] * (MAX_RULES + 1)
    pod["spec"]["affinity"] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}
    async with cluster() as api:
        api.put("pods", pod)
        async with running(api, tmp_path) as scheduler:
            assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
            assert set((await scheduler.prioritize(pod, NAMES)).values()) > {10}


@pytest.mark.parametrize("mode", ["decide", "score"])
async def test_a_resource_that_kube_scheduler_leaves_to_others_keeps_no_pod_waiting(mode: str, tmp_path: Path) -> None:
    """A device class gives it out (``DRAExtendedResource``, on by default in 1.36), or ``ignoredByScheduler`` is set: nodes
    are offered that have none of it."""
    async with cluster() as api:
        with_plugin = node_object(NAMES[0])
        with_plugin["status"]["allocatable"]["example.com/npu"] = "1"
        api.put("nodes", with_plugin)
        async with running(api, tmp_path, mode=mode, strategy="first-fit") as scheduler:
            found = []
            for number in range(3):
                pod = pod_object(f"p{number}")
                pod["spec"]["containers"][0]["resources"]["requests"]["example.com/npu"] = "1"
                offered = NAMES[:1] if number == 2 else NAMES
                pod = api.put("pods", pod)
                if mode == "decide":
                    found += (await scheduler.filter(pod, offered))["NodeNames"]
                else:
                    marks = await scheduler.prioritize(pod, offered)
                    found += [name for name in offered if marks[name] == 10]
            assert found == NAMES[:2], (
                "the plug-in's device, then somebody else's; a full plug-in has none for the third"
            )


async def test_what_others_give_out_is_looked_for_only_where_somebody_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    judged = Engine.judged

    def counted(engine: Engine, spec: PodSpec, candidates: Any) -> Any:
        looks.append(engine.modes.default)
        return judged(engine, spec, candidates)

    monkeypatch.setattr(Engine, "judged", counted)
    async with cluster() as api:
        for mode in ("off", "score", "shadow", "decide"):
            pod = api.put("pods", pod_object(mode, milli=300))
            pod["spec"]["containers"][0]["resources"]["requests"]["example.com/npu"] = "1"
            async with running(api, tmp_path, mode=mode) as scheduler:
                assert (await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"]
    assert looks == ["shadow", "decide"]


def test_what_nobody_offers_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("placement.specs.MAX_UNOFFERED", 0)
    live = Live(tmp_path / "records.db")
    body = pod_object("p")
    body["spec"]["containers"][0]["resources"]["requests"]["example.com/npu"] = "1"
    spec = live.engine.reader.spec(json.dumps(body).encode())
    spec, _ = live.engine.judged(spec, live.engine.mask(np.arange(3)))
    assert spec.unmodelled == (UNOFFERED,)
    live.recorder.close()


@pytest.mark.parametrize("mode", ["decide", "score", "shadow", "off"])
async def test_a_pod_that_is_gone_is_not_decided_about(mode: str, tmp_path: Path) -> None:
    """Nor does kube-scheduler, which may not know yet, put it anywhere where we choose: it would count it there, and the
    next pods would find less room than there is."""
    async with cluster(gpus=1) as api, running(api, tmp_path, mode=mode) as scheduler:
        pods = [api.put("pods", pod_object("p")), api.put("pods", pod_object("q", milli=300))]
        await until(lambda: scheduler.app.ledger.pods.keys() >= {"uid-p", "uid-q"})
        for name in ("p", "q"):
            api.delete("pods", name, "default")
            await until(lambda name=name: scheduler.app.ledger.is_gone(f"uid-{name}"))
        for pod, is_gpu in zip(pods, (False, True), strict=True):
            answer = await scheduler.filter(pod, NAMES, gpu=is_gpu)
            # nodes that are named in neither are those where preemption does not help
            assert (answer["FailedNodes"], answer["Error"]) == ({}, "")
            assert answer["NodeNames"] == ([] if is_gpu or mode == "decide" else NAMES)
        assert len(set((await scheduler.prioritize(pods[0], NAMES)).values())) == 1
        victims = {NAMES[0]: {"Pods": [{"UID": "uid-other"}], "NumPDBViolations": 0}}
        for pod, verb in zip(pods, ("/v1/preempt", "/v1/gpu/preempt"), strict=True):
            answer = await scheduler.post(verb, {"Pod": pod, "NodeNameToMetaVictims": victims})
            is_silent = verb == "/v1/preempt" and mode in ("shadow", "off")
            assert answer["NodeNameToMetaVictims"] == (victims if is_silent else {}), "nobody gives way to it"
        assert not scheduler.app.ledger.reservations


async def test_a_pod_that_was_never_seen_is_not_turned_away_for_what_a_caller_says_of_it(tmp_path: Path) -> None:
    """Whoever asks to bind it by another name makes it look gone; the watch may only be late."""
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = pod_object("late")
        assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1
        error = await scheduler.bind({"metadata": pod["metadata"] | {"name": "other"}}, NAMES[0])
        assert error == "ullage: the pod is gone"
        assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1


@pytest.mark.parametrize(("mode", "milli"), [("decide", 600), ("score", 600), ("decide", 0)])
async def test_a_pod_is_refused_once_the_watch_was_looked_at_again(
    mode: str, milli: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kube-scheduler asks within a millisecond of hearing who left."""
    async with cluster(gpus=1, nodes=1) as api:
        full = bound("full", cpu="1" if milli else "8", milli=milli)
        full["metadata"]["annotations"] = {"ullage.dev/devices": "0"} if milli else {}
        api.put("pods", full)
        async with running(api, tmp_path, mode=mode) as scheduler:
            residents = scheduler.app.engine.state.residents
            await until(lambda: "uid-full" in residents)
            looks: list[float] = []

            async def look(seconds: float) -> None:
                looks.append(seconds)
                time.sleep(0.02)
                if api.is_silent:
                    api.is_silent = False
                    api.changed.set()
                    await until(lambda: "uid-full" not in residents)

            logged: list[placement_log.Event] = []
            monkeypatch.setattr(scheduler.app.engine.state.log, "append", logged.append)
            monkeypatch.setattr("scheduler.extender.rest", look)
            pod, is_gpu = pod_object("p", milli=milli), milli > 0
            assert (await scheduler.filter(pod, NAMES[:1], gpu=is_gpu))["NodeNames"] == []
            api.is_silent = True
            api.delete("pods", "full", "default")
            assert (await scheduler.filter(pod, NAMES[:1], gpu=is_gpu))["NodeNames"] == NAMES[:1]
            assert len(looks) == 2, "once each time"
            told = scheduler.app.metrics.request_duration.labels("filter", "rejected" if mode == "decide" else mode)
            assert told._sum.get() > 0.02
            nodes = [event.node for event in logged if event.kind == placement_log.DECISION]
            assert nodes == (["", NAMES[0]] if mode == "decide" else []), "each question is one decision"


@pytest.mark.parametrize("milli", [0, 600])
async def test_a_pod_that_runs_is_not_turned_away_from_its_own_node(milli: int, tmp_path: Path) -> None:
    """kube-scheduler asks about it where its resize in place waits (``InPlacePodVerticalScalingSchedulerPreemption``, 1.37), and
    evicts others for it where the answer is no."""
    async with cluster(gpus=1) as api:
        pod = pod_object("p", milli=milli, cpu="6")
        pod["spec"]["nodeName"] = NAMES[0]
        api.put("pods", pod)
        async with running(api, tmp_path) as scheduler:
            await until(lambda: "uid-p" in scheduler.app.ledger.pods)
            resized = json.loads(json.dumps(pod))
            resized["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "7"
            answer = await scheduler.filter(resized, NAMES[:1], gpu=bool(milli))
            assert (answer["NodeNames"], answer["FailedNodes"]) == (NAMES[:1], {})


async def test_a_class_is_decided_about_until_a_node_would_rather_not_have_it(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        assert len((await scheduler.filter(api.put("pods", pod_object("p")), NAMES))["NodeNames"]) == 1
        node = node_object(NAMES[1], gpus=2)
        node["spec"]["taints"] = [{"key": "old", "effect": "PreferNoSchedule"}]
        before = scheduler.app.ledger.node_changes
        api.put("nodes", node)
        await until(lambda: scheduler.app.ledger.node_changes > before)
        assert (await scheduler.filter(api.put("pods", pod_object("q")), NAMES))["NodeNames"] == NAMES


async def test_a_replacement_goes_where_its_plan_wants_it_if_that_is_among_the_nodes_asked_about(
    tmp_path: Path,
) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        owner = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "controller": True}]
        old = pod_object("old", ownerReferences=owner, deletionTimestamp="2026-01-01T00:00:00Z")
        old["metadata"]["annotations"] = {"ullage.dev/replacement-node": NAMES[2]}
        old["spec"]["nodeName"] = NAMES[0]
        api.put("pods", old)
        await until(lambda: bool(scheduler.app.ledger.targets))
        new = api.put("pods", pod_object("new", ownerReferences=owner))
        assert (await scheduler.filter(new, NAMES[:2]))["NodeNames"][0] in NAMES[:2]
        assert (await scheduler.filter(new, NAMES))["NodeNames"] == NAMES[2:]
        scheduler.app.engine.modes.switch("score")
        marks = await scheduler.prioritize(new, NAMES)
        assert [name for name in NAMES if marks[name] == 10] == NAMES[2:]


async def test_until_the_view_is_complete_answers_are_neutral_but_devices_are_refused(tmp_path: Path) -> None:
    async with cluster() as api:
        api.faults += [("GET", "/pods", 500, False)] * 3
        async with running(api, tmp_path, wait=False) as scheduler:
            assert (await scheduler.page("/readyz"))[0] == 503
            assert (await scheduler.page("/healthz"))[0] == 200
            pod = pod_object("g", milli=600)
            assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
            assert "cannot be given out" in (await scheduler.filter(pod, NAMES, gpu=True))["Error"]
            await until(lambda: not scheduler.app.engine.why_not_serving())
            assert (await scheduler.page("/readyz"))[0] == 200


async def test_history_that_was_compacted_away_is_read_again_without_a_gap(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        state, metrics = scheduler.app.engine.state, scheduler.app.metrics
        api.put("pods", pod_object("old"))
        bound = pod_object("stays")
        bound["spec"]["nodeName"] = NAMES[0]
        api.put("pods", bound)
        await until(lambda: "uid-stays" in state.residents)
        api.is_silent = True
        api.delete("pods", "stays", "default")
        late = pod_object("late")
        late["spec"]["nodeName"] = NAMES[1]
        api.put("pods", late)
        api.compact()
        api.version += 1
        api.is_silent = False
        api.cut()
        await until(lambda: set(state.residents) == {"uid-late"})
        assert metrics.relists.labels("pods", "too old")._value.get() >= 1


async def test_a_node_deleted_between_filter_and_bind_costs_the_bind_not_the_ledger(tmp_path: Path) -> None:
    async with cluster(nodes=1) as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        assert (await scheduler.filter(pod, NAMES[:1], gpu=True))["NodeNames"] == NAMES[:1]
        api.delete("nodes", NAMES[0])
        await until(lambda: not scheduler.app.engine.state.residents)
        assert await scheduler.bind(pod, NAMES[0]) == "ullage: the node is gone"
        assert not scheduler.app.ledger.reservations


async def test_a_new_pod_of_the_same_name_is_never_bound_in_place_of_the_old_one(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        old = api.put("pods", pod_object("g", milli=600))
        node = (await scheduler.filter(old, NAMES, gpu=True))["NodeNames"][0]
        await until(lambda: "uid-g" in scheduler.app.ledger.pods)
        api.is_silent = True
        api.delete("pods", "g", "default")
        new = api.put("pods", pod_object("g", milli=600, uid="uid-new"))
        assert await scheduler.bind(old, node) == "ullage: the pod is gone"
        assert "nodeName" not in new["spec"]
        assert not scheduler.app.ledger.reservations


async def test_a_binding_on_its_way_is_not_given_up_however_long_it_takes(tmp_path: Path) -> None:
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        await scheduler.filter(pod, NAMES[:1], gpu=True)
        api.bindings_go_on.clear()
        binding = asyncio.create_task(scheduler.bind(pod, NAMES[0]))
        ledger = scheduler.app.ledger
        await until(lambda: bool(ledger.overdue(1.6)))  # a few looks later
        assert "uid-g" in ledger.reservations
        api.bindings_go_on.set()
        assert await binding == ""


async def test_a_nomination_that_is_first_seen_by_a_look_up_keeps_its_room(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, assume_timeout_s=1) as scheduler:
        pod, ledger = api.put("pods", pod_object("p")), scheduler.app.ledger
        await until(lambda: "uid-p" in ledger.pods)
        api.is_silent = True
        assert ledger.assume(ledger.pods["uid-p"].who, ledger.pods["uid-p"].spec, NAMES[0], 0)
        pod["metadata"]["annotations"]["ullage.dev/planned-node"] = NAMES[0]
        pod["status"]["nominatedNodeName"] = NAMES[0]
        api.put("pods", pod)
        await until(lambda: "uid-p" not in ledger.reservations or ledger.reservations["uid-p"].is_nominated)
        assert "uid-p" in ledger.reservations
        await asyncio.sleep(0)
        assert ledger.reservations["uid-p"].node == NAMES[0]


async def test_preemption_keeps_only_nodes_whose_devices_would_suffice(tmp_path: Path) -> None:
    async with cluster(gpus=1, nodes=2) as api, running(api, tmp_path) as scheduler:
        for i, milli in enumerate((1000, 300)):
            pod = api.put("pods", pod_object(f"g{i}", milli=milli))
            assert await scheduler.bind(pod, NAMES[i]) == ""
        other = api.put("pods", pod_object("g2", milli=500))
        assert await scheduler.bind(other, NAMES[1]) == ""
        victims = {n: {"Pods": [{"UID": f"uid-g{i}"}], "NumPDBViolations": 0} for i, n in enumerate(NAMES[:2])}
        body = {"Pod": pod_object("big", milli=900), "NodeNameToMetaVictims": victims}
        answer = await scheduler.post("/v1/preempt", body)
        assert answer == {"NodeNameToMetaVictims": {NAMES[0]: victims[NAMES[0]]}}
        elsewhere = {NAMES[1]: victims[NAMES[0]]}
        answer = await scheduler.post("/v1/preempt", body | {"NodeNameToMetaVictims": elsewhere})
        assert answer == {"NodeNameToMetaVictims": {}}, "who ends on another node frees nothing here"
        for_cpu = {"NodeNameToMetaVictims": {NAMES[0]: {"Pods": [{"UID": "uid-c"}], "NumPDBViolations": 0}}}
        assert await scheduler.post("/v1/preempt", body | for_cpu) == {"NodeNameToMetaVictims": {}}
        resized = {"Pod": pod_object("g0", milli=1000)} | for_cpu
        assert await scheduler.post("/v1/preempt", resized) == for_cpu, (
            "the pod there keeps its device, and asks for cores"
        )


async def test_the_log_on_disk_tells_every_decision_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    async with cluster() as api:
        async with running(api, tmp_path, log=LogSettings(folder=str(folder), segment_bytes=4096)) as scheduler:
            for i in range(40):
                pod = api.put("pods", pod_object(f"p{i}", cpu="100m"))
                node = (await scheduler.filter(pod, NAMES[: 1 + i % 3]))["NodeNames"][0]
                pod["spec"]["nodeName"] = node
                api.put("pods", pod)
            residents = scheduler.app.engine.state.residents
            await until(lambda: len(residents) == 40 and all(r.is_bound for r in residents.values()))
            homes = {uid: scheduler.app.engine.state.names[r.row] for uid, r in residents.items()}
        header, events, lost = read_log(folder)
    assert lost == 0
    assert header["strategies"]
    decisions = [e for e in events if e.kind == placement_log.DECISION]
    assert [e.subject for e in decisions] == [f"uid-p{i}" for i in range(40)]
    assert {e.subject: e.node for e in decisions} == homes
    assert {e.detail.candidates for e in decisions} == {tuple(NAMES[:1]), tuple(NAMES[:2]), None}


async def test_of_two_replicas_one_leads_and_the_other_takes_over(tmp_path: Path) -> None:
    lease = LeaseSettings(enabled=True, duration_s=2, renew_s=0.2, identity="one")
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, lease=lease) as first:
        second_lease = LeaseSettings(enabled=True, duration_s=2, renew_s=0.2, identity="two")
        async with running(api, tmp_path, wait=False, lease=second_lease) as second:
            await until(lambda: second.app.engine.why_not_serving() == "another replica leads")
            pod = api.put("pods", pod_object("g", milli=600))
            assert await first.bind(pod, NAMES[0]) == ""
            await first.app.stop()
            await until(lambda: not second.app.engine.why_not_serving())
            other = api.put("pods", pod_object("h", milli=600))
            assert (await second.filter(other, NAMES[:1], gpu=True))["NodeNames"] == []


async def test_who_leads_no_more_says_so_though_its_next_turn_to_renew_is_far(tmp_path: Path) -> None:
    lease = LeaseSettings(enabled=True, duration_s=600, renew_s=60, identity="one")
    async with cluster(gpus=1, nodes=1) as api, running(api, tmp_path, lease=lease) as replica:
        assert replica.app.election is not None
        assert "ullage_leader 1.0" in (await replica.page("/metrics"))[1]
        replica.app.election._renewed_s -= 500
        assert "ullage_leader 0.0" in (await replica.page("/metrics"))[1]


async def test_who_stops_with_a_binding_on_its_way_leaves_the_lease_to_expire(tmp_path: Path) -> None:
    """A standby that took over at once could give the same device before the Binding takes effect."""
    leads: dict[str, Any] = {"enabled": True, "duration_s": 2, "renew_s": 0.2}
    kube = KubeSettings(page_size=2, silence_timeout_s=5, bind_timeout_s=0.3)
    async with cluster(gpus=1, nodes=1) as api:
        async with running(api, tmp_path, lease=LeaseSettings(**leads, identity="one"), kube=kube) as first:
            pod = api.put("pods", pod_object("g", milli=600))
            assert (await first.filter(pod, NAMES[:1], gpu=True))["NodeNames"]
            api.bindings_go_on.clear()
            assert "no answer in time" in await first.bind(pod, NAMES[0])
        assert api.objects["leases/ullage-system/ullage"]["spec"]["holderIdentity"] == "one", "not handed over"
        assert "nodeName" not in api.pod("g")["spec"]
        api.bindings_go_on.set()
        await until(lambda: "nodeName" in api.pod("g")["spec"])
        async with running(api, tmp_path, lease=LeaseSettings(**leads, identity="two")) as second:
            other = api.put("pods", pod_object("h", milli=600))
            assert (await second.filter(other, NAMES[:1], gpu=True))["NodeNames"] == []


async def test_who_does_not_lead_lets_no_caller_stay(tmp_path: Path) -> None:
    """The Service sends new connections to the leader; one that is kept would stay with a leader of the past."""
    leads: dict[str, Any] = {"enabled": True, "duration_s": 60, "renew_s": 0.2}
    async with (
        cluster(gpus=1, nodes=1) as api,
        running(api, tmp_path, lease=LeaseSettings(**leads, identity="a")) as one,
        running(api, tmp_path, wait=False, lease=LeaseSettings(**leads, identity="b")) as other,
    ):
        await until(lambda: other.app.engine.why_not_serving() == "another replica leads")
        pod = api.put("pods", pod_object("p"))
        binding = {"PodName": "p", "PodNamespace": "default", "PodUID": "u", "Node": NAMES[0]}
        for scheduler, kept in ((one, "keep-alive"), (other, "close")):
            for verb in ("filter", "prioritize", "preempt", "gpu/filter", "gpu/bind"):
                body = binding if verb == "gpu/bind" else {"Pod": pod, "NodeNames": NAMES[:1]}
                url = f"http://127.0.0.1:{scheduler.app.http.port}/v1/{verb}"
                async with scheduler.session.post(url, json=body) as answer:
                    assert answer.status == 200
                    assert answer.headers.get("Connection", "keep-alive") == kept, verb


async def test_metrics_have_the_promised_names_and_no_node_or_pod_in_them(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        await scheduler.filter(api.put("pods", pod_object("some-pod")), NAMES)
        status, text = await scheduler.page("/metrics")
    assert status == 200
    for name in (
        'ullage_extender_request_duration_seconds_bucket{le="0.0005",outcome="decided",verb="filter"}',
        "ullage_extender_nodes_evaluated_count",
        "ullage_cache_synced 1.0",
        "ullage_reservations 1.0",
        "ullage_fallback_total",
    ):
        assert name in text
    assert "some-pod" not in text
    assert NAMES[0] not in text


async def test_connections_of_all_ports_are_counted_together_when_they_are_asked_for(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        app = scheduler.app
        await app._listen_beside(replace(app.settings.http, port=0), app.extender.handle_page)
        (side,) = app.side_servers
        for port in (app.http.port, side.port, side.port):
            async with scheduler.session.get(f"http://127.0.0.1:{port}/metrics") as response:
                text = await response.text()
    assert "\nullage_http_connections 2.0\n" in text


async def test_a_volume_that_gets_bound_decides_where_its_pod_may_go(tmp_path: Path) -> None:
    async with cluster() as api:
        for i, name in enumerate(NAMES):
            node = node_object(name)
            node["metadata"]["labels"] = {"zone": f"z{i}"}
            api.put("nodes", node)
        pod = pod_object("p")
        pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}]
        api.put("pods", pod)
        async with running(api, tmp_path) as scheduler:
            in_zone = {"key": "zone", "operator": "In", "values": ["z2"]}
            required = {"nodeSelectorTerms": [{"matchExpressions": [in_zone]}]}
            api.put("persistentvolumes", {"metadata": {"name": "pv"}, "spec": {"nodeAffinity": {"required": required}}})
            claim = {"metadata": {"name": "disk", "namespace": "default"}, "spec": {"volumeName": "pv"}}
            api.put("persistentvolumeclaims", claim)
            reader = scheduler.app.reader
            await until(lambda: bool(reader.volumes) and bool(reader.claims))
            assert (await scheduler.filter(pod, NAMES))["NodeNames"] == [NAMES[2]]
            api.delete("persistentvolumes", "pv")
            await until(lambda: not reader.volumes)
            labels = {"topology.kubernetes.io/zone": "z2"}  # by which kube-scheduler goes, too
            api.put("persistentvolumes", {"metadata": {"name": "pv", "labels": labels}, "spec": {}})
            api.put("persistentvolumes", {"metadata": {"name": "other"}, "spec": {}})
            await until(lambda: "other" in reader.volumes)
            assert reader.spec(json.dumps(pod).encode()).unmodelled == ("claim disk",), "no plan takes it elsewhere"


async def test_a_workload_that_was_given_is_learned_before_anything_is_decided(tmp_path: Path) -> None:
    share = GpuRequest(1, 300)
    workload = Workload.of([PodSpec(request=((CPU, 1000),), gpu=share)], [10])
    path = tmp_path / "workload.json"
    path.write_bytes(msgspec.json.encode(workload))
    async with cluster() as api, running(api, tmp_path, strategy="priced", knowledge=str(path)) as scheduler:
        engine = scheduler.app.engine
        assert engine.in_force().name == "priced"
        pod = api.put("pods", pod_object("g", milli=300))
        assert len((await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"]) == 1


async def test_without_knowledge_the_fallback_decides_until_pods_were_seen(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, strategy="priced") as scheduler:
        engine = scheduler.app.engine
        assert engine.in_force().name == "best-fit"
        api.put("pods", pod_object("g", milli=300))
        await until(lambda: engine.in_force().name == "priced")
        assert engine.state.knowledge.prices is not None


async def test_a_running_pod_with_a_nonsensical_gpu_request_still_counts_what_it_takes(tmp_path: Path) -> None:
    async with cluster(nodes=2) as api:
        pod = pod_object("odd", milli=700, cpu="6")
        pod["metadata"]["annotations"]["ullage.dev/gpu-count"] = "lots"
        pod["spec"]["nodeName"] = NAMES[0]
        api.put("pods", pod)
        async with running(api, tmp_path) as scheduler:
            state = scheduler.app.engine.state
            assert state.taken[state.lane("cpu"), 0] == 6000
            assert state.taken[state.lane("ullage.dev/gpu-milli"), 0] == 700
            other = api.put("pods", pod_object("p", cpu="4"))
            assert (await scheduler.filter(other, NAMES[:2]))["NodeNames"] == NAMES[1:2]
            pending = api.put("pods", pod_object("q", milli=700))
            pending["metadata"]["annotations"]["ullage.dev/gpu-count"] = "lots"
            assert "does not divide" in (await scheduler.filter(pending, NAMES[:1], gpu=True))["Error"]


async def test_a_share_waits_where_it_is_not_known_which_device_is_taken(tmp_path: Path) -> None:
    """And is told so; it goes where there is room however the others lie."""
    async with cluster(nodes=1) as api, running(api, tmp_path) as scheduler:
        stranger = pod_object("stranger", milli=600)
        stranger["spec"]["nodeName"] = NAMES[0]
        api.put("pods", stranger)
        state = scheduler.app.engine.state
        await until(lambda: "uid-stranger" in state.residents)
        for mode in ("decide", "score"):
            scheduler.app.engine.modes.switch(mode)
            large = api.put("pods", pod_object(f"large-{mode}", milli=500))
            answer = await scheduler.filter(large, NAMES[:1], gpu=True)
            assert answer["NodeNames"] == []
            assert answer["FailedNodes"] == {NAMES[0]: UNRECORDED}
        victims = {NAMES[0]: {"Pods": [{"UID": "uid-stranger"}], "NumPDBViolations": 0}}
        body = {"Pod": pod_object("big", milli=1000), "NodeNameToMetaVictims": victims}
        assert (await scheduler.post("/v1/preempt", body))["NodeNameToMetaVictims"] == victims
        for name in ("small", "smaller"):
            pod = api.put("pods", pod_object(name, milli=400))
            assert await scheduler.bind(pod, NAMES[0]) == ""
        await until(lambda: not scheduler.app.ledger.reservations)
        assert state.gpu_free[0, :2].tolist() == [0, 0]
        assert "no longer free" in await scheduler.bind(api.put("pods", pod_object("least", milli=1)), NAMES[0])
        stranger["metadata"]["annotations"]["ullage.dev/devices"] = "0"
        api.put("pods", stranger)
        await until(lambda: bool(scheduler.app.ledger._disbelieved))
        assert state.gpu_free[0, :2].tolist() == [0, 0], "whoever may edit the pod may write that"
        api.delete("pods", "stranger", "default")
        await until(lambda: "uid-stranger" not in state.residents)
        assert state.gpu_free[0, :2].tolist() == [600, 600]
        assert "ullage_devices_given_twice 0.0" in (await scheduler.page("/metrics"))[1]


async def test_a_guess_that_kube_scheduler_overrules_is_no_conflict(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, mode="score") as scheduler:
        pod = api.put("pods", pod_object("p"))
        marks = await scheduler.prioritize(pod, NAMES)
        pod["spec"]["nodeName"] = min(marks, key=lambda name: marks[name])
        api.put("pods", pod)
        state = scheduler.app.engine.state
        await until(lambda: state.residents["uid-p"].is_bound)
        assert state.names[state.residents["uid-p"].row] == pod["spec"]["nodeName"]
        assert (
            "bound elsewhere"
            not in (await scheduler.page("/metrics"))[1].split("ullage_ledger_conflicts_total{")[-1][:40]
        )


async def test_a_defect_in_a_verb_is_logged_and_changes_no_answer_but_where_devices_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        monkeypatch.setattr(scheduler.app.engine.reader, "spec", lambda raw: 1 / 0)
        pod = pod_object("p")
        victims = {"NodeNameToMetaVictims": {NAMES[0]: {"Pods": [{"UID": "u"}], "NumPDBViolations": 0}}}
        assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
        assert "internal error" in (await scheduler.filter(pod, NAMES, gpu=True))["Error"]
        assert await scheduler.prioritize(pod, NAMES) == dict.fromkeys(NAMES, 0)
        assert await scheduler.post("/v1/preempt", {"Pod": pod} | victims) == victims
        assert await scheduler.post("/v1/gpu/preempt", {"Pod": pod} | victims) == {"NodeNameToMetaVictims": {}}
        assert scheduler.app.metrics.fallback.labels("error")._value.get() == 5
    assert [r.exc_info is not None for r in caplog.records if r.getMessage() == "defect in a verb"] == [True] * 5


async def test_what_is_logged_about_a_decision_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(gpus=0) as api, running(api, tmp_path) as scheduler:
        engine = scheduler.app.engine
        ids: list[str] = []
        engine.listeners.append(lambda answered: ids.append(answered.decision_id))
        names = sorted(engine.state.row_of)
        pod = api.put("pods", pod_object("web"))
        await until(lambda: "uid-web" in engine.ledger.pods)
        (chosen,) = (await scheduler.filter(pod, names))["NodeNames"]
        assert engine.ledger.reservations["uid-web"].decision_id == ids[-1]
        broken = pod | {"spec": {"containers": [{"resources": {"requests": {"cpu": "much"}}}]}}
        broken["metadata"] = pod["metadata"] | {"resourceVersion": "1"}
        await scheduler.filter(broken, names)
        elsewhere = next(name for name in names if name != chosen)
        api.put("pods", pod | {"spec": pod["spec"] | {"nodeName": elsewhere}})
        await until(lambda: engine.ledger.pods["uid-web"].node == elsewhere)
    lines = {r.getMessage(): vars(r) for r in caplog.records if r.name.startswith("scheduler")}
    for said in ("answered neutrally", "ledger differs from the API"):
        assert lines[said]["decision_id"] == ids[0]
        assert lines[said]["pod"] == "default/web"
