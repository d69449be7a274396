"""Pods that manifests would make: a plan counts them as waiting, so it says where they would run before anybody applies them.

A file is what ``kubectl apply -f`` takes. Of its objects count those that make pods that wait for a place, and those that
say what such pods mean: groups of pods and priority classes. What the API server would fill in is filled in here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from placement import objects
from placement.errors import UNREADABLE, ConfigError, yaml_fault
from placement.gangs import KINDS, Groups
from placement.planning.snapshots import SnapshotFile, snapshot_of

MOST_PODS = 100_000
"""In all: a typing error in ``replicas`` would fill the memory."""
SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
"""Priority classes that every cluster has."""


class _Spec(objects.PodSpecObject):
    priorityClassName: str | None = None


class _Template(msgspec.Struct):
    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Makes(msgspec.Struct):
    """What the controllers' objects say of their pods."""

    replicas: int | None = None
    parallelism: int | None = None
    completions: int | None = None
    template: _Template = msgspec.field(default_factory=_Template)


class _Controller(msgspec.Struct):
    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    spec: _Makes = msgspec.field(default_factory=_Makes)


class _Scheduled(msgspec.Struct):
    jobTemplate: _Controller = msgspec.field(default_factory=_Controller)


class _CronJob(msgspec.Struct):
    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    spec: _Scheduled = msgspec.field(default_factory=_Scheduled)


class _PriorityClass(msgspec.Struct):
    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    value: int = 0
    globalDefault: bool | None = None
    preemptionPolicy: str | None = None


def _replicas(makes: _Makes) -> int:
    return 1 if makes.replicas is None else makes.replicas


def _at_once(makes: _Makes) -> int:
    """Pods of a Job that run side by side."""
    most = 1 if makes.parallelism is None else makes.parallelism
    return most if makes.completions is None else min(most, makes.completions)


CONTROLLERS: Mapping[tuple[str, str], Callable[[_Makes], int]] = {
    ("apps/v1", "Deployment"): _replicas,
    ("apps/v1", "ReplicaSet"): _replicas,
    ("apps/v1", "StatefulSet"): _replicas,
    ("v1", "ReplicationController"): _replicas,
    ("batch/v1", "Job"): _at_once,
}
"""API version and kind → how many pods of it are there at a time."""

CRON_JOB = ("batch/v1", "CronJob")


