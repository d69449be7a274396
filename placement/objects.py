"""Kubernetes objects, as far as a decision reads them, and their translation to specs.

The structs name fields as Kubernetes does and skip everything else while decoding; Go-shaped JSON (``null`` for empty
lists, absent metadata) is accepted. Effective requests follow ``component-helpers/resource/helpers.go`` of 1.36:
containers, init containers, restartable sidecars, pod-level resources, overhead, resizes in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct, field, structs

from placement.errors import ConfigError, TooLarge
from placement.gangs import SIZE as GANG_SIZE
from placement.gangs import SchedulingGroup, WorkloadReference, gang_size, gang_unlabelled
from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.owners import Owners
from placement.pods import (
    GpuRequest,
    HostPort,
    Labels,
    NodeRules,
    NodeTerm,
    PodRules,
    PodSpec,
    PodTerm,
    Requirement,
    Spread,
    Toleration,
    WeightedNodeTerm,
    WeightedPodTerm,
)
from placement.recording import Parts
from placement.resources import (
    CPU,
    DEFAULT_CPU_MILLICORES,
    DEFAULT_MEMORY_BYTES,
    DEVICE_MILLI,
    GPU_COUNT_ANNOTATION,
    GPU_MODEL_ANNOTATION,
    GPU_MODEL_LABEL,
    GPU_SHARE,
    MEMORY,
    MOST_COUNTED,
    parse_quantity,
    whole_number,
)

Quantities = dict[str, str | int | float]
Amounts = dict[str, int]
Volumes = Mapping[str, tuple[NodeTerm, ...]]
"""Claim name → required node terms of its bound volume; a claim that is not there is not modelled."""


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
    schedulerName: str = "default-scheduler"


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


class PodStatus(Struct):
    phase: str = ""
    qosClass: str = ""
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


# ── requests ──────────────────────────────────────────────────────────────────────────────────


def _amounts(quantities: Quantities | None) -> Amounts:
    return {name: parse_quantity(q, name) for name, q in (quantities or {}).items()}


def _add(into: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        into[name] = into.get(name, 0) + amount


def _raise_to(into: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        into[name] = max(into.get(name, 0), amount)


def _container(container: Container, statuses: Mapping[str, ContainerStatus], missing: Mapping[str, int]) -> Amounts:
    """One container's request: the largest of what it asks for and what a resize has granted so far."""
    asked = _amounts(container.resources.requests if container.resources else None)
    status = statuses.get(container.name)
    if status is not None:
        _raise_to(asked, _amounts(status.allocatedResources))
        _raise_to(asked, _amounts(status.resources.requests if status.resources else None))
    for name, amount in missing.items():
        asked.setdefault(name, amount)
    return asked


def effective_requests(pod: Pod, missing: Mapping[str, int] | None = None) -> Amounts:
    """What the pod asks for in all, as kube-scheduler's filters see it; ``missing`` fills in absent requests."""
    missing = missing or {}
    spec, status = pod.spec, pod.status
    running = {s.name: s for s in status.containerStatuses or ()}
    starting = {s.name: s for s in status.initContainerStatuses or ()}
    total: Amounts = {}
    for container in spec.containers or ():
        _add(total, _container(container, running, missing))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.initContainers or ():
        need = _container(container, starting, missing)
        if container.restartPolicy == "Always":
            _add(total, need)
            _add(sidecars, need)
            need = dict(sidecars)
        else:
            _add(need, sidecars)
        _raise_to(peak, need)
    _raise_to(total, peak)
    if spec.resources is not None and spec.resources.requests:
        for name, amount in _amounts(spec.resources.requests).items():
            if name in (CPU, MEMORY) or name.startswith("hugepages-"):
                total[name] = amount
    _add(total, _amounts(spec.overhead))
    return total


def cap_requests(pod: Pod) -> None:
    """Lower what a pod asks for and was granted, in place, to what the ledger counts at most: so a pod that is bound is
    counted, and its node is full, whatever it asks for.

    Raises
    ------
    ConfigError : a quantity does not parse, or is negative.
    """
    spec, status = pod.spec, pod.status
    granted = (*(status.containerStatuses or ()), *(status.initContainerStatuses or ()))
    parts = (*(spec.containers or ()), *(spec.initContainers or ()), *granted, spec)
    asked = [part.resources.requests for part in parts if part.resources]
    for quantities in (*asked, *(one.allocatedResources for one in granted), spec.overhead):
        for name, text in (quantities or {}).items():
            try:
                is_absurd = parse_quantity(text, name) > MOST_COUNTED
            except TooLarge:
                is_absurd = True
            if is_absurd and quantities is not None:
                quantities[name] = f"{MOST_COUNTED}{'m' if name == CPU else ''}"


