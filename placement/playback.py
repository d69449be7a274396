"""Feeding a log back: the ledger it describes, and whether every decision in it would be made again.

A bug report is a log. :func:`rebuild` gives the state at its end; :func:`verify` also asks each recorded question
again, of the strategy whose digest it carries, and compares node and devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from placement import log
from placement.errors import StateError
from placement.log import Asked, Event, EventLog
from placement.resources import BoolArray
from placement.state import ClusterState
from placement.strategy import Strategy


class Difference(NamedTuple):
    """A decision that came out otherwise than recorded."""

    sequence: int
    pod: str
    recorded: tuple[str, int]
    """Node name and device mask in the log."""
    repeated: tuple[str, int]


def apply(state: ClusterState, event: Event) -> None:
    """Make one recorded change; decisions, and ends of pods that hold no room, change nothing.

    Raises
    ------
    StateError : the event contradicts the ledger, or its kind is unknown to this release.
    """
    time_s, kind, subject, detail = event.time_s, event.kind, event.subject, event.detail
    node, devices = event.node, event.devices
    if kind == log.NODE_ADDED:
        state.add_node(detail, time_s=time_s)
    elif kind == log.NODE_UPDATED:
        state.update_node(detail, time_s=time_s)
    elif kind == log.NODE_REMOVED:
        state.remove_node(subject, time_s=time_s)
    elif kind == log.NAMESPACE:
        state.set_namespace(detail, time_s=time_s)
    elif kind == log.POD_ASSUMED:
        state.assume(subject, detail, node, devices, time_s=time_s)
    elif kind == log.POD_BOUND and detail is None:
        state.confirm(subject, time_s=time_s)
    elif kind == log.POD_FOUND:
        state.bind(subject, detail, node, devices, time_s=time_s, was_there=True)
    elif kind == log.POD_BOUND:
        state.bind(subject, detail, node, devices, time_s=time_s)
    elif kind == log.POD_UPDATED:
        state.update_pod(subject, detail, devices, time_s=time_s)
    elif kind == log.POD_FORGOTTEN:
        state.forget(subject, time_s=time_s)
    elif kind == log.POD_RELEASED:
        state.release(subject, time_s=time_s)
    elif kind == log.POD_STRANDED:
        state.strand(subject, time_s=time_s)
    elif kind == log.KNOWLEDGE:
        state.learn(detail, time_s=time_s)
    elif kind not in (log.DECISION, log.POD_ENDED):
        raise StateError(f"event kind {kind!r} is unknown to this release; read the log with the one that wrote it")


def rebuild(events: Iterable[Event]) -> ClusterState:
    """The ledger that the log describes."""
    state = ClusterState(events=EventLog())
    for event in events:
        apply(state, event)
    return state


def verify(events: Iterable[Event], strategies: Iterable[Strategy]) -> Iterator[Difference]:
    """Repeat every decision of a log; yields those that differ, so an empty iterator is the good answer.

    Decisions whose strategy is not among ``strategies`` raise :class:`StateError`, so that nothing passes unseen.
    """
    by_digest = {strategy.digest: strategy for strategy in strategies}
    state = ClusterState(events=EventLog())
    for sequence, event in enumerate(events):
        if event.kind != log.DECISION:
            apply(state, event)
            continue
        asked: Asked = event.detail
        strategy = by_digest.get(asked.strategy)
        if strategy is None:
            raise StateError(f"event {sequence}: strategy {asked.strategy} is not at hand; pass its TOML")
        decision = strategy.decide(state.snapshot(), asked.spec, offered(state, asked), asked.draw)
        recorded, repeated = (event.node, event.devices), (decision.node, decision.devices)
        if recorded != repeated:
            yield Difference(sequence, event.subject, recorded, repeated)


def offered(state: ClusterState, asked: Asked) -> BoolArray | None:
    """``(N,)`` bool: the nodes that a question was about; None = every node."""
    if asked.candidates is None:
        return None
    mask = np.zeros(state.num_rows, np.bool_)
    mask[[state.row_of[name] for name in asked.candidates if name in state.row_of]] = True
    return mask
