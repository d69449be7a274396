"""Decisions a second through ``Strategy.decide`` inside ``Replay``, per second of one core's time.

    python -m benchmarks.decisions --traces ../shared/traces

replays the FGD paper's `default` (1,213 nodes, seed 42) if the recorded traces are there, else a made-up trace, and prints
the median of five runs per strategy and back end, and each as a ratio to `first-fit`. Strategies that read
predictions are given a made-up forecast of every class (a seeded share of what it asks for) or lifespan (seeded hazards).

Where Azure's recording is there, a tenth of it is replayed as well, with departures on 110 nodes: with forecasts, and with
lifetimes that change every five minutes, as :class:`simulator.usage.lifetime_learner.LifetimeLearner` learned them in a
replay before; what learning itself costs is told apart. That has what a version tells otherwise than the one before, which
cases ``+changes`` gather on the time of decisions instead.

``slower`` is how many times as long a decision takes as by the strategy's plain counterpart (`priced` of `ullage`, else
`best-fit`) in the same run.

Before each replay garbage is collected: of what earlier ones left behind, none is collected on the next one's time.
"""

from __future__ import annotations

import argparse
import gc
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from placement.knowledge import Forecast, Forecasts, Knowledge, Lifetimes, Workload, workload_of
from placement.learning.survival import NUM_PARTS, lifespans
from placement.prices import device_prices
from placement.program import has_compiled
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.replay import Replay, ReplayOptions
from simulator.reproduce.emptying import ARRIVALS, Recorder, batches, drawn
from simulator.reproduce.fgd import Protocol
from simulator.traces.azure import read_azure
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import Trace

CASES = (
    ("first-fit", "auto"),
    ("best-fit", "auto"),
    ("best-fit", "numpy"),
    ("atc23-fgd", "auto"),
    ("priced", "auto"),
    ("kube-default", "auto"),
    ("ullage", "auto"),
)
PREDICTED = ("koordinator", "predicted", "coach-6x4h", "ullage")
"""Strategies that are measured once more with forecasts, compiled."""
SHARE = 0.1
"""Of Azure's batches that are replayed."""
LIVING = ("nilas", "emptying", "ullage")
"""And with lifetimes."""
PLAIN = {"ullage": "priced"}
"""What a strategy that reads predictions is held against, where it is not `best-fit`."""


