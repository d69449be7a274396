"""From Kubernetes objects to classes, where kube-scheduler's own reading has corners."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from placement.nodes import NodeSpec
from placement.objects import Pod
from placement.pods import PodSpec, Requirement
from placement.requests import effective_requests
from placement.resources import CPU, MEMORY
from placement.soft import soft_parts
from placement.specs import UNOFFERED, Axis, class_key, pod_spec
from placement.state import ClusterState

INFEASIBLE = [{"type": "PodResizePending", "reason": "Infeasible"}]
DEFERRED = [{"type": "PodResizePending", "reason": "Deferred"}]


def pod(spec: dict[str, Any], status: dict[str, Any] | None = None, **meta: Any) -> Pod:
    metadata = {"name": "p", "namespace": "default", **meta}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status or {}}, Pod)


def container(cpu: str, name: str = "c", **more: Any) -> dict[str, Any]:
    return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}


def running(cpu: str, allocated: str, name: str = "c") -> dict[str, Any]:
    return {"name": name, "resources": {"requests": {"cpu": cpu}}, "allocatedResources": {"cpu": allocated}}


# ── requests ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "status", "counted"),
    [
        ("8", [running("1", "2")], 8000),
        ("1", [running("4", "2")], 4000),
        ("1", [running("2", "4")], 4000),
        ("8", [{"name": "c", "allocatedResources": {"cpu": "9"}}], 9000),
        ("8", [{"name": "c", "resources": {"limits": {"cpu": "9"}}}], 8000),
        ("8", [running("1", "9", name="other")], 8000),
    ],
)
def test_a_resize_in_flight_counts_with_the_most_of_what_is_asked_running_and_allocated(
    asked: str, status: list[dict[str, Any]], counted: int
) -> None:
    """``AggregateContainerRequests``."""
    for conditions in (None, DEFERRED):
        found = pod({"containers": [container(asked)]}, {"containerStatuses": status, "conditions": conditions})
        assert effective_requests(found) == {CPU: counted}


def test_a_resize_that_its_node_can_never_grant_takes_no_room() -> None:
    status = {"containerStatuses": [running("1", "2")], "conditions": INFEASIBLE}
    refused = pod({"containers": [container("64")]}, status)
    assert effective_requests(refused) == {CPU: 2000}
    assert class_key(refused) != class_key(pod({"containers": [container("64")]}, {**status, "conditions": DEFERRED}))


def test_init_containers_are_resized_as_others_are() -> None:
    spec = {"containers": [container("1")], "initContainers": [container("2", "i")]}
    status = {"initContainerStatuses": [running("9", "9", "i")]}
    assert effective_requests(pod(spec, status)) == {CPU: 9000}
    spec["initContainers"][0]["restartPolicy"] = "Always"
    assert effective_requests(pod(spec, status)) == {CPU: 10_000}


@pytest.mark.parametrize(("conditions", "counted"), [(DEFERRED, 7000), (INFEASIBLE, 6000)])
def test_containers_that_are_resized_one_up_one_down_count_with_the_largest_sum(conditions: Any, counted: int) -> None:
    """Not with the sum of the largest, 10, as before Kubernetes 1.37: such a node would be offered and refused."""
    spec = {"containers": [container("5", "up"), container("2", "down")]}
    status = {"containerStatuses": [running("1", "1", "up"), running("5", "4", "down")], "conditions": conditions}
    assert effective_requests(pod(spec, status)) == {CPU: counted}


@pytest.mark.parametrize(("conditions", "counted"), [(None, 6000), (INFEASIBLE, 3000)])
def test_a_pods_own_resources_are_resized_as_its_containers_are(conditions: Any, counted: int) -> None:
    spec = {"containers": [container("1")], "resources": {"requests": {"cpu": "6", "memory": "1"}}}
    status = {
        "conditions": conditions,
        "resources": {"requests": {"cpu": "2", "memory": "5"}},
        "allocatedResources": {"cpu": "3", "memory": "1"},
    }
    assert effective_requests(pod(spec, status)) == {CPU: counted, MEMORY: 5}
    assert effective_requests(pod(spec)) == {CPU: 6000, MEMORY: 1}
    assert class_key(pod(spec)) != class_key(pod(spec, status))


def test_limits_of_a_pod_alone_leave_scores_to_its_containers() -> None:
    """``IsPodLevelRequestsSet``."""
    bare = pod_spec(pod({"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "2"}}}))
    assert (bare.nonzero_cpu, bare.nonzero_memory) == (100, 200 << 20)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────


def test_labels_that_a_term_was_merged_with_when_its_pod_was_made_hold_for_it() -> None:
    """The API server merges ``matchLabelKeys``; a label that is edited afterwards changes whom the pod is, not whom it means."""
    selector = {
        "matchExpressions": [
            {"key": "version", "operator": "In", "values": ["1"]},
            {"key": "team", "operator": "NotIn", "values": ["red"]},
        ]
    }
    term = {"topologyKey": "zone", "matchLabelKeys": ["version"], "mismatchLabelKeys": ["team"]}

    def meant(selector: dict[str, Any], **labels: str) -> tuple[Requirement, ...] | None:
        affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term | selector]}}
        return pod_spec(pod({"affinity": affinity}, labels=labels)).pod_rules.anti_affinity[0].selector

    merged = (Requirement("version", "In", ("1",)), Requirement("team", "NotIn", ("red",)))
    assert meant({"labelSelector": selector}, version="2", team="blue") == merged
    assert meant({"labelSelector": {}}, version="1", team="red") == merged, "a manifest that no API server has seen"
    assert meant({"labelSelector": {}}, version="1") == merged[:1]
    assert meant({}, version="1") is None


def test_spreading_counts_pods_that_are_being_deleted_no_more() -> None:
    """``countPodsMatchSelector``: a roll-out that spreads hard must not wait until its old pods have gone."""
    zone = {"topologyKey": "zone", "maxSkew": 1, "labelSelector": {"matchLabels": {"app": "web"}}}
    rule = [{**zone, "whenUnsatisfiable": "DoNotSchedule"}]

    def web(rules: list[dict[str, Any]], **meta: Any) -> PodSpec:
        return pod_spec(pod({"topologySpreadConstraints": rules}, labels={"app": "web"}, **meta))

    state, hard = ClusterState(), web(rule)
    for name in "ab":
        state.add_node(NodeSpec(name, ((CPU, 9000),), (("zone", name),)))
    state.bind("old", hard, "a")
    assert state.rules.relational_mask(hard).tolist() == [False, True]
    state.update_pod("old", web(rule, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert state.rules.relational_mask(hard).tolist() == [True, True]
    soft = web([{**zone, "whenUnsatisfiable": "ScheduleAnyway"}])
    everywhere = state.is_alive[:2]
    assert "PodTopologySpread" not in soft_parts(state.rules, soft, everywhere)
    state.bind("new", hard, "a")
    assert soft_parts(state.rules, soft, everywhere)["PodTopologySpread"].tolist() == [0, 200]


def test_a_pod_that_is_being_deleted_keeps_others_away_as_before() -> None:
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    state = ClusterState()
    for name in "ab":
        state.add_node(NodeSpec(name, ((CPU, 9000),), (("zone", name),)))
    web = pod_spec(pod({"affinity": affinity}, labels={"app": "web"}))
    leaving = pod_spec(pod({"affinity": affinity}, labels={"app": "web"}, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert leaving != web
    state.bind("old", leaving, "a")
    assert state.rules.relational_mask(web).tolist() == [False, True]


def test_a_resource_of_a_name_that_kubernetes_does_not_take_has_no_column() -> None:
    """A caller's may be as long as a body, and would be kept for good."""
    spec = Axis().limited(PodSpec((("a" * 318, 1), ("b" * 317, 2))))
    assert spec.request == ((UNOFFERED, 1), ("b" * 317, 2))
