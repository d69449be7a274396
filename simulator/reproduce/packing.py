"""``ullage reproduce packing``: how many nodes a policy needs when usage may exceed a node in 1 % of node-time.

At every origin (midnight; on PlanetLab noon and six in the evening) all workloads are packed anew; until the next
origin their five-minute usage is what was recorded. Rules and the oracle pack first-fit decreasing, rules also spread over
the fewest nodes that hold their sums (``spread+RULE``: the largest first, each to the emptiest node); ``ullage`` packs by
replay of the co-located set (:mod:`simulator.reproduce.joint_packing`). Each policy has one knob, a factor on what it reserves,
searched in steps of one per cent on the tuning days and frozen: the fewest nodes that hold the budget there.

Tasks: ``bitbrains-cpu`` (32 cores; tuned on days 46–59, tested on 62–90), ``bitbrains-cpu-memory`` (nodes with as much
memory per core as the workloads were given; both resources must hold) and ``planetlab-cpu`` (16 cores; tuned on the
first three recorded days, tested on the rest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import P95, Target, forecast
from placement.learning.boosted import FitOptions
from placement.learning.usage import DAY, HOUR, SingleArray, UsageSeries
from placement.learning.windows import Past
from placement.resources import CPU, MEMORY, FloatArray, IntArray
from simulator.learning.forecast_samples import Recording, folds_of
from simulator.learning.training import Effort, fit_bases, predictions
from simulator.reproduce.data_sets import Once, data_set
from simulator.reproduce.eurosys import filled
from simulator.reproduce.joint_packing import PLACE_DAYS, Plan, Replay, plans
from simulator.reproduce.parts import Omitted, Progress, silent
from simulator.traces.usage_readers import read_bitbrains_rnd, read_planetlab

NODE_CORES = 32.0
PLANETLAB_CORES = 16.0
BUDGET = 0.01
TUNE_DAYS = range(46, 60)
TEST_DAYS = range(62, 91)
PLANETLAB_TUNE_DAYS = 3
PLANETLAB_HOURS = (12, 18)
TARGET = Target(24, P95)
FOLDS = 4
REPLAY_DAYS = 7
RULES = (
    "request", "borg-phi", "max24h", "max7d", "p99_24h", "p99_7d", "p95_14d", "vpa-p90", "vpa-p95", "koordinator",
    "autopilot-mw", "max28w",
)  # fmt: skip
PLANETLAB_RULES = (
    "request", "borg-phi", "max24h", "p95_24h", "p99_24h", "nsigma-3-10h", "vpa-p90", "vpa-p95", "koordinator",
    "autopilot-mw",
)  # fmt: skip
KNOBS = tuple(float(k) for k in np.round(np.exp(np.arange(-60, 60) * 0.01), 3))
"""0.549 to 1.804 in steps of 1 %; what ours is searched on."""
RULE_KNOBS = (*(float(k) for k in np.round(np.exp(np.arange(-200, -60) * 0.01), 3)), *KNOBS)
"""From 0.135 on: rules that reserve the whole request go far below it where workloads are many and idle."""
REPLAY_KNOBS = tuple(float(k) for k in np.round(np.arange(0.85, 1.305, 0.01), 2))
PAIR_SECONDS = (0.7, 0.8, 0.9, 1.0, 1.1)
PAIR_KNOBS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
COARSE = 10
"""Long grids are searched at every tenth knob first."""
SIGMAS = tuple(float(n) for n in np.round(np.arange(1.0, 8.05, 0.1), 1))
SPREAD = "spread+"
"""Begins the name of a rule whose sums are spread instead of packed first-fit."""
UNSPREAD = ("request", "borg-phi")
TASKS = ("bitbrains-cpu", "bitbrains-cpu-memory", "planetlab-cpu")
REPLAYS = ("replay-nsigma", "replay-p99-7d", "replay+vpa")
OURS = ("ullage", "ullage-daily", "learned", "learned+vpa")


@dataclass(frozen=True)
class Epoch:
    """One packing: what was known at its origin and what came, everything in shares of a node.

    ``history`` and ``future`` are (R, N, T) samples; ``rules`` name → (R, N) what each rule reserves; ``weekday`` of
    the day that begins (0 = Monday), where the epoch begins at midnight.
    """

    day: int
    history: SingleArray = field(repr=False)
    future: SingleArray = field(repr=False)
    rules: Mapping[str, FloatArray] = field(repr=False)
    weekday: int | None = None

    @cached_property
    def plans(self) -> list[Plan]:
        """Balanced assignments, as many as the knobs can ask for."""
        return plans(Replay.of(self.history, self.weekday), fewest=1 / KNOBS[-1], most=1 / KNOBS[0])

    @cached_property
    def outcomes(self) -> list[Overload]:
        """What came of each of the plans."""
        return [overloaded(plan.node_of, self.future) for plan in self.plans]

    @cached_property
    def week_order(self) -> FloatArray:
        """(N,) 99th percentile of each workload's last days: the order in which replay rules pack."""
        return _largest(np.percentile(self.history[:, :, -REPLAY_DAYS * DAY :], 99, axis=2))

    @cached_property
    def spreads(self) -> dict[tuple[str, int], tuple[float, Overload]]:
        """By rule and number of nodes, as far as it was asked: what the fullest node reserves, and what came of it."""
        return {}

    def pick(self, rows: IntArray) -> Epoch:
        """The same with some workloads only."""
        rules = {n: v[:, rows] for n, v in self.rules.items()}
        return Epoch(self.day, self.history[:, rows], self.future[:, rows], rules, self.weekday)


