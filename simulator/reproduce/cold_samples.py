"""Cold samples: workloads cut off before their start, and what is known of them after a few minutes.

PlanetLab has no starts, so every series is begun at several hours of the day. Known are its few samples, what the other
workloads of its owner (slice), its host, its site and its owner at that site did in the last six hours, what they did
in the coming window on earlier recorded days, and the population. The workload's own earlier samples, of the day or of
earlier days, are never looked at for itself: it is one of the population, and of those that tell owners and hosts apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from placement.learning.baselines import P95, Target, forecasts
from placement.learning.features import FeatureSchema
from placement.learning.siblings import looks_of
from placement.learning.usage import DAY, HOUR, STEP_S, SingleArray, UsageSeries
from placement.learning.windows import Past
from placement.resources import CPU, FloatArray, IntArray
from simulator.learning.forecast_samples import Rows, Samples, concatenate
from simulator.reproduce.neighbours import codes_of, expected_of_others, mean_of_others, number_of_others
from simulator.reproduce.outcomes import Pairs, outcomes_of_others, pairs_of, together
from simulator.traces.usage_readers import host_of

TARGET = Target(6, P95)
LOOK_BACK = 6 * HOUR
"""Samples of the neighbours that count."""
SAME_DAY = 2.0
"""What a pair of the day itself counts beside one of another day."""
MIXED_RULES = ("own-and-owner", "own-or-owner")
"""Half of the workload's own maximum so far, half of what its owner's others need; the larger of its own maximum and of
what they needed on earlier days."""
OUTCOME = "owner_outcome"
"""What the owner's others that looked alike came to need; see :mod:`simulator.reproduce.outcomes`."""
RULES = ("last", "max24h", "p95_24h", "p99_24h", "nsigma-2-24h", "nsigma-3-24h", "nsigma-5-24h", "vpa-p90", "vpa-p95")

Feature = tuple[str, FloatArray]


@dataclass(frozen=True)
class Cold:
    """Cold samples with the forecasts of every simple rule."""

    samples: Samples
    rules: Mapping[str, FloatArray] = field(repr=False)


