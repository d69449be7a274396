"""Who belongs to a gang: batches, the planner and the sweeper read it alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from placement import objects
from placement.gangs import (
    LABELS,
    MEMBER_GROUP,
    POD_GROUP,
    POD_GROUP_1_36,
    SIZE,
    VOLCANO,
    WORKLOAD,
    Groups,
    Kind,
    gang_of,
    gang_size,
)
from placement.planning.batch_problems import batch_problem
from placement.planning.snapshots import cluster_of
from placement.pods import PodSpec
from placement.resources import CPU
from placement.specs import class_key, pod_spec
from scheduler.gates import GATE, timestamp
from scheduler.ledger import Seen
from scheduler.planning.nominator import unit_of
from scheduler.planning.sweeper import stale
from simulator.planning.worker import Request, make_plan
from tests.plan_objects import node, pod, taken

NOW_S = 1_000_000.0


def _seen(uid: str, labels: dict[str, str]) -> Seen:
    return Seen(uid, uid, "default", 1, PodSpec(((CPU, 1),), labels=tuple(sorted(labels.items()))))


@pytest.mark.parametrize(
    ("labels", "is_gang"),
    [
        *(({label: "g"}, True) for label in (*LABELS, VOLCANO)),
        *(({label: ""}, False) for label in (*LABELS, VOLCANO)),
        ({LABELS[0]: "", VOLCANO: "g"}, True),
        ({"app": "g"}, False),
    ],
)
def test_a_pod_is_of_a_gang_for_all_who_ask_or_for_none(labels: dict[str, str], is_gang: bool) -> None:
    """A label without a value names no gang; before, the planner took all such pods of a namespace for one."""
    meta: dict[str, Any] = {"metadata": {"labels": labels}}
    problem = batch_problem(cluster_of(taken(node("a"), pod("x-1", "1", **meta), pod("x-2", "2", **meta))))
    assert (problem.batch.gang >= 0).tolist() == [is_gang] * 2
    assert (unit_of(_seen("1", labels), Groups()) == unit_of(_seen("2", labels), Groups())) is is_gang
    metadata = objects.Metadata("p", "default", "u", labels=labels, creationTimestamp=timestamp(NOW_S - 100))
    old = objects.Pod(metadata, objects.PodSpecObject(schedulingGates=[{"name": GATE}]))
    assert (stale(old, NOW_S, 60, 600) is None) is is_gang


@pytest.mark.parametrize(("text", "size"), [("3", 3), ("", 0), ("-2", 0), ("many", 0), ("1234567", 0)])
def test_the_size_of_a_gang_is_what_it_says_or_unknown(text: str, size: int) -> None:
    assert gang_size({SIZE: text}) == size
    assert gang_size({}) == 0


def test_a_class_of_pods_knows_the_size_of_its_gang_if_it_says_so() -> None:
    said, other, silent = (
        objects.Pod(objects.Metadata("p", "n", "u", annotations=a)) for a in ({SIZE: "3"}, {SIZE: "4"}, {})
    )
    assert [pod_spec(pod).gang_size for pod in (said, other, silent)] == [3, 4, 0]
    assert len({class_key(pod) for pod in (said, other, silent)}) == 3


# ── other sources than labels ─────────────────────────────────────────────────────────────────

NATIVE: dict[str, Any] = {"schedulingGroup": {"podGroupName": "train"}}
OF_WORKLOAD: dict[str, Any] = {"workloadRef": {"name": "job", "podGroup": "workers", "podGroupReplicaKey": "1"}}
SIZED = {"annotations": {SIZE: "3"}}


def named(kind: Kind, name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    """An object that says how many pods a gang needs, as the API writes it."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": kind.version, "kind": kind.name, "metadata": metadata, "spec": spec}


def pod_group(pods: int, name: str = "train", kind: Kind = POD_GROUP) -> dict[str, Any]:
    """Of Kubernetes 1.37, or of another ``kind``; 0 pods = policy basic."""
    return named(kind, name, {"schedulingPolicy": {"gang": {"minCount": pods}} if pods else {"basic": {}}})


def workload(**parts: int) -> dict[str, Any]:
    """Of Kubernetes 1.35."""
    policies: dict[str, Any] = {
        name: {"gang": {"minCount": pods}} if pods else {"basic": {}} for name, pods in parts.items()
    }
    return named(
        WORKLOAD, "job", {"podGroups": [{"name": name, "policy": policy} for name, policy in policies.items()]}
    )


def member_group(pods: int, name: str = "train") -> dict[str, Any]:
    """Of scheduler-plugins."""
    return named(MEMBER_GROUP, name, {"minMember": pods})


def owned(number: int, uid: str, **changes: Any) -> dict[str, Any]:
    """A pod of a Job."""
    metadata = {"ownerReferences": [{"kind": "Job", "name": "j", "uid": uid, "controller": True}], **SIZED}
    return pod(f"{uid}-{number}", "1", metadata=metadata | changes.pop("metadata", {}), **changes)


def reasons(*things: dict[str, Any]) -> set[str]:
    """Why pods are not planned for; empty when all are placed."""
    plan = make_plan(Request("batch", taken(node("a", 32), *things), 0.2))
    return {reason.partition(": ")[2] for reason in plan.reasons if "is not to be placed now" in reason}


