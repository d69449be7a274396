"""Pods behind a gate that gather to be planned together: when a batch is closed, who is in it, who is tried again and when.

One home for live batches and for those of a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Generic, TypeVar

QUIET_SHARE = 0.5
"""Of the window: after so long without a newcomer nobody more is waited for; controllers make 20 pods a second."""

ROUNDING = 1e-6
"""Of a window."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Terms:
    """What pods behind a gate can count on, in seconds; each is a setting ``plan.*`` of the extender, with this default."""

    window_s: float = 0.2
    """How long the oldest pod waits for others before a batch is solved."""
    time_s: float = 0.2
    """Of the solver, to improve on the first placement."""
    max_pods: int = 500
    """Per batch; a gang is never cut."""
    gate_deadline_s: float = 60
    """A gate that was not lifted by then goes without a plan …"""
    gang_deadline_s: float = 600
    """… and those of gangs by then."""


class Gathering(Generic[Key]):
    """Who waits behind a gate. Times are of any one clock.

    A batch is closed a window after its first pod came, or when nobody came for :data:`QUIET_SHARE` of it. Pods for which
    there was no place, and gangs that are not complete, close none: they are tried with the next batch, after the others,
    whom they would keep out of every batch, and every window where nobody else waits.

    >>> gathering = Gathering(window_s=10, max_pods=500)
    >>> for pod, came_s in (("a", 100), ("b", 104)):
    ...     gathering.join(pod, came_s)
    >>> gathering.closes_s("ab")
    109.0
    >>> gathering.tried("ab", placed="b", now_s=109)
    >>> gathering.closes_s("a")
    119
    """

    def __init__(self, window_s: float, max_pods: int) -> None:
        self.window_s = window_s
        self.max_pods = max_pods
        self.since: dict[Key, float] = {}
        """When each began to wait; oldest first."""
        self._in_vain: set[Key] = set()
        self._again_s = inf
        """When those in vain are tried again; there are none before the first batch."""

    def join(self, key: Key, now_s: float) -> None:
        """Begin to wait, if it does not yet."""
        self.since.setdefault(key, now_s)

    def leave(self, key: Key) -> None:
        """Wait no longer."""
        del self.since[key]
        self._in_vain.discard(key)

    def is_in_vain(self, key: Key) -> bool:
        """Whether it was in a batch, or incomplete, and nothing came of it."""
        return key in self._in_vain

    def closes_s(self, waiting: Collection[Key]) -> float:
        """When a batch of those is closed if nobody else comes before; ``inf`` where nobody waits."""
        fresh = [self.since[key] for key in waiting if key not in self._in_vain]
        if fresh:
            return min(fresh[0] + self.window_s, fresh[-1] + QUIET_SHARE * self.window_s)
        return self._again_s if waiting else inf

    def chosen(
        self,
        units: Iterable[Sequence[Key]],
        priority: Callable[[Key], int],
        is_whole: Callable[[Sequence[Key]], bool],
        now_s: float,
    ) -> list[Key]:
        """One batch: most important first, then oldest, those tried in vain last; gangs whole or not at all.

        ``units`` are pods that are planned together, oldest first; ``is_whole`` says whether all of one are here.
        """

        def rank(unit: Sequence[Key]) -> tuple[bool, int]:
            return self._in_vain.issuperset(unit), -max(map(priority, unit))

        found: list[Key] = []
        for unit in sorted(units, key=rank):
            if found and len(found) + len(unit) > self.max_pods:
                continue
            if is_whole(unit):
                found += unit
            else:
                self.tried(unit, (), now_s)
        return found

    def tried(self, pods: Iterable[Key], placed: Collection[Key], now_s: float) -> None:
        """A batch was solved, which has a place for some of its pods."""
        self._in_vain.update(pod for pod in pods if pod not in placed and pod in self.since)
        self._again_s = now_s + self.window_s

    def skip(self, now_s: float) -> None:
        """Tries before now would have been in vain: the next one is when it would be after them."""
        if self._again_s < now_s:
            self._again_s += ceil((now_s - self._again_s) / self.window_s - ROUNDING) * self.window_s
