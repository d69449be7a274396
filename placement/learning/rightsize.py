"""What a workload should ask for, by prediction, and what that is worth: recommendations, never orders.

A recommendation is the upper quantile with a margin, not below a floor, and never above the present request. Memory
does not go below the largest sample ever recorded with the margin (a start-up peak or an out-of-memory kill is one),
because too little memory kills. Guaranteed pods and marked namespaces keep their requests. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from placement.knowledge import Forecast, Forecasts, workload_of
from placement.learning.prediction import YOUNG
from placement.learning.siblings import SIBLINGS
from placement.pods import PodSpec
from placement.recording import Parts
from placement.resources import CPU, MEMORY

MIB = 2**20


@dataclass(frozen=True)
class RightsizePolicy:
    """How careful to be."""

    margin: float = 1.15
    """On top of the upper quantile; VPA's own."""
    least_cpu: int = 25
    """Millicores; VPA's floor of a pod."""
    least_memory: int = 64 * MIB
    worth_share: float = 0.05
    """A change below this share of the request is not recommended."""


@dataclass(frozen=True)
class Recommendation:
    """For one pod of a workload: millicores and bytes, now and recommended (never more than now)."""

    workload: str
    replicas: int
    cpu: int
    memory: int
    new_cpu: int
    new_memory: int
    rung: str
    age_s: int
    why_kept: str = ""
    """Why nothing is changed; empty if something is."""
    beside_cpu: int = 0
    beside_memory: int = 0
    """Of the amounts before and after, what is not its containers' and stays as it is."""
    held: str = ""
    """Why one of the two is not changed, where the other is."""

    @property
    def saved_cpu(self) -> int:
        """Millicores over all replicas."""
        return (self.cpu - self.new_cpu) * self.replicas

    @property
    def saved_memory(self) -> int:
        """Bytes over all replicas."""
        return (self.memory - self.new_memory) * self.replicas


def recommend(
    pods: Iterable[tuple[PodSpec, int]],
    forecasts: Forecasts | None,
    *,
    most_memory: Mapping[str, int] | None = None,
    kept_namespaces: frozenset[str] = frozenset(),
    policy: RightsizePolicy | None = None,
    parts: Mapping[str, Mapping[str, Parts]] | None = None,
    held: Callable[[str], Mapping[str, str]] = lambda workload: {},
) -> list[Recommendation]:
    """One recommendation per workload, the largest saving of CPU first.

    Parameters
    ----------
    pods : classes with how many pods of each run.
    most_memory : by workload, the largest memory sample ever recorded, bytes.
    parts : by workload and resource, what is not its containers'; missing = nothing.
    held : of a workload, resources that must not be lowered, and why.
    """
    rules = policy or RightsizePolicy()
    specs: dict[str, list[tuple[PodSpec, int]]] = {}
    for spec, number in pods:
        workload = workload_of(spec.namespace, spec.owner)
        if workload and number:
            specs.setdefault(workload, []).append((spec, number))
    found = []
    for workload, classes in specs.items():
        forecast = None if forecasts is None else forecasts.of.get(workload)
        peak = (most_memory or {}).get(workload, 0)
        of = (parts or {}).get(workload, {})
        bounds = _Bounds(peak, of.get(CPU, Parts(0)), of.get(MEMORY, Parts(0)), held(workload))
        found.append(_one(workload, classes, forecast, bounds, kept_namespaces, rules))
    return sorted(found, key=lambda r: (-r.saved_cpu, -r.saved_memory, r.workload))


@dataclass(frozen=True)
class _Bounds:
    """What a workload's requests must not fall below, and which must not fall."""

    peak: int
    """Bytes."""
    cpu: Parts
    memory: Parts
    held: Mapping[str, str]


def _one(
    workload: str,
    classes: list[tuple[PodSpec, int]],
    forecast: Forecast | None,
    bounds: _Bounds,
    kept: frozenset[str],
    rules: RightsizePolicy,
) -> Recommendation:
    replicas = sum(number for _, number in classes)
    cpu = max(spec.amount(CPU) for spec, _ in classes)
    memory = max(spec.amount(MEMORY) for spec, _ in classes)
    rung, age_s = (forecast.rung, forecast.age_s) if forecast is not None else ("request", 0)
    why = _why_kept(classes, forecast, kept)
    if why or forecast is None:
        return Recommendation(workload, replicas, cpu, memory, cpu, memory, rung, age_s, why)
    new_cpu, new_memory = cpu, memory
    if CPU not in bounds.held:
        least = bounds.cpu.total(rules.least_cpu)
        new_cpu = _lowered(cpu, forecast.cpu * rules.margin, least, rules.worth_share)
    if MEMORY not in bounds.held:
        least = bounds.memory.total(rules.least_memory)
        wanted = max(forecast.memory, bounds.peak) * rules.margin
        new_memory = _lowered(memory, wanted, least, rules.worth_share, step=MIB)
    held = "; ".join(dict.fromkeys(bounds.held.values()))
    why = "" if new_cpu < cpu or new_memory < memory else held or "fits as it is"
    return Recommendation(
        workload, replicas, cpu, memory, new_cpu, new_memory, rung, age_s, why, bounds.cpu.beside, bounds.memory.beside,
        "" if why else held,
    )  # fmt: skip


def _why_kept(classes: list[tuple[PodSpec, int]], forecast: Forecast | None, kept: frozenset[str]) -> str:
    if classes[0][0].namespace in kept:
        return "its namespace keeps requests"
    if any(spec.guaranteed for spec, _ in classes):
        return "Guaranteed"
    if forecast is None or forecast.rung == "request":
        return "no prediction that is trusted"
    if forecast.rung in (YOUNG, SIBLINGS):
        return "less than a day of its own history"
    return ""


def _lowered(asked: int, wanted: float, least: int, worth_share: float, *, step: int = 1) -> int:
    """The smaller of what is asked and what is wanted, if that is worth a change."""
    new = max(least, -(-int(wanted + 0.999) // step) * step)
    return new if asked and new <= asked * (1 - worth_share) else asked
