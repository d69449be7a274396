"""``ullage reproduce lifetimes``: classes of lifetime at arrival, by owner, against simple owner and sibling rules.

DLRM: applications are owners. Azure: deployment batches are owners, but a batch arrives at one moment, so its own
siblings have all just started; kin are earlier batches of the same make-up. Everything is look-ahead-free: a pod is
described, when it arrives, by what had ended or was running then. Models are fitted anew in steps on what is known
at the step: classes, with the owner's majority (a pod that still runs counts as both of the classes it may yet belong to,
:func:`known_at`), and the hazards that ``ullage train`` fits and ``ullage serve`` answers with. Half of the answer is each's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from placement.learning.boosted import FitOptions, fit_classes
from placement.learning.lineage import LIMITS_S, NUM_CLASSES, TYPICAL_S, Lineage, Prospect, class_of
from placement.learning.usage import SingleArray
from placement.pods import PodSpec
from placement.resources import CPU, GPU_SHARE, MEMORY, BoolArray, FloatArray, IntArray
from simulator.learning.lifetime_samples import LifeSamples, described, with_owners
from simulator.learning.lifetime_scores import concordance
from simulator.learning.lifetime_training import model_at, model_shares
from simulator.traces.azure import read_azure
from simulator.traces.dlrm import read_dlrm
from simulator.traces.trace import NEVER, Pods, Trace

RULES = ("last", "majority", "mean", "survival")
NO_OWNER = ("population", "ended")
"""Rules that look at no owner: hazards of all that arrived, whether ended or running, and the shares of all pods that have
ended. The latter is biased to short lives: of those that came together the short-lived have ended first."""
AGES_S = (0, *LIMITS_S[:2])
MOST_FIT = 60_000
MOST_LIVES = 30_000
"""That hazards are fitted on."""
YOUNGEST_S = 300.0
SETTLED_S = 43_200.0
"""A prediction is judged when its pod arrived so long ago; who runs on then is taken at its age."""
SHARES = (0.3, 0.5, 0.7, 0.85, 1.0)
BEFORE_STEPS = 8
"""Steps before the test from which the mixture learns."""
LEAST_SHARE = 0.02
"""Classes less likely than this are left out for a pod that still runs."""
LEAST_NEW = 100
"""Judged pods of owners that were new, without which the trees are not asked about such."""
HALF_LIFE_S = 7 * 86_400.0
"""A pod a week ago counts half as much as one that arrived just now."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Arrivals:
    """Pods of a trace as they arrived: features, rules' answers, and what came of them."""

    names: tuple[str, ...]
    rows: SingleArray = field(repr=False)
    arrival_s: FloatArray = field(repr=False)
    lifetime_s: FloatArray = field(repr=False)
    """Until the end, or until the recording stopped."""
    is_ended: IntArray = field(repr=False)
    rules: dict[str, FloatArray] = field(repr=False)
    """Rule → (P, classes) probabilities."""
    lives: LifeSamples = field(repr=False)
    """The same arrivals as ``ullage serve`` would know them."""
    siblings_until_s: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    """Age until which all others of a pod's batch live; infinite without others; empty = there are no batches."""

    @property
    def is_new(self) -> BoolArray:
        """(P,) bool: the owner had no pod before."""
        new: BoolArray = self.rows[:, self.names.index(f"{self.names[0].split(':')[0]}:arrivals")] == 0
        return new

    @property
    def label(self) -> IntArray:
        """Class, −1 where the recording stopped too early to tell."""
        known = np.array([class_of(x) for x in self.lifetime_s], np.int64)
        unknown = (self.is_ended == 0) & (self.lifetime_s <= LIMITS_S[-1])
        return np.where(unknown, -1, known)


