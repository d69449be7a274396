"""Records a cluster for ``ullage record``: its nodes and pods from the API, what they used from Prometheus.

Pods that are gone have samples and an owner in Prometheus but no object in the API. They are taken for pods of their
workload as it runs today; where that is gone as well they are left out, and counted. Pods that had one name after the
other (of a StatefulSet, say) are told apart by when each began.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from msgspec import Raw

from placement.errors import UNREADABLE, ConfigError
from placement.knowledge import workload_of
from placement.learning.usage import STEP_S
from placement.nodes import NodeSpec
from placement.objects import Pod
from placement.pods import PodSpec
from placement.recording import Parts, RecordedPod, Recording
from placement.requests import cap_requests, parts_of
from placement.resources import CPU, MEMORY, IntArray
from scheduler.errors import WireError
from scheduler.gates import unix_of
from scheduler.kube import KubeClient
from scheduler.learning.prometheus import PodSeries, Prometheus
from scheduler.metrics import Metrics
from scheduler.settings import KubeSettings, UsageSettings
from scheduler.view import Reader

RIGHTSIZED = "ullage.dev/rightsized"
"""Annotation of the admission policy: thousandths of CPU and memory requests that it left, ``144/1000``."""
WAITS_S = (5.0, 10.0, 20.0, 40.0)
"""Before a query is sent again: one that fails must not end hours of reading, and Prometheus begins anew in a minute."""
_KEPT = re.compile(r"([1-9]\d{0,2}|1000)/([1-9]\d{0,2}|1000)")


_decode_pod = msgspec.json.Decoder(Pod).decode


@dataclass
class _Pod:
    """What is gathered of one pod."""

    spec: PodSpec
    arrival_s: int = -1
    is_listed: bool = False
    """By the API, so that it counts without samples, too."""
    is_here: bool = False
    kept_milli: tuple[int, int] = (1000, 1000)
    node: str = ""
    parts: tuple[Parts, Parts] | None = None
    series: list[PodSeries] = field(default_factory=list)
    """Its usage as it was read; there may be a hundred million samples in all."""

    def samples(self) -> tuple[IntArray, IntArray]:
        """``(S,)`` grid times, ascending, and ``(S, 2)`` millicores and bytes; −1 where nothing was measured."""
        whole = [np.rint(one.time_s).astype(np.int64) for one in self.series]
        times = np.unique(np.concatenate([np.zeros(0, np.int64), *whole]))
        table = np.full((len(times), 2), -1, np.int64)
        for at, one in zip(whole, self.series, strict=True):
            column, unit = (0, 1000) if one.resource == CPU else (1, 1)
            table[np.searchsorted(times, at), column] = np.rint(one.values * unit)
        return times, table


async def record(
    client: KubeClient,
    prometheus: Prometheus,
    *,
    name: str,
    days: float,
    now_s: float,
    page_size: int = 500,
    progress: Callable[[str], None] = lambda message: None,
) -> Recording:
    """The cluster and its usage over the ``days`` before ``now_s``, in Unix time.

    Raises
    ------
    ApiError : the API refuses or is away. SourceError : Prometheus does. ConfigError : nothing was measured.
    """
    end_s = int(now_s)
    nodes, pods, unreadable = await _cluster(client, page_size)
    progress(f"{len(nodes)} nodes, {len(pods)} pods")
    owners, starts = await prometheus.owners(end_s, days), await prometheus.starts(end_s, days)
    by_workload = {workload_of(p.spec.namespace, p.spec.owner): p.spec for p in pods.values()}
    by_workload.pop("", None)
    unknown: set[tuple[str, str]] = set()
    first_s = int(end_s - days * 86_400)
    async for chunk in prometheus.history(first_s, end_s):
        for series in chunk:
            pod = _pod_of(series, pods, owners, by_workload)
            if pod is None:
                unknown.add((series.namespace, series.pod))
            else:
                pod.series.append(series)
        until_s = max((float(series.time_s[-1]) for series in chunk if len(series.time_s)), default=None)
        if until_s is not None:
            percent = 100 * (until_s - first_s) / (end_s - first_s)
            measured = sum(1 for pod in pods.values() if pod.series)
            progress(f"{chunk[0].resource} of {measured:,} pods read, {percent:.0f} % of the time")
    recorded = [life for key, pod in pods.items() for life in _lives(key, pod, starts.get(key, set()))]
    if not any(len(p.time_s) for p in recorded):
        where = f" where {prometheus.selector}" if prometheus.selector else ""
        raise ConfigError(
            f"Prometheus {prometheus.base} has no usage of this cluster's pods{where} in the last {days:g} days; "
            "does it scrape cAdvisor (container_cpu_usage_seconds_total with namespace and pod)?"
        )
    reach_days = (end_s - min(p.time_s[0] for p in recorded if len(p.time_s))) / 86_400
    found = {
        "pods are gone with their whole workload and were left out": len(unknown),
        "pods have no usage": sum(1 for p in recorded if not len(p.time_s)),
        "values made no sense and were left out": prometheus.num_refused,
        "objects could not be read": unreadable,
    }
    notes = tuple(f"{number} {what}" for what, number in found.items() if number)
    if reach_days < 0.9 * days:
        notes += (
            f"usage reaches back {reach_days:.1f} of {days:g} days: Prometheus has no older samples of these pods",
        )
    return Recording(name, tuple(nodes), tuple(recorded), notes)


async def record_with(
    kube: KubeSettings,
    usage: UsageSettings,
    *,
    name: str,
    days: float,
    progress: Callable[[str], None] = lambda message: None,
) -> Recording:
    """The recording of the cluster and the Prometheus that the settings name. Raises as :func:`record` does."""
    async with await KubeClient.connect(kube) as client, Prometheus(usage, Metrics(), waits_s=WAITS_S) as prometheus:
        return await record(
            client, prometheus, name=name, days=days, now_s=time.time(), page_size=kube.page_size, progress=progress
        )


async def _cluster(client: KubeClient, page_size: int) -> tuple[list[NodeSpec], dict[tuple[str, str], _Pod], int]:
    reader, nodes, pods, unreadable = Reader(), [], {}, 0
    async for raw in _objects(client, "/api/v1/nodes", page_size):
        try:
            nodes.append(reader.node(raw))
        except (ConfigError, *UNREADABLE):
            unreadable += 1
    async for raw in _objects(client, "/api/v1/pods", page_size):
        try:
            seen = reader.pod(raw)
        except (ConfigError, WireError):
            unreadable += 1
            continue
        pod = _decode_pod(raw)
        kept = kept_of((pod.metadata.annotations or {}).get(RIGHTSIZED, ""))
        began_s = unix_of(pod.status.startTime or pod.metadata.creationTimestamp or "")
        cap_requests(pod)  # as of its class: one that runs counts whatever it asks for
        parts = parts_of(pod)
        pods[seen.namespace, seen.name] = _Pod(
            seen.spec.anew, -1 if began_s is None else int(began_s), True, not seen.has_ended, kept, seen.node,
            (parts[CPU], parts[MEMORY]),
        )  # fmt: skip
    return nodes, pods, unreadable


async def _objects(client: KubeClient, path: str, page_size: int) -> AsyncIterator[Raw]:
    async for page in client.list_pages(path, page_size=page_size):
        for raw in page.items or ():
            yield raw


def kept_of(annotation: str) -> tuple[int, int]:
    """Thousandths of CPU and memory; all of them where the annotation is missing or makes no sense.

    >>> kept_of("144/1000"), kept_of("0/7"), kept_of("")
    ((144, 1000), (1000, 1000), (1000, 1000))
    """
    found = _KEPT.fullmatch(annotation)
    return (int(found[1]), int(found[2])) if found else (1000, 1000)


def _pod_of(
    series: PodSeries,
    pods: dict[tuple[str, str], _Pod],
    owners: dict[tuple[str, str], str],
    by_workload: dict[str, PodSpec],
) -> _Pod | None:
    key = series.namespace, series.pod
    if key not in pods:
        spec = by_workload.get(owners.get(key, ""))
        if spec is None:
            return None
        pods[key] = _Pod(spec)
    return pods[key]


def _lives(key: tuple[str, str], pod: _Pod, starts: set[int]) -> list[RecordedPod]:
    """The pods that had this name, oldest first: samples up to a start are of the pod before.

    Of those that are gone the API tells nothing: they are taken for what the last one is.
    """
    begins = sorted(starts | {pod.arrival_s} - {-1})
    times, table = pod.samples()
    begun = np.searchsorted(begins, times)  # how many starts were before a sample; 0 = nobody knows when its pod began
    last = len(begins) if pod.is_listed else int(begun.max())
    found: list[RecordedPod] = []
    for number in sorted({*begun.tolist(), last}):
        mine = begun == number
        samples, is_last = times[mine], number == last
        arrival = begins[number - 1] if number else (int(samples[0]) - STEP_S if len(samples) else 0)
        departure = int(samples[-1]) if len(samples) else arrival
        found.append(RecordedPod(
            "/".join(key) + (f"#{len(found) + 1}" if not is_last else ""), pod.spec, arrival,
            -1 if is_last and pod.is_here else departure, samples, table[mine, 0], table[mine, 1], pod.kept_milli,
            pod.node if is_last else "", pod.parts,
        ))  # fmt: skip
    return found
