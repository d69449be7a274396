"""What a decision may read of a pod.

A pod is an identity (a UID and a name) and a :class:`PodSpec`. The spec holds everything that filters
and scorers read and nothing that tells two replicas apart, but that one is being deleted, so that equal
specs are one *class*: masks and scores are computed once per class, never once per pod.

All values are immutable and hashable. Selectors keep Kubernetes' own meaning; they are compiled to masks
over label columns elsewhere and never interpreted node by node.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from placement.errors import ConfigError
from placement.resources import CPU, DEVICE_MILLI, GPU_SHARE, MAX_AMOUNT, MEMORY

Labels = tuple[tuple[str, str], ...]
"""Sorted (key, value) pairs."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a selector: ``In NotIn Exists DoesNotExist Gt Lt``."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """Node selector term: all expressions over labels and all over fields (``metadata.name``) hold.

    A term with neither matches nothing, as in Kubernetes.
    """

    expressions: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class PodTerm:
    """Inter-pod (anti-)affinity term. ``selector`` None matches nothing, empty matches every pod.

    ``matchLabelKeys`` and ``mismatchLabelKeys`` are folded into ``selector`` when the pod is read.
    ``namespaces`` and ``namespace_selector`` both empty (None) means the pod's own namespace.
    """

    topology_key: str
    selector: tuple[Requirement, ...] | None
    namespaces: tuple[str, ...] = ()
    namespace_selector: tuple[Requirement, ...] | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """Topology spread constraint; ``hard`` is ``DoNotSchedule``. ``matchLabelKeys`` is folded into ``selector``."""

    topology_key: str
    max_skew: int
    hard: bool
    selector: tuple[Requirement, ...] | None
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False
    is_default: bool = False
    """The scheduler's own default, not the pod's wish: nodes without the key are scored too."""


@dataclass(frozen=True, slots=True)
class Toleration:
    """Taint toleration: ``Equal Exists Gt Lt``. An empty key with ``Exists`` tolerates everything, an empty effect every
    effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that the pod occupies; ``0.0.0.0`` clashes with every address."""

    port: int
    protocol: str = "TCP"
    address: str = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class WeightedNodeTerm:
    """Preferred node affinity, weight 1–100."""

    weight: int
    term: NodeTerm


@dataclass(frozen=True, slots=True)
class WeightedPodTerm:
    """Preferred inter-pod affinity, weight 1–100, negative for anti-affinity."""

    weight: int
    term: PodTerm


