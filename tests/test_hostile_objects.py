"""Whatever a user can write into an object, the view survives it: one strange object must not end the service.

The API server has checked types, so only texts are odd here; more of them than it would let through.
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Raw

from placement.errors import PlacementError
from placement.log import EventLog
from placement.pods import GpuRequest, NodeRules
from placement.resources import MOST_COUNTED
from placement.specs import MAX_RULES, MAX_UNOFFERED, TOO_MANY_RULES, UNOFFERED
from placement.state import ClusterState, devices_mask
from placement.strategies import strategy_named
from scheduler import view
from scheduler.modes import Modes
from scheduler.view import Reader, sinks
from tests.api_server import node_object, pod_object
from tests.live_engine import Live, cpu_pod

TEXTS = (
    "²", "٣", "9" * 5000, "-1", "1e999999", "1e-999999", "4611686018427387903", "9223372036854775807", "9E", "0", "1n",
    "\u0000", "0,1,²", "63", "64", ",,", "A100|²|", "shadow", "nonsense", "True", "1_000", " 1 ", "1.5", "٣Gi",
)  # fmt: skip


def pod() -> dict[str, Any]:
    """A pod that says something in every field that we read."""
    body = pod_object("p", milli=300, count=1)
    term = {
        "topologyKey": "zone",
        "labelSelector": {
            "matchLabels": {"app": "a"},
            "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}],
        },
    }
    body["metadata"] |= {
        "resourceVersion": "7",
        "labels": {"app": "a"},
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
        ],
    }
    body["metadata"]["annotations"] |= {
        "ullage.dev/gpu-count": "1",
        "ullage.dev/gpu-models": "A100",
        "ullage.dev/devices": "0",
        "ullage.dev/gang-size": "2",
        "ullage.dev/gang": "g",
        "ullage.dev/planned-node": "n1",
    }
    body["spec"] |= {
        "nodeName": "n1",
        "priority": 5,
        "overhead": {"cpu": "10m"},
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "preference": {"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["1"]}]},
                    }
                ]
            },
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "a"}},
                "minDomains": 2,
            }
        ],
        "initContainers": [
            {"name": "i", "image": "y", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
        ],
        "schedulingGates": [{"name": "ullage.dev/plan"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
    }
    body["spec"]["containers"][0]["ports"] = [
        {"hostPort": 80, "containerPort": 80, "protocol": "TCP", "hostIP": "1.2.3.4"}
    ]
    return body


def node() -> dict[str, Any]:
    """A node likewise."""
    body = node_object("n1", gpus=4)
    body["metadata"]["labels"] = {"zone": "a", "ullage.dev/gpu-model": "A100"}
    body["spec"] = {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}], "unschedulable": False}
    body["status"]["images"] = [{"names": ["x"], "sizeBytes": 1000}]
    return body


IN_ZONE = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
ONLY_A = {"matchLabels": {"app": "a"}}
OBJECTS: dict[str, Callable[[], Any]] = {
    "pods": pod,
    "nodes": node,
    "namespaces": lambda: {"metadata": {"name": "default", "labels": {"ullage.dev/mode": "score", "team": "a"}}},
    "claims": lambda: {"metadata": {"name": "c", "namespace": "default"}, "spec": {"volumeName": "v"}},
    "volumes": lambda: {
        "metadata": {"name": "v"},
        "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [copy.deepcopy(IN_ZONE)]}}},
    },
    "services": lambda: {"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "a"}}},
    "replicasets": lambda: {
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"selector": copy.deepcopy(ONLY_A)},
    },
}


def rewrite(rng: random.Random, value: Any) -> Any:
    """The same with one text, somewhere, that its author chose badly."""
    places: list[tuple[Any, Any]] = []

    def walk(table: Any) -> None:
        for key, inner in table.items() if isinstance(table, dict) else enumerate(table):
            if isinstance(inner, str):
                places.append((table, key))
            elif isinstance(inner, dict | list):
                walk(inner)

    walk(value)
    for table, key in rng.sample(places, min(len(places), rng.choice((1, 1, 3)))):
        table[key] = rng.choice(TEXTS)
    return value


@pytest.mark.parametrize("seed", range(6))
def test_no_object_ends_the_service(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(seed)
    live = Live(tmp_path / "records.db")
    reader = Reader()
    by_kind = {sink.kind: sink for sink in sinks(live.ledger, Modes("decide"), reader)}
    for number in range(400):
        kind = rng.choice(("pods", "pods", "nodes", *OBJECTS))
        value = rewrite(rng, OBJECTS[kind]())
        raw = Raw(json.dumps(value).encode())
        try:
            by_kind[kind].put(raw)
            if kind == "pods":
                spec = reader.spec(raw)
                live.engine.decide(f"u{number}", spec, live.engine.mask(np.arange(live.state.num_rows)))
        except PlacementError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}, {kind} {number}: {json.dumps(value)}") from error
    live.recorder.close()


def test_a_reader_that_has_seen_many_pods_reads_as_one_that_has_seen_none() -> None:
    """Classes are remembered by what they are made of; nothing of that may be forgotten."""
    rng = random.Random(5)
    readers = [Reader()]
    read = 0
    for number in range(1500):
        body = rewrite(rng, pod()) if number % 3 else pod()
        for key in rng.sample(sorted(body["spec"]), rng.randint(0, 6)):
            del body["spec"][key]
        if rng.random() < 0.5:
            body["status"]["qosClass"] = rng.choice(["Guaranteed", "Burstable"])
            body["status"]["containerStatuses"] = [
                {"name": "main", "resources": {}, "allocatedResources": {"cpu": "3"}}
            ]
            body["status"]["conditions"] = [
                {"type": "PodResizePending", "reason": rng.choice(["Infeasible", "Deferred"])}
            ]
        raw = json.dumps(body).encode()
        fresh = Reader()
        for reader in (*readers, fresh):  # a Service comes and goes
            reader.owners.services = {"default": {"s": (("app", "a"),)}} if number % 7 else {}
        said: list[object] = []
        for reader in (*readers, fresh):
            try:
                said.append(reader.pod(raw))
                read += 1
            except PlacementError as error:
                said.append(str(error))
        assert said[0] == said[1]
    assert read > 1000


@pytest.mark.parametrize("text", ["²", "٣", "9" * 5000, "0,x", "-1", "64"])
def test_an_annotation_of_devices_that_is_none_means_none(text: str) -> None:
    assert devices_mask(text) == 0


@pytest.mark.parametrize(("number", "modelled"), [(MAX_RULES, MAX_RULES), (MAX_RULES + 1, 0), (5000, 0)])
def test_a_pod_with_thousands_of_rules_about_others_takes_no_column_for_each(
    number: int, modelled: int, tmp_path: Path
) -> None:
    """Half a megabyte of a tenant's pod took eighty, and more, at 2,000 nodes, for as long as it ran."""
    live = Live(tmp_path / "records.db")
    terms = [
        {"labelSelector": {"matchLabels": {"app": f"a{i}"}}, "topologyKey": "kubernetes.io/hostname"}
        for i in range(number)
    ]
    rule = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    meta = {"name": "p", "namespace": "shop", "uid": "uid-p", "resourceVersion": "7"}
    body = {"metadata": meta, "spec": {"nodeName": "n1", "containers": [{"name": "c"}], "affinity": rule}}
    seen = live.engine.reader.pod(json.dumps(body).encode())
    live.ledger.see(seen)
    assert live.state.residents["uid-p"].is_bound, "it takes room as any other does"
    assert live.state.rules.num_counters == modelled
    assert bool(seen.spec.unmodelled) == (not modelled)
    live.recorder.close()


