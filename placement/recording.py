"""A cluster as it was recorded: nodes, pods, and what they used. The live side fills it, the simulator reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import IntArray

GRID_S = 300
"""Between samples."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pod's request for one resource is made of: the larger of ``containers + beside`` and ``least``."""

    containers: int
    """Of its containers, which right-sizing lowers."""
    beside: int = 0
    """Of sidecars (init containers that go on running) and the runtime's overhead."""
    least: int = 0
    """While it starts (init containers), or for the pod as a whole: lower it cannot be made."""

    def total(self, containers: int) -> int:
        """With so much for its containers."""
        return max(containers + self.beside, self.least)


@dataclass(frozen=True)
class RecordedPod:
    """One pod and its samples.

    ``time_s`` is ``(S,)`` unix seconds on the five-minute grid, ascending; ``cpu_millicores`` and ``memory_bytes``
    are ``(S,)`` int64, −1 where nothing was measured.
    """

    name: str
    """``namespace/name``; ``namespace/name#1`` of the first that had a name which others have had since."""
    spec: PodSpec
    arrival_s: int
    """Unix time when it began to run (its kubelet took it), or was created while it waits: a life has no waiting in it."""
    departure_s: int
    """Unix time of its last sample for a pod that is gone; −1 for one that runs."""
    time_s: IntArray = field(repr=False)
    cpu_millicores: IntArray = field(repr=False)
    memory_bytes: IntArray = field(repr=False)
    kept_milli: tuple[int, int] = (1000, 1000)
    """Thousandths of what the owner asks of CPU and memory that right-sizing left of it; ``spec`` has what remains."""
    node: str = ""
    """Where it runs; empty for one that is gone or waits."""
    parts: tuple[Parts, Parts] | None = None
    """Of CPU and memory, as they are now; None = all is its containers'."""


@dataclass(frozen=True)
class Recording:
    """See the module. ``notes`` say what was left out, with counts."""

    name: str
    nodes: tuple[NodeSpec, ...]
    pods: tuple[RecordedPod, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def first_s(self) -> int:
        """Unix time when it begins: a step before the first sample, or with the first arrival where there is none."""
        measured = [int(pod.time_s[0]) for pod in self.pods if len(pod.time_s)]
        return min(measured) - GRID_S if measured else min(pod.arrival_s for pod in self.pods)
