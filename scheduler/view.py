"""From API objects to the ledger: one sink per kind, each a few lines.

Objects are decoded by :mod:`placement.objects`, typed and without what nobody reads. An object that cannot be
understood never stops the watch: it is reported, counted, and left as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw, Struct

from placement import objects
from placement.errors import ConfigError
from placement.gangs import gang_size
from placement.nodes import NamespaceSpec, NodeSpec
from placement.owners import CONTROLLERS, Owners
from placement.pods import NodeTerm, PodSpec, Requirement
from placement.resources import DEVICES_ANNOTATION, GPU_SHARE, MAX_DEVICES, parse_quantity, whole_number
from scheduler.errors import WireError
from scheduler.gates import GATE, NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION, TARGET_ANNOTATION, unix_of
from scheduler.ledger import Ledger, Seen
from scheduler.modes import MODE_LABEL, Modes

log = logging.getLogger(__name__)

_decode_pod = msgspec.json.Decoder(objects.Pod).decode
_decode_node = msgspec.json.Decoder(objects.Node).decode

MAX_CLASSES = 50_000
MAX_KEYS = 10_000
MAX_IMAGES = 200_000
"""Of values kept for sharing; beyond it sharing starts over, nothing else changes."""


class _Meta(Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None


class _Object(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


_decode_object = msgspec.json.Decoder(_Object).decode


def devices_mask(text: str) -> int:
    """Bit mask of the annotation's comma-separated indices; 0 if it is not one.

    >>> devices_mask("0,3")
    9
    """
    mask = 0
    for part in text.split(","):
        if part.strip():
            index = whole_number(part.strip())
            if index is None or index >= MAX_DEVICES:
                return 0
            mask |= 1 << index
    return mask


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
        self._classes: dict[PodSpec, PodSpec] = {}
        self._by_key: dict[bytes, PodSpec] = {}
        self._images: dict[tuple[str, int], tuple[str, int]] = {}

    def _allowed(self, namespace: str) -> objects.Volumes:
        bound = self.claims.get(namespace, {})
        return {claim: self.volumes[volume] for claim, volume in bound.items() if volume in self.volumes}

    def _decode(self, raw: Raw | bytes) -> objects.Pod:
        try:
            return _decode_pod(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"the pod cannot be read: {error}") from error

    def _spec(self, pod: objects.Pod) -> PodSpec:
        """The pod's class; equal classes are one object, so that fifty thousand pods cost little."""
        key = objects.class_key(pod, self.owners)
        known = self._by_key.get(key) if key else None
        if known is None:
            known = self._made(pod)
            if len(self._by_key) >= MAX_KEYS:
                self._by_key.clear()
            if key:
                self._by_key[key] = known
        return known

    def _made(self, pod: objects.Pod) -> PodSpec:
        spec = objects.pod_spec(pod, self._allowed(pod.metadata.namespace) if pod.spec.volumes else None, self.owners)
        if len(self._classes) >= MAX_CLASSES:
            self._classes.clear()
        return self._classes.setdefault(spec, spec)

    def _bound_spec(self, pod: objects.Pod) -> PodSpec:
        """The class of a pod that runs already: if its GPU request makes no sense, its shares count in total only."""
        try:
            return self._spec(pod)
        except ConfigError as error:
            log.warning("GPU request not understood", extra={"pod": pod.metadata.name, "error": str(error)})
        total = 0
        for container in (*(pod.spec.containers or ()), *(pod.spec.initContainers or ())):
            asks = container.resources.requests if container.resources else None
            if asks and GPU_SHARE in asks:
                total += parse_quantity(asks.pop(GPU_SHARE), GPU_SHARE)
        spec = self._spec(pod)
        return replace(spec, request=tuple(sorted((*spec.request, (GPU_SHARE, total)))))

    def node(self, raw: Raw) -> NodeSpec:
        """A node; equal images are one object.

        Raises
        ------
        ConfigError : a quantity does not parse.
        """
        node = objects.node_spec(_decode_node(raw))
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
        version = meta.resourceVersion
        annotations = meta.annotations or {}
        spec = self._bound_spec(pod) if pod.spec.nodeName else self._spec(pod)
        return Seen(
            uid=meta.uid,
            name=meta.name,
            namespace=meta.namespace,
            version=int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0,
            spec=spec,
            node=pod.spec.nodeName or "",
            devices=devices_mask(annotations.get(DEVICES_ANNOTATION, "")),
            has_ended=pod.status.phase in ("Succeeded", "Failed"),
            is_gated=any(gate.get("name") == GATE for gate in pod.spec.schedulingGates or ()),
            gang_size=gang_size(annotations),
            planned=annotations.get(NODE_ANNOTATION, ""),
            planned_devices=devices_mask(annotations.get(PLANNED_DEVICES_ANNOTATION, "")) if spec.gpu else 0,
            nominated=pod.status.nominatedNodeName or "",
            target=annotations.get(TARGET_ANNOTATION, ""),
            is_leaving=meta.deletionTimestamp is not None,
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
    """Sink of one kind: what to do with an object, without one, and after a complete list."""

    kind: str
    path: str
    on_put: Callable[[Raw], str]
    on_drop: Callable[[str], None]
    on_keep: Callable[[set[str]], None]
    key: Callable[[_Meta], str] = lambda meta: meta.name
    is_optional: bool = False

    def put(self, raw: Raw) -> str:
        """See :class:`scheduler.informer.Sink`."""
        try:
            return self.on_put(raw)
        except (ConfigError, WireError, msgspec.MsgspecError) as error:
            meta = _decode_object(raw).metadata
            log.warning(
                "object not understood", extra={"resource": self.kind, "object": meta.name, "error": str(error)}
            )
            return self.key(meta)

    def drop(self, raw: Raw) -> None:
        """See :class:`scheduler.informer.Sink`."""
        self.on_drop(self.key(_decode_object(raw).metadata))

    def keep(self, keys: set[str]) -> None:
        """See :class:`scheduler.informer.Sink`."""
        self.on_keep(keys)


def _put(table: dict[Any, dict[str, Any]], outer: object, name: str, value: object) -> None:
    """Set or, with None, remove; no empty inner tables stay."""
    if value is not None:
        table.setdefault(outer, {})[name] = value
        return
    table.get(outer, {}).pop(name, None)
    if not table.get(outer, True):
        del table[outer]


def _controller_sink(kind: str, version: str, owners: Owners) -> KindSink:
    """Follows the selectors of one kind of controller."""

    def put(raw: Raw) -> str:
        selector: tuple[Requirement, ...] | None
        if version == "v1":
            service = _decode_service(raw)
            meta, chosen = service.metadata, service.spec.selector or {}
            selector = tuple(Requirement(key, "In", (value,)) for key, value in sorted(chosen.items()))
        else:
            controller = _decode_controller(raw)
            meta, selector = controller.metadata, objects.selector(controller.spec.selector)
        _put(owners.controllers, (kind, meta.namespace), meta.name, selector)
        return _full_name(meta)

    def drop(key: str) -> None:
        namespace, _, name = key.partition("/")
        _put(owners.controllers, (kind, namespace), name, None)

    def keep(keys: set[str]) -> None:
        tables = [(space, name) for (of, space), some in owners.controllers.items() if of == kind for name in some]
        for namespace, name in tables:
            if f"{namespace}/{name}" not in keys:
                drop(f"{namespace}/{name}")

    plural = f"{kind.lower()}s"
    base = "/api/v1" if version == "v1" else f"/apis/{version}"
    return KindSink(plural, f"{base}/{plural}", put, drop, keep, key=_full_name, is_optional=True)


def sinks(ledger: Ledger, modes: Modes, reader: Reader) -> list[KindSink]:
    """Every kind that is followed."""

    def put_node(raw: Raw) -> str:
        node = reader.node(raw)
        ledger.see_node(node)
        return node.name

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

    def keep_namespaces(names: set[str]) -> None:
        for name in set(modes.by_namespace) - names:
            modes.label(name, None)

    def keep_claims(keys: set[str]) -> None:
        known = [f"{namespace}/{name}" for namespace, claims in reader.claims.items() for name in claims]
        for key in known:
            if key not in keys:
                drop_claim(key)

    def put_claim(raw: Raw) -> str:
        claim = _decode_claim(raw)
        reader.claims.setdefault(claim.metadata.namespace, {})[claim.metadata.name] = claim.spec.volumeName
        return _full_name(claim.metadata)

    def drop_claim(key: str) -> None:
        namespace, _, name = key.partition("/")
        reader.claims.get(namespace, {}).pop(name, None)

    def put_volume(raw: Raw) -> str:
        volume = _decode_volume(raw)
        affinity = volume.spec.nodeAffinity
        required = affinity.required if affinity is not None else None
        terms = () if required is None else tuple(objects.node_term(t) for t in required.nodeSelectorTerms or ())
        reader.volumes[volume.metadata.name] = terms
        return volume.metadata.name

    def drop_volume(name: str) -> None:
        reader.volumes.pop(name, None)

    def keep_volumes(names: set[str]) -> None:
        for name in reader.volumes.keys() - names:
            drop_volume(name)

    owners = reader.owners

    def put_service(raw: Raw) -> str:
        service = _decode_service(raw)
        meta, chosen = service.metadata, service.spec.selector
        _put(owners.services, meta.namespace, meta.name, None if chosen is None else tuple(sorted(chosen.items())))
        return _full_name(meta)

    def drop_service(key: str) -> None:
        namespace, _, name = key.partition("/")
        _put(owners.services, namespace, name, None)

    def keep_services(keys: set[str]) -> None:
        for key in [f"{namespace}/{name}" for namespace, some in owners.services.items() for name in some]:
            if key not in keys:
                drop_service(key)

    def forget_mode(name: str) -> None:
        modes.label(name, None)

    core = "/api/v1"
    return [
        KindSink("namespaces", f"{core}/namespaces", put_namespace, forget_mode, keep_namespaces),
        KindSink("nodes", f"{core}/nodes", put_node, ledger.lose_node, ledger.keep_nodes),
        KindSink("volumes", f"{core}/persistentvolumes", put_volume, drop_volume, keep_volumes, is_optional=True),
        KindSink(
            "claims",
            f"{core}/persistentvolumeclaims",
            put_claim,
            drop_claim,
            keep_claims,
            key=_full_name,
            is_optional=True,
        ),
        KindSink(
            "services",
            f"{core}/services",
            put_service,
            drop_service,
            keep_services,
            key=_full_name,
            is_optional=True,
        ),
        *(_controller_sink(kind, version, reader.owners) for kind, version in CONTROLLERS.items()),
        KindSink("pods", f"{core}/pods", put_pod, ledger.lose, ledger.keep_pods, key=lambda meta: meta.uid),
    ]