@dataclass
class _Read:
    """What has been read of one file."""

    source: str
    makes: list[tuple[_Template, int, str, objects.OwnerReference | None]] = field(default_factory=list)
    """Template, how many, the name that theirs begin with, and their controller."""
    groups: Groups = field(default_factory=Groups)
    classes: dict[str, _PriorityClass] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    """Kinds of objects that make no pods that wait, as far as anybody here knows."""

    def add(self, document: Any) -> None:
        """One object, or a list of them.

        Raises
        ------
        ConfigError : it is none of its kind.
        """
        if not isinstance(document, dict):
            raise ConfigError(f"{self.source}: {document!r:.40} is no object; give what kubectl apply -f takes")
        try:
            self._add(document)
        except UNREADABLE as error:
            meta = document.get("metadata")
            name = meta.get("name") if isinstance(meta, dict) else "without a name"
            what_to_do = "put it in quotes" if "Expected `str`" in str(error) else "check the manifest"
            raise ConfigError(f"{self.source}: {document.get('kind')} {name}: {error}; {what_to_do}") from error

    def _add(self, document: dict[str, Any]) -> None:
        what = str(document.get("apiVersion") or ""), str(document.get("kind") or "")
        if isinstance(document.get("items"), list) and what[1].endswith("List"):
            for item in document["items"]:
                self.add(item)
            return
        group = next((kind for kind in KINDS if (kind.version, kind.name) == what), None)
        if group is not None:
            self.groups.add(group, msgspec.convert(document, group.read))
        elif what[1] == "PriorityClass":
            found = msgspec.convert(document, _PriorityClass)
            self.classes[found.metadata.name] = found
        elif what == CRON_JOB:
            scheduled = msgspec.convert(document, _CronJob)
            job = scheduled.spec.jobTemplate
            self._controller(("batch/v1", "Job"), replace(job, metadata=scheduled.metadata))
        elif what in CONTROLLERS:
            self._controller(what, msgspec.convert(document, _Controller))
        elif what == ("v1", "Pod"):
            pod = msgspec.convert(document, _Template)
            if pod.spec.nodeName:
                self.others["Pod with a nodeName"] += 1
            else:
                self.makes.append((pod, 1, pod.metadata.name, None))
        else:
            known = next((version for version, kind in (*CONTROLLERS, ("v1", "Pod"), CRON_JOB) if kind == what[1]), "")
            wrong = f" of {what[0] or 'no apiVersion'} (not {known})" if known else ""
            self.others[(what[1] or "object without a kind") + wrong] += 1

    def _controller(self, what: tuple[str, str], controller: _Controller) -> None:
        number, meta, template = CONTROLLERS[what](controller.spec), controller.metadata, controller.spec.template
        if not 0 <= number <= MOST_PODS:
            raise ConfigError(f"{self.source}: {what[1]} {meta.name}: {number} pods; give 0 to {MOST_PODS}")
        template = replace(template, metadata=replace(template.metadata, namespace=meta.namespace))
        owner = objects.OwnerReference(*what, meta.name, f"{what[1]}/{meta.namespace}/{meta.name}", controller=True)
        self.makes.append((template, number, f"{meta.name}-", owner))

    def pods(self, seen: dict[str, str]) -> Iterator[objects.Pod]:
        """All of them, each by itself; ``seen`` has the files of those that were there before, by UID.

        Raises
        ------
        ConfigError : one is there twice, or has a priority class that nobody knows.
        """
        for template, number, name, owner in self.makes:
            spec = self._filled_in(template.spec, name)
            owners = template.metadata.ownerReferences if owner is None else [owner]
            kind, space = "Pod" if owner is None else owner.kind, template.metadata.namespace
            for i in range(number):
                own = name if owner is None else f"{name}{i}"
                uid = f"{kind}/{space}/{own}"
                if uid in seen:
                    made_by = f"{kind} {space}/{name.rstrip('-')}"
                    raise ConfigError(f"{self.source}: {made_by} is in {seen[uid]} already; leave one out")
                seen[uid] = self.source
                yield objects.Pod(replace(template.metadata, name=own, uid=uid, ownerReferences=owners), spec)

    def _filled_in(self, spec: _Spec, name: str) -> _Spec:
        """As admission leaves it: what is only limited is asked for as well, and a priority class is a number."""
        for one in (*(spec.containers or ()), *(spec.initContainers or ()), spec):
            if one.resources is not None and one.resources.limits:
                one.resources.requests = {**one.resources.limits, **(one.resources.requests or {})}
        wanted = spec.priorityClassName
        if wanted in SYSTEM_CLASSES:
            return replace(spec, priority=SYSTEM_CLASSES[wanted])
        found = self.classes.get(wanted or "") or next((c for c in self.classes.values() if c.globalDefault), None)
        if wanted and (found is None or found.metadata.name != wanted):
            raise ConfigError(
                f"{self.source}: {name.rstrip('-')} has the priority class {wanted}, which the file does not hold; "
                f"add it: kubectl get priorityclass {wanted} -o yaml"
            )
        if found is None:
            return spec
        policy = spec.preemptionPolicy or found.preemptionPolicy
        return replace(spec, priority=found.value, preemptionPolicy=policy)


def with_manifests(snapshot: SnapshotFile, files: Iterable[tuple[str, bytes]]) -> tuple[SnapshotFile, tuple[str, ...]]:
    """The snapshot where the pods that files of manifests would make wait as well, and what to say of them.

    Parameters
    ----------
    files : what messages call each, and the YAML or JSON in it.

    Raises
    ------
    ConfigError : a file is no manifest, makes no pod, or names a priority class that nobody knows.
    """
    notes = []
    seen: dict[str, str] = {}
    for source, data in files:
        read = _Read(source)
        for document in _documents(source, data):
            read.add(document)
        if (number := sum(n for _, n, _, _ in read.makes)) > MOST_PODS:
            raise ConfigError(f"{source}: {number} pods; give at most {MOST_PODS}")
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(read.others.items()))
        if not number:
            raise ConfigError(
                f"{source}: makes no pod that waits ({others or 'it is empty'}); give a Pod, Deployment, StatefulSet, Job, …"
            )
        snapshot = _joined(snapshot, snapshot_of((), read.pods(seen), groups=read.groups))
        notes.append(f"{source}: {number} pods count as waiting" + (f"; not counted: {others}" if others else ""))
    return snapshot, tuple(notes)


def _documents(source: str, data: bytes) -> list[Any]:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # which of them is known at run time
        """To kubectl dates are text, and times: it counts nothing by sixties."""

    def unless_time(read: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
        return lambda loader, node: node.value if ":" in node.value else read(loader, node)

    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)
    Loader.add_constructor("tag:yaml.org,2002:int", unless_time(Loader.construct_yaml_int))
    Loader.add_constructor("tag:yaml.org,2002:float", unless_time(Loader.construct_yaml_float))
    try:
        return [d for d in yaml.load_all(data, Loader) if d is not None]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{source}: no YAML ({yaml_fault(error)}); give what kubectl apply -f takes") from error


def _joined(there: SnapshotFile, new: SnapshotFile) -> SnapshotFile:
    """Both, with each class once."""
    specs = {spec: i for i, spec in enumerate(there.specs)}
    numbers = [specs.setdefault(spec, len(specs)) for spec in new.specs]
    rows = [replace(pod, spec=numbers[pod.spec]) for pod in new.pods]
    return replace(there, specs=list(specs), pods=[*there.pods, *rows])
