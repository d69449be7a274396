"""Demand to come, forecast from a trace's past: for purchases, and judged on the trace's own later hours.

The rivals are the simplest: demand stays where it is (``last``), rises to what it was at most in the past day
(``day-max``), as far as it did a day ago (``day-rise``), or as far as in the span before (``trend``), each as it is and
tuned (``times`` a factor, ``plus`` an amount). ``oracle`` knows the future; what it loses is what no forecast can avoid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import tuned_scale, weighted_quantile
from placement.planning.expected import DAY_S, Expected, PodHistory, expect
from placement.planning.foresight import DAYS, hours
from placement.pods import PodSpec
from placement.resources import CPU, FloatArray, IntArray
from simulator.output import Progress, untold
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


def _rises(whole: PodHistory, first_s: int, now_s: int, ahead_s: int) -> dict[str, float]:
    """How far each rule says that demand will rise above where it is; not at all where nothing was seen so long ago."""
    level = whole.demand(now_s)
    day_ago, begin = now_s - DAY_S, max(now_s - DAY_S, first_s - 1)
    return {
        "last": 0.0,
        "day-max": whole.demand(begin) + whole.peak(begin, now_s - begin) - level,
        "day-rise": whole.peak(day_ago, min(ahead_s, DAY_S)) if day_ago >= first_s else 0.0,
        "trend": max(level - whole.demand(now_s - ahead_s), 0.0) if now_s - ahead_s >= first_s else 0.0,
    }


def _rivals(whole: PodHistory, first_s: int, moments: IntArray, judging: Judging) -> dict[str, FloatArray]:
    """``(M,)`` demand that each rule forecasts at each moment, as it is and tuned.

    Tuned: times the factor, or with the amount added, that has the least loss for its own forecasts of before, as far back
    as there is a history, whose outcome was known.
    """
    earlier = np.arange(moments[0], first_s, -judging.every_s)[:0:-1]
    asked = np.concatenate([earlier, moments])
    level = np.array([whole.demand(s) for s in asked.tolist()])
    real = level + [whole.peak(s, judging.ahead_s) for s in asked.tolist()]
    rises = [_rises(whole, first_s, s, judging.ahead_s) for s in asked.tolist()]
    found: dict[str, FloatArray] = {}
    for name in rises[0]:
        said = level + [rise[name] for rise in rises]
        factor, added = np.ones(len(moments)), np.zeros(len(moments))
        for i, now_s in enumerate(moments.tolist()):
            known = (asked + judging.ahead_s <= now_s) & (asked >= now_s - judging.days * DAY_S)
            if known.any():
                alike = np.ones(int(known.sum()))
                factor[i] = tuned_scale(said[known], real[known], alike, judging.quantile)
                added[i] = weighted_quantile(real[known] - said[known], alike, judging.quantile)
        found[name] = said[len(earlier) :]
        found[f"{name}, times"], found[f"{name}, plus"] = factor * found[name], found[name] + added
    return found


def judged(trace: Trace, judging: Judging, progress: Progress = untold) -> list[Row]:
    """One row per method: total cores at the peak of the time ahead, forecast and real, by pinball loss and coverage."""
    if not len(trace.pods):
        raise ConfigError(f"trace {trace.manifest.name}: no pod arrives, so nothing can be expected; give another")
    first = int(trace.pods.arrival_s.min())
    moments = np.arange(first + judging.since_s, first + judging.until_s - judging.ahead_s + 1, judging.every_s)
    if not len(moments):
        needed, there = hours(judging.since_s + judging.ahead_s), hours(judging.until_s)
        raise ConfigError(
            f"trace {trace.manifest.name}: a forecast needs {needed} h (--since and --ahead), and {there} h are looked at; "
            "give less of these, or a later --until"
        )
    worth = cores_of(trace.specs)
    whole = history_of(trace, last_seen(trace), worth)
    expected, made = [], list[Expected]()
    for number, now_s in enumerate(moments.tolist()):
        history = history_of(trace, now_s, worth, days=judging.days)
        made.append(expect(history, judging.ahead_s, judging.quantile))
        expected.append(history.demand(now_s) + made[-1].peak)
        progress(number + 1, len(moments))
    real = np.array([whole.demand(s) + whole.peak(s, judging.ahead_s) for s in moments.tolist()])
    found = {"expected": np.array(expected), **_rivals(whole, first, moments, judging), "oracle": real}
    rungs = " ".join(f"{name.lower()}:{n}" for name, n in _counted([e.rung.name for e in made]))
    rows: list[Row] = []
    for name, said in found.items():
        error = real - said
        loss = np.maximum(judging.quantile * error, (judging.quantile - 1) * error)
        rows.append(
            {
                "method": name,
                "forecasts": len(moments),
                "ahead_s": judging.ahead_s,
                "quantile": judging.quantile,
                "pinball_cores": float(loss.mean()),
                "covered": float((error <= 1e-6).mean()),
                "cores_forecast": float(said.mean()),
                "cores_real": float(real.mean()),
                "rungs": rungs if name == "expected" else "",
            }
        )
    return rows


def _counted(names: list[str]) -> list[tuple[str, int]]:
    return [(name, names.count(name)) for name in dict.fromkeys(names)]