def stream(
    trace: Trace, keys: Sequence[str], values: Sequence[Sequence[object]],
    extra: SingleArray, extra_names: Sequence[str], horizon_s: float, from_s: float,
) -> Arrivals:  # fmt: skip
    """Replay arrivals and ends in order of time; pods that exist at ``from_s`` seed the history only."""
    lineage = Lineage(keys)
    pods = trace.pods
    ends: list[tuple[float, int]] = []
    rows: list[list[float]] = []
    kept: list[int] = []
    ended_shares = np.full(NUM_CLASSES, 1.0)
    is_told = pods.arrival_s > from_s
    lives = described(with_owners(trace), {i: [0] for i in np.flatnonzero(is_told).tolist()}, seed=0)
    everyone = lives.rules["population"].tolist()
    rules: dict[str, list[tuple[float, ...]]] = {name: [] for name in (*RULES, *NO_OWNER)}
    pending: list[int] = []
    pending_s = -1.0
    for i in range(len(pods)):
        now = float(pods.arrival_s[i])
        if now != pending_s:
            for j in pending:
                lineage.arrive(values[j], pending_s)
            pending, pending_s = [], now
        while ends and ends[0][0] <= now:
            end, j = heapq.heappop(ends)
            lineage.end(values[j], float(pods.arrival_s[j]), end)
            ended_shares[class_of(end - float(pods.arrival_s[j]))] += 1
        if is_told[i]:
            population = Prospect(tuple(everyone[len(kept)]))
            kept.append(i)
            rows.append([*lineage.describe(values[i], now), *extra[i].tolist(), (now % 86_400) / 3600])
            for name in RULES:
                rules[name].append((lineage.rule(name, values[i], now) or population).probabilities)
            rules["population"].append(population.probabilities)
            rules["ended"].append(tuple(float(x) for x in ended_shares / ended_shares.sum()))
        pending.append(i)
        if pods.departure_s[i] != NEVER:
            heapq.heappush(ends, (float(max(pods.departure_s[i], pods.arrival_s[i] + 1)), i))
    index = np.array(kept)
    arrival = pods.arrival_s[index].astype(float)
    ended = pods.departure_s[index] != NEVER
    lifetime = np.maximum(np.where(ended, pods.departure_s[index], horizon_s) - arrival, 1.0)
    names = (*lineage.feature_names, *extra_names, "hour")
    tables = {name: np.array(found) for name, found in rules.items()}
    lives = replace(lives, lifetime_s=lifetime, is_ended=ended)
    return Arrivals(names, np.asarray(rows, np.float32), arrival, lifetime, ended.astype(np.int64), tables, lives)


def dlrm_arrivals(folder: Path) -> Arrivals:
    """Instances of DLRM; kin are application, application and role with size, and role with size."""
    trace = read_dlrm(folder)
    specs = [trace.specs[s] for s in trace.pods.spec]
    values = [(spec.owner, (spec.owner, _size(spec)), _size(spec), "all") for spec in specs]
    ended = trace.pods.departure_s[trace.pods.departure_s != NEVER]
    horizon = float(max(ended.max(), trace.pods.arrival_s.max()))
    extra, names = _requests(specs)
    return stream(trace, ("owner", "owner-size", "size", "all"), values, extra, names, horizon, 0.0)


def azure_arrivals(folder: Path) -> Arrivals:
    """VMs of Azure; kin are batches of the same make-up, of the same size of batch and VM, and of the same VM."""
    trace = read_azure(folder)
    pods = trace.pods
    members: dict[int, Counter[int]] = {}
    for gang, spec in zip(pods.gang.tolist(), pods.spec.tolist(), strict=True):
        members.setdefault(gang, Counter())[spec] += 1
    make_up = {gang: tuple(sorted(counter.items())) for gang, counter in members.items()}
    batch = np.array([sum(members[g].values()) for g in pods.gang.tolist()], np.float32)
    kinds = np.array([len(members[g]) for g in pods.gang.tolist()], np.float32)
    values: list[tuple[object, ...]] = [
        (make_up[g], (s, min(int(b), 50)), s, "all")
        for g, s, b in zip(pods.gang.tolist(), pods.spec.tolist(), batch.tolist(), strict=True)
    ]
    extra, names = _requests([trace.specs[s] for s in pods.spec])
    extra = np.concatenate([extra, batch[:, None], kinds[:, None]], axis=1)
    start = float(pods.arrival_s.min())
    found = stream(
        trace, ("make-up", "size-batch", "size", "all"), values, extra, (*names, "batch", "kinds"), 2_100_000.0, start
    )
    return replace(found, siblings_until_s=_siblings_until(pods)[pods.arrival_s > start])


