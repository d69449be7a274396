"""From API objects to the ledger: one sink per kind, each a few lines.

Objects are decoded by :mod:`placement.objects`, typed and without what nobody reads. An object that cannot be
understood never stops the watch: it is reported, counted, and left as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary, ref

import msgspec
from msgspec import Raw, Struct

from placement import objects
from placement.errors import UNREADABLE, ConfigError
from placement.gangs import KINDS, Groups, Kind
from placement.nodes import NamespaceSpec, NodeSpec
from placement.owners import CONTROLLERS, Owners
from placement.pods import NodeTerm, PodSpec, Requirement
from placement.resources import DEVICES_ANNOTATION, MOST_COUNTED
from placement.specs import Axis, Volumes, class_key, node_spec, node_term, pod_spec, selector
from placement.state import devices_mask
from scheduler.api import version_number
from scheduler.errors import WireError
from scheduler.gates import (
    GATE,
    NODE_ANNOTATION,
    PLANNED_DEVICES_ANNOTATION,
    TARGET_ANNOTATION,
    TIME_ANNOTATION,
    unix_of,
)
from scheduler.ledger import Ledger, Seen
from scheduler.modes import MODE_LABEL, Modes

log = logging.getLogger(__name__)

_decode_pod = msgspec.json.Decoder(objects.Pod).decode
_decode_node = msgspec.json.Decoder(objects.Node).decode

MAX_IMAGES = 200_000
MAX_KEYS_BYTES = 1 << 25
"""Of values kept for sharing, what pods say and the classes that it stands for; beyond it sharing starts over, nothing else
changes."""
MAX_KEY_BYTES = 1 << 15
"""Pods that say more are read anew each time, and leave others room."""


class _Meta(Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None


class _Object(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_decode_object = msgspec.json.Decoder(_Object).decode


class _Bound(Struct):
    volumeName: str = ""


class _ClaimObject(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Bound = msgspec.field(default_factory=_Bound)


class _Required(Struct):
    required: objects.NodeSelector | None = None


class _VolumeSpec(Struct):
    nodeAffinity: _Required | None = None


class _VolumeObject(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _VolumeSpec = msgspec.field(default_factory=_VolumeSpec)


class _ServiceSpec(Struct):
    selector: dict[str, str] | None = None


class _ServiceObject(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _ServiceSpec = msgspec.field(default_factory=_ServiceSpec)


class _ControllerSpec(Struct):
    selector: objects.Selector | None = None


class _ControllerObject(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _ControllerSpec = msgspec.field(default_factory=_ControllerSpec)


_decode_service = msgspec.json.Decoder(_ServiceObject).decode
_decode_controller = msgspec.json.Decoder(_ControllerObject).decode
_decode_claim = msgspec.json.Decoder(_ClaimObject).decode
_decode_volume = msgspec.json.Decoder(_VolumeObject).decode


class Reader:
    """Decodes pods. Which nodes a pod's volumes allow depends on claims and volumes, so it follows those too."""

    def __init__(self) -> None:
        self.claims: dict[str, dict[str, str]] = {}
        """Namespace → claim → name of its bound volume."""
        self.volumes: dict[str, tuple[NodeTerm, ...]] = {}
        """Volume → required node terms; () = any node."""
        self.owners = Owners()
        self.groups = Groups()
        self._classes: WeakKeyDictionary[PodSpec, ref[PodSpec]] = WeakKeyDictionary()
        """Those that somebody has."""
        self._by_key: dict[bytes, PodSpec] = {}
        """What pods say → their class, also once they have gone: the next one of a job is known at a glance."""
        self._key_bytes = 0
        self._images: dict[tuple[str, int], tuple[str, int]] = {}
        self._axis = Axis()

    def _allowed(self, namespace: str) -> Volumes:
        bound = self.claims.get(namespace, {})
        return {claim: self.volumes[volume] for claim, volume in bound.items() if volume in self.volumes}

    def _decode(self, raw: Raw | bytes) -> objects.Pod:
        try:
            return _decode_pod(raw)
        except UNREADABLE as error:
            raise WireError(f"the pod cannot be read: {error}") from error

    def _spec(self, pod: objects.Pod) -> PodSpec:
        """The pod's class; equal classes are one object, so that fifty thousand pods cost little."""
        key = class_key(pod, self.owners)
        known = self._by_key.get(key) if key else None
        if known is None:
            known = self._made(pod)
            if 0 < len(key) <= MAX_KEY_BYTES:
                more = len(key) + known.held_bytes
                self._key_bytes += more
                if self._key_bytes > MAX_KEYS_BYTES:
                    self._by_key.clear()
                    self._key_bytes = more
                self._by_key[key] = known
        return known

    def _made(self, pod: objects.Pod, *, at_any_rate: bool = False) -> PodSpec:
        volumes = self._allowed(pod.metadata.namespace) if pod.spec.volumes else None
        spec = self._axis.limited(pod_spec(pod, volumes, self.owners, at_any_rate=at_any_rate))
        found = self._classes.get(spec)
        known = None if found is None else found()
        if known is None:
            self._classes[spec], known = ref(spec), spec
        return known

    def _bound_spec(self, pod: objects.Pod) -> PodSpec:
        """The class of a pod that runs already."""
        try:
            return self._spec(pod)
        except ConfigError as error:
            log.warning("request of a bound pod not understood", extra={"pod": pod.metadata.name, "error": str(error)})
        return self._made(pod, at_any_rate=True)

    def node(self, raw: Raw) -> NodeSpec:
        """A node; equal images are one object.

        Raises
        ------
        ConfigError : a quantity does not parse.
        """
        node = node_spec(_decode_node(raw))
        if self._axis.offer(node):
            self._by_key.clear()  # what it was told of them may no longer hold
            self._key_bytes = 0
        if len(self._images) >= MAX_IMAGES:
            self._images.clear()
        return replace(node, images=tuple(self._images.setdefault(image, image) for image in node.images))

    def pod(self, raw: Raw | bytes) -> Seen:
        """A pod as the ledger sees it.

        Raises
        ------
        ConfigError : an annotation of ours or a quantity makes no sense.
        WireError : it is not a pod.
        """
        pod = self._decode(raw)
        meta = pod.metadata
        annotations = meta.annotations or {}
        spec = self._bound_spec(pod) if pod.spec.nodeName else self._spec(pod)
        gates = {gate.get("name") for gate in pod.spec.schedulingGates or ()}
        return Seen(
            uid=meta.uid,
            name=meta.name,
            namespace=meta.namespace,
            version=version_number(meta.resourceVersion),
            spec=spec,
            node=pod.spec.nodeName or "",
            devices=devices_mask(annotations.get(DEVICES_ANNOTATION, "")),
            has_ended=pod.status.phase in ("Succeeded", "Failed"),
            is_gated=gates == {GATE} and not spec.leaving,
            is_held=bool(gates - {GATE}),
            planned=annotations.get(NODE_ANNOTATION, ""),
            planned_at=annotations.get(TIME_ANNOTATION, ""),
            planned_devices=devices_mask(annotations.get(PLANNED_DEVICES_ANNOTATION, "")) if spec.gpu else 0,
            nominated=pod.status.nominatedNodeName or "",
            target=annotations.get(TARGET_ANNOTATION, ""),
            oom_s=_oom_s(pod.status),
        )

    def spec(self, raw: Raw | bytes) -> PodSpec:
        """The class of a pod in a request; raises as :meth:`pod` does."""
        return self._spec(self._decode(raw))


