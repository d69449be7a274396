"""Reader for ``ullage-log``: what a live extender wrote down, as a trace that any strategy can be asked about.

A pod arrives when it was first assumed or bound and departs when it was released. Nodes known before the first pod are
the fleet; later changes of the fleet become node events. Pods that were there at the start arrive at second 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from placement import log
from placement.log import Event
from placement.log_lines import read_log
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from simulator.trace import NEVER, Manifest, NodeEvent, Trace


@dataclass
class _Story:
    """What the events told so far."""

    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    pods: dict[str, tuple[PodSpec, int]] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    changes: list[NodeEvent] = field(default_factory=list)

    def tell(self, event: Event, time_s: int) -> None:
        """One event at ``time_s`` since the start of the log."""
        if event.kind == log.NODE_ADDED:
            self._joins(event.subject, event.detail, time_s)
        elif event.kind == log.NODE_REMOVED:
            self._leaves(event.subject, time_s)
        elif event.kind in (log.POD_ASSUMED, log.POD_BOUND) and event.detail is not None:
            self.pods.setdefault(event.subject, (event.detail, time_s))
            self.ended.pop(event.subject, None)
        elif event.kind in (log.POD_RELEASED, log.POD_FORGOTTEN):
            self.ended[event.subject] = time_s

    def _joins(self, name: str, node: NodeSpec, time_s: int) -> None:
        if self.pods and name not in self.nodes:
            self.changes.append(NodeEvent(0, "remove", name))  # the fleet holds it; it is not there at the start
        if self.pods:
            self.changes.append(NodeEvent(time_s, "add", name))
        self.nodes.setdefault(name, node)

    def _leaves(self, name: str, time_s: int) -> None:
        if self.pods:
            self.changes.append(NodeEvent(time_s, "remove", name))
        else:
            self.nodes.pop(name, None)


def read_recorded(folder: Path) -> Trace:
    """The newest run in the folder of ``log.folder``.

    Raises
    ------
    ConfigError : there is no log, or it is damaged. TraceError : it contradicts itself.
    """
    _, events, num_lost = read_log(folder)
    story = _Story()
    start = events.events[0].time_s if len(events) else 0
    for event in events:
        story.tell(event, event.time_s - start)
    pods = [(uid, spec, at, story.ended.get(uid, NEVER)) for uid, (spec, at) in story.pods.items()]
    name = folder.resolve().name
    trace = Trace.of(name, story.nodes.values(), pods, failures=sorted(story.changes))
    notes = ["made from a live log: arrivals are first reservations, waiting before them is not in it"]
    notes += [f"{num_lost} events were lost by the recorder"] if num_lost else []
    return trace.but(manifest=Manifest(name, "ullage-log", notes=tuple(notes)), events=tuple(events))
