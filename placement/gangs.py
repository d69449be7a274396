"""Which gang a pod belongs to and how many pods that needs: pods that start together or not at all.

The one reading of it, for batches, for the planner that collects gated pods, for snapshots and for the sweeper.

A pod is of the gang that Kubernetes' own field names (``spec.schedulingGroup`` of 1.36, ``spec.workloadRef`` of 1.35),
else a label of :data:`LABELS` or :data:`VOLCANO`; and without any of them, when its annotation :data:`SIZE` says that it
does not come alone, of its controlling owner's gang.

How many pods a gang needs at least is what its object says where there is one (``minMember`` of scheduler-plugins'
PodGroup, ``minCount`` of Kubernetes' PodGroup or Workload; read from ``k8s.io/api/scheduling`` of 1.35 to 1.37). It is
one statement by whoever owns the gang, and the one that schedulers enforce; annotations are copies in pod templates,
may differ from pod to pod and get old. Without an object the largest annotation counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from placement.errors import UNREADABLE
from placement.pods import PodSpec
from placement.resources import whole_number

LABELS = ("pod-group.scheduling.sigs.k8s.io/name", "scheduling.x-k8s.io/pod-group")
"""Labels of a pod that name its PodGroup of scheduler-plugins, in its namespace; the first that is not empty counts."""
VOLCANO = "volcano.sh/group-name"
"""Label of a pod that names its gang of Volcano's, whose objects are not read."""
SIZE = "ullage.dev/gang-size"
"""Annotation: how many pods the gang has; planning waits for all of them."""


class SchedulingGroup(msgspec.Struct):
    """``spec.schedulingGroup`` of a pod, from Kubernetes 1.36 on."""

    podGroupName: str | None = None


class WorkloadReference(msgspec.Struct):
    """``spec.workloadRef`` of a pod, Kubernetes 1.35: each replica of a pod group is a gang of its own."""

    name: str = ""
    podGroup: str = ""
    podGroupReplicaKey: str = ""


# ── objects that say how many ─────────────────────────────────────────────────────────────────


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = "default"


class _Gang(msgspec.Struct):
    minCount: int = 1


class _Policy(msgspec.Struct):
    gang: _Gang | None = None


class _Members(msgspec.Struct):
    minMember: int = 1


class _Scheduling(msgspec.Struct):
    schedulingPolicy: _Policy = msgspec.field(default_factory=_Policy)


class _Part(msgspec.Struct):
    name: str = ""
    policy: _Policy = msgspec.field(default_factory=_Policy)


class _Parts(msgspec.Struct):
    podGroups: list[_Part] | None = None


class MemberGroup(msgspec.Struct):
    """PodGroup of scheduler-plugins."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Members = msgspec.field(default_factory=_Members)

    @property
    def needs(self) -> dict[str, int]:
        """Pods at least, by part; it has one, without a name."""
        return {"": max(self.spec.minMember, 1)}


class PodGroup(msgspec.Struct):
    """PodGroup of Kubernetes, from 1.36 on."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Scheduling = msgspec.field(default_factory=_Scheduling)

    @property
    def needs(self) -> dict[str, int]:
        """Pods at least, by part; it has one, without a name. 0 = policy basic: its pods are no gang."""
        gang = self.spec.schedulingPolicy.gang
        return {"": max(gang.minCount, 1) if gang else 0}


class Workload(msgspec.Struct):
    """Workload of Kubernetes 1.35, which has its pod groups in itself."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Parts = msgspec.field(default_factory=_Parts)

    @property
    def needs(self) -> dict[str, int]:
        """Pods at least, by pod group; 0 = policy basic: its pods are no gang."""
        parts = self.spec.podGroups or ()
        return {part.name: max(part.policy.gang.minCount, 1) if part.policy.gang else 0 for part in parts}


GroupObject = MemberGroup | PodGroup | Workload


class Kind(NamedTuple):
    """A kind of object that says how many pods a gang needs."""

    version: str
    """API group and version."""
    name: str
    read: type[MemberGroup] | type[PodGroup] | type[Workload]
    says: str
    """The field that says it."""
    prefix: str
    """Of the names of its gangs."""

    @property
    def plural(self) -> str:
        """As paths and rights write it."""
        return f"{self.name.lower()}s"


MEMBER_GROUP = Kind("scheduling.x-k8s.io/v1alpha1", "PodGroup", MemberGroup, "minMember", "")
POD_GROUP = Kind("scheduling.k8s.io/v1beta1", "PodGroup", PodGroup, "minCount", "podgroup/")
POD_GROUP_1_36 = POD_GROUP._replace(version="scheduling.k8s.io/v1alpha2")
WORKLOAD = Kind("scheduling.k8s.io/v1alpha1", "Workload", Workload, "minCount", "workload/")
KINDS = (MEMBER_GROUP, POD_GROUP, POD_GROUP_1_36, WORKLOAD)


# ── who belongs ───────────────────────────────────────────────────────────────────────────────


def gang_named(labels: Mapping[str, str]) -> str:
    """The gang that a pod's labels name; empty when they name none.

    >>> gang_named({"scheduling.x-k8s.io/pod-group": "train"}), gang_named({"app": "web"})
    ('train', '')
    >>> gang_named({"volcano.sh/group-name": "train", "scheduling.x-k8s.io/pod-group": ""})
    'volcano/train'
    """
    named = next((labels[key] for key in LABELS if labels.get(key)), "")
    return named or (f"volcano/{labels[VOLCANO]}" if labels.get(VOLCANO) else "")


def gang_unlabelled(
    group: SchedulingGroup | None, workload: WorkloadReference | None, labels: Mapping[str, str], size: int, owner: str
) -> str:
    """The gang of a pod that something else than its labels names; empty when nothing does.

    ``size`` is that of its annotation, ``owner`` the UID of its controlling owner. Names of different sources never
    meet: no label's value has a slash.
    """
    if group is not None and group.podGroupName:
        return f"{POD_GROUP.prefix}{group.podGroupName}"
    if workload is not None and workload.name:
        return f"{WORKLOAD.prefix}{workload.name}/{workload.podGroup}/{workload.podGroupReplicaKey}"
    return f"owner/{owner}" if owner and size > 1 and not gang_named(labels) else ""


def gang_of(spec: PodSpec) -> tuple[str, str] | None:
    """Namespace and name of a pod's gang; None when it is alone."""
    name = spec.gang or gang_named(dict(spec.labels))
    return (spec.namespace, name) if name else None