@pytest.mark.parametrize("part", ["preferred", "required"])
def test_a_pod_with_thousands_of_terms_about_nodes_is_left_to_kube_scheduler(part: str) -> None:
    """Its class would stay in memory long after it, seven times as large as the pod."""
    terms: list[dict[str, Any]] = [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]} for _ in range(MAX_RULES + 1)
    ]
    kind = f"{part}DuringSchedulingIgnoredDuringExecution"
    wishes = [{"weight": 1, "preference": term} for term in terms]
    affinity: dict[str, Any] = {kind: wishes if part == "preferred" else {"nodeSelectorTerms": terms}}
    body = pod_object("p")
    body["spec"] |= {"affinity": {"nodeAffinity": affinity}, "nodeSelector": {"zone": "a"}}
    spec = Reader().spec(json.dumps(body).encode())
    assert spec.unmodelled == (TOO_MANY_RULES,)
    assert spec.node_rules == NodeRules((("zone", "a"),))
    terms.pop()
    wishes.pop()
    reader = Reader()
    reader.spec(json.dumps(body).encode())
    spec = reader.spec(json.dumps(body).encode())
    assert len(reader._by_key) == 1
    assert spec.node_rules.number == MAX_RULES
    assert not spec.unmodelled


def test_a_bound_pod_whose_gpu_shares_make_no_sense_holds_them_whatever_its_kubelet_says_as_well() -> None:
    body = pod_object("p", milli=1000)
    body["metadata"]["annotations"] = {"ullage.dev/gpu-count": "3"}
    body["spec"]["nodeName"] = "n1"
    granted = body["spec"]["containers"][0]["resources"]
    body["status"]["containerStatuses"] = [{"name": "main", "resources": granted}]
    seen = Reader().pod(json.dumps(body).encode())
    assert seen.spec.gpu == GpuRequest(1)
    assert seen.spec.amount("cpu") == 500