def _oom_s(status: objects.PodStatus) -> int:
    """When a container was last killed for want of memory; 0 = none was, or the time makes no sense."""
    ends = [
        unix_of(state.terminated.finishedAt or "")
        for container in status.containerStatuses or ()
        for state in (container.state, container.lastState)
        if state is not None and state.terminated is not None and state.terminated.reason == "OOMKilled"
    ]
    return max((int(end) for end in ends if end is not None), default=0)


def _full_name(meta: _Meta) -> str:
    return f"{meta.namespace}/{meta.name}"


@dataclass
class KindSink:
    """Sink of one kind: what to do with an object, without one, and which are known."""

    kind: str
    path: str
    on_put: Callable[[Raw], str]
    lose: Callable[[str], None]
    on_known: Callable[[], Iterable[str]]
    version_of: Callable[[str], int] = lambda key: 0
    key: Callable[[_Meta], str] = lambda meta: meta.name
    is_optional: bool = False
    on_listed: Callable[[], None] = lambda: None

    def put(self, raw: Raw) -> str:
        """See :class:`scheduler.informer.Sink`."""
        try:
            return self.on_put(raw)
        except (ConfigError, WireError, *UNREADABLE) as error:
            meta = _decode_object(raw).metadata
            log.warning(
                "object not understood", extra={"resource": self.kind, "object": meta.name, "error": str(error)}
            )
            return self.key(meta)

    def drop(self, raw: Raw) -> None:
        """See :class:`scheduler.informer.Sink`."""
        self.lose(self.key(_decode_object(raw).metadata))

    def known(self) -> dict[str, int]:
        """See :class:`scheduler.informer.Sink`."""
        return {key: self.version_of(key) for key in self.on_known()}

    def listed(self) -> None:
        """See :class:`scheduler.informer.Sink`."""
        self.on_listed()


