"""The contract with kube-scheduler, clause by clause, over real HTTP: what it sends, and what it makes of our answers."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler.server import Request, Response
from scheduler.settings import HttpSettings, Settings
from tests.api_server import pod_object
from tests.waiting import until
from tests.whole_app import NAMES, Scheduler, cluster, running

IDLE_OF_KUBE_SCHEDULER_S = 90
"""Go's transport closes an idle connection then; a server that closes first races a POST that is not sent again."""


def args(pod: dict[str, Any], names: list[str] | None, **extra: Any) -> dict[str, Any]:
    return {"Pod": pod, "Nodes": None, "NodeNames": names, **extra}


async def raw(scheduler: Scheduler, path: str, body: Any, times: int = 1) -> list[tuple[dict[str, str], bytes]]:
    """Headers and bodies of answers on one connection, read as Go does: by Content-Length alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", scheduler.app.http.port)
    data = json.dumps(body).encode()
    answers = []
    for _ in range(times):
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
        assert head[0] == "HTTP/1.1 200 OK"
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        answers.append((headers, await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 10)))
    writer.close()
    return answers


def outcomes(scheduler: Scheduler, verb: str, outcome: str) -> float:
    """How many answers of a verb had an outcome, as the metric tells."""
    value = scheduler.app.metrics.registry.get_sample_value(
        "ullage_extender_request_duration_seconds_count", {"verb": verb, "outcome": outcome}
    )
    return value or 0.0


async def test_every_answer_has_its_length_and_leaves_the_connection_open(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, mode="score") as scheduler:
        pod = api.put("pods", pod_object("p"))
        for path, body in (
            ("/v1/filter", args(pod, NAMES)),
            ("/v1/prioritize", args(pod, NAMES)),
            ("/v1/preempt", {"Pod": pod, "NodeNameToMetaVictims": {}}),
            ("/v1/bind", {"PodName": "q", "PodNamespace": "default", "PodUID": "uid-q", "Node": NAMES[0]}),
        ):
            for headers, answer in await raw(scheduler, path, body, times=3):
                assert "transfer-encoding" not in headers
                assert headers.get("connection") != "close"
                json.loads(answer)


def test_connections_stay_open_longer_than_kube_scheduler_keeps_them() -> None:
    assert HttpSettings().idle_timeout_s > IDLE_OF_KUBE_SCHEDULER_S


async def test_names_go_out_as_go_spells_them_and_come_in_in_any_case(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        for keys in (("Pod", "NodeNames"), ("pod", "nodenames"), ("POD", "nodeNames")):
            answer = await scheduler.post("/v1/filter", dict(zip(keys, (pod, NAMES), strict=True)))
            assert set(answer) == {"Nodes", "NodeNames", "FailedNodes", "FailedAndUnresolvableNodes", "Error"}
            assert len(answer["NodeNames"]) == 1
        preempted = await scheduler.post(
            "/v1/preempt", {"pod": pod, "nodenametometavictims": {NAMES[0]: {"pods": [{"uid": "a"}]}}}
        )
        assert preempted == {"NodeNameToMetaVictims": {NAMES[0]: {"Pods": [{"UID": "a"}], "NumPDBViolations": 0}}}


async def test_scores_are_integers_from_0_to_10_for_every_node_asked_for_known_or_not(tmp_path: Path) -> None:
    asked = [NAMES[2], "stranger", NAMES[0]]
    async with cluster() as api, running(api, tmp_path, mode="score") as scheduler:
        pod = api.put("pods", pod_object("p"))
        (_, answer), *_ = await raw(scheduler, "/v1/prioritize", args(pod, asked))
        marks = json.loads(answer)
        assert [mark["Host"] for mark in marks] == asked
        assert all(type(mark["Score"]) is int and 0 <= mark["Score"] <= 10 for mark in marks)
        assert await scheduler.post("/v1/prioritize", args(pod, None)) == []


async def test_a_rejected_pod_is_told_a_constant_reason_for_every_node(tmp_path: Path) -> None:
    asked = [*NAMES, "stranger"]
    async with cluster() as api, running(api, tmp_path) as scheduler:
        for name in NAMES:
            await scheduler.filter(api.put("pods", pod_object(f"on-{name}", cpu="8")), [name])
        reasons = []
        for cpu, milli in (("1", 300), ("2", 600)):
            pod = api.put("pods", pod_object(f"p{cpu}", cpu=cpu, milli=milli))
            answer = await scheduler.filter(pod, asked)
            assert answer["NodeNames"] == []
            assert sorted(answer["FailedNodes"]) == sorted(asked)
            assert not any(name in reason for name in asked for reason in answer["FailedNodes"].values())
            reasons.append(answer["FailedNodes"])
        assert reasons[0] == reasons[1]


async def test_no_answer_names_a_node_that_was_not_asked_about(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        first = (await scheduler.filter(pod, NAMES))["NodeNames"]
        others = [name for name in NAMES if name not in first]
        answer = await scheduler.filter(pod, others)  # the node we chose is no candidate any more
        assert len(answer["NodeNames"]) == 1
        assert set(answer["NodeNames"]) <= set(others)
        assert scheduler.app.ledger.reservations["uid-p"].node == answer["NodeNames"][0]


async def test_a_nominated_node_that_is_the_chosen_one_is_confirmed_without_a_new_decision(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        chosen = (await scheduler.filter(pod, NAMES))["NodeNames"]
        version = scheduler.app.engine.state.version
        for _ in range(3):
            assert (await scheduler.filter(pod, chosen))["NodeNames"] == chosen
        assert scheduler.app.engine.state.version == version
        assert outcomes(scheduler, "filter", "confirmed") == 3


async def test_pods_of_exempt_namespaces_are_answered_as_if_we_were_not_there(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path, exempt_namespaces=("default",)) as scheduler:
        pod = api.put("pods", pod_object("p"))
        assert (await scheduler.filter(pod, NAMES))["NodeNames"] == NAMES
        assert set((await scheduler.prioritize(pod, NAMES)).values()) == {0}
        assert not scheduler.app.ledger.reservations
        scheduler.app.reload(Settings(mode="decide"))
        assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1


@pytest.mark.parametrize("gpu", [False, True])
async def test_after_the_internal_deadline_the_answer_changes_nothing_and_a_metric_says_so(
    tmp_path: Path, gpu: bool
) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600 if gpu else 0))
        body = memoryview(json.dumps(args(pod, NAMES)).encode())
        late = time.perf_counter() - 10
        path = "/v1/gpu/filter" if gpu else "/v1/filter"
        response = scheduler.app.extender.handle(Request("POST", path, body, late))
        assert isinstance(response, Response)
        assert response.after is not None
        response.after()
        answer = json.loads(bytes(response.body))
        assert bool(answer["Error"]) is gpu  # devices are never guessed
        assert answer["NodeNames"] == (None if gpu else NAMES)
        assert not scheduler.app.ledger.reservations
        assert outcomes(scheduler, "filter", "deadline") == 1
        assert scheduler.app.metrics.registry.get_sample_value("ullage_fallback_total", {"reason": "deadline"}) == 1


async def test_binding_one_uid_again_is_a_success_without_a_second_binding(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("g", milli=600))
        node = (await scheduler.filter(pod, NAMES, gpu=True))["NodeNames"][0]
        both = await asyncio.gather(scheduler.bind(pod, node), scheduler.bind(pod, node))
        assert both == ["", ""]
        assert await scheduler.bind(pod, node) == ""
        assert sum(path.endswith("/binding") for _, path in api.calls) == 1
        other = next(name for name in NAMES if name != node)
        assert "already bound" in await scheduler.bind(pod, other)


async def test_preemption_is_answered_in_the_meta_form_and_only_with_victims(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        full = {
            NAMES[0]: {"Pods": [{"metadata": {"uid": "a"}}, {"metadata": {"uid": "b"}}], "NumPDBViolations": 2},
            NAMES[1]: {"Pods": None, "NumPDBViolations": 0},
        }
        answer = await scheduler.post(
            "/v1/preempt", {"Pod": pod, "NodeNameToVictims": full, "NodeNameToMetaVictims": None}
        )
        assert answer == {
            "NodeNameToMetaVictims": {NAMES[0]: {"Pods": [{"UID": "a"}, {"UID": "b"}], "NumPDBViolations": 2}}
        }
        assert await scheduler.post("/v1/preempt", {"Pod": pod}) == {"NodeNameToMetaVictims": {}}
        senseless = pod_object("q", milli=500)
        senseless["metadata"]["annotations"]["ullage.dev/gpu-count"] = "many"
        asked = {"Pod": senseless, "NodeNameToVictims": full}
        assert list((await scheduler.post("/v1/preempt", asked))["NodeNameToMetaVictims"]) == [NAMES[0]]
        assert await scheduler.post("/v1/gpu/preempt", asked) == {"NodeNameToMetaVictims": {}}, (
            "nobody dies for nothing"
        )


async def test_full_node_objects_come_back_as_sent_and_names_stay_null(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        items = [{"metadata": {"name": name, "labels": {"a": "b"}}, "status": {"odd": [1, None]}} for name in NAMES]
        answer = await scheduler.post("/v1/filter", args(pod, None, Nodes={"metadata": {}, "items": items}))
        assert answer["NodeNames"] is None
        assert len(answer["Nodes"]["items"]) == 1
        assert answer["Nodes"]["items"][0] in items


async def test_the_kill_switch_frees_every_pod_at_once_and_decided_pods_stay_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod, other = (api.put("pods", pod_object(name)) for name in ("p", "q"))
        assert len((await scheduler.filter(pod, NAMES))["NodeNames"]) == 1
        for is_killed in (False, True, True):
            scheduler.app.engine.modes.kill(is_killed)
        assert [vars(r)["killed"] for r in caplog.records if r.getMessage() == "kill switch"] == [True]
        assert (await scheduler.filter(other, NAMES))["NodeNames"] == NAMES
        assert set((await scheduler.prioritize(other, NAMES)).values()) == {0}
        assert set(scheduler.app.ledger.reservations) == {"uid-p"}
        scheduler.app.engine.modes.kill(False)
        assert len((await scheduler.filter(other, NAMES))["NodeNames"]) == 1


async def test_a_caller_that_hangs_up_before_its_answer_leaves_a_ledger_that_the_watch_settles(tmp_path: Path) -> None:
    async with cluster() as api, running(api, tmp_path) as scheduler:
        pod = api.put("pods", pod_object("p"))
        body = json.dumps(args(pod, NAMES)).encode()
        with socket.create_connection(("127.0.0.1", scheduler.app.http.port)) as caller:
            caller.sendall(b"POST /v1/filter HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: "uid-p" in scheduler.app.ledger.reservations)
        api.delete("pods", "p", "default")
        await until(lambda: not scheduler.app.engine.state.residents)
        assert not scheduler.app.ledger.reservations
