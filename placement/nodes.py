"""What a decision may read of a node.

A :class:`NodeSpec` is the node as its owner declared it: what it offers, its labels, taints, devices and
price. What runs on it is the ledger's business (:mod:`placement.state`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from placement.errors import ConfigError
from placement.pods import Labels
from placement.resources import DEVICE_MILLI, GPU_SHARE, MAX_AMOUNT, MAX_DEVICES, PODS

DEFAULT_MAX_PODS = 110
"""The kubelet's default; used where a trace names no limit."""


@dataclass(frozen=True, slots=True)
class Taint:
    """``effect`` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True)
class NodeSpec:
    """One node: all that a decision reads, in kube-scheduler's integers (millicores, bytes, counts).

    Raises
    ------
    ConfigError : an amount is out of range, or there are more devices than a bit mask holds.
    """

    name: str
    allocatable: tuple[tuple[str, int], ...]
    """What pods may ask for, sorted by resource name, system reserve already taken off; may include ``pods``."""
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    num_gpus: int = 0
    gpu_model: str = ""
    images: tuple[tuple[str, int], ...] = ()
    """(normalised image name, bytes): images present, for image locality."""
    shape: str = ""
    """Name in the price book; empty when the node is not for sale."""
    spot: bool = False

    def __post_init__(self) -> None:
        for name, amount in self.allocatable:
            if not 0 <= amount < MAX_AMOUNT:
                raise ConfigError(
                    f"node {self.name}: allocatable {name}={amount} is out of range; it must be >= 0 and below 2^62"
                )
        if not 0 <= self.num_gpus <= MAX_DEVICES:
            raise ConfigError(f"node {self.name}: has {self.num_gpus} GPUs, must be 0 to {MAX_DEVICES}")

    @cached_property
    def amounts(self) -> dict[str, int]:
        """Allocatable by resource name, with ``pods`` and the total of GPU shares filled in."""
        amounts = {PODS: DEFAULT_MAX_PODS, **dict(self.allocatable)}
        if self.num_gpus:
            amounts[GPU_SHARE] = self.num_gpus * DEVICE_MILLI
        return amounts


@dataclass(frozen=True, slots=True)
class NamespaceSpec:
    """A namespace's labels, which inter-pod terms may select by."""

    name: str
    labels: Labels = field(default=())
