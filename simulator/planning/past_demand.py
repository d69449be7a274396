"""What demand may do until a policy acts again, from what a replay has seen so far; nothing here looks ahead.

Demand is what pods ask for that have arrived and not ended, running or waiting. Its possible futures are its recent
past: for windows that began at evenly spaced moments, how far demand rose above where it was when the window began.
Amounts are in mean pods, so that several resources become one number. How long running pods stay is what became of
earlier pods at the same age.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from placement.resources import FloatArray, IntArray
from simulator.replay import Replay

STEP_S = 10
"""Grid of the demand that is looked at."""
STARTS = 6
"""Windows begun per interval of the past."""
AGES = 32
"""Classes of age, evenly spaced on a log scale, for which survival is counted."""


@dataclass(frozen=True)
class Seen:
    """Pods that have arrived by now: arrival, end (-1 = not yet) and class, in order of arrival."""

    now_s: int
    arrival_s: IntArray
    end_s: IntArray
    classes: IntArray
    amount: IntArray
    """``(3, C)``: :attr:`~placement.pods.PodSpec.main_amounts` of each class of the trace."""

    @classmethod
    def of(cls, replay: Replay) -> Seen:
        num = replay.timeline.num_arrived
        ended = np.frombuffer(replay.has_ended, np.bool_)[:num]
        end_s = np.array(replay.placed_s[:num], np.int64) + np.array(replay.lifetimes[:num], np.int64)
        pods = replay.trace.pods
        return cls(
            replay.time_s,
            pods.arrival_s[:num].astype(np.int64),
            np.where(ended, end_s, -1),
            pods.spec[:num].astype(np.int64),
            np.array([spec.main_amounts for spec in replay.trace.specs], np.int64).reshape(-1, 3).T,
        )

    def demand(self, begin_s: int) -> IntArray:
        """``(3, T)`` demand just before each :data:`STEP_S`-th second from ``begin_s`` to now."""
        size = (self.now_s - begin_s) // STEP_S + 1
        change = np.zeros((3, size + 1), np.int64)
        for times, sign in ((self.arrival_s, 1), (self.end_s, -1)):
            known = np.flatnonzero(times >= 0) if sign < 0 else np.arange(len(times))
            cell = np.clip((times[known] - begin_s) // STEP_S + 1, 0, size)
            for lane, amount in zip(change, self.amount, strict=True):
                np.add.at(lane, cell, sign * amount[self.classes[known]])
        return np.cumsum(change[:, :size], axis=1)

    @cached_property
    def mean_pod(self) -> FloatArray:
        """``(3,)`` what a pod asks for on average; 0 where none does."""
        return self.amount[:, self.classes].mean(axis=1, dtype=np.float64) if len(self.classes) else np.zeros(3)

    def rises(self, span_s: int, history_s: int, stay_s: int) -> FloatArray:
        """``(J, T)`` mean pods by which demand was higher at most in the last ``stay_s``, along past windows of ``span_s``.

        ``stay_s`` is how long a node bought for a peak stays when the peak is over. Empty before the first window has
        passed.
        """
        first = int(self.arrival_s[0]) if len(self.arrival_s) else self.now_s
        begin_s = max(first, self.now_s - history_s - span_s)
        begin_s += (self.now_s - begin_s) % STEP_S
        demand, steps = self.demand(begin_s), span_s // STEP_S
        starts = np.arange(demand.shape[1] - 1 - steps, -1, -max(steps // STARTS, 1))
        lanes = self.mean_pod > 0
        if len(starts) == 0 or steps == 0 or not lanes.any():
            return np.zeros((0, max(steps, 1)))
        pods = demand[lanes] / self.mean_pod[lanes, None]
        rise = np.stack([(pods[:, s : s + steps] - pods[:, [s]]).max(axis=0) for s in starts])
        size = min(max(stay_s // STEP_S, 1), steps)
        padded = np.concatenate([np.full((len(rise), size - 1), -np.inf), rise], axis=1)
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).max(axis=2), np.float64)

    def ends_within(self, age_s: IntArray, horizon_s: int) -> FloatArray:
        """``(P,)`` share of earlier pods that, having reached this age, ended within ``horizon_s``; 0 where none did."""
        if horizon_s <= 0:
            return np.zeros(len(age_s))
        edges = np.geomspace(60, max(self.now_s - int(self.arrival_s[0]), 120), AGES)
        lasted = np.where(self.end_s >= 0, self.end_s, self.now_s) - self.arrival_s
        share = np.zeros(AGES + 1)
        for i, age in enumerate(np.append(0, edges)):
            old = (self.arrival_s <= self.now_s - age - horizon_s) & (lasted > age)
            ended = old & (self.end_s >= 0) & (lasted <= age + horizon_s)
            share[i] = ended.sum() / max(old.sum(), 1)
        return np.asarray(share[np.searchsorted(edges, age_s, side="right")], np.float64)


def room(free: IntArray, mean_pod: FloatArray) -> IntArray:
    """``(N,)`` mean pods that fit into what is free on each node, ``(3, N)``."""
    lanes = mean_pod > 0
    if not lanes.any():
        return np.zeros(free.shape[1], np.int64)
    return np.asarray(np.maximum(free[lanes] // mean_pod[lanes, None], 0).min(axis=0), np.int64)


def wanted_room(rises: FloatArray, least_saved: float) -> float:
    """Mean pods of room whose nodes would be bought again too soon: for less than ``least_saved`` of the interval gone."""
    return float(np.quantile(rises, least_saved, method="higher")) if rises.size else 0.0


def bought_again(
    rises: FloatArray, before: float, after: float, delay_s: int, *, most: float, whole: float = 0.0
) -> FloatArray:
    """``(J,)`` mean pods' worth of nodes bought, on average over each past interval, because room fell to ``after``.

    ``delay_s`` passes between a rise and the node that answers it; nobody buys back more than ``most``, what went.
    With ``whole``, mean pods that a node holds, nodes are bought whole.
    """
    late = min(delay_s // STEP_S, rises.shape[1])
    seen = rises[:, : rises.shape[1] - late]
    extra = np.maximum(seen - after, 0.0) - np.maximum(seen - before, 0.0)
    extra = np.ceil(extra / whole) * whole if whole else extra
    return np.asarray(np.minimum(extra, most).sum(axis=1) / rises.shape[1], np.float64)