def is_tried_whole(spec: PodSpec) -> bool:
    """Whether kube-scheduler looks for places for the pod's whole group before it binds any of it (``GenericWorkload``)."""
    return spec.gang.startswith(POD_GROUP.prefix)


def gang_size(annotations: Mapping[str, str]) -> int:
    """How many pods a pod's gang has, if its annotation says so; else 0."""
    return whole_number(annotations.get(SIZE, "")) or 0


# ── how many it needs ─────────────────────────────────────────────────────────────────────────


@dataclass
class Groups:
    """What objects say of gangs; written by whoever reads the API, read when pods are planned."""

    needs: dict[Kind, dict[str, dict[str, dict[str, int]]]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    """Kind → namespace → object → part → pods at least."""
    served: set[Kind] = field(default_factory=set)
    """Kinds of which a complete list was read, so that what is not in ``needs`` does not exist."""
    is_unread: Callable[[Kind], bool] = lambda kind: False
    """Whether nobody knows (yet) what there is of a kind, or whether it is served at all: its gangs wait."""

    def add(self, kind: Kind, found: GroupObject) -> None:
        """An object of which a complete list is being read."""
        self.served.add(kind)
        self.needs[kind].setdefault(found.metadata.namespace, {})[found.metadata.name] = found.needs

    def read(self, kind: Kind, raw: bytes | msgspec.Raw) -> None:
        """The same, as JSON; one that cannot be read is none, so that its gang waits and nobody else."""
        self.served.add(kind)
        with suppress(*UNREADABLE):
            self.add(kind, msgspec.json.decode(raw, type=kind.read))

    def resolved(self, spec: PodSpec) -> PodSpec:
        """The same class without the gang that is none: the object that it names asks for pods one by one."""
        return replace(spec, gang="") if spec.gang and not self._is_gang(spec.namespace, spec.gang) else spec

    def gang_of(self, spec: PodSpec) -> tuple[str, str] | None:
        """Namespace and name of a pod's gang; None when it is alone."""
        return gang_of(self.resolved(spec))

    def named(self, namespace: str, unlabelled: str, labels: Mapping[str, str]) -> str:
        """The gang of a pod, of which :func:`gang_unlabelled` is known; empty when it is alone."""
        return unlabelled if unlabelled and self._is_gang(namespace, unlabelled) else gang_named(labels)

    def why_waits(self, gang: tuple[str, str], here: int, size: int) -> str:
        """Why the pods of a gang wait for others; empty when they need not.

        Parameters
        ----------
        here : pods of it that run or can be placed now.
        size : the largest that their annotations say, 0 = none says any.
        """
        kind, name, need = self._stated(gang)
        if kind is not None and need is not None:
            said = f"{kind.says} of {kind.name} {name}"
        elif kind is not None and self.is_unread(kind):
            return f"{kind.plural}.{kind.version.partition('/')[0]} cannot be read, and its gang may be one"
        elif kind is not None and not size and kind in self.served:
            return f"{kind.name} {name} of its gang does not exist or cannot be read, nor is there an annotation {SIZE}"
        else:
            need, said = size, f"annotation {SIZE}"
        return f"its gang has {here} of {need} pods ({said})" if here < need else ""

    def _is_gang(self, namespace: str, name: str) -> bool:
        _, _, need = self._stated((namespace, name))
        return need != 0

    def _stated(self, gang: tuple[str, str]) -> tuple[Kind | None, str, int | None]:
        """The kind and name of the object that may say how many pods a gang needs, and what it says."""
        namespace, name = gang
        kinds = [kind for kind in KINDS if kind.prefix and name.startswith(kind.prefix)]
        if not kinds:
            if "/" in name:
                return None, "", None
            kinds = [MEMBER_GROUP]
        name, _, rest = name.removeprefix(kinds[0].prefix).partition("/")
        part = rest.partition("/")[0]
        kind = min(kinds, key=lambda kind: (kind not in self.served, not self.is_unread(kind)))
        told = self.needs[kind].get(namespace, {}).get(name, {}).get(part)
        return kind, f"{name}/{part}" if part else name, told
