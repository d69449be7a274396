"""What is known of pods' lifetimes as they come and go: hazards, and features for models, by workload and size.

Times never go back. A workload's pods are known by their workload (none for bare pods, which have no past in common),
by workload and size, by size (and where the size of the gang is known by both), and among everyone. One of which nobody
knows anything is told by newcomers: the first pods of other workloads that nobody knew, of its size and gang, of its size,
and of any. Pods that came together are a burst: they live alike, so a burst counts as the root of its pods. The same object
serves live, in replays and in training, so a model is asked with what it was fitted on.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np

from placement.knowledge import AGES_S, workload_of
from placement.learning.lineage import BURST_S, Lineage
from placement.learning.survival import NUM_PARTS, Survival, part_of
from placement.learning.usage import SingleArray
from placement.pods import PodSpec

KEEP = (0.95, 0.99, 0.99, 0.99, 0.99, 0.99, 0.999)
"""What an outcome still weighs after the next one, by level of the hazards: workloads change, kin less, everybody least."""
OWN, NEW_OF_GANG, NEW_OF_SIZE, NEW, GANG, SIZE, ALL = range(len(KEEP))
"""Levels of the hazards: a workload; newcomers of a size in gangs of about as many, of a size, newcomers; a size in gangs of
about as many, a size, everyone."""
LEVELS = ("owner", "owner-size", "size-gang", "size", "all")
"""Of the lineage, from the most particular."""
GANG_STEPS = 3
"""Per doubling: gangs of about as many pods are kin."""
LARGEST_GANG = 1024
"""Larger ones are taken for one of this size."""
REQUESTS = ("cores", "memory_gib", "gpus", "priority", "gang_size")
NUM_HAZARDS = NUM_PARTS - 1
"""The last part's hazard is 1."""


@dataclass(frozen=True, slots=True)
class Kin:
    """Pods that are told alike: those of one workload and size; of one size where the workload is empty."""

    workload: str
    size: tuple[int, int, int]
    priority: int = field(default=0, compare=False)
    gang_size: int = field(default=0, compare=False)
    """0 = not known."""

    @classmethod
    def of(cls, spec: PodSpec) -> Kin:
        """Of a class of pods."""
        return cls(workload_of(spec.namespace, spec.owner), spec.main_amounts, spec.priority, spec.gang_size)

    def keys(self, *, is_new: bool) -> tuple[Hashable, ...]:
        """Of the hazards, by their levels."""
        gang = (self.size, doublings(self.gang_size)) if self.gang_size else None
        new = (gang and ("new", *gang), ("new", self.size), "new") if is_new else (None, None, None)
        return self.workload or None, *new, gang, self.size, "all"

    @property
    def values(self) -> tuple[Hashable, ...]:
        """Of the lineage, by :data:`LEVELS`."""
        own = (self.workload, self.size) if self.workload else None
        gang = (self.size, gang_step(self.gang_size)) if self.gang_size else None
        return self.workload or None, own, gang, self.size, "all"

    @property
    def alike(self) -> Kin:
        """All of this size."""
        return Kin("", self.size)


def gang_step(pods: int) -> int:
    """Of a gang of so many pods, on a logarithmic scale."""
    return round(GANG_STEPS * math.log2(min(pods, LARGEST_GANG)))


def doublings(pods: int) -> int:
    """The same in coarser steps: hazards have less to stand on than trees."""
    return round(math.log2(min(pods, LARGEST_GANG)))


@dataclass(slots=True)
class Burst:
    """Pods of one workload that came together."""

    since_s: int
    pods: int = 0
    """Without those that are withdrawn: who never tells how it ended takes no weight from the others."""

    @property
    def weights(self) -> tuple[float, ...]:
        """By level, of each pod's outcomes: one pod stands for its workload among newcomers, whoever came with it."""
        root = 1 / math.sqrt(self.pods)
        return root, 1.0, 1.0, 1.0, root, root, root


