"""Which gang a pod belongs to, as it says itself: pods that start together or not at all.

The one reading of it, for batches, for the planner that collects gated pods, and for the sweeper.
"""

from __future__ import annotations

from collections.abc import Mapping

from placement.pods import PodSpec
from placement.resources import whole_number

LABELS = ("pod-group.scheduling.sigs.k8s.io/name", "scheduling.x-k8s.io/pod-group", "volcano.sh/group-name")
"""Labels of a pod that name its gang, in its namespace; the first that is there and not empty counts."""
SIZE = "ullage.dev/gang-size"
"""Annotation: how many pods the gang has; planning waits for all of them."""


def gang_named(labels: Mapping[str, str]) -> str:
    """The gang that a pod's labels name; empty when it is alone.

    >>> gang_named({"volcano.sh/group-name": "train", "scheduling.x-k8s.io/pod-group": ""}), gang_named({"app": "web"})
    ('train', '')
    """
    return next((labels[key] for key in LABELS if labels.get(key)), "")


def gang_of(spec: PodSpec) -> tuple[str, str] | None:
    """Namespace and name of a pod's gang; None when it is alone."""
    name = gang_named(dict(spec.labels))
    return (spec.namespace, name) if name else None


def gang_size(annotations: Mapping[str, str], default: int = 1) -> int:
    """How many pods a pod's gang has, if it says so; else 1: what is there is planned."""
    number = whole_number(annotations.get(SIZE, ""))
    return default if number is None else number
