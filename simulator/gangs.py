"""Gangs: pods that start together or not at all, as a PodGroup whose ``minMember`` is all of them.

A gang is tried when its last pod has arrived: its pods are decided one after another on a ledger that counts the earlier
ones as assumed, and all are confirmed, or all forgotten. Nothing is held for a gang that waits, and a gang preempts
nobody. Once it runs, its pods live and die alone: one that loses its node comes back by itself, because those that still
run count as members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from placement.pods import PodSpec
from placement.resources import IntArray

Unit = PodSpec | tuple[PodSpec, ...]
"""What waits for room: a class of pods, or the make-up of a gang. Equal units share one attempt."""
INCOMPLETE = "a gang whose other pods never came"
NO_ROOM = "no room for all pods of the gang at once"


class Gangs:
    """Who belongs to whom, and who is here already."""

    def __init__(self, gang: IntArray) -> None:
        self.of: list[int] = gang.tolist()
        self._members: dict[int, list[int]] = {}
        for pod, number in enumerate(self.of):
            if number >= 0:
                self._members.setdefault(number, []).append(pod)
        self._missing = {number: len(members) for number, members in self._members.items()}

    def __bool__(self) -> bool:
        return bool(self._members)

    def join(self, pod: int) -> list[int]:
        """A pod arrives: all pods of its gang if it is the last, else none."""
        gang = self.of[pod]
        self._missing[gang] -= 1
        return [] if self._missing[gang] else self._members[gang]

    def is_whole(self, pod: int) -> bool:
        """Whether all pods of a pod's gang are here."""
        return not self._missing[self.of[pod]]

    def let_go(self, pod: int) -> None:
        """A pod is alone from now on."""
        if self.of[pod] >= 0:
            self._members[self.of[pod]].remove(pod)
            self.of[pod] = -1

    def with_pod(self, pod: int) -> list[int]:
        """All pods of a pod's gang, by arrival."""
        return self._members[self.of[pod]]

    def all(self) -> Iterator[list[int]]:
        """The pods of every gang."""
        return iter(self._members.values())

    def incomplete(self, num_seen: int) -> Iterator[int]:
        """Pods among the first ``num_seen`` that still wait for the rest of their gang."""
        for number, missing in self._missing.items():
            if missing:
                yield from (pod for pod in self._members[number] if pod < num_seen)


def classes_of(unit: Unit) -> dict[PodSpec, int]:
    """How many pods of each class a unit has."""
    return {unit: 1} if isinstance(unit, PodSpec) else Counter(unit)


def priority_of(unit: Unit) -> int:
    """A gang is as urgent as its most urgent pod."""
    return unit.priority if isinstance(unit, PodSpec) else max(spec.priority for spec in unit)