@dataclass(slots=True)
class Running:
    """A pod that has not ended."""

    kin: Kin
    since_s: int
    burst: Burst
    part: int = 0
    entered_s: int = 0
    """When it entered its part of life."""
    arrived_s: int = 0
    """When it arrived, as the lineage knows it: without gaps that were taken out of its age."""
    was_there: bool = False
    """It ran before anybody looked: it is older than it seems, and has outlived others that nobody saw."""
    is_first: bool = False
    """Nobody had met a pod of its workload before. It stands for its workload among the newcomers: pods that come
    together live alike, so to count all of them would make the largest one the rule."""

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Whom it tells of in the hazards: pods that were there of their own workload alone, not of all pods alike."""
        keys = self.kin.keys(is_new=self.is_first)
        return (keys[OWN], *[None] * (len(keys) - 1)) if self.was_there else keys


Outcome = Callable[[str, Running, bool], None]
"""Told of every pod that ended in its part of life (True) or lived through it (False), before that is learned from."""


class LifeHistory:
    """See the module. ``with_features`` False keeps hazards only, which take a fraction of the memory.

    ``begins_s`` is the Unix time of second 0 of its clock, which tells the hour; traces begin at midnight.
    """

    def __init__(self, *, with_features: bool = False, on_outcome: Outcome | None = None, begins_s: int = 0) -> None:
        self.begins_s = begins_s
        self.survival = Survival(KEEP)
        self.lineage = Lineage(LEVELS) if with_features else None
        self.running: dict[str, Running] = {}
        """By UID."""
        self._bursts: dict[tuple[str, bool], Burst] = {}
        """The latest of each workload; who was there, and for how long nobody knows, apart."""
        self.now_s = 0
        """Time never goes back: what is said to have happened before counts as of now."""
        self._on_outcome = on_outcome
        self._passing: list[tuple[int, str, int]] = []

    def began(self, uid: str, kin: Kin, since_s: int, *, was_there: bool = False) -> None:
        """A pod runs since then, or, where it ``was_there`` before anybody looked, for longer. One that is there already
        begins anew.

        One that was there is known to live on, for its own workload, where newcomers soon outweigh it. Counted for everyone,
        the many that were there would say for long that all live long: the short-lived that came with them are gone.
        """
        since_s = max(since_s, self.now_s)
        if uid in self.running:
            self.drop(uid)
        is_first = bool(kin.workload) and not self.survival.has_met(OWN, kin.workload)
        burst = self._burst((kin.workload, was_there), since_s)
        pod = self.running[uid] = Running(kin, since_s, burst, 0, since_s, since_s, was_there, is_first)
        self.survival.enter(pod.keys, 0, since_s)
        if self.lineage is not None:
            (self.lineage.find if was_there else self.lineage.arrive)(kin.values, float(since_s))
        heapq.heappush(self._passing, (since_s + AGES_S[1], uid, since_s))

    def _burst(self, key: tuple[str, bool], since_s: int) -> Burst:
        """To which a pod that begins belongs: of a bare pod, its own."""
        latest = self._bursts.get(key)
        if latest is None or since_s - latest.since_s >= BURST_S:
            latest = Burst(since_s)
            if key[0]:
                self._bursts[key] = latest
        latest.pods += 1
        return latest

    def ended(self, uid: str, time_s: int) -> None:
        """A pod is gone; one that was never seen is ignored."""
        time_s = max(time_s, self.now_s)
        self.pass_by(time_s)
        pod = self.running.get(uid)
        if pod is None:
            return
        if pod.was_there:
            self.drop(uid)  # at what age it ended is not known
            return
        lived_s = time_s - pod.since_s
        assert part_of(lived_s) == pod.part, "who lived through a part was passed by before"
        self._learn(uid, pod, ended=True)
        del self.running[uid]
        self.survival.leave(pod.keys, pod.part, pod.entered_s)
        if self.lineage is not None:
            self.lineage.end(pod.kin.values, float(pod.arrived_s), float(pod.arrived_s + lived_s))

    def drop(self, uid: str) -> None:
        """A pod is gone, nobody knows since when: it tells nothing more, and its burst is one pod less (who was there before
        anybody looked always goes like this, and has told of the parts of life that it was seen to live through)."""
        pod = self.running.pop(uid)
        if not pod.was_there:
            pod.burst.pods -= 1
        self.survival.leave(pod.keys, pod.part, pod.entered_s)
        if self.lineage is not None:
            (self.lineage.lose if pod.was_there else self.lineage.withdraw)(pod.kin.values, float(pod.arrived_s))

    def pass_by(self, now_s: int) -> None:
        """Note who has lived through a part of life by now."""
        while self.pass_some(now_s, 1000):
            pass

    def pass_some(self, now_s: int, most: int) -> bool:
        """Note some of them; whether there may be more."""
        self.now_s = max(now_s, self.now_s)
        for _, (uid, pod, at_s) in zip(range(most), self._passed(now_s), strict=False):
            self._learn(uid, pod, ended=False)
            self.survival.leave(pod.keys, pod.part, pod.entered_s)
            pod.part, pod.entered_s = pod.part + 1, at_s
            self.survival.enter(pod.keys, pod.part, at_s)
            if pod.part + 1 < len(AGES_S):
                heapq.heappush(self._passing, (pod.since_s + AGES_S[pod.part + 1], uid, pod.since_s))
        return bool(self._passing) and self._passing[0][0] < now_s

    def _passed(self, now_s: int) -> Iterator[tuple[str, Running, int]]:
        while self._passing and self._passing[0][0] < now_s:
            at_s, uid, since_s = heapq.heappop(self._passing)
            pod = self.running.get(uid)
            if pod is not None and pod.since_s == since_s and at_s == since_s + AGES_S[pod.part + 1]:
                yield uid, pod, at_s

    def _learn(self, uid: str, pod: Running, *, ended: bool) -> None:
        if self._on_outcome is not None:
            self._on_outcome(uid, pod, ended)
        self.survival.outcome(pod.keys, pod.part, ended=ended, weights=pod.burst.weights)

    def skip(self, now_s: int) -> None:
        """Nobody looked until now: the time since the last news counts in nobody's age."""
        gap_s = now_s - self.now_s
        self.now_s += gap_s
        self._passing = []
        for uid, pod in self.running.items():
            self.survival.leave(pod.keys, pod.part, pod.entered_s)
            pod.since_s += gap_s
            pod.entered_s += gap_s
            self.survival.enter(pod.keys, pod.part, pod.entered_s)
            if pod.part < NUM_HAZARDS:
                self._passing.append((pod.since_s + AGES_S[pod.part + 1], uid, pod.since_s))
        heapq.heapify(self._passing)

    def follow_features(self) -> None:
        """Keep a lineage from now on; it begins with the pods that run."""
        if self.lineage is None:
            self.lineage = Lineage(LEVELS)
            for pod in sorted(self.running.values(), key=lambda pod: pod.arrived_s):
                tell = self.lineage.find if pod.was_there else self.lineage.arrive
                tell(pod.kin.values, float(pod.arrived_s))

    def forget(self, workload: str) -> None:
        """A workload none of whose pods run."""
        self.survival.forget(OWN, workload)
        for was_there in (False, True):
            self._bursts.pop((workload, was_there), None)
        if self.lineage is not None:
            self.lineage.forget(0, workload)

    def forget_size(self, kin: Kin) -> None:
        """Kin none of whose pods run; without a workload, all of their size."""
        if self.lineage is not None and kin.workload:
            self.lineage.forget(1, (kin.workload, kin.size))
        elif self.lineage is not None:
            self.lineage.forget(3, kin.size)
            for step in range(gang_step(LARGEST_GANG) + 1):
                self.lineage.forget(2, (kin.size, step))
        if not kin.workload:
            self.survival.forget(SIZE, kin.size)
            self.survival.forget(NEW_OF_SIZE, ("new", kin.size))
            for doubling in range(doublings(LARGEST_GANG) + 1):
                self.survival.forget(GANG, (kin.size, doubling))
                self.survival.forget(NEW_OF_GANG, ("new", kin.size, doubling))

    # ── what is known ─────────────────────────────────────────────────────────────────────────

    def knows(self, kin: Kin) -> bool:
        """Whether a pod of the workload has told anything."""
        return bool(kin.workload) and self.survival.num_outcomes(OWN, kin.workload) > 0

    @property
    def is_blank(self) -> bool:
        """Whether nothing at all is known."""
        return self.survival.num_outcomes(ALL, "all") == 0

    def hazards(self, kin: Kin | None, now_s: int) -> list[float]:
        """``NUM_PARTS`` chances to end in each part of life; of everyone without kin."""
        if kin is None:
            return self.survival.hazards((*[None] * ALL, "all"), now_s)
        return self.survival.hazards(kin.keys(is_new=bool(kin.workload) and not self.knows(kin)), now_s)

    def features(self, kin: Kin, now_s: int) -> SingleArray:
        """(F,) by :func:`feature_names`, of a pod of this kin that arrives now, itself not counted."""
        assert self.lineage is not None, "a history with features"
        cpu, memory, gpu = kin.size
        now_s = max(now_s, self.now_s)
        told_by = ((OWN, kin.workload or None), (SIZE, kin.size))
        seen = [x for level, key in told_by for x in self.survival.seen(level, key, now_s)]
        asks = (
            cpu / 1000,
            memory / 2**30,
            gpu / 1000,
            kin.priority,
            kin.gang_size,
            (self.begins_s + now_s) % 86_400 / 3600,
        )
        return np.array([*self.lineage.describe(kin.values, float(now_s)), *seen, *asks], np.float32)


def feature_names() -> tuple[str, ...]:
    """What :meth:`LifeHistory.features` holds, in order."""
    seen = (f"{level}:seen_{part}" for level in ("owner", "size") for part in range(NUM_HAZARDS))
    return (*Lineage(LEVELS).feature_names, *seen, *REQUESTS, "hour")
