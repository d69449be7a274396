"""From API objects to the ledger: one sink per kind, each a few lines.

Objects are decoded by :mod:`placement.objects`, typed and without what nobody reads. An object that cannot be
understood never stops the watch: it is reported, counted, and left as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw, Struct

from placement import objects
from placement.errors import ConfigError
from placement.nodes import NamespaceSpec
from placement.pods import PodSpec
from placement.resources import DEVICES_ANNOTATION
from scheduler.errors import WireError
from scheduler.ledger import Ledger, Seen
from scheduler.modes import MODE_LABEL, Modes

log = logging.getLogger(__name__)

_decode_pod = msgspec.json.Decoder(objects.Pod).decode
_decode_node = msgspec.json.Decoder(objects.Node).decode

MAX_DEVICES = 64


class _Meta(Struct):
    name: str = ""
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
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) < MAX_DEVICES for part in parts):
        return 0
    mask = 0
    for part in parts:
        mask |= 1 << int(part)
    return mask


def pod_from_json(raw: Raw | bytes) -> Seen:
    """A pod as the ledger sees it.

    Raises
    ------
    ConfigError : an annotation of ours or a quantity makes no sense.
    WireError : it is not a pod.
    """
    pod = _pod(raw)
    meta = pod.metadata
    annotations = meta.annotations or {}
    version = meta.resourceVersion
    return Seen(
        uid=meta.uid,
        name=meta.name,
        namespace=meta.namespace,
        version=int(version) if version.isdigit() else 0,
        spec=objects.pod_spec(pod),
        node=pod.spec.nodeName or "",
        devices=devices_mask(annotations.get(DEVICES_ANNOTATION, "")),
        has_ended=pod.status.phase in ("Succeeded", "Failed"),
    )


def _pod(raw: Raw | bytes) -> Any:
    try:
        return _decode_pod(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"the pod cannot be read: {error}") from error


def spec_from_json(raw: Raw | bytes) -> PodSpec:
    """The class of a pod in a request.

    Raises
    ------
    ConfigError : an annotation of ours or a quantity makes no sense.
    WireError : it is not a pod.
    """
    return objects.pod_spec(_pod(raw))


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


def sinks(ledger: Ledger, modes: Modes) -> list[KindSink]:
    """Every kind that is followed."""

    def put_node(raw: Raw) -> str:
        node = objects.node_spec(_decode_node(raw))
        ledger.see_node(node)
        return node.name

    def put_pod(raw: Raw) -> str:
        seen = pod_from_json(raw)
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

    return [
        KindSink(
            "namespaces", "/api/v1/namespaces", put_namespace, lambda name: modes.label(name, None), keep_namespaces
        ),
        KindSink("nodes", "/api/v1/nodes", put_node, ledger.lose_node, ledger.keep_nodes),
        KindSink("pods", "/api/v1/pods", put_pod, ledger.lose, ledger.keep_pods, key=lambda meta: meta.uid),
    ]
