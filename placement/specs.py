"""Kubernetes objects become specs: what decides about a pod, and what a node offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from placement.gangs import SIZE as GANG_SIZE
from placement.gangs import gang_size, gang_unlabelled
from placement.nodes import NamespaceSpec, NodeSpec, Taint
from placement.objects import (
    Expression,
    Node,
    NodeSelectorTerm,
    OwnerReference,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    Selector,
    SpreadObject,
)
from placement.owners import Owners
from placement.pods import (
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
from placement.requests import (
    cap_requests,
    effective_requests,
    gpu_request,
    is_guaranteed,
    is_resize_refused,
    scored_requests,
)
from placement.resources import (
    CPU,
    DEVICE_MILLI,
    GPU_COUNT_ANNOTATION,
    GPU_MODEL_ANNOTATION,
    GPU_MODEL_LABEL,
    GPU_SHARE,
    MEMORY,
    MOST_COUNTED,
    parse_quantity,
)

Volumes = Mapping[str, tuple[NodeTerm, ...]]
"""Claim name → required node terms of its bound volume; a claim that is not there is not modelled."""
MAX_RULES = 250
"""Rules about nodes and other pods of one pod that are modelled. Each may take a column over all nodes, and a pod has room for
tens of thousands: some tenant's would fill the memory. Beyond it none is: kube-scheduler sees to all of them and ranks nodes
by what the pod wishes, and no plan moves or nominates it."""
TOO_MANY_RULES = f"a pod with more than {MAX_RULES} rules about nodes and other pods"
"""Stands in ``unmodelled`` of such a pod."""


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
    """The API server has merged keys with the labels that a pod had when it was made, and those hold for it from then on;
    what was never there has its keys merged here."""
    said = {(e.key, e.operator) for e in (term.labelSelector or Selector()).matchExpressions or ()}
    keys = [*((k, "In") for k in term.matchLabelKeys or ()), *((k, "NotIn") for k in term.mismatchLabelKeys or ())]
    extra = [
        Requirement(k, operator, (labels[k],)) for k, operator in keys if k in labels and (k, operator) not in said
    ]
    return PodTerm(
        term.topologyKey,
        selector(term.labelSelector, extra),
        tuple(sorted(term.namespaces or ())),
        selector(term.namespaceSelector),
    )


def _spread(constraint: SpreadObject, labels: Mapping[str, str]) -> Spread:
    """kube-scheduler merges keys with the labels of now, whatever the API server has merged before."""
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


def _mounted_images(pod: Pod) -> list[str]:
    """Images of ``image`` volumes, which count for image locality as containers' do (1.36; among those asked for, 1.37)."""
    return [v.image.reference for v in pod.spec.volumes or () if v.image is not None]


def _controller(pod: Pod) -> OwnerReference | None:
    return next((o for o in pod.metadata.ownerReferences or () if o.controller), None)


def is_leaving(pod: Pod) -> bool:
    """Whether it is being deleted."""
    return pod.metadata.deletionTimestamp is not None


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


def pod_spec(
    pod: Pod, volumes: Volumes | None = None, owners: Owners | None = None, *, at_any_rate: bool = False
) -> PodSpec:
    """The class of a pod; ``owners`` give kube-scheduler's default spreading. ``at_any_rate``: of one that runs already, and
    takes room whatever it says; what it asks for beyond reason is lowered, in place.

    Raises
    ------
    ConfigError : a quantity does not parse; or, unless ``at_any_rate``, it is too large, or GPU shares make no sense.
    """
    if at_any_rate:
        cap_requests(pod)
    requests = effective_requests(pod)
    scored_cpu, scored_memory = scored_requests(pod, requests)
    gpu = gpu_request(pod, requests.pop(GPU_SHARE, 0), at_any_rate=at_any_rate)
    terms, unmodelled = _volumes(pod, volumes or {})
    node_rules, rules = _node_rules(pod, terms), _pod_rules(pod, default_spread(pod, owners))
    if node_rules.number + rules.number > MAX_RULES:
        node_rules, rules = NodeRules(node_rules.node_selector, tolerations=node_rules.tolerations), PodRules()
        unmodelled = *unmodelled, TOO_MANY_RULES
    owner = _controller(pod)
    containers = [*(pod.spec.containers or ()), *(pod.spec.initContainers or ())]
    images = [*(c.image for c in containers), *_mounted_images(pod)]
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
        node_rules=node_rules,
        pod_rules=rules,
        images=tuple(sorted(normalised_image(name) for name in images if name)),
        num_containers=max(len(images), 1),
        unmodelled=unmodelled,
        guaranteed=is_guaranteed(pod),
        gang_size=gang_size(pod.metadata.annotations or {}),
        gang=gang_besides_labels(pod),
        leaving=is_leaving(pod),
    )


MAX_UNOFFERED = 100
"""Resources that pods ask for and no node has offered yet. Each takes a column over all nodes for good, and anybody's pod has
room for thousands: those that come later count as one, :data:`UNOFFERED`, and such a pod as not modelled."""
MAX_NAME = 253 + 1 + 63
"""Letters of a resource's name as Kubernetes takes it; one that is longer counts as :data:`UNOFFERED`, too."""
UNOFFERED = "a resource that no node offers"


class Axis:
    """Which resources have columns of their own: all that a node has ever offered, and the first others that pods ask for."""

    def __init__(self) -> None:
        self._offered = {CPU, MEMORY, GPU_SHARE}
        self._asked: set[str] = set()

    def offer(self, node: NodeSpec) -> bool:
        """Hear of a node; whether it offers something that none did before."""
        if node.amounts.keys() <= self._offered:
            return False
        self._offered |= node.amounts.keys()
        self._asked -= self._offered
        return True

    def limited(self, spec: PodSpec) -> PodSpec:
        """The same class, where it asks for no more unheard-of resources than have room."""
        if spec.amounts.keys() <= self._offered:
            return spec
        known = {}
        for name, amount in spec.request:
            if name not in self._offered and len(self._asked) < MAX_UNOFFERED and len(name) <= MAX_NAME:
                self._asked.add(name)
            known[name if name in self._offered or name in self._asked else UNOFFERED] = amount
        if UNOFFERED not in known:
            return spec
        return replace(spec, request=tuple(sorted(known.items())), unmodelled=(*spec.unmodelled, UNOFFERED))


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
    granted = status.containerStatuses, status.initContainerStatuses, status.resources, status.allocatedResources
    more = status.qosClass, *granted, is_resize_refused(pod), _mounted_images(pod), is_leaving(pod)
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
        (normalised_image(name), max(0, min(image.sizeBytes, MOST_COUNTED)))
        for image in node.status.images or ()
        for name in image.names or ()
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