@dataclass(frozen=True, slots=True)
class NodeRules:
    """Rules that depend on the node alone: one mask over label columns."""

    node_selector: Labels = ()
    affinity: tuple[NodeTerm, ...] | None = None
    """Required terms, any of which must hold; None = no required affinity, () matches nothing."""
    preferred: tuple[WeightedNodeTerm, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    node_name: str = ""
    volume_affinity: tuple[tuple[NodeTerm, ...], ...] = ()
    """Required terms of bound volumes (zone, local), one tuple per volume; all volumes must agree."""

    @property
    def number(self) -> int:
        """How many terms there are."""
        return sum(map(len, (self.affinity or (), self.preferred, *self.volume_affinity)))


@dataclass(frozen=True, slots=True)
class PodRules:
    """Rules that depend on other pods."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    preferred: tuple[WeightedPodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    max_per_node: int = 0
    """Ours: at most so many pods of the same namespace and owner on one node; 0 = no limit."""

    @property
    def number(self) -> int:
        """How many rules there are."""
        return sum(map(len, (self.affinity, self.anti_affinity, self.preferred, self.spread, self.host_ports)))


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """``count`` devices with ``milli`` thousandths free on each; below 1000 only with count 1.

    ``models`` empty accepts any model.

    Raises
    ------
    ConfigError : no device, a share outside of 1 to 1000, or shares of several devices.
    """

    count: int
    milli: int = DEVICE_MILLI
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.milli <= DEVICE_MILLI or (self.count > 1 and self.milli != DEVICE_MILLI):
            raise ConfigError(
                f"GPU request of {self.count} × {self.milli}/1000 is not possible; "
                "ask for whole devices, or for a share (1–1000) of one"
            )

    @property
    def total_milli(self) -> int:
        """Thousandths of a GPU over all devices."""
        return self.count * self.milli


_PLAIN = frozenset({str, int, bool, type(None)})


def _held_bytes(value: Any) -> int:
    """Memory that a value takes with all that is within it; what is shared counts each time."""
    held, kind = sys.getsizeof(value), type(value)
    if kind is tuple:
        return held + sum(map(_held_bytes, value))
    if kind in _PLAIN:
        return held
    return held + sum([_held_bytes(getattr(value, name)) for name in getattr(kind, "__dataclass_fields__", ())])


@dataclass(frozen=True)
class PodSpec:
    """One class of pods: all that a decision reads, in kube-scheduler's integers (millicores, bytes, counts).

    Raises
    ------
    ConfigError : an amount is below 0 or not below 2^62, or ``gang_size`` is below 0.
    """

    request: tuple[tuple[str, int], ...]
    """Effective requests, sorted by resource name, without ``pods`` (always 1) and without GPU shares."""
    gpu: GpuRequest | None = None
    namespace: str = "default"
    owner: str = ""
    """Controlling owner as ``Kind/name``; empty for a bare pod."""
    labels: Labels = ()
    priority: int = 0
    preempts: bool = True
    """False for ``preemptionPolicy: Never``."""
    nonzero_cpu: int = -1
    """Millicores that kube-scheduler's scores assume; -1 = derive from the request."""
    nonzero_memory: int = -1
    node_rules: NodeRules = NodeRules()
    pod_rules: PodRules = PodRules()
    images: tuple[str, ...] = ()
    """Images of all containers and mounted ones, normalised, with repetition."""
    num_containers: int = 1
    """Containers, init containers and mounted images: the divisor of kube-scheduler's image locality thresholds."""
    unmodelled: tuple[str, ...] = ()
    """Why this pod must never be moved or nominated (volumes, claims and masses of rules that we do not model)."""
    guaranteed: bool = False
    """Quality of service class Guaranteed: requests are never lowered."""
    gang_size: int = 0
    """Pods that come together with this one, itself counted, if it says so; 0 = it does not."""
    gang: str = ""
    """Its gang where something else than a label names it (:mod:`placement.gangs`); empty = its labels say."""
    leaving: bool = False
    """It is being deleted: it holds all it has, but topology spread counts it no more."""

    def __post_init__(self) -> None:
        for name, amount in self.request:
            if not 0 <= amount < MAX_AMOUNT:
                raise ConfigError(f"request of {amount} {name} is out of range; requests are >= 0 and below 2^62")
        if self.gang_size < 0:
            raise ConfigError(f"gang_size is {self.gang_size}; it is a number of pods, or 0 where it is not known")

    @property
    def anew(self) -> PodSpec:
        """Another pod like it, which has just come."""
        return replace(self, leaving=False) if self.leaving else self

    @cached_property
    def _hash(self) -> int:
        fields = (self.request, self.gpu, self.namespace, self.owner, self.labels, self.priority, self.node_rules)
        return hash((*fields, self.pod_rules, self.images, self.leaving))

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: all but the hash, which holds in this process only."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @cached_property
    def held_bytes(self) -> int:
        """Memory that it takes; what is remembered of it takes two to six times as much. A pod has room for megabytes."""
        return _held_bytes(self)

    @cached_property
    def amounts(self) -> dict[str, int]:
        """Requests by resource name, GPU shares in total included, ``pods`` not."""
        amounts = dict(self.request)
        if self.gpu is not None:
            amounts[GPU_SHARE] = amounts.get(GPU_SHARE, 0) + self.gpu.total_milli
        return amounts

    @cached_property
    def main_amounts(self) -> tuple[int, int, int]:
        """Millicores, bytes, thousandths of a GPU: what measurements add up."""
        return self.amount(CPU), self.amount(MEMORY), self.amount(GPU_SHARE)

    def amount(self, resource: str) -> int:
        """Request of one resource, 0 when it does not ask."""
        return self.amounts.get(resource, 0)

    @property
    def scored_cpu(self) -> int:
        """Millicores that kube-scheduler's LeastAllocated counts."""
        return self.amount(CPU) if self.nonzero_cpu < 0 else self.nonzero_cpu

    @property
    def scored_memory(self) -> int:
        """Bytes that kube-scheduler's LeastAllocated counts."""
        return self.amount(MEMORY) if self.nonzero_memory < 0 else self.nonzero_memory


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod at the edge: who it is, and its class."""

    uid: str
    name: str
    spec: PodSpec = field(repr=False)