def _siblings_until(pods: Pods) -> FloatArray:
    """(P,) least lifetime among the others of a pod's batch."""
    life = np.where(pods.departure_s == NEVER, np.inf, np.maximum(pods.departure_s - pods.arrival_s, 1)).astype(float)
    order = np.lexsort((life, pods.gang))
    gang = pods.gang[order]
    first = np.flatnonzero(np.r_[True, gang[1:] != gang[:-1]])
    size = np.diff(np.r_[first, len(gang)])
    least = life[order][first]
    second = np.where(size > 1, life[order][np.minimum(first + 1, len(gang) - 1)], np.inf)
    place = np.searchsorted(gang[first], pods.gang)
    is_least = np.zeros(len(life), np.bool_)
    is_least[order[first]] = True
    until: FloatArray = np.where(is_least, second[place], least[place])
    return until


def _size(spec: PodSpec) -> tuple[int, int, int]:
    return spec.amount(CPU), spec.amount(MEMORY), spec.amount(GPU_SHARE)


def _requests(specs: Sequence[PodSpec]) -> tuple[SingleArray, tuple[str, ...]]:
    table = [[s.amount(CPU) / 1000, s.amount(MEMORY) / 2**30, s.amount(GPU_SHARE) / 1000, s.priority] for s in specs]
    return np.asarray(table, np.float32), ("cores", "memory_gib", "gpus", "priority")


def learned(
    arrivals: Arrivals, first_test_s: float, step_s: float, *, seed: int, progress: Progress
) -> tuple[FloatArray, FloatArray]:
    """(P, classes) probabilities, of the whole and of the hazards alone; NaN before the first step.

    Each step's models know what was known at its start. The trees of classes are mixed with the owner's majority, which
    knows what happened a minute ago, in the share that did best on what has become of earlier steps' pods. Of an owner
    never seen they know nothing, and the rung falls: the population's shares answer, unless the trees were right more
    often on what has become of such pods. The whole is the mean of that and of the hazards.
    """
    trees = np.full((len(arrivals.arrival_s), NUM_CLASSES), np.nan)
    out, hazards = trees.copy(), trees.copy()
    simple, everyone = arrivals.rules["majority"], arrivals.rules["population"]
    is_new = arrivals.is_new
    rng = np.random.default_rng(seed)
    start = first_test_s - BEFORE_STEPS * step_s
    while start <= arrivals.arrival_s.max():
        now = (arrivals.arrival_s > start) & (arrivals.arrival_s <= start + step_s)
        index, label, weight = known_at(arrivals, start)
        if len(index) > MOST_FIT:
            chosen = np.sort(rng.choice(len(index), MOST_FIT, replace=False))
            index, label, weight = index[chosen], label[chosen], weight[chosen]
        if now.any():
            recent = 0.5 ** ((start - arrivals.arrival_s[index]) / HALF_LIFE_S)
            options = FitOptions(trees=60, learning_rate=0.08, leaves=7, min_leaf=60, seed=seed)
            model = fit_classes(
                arrivals.rows[index], label.astype(float), weight * recent,
                names=arrivals.names, num_classes=NUM_CLASSES, options=options,
            )  # fmt: skip
            trees[now] = model.predict(arrivals.rows[now])
            if start >= first_test_s:
                share = _best_share(arrivals, trees, start)
                out[now] = share * trees[now] + (1 - share) * simple[now]
                if not _knows_new(arrivals, trees, start):
                    out[now & is_new] = everyone[now & is_new]
                served = model_at(arrivals.lives, start, most=MOST_LIVES, seed=seed)
                hazards[now] = model_shares(served, arrivals.lives.pick(now))
        progress(f"lifetimes: fitted on {len(index)} labels known at {start:.0f} s")
        start += step_s
    return (out + hazards) / 2, hazards


