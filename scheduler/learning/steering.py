"""Who else looks at requests: autoscalers that lowering them would mislead, and limits that lower ones would break.

A HorizontalPodAutoscaler that scales on utilization divides usage by the request: half of the request doubles the
replicas. A VerticalPodAutoscaler sets requests itself. A LimitRange with a least request, or a largest ratio of limit to
request, makes the API server refuse the pod. What they steer keeps its requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from placement.errors import UNREADABLE
from placement.resources import CPU, MEMORY
from scheduler.errors import ApiError
from scheduler.kube import KubeClient

HPAS = "/apis/autoscaling/v2/horizontalpodautoscalers"
VPAS = "/apis/autoscaling.k8s.io/v1/verticalpodautoscalers"
LIMIT_RANGES = "/api/v1/limitranges"
PAGE = 500


@dataclass(frozen=True)
class Steered:
    """Resources that must not be lowered, and why."""

    by_target: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    """(namespace, name of the owner) → resource → reason; the kind is left out, for owners of owners are named alike."""
    by_namespace: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    """What could not be read."""

    def of(self, workload: str) -> Mapping[str, str]:
        """Of ``namespace/Kind/name``."""
        namespace, _, name = workload.split("/", 2)
        return {**self.by_namespace.get(namespace, {}), **self.by_target.get((namespace, name), {})}


NOBODY_STEERS = Steered()


class _Meta(Struct):
    name: str = ""
    namespace: str = ""


class _Target(Struct):
    name: str = ""


class _MetricTarget(Struct):
    type: str = ""


class _Metric(Struct):
    name: str = ""
    target: _MetricTarget = msgspec.field(default_factory=_MetricTarget)


class _Measure(Struct):
    resource: _Metric | None = None
    containerResource: _Metric | None = None


class _UpdatePolicy(Struct):
    updateMode: str | None = None


class _Limit(Struct):
    type: str = ""
    min: dict[str, object] | None = None
    maxLimitRequestRatio: dict[str, object] | None = None


class _Spec(Struct):
    scaleTargetRef: _Target = msgspec.field(default_factory=_Target)
    metrics: list[_Measure] | None = None
    targetRef: _Target | None = None
    updatePolicy: _UpdatePolicy | None = None
    limits: list[_Limit] | None = None


class _Object(Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decode = msgspec.json.Decoder(_Object).decode


async def who_steers(client: KubeClient) -> Steered:
    """Autoscalers and limits of the cluster.

    Raises
    ------
    ApiError : the API is away. What it does not know is not there; what cannot be read is noted in ``unknown``.
    """
    targets: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    namespaces: dict[str, dict[str, str]] = defaultdict(dict)
    unknown = []
    for path in (HPAS, VPAS, LIMIT_RANGES):
        try:
            found = [_decode(raw) async for page in client.list_pages(path, page_size=PAGE) for raw in page.items or ()]
        except ApiError as error:
            if error.status == 403:
                unknown.append(path.rpartition("/")[2])
            elif error.status != 404:
                raise
            continue
        except UNREADABLE:
            unknown.append(path.rpartition("/")[2])
            continue
        for one in found:
            meta, spec = one.metadata, one.spec
            if path == HPAS:
                targets[meta.namespace, spec.scaleTargetRef.name] |= _of_hpa(meta.name, spec)
            elif path == VPAS and spec.targetRef is not None:
                targets[meta.namespace, spec.targetRef.name] |= _of_vpa(meta.name, spec)
            elif path == LIMIT_RANGES:
                namespaces[meta.namespace] |= _of_limits(meta.name, spec)
    return Steered(targets, namespaces, tuple(unknown))


def _of_hpa(name: str, spec: _Spec) -> dict[str, str]:
    measures = [m.resource or m.containerResource for m in spec.metrics or ()]
    scaled = {m.name for m in measures if m is not None and m.target.type == "Utilization"}
    if not spec.metrics:
        scaled = {CPU}  # the API's own default
    return {r: f"HorizontalPodAutoscaler {name} scales on its utilization" for r in (CPU, MEMORY) if r in scaled}


def _of_vpa(name: str, spec: _Spec) -> dict[str, str]:
    mode = spec.updatePolicy.updateMode if spec.updatePolicy else None
    return {} if mode == "Off" else dict.fromkeys((CPU, MEMORY), f"VerticalPodAutoscaler {name} sets its requests")


def _of_limits(name: str, spec: _Spec) -> dict[str, str]:
    bounds = [b for limit in spec.limits or () if limit.type in ("Container", "Pod")
              for b in (limit.min, limit.maxLimitRequestRatio)]  # fmt: skip
    bounded = {resource for bound in bounds for resource in bound or ()}
    return {r: f"LimitRange {name} bounds requests from below" for r in (CPU, MEMORY) if r in bounded}
