"""A comparison: what was asked of replays, and what their cells say together.

Everything here is read off the cells (:func:`simulator.measures.measure`); :mod:`simulator.compare` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np

from placement.rates import HOURS_A_MONTH, RATES

Row = dict[str, Any]
"""One cell, JSON-ready."""

USE = ("over_cpu_share", "over_memory_share", "oom_kills", "throttled_core_hours", "reclaimed_core_hours")
"""Metrics of replays with real use; throttled work is apart from USD."""
LOWER_IS_BETTER = {"usd_per_month", "pending_s_p95", "node_hours", "usd"}
SHOWN = (
    "gpu_allocated_share",
    "cpu_allocated_share",
    "memory_allocated_share",
    "gpu_hours",
    "fragmented_gpu_share_end",
    "stranded_gpu_share_end",
    "stranded_cpu_share_end",
    "empty_nodes_mean",
    "pending_s_p50",
    "pending_s_p95",
    "pending_s_p99",
    "placed",
    "preemptions",
    "evictions",
    "lost_pod_hours",
    "node_hours",
    "usd_on_demand",
    "usd_spot",
    "usd_per_month",
    *USE,
)


@dataclass(frozen=True)
class Question:
    """What to compare; everything that numbers depend on."""

    traces: tuple[str, ...]
    strategies: tuple[str, ...]
    deliveries: tuple[str, ...] = ("decide",)
    seeds: tuple[int, ...] = (0,)
    loads: tuple[float, ...] = ()
    """Resample each trace to a steady state at these offered GPU loads, anew for every seed; empty = as it is."""
    lifetimes: float = 20.0
    """Length of resampled traces, in mean lifetimes."""
    fleet: str = "trace"
    """``trace`` = the trace's own nodes, ``elastic`` = buy from the price book, ``peak`` = the most nodes that
    `best-fit` had at once on the elastic fleet, all the time."""
    prices: str = ""
    """Price book CSV; empty = the default catalogue."""
    spot_share: float = 0.0
    interruptions: float = 0.0
    """Spot nodes taken back per node-hour."""
    warmup_s: int = 0
    until: str = "arrivals"
    """``arrivals`` = measure to the last arrival, ``empty`` = until everything has ended."""
    fill: bool = False
    """Nobody leaves and nobody waits: admit until full."""
    skip_bad_rows: bool = False
    mechanism: str = "none"
    """How a replay with recorded usage overcommits; see :data:`simulator.usage.mechanisms.MECHANISMS`."""
    keep_namespaces: tuple[str, ...] = ()
    """Whose pods keep their requests under a mechanism, as those of marked namespaces do in a cluster."""
    model: str = ""
    """Folder of ``ullage train`` that forecasts of usage come from, as in ``ullage serve``; empty = the history alone."""
    horizon: str = "6h-peak"
    """What is forecast of usage: window and statistic."""
    siblings: bool = False
    """Whether newcomers are predicted in their first day from others who looked alike."""
    learn_lifetimes: bool = False
    """Whether strategies that read lifetimes learn them during the replay, as in ``ullage serve``; a model that tells of
    lifetimes switches it on."""


def _share_metric(question: Question, rows: Sequence[Row]) -> str:
    """The share of GPUs, or of cores where there are none, that is allocated."""
    has_gpus = any(row["metrics"]["gpu_allocated_share"] for row in rows)
    return f"{'gpu' if has_gpus else 'cpu'}_allocated_share{'_end' if question.fill else ''}"


def primary_metric(question: Question, rows: Sequence[Row]) -> str:
    """What decides: USD on an elastic fleet, else the share of GPUs (or cores) allocated."""
    return "usd_per_month" if question.fleet == "elastic" else _share_metric(question, rows)


@dataclass(frozen=True)
class OnTrace:
    """The cells of one trace."""

    question: Question
    trace: str
    rows: Sequence[Row]

    @cached_property
    def metric(self) -> str:
        """What decides here."""
        return primary_metric(self.question, self.rows)

    @cached_property
    def cells(self) -> dict[str, list[Row]]:
        """What is compared, in the order asked → its cells, by seed; a strategy goes with its delivery where several are."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(label(self.question, row), []).append(row)
        return {name: sorted(cells, key=lambda row: row["seed"]) for name, cells in found.items()}

    def values(self, name: str, metric: str) -> list[float]:
        """A metric over seeds; cells without it are left out."""
        found = (row["metrics"].get(metric) for row in self.cells[name])
        return [float(value) for value in found if value is not None]

    def mean(self, name: str, metric: str) -> float | None:
        """Over seeds; None where it was not measured."""
        values = self.values(name, metric)
        return float(np.mean(values)) if values else None

    def summary(self, also: str) -> list[Row]:
        """A line for each of what is compared: mean of every shown metric and of ``also``, and the spread of what decides."""
        lines = []
        for name in self.cells:
            line: Row = {"trace": self.trace, "strategy": name}
            for key in dict.fromkeys((also, self.metric, *SHOWN)):
                mean = self.mean(name, key)
                line[key] = None if mean is None else round(mean, 6)
            main = self.values(name, self.metric)
            line["metric"] = self.metric
            line["sd"] = round(float(np.std(main, ddof=1)), 6) if len(main) > 1 else 0.0
            line["min"], line["max"] = (round(min(main), 6), round(max(main), 6)) if main else (None, None)
            lines.append(line)
        return lines

    def headline(self) -> str:
        """The result in a sentence: who wins, by how much, worth what, how often."""
        if len(self.cells) < 2:
            return self._alone(next(iter(self.cells)))
        values = {name: self.values(name, self.metric) for name in self.cells}
        if any(len(found) < len(self.cells[name]) for name, found in values.items()):
            what = "some replays left no time to measure" if any(values.values()) else "no time was measured"
            return f"On {self.trace}, {what}."
        return self._winner(values)

    def _alone(self, name: str) -> str:
        """What one strategy did."""
        placed, pods = (self.mean(name, metric) or 0 for metric in ("placed", "pods"))
        said = [f"{name} places {placed:,.0f} of {pods:,.0f} pods"]
        metric = _share_metric(self.question, self.rows)
        share, usd = self.mean(name, metric), self.mean(name, "usd_per_month")
        if share is not None:
            said.append(f"allocates {100 * share:.2f} % of the {'GPUs' if metric.startswith('gpu') else 'CPU'}")
        if usd is not None:
            said.append(f"costs {usd:,.0f} USD a month")
        return f"On {self.trace}, {_listed(said)}."

    def _winner(self, values: dict[str, list[float]]) -> str:
        """Who is best, or who is level."""
        trace, is_usd = self.trace, self.metric in LOWER_IS_BETTER
        means = {name: float(np.mean(found)) for name, found in values.items()}
        best, second = sorted(means, key=lambda name: means[name] if is_usd else -means[name])[:2]
        what = "GPUs" if self.metric.startswith("gpu") else "CPU"

        def said(mean: float) -> str:
            return f"{mean:,.0f} USD a month" if is_usd else f"{100 * mean:.2f} % of the {what} allocated"

        level = [name for name in means if said(means[name]) == said(means[best])]
        if len(level) > 1:
            them = f"all {len(level)} strategies" if len(level) == len(means) > 2 else _listed(level)
            return f"On {trace}, {them} are level: {said(means[best])}{'' if is_usd else self._apart(level)}."
        pairs = list(zip(values[best], values[second], strict=True))
        wins = sum((a < b) if is_usd else (a > b) for a, b in pairs)
        often = f"on {wins} of {len(pairs)} seeds" if len(pairs) > 1 else "on the one seed"
        gain = abs(means[best] - means[second])
        if not is_usd:
            worth = self._worth(gain)
            return (
                f"On {trace}, {best} allocates {100 * gain:.2f} points more {what[:3]} than {second}{worth}, {often}."
            )
        fewer = (self.mean(second, "placed") or 0) - (self.mean(best, "placed") or 0)
        but = f", but places {fewer:,.1f} fewer pods".replace(".0 ", " ") if fewer > 0 else ""
        share = f" ({100 * gain / means[second]:.1f} %)" if means[second] else ""
        return f"On {trace}, {best} costs {gain:,.0f} USD a month{share} less than {second}, {often}{but}."

    def _apart(self, level: Sequence[str]) -> str:
        """What tells strategies apart that allocated alike: pods that found no place, else nodes that nobody needed."""
        for metric, words in (
            ("placed", "; {most} places {high} pods, {least} {low}"),
            ("empty_nodes_mean", "; {most} leaves {high} nodes empty, {least} {low}"),
        ):
            found = {name: self.mean(name, metric) for name in level}
            means = {name: round(mean, 1) for name, mean in found.items() if mean is not None}
            if len(set(means.values())) > 1:
                most, least = (pick(means, key=lambda name: means[name]) for pick in (max, min))
                high, low = (f"{means[name]:,.1f}".removesuffix(".0") for name in (most, least))
                return words.format(most=most, least=least, high=high, low=low)
        return ""

    def _worth(self, gain: float) -> str:
        """What a share of the fleet costs a month."""
        found = self.rows[0]["metrics"]
        is_gpu = self.metric.startswith("gpu")
        hours, share = found["hours"], found["gpu_allocated_share" if is_gpu else "cpu_allocated_share"]
        if not hours or not share:
            return ""
        used, rate = (found["gpu_hours"], RATES.gpu) if is_gpu else (found["core_hours"], RATES.cpu)
        fleet = used / share / hours * rate
        return f", worth {gain * fleet * HOURS_A_MONTH:,.0f} USD a month"


