"""``ullage rightsize``: recommendations from a live cluster, and the ConfigMaps that the admission policy reads.

Recommendations are printed. Written (``--apply``) they are one ConfigMap ``ullage-rightsize`` per namespace with, by
workload, the thousandths of the request that remain; the MutatingAdmissionPolicy of
``manifests/kustomize/components/rightsize`` lowers new pods by them where the namespace is labelled for it. Nothing
else is changed: no running pod, no Deployment, no Guaranteed pod.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from placement.errors import PlacementError
from placement.knowledge import Forecasts, workload_of
from placement.learning.drift import is_full
from placement.learning.facts import facts_of
from placement.learning.forecasting import Forecaster, asked_of
from placement.learning.horizons import EVERY_WORKLOAD
from placement.learning.packed import DAYS, Sizes, least_scale, to_restore
from placement.learning.prediction import REQUEST, Rungs, ask
from placement.learning.reclaim import is_reclaimed
from placement.learning.rightsize import Recommendation, RightsizePolicy, recommend
from placement.learning.usage import DAY, STEP_S
from placement.nodes import NamespaceSpec
from placement.rates import HOURS_A_MONTH, RATES
from placement.recording import Parts, RecordedPod, Recording
from placement.resources import CPU, MEMORY
from placement.specs import namespace_spec
from scheduler.api import Api
from scheduler.cluster_reader import listed_namespaces
from scheduler.errors import ApiError
from scheduler.kube import KubeClient
from scheduler.learning.reclaimer import KEEP_LABEL
from scheduler.learning.steering import NOBODY_STEERS, Steered
from scheduler.recording import RIGHTSIZED

CONFIG_MAP = "ullage-rightsize"
MOST_BYTES = 900_000
"""Of a ConfigMap: the API takes 1 MiB of data, etcd 1.5 MiB in all."""
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
"""Of a ConfigMap's data."""
MANAGER = "ullage-rightsize"
POLICIES = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies"


@dataclass(frozen=True)
class Advice:
    """Recommendations with what stands behind them."""

    recommendations: tuple[Recommendation, ...]
    target: str
    source: str
    sizer: str = "forecast"
    scale: float = 0.0
    """``packed``: of the 95th percentile of CPU."""
    restart: tuple[str, ...] = ()
    """``namespace/name`` of right-sized pods on nodes that are out of CPU; empty unless nodes were crowded in the last day."""

    @property
    def usd_per_month(self) -> float:
        """What the saved requests would cost at OpenCost's default prices; worth it only if nodes are given back."""
        return sum(usd_per_month(r) for r in self.recommendations)


def usd_per_month(found: Recommendation) -> float:
    """Of one workload's saved requests."""
    hourly = found.saved_cpu / 1000 * RATES.cpu + found.saved_memory / 2**30 * RATES.memory_gib
    return hourly * HOURS_A_MONTH


def advise(
    recording: Recording,
    namespaces: Iterable[NamespaceSpec],
    rungs: Rungs,
    policy: RightsizePolicy,
    *,
    sizer: str = "forecast",
    budget: float = 0.01,
    steered: Steered = NOBODY_STEERS,
) -> Advice:
    """Predict every workload of a recording and recommend.

    Parameters
    ----------
    steered : what others do with requests, so that they must stay.
    sizer : one of :data:`scheduler.settings.SIZERS`.
    budget : of node-time over CPU, for ``packed``.
    """
    forecaster = Forecaster(rungs.target, rungs=rungs, max_workloads=EVERY_WORKLOAD)
    recording = replace(recording, pods=tuple(_as_asked(pod) for pod in recording.pods))
    most: dict[str, int] = {}
    end_s = max((int(p.time_s[-1]) for p in recording.pods if len(p.time_s)), default=0)
    for pod in recording.pods:
        workload = workload_of(pod.spec.namespace, pod.spec.owner)
        if not workload:
            continue
        rows = zip(pod.time_s.tolist(), pod.cpu_millicores.tolist(), pod.memory_bytes.tolist(), strict=True)
        for at, cpu, memory in rows:
            forecaster.add(workload, at, end_s, cpu_millicores=cpu, memory_bytes=memory)
            most[workload] = max(most.get(workload, 0), memory)
    specs = dict.fromkeys(pod.spec for pod in recording.pods)
    asked, facts = asked_of(specs), facts_of(specs)
    while questions := forecaster.questions(asked, facts):
        forecaster.take(ask(rungs, questions))
    forecaster.settle(end_s)
    here = Counter(p.spec for p in recording.pods if p.departure_s < 0)
    kept = frozenset(n.name for n in namespaces if any(key == KEEP_LABEL for key, _ in n.labels))
    restart = _crowding(forecaster, recording, end_s)
    forecasts: Forecasts | None = forecaster.forecasts(end_s)
    scale = 0.0
    if sizer == "packed":
        margin = forecaster.factor(forecaster.rung, MEMORY) or policy.margin
        forecasts, scale = _packed(forecaster, recording, end_s, budget, margin)
        most = {workload: round(memory * margin) for workload, memory in most.items()}
        policy = replace(policy, margin=1.0)
    found = recommend(
        here.items(), forecasts, most_memory=most, kept_namespaces=kept, policy=policy, parts=_parts(recording.pods),
        held=steered.of,
    )  # fmt: skip
    return Advice(tuple(found), rungs.target.name, rungs.source, sizer, scale, restart)