@dataclass(frozen=True)
class Overload:
    """Nodes used, node-samples over capacity and by how much on average, all node-samples."""

    nodes: int
    over: int
    excess: float
    samples: int


def overloaded(node_of: IntArray, usage: SingleArray) -> Overload:
    """What became of an assignment under (R, N, S) recorded usage; a node is over when any resource is."""
    nodes = int(node_of.max()) + 1
    load = np.zeros((nodes, usage.shape[0], usage.shape[2]), np.float32)
    np.add.at(load, node_of, usage.transpose(1, 0, 2))
    highest = load.max(axis=1)
    over = highest > 1 + 1e-5
    return Overload(nodes, int(over.sum()), float((highest[over] - 1).sum()), int(over.size))


@dataclass(frozen=True)
class Replayed:
    """What first-fit holds of the replayed sum of a node: its ``percent`` percentile, or mean plus N deviations."""

    series: SingleArray = field(repr=False)
    percent: float | None = 99.0

    def fits(self, load: SingleArray, knob: float) -> bool:
        """Whether an (R, S) load is within a node; the knob is a factor, or N."""
        if self.percent is None:
            return bool((load.mean(axis=1) + knob * load.std(axis=1) <= 1).all())
        rank = min(load.shape[1] - 1, int(np.ceil(self.percent / 100 * load.shape[1])) - 1)
        return bool((np.partition(load, rank, axis=1)[:, rank] * knob <= 1).all())


def first_fit(reserved: FloatArray | None, order_by: FloatArray, replayed: Replayed | None, knob: float) -> IntArray:
    """(N,) node of each workload, first-fit in order of falling ``order_by``.

    A node takes a workload when the sums of ``reserved`` (R, N) shares and the replayed load both stay within it.
    """
    num = len(order_by)
    node_of = np.zeros(num, np.int64)
    resources = len(reserved) if reserved is not None else 1
    sums = np.zeros((num + 1, resources))
    loads: list[SingleArray] = []
    used = 0
    columns = np.zeros((num, resources)) if reserved is None else reserved.T
    for workload in np.argsort(-order_by, kind="stable"):
        room = (sums[:used] + columns[workload] <= 1 + 1e-9).all(axis=1)
        target = used
        for node in np.flatnonzero(room):
            if replayed is None or replayed.fits(loads[node] + replayed.series[:, workload], knob):
                target = int(node)
                break
        if target == used:
            used += 1
            if replayed is not None:
                loads.append(np.zeros_like(replayed.series[:, 0]))
        sums[target] += columns[workload]
        if replayed is not None:
            loads[target] = loads[target] + replayed.series[:, workload]
        node_of[workload] = target
    return node_of


