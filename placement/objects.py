"""Kubernetes objects, as far as anybody here reads them.

The structs name fields as Kubernetes does and skip everything else while decoding; Go-shaped JSON (``null`` for empty
lists, absent metadata) is accepted. What a decision makes of them: :mod:`placement.specs`.
"""

from __future__ import annotations

from msgspec import Struct, field

from placement.gangs import SchedulingGroup, WorkloadReference

Quantities = dict[str, str | int | float]


class Expression(Struct):
    key: str = ""
    operator: str = "In"
    values: list[str] | None = None


class Selector(Struct):
    matchLabels: dict[str, str] | None = None
    matchExpressions: list[Expression] | None = None


class NodeSelectorTerm(Struct):
    matchExpressions: list[Expression] | None = None
    matchFields: list[Expression] | None = None


class NodeSelector(Struct):
    nodeSelectorTerms: list[NodeSelectorTerm] | None = None


class PreferredNode(Struct):
    weight: int = 0
    preference: NodeSelectorTerm = field(default_factory=NodeSelectorTerm)


class NodeAffinity(Struct):
    requiredDuringSchedulingIgnoredDuringExecution: NodeSelector | None = None
    preferredDuringSchedulingIgnoredDuringExecution: list[PreferredNode] | None = None


class PodAffinityTerm(Struct):
    topologyKey: str = ""
    labelSelector: Selector | None = None
    namespaces: list[str] | None = None
    namespaceSelector: Selector | None = None
    matchLabelKeys: list[str] | None = None
    mismatchLabelKeys: list[str] | None = None


class WeightedTerm(Struct):
    weight: int = 0
    podAffinityTerm: PodAffinityTerm = field(default_factory=PodAffinityTerm)


class PodAffinity(Struct):
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] | None = None
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedTerm] | None = None


class Affinity(Struct):
    nodeAffinity: NodeAffinity | None = None
    podAffinity: PodAffinity | None = None
    podAntiAffinity: PodAffinity | None = None


class Resources(Struct):
    requests: Quantities | None = None
    limits: Quantities | None = None


class Port(Struct):
    hostPort: int = 0
    hostIP: str = ""
    protocol: str = "TCP"


class Container(Struct):
    name: str = ""
    image: str = ""
    resources: Resources | None = None
    ports: list[Port] | None = None
    restartPolicy: str | None = None


class TolerationObject(Struct):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class SpreadObject(Struct):
    maxSkew: int = 1
    topologyKey: str = ""
    whenUnsatisfiable: str = "DoNotSchedule"
    labelSelector: Selector | None = None
    minDomains: int | None = None
    nodeAffinityPolicy: str | None = None
    nodeTaintsPolicy: str | None = None
    matchLabelKeys: list[str] | None = None


class Claim(Struct):
    claimName: str = ""


class ImageVolume(Struct):
    reference: str = ""


class Volume(Struct):
    name: str = ""
    image: ImageVolume | None = None
    persistentVolumeClaim: Claim | None = None
    ephemeral: dict[str, object] | None = None


class OwnerReference(Struct):
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Metadata(Struct):
    name: str = ""
    namespace: str = "default"
    uid: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[OwnerReference] | None = None
    deletionTimestamp: str | None = None
    creationTimestamp: str | None = None


class PodSpecObject(Struct):
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None
    resources: Resources | None = None
    overhead: Quantities | None = None
    nodeName: str | None = None
    nodeSelector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: list[TolerationObject] | None = None
    topologySpreadConstraints: list[SpreadObject] | None = None
    priority: int | None = None
    preemptionPolicy: str | None = None
    volumes: list[Volume] | None = None
    resourceClaims: list[dict[str, object]] | None = None
    schedulingGates: list[dict[str, str]] | None = None
    schedulingGroup: SchedulingGroup | None = None
    workloadRef: WorkloadReference | None = None


class Terminated(Struct):
    reason: str = ""
    finishedAt: str | None = None


class ContainerState(Struct):
    terminated: Terminated | None = None


class ContainerStatus(Struct):
    name: str = ""
    state: ContainerState | None = None
    lastState: ContainerState | None = None
    allocatedResources: Quantities | None = None
    resources: Resources | None = None


class Condition(Struct):
    type: str = ""
    reason: str = ""


class PodStatus(Struct):
    phase: str = ""
    startTime: str | None = None
    qosClass: str = ""
    conditions: list[Condition] | None = None
    resources: Resources | None = None
    allocatedResources: Quantities | None = None
    nominatedNodeName: str | None = None
    containerStatuses: list[ContainerStatus] | None = None
    initContainerStatuses: list[ContainerStatus] | None = None


class Pod(Struct):
    """core/v1 Pod."""

    metadata: Metadata = field(default_factory=Metadata)
    spec: PodSpecObject = field(default_factory=PodSpecObject)
    status: PodStatus = field(default_factory=PodStatus)


class TaintObject(Struct):
    key: str = ""
    value: str = ""
    effect: str = ""


class Image(Struct):
    names: list[str] | None = None
    sizeBytes: int = 0


class NodeSpecObject(Struct):
    taints: list[TaintObject] | None = None
    unschedulable: bool | None = None


class NodeStatus(Struct):
    allocatable: Quantities | None = None
    images: list[Image] | None = None


class Node(Struct):
    """core/v1 Node."""

    metadata: Metadata = field(default_factory=Metadata)
    spec: NodeSpecObject = field(default_factory=NodeSpecObject)
    status: NodeStatus = field(default_factory=NodeStatus)
