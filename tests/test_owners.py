"""kube-scheduler's default spreading: who a pod is spread among, and what that scores."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from placement.nodes import NodeSpec
from placement.owners import HOSTNAME, ZONE, Owners
from placement.pods import PodSpec, Requirement
from placement.resources import CPU, PODS
from placement.soft import soft_parts, wishes
from placement.state import ClusterState
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.modes import Modes
from scheduler.view import KindSink, Reader, sinks

WEB = Requirement("app", "In", ("web",))
TIER = Requirement("tier", "Exists", ())


@pytest.fixture
def owners() -> Owners:
    """A Service of web pods, and controllers of each kind."""
    made = Owners({"shop": {"web": (("app", "web"),), "all": ()}})
    made.controllers |= {"ReplicaSet": {"shop": {"web-1": (WEB, TIER)}}, "StatefulSet": {"shop": {"db": ()}}}
    return made


def test_a_pod_is_spread_among_those_its_service_and_its_controller_select(owners: Owners) -> None:
    owner = ("apps/v1", "ReplicaSet", "web-1")
    assert owners.selector("shop", {"app": "web"}, owner) == (WEB, TIER)
    assert owners.selector("shop", {"app": "db"}, owner) == (WEB, TIER)
    assert owners.selector("shop", {"app": "web"}, None) == (WEB,)


@pytest.mark.parametrize(
    ("namespace", "owner"),
    [
        ("shop", None),
        ("shop", ("apps/v1", "StatefulSet", "db")),
        ("shop", ("apps/v1", "ReplicaSet", "gone")),
        ("shop", ("example.com/v1", "ReplicaSet", "web-1")),
        ("other", ("apps/v1", "ReplicaSet", "web-1")),
    ],
)
def test_who_selects_nobody_is_not_spread(owners: Owners, namespace: str, owner: tuple[str, str, str] | None) -> None:
    assert owners.spread(namespace, {"app": "db"}, owner) == ()


def pod(**spec: object) -> bytes:
    """A web pod of the shop."""
    return json.dumps({"metadata": {"name": "p", "namespace": "shop", "labels": {"app": "web"}}, "spec": spec}).encode()


def followed() -> tuple[Reader, dict[str, KindSink]]:
    """A reader, and what feeds it."""
    reader = Reader()
    ledger = Ledger(ClusterState(), lambda: 0.0, Metrics())
    return reader, {sink.kind: sink for sink in sinks(ledger, Modes("off"), reader)}


def test_defaults_come_from_the_api_and_yield_to_what_the_pod_says() -> None:
    reader, kinds = followed()
    service = {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"app": "web"}}}
    kinds["services"].put(msgspec.Raw(json.dumps(service).encode()))
    spec = reader.spec(pod())
    assert [(c.topology_key, c.max_skew, c.selector) for c in spec.pod_rules.spread] == [
        (HOSTNAME, 3, (WEB,)),
        (ZONE, 5, (WEB,)),
    ]
    assert wishes(spec) == ()
    own = [{"topologyKey": "disk", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}]
    assert [c.topology_key for c in reader.spec(pod(topologySpreadConstraints=own)).pod_rules.spread] == ["disk"]
    assert kinds["services"].known() == {"shop/web": 0}
    kinds["services"].lose("shop/web")
    assert kinds["services"].known() == {}
    assert reader.spec(pod()).pod_rules.spread == ()


@pytest.mark.parametrize(
    ("kind", "plural", "version", "selector"),
    [
        ("ReplicationController", "replicationcontrollers", "v1", {"app": "web"}),
        ("ReplicaSet", "replicasets", "apps/v1", {"matchLabels": {"app": "web"}}),
        ("StatefulSet", "statefulsets", "apps/v1", {"matchExpressions": [{"key": "app", "values": ["web"]}]}),
    ],
)
def test_each_controller_counts_until_it_is_deleted(kind: str, plural: str, version: str, selector: object) -> None:
    reader, kinds = followed()
    controller = json.dumps({"metadata": {"name": "c", "namespace": "shop"}, "spec": {"selector": selector}}).encode()
    reference = {"apiVersion": version, "kind": kind, "name": "c", "controller": True}
    owned = json.dumps({"metadata": {"name": "p", "namespace": "shop", "ownerReferences": [reference]}}).encode()
    assert reader.spec(owned).pod_rules.spread == ()
    kinds[plural].put(msgspec.Raw(controller))
    assert [c.selector for c in reader.spec(owned).pod_rules.spread] == [(WEB,), (WEB,)]
    assert kinds[plural].known() == {"shop/c": 0}
    kinds[plural].drop(msgspec.Raw(controller))
    assert reader.spec(owned).pod_rules.spread == ()


def test_nodes_without_a_zone_are_still_spread_over_by_host(owners: Owners) -> None:
    state = ClusterState()
    offer = ((CPU, 8000), (PODS, 110))
    for name, zone in (("a", "z1"), ("b", "z1"), ("c", "")):
        labels = ((HOSTNAME, name), (ZONE, zone)) if zone else ((HOSTNAME, name),)
        state.add_node(NodeSpec(name, offer, labels=labels))
    plain = PodSpec(request=((CPU, 100),), namespace="shop", labels=(("app", "web"),))
    reader, _ = followed()
    reader.owners = owners
    spec = reader.spec(pod())
    state.bind("1", plain, "a")
    score = soft_parts(state.rules, spec, np.ones(3, np.bool_))["PodTopologySpread"]
    # weights log(3+2), log(2+2): a = 1·1.609+2 + 1·1.386+4 = 9, b = 0+2 + 1.386+4 = 7, c = 2 (host alone)
    assert score.tolist() == [2 * (100 * (9 + 2 - raw) // 9) for raw in (9, 7, 2)]


def test_images_that_a_pod_mounts_count_as_those_it_runs() -> None:
    reader = Reader()
    runs = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "registry.local/a:1"}]}}
    plain = reader.pod(json.dumps(runs).encode()).spec
    runs["spec"]["volumes"] = [{"name": "v", "image": {"reference": "registry.local/files"}}]  # type: ignore[index]
    mounts = reader.pod(json.dumps(runs).encode()).spec
    assert plain.images == ("registry.local/a:1",)
    assert mounts.images == ("registry.local/a:1", "registry.local/files:latest")
    assert (plain.num_containers, mounts.num_containers) == (1, 2), (
        "each image that is asked for raises what counts as all"
    )
    rules = ClusterState()
    for name in ("has", "lacks"):
        images = (("registry.local/files:latest", 500 << 20),) if name == "has" else ()
        rules.add_node(NodeSpec(name, ((CPU, 1000), (PODS, 9)), images=images))
    part = soft_parts(rules.rules, mounts, np.ones(2, np.bool_))["ImageLocality"]
    size, low, high = (500 << 20) // 2, 23 << 20, 2000 << 20
    assert part.tolist() == [100 * (size - low) // (high - low), 0]
