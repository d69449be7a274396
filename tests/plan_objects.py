"""Nodes, pods, gangs and disruption budgets as Kubernetes objects, a line each, and the snapshot of some."""

from __future__ import annotations

import json
from typing import Any

from placement.planning.snapshots import SnapshotFile, snapshot_of_objects


def node(name: str, cpu: int = 4, **metadata: Any) -> dict[str, Any]:
    """A node of ``cpu`` cores and 16 GiB."""
    status = {"allocatable": {"cpu": str(cpu), "memory": "16Gi", "pods": "110"}}
    return {"kind": "Node", "metadata": {"name": name, **metadata}, "status": status}


def pod(name: str, cpu: str, on: str = "", *, priority: int = 0, **changes: Any) -> dict[str, Any]:
    """A pod of a replica set; ``on`` empty = pending."""
    owner = [{"kind": changes.pop("owner", "ReplicaSet"), "name": name.rsplit("-", 1)[0], "controller": True}]
    metadata = {"name": name, "uid": f"uid-{name}", "ownerReferences": owner, **changes.pop("metadata", {})}
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]
    spec = {"nodeName": on or None, "priority": priority, "containers": containers, **changes}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running" if on else "Pending"}}


def gpu_pod(name: str, milli: int, *, models: str = "", plugin: bool = False) -> dict[str, Any]:
    """A pending pod with a share of a device, or with one whole device of a device plugin."""
    made = pod(name, "1")
    asked = {"nvidia.com/gpu": "1"} if plugin else {"ullage.dev/gpu-milli": str(milli)}
    made["spec"]["containers"][0]["resources"]["requests"].update(asked)
    if models:
        made["metadata"]["annotations"] = {"ullage.dev/gpu-models": models}
    return made


def one_of(app: str, name: str, cpu: str, on: str = "", **changes: Any) -> dict[str, Any]:
    """A pod with the label ``app``, by which a :func:`budget` finds it."""
    return pod(name, cpu, on, metadata={"labels": {"app": app}}, **changes)


def member(gang: str, number: int, on: str, cpu: str = "2", priority: int = 1, **changes: Any) -> dict[str, Any]:
    """A pod of a gang, named by the label of scheduler-plugins; its label ``app`` is the gang's name."""
    labels = {"scheduling.x-k8s.io/pod-group": gang, "app": gang}
    metadata = {"labels": labels} | changes.pop("metadata", {})
    return pod(f"{gang}{number}-1", cpu, on, priority=priority, metadata=metadata, **changes)


def budget(allowed: int, app: str = "db") -> dict[str, Any]:
    """A disruption budget of the pods with the label ``app``."""
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed},
    }


def taken(*objects: dict[str, Any]) -> SnapshotFile:
    """Snapshot of these objects."""
    return snapshot_of_objects(json.dumps({"kind": "List", "items": objects}).encode())