def spread(reserved: FloatArray, nodes: int) -> tuple[IntArray, float]:
    """(N,) node of each workload, the largest first, each where the fullest resource stays emptiest; what is reserved of the
    fullest node. ``reserved`` is (R, N) shares."""
    node_of = np.zeros(reserved.shape[1], np.int64)
    sums = np.zeros((nodes, len(reserved)))
    for workload in np.argsort(-_largest(reserved), kind="stable"):
        target = int((sums + reserved[:, workload]).max(axis=1).argmin())
        sums[target] += reserved[:, workload]
        node_of[workload] = target
    return node_of, float(sums.max())


def spread_over_fewest(epoch: Epoch, rule: str, knob: float) -> Overload:
    """A rule's sums spread over the fewest nodes that hold them; who goes where does not depend on the knob."""
    reserved = epoch.rules[rule]
    nodes = max(1, int(np.ceil(float(reserved.sum(axis=1).max()) * knob - 1e-9)))
    while True:
        if (rule, nodes) not in epoch.spreads:
            node_of, fullest = spread(reserved, nodes)
            epoch.spreads[rule, nodes] = fullest, overloaded(node_of, epoch.future)
        fullest, outcome = epoch.spreads[rule, nodes]
        if fullest * knob <= 1 + 1e-9 or nodes >= reserved.shape[1]:
            return outcome
        nodes += 1


def pack(policy: str, epoch: Epoch, knob: float, second: float = 1.0) -> Overload:
    """One epoch packed by a policy, and what came of it."""
    if policy == "ullage":
        within = (i for i, plan in enumerate(epoch.plans) if plan.need * knob <= 1)
        return epoch.outcomes[next(within, len(epoch.plans) - 1)]
    if policy.startswith(SPREAD):
        return spread_over_fewest(epoch, policy.removeprefix(SPREAD), knob)
    week = epoch.history[:, :, -REPLAY_DAYS * DAY :]
    if policy == "oracle":
        samples = epoch.future.shape[2]
        percent = 100 * (1 - max(1, int(samples * BUDGET)) / samples)
        node_of = first_fit(None, _largest(epoch.future.max(axis=2)), Replayed(epoch.future, percent), 1.0)
    elif policy == "replay-p99-7d":
        node_of = first_fit(None, epoch.week_order, Replayed(week), knob)
    elif policy == "replay-nsigma":
        node_of = first_fit(None, epoch.week_order, Replayed(week, None), knob)
    elif policy == "replay+vpa":
        reserved = epoch.rules["vpa-p90"] * knob
        node_of = first_fit(reserved, _largest(reserved), Replayed(week), second)
    else:
        reserved = epoch.rules[policy] * knob
        node_of = first_fit(reserved, _largest(reserved), None, knob)
    return overloaded(node_of, epoch.future)


def _largest(reserved: FloatArray | SingleArray) -> FloatArray:
    return np.asarray(reserved.max(axis=0), float)


def knobs_of(policy: str) -> list[tuple[float, float]]:
    """The grid that is searched for a policy."""
    if policy in ("request", "oracle"):
        return [(1.0, 1.0)]
    if policy == "replay-p99-7d":
        return [(k, 1.0) for k in REPLAY_KNOBS]
    if policy == "replay-nsigma":
        return [(n, 1.0) for n in SIGMAS]
    if policy == "replay+vpa":
        return [(k, s) for s in PAIR_SECONDS for k in PAIR_KNOBS]
    return [(k, 1.0) for k in (KNOBS if policy == "ullage" else RULE_KNOBS)]


@dataclass(frozen=True)
class Total:
    """Outcomes of several epochs together."""

    outcomes: tuple[Overload, ...]

    @property
    def nodes(self) -> float:
        """Mean number of nodes."""
        return float(np.mean([o.nodes for o in self.outcomes]))

    @property
    def violations(self) -> float:
        """Share of node-samples over capacity."""
        return sum(o.over for o in self.outcomes) / sum(o.samples for o in self.outcomes)

    @property
    def severity(self) -> float:
        """Mean excess over capacity where it was exceeded, as a share of it."""
        return sum(o.excess for o in self.outcomes) / max(1, sum(o.over for o in self.outcomes))


