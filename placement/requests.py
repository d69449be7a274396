"""What a pod asks for, as kube-scheduler counts it (``component-helpers/resource/helpers.go`` of 1.37): containers, init
containers, restartable sidecars, pod-level resources, overhead, resizes in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from placement.errors import ConfigError, TooLarge
from placement.objects import Container, ContainerStatus, Pod, Quantities, Resources
from placement.pods import GpuRequest
from placement.recording import Parts
from placement.resources import (
    CPU,
    DEFAULT_CPU_MILLICORES,
    DEFAULT_MEMORY_BYTES,
    DEVICE_MILLI,
    GPU_COUNT_ANNOTATION,
    GPU_MODEL_ANNOTATION,
    GPU_SHARE,
    MEMORY,
    MOST_COUNTED,
    parse_quantity,
    whole_number,
)

Amounts = dict[str, int]
_Read = Callable[[Container, ContainerStatus | None], Quantities | None]


def _amounts(quantities: Quantities | None) -> Amounts:
    return {name: parse_quantity(q, name) for name, q in (quantities or {}).items()}


def _add(into: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        into[name] = into.get(name, 0) + amount


def _raise_to(into: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        into[name] = max(into.get(name, 0), amount)


def _in_flight(pod: Pod, asked: Amounts, running: Resources | None, allocated: Quantities | None) -> Amounts:
    """What counts of a pod's own resources while they are resized, in the same way as of its containers."""
    if running is None:
        return asked
    counted = {} if is_resize_refused(pod) else asked
    _raise_to(counted, _amounts(running.requests))
    _raise_to(counted, _amounts(allocated))
    return counted


def is_resize_refused(pod: Pod) -> bool:
    """Whether the node has said that it can never grant what the pod asks for now."""
    return next((c.reason for c in pod.status.conditions or () if c.type == "PodResizePending"), "") == "Infeasible"


def _asked(container: Container, status: ContainerStatus | None) -> Quantities | None:
    """What a container asks for."""
    return container.resources.requests if container.resources else None


def _allocated(container: Container, status: ContainerStatus | None) -> Quantities | None:
    """What its node has promised it, if its kubelet says."""
    return status.allocatedResources if status else None


def _running(container: Container, status: ContainerStatus | None) -> Quantities | None:
    """What it runs with, if its kubelet says."""
    return status.resources.requests if status and status.resources else None


def _sum(pod: Pod, missing: Mapping[str, int], *reads: _Read) -> Amounts:
    """What the containers of a pod need in all; each needs what the first of ``reads`` says that says something."""
    status = pod.status
    statuses = {s.name: s for s in (*(status.initContainerStatuses or ()), *(status.containerStatuses or ()))}

    def need_of(container: Container) -> Amounts:
        found = (read(container, statuses.get(container.name)) for read in reads)
        return {**missing, **_amounts(next((one for one in found if one is not None), None))}

    total: Amounts = {}
    for container in pod.spec.containers or ():
        _add(total, need_of(container))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in pod.spec.initContainers or ():
        need = need_of(container)
        if container.restartPolicy == "Always":
            _add(total, need)
            _add(sidecars, need)
            need = dict(sidecars)
        else:
            _add(need, sidecars)
        _raise_to(peak, need)
    _raise_to(total, peak)
    return total


def effective_requests(pod: Pod, missing: Mapping[str, int] | None = None) -> Amounts:
    """What the pod asks for in all, as kube-scheduler's filters see it; ``missing`` fills in absent requests.

    While it is resized, the largest sum counts: of what is asked for, allocated, or runs. (Before 1.37 the sum of what is
    the largest for each container, which is more where one grows while another shrinks.) What is asked for counts no more
    once that is refused, but where a kubelet says nothing.
    """
    missing = missing or {}
    spec, status = pod.spec, pod.status
    total = _sum(pod, missing, _asked)
    if status.containerStatuses or status.initContainerStatuses:
        total = {} if is_resize_refused(pod) else total
        _raise_to(total, _sum(pod, missing, _allocated, _asked))
        _raise_to(total, _sum(pod, missing, _running, _allocated, _asked))
    if spec.resources is not None and spec.resources.requests:
        asked = _amounts(spec.resources.requests)
        counted = _in_flight(pod, dict(asked), status.resources, status.allocatedResources)
        for name in asked:
            if name in (CPU, MEMORY) or name.startswith("hugepages-"):
                total[name] = counted.get(name, 0)
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
    granted = (*(status.containerStatuses or ()), *(status.initContainerStatuses or ()), status)
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


def scored_requests(pod: Pod, requests: Amounts) -> tuple[int, int]:
    """Millicores and bytes that scores assume (``PodInfo.CalculateResource``)."""
    defaults = {CPU: DEFAULT_CPU_MILLICORES, MEMORY: DEFAULT_MEMORY_BYTES}
    if pod.spec.resources is not None and pod.spec.resources.requests:
        defaults = {name: amount for name, amount in defaults.items() if name not in requests}
    filled = effective_requests(pod, defaults) if defaults else requests
    return filled.get(CPU, 0), filled.get(MEMORY, 0)


def gpu_request(pod: Pod, total: int, *, at_any_rate: bool = False) -> GpuRequest | None:
    """What its annotations make of ``total`` thousandths of a GPU; where that is nonsense and ``at_any_rate``, a share of one
    device or whole ones, as of any other pod.

    Raises
    ------
    ConfigError : it is nonsense.
    """
    if not total:
        return None
    annotations = pod.metadata.annotations or {}
    text = annotations.get(GPU_COUNT_ANNOTATION, "")
    number = whole_number(text)
    whole = -(-total // DEVICE_MILLI)
    count = number or whole
    try:
        if (text and number is None) or total % count:
            raise ConfigError(
                f"pod {pod.metadata.namespace}/{pod.metadata.name}: {GPU_SHARE}={total} does not divide by "
                f"{GPU_COUNT_ANNOTATION}={text!r}; ask for count × share"
            )
        models = tuple(m.strip() for m in annotations.get(GPU_MODEL_ANNOTATION, "").split("|") if m.strip())
        return GpuRequest(count, total // count, models)
    except ConfigError:
        if not at_any_rate:
            raise
        return GpuRequest(whole, min(total, DEVICE_MILLI))


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
