"""What is known of a workload beside its usage, and by which of it workloads are kin.

Names are never features: a model must do for names that it has never seen. They only say whose usage is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from placement.knowledge import workload_of
from placement.pods import PodSpec

FAMILIES = ("namespace", "name", "image")
"""By what workloads are kin: namespace and kind of owner; kind and name without a number at the end, in any namespace (the
same application elsewhere); the images of all containers, without tag and digest."""

_NUMBER = re.compile(r"[-._]?\d+$")


@lru_cache(maxsize=4096)
def image_class(image: str) -> str:
    """The repository of an image, without tag and digest.

    >>> image_class("registry:5000/shop/web:1.2@sha256:0f"), image_class("registry:5000/shop/web")
    ('registry:5000/shop/web', 'registry:5000/shop/web')
    """
    repository = image.partition("@")[0]
    path, colon, tag = repository.rpartition(":")
    return path if colon and "/" not in tag else repository


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one workload; empty or None = not known."""

    namespace: str = ""
    kind: str = ""
    name: str = ""
    """Of the owner."""
    images: tuple[str, ...] = ()
    """Sorted repositories (:func:`image_class`), each once."""
    guaranteed: bool | None = None
    """Whether all of its pods are of quality of service class Guaranteed."""
    priority: int | None = None
    """The largest of its pods'."""

    @classmethod
    def of_workload(cls, workload: str) -> Facts:
        """What the name (``namespace/Kind/name``) tells; nothing if it is no such name."""
        namespace, kind, name = (*workload.split("/", 2), "", "")[:3]
        return cls(namespace, kind, name) if name else cls()

    def keys(self) -> tuple[str, ...]:
        """Its kin of each of :data:`FAMILIES` have the same key; empty = not known.

        >>> Facts("shop", "StatefulSet", "db-2", ("redis",)).keys()
        ('shop/StatefulSet', 'StatefulSet/db', 'redis')
        """
        by_namespace = f"{self.namespace}/{self.kind}" if self.namespace else ""
        by_name = f"{self.kind}/{_NUMBER.sub('', self.name)}" if self.name else ""
        return by_namespace, by_name, " ".join(self.images)


def facts_of(specs: Iterable[PodSpec]) -> dict[str, Facts]:
    """Facts of the workloads that pods of these classes belong to; the order of the classes does not matter."""
    classes: dict[str, list[PodSpec]] = {}
    for spec in specs:
        workload = workload_of(spec.namespace, spec.owner)
        if workload:
            classes.setdefault(workload, []).append(spec)
    return {workload: _facts(workload, found) for workload, found in classes.items()}


def _facts(workload: str, specs: list[PodSpec]) -> Facts:
    named = Facts.of_workload(workload)
    images = tuple(sorted({image_class(image) for spec in specs for image in spec.images}))
    return Facts(
        named.namespace,
        named.kind,
        named.name,
        images,
        all(spec.guaranteed for spec in specs),
        max(spec.priority for spec in specs),
    )