def tuned(policy: str, epochs: Sequence[Epoch]) -> tuple[tuple[float, float], bool]:
    """The knobs that need the fewest nodes within the budget on ``epochs``; False when none does (then the widest).

    Long grids are searched at every :data:`COARSE`-th knob first, then between the neighbours of the best.
    """
    grid = knobs_of(policy)
    best: tuple[float, float, int] | None = None
    coarse = list(range(0, len(grid), COARSE if len(grid) > 4 * COARSE else 1))
    for number in coarse:
        best = _better(policy, epochs, number, best)
    if best is not None and len(coarse) < len(grid):
        middle = best[2]
        for number in range(max(0, middle - COARSE + 1), min(len(grid), middle + COARSE)):
            best = _better(policy, epochs, number, best) if number != middle else best
    return (grid[best[2]], True) if best is not None else (grid[-1], False)


def _better(
    policy: str, epochs: Sequence[Epoch], number: int, best: tuple[float, float, int] | None
) -> tuple[float, float, int] | None:
    total = Total(tuple(pack(policy, epoch, *knobs_of(policy)[number]) for epoch in epochs))
    found = (total.nodes, total.violations, number)
    return found if total.violations <= BUDGET and (best is None or found < best) else best


def judge(policy: str, tune: Sequence[Epoch], test: Sequence[Epoch]) -> dict[str, Any]:
    """A policy with the knob of the tuning epochs, on the test epochs."""
    knobs, held = tuned(policy, tune)
    total = Total(tuple(pack(policy, epoch, *knobs) for epoch in test))
    return {**_entry(total), "knob": knobs[0], "second_knob": knobs[1], "held_budget_on_tuning_days": held}


def judge_daily(tune: Sequence[Epoch], test: Sequence[Epoch]) -> dict[str, Any]:
    """``ullage`` with a knob renewed before every test day, from all the days before it."""
    known, outcomes, knob = list(tune), [], 1.0
    for epoch in test:
        if known[-1].day < epoch.day:
            (knob, _), _ = tuned("ullage", [e for e in known if e.day < epoch.day])
        outcomes.append(pack("ullage", epoch, knob))
        known.append(epoch)
    return {**_entry(Total(tuple(outcomes))), "knob": knob, "second_knob": 1.0, "held_budget_on_tuning_days": True}


def _entry(total: Total) -> dict[str, Any]:
    counts = [o.nodes for o in total.outcomes]
    return {
        "nodes": total.nodes,
        "violations": total.violations,
        "severity": total.severity,
        "nodes_min": min(counts),
        "nodes_max": max(counts),
    }


@dataclass(frozen=True)
class Task:
    """Epochs to tune on and to test on."""

    tune: tuple[Epoch, ...]
    test: tuple[Epoch, ...]
    policies: tuple[str, ...]

    def pick(self, rows: IntArray, policies: tuple[str, ...]) -> Task:
        """The same with some workloads and policies."""
        return Task(tuple(e.pick(rows) for e in self.tune), tuple(e.pick(rows) for e in self.test), policies)

    def run(self, progress: Progress) -> dict[str, Any]:
        """Every policy, and the share of the gap that ours closes."""
        entries = {}
        for policy in self.policies:
            entries[policy] = judge(policy, self.tune, self.test)
            progress(f"packed by {policy}: {entries[policy]['nodes']:.2f} nodes")
        entries["ullage-daily"] = judge_daily(self.tune, self.test)
        return {"policies": entries, **gap(entries)}


