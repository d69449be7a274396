"""What workloads really used: one regular grid for learning, one bounded ring for serving.

:class:`UsageSeries` is the table that readers fill and models are fitted on. :class:`UsageHistory` is what a
running process keeps of one workload: integer ledger units, a bounded ring, and immutable snapshots, so that a
prediction never sees half an update. Both yield the same grid, so a model meets the same features when it is
fitted and when it serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placement.errors import StateError
from placement.learning.facts import Facts
from placement.recording import GRID_S
from placement.resources import CPU, MEMORY, BoolArray, FloatArray, IntArray

SingleArray = NDArray[np.float32]
"""Usage and features: half the memory of doubles, and what the trees compare anyway."""

STEP_S = GRID_S
"""Grid of every series: five minutes, the step of the public traces and of Prometheus recording rules."""

HOUR = 3600 // STEP_S
DAY = 24 * HOUR
"""Samples per hour and per day."""

CALENDAR_FROM_S = 631_152_000
"""1990. A clock that shows an earlier time counts from a beginning that nobody wrote down: it tells neither hour nor weekday."""

MOST_USED = {CPU: 10_000.0, MEMORY: 2.0**50}
"""Cores and bytes of one pod: what is above was read in a wrong unit, or is no measurement."""

HISTORY_DAYS = 28
"""How far back any baseline or feature looks."""


@dataclass(frozen=True)
class UsageSeries:
    """Usage of ``N`` workloads on a regular grid of ``T`` samples.

    ``usage[resource]`` is ``(N, T)`` float32 in cores (``cpu``) and bytes (``memory``), NaN where nothing was
    recorded; sample ``j`` covers the ``STEP_S`` seconds that end at ``start_s + j * STEP_S``.
    ``provisioned[resource]`` is ``(N,)``: the request, which is also the limit. ``groups`` names a coarser
    class of each workload (owner, image, size) for calibration by group; ``facts`` say what else is known of each, and
    then groups are owners.

    Raises
    ------
    StateError : a workload has no row of a table, or no provisioned amount.
    """

    name: str
    workloads: tuple[str, ...]
    start_s: int
    usage: Mapping[str, SingleArray]
    provisioned: Mapping[str, FloatArray]
    groups: tuple[str, ...] = ()
    repairs: tuple[tuple[str, int], ...] = ()
    """What the reader mended, with counts: ("duplicate samples", 12), …"""
    facts: tuple[Facts, ...] = ()

    def __post_init__(self) -> None:
        for resource, table in self.usage.items():
            if table.shape[0] != len(self.workloads) or self.provisioned[resource].shape != (len(self.workloads),):
                raise StateError(
                    f"usage of {resource} in {self.name} has {table.shape[0]} rows and "
                    f"{self.provisioned[resource].shape[0]} provisioned amounts for {len(self.workloads)} workloads; "
                    "give one row and one amount for each"
                )

    @property
    def num_steps(self) -> int:
        """Samples per workload."""
        return int(next(iter(self.usage.values())).shape[1])

    @property
    def num_days(self) -> float:
        """Length in days."""
        return self.num_steps / DAY

    @property
    def end_s(self) -> int:
        """When the last sample ends."""
        return self.start_s + (self.num_steps - 1) * STEP_S

    @property
    def has_calendar(self) -> bool:
        """Whether it is known when it was recorded."""
        return self.start_s >= CALENDAR_FROM_S

    def share(self, resource: str) -> SingleArray:
        """``(N, T)`` usage as a share of what was provisioned."""
        return (self.usage[resource] / self.provisioned[resource][:, None]).astype(np.float32)

    def pick(self, rows: Sequence[int] | IntArray | BoolArray) -> UsageSeries:
        """The same series with some workloads only."""
        index: Any = np.asarray(rows)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        return replace(
            self,
            workloads=tuple(self.workloads[i] for i in index),
            usage={r: u[index] for r, u in self.usage.items()},
            provisioned={r: p[index] for r, p in self.provisioned.items()},
            groups=tuple(self.groups[i] for i in index) if self.groups else (),
            facts=tuple(self.facts[i] for i in index) if self.facts else (),
        )


@dataclass(frozen=True, slots=True)
class PastUsage:
    """One workload's recorded past at one moment; arrays are read-only.

    ``samples[resource]`` is ``(S,)`` int64 in millicores or bytes, oldest first, ``-1`` where nothing came;
    the first sample that was ever seen ends at ``first_s``, the last at ``end_s``.
    """

    workload: str
    end_s: int
    first_s: int
    samples: Mapping[str, IntArray]


class UsageHistory:
    """Ring of the last :data:`HISTORY_DAYS` days of one workload, in the ledger's integers.

    Samples may come late within the ring; one older than the ring, in the future by more than a step, or
    negative is refused and counted in :attr:`refused` (a counter reset or a clock jump must not become a
    training sample). Of several samples in one interval the largest stays, because peaks are what is predicted.
    """

    def __init__(self, workload: str, *, days: int = HISTORY_DAYS) -> None:
        self.workload = workload
        self.refused = 0
        self._size = days * DAY
        self._ring = {r: np.full(self._size, -1, np.int64) for r in (CPU, MEMORY)}
        self._first = self._last = -1

    def add(self, time_s: int, *, cpu_millicores: int = -1, memory_bytes: int = -1, now_s: int | None = None) -> bool:
        """Record one sample; True when it was taken. ``-1`` stands for "not measured"."""
        slot = -(-time_s // STEP_S)
        in_future = now_s is not None and time_s > now_s + STEP_S
        newest = max(self._last, -1 if now_s is None else now_s // STEP_S)
        too_old = newest >= 0 and slot <= newest - self._size
        if min(cpu_millicores, memory_bytes) < -1 or max(cpu_millicores, memory_bytes) < 0 or in_future or too_old:
            self.refused += 1
            return False
        self._advance(slot)
        for resource, value in ((CPU, cpu_millicores), (MEMORY, memory_bytes)):
            cell = slot % self._size
            self._ring[resource][cell] = max(self._ring[resource][cell], value)
        return True

    def add_oom(self, time_s: int, memory_bytes: int, *, now_s: int | None = None) -> bool:
        """Record an out-of-memory kill as a sample: VPA's bump, max(1.2 × usage, usage + 100 MiB)."""
        bumped = max(memory_bytes * 6 // 5, memory_bytes + 100 * 2**20)
        return self.add(time_s, memory_bytes=bumped, now_s=now_s)

    def _advance(self, slot: int) -> None:
        if self._last < 0:
            self._first = self._last = slot
        self._first = min(self._first, slot)
        if slot <= self._last:
            return
        gone = np.arange(max(self._last + 1, slot - self._size + 1), slot + 1) % self._size
        for ring in self._ring.values():
            ring[gone] = -1
        self._last = slot

    def rewind(self, now_s: int) -> None:
        """Forget what was recorded of the time after now: the clock was ahead."""
        last = now_s // STEP_S + 1
        if self._last <= last:
            return
        gone = np.arange(max(last, self._last - self._size) + 1, self._last + 1) % self._size
        for ring in self._ring.values():
            ring[gone] = -1
        self._last = last if self._first <= last else -1
        self._first = min(self._first, self._last)

    def latest(self, resource: str, end: int, length: int) -> IntArray:
        """``(length,)`` samples up to the one of step ``end`` (at most the ring), −1 where nothing came."""
        out = np.full(length, -1, np.int64)
        steps = np.arange(end - length + 1, end + 1)
        if self._last >= 0:
            known = (steps >= max(self._first, self._last - self._size + 1)) & (steps <= self._last)
            out[known] = self._ring[resource][steps[known] % self._size]
        return out

    def window(self, resource: str, after_s: int, length: int) -> IntArray:
        """What was measured of the ``length`` samples after a moment on the grid, oldest first, without gaps."""
        found = self.latest(resource, after_s // STEP_S + length, length)
        kept: IntArray = found[found >= 0]
        return kept

    def snapshot(self) -> PastUsage | None:
        """The past as an immutable value; None before the first sample."""
        if self._last < 0:
            return None
        first = max(self._first, self._last - self._size + 1)
        cells = np.arange(first, self._last + 1) % self._size
        samples = {}
        for resource, ring in self._ring.items():
            samples[resource] = ring[cells]
            samples[resource].flags.writeable = False
        return PastUsage(self.workload, self._last * STEP_S, self._first * STEP_S, samples)