def test_pods_of_one_owner_are_a_gang_when_their_annotation_says_so() -> None:
    three = [owned(i, "a") for i in range(3)]
    assert reasons(*three) == set()
    assert reasons(*three[:2], owned(3, "b")) == {
        f"its gang has 2 of 3 pods (annotation {SIZE})",
        f"its gang has 1 of 3 pods (annotation {SIZE})",
    }, "two Jobs of one name, one after the other, are two gangs"
    assert reasons(*three[:2], owned(3, "a", nodeName="a")) == set(), "a member that runs counts"
    labelled = owned(3, "a", metadata={"labels": {LABELS[1]: "train"}})
    assert len(reasons(*three[:2], labelled)) == 2, "a label goes before the owner"
    for size in ("1", "0", "many"):
        alone = objects.Pod(
            objects.Metadata(
                "p",
                "n",
                "u",
                annotations={SIZE: size},
                ownerReferences=[objects.OwnerReference("", "Job", "j", "a", True)],
            )
        )
        assert gang_of(pod_spec(alone)) is None


def test_owners_of_one_name_are_told_apart_by_the_watch_too() -> None:
    read = [msgspec.convert(owned(1, uid), objects.Pod) for uid in ("a", "b")]
    assert class_key(read[0]) != class_key(read[1])
    assert gang_of(pod_spec(read[0])) == ("default", "owner/a")


@pytest.mark.parametrize(
    ("changes", "group", "said"),
    [
        ({"metadata": {"labels": {LABELS[0]: "train"}}}, member_group, "minMember of PodGroup train"),
        ({"metadata": {"labels": {LABELS[1]: "train"}}}, member_group, "minMember of PodGroup train"),
        (NATIVE, pod_group, "minCount of PodGroup train"),
        (NATIVE, lambda pods: pod_group(pods, kind=POD_GROUP_1_36), "minCount of PodGroup train"),
        (OF_WORKLOAD, lambda pods: workload(driver=1, workers=pods), "minCount of Workload job/workers"),
    ],
)
def test_an_object_says_how_many_pods_a_gang_needs(changes: dict[str, Any], group: Any, said: str) -> None:
    pods = [pod(f"w{i}-1", "1", **changes) for i in range(3)]
    assert reasons(*pods, group(4)) == {f"its gang has 3 of 4 pods ({said})"}
    assert reasons(*pods, group(3)) == set()
    assert reasons(*pods, group(2)) == set(), "at least so many"
    assert reasons(*pods[:2], pod("r-1", "1", "a", **changes), group(3)) == set(), "who runs counts"
    metadata = changes.get("metadata", {})
    over = [pod(f"w{i}-1", "1", **changes | {"metadata": metadata | {"annotations": {SIZE: "9"}}}) for i in range(3)]
    assert reasons(*over, group(3)) == set(), "the object wins over annotations"
    assert reasons(*over) == {f"its gang has 3 of 9 pods (annotation {SIZE})"}
    other = group(1)
    other["metadata"]["name"] = "other"
    assert len(missing := reasons(*pods, other)) == 1
    assert "of its gang does not exist" in missing.pop()
    assert reasons(*pods, group("many")) == reasons(*pods, other), "of what cannot be read as well"
    assert reasons(*over, other) == {f"its gang has 3 of 9 pods (annotation {SIZE})"}
    assert reasons(*pods) == set(), "nobody serves such objects: what is there is planned"


def test_all_that_wait_of_a_gang_are_placed_or_none_though_fewer_would_do() -> None:
    pods = [pod(f"w{i}-1", "12", **NATIVE) for i in range(3)]
    plan = make_plan(Request("batch", taken(node("a", 32), *pods, pod_group(2)), 0.2))
    assert plan.steps == ()


def test_each_replica_of_a_workload_is_a_gang_of_its_own() -> None:
    second: dict[str, Any] = {"workloadRef": OF_WORKLOAD["workloadRef"] | {"podGroupReplicaKey": "2"}}
    pods = [pod("a-1", "1", **OF_WORKLOAD), pod("b-1", "1", **OF_WORKLOAD), pod("c-1", "1", **second)]
    assert reasons(*pods, workload(workers=2)) == {"its gang has 1 of 2 pods (minCount of Workload job/workers)"}


@pytest.mark.parametrize(("changes", "group"), [(NATIVE, pod_group(0)), (OF_WORKLOAD, workload(workers=0))])
def test_pods_of_a_basic_group_are_placed_one_by_one(changes: dict[str, Any], group: dict[str, Any]) -> None:
    pods = [pod(f"w{i}-1", "12", **changes) for i in range(3)]
    plan = make_plan(Request("batch", taken(node("a", 32), *pods, group), 0.2))
    assert len(plan.steps) == 2
    specs = [pod_spec(msgspec.convert(one, objects.Pod)) for one in pods]
    groups = Groups()
    kind = POD_GROUP if changes is NATIVE else WORKLOAD
    groups.read(kind, msgspec.json.encode(group))
    assert [groups.gang_of(spec) for spec in specs] == [None] * 3
    assert gang_of(specs[0]) is not None


def test_gangs_of_different_sources_never_meet() -> None:
    """A label's value has no slash."""
    spec = pod_spec(msgspec.convert(pod("w-1", "1", **NATIVE), objects.Pod))
    labelled = pod_spec(msgspec.convert(pod("w-1", "1", metadata={"labels": {LABELS[1]: "train"}}), objects.Pod))
    volcano = pod_spec(msgspec.convert(pod("w-1", "1", metadata={"labels": {VOLCANO: "train"}}), objects.Pod))
    assert len({gang_of(spec), gang_of(labelled), gang_of(volcano)}) == 3
    groups = Groups()
    groups.read(MEMBER_GROUP, msgspec.json.encode(member_group(9)))
    assert groups.why_waits(("default", "train"), 1, 0)
    assert not groups.why_waits(("default", "volcano/train"), 1, 0)
    assert not groups.why_waits(("default", "podgroup/train"), 1, 0)
    assert not groups.why_waits(("elsewhere", "train"), 9, 2)
