"""Who a pod belongs to, for kube-scheduler's own spreading: Services that select it, and the controller that owns it.

A pod that states no spread constraint is spread by kube-scheduler's system defaults over hosts and zones among the
pods that its Services, ReplicationController, ReplicaSet or StatefulSet select (``helper.DefaultSelector`` and
``podtopologyspread`` of Kubernetes 1.36).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.pods import PodSpec, Requirement, Spread

HOSTNAME = "kubernetes.io/hostname"
"""Every node of a cluster has this label."""
ZONE = "topology.kubernetes.io/zone"
DEFAULT_SPREAD = ((HOSTNAME, 3), (ZONE, 5))
"""Topology key and largest skew of the system defaults."""
CONTROLLERS = {"ReplicationController": "v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1"}
"""Kinds whose selector counts, with the API version that an owner reference to them must name."""

TEMPLATE_LABELS = ("pod-template-hash", "controller-revision-hash")
"""Labels by which controllers tell the pods of one template from those of another."""

Requirements = tuple[Requirement, ...]


def template_of(spec: PodSpec) -> tuple[str, str, str]:
    """(namespace, owner, template hash): pods with the same are replacements of each other. No owner, no replacement."""
    labels = dict(spec.labels)
    return spec.namespace, spec.owner, next((labels[key] for key in TEMPLATE_LABELS if key in labels), "")


@dataclass
class Owners:
    """Selectors by namespace; written by whoever follows the API, read when a pod becomes a class."""

    services: dict[str, dict[str, tuple[tuple[str, str], ...]]] = field(default_factory=dict)
    """Namespace → Service → labels that it selects; a Service without a selector is left out."""
    controllers: dict[str, dict[str, dict[str, Requirements]]] = field(
        default_factory=lambda: {kind: {} for kind in CONTROLLERS}
    )
    """Kind → namespace → name → selector."""

    def selector(self, namespace: str, labels: Mapping[str, str], owner: tuple[str, str, str] | None) -> Requirements:
        """Of the pods that this one is spread among; () = nobody.

        Parameters
        ----------
        owner : API version, kind and name of the pod's controller.
        """
        merged: dict[str, str] = {}
        for chosen in self.services.get(namespace, {}).values():
            if all(labels.get(key) == value for key, value in chosen):
                merged.update(chosen)
        found = [Requirement(key, "In", (value,)) for key, value in sorted(merged.items())]
        if owner is not None and CONTROLLERS.get(owner[1]) == owner[0]:
            found += self.controllers[owner[1]].get(namespace, {}).get(owner[2], ())
        return tuple(dict.fromkeys(found))

    def spread(
        self, namespace: str, labels: Mapping[str, str], owner: tuple[str, str, str] | None
    ) -> tuple[Spread, ...]:
        """The system's default constraints for a pod that states none."""
        selector = self.selector(namespace, labels, owner)
        if not selector:
            return ()
        return tuple(Spread(key, skew, False, selector, is_default=True) for key, skew in DEFAULT_SPREAD)
