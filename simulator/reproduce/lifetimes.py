"""``ullage reproduce lifetimes``: classes of lifetime at arrival, by owner, against simple owner and sibling rules.

DLRM: applications are owners. Azure: deployment batches are owners, but a batch arrives at one moment, so its own
siblings have all just started; kin are earlier batches of the same make-up. Everything is look-ahead-free: a pod is
described, when it arrives, by what had ended or was running then. Models are fitted anew in steps on what is known
at the step, by the code of ``ullage train`` (:func:`~simulator.learning.lifetime_training.model_at`), and answer as in
``ullage serve`` and in replays: where the guard trusts them, else the history answers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from placement.learning.lifetime_history import NUM_HAZARDS
from placement.learning.lineage import LIMITS_S, NUM_CLASSES, TYPICAL_S, Lineage, class_of
from placement.learning.survival import class_shares
from placement.resources import BoolArray, FloatArray, IntArray
from simulator.learning.lifetime_samples import LifeSamples, described, span_of, with_owners
from simulator.learning.lifetime_scores import concordance
from simulator.learning.lifetime_training import model_at
from simulator.learning.sibling_rules import RULES, Answers, SiblingBursts, answers
from simulator.reproduce.data_sets import data_set
from simulator.reproduce.lifetime_guard import trusted
from simulator.reproduce.parts import Omitted, Progress, silent
from simulator.traces.azure import read_azure
from simulator.traces.dlrm import read_dlrm
from simulator.traces.trace import NEVER, Pods, Trace

NO_OWNER = ("population", "ended")
"""Rules that look at no owner: hazards of all that arrived, whether ended or running, and the shares of all pods that have
ended. The latter is biased to short lives: of those that came together the short-lived have ended first."""
AGES_S = (0, *LIMITS_S[:2])
MOST_LIVES = 30_000
"""That models are fitted on."""


@dataclass(frozen=True)
class Arrivals:
    """Pods of a trace as they arrived, rules' answers, and what came of them."""

    lives: LifeSamples = field(repr=False)
    """As ``ullage serve`` would know them."""
    is_new: BoolArray = field(repr=False)
    """The owner had no pod before."""
    rules: dict[str, FloatArray] = field(repr=False)
    """Rule → (P, classes) probabilities."""
    kin: IntArray = field(repr=False)
    """Numbers of their classes of pods."""
    siblings_until_s: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    """Age until which all others of a pod's batch live; infinite without others; empty = there are no batches."""


def stream(
    trace: Trace, keys: Sequence[str], values: Sequence[Sequence[object]], horizon_s: float, from_s: float
) -> Arrivals:
    """Replay arrivals and ends in order of time; pods that exist at ``from_s`` seed the history only."""
    lineage, bursts = Lineage(keys), SiblingBursts(len(keys))
    pods = trace.pods
    ends: list[tuple[float, int]] = []
    kept: list[int] = []
    met: set[object] = set()
    is_new: list[bool] = []
    ended_shares = np.full(NUM_CLASSES, 1.0)
    is_told = pods.arrival_s > from_s
    owned = with_owners(trace)
    lives = described(owned, {i: [0] for i in np.flatnonzero(is_told).tolist()}, seed=0)
    everyone = lives.rules["population"].tolist()
    rules: dict[str, list[tuple[float, ...]]] = {name: [] for name in (*RULES, *NO_OWNER)}
    told: dict[Sequence[object], Answers] = {}  # of the moment, by values
    pending: list[int] = []
    pending_s = -1.0
    for i in range(len(pods)):
        now = float(pods.arrival_s[i])
        if now != pending_s:
            for j in pending:
                lineage.arrive(values[j], pending_s)
                bursts.arrive(values[j], pending_s)
                met.add(values[j][0])
            pending, pending_s, told = [], now, {}
        while ends and ends[0][0] <= now:
            end, j = heapq.heappop(ends)
            lineage.end(values[j], float(pods.arrival_s[j]), end)
            bursts.end(values[j], float(pods.arrival_s[j]), end)
            ended_shares[class_of(end - float(pods.arrival_s[j]))] += 1
        if is_told[i]:
            population = tuple(everyone[len(kept)])
            kept.append(i)
            is_new.append(values[i][0] not in met)
            if values[i] not in told:
                told[values[i]] = answers(lineage, bursts, values[i], now)
            for name, said in told[values[i]].items():
                rules[name].append(said or population)
            rules["population"].append(population)
            rules["ended"].append(tuple(float(x) for x in ended_shares / ended_shares.sum()))
        pending.append(i)
        if pods.departure_s[i] != NEVER:
            heapq.heappush(ends, (float(max(pods.departure_s[i], pods.arrival_s[i] + 1)), i))
    index = np.array(kept)
    ended = pods.departure_s[index] != NEVER
    lifetime = np.maximum(np.where(ended, pods.departure_s[index], horizon_s) - lives.arrival_s, 1.0)
    tables = {name: np.array(found) for name, found in rules.items()}
    lives = replace(
        lives if trace.manifest.has_calendar else lives.without_hours(), lifetime_s=lifetime, is_ended=ended
    )
    return Arrivals(lives, np.array(is_new), tables, owned.pods.spec[index])


def dlrm_arrivals(folder: Path) -> Arrivals:
    """Instances of DLRM; kin are application, application and role with size, and role with size."""
    trace = read_dlrm(folder)
    specs = [trace.specs[s] for s in trace.pods.spec]
    values = [(spec.owner, (spec.owner, spec.main_amounts), spec.main_amounts, "all") for spec in specs]
    return stream(trace, ("owner", "owner-size", "size", "all"), values, span_of(trace)[1], 0.0)


