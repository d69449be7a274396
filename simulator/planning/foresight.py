"""Demand to come, forecast from a trace's past: for purchases, and judged on the trace's own later hours.

The rivals are the simplest: demand stays where it is (``last``), or rises to what it was at most in the past day
(``day-max``). ``oracle`` knows the future; what it loses is what no forecast can avoid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.planning.expected import DAY_S, Expected, PodHistory, expect
from placement.planning.foresight import DAYS, hours
from placement.pods import PodSpec
from placement.resources import CPU, FloatArray
from simulator.planning.bench import Row
from simulator.traces.trace import NEVER, Trace


def cores_of(specs: tuple[PodSpec, ...]) -> FloatArray:
    """``(S,)`` cores that a pod of each class asks for."""
    return np.array([spec.amount(CPU) / 1000 for spec in specs])


def last_seen(trace: Trace) -> int:
    """Second of the last thing that a trace tells of: an arrival, an end or a sample."""
    pods, usage = trace.pods, trace.usage
    return int(max(c.max(initial=0) for c in (pods.arrival_s, pods.departure_s, usage.time_s)))


def history_of(trace: Trace, now_s: int, worth: FloatArray, *, days: float = DAYS) -> PodHistory:
    """What had been seen of a trace at ``now_s``, in the last ``days``.

    Raises
    ------
    ConfigError : nothing had.
    """
    pods = trace.pods
    seen = np.flatnonzero(pods.arrival_s <= now_s)
    if not len(seen):
        raise ConfigError(f"trace {trace.manifest.name}: no pod arrives by second {now_s}, so nothing can be expected")
    end = pods.departure_s[seen]
    known = (end != NEVER) & (end <= now_s)
    arrival = pods.arrival_s[seen].astype(np.int64)
    ends = np.where(known, end, -1).astype(np.int64)
    since_s = max(int(arrival.min()), now_s - round(days * DAY_S))
    return PodHistory(now_s, since_s, arrival, ends, pods.spec[seen].astype(np.int64), worth)


# ── judged ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Judging:
    """Forecasts ``ahead_s`` ahead at ``quantile``, made each ``every_s`` from ``since_s`` to ``until_s`` of a trace."""

    ahead_s: int
    quantile: float
    every_s: int
    since_s: int
    until_s: int
    days: float = DAYS


def _day_max(history: PodHistory) -> float:
    """How far demand of the past day was above demand now, at most."""
    begin = max(history.now_s - DAY_S, history.since_s - 1)
    return history.demand(begin) + history.peak(begin, history.now_s - begin) - history.demand(history.now_s)


def judged(trace: Trace, judging: Judging, tick: Callable[[int, int], None] = lambda _d, _t: None) -> list[Row]:
    """One row per method: total cores at the peak of the time ahead, forecast and real, by pinball loss and coverage."""
    if not len(trace.pods):
        raise ConfigError(f"trace {trace.manifest.name}: no pod arrives, so nothing can be expected; give another")
    first = int(trace.pods.arrival_s.min())
    moments = list(range(first + judging.since_s, first + judging.until_s - judging.ahead_s + 1, judging.every_s))
    if not moments:
        needed, there = hours(judging.since_s + judging.ahead_s), hours(judging.until_s)
        raise ConfigError(
            f"trace {trace.manifest.name}: a forecast needs {needed} h (--since and --ahead), and {there} h are looked at; "
            "give less of these, or a later --until"
        )
    worth = cores_of(trace.specs)
    whole = history_of(trace, last_seen(trace), worth)
    found: dict[str, list[float]] = {"expected": [], "last": [], "day-max": [], "oracle": []}
    real, level, made = [], [], list[Expected]()
    for number, now_s in enumerate(moments):
        history = history_of(trace, now_s, worth, days=judging.days)
        made.append(expect(history, judging.ahead_s, judging.quantile))
        level.append(history.demand(now_s))
        real.append(whole.peak(now_s, judging.ahead_s))
        for name, rise in zip(found, (made[-1].peak, 0.0, _day_max(history), real[-1]), strict=True):
            found[name].append(rise)
        tick(number + 1, len(moments))
    rungs = " ".join(f"{name.lower()}:{n}" for name, n in _counted([e.rung.name for e in made]))
    actual, base = np.array(real), np.array(level)
    rows: list[Row] = []
    for name, rises in found.items():
        error = actual - np.array(rises)
        loss = np.maximum(judging.quantile * error, (judging.quantile - 1) * error)
        rows.append(
            {
                "method": name,
                "forecasts": len(moments),
                "ahead_s": judging.ahead_s,
                "quantile": judging.quantile,
                "pinball_cores": float(loss.mean()),
                "covered": float((error <= 1e-6).mean()),
                "cores_forecast": float((base + np.array(rises)).mean()),
                "cores_real": float((base + actual).mean()),
                "rungs": rungs if name == "expected" else "",
            }
        )
    return rows


def _counted(names: list[str]) -> list[tuple[str, int]]:
    return [(name, names.count(name)) for name in dict.fromkeys(names)]