def test_what_a_large_pod_says_is_not_kept_beside_its_class() -> None:
    body, reader = pod_object("p"), Reader()
    body["spec"]["containers"] *= 2000
    assert reader.spec(json.dumps(body).encode()) is reader.spec(json.dumps(body).encode())
    assert not reader._by_key


def test_of_large_pods_that_have_gone_no_class_is_kept() -> None:
    """One with labels of a megabyte took 2.7 MB, and there was room for fifty thousand."""
    reader, body = Reader(), pod_object("p")
    body["metadata"]["labels"] = {f"key-{i:06d}": f"value-{i:06d}" for i in range(2000)}
    spec = reader.spec(json.dumps(body).encode())
    body["metadata"]["annotations"] = {"more": "is said"}
    assert reader.spec(json.dumps(body).encode()) is spec, "as long as somebody has it, it is one"
    gone = weakref.ref(spec)
    del spec
    gc.collect()
    assert gone() is None


def test_what_pods_say_is_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MAX_KEYS_BYTES", 20_000)
    reader, most = Reader(), 0
    for number in range(200):
        reader.spec(json.dumps(pod_object("p", labels={"job": f"{number}"})).encode())
        most = max(most, len(reader._by_key))
    assert 1 < most < 200
    assert sum(len(key) + spec.held_bytes for key, spec in reader._by_key.items()) <= 20_000


def test_pods_that_ask_for_thousands_of_resources_take_no_column_for_each(tmp_path: Path) -> None:
    """A pod of 27 kB took 33 MB at 2,000 nodes, for good; it need only say on which node it is."""
    live = Live(tmp_path / "records.db")
    reader = live.engine.reader
    live.ledger.see_node(reader.node(Raw(json.dumps(node_object("n3", cpu="64")).encode())))
    before = len(live.state.resources)

    def asking(name: str, number: int, **spec: Any) -> bytes:
        requests = {f"example.com/{name}-{i}": "1" for i in range(number)} | {"cpu": "1"}
        meta = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": "7"}
        return json.dumps(
            {"metadata": meta, "spec": {"containers": [{"resources": {"requests": requests}}], **spec}}
        ).encode()

    for name in ("a", "b", "c"):
        live.ledger.see(reader.pod(asking(name, 1000, nodeName="n3")))
    assert len(live.state.resources) == before + MAX_UNOFFERED + 1
    assert live.state.taken[live.state.lane("cpu"), live.state.row_of["n3"]] == 3000, "they take room as any other does"
    late = asking("late", 1)
    assert reader.spec(late).unmodelled == (UNOFFERED,)
    assert not live.ask("late", reader.spec(late), (3,)).decision.is_placed
    node = node_object("n4")
    node["status"]["allocatable"]["example.com/late-0"] = "2"
    live.ledger.see_node(reader.node(Raw(json.dumps(node).encode())))
    assert live.ask("later", reader.spec(late), (3, 4)).decision.node == "n4", "a node offers it by now"
    live.recorder.close()


def test_a_count_of_gpus_that_is_none_is_a_bad_request_not_a_defect(tmp_path: Path) -> None:
    live = Live(tmp_path / "records.db")
    by_kind = {sink.kind: sink for sink in sinks(live.ledger, Modes("decide"), Reader())}
    for number, text in enumerate(("²", "9" * 5000, "1")):
        body = pod()
        body["metadata"] |= {"uid": f"u{number}"}
        body["metadata"]["annotations"]["ullage.dev/gpu-count"] = text
        by_kind["pods"].put(Raw(json.dumps(body).encode()))
    bad, worse, good = (live.ledger.pods[f"u{number}"].spec for number in range(3))
    assert good.gpu == GpuRequest(1, 300, ("A100",))
    for spec in (bad, worse):
        assert spec.gpu == GpuRequest(1, 300), "it holds its share of a device all the same"
    live.recorder.close()


