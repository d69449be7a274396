"""What a purchase is made for beyond the pods that wait, and in words how sure that is: from what came and went to growth.

Pure, and the same over gRPC and from the command line: a history comes from a recording of the cluster here, or from a
trace in the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from placement.errors import ConfigError
from placement.planning.expected import DAY_S, Expected, PodHistory, Rung, expect
from placement.planning.growth import Growth, growth_of
from placement.pods import PodSpec
from placement.rates import Rates
from placement.recording import Recording
from placement.resources import FloatArray

DAYS = 28.0
"""Of history, as ``ullage record`` takes: load changes for good, and older windows are of another cluster."""
QUANTILE = 0.9
"""Of the demand to prepare for."""


def worth_of(specs: Sequence[PodSpec], rates: Rates) -> FloatArray:
    """``(S,)`` USD an hour for what a pod of each class asks for: several resources become one number."""
    return np.array(
        [
            cpu / 1000 * rates.cpu + memory / 2**30 * rates.memory_gib + gpu / 1000 * rates.gpu
            for cpu, memory, gpu in (spec.main_amounts for spec in specs)
        ]
    )


def history_of_recording(
    recording: Recording, rates: Rates, *, days: float = DAYS
) -> tuple[PodHistory, tuple[PodSpec, ...]]:
    """What a recording tells, until the last thing it tells, of the last ``days``; and the classes of its pods.

    Raises
    ------
    ConfigError : it has no pods.
    """
    if not recording.pods:
        raise ConfigError(f"recording {recording.name}: has no pods, so nothing can be expected")
    pods = sorted(recording.pods, key=lambda pod: max(pod.arrival_s, recording.first_s))
    specs = {spec: number for number, spec in enumerate(dict.fromkeys(pod.spec for pod in pods))}
    arrival = np.array([max(pod.arrival_s, recording.first_s) for pod in pods], np.int64)
    ends = np.array([pod.departure_s for pod in pods], np.int64)
    ends = np.where(ends < 0, -1, np.maximum(ends, arrival))
    last = max(int(pod.time_s[-1]) for pod in pods if len(pod.time_s)) if any(len(pod.time_s) for pod in pods) else 0
    now_s = max(int(arrival.max()), int(ends.max()), last)
    since_s = max(int(arrival.min()), now_s - round(days * DAY_S))
    classes = np.array([specs[pod.spec] for pod in pods], np.int64)
    return PodHistory(now_s, since_s, arrival, ends, classes, worth_of(tuple(specs), rates)), tuple(specs)


@dataclass(frozen=True)
class Foreseen:
    """What a purchase is made for beyond pending pods, and in words what that stands on and how sure it is."""

    growth: tuple[Growth, ...]
    words: tuple[str, ...]


def foresee(
    history: PodHistory, specs: Sequence[PodSpec], span_s: int, quantile: float, *, owner: str = ""
) -> Foreseen:
    """What is expected within ``span_s``, of the classes ``specs`` of a history; bare pods count as ``owner``'s."""
    expected = expect(history, span_s, quantile)
    named = [replace(spec, owner=spec.owner or owner) for spec in specs]
    growth = growth_of(named, expected.rise, np.array(expected.use))
    return Foreseen(growth, _words(history, expected, span_s))


def _words(history: PodHistory, expected: Expected, span_s: int) -> tuple[str, ...]:
    seen = f"{hours(history.now_s - history.since_s)} h of history with {len(history.arrival_s)} pods"
    if expected.rung == Rung.NOTHING:
        return (f"not enough history to expect anything in {hours(span_s)} h ({seen}): only pending pods count",)
    more, fewer = int(np.maximum(expected.rise, 0).sum()), int(np.maximum(-expected.rise, 0).sum())
    rise = f"at the peak {more} pods more and {fewer} fewer than now (worth {expected.peak:+.2f} USD/h on {expected.level:.2f})"
    basis = f"{expected.windows} {expected.rung}" if expected.windows else str(expected.rung)
    if expected.tested:
        record = f"{expected.held} of {expected.tested} earlier forecasts made like this were not exceeded"
    else:
        record = "how sure that is cannot be said: no earlier forecast made like this has come to its end"
    return (f"within {hours(span_s)} h, at quantile {expected.quantile:g}: {rise}", f"from {basis}; {seen}", record)


def hours(seconds: int) -> str:
    """In words."""
    return f"{seconds / 3600:.3g}"
