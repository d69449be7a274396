"""`ullage rightsize`: from a recording to advice, and to the ConfigMaps that admission reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError, PlacementError
from placement.learning.baselines import Target
from placement.learning.prediction import Rungs
from placement.learning.rightsize import RightsizePolicy
from placement.learning.usage import DAY, STEP_S
from placement.nodes import NamespaceSpec, NodeSpec
from placement.objects import Pod
from placement.pods import PodSpec
from placement.recording import Parts, RecordedPod, Recording
from placement.requests import parts_of
from placement.resources import CPU, MEMORY
from scheduler.cli.rightsize import _rendered, _run, rightsize
from scheduler.errors import ApiError
from scheduler.learning.reclaimer import KEEP_LABEL
from scheduler.learning.rightsizing import Advice, advise, apply, config_maps, require_current_policy, usd_per_month
from scheduler.learning.steering import Steered
from scheduler.recording import kept_of
from scheduler.settings import read_settings
from tests.api_server import api_server, kubeconfig

GIB = 2**30
NODE = NodeSpec("n", ((CPU, 64_000),))
PLAIN = (NamespaceSpec("shop", ()),)


def pod(name: str, owner: str, cpu: int = 500, burst: int = 0, **more: bool) -> RecordedPod:
    """Twelve days of usage, with one burst of memory on the first."""
    times = np.arange(1, 12 * DAY + 1, dtype=np.int64) * STEP_S
    memory = np.full(len(times), GIB)
    memory[10] = max(GIB, burst)
    spec = PodSpec(((CPU, 4000), (MEMORY, 8 * GIB)), namespace="shop", owner=owner, **more)  # type: ignore[arg-type]  # guaranteed
    return RecordedPod(f"shop/{name}", spec, 0, -1, times, np.full(len(times), cpu), memory)


def advice(*pods: RecordedPod, namespaces: tuple[NamespaceSpec, ...] = PLAIN) -> Advice:
    rungs = Rungs.of_history(Target(24))
    return advise(Recording("r", (NODE,), pods), namespaces, rungs, RightsizePolicy())


def test_advice_lowers_cpu_and_remembers_the_burst_of_memory() -> None:
    found = advice(pod("web-1", "ReplicaSet/web-7c9d8bf6c4", burst=6 * GIB), pod("web-2", "ReplicaSet/web-7c9d8bf6c4"))
    (one,) = found.recommendations
    assert (one.workload, one.replicas, one.rung) == ("shop/Deployment/web", 2, "history")
    assert 500 <= one.new_cpu <= 500 * 1.15 + 1
    assert 6 * GIB * 1.15 <= one.new_memory < 6 * GIB * 1.15 + 2**20
    assert usd_per_month(one) == pytest.approx(found.usd_per_month)
    data = config_maps(found.recommendations)
    assert data == {"shop": {"Deployment.web.cpu": "144", "Deployment.web.memory": "863"}}


def test_advice_is_the_same_where_an_earlier_one_is_in_force() -> None:
    plain = pod("web-1", "ReplicaSet/web-7c9d8bf6c4")
    small = replace(plain.spec, request=((CPU, 577), (MEMORY, 1236950582)))
    lowered = replace(plain, spec=small, kept_milli=(144, 144))
    (before,), (after,) = advice(plain).recommendations, advice(lowered).recommendations
    assert (after.cpu, after.new_cpu, after.why_kept) == (before.cpu, before.new_cpu, "")
    assert config_maps([before]) == config_maps([after])
    assert [kept_of(text) for text in ("144/1000", "1001/3", "x")] == [(144, 1000), (1000, 1000), (1000, 1000)]


def test_packed_sizes_for_the_node_and_asks_for_less_where_peaks_do_not_coincide() -> None:
    """Forty workloads with a rare burst of 20 times their level, each at its own time."""

    def bursty(number: int) -> RecordedPod:
        base = pod(f"w{number}-0", f"StatefulSet/w{number}", cpu=100)
        cpu = base.cpu_millicores.copy()
        cpu[7 * number :: DAY] = 2000
        return replace(base, cpu_millicores=cpu)

    pods = tuple(bursty(number) for number in range(40))
    nodes = (NodeSpec("n", ((CPU, 16_000), (MEMORY, 128 * GIB))), NodeSpec("virtual", ()), NodeSpec("other", ()))
    recording = Recording("r", nodes, pods)
    rungs = Rungs.of_history(Target(24))
    plain = advise(recording, PLAIN, rungs, RightsizePolicy())
    packed = advise(recording, PLAIN, rungs, RightsizePolicy(), sizer="packed")
    assert {r.new_cpu for r in plain.recommendations} == {2300}
    assert packed.scale > 0
    assert {r.new_cpu for r in packed.recommendations} == {max(round(100 * packed.scale + 0.499), 107)}
    assert {r.new_memory for r in packed.recommendations} == {GIB}, "the largest sample, times the factor of one"
    young = advise(
        Recording("r", nodes, pods[:1]), PLAIN, Rungs.of_history(Target(24)), RightsizePolicy(), sizer="packed"
    )
    assert young.scale > 0
    hardly = replace(pods[0], memory_bytes=np.where(np.arange(12 * DAY) < 12 * DAY - 3, -1, GIB))
    told = advise(Recording("r", nodes, (hardly, *pods[1:])), PLAIN, rungs, RightsizePolicy(), sizer="packed")
    (one,) = (r for r in told.recommendations if r.workload == "shop/StatefulSet/w0")
    assert (one.new_cpu < one.cpu, one.new_memory) == (True, 8 * GIB), "a quarter of an hour tells nothing of memory"
    nowhere = advise(Recording("r", nodes[1:], pods), PLAIN, rungs, RightsizePolicy(), sizer="packed")
    assert {r.why_kept for r in nowhere.recommendations} == {"no prediction that is trusted"}


def test_on_crowded_nodes_nothing_is_recommended_and_lowered_pods_are_told_to_restart() -> None:
    node = NodeSpec("n", ((CPU, 4000), (MEMORY, 64 * GIB)))
    day_s = 86_400

    def at(number: int, cpu: int, kept: int, rise: int) -> RecordedPod:
        base = replace(pod(f"w{number}-0", f"StatefulSet/w{number}", cpu=cpu), kept_milli=(kept, 1000), node="n")
        late = base.time_s > 12 * day_s - 3600
        return replace(base, cpu_millicores=np.where(late, rise, base.cpu_millicores))

    calm = Recording("r", (node,), (at(0, 500, 250, 500), at(1, 500, 250, 500), at(2, 500, 1000, 500)))
    crowded = Recording("r", (node,), (at(0, 500, 250, 1500), at(1, 500, 250, 1000), at(2, 500, 1000, 1600)))
    rungs = Rungs.of_history(Target(6))
    before, after = (advise(r, PLAIN, rungs, RightsizePolicy()) for r in (calm, crowded))
    assert before.restart == ()
    assert {r.why_kept for r in before.recommendations} == {""}
    assert after.restart == ("shop/w0-0",), "the busier of the lowered ones; without it the node is calm"
    assert {r.why_kept for r in after.recommendations} == {"no prediction that is trusted"}
    assert "should restart" in _rendered(after, "table")
    assert json.loads(_rendered(after, "json"))["restart"] == ["shop/w0-0"]


def test_what_keeps_its_requests_is_not_written() -> None:
    sure = advice(pod("db-0", "StatefulSet/db", guaranteed=True))
    marked = advice(pod("web-1", "StatefulSet/web"), namespaces=(NamespaceSpec("shop", ((KEEP_LABEL, ""),)),))
    busy = advice(pod("web-1", "StatefulSet/web", cpu=3900, burst=8 * GIB))
    for found in (sure, marked, busy):
        assert found.recommendations[0].why_kept
        assert config_maps(found.recommendations) == {}


def test_wrong_usage_is_one_message() -> None:
    done = CliRunner().invoke(rightsize, ["-p", "prometheus:9090"])
    assert done.exit_code != 0
    assert "must be an address" in str(done.exception)
    assert json.dumps(CliRunner().invoke(rightsize, ["--help"]).output)


async def test_a_namespace_that_is_not_there_is_a_mistake_not_an_empty_answer(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put("namespaces", {"metadata": {"name": "shop"}})
        path = kubeconfig(api.port, tmp_path)
        settings = read_settings(None, {"kube.kubeconfig": path, "usage.prometheus": "http://127.0.0.1:1"})
        with pytest.raises(ConfigError, match="there is no namespace 'shpo'; did you mean 'shop'"):
            await _run(settings, 1, RightsizePolicy(), "forecast", 0.01, "shpo", False, lambda _: None)


class OnePolicy:
    """An API that holds one object, or answers with a status."""

    def __init__(self, body: bytes = b"", status: int = 0) -> None:
        self.body, self.status = body, status

    async def call(self, method: str, path: str, body: object = None, **_more: object) -> bytes:
        assert (method, path.rsplit("/", 2)[1:]) == ("GET", ["mutatingadmissionpolicies", "ullage-rightsize"])
        if self.status:
            raise ApiError("no", self.status)
        return self.body


async def test_a_policy_that_does_not_note_what_it_lowered_stops_the_writing() -> None:
    shipped = (Path(__file__).parent.parent / "manifests/kustomize/components/rightsize/policy.yaml").read_bytes()
    await require_current_policy(OnePolicy(shipped))
    for status in (403, 404):
        await require_current_policy(OnePolicy(status=status))
    with pytest.raises(PlacementError, match="apply components/rightsize of this version again"):
        await require_current_policy(OnePolicy(shipped.replace(b"ullage.dev/rightsized", b"")))
    with pytest.raises(ApiError):
        await require_current_policy(OnePolicy(status=500))


# ── what is beside the containers, and who else steers ────────────────────────────────────────


def lowered_again(parts: Parts, runs: int = 6) -> list[tuple[int, int]]:
    """(thousandths written, millicores that remain for the containers) of one run after the other, as admission does it."""
    found, milli = [], 1000
    base = pod("web-1", "StatefulSet/web", cpu=100)
    for _ in range(runs):
        now = replace(parts, containers=parts.containers if milli == 1000 else parts.containers * milli // 1000 + 1)
        amounts = ((CPU, now.total(now.containers)), (MEMORY, 8 * GIB))
        memory = Parts(8 * GIB)
        running = replace(base, spec=replace(base.spec, request=amounts), kept_milli=(milli, 1000), parts=(now, memory))
        data = config_maps(advice(running).recommendations).get("shop", {})
        milli = int(data.get("StatefulSet.web.cpu", 1000))
        found.append((milli, parts.containers * milli // 1000 + 1))
    return found


def test_sidecars_and_init_containers_are_not_made_up_for_by_the_containers() -> None:
    """Each run would believe that the owner asked for more than the last one did, and lower containers further."""
    assert {milli for milli, _ in lowered_again(Parts(4000))} == {29}, "115 of 4,000"
    assert {milli for milli, _ in lowered_again(Parts(4000, beside=60))} == {14}, "55 beside a sidecar of 60"
    assert {left for _, left in lowered_again(Parts(4000, beside=300))} == {29}, (
        "the floor of a pod, whatever sidecars ask"
    )
    assert {left for _, left in lowered_again(Parts(4000, least=2000))} == {2001}, "no lower than would free anything"
    assert {milli for milli, _ in lowered_again(Parts(4000, least=5000))} == {1000}
    assert {milli for milli, _ in lowered_again(Parts(0, least=4000))} == {1000}, "requests of the pod as a whole"


def made_of(**spec: object) -> dict[str, Parts]:
    body = {"metadata": {"name": "x", "namespace": "x"}, "spec": spec}
    return parts_of(msgspec.convert(body, Pod))


def asks(cpu: str, **more: object) -> dict[str, object]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}, **more}


def test_a_pod_is_taken_apart_as_its_request_is_put_together() -> None:
    assert made_of(containers=[asks("1"), asks("2")])[CPU] == Parts(3000)
    sidecar, init = asks("300m", restartPolicy="Always"), asks("5")
    found = made_of(containers=[asks("1")], initContainers=[sidecar, init], overhead={"cpu": "50m"})
    assert found[CPU] == Parts(1000, 350, 5350)
    assert found[MEMORY] == Parts(GIB, GIB, 2 * GIB)
    assert found[CPU].total(1000) == 5350
    whole = made_of(containers=[asks("1")], resources={"requests": {"cpu": "7"}})
    assert (whole[CPU], whole[MEMORY]) == (Parts(0, 0, 7000), Parts(GIB))


def test_what_autoscalers_and_limits_steer_is_left_alone() -> None:
    rungs, policy = Rungs.of_history(Target(24)), RightsizePolicy()
    recording = Recording("r", (NODE,), (pod("web-1", "ReplicaSet/web-7c9d8bf6c4"), pod("db-0", "StatefulSet/db")))
    steered = Steered({("shop", "web"): {CPU: "HPA"}}, {"shop": {MEMORY: "LimitRange"}})
    found = {r.workload: r for r in advise(recording, PLAIN, rungs, policy, steered=steered).recommendations}
    web, db = found["shop/Deployment/web"], found["shop/StatefulSet/db"]
    assert (web.why_kept, web.new_cpu, web.new_memory) == ("LimitRange; HPA", web.cpu, web.memory)
    assert (db.why_kept, db.held, db.new_memory) == ("", "LimitRange", db.memory)
    assert db.new_cpu < db.cpu
    assert config_maps(found.values()).keys() == {"shop"}
    assert list(config_maps(found.values())["shop"]) == ["StatefulSet.db.cpu"]


def test_a_config_map_holds_what_the_api_takes_the_largest_savings_first() -> None:
    one = advice(pod("web-1", "StatefulSet/web")).recommendations[0]
    many = [replace(one, workload=f"shop/StatefulSet/{i:04d}{'x' * 200}") for i in range(3000)]
    odd = replace(one, workload="shop/Odd/a:b")
    long = replace(one, workload=f"shop/StatefulSet/{'x' * 240}")
    left_out: list[str] = []
    data = config_maps([odd, long, *many], left_out)["shop"]
    assert sum(2 * len(key) + len(value) for key, value in data.items()) < 1_000_000
    assert 1500 < len(data) < 6000
    assert left_out[:2] == [odd.workload, long.workload]
    assert left_out[2:] == [one.workload for one in many[len(data) // 2 :]]


class Namespaces:
    """An API that takes ConfigMaps but in one namespace."""

    def __init__(self, refuses: str) -> None:
        self.refuses, self.written = refuses, list[str]()

    async def call(self, method: str, path: str, body: object = None, **_more: object) -> bytes:
        namespace = path.split("/")[4]
        if namespace == self.refuses:
            raise ApiError("it is being terminated", 403)
        if method == "PATCH":
            self.written.append(namespace)
        return b""


async def test_a_namespace_that_refuses_keeps_no_other_from_its_recommendations() -> None:
    api = Namespaces("b")
    known = [NamespaceSpec(name, ()) for name in "abc"]
    with pytest.raises(PlacementError, match=r"refused in b \(it is being terminated\); written in a, c"):
        await apply(api, {name: {"StatefulSet.web.cpu": "144"} for name in "abc"}, known)
    assert api.written == ["a", "c"]