def _by_namespace(
    kind: str, path: str, table: dict[str, dict[str, Any]], read: Callable[[Raw], tuple[_Meta, Any]]
) -> KindSink:
    """Keeps one value of each object: ``table`` has them by namespace and name, without those that are None."""

    def set_or_remove(namespace: str, name: str, value: object) -> None:
        if value is not None:
            table.setdefault(namespace, {})[name] = value
            return
        table.get(namespace, {}).pop(name, None)
        if not table.get(namespace, True):
            del table[namespace]

    def put(raw: Raw) -> str:
        meta, value = read(raw)
        set_or_remove(meta.namespace, meta.name, value)
        return _full_name(meta)

    def lose(key: str) -> None:
        namespace, _, name = key.partition("/")
        set_or_remove(namespace, name, None)

    def known() -> set[str]:
        return {f"{namespace}/{name}" for namespace, some in table.items() for name in some}

    return KindSink(kind, path, put, lose, known, key=_full_name, is_optional=True)


def _read_claim(raw: Raw) -> tuple[_Meta, str]:
    """The name of its bound volume."""
    claim = _decode_claim(raw)
    return claim.metadata, claim.spec.volumeName


def _read_service(raw: Raw) -> tuple[_Meta, tuple[tuple[str, str], ...] | None]:
    """The labels that it selects."""
    service = _decode_service(raw)
    chosen = service.spec.selector
    return service.metadata, None if chosen is None else tuple(sorted(chosen.items()))


def _read_replication_controller(raw: Raw) -> tuple[_Meta, tuple[Requirement, ...]]:
    """Its selector, which is written as a Service's."""
    meta, chosen = _read_service(raw)
    return meta, tuple(Requirement(key, "In", (value,)) for key, value in chosen or ())


def _read_controller(raw: Raw) -> tuple[_Meta, tuple[Requirement, ...] | None]:
    """Its selector."""
    controller = _decode_controller(raw)
    return controller.metadata, selector(controller.spec.selector)


def _controllers(owners: Owners) -> list[KindSink]:
    """Selectors of the kinds of controllers by which kube-scheduler spreads pods."""
    found = []
    for kind, version in CONTROLLERS.items():
        base, read = (
            ("/api/v1", _read_replication_controller) if version == "v1" else (f"/apis/{version}", _read_controller)
        )
        plural = f"{kind.lower()}s"
        found.append(_by_namespace(plural, f"{base}/{plural}", owners.controllers[kind], read))
    return found