def with_forecasts(trace: Trace, knowledge: Knowledge, seed: int) -> tuple[Trace, Knowledge]:
    """The trace with an owner for each class, and the knowledge with a forecast for each owner."""
    rng = np.random.default_rng(seed)
    specs = tuple(replace(spec, owner=f"StatefulSet/class-{i}") for i, spec in enumerate(trace.specs))
    of = {}
    for spec in specs:
        cpu, memory = (
            int(spec.amount(r) * share) for r, share in zip((CPU, MEMORY), rng.uniform(0.1, 0.9, 2), strict=True)
        )
        of[workload_of(spec.namespace, spec.owner)] = Forecast(cpu, memory, cpu // 2, memory // 2, "model")
    return replace(trace, specs=specs), replace(knowledge, forecasts=Forecasts(of, "6h-peak"))


def with_lifetimes(trace: Trace, knowledge: Knowledge, seed: int) -> tuple[Trace, Knowledge]:
    """The same, and a lifespan for each owner as well."""
    trace, knowledge = with_forecasts(trace, knowledge, seed)
    rng = np.random.default_rng(seed)
    names = sorted({workload_of(spec.namespace, spec.owner) for spec in trace.specs})
    *found, everyone = lifespans(
        np.column_stack([rng.uniform(0.05, 0.6, (len(names) + 1, NUM_PARTS - 1)), np.ones(len(names) + 1)])
    )
    return trace, replace(knowledge, lifetimes=Lifetimes(dict(zip(names, found, strict=True)), everyone))


@dataclass
class Timed(Recorder):
    """Keeps also the time that learning took."""

    spent_s: float = 0.0

    def act(self, replay: Replay) -> None:
        """Learn."""
        began = process_time()
        super().act(replay)
        self.spent_s += process_time() - began

    def anew(self) -> list[Knowledge]:
        """The versions, of which nobody has asked yet what they tell otherwise; their digests are made, as who learns does."""
        made = [replace(known, lifetimes=replace(known.lifetimes)) for known in self.versions if known.lifetimes]
        for known in made:
            _ = known.digest
        return made


@dataclass
class Told:
    """Tells versions that were learned before."""

    versions: list[Knowledge]
    every_s: int

    def __post_init__(self) -> None:
        self._next = iter(self.versions)

    def act(self, replay: Replay) -> None:
        """The next one."""
        replay.state.learn(next(self._next), time_s=replay.time_s)


@dataclass(frozen=True)
class Case:
    """A replay that is timed."""

    name: str
    strategy: str
    trace: Trace
    options: ReplayOptions
    told: Timed | None = None
    gathers: bool = False
    """What a version tells otherwise, on the time of decisions."""

    def run(self) -> float:
        """Decisions a second of one core's time, all that the loop does included; without setting up and adding up."""
        policies: tuple[Told, ...] = ()
        if self.told is not None:
            policies = (Told(self.told.anew() if self.gathers else self.told.versions, self.told.every_s),)
        gc.collect()
        outcome = Replay(self.trace, STRATEGIES[self.strategy], replace(self.options, policies=policies)).run()
        return outcome.num_decisions / outcome.loop_cpu_s


def medians(cases: list[Case], runs: int) -> dict[str, int]:
    """Of each case's rates, taken by turns; the first run compiles, and does not count."""
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(runs + 1):
        for case in cases:
            rates[case.name].append(case.run())
    return {name: round(median(found[1:])) for name, found in rates.items()}


def slower(rates: dict[str, int], names: list[tuple[str, str]], suffix: str) -> dict[str, float]:
    """By case: how many times as long a decision takes as by the plain counterpart of its strategy."""
    return {case: round(rates[PLAIN.get(name, "best-fit") + suffix] / rates[case], 2) for case, name in names}


def churn(folder: Path, runs: int) -> dict[str, Any]:
    """Azure's VMs, which also leave."""
    fleet = ARRIVALS["azure"].fleet(64, 110)
    recorded = read_azure(folder)
    trace = drawn(recorded, batches(recorded), SHARE, 0).but(nodes=fleet.nodes())
    neutral = Knowledge.neutral()
    options = ReplayOptions(knowledge=neutral, end_s=int(trace.pods.arrival_s[-1]), log=False, samples=1, checks=False)
    recorder = Timed()
    Replay(trace, STRATEGIES["best-fit"], replace(options, policies=(recorder,))).run()
    _, known = with_forecasts(trace, neutral, 0)
    renamed = {workload_of(spec.namespace, f"StatefulSet/class-{i}"): spec for i, spec in enumerate(trace.specs)}
    assert known.forecasts is not None, "just made"
    of = {workload_of(renamed[name].namespace, renamed[name].owner): one for name, one in known.forecasts.of.items()}
    forecasts = replace(options, knowledge=replace(neutral, forecasts=Forecasts(of, "6h-peak")))
    cases = [Case(name, name, trace, options) for name in ("best-fit", "priced")]
    cases += [Case(f"{name}+forecasts", name, trace, forecasts) for name in PREDICTED]
    cases += [Case(f"{name}+lifetimes", name, trace, options, recorder) for name in LIVING]
    cases += [Case(f"{name}+lifetimes+changes", name, trace, options, recorder, gathers=True) for name in LIVING]
    rates = medians(cases, runs)
    return {
        "trace": f"azure, {SHARE:.0%} of the batches, seed 0",
        "nodes": fleet.num_nodes,
        "decisions_per_s": rates,
        "slower": slower(rates, [(case.name, case.strategy) for case in cases[2:]], ""),
        "versions_of_lifetimes": len(recorder.versions),
        "ms_to_learn_a_version": round(1000 * recorder.spent_s / len(recorder.versions), 2),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if (arguments.traces / "openb").is_dir():
        protocol = Protocol.load(arguments.traces / "openb", "default")
        trace, knowledge, name = protocol.for_seed(42), protocol.knowledge, "openb default, seed 42"
    else:
        trace, name = synthesise(Recipe(rules=False)), "made up"
        workload = Workload.of(trace.specs, [1] * len(trace.specs))
        knowledge = Knowledge(0, workload, device_prices(workload, trace.nodes))

    def case(name: str, strategy: str, backend: str, pods: Trace, known: Knowledge) -> Case:
        options = ReplayOptions(
            retries=False, departures=False, knowledge=known, backend=backend, samples=1, checks=False
        )
        return Case(name, strategy, pods, options)

    cases = [case(f"{strategy}/{backend}", strategy, backend, trace, knowledge) for strategy, backend in CASES]
    if knowledge.workload is not None:
        leaving = replace(knowledge, workload=replace(knowledge.workload, leaving=True))
        cases.append(case("priced+leaving/auto", "priced", "auto", trace, leaving))
    learned = [
        case(f"{strategy}+{what}/auto", strategy, "auto", *known)
        for what, known, strategies in (
            ("forecasts", with_forecasts(trace, knowledge, 0), PREDICTED),
            ("lifetimes", with_lifetimes(trace, knowledge, 0), LIVING),
        )
        for strategy in strategies
    ]
    cases = [one for one in cases + learned if one.options.backend != "auto" or has_compiled()]
    rates = medians(cases, arguments.runs)
    floor = rates.get("first-fit/auto") or next(iter(rates.values()))
    result: dict[str, Any] = {
        "trace": name,
        "nodes": len(trace.nodes),
        "decisions_per_s": rates,
        "ratio_to_first_fit": {name: round(rate / floor, 3) for name, rate in rates.items()},
    }
    if has_compiled():
        result["slower"] = slower(rates, [(one.name, one.strategy) for one in learned], "/auto")
        if (arguments.traces / "azure-v1-vms").is_dir():
            result["churn"] = churn(arguments.traces / "azure-v1-vms", arguments.runs)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