def _crowding(forecaster: Forecaster, recording: Recording, end_s: int) -> tuple[str, ...]:
    """Show the forecaster the nodes of the last day; who is to restart at his request if they were crowded.

    Nothing is recommended then, so that ``--apply`` empties the ConfigMaps, and who restarts asks for what he did before.
    """
    last = end_s // STEP_S
    offered = {n.name: n.amounts.get(CPU, 0) for n in recording.nodes if n.amounts.get(CPU, 0) > 0}
    used = {name: np.zeros(DAY, np.int64) for name in offered}
    now: dict[str, dict[str, float]] = {name: {} for name in offered}
    lowered: dict[str, list[str]] = {name: [] for name in offered}
    for pod in recording.pods:
        if pod.node not in offered or pod.departure_s >= 0 or is_reclaimed(pod.spec) or not len(pod.time_s):
            continue
        step = pod.time_s // STEP_S - (last - DAY + 1)
        recent = (step >= 0) & (pod.cpu_millicores >= 0)
        np.add.at(used[pod.node], step[recent], pod.cpu_millicores[recent])
        now[pod.node][pod.name] = float(pod.cpu_millicores[-1])
        if pod.kept_milli[0] < 1000:
            lowered[pod.node].append(pod.name)
    on_nodes = np.array([used[name] for name in offered], np.int64).reshape(-1, DAY)
    forecaster.crowding.recall(end_s, on_nodes, np.array(list(offered.values()), np.int64))
    forecaster.crowding.settle()
    if not forecaster.crowding.is_crowded:
        return ()
    crowded = [name for name, cpu in offered.items() if is_full(sum(now[name].values()), cpu)]
    return tuple(pod for name in crowded for pod in to_restore(now[name], lowered[name], offered[name]))


