"""What pods are to be expected within the next hours, from when pods came and went so far; nothing here looks ahead.

A possible future is a window of the past: how far demand rose above where it stood when the window began, and by which
pods. Windows that began at the same hour are preferred, those of the same weekday first; with too few of them any recent
window counts, then arrivals times lifetimes, then nothing at all. One rung at a time, and the answer says on which it
stands. A rung needs so many windows that its largest is the quantile asked for: with ``n`` exchangeable windows the next
one stays under the largest in ``n`` of ``n + 1`` cases.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from statistics import NormalDist

import numpy as np

from placement.errors import ConfigError
from placement.resources import FloatArray, IntArray

DAY_S, WEEK_S = 86_400, 7 * 86_400
PER_SPAN = 6
"""Windows of any hour begin so often per span; they overlap, and fewer would leave out peaks."""
MOST_WINDOWS = 10_000
"""Of any hour; for a span of minutes in a long history they begin less often."""
LEAST_ARRIVALS, LEAST_SHARE = 30, 1 / 8
"""Arrivals, and share of the span, that must have been seen for a rate."""
BINS, STEPS = 8, 12
"""Parts of the past by which arrivals vary; moments of the future at which a rate is looked at."""
PARTS, LOOKS = 4, 24
"""Parts of a rise that run for times of their own; moments of each window at which it is looked at."""
OWN_ENDS = 20
"""Ends from which on a class has lifetimes of its own."""


class Rung(StrEnum):
    """What a forecast stands on, best first."""

    WEEK = "windows of the same weekday and hour"
    DAY = "windows of the same hour"
    RECENT = "recent windows"
    ARRIVALS = "recent arrivals times lifetimes"
    NOTHING = "nothing: not enough history"


@dataclass(frozen=True)
class PodHistory:
    """Pods seen until ``now_s``: ``arrival_s``, ``end_s`` (-1 = not yet) and ``classes``, each ``(P,)`` int64.

    ``worth`` ``(C,)`` float64 is what a pod of a class weighs in total demand. The record is complete from ``since_s``
    on; who was there then has arrived before, at a time that may be known.
    """

    now_s: int
    since_s: int
    arrival_s: IntArray
    end_s: IntArray
    classes: IntArray
    worth: FloatArray

    def __post_init__(self) -> None:
        if not len(self.arrival_s) == len(self.end_s) == len(self.classes):
            raise ConfigError("a history needs an arrival, an end and a class for every pod")
        if len(self.arrival_s) and int(self.arrival_s.max()) > self.now_s:
            raise ConfigError(f"a pod arrives at second {self.arrival_s.max()}, after now ({self.now_s})")

    @cached_property
    def _events(self) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """Times ascending (ends first), +1 or -1, classes, and total demand after each, ``(E,)``; demand has one more."""
        ended = np.flatnonzero((self.end_s >= 0) & (self.end_s <= self.now_s))
        times = np.concatenate([self.end_s[ended], self.arrival_s]).astype(np.int64)
        sign = np.concatenate([np.full(len(ended), -1), np.ones(len(self.arrival_s))]).astype(np.int64)
        classes = np.concatenate([self.classes[ended], self.classes]).astype(np.int64)
        order = np.argsort(times, kind="stable")
        total = np.cumsum(sign[order] * self.worth[classes[order]])
        return times[order], sign[order], classes[order], np.concatenate([[0.0], total])

    @property
    def count(self) -> IntArray:
        """``(C,)`` pods that are here."""
        here = (self.end_s < 0) | (self.end_s > self.now_s)
        return np.bincount(self.classes[here], minlength=len(self.worth)).astype(np.int64)

    def demand(self, time_s: int) -> float:
        """Total demand at a moment of the past, who arrives or ends in that second counted."""
        times, _, _, total = self._events
        return float(total[np.searchsorted(times, time_s, side="right")])

    def peak(self, start_s: int, span_s: int) -> float:
        """How far demand rose above where it was at ``start_s``, at most, within ``span_s``; never below 0."""
        first, last, total = self._between(start_s, span_s)
        return float(total[first : last + 1].max() - total[first])

    def _between(self, start_s: int, span_s: int) -> tuple[int, int, FloatArray]:
        times, _, _, total = self._events
        first, last = np.searchsorted(times, [start_s, start_s + span_s], side="right").tolist()
        return first, last, total

    def rise(self, start_s: int, span_s: int) -> IntArray:
        """``(C,)`` how many more pods of each class there were at that peak; below 0 where there were fewer."""
        first, last, total = self._between(start_s, span_s)
        top = first + int(np.argmax(total[first : last + 1]))
        _, sign, classes, _ = self._events
        more = np.bincount(classes[first:top], weights=sign[first:top], minlength=len(self.worth))
        return np.rint(more).astype(np.int64)


@dataclass(frozen=True)
class Expected:
    """``rise`` ``(C,)`` pods by which each class will have grown at the peak, at ``quantile``, and what that stands on.

    ``level`` is demand now, ``peak`` what is added to it. ``held`` of ``tested`` earlier forecasts on the same rung, each
    from the windows before it alone, were not exceeded.
    """

    rung: Rung
    quantile: float
    rise: IntArray
    level: float
    peak: float
    windows: int = 0
    held: int = 0
    tested: int = 0
    use: tuple[float, ...] = (1.0,)
    """Share of the time that each of so many equal parts of the rise runs, from the one that runs longest."""


def least_windows(quantile: float) -> int:
    """Windows that a quantile needs: the next one stays under the largest of ``n`` in ``n`` of ``n + 1`` cases."""
    return max(2, int(np.ceil(quantile / (1.0 - quantile) - 1e-9)))


def expect(history: PodHistory, span_s: int, quantile: float) -> Expected:
    """The demand to prepare for within ``span_s`` from now.

    Raises
    ------
    ConfigError : the span or the quantile makes no sense.
    """
    if span_s <= 0:
        raise ConfigError(f"{span_s} s ahead is no time to expect anything in; give more than 0")
    if not 0 < quantile < 1:
        raise ConfigError(f"quantile {quantile:g} must be above 0 and below 1")
    need = least_windows(quantile)
    for rung, starts in _rungs(history, span_s):
        if len(starts) >= need:
            peaks = np.array([history.peak(s, span_s) for s in starts])
            chosen = int(np.argsort(peaks, kind="stable")[_rank(len(peaks), quantile)])
            rise = history.rise(int(starts[chosen]), span_s)
            held, tested = _record(peaks, starts, span_s, quantile, need)
            level, peak = history.demand(history.now_s), float(peaks[chosen])
            use = _use(history, starts, span_s, peak)
            return Expected(rung, quantile, rise, level, peak, len(peaks), held, tested, use)
    return _from_arrivals(history, span_s, quantile)


def _rank(number: int, quantile: float) -> int:
    return min(int(np.ceil(quantile * (number + 1) - 1e-9)), number) - 1


def _rungs(history: PodHistory, span_s: int) -> list[tuple[Rung, IntArray]]:
    """Starts of whole windows of the past, ascending, by rung; same hour means now's."""
    last, since = history.now_s - span_s, history.since_s
    step = max(span_s // PER_SPAN, -(-(last - since) // MOST_WINDOWS), 1)
    return [
        (Rung.WEEK, _starts(history.now_s, WEEK_S, since, last)),
        (Rung.DAY, _starts(history.now_s, DAY_S, since, last)),
        (Rung.RECENT, _starts(last, step, since, last)),
    ]


def _starts(anchor_s: int, period_s: int, since_s: int, last_s: int) -> IntArray:
    most = anchor_s - max(-(-(anchor_s - last_s) // period_s), 0) * period_s
    return np.arange(most, since_s - 1, -period_s, dtype=np.int64)[::-1]


def _use(history: PodHistory, starts: IntArray, span_s: int, peak: float) -> tuple[float, ...]:
    """Share of all windows' time for which demand had risen so far that each part of ``peak`` was needed."""
    moments = (np.arange(LOOKS) + 0.5) / LOOKS * span_s
    risen = np.array([[history.demand(int(s + m)) - history.demand(int(s)) for m in moments] for s in starts])
    needed = [float((risen > peak * k / PARTS).mean()) for k in range(PARTS)]
    return tuple(max(share, 1 / (LOOKS * len(starts))) for share in needed)


def _record(peaks: FloatArray, starts: IntArray, span_s: int, quantile: float, need: int) -> tuple[int, int]:
    """How many windows stayed under the forecast that could have been made when they began, and of how many."""
    held = tested = 0
    ascending: list[float] = []
    for start, peak in zip(starts.tolist(), peaks.tolist(), strict=True):
        known = int(np.searchsorted(starts, start - span_s, side="right"))
        for over in peaks[len(ascending) : known].tolist():
            insort(ascending, over)
        if known >= need:
            tested += 1
            held += peak <= ascending[_rank(known, quantile)]
    return held, tested


# ── arrivals times lifetimes ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Stay:
    """Kaplan-Meier survival with delayed entry: ``share`` of pods that live beyond each of ``age_s``, both ascending."""

    age_s: FloatArray
    share: FloatArray

    @classmethod
    def of(cls, entry: FloatArray, last: FloatArray, ended: Sequence[bool] | FloatArray) -> _Stay:
        """Pods seen from age ``entry`` to age ``last``, where they ``ended`` or were still alive."""
        gone = np.sort(last[np.asarray(ended, np.bool_)])
        ages, deaths = np.unique(gone, return_counts=True)
        at_risk = np.searchsorted(np.sort(entry), ages, side="left") - np.searchsorted(np.sort(last), ages, side="left")
        return cls(ages, np.cumprod(1.0 - deaths / np.maximum(at_risk, deaths)))

    def beyond(self, age_s: FloatArray) -> FloatArray:
        """Share that lives beyond an age; flat after the last end that was seen."""
        return np.concatenate([[1.0], self.share])[np.searchsorted(self.age_s, age_s, side="right")]

    def lived(self, span_s: FloatArray) -> FloatArray:
        """Seconds of ``span_s`` that a new pod lives on average: the integral of the share."""
        ends = np.concatenate([[0.0], self.age_s, [max(float(span_s.max()), float(self.age_s.max(initial=0.0))) + 1.0]])
        seconds = np.diff(ends) * np.concatenate([[1.0], self.share])
        return np.interp(span_s, ends, np.concatenate([[0.0], np.cumsum(seconds)]))


def _from_arrivals(history: PodHistory, span_s: int, quantile: float) -> Expected:
    """Pods here that stay, and as many new ones an hour as of late, at the moment of the span when they are most."""
    level, none = history.demand(history.now_s), np.zeros(len(history.worth), np.int64)
    since, now = history.since_s, history.now_s
    new = np.flatnonzero(history.arrival_s > since)
    if len(new) < LEAST_ARRIVALS or now - since < LEAST_SHARE * span_s:
        return Expected(Rung.NOTHING, quantile, none, level, 0.0)
    moments = np.linspace(0, span_s, STEPS + 1)[1:]
    stays = _stays(history)
    here = (history.end_s < 0) | (history.end_s > now)
    rate = np.bincount(history.classes[new], minlength=len(none)) / (now - since)
    growth = np.zeros((len(none), STEPS))
    for c in np.unique(history.classes):
        age = (now - history.arrival_s[here & (history.classes == c)]).astype(np.float64)
        alive = np.maximum(stays[c].beyond(age), 1e-12)
        left = np.array([(stays[c].beyond(age + m) / alive).sum() for m in moments])
        growth[c] = left - len(age) + rate[c] * stays[c].lived(moments)
    total = history.worth @ growth
    best = int(np.argmax(total))
    bins = np.histogram(history.arrival_s[new], BINS, (since, now), weights=history.worth[history.classes[new]])[0]
    chance = NormalDist().inv_cdf(quantile) * float(bins.std()) * float(np.sqrt(moments[best] / ((now - since) / BINS)))
    mix = rate / max(float(history.worth @ rate), 1e-12)
    rise = np.ceil(growth[:, best] + max(chance, 0.0) * mix - 1e-9).astype(np.int64)
    peak = float(history.worth @ rise)
    return Expected(Rung.ARRIVALS, quantile, rise if peak > 0 else none, level, max(peak, 0.0))


def _stays(history: PodHistory) -> dict[int, _Stay]:
    """Survival by class; that of all pods for classes of which few have ended."""
    entry = np.maximum(history.since_s - history.arrival_s, 0).astype(np.float64)
    ended = (history.end_s >= 0) & (history.end_s <= history.now_s)
    last = (np.where(ended, history.end_s, history.now_s) - history.arrival_s).astype(np.float64)
    seen = last > entry
    everyone = _Stay.of(entry[seen], last[seen], ended[seen].astype(np.float64))
    result = {}
    for c in np.unique(history.classes).tolist():
        mine = seen & (history.classes == c)
        own = int(ended[mine].sum()) >= OWN_ENDS
        result[c] = _Stay.of(entry[mine], last[mine], ended[mine].astype(np.float64)) if own else everyone
    return result
