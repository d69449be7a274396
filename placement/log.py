"""The ordered event log: the one record of everything that changed and everything that was decided.

Live, the ledger writes it; a simulation writes the same one. Feeding a log to :func:`placement.playback.rebuild` gives the
ledger back; feeding it to :func:`placement.playback.verify` also repeats every decision and compares node and devices. The
table is the trace format's event table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

NODE_ADDED = "node_added"
NODE_UPDATED = "node_updated"
NODE_REMOVED = "node_removed"
NAMESPACE = "namespace"
POD_ASSUMED = "pod_assumed"
POD_BOUND = "pod_bound"
POD_FOUND = "pod_found"
"""Bound, and nobody knows since when: before the log began, or before its node was gone for a while."""
POD_UPDATED = "pod_updated"
"""Of another class, or on other devices, than was known; its life goes on."""
POD_FORGOTTEN = "pod_forgotten"
POD_RELEASED = "pod_released"
"""It ended, and its room is free."""
POD_STRANDED = "pod_stranded"
"""Its node is gone, and its room with it. It may be found again when the node comes back; else ``pod_ended`` follows."""
POD_ENDED = "pod_ended"
"""A stranded pod ended; it holds no room."""
KNOWLEDGE = "knowledge"
DECISION = "decision"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One entry; its position in the log is its sequence number."""

    time_s: int
    kind: str
    subject: str
    """Pod UID, node name, namespace, or knowledge digest."""
    node: str = ""
    """Node name for pods; empty for a decision that found none."""
    devices: int = 0
    """Bit mask of the device indices taken."""
    detail: Any = None
    """NodeSpec, NamespaceSpec, PodSpec, Knowledge, or :class:`Asked` for a decision."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """The question behind a decision: enough to ask it again."""

    strategy: str
    """Digest of the strategy."""
    spec: Any
    """The pod's :class:`~placement.pods.PodSpec`."""
    draw: int
    """The random number that settled ties."""
    candidates: Iterable[str] | None
    """Names that were offered; None = every node."""


class EventLog:
    """Append-only list of :class:`Event`. Appending never fails and never reorders."""

    __slots__ = ("append", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.append: Callable[[Event], None] = self.events.append

    def also_tell(self, hear: Callable[[Event], None]) -> None:
        """Tell somebody else of every event from now on, after it was kept. It must not fail, and be quick."""
        keep = self.append

        def append(event: Event) -> None:
            keep(event)
            hear(event)

        self.append = append

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def digest(self) -> str:
        """SHA-256 over who was placed where, in order: equal logs chose alike."""
        digest = hashlib.sha256()
        for event in self.events:
            digest.update(f"{event.time_s}|{event.kind}|{event.subject}|{event.node}|{event.devices}\n".encode())
        return digest.hexdigest()[:16]