@pytest.mark.parametrize("number", [2**64, -(2**70), 10**400])
def test_a_number_beyond_64_bits_is_no_defect(number: int) -> None:
    """Over gRPC anybody may ask about a pod that no API server has checked."""
    body = pod()
    del body["spec"]["volumes"]  # with a claim, nothing is remembered
    body["spec"]["priority"] = number
    raw = json.dumps(body).encode()
    reader = Reader()
    assert reader.spec(raw) == reader.spec(raw) == Reader().spec(raw)


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, -(2**63)])
def test_an_image_of_any_size_leaves_scores_what_they_are(size: int) -> None:
    """The API server takes what a kubelet says of its images."""
    state = ClusterState(events=EventLog())
    for name, number in (("odd", size), ("plain", 0)):
        body = node_object(name)
        body["status"]["images"] = [{"names": [f"img-{i}"], "sizeBytes": number} for i in range(3)]
        state.add_node(Reader().node(Raw(json.dumps(body).encode())))
    pod = cpu_pod(1, images=("img-0:latest", "img-1:latest", "img-2:latest"), num_containers=3)
    best = strategy_named("kube-default").decide(state.snapshot(), pod, None, 0).node
    assert best == "odd" or size < 0


HUGE = {"cpu": "1", "memory": "4611686018427387903"}


@pytest.mark.parametrize(
    "asked",
    [
        [{"containers": [HUGE]}] * 3,
        [{"containers": [{"cpu": "1", "memory": "8Ei"}]}],
        [{"containers": [{"cpu": "9e99", "memory": "1Gi"}]}],
        [{"containers": [HUGE, HUGE]}],
        [{"initContainers": [{"memory": "1e40"}], "containers": [{"cpu": "1"}]}],
        [{"containers": [{"cpu": "1"}], "overhead": {"memory": "9Ei"}}],
        [{"containers": [{"cpu": "1"}], "resources": {"memory": "9Ei"}}],
        [{"containers": [{"cpu": "1"}], "status": {"resources": {}, "allocatedResources": {"memory": "9Ei"}}}],
        [{"containers": [{"cpu": "1"}], "status": {"resources": {"requests": {"cpu": "9e99"}}}}],
    ],
)
def test_a_pod_bound_by_hand_with_an_absurd_request_fills_its_node(asked: list[Any], tmp_path: Path) -> None:
    live = Live(tmp_path / "records.db")
    by_kind = {sink.kind: sink for sink in sinks(live.ledger, Modes("decide"), Reader())}
    assert live.ask("before", cpu_pod(0.1), (0,)).decision.is_placed
    for number, parts in enumerate(asked):
        body = pod_object(f"p{number}")
        body["spec"]["nodeName"] = "n0"
        status = [{"name": "c0", **parts.get("status", {})}]  # what kubelet says that it granted
        body["status"] = {"containerStatuses": status, "initContainerStatuses": status}
        for part, table in parts.items():
            if part == "status":
                continue
            if "ontainers" in part:
                table = [{"name": f"c{i}", "resources": {"requests": requests}} for i, requests in enumerate(table)]
            body["spec"][part] = {"requests": table} if part == "resources" else table
        by_kind["pods"].put(Raw(json.dumps(body).encode()))
        assert not live.ask(f"after{number}", cpu_pod(0.1), (0,)).decision.is_placed
    assert len(live.state.residents) == 1 + len(asked)
    assert live.ask("elsewhere", cpu_pod(0.1)).decision.is_placed
    live.recorder.close()


def test_a_node_of_which_not_all_is_counted_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = Live(tmp_path / "records.db")
    nodes = next(sink for sink in sinks(live.ledger, Modes("decide"), Reader()) if sink.kind == "nodes")

    def told(memory: str) -> list[Any]:
        caplog.clear()
        body = node_object("large")
        body["status"]["allocatable"]["memory"] = memory
        nodes.put(Raw(json.dumps(body).encode()))
        return [(r.node, r.resources, r.counted) for r in caplog.records if "offers more" in r.message]  # type: ignore[attr-defined]  # extra

    large = [("large", "memory", MOST_COUNTED - 1)]
    assert [told("1Gi"), told("1Pi"), told("1Pi"), told("1Gi"), told("2Pi")] == [[], large, [], [], large]
    nodes.lose("large")
    assert told("2Pi") == large, "another node of that name"
    live.recorder.close()
