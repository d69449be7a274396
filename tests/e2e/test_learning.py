"""Learning on a real Prometheus and a real API server: record, train, serve, and what happens when Prometheus dies.

A small exporter replays recorded usage (Bitbrains where the folder of traces is there, else a made-up daily rhythm);
three days of its past are put into Prometheus as blocks. Then everything is done as a user does it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from placement import log
from placement.learning.reclaim import RECLAIMED_CPU
from placement.log_lines import read_log
from placement.nodes import NodeSpec
from placement.playback import verify
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS, parse_quantity
from scheduler.cli.bundle import strategies_of
from scheduler.recording import kept_of
from tests.conftest import REPO
from tests.e2e.control_plane import ControlPlane, ControlPlaneError, Ullage, free_port, needs_admission_policies
from tests.e2e.drive import PATIENCE, Cluster, cluster_of, pod_json
from tests.e2e.test_operate import ullage_command
from tests.e2e.usage_exporter import STEP_S, openmetrics, read

GIB = 2**30
DAYS = 3
NUM_WORKLOADS = 24
PER_WORKLOAD = 2
API = "/api/v1/namespaces/default/pods"


def recorded_usage(rng: random.Random) -> list[tuple[float, float, list[float], list[float]]]:
    """(cores, bytes asked for, cores used, bytes used) per pod, ``DAYS`` of five-minute steps."""
    folder = Path(os.environ.get("ULLAGE_TRACES", REPO.parent / "shared" / "traces")) / "bitbrains-rnd"
    steps = DAYS * 86_400 // STEP_S
    number = NUM_WORKLOADS * PER_WORKLOAD
    if not folder.is_dir():
        found = []
        for _ in range(number):
            level, hour = rng.uniform(0.05, 0.3), rng.randrange(24)
            busy = [level * (3 if abs(i * STEP_S / 3600 % 24 - hour) < 2 else 1) for i in range(steps)]
            cores = [4 * x * rng.uniform(0.7, 1.1) for x in busy]
            found.append((4.0, 8.0 * GIB, cores, [2 * GIB * rng.uniform(0.9, 1.1) for _ in range(steps)]))
        return found
    from simulator.traces.usage_readers import read_bitbrains_rnd

    series = read_bitbrains_rnd(folder)
    first = rng.randrange(0, series.num_steps - steps)
    rows = rng.sample(range(len(series.workloads)), len(series.workloads))
    found = []
    for row in rows:
        cpu = series.usage[CPU][row, first : first + steps]
        memory = series.usage[MEMORY][row, first : first + steps]
        whole = min(np.isfinite(cpu).mean(), np.isfinite(memory).mean()) > 0.5
        if whole and float(np.nanmax(cpu)) > 0.01 and len(found) < number:
            asked = float(series.provisioned[CPU][row]), float(series.provisioned[MEMORY][row])
            found.append((*asked, np.nan_to_num(cpu).tolist(), np.nan_to_num(memory).tolist()))
    assert len(found) == number
    return found


class Monitored:
    """A cluster whose pods' usage stands in a real Prometheus."""

    def __init__(self, plane: ControlPlane) -> None:
        for tool in ("prometheus", "promtool"):
            if shutil.which(tool) is None:
                raise ControlPlaneError(f"`{tool}` is not installed; apt-get install prometheus")
        self.plane = plane
        self.folder = plane.folder / "prometheus"
        self.folder.mkdir()
        self.port, self.exporter_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.config = plane.folder / "usage.json"
        self.specs: dict[str, PodSpec] = {}
        self.owners: dict[str, str] = {}

    def prepare(self) -> None:
        """Draw pods, write their past as blocks, start exporter and Prometheus."""
        start_s = int(time.time()) // STEP_S * STEP_S - DAYS * 86_400
        entries = []
        for index, (cores, memory, cpu, working) in enumerate(recorded_usage(random.Random(1))):
            owner = f"app{index // PER_WORKLOAD:02d}-7c9d8bf6c4"
            name = f"{owner}-{index % PER_WORKLOAD}"
            self.specs[name] = PodSpec(((CPU, round(cores * 1000)), (MEMORY, round(memory))))
            self.owners[name] = owner
            who = {"namespace": "default", "pod": name, "owner_kind": "ReplicaSet", "owner_name": owner}
            entries.append(who | {"start_s": start_s, "cores": cpu, "memory": working})
        self.config.write_text(json.dumps(entries))
        text = self.folder / "past.txt"
        openmetrics(read(self.config), start_s, int(time.time()) - 5, 100, text)
        blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(self.folder / "data")]
        subprocess.run(blocks, check=True, capture_output=True)
        (self.folder / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                    "scrape_configs": [
                        {
                            "job_name": "usage",
                            "static_configs": [
                                {"targets": [f"127.0.0.1:{self.exporter_port}"], "labels": {"instance": "exporter"}}
                            ],
                        }
                    ],
                }
            )
        )
        script = str(Path(__file__).parent / "usage_exporter.py")
        self.plane.spawn("exporter", sys.executable, script, str(self.config), str(self.exporter_port))
        self.start()

    def start(self) -> None:
        """Start Prometheus (again) on the same data."""
        self.plane.spawn(
            "prometheus", "prometheus", f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address=127.0.0.1:{self.port}",
            "--storage.tsdb.retention.time=30d",
        )  # fmt: skip

    async def fill(self, cluster: Cluster) -> None:
        """Nodes, and the pods on them, as if they had run for days."""
        nodes = [NodeSpec(f"node-{i}", ((CPU, 96_000), (MEMORY, 512 * GIB), (PODS, 110))) for i in range(4)]
        await cluster.add_nodes(nodes)
        jobs, begun = [], []
        since = datetime.fromtimestamp(time.time() - (DAYS + 1) * 86_400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for index, (name, spec) in enumerate(self.specs.items()):
            body = pod_json(name, spec, f"node-{index % 4}")
            owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": self.owners[name], "controller": True}
            body["metadata"]["ownerReferences"] = [owner | {"uid": f"u-{self.owners[name]}"}]
            jobs.append(("POST", API, body))
            begun.append(("PUT", f"{API}/{name}/status", body | {"status": {"phase": "Pending", "startTime": since}}))
        await cluster.many(jobs)
        await cluster.many(begun)

    def service(self, model: Path | None = None, **usage: Any) -> Ullage:
        """``ullage serve`` that learns from this Prometheus; stale limits are seconds, so that a test can wait."""
        more = {"model": str(model)} if model is not None else {}
        fast = {"every_s": 1, "busy_share": 1.0, "fresh_s": 20, "stale_s": 40, "timeout_s": 10, "horizon": "1h-peak"}
        settings = {"prometheus": self.address, **fast, **more, **usage}
        folder = str(self.plane.folder / "log")
        return Ullage(self.plane, usage=settings, strategy="predicted", log={"folder": folder})


def metric(ullage: Ullage, name: str) -> float:
    """Value of a metric, labels included in its name; 0 if it is not there."""
    for line in ullage.get("/metrics").splitlines():
        if line.startswith(f"{name} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def on_rung(ullage: Ullage, rung: str) -> int:
    """Workloads whose prediction stands on a rung."""
    return int(metric(ullage, f'ullage_prediction_workloads{{rung="{rung}"}}'))


async def eventually(what: Callable[[], bool], timeout_s: float, why: str) -> None:
    """Wait for an effect of something that runs by itself."""
    end = time.monotonic() + PATIENCE * timeout_s
    while not await asyncio.to_thread(what):
        assert time.monotonic() < end, f"not in {PATIENCE * timeout_s:g} s: {why}"
        await asyncio.sleep(0.5)


async def place_and_wait(cluster: Cluster, monitored: Monitored, number: int = 60) -> None:
    """More pods of the same workloads, through kube-scheduler and us."""
    rng = random.Random(2)
    names = list(monitored.specs)
    for i in range(number):
        like = rng.choice(names)
        spec = PodSpec(((CPU, rng.choice((250, 500, 1000))), (MEMORY, GIB)), owner=monitored.owners[like])
        body = pod_json(f"more-{i}", spec)
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": monitored.owners[like], "controller": True}
        body["metadata"]["ownerReferences"] = [owner | {"uid": f"u-{monitored.owners[like]}"}]
        await cluster.call("POST", API, body)
    await cluster.until(lambda: all(cluster.node_of(f"more-{i}") for i in range(number)), 60, "every pod is bound")
    assert cluster.wrongs == []


async def counters_begin_anew(monitored: Monitored, ullage: Ullage) -> None:
    """Every counter falls to zero, as when a kubelet restarts; no usage is made up of it."""
    Path(f"{monitored.config}.reset").touch()
    counted = f"{monitored.address}/api/v1/query?query=min(resets(container_cpu_usage_seconds_total[2m]))"

    def has_reset() -> bool:
        with urllib.request.urlopen(counted, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return bool(found) and float(found[0]["value"][1]) >= 1

    await eventually(has_reset, 60, "Prometheus saw the counters begin anew")
    before = metric(ullage, 'ullage_usage_queries_total{outcome="answered"}')
    await eventually(
        lambda: metric(ullage, 'ullage_usage_queries_total{outcome="answered"}') >= before + 4, 60, "usage read since"
    )
    assert metric(ullage, 'ullage_usage_refused_total{reason="impossible value"}') == 0
    await eventually(lambda: on_rung(ullage, "model") == NUM_WORKLOADS, 60, "the model still answers")


def assert_decided_as_replayed(folder: Path) -> None:
    """Every decision of the service's log, made while forecasts came and went, is made again by a rebuilt ledger."""
    header, events, lost = read_log(folder)
    assert lost == 0
    versions = [e.detail for e in events if e.kind == log.KNOWLEDGE and e.detail.forecasts is not None]
    rungs = [{f.rung for f in knowledge.forecasts.of.values()} for knowledge in versions]
    assert {"model"} in rungs
    assert {"request"} in rungs
    assert sum(e.kind == log.DECISION for e in events) >= 60
    assert list(verify(events, strategies_of(header))) == []


async def expects_what_prometheus_saw(monitored: Monitored) -> None:
    """`ullage plan purchase --live --ahead`: nobody waits, and in three days nobody came or went."""
    operator = str(monitored.plane.kubeconfig("operator", "admin-token"))
    words = ["plan", "purchase", "--live", "--kubeconfig", operator, "--ahead", "2h", "-p", monitored.address]
    words += ["--days", str(DAYS), "--quantile", "0.9", "--time", "1", "-o", "json"]
    done = await asyncio.to_thread(ullage_command, *words)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    said = " ".join(made["reasons"])
    assert "recent windows" in said, said
    assert "0 pods more" in said, said
    assert [step for step in made["steps"] if step["action"] == "buy"] == []


@pytest.fixture
def monitored(plane: ControlPlane) -> Monitored:
    """A cluster with three days of usage in its Prometheus."""
    found = Monitored(plane)
    found.prepare()
    return found


@pytest.mark.timeout(1500)
async def test_record_train_serve_and_the_rung_falls_and_rises_with_prometheus(
    monitored: Monitored, tmp_path: Path
) -> None:
    plane = monitored.plane
    trace, model = tmp_path / "mine.ullage", tmp_path / "model"
    async with cluster_of(plane) as cluster:
        await monitored.fill(cluster)
        kubeconfig = str(plane.service_account())
        words = ["record", str(trace), "-p", monitored.address, "--days", str(DAYS), "--kubeconfig", kubeconfig]
        times: dict[str, float] = {}
        at = time.monotonic()
        done = await asyncio.to_thread(ullage_command, *words)
        assert done.returncode == 0, done.stderr
        times["record"], at = time.monotonic() - at, time.monotonic()
        assert f"4 nodes, {len(monitored.specs)} pods" in done.stdout
        await expects_what_prometheus_saw(monitored)
        times["purchase"], at = time.monotonic() - at, time.monotonic()
        done = await asyncio.to_thread(
            ullage_command, "train", str(trace), "-m", str(model), "--horizon", "1h-peak", "-q"
        )
        assert done.returncode == 0, done.stderr
        times["train"], at = time.monotonic() - at, time.monotonic()
        card = json.loads((model / "card.json").read_text())["tasks"]
        ullage = monitored.service(model)
        await asyncio.to_thread(ullage.start)
        await eventually(lambda: on_rung(ullage, "model") == NUM_WORKLOADS, 90, "every workload predicted by the model")
        times["start to predictions"] = time.monotonic() - at
        queries = metric(ullage, 'ullage_usage_queries_total{outcome="answered"}')
        monitored.plane.end("prometheus", 9)
        at = time.monotonic()
        await eventually(
            lambda: on_rung(ullage, "request") == NUM_WORKLOADS, 120, "predictions fall without Prometheus"
        )
        times["kill to all fallen"] = time.monotonic() - at
        assert metric(ullage, 'ullage_prediction_falls_total{rung="request"}') >= NUM_WORKLOADS
        assert metric(ullage, 'ullage_fallback_total{reason="usage source"}') > 0
        assert ullage.get("/readyz") == "ok", "a source that is away does not make the extender unready"
        monitored.start()
        at = time.monotonic()
        await eventually(lambda: on_rung(ullage, "model") == NUM_WORKLOADS, 120, "predictions rise again")
        times["start to all risen"] = time.monotonic() - at
        print({name: round(seconds, 1) for name, seconds in times.items()}, f"{queries:.0f} queries", card)
        await eventually(lambda: metric(ullage, "ullage_prediction_oldest_seconds") < 40, 60, "predictions are fresh")

        plane.start_scheduler(ullage.stanzas())
        await place_and_wait(cluster, monitored)
        await counters_begin_anew(monitored, ullage)
        (model / "card.json").write_text("{}")
        await eventually(lambda: on_rung(ullage, "history") == NUM_WORKLOADS, 60, "a damaged model leaves the history")
        assert metric(ullage, 'ullage_fallback_total{reason="model refused"}') == 1
        await cluster.ledger_agrees(ullage)
        await asyncio.to_thread(ullage.end)
    assert_decided_as_replayed(plane.folder / "log")


# ── reclaimed capacity ────────────────────────────────────────────────────────────────────────


def offered(plane: ControlPlane, node: str) -> int:
    """Reclaimed millicores that a node offers, by the API."""
    allocatable = plane.call("GET", f"/api/v1/nodes/{node}")["status"]["allocatable"]
    return parse_quantity(allocatable.get(RECLAIMED_CPU, "0"), RECLAIMED_CPU)


def grant_reclaim(plane: ControlPlane) -> None:
    """The rights of the component, nothing more."""
    path = REPO / "manifests" / "kustomize" / "components" / "reclaim" / "rbac.yaml"
    for document in yaml.safe_load_all(path.read_text()):
        plane.call("POST", f"/apis/rbac.authorization.k8s.io/v1/{document['kind'].lower()}s", document)


def batch_pod(name: str, milli: int) -> dict[str, Any]:
    """A pod that asks for reclaimed capacity only."""
    amounts = {RECLAIMED_CPU: str(milli)}
    container = {"name": "c", "image": "x", "resources": {"requests": amounts, "limits": amounts}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.mark.timeout(1500)
async def test_batch_pods_land_on_reclaimed_capacity_and_leave_when_usage_rises(monitored: Monitored) -> None:
    plane = monitored.plane
    async with cluster_of(plane) as cluster:
        await monitored.fill(cluster)
        body = {"metadata": {"labels": {"ullage.dev/reclaim": "enabled"}}}
        for node in ("node-0", "node-1"):
            await asyncio.to_thread(plane.call, "PATCH", f"/api/v1/nodes/{node}", body, "application/merge-patch+json")
        reclaim = {"mode": "dry", "every_s": 1, "growth_share": 0.5}
        ullage = monitored.service(fresh_s=900, stale_s=3600)
        ullage.settings["reclaim"] = reclaim
        await asyncio.to_thread(ullage.start)
        asked = 'ullage_reclaimed{resource="cpu",what="offered"}'
        await eventually(lambda: metric(ullage, asked) > 0, 90, "a dry controller says what it would offer")
        assert offered(plane, "node-0") == 0
        await asyncio.to_thread(ullage.end)

        reclaim["mode"] = "on"
        await asyncio.to_thread(ullage.start)
        refused = 'ullage_reclaim_actions_total{outcome="refused",what="patch"}'
        await eventually(lambda: metric(ullage, refused) > 0, 90, "without the component's rights nothing is changed")
        assert offered(plane, "node-0") == 0
        await asyncio.to_thread(grant_reclaim, plane)
        await eventually(lambda: offered(plane, "node-0") >= 20_000, 60, "the offer stands in the node's status")
        assert offered(plane, "node-2") == 0, "an unmarked node is left alone"
        await asyncio.to_thread(steady_offer, plane, "node-0")
        requests = sum(s.amount(CPU) for i, s in enumerate(monitored.specs.values()) if i % 4 == 0)
        before = offered(plane, "node-0")
        assert before > 0.9 * (0.9 * 96_000 - requests), "more than requests leave free: what is not used is sold"

        plane.start_scheduler(ullage.stanzas())
        size = before // 4 // 100 * 100
        await cluster.many(("POST", API, batch_pod(f"batch-{i}", size)) for i in range(6))
        on_offer = lambda: {n for i in range(6) if (n := cluster.node_of(f"batch-{i}"))}  # noqa: E731
        await cluster.until(
            lambda: sum(bool(cluster.node_of(f"batch-{i}")) for i in range(6)) == 6, 60, "batch pods land"
        )
        assert on_offer() <= {"node-0", "node-1"}
        sold = 'ullage_reclaimed{resource="cpu",what="sold"}'
        await eventually(lambda: metric(ullage, sold) == 6 * size / 1000, 30, "the ledger counts what is sold")

        Path(f"{monitored.config}.scale").write_text("40")
        began = time.monotonic()
        await eventually(lambda: offered(plane, "node-0") < before / 2, 240, "the guard takes capacity back")
        shrunk_s = time.monotonic() - began
        await cluster.until(lambda: sum(f"batch-{i}" in cluster.pods for i in range(6)) < 6, 120, "batch pods leave")
        left_s = time.monotonic() - began
        alive = set(cluster.pods)
        assert set(monitored.specs) <= alive, "no guaranteed pod was touched"
        print(
            f"offer {before} -> {offered(plane, 'node-0')} milli after {shrunk_s:.0f} s, first eviction {left_s:.0f} s"
        )
        await asyncio.to_thread(ullage.end)
        reclaim["mode"] = "withdraw"
        await asyncio.to_thread(ullage.start)
        await eventually(lambda: offered(plane, "node-0") == offered(plane, "node-1") == 0, 60, "offers are withdrawn")
        await asyncio.to_thread(ullage.end)


def steady_offer(plane: ControlPlane, node: str) -> None:
    """Until the offer no longer grows."""
    last, since = offered(plane, node), time.monotonic()
    end = since + 60
    while time.monotonic() - since < 4 and time.monotonic() < end:
        time.sleep(0.5)
        if (now := offered(plane, node)) != last:
            last, since = now, time.monotonic()


# ── right-sized requests ──────────────────────────────────────────────────────────────────────


def admitted(plane: ControlPlane, namespace: str, owner: str, *, guaranteed: bool = False) -> dict[str, str]:
    """Requests of a new pod of 4 cores and 8 GiB as the API server keeps it (a dry run that admission sees)."""
    return probed(plane, namespace, owner, {}, guaranteed=guaranteed)[0]


def probed(
    plane: ControlPlane,
    namespace: str,
    owner: str,
    annotations: dict[str, str],
    *,
    guaranteed: bool = False,
    **spec: Any,
) -> tuple[dict[str, str], dict[str, str]]:
    """Requests, and annotations, of such a pod; ``spec`` is more of it."""
    amounts = {CPU: "4", MEMORY: "8Gi"}
    resources = {"requests": amounts} | ({"limits": amounts} if guaranteed else {})
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": "u", "controller": True}
    meta: dict[str, Any] = {"name": "probe", "namespace": namespace, "ownerReferences": [reference]}
    meta |= {"annotations": annotations} if annotations else {}
    containers = [{"name": n, "image": "x", "resources": resources} for n in ("main", "side")]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": containers, **spec}}
    made = plane.call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
    main, side = (c["resources"]["requests"] for c in made["spec"]["containers"])
    assert main == side
    requests: dict[str, str] = main
    return requests, made["metadata"].get("annotations", {})


@needs_admission_policies
@pytest.mark.timeout(1500)
async def test_new_pods_ask_for_what_was_recommended_where_that_is_switched_on(monitored: Monitored) -> None:
    plane = monitored.plane
    base = "/apis/admissionregistration.k8s.io/v1"
    path = REPO / "manifests" / "kustomize" / "components" / "rightsize" / "policy.yaml"
    kubeconfig = str(plane.kubeconfig("admin", "admin-token"))
    words = ["rightsize", "-p", monitored.address, "--days", str(DAYS), "--kubeconfig", kubeconfig, "-o", "json"]
    words += ["--horizon", "6h-peak"]  # three days tell little of the day ahead
    async with cluster_of(plane) as cluster:
        await monitored.fill(cluster)
        done = await asyncio.to_thread(ullage_command, *words)
        assert done.returncode == 0, done.stderr
        items = json.loads(done.stdout)["items"]
        assert len(items) == NUM_WORKLOADS
        lowered = [i for i in items if i["new_cpu_millicores"] < i["cpu_millicores"]]
        assert len(lowered) > NUM_WORKLOADS / 4
        print(f"{len(lowered)} of {len(items)} lowered, {json.loads(done.stdout)['usd_per_month']} USD a month")
        for document in yaml.safe_load_all(path.read_text()):
            plural = {"MutatingAdmissionPolicy": "mutatingadmissionpolicies"}.get(
                document["kind"], f"{document['kind'].lower()}s"
            )
            plane.call("POST", f"{base}/{plural}", document)
        chosen = lowered[0]
        owner = chosen["workload"].rpartition("/")[2] + "-8f5f6d7b9c"
        asks = {CPU: "4", MEMORY: "8Gi"}
        assert admitted(plane, "default", owner) == asks, "nothing before the ConfigMap"
        done = await asyncio.to_thread(ullage_command, *words, "--apply")
        assert done.returncode == 0, done.stderr
        assert admitted(plane, "default", owner) == asks, "nothing before the label"
        label = {"metadata": {"labels": {"ullage.dev/rightsize": "enabled"}}}
        plane.call("PATCH", "/api/v1/namespaces/default", label, "application/merge-patch+json")
        share = chosen["new_cpu_millicores"] / chosen["cpu_millicores"]

        def is_lowered() -> bool:
            cpu = parse_quantity(admitted(plane, "default", owner)[CPU], CPU)
            return abs(cpu - 4000 * share) <= 10

        await eventually(is_lowered, 30, "new pods of the workload ask for less")
        for given in ({}, {"theirs": "x"}):
            found = probed(plane, "default", owner, given)[1]
            assert abs(kept_of(found.pop("ullage.dev/rightsized"))[0] - 1000 * share) <= 1
            assert found == given
        assert admitted(plane, "default", owner, guaranteed=True) == asks
        whole = {"requests": {CPU: "9", MEMORY: "17Gi"}}
        assert probed(plane, "default", owner, {}, resources=whole) == (asks, {}), "the pod as a whole asks for as much"
        assert probed(plane, "default", "stranger-8f5f6d7b9c", {})[1] == {}
        assert admitted(plane, "default", "stranger-8f5f6d7b9c") == asks
        keep = {"metadata": {"labels": {"ullage.dev/keep-requests": "yes"}}}
        plane.call("PATCH", "/api/v1/namespaces/default", keep, "application/merge-patch+json")
        await eventually(lambda: admitted(plane, "default", owner) == asks, 30, "a marked namespace keeps its requests")