def _judged(arrivals: Arrivals, trees: FloatArray, now_s: float) -> tuple[IntArray, IntArray]:
    """(pods, classes) of earlier predictions that can be judged by now."""
    age = now_s - arrivals.arrival_s
    judged = np.flatnonzero(np.isfinite(trees[:, 0]) & (age >= SETTLED_S))
    ended = (arrivals.is_ended[judged] > 0) & (arrivals.lifetime_s[judged] <= age[judged])
    lived = np.where(ended, arrivals.lifetime_s[judged], age[judged])
    return judged, np.searchsorted(np.array(LIMITS_S), lived, side="left")


def _knows_new(arrivals: Arrivals, trees: FloatArray, now_s: float) -> bool:
    """Whether the trees beat the population's shares on owners that were new, by what is known of them now."""
    judged, label = _judged(arrivals, trees, now_s)
    new = arrivals.is_new[judged]
    if new.sum() < LEAST_NEW:
        return False
    right = [
        (table[judged][new].argmax(axis=1) == label[new]).mean() for table in (trees, arrivals.rules["population"])
    ]
    return bool(right[0] > right[1])


def _best_share(arrivals: Arrivals, trees: FloatArray, now_s: float) -> float:
    """Of the trees in the mixture: the most accurate on earlier predictions that can be judged by now."""
    judged, label = _judged(arrivals, trees, now_s)
    if len(judged) < 300:
        return SHARES[1]
    simple = arrivals.rules["majority"][judged]
    right = [((s * trees[judged] + (1 - s) * simple).argmax(axis=1) == label).mean() for s in SHARES]
    return SHARES[int(np.argmax(right))]


def known_at(arrivals: Arrivals, now_s: float) -> tuple[IntArray, IntArray, FloatArray]:
    """(rows, classes, weights) that may be learned from at ``now_s``: pods that arrived five minutes ago or earlier.

    A pod that still runs is entered with every class that is left to it, by the shares in which pods that reached its age
    went on (Kaplan and Meier's estimate over all that is known at ``now_s``). Leaving the young out instead would teach
    that whoever is young ends soon.
    """
    age = now_s - arrivals.arrival_s
    known = age >= YOUNGEST_S
    ended = known & (arrivals.is_ended > 0) & (arrivals.lifetime_s <= age)
    running = np.flatnonzero(known & ~ended)
    survives = survival(np.where(ended, arrivals.lifetime_s, age)[known], ended[known])
    bounds = np.array([0.0, *LIMITS_S])
    at_bound = np.append(survives(bounds), 0.0)
    lived = np.maximum(survives(age[running]), 1e-9)
    own = np.searchsorted(bounds[1:], age[running], side="left")
    index, classes, weights = [np.flatnonzero(ended)], [], [np.ones(int(ended.sum()))]
    classes.append(np.searchsorted(bounds[1:], arrivals.lifetime_s[ended], side="left"))
    for c in range(NUM_CLASSES):
        left = np.where(c > own, at_bound[c], np.where(c == own, lived, at_bound[c + 1])) - at_bound[c + 1]
        likely = left / lived > LEAST_SHARE
        index.append(running[likely])
        classes.append(np.full(int(likely.sum()), c))
        weights.append((left / lived)[likely])
    return np.concatenate(index), np.concatenate(classes).astype(np.int64), np.concatenate(weights)


def survival(time_s: FloatArray, ended: BoolArray) -> Callable[[FloatArray], FloatArray]:
    """Kaplan and Meier: the share that lives longer than a time, from times of those that ended and of those that run."""
    order = np.argsort(time_s, kind="stable")
    times, died = time_s[order], ended[order]
    at_risk = np.arange(len(times), 0, -1)
    log_alive = np.concatenate([[0.0], np.cumsum(np.log1p(-np.where(died, 1 / (at_risk + 1), 0.0)))])
    return lambda at: np.exp(log_alive[np.searchsorted(times, at, side="right")])


