"""`ullage record`: a cluster and its usage become a trace, and the trace a table to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from placement.errors import ConfigError
from placement.learning.facts import Facts
from placement.learning.usage import STEP_S
from placement.nodes import NodeSpec
from placement.planning.foresight import history_of_recording, worth_of
from placement.pods import PodSpec
from placement.rates import Rates
from placement.recording import RecordedPod, Recording
from placement.resources import CPU, MEMORY, MOST_COUNTED
from scheduler.recording import record
from simulator.planning.foresight import history_of, last_seen
from simulator.traces.recorded import WEEK_S, trace_of_recording, usage_of_trace
from simulator.traces.trace import Trace, TraceError, Usage
from simulator.traces.usage_readers import read_usage
from simulator.traces.validate import validate
from simulator.usage.usage_truth import RecordedUse
from tests.api_server import api_server, client_of, node_object, pod_object
from tests.test_prometheus import NOW, FakeProm, fake_prometheus, reader

OWNER: dict[str, Any] = {"kind": "ReplicaSet", "name": "web-7c9d8bf6c4", "controller": True}


def web_pod(name: str) -> dict[str, Any]:
    """A pod of one workload in a namespace of its own."""
    pod = pod_object(name, cpu="2", ownerReferences=[OWNER], creationTimestamp="2023-11-01T00:00:00Z")
    pod["metadata"]["namespace"] = "shop"
    return pod


async def recorded(folder: Path, days: float = 0.5, say: Callable[[str], None] = lambda said: None) -> Recording:
    """Two pods of one workload that run, a third that is gone, and a stranger without a workload here."""
    async with api_server() as api, client_of(api, folder) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        for name in ("web-1", "web-2"):
            pod = web_pod(name)
            pod["spec"]["containers"][0]["image"] = f"registry:5000/shop/web:{name}"
            api.put("pods", pod)
        bare = pod_object("bare", creationTimestamp="2023-11-01T00:00:00Z")
        bare["status"]["startTime"] = "2023-11-01T01:00:00Z"
        api.put("pods", bare)
        fake.pods = {"web-1": lambda t: 0.5, "web-2": lambda t: 1.5 if t < NOW - 7200 else 0.1, "web-0": lambda t: 0.2}
        return await record(client, prom, name="mine", days=days, now_s=NOW, progress=say)


async def test_a_recording_says_how_much_of_which_resource_is_read(tmp_path: Path) -> None:
    said: list[str] = []
    await recorded(tmp_path, say=said.append)
    assert said == [
        "1 nodes, 3 pods",
        "cpu of 3 pods read, 100 % of the time",
        "memory of 3 pods read, 100 % of the time",
    ]


async def test_a_recorded_trace_holds_pods_nodes_and_usage_and_survives_its_file(tmp_path: Path) -> None:
    trace = trace_of_recording(await recorded(tmp_path))
    trace.save(tmp_path / "mine.ullage")
    again = Trace.load(tmp_path / "mine.ullage")
    assert again.digest == trace.digest
    assert sorted(trace.pods.name) == ["default/bare", "shop/web-0", "shop/web-1", "shop/web-2"]
    gone = list(trace.pods.name).index("shop/web-0")
    assert trace.pods.departure_s[gone] > 0
    assert "1 pods have no usage" in trace.manifest.notes


async def test_a_pod_that_is_being_deleted_is_recorded_as_any_other(tmp_path: Path) -> None:
    """Those of its workload that are gone are taken for pods like it."""
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        leaving = web_pod("web-1")
        leaving["metadata"]["deletionTimestamp"] = "2023-11-02T00:00:00Z"
        api.put("pods", leaving)
        fake.pods = {"web-1": lambda t: 0.5, "web-0": lambda t: 0.2}
        recording = await record(client, prom, name="mine", days=0.1, now_s=NOW)
    assert [(pod.name, pod.spec.leaving) for pod in recording.pods] == [("shop/web-1", False), ("shop/web-0", False)]


async def test_a_running_pod_that_asks_for_nonsense_is_recorded_with_the_most_that_counts(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        greedy = web_pod("web-1")
        greedy["spec"]["nodeName"] = "n0"
        greedy["spec"]["containers"][0]["resources"]["requests"]["memory"] = "8Ei"
        api.put("pods", greedy)
        fake.pods = {"web-1": lambda t: 0.5}
        recording = await record(client, prom, name="mine", days=0.1, now_s=NOW)
    (pod,) = recording.pods
    assert pod.parts is not None
    assert (pod.spec.amount(MEMORY), pod.parts[1].containers) == (MOST_COUNTED, MOST_COUNTED)


async def test_usage_that_reaches_back_less_far_than_asked_for_is_said(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        api.put("pods", web_pod("web-1"))
        fake.pods = {"web-1": lambda t: 0.5}
        fake.oldest_s = NOW - 43_200
        short, whole = [
            await record(client, prom, name="mine", days=days, now_s=NOW, progress=lambda _: None) for days in (2, 0.5)
        ]
    assert short.notes[-1] == "usage reaches back 0.5 of 2 days: Prometheus has no older samples of these pods"
    assert not any("reaches back" in note for note in whole.notes)


async def test_pods_that_are_gone_with_their_workload_or_have_none_are_left_out_and_counted(tmp_path: Path) -> None:
    class Ownerless(FakeProm):
        def _result(self, form: dict[str, str]) -> list[dict[str, Any]]:
            return [] if "kube_pod_owner" in form["query"] else super()._result(form)

    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus(Ownerless()) as fake:
        api.put("nodes", node_object("n0"))
        bare = pod_object("bare", creationTimestamp="2023-11-01T00:00:00Z")
        bare["metadata"]["namespace"] = "shop"
        api.put("pods", bare)
        fake.pods = {name: lambda t: 0.5 for name in ("bare", "one", "two")}
        async with reader(fake) as prom:
            recording = await record(client, prom, name="mine", days=0.1, now_s=NOW)
    assert [pod.name for pod in recording.pods] == ["shop/bare"]
    assert recording.notes == ("2 pods are gone with their whole workload and were left out",)


async def test_values_that_make_no_sense_are_left_out_and_said(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        api.put("pods", web_pod("web-1"))
        wrong = iter([math.nan, math.inf, -1.0, 1e9])
        fake.pods = {"web-1": lambda t: next(wrong, 0.5)}
        recording = await record(client, prom, name="mine", days=0.1, now_s=NOW)
    assert recording.notes == ("4 values made no sense and were left out",)
    (web,) = recording.pods
    assert web.cpu_millicores[:5].tolist() == [-1] * 4 + [500], "gaps"
    assert (web.memory_bytes > 0).all()


async def test_a_recorded_pod_arrives_when_its_kubelet_took_it_not_when_it_began_to_wait(tmp_path: Path) -> None:
    recording = await recorded(tmp_path)
    (bare,) = [pod for pod in recording.pods if pod.name == "default/bare"]
    assert bare.arrival_s == datetime.fromisoformat("2023-11-01T01:00:00Z").timestamp()


async def test_pods_that_had_one_name_after_the_other_are_rows_of_their_own(tmp_path: Path) -> None:
    """A StatefulSet names a pod as the one before; only their starts tell them apart."""
    begin, step = NOW // STEP_S * STEP_S, STEP_S
    starts = [begin - 90_000, begin - 4 * step - 10, begin - 2 * step + 10]
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        now = pod_object("db-0", ownerReferences=[OWNER], creationTimestamp="2023-11-01T00:00:00Z")
        now["metadata"]["namespace"], now["spec"]["nodeName"] = "shop", "n0"
        now["status"]["startTime"] = datetime.fromtimestamp(starts[2], UTC).isoformat()
        api.put("pods", now)
        fake.pods = {"db-0": lambda t: 0.5, "db-1": lambda t: 0.2 if t <= begin - step else math.nan}
        fake.memory = math.nan
        fake.starts = [("db-0", start, NOW) for start in starts]
        fake.starts += [("db-1", begin - 5 * step, NOW), ("db-1", begin - 3 * step, NOW), ("db-1", begin, NOW)]
        recording = await record(client, prom, name="mine", days=6 * step / 86_400, now_s=NOW)
    lives = {p.name: (p.arrival_s, p.departure_s, p.node, p.time_s.tolist()) for p in recording.pods}
    assert lives == {
        "shop/db-0#1": (starts[0], begin - 5 * step, "", [begin - 6 * step, begin - 5 * step]),
        "shop/db-0#2": (starts[1], begin - 2 * step, "", [begin - k * step for k in (4, 3, 2)]),
        "shop/db-0": (starts[2], -1, "n0", [begin - step, begin]),
        "shop/db-1#1": (begin - 7 * step, begin - 5 * step, "", [begin - 6 * step, begin - 5 * step]),
        "shop/db-1#2": (begin - 5 * step, begin - 3 * step, "", [begin - 4 * step, begin - 3 * step]),
        "shop/db-1": (begin - 3 * step, begin - step, "", [begin - 2 * step, begin - step]),
    }
    trace = trace_of_recording(recording)
    assert len(set(trace.pods.spec.tolist())) == 1
    assert sorted(trace.pods.departure_s - trace.pods.arrival_s)[-1] <= 4 * step, "no merged life"


async def test_lives_run_from_the_kubelet_or_a_step_before_the_first_sample_to_the_last_one(tmp_path: Path) -> None:
    begin, step = NOW // STEP_S * STEP_S, STEP_S
    stamps = {
        name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in (("ran", begin - 1000), ("again", begin))
    }

    def until(last_s: float, cores: float) -> Callable[[float], float]:
        return lambda t: cores if t <= last_s else math.nan

    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake, reader(fake) as prom:
        api.put("nodes", node_object("n0"))
        for name in ("ran", "again", "over", "never", "odd"):
            pod = pod_object(name, ownerReferences=[OWNER], creationTimestamp=stamps.get(name, "2023-11-01T00:00:00Z"))
            pod["metadata"]["namespace"] = "shop"
            if name in ("over", "never"):
                pod["status"]["phase"] = "Succeeded"
            if name == "odd":
                pod["metadata"]["creationTimestamp"] = "yesterday"
            api.put("pods", pod)
        fake.pods = {
            "ran": lambda t: 0.0006 if t > begin - 1000 else math.nan,
            "again": lambda t: 0.5,
            "over": until(begin - 2 * step, 0.5),
            "odd": lambda t: 0.5,
            "gone": until(begin - 3 * step, 0.5),
        }
        fake.memory = math.nan
        days = 6 * step / 86_400
        recording = await record(client, prom, name="mine", days=days, now_s=NOW)
    first = begin - 6 * step
    lives = {pod.name.removeprefix("shop/"): (pod.arrival_s, pod.departure_s) for pod in recording.pods}
    assert lives == {
        "ran": (begin - 1000, -1),
        "again#1": (first - step, begin),
        "again": (begin, -1),
        "over": (int(datetime(2023, 11, 1, tzinfo=UTC).timestamp()), begin - 2 * step),
        "never": (int(datetime(2023, 11, 1, tzinfo=UTC).timestamp()),) * 2,
        "odd": (first - step, -1),
        "gone": (first - step, begin - 3 * step),
    }
    (ran,) = [pod for pod in recording.pods if pod.name == "shop/ran"]
    assert ran.cpu_millicores.tolist() == [1] * 4, "rounded"
    assert ran.memory_bytes.tolist() == [-1] * 4
    assert ran.time_s.tolist() == [begin - k * step for k in (3, 2, 1, 0)]


def test_a_pod_whose_memory_is_known_before_its_cpu_is_recorded_and_replayed(tmp_path: Path) -> None:
    spec = PodSpec(((CPU, 1000), (MEMORY, 10)), namespace="shop", owner="Deployment/web")
    times = WEEK_S + np.arange(1, 5, dtype=np.int64) * STEP_S
    pods = tuple(
        RecordedPod(f"shop/web-{i}", spec, WEEK_S, -1, times, np.array(cpu), np.array(memory))
        for i, (cpu, memory) in enumerate((([-1, 300, -1, 500], [7, 8, 9, -1]), ([-1, -1, 40, 50], [1, 2, 3, 4])))
    )
    trace = trace_of_recording(Recording("mine", (NodeSpec("n", ((CPU, 4000),)),), pods))
    trace.save(tmp_path / "mine.ullage")
    assert not [f for f in validate(Trace.load(tmp_path / "mine.ullage")) if f.where == "usage"]
    use, both = RecordedUse(trace.usage), np.arange(2)
    seen = [use.at(both, STEP_S * i).tolist() for i in (1, 3, 4)]
    assert seen == [[[0, 0], [7, 1]], [[300, 40], [9, 3]], [[500, 50], [9, 4]]]
    series = usage_of_trace(trace)
    assert np.nan_to_num(series.usage[CPU][0], nan=-1).tolist() == pytest.approx([-1, 0.3, 0.04, 0.5])


def test_who_came_before_the_first_sample_is_there_from_then_on_and_who_ended_before_is_over_at_once() -> None:
    spec, none = PodSpec(((CPU, 1000), (MEMORY, 100))), np.zeros(0, np.int64)
    one = np.array([WEEK_S + 2 * STEP_S]), np.array([500]), np.array([50])
    pods = (
        RecordedPod("s/runs", spec, WEEK_S - 5000, -1, *one),
        RecordedPod("s/over", spec, WEEK_S - 9000, WEEK_S - 1, none, none, none),
        RecordedPod("s/waits", spec, WEEK_S + 400, -1, none, none, none),
        RecordedPod("s/gone", spec, WEEK_S + 350, WEEK_S + 600, none, none, none),
    )
    trace = trace_of_recording(Recording("mine", (NodeSpec("n", ((CPU, 4000),)),), pods))
    assert trace.pods.name.tolist() == ["s/runs", "s/over", "s/gone", "s/waits"]
    assert trace.pods.arrival_s.tolist() == [300, 300, 350, 400]
    assert trace.pods.departure_s.tolist() == [-1, 300, 600, -1]
    assert (trace.manifest.begins_s, trace.usage.time_s.tolist()) == (WEEK_S, [600])


def test_a_workload_is_given_what_its_largest_pod_asks_for_and_who_asks_for_nothing_is_left_out() -> None:
    asks = [(1000, 20), (500, 40), (0, 40), (500, 0), (400, 30)]
    specs = [PodSpec(tuple((r, a) for r, a in ((CPU, c), (MEMORY, m)) if a), owner="Deployment/web") for c, m in asks]
    trace = Trace.of("t", (), [(f"p{i}", spec, 0, -1) for i, spec in enumerate(specs)])
    usage = Usage(
        np.arange(4), np.array([300, 301, 302, 303]), np.array([100, 50, 900, 900]), np.array([-1, 10, 15, 15])
    )
    series = usage_of_trace(trace.but(usage=usage))
    assert (series.provisioned[CPU].tolist(), series.provisioned[MEMORY].tolist()) == ([1.0], [40.0])
    assert series.start_s == 300
    assert series.usage[CPU].tolist() == pytest.approx(np.array([[0.1, 0.05]], np.float32))
    assert np.nan_to_num(series.usage[MEMORY], nan=-1).tolist() == [[-1, 10]]


def test_samples_of_a_trace_that_come_twice_or_too_late_are_counted() -> None:
    spec = PodSpec(((CPU, 1000), (MEMORY, 100)), owner="Deployment/web")
    trace = Trace.of("t", (), [("p", spec, 0, -1), ("q", spec, 0, -1)])
    pod, time_s = np.array([0, 0, 0, 1, 1]), np.array([300, 600, 300, 300, 600])
    series = usage_of_trace(trace.but(usage=Usage(pod, time_s, np.arange(5) * 100, np.full(5, 50))))
    assert dict(series.repairs) == {"samples out of order": 1, "duplicate samples": 1}
    assert series.usage[CPU][0].tolist() == pytest.approx([0.3, 0.4])


async def test_usage_of_a_workload_is_that_of_its_largest_pod_on_the_clock_of_the_week(tmp_path: Path) -> None:
    trace = trace_of_recording(await recorded(tmp_path))
    trace.save(tmp_path / "mine.ullage")
    series = read_usage(tmp_path / "mine.ullage")
    assert series.workloads == ("shop/Deployment/web",)
    assert series.groups == ("shop/Deployment",)
    assert series.facts == (Facts("shop", "Deployment", "web", ("registry:5000/shop/web",), False, 0),)
    assert series.provisioned[CPU].tolist() == [2.0]
    assert series.provisioned[MEMORY].tolist() == [2.0**30]
    end_s = series.start_s + (series.num_steps - 1) * STEP_S
    assert end_s % WEEK_S == NOW // STEP_S * STEP_S % WEEK_S
    cpu = series.usage[CPU][0]
    assert cpu[0] == pytest.approx(1.5)
    assert cpu[-1] == pytest.approx(0.5)
    assert np.isfinite(cpu).all()


async def test_what_is_expected_of_a_recording_is_what_is_expected_of_its_trace(tmp_path: Path) -> None:
    recording = await recorded(tmp_path)
    trace, rates = trace_of_recording(recording), Rates()
    history, specs = history_of_recording(recording, rates, days=2)
    other = history_of(trace, last_seen(trace), worth_of(trace.specs, rates), days=2)
    origin = trace.manifest.begins_s
    assert (specs, history.now_s, history.since_s) == (trace.specs, other.now_s + origin, other.since_s + origin)
    assert (history.arrival_s == other.arrival_s + origin).all()
    assert (history.end_s == np.where(other.end_s < 0, -1, other.end_s + origin)).all()
    assert (history.classes == other.classes).all()
    assert (history.worth == other.worth).all()
    with pytest.raises(ConfigError, match="has no pods"):
        history_of_recording(Recording("empty", (), ()), rates)


async def test_a_prometheus_without_our_pods_is_said_so(tmp_path: Path) -> None:
    async with api_server() as api, client_of(api, tmp_path) as client, fake_prometheus() as fake:
        api.put("nodes", node_object("n0"))
        api.put("pods", pod_object("web-1"))
        for selector, where in (("", "pods in the last"), ('cluster="a"', 'pods where cluster="a" in the last')):
            async with reader(fake, prometheus_selector=selector) as prom:
                with pytest.raises(ConfigError, match=f"has no usage of this cluster's {where} 1 days"):
                    await record(client, prom, name="mine", days=1, now_s=NOW)


def test_a_trace_without_usage_or_owners_cannot_be_learned_from() -> None:
    spec = PodSpec(((CPU, 1000), (MEMORY, 2**30)))
    times = np.arange(1, 9, dtype=np.int64) * STEP_S + WEEK_S
    pod = RecordedPod("default/bare", spec, 0, -1, times, np.full(8, 100), np.full(8, 2**20))
    trace = trace_of_recording(Recording("bare", (NodeSpec("n", ((CPU, 4000),)),), (pod,)))
    assert len(trace.usage.pod) == 8
    with pytest.raises(TraceError, match="have an owner"):
        usage_of_trace(trace)
    with pytest.raises(TraceError, match="0 nodes and 0 pods"):
        trace_of_recording(Recording("empty", (), ()))
