"""Who waits for room: kube-scheduler's order and back-off, with one entry for all pods of a class.

Identical pods share one attempt: the first that finds no room speaks for its class. Without a change that may make room
there is no use in another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from simulator.gangs import Unit, priority_of

BACKOFF_S = 1
MAX_BACKOFF_S = 10
"""kube-scheduler's ``podInitialBackoffSeconds`` and ``podMaxBackoffSeconds``."""
NEVER = -1


def backoff_s(attempts: int) -> int:
    """Seconds before a pod that was tried in vain so often is tried again."""
    return min(BACKOFF_S << min(attempts - 1, 8), MAX_BACKOFF_S)


@dataclass(slots=True)
class Waiting:
    """Pods of one class, or gangs of one make-up, that found no room: oldest first."""

    pods: deque[int] = field(default_factory=deque)
    """For gangs, the first pod of each."""
    came: deque[int] = field(default_factory=deque)
    """What ``failures`` was before each of them came."""
    failures: int = 0
    """Attempts in vain, each of which counts for all who waited then."""
    ready_s: int = 0
    seen: int = 0
    """Changes that made room before the last attempt."""

    def join(self, pod: int) -> None:
        """Wait behind those who do; whoever is first speaks for the class."""
        self.pods.append(pod)
        self.came.append(self.failures - (len(self.pods) > 1))  # the last attempt was his, too

    def leave(self) -> None:
        """The first has found room."""
        self.pods.popleft()
        self.came.popleft()

    def back_off(self, time_s: int, rooms: int) -> None:
        """The first was tried in vain: wait as long as kube-scheduler lets a pod that was tried so often."""
        self.failures += 1
        self.seen = rooms
        self.ready_s = time_s + backoff_s(self.failures - self.came[0])


class Pending:
    """All who wait, by class or make-up of gang."""

    def __init__(self) -> None:
        self.rooms = 0
        """Changes so far that may have made room."""
        self._waiting: dict[Unit, Waiting] = {}

    def __iter__(self) -> Iterator[tuple[Unit, Waiting]]:
        return ((unit, waiting) for unit, waiting in self._waiting.items() if waiting.pods)

    def __bool__(self) -> bool:
        return any(waiting.pods for waiting in self._waiting.values())

    def add(self, unit: Unit, pod: int) -> Waiting:
        """Wait, not tried yet."""
        waiting = self._waiting.setdefault(unit, Waiting())
        waiting.join(pod)
        return waiting

    def join(self, unit: Unit, pod: int, time_s: int) -> None:
        """Wait after an attempt in vain."""
        waiting = self.add(unit, pod)
        if len(waiting.pods) == 1:  # else an evicted pod joins those of its class, and waits as long as they do
            waiting.back_off(time_s, self.rooms)

    def join_behind(self, unit: Unit, pod: int) -> bool:
        """Wait behind others of the class, if there are any: it has no room, so that another attempt would find none."""
        waiting = self._waiting.get(unit) if self._waiting else None
        if waiting is None or not waiting.pods:
            return False
        waiting.join(pod)
        return True

    def soonest_s(self) -> int:
        """When the first class may be tried that has not been since something changed; NEVER = there is none."""
        rooms = self.rooms
        return min((w.ready_s for w in self._waiting.values() if w.pods and w.seen < rooms), default=NEVER)

    def ready(self, time_s: int) -> list[tuple[Unit, Waiting]]:
        """Classes that may be tried, by urgency."""
        entries, rooms = self._waiting.items(), self.rooms
        return _by_urgency((u, w) for u, w in entries if w.pods and w.ready_s <= time_s and w.seen < rooms)

    def by_urgency(self) -> list[tuple[Unit, Waiting]]:
        """In the order of kube-scheduler's queue: by priority, then by age."""
        return _by_urgency(self)


def _by_urgency(entries: Iterable[tuple[Unit, Waiting]]) -> list[tuple[Unit, Waiting]]:
    return sorted(entries, key=lambda entry: (-priority_of(entry[0]), entry[1].pods[0]))