def judge(probabilities: FloatArray, arrivals: Arrivals, test: IntArray, seed: int) -> dict[str, float]:
    """Accuracy at arrival and, of those still alive, at later ages; the C-index at arrival."""
    label = arrivals.label
    out: dict[str, float] = {}
    until = arrivals.siblings_until_s
    for age in AGES_S:
        alive = test[(label[test] >= 0) & (arrivals.lifetime_s[test] > age)]
        kept = probabilities[alive].copy()
        kept[:, [i for i in range(NUM_CLASSES - 1) if LIMITS_S[i] <= age]] = -1.0
        right = kept.argmax(axis=1) == label[alive]
        where = "" if age == 0 else f"_at_{age}s"
        out[f"accuracy{where}"] = float(right.mean())
        if len(until):
            running = np.isfinite(until[alive]) & (until[alive] > age)
            out[f"accuracy_siblings_run{where}"] = float(right[running].mean()) if running.any() else float("nan")
    expected = probabilities[test] @ np.log(TYPICAL_S)
    out["c_index"] = concordance(
        expected, arrivals.lifetime_s[test], arrivals.is_ended[test], np.random.default_rng(seed)
    )
    return out


def one(arrivals: Arrivals, first_test_s: float, step_s: float, *, seed: int, progress: Progress) -> dict[str, Any]:
    """One data set: every rule, the model, and the points between them."""
    ours, hazards = learned(arrivals, first_test_s, step_s, seed=seed, progress=progress)
    test = np.flatnonzero((arrivals.arrival_s > first_test_s) & np.isfinite(ours[:, 0]))
    table = {name: judge(found, arrivals, test, seed) for name, found in arrivals.rules.items()}
    mine = judge(ours, arrivals, test, seed)
    best = max(table, key=lambda n: table[n]["accuracy"])
    points = {k: 100 * (mine[k] - max(entry[k] for entry in table.values())) for k in mine if k.startswith("accuracy")}
    return {
        "accuracy": mine["accuracy"],
        "best_rule": best,
        "best_rule_accuracy": table[best]["accuracy"],
        "points": points["accuracy"],
        "points_each": points,
        "c_index": mine["c_index"],
        "best_rule_c_index": max(entry["c_index"] for entry in table.values()),
        **_by_owner(ours, arrivals, test, seed),
        "pods": len(test),
        "pods_with_known_class": int((arrivals.label[test] >= 0).sum()),
        "model": mine,
        "hazards": judge(hazards, arrivals, test, seed),
        "history": judge(arrivals.lives.rules["history"], arrivals, test, seed),
        "rules": table,
        "class_shares": [float((arrivals.label[test] == c).mean()) for c in range(NUM_CLASSES)],
    }


def _by_owner(ours: FloatArray, arrivals: Arrivals, test: IntArray, seed: int) -> dict[str, Any]:
    """Accuracy for pods of owners that had pods before, and of owners seen for the first time."""
    earlier = ~arrivals.is_new[test]
    out: dict[str, Any] = {}
    for name, part in (("known_owners", test[earlier]), ("new_owners", test[~earlier])):
        if len(part):
            rules = {n: judge(found, arrivals, part, seed)["accuracy"] for n, found in arrivals.rules.items()}
            mine = judge(ours, arrivals, part, seed)["accuracy"]
            out[name] = {"pods": len(part), "accuracy": mine, "best_rule_accuracy": max(rules.values())}
    return out


def run(data: Path, *, seed: int = 5, progress: Progress = lambda message: None) -> dict[str, Any]:
    """DLRM and Azure; the JSON report.

    Raises
    ------
    TraceError : a trace is missing or damaged.
    """
    dlrm = dlrm_arrivals(data / "alibaba-dlrm-2025")
    azure = azure_arrivals(data / "azure-v1-vms")
    span = dlrm.arrival_s.max() - dlrm.arrival_s.min()
    first = float(dlrm.arrival_s.min() + 0.5 * span)
    begin = float(azure.arrival_s.min())
    return {
        "dlrm": one(dlrm, first, 21_600.0, seed=seed, progress=progress),
        "azure": one(azure, begin + 1.5 * 86_400, 10_800.0, seed=seed, progress=progress),
        "classes_s": list(LIMITS_S),
        "seed": seed,
    }