@dataclass(frozen=True)
class Comparison:
    """The answer: every cell, and what they say together."""

    question: Question
    rows: list[Row]
    command: str = ""

    @cached_property
    def traces(self) -> list[OnTrace]:
        """By trace, in the order asked."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["trace"], []).append(row)
        return [OnTrace(self.question, trace, rows) for trace, rows in found.items()]

    @cached_property
    def metric(self) -> str:
        """What decides overall."""
        return primary_metric(self.question, self.rows)

    @cached_property
    def headline(self) -> str:
        """The result, a sentence for each trace."""
        return " ".join(trace.headline() for trace in self.traces)

    @cached_property
    def summary(self) -> list[Row]:
        """A line per trace and strategy; see :meth:`OnTrace.summary`."""
        return [line for trace in self.traces for line in trace.summary(self.metric)]

    def document(self) -> Row:
        """All of it as JSON; everything that may differ between equal runs is in ``timing`` and ``command``."""
        return {
            "apiVersion": "ullage.dev/v1",
            "kind": "Comparison",
            "headline": self.headline,
            "metric": self.metric,
            "summary": self.summary,
            "question": dict(vars(self.question)),
            "versions": {name: metadata.version(name) for name in ("ullage", "numpy")},
            "cells": [{k: v for k, v in row.items() if k != "timing"} for row in self.rows],
            "command": self.command,
            "timing": [row["timing"] for row in self.rows],
        }


def label(question: Question, row: Row) -> str:
    """A cell's strategy, with its delivery where several are compared."""
    return f"{row['strategy']} ({row['delivery']})" if len(question.deliveries) > 1 else str(row["strategy"])


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