def _as_asked(pod: RecordedPod) -> RecordedPod:
    """What the pod's owner asks for: a recommendation is a share of that, also where an earlier one is in force.

    Admission lowers what containers ask for, and rounds up by one; sidecars, init containers and overhead stay.
    """
    amounts, asked = dict(pod.spec.request), []
    for at, (resource, kept) in enumerate(zip((CPU, MEMORY), pod.kept_milli, strict=True)):
        parts = pod.parts[at] if pod.parts else Parts(amounts.get(resource, 0))
        if kept < 1000 and parts.containers:
            parts = replace(parts, containers=(parts.containers - 1) * 1000 // kept)
            amounts[resource] = parts.total(parts.containers)
        asked.append(parts)
    cpu, memory = asked
    return replace(pod, spec=replace(pod.spec, request=tuple(sorted(amounts.items()))), parts=(cpu, memory))


def _parts(pods: Iterable[RecordedPod]) -> dict[str, dict[str, Parts]]:
    """By workload and resource, of the pod that asks for most."""
    found: dict[str, dict[str, Parts]] = {}
    for pod in pods:
        workload = workload_of(pod.spec.namespace, pod.spec.owner)
        if not workload or pod.parts is None:
            continue
        of = found.setdefault(workload, {})
        for resource, parts in zip((CPU, MEMORY), pod.parts, strict=True):
            largest = of.get(resource, parts)
            if parts.total(parts.containers) >= largest.total(largest.containers):
                of[resource] = parts
    return found


def _packed(
    forecaster: Forecaster, recording: Recording, now_s: int, budget: float, memory_margin: float
) -> tuple[Forecasts | None, float]:
    """Sizes of pods that share nodes of the most common size, and the scale found; None while no rung is trusted."""
    shapes = Counter((n.amounts.get(CPU, 0), n.amounts.get(MEMORY, 0)) for n in recording.nodes)
    whole = [shape for shape, _ in shapes.most_common() if min(shape) > 0]
    names, pasts = forecaster.pasts(now_s, DAYS)
    if forecaster.rung == REQUEST or not names or not whole:
        return None, 0.0
    sizes = Sizes.of(pasts, percentile=0.95, memory_margin=memory_margin)
    place = {name: i for i, name in enumerate(names)}
    here = [p.spec for p in recording.pods if p.departure_s < 0 and not is_reclaimed(p.spec)]
    here = [spec for spec in here if workload_of(spec.namespace, spec.owner) in place]
    of_pod = np.array([place[workload_of(spec.namespace, spec.owner)] for spec in here], np.int64)
    asked = np.array([(spec.amount(CPU), spec.amount(MEMORY)) for spec in here], np.float64).reshape(-1, 2).T
    scale = least_scale(pasts, sizes, of_pod, asked, whole[0], budget, seed=0)
    return sizes.forecasts(names, scale, "packed"), scale


async def namespaces_of(client: KubeClient) -> list[NamespaceSpec]:
    """Every namespace with its labels."""
    return [namespace_spec(meta.name, meta.labels) for meta in await listed_namespaces(client)]


def config_maps(
    recommendations: Iterable[Recommendation], left_out: list[str] | None = None
) -> dict[str, dict[str, str]]:
    """Namespace → data of its ConfigMap: ``Deployment.web.cpu`` → thousandths of its containers' request, at most 1000.

    Those that save most come first; whose name is no key of a ConfigMap, or who would make it larger than the API takes,
    is noted in ``left_out``.
    """
    found: dict[str, dict[str, str]] = {}
    size: Counter[str] = Counter()
    for one in recommendations:
        if one.why_kept:
            continue
        namespace, kind, name = one.workload.split("/", 2)
        data = {
            f"{kind}.{name}.{resource}": str(-(-(new - beside) * 1000 // (now - beside)))
            for resource, now, new, beside in (
                (CPU, one.cpu, one.new_cpu, one.beside_cpu),
                (MEMORY, one.memory, one.new_memory, one.beside_memory),
            )
            if new < now
        }
        # The API server keeps each key a second time, among the managed fields.
        needs = sum(2 * len(key) + 30 for key in data)
        if size[namespace] + needs > MOST_BYTES or not all(_KEY.fullmatch(key) for key in data):
            if left_out is not None:
                left_out.append(one.workload)
            continue
        size[namespace] += needs
        found.setdefault(namespace, {}).update(data)
    return found


async def apply(client: Api, data: Mapping[str, Mapping[str, str]], known: Iterable[NamespaceSpec]) -> list[str]:
    """Write one ConfigMap per namespace; one that has nothing to say any more is emptied. The namespaces written.

    Raises
    ------
    PlacementError : the API refused some of them; the others are written all the same.
    """
    written, refused = [], []
    for namespace in sorted({n.name for n in known}):
        wanted = dict(data.get(namespace, {}))
        path = f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}"
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "labels": {"app.kubernetes.io/part-of": "ullage"}},
            "data": wanted,
        }
        query = f"?fieldManager={MANAGER}&force=true"
        try:
            if not wanted and not await _exists(client, path):
                continue
            await client.call("PATCH", path + query, body, content_type="application/apply-patch+yaml")
        except ApiError as error:
            refused.append(f"{namespace} ({error})")
        else:
            written.append(namespace)
    if refused:
        raise PlacementError(
            f"ConfigMap {CONFIG_MAP} was refused in {', '.join(refused)}; written in {', '.join(written) or 'none'}: "
            "see to the rights and quotas there, and run it again"
        )
    return written


async def require_current_policy(client: Api) -> None:
    """Look that the admission policy, if there is one, notes on each pod what it lowered (``ullage.dev/rightsized``).

    Without that note the next run would take lowered requests for what the owner asks for, and lower them once more.

    Raises
    ------
    PlacementError : it does not; the policy was applied from an older version.
    """
    try:
        body = await client.call("GET", f"{POLICIES}/{CONFIG_MAP}")
    except ApiError as error:
        if error.status in (403, 404):  # not ours to read, or not applied yet
            return
        raise
    if RIGHTSIZED.encode() not in body:
        raise PlacementError(
            f"MutatingAdmissionPolicy {CONFIG_MAP} is of an older version and does not note on pods what it lowered, so "
            "that each run would lower them once more; apply components/rightsize of this version again"
        )


async def _exists(client: Api, path: str) -> bool:
    try:
        await client.call("GET", path)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True