def parts_of(pod: Pod) -> dict[str, Parts]:
    """What the pod's requests for CPU and memory are made of."""
    spec, whole = pod.spec, effective_requests(pod)
    own = structs.replace(spec, initContainers=None, overhead=None, resources=None)
    sidecars = [c for c in spec.initContainers or () if c.restartPolicy == "Always"]
    beside = structs.replace(spec, containers=None, initContainers=sidecars, resources=None)
    starting = structs.replace(spec, containers=None, resources=None)
    found = [effective_requests(structs.replace(pod, spec=part)) for part in (own, beside, starting)]
    of_pod = _amounts(spec.resources.requests if spec.resources else None)
    return {
        name: Parts(0, 0, whole[name]) if name in of_pod else Parts(*(amounts.get(name, 0) for amounts in found))
        for name in (CPU, MEMORY)
    }


def _scored(pod: Pod, requests: Amounts) -> tuple[int, int]:
    """Millicores and bytes that scores assume (``PodInfo.CalculateResource``)."""
    defaults = {CPU: DEFAULT_CPU_MILLICORES, MEMORY: DEFAULT_MEMORY_BYTES}
    if pod.spec.resources is not None and (pod.spec.resources.requests or pod.spec.resources.limits):
        defaults = {name: amount for name, amount in defaults.items() if name not in requests}
    filled = effective_requests(pod, defaults) if defaults else requests
    return filled.get(CPU, 0), filled.get(MEMORY, 0)