def azure_arrivals(folder: Path) -> Arrivals:
    """VMs of Azure; kin are batches of the same make-up, of the same size of batch and VM, and of the same VM."""
    trace = read_azure(folder)
    pods = trace.pods
    make_up = pods.make_ups()
    num = {gang: sum(number for _, number in of) for gang, of in make_up.items()}
    values: list[tuple[object, ...]] = [
        (make_up[g], (s, min(num[g], 50)), s, "all")
        for g, s in zip(pods.gang.tolist(), pods.spec.tolist(), strict=True)
    ]
    start = float(pods.arrival_s.min())
    found = stream(trace, ("make-up", "size-batch", "size", "all"), values, 2_100_000.0, start)
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


def learned(
    arrivals: Arrivals, first_test_s: float, step_s: float, *, seed: int, progress: Progress
) -> dict[str, FloatArray]:
    """(P, classes) probabilities by what is served, by its model without the guard, and by that model's hazards alone;
    NaN before the first step.

    Each step's model knows what was known at its start. The first one has to earn trust.
    """
    lives = arrivals.lives
    arrival_s, last_s = lives.arrival_s, lives.arrival_s.max()
    whole = np.full((len(lives), NUM_HAZARDS), np.nan)
    hazards = whole.copy()
    start, steps = first_test_s, 0
    fits = int((last_s - first_test_s) // step_s) + 1
    while start <= last_s:
        now = (arrival_s > start) & (arrival_s <= start + step_s)
        if now.any():
            model, new = model_at(lives, start, most=MOST_LIVES, seed=seed), lives.pick(now)
            whole[now] = model.hazards(new.features, new.rule)
            hazards[now] = replace(model, classes=None).hazards(new.features, new.rule)
        steps += 1
        progress(f"lifetimes: fitted on what was known at {start:.0f} s", steps, fits)
        start += step_s
    served = np.where(trusted(whole, lives, arrivals.kin)[:, None], whole, lives.rule)
    served[np.isnan(whole[:, 0])] = np.nan
    return {"served": class_shares(served), "unguarded": class_shares(whole), "hazards": class_shares(hazards)}


def judge(probabilities: FloatArray, arrivals: Arrivals, test: IntArray, seed: int) -> dict[str, float]:
    """Accuracy at arrival and, of those still alive, at later ages; the C-index at arrival."""
    label, lifetime_s = arrivals.lives.label, arrivals.lives.lifetime_s
    out: dict[str, float] = {}
    until = arrivals.siblings_until_s
    for age in AGES_S:
        alive = test[(label[test] >= 0) & (lifetime_s[test] > age)]
        kept = probabilities[alive].copy()
        kept[:, [i for i in range(NUM_CLASSES - 1) if LIMITS_S[i] <= age]] = -1.0
        right = kept.argmax(axis=1) == label[alive]
        where = "" if age == 0 else f"_at_{age}s"
        out[f"accuracy{where}"] = float(right.mean())
        if len(until):
            running = np.isfinite(until[alive]) & (until[alive] > age)
            out[f"accuracy_siblings_run{where}"] = float(right[running].mean()) if running.any() else float("nan")
    expected = probabilities[test] @ np.log(TYPICAL_S)
    out["c_index"] = concordance(expected, lifetime_s[test], arrivals.lives.is_ended[test], np.random.default_rng(seed))
    return out


def one(arrivals: Arrivals, first_test_s: float, step_s: float, *, seed: int, progress: Progress) -> dict[str, Any]:
    """One data set: every rule, the model, and the points between them."""
    tables = learned(arrivals, first_test_s, step_s, seed=seed, progress=progress)
    ours = tables["served"]
    test = np.flatnonzero((arrivals.lives.arrival_s > first_test_s) & np.isfinite(ours[:, 0]))
    label = arrivals.lives.label[test]
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
        "pods_with_known_class": int((label >= 0).sum()),
        "model": mine,
        "unguarded": judge(tables["unguarded"], arrivals, test, seed),
        "hazards": judge(tables["hazards"], arrivals, test, seed),
        "history": judge(arrivals.lives.rules["history"], arrivals, test, seed),
        "rules": table,
        "class_shares": [float((label == c).mean()) for c in range(NUM_CLASSES)],
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


def run(data: Path, *, seed: int = 5, progress: Progress = silent) -> dict[str, Any]:
    """DLRM and Azure; the JSON report. A trace that is absent, or too short, is left out; ``omitted`` says why.

    Raises
    ------
    TraceError : a trace is damaged. ConfigError, ModelError : neither can be judged.
    """
    found, omitted = dict[str, Any](), Omitted()
    for name, judged in (("dlrm", _dlrm), ("azure", _azure)):
        result = omitted.unless(name, partial(judged, data, seed, progress))
        if result is None:
            progress(f"{name} is left out")
        else:
            found[name] = result
    return {**found, "omitted": omitted.reasons(found), "classes_s": list(LIMITS_S), "seed": seed}


def _dlrm(data: Path, seed: int, progress: Progress) -> dict[str, Any]:
    arrivals = dlrm_arrivals(data_set(data, "alibaba-dlrm-2025"))
    arrival_s = arrivals.lives.arrival_s
    first = float(arrival_s.min() + 0.5 * (arrival_s.max() - arrival_s.min()))
    return one(arrivals, first, 21_600.0, seed=seed, progress=progress)


def _azure(data: Path, seed: int, progress: Progress) -> dict[str, Any]:
    arrivals = azure_arrivals(data_set(data, "azure-v1-vms"))
    begin = float(arrivals.lives.arrival_s.min())
    return one(arrivals, begin + 1.5 * 86_400, 10_800.0, seed=seed, progress=progress)
