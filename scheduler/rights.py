"""What Ullage needs of the Kubernetes API: one table for the manifests' tests, the doctor and the documents.

Nothing else is asked for, but by settings that act: those are named beside it. Each right's ``reason`` says what breaks
without it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from placement.gangs import KINDS
from scheduler.settings import Settings

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


def _groups(verbs: tuple[str, ...]) -> tuple[Right, ...]:
    """Of the kinds that say how many pods a gang needs; where the API does not serve one, nothing is asked."""
    kinds = dict.fromkeys(
        (kind.version.partition("/")[0], kind.plural) for kind in KINDS
    )  # each once: versions share rights
    return tuple(Right(group, plural, verbs, "how many pods a gang needs") for group, plural in kinds)


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


OPTIONAL: dict[str, tuple[Right, ...]] = {
    "plan.enabled": (
        Right("", "pods", ("patch",), "lifts our scheduling gate"),
        Right("", "pods/status", ("patch",), "nominates, and takes nominations of ours back"),
        Right("policy", "poddisruptionbudgets", ("list",), "plans asked for over gRPC keep what a budget protects"),
        *_groups(FOLLOW),
    ),
    "plan.applies": (
        Right("", "pods", ("patch",), "marks where a replacement belongs"),
        Right("", "pods/status", ("patch",), "nominates the pods that a plan moves"),
        Right("", "pods/eviction", ("create",), "moves pods; the API server holds disruption budgets"),
        Right("", "nodes", ("get", "patch"), "cordons nodes that a plan empties"),
        Right("policy", "poddisruptionbudgets", ("list",), "plans keep what a budget protects"),
        *_groups(("list",)),
    ),
    "reclaim.mode": (
        Right("", "nodes/status", ("patch",), "offers reclaimed capacity"),
        Right("", "pods/eviction", ("create",), "reclaimed pods leave when guaranteed ones want their own back"),
    ),
}
"""What settings ask for beyond the table; a component of each name grants it."""


APPLIES = "plan.applies"
"""Of which the rights are on an account of their own: what the table has is granted there once more."""
GRANTS = {
    "plan.enabled": "components/plan",
    APPLIES: "components/plan-apply",
    "reclaim.mode": "components/reclaim",
}
"""Where under ``manifests/kustomize`` the rights are that a setting asks for; the table's are in ``base``."""
_DENIED = re.compile(r'cannot (\S+) resource "([^"]+)" in API group "([^"]*)"')
"""What the API server says of a right that is not granted; admission forbids in other words."""


def what_to_do(refusal: str, purpose: str = "") -> str:
    """Which right a 403 says is missing, and which manifest has it; empty where it is not about rights.

    ``purpose`` is the setting of :data:`GRANTS` for which the call was made, empty = any.

    >>> what_to_do('User "u" cannot create resource "pods/eviction" in API group "" at the cluster scope', "plan.applies")
    'the account may not create pods/eviction: grant it what manifests/kustomize/components/plan-apply/rbac.yaml does'
    """
    found = _DENIED.search(refusal)
    if found is None:
        return ""
    verb, resource, group = found.groups()

    def has(rights: tuple[Right, ...]) -> bool:
        return any((r.group, r.resource) == (group, resource) and verb in r.verbs for r in rights)

    if has(RIGHTS) and purpose != APPLIES:
        folders = ["base"]
    else:
        asked = [purpose] if purpose else [setting for setting in GRANTS if has(OPTIONAL[setting])]
        folders = [GRANTS[setting] for setting in asked]
    files = " or ".join(f"manifests/kustomize/{folder}/rbac.yaml" for folder in folders)
    missing = f"the account may not {verb} {resource}{f'.{group}' if group else ''}"
    return f"{missing}: grant it what {files} does" if files else missing


def needed(settings: Settings | None) -> tuple[Right, ...]:
    """The table, and what these settings add to it."""
    if settings is None:
        return RIGHTS
    asked = {
        "plan.enabled": settings.plan.enabled,
        "plan.applies": settings.plan.applies,
        "reclaim.mode": settings.reclaim.mode in ("on", "withdraw"),
    }
    return RIGHTS + tuple(right for key, rights in OPTIONAL.items() if asked[key] for right in rights)