def _gpu(pod: Pod, total: int) -> GpuRequest | None:
    if not total:
        return None
    annotations = pod.metadata.annotations or {}
    text = annotations.get(GPU_COUNT_ANNOTATION, "")
    number = whole_number(text)
    count = number or max(-(-total // DEVICE_MILLI), 1)
    if (text and number is None) or total % count:
        raise ConfigError(
            f"pod {pod.metadata.namespace}/{pod.metadata.name}: {GPU_SHARE}={total} does not divide by "
            f"{GPU_COUNT_ANNOTATION}={text!r}; ask for count × share"
        )
    models = tuple(m.strip() for m in annotations.get(GPU_MODEL_ANNOTATION, "").split("|") if m.strip())
    return GpuRequest(count, total // count, models)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────

MAX_RULES = 250
"""Rules about other pods of one pod that are modelled. Each may take a column over all nodes, and a pod has room for tens of
thousands: some tenant's would fill the memory. Beyond it none is: kube-scheduler sees to all of them, and no plan moves or
nominates the pod."""


def _labels(labels: Mapping[str, str] | None) -> Labels:
    return tuple(sorted((labels or {}).items()))


def _requirements(expressions: Iterable[Expression] | None) -> tuple[Requirement, ...]:
    return tuple(Requirement(e.key, e.operator, tuple(e.values or ())) for e in expressions or ())


def selector(selector: Selector | None, extra: Iterable[Requirement] = ()) -> tuple[Requirement, ...] | None:
    """A label selector as requirements; None stays None (matches nothing)."""
    if selector is None:
        return None
    exact = tuple(Requirement(key, "In", (value,)) for key, value in _labels(selector.matchLabels))
    return (*exact, *_requirements(selector.matchExpressions), *extra)


def node_term(term: NodeSelectorTerm) -> NodeTerm:
    """A node selector term."""
    return NodeTerm(_requirements(term.matchExpressions), _requirements(term.matchFields))


def _pod_term(term: PodAffinityTerm, labels: Mapping[str, str]) -> PodTerm:
    extra = [Requirement(k, "In", (labels[k],)) for k in term.matchLabelKeys or () if k in labels]
    extra += [Requirement(k, "NotIn", (labels[k],)) for k in term.mismatchLabelKeys or () if k in labels]
    return PodTerm(
        term.topologyKey,
        selector(term.labelSelector, extra),
        tuple(sorted(term.namespaces or ())),
        selector(term.namespaceSelector),
    )


def _spread(constraint: SpreadObject, labels: Mapping[str, str]) -> Spread:
    extra = [Requirement(k, "In", (labels[k],)) for k in constraint.matchLabelKeys or () if k in labels]
    return Spread(
        constraint.topologyKey,
        constraint.maxSkew,
        constraint.whenUnsatisfiable == "DoNotSchedule",
        selector(constraint.labelSelector, extra),
        constraint.minDomains or 1,
        honor_affinity=(constraint.nodeAffinityPolicy or "Honor") == "Honor",
        honor_taints=(constraint.nodeTaintsPolicy or "Ignore") == "Honor",
    )


def _node_rules(pod: Pod, volume_affinity: tuple[tuple[NodeTerm, ...], ...]) -> NodeRules:
    spec = pod.spec
    affinity = spec.affinity.nodeAffinity if spec.affinity else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity else None
    preferred = affinity.preferredDuringSchedulingIgnoredDuringExecution if affinity else None
    return NodeRules(
        node_selector=_labels(spec.nodeSelector),
        affinity=None if required is None else tuple(node_term(t) for t in required.nodeSelectorTerms or ()),
        preferred=tuple(WeightedNodeTerm(p.weight, node_term(p.preference)) for p in preferred or ()),
        tolerations=tuple(Toleration(t.key, t.operator or "Equal", t.value, t.effect) for t in spec.tolerations or ()),
        volume_affinity=volume_affinity,
    )


def _pod_rules(pod: Pod, defaults: tuple[Spread, ...]) -> PodRules:
    spec, labels = pod.spec, pod.metadata.labels or {}
    near = (spec.affinity.podAffinity if spec.affinity else None) or PodAffinity()
    far = (spec.affinity.podAntiAffinity if spec.affinity else None) or PodAffinity()
    wishes = [
        WeightedPodTerm(sign * w.weight, _pod_term(w.podAffinityTerm, labels))
        for sign, side in ((1, near), (-1, far))
        for w in side.preferredDuringSchedulingIgnoredDuringExecution or ()
    ]
    sidecars = [c for c in spec.initContainers or () if c.restartPolicy == "Always"]
    ports = [port for c in [*(spec.containers or ()), *sidecars] for port in c.ports or () if port.hostPort > 0]
    return PodRules(
        affinity=tuple(_pod_term(t, labels) for t in near.requiredDuringSchedulingIgnoredDuringExecution or ()),
        anti_affinity=tuple(_pod_term(t, labels) for t in far.requiredDuringSchedulingIgnoredDuringExecution or ()),
        preferred=tuple(wishes),
        spread=tuple(_spread(c, labels) for c in spec.topologySpreadConstraints or ()) or defaults,
        host_ports=tuple(HostPort(p.hostPort, p.protocol or "TCP", p.hostIP or "0.0.0.0") for p in ports),
    )


def _volumes(pod: Pod, known: Volumes) -> tuple[tuple[tuple[NodeTerm, ...], ...], tuple[str, ...]]:
    """Node terms of bound volumes, and what is not modelled."""
    terms, unmodelled = [], []
    for volume in pod.spec.volumes or ():
        if volume.ephemeral is not None:
            unmodelled.append(f"ephemeral volume {volume.name}")
        elif volume.persistentVolumeClaim is not None:
            claim = volume.persistentVolumeClaim.claimName
            if claim in known:
                terms.append(known[claim])
            else:
                unmodelled.append(f"claim {claim}")
    unmodelled += ["resource claims"] if pod.spec.resourceClaims else []
    return tuple(t for t in terms if t), tuple(unmodelled)


def normalised_image(name: str) -> str:
    """As ``imagelocality``: an image without tag or digest means ``:latest``."""
    return name if name.rfind(":") > name.rfind("/") else f"{name}:latest"


def is_guaranteed(pod: Pod) -> bool:
    """Quality of service class Guaranteed."""
    if pod.status.qosClass:
        return pod.status.qosClass == "Guaranteed"
    containers = [*(pod.spec.containers or ()), *(pod.spec.initContainers or ())]
    for container in containers:
        limits = _amounts(container.resources.limits if container.resources else None)
        requests = _amounts(container.resources.requests if container.resources else None)
        for name in (CPU, MEMORY):
            if not limits.get(name) or requests.get(name, limits[name]) != limits[name]:
                return False
    return bool(containers)


def _mounted_images(pod: Pod) -> list[str]:
    """Images of ``image`` volumes, which count for image locality as containers' do (from 1.36 on)."""
    return [v.image.reference for v in pod.spec.volumes or () if v.image is not None and v.image.reference]


def _controller(pod: Pod) -> OwnerReference | None:
    return next((o for o in pod.metadata.ownerReferences or () if o.controller), None)


def gang_besides_labels(pod: Pod) -> str:
    """See :func:`placement.gangs.gang_unlabelled`."""
    owner, meta = _controller(pod), pod.metadata
    size, labels = gang_size(meta.annotations or {}), meta.labels or {}
    return gang_unlabelled(
        pod.spec.schedulingGroup, pod.spec.workloadRef, labels, size, owner.uid if owner is not None else ""
    )


def default_spread(pod: Pod, owners: Owners | None) -> tuple[Spread, ...]:
    """kube-scheduler's default spreading of a pod, which depends on Services and controllers as they are now."""
    if owners is None or pod.spec.topologySpreadConstraints:
        return ()
    owner = _controller(pod)
    reference = (owner.apiVersion, owner.kind, owner.name) if owner else None
    return owners.spread(pod.metadata.namespace, pod.metadata.labels or {}, reference)


def pod_spec(pod: Pod, volumes: Volumes | None = None, owners: Owners | None = None) -> PodSpec:
    """The class of a pod; ``owners`` give kube-scheduler's default spreading.

    Raises
    ------
    ConfigError : a quantity does not parse, or GPU shares make no sense.
    """
    requests = effective_requests(pod)
    scored_cpu, scored_memory = _scored(pod, requests)
    gpu = _gpu(pod, requests.pop(GPU_SHARE, 0))
    terms, unmodelled = _volumes(pod, volumes or {})
    rules = _pod_rules(pod, default_spread(pod, owners))
    if rules.number > MAX_RULES:
        rules, unmodelled = PodRules(), (*unmodelled, f"a pod with more than {MAX_RULES} rules about other pods")
    owner = _controller(pod)
    containers = [*(pod.spec.containers or ()), *(pod.spec.initContainers or ())]
    return PodSpec(
        request=tuple(sorted((name, amount) for name, amount in requests.items() if amount)),
        gpu=gpu,
        namespace=pod.metadata.namespace,
        owner=f"{owner.kind}/{owner.name}" if owner else "",
        labels=_labels(pod.metadata.labels),
        priority=pod.spec.priority or 0,
        preempts=pod.spec.preemptionPolicy != "Never",
        nonzero_cpu=scored_cpu,
        nonzero_memory=scored_memory,
        node_rules=_node_rules(pod, terms),
        pod_rules=rules,
        images=tuple(sorted(map(normalised_image, [*(c.image for c in containers if c.image), *_mounted_images(pod)]))),
        num_containers=max(len(containers), 1),
        unmodelled=unmodelled,
        guaranteed=is_guaranteed(pod),
        gang_size=gang_size(pod.metadata.annotations or {}),
        gang=gang_besides_labels(pod),
    )


_encode = msgspec.msgpack.Encoder().encode


def class_key(pod: Pod, owners: Owners | None = None) -> bytes:
    """Equal for pods of which :func:`pod_spec` makes equal classes, found in a tenth of its time; empty where the class
    depends on volumes, or a number in it is beyond 64 bits."""
    spec, meta, status = pod.spec, pod.metadata, pod.status
    volumes, node = spec.volumes, spec.nodeName
    if any(v.persistentVolumeClaim is not None or v.ephemeral is not None for v in volumes or ()):
        return b""
    annotations = meta.annotations or {}
    asked = annotations.get(GPU_COUNT_ANNOTATION), annotations.get(GPU_MODEL_ANNOTATION), annotations.get(GANG_SIZE)
    more = status.qosClass, status.containerStatuses, status.initContainerStatuses, _mounted_images(pod)
    spec.volumes = spec.nodeName = None
    try:
        return _encode(
            (spec, meta.namespace, meta.labels, meta.ownerReferences, asked, more, default_spread(pod, owners))
        )
    except OverflowError:
        return b""
    finally:
        spec.volumes, spec.nodeName = volumes, node


def node_spec(node: Node) -> NodeSpec:
    """What a node offers.

    Raises
    ------
    ConfigError : a quantity does not parse.
    """
    offered = {name: parse_quantity(q, name, offered=True) for name, q in (node.status.allocatable or {}).items()}
    gpus = offered.pop(GPU_SHARE, 0) // DEVICE_MILLI
    labels = node.metadata.labels or {}
    images = [
        (normalised_image(name), image.sizeBytes) for image in node.status.images or () for name in image.names or ()
    ]
    return NodeSpec(
        name=node.metadata.name,
        allocatable=tuple(sorted({"pods": 0, **offered}.items())),
        labels=_labels(labels),
        taints=tuple(Taint(t.key, t.value, t.effect) for t in node.spec.taints or ()),
        unschedulable=bool(node.spec.unschedulable),
        num_gpus=gpus,
        gpu_model=labels.get(GPU_MODEL_LABEL, "") if gpus else "",
        images=tuple(sorted(images)),
        shape=labels.get("node.kubernetes.io/instance-type", ""),
        spot=labels.get("karpenter.sh/capacity-type") == "spot" or labels.get("ullage.dev/spot") == "true",
    )


def namespace_spec(name: str, labels: Mapping[str, str] | None) -> NamespaceSpec:
    """A namespace's labels."""
    return NamespaceSpec(name, _labels(labels))