def gap(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Best tuned history (of those that held the budget in the test), and how far ours goes from it to the oracle."""
    history = {n: e["nodes"] for n, e in entries.items() if n not in (*OURS, "oracle") and e["violations"] <= BUDGET}
    best = min(history, key=lambda n: history[n])
    whole = history[best] - entries["oracle"]["nodes"]
    return {
        "best_history": best,
        "gap_closed": (history[best] - entries["ullage"]["nodes"]) / whole if whole > 0 else 0.0,
        "gap_closed_daily": (history[best] - entries["ullage-daily"]["nodes"]) / whole if whole > 0 else 0.0,
        "violations": entries["ullage"]["violations"],
        "violations_daily": entries["ullage-daily"]["violations"],
        "density": entries["request"]["nodes"] / entries["ullage"]["nodes"],
    }


def bitbrains(series: UsageSeries, resources: tuple[str, ...], learned: FloatArray | None) -> Task:
    """Midnights of Bitbrains; nodes of 32 cores with the memory that belongs to them.

    ``learned`` (N, D) cores from day 46 on, as made by :func:`learn`.
    """
    memory = float(series.provisioned[MEMORY].sum() / series.provisioned[CPU].sum()) * NODE_CORES
    size = {CPU: NODE_CORES, MEMORY: memory}
    cut = series.num_steps // DAY * DAY
    days = np.arange(TUNE_DAYS.start, cut // DAY)
    usage, rules = [], dict[str, list[FloatArray]]()
    for resource in resources:
        given = series.provisioned[resource]
        capped = np.minimum(series.usage[resource], given[:, None]).astype(np.float32)[:, :cut]
        usage.append(filled(capped) / np.float32(size[resource]))
        past = Past((capped / given[:, None]).astype(np.float32), days * DAY, given, resource, series.start_s)
        for name in RULES:
            rules.setdefault(name, []).append(forecast(name, past, TARGET) * (given / size[resource])[:, None])
    table = np.stack(usage).astype(np.float32)
    tables = {name: np.stack(parts) for name, parts in rules.items()}
    if learned is not None:
        tables["learned"] = learned[None] / NODE_CORES
        tables["learned+vpa"] = 0.5 * tables["learned"] + 0.5 * tables["vpa-p90"]
    epochs = {
        int(day): Epoch(
            int(day),
            table[:, :, (day - PLACE_DAYS) * DAY : day * DAY],
            table[:, :, day * DAY : (day + 1) * DAY],
            {name: values[:, :, column] for name, values in tables.items()},
            weekday_of(series.start_s + int(day) * 86_400),
        )
        for column, day in enumerate(days)
    }
    trees = ("learned", "learned+vpa") if learned is not None else ()
    policies = (*RULES, *_spread(RULES), *REPLAYS, *trees, "ullage", "oracle")
    test = tuple(epochs[d] for d in TEST_DAYS if d in epochs)
    return Task(tuple(epochs[d] for d in TUNE_DAYS), test, policies)


def _spread(rules: Sequence[str]) -> tuple[str, ...]:
    return tuple(SPREAD + rule for rule in rules if rule not in UNSPREAD)


def weekday_of(midnight_s: int) -> int:
    """0 = Monday of the day that begins at a local midnight, told by its noon: zones are within half a day of UTC."""
    return int((midnight_s + 43_200) // 86_400 + 3) % 7


def learn(series: UsageSeries, seed: int, effort: Effort) -> FloatArray:
    """(N, D) cores at each midnight from day 46 on by models that never saw the workload, fitted on days before; VPA
    where a gap leaves no features."""
    cores = series.provisioned[CPU]
    midnights = np.arange(TUNE_DAYS.start, series.num_steps // DAY) * DAY
    origins = np.unique(np.concatenate([np.arange(14 * DAY, TUNE_DAYS.start * DAY, 3 * HOUR), midnights]))
    recording = Recording(series, origins)
    samples = recording.samples(CPU, TARGET)
    out = forecast("vpa-p90", recording.past(CPU, midnights), TARGET).astype(float) * cores[:, None]
    fold = folds_of(len(cores), FOLDS, seed)[samples.workload]
    early = samples.end_day < TUNE_DAYS.start - 6
    stop = (samples.start_day >= TUNE_DAYS.start - 6) & (samples.end_day < TUNE_DAYS.start)
    column = np.searchsorted(midnights, samples.hour * HOUR)
    at_midnight = np.isin(samples.hour * HOUR, midnights)
    for k in range(FOLDS):
        models = fit_bases(
            samples, resource=CPU, target=TARGET, train=early & (fold != k), stop=stop & (fold != k),
            effort=effort, seed=seed + k, bases=("max_24h", "max_168h"),
        )  # fmt: skip
        mine = at_midnight & (fold == k)
        share = predictions(models, samples.rows[mine]).mean(axis=0)
        out[samples.workload[mine], column[mine]] = share * cores[samples.workload[mine]]
    return out


def planetlab(days: Sequence[UsageSeries]) -> Task:
    """Noon and evening of each recorded day; a workload is one core and has only that day's past."""
    epochs: list[tuple[Epoch, ...]] = []
    for number, series in enumerate(days):
        share = series.share(CPU)
        given = np.ones(len(share))
        origins = np.array(PLANETLAB_HOURS) * HOUR
        past = Past(share, origins, given, CPU, series.start_s)
        rules = {name: forecast(name, past, Target(6, P95)).astype(float) / PLANETLAB_CORES for name in PLANETLAB_RULES}
        node = filled(share)[None] / np.float32(PLANETLAB_CORES)
        epochs.append(
            tuple(
                Epoch(
                    number,
                    node[:, :, :origin],
                    node[:, :, origin : origin + 6 * HOUR],
                    {name: values[None, :, column] for name, values in rules.items()},
                )
                for column, origin in enumerate(origins)
            )
        )
    policies = (*PLANETLAB_RULES, *_spread(PLANETLAB_RULES), *REPLAYS, "ullage", "oracle")
    tune, test = epochs[:PLANETLAB_TUNE_DAYS], epochs[PLANETLAB_TUNE_DAYS:]
    return Task(tuple(e for part in tune for e in part), tuple(e for part in test for e in part), policies)


def drawn_anew(task: Task, draws: int, seed: int, progress: Progress) -> list[dict[str, Any]]:
    """The comparison repeated on ``draws`` random four fifths of the workloads."""
    num = task.tune[0].future.shape[1]
    rules = ("vpa-p90", "vpa-p95", "koordinator")
    policies = ("request", *rules, *_spread(rules), "ullage", "oracle")
    out = []
    for k in range(draws):
        rows = np.sort(np.random.default_rng([seed, k]).choice(num, num * 4 // 5, replace=False))
        entry = task.pick(rows, policies).run(silent)
        out.append({n: entry[n] for n in ("best_history", "gap_closed", "violations", "gap_closed_daily", "density")})
        progress(f"draw {k + 1} of {draws}: {entry['gap_closed']:.1%} of the gap")
    return out


def run(
    data: Path,
    *,
    seed: int = 3,
    draws: int = 0,
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """All tasks, or ``only`` some; the JSON report, whose top level repeats ``bitbrains-cpu``.

    A task whose recording is absent, or has too few days, is left out; ``omitted`` says why.

    Raises
    ------
    TraceError : a recording is unreadable. ConfigError, ModelError : no task can be judged.
    """
    wanted = tuple(only) or TASKS
    tasks, omitted = dict[str, Any](), Omitted()
    series = Once(lambda: read_bitbrains_rnd(data_set(data, "bitbrains-rnd")))
    effort = Effort(40_000, 10_000, FitOptions(level=0.9))

    def judged(name: str) -> dict[str, Any]:
        task = _planetlab(data) if name == "planetlab-cpu" else _bitbrains(name, series(), seed, effort)
        progress(f"{name}: packing")
        found = task.run(progress)
        return (
            {**found, "draws": drawn_anew(task, draws, seed, progress)} if draws and name == "bitbrains-cpu" else found
        )

    for number, name in enumerate(wanted, 1):
        found = omitted.unless(name, partial(judged, name))
        if found is None:
            progress(f"{name} is left out", number, len(wanted))
        else:
            tasks[name] = found
            progress(f"{name}: {found['gap_closed']:.1%} of the gap", number, len(wanted))
    why = omitted.reasons(tasks)
    return {**tasks.get("bitbrains-cpu", {}), "tasks": tasks, "omitted": why, "seed": seed}


def _bitbrains(name: str, series: UsageSeries, seed: int, effort: Effort) -> Task:
    needed = TEST_DAYS.start + 7
    if series.num_days < needed:
        raise ConfigError(f"the Bitbrains recording has {series.num_days:.0f} days; packing needs {needed}")
    if name == "bitbrains-cpu":
        return bitbrains(series, (CPU,), learn(series, seed, effort))
    return bitbrains(series, (CPU, MEMORY), None)


def _planetlab(data: Path) -> Task:
    days = read_planetlab(data_set(data, "planetlab"))
    if len(days) <= PLANETLAB_TUNE_DAYS:
        raise ConfigError(f"packing of PlanetLab needs {PLANETLAB_TUNE_DAYS + 1} days; the folder has {len(days)}")
    return planetlab(days)
