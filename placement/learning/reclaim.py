"""How much of a node may be sold a second time: capacity that is asked for and, by prediction, will not be used.

kube-scheduler and kubelet both enforce that requests fit into what a node offers, so the gap between requests and
usage can only be sold as something else: extended resources (:data:`RECLAIMED_CPU`, :data:`RECLAIMED_MEMORY`) that
batch pods ask for *instead of* cpu and memory. They run at best effort, are throttled first, and are evicted when the
guaranteed pods want their own back (EuroSys'21 and Koordinator's batch resources do the same).

An offer is what remains of the node when a reserve, and the larger of *predicted* and *present* use of everybody else,
are taken away. It grows slowly and shrinks at once. Pure: both the live controller and the simulator size with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from placement.knowledge import Forecasts
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY

RECLAIMED_CPU = "ullage.dev/reclaimed-cpu-milli"
"""Thousandths of a core that others asked for and will not use."""
RECLAIMED_MEMORY = "ullage.dev/reclaimed-memory-mib"
"""MiB of the same kind."""
MIB = 2**20
STEP_MILLICORES = 100
STEP_MIB = 64
"""Offers are rounded down to these: a node object is not patched for a trifle."""


@dataclass(frozen=True)
class ReclaimPolicy:
    """What is kept back, and how fast an offer may grow."""

    keep_share: float = 0.10
    """Of allocatable, never offered."""
    offer_share: float = 0.90
    """Of what is then expected to be free."""
    guard: float = 1.15
    """Present use counts times this: the next minutes may bring more."""
    growth_share: float = 0.10
    """Of allocatable, at most so much more per round."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Capacity offered on one node, in units of the two extended resources."""

    cpu_milli: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """One node without its reclaimed pods: millicores and bytes."""

    allocatable_cpu: int
    allocatable_memory: int
    expected_cpu: int
    """Sum of predicted upper quantiles, of requests where nothing is predicted."""
    expected_memory: int
    used_cpu: int = 0
    """Measured now, of the pods that are measured."""
    used_memory: int = 0
    unmeasured_cpu: int = 0
    """Expected of the others."""
    unmeasured_memory: int = 0


@dataclass(frozen=True, slots=True)
class ReclaimedPod:
    """A pod that runs on reclaimed capacity."""

    uid: str
    cpu_milli: int
    memory_mib: int
    since: int
    """Any number that grows with the time of arrival; the youngest go first."""
    priority: int = 0


def is_reclaimed(spec: PodSpec) -> bool:
    """Whether a pod runs on reclaimed capacity."""
    return spec.amount(RECLAIMED_CPU) > 0 or spec.amount(RECLAIMED_MEMORY) > 0


def expected(spec: PodSpec, forecasts: Forecasts | None, *, keeps: bool = False) -> tuple[int, int]:
    """(millicores, bytes) that a pod is expected to use at most.

    A Guaranteed pod, a pod of a marked namespace (``keeps``), and one without a forecast count with their request;
    nobody counts with more than that, but for a pod that asks for nothing and is predicted all the same.
    """
    cpu, memory = spec.amount(CPU), spec.amount(MEMORY)
    forecast = forecasts.of_pod(spec) if forecasts is not None and not (keeps or spec.guaranteed) else None
    if forecast is None:
        return cpu, memory
    return (min(forecast.cpu, cpu) if cpu else forecast.cpu), (
        min(forecast.memory, memory) if memory else forecast.memory
    )


def offer(load: Load, before: Offer, policy: ReclaimPolicy) -> Offer:
    """What the node offers now, after having offered ``before``."""
    cpu = _room(load.allocatable_cpu, load.expected_cpu, load.used_cpu * policy.guard + load.unmeasured_cpu, policy)
    memory = _room(
        load.allocatable_memory, load.expected_memory, load.used_memory * policy.guard + load.unmeasured_memory, policy
    )
    most_cpu = before.cpu_milli + policy.growth_share * load.allocatable_cpu
    most_memory = before.memory_mib + policy.growth_share * load.allocatable_memory / MIB
    return Offer(
        int(min(cpu, most_cpu)) // STEP_MILLICORES * STEP_MILLICORES,
        int(min(memory / MIB, most_memory)) // STEP_MIB * STEP_MIB,
    )


def _room(allocatable: int, expected_use: int, present: float, policy: ReclaimPolicy) -> float:
    return max(0.0, allocatable * (1 - policy.keep_share) - max(expected_use, present)) * policy.offer_share


def to_evict(pods: Iterable[ReclaimedPod], offered: Offer) -> list[str]:
    """Who must go so that the rest fits into the offer: lowest priority first, then the youngest.

    A pod whose leaving would not help with what is short stays.
    """
    listed = sorted(pods, key=lambda p: (p.priority, -p.since, p.uid))
    short_cpu = sum(p.cpu_milli for p in listed) - offered.cpu_milli
    short_memory = sum(p.memory_mib for p in listed) - offered.memory_mib
    gone = []
    for pod in listed:
        if short_cpu <= 0 and short_memory <= 0:
            break
        if (short_cpu > 0 and pod.cpu_milli) or (short_memory > 0 and pod.memory_mib):
            gone.append(pod.uid)
            short_cpu -= pod.cpu_milli
            short_memory -= pod.memory_mib
    return gone