ZONE_LABELS = frozenset(
    f"{domain}/{kind}"
    for domain in ("topology.kubernetes.io", "failure-domain.beta.kubernetes.io")
    for kind in ("zone", "region")
)
"""By these labels of a volume kube-scheduler keeps pods in its zone. Whoever makes a volume that has them has written the same
as node terms for years: a volume without those is not modelled."""


def _volumes(volumes: dict[str, tuple[NodeTerm, ...]]) -> KindSink:
    """The node terms that a volume requires."""

    def put(raw: Raw) -> str:
        volume = _decode_volume(raw)
        affinity = volume.spec.nodeAffinity
        required = affinity.required if affinity is not None else None
        if required is None and ZONE_LABELS & (volume.metadata.labels or {}).keys():
            volumes.pop(volume.metadata.name, None)
        else:
            terms = () if required is None else tuple(node_term(t) for t in required.nodeSelectorTerms or ())
            volumes[volume.metadata.name] = terms
        return volume.metadata.name

    def lose(name: str) -> None:
        volumes.pop(name, None)

    return KindSink("volumes", "/api/v1/persistentvolumes", put, lose, lambda: volumes, is_optional=True)


def _group_sink(groups: Groups, kind: Kind) -> KindSink:
    """How many pods the gangs of its objects need."""
    decode = msgspec.json.Decoder(kind.read).decode

    def read(raw: Raw) -> tuple[_Meta, dict[str, int]]:
        found = decode(raw)
        return _Meta(found.metadata.name, found.metadata.namespace), found.needs

    sink = _by_namespace(
        f"{kind.plural} of {kind.version}", f"/apis/{kind.version}/{kind.plural}", groups.needs[kind], read
    )
    sink.on_listed = lambda: groups.served.add(kind)
    return sink


def group_sinks(groups: Groups) -> list[KindSink]:
    """What a planner follows as well: kinds that say how many pods a gang needs. Few clusters serve any."""
    return [_group_sink(groups, kind) for kind in KINDS]


def sinks(ledger: Ledger, modes: Modes, reader: Reader) -> list[KindSink]:
    """Every kind that is followed."""

    beyond: dict[str, tuple[str, ...]] = {}
    """Node → what it offers more of than is counted; said once."""

    def put_node(raw: Raw) -> str:
        node = reader.node(raw)
        much = tuple(name for name, amount in node.allocatable if amount >= MOST_COUNTED)
        if much != beyond.pop(node.name, ()) and much:
            more = {"node": node.name, "resources": ",".join(much), "counted": MOST_COUNTED - 1}
            log.warning("a node offers more than is counted; the rest of it stays empty", extra=more)
        if much:
            beyond[node.name] = much
        ledger.see_node(node)
        return node.name

    def lose_node(name: str) -> None:
        beyond.pop(name, None)
        ledger.lose_node(name)

    def put_pod(raw: Raw) -> str:
        seen = reader.pod(raw)
        ledger.see(seen)
        return seen.uid

    def put_namespace(raw: Raw) -> str:
        meta = _decode_object(raw).metadata
        labels = meta.labels or {}
        ledger.see_namespace(NamespaceSpec(meta.name, tuple(sorted(labels.items()))))
        modes.label(meta.name, labels.get(MODE_LABEL))
        return meta.name

    def lose_namespace(name: str) -> None:
        ledger.lose_namespace(name)
        modes.label(name, None)

    core = "/api/v1"
    return [
        KindSink("namespaces", f"{core}/namespaces", put_namespace, lose_namespace, lambda: ledger.state.namespaces),
        KindSink("nodes", f"{core}/nodes", put_node, lose_node, lambda: ledger.state.row_of),
        _volumes(reader.volumes),
        _by_namespace("claims", f"{core}/persistentvolumeclaims", reader.claims, _read_claim),
        _by_namespace("services", f"{core}/services", reader.owners.services, _read_service),
        *_controllers(reader.owners),
        KindSink(
            "pods",
            f"{core}/pods",
            put_pod,
            ledger.lose,
            lambda: ledger.pods,
            lambda uid: ledger.pods[uid].version,
            key=lambda meta: meta.uid,
        ),
    ]