class Population:
    """All names of several recorded days with their owners, hosts and sites; ``shares`` is (D, N, 288), NaN = absent."""

    def __init__(self, days: Sequence[UsageSeries]) -> None:
        self.days = days
        self._made: dict[tuple[int, int], Pairs] = {}
        self._told: dict[tuple[int, ...], Cold] = {}
        self._ruled: dict[tuple[int, int, int], dict[str, FloatArray]] = {}
        self.names = sorted({name for day in days for name in day.workloads})
        number = {name: i for i, name in enumerate(self.names)}
        self.shares = np.full((len(days), len(self.names), DAY), np.nan, np.float32)
        self.index = []
        owner_of: dict[str, str] = {}
        for share, day in zip(self.shares, days, strict=True):
            rows = np.array([number[name] for name in day.workloads])
            share[rows] = day.share(CPU)
            self.index.append(rows)
            owner_of |= dict(zip(day.workloads, day.groups, strict=True))
        hosts = [host_of(name) for name in self.names]
        owners = [owner_of[name] for name in self.names]
        sites = [host.split("_", 1)[-1] for host in hosts]
        self.keys: dict[str, IntArray] = {
            "owner": codes_of(owners),
            "host": codes_of(hosts),
            "site": codes_of(sites),
            "owner_at_site": codes_of([f"{o} {s}" for o, s in zip(owners, sites, strict=True)]),
        }

    def told(self, length: int, fitted: Sequence[int], tested: Sequence[int]) -> Cold:
        """Every workload of the days as if begun at every whole hour and ``length`` samples old; made once.

        Days that are ``fitted`` on are looked up in each other, whichever was first, ``tested`` ones in those before.
        """
        key = (length, len(fitted), *fitted, *tested)
        if key not in self._told:
            known = {day: [other for other in fitted if other != day] for day in fitted}
            starts = range(0, DAY - TARGET.horizon_h * HOUR - length + 1, HOUR)
            parts = [self.cold(day, at, length, known.get(day)) for day in (*fitted, *tested) for at in starts]
            rules = {name: np.concatenate([part.rules[name] for part in parts]) for name in parts[0].rules}
            self._told[key] = Cold(concatenate([part.samples for part in parts]), rules)
        return self._told[key]

    def cold(self, day: int, begin: int, length: int, known: Sequence[int] | None = None) -> Cold:
        """Every workload of a day as if begun at sample ``begin`` and ``length`` samples old.

        ``known`` are the other days that neighbours are looked up in: those before, if not given.
        """
        others = range(day) if known is None else known
        rows, now = self.index[day], begin + length
        share = self.shares[day][rows]
        own = share[:, begin:now]
        features = dict(_own(own.astype(float)))
        features |= self._neighbours(day, begin, now, others)
        pairs = self._pairs(day, begin, length, others)
        for what in ("owner", "host"):
            found = outcomes_of_others(pairs, rows, looks_of(own), self.keys[what])
            features |= {f"{what}_{name}": values for name, values in found.items()}
        owner, population = features["owner_p95"], features["population_p95"]
        nearest = np.where(np.isfinite(owner), owner, population)
        features["anchor"] = 0.5 * features["own_max"] + 0.5 * nearest
        features["hour"] = np.full(len(rows), begin / HOUR)
        schema = FeatureSchema(tuple(features))
        table = np.stack(list(features.values()), axis=1).astype(np.float32)
        table[~np.isfinite(table)] = np.nan
        truth = np.percentile(share[:, now : now + TARGET.horizon_h * HOUR], 95, axis=1).astype(np.float32)
        which = np.full(len(rows), day)
        samples = Samples(
            schema, Rows.of(table), truth, np.ones(len(rows)), rows, np.full(len(rows), begin), which, which,
            np.full(len(rows), self.days[day].name, dtype=object),
        )  # fmt: skip
        earlier = np.where(np.isfinite(features["owner_earlier"]), features["owner_earlier"], nearest)
        rules = self._rules(day, begin, own)
        rules |= {"population-q95": population, "owner": nearest, "owner-earlier": earlier}
        rules |= zip(MIXED_RULES, (features["anchor"], np.maximum(features["own_max"], earlier)), strict=True)
        rules[OUTCOME] = np.where(np.isfinite(features[OUTCOME]), features[OUTCOME], population)
        return Cold(samples, rules)

    def _rules(self, day: int, begin: int, own: SingleArray) -> dict[str, FloatArray]:
        """By rules on its own samples alone; made once, whatever days neighbours are looked up in."""
        key = (day, begin, own.shape[1])
        if key not in self._ruled:
            pad = -own.shape[1] % HOUR
            seen = np.concatenate([np.full((len(own), pad), np.nan, np.float32), own], axis=1)
            start = self.days[day].start_s + (begin - pad) * STEP_S
            past = Past(seen, np.array([seen.shape[1]]), np.ones(len(own)), CPU, start)
            found = {name: values[:, 0].astype(float) for name, values in forecasts(RULES, past, TARGET).items()}
            self._ruled[key] = found | {"request": np.ones(len(own))}
        return dict(self._ruled[key])

    def _pairs(self, day: int, begin: int, length: int, others: Sequence[int]) -> Pairs:
        """Pairs of other days, and those of the day whose outcome is known by now."""
        for number in (*others, day):
            if (number, length) not in self._made:
                share, rows = self.shares[number], self.index[number]
                self._made[number, length] = pairs_of(share[rows], rows, length, TARGET.horizon_h * HOUR)
        today = self._made[day, length]
        over = today.pick(today.begin + TARGET.horizon_h * HOUR <= begin)
        same_day = replace(over, weight=over.weight * SAME_DAY)
        return together([*(self._made[number, length] for number in others), same_day])

    def _neighbours(self, day: int, begin: int, now: int, others: Sequence[int]) -> dict[str, FloatArray]:
        """Features of other workloads, from samples before ``now`` and from other days."""
        rows = self.index[day]
        recent = self.shares[day][rows, max(0, now - LOOK_BACK) : now].astype(float)
        own = self.shares[day][rows, begin:now].astype(float)
        level, mean = np.percentile(recent, 95, axis=1), recent.mean(axis=1)
        earlier = self._earlier(others, now)
        growth = self._growth(day, now, now - begin)
        found = {"population_p95": np.full(len(rows), np.percentile(level, 95))}
        found["population_mean"] = np.full(len(rows), mean.mean())
        for name, codes in self.keys.items():
            keys = codes[rows]
            found[f"{name}_p95"] = mean_of_others(level, keys)
            found[f"{name}_mean"] = mean_of_others(mean, keys)
            found[f"{name}_max"] = mean_of_others(recent.max(axis=1), keys)
            spread = mean_of_others(level**2, keys) - found[f"{name}_p95"] ** 2
            found[f"{name}_spread"] = np.sqrt(np.maximum(spread, 0))
            found[f"siblings_{name}"] = number_of_others(level, keys)
            found[f"{name}_now"] = mean_of_others(own.mean(axis=1), keys)
            found[f"{name}_earlier"] = mean_of_others(earlier, codes)[rows]
            found[f"siblings_growth_{name}"] = mean_of_others(growth, keys)
        owners, hosts = self.keys["owner"], self.keys["host"]
        found["expected"] = expected_of_others(level, owners[rows], hosts[rows])
        found["expected_now"] = expected_of_others(own.mean(axis=1), owners[rows], hosts[rows])
        found["expected_earlier"] = expected_of_others(earlier, owners, hosts)[rows]
        return found

    def _earlier(self, others: Sequence[int], now: int) -> FloatArray:
        """(N,) P95 of the coming window on other recorded days, averaged; NaN for names that were not there."""
        total, count = np.zeros(len(self.names)), np.zeros(len(self.names))
        for number in others:
            rows = self.index[number]
            window = self.shares[number][rows, now : now + TARGET.horizon_h * HOUR]
            total[rows] += np.percentile(window, 95, axis=1)
            count[rows] += 1
        out: FloatArray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return out

    def _growth(self, day: int, now: int, length: int) -> FloatArray:
        """(n,) log ratio of a six-hour window that has just ended to as short a look at its start; NaN too early."""
        rows = self.index[day]
        first = now - TARGET.horizon_h * HOUR - length
        if first < 0:
            return np.full(len(rows), np.nan)
        share = self.shares[day][rows]
        short = share[:, first : first + length].max(axis=1).astype(float)
        later = np.percentile(share[:, first + length : now], 95, axis=1)
        return np.asarray(np.log((later + 0.01) / (short + 0.01)), float)


def _own(samples: FloatArray) -> Iterator[Feature]:
    """Features of the (n, L) samples of the workload itself."""
    length = samples.shape[1]
    ordered = np.sort(samples, axis=1)[:, ::-1]
    yield "own_max", ordered[:, 0]
    yield "own_second", ordered[:, 1]
    yield "own_mean", samples.mean(axis=1)
    yield "own_min", ordered[:, -1]
    yield "own_median", np.median(samples, axis=1)
    yield "own_deviation", samples.std(axis=1)
    yield "own_last", samples[:, -1]
    late = samples[:, -max(1, length // 3) :]
    yield "own_late_mean", late.mean(axis=1)
    yield "own_late_max", late.max(axis=1)
    for percent in (75, 90, 95):
        yield f"own_p{percent}", np.percentile(samples, percent, axis=1)
    yield "siblings_own_idle", (samples <= 0.01).mean(axis=1)
