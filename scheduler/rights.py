"""What Ullage needs of the Kubernetes API: one table for the manifests' tests, the doctor and the documents.

Nothing else is asked for. Each right's ``reason`` says what breaks without it.
"""

from __future__ import annotations

from typing import NamedTuple

READ = ("get", "list", "watch")
FOLLOW = ("list", "watch")


class Right(NamedTuple):
    """One kind of object and what we do with it."""

    group: str
    resource: str
    """With its subresource: ``pods/binding``."""
    verbs: tuple[str, ...]
    reason: str
    is_local: bool = False
    """Only in our own namespace."""


RIGHTS: tuple[Right, ...] = (
    Right("", "nodes", FOLLOW, "the view of what can be placed on"),
    Right("", "pods", READ, "the view of what is placed; get settles reservations that nobody confirmed"),
    Right("", "pods/binding", ("create",), "binds pods with GPU shares and writes their devices"),
    Right("", "namespaces", FOLLOW, "mode by label, and namespace selectors of affinity terms"),
    Right("", "persistentvolumes", FOLLOW, "zones and nodes that volumes tie a pod to"),
    Right("", "persistentvolumeclaims", FOLLOW, "which volume a pod uses"),
    Right("", "services", FOLLOW, "kube-scheduler's default spreading of a Service's pods, as kube-default scores it"),
    Right("", "replicationcontrollers", FOLLOW, "the same, of its pods"),
    Right("apps", "replicasets", FOLLOW, "the same, of its pods"),
    Right("apps", "statefulsets", FOLLOW, "the same, of its pods"),
    Right("coordination.k8s.io", "leases", ("get", "create", "update"), "one replica answers", is_local=True),
)


def is_needed(group: str, resource: str, verb: str) -> bool:
    """Whether the table names this right."""
    return any(r.group == group and r.resource == resource and verb in r.verbs for r in RIGHTS)
